//! The generic API server.

