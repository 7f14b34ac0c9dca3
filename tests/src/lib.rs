//! Tests that cross crates: doors, lists, interop, end to end and benchmarks.
