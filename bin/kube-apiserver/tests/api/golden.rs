//! Replays exchanges recorded with upstream's apiserver and compares the answers.

use std::collections::{BTreeSet, HashMap};

use base64::Engine;
use http::Method;
use regex::Regex;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::fields;
use crate::server::{Answer, Server};

/// Differences that are accepted, in `tests/golden/accepted.json`: each names one field of one answer, and both values to
/// the letter. A status code is never among them, and one that is not met any more fails the test.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Accepted {
    exchange: String,
    /// As [`Difference::field`].
    field: String,
    want: String,
    got: String,
    why: String,
}

/// One field that is not as it was recorded; absent values are empty.
#[derive(Debug)]
struct Difference {
    field: String,
    want: String,
    got: String,
}

struct Comparison {
    /// What differs from run to run: a value of the recording stands for one value of this run, everywhere.
    variables: Vec<Regex>,
    /// Recorded values and this run's, and the other way round.
    pairs: HashMap<String, String>,
    reverse: HashMap<String, String>,
    /// What was sent so far: what a request names is no variable.
    sent: String,
}

impl Comparison {
    fn new() -> Comparison {
        let variables = [
            // A uid, a volume, a generated name.
            "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            "kube-api-access-[a-z0-9]{5}",
            "Bad-[a-z0-9]{5}",
            // An address, chosen at random from the range of services where the request names none.
            r"10\.96\.[0-9]+\.[0-9]+",
        ];
        Comparison {
            variables: variables.iter().map(|v| Regex::new(v).unwrap()).collect(),
            pairs: HashMap::new(),
            reverse: HashMap::new(),
            sent: String::new(),
        }
    }

    /// The recorded text with this run's values in the places of variables, where they may stand for each other.
    fn expected(&mut self, want: &str, got: &str) -> String {
        let mut want = want.to_owned();
        for i in 0..self.variables.len() {
            let pattern = self.variables[i].clone();
            let theirs: Vec<String> = pattern
                .find_iter(&want)
                .map(|m| m.as_str().into())
                .collect();
            let ours: Vec<String> = pattern.find_iter(got).map(|m| m.as_str().into()).collect();
            for (recorded, now) in theirs.iter().zip(&ours) {
                let named = |v: &String| self.sent.contains(v.as_str());
                if named(recorded) || named(now) {
                    continue;
                }
                let known = (self.pairs.get(recorded), self.reverse.get(now));
                if known == (None, None) {
                    self.pairs.insert(recorded.clone(), now.clone());
                    self.reverse.insert(now.clone(), recorded.clone());
                }
                if self.pairs.get(recorded) == Some(now) && self.reverse.get(now) == Some(recorded)
                {
                    want = want.replace(recorded, now);
                }
            }
        }
        want
    }

    fn text(&mut self, field: &str, want: &str, got: &str, found: &mut Vec<Difference>) {
        // Ages in tables.
        if field.starts_with(".rows[") && field.contains(".cells[") {
            let age = Regex::new("^[0-9]+s$").unwrap();
            if age.is_match(want) && age.is_match(got) {
                return;
            }
        }
        let moment =
            Regex::new(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z")
                .unwrap();
        // Of an object that an error prints, and of a conflict.
        let revision = Regex::new(r#"(\\"resourceVersion\\":\\"|current: )[0-9]+"#).unwrap();
        let plain = |s: &str| {
            let s = moment.replace_all(s, |c: &regex::Captures<'_>| match c.get(1) {
                Some(_) => "<time in microseconds>",
                None => "<time>",
            });
            revision.replace_all(&s, "${1}<revision>").into_owned()
        };
        let (want, got) = (plain(want), plain(got));
        let want = self.expected(&want, &got);
        if want != got {
            found.push(Difference {
                field: field.into(),
                want,
                got,
            });
        }
    }

    /// Every difference between what is wanted and what was got. `…` stands for any value of its type.
    fn compare(&mut self, field: &str, want: &Value, got: &Value, found: &mut Vec<Difference>) {
        let show = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        match (want, got) {
            (Value::String(w), Value::String(g)) if w == "…" && !g.is_empty() => {}
            (Value::String(w), Value::String(g)) => match (token(w), token(g)) {
                (Some(w), Some(g)) => self.compare(&format!("{field}.decoded"), &w, &g, found),
                _ => self.text(field, w, g, found),
            },
            (Value::Object(w), Value::Object(g)) => {
                let keys: BTreeSet<&String> = w.keys().chain(g.keys()).collect();
                for k in keys {
                    let field = format!("{field}.{k}");
                    match (w.get(k), g.get(k)) {
                        (Some(w), Some(g)) => self.compare(&field, w, g, found),
                        // Recordings hold them in the watch alone; `owners` looks at the others.
                        (None, Some(_)) if k == "managedFields" => {}
                        (w, g) => found.push(Difference {
                            field,
                            want: w.map(show).unwrap_or_default(),
                            got: g.map(show).unwrap_or_default(),
                        }),
                    }
                }
            }
            (Value::Array(w), Value::Array(g)) => self.elements(field, w, g, found),
            _ if want == got => {}
            _ => found.push(Difference {
                field: field.into(),
                want: show(want),
                got: show(got),
            }),
        }
    }

    /// Elements stand at their places; where one list is longer, those that the other lacks are named.
    fn elements(
        &mut self,
        field: &str,
        want: &[Value],
        got: &[Value],
        found: &mut Vec<Difference>,
    ) {
        let (mut i, mut j) = (0, 0);
        while i < want.len() || j < got.len() {
            let place = format!("{field}[{}]", i.max(j));
            let mut here = Vec::new();
            match (want.get(i), got.get(j)) {
                (Some(w), Some(g)) => {
                    self.compare(&place, w, g, &mut here);
                    let (left, right) = (want.len() - i, got.len() - j);
                    if here.is_empty() || left == right {
                        found.extend(here);
                        (i, j) = (i + 1, j + 1);
                    } else if left > right {
                        found.push(Difference {
                            field: place,
                            want: w.to_string(),
                            got: String::new(),
                        });
                        i += 1;
                    } else {
                        found.push(Difference {
                            field: place,
                            want: String::new(),
                            got: g.to_string(),
                        });
                        j += 1;
                    }
                }
                (w, g) => {
                    let show = |v: Option<&Value>| v.map(Value::to_string).unwrap_or_default();
                    found.push(Difference {
                        field: place,
                        want: show(w),
                        got: show(g),
                    });
                    (i, j) = (i + 1, j + 1);
                }
            }
        }
    }

    /// Every event of a watch, managedFields and the order of revisions included.
    fn watch(&mut self, want: &str, got: &str, found: &mut Vec<Difference>) {
        let events = |text: &str| -> Vec<Value> {
            text.lines()
                .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
                .collect()
        };
        let (mut want, mut got) = (events(want), events(got));
        // Entries are in the order of their times, in whole seconds, which differ from run to run.
        for event in want.iter_mut().chain(&mut got) {
            let managed = event.pointer_mut("/object/metadata/managedFields");
            if let Some(all) = managed.and_then(Value::as_array_mut) {
                all.sort_by_key(|m| m["manager"].to_string());
            }
        }
        let mut last = 0;
        for event in &mut want {
            event["object"]["metadata"]["resourceVersion"] = "…".into();
        }
        for event in &mut got {
            let revision = &event["object"]["metadata"]["resourceVersion"];
            let revision = revision.as_str().and_then(|r| r.parse().ok()).unwrap_or(0);
            assert!(revision > last, "revision {revision} comes after {last}");
            last = revision;
        }
        self.compare("events", &want.into(), &got.into(), found);
    }
}

/// What a continue token says, but for the revision.
fn token(text: &str) -> Option<Value> {
    let start = text.strip_prefix("eyJ2IjoibWV0YS5rOHMuaW8vdjEi")?;
    let whole = format!("eyJ2IjoibWV0YS5rOHMuaW8vdjEi{start}");
    let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(whole)
        .ok()?;
    let mut value: Value = serde_json::from_slice(&decoded).ok()?;
    value["rv"].as_u64().filter(|r| *r > 0)?;
    value["rv"] = "…".into();
    Some(value)
}

/// Whoever writes an object owns fields of it afterwards: what recordings without managedFields still tell of them.
fn owners(request: &Value, object: &Value) -> Option<String> {
    let path = request["path"].as_str()?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let kind = header(request, "content-type").unwrap_or("application/json");
    let apply = kind == "application/apply-patch+yaml";
    let named = query
        .split('&')
        .find_map(|q| q.strip_prefix("fieldManager="));
    // An object of a name alone has no owners; a Scale shows none.
    let told = |v: &Value, more: &[&str]| {
        let known = ["apiVersion", "kind", "name", "namespace", "generateName"];
        v.as_object().is_some_and(|o| {
            o.keys()
                .any(|k| !known.contains(&k.as_str()) && !more.contains(&k.as_str()))
        })
    };
    let body = &request["body"];
    if object["kind"] == "Scale" || !told(body, &["metadata"]) && !told(&body["metadata"], &[]) {
        return None;
    }
    let wanted = json!({
        "manager": named.unwrap_or("unknown"),
        "operation": if apply { "Apply" } else { "Update" },
        "apiVersion": object["apiVersion"],
        "fieldsType": "FieldsV1",
    });
    let all = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let met = all.iter().any(|m| {
        let same = |k: &str| m[k] == wanted[k];
        [
            "manager",
            "operation",
            "apiVersion",
            "fieldsType",
            "subresource",
        ]
        .into_iter()
        .all(same)
            && m["time"].is_string()
            && m["fieldsV1"].as_object().is_some_and(|f| !f.is_empty())
    });
    (!met).then(|| format!("{path}: {wanted} is not among {}", Value::Array(all)))
}

/// What is wrong with the fields that a creation or an apply gave to its manager.
fn owned(request: &Value, object: &Value) -> Option<String> {
    let path = request["path"].as_str()?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let kind = header(request, "content-type").unwrap_or("application/json");
    let apply = kind == "application/apply-patch+yaml";
    let named = query
        .split('&')
        .find_map(|q| q.strip_prefix("fieldManager="));
    let body = &request["body"];
    let created = request["method"] == "POST" && kind == "application/json";
    if !(created || apply) || body["kind"] != object["kind"] {
        return None;
    }
    let wrong = fields::wrong(body, object, named.unwrap_or("unknown"), apply)?;
    Some(format!("{path}: {wrong}"))
}

fn header<'a>(request: &'a Value, name: &str) -> Option<&'a str> {
    let all = request.get("headers")?.as_object()?;
    let found = all.iter().find(|(k, _)| k.eq_ignore_ascii_case(name))?;
    found.1.as_str()
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

/// What the scheduler of the recorded cluster wrote into the status of a new pod: it had no nodes.
async fn play_scheduler(server: &Server, pod: &Value) {
    if pod["spec"]["schedulingGates"].is_array() {
        return;
    }
    let name = pod["metadata"]["name"].as_str().unwrap();
    let condition = json!({
        "type": "PodScheduled",
        "observedGeneration": 1,
        "status": "False",
        "lastProbeTime": null,
        "lastTransitionTime": pod["metadata"]["creationTimestamp"],
        "reason": "Unschedulable",
        "message": "no nodes available to schedule pods",
    });
    let patch = json!({"status": {"conditions": [condition]}});
    let headers = [
        ("content-type", "application/strategic-merge-patch+json"),
        ("user-agent", "kube-scheduler/v1.37.0"),
    ];
    let path = format!("/api/v1/namespaces/golden/pods/{name}/status");
    let mut c = server.connect().await;
    c.call(Method::PATCH, &path, &headers, patch.to_string())
        .await
        .expect(200);
}

/// Each difference of an exchange, the code first: where that differs, nothing else is looked at and nothing accepted.
fn differences(c: &mut Comparison, e: &Value, answer: &Answer) -> Result<Vec<Difference>, String> {
    let wanted = e["status"].as_u64().unwrap();
    if u64::from(answer.code) != wanted {
        return Err(format!(
            "code {} instead of {wanted}: {}",
            answer.code,
            answer.text()
        ));
    }
    let mut found = Vec::new();
    match &e["response"] {
        Value::String(w) if w.starts_with("{\"type\"") => c.watch(w, &answer.text(), &mut found),
        Value::String(w) => c.text("body", w, &answer.text(), &mut found),
        w => c.compare("", w, &answer.json(), &mut found),
    }
    for (k, v) in e["headers"].as_object().into_iter().flatten() {
        let got = answer.headers.get(k.to_lowercase());
        let got = got.and_then(|v| v.to_str().ok()).unwrap_or_default();
        if Some(got) != v.as_str() {
            found.push(Difference {
                field: format!("header {k}"),
                want: v.as_str().unwrap().into(),
                got: got.into(),
            });
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_upstreams() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    let read = |name: &str| std::fs::read_to_string(format!("{golden}/{name}.json")).unwrap();
    let data = read("exchanges");
    let exchanges: Vec<Value> = serde_json::from_str(&data).unwrap();
    let recorded: Vec<Recorded> = serde_json::from_str(&data).unwrap();
    let accepted: Vec<Accepted> = serde_json::from_str(&read("accepted")).unwrap();
    let mut unmet: BTreeSet<&Accepted> = accepted.iter().collect();
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let mut comparison = Comparison::new();
    let mut surprises = Vec::new();
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
        comparison.sent.push_str(path);
        comparison
            .sent
            .push_str(body.as_deref().unwrap_or_default());
        let answer = connection
            .call(method.clone(), path, &headers, body.unwrap_or_default())
            .await;
        if answer
            .headers
            .get("connection")
            .is_some_and(|v| v == "close")
        {
            connection = server.connect().await;
        }
        let name = e["name"].as_str().unwrap();
        match differences(&mut comparison, e, &answer) {
            Err(code) => surprises.push(format!("{name}: {code}")),
            Ok(found) => {
                for d in found {
                    let same = |a: &&Accepted| {
                        (&*a.exchange, &a.field, &a.want, &a.got)
                            == (name, &d.field, &d.want, &d.got)
                    };
                    match accepted.iter().find(same) {
                        Some(a) => {
                            unmet.remove(a);
                        }
                        None => surprises.push(format!(
                            "{name}: {}:\n  want {}\n  got  {}",
                            d.field, d.want, d.got
                        )),
                    }
                }
            }
        }
        let written =
            matches!(answer.code, 200 | 201) && method != Method::GET && method != Method::DELETE;
        if written {
            let object = answer.json();
            if object["metadata"]["uid"].is_string() {
                surprises.extend(owners(request, &object).map(|o| format!("{name}: {o}")));
                surprises.extend(owned(request, &object).map(|o| format!("{name}: {o}")));
            }
            if object["kind"] == "Pod" && method == Method::POST && !path.contains("dryRun") {
                play_scheduler(&server, &object).await;
            }
        }
    }
    for a in unmet {
        surprises.push(format!(
            "{}: {} differs no more: {}",
            a.exchange, a.field, a.why
        ));
    }
    assert!(
        surprises.is_empty(),
        "{} differences:\n{}",
        surprises.len(),
        surprises.join("\n")
    );
}

#[test]
fn a_difference_is_seen_wherever_it_is() {
    let want = json!({
        "a": "x", "list": [1, {"b": "…"}, 3], "ip": "10.96.7.7", "uid": "00000000-0000-0000-0000-000000000001",
        "again": "00000000-0000-0000-0000-000000000001", "status": {"conditions": [{"type": "T"}]},
    });
    let fields = |change: &dyn Fn(&mut Value)| {
        let mut got = want.clone();
        got["uid"] = "00000000-0000-0000-0000-00000000000f".into();
        got["again"] = got["uid"].clone();
        got["list"][1]["b"] = "any".into();
        change(&mut got);
        let mut c = Comparison::new();
        c.sent = "clusterIP: 10.96.7.7".into();
        let mut found = Vec::new();
        c.compare("", &want, &got, &mut found);
        found.into_iter().map(|d| d.field).collect::<Vec<_>>()
    };
    assert_eq!(fields(&|_| {}), Vec::<String>::new());
    assert_eq!(fields(&|v| v["a"] = "y".into()), [".a"]);
    assert_eq!(fields(&|v| v["c"] = 1.into()), [".c"]);
    assert_eq!(
        fields(&|v| v["list"] = json!([1, {"b": "any"}])),
        [".list[2]"]
    );
    assert_eq!(
        fields(&|v| v["list"] = json!([{"b": "any"}, 3])),
        [".list[0]"]
    );
    assert_eq!(fields(&|v| v["list"][1]["b"] = "".into()), [".list[1].b"]);
    assert_eq!(fields(&|v| v["ip"] = "10.96.7.8".into()), [".ip"]);
    assert_eq!(
        fields(&|v| v["again"] = "00000000-0000-0000-0000-00000000000e".into()).len(),
        1
    );
    assert_eq!(
        fields(&|v| v["status"]["conditions"] = json!([])),
        [".status.conditions[0]"]
    );
    assert_eq!(
        fields(&|v| v["status"]["conditions"][0]["type"] = "U".into()),
        [".status.conditions[0].type"]
    );
}
