//! Tasks with a name that are watched and joined; drain and readiness guards.
