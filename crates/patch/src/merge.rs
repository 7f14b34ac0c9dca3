//! RFC 7386.

use serde_json::{Map, Value};

use crate::{PatchError, kind};

pub(crate) fn apply(doc: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch = wire::json::parse(patch)
        .map_err(|e| PatchError::BadRequest(format!("error decoding patch: {e}")))?;
    let Value::Object(patch) = patch else {
        if patch.is_null() {
            return Err(PatchError::BadRequest("Invalid JSON Patch".to_owned()));
        }
        return Err(PatchError::BadRequest(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            kind(&patch)
        )));
    };
    let mut doc = doc.clone();
    merge(&mut doc, patch);
    Ok(doc)
}

fn merge(doc: &mut Value, patch: Map<String, Value>) {
    if !doc.is_object() {
        *doc = Value::Object(Map::new());
    }
    let Value::Object(target) = doc else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(inner) => merge(target.entry(key).or_insert(Value::Null), inner),
            other => {
                target.insert(key, other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7386, appendix A, for patches that are objects.
    #[test]
    fn rfc_examples() {
        for (doc, patch, want) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": "b"}),
                json!({"b": "c"}),
                json!({"a": "b", "b": "c"}),
            ),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (
                json!({"a": "b", "b": "c"}),
                json!({"a": null}),
                json!({"b": "c"}),
            ),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!({"a": [{"b": "c"}]}),
                json!({"a": [1]}),
                json!({"a": [1]}),
            ),
            (
                json!({"e": null}),
                json!({"a": 1}),
                json!({"e": null, "a": 1}),
            ),
            (
                json!([1, 2]),
                json!({"a": "b", "c": null}),
                json!({"a": "b"}),
            ),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            assert_eq!(
                apply(&doc, patch.to_string().as_bytes()).unwrap(),
                want,
                "{doc} {patch}"
            );
        }
    }

    #[test]
    fn errors_as_upstream() {
        assert_eq!(
            apply(&json!({}), b"[1").unwrap_err(),
            PatchError::BadRequest("error decoding patch: unexpected end of JSON input".into())
        );
        assert_eq!(
            apply(&json!({}), b"[]").unwrap_err().to_string(),
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
    }
}
