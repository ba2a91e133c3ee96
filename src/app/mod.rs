//! The composition root: roles, bootstrap, admin.

pub mod admin;
