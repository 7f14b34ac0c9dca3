//! The file of `--admission-control-config-file`: what is to be said to single plugins, here or in files of their own.
//! ResourceQuota is the one plugin that can be told something; what is meant for others is refused.

use std::path::Path;

use api::quota::scope::{Requirement, Test};
use component::config::{ConfigError, Field, Kind};
use serde::Deserialize;
use serde_json::Value;

/// The file itself.
pub const KIND: Kind = Kind {
    kind: "AdmissionConfiguration",
    versions: &["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"],
    fields: &[
        Field::full("plugins[].name"),
        Field::full("plugins[].path"),
        Field::full("plugins[].configuration"),
    ],
};

/// What ResourceQuota is told.
pub const QUOTA: Kind = Kind {
    kind: "ResourceQuotaConfiguration",
    versions: &["apiserver.config.k8s.io/v1"],
    fields: LIMITED,
};

/// The same under its older name.
pub const OLD_QUOTA: Kind = Kind {
    kind: "Configuration",
    versions: &[
        "resourcequota.admission.k8s.io/v1beta1",
        "resourcequota.admission.k8s.io/v1alpha1",
    ],
    fields: LIMITED,
};

const LIMITED: &[Field] = &[
    Field::full("limitedResources[].apiGroup"),
    Field::full("limitedResources[].resource"),
    Field::full("limitedResources[].matchContains"),
    Field::full("limitedResources[].matchScopes[].scopeName"),
    Field::full("limitedResources[].matchScopes[].operator"),
    Field::full("limitedResources[].matchScopes[].values"),
];

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// It is for a plugin that can be told nothing.
    #[error(
        "{0}: admission plugin {1:?} is not supported: no plugin but ResourceQuota reads a configuration"
    )]
    Plugin(String, String),
    /// A resource is not named.
    #[error("limitedResources[{0}].resource: Required value")]
    NoResource(usize),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    plugins: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    name: String,
    path: String,
    configuration: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Quota {
    limited_resources: Vec<Resource>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Resource {
    api_group: String,
    resource: String,
    match_contains: Vec<String>,
    match_scopes: Vec<Requirement>,
}

/// A resource that can be had under a quota only.
#[derive(Clone, Debug)]
pub struct Limited {
    /// Empty for the core group.
    pub group: String,
    /// The plural.
    pub resource: String,
    /// Parts of the names of what is limited.
    pub contains: Vec<String>,
    /// Scopes in which objects need a quota.
    pub scopes: Vec<Test>,
}

/// What can be had under a quota only, as a file of admission configuration says.
///
/// # Errors
/// A file that cannot be read or used.
pub fn load(path: &Path) -> Result<Vec<Limited>, Error> {
    let file: File = KIND.load::<File>(path)?.value;
    let shown = path.display().to_string();
    let mut out = Vec::new();
    for entry in file.plugins {
        if entry.name != "ResourceQuota" {
            return Err(Error::Plugin(shown, entry.name));
        }
        if let Some(inner) = entry.configuration {
            out = limited(&shown, &inner.to_string())?;
        } else if !entry.path.is_empty() {
            // Beside the file that names it.
            let place = path.parent().unwrap_or(Path::new("")).join(&entry.path);
            let text = std::fs::read_to_string(&place).map_err(|source| ConfigError::Io {
                path: place.display().to_string(),
                source,
            })?;
            out = limited(&place.display().to_string(), &text)?;
        }
    }
    Ok(out)
}

fn limited(path: &str, text: &str) -> Result<Vec<Limited>, Error> {
    let parsed = match OLD_QUOTA.parse::<Quota>(path, text) {
        Err(ConfigError::Kind { .. }) => QUOTA.parse::<Quota>(path, text),
        other => other,
    };
    let all = parsed?.value.limited_resources;
    if let Some(i) = all.iter().position(|r| r.resource.is_empty()) {
        return Err(Error::NoResource(i));
    }
    let limited = all.into_iter().map(|r| Limited {
        group: r.api_group,
        resource: r.resource,
        contains: r.match_contains,
        scopes: r.match_scopes.iter().map(Test::new).collect(),
    });
    Ok(limited.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "
limitedResources:
- apiGroup: \"\"
  resource: persistentvolumeclaims
  matchContains:
  - .storageclass.storage.k8s.io/requests.storage
- apiGroup: \"\"
  resource: pods
  matchScopes:
  - scopeName: PriorityClass
    operator: In
    values:
    - cluster-services
";

    #[test]
    fn what_is_limited_is_read_in_all_versions() {
        for head in [
            "kind: ResourceQuotaConfiguration\napiVersion: apiserver.config.k8s.io/v1",
            "kind: Configuration\napiVersion: resourcequota.admission.k8s.io/v1beta1",
            "kind: Configuration\napiVersion: resourcequota.admission.k8s.io/v1alpha1",
        ] {
            let all = limited("f", &format!("{head}{BODY}")).unwrap();
            assert_eq!(all.len(), 2, "{head}");
            assert_eq!(all[0].resource, "persistentvolumeclaims");
            assert_eq!(
                all[0].contains,
                [".storageclass.storage.k8s.io/requests.storage"]
            );
            assert!(all[0].scopes.is_empty() && all[1].contains.is_empty());
            let scope = &all[1].scopes[0].requirement;
            assert_eq!(
                (scope.scope_name.as_str(), scope.operator.as_str()),
                ("PriorityClass", "In")
            );
            assert_eq!(scope.values, ["cluster-services"]);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let head = "kind: ResourceQuotaConfiguration\napiVersion: apiserver.config.k8s.io/v1\n";
        for (text, why) in [
            (String::new(), "no kind \"\""),
            (
                "kind: Unknown\napiVersion: v1".to_owned(),
                "no kind \"Unknown\"",
            ),
            (
                format!("{head}limitedResources:\n- resource: a\n  resource: b\n"),
                "duplicate",
            ),
            (
                format!("{head}limitedResources:\n- resource: a\n  foo: bar\n"),
                "strict decoding error",
            ),
            (
                format!("{head}limitedResources:\n- resource: a\n- apiGroup: b\n"),
                "limitedResources[1].resource: Required value",
            ),
        ] {
            let told = limited("f", &text).unwrap_err().to_string();
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn the_file_says_it_or_names_another() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            std::fs::write(dir.path().join(name), text).unwrap();
        };
        let head = "kind: AdmissionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nplugins:\n- name: ";
        let inner = format!(
            "kind: ResourceQuotaConfiguration\napiVersion: apiserver.config.k8s.io/v1{BODY}"
        );
        write("inner.yaml", inner.clone());
        write(
            "path.yaml",
            format!("{head}ResourceQuota\n  path: inner.yaml\n"),
        );
        let nested = inner.replace('\n', "\n    ");
        write(
            "nested.yaml",
            format!("{head}ResourceQuota\n  configuration:\n    {nested}\n"),
        );
        write(
            "other.yaml",
            format!("{head}PodSecurity\n  path: inner.yaml\n"),
        );
        write("gone.yaml", format!("{head}ResourceQuota\n  path: gone\n"));
        let load = |name: &str| load(&dir.path().join(name)).map(|all| all.len());
        assert_eq!(load("path.yaml").unwrap(), 2);
        assert_eq!(load("nested.yaml").unwrap(), 2);
        let told = |name: &str| load(name).unwrap_err().to_string();
        assert!(told("other.yaml").contains("\"PodSecurity\" is not supported"));
        assert!(told("gone.yaml").contains("gone"));
        assert!(told("absent.yaml").contains("absent.yaml"));
    }
}
