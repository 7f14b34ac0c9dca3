//! Component configuration files: `KubeSchedulerConfiguration` and its like, YAML or JSON.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("failed to read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not YAML, or a value has the wrong type.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: String,
        /// Where and what.
        message: String,
    },
    /// Fields that the kind does not have, or that are given twice.
    #[error("{path}: strict decoding error: {}", fields.join(", "))]
    Unknown {
        /// The file.
        path: String,
        /// `unknown field "a.b"`, ….
        fields: Vec<String>,
    },
    /// Another kind or version than the daemon reads.
    #[error(
        "{path}: no kind {kind:?} is registered for version {api_version:?}; expected {expected}"
    )]
    Kind {
        /// The file.
        path: String,
        /// As found.
        api_version: String,
        /// As found.
        kind: String,
        /// `kind in version, …`
        expected: String,
    },
}

/// Reads the file as `T` if its `apiVersion` and `kind` are among `accepted` (pairs of version and kind). `T` need not
/// know the two fields. Unknown fields are errors; YAML aliases are bounded by the parser.
///
/// # Errors
/// [`ConfigError`].
pub fn load<T: DeserializeOwned>(path: &Path, accepted: &[(&str, &str)]) -> Result<T, ConfigError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io {
        path: shown.clone(),
        source,
    })?;
    parse(&shown, &text, accepted)
}

/// As [`load`], from a text; `path` is for messages.
///
/// # Errors
/// [`ConfigError`].
pub fn parse<T: DeserializeOwned>(
    path: &str,
    text: &str,
    accepted: &[(&str, &str)],
) -> Result<T, ConfigError> {
    let failed = |message: String| ConfigError::Parse {
        path: path.to_owned(),
        message,
    };
    // serde_yaml's own tree refuses repeated keys; serde_json's would let the last one win.
    let tree: serde_yaml::Value = serde_yaml::from_str(text).map_err(|e| failed(e.to_string()))?;
    let mut doc: Value = serde_json::to_value(tree).map_err(|e| failed(e.to_string()))?;
    let mut take = |key: &str| match doc.as_object_mut().and_then(|o| o.remove(key)) {
        Some(Value::String(s)) => s,
        _ => String::new(),
    };
    let (api_version, kind) = (take("apiVersion"), take("kind"));
    if !accepted
        .iter()
        .any(|(v, k)| *v == api_version && *k == kind)
    {
        let expected = accepted
            .iter()
            .map(|(v, k)| format!("{k} in {v}"))
            .collect::<Vec<_>>()
            .join(", ");
        return Err(ConfigError::Kind {
            path: path.to_owned(),
            api_version,
            kind,
            expected,
        });
    }
    let mut fields = Vec::new();
    let value = serde_ignored::deserialize(doc, |p| {
        fields.push(format!("unknown field {:?}", p.to_string()))
    })
    .map_err(|e| failed(e.to_string()))?;
    if fields.is_empty() {
        Ok(value)
    } else {
        Err(ConfigError::Unknown {
            path: path.to_owned(),
            fields,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, Default)]
    #[serde(default)]
    struct C {
        a: u32,
        b: Inner,
    }
    #[derive(Debug, serde::Deserialize, Default)]
    #[serde(default)]
    struct Inner {
        c: String,
    }

    #[test]
    fn strict() {
        let ok: C = parse(
            "f",
            "apiVersion: x/v1\nkind: C\na: 3\nb: {c: d}\n",
            &[("x/v1", "C")],
        )
        .unwrap();
        assert_eq!((ok.a, ok.b.c.as_str()), (3, "d"));
        let e = parse::<C>(
            "f",
            "apiVersion: x/v1\nkind: C\nb: {z: 1}\ny: 2\n",
            &[("x/v1", "C")],
        )
        .unwrap_err();
        assert_eq!(
            e.to_string(),
            "f: strict decoding error: unknown field \"b.z\", unknown field \"y\""
        );
        let e = parse::<C>("f", "apiVersion: x/v2\nkind: C\n", &[("x/v1", "C")]).unwrap_err();
        assert!(
            e.to_string()
                .contains("no kind \"C\" is registered for version \"x/v2\""),
            "{e}"
        );
        assert!(
            parse::<C>(
                "f",
                "apiVersion: x/v1\nkind: C\na: 1\na: 2\n",
                &[("x/v1", "C")]
            )
            .is_err()
        );
    }
}
