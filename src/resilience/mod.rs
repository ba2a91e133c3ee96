//! Deadlines, retries and their budget, bulkheads, outlier detection. Pure.
