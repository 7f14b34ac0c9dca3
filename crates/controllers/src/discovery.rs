//! Which resources the apiserver has, for the controllers that deal with all of them.

use client::{Client, Resource};
use http::Method;
use serde::Deserialize;
use std::borrow::Cow;

/// A resource and what can be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiResource {
    /// The resource, in its group's preferred version.
    pub resource: Resource,
    /// `list`, `watch`, `delete`, ….
    pub verbs: Vec<String>,
}

impl ApiResource {
    /// Whether the verb is there.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// All that could be discovered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// Without subresources.
    pub resources: Vec<ApiResource>,
    /// Groups and versions (`GROUP/VERSION`) whose server does not answer.
    pub failed: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupList {
    kind: String,
    items: Vec<Group>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Group {
    metadata: Named,
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Version {
    version: String,
    resources: Vec<Entry>,
    freshness: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    resource: String,
    response_kind: Option<Kind>,
    scope: String,
    verbs: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Kind {
    kind: String,
}

const ACCEPT: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// Asks the apiserver; two requests where it aggregates discovery.
///
/// # Errors
/// When the apiserver cannot be asked at all. A group that is down is among [`Discovered::failed`].
pub async fn discover(client: &Client) -> Result<Discovered, client::Error> {
    let mut out = Discovered::default();
    for path in ["/api", "/apis"] {
        let request = client::rest::request(Method::GET, path, ACCEPT, None, Default::default())?;
        let list: GroupList = client::codec::from_json(&client.call(request).await?)?;
        if list.kind == "APIGroupDiscoveryList" {
            collect(list, &mut out);
        } else {
            legacy(client, path, &mut out).await?;
        }
    }
    Ok(out)
}

fn collect(list: GroupList, out: &mut Discovered) {
    for group in list.items {
        let name = group.metadata.name;
        let mut seen: Vec<String> = Vec::new();
        // Versions come in order of preference: a resource is taken from the first that has it.
        for version in group.versions {
            if version.freshness == "Stale" {
                out.failed.push(group_version(&name, &version.version));
                continue;
            }
            for r in version.resources {
                let Some(kind) = r.response_kind.filter(|k| !k.kind.is_empty()) else {
                    continue;
                };
                if seen.contains(&r.resource) {
                    continue;
                }
                seen.push(r.resource.clone());
                out.resources.push(ApiResource {
                    resource: Resource {
                        group: Cow::Owned(name.clone()),
                        version: Cow::Owned(version.version.clone()),
                        plural: Cow::Owned(r.resource),
                        kind: Cow::Owned(kind.kind),
                        namespaced: r.scope == "Namespaced",
                    },
                    verbs: r.verbs,
                });
            }
        }
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Legacy {
    groups: Vec<LegacyGroup>,
    versions: Vec<String>,
    resources: Vec<LegacyResource>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LegacyGroup {
    preferred_version: LegacyVersion,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LegacyVersion {
    group_version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LegacyResource {
    name: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

async fn legacy(client: &Client, path: &str, out: &mut Discovered) -> Result<(), client::Error> {
    let list: Legacy = client.get_json(path).await?;
    let versions: Vec<String> = match path {
        "/api" => list.versions,
        _ => list
            .groups
            .into_iter()
            .map(|g| g.preferred_version.group_version)
            .collect(),
    };
    for gv in versions {
        let found: Legacy = match client.get_json(&format!("{path}/{gv}")).await {
            Ok(l) => l,
            Err(_) => {
                out.failed.push(gv);
                continue;
            }
        };
        let (group, version) = gv.split_once('/').unwrap_or(("", &gv));
        for r in found
            .resources
            .into_iter()
            .filter(|r| !r.name.contains('/'))
        {
            out.resources.push(ApiResource {
                resource: Resource {
                    group: Cow::Owned(group.to_owned()),
                    version: Cow::Owned(version.to_owned()),
                    plural: Cow::Owned(r.name),
                    kind: Cow::Owned(r.kind),
                    namespaced: r.namespaced,
                },
                verbs: r.verbs,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferred_versions_and_dead_groups() {
        let list = serde_json::json!({"kind": "APIGroupDiscoveryList", "items": [
            {"metadata": {"name": "g"}, "versions": [
                {"version": "v2", "resources": [{"resource": "as", "responseKind": {"kind": "A"}, "scope": "Namespaced", "verbs": ["list"]}]},
                {"version": "v1", "resources": [
                    {"resource": "as", "responseKind": {"kind": "A"}, "scope": "Namespaced", "verbs": ["list"]},
                    {"resource": "bs", "responseKind": {"kind": "B"}, "scope": "Cluster", "verbs": ["list", "delete"]},
                ]},
            ]},
            {"metadata": {"name": "dead"}, "versions": [{"version": "v1", "freshness": "Stale"}]},
        ]});
        let mut out = Discovered::default();
        collect(serde_json::from_value(list).unwrap(), &mut out);
        let names: Vec<_> = out
            .resources
            .iter()
            .map(|r| format!("{} {}", r.resource.api_version(), r.resource.plural))
            .collect();
        assert_eq!(names, ["g/v2 as", "g/v1 bs"]);
        assert!(out.resources[1].can("delete") && !out.resources[1].resource.namespaced);
        assert_eq!(out.failed, ["dead/v1"]);
    }
}
