//! The control plane: store, validate, compile, push; registry and status.
