//! ConfigMaps.

use apiserver::resource::{Context, Strategy};
use serde_json::Value;

use crate::builtin::{Config, Parts};
use crate::check::{config_key, each};
use crate::validate::{Errors, Path};
use crate::value::{Tree, same};

/// The largest sum of values, in bytes.
pub const MAX_SIZE: usize = 1024 * 1024;

struct ConfigMap;

/// The length of what base64 text stands for.
pub fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// What an immutable object may not change: `immutable` itself and its data.
pub fn immutable(e: &mut Errors, new: &Value, old: &Value, data: &[&str]) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if !old.flag("immutable") {
        return;
    }
    if !new.flag("immutable") {
        e.forbidden(&Path::new("immutable"), WHY);
    }
    for key in data {
        let (n, o) = (new.map(key), old.map(key));
        if n != o && !same(new.at(key), old.at(key)) || n.len() != o.len() {
            e.forbidden(&Path::new(key), WHY);
        }
    }
}

fn validate(e: &mut Errors, o: &Value) {
    let mut size = 0;
    let binary = o.map("binaryData");
    for (key, value) in o.map("data") {
        let p = Path::new("data").key(key);
        each(e, &p, key, config_key(key));
        if binary.contains_key(key) {
            e.invalid(&p, key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary {
        each(e, &Path::new("binaryData").key(key), key, config_key(key));
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > MAX_SIZE {
        e.too_long(&Path::new("[]"), MAX_SIZE);
    }
}

impl Strategy for ConfigMap {
    fn prepare_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        validate(&mut e, o);
        e
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = Errors::new();
        immutable(&mut e, o, old, &["data", "binaryData"]);
        validate(&mut e, o);
        e
    }
}

/// ConfigMaps.
pub fn parts(_: &Config) -> Parts {
    Parts::new(ConfigMap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_and_sizes() {
        let mut e = Errors::new();
        validate(
            &mut e,
            &json!({"data": {"a/b": "1", "ok": ""}, "binaryData": {"ok": "AA=="}}),
        );
        let text = e.aggregate();
        assert!(
            text.contains("data[a/b]: Invalid value: \"a/b\": a valid config key"),
            "{text}"
        );
        assert!(
            text.contains(
                "data[ok]: Invalid value: \"ok\": duplicate of key present in binaryData"
            ),
            "{text}"
        );
        let mut e = Errors::new();
        validate(&mut e, &json!({"data": {"a": "x".repeat(MAX_SIZE + 1)}}));
        assert!(
            e.aggregate()
                .contains("Too long: may not be more than 1048576 bytes")
        );
        assert_eq!(decoded_len("YWI="), 2);
    }

    #[test]
    fn immutable_maps_stay() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let mut e = Errors::new();
        immutable(
            &mut e,
            &json!({"immutable": true, "data": {"a": "2"}}),
            &old,
            &["data", "binaryData"],
        );
        assert_eq!(
            e.aggregate(),
            "data: Forbidden: field is immutable when `immutable` is set"
        );
        let mut e = Errors::new();
        immutable(
            &mut e,
            &json!({"data": {"a": "1"}}),
            &old,
            &["data", "binaryData"],
        );
        assert_eq!(
            e.aggregate(),
            "immutable: Forbidden: field is immutable when `immutable` is set"
        );
    }
}
