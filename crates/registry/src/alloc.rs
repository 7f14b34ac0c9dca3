//! Allocation of service addresses and node ports.
