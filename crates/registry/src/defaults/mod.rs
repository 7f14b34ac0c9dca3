//! Defaults that depend on more than the schema's markers, as upstream's `SetDefaults_*` and the conversions beside them
//! fill them in. All are idempotent.

pub mod pod;
