//! The control plane: store, validate, compile, push; registry and status.

#![allow(dead_code, reason = "the services of the API that use these parts follow")]

mod auth;
mod delta;
mod discovery;
mod error;
mod fleet;
mod key;
mod limit;
mod metrics;
mod refs;
mod registry;
#[cfg(test)]
mod sample;
mod scope;
mod state;
mod store;
mod traffic;
mod world;
