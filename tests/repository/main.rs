//! The repository's own rules: which crate may know which (doors), and what must not be written anywhere.

mod doors;
mod words;

/// The root of the repository.
fn root() -> std::path::PathBuf {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}
