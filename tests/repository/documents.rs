//! What the documents say exists, exists: the tests that tables name, and the folders of the map.

use std::path::{Path, PathBuf};

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// What is between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The last cells of the tables whose last heading says that tests are in it.
fn held_by(document: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut of_tests = false;
    let mut inside = false;
    for line in document.lines() {
        let cells: Vec<&str> = line
            .trim()
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        if !line.starts_with('|') {
            inside = false;
        } else if !inside {
            inside = true;
            of_tests = cells
                .last()
                .is_some_and(|c| c.starts_with("held by") || *c == "test");
        } else if of_tests && !line.contains("---") {
            out.push(*cells.last().unwrap());
        }
    }
    out
}

#[test]
fn the_tests_that_tables_name_exist() {
    let root = super::root();
    let mut files = Vec::new();
    for folder in ["bin", "crates", "tests"] {
        rust_files(&root.join(folder), &mut files);
    }
    let sources: Vec<(String, String)> = files
        .iter()
        .map(|f| (f.display().to_string(), std::fs::read_to_string(f).unwrap()))
        .collect();
    let document = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let cells = held_by(&document);
    assert!(cells.len() > 15, "{cells:?}");
    for cell in cells {
        let names = quoted(cell);
        assert!(!names.is_empty(), "{cell:?} names no test");
        for name in names {
            let found = if name.ends_with(".rs") {
                files.iter().any(|f| f.ends_with(name))
            } else if name.contains('/') {
                root.join(name).exists()
            } else if let Some(end) = name.strip_prefix('*') {
                let end = format!("{end}(");
                sources.iter().any(|(_, text)| text.contains(&end))
            } else if let Some(module) = name.strip_suffix("::tests") {
                let module = module.replace("::", "/");
                sources.iter().any(|(path, text)| {
                    (path.ends_with(&format!("/{module}.rs"))
                        || path.ends_with(&format!("/{module}/mod.rs")))
                        && text.contains("mod tests")
                })
            } else {
                let test = name.rsplit("::").next().unwrap();
                let (start, whole) = match test.strip_suffix('*') {
                    Some(start) => (start, false),
                    None => (test, true),
                };
                // End-to-end tests are named by a text.
                let forms = if whole {
                    [format!("fn {start}("), format!("\"{start}\"")]
                } else {
                    [format!("fn {start}"), format!("\"{start}")]
                };
                sources.iter().any(|(path, text)| {
                    !path.ends_with("documents.rs") && forms.iter().any(|f| text.contains(f))
                })
            };
            assert!(found, "ARCHITECTURE.md: there is no test {name}");
        }
    }
}

#[test]
fn the_map_has_every_crate_and_no_other() {
    let root = super::root();
    let document = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let map = document.split("## The map").nth(1).unwrap();
    let map = map.split("## ").next().unwrap();
    let crates = map.split("    crates/").nth(1).unwrap();
    let crates = crates.split("\n    deploy/").next().unwrap();
    let mut named: Vec<&str> = crates
        .lines()
        .filter_map(|l| l.trim().split_once('/').map(|(name, _)| name))
        .filter(|n| !n.is_empty())
        .collect();
    named.sort_unstable();
    let mut there: Vec<String> = std::fs::read_dir(root.join("crates"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    there.sort_unstable();
    assert_eq!(named, there);
    for folder in ["bin", "crates", "deploy", "docs", "hack", "tests"] {
        assert!(
            map.contains(&format!("    {folder}/")),
            "{folder}/ is not in the map"
        );
        assert!(root.join(folder).is_dir(), "{folder}/");
    }
}
