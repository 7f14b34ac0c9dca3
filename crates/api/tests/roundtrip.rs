//! Every fixture of `testdata/roundtrip.tar.gz`: the same object, every field filled, as upstream writes it in JSON, YAML
//! and protobuf. Decoding any one and encoding it as another gives upstream's bytes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use wire::json::Strictness;
use wire::schema::Message;

struct Fixture {
    json: Vec<u8>,
    yaml: Vec<u8>,
    proto: Option<Vec<u8>>,
}

fn fixtures() -> BTreeMap<String, Fixture> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/roundtrip.tar.gz");
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap())
        .read_to_end(&mut tar)
        .unwrap();
    let mut out: BTreeMap<String, Fixture> = BTreeMap::new();
    let mut at = 0;
    while at + 512 <= tar.len() && tar[at] != 0 {
        let header = &tar[at..at + 512];
        let name = std::str::from_utf8(&header[..100])
            .unwrap()
            .trim_end_matches('\0');
        let size = std::str::from_utf8(&header[124..135])
            .unwrap()
            .trim_matches(['\0', ' ']);
        let size = usize::from_str_radix(size, 8).unwrap();
        let data = tar[at + 512..at + 512 + size].to_vec();
        at += 512 + size.div_ceil(512) * 512;
        let (stem, ext) = name.rsplit_once('.').unwrap();
        let f = out.entry(stem.to_owned()).or_insert(Fixture {
            json: vec![],
            yaml: vec![],
            proto: None,
        });
        match ext {
            "json" => f.json = data,
            "yaml" => f.yaml = data,
            "pb" => f.proto = Some(data),
            other => panic!("unknown fixture {other}"),
        }
    }
    out
}

fn table(stem: &str, value: &Value) -> (&'static Message, String, String) {
    let (group_version, kind) = stem.rsplit_once('.').unwrap();
    let (group, version) = group_version.rsplit_once('.').unwrap();
    let api_version = if group == "core" {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let msg =
        api::schema::message(&api_version, kind).unwrap_or_else(|| panic!("no table for {stem}"));
    let shown = value
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    (msg, shown, kind.to_owned())
}

fn compact(raw: &[u8]) -> String {
    let mut out = Vec::new();
    wire::print::compact(raw, &mut out);
    String::from_utf8(out).unwrap()
}

/// Where two texts part, for the message of a failure.
fn differ(what: &str, stem: &str, got: &[u8], want: &[u8], failures: &mut Vec<String>) {
    if got == want {
        return;
    }
    let at = got.iter().zip(want).take_while(|(a, b)| a == b).count();
    let show = |b: &[u8]| {
        String::from_utf8_lossy(&b[at.saturating_sub(60).min(b.len())..(at + 60).min(b.len())])
            .into_owned()
    };
    failures.push(format!(
        "{stem} {what} at {at}:\n   got {:?}\n  want {:?}",
        show(got),
        show(want)
    ));
}

fn report(failures: &[String]) {
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures[..failures.len().min(15)].join("\n")
    );
}

#[test]
fn json_to_json_and_protobuf() {
    let mut failures = Vec::new();
    let all = fixtures();
    assert!(all.len() > 180);
    for (stem, f) in &all {
        let raw: Value = serde_json::from_slice(&f.json).unwrap();
        let (msg, api_version, kind) = table(stem, &raw);
        let decoded = match wire::json::decode(&f.json, msg, Strictness::Collect) {
            Ok(d) => d,
            Err(e) => {
                failures.push(format!("{stem}: {e}"));
                continue;
            }
        };
        if !decoded.strict_errors.is_empty() {
            failures.push(format!("{stem}: {:?}", decoded.strict_errors));
        }
        let mut out = Vec::new();
        wire::json::encode(&decoded.value, msg, &mut out).unwrap();
        differ(
            "json to json",
            stem,
            &out,
            compact(&f.json).as_bytes(),
            &mut failures,
        );
        let normal = wire::json::normalize(raw.clone(), msg, Strictness::Collect).unwrap();
        if normal.value != decoded.value {
            failures.push(format!("{stem}: normalize differs from decode"));
        }
        if let Some(proto) = &f.proto {
            let bytes = wire::proto::value_to_vec(&decoded.value, msg).unwrap();
            let (av, k) = if api_version.is_empty() {
                ("", "")
            } else {
                (api_version.as_str(), kind.as_str())
            };
            let whole = if proto.starts_with(b"k8s\0") {
                wire::envelope::wrap(av, k, &bytes)
            } else {
                bytes
            };
            differ("json to protobuf", stem, &whole, proto, &mut failures);
        }
    }
    report(&failures);
}

#[test]
fn protobuf_to_json_and_protobuf() {
    let mut failures = Vec::new();
    for (stem, f) in &fixtures() {
        let Some(proto) = &f.proto else { continue };
        let raw: Value = serde_json::from_slice(&f.json).unwrap();
        let (msg, api_version, kind) = table(stem, &raw);
        let unknown = wire::envelope::unwrap(proto).unwrap();
        let (av, k) = if api_version.is_empty() {
            ("", "")
        } else {
            (api_version.as_str(), kind.as_str())
        };
        let mut out = Vec::new();
        if let Err(e) =
            wire::transcode::proto_to_json(unknown.raw, msg, av, k, &Default::default(), &mut out)
        {
            failures.push(format!("{stem}: {e}"));
            continue;
        }
        differ(
            "protobuf to json",
            stem,
            &out,
            compact(&f.json).as_bytes(),
            &mut failures,
        );
        match wire::proto::to_object(unknown.raw, msg, unknown.api_version, unknown.kind) {
            Ok(value) => {
                let decoded = wire::json::decode(&f.json, msg, Strictness::Ignore)
                    .unwrap()
                    .value;
                let mut same = value.clone();
                if api_version.is_empty() {
                    same.as_object_mut().unwrap().remove("kind");
                    same.as_object_mut().unwrap().remove("apiVersion");
                }
                if same != decoded {
                    let (a, b) = (same.to_string(), decoded.to_string());
                    differ("tree", stem, a.as_bytes(), b.as_bytes(), &mut failures);
                }
                let bytes = wire::proto::value_to_vec(&value, msg).unwrap();
                differ(
                    "protobuf to protobuf",
                    stem,
                    &bytes,
                    unknown.raw,
                    &mut failures,
                );
            }
            Err(e) => failures.push(format!("{stem}: {e}")),
        }
        let spliced =
            wire::transcode::with_resource_version(unknown.raw, msg, "resourceVersionValue");
        if msg.field("metadata").is_some() {
            differ(
                "resource version",
                stem,
                &spliced.unwrap(),
                unknown.raw,
                &mut failures,
            );
        }
    }
    report(&failures);
}

#[test]
fn yaml() {
    let mut failures = Vec::new();
    for (stem, f) in &fixtures() {
        let raw: Value = serde_json::from_slice(&f.json).unwrap();
        let (msg, _, _) = table(stem, &raw);
        let want = wire::json::decode(&f.json, msg, Strictness::Collect).unwrap();
        match wire::yaml::decode(&f.yaml, msg, Strictness::Collect) {
            Ok(d) => {
                if d.value != want.value {
                    differ(
                        "yaml tree",
                        stem,
                        d.value.to_string().as_bytes(),
                        want.value.to_string().as_bytes(),
                        &mut failures,
                    );
                }
                if !d.strict_errors.is_empty() {
                    failures.push(format!("{stem}: {:?}", d.strict_errors));
                }
            }
            Err(e) => failures.push(format!("{stem}: {e}")),
        }
        let mut out = Vec::new();
        wire::yaml::encode(&want.value, msg, &mut out).unwrap();
        differ("json to yaml", stem, &out, &f.yaml, &mut failures);
    }
    report(&failures);
}

#[test]
fn a_small_view_borrows_from_protobuf() {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Pod<'a> {
        #[serde(borrow)]
        metadata: Meta<'a>,
        #[serde(borrow)]
        spec: Spec<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Meta<'a> {
        name: &'a str,
        namespace: &'a str,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec<'a> {
        node_name: &'a str,
        priority: Option<i32>,
        scheduler_name: &'a str,
    }
    let all = fixtures();
    let proto = all["core.v1.Pod"].proto.as_ref().unwrap();
    let raw = wire::envelope::unwrap(proto).unwrap().raw;
    let msg = api::schema::message("v1", "Pod").unwrap();
    let pod: Pod<'_> = wire::proto::from_slice(raw, msg).unwrap();
    assert_eq!(
        (pod.metadata.name, pod.metadata.namespace),
        ("nameValue", "namespaceValue")
    );
    assert_eq!(
        (pod.spec.node_name, pod.spec.scheduler_name),
        ("nodeNameValue", "schedulerNameValue")
    );
    assert_eq!(pod.spec.priority, Some(25));
}
