//! The composition root: roles, bootstrap, admin.
