//! The mesh CA, join tokens, CSRs, and a sidecar's SVID from first join through every renewal.
