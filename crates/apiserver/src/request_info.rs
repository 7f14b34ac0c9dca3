//! What a request is about, read from its path, method and query alone.
//!
//! Source: upstream's `endpoints/request/requestinfo.go`. Invariants: no segment is empty, `.` or `..` or holds a `/` after
//! decoding (such paths are refused before anything else looks at them); the verb never comes from the body.

use crate::query::{Query, percent_decode};

/// The request, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether this is about a resource; otherwise only `path` and `verb` mean something.
    pub is_resource: bool,
    /// The path without the query.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the lower-cased method for
    /// other paths.
    pub verb: String,
    /// Empty for the core group.
    pub group: String,
    /// `v1`
    pub version: String,
    /// The namespace in the path. For the namespaces resource itself, the name.
    pub namespace: String,
    /// Whether the path leads through a namespace to the resource (`namespaces/a/pods`, also `namespaces/a/namespaces/b`,
    /// not `namespaces/a`): only what lives in namespaces is found there.
    pub within: bool,
    /// The plural.
    pub resource: String,
    /// Empty for the resource itself.
    pub subresource: String,
    /// Empty for collections.
    pub name: String,
    /// What follows the subresource in the raw path, with its leading slash, for proxies; empty if nothing.
    pub rest: String,
    /// The old `/watch/` form.
    pub legacy_watch: bool,
}

/// The path is not one that may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPath {
    /// It has broken escapes.
    Escapes,
    /// It climbs, hides a slash, or says the same as another in more slashes: whoever filters paths in front of this server
    /// must not be led past.
    Segments,
}

fn segments(path: &str) -> Result<Vec<(&str, String)>, BadPath> {
    let mut out = Vec::with_capacity(8);
    let trimmed = path.trim_matches('/');
    if trimmed.is_empty() {
        return Ok(out);
    }
    for raw in trimmed.split('/') {
        let decoded = percent_decode(raw, false).ok_or(BadPath::Escapes)?;
        out.push((raw, decoded));
    }
    Ok(out)
}

fn unsafe_segment(s: &str) -> bool {
    s == "." || s == ".." || s.contains('/') || s.contains('\0')
}

impl RequestInfo {
    /// Takes a request apart. `path` is the raw path of the URL.
    pub fn parse(method: &http::Method, path: &str, query: &Query) -> Result<RequestInfo, BadPath> {
        let mut info = RequestInfo {
            path: percent_decode(path, false).ok_or(BadPath::Escapes)?,
            verb: method.as_str().to_ascii_lowercase(),
            ..RequestInfo::default()
        };
        if path.starts_with("//") {
            return Err(BadPath::Segments);
        }
        let all = segments(path)?;
        let mut parts = all.as_slice();
        let prefix = parts.first().map_or("", |(_, d)| d.as_str());
        if parts.len() < 3 || !(prefix == "api" || prefix == "apis") {
            if all.iter().any(|(_, d)| unsafe_segment(d)) {
                return Err(BadPath::Segments);
            }
            return Ok(info);
        }
        parts = parts.get(1..).unwrap_or_default();
        if prefix == "apis" {
            if parts.len() < 3 {
                return Ok(info);
            }
            info.group = parts.first().map(|(_, d)| d.clone()).unwrap_or_default();
            parts = parts.get(1..).unwrap_or_default();
        }
        info.is_resource = true;
        info.version = parts.first().map(|(_, d)| d.clone()).unwrap_or_default();
        parts = parts.get(1..).unwrap_or_default();
        if parts
            .first()
            .is_some_and(|(_, d)| d == "watch" || d == "proxy")
            && parts.len() > 1
        {
            let proxy = parts.first().is_some_and(|(_, d)| d == "proxy");
            info.legacy_watch = !proxy;
            info.verb = match method.as_str() {
                _ if proxy => "proxy",
                "GET" => "watch",
                // No route takes another method.
                _ => "",
            }
            .to_owned();
            parts = parts.get(1..).unwrap_or_default();
        } else {
            info.verb = match method.as_str() {
                "POST" => "create",
                "GET" | "HEAD" => "get",
                "PUT" => "update",
                "PATCH" => "patch",
                "DELETE" => "delete",
                _ => "",
            }
            .to_owned();
        }
        if parts.first().is_some_and(|(_, d)| d == "namespaces") && parts.len() > 1 {
            info.namespace = parts.get(1).map(|(_, d)| d.clone()).unwrap_or_default();
            let third = parts.get(2).map_or("", |(_, d)| d.as_str());
            if parts.len() > 2 && third != "status" && third != "finalize" {
                info.within = true;
                parts = parts.get(2..).unwrap_or_default();
            }
        }
        let used = parts.len().min(3);
        // A name that is only dots is refused with the other names.
        let dots = parts.get(1).is_some_and(|(_, d)| d == "." || d == "..") && parts.len() == 2;
        let used = if dots { 1 } else { used };
        if all
            .iter()
            .take(all.len() - parts.len() + used)
            .any(|(_, d)| d.is_empty() || unsafe_segment(d))
        {
            return Err(BadPath::Segments);
        }
        let at = |i: usize| parts.get(i).map(|(_, d)| d.clone()).unwrap_or_default();
        info.resource = at(0);
        info.name = at(1);
        info.subresource = at(2);
        if parts.len() > 3 {
            for (raw, _) in parts.iter().skip(3) {
                info.rest.push('/');
                info.rest.push_str(raw);
            }
            if path.ends_with('/') {
                info.rest.push('/');
            }
        } else if parts.len() == 3 && path.ends_with('/') {
            info.rest.push('/');
        }
        if info.name.is_empty() {
            match info.verb.as_str() {
                "get" if query.flag("watch") == Some(true) => info.verb = "watch".into(),
                "get" => info.verb = "list".into(),
                "delete" => info.verb = "deletecollection".into(),
                _ => {}
            }
        }
        Ok(info)
    }

    /// Whether the request may last: watches and streams.
    pub fn long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(
                self.subresource.as_str(),
                "proxy" | "exec" | "attach" | "portforward"
            )
            || self.subresource == "log"
    }

    /// Whether the request changes something.
    pub fn mutating(&self) -> bool {
        !matches!(
            self.verb.as_str(),
            "get" | "list" | "watch" | "head" | "options"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, url: &str) -> Result<RequestInfo, BadPath> {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let method: http::Method = method.parse().expect("a method");
        RequestInfo::parse(&method, path, &Query::parse(query))
    }

    #[test]
    fn paths_are_taken_apart_as_upstream_does() {
        // method, url, verb, group, version, namespace, resource, subresource, name
        let table = [
            ("GET", "/api/v1/pods", "list", "", "v1", "", "pods", "", ""),
            (
                "GET",
                "/api/v1/pods?watch=true",
                "watch",
                "",
                "v1",
                "",
                "pods",
                "",
                "",
            ),
            (
                "GET",
                "/api/v1/pods?watch=false",
                "list",
                "",
                "v1",
                "",
                "pods",
                "",
                "",
            ),
            (
                "GET",
                "/api/v1/namespaces",
                "list",
                "",
                "v1",
                "",
                "namespaces",
                "",
                "",
            ),
            (
                "GET",
                "/api/v1/namespaces/x",
                "get",
                "",
                "v1",
                "x",
                "namespaces",
                "",
                "x",
            ),
            (
                "PUT",
                "/api/v1/namespaces/x/finalize",
                "update",
                "",
                "v1",
                "x",
                "namespaces",
                "finalize",
                "x",
            ),
            (
                "PUT",
                "/api/v1/namespaces/x/status",
                "update",
                "",
                "v1",
                "x",
                "namespaces",
                "status",
                "x",
            ),
            (
                "GET",
                "/api/v1/namespaces/x/pods",
                "list",
                "",
                "v1",
                "x",
                "pods",
                "",
                "",
            ),
            (
                "POST",
                "/api/v1/namespaces/x/pods/a/binding",
                "create",
                "",
                "v1",
                "x",
                "pods",
                "binding",
                "a",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/x/deployments",
                "deletecollection",
                "apps",
                "v1",
                "x",
                "deployments",
                "",
                "",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/x/deployments/d/scale",
                "patch",
                "apps",
                "v1",
                "x",
                "deployments",
                "scale",
                "d",
            ),
        ];
        for (m, url, verb, group, version, ns, resource, sub, name) in table {
            let i = parse(m, url).expect(url);
            assert!(i.is_resource, "{url}");
            assert_eq!(
                (
                    i.verb.as_str(),
                    i.group.as_str(),
                    i.version.as_str(),
                    i.namespace.as_str(),
                    i.resource.as_str(),
                    i.subresource.as_str(),
                    i.name.as_str()
                ),
                (verb, group, version, ns, resource, sub, name),
                "{url}"
            );
        }
        let i = parse("GET", "/apis/apps/v1").expect("a group version");
        assert!(!i.is_resource);
        assert_eq!(i.verb, "get");
        let i = parse("GET", "/api/v1/namespaces/x/pods/a/proxy/b/../c/").expect("a proxy path");
        assert_eq!(
            (i.subresource.as_str(), i.rest.as_str()),
            ("proxy", "/b/../c/")
        );
    }

    /// Scope: `namespaces/a` is the namespace itself, whatever lies behind a further `namespaces` is below one.
    #[test]
    fn what_is_below_a_namespace_is_told_from_the_namespace_itself() {
        let table = [
            ("/api/v1/namespaces/a", false, "a", "a", ""),
            ("/api/v1/namespaces/a/status", false, "a", "a", "status"),
            ("/api/v1/namespaces/a/finalize", false, "a", "a", "finalize"),
            ("/api/v1/watch/namespaces/a", false, "a", "a", ""),
            ("/api/v1/namespaces/a/namespaces", true, "a", "", ""),
            ("/api/v1/namespaces/a/namespaces/a", true, "a", "a", ""),
            ("/api/v1/namespaces/a/namespaces/b", true, "a", "b", ""),
            (
                "/api/v1/namespaces/a/namespaces/b/finalize",
                true,
                "a",
                "b",
                "finalize",
            ),
            (
                "/api/v1/watch/namespaces/a/namespaces/b",
                true,
                "a",
                "b",
                "",
            ),
            ("/api/v1/watch/namespaces/a/namespaces", true, "a", "", ""),
        ];
        for (url, within, namespace, name, subresource) in table {
            let i = parse("GET", url).expect(url);
            assert_eq!(
                (i.within, i.namespace.as_str(), i.name.as_str()),
                (within, namespace, name),
                "{url}"
            );
            assert_eq!(i.subresource, subresource, "{url}");
        }
    }

    /// A filter in front of this server, such as kubectl proxy's, sees a path once.
    #[test]
    fn more_slashes_do_not_say_the_same() {
        for url in [
            "//api/v1/pods",
            "//healthz",
            "/apis//v1/pods",
            "/api//v1/pods",
            "/api/v1//pods",
            "/api/v1/namespaces//pods",
            "/api/v1/namespaces//nodes/b",
            "/api/v1/namespaces/a//pods",
            "/api/v1/namespaces/a/pods//exec",
            "/api/v1/watch//pods",
        ] {
            assert_eq!(parse("GET", url), Err(BadPath::Segments), "{url}");
        }
        // What lies behind a proxy is the other side's.
        let i = parse("GET", "/api/v1/nodes/n/proxy//a//b/").expect("a proxy path");
        assert_eq!(i.rest, "//a//b/");
        assert!(parse("GET", "/api/v1/pods/").is_ok());
    }

    #[test]
    fn cve_2022_3162_names_cannot_climb() {
        // Refused as a name by the verbs.
        let i = parse("GET", "/api/v1/namespaces/a/pods/%2e%2e").expect("a name of dots");
        assert_eq!(i.name, "..");
        for url in [
            "/api/v1/namespaces/../pods",
            "/api/v1/namespaces/a/pods/b%2fc",
            "/api/v1/namespaces/%2e%2e%2fb/pods",
            "/%2e%2e/x",
        ] {
            assert_eq!(parse("GET", url), Err(BadPath::Segments), "{url}");
        }
    }
}
