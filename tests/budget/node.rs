//! What a kubelet reads: manifests, configuration, the runtime's log lines, what clients name in paths, and pods whose
//! variables refer to each other.

use std::path::Path;

use kubelet::config::{KubeletConfiguration, fields};
use kubelet::runtime::env;
use kubelet::source::file::FileSource;

use super::cases::{MOST, fill, many, nested, yaml_texts};

/// An input and what reads it.
pub struct Input {
    pub name: String,
    pub read: Box<dyn FnOnce() + Send>,
}

fn input(name: impl Into<String>, read: impl FnOnce() + Send + 'static) -> Input {
    Input {
        name: format!("kubelet: {}", name.into()),
        read: Box::new(read),
    }
}

fn pod(spec: &str) -> String {
    format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"p\"}},\"spec\":{{{spec}}}}}"
    )
}

fn container(rest: &str) -> String {
    pod(&format!(
        "\"containers\":[{{\"name\":\"c\",\"image\":\"i\",{rest}}}]"
    ))
}

/// Reads a manifest as the kubelet does, and looks at all of it.
fn manifest(dir: &Path, text: &str) {
    let file = dir.join("pod.yaml");
    std::fs::write(&file, text).unwrap();
    let source = FileSource::new(file, "n".into());
    source.scan();
    for p in source.pods() {
        for c in p.pod.all_containers() {
            let _ = (c.hash(), c.pull_policy());
        }
    }
}

/// All of them; `dir` is for files.
pub fn inputs(dir: &Path) -> Vec<Input> {
    let mut out = Vec::new();
    let manifests = [
        (
            "containers",
            pod(&format!(
                "\"containers\":[{}]",
                many(",", |i| format!("{{\"name\":\"c{i}\",\"image\":\"i\"}}"))
            )),
        ),
        (
            "volumes",
            pod(&format!(
                "\"containers\":[{{\"name\":\"c\",\"image\":\"i\"}}],\"volumes\":[{}]",
                many(",", |i| format!("{{\"name\":\"v{i}\",\"emptyDir\":{{}}}}"))
            )),
        ),
        (
            "variables",
            container(&format!(
                "\"env\":[{}]",
                many(",", |i| format!("{{\"name\":\"E{i}\"}}"))
            )),
        ),
        (
            "ports",
            container(&format!(
                "\"ports\":[{}]",
                many(",", |i| format!("{{\"containerPort\":{}}}", i % 60_000 + 1))
            )),
        ),
        ("deep", container(&nested("\"x\":{", "", "}", 9_900))),
        (
            "a long image",
            container(&format!("\"x\":\"{}\"", fill("a/"))),
        ),
    ];
    let all = yaml_texts()
        .into_iter()
        .map(|(name, text)| (format!("YAML: {name}"), text))
        .chain(manifests.map(|(name, text)| (name.to_owned(), text)));
    for (name, text) in all {
        let (dir, manifested) = (dir.to_owned(), text.clone());
        out.push(input(format!("manifest: {name}"), move || {
            manifest(&dir, &manifested);
        }));
        out.push(input(format!("configuration: {name}"), move || {
            let _ = fields::KIND.parse::<KubeletConfiguration>("f", &text);
        }));
    }
    // As large as a file may be.
    out.push(input("configuration: nested", || {
        let text = "{a: ".repeat((128 << 10) / 4);
        let _ = fields::KIND.parse::<KubeletConfiguration>("f", &text);
    }));
    out.push(input("a long line of a log", || {
        let line = format!("2026-01-01T00:00:00Z stdout F {}", fill("x"));
        assert!(kubelet::server::logs::parse(line.as_bytes()).is_some());
        let _ = kubelet::server::logs::parse(fill(" ").as_bytes());
    }));
    out.push(input("a long path", || {
        let path = fill("/a");
        let _ = kubelet::server::auth::segments(&path);
        let _ = kubelet::server::auth::attributes(&http::Method::GET, &path);
    }));
    out.push(input("variables that double", || {
        let pairs: Vec<(String, String)> = (0..1000)
            .scan("x".to_owned(), |last, i| {
                let before = last.clone();
                let value = format!("{before}{before}");
                *last = env::expand(&value, &|_| None).unwrap_or_default();
                Some((format!("E{i}"), last.clone()))
            })
            .collect();
        let _ = env::expand_all(&[fill("$(E16)")], &pairs);
        let _ = env::expand_all(&vec!["$(E16)$(E16)".into(); 100_000], &pairs);
    }));
    out.push(input("references that are not closed", || {
        let _ = env::expand(&"$(".repeat(60_000), &|_| None);
        let _ = env::expand_all(&vec!["$(".repeat(60_000); MOST / 120_000], &[]);
    }));
    out.push(input("a long quantity and a long image", || {
        let _ = kubelet::pod::quantity::Quantity::parse(&fill("9"));
        let _ = kubelet::config::Threshold::parse(&fill("9"));
        let _ = kubelet::images::with_default_tag(&fill("a/"));
    }));
    out
}
