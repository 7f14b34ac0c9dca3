//! What the apiserver creates by itself.
