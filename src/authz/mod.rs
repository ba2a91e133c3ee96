//! Who may call what. Pure.
