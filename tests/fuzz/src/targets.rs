//! What is fuzzed, one function each. A target panics where something that must hold does not.

use std::sync::OnceLock;

use patch::ssa::{Actor, ApplyError};
use serde_json::{Value, json};
use wire::json::{MAX_DEPTH, Strictness};
use wire::schema::Message;

type Target = fn(&[u8]);

/// All targets. `hack/fuzz.sh` reads their names from the folders of `seeds/`.
const TARGETS: [(&str, Target); 13] = [
    ("apply", apply),
    ("envelope", envelope),
    ("fields", fields),
    ("json", json),
    ("json-patch", json_patch),
    ("kubelet", kubelet),
    ("merge-patch", merge_patch),
    ("options", options),
    ("protobuf", protobuf),
    ("selectors", selectors),
    ("strategic-patch", strategic_patch),
    ("words", words),
    ("yaml", yaml),
];

static TARGET: OnceLock<Target> = OnceLock::new();

/// Takes the target from the environment.
pub fn init() {
    // libFuzzer's hook ends the process; `wire::yaml` makes errors of the parser's panics.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let of_parser = |l: &std::panic::Location<'_>| l.file().contains("libyaml-safer");
        if !info.location().is_some_and(of_parser) {
            hook(info);
        }
    }));
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    let (_, target) = TARGETS
        .iter()
        .find(|(n, _)| *n == name)
        .unwrap_or_else(|| panic!("no target {name}"));
    let _ = TARGET.set(*target);
}

/// Runs it.
pub fn run(data: &[u8]) {
    TARGET.get().expect("init was called")(data);
}

fn message(kind: &str) -> &'static Message {
    let version = if kind == "Deployment" {
        "apps/v1"
    } else {
        "v1"
    };
    api::schema::message(version, kind).expect("a kind of the API")
}

/// Two texts with a zero between them.
fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|b| *b == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (b"", data),
    }
}

/// A pod of some text, or one that has a bit of everything.
fn pod(text: &[u8]) -> Value {
    if let Ok(first) = wire::json::decode(text, message("Pod"), Strictness::Ignore) {
        return first.value;
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "labels": {"a": "b"}, "finalizers": ["x/y"], "ownerReferences": [{"uid": "u"}]},
        "spec": {"containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 1, "protocol": "TCP"}],
            "env": [{"name": "E", "value": "v"}]}], "volumes": [{"name": "v", "emptyDir": {}}],
            "tolerations": [{"key": "k"}], "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["h"]}]}
    })
}

/// What a patch made can be looked at as any body can.
fn check(result: Value) {
    assert!(wire::json::extent(&result).1 <= MAX_DEPTH);
    let _ = wire::json::normalize(result, message("Pod"), Strictness::Collect);
}

fn json_patch(data: &[u8]) {
    let (base, patch) = halves(data);
    let pod = pod(base);
    if let Ok(result) = patch::json_patch(&pod, patch) {
        check(result);
    }
    let _ = patch::strict_errors(patch, true);
}

fn merge_patch(data: &[u8]) {
    let (base, patch) = halves(data);
    let pod = pod(base);
    if let Ok(result) = patch::merge_patch(&pod, patch) {
        // Applied again it changes nothing.
        assert_eq!(patch::merge_patch(&result, patch).as_ref(), Ok(&result));
        check(result);
    }
    let _ = patch::strict_errors(patch, false);
}

fn strategic_patch(data: &[u8]) {
    let (base, patch) = halves(data);
    let pod = pod(base);
    if let Ok(result) = patch::strategic_merge(&pod, patch, message("Pod")) {
        check(result);
    }
    let _ = patch::shown(patch);
}

fn actor(manager: &str) -> Actor<'_> {
    Actor {
        manager,
        api_version: "v1",
        kind: "Pod",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: &[&["status"]],
    }
}

fn apply(data: &[u8]) {
    let msg = message("Pod");
    let (first, second) = halves(data);
    let config = |text: &[u8]| {
        let mut value = wire::yaml::to_value(text).ok()?;
        let map = value.as_object_mut()?;
        map.insert("apiVersion".into(), "v1".into());
        map.insert("kind".into(), "Pod".into());
        Some(value)
    };
    let Some(two) = config(second) else { return };
    let one = config(first).unwrap_or_else(|| pod(b""));
    let Ok(live) = patch::ssa::apply(None, &one, msg, &actor("one"), false) else {
        return;
    };
    // The same configuration again changes nothing.
    let again = patch::ssa::apply(Some(&live), &one, msg, &actor("one"), false);
    assert_eq!(again.as_ref(), Ok(&live));
    match patch::ssa::apply(Some(&live), &two, msg, &actor("two"), false) {
        Ok(_) | Err(ApplyError::BadRequest(_) | ApplyError::Invalid(_)) => {}
        // What force is for.
        Err(ApplyError::Conflict { .. }) => {
            let forced = patch::ssa::apply(Some(&live), &two, msg, &actor("two"), true);
            assert!(forced.is_ok(), "{forced:?}");
        }
    }
    let mut updated = two;
    patch::ssa::update(Some(&live), &mut updated, msg, &actor("three"));
}

/// Field sets that clients send.
fn fields(data: &[u8]) {
    let Ok(set) = wire::json::parse(data) else {
        return;
    };
    let mut object = pod(b"");
    object["metadata"]["managedFields"] = json!([{
        "manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": set,
    }]);
    let live = object.clone();
    object["metadata"]["labels"] = json!({"a": "c"});
    patch::ssa::update(Some(&live), &mut object, message("Pod"), &actor("n"));
    let mut config = pod(b"");
    config["metadata"]["finalizers"] = json!(["z/z"]);
    let _ = patch::ssa::apply(Some(&live), &config, message("Pod"), &actor("o"), true);
}

/// Envelopes, lists and watch events.
fn envelope(data: &[u8]) {
    if let Ok(u) = wire::envelope::unwrap(data) {
        let bytes = wire::envelope::wrap(u.api_version, u.kind, u.raw);
        let again = wire::envelope::unwrap(&bytes).expect("what was wrapped unwraps");
        assert_eq!(
            (again.api_version, again.kind, again.raw),
            (u.api_version, u.kind, u.raw)
        );
    }
    let _ = wire::envelope::watch_event(data);
    let _ = wire::envelope::list_parts(data);
}

/// What decodes, encodes and decodes to the same.
fn json(data: &[u8]) {
    let msg = message("Deployment");
    if let Ok(first) = wire::json::decode(data, msg, Strictness::Collect) {
        let mut text = Vec::new();
        if wire::json::encode(&first.value, msg, &mut text).is_ok() {
            let second = wire::json::decode(&text, msg, Strictness::Collect)
                .expect("what was printed is readable");
            let mut again = Vec::new();
            wire::json::encode(&second.value, msg, &mut again).expect("it was printed before");
            assert_eq!(text, again);
        }
        let tree = wire::json::normalize(first.value.clone(), msg, Strictness::Collect);
        assert_eq!(tree.map(|d| d.value), Ok(first.value));
    }
    if let Ok((value, _)) = wire::json::parse_strict(data) {
        assert!(wire::json::valid(data).is_ok());
        assert!(wire::json::extent(&value).1 <= MAX_DEPTH);
    }
}

/// The tree, the printed JSON and the re-encoded bytes agree, or all refuse.
fn protobuf(data: &[u8]) {
    let msg = message("Pod");
    let mut json = Vec::new();
    let printed =
        wire::transcode::proto_to_json(data, msg, "v1", "Pod", &Default::default(), &mut json);
    let _ = wire::transcode::with_resource_version(data, msg, "1");
    let _ = wire::proto::check_objects(data, msg);
    if let Ok(tree) = wire::proto::tree::<Value>(data, msg) {
        let bytes = wire::proto::value_to_vec(&tree, msg);
        if let (Ok(bytes), Ok(())) = (bytes, printed) {
            assert!(wire::proto::tree::<Value>(&bytes, msg).is_ok());
            let _ = wire::json::decode(&json, msg, Strictness::Collect);
        }
    }
}

/// What is printed is readable, and what was read of it is printed and read as the same. The first text may mean the like
/// of it only: 1e3 and -.0 are floats, and what is printed of them integers.
fn yaml(data: &[u8]) {
    let again = |value: &Value| {
        let mut text = Vec::new();
        wire::yaml::encode_any(value, &mut text);
        wire::yaml::to_value(&text).expect("what was printed is readable")
    };
    if let Ok(value) = wire::yaml::to_value(data) {
        let printed = again(&value);
        assert_eq!(printed, again(&printed));
    }
}

/// Quantities, durations, times, addresses.
fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(canonical) = api::quantity::Quantity::canonical(text) {
        let a = api::quantity::Quantity::parse(text);
        let b = api::quantity::Quantity::parse(&canonical);
        if let Ok(q) = &a {
            let _ = (q.value(), q.milli_value());
        }
        assert_eq!(a.ok(), b.ok());
    }
    if let Some(q) = api::quant::parse(text) {
        let _ = (q.milli(), q.value(), q.add(&q).to_string());
    }
    if let Ok(n) = api::duration::parse(text) {
        assert_eq!(api::duration::parse(&api::duration::format(n)), Ok(n));
    }
    if let Ok(m) = api::time::parse_rfc3339(text)
        && (wire::time::ZERO_SECONDS..253_402_300_800).contains(&m.seconds)
    {
        assert_eq!(
            api::time::parse_rfc3339(&m.rfc3339()).map(|m| m.seconds),
            Ok(m.seconds)
        );
    }
    let _ = api::validate::parse_cidr_sloppy(text);
}

/// Selectors mean the same when they are printed and read again.
fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(s) = api::selector::Selector::parse(text) {
        let again = api::selector::Selector::parse(&s.to_string());
        assert_eq!(again.as_ref(), Ok(&s), "{s}");
        let labels: [(Box<str>, Box<str>); 1] = [("a".into(), "b".into())];
        if let Ok(l) = apiserver::select::Labels::parse(text) {
            let _ = l.matches(&labels);
        }
    }
    let _ = api::selector::FieldSelector::parse(text);
    if let Ok(f) = apiserver::select::Fields::parse(text, &["spec.nodeName"]) {
        let _ = (f.required_name(), f.required_custom());
        let _ = f.matches("n", "a", |_| String::new());
    }
}

/// Options by query and by body, paths and headers.
fn options(data: &[u8]) {
    use apiserver::options::{DeleteOptions, ListOptions, Listing, WriteOptions};
    let (head, body) = halves(data);
    let text = String::from_utf8_lossy(head);
    let (path, query) = text.split_once('?').unwrap_or(("/", &text));
    let query = apiserver::query::Query::parse(query);
    for kind in ["CreateOptions", "UpdateOptions", "PatchOptions"] {
        let _ = WriteOptions::parse(&query, kind, true);
    }
    let watch = |watch_list| Listing::Watch { watch_list };
    for listing in [Listing::List, watch(false), watch(true)] {
        if let Ok(o) = ListOptions::parse(&query, listing) {
            let _ = o.revision();
        }
    }
    let msg = message("DeleteOptions");
    let decoded = wire::json::decode(body, msg, Strictness::Ignore).map(|d| d.value);
    let proto = wire::proto::tree::<Value>(body, msg);
    for body in [decoded.ok(), proto.ok()].iter().flatten() {
        if let Ok(o) = DeleteOptions::parse(Some(body), &query) {
            assert!(o.grace.is_none_or(|g| g >= 0));
        }
    }
    let _ = DeleteOptions::parse(None, &query);
    let _ = apiserver::request_info::RequestInfo::parse(&http::Method::GET, path, &query);
    if let Ok(value) = http::HeaderValue::from_bytes(body) {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::ACCEPT, value.clone());
        headers.insert(http::header::CONTENT_TYPE, value);
        let _ = apiserver::negotiate::output(&headers, &query, true);
        let _ = apiserver::negotiate::stream(&headers, &query);
        let _ = apiserver::negotiate::input(&headers);
        let _ = apiserver::negotiate::for_errors(&headers, &query);
    }
}

/// What a kubelet reads: manifests, its configuration, the runtime's log lines, names of images, thresholds.
fn kubelet(data: &[u8]) {
    use kubelet::config::{FlagValues, KubeletConfiguration, Settings};
    for line in data.split(|b| *b == b'\n') {
        if let Some(l) = kubelet::server::logs::parse(line) {
            assert!(l.text.len() < line.len());
        }
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(c) = serde_yaml::from_str::<KubeletConfiguration>(text) {
        let _ = Settings::new(c, FlagValues::default());
    }
    let _ = kubelet::images::with_default_tag(text);
    if let Some(t) = kubelet::config::Threshold::parse(text) {
        let _ = t.of(i64::MAX);
    }
    if let Some(q) = kubelet::pod::quantity::Quantity::parse(text) {
        let _ = (q.value(), q.milli(), q.cpu_text(), q.bytes_text());
    }
    if text.contains("Pod") {
        static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
        let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
        let file = folder.path().join("pod.yaml");
        std::fs::write(&file, data).expect("write a manifest");
        let source = kubelet::source::file::FileSource::new(file, "n".into());
        source.scan();
        for p in source.pods() {
            let _ = (
                p.pod.key(),
                p.pod.grace_seconds(),
                p.pod.qos(),
                p.pod.is_critical(),
            );
            for c in p.pod.all_containers() {
                let _ = (c.hash(), c.pull_policy().len());
            }
        }
    }
}
