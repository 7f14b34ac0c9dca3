//! Replays exchanges recorded with upstream's apiserver and compares the answers.

use http::Method;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::server::Server;

/// Exchanges that differ, and why. One that agrees after all is reported, so that the list shrinks.
const DIFFER: &[(&str, &str)] = &[
    ("accept table", "columns carry no descriptions"),
    (
        "pod immutable",
        "the diff of the whole pod starts at another line",
    ),
    (
        "rules review",
        "the recorded distribution has one rule more",
    ),
];

struct Normal(Vec<(Regex, &'static str)>);

impl Normal {
    fn new() -> Normal {
        let rules = [
            (
                r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
                "<uid>",
            ),
            (
                r"[0-9]{4}-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9](\.[0-9]+)?Z",
                "<time>",
            ),
            (r"kube-api-access-[a-z0-9]{5}", "<volume>"),
            (r"Bad-[a-z0-9]{5}", "<generated>"),
            (r"current: [0-9]+", "current: <revision>"),
            // Of an object that an error prints.
            (
                r#"\\"resourceVersion\\":\\"[0-9]+"#,
                "resourceVersion: <revision>",
            ),
            // Addresses outside of the few that requests name are chosen at random.
            (r"^10\.96\.[0-9]+\.[0-9]+$", "<address>"),
            (r"^eyJ2IjoibWV0YS5rOHMuaW8vdjEi[^ ]+$", "<continue>"),
        ];
        Normal(
            rules
                .iter()
                .map(|(r, to)| (Regex::new(r).unwrap(), *to))
                .collect(),
        )
    }

    fn text(&self, s: &str) -> String {
        self.0.iter().fold(s.to_owned(), |s, (r, to)| {
            r.replace_all(&s, *to).into_owned()
        })
    }
}

/// The first difference between what is wanted and what was got. `…` stands for any value; managedFields were not
/// recorded; the conditions of pods are those that a scheduler had set.
fn difference(n: &Normal, path: &str, want: &Value, got: &Value) -> Option<String> {
    match (want, got) {
        (Value::String(w), _) if w == "…" => None,
        (Value::Object(w), Value::Object(g)) => {
            let skip =
                |k: &str| k == "managedFields" || (k == "conditions" && path.ends_with(".status"));
            for (k, v) in w.iter().filter(|(k, _)| !skip(k)) {
                let Some(other) = g.get(k) else {
                    return Some(format!("{path}.{k} is missing"));
                };
                if let Some(d) = difference(n, &format!("{path}.{k}"), v, other) {
                    return Some(d);
                }
            }
            let more = g.keys().find(|k| !w.contains_key(*k) && !skip(k));
            more.map(|k| format!("{path}.{k} is not wanted: {}", g[k]))
        }
        (Value::Array(w), Value::Array(g)) => {
            if w.len() != g.len() {
                return Some(format!(
                    "{path} has {} elements instead of {}",
                    g.len(),
                    w.len()
                ));
            }
            w.iter()
                .zip(g)
                .enumerate()
                .find_map(|(i, (w, g))| difference(n, &format!("{path}[{i}]"), w, g))
        }
        (Value::String(w), Value::String(g)) => {
            let (w, g) = (n.text(w), n.text(g));
            (w != g).then(|| format!("{path}:\n  want {w}\n  got  {g}"))
        }
        _ => (want != got).then(|| format!("{path}: want {want}, got {got}")),
    }
}

/// Bodies are sent as they were recorded: the order of fields shows in errors.
#[derive(Deserialize)]
struct Recorded {
    request: RecordedRequest,
}

#[derive(Deserialize)]
struct RecordedRequest {
    body: Option<Box<RawValue>>,
}

fn body_of(recorded: &Recorded) -> Option<String> {
    let raw = recorded.request.body.as_ref()?.get();
    let body: Value = serde_json::from_str(raw).unwrap();
    if let Some(text) = body.get("text").and_then(Value::as_str) {
        return Some(text.to_owned());
    }
    if let (Some(one), Some(times)) = (
        body.get("repeat"),
        body.get("times").and_then(Value::as_u64),
    ) {
        let all = vec![one.clone(); usize::try_from(times).unwrap()];
        return Some(Value::Array(all).to_string());
    }
    Some(raw.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_upstreams() {
    let data = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/golden/exchanges.json"
    );
    let data = std::fs::read_to_string(data).unwrap();
    let exchanges: Vec<Value> = serde_json::from_str(&data).unwrap();
    let recorded: Vec<Recorded> = serde_json::from_str(&data).unwrap();
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let normal = Normal::new();
    let (mut agree, mut surprises) = (0, Vec::new());
    for (e, recorded) in exchanges.iter().zip(&recorded) {
        let request = &e["request"];
        let body = body_of(recorded);
        let mut headers: Vec<(String, String)> = Vec::new();
        for (k, v) in request
            .get("headers")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            headers.push((k.to_lowercase(), v.as_str().unwrap().to_owned()));
        }
        if body.is_some() && !headers.iter().any(|(k, _)| k == "content-type") {
            headers.push(("content-type".into(), "application/json".into()));
        }
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let method: Method = request["method"].as_str().unwrap().parse().unwrap();
        let path = request["path"].as_str().unwrap();
        let answer = connection
            .call(method, path, &headers, body.unwrap_or_default())
            .await;
        if answer
            .headers
            .get("connection")
            .is_some_and(|v| v == "close")
        {
            connection = server.connect().await;
        }
        let name = e["name"].as_str().unwrap();
        let wanted_code = e["status"].as_u64().unwrap();
        let difference = if u64::from(answer.code) != wanted_code {
            Some(format!(
                "code {} instead of {wanted_code}: {}",
                answer.code,
                answer.text()
            ))
        } else {
            match &e["response"] {
                // A recorded watch: how it begins.
                Value::String(w) if w.starts_with("{\"type\"") => {
                    let start = w.get(..30).unwrap();
                    (!answer.text().starts_with(start)).then(|| format!("begins {}", answer.text()))
                }
                Value::String(w) => (*w != answer.text()).then(|| answer.text()),
                w => difference(&normal, "", w, &answer.json()),
            }
        };
        let header = e["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .find_map(|(k, v)| {
                let got = answer
                    .headers
                    .get(k.to_lowercase())
                    .and_then(|v| v.to_str().ok());
                (got != v.as_str()).then(|| format!("header {k} is {got:?}"))
            });
        let known = DIFFER.iter().find(|(n, _)| *n == name);
        match (difference.or(header), known) {
            (None, None) => agree += 1,
            (None, Some((_, why))) => {
                agree += 1;
                println!("agrees after all: {name} ({why})");
            }
            (Some(_), Some(_)) => {}
            (Some(d), None) => surprises.push(format!("{name}: {d}")),
        }
    }
    println!("{agree} of {} exchanges agree", exchanges.len());
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}
