//! Which service a request means, which rule matches it and which backend it gets. Pure.
