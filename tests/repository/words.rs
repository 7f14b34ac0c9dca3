//! What must not be written in the repository: places of one machine, and hosts of package registries (clients know them).

use std::path::PathBuf;

fn files() -> Vec<PathBuf> {
    let list = |args: &[&str]| {
        let out = std::process::Command::new("git")
            .args(args)
            .current_dir(super::root())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    };
    let root = super::root();
    list(&["ls-files", "--cached", "--others", "--exclude-standard"])
        .lines()
        .map(|l| root.join(l))
        .collect()
}

#[test]
fn no_place_of_one_machine_and_no_registry_host() {
    // In two halves, so that this file passes too.
    let forbidden: Vec<String> = [
        ("/wo", "rk/"),
        ("/tmp", "/k/"),
        ("/home", "/"),
        ("/root", "/."),
        ("py", "pi.org"),
        ("files.python", "hosted"),
        ("index.", "crates.io"),
        ("static.", "crates.io"),
        ("deb.", "debian.org"),
        ("proxy.", "golang.org"),
        ("registry.", "npmjs"),
        ("repo1.", "maven"),
    ]
    .iter()
    .map(|(a, b)| format!("{a}{b}"))
    .collect();
    let files = files();
    assert!(files.len() > 100, "only {} files", files.len());
    let mut found = Vec::new();
    for path in files {
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            // Minified data has lines of many kilobytes; facts about the API name no places.
            if line.len() < 2000
                && let Some(word) = forbidden.iter().find(|w| line.contains(w.as_str()))
            {
                found.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
