//! Sockets: listeners on the address asked for, connections with a bound.
