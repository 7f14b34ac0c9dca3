//! Rights: what is reached with which right, as whom, and where a request may lead.

use http::Method;
use serde_json::{Value, json};

use crate::server::{Answer, Connection, Server, text};

const JANE: (&str, &str) = ("impersonate-user", "jane");
const WEBSOCKET: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// Gives jane rights, in a namespace or (with an empty one) everywhere.
async fn allow(c: &mut Connection, name: &str, namespace: &str, rules: Value) {
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name}, "rules": &rules,
    });
    c.post(&format!("{RBAC}/clusterroles"), &role)
        .await
        .expect(201);
    let (kind, path) = if namespace.is_empty() {
        ("ClusterRoleBinding", "clusterrolebindings".to_owned())
    } else {
        (
            "RoleBinding",
            format!("namespaces/{namespace}/rolebindings"),
        )
    };
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"},
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jürgen"},
        ],
    });
    c.post(&format!("{RBAC}/{path}"), &binding)
        .await
        .expect(201);
    // Rights are read from what the server has seen of its store.
    let first = |key: &str| text(&rules, &format!("/0/{key}/0"));
    let resource = first("resources");
    let (resource, sub) = resource.split_once('/').unwrap_or((&resource, ""));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": namespace, "verb": first("verbs"),
            "group": first("apiGroups"), "resource": resource, "subresource": sub}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let limit = std::time::Duration::from_secs(30);
    testkit::wait_until("jane has the right", limit, async || {
        let got = ask(c, Method::POST, path, &review).await.expect(201);
        match got["status"]["allowed"] == json!(true) {
            true => Ok(()),
            false => Err(got.to_string()),
        }
    })
    .await;
}

async fn ask(c: &mut Connection, method: Method, path: &str, body: &Value) -> Answer {
    let kind = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let headers = [JANE, ("content-type", kind)];
    c.call(method, path, &headers, body.to_string()).await
}

/// Every resource and subresource that discovery lists: its base path, its entry.
async fn discovered(c: &mut Connection) -> Vec<(String, Value)> {
    let mut bases = vec!["/api/v1".to_owned()];
    let groups = c.get("/apis").await.expect(200);
    for g in groups["groups"].as_array().unwrap() {
        for v in g["versions"].as_array().unwrap() {
            bases.push(format!("/apis/{}", text(v, "/groupVersion")));
        }
    }
    let mut out = Vec::new();
    for base in bases {
        let list = c.get(&base).await.expect(200);
        for r in list["resources"].as_array().unwrap() {
            out.push((base.clone(), r.clone()));
        }
    }
    out
}

/// Scope: what belongs to the cluster is not found below a namespace, what lives in one not without, in any verb,
/// subresource or watch form.
#[tokio::test(flavor = "multi_thread")]
async fn scope_what_belongs_to_the_cluster_is_not_found_below_a_namespace() {
    let server = Server::start().await;
    let mut c = server.with_namespace("a").await;
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let all = discovered(&mut c).await;
    assert!(all.len() > 100, "{}", all.len());
    let (mut cluster, mut local) = (0, 0);
    for (base, r) in &all {
        let name = text(r, "/name");
        let (resource, sub) = name.split_once('/').unwrap_or((&name, ""));
        let object = if resource == "namespaces" {
            "default"
        } else {
            "x"
        };
        let below = if sub.is_empty() {
            vec![
                resource.to_owned(),
                format!("{resource}/{object}"),
                format!("{resource}/a"),
            ]
        } else {
            vec![
                format!("{resource}/{object}/{sub}"),
                format!("{resource}/a/{sub}"),
            ]
        };
        let mut paths = Vec::new();
        for b in below {
            if r["namespaced"] == json!(true) {
                local += 1;
                if b.contains('/') {
                    paths.extend([format!("{base}/{b}"), format!("{base}/watch/{b}")]);
                }
            } else {
                cluster += 1;
                paths.extend([
                    format!("{base}/namespaces/a/{b}"),
                    format!("{base}/namespaces/default/{b}"),
                    format!("{base}/namespaces//{b}"),
                    format!("{base}/watch/namespaces/a/{b}"),
                    format!("{base}/proxy/namespaces/a/{b}"),
                    format!("{base}/namespaces/a/{b}?watch=1"),
                ]);
            }
        }
        for path in &paths {
            for method in &methods {
                let headers = [("content-type", "application/merge-patch+json")];
                let answer = c.call(method.clone(), path, &headers, "{}").await;
                assert_eq!(answer.code, 404, "{method} {path}: {}", answer.text());
                if *method != Method::HEAD {
                    assert_eq!(
                        text(&answer.json(), "/message"),
                        "the server could not find the requested resource",
                        "{method} {path}"
                    );
                }
            }
        }
        // And where it belongs it is found.
        if sub.is_empty()
            && resource != "componentstatuses"
            && r["verbs"].as_array().unwrap().contains(&json!("list"))
        {
            let path = if r["namespaced"] == json!(true) {
                format!("{base}/namespaces/a/{resource}")
            } else {
                format!("{base}/{resource}")
            };
            c.get(&path).await.expect(200);
        }
    }
    assert!(cluster > 20 && local > 50, "{cluster} {local}");
}

/// A right to `escalate` one role counts where the path names the role; the one to `bind` it wherever it is bound.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_one_name_counts_where_the_path_has_it() {
    let server = Server::start().await;
    let mut c = server.with_namespace("a").await;
    let group = "rbac.authorization.k8s.io";
    let rules = json!([
        {"verbs": ["create", "update", "patch", "get"], "apiGroups": [group], "resources": ["roles", "rolebindings"]},
        {"verbs": ["escalate", "bind"], "apiGroups": [group], "resources": ["roles"], "resourceNames": ["r"]},
    ]);
    allow(&mut c, "keeper", "a", rules).await;
    let roles = format!("/apis/{group}/v1/namespaces/a/roles");
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]});
    let refused = ask(&mut c, Method::POST, &roles, &role).await;
    assert_eq!(refused.code, 403, "{}", refused.text());
    let why = text(&refused.json(), "/message");
    assert!(
        why.ends_with(
            "user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
             held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
        ),
        "{why}"
    );
    let created = ask(&mut c, Method::PUT, &format!("{roles}/r"), &role).await;
    assert_eq!(created.code, 201, "{}", created.text());
    let binding = |name: &str, role: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": role},
            "subjects": [{"apiGroup": group, "kind": "User", "name": "x"}]})
    };
    let bindings = format!("/apis/{group}/v1/namespaces/a/rolebindings");
    let a = ask(&mut c, Method::POST, &bindings, &binding("b", "r")).await;
    assert_eq!(a.code, 201, "{}", a.text());
    let mut other = role.clone();
    other["metadata"]["name"] = json!("s");
    c.post(&roles, &other).await.expect(201);
    let a = ask(&mut c, Method::POST, &bindings, &binding("s", "s")).await;
    assert_eq!(a.code, 403, "{}", a.text());
}

/// Scope, as it was seen: a right in one namespace reaches no other.
#[tokio::test(flavor = "multi_thread")]
async fn scope_a_right_in_one_namespace_reaches_no_other() {
    let server = Server::start().await;
    let mut c = server.with_namespace("a").await;
    let other = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}});
    c.post("/api/v1/namespaces", &other).await.expect(201);
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    allow(&mut c, "all", "a", everything).await;
    ask(&mut c, Method::GET, "/api/v1/namespaces/a/pods", &json!({}))
        .await
        .expect(200);
    let patch = json!({"metadata": {"labels": {"x": "y"}}});
    for (method, path) in [
        (Method::GET, "/api/v1/namespaces/a/namespaces/b"),
        (Method::GET, "/api/v1/namespaces/a/namespaces"),
        (Method::GET, "/api/v1/watch/namespaces/a/namespaces/b"),
        (Method::GET, "/api/v1/watch/namespaces/a/namespaces"),
        (Method::PATCH, "/api/v1/namespaces/a/namespaces/b"),
        (Method::PUT, "/api/v1/namespaces/a/namespaces/b/finalize"),
        (Method::PATCH, "/api/v1/namespaces/a/namespaces/b/status"),
        (Method::POST, "/api/v1/namespaces/a/namespaces"),
        (Method::DELETE, "/api/v1/namespaces/a/namespaces/b"),
        (Method::DELETE, "/api/v1/namespaces/a/namespaces"),
        (Method::GET, "/api/v1/namespaces/a/nodes"),
    ] {
        let answer = ask(&mut c, method.clone(), path, &patch).await;
        assert_eq!(answer.code, 404, "{method} {path}: {}", answer.text());
    }
    let b = c.get("/api/v1/namespaces/b").await.expect(200);
    assert_eq!(text(&b, "/metadata/labels/x"), "");
    assert_eq!(text(&b, "/status/phase"), "Active");
}

/// Create: apply and PUT of what does not exist take the right to create.
#[tokio::test(flavor = "multi_thread")]
async fn create_is_asked_for_by_whatever_creates() {
    let server = Server::start().await;
    let mut c = server.with_namespace("a").await;
    let edit =
        json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "update", "patch"]}]);
    allow(&mut c, "edits-a", "a", edit).await;
    // What: group and version, plural, a body.
    let table = [
        (
            "v1",
            "configmaps",
            json!({"kind": "ConfigMap", "data": {"a": "b"}}),
        ),
        ("v1", "endpoints", json!({"kind": "Endpoints"})),
        (
            "v1",
            "limitranges",
            json!({"kind": "LimitRange", "spec": {"limits": []}}),
        ),
        (
            "v1",
            "services",
            json!({"kind": "Service", "spec": {"ports": [{"port": 1}]}}),
        ),
        (
            "coordination.k8s.io/v1",
            "leases",
            json!({"kind": "Lease", "spec": {}}),
        ),
        (
            "apps/v1",
            "deployments",
            json!({"kind": "Deployment", "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
        ),
    ];
    let apply = [JANE, ("content-type", "application/apply-patch+yaml")];
    let mut put = 0;
    for (version, plural, body) in table {
        let (root, group) = match version.split_once('/') {
            None => ("api", ""),
            Some((g, _)) => ("apis", g),
        };
        let collection = format!("/{root}/{version}/namespaces/a/{plural}");
        let path = format!("{collection}/m");
        let mut body = body;
        body["apiVersion"] = json!(version);
        body["metadata"] = json!({"name": "m"});
        let refused = format!(
            "User \"jane\" cannot create resource \"{plural}\" in API group \"{group}\" in the namespace \"a\""
        );
        for query in [
            "fieldManager=m",
            "fieldManager=m&dryRun=All",
            "fieldManager=m&force=true",
        ] {
            let answer = c
                .call(
                    Method::PATCH,
                    &format!("{path}?{query}"),
                    &apply,
                    body.to_string(),
                )
                .await;
            let s = answer.expect(403);
            assert_eq!(s["reason"], "Forbidden");
            assert!(text(&s, "/message").ends_with(&refused), "{s}");
        }
        for query in ["", "?dryRun=All"] {
            let answer = ask(&mut c, Method::PUT, &format!("{path}{query}"), &body).await;
            match answer.code {
                403 => put += 1,
                code => assert_eq!(code, 404, "{plural}: {}", answer.text()),
            }
        }
        let label = json!({"metadata": {"labels": {"x": "y"}}});
        let merge = ask(&mut c, Method::PATCH, &path, &label).await;
        assert_eq!(merge.code, 404, "{plural}");
        assert_eq!(c.get(&path).await.code, 404, "{plural} was created");
        // What exists may be changed.
        c.post(&collection, &body).await.expect(201);
        c.call(
            Method::PATCH,
            &format!("{path}?fieldManager=m&force=true"),
            &apply,
            body.to_string(),
        )
        .await
        .expect(200);
    }
    assert!(put >= 4, "{put}");
    let create = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]);
    allow(&mut c, "create", "a", create).await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}});
    c.call(
        Method::PATCH,
        "/api/v1/namespaces/a/configmaps/n?fieldManager=m",
        &apply,
        body.to_string(),
    )
    .await
    .expect(201);
}

/// Identity: impersonation is what the headers say, or a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn identity_impersonation_never_falls_back_to_the_caller() {
    let server = Server::start().await;
    let mut c = server.with_namespace("a").await;
    const SELF: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let json = ("content-type", "application/json");
    let headers = [
        json,
        ("impersonate-user", "jürgen"),
        ("impersonate-group", "größe"),
    ];
    let s = c
        .call(Method::POST, SELF, &headers, review.to_string())
        .await
        .expect(201);
    assert_eq!(text(&s, "/status/userInfo/username"), "jürgen");
    assert_eq!(
        s["status"]["userInfo"]["groups"],
        json!(["größe", "system:authenticated"])
    );
    let pods = "/api/v1/namespaces/a/pods";
    let headers = [("impersonate-user", "jürgen")];
    let s = c.call(Method::GET, pods, &headers, "").await.expect(403);
    assert!(
        text(&s, "/message").contains("User \"jürgen\" cannot list"),
        "{s}"
    );
    for headers in [
        vec![("impersonate-user", "")],
        vec![("impersonate-user", "jane"), ("impersonate-user", "joe")],
        vec![("impersonate-usr", "jane")],
        vec![("impersonate-group", "system:masters")],
    ] {
        let answer = c.call(Method::GET, pods, &headers, "").await;
        assert_eq!(answer.code, 400, "{headers:?}: {}", answer.text());
    }
    // And it is itself a right to be asked for.
    let read = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]);
    allow(&mut c, "read", "a", read).await;
    c.call(Method::GET, pods, &[("impersonate-user", "jürgen")], "")
        .await
        .expect(200);
}

/// A node, a pod on it and a service before the pod.
async fn workload(c: &mut Connection) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    c.post("/api/v1/nodes", &node).await.expect(201);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 80}]}]},
    });
    c.post("/api/v1/namespaces/a/pods", &pod).await.expect(201);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"name": "web", "port": 80}]},
    });
    c.post("/api/v1/namespaces/a/services", &service)
        .await
        .expect(201);
}

async fn set_address(c: &mut Connection, kind: &str, address: &str) {
    let mut node = c.get("/api/v1/nodes/n").await.expect(200);
    node["status"]["addresses"] = json!([{"type": kind, "address": address}]);
    c.put("/api/v1/nodes/n/status", &node).await.expect(200);
}

/// Streams: exec, attach and port-forward ask for `create` in every dress, also through the node's proxy.
#[tokio::test(flavor = "multi_thread")]
async fn streams_ask_for_create_in_every_dress() {
    let server = Server::start().await;
    let mut c = server.with_namespace("a").await;
    workload(&mut c).await;
    set_address(&mut c, "InternalIP", "127.0.0.1").await;
    let read = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]);
    allow(&mut c, "read", "", read).await;
    let plain = vec![JANE];
    let websocket: Vec<(&str, &str)> = [JANE].into_iter().chain(WEBSOCKET).collect();
    let spdy = vec![JANE, ("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    let pod = "/api/v1/namespaces/a/pods/p";
    let mut streams: Vec<String> = [
        "exec?command=sh&stdout=1",
        "attach?stdout=1",
        "portforward?ports=80",
    ]
    .iter()
    .map(|s| format!("{pod}/{s}"))
    .collect();
    for s in [
        "exec/a/p/c",
        "attach/a/p/c",
        "portForward/a/p",
        "run/a/p/c",
        "%65xec/a/p/c",
        "metrics/../exec/a/p/c",
    ] {
        streams.push(format!("/api/v1/nodes/n/proxy/{s}?command=sh&output=1"));
        streams.push(format!(
            "/api/v1/nodes/https:n:10250/proxy//{s}?command=sh&output=1"
        ));
    }
    for path in &streams {
        for headers in [&plain, &websocket, &spdy] {
            for method in [Method::GET, Method::HEAD] {
                let proxied = path.contains("/proxy/");
                if method == Method::HEAD && !proxied {
                    continue;
                }
                let answer = c.call(method.clone(), path, headers, "").await;
                assert_eq!(answer.code, 403, "{method} {path}: {}", answer.text());
                if method == Method::GET {
                    let s = answer.json();
                    assert!(
                        text(&s, "/message").contains("cannot create resource"),
                        "{s}"
                    );
                }
            }
        }
        // Whoever does not know whether it exists does not learn it.
        let missing = path.replace("/pods/p/", "/pods/q/");
        assert_eq!(
            c.call(Method::GET, &missing, &websocket, "").await.code,
            403
        );
    }
    // Reading stays reading; an upgrade through the node's proxy is none.
    let metrics = "/api/v1/nodes/n/proxy/metrics";
    assert_eq!(c.call(Method::GET, metrics, &plain, "").await.code, 400);
    assert_eq!(c.call(Method::GET, metrics, &websocket, "").await.code, 403);
    let create = json!([{"apiGroups": [""], "resources": ["pods/exec", "pods/attach", "pods/portforward", "nodes/proxy"], "verbs": ["create"]}]);
    allow(&mut c, "create", "", create).await;
    for path in &streams {
        let s = c.call(Method::GET, path, &websocket, "").await.expect(400);
        assert_eq!(text(&s, "/message"), "address not allowed", "{path}");
    }
    let s = c
        .call(Method::GET, &streams[0], &plain, "")
        .await
        .expect(400);
    assert_eq!(text(&s, "/message"), "Upgrade request required");
}

/// CVE-2020-8562, CVE-2022-3294: loopback, link-local and metadata addresses are refused on every path that dials.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2020_8562_special_addresses_are_dialled_on_no_path() {
    let server = Server::start().await;
    let mut c = server.with_namespace("a").await;
    workload(&mut c).await;
    let addresses = [
        ("InternalIP", "127.0.0.1"),
        ("InternalIP", "169.254.169.254"),
        ("InternalIP", "0.0.0.0"),
        ("InternalIP", "224.0.0.1"),
        ("InternalIP", "::1"),
        ("InternalIP", "fe80::1"),
        ("InternalIP", "::ffff:127.0.0.1"),
        ("InternalIP", "::ffff:169.254.169.254"),
        ("InternalIP", "fd00:ec2::254"),
        ("InternalIP", "fd20:ce::254"),
        ("InternalIP", "100.100.100.200"),
        ("InternalIP", "168.63.129.16"),
        ("InternalIP", "192.0.0.192"),
        ("Hostname", "localhost"),
    ];
    for (kind, address) in addresses {
        set_address(&mut c, kind, address).await;
        for (path, upgrade) in [
            ("/api/v1/namespaces/a/pods/p/log", false),
            ("/api/v1/namespaces/a/pods/p/exec?command=sh&stdout=1", true),
            ("/api/v1/namespaces/a/pods/p/attach?stdout=1", true),
            ("/api/v1/namespaces/a/pods/p/portforward?ports=80", true),
            ("/api/v1/nodes/n/proxy/metrics", false),
            ("/api/v1/nodes/n:9100/proxy/metrics", false),
        ] {
            let headers = if upgrade { &WEBSOCKET[..] } else { &[] };
            let s = c.call(Method::GET, path, headers, "").await.expect(400);
            assert_eq!(
                text(&s, "/message"),
                "address not allowed",
                "{address} {path}"
            );
        }
        if kind == "Hostname" {
            continue;
        }
        let mut pod = c.get("/api/v1/namespaces/a/pods/p").await.expect(200);
        pod["status"]["podIP"] = json!(address);
        pod["status"]["podIPs"] = json!([{"ip": address}]);
        let set = c.put("/api/v1/namespaces/a/pods/p/status", &pod).await;
        if set.code != 200 {
            continue;
        }
        for name in ["p", "p:80", "p:web", "https:p:443", "http:p:"] {
            let path = format!("/api/v1/namespaces/a/pods/{name}/proxy/");
            let s = c.get(&path).await.expect(400);
            assert_eq!(
                text(&s, "/message"),
                "address not allowed",
                "{address} {path}"
            );
        }
    }
}

/// Service proxies go to the service's own pods, whatever else is written into a slice.
#[tokio::test(flavor = "multi_thread")]
async fn service_proxies_go_to_pods_only() {
    let server = Server::start().await;
    let mut c = server.with_namespace("a").await;
    workload(&mut c).await;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "web", "port": 80}],
        "endpoints": [
            {"addresses": ["192.0.2.1"]},
            {"addresses": ["192.0.2.1"], "targetRef": {"kind": "Pod", "namespace": "a", "name": "p"}},
            {"addresses": ["192.0.2.1"], "targetRef": {"kind": "Pod", "namespace": "b", "name": "p"}},
        ],
    });
    c.post(
        "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices",
        &slice,
    )
    .await
    .expect(201);
    for (name, want) in [
        ("s", "no endpoints available for service \"s\""),
        ("s:web", "no endpoints available for service \"s:web\""),
        (
            "https:s:80",
            "no endpoints available for service \"https:s:80\"",
        ),
        ("s:81", "no service port 81 found for service \"s\""),
    ] {
        let s = c
            .get(&format!("/api/v1/namespaces/a/services/{name}/proxy/"))
            .await
            .expect(503);
        assert_eq!(text(&s, "/message"), want);
    }
    for (path, code) in [
        ("/api/v1/namespaces/a/services/t/proxy/", 404),
        ("/api/v1/namespaces/a/services/ftp:s:80/proxy/", 400),
        ("/api/v1/namespaces/a/services/a:b:c:d/proxy/", 400),
    ] {
        assert_eq!(c.get(path).await.code, code, "{path}");
    }
}
