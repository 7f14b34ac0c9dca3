use std::collections::BTreeMap;

use api::quota::scope::{Requirement, Test};
use api::quota::{Amounts, read};
use api::reader::ObjectReader;
use auth::UserInfo;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;

use super::*;

/// Quotas with versions. What `meddle` holds is written by somebody else just before a charge, one entry per charge.
#[derive(Default)]
struct Store {
    quotas: Mutex<BTreeMap<(String, String), Arc<Value>>>,
    meddle: Mutex<Vec<(String, Value)>>,
    charges: Mutex<Vec<String>>,
}

fn key(q: &Value) -> (String, String) {
    let text = |p: &str| at(q, p).to_owned();
    (text("/metadata/namespace"), text("/metadata/name"))
}

impl Store {
    fn put(&self, mut quota: Value) {
        let mut all = self.quotas.lock().unwrap();
        let old = all.get(&key(&quota));
        let version = old.map_or(0, |o| at(o, "/metadata/resourceVersion").parse().unwrap()) + 1;
        quota["metadata"]["resourceVersion"] = json!(format!("{version}"));
        all.insert(key(&quota), Arc::new(quota));
    }

    fn set_used(&self, name: &str, used: Value) {
        let quota = self.quotas.lock().unwrap()[&("test".to_owned(), name.to_owned())].clone();
        let mut quota = (*quota).clone();
        quota["status"]["used"] = used;
        self.put(quota);
    }

    fn used(&self, name: &str) -> Value {
        self.quotas.lock().unwrap()[&("test".to_owned(), name.to_owned())]["status"]["used"].clone()
    }

    fn charged(&self) -> Vec<String> {
        std::mem::take(&mut *self.charges.lock().unwrap())
    }
}

impl Quotas for Store {
    fn list<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Value>>, Status>> {
        let all = self.quotas.lock().unwrap();
        let all = all.iter().filter(|(k, _)| k.0 == namespace);
        let all: Vec<_> = all.map(|(_, q)| q.clone()).collect();
        async { Ok(all) }.boxed()
    }

    fn newest<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
        let key = (namespace.to_owned(), name.to_owned());
        let found = self.quotas.lock().unwrap().get(&key).cloned();
        async { Ok(found) }.boxed()
    }

    fn charge<'a>(
        &'a self,
        seen: &'a Value,
        used: Map<String, Value>,
    ) -> BoxFuture<'a, Result<bool, Status>> {
        async move {
            // Others have their turn between reading and writing.
            tokio::task::yield_now().await;
            let meddled = self.meddle.lock().unwrap().pop();
            if let Some((name, used)) = meddled {
                self.set_used(&name, used);
            }
            let now = self.quotas.lock().unwrap()[&key(seen)].clone();
            if at(&now, "/metadata/resourceVersion") != at(seen, "/metadata/resourceVersion") {
                return Ok(false);
            }
            self.charges.lock().unwrap().push(key(seen).1);
            let mut quota = seen.clone();
            quota["status"]["used"] = used.into();
            self.put(quota);
            Ok(true)
        }
        .boxed()
    }
}

struct Nothing;

impl ObjectReader for Nothing {
    fn get<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
        async { Ok(None) }.boxed()
    }

    fn list<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Arc<Value>>, Status>> {
        async { Ok(Vec::new()) }.boxed()
    }
}

fn quota(name: &str, hard: Value, used: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "test"}, "status": {"hard": hard, "used": used}})
}

fn scoped(mut quota: Value, scopes: &[&str]) -> Value {
    quota["spec"] = json!({"scopes": scopes});
    quota
}

fn selecting(mut quota: Value, scope: &str, operator: &str, values: &[&str]) -> Value {
    quota["spec"] = json!({"scopeSelector": {"matchExpressions": [
        {"scopeName": scope, "operator": operator, "values": values}]}});
    quota
}

fn compute() -> Value {
    let hard = json!({"cpu": "3", "memory": "100Gi", "pods": "5"});
    quota(
        "quota",
        hard,
        json!({"cpu": "1", "memory": "50Gi", "pods": "3"}),
    )
}

fn pod(requests: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "test"}, "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
}

fn with(mut object: Value, pointer: &str, key: &str, value: Value) -> Value {
    object.pointer_mut(pointer).unwrap()[key] = value;
    object
}

fn existing(object: Value) -> Value {
    with(object, "/metadata", "resourceVersion", json!("1"))
}

struct Setting {
    store: Arc<Store>,
    plugin: ResourceQuota,
    dry_run: bool,
}

fn setting(quotas: impl IntoIterator<Item = Value>, limited: Vec<Limited>) -> Setting {
    let store = Arc::new(Store::default());
    quotas.into_iter().for_each(|q| store.put(q));
    let plugin = ResourceQuota::new(Some(store.clone()), limited);
    Setting {
        store,
        plugin,
        dry_run: false,
    }
}

impl Setting {
    /// `resource` or `resource/subresource`. The refusal's text, or nothing.
    async fn ask(
        &self,
        operation: Operation,
        resource: &str,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> String {
        let user = UserInfo::default();
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let a = Attributes {
            operation,
            user: &user,
            group: "",
            version: "v1",
            resource,
            subresource,
            kind: "",
            namespace: "test",
            name: "p",
            dry_run: self.dry_run,
            reader: &Nothing,
        };
        if !self.plugin.handles(&a) {
            return String::new();
        }
        match self.plugin.validate(&a, object, old).await {
            Ok(()) => String::new(),
            Err(status) => format!("{} {}", status.code, status.message),
        }
    }

    async fn create(&self, resource: &str, object: &Value) -> String {
        self.ask(Operation::Create, resource, Some(object), None)
            .await
    }

    async fn update(&self, resource: &str, new: &Value, old: &Value) -> String {
        self.ask(Operation::Update, resource, Some(new), Some(old))
            .await
    }
}

const REFUSED: &str = "403 pods \"p\" is forbidden: ";

#[tokio::test]
async fn what_fits_is_charged_and_what_does_not_is_refused() {
    let s = setting([compute()], vec![]);
    let small = pod(json!({"cpu": "100m", "memory": "2Gi"}));
    assert_eq!(s.create("pods", &small).await, "");
    assert_eq!(
        s.store.used("quota"),
        json!({"cpu": "1100m", "memory": "52Gi", "pods": "4"})
    );
    let large = pod(json!({"cpu": "3", "memory": "2Gi"}));
    assert_eq!(
        s.create("pods", &large).await,
        format!(
            "{REFUSED}exceeded quota: quota, requested: cpu=3, used: cpu=1100m, limited: cpu=3"
        )
    );
    let larger = pod(json!({"cpu": "3", "memory": "200Gi"}));
    assert_eq!(
        s.create("pods", &larger).await,
        format!(
            "{REFUSED}exceeded quota: quota, requested: cpu=3,memory=200Gi, used: cpu=1100m,memory=52Gi, limited: cpu=3,memory=100Gi"
        )
    );
    assert_eq!(
        s.store.charged(),
        ["quota"],
        "what is refused is not charged"
    );
}

#[tokio::test]
async fn deletions_connections_and_other_subresources_are_not_asked_about() {
    let s = setting([compute()], vec![]);
    let large = pod(json!({"cpu": "3", "memory": "2Gi"}));
    for (operation, resource) in [
        (Operation::Delete, "pods"),
        (Operation::Connect, "pods"),
        (Operation::Create, "pods/binding"),
        (Operation::Update, "pods/status"),
        (Operation::Create, "pods/resize"),
        (Operation::Update, "configmaps"),
        (Operation::Create, "events"),
        (Operation::Create, "namespaces"),
        (Operation::Update, "services/status"),
    ] {
        assert_eq!(s.ask(operation, resource, Some(&large), None).await, "");
    }
    assert!(s.store.charged().is_empty());
    // And what is: by resource.
    let e = |resource: &str| Evaluator::of("", resource).unwrap();
    let devices = Evaluator::of("resource.k8s.io", "resourceclaims").unwrap();
    let (create, update) = (Operation::Create, Operation::Update);
    for (evaluator, subresource, creates, updates) in [
        (e("pods"), "", true, true),
        (e("pods"), "resize", false, true),
        (e("pods"), "status", false, false),
        (e("services"), "", true, true),
        (e("services"), "status", false, false),
        (e("persistentvolumeclaims"), "", true, true),
        (e("persistentvolumeclaims"), "status", true, true),
        (devices.clone(), "", true, true),
        (devices, "status", false, false),
        (e("configmaps"), "", true, false),
        (e("configmaps"), "status", false, false),
    ] {
        assert_eq!(concerns(&evaluator, create, subresource), creates);
        assert_eq!(concerns(&evaluator, update, subresource), updates);
        assert!(!concerns(&evaluator, Operation::Delete, subresource));
        assert!(!concerns(&evaluator, Operation::Connect, subresource));
    }
}

#[tokio::test]
async fn a_dry_run_is_checked_and_charged_nothing() {
    let mut s = setting([compute()], vec![]);
    s.dry_run = true;
    let small = pod(json!({"cpu": "100m", "memory": "2Gi"}));
    assert_eq!(s.create("pods", &small).await, "");
    let large = pod(json!({"cpu": "100m", "memory": "60Gi"}));
    assert!(s.create("pods", &large).await.contains("exceeded quota"));
    assert!(s.store.charged().is_empty());
}

#[tokio::test]
async fn changes_are_charged_what_they_add() {
    let service = |kind: &str, ports: usize| {
        let ports: Vec<Value> = (0..ports).map(|p| json!({"port": p})).collect();
        json!({"metadata": {"name": "p", "namespace": "test"}, "spec": {"type": kind, "ports": ports}})
    };
    let services = |balancers: &str, ports: &str| {
        quota(
            "quota",
            json!({"services": "10", "services.loadbalancers": "10", "services.nodeports": "10"}),
            json!({"services": "1", "services.loadbalancers": balancers, "services.nodeports": ports}),
        )
    };
    // A balancer becomes one of node ports: the port is charged, and nothing is given back here.
    let s = setting([services("1", "0")], vec![]);
    let new = service("NodePort", 1);
    let old = existing(service("LoadBalancer", 0));
    assert_eq!(s.update("services", &new, &old).await, "");
    assert_eq!(
        s.store.used("quota"),
        json!({"services": "1", "services.loadbalancers": "1", "services.nodeports": "1"})
    );
    // What is not known to be stored is charged as a whole.
    let s = setting([services("1", "0")], vec![]);
    let old = service("LoadBalancer", 0);
    assert_eq!(s.update("services", &new, &old).await, "");
    assert_eq!(
        s.store.used("quota"),
        json!({"services": "2", "services.loadbalancers": "1", "services.nodeports": "1"})
    );
    let gone = s.ask(Operation::Update, "services", Some(&new), None).await;
    assert_eq!(
        gone,
        "403 services \"p\" is forbidden: unable to get previous usage since prior version of object was not found"
    );

    let claim = |q: &str| json!({"metadata": {"name": "p", "namespace": "test"}, "spec": {"resources": {"requests": {"storage": q}}}});
    let storage = || {
        quota(
            "quota",
            json!({"persistentvolumeclaims": "3", "requests.storage": "100Gi"}),
            json!({"persistentvolumeclaims": "1", "requests.storage": "10Gi"}),
        )
    };
    for (new, old, used) in [
        ("15Gi", "10Gi", "15Gi"),
        ("5Gi", "10Gi", "10Gi"),
        ("10Gi", "10Gi", "10Gi"),
    ] {
        let s = setting([storage()], vec![]);
        let told = s
            .update("persistentvolumeclaims", &claim(new), &existing(claim(old)))
            .await;
        assert_eq!(told, "", "{old} to {new}");
        let wanted = json!({"persistentvolumeclaims": "1", "requests.storage": used});
        assert_eq!(s.store.used("quota"), wanted, "{old} to {new}");
        assert_eq!(s.store.charged().len(), usize::from(used != "10Gi"));
    }
    let s = setting([storage()], vec![]);
    let told = s
        .update(
            "persistentvolumeclaims",
            &claim("200Gi"),
            &existing(claim("10Gi")),
        )
        .await;
    assert_eq!(
        told,
        "403 persistentvolumeclaims \"p\" is forbidden: exceeded quota: quota, requested: requests.storage=190Gi, used: requests.storage=10Gi, limited: requests.storage=100Gi"
    );
    assert_eq!(
        s.create("persistentvolumeclaims", &claim("-1Gi")).await,
        "403 persistentvolumeclaims \"p\" is forbidden: quota usage is negative for resource(s): requests.storage"
    );
    assert_eq!(s.create("persistentvolumeclaims", &claim("1Gi")).await, "");
}

#[tokio::test]
async fn a_resize_is_charged_and_other_changes_of_pods_are_not() {
    let s = setting([compute()], vec![]);
    let old = existing(pod(json!({"cpu": "1", "memory": "1Gi"})));
    let new = pod(json!({"cpu": "2", "memory": "1Gi"}));
    assert_eq!(s.update("pods", &new, &old).await, "");
    assert!(s.store.charged().is_empty());
    assert_eq!(s.update("pods/resize", &new, &old).await, "");
    assert_eq!(
        s.store.used("quota"),
        json!({"cpu": "2", "memory": "50Gi", "pods": "3"})
    );
    let more = pod(json!({"cpu": "4", "memory": "1Gi"}));
    assert_eq!(
        s.update("pods/resize", &more, &old).await,
        format!("{REFUSED}exceeded quota: quota, requested: cpu=3, used: cpu=2, limited: cpu=3")
    );
}

#[tokio::test]
async fn what_quotas_of_old_name_must_be_said() {
    let mut q = compute();
    q["status"]["hard"]["limits.memory"] = json!("200Gi");
    q["status"]["used"]["limits.memory"] = json!("100Gi");
    let s = setting([q], vec![]);
    assert_eq!(
        s.create("pods", &pod(json!({"cpu": "100m", "memory": "2Gi"})))
            .await,
        format!("{REFUSED}failed quota: quota: must specify limits.memory for: c")
    );
    assert_eq!(
        s.create("pods", &pod(json!({}))).await,
        format!(
            "{REFUSED}failed quota: quota: must specify cpu for: c; limits.memory for: c; memory for: c"
        )
    );
}

#[tokio::test]
async fn a_quota_that_is_not_counted_yet_refuses_and_others_do_not_concern() {
    let s = setting(
        [quota(
            "quota",
            json!({"pods": "5", "requests.x.io/y": "1"}),
            json!({"requests.x.io/y": "0"}),
        )],
        vec![],
    );
    assert_eq!(
        s.create("pods", &pod(json!({}))).await,
        format!("{REFUSED}status unknown for quota: quota, resources: pods,requests.x.io/y")
    );
    // What was never set, or is about something else that is used up, refuses nothing.
    let unset =
        json!({"metadata": {"name": "new", "namespace": "test"}, "spec": {"hard": {"pods": "0"}}});
    let full = quota(
        "quota",
        json!({"services": "3", "pods": "4"}),
        json!({"services": "4", "pods": "1"}),
    );
    let s = setting([unset, full], vec![]);
    assert_eq!(s.create("pods", &pod(json!({}))).await, "");
    // Quotas of another namespace neither.
    let other = with(compute(), "/metadata", "namespace", json!("other"));
    let s = setting([other], vec![]);
    assert_eq!(s.create("pods", &pod(json!({"cpu": "99"}))).await, "");
    assert!(s.store.charged().is_empty());
}

#[tokio::test]
async fn objects_are_counted_by_any_name() {
    let hard = json!({"count/configmaps": "2", "configmaps": "5"});
    let s = setting(
        [quota(
            "quota",
            hard,
            json!({"count/configmaps": "1", "configmaps": "1"}),
        )],
        vec![],
    );
    let map = json!({"metadata": {"generateName": "m-"}});
    assert_eq!(s.create("configmaps", &map).await, "");
    assert_eq!(
        s.create("configmaps", &map).await,
        "403 configmaps \"p\" is forbidden: exceeded quota: quota, requested: count/configmaps=1, used: count/configmaps=2, limited: count/configmaps=2"
    );
    assert_eq!(
        s.store.used("quota"),
        json!({"count/configmaps": "2", "configmaps": "2"})
    );
}

fn deadline(pod: Value) -> Value {
    with(pod, "/spec", "activeDeadlineSeconds", json!(30))
}

#[tokio::test]
async fn the_quota_of_the_scope_is_charged() {
    let named = |name: &str| with(compute(), "/metadata", "name", json!(name));
    let both = || {
        [
            scoped(named("not-terminating"), &["NotTerminating"]),
            scoped(named("terminating"), &["Terminating"]),
        ]
    };
    let small = pod(json!({"cpu": "100m", "memory": "2Gi"}));
    let charged = json!({"cpu": "1100m", "memory": "52Gi", "pods": "4"});
    let s = setting(both(), vec![]);
    assert_eq!(s.create("pods", &deadline(small.clone())).await, "");
    assert_eq!(s.store.charged(), ["terminating"]);
    assert_eq!(s.store.used("terminating"), charged);
    // A pod that comes under a scope is charged to its quota as a whole; the other is counted anew later.
    let s = setting(both(), vec![]);
    let old = existing(small.clone());
    let new = deadline(small.clone());
    assert_eq!(s.update("pods", &new, &old).await, "");
    assert_eq!(s.store.charged(), ["terminating"]);
    assert_eq!(s.store.used("terminating"), charged);

    let few = |name: &str, scope: &str| {
        scoped(
            quota(name, json!({"pods": "5"}), json!({"pods": "3"})),
            &[scope],
        )
    };
    let s = setting(
        [
            few("best-effort", "BestEffort"),
            few("not-best-effort", "NotBestEffort"),
        ],
        vec![],
    );
    assert_eq!(s.create("pods", &pod(json!({}))).await, "");
    assert_eq!(s.store.charged(), ["best-effort"]);
    let s = setting([few("best-effort", "BestEffort")], vec![]);
    assert_eq!(s.create("pods", &small).await, "");
    assert!(s.store.charged().is_empty());
}

#[tokio::test]
async fn claims_are_charged_to_the_quotas_of_their_attribute_classes() {
    let class = |class: &str| {
        let quota = quota(
            class,
            json!({"persistentvolumeclaims": "3", "requests.storage": "100Gi"}),
            json!({"persistentvolumeclaims": "1", "requests.storage": "10Gi"}),
        );
        selecting(quota, "VolumeAttributesClass", "In", &[class])
    };
    let all = || ["gold", "silver", "copper"].map(class);
    let claim = |asked: &str, target: &str, current: &str| {
        json!({"metadata": {"name": "p", "namespace": "test"},
            "spec": {"volumeAttributesClassName": asked, "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"currentVolumeAttributesClassName": current, "modifyVolumeStatus": {"targetVolumeAttributesClassName": target}}})
    };
    let charged = json!({"persistentvolumeclaims": "2", "requests.storage": "11Gi"});
    let claims = "persistentvolumeclaims";
    let s = setting(all(), vec![]);
    assert_eq!(s.create(claims, &claim("gold", "", "")).await, "");
    assert_eq!(s.store.charged(), ["gold"]);
    assert_eq!(s.store.used("gold"), charged);
    for (what, resource, old, new, wanted) in [
        (
            "a class is set",
            claims,
            claim("", "", ""),
            claim("gold", "", ""),
            Some("gold"),
        ),
        (
            "it is on its way",
            "persistentvolumeclaims/status",
            claim("gold", "", ""),
            claim("gold", "gold", ""),
            None,
        ),
        (
            "it is there",
            "persistentvolumeclaims/status",
            claim("gold", "gold", ""),
            claim("gold", "", "gold"),
            None,
        ),
        (
            "another is set",
            claims,
            claim("gold", "", "gold"),
            claim("silver", "", "gold"),
            Some("silver"),
        ),
        (
            "the other is on its way",
            "persistentvolumeclaims/status",
            claim("silver", "", "gold"),
            claim("silver", "silver", "gold"),
            None,
        ),
        (
            "a third is set meanwhile",
            claims,
            claim("silver", "silver", "gold"),
            claim("copper", "silver", "gold"),
            Some("copper"),
        ),
    ] {
        let s = setting(all(), vec![]);
        assert_eq!(s.update(resource, &new, &existing(old)).await, "", "{what}");
        assert_eq!(s.store.charged(), Vec::from_iter(wanted), "{what}");
        if let Some(name) = wanted {
            assert_eq!(s.store.used(name), charged, "{what}");
        }
    }
    // What has happened is charged, whether there is room or not.
    let mut full = class("silver");
    full["status"]["hard"] = json!({"persistentvolumeclaims": "1", "requests.storage": "10Gi"});
    let s = setting([class("gold"), full], vec![]);
    let old = existing(claim("gold", "", "gold"));
    let told = s
        .update(
            "persistentvolumeclaims/status",
            &claim("gold", "gold", "silver"),
            &old,
        )
        .await;
    assert_eq!(told, "");
    assert_eq!(s.store.used("silver"), charged);
}

fn limited(resource: &str, contains: &[&str], scopes: &[(&str, &str, &[&str])]) -> Limited {
    let scopes = scopes.iter().map(|(scope, operator, values)| {
        Test::new(&Requirement {
            scope_name: (*scope).to_owned(),
            operator: (*operator).to_owned(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        })
    });
    Limited {
        group: String::new(),
        resource: resource.to_owned(),
        contains: contains.iter().map(|c| (*c).to_owned()).collect(),
        scopes: scopes.collect(),
    }
}

#[tokio::test]
async fn what_is_limited_needs_a_quota() {
    let of =
        |name: &str, resource: &str| quota(name, json!({resource: "10Gi"}), json!({resource: "1"}));
    let big = pod(json!({"cpu": "3", "memory": "2Gi"}));
    for (quotas, resource, contains, wanted) in [
        (
            vec![],
            "pods",
            "cpu",
            "insufficient quota to consume: cpu,requests.cpu",
        ),
        (vec![], "services", "services", ""),
        (vec![of("a", "requests.cpu")], "pods", "requests.cpu", ""),
        (
            vec![of("a", "requests.cpu"), of("b", "memory")],
            "pods",
            "requests.cpu",
            "",
        ),
        (
            vec![of("a", "memory")],
            "pods",
            "cpu",
            "insufficient quota to consume: cpu,requests.cpu",
        ),
    ] {
        let s = setting(quotas, vec![limited(resource, &[contains], &[])]);
        let told = s.create("pods", &big).await;
        let wanted = if wanted.is_empty() {
            String::new()
        } else {
            format!("{REFUSED}{wanted}")
        };
        assert_eq!(told, wanted, "{resource} {contains}");
    }
    // A change that adds nothing, or takes away, needs none.
    let balancer = |kind: &str| json!({"metadata": {"name": "p"}, "spec": {"type": kind, "ports": [{"port": 1}]}});
    for (old, new, wanted) in [
        ("LoadBalancer", "LoadBalancer", ""),
        ("LoadBalancer", "ClusterIP", ""),
        (
            "ClusterIP",
            "LoadBalancer",
            "403 services \"p\" is forbidden: insufficient quota to consume: services.loadbalancers",
        ),
    ] {
        let s = setting(
            [],
            vec![limited("services", &["services.loadbalancers"], &[])],
        );
        let told = s
            .update("services", &balancer(new), &existing(balancer(old)))
            .await;
        assert_eq!(told, wanted, "{old} to {new}");
    }
}

#[tokio::test]
async fn limited_scopes_need_a_quota() {
    const CLASS: &str = "PriorityClass";
    let exists = ("PriorityClass", "Exists", &[][..]);
    let services = (CLASS, "In", &["cluster-services"][..]);
    let either = (CLASS, "In", &["another", "cluster-services"][..]);
    let best_effort = ("BestEffort", "Exists", &[][..]);
    let pods = |name: &str| quota(name, json!({"pods": "5"}), json!({"pods": "3"}));
    let memory = |name: &str| quota(name, json!({"memory": "10Gi"}), json!({"memory": "1Gi"}));
    let of = |class: &str, requests: Value| {
        with(pod(requests), "/spec", "priorityClassName", json!(class))
    };
    let (big, small) = (
        json!({"cpu": "3", "memory": "2Gi"}),
        json!({"cpu": "100m", "memory": "1Gi"}),
    );
    let for_best = || scoped(pods("best"), &["BestEffort"]);
    let for_class = || selecting(pods("class"), CLASS, "In", &["cluster-services"]);
    let two = vec![
        limited("pods", &[], &[best_effort]),
        limited("pods", &[], &[services]),
    ];
    let uncovered =
        |scopes: &str| format!("500 insufficient quota to match these scopes: [{scopes}]");
    for (what, pod, quotas, limits, wanted) in [
        (
            "covered",
            of("fake", big.clone()),
            vec![selecting(memory("q"), CLASS, "Exists", &[])],
            vec![limited("pods", &[], &[exists])],
            String::new(),
        ),
        (
            "covered, but for cpu",
            of("fake", big.clone()),
            vec![selecting(memory("q"), CLASS, "Exists", &[])],
            vec![limited("pods", &["requests.cpu"], &[exists])],
            format!("{REFUSED}insufficient quota to consume: requests.cpu"),
        ),
        (
            "not covered",
            of("fake", big.clone()),
            vec![memory("q")],
            vec![limited("pods", &[], &[exists])],
            uncovered("{PriorityClass Exists []}"),
        ),
        (
            "best effort, not covered",
            of("fake", json!({})),
            vec![pods("q")],
            vec![limited("pods", &[], &[best_effort])],
            uncovered("{BestEffort Exists []}"),
        ),
        (
            "best effort, covered",
            of("fake", json!({})),
            vec![for_best()],
            vec![limited("pods", &[], &[best_effort])],
            String::new(),
        ),
        (
            "two, neither meant",
            of("fake", small.clone()),
            vec![pods("q")],
            two.clone(),
            String::new(),
        ),
        (
            "two, the first meant",
            of("fake", json!({})),
            vec![pods("q")],
            two.clone(),
            uncovered("{BestEffort Exists []}"),
        ),
        (
            "two, the second meant",
            of("cluster-services", small.clone()),
            vec![pods("q")],
            two.clone(),
            uncovered("{PriorityClass In [cluster-services]}"),
        ),
        (
            "two, both meant",
            of("cluster-services", json!({})),
            vec![pods("q")],
            two.clone(),
            uncovered("{BestEffort Exists []} {PriorityClass In [cluster-services]}"),
        ),
        (
            "two, the first covered",
            of("cluster-services", json!({})),
            vec![for_best()],
            two.clone(),
            uncovered("{PriorityClass In [cluster-services]}"),
        ),
        (
            "two, the second covered",
            of("cluster-services", json!({})),
            vec![for_class()],
            two.clone(),
            uncovered("{BestEffort Exists []}"),
        ),
        (
            "two, both covered",
            of("cluster-services", json!({})),
            vec![for_best(), for_class()],
            two,
            String::new(),
        ),
        (
            "nothing limited",
            of("fake", big.clone()),
            vec![memory("q")],
            vec![],
            String::new(),
        ),
        (
            "covered and used up",
            of("fake", json!({"cpu": "3", "memory": "20Gi"})),
            vec![selecting(memory("quota"), CLASS, "Exists", &[])],
            vec![limited("pods", &[], &[exists])],
            format!(
                "{REFUSED}exceeded quota: quota, requested: memory=20Gi, used: memory=1Gi, limited: memory=10Gi"
            ),
        ),
        (
            "another class than the limited one",
            of("fake", big.clone()),
            vec![selecting(memory("q"), CLASS, "In", &["cluster-services"])],
            vec![limited("pods", &[], &[services])],
            String::new(),
        ),
        (
            "one of the limited classes, covered",
            of("cluster-services", big.clone()),
            vec![selecting(memory("q"), CLASS, "In", &["cluster-services"])],
            vec![limited("pods", &[], &[either])],
            String::new(),
        ),
        (
            "one of the limited classes, another covered",
            of("cluster-services", big.clone()),
            vec![selecting(memory("q"), CLASS, "In", &["another"])],
            vec![limited("pods", &[], &[either])],
            uncovered("{PriorityClass In [another cluster-services]}"),
        ),
        (
            "the one that is covered",
            of("another", big.clone()),
            vec![selecting(memory("q"), CLASS, "In", &["another"])],
            vec![limited("pods", &[], &[either])],
            String::new(),
        ),
        (
            "a quota of no scope covers none",
            of("cluster-services", big.clone()),
            vec![memory("q")],
            vec![limited("pods", &[], &[either])],
            uncovered("{PriorityClass In [another cluster-services]}"),
        ),
        (
            "covered by a quota of all classes",
            of("cluster-services", big),
            vec![selecting(memory("q"), CLASS, "Exists", &[])],
            vec![limited("pods", &[], &[either])],
            String::new(),
        ),
    ] {
        let s = setting(quotas, limits);
        assert_eq!(s.create("pods", &pod).await, wanted, "{what}");
    }
}

#[tokio::test]
async fn who_was_slower_reads_anew_and_gives_up_in_the_end() {
    let few = || [quota("quota", json!({"pods": "5"}), json!({"pods": "1"}))];
    let used = |n: usize| ("quota".to_owned(), json!({"pods": n.to_string()}));
    let one = pod(json!({}));
    let s = setting(few(), vec![]);
    s.store.meddle.lock().unwrap().extend([used(4), used(2)]);
    assert_eq!(s.create("pods", &one).await, "");
    assert_eq!(s.store.used("quota"), json!({"pods": "5"}));
    // The room was taken meanwhile.
    let s = setting(few(), vec![]);
    s.store.meddle.lock().unwrap().push(used(5));
    assert_eq!(
        s.create("pods", &one).await,
        format!("{REFUSED}exceeded quota: quota, requested: pods=1, used: pods=5, limited: pods=5")
    );
    let s = setting(few(), vec![]);
    s.store
        .meddle
        .lock()
        .unwrap()
        .extend([1, 2, 1, 2].map(used));
    let told = s.create("pods", &one).await;
    assert!(told.starts_with("409 "), "{told}");
    assert!(s.store.charged().is_empty());
    // What was charged to others stays as it is, and is not charged twice.
    let s = setting(
        [
            quota("a", json!({"pods": "5"}), json!({"pods": "1"})),
            quota("quota", json!({"pods": "5"}), json!({"pods": "1"})),
        ],
        vec![],
    );
    s.store
        .meddle
        .lock()
        .unwrap()
        .extend([used(3), ("a".to_owned(), json!({"pods": "2"}))]);
    assert_eq!(s.create("pods", &one).await, "");
    assert_eq!(s.store.used("a"), json!({"pods": "3"}));
    assert_eq!(s.store.used("quota"), json!({"pods": "4"}));
}

/// A quota is never exceeded, however many creations run at once, through however many apiservers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_get_no_more_than_there_is() {
    let hard = json!({"pods": "50", "requests.cpu": "100"});
    let first = setting(
        [
            quota("quota", hard, json!({"pods": "10", "requests.cpu": "1"})),
            quota(
                "cpu",
                json!({"requests.cpu": "70"}),
                json!({"requests.cpu": "0"}),
            ),
        ],
        vec![],
    );
    let second = Setting {
        plugin: ResourceQuota::new(Some(first.store.clone()), vec![]),
        store: first.store.clone(),
        dry_run: false,
    };
    let both = [Arc::new(first), Arc::new(second)];
    let store = both[0].store.clone();
    let tasks: Vec<_> = (0..400)
        .map(|i: usize| {
            let s = both[i % 2].clone();
            tokio::spawn(async move { s.create("pods", &pod(json!({"cpu": "1"}))).await })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        let told = task.await.unwrap();
        admitted += usize::from(told.is_empty());
        // Two that always write at once may give up; they are never let in for that.
        let refused = told.contains("exceeded quota: ") || told.starts_with("409 ");
        assert!(told.is_empty() || refused, "{told}");
    }
    assert!(admitted > 0 && admitted <= 40, "{admitted}");
    let used: Amounts = read(&serde_json::from_value(store.used("quota")).unwrap());
    assert!(used["pods"].value() >= 10 + admitted as i64);
    assert!(used["pods"].value() <= 50 && used["requests.cpu"].value() <= 100);
    // Alone, one apiserver gives out all there is, and no more.
    let s = Arc::new(setting(
        [quota("quota", json!({"pods": "50"}), json!({"pods": "10"}))],
        vec![],
    ));
    let all = (0..400).map(|_| {
        let s = s.clone();
        tokio::spawn(async move { s.create("pods", &pod(json!({}))).await })
    });
    let told: Vec<String> = futures::future::join_all(all)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(told.iter().filter(|t| t.is_empty()).count(), 40);
    assert_eq!(s.store.used("quota"), json!({"pods": "50"}));
    let charges = s.store.charged().len();
    assert!((1..=40).contains(&charges), "{charges}");
    assert!(both[0].plugin.0.as_ref().unwrap().lines().is_empty());
}

/// A panic over one namespace leaves nobody waiting for ever, and does not keep those who come later out.
#[tokio::test]
async fn a_panic_is_told_and_over() {
    let broken = with(
        compute(),
        "/metadata",
        "resourceVersion",
        json!("not a number"),
    );
    let s = setting([compute()], vec![]);
    // The fake store panics over it when it is charged.
    s.store
        .quotas
        .lock()
        .unwrap()
        .insert(key(&broken), Arc::new(broken));
    let small = pod(json!({"cpu": "100m", "memory": "2Gi"}));
    let told = s.create("pods", &small).await;
    assert!(told.contains("resource quota evaluation failed"), "{told}");
}
