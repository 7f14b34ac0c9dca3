//! Every list says of each entry how far it is there, and `docs/status.md` says the same. `make docs` writes the document.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use component::CommandLine;
use component::config::Field;
use component::features::Features;
use component::support::Support;

fn command_lines() -> [CommandLine; 5] {
    [
        apiserver::flags::command_line(),
        controllers::daemon::command_line(),
        scheduler::daemon::command_line(),
        kubelet::config::flags::command_line(),
        proxy::daemon::command_line(),
    ]
}

/// Kinds of files that are read, with their fields.
fn kinds() -> Vec<(String, &'static [Field])> {
    let mut all = vec![
        (
            "AdmissionConfiguration".to_owned(),
            admission::config::KIND.fields,
        ),
        (
            "ResourceQuotaConfiguration".to_owned(),
            admission::config::QUOTA.fields,
        ),
        (
            "KubeletConfiguration".to_owned(),
            kubelet::config::fields::FIELDS,
        ),
        (
            "KubeSchedulerConfiguration".to_owned(),
            scheduler::fields::FIELDS,
        ),
    ];
    for (plugin, fields) in scheduler::fields::ARGS {
        all.push((
            format!("{plugin}Args of KubeSchedulerConfiguration"),
            *fields,
        ));
    }
    all.push(("KubeProxyConfiguration".to_owned(), proxy::fields::FIELDS));
    all
}

/// Kinds of files that are not read: the daemon, and the flag that would name the file.
const OTHER_KINDS: &[(&str, &str, &str)] = &[
    (
        "AuthenticationConfiguration",
        "kube-apiserver",
        "authentication-config",
    ),
    (
        "AuthorizationConfiguration",
        "kube-apiserver",
        "authorization-config",
    ),
    (
        "EgressSelectorConfiguration",
        "kube-apiserver",
        "egress-selector-config-file",
    ),
    (
        "EncryptionConfiguration",
        "kube-apiserver",
        "encryption-provider-config",
    ),
    ("Policy (audit)", "kube-apiserver", "audit-policy-file"),
    (
        "TracingConfiguration",
        "kube-apiserver",
        "tracing-config-file",
    ),
    (
        "LeaderMigrationConfiguration",
        "kube-controller-manager",
        "leader-migration-config",
    ),
    (
        "CredentialProviderConfig",
        "kubelet",
        "image-credential-provider-config",
    ),
];

/// The crates that a daemon's metrics are in.
const CRATES: &[(&str, &[&str])] = &[
    (
        "kube-apiserver",
        &[
            "admission",
            "apiserver",
            "auth",
            "component",
            "registry",
            "storage",
        ],
    ),
    (
        "kube-controller-manager",
        &["client", "component", "controllers"],
    ),
    ("kube-scheduler", &["client", "component", "scheduler"]),
];

/// Upstream's metric families: daemon, name, and whether a crate of the daemon names it.
fn metrics() -> Vec<(&'static str, &'static str, Support)> {
    let text = |daemon: &str| {
        let crates = CRATES.iter().find(|(d, _)| *d == daemon).unwrap().1;
        let mut out = String::new();
        for name in crates {
            sources(
                &super::root().join("crates").join(name).join("src"),
                &mut out,
            );
        }
        out
    };
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    include_str!("../golden/metrics.tsv")
        .lines()
        .map(|line| {
            let (daemon, name) = line.split_once('\t').unwrap();
            let text = texts.entry(daemon).or_insert_with(|| text(daemon));
            let there =
                text.contains(&format!("\"{name}\"")) || text.contains(&format!("TYPE {name} "));
            let support = if there {
                Support::Full
            } else {
                component::support::warned("not served")
            };
            (daemon, name, support)
        })
        .collect()
}

fn sources(folder: &std::path::Path, out: &mut String) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// One list of the document.
struct Section {
    title: String,
    entries: Vec<(String, Support)>,
}

fn section(
    title: impl Into<String>,
    entries: impl IntoIterator<Item = (String, Support)>,
) -> Section {
    Section {
        title: title.into(),
        entries: entries.into_iter().collect(),
    }
}

fn sections() -> Vec<Section> {
    let mut all = Vec::new();
    let qualified = |group: &str, name: &str| match group {
        "" => name.to_owned(),
        g => format!("{name}.{g}"),
    };
    all.push(section(
        "Resources",
        registry::builtin::BUILTINS
            .iter()
            .map(|b| (qualified(b.group, b.resource), b.support)),
    ));
    all.push(section(
        "Subresources",
        registry::builtin::SUBRESOURCES
            .iter()
            .map(|(r, s, support)| (format!("{r}/{s}"), *support)),
    ));
    all.push(section(
        "Admission plugins",
        admission::plugins::ALL
            .iter()
            .map(|d| (d.name.to_owned(), d.support)),
    ));
    all.push(section(
        "Controllers",
        controllers::list::CONTROLLERS
            .iter()
            .map(|c| (c.name.to_owned(), c.support)),
    ));
    all.push(section(
        "Scheduler plugins",
        scheduler::plugins::PLUGINS
            .iter()
            .map(|d| (d.name.to_owned(), d.support)),
    ));
    all.push(section(
        "Volumes",
        kubelet::volumes::kinds::KINDS
            .iter()
            .map(|(k, s)| ((*k).to_owned(), *s)),
    ));
    for line in command_lines() {
        all.push(section(
            format!("Flags of {}", line.daemon()),
            line.list()
                .map(|(f, s)| (format!("--{}", f.name), s.unwrap())),
        ));
    }
    let lines = command_lines();
    all.push(section(
        "Configuration files",
        kinds()
            .iter()
            .filter(|(kind, _)| !kind.contains(' '))
            .map(|(kind, _)| (kind.clone(), Support::Partial("see its fields below")))
            .chain(OTHER_KINDS.iter().map(|(kind, daemon, flag)| {
                let line = lines.iter().find(|l| l.daemon() == *daemon).unwrap();
                let (_, support) = line.list().find(|(f, _)| f.name == *flag).unwrap();
                ((*kind).to_owned(), support.unwrap())
            })),
    ));
    for (kind, fields) in kinds() {
        all.push(section(
            format!("Fields of {kind}"),
            fields.iter().map(|f| (f.path.to_owned(), f.support)),
        ));
    }
    all.push(section(
        "Feature gates",
        Features::default().all().map(|(name, gate, _)| {
            let locked = gate.locked && !gate.support.is_there();
            let support = if locked {
                component::support::refused("locked to its default, as upstream")
            } else {
                gate.support
            };
            (format!("{name}={}", gate.default), support)
        }),
    ));
    for (daemon, _) in CRATES {
        all.push(section(
            format!("Metric families of {daemon}"),
            metrics()
                .into_iter()
                .filter(|(d, _, _)| d == daemon)
                .map(|(_, name, support)| (name.to_owned(), support)),
        ));
    }
    all
}

const HEAD: &str = "\
# What is there

Made by `make docs` from the lists in the code; `make check` fails when it is stale. Each entry of each list is

- **Full**: it does what upstream's does;
- **Partial**: it works, but for what is named;
- **Absent, warned**: it is accepted, and one warning (in the log, or in the `Warning:` header of the answer) says that it
  has no effect;
- **Absent, refused**: asking for it is an error, at the start of the daemon or in the API.

Defaults are never refused. A gate that nothing reads keeps its default.

";

/// The document.
fn document() -> String {
    let mut out = String::from(HEAD);
    let all = sections();
    out.push_str("| list | Full | Partial | Absent, warned | Absent, refused |\n| --- | --- | --- | --- | --- |\n");
    for s in &all {
        let count = |word: &str| s.entries.iter().filter(|(_, e)| e.word() == word).count();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            s.title,
            count("Full"),
            count("Partial"),
            count("Absent, warned"),
            count("Absent, refused")
        );
    }
    for s in &all {
        let _ = write!(out, "\n## {}\n", s.title);
        // Entries of which the same is said stand together, in the order of the list.
        let mut groups: Vec<(Support, Vec<&str>)> = Vec::new();
        for (name, support) in &s.entries {
            match groups.iter_mut().find(|(g, _)| g == support) {
                Some((_, names)) => names.push(name),
                None => groups.push((*support, vec![name])),
            }
        }
        groups.sort_by_key(|(s, _)| match s.word() {
            "Full" => 0,
            "Partial" => 1,
            "Absent, warned" => 2,
            _ => 3,
        });
        out.push('\n');
        for (support, names) in groups {
            let names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
            let _ = writeln!(
                out,
                "- **{}**{}: {}",
                support.word(),
                reason(support),
                names.join(", ")
            );
        }
    }
    out
}

fn reason(support: Support) -> String {
    match support.text() {
        "" => String::new(),
        text => format!(" ({text})"),
    }
}

#[test]
fn every_flag_of_every_daemon_says_how_far_it_is_there() {
    for line in command_lines() {
        let silent: Vec<&str> = line
            .list()
            .filter(|(_, s)| s.is_none())
            .map(|(f, _)| f.name.as_str())
            .collect();
        assert!(silent.is_empty(), "{}: {silent:?}", line.daemon());
    }
}

#[test]
fn every_entry_that_is_not_full_says_why() {
    let all = sections();
    assert!(all.len() > 20);
    for s in all {
        assert!(!s.entries.is_empty(), "{} is empty", s.title);
        for (i, (name, support)) in s.entries.iter().enumerate() {
            assert_eq!(
                support.text().is_empty(),
                *support == Support::Full,
                "{}: {name}",
                s.title
            );
            assert!(
                s.entries.iter().skip(i + 1).all(|(n, _)| n != name),
                "{}: {name} twice",
                s.title
            );
        }
    }
}

#[test]
fn a_resource_is_absent_as_long_as_its_controllers_are() {
    for (group, resource, actors) in registry::builtin::ACTORS {
        let line = registry::builtin::BUILTINS
            .iter()
            .find(|b| b.group == *group && b.resource == *resource)
            .unwrap();
        let there = actors.iter().any(|a| {
            let c = controllers::list::CONTROLLERS.iter().find(|c| c.name == *a);
            c.unwrap_or_else(|| panic!("no controller {a}"))
                .support
                .is_there()
        });
        assert_eq!(
            line.support.is_there(),
            there,
            "{resource}.{group}, {actors:?}"
        );
    }
}

#[test]
fn the_document_is_what_the_lists_say() {
    let path = super::root().join("docs/status.md");
    let want = document();
    if std::env::var_os("KEELSON_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &want).unwrap();
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    let stale = have.lines().zip(want.lines()).find(|(a, b)| a != b);
    assert!(
        have == want,
        "docs/status.md is stale, run `make docs`: {stale:?}"
    );
    let readme = std::fs::read_to_string(super::root().join("README.md")).unwrap();
    assert!(
        readme.contains("(docs/status.md)"),
        "the README leads to it"
    );
}
