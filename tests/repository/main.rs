//! The repository's own rules: which crate may know which (doors), what is deployed, what the lists say (`docs/status.md`),
//! what the documents name, and what must not be written anywhere.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure of these tests is a panic"
)]

mod deploy;
mod documents;
mod doors;
mod lists;
mod words;

/// The root of the repository.
fn root() -> std::path::PathBuf {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}
