//! Mutual TLS between sidecars: verification of SPIFFE identities in both roles.
