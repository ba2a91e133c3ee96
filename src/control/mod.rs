//! The control plane: store, validate, compile, push; registry and status.

#![allow(dead_code, reason = "the services of the API that use these parts follow")]

mod delta;
mod key;
mod refs;
#[cfg(test)]
mod sample;
mod scope;
mod store;
mod world;
