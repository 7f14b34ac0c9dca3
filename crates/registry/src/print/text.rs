//! Pieces of cells.

use serde_json::Value;

use crate::value::Tree;

/// The text, or a placeholder for none.
pub fn or<'a>(text: &'a str, none: &'a str) -> &'a str {
    if text.is_empty() { none } else { text }
}

/// Labels as `a=b,c=d`; `<none>` for none.
pub fn labels(map: &Value) -> String {
    let parts: Vec<String> = map
        .map("")
        .iter()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    or(&parts.join(","), "<none>").to_owned()
}

/// A label selector as it is written in queries, sorted by key; empty for one that matches all.
pub fn selector_query(s: &Value) -> String {
    let mut parts: Vec<(String, String)> = s
        .map("matchLabels")
        .iter()
        .map(|(k, v)| (k.clone(), format!("{k}={}", v.as_str().unwrap_or_default())))
        .collect();
    for r in s.list("matchExpressions") {
        let key = r.text("key");
        let mut values = r.texts("values");
        values.sort_unstable();
        let values = values.join(",");
        let text = match r.text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key.to_owned(), text));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    parts
        .into_iter()
        .map(|(_, t)| t)
        .collect::<Vec<_>>()
        .join(",")
}

/// A label selector for a cell.
pub fn selector(s: &Value) -> String {
    or(&selector_query(s), "<none>").to_owned()
}

/// Names and images of containers, each joined by commas.
pub fn containers(list: &[Value]) -> [Value; 2] {
    let join = |key: &str| {
        list.iter()
            .map(|c| c.text(key))
            .collect::<Vec<_>>()
            .join(",")
    };
    [join("name").into(), join("image").into()]
}

/// The first items and how many were left out: `a,b,c + 2 more...`.
pub fn some(items: &[String], max: usize) -> String {
    let shown = items
        .iter()
        .take(max)
        .cloned()
        .collect::<Vec<_>>()
        .join(",");
    if items.len() > max {
        format!("{shown} + {} more...", items.len() - max)
    } else {
        shown
    }
}

/// A number or string as text.
pub fn int_or_string(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// The status of a condition, if present.
pub fn condition<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a str> {
    conditions
        .iter()
        .find(|c| c.text("type") == kind)
        .map(|c| c.text("status"))
}

/// An address and port.
pub fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}
