//! Secrets.

use apiserver::resource::{Context, Strategy};
use base64::Engine;
use serde_json::{Map, Value};

use super::configmap::{MAX_SIZE, decoded_len, immutable};
use crate::builtin::{Config, Parts};
use crate::check::{config_key, each};
use crate::validate::{Errors, Path};
use crate::value::Tree;

struct Secret;

/// `stringData` is merged into `data` on every write and never stored.
fn merge_strings(o: &mut Value) {
    let Some(Value::Object(strings)) = o.remove_at("stringData") else {
        return;
    };
    if strings.is_empty() {
        return;
    }
    let data = o.slot("data");
    if !data.is_object() {
        *data = Value::Object(Map::new());
    }
    if let Some(data) = data.as_object_mut() {
        for (k, v) in strings {
            let text = v.as_str().unwrap_or_default();
            data.insert(
                k,
                base64::engine::general_purpose::STANDARD
                    .encode(text)
                    .into(),
            );
        }
    }
}

fn json_map(e: &mut Errors, key: &str, data: &Map<String, Value>) {
    let p = Path::new("data").key(key);
    let Some(text) = data.get(key).and_then(Value::as_str) else {
        e.required(&p, "");
        return;
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap_or_default();
    if let Some(why) = go_json_map_error(&bytes) {
        e.invalid(&p, "<secret contents redacted>", &why);
    }
}

/// Why bytes are not a JSON object, in the words of Go's decoder; `None` if they are.
fn go_json_map_error(bytes: &[u8]) -> Option<String> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => None,
        Ok(other) => {
            let kind = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            Some(format!(
                "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
            ))
        }
        Err(why) if why.is_eof() => Some("unexpected end of JSON input".into()),
        Err(_) => {
            let at = bytes
                .iter()
                .find(|b| !b.is_ascii_whitespace())
                .copied()
                .unwrap_or_default();
            Some(format!(
                "invalid character '{}' looking for beginning of value",
                char::from(at)
            ))
        }
    }
}

fn validate(e: &mut Errors, o: &Value) {
    let data = o.map("data");
    let path = Path::new("data");
    let mut size = 0;
    for (key, value) in data {
        each(e, &path.key(key), key, config_key(key));
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > MAX_SIZE {
        e.too_long(&path, MAX_SIZE);
    }
    let require = |e: &mut Errors, keys: &[&str]| {
        for key in keys {
            if !data.contains_key(*key) {
                e.required(&path.key(key), "");
            }
        }
    };
    match o.text("type") {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if o.annotation(NAME).unwrap_or_default().is_empty() {
                e.required(&Path::new("metadata").child("annotations").key(NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => json_map(e, ".dockercfg", data),
        "kubernetes.io/dockerconfigjson" => json_map(e, ".dockerconfigjson", data),
        "kubernetes.io/basic-auth"
            if !data.contains_key("username") && !data.contains_key("password") =>
        {
            require(e, &["username", "password"]);
        }
        "kubernetes.io/ssh-auth" => {
            if data
                .get("ssh-privatekey")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .is_empty()
            {
                e.required(&path.key("ssh-privatekey"), "");
            }
        }
        "kubernetes.io/tls" => require(e, &["tls.crt", "tls.key"]),
        _ => {}
    }
}

impl Strategy for Secret {
    fn default(&self, o: &mut Value) {
        merge_strings(o);
        o.put_if_zero("type", "Opaque");
    }

    fn prepare_update(&self, _: &Context<'_>, o: &mut Value, old: &Value) {
        if o.text("type").is_empty() {
            o.copy_at("type", old);
        }
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        validate(&mut e, o);
        e
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = Errors::new();
        if o.at("type") != old.at("type") {
            e.invalid(&Path::new("type"), o.text("type"), "field is immutable");
        }
        immutable(&mut e, o, old, &["data"]);
        validate(&mut e, o);
        e
    }

    fn field_values(&self, o: &Value) -> Vec<(&'static str, String)> {
        vec![("type", o.text("type").to_owned())]
    }

    fn warnings(&self, _: &Context<'_>, o: &Value, _: Option<&Value>) -> Vec<String> {
        if o.text("type") != "kubernetes.io/tls" {
            return vec![];
        }
        let pem = |key: &str| {
            let text = o.map("data").get(key).and_then(Value::as_str);
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text.unwrap_or_default())
                .unwrap_or_default();
            bytes.windows(11).any(|w| w == b"-----BEGIN ")
        };
        [("tls.crt", "certificate"), ("tls.key", "key")]
            .iter()
            .find(|(key, _)| !pem(key))
            .map(|(_, what)| format!("tls: failed to find any PEM data in {what} input"))
            .into_iter()
            .collect()
    }
}

/// Secrets.
pub fn parts(_: &Config) -> Parts {
    Parts::new(Secret).fields(&["type"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(o: Value) -> String {
        let mut e = Errors::new();
        validate(&mut e, &o);
        e.aggregate()
    }

    #[test]
    fn string_data_is_merged() {
        let mut o = json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}});
        Secret.default(&mut o);
        assert_eq!(
            o,
            json!({"data": {"a": "Yg==", "c": "ZA=="}, "type": "Opaque"})
        );
    }

    #[test]
    fn types() {
        assert_eq!(
            errors(json!({"type": "kubernetes.io/tls", "data": {}})),
            "[data[tls.crt]: Required value, data[tls.key]: Required value]"
        );
        assert_eq!(
            errors(json!({"type": "kubernetes.io/basic-auth", "data": {"username": ""}})),
            "[]"
        );
        let bad = json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "W10="}});
        assert!(errors(bad).contains("<secret contents redacted>"));
        assert!(
            errors(json!({"type": "kubernetes.io/service-account-token"}))
                .contains("service-account.name")
        );
    }
}
