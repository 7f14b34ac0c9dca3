//! Registry credentials from a pod's imagePullSecrets (`dockerconfigjson` and `dockercfg`). Pure.
//!
//! Nothing here is ever logged. Absent on purpose: credential provider plugins and credentials of the node.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Deserialize;

use crate::cri::proto::AuthConfig;
use crate::runtime::env::Data;

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// The credentials of `secrets` that match the image, the most specific registry first.
pub fn lookup(image: &str, secrets: &[Data]) -> Vec<AuthConfig> {
    let repository = repository(image);
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for s in secrets {
        let entries: BTreeMap<String, Entry> = if let Some(v) = s.values.get(".dockerconfigjson") {
            serde_json::from_slice::<DockerConfig>(v)
                .unwrap_or_default()
                .auths
        } else if let Some(v) = s.values.get(".dockercfg") {
            serde_json::from_slice(v).unwrap_or_default()
        } else {
            continue;
        };
        for (registry, e) in entries {
            let pattern = normalize(&registry);
            if !matches(&pattern, &repository) {
                continue;
            }
            let (mut username, mut password) = (e.username, e.password);
            if username.is_empty()
                && let Ok(raw) = base64::engine::general_purpose::STANDARD.decode(e.auth.trim())
                && let Ok(text) = String::from_utf8(raw)
                && let Some((u, p)) = text.trim_end_matches('\0').split_once(':')
            {
                username = u.to_string();
                password = p.to_string();
            }
            let auth = AuthConfig {
                username,
                password,
                identity_token: e.identitytoken,
                registry_token: e.registrytoken,
                ..Default::default()
            };
            found.push((pattern.len(), auth));
        }
    }
    found.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    found.into_iter().map(|(_, a)| a).collect()
}

/// Host and path of an image without tag and digest; Docker Hub's short names in full.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let name = match name.get(slash..).and_then(|l| l.find(':')) {
        Some(i) => name.get(..slash + i).unwrap_or(name),
        None => name,
    };
    match name.split_once('/') {
        Some((h, _)) if h.contains('.') || h.contains(':') || h == "localhost" => name.to_string(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

fn normalize(registry: &str) -> String {
    let r = registry
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let r = r
        .strip_suffix("/v1")
        .or_else(|| r.strip_suffix("/v2"))
        .unwrap_or(r);
    if r == "index.docker.io" {
        "docker.io".to_string()
    } else {
        r.to_string()
    }
}

/// The host may use `*` within a label; the path is a prefix of whole segments.
fn matches(pattern: &str, repository: &str) -> bool {
    let (ph, pp) = pattern.split_once('/').unwrap_or((pattern, ""));
    let (rh, rp) = repository.split_once('/').unwrap_or((repository, ""));
    let (pl, rl): (Vec<&str>, Vec<&str>) = (ph.split('.').collect(), rh.split('.').collect());
    let host = pl.len() == rl.len()
        && pl.iter().zip(&rl).all(|(p, r)| match p.split_once('*') {
            Some((a, b)) => r.len() + 1 >= p.len() && r.starts_with(a) && r.ends_with(b),
            None => p == r,
        });
    host && (pp.is_empty() || rp == pp || rp.strip_prefix(pp).is_some_and(|r| r.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(json: &str) -> Data {
        Data {
            values: BTreeMap::from([(".dockerconfigjson".to_string(), json.as_bytes().to_vec())]),
        }
    }

    #[test]
    fn the_most_specific_registry_comes_first() {
        let s = secret(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"r.example":{"username":"a","password":"b"},
               "r.example/team":{"username":"c","password":"d"},"*.wild.example":{"username":"w","password":"w"}}}"#,
        );
        let all = [s];
        assert_eq!(lookup("busybox", &all)[0].username, "u");
        let users: Vec<String> = lookup("r.example/team/app:1", &all)
            .into_iter()
            .map(|a| a.username)
            .collect();
        assert_eq!(users, ["c", "a"]);
        assert_eq!(lookup("r.example/teammate/app", &all).len(), 1);
        assert_eq!(lookup("x.wild.example/app", &all)[0].username, "w");
        assert!(lookup("y.x.wild.example/app", &all).is_empty());
    }

    #[test]
    fn credentials_do_not_print() {
        let a = AuthConfig {
            password: "hunter2".into(),
            ..Default::default()
        };
        assert!(!format!("{a:?}").contains("hunter2"));
    }
}
