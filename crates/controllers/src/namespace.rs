//! namespace-controller: deletes everything in a namespace that is being deleted, then lets it go.
//!
//! Invariants: pods go first; a group whose server is dead, or one resource that refuses, never keeps the others from
//! being deleted, and both are said in the namespace's conditions; the namespace goes only when nothing is known to be
//! left in it. A group that stays dead does not keep it for ever: unlike upstream's, it goes without the group's word when
//! there was none for [`PATIENCE`], and everything else is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use client::resource::{NAMESPACES, PODS};
use client::view::MetaView;
use client::{Change, Client, DeleteOptions, ListOptions, ObjectKey, Propagation, Time};
use serde_json::{Value, json};

use crate::Context;
use crate::context::{Failures, rewrite};
use crate::discovery::{ApiResource, Discovered, discover};
use crate::views::{Condition, Namespace, Pod, condition};

/// Between two looks at a namespace that waits for pods.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How long a group that cannot be asked keeps a namespace that is empty otherwise.
const PATIENCE: Duration = Duration::from_secs(600);
const DISCOVERY: &str = "NamespaceDeletionDiscoveryFailure";
const FINALIZER: &str = "kubernetes";
const PROPAGATION: DeleteOptions = DeleteOptions {
    propagation: Some(Propagation::Background),
    grace_period_seconds: None,
    uid: None,
    resource_version: None,
    dry_run: false,
};

/// What one pass found out.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The apiserver did not say what there is.
    undiscovered: Option<String>,
    failed_groups: Vec<String>,
    errors: Vec<String>,
    /// `pods` -> 3
    remaining: BTreeMap<String, usize>,
    /// finalizer -> objects
    finalizers: BTreeMap<String, usize>,
    /// Seconds that pods may still take.
    grace: i64,
    /// Pods are left, so the rest was not looked at.
    pods_first: bool,
}

impl Outcome {
    fn is_clean(&self) -> bool {
        self.failed_groups.is_empty() && self.is_empty()
    }

    /// Nothing is left in what could be asked.
    fn is_empty(&self) -> bool {
        self.undiscovered.is_none() && self.errors.is_empty() && self.remaining.is_empty()
    }

    /// Whether the namespace may go, with the conditions it has now.
    fn lets_go(&self, conditions: &[Condition], now: Time) -> bool {
        let patient = || {
            let since = condition(conditions, DISCOVERY).and_then(|c| c.last_transition_time);
            since.is_none_or(|t| {
                Duration::try_from(now.duration_since(t)).unwrap_or_default() < PATIENCE
            })
        };
        self.is_clean() || self.is_empty() && !patient()
    }
}

/// The conditions that say what keeps the namespace.
pub fn conditions(old: &[Condition], o: &Outcome, now: Time) -> Vec<Condition> {
    let list = |m: &BTreeMap<String, usize>, what: &str| {
        m.iter()
            .map(|(k, n)| format!("{k}{what} {n} resource instances"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let undiscovered = o
        .undiscovered
        .as_ref()
        .map(|e| ("DiscoveryFailed", e.clone()));
    let discovery = (!o.failed_groups.is_empty()).then(|| {
        let groups: Vec<String> = o.failed_groups.iter().map(|g| format!("{g}: stale GroupVersion discovery: {g}")).collect();
        (
            "DiscoveryFailed",
            format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                groups.len(),
                groups.join(", ")
            ),
        )
    });
    let content = (!o.errors.is_empty()).then(|| {
        let mut errors = o.errors.clone();
        errors.sort();
        let m = format!(
            "Failed to delete all resource types, {} remaining: {}",
            errors.len(),
            errors.join(", ")
        );
        ("ContentDeletionFailed", m)
    });
    // As upstream, what remains is told once the pods are gone.
    let remaining = (!o.pods_first && !o.remaining.is_empty()).then(|| {
        (
            "SomeResourcesRemain",
            format!(
                "Some resources are remaining: {}",
                list(&o.remaining, " has")
            ),
        )
    });
    let finalizers = (!o.pods_first && !o.finalizers.is_empty()).then(|| {
        let m = format!(
            "Some content in the namespace has finalizers remaining: {}",
            list(&o.finalizers, " in")
        );
        ("SomeFinalizersRemain", m)
    });
    let all = [
        (
            DISCOVERY,
            undiscovered.or(discovery),
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            content,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            remaining,
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers,
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let mut out = old.to_vec();
    for (kind, trouble, fine, fine_message) in all {
        let (status, reason, message) = match trouble {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", fine, fine_message.to_owned()),
        };
        let same = |c: &Condition| c.status == status && c.reason == reason && c.message == message;
        if condition(&out, kind).is_some_and(same) {
            continue;
        }
        let since = condition(&out, kind)
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time);
        let new = Condition {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            last_transition_time: Some(since.unwrap_or(now)),
            ..Condition::default()
        };
        match out.iter_mut().find(|c| c.kind == kind) {
            Some(c) => *c = new,
            None => out.push(new),
        }
    }
    out
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let namespaces = ctx.informer::<Namespace>(&NAMESPACES);
    let pods = ctx.informer::<Pod>(&PODS);
    let queue = ctx.queue("namespace");
    let q = queue.clone();
    namespaces.on_change(move |change| {
        let ns = change.object();
        if !matches!(change, Change::Deleted(_)) && ns.metadata.is_deleting() {
            // What is being created at this moment should be seen by the first pass.
            q.add_after(ObjectKey::of(&**ns), Duration::from_millis(200));
        }
    });
    let (q, store, left) = (queue.clone(), namespaces.store(), pods.store());
    pods.on_change(move |change| {
        if let Change::Deleted(pod) = change {
            let name = pod.metadata.namespace.as_str();
            if store
                .get("", name)
                .is_some_and(|n| n.metadata.is_deleting())
                && left.list_namespace(name).is_empty()
            {
                q.add(ObjectKey::new("", name));
            }
        }
    });
    let (store, client) = (namespaces.store(), ctx.client.clone());
    let workers = ctx.config.concurrent("namespace", 10);
    ctx.run(queue, workers, move |key| {
        let (store, client) = (store.clone(), client.clone());
        async move {
            match store.get_key(&key).filter(|n| n.metadata.is_deleting()) {
                Some(ns) => sync(&client, &ns).await,
                None => Ok(None),
            }
        }
    });
}

async fn sync(client: &Client, seen: &Namespace) -> Result<Option<Duration>, client::Error> {
    let name = &seen.metadata.name;
    let api = client.api(&NAMESPACES);
    // What was seen may be gone, and a new namespace of its name filled already. While the finalizer is there, that cannot
    // happen: nothing else takes it away.
    let ns = match api.get::<Namespace>(name).await {
        Ok(ns) => ns,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e),
    };
    if !is_ours_to_empty(&ns, &seen.metadata.uid) {
        return Ok(None);
    }
    let outcome = match discover(client).await {
        Ok(found) => delete_all(client, &ns, found).await,
        Err(e) => Outcome {
            undiscovered: Some(e.to_string()),
            ..Outcome::default()
        },
    };
    let now = Time::now();
    let after = conditions(&ns.status.conditions, &outcome, now);
    rewrite(&api, name, &ns.metadata.uid, "status", |object| {
        let old: Vec<Condition> = object
            .pointer("/status/conditions")
            .and_then(|c| serde_json::from_value(c.clone()).ok())
            .unwrap_or_default();
        let new = conditions(&old, &outcome, now);
        let terminating =
            object.pointer("/status/phase").and_then(Value::as_str) == Some("Terminating");
        if terminating && new == old {
            return false;
        }
        let Some(o) = object.as_object_mut() else {
            return false;
        };
        o.insert(
            "status".into(),
            json!({"phase": "Terminating", "conditions": new}),
        );
        true
    })
    .await?;
    if !outcome.lets_go(&after, now) {
        // Pods may take their grace period; the rest is looked at soon, since nothing tells of it.
        let wait = if outcome.grace > 0 {
            // A pod of years must not keep what else happens here from being seen.
            component::duration::seconds(outcome.grace / 2 + 1).min(LONGEST_WAIT)
        } else if outcome.is_empty() {
            Duration::from_secs(30)
        } else {
            Duration::from_secs(2)
        };
        return Ok(Some(wait));
    }
    rewrite(&api, name, &ns.metadata.uid, "finalize", |object| {
        let Some(list) = object
            .pointer_mut("/spec/finalizers")
            .and_then(Value::as_array_mut)
        else {
            return false;
        };
        list.retain(|f| f.as_str() != Some(FINALIZER));
        true
    })
    .await?;
    Ok(None)
}

/// Whether a namespace, as it is now, is the one that was seen being deleted and still waits for this controller.
fn is_ours_to_empty(now: &Namespace, uid: &str) -> bool {
    now.metadata.uid == uid
        && now.metadata.is_deleting()
        && now.spec.finalizers.iter().any(|f| f == FINALIZER)
}

async fn delete_all(client: &Client, namespace: &Namespace, found: Discovered) -> Outcome {
    let mut out = Outcome {
        failed_groups: found.failed,
        ..Outcome::default()
    };
    let (pods, others): (Vec<ApiResource>, Vec<ApiResource>) = found
        .resources
        .into_iter()
        .filter(|r| r.resource.namespaced && r.can("delete"))
        .partition(|r| r.resource.group.is_empty() && r.resource.plural == "pods");
    for r in &pods {
        delete_resource(client, namespace, r, &mut out).await;
    }
    if !out.remaining.is_empty() {
        out.pods_first = true;
        return out;
    }
    for r in &others {
        delete_resource(client, namespace, r, &mut out).await;
    }
    out
}

async fn delete_resource(
    client: &Client,
    namespace: &Namespace,
    r: &ApiResource,
    out: &mut Outcome,
) {
    let (name, now) = (&namespace.metadata.name, Time::now());
    match empty(client, name, r).await {
        Ok(left) if left.is_empty() => {}
        Ok(left) => {
            let began = namespace.metadata.deletion_timestamp.unwrap_or(now);
            let took = now.duration_since(began).as_secs();
            still_there(name, &r.resource, &left, took, out);
        }
        Err(e) if e.is_not_found() || e.is_method_not_supported() => {}
        Err(e) => out.errors.push(e.to_string()),
    }
}

/// Notes what is still there of a resource, `took` seconds after the deletion began.
fn still_there(
    namespace: &str,
    r: &client::Resource,
    left: &[MetaView],
    took: i64,
    out: &mut Outcome,
) {
    let (mut grace, mut kept) = (0, false);
    for o in left {
        for f in &o.metadata.finalizers {
            *out.finalizers.entry(f.clone()).or_default() += 1;
            kept = true;
        }
        grace = grace.max(o.metadata.deletion_grace_period_seconds.unwrap_or(0));
    }
    let grace = if took < grace { grace } else { 0 };
    out.grace = out.grace.max(grace);
    if grace == 0 && !kept {
        // Nothing explains it.
        out.errors.push(format!(
            "unexpected items still remain in namespace: {namespace} for gvr: {}/{}, Resource={}",
            r.group, r.version, r.plural
        ));
    }
    out.remaining
        .insert(format!("{}.{}", r.plural, r.group), left.len());
}

/// Deletes all objects of a resource and returns those still there.
async fn empty(
    client: &Client,
    namespace: &str,
    r: &ApiResource,
) -> Result<Vec<MetaView>, client::Error> {
    let api = client.namespaced(&r.resource, namespace);
    let everything = ListOptions::default();
    if r.can("list")
        && api
            .list_metadata::<MetaView>(&everything)
            .await?
            .items
            .is_empty()
    {
        return Ok(Vec::new());
    }
    let collection = if r.can("deletecollection") {
        match api.delete_collection(&PROPAGATION, &everything).await {
            Ok(()) => true,
            Err(e) if e.is_method_not_supported() => false,
            Err(e) => return Err(e),
        }
    } else {
        false
    };
    if !r.can("list") {
        return Ok(Vec::new());
    }
    if !collection {
        let mut failures = Failures::default();
        for o in api.list_metadata::<MetaView>(&everything).await?.items {
            match api.delete(&o.metadata.name, &PROPAGATION).await {
                Err(e) if e.is_not_found() => {}
                result => failures.note(result),
            }
        }
        failures.end()?;
    }
    Ok(api.list_metadata::<MetaView>(&everything).await?.items)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One object must not spoil all: what cannot be deleted keeps nothing else from being deleted.
    #[tokio::test]
    async fn an_object_that_is_refused_keeps_no_other() {
        let asked: std::sync::Arc<std::sync::Mutex<Vec<String>>> = Default::default();
        let log = asked.clone();
        let apiserver = testkit::apiserver::serve(move |asked, client| {
            let log = log.clone();
            async move {
                if asked.method == "GET" {
                    let items: Vec<Value> = ["a", "b", "c"]
                        .iter()
                        .map(|n| json!({"metadata": {"name": n, "namespace": "n", "uid": n}}))
                        .collect();
                    let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "1"}, "items": items});
                    return client.send(200, &list).await;
                }
                let name = asked
                    .target
                    .rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                log.lock().unwrap().push(name.clone());
                if name == "a" {
                    return client.refuse(403).await;
                }
                client.send(200, &json!({"kind": "Status"})).await
            }
        });
        let config = testkit::apiserver::kubeconfig(apiserver.await);
        let client = Client::from_kubeconfig(config.path(), client::Options::default());
        let verbs = ["list", "delete"].map(str::to_owned).to_vec();
        let resource = ApiResource {
            resource: client::resource::CONFIG_MAPS.clone(),
            verbs,
        };
        let error = empty(&client.await.unwrap(), "n", &resource).await;
        assert_eq!(error.unwrap_err().code(), 403);
        let asked = asked.lock().unwrap();
        let names: Vec<&str> = asked.iter().map(|n| n.split('?').next().unwrap()).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn only_the_namespace_that_is_being_deleted_is_emptied() {
        let ns = |uid: &str, deleting: bool, finalizers: &str| -> Namespace {
            let time = if deleting {
                r#","deletionTimestamp":"2026-01-01T00:00:00Z""#
            } else {
                ""
            };
            serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"n","uid":"{uid}"{time}}},"spec":{{"finalizers":[{finalizers}]}}}}"#
            ))
            .unwrap()
        };
        assert!(is_ours_to_empty(&ns("a", true, r#""kubernetes""#), "a"));
        for (what, ns) in [
            (
                "a new one of the same name",
                ns("b", true, r#""kubernetes""#),
            ),
            ("not being deleted", ns("a", false, r#""kubernetes""#)),
            ("finalized already", ns("a", true, r#""x/y""#)),
        ] {
            assert!(!is_ours_to_empty(&ns, "a"), "{what}");
        }
    }

    #[test]
    fn conditions_say_what_keeps_the_namespace() {
        let t = |s| Time::from_second(s).unwrap();
        let mut o = Outcome {
            failed_groups: vec!["dead.io/v1".into()],
            ..Outcome::default()
        };
        o.remaining.insert("pods.".into(), 2);
        o.finalizers.insert("x/y".into(), 1);
        let first = conditions(&[], &o, t(1));
        let text = |c: &[Condition], k: &str| {
            let c = condition(c, k).unwrap();
            (c.status.clone(), c.message.clone())
        };
        let types: Vec<&str> = first.iter().map(|c| c.kind.as_str()).collect();
        assert_eq!(
            types,
            [
                "NamespaceDeletionDiscoveryFailure",
                "NamespaceDeletionGroupVersionParsingFailure",
                "NamespaceDeletionContentFailure",
                "NamespaceContentRemaining",
                "NamespaceFinalizersRemaining",
            ]
        );
        assert_eq!(
            text(&first, "NamespaceContentRemaining"),
            (
                "True".into(),
                "Some resources are remaining: pods. has 2 resource instances".into()
            )
        );
        assert_eq!(
            text(&first, "NamespaceFinalizersRemaining").1,
            "Some content in the namespace has finalizers remaining: x/y in 1 resource instances"
        );
        assert_eq!(text(&first, "NamespaceDeletionContentFailure").0, "False");
        assert!(
            text(&first, "NamespaceDeletionDiscoveryFailure")
                .1
                .contains("dead.io/v1")
        );
        assert_eq!(
            conditions(&first, &o, t(9)),
            first,
            "nothing new, nothing written"
        );
        let done = conditions(&first, &Outcome::default(), t(9));
        assert!(done.iter().all(|c| c.status == "False"));
        let silent = Outcome {
            undiscovered: Some("no answer".into()),
            ..Outcome::default()
        };
        assert_eq!(
            text(
                &conditions(&done, &silent, t(10)),
                "NamespaceDeletionDiscoveryFailure"
            ),
            ("True".into(), "no answer".into())
        );
    }

    #[test]
    fn while_pods_are_left_only_what_nothing_explains_is_told() {
        let left = |json: &str| -> Vec<MetaView> { serde_json::from_str(json).unwrap() };
        for (json, took, grace, error) in [
            (
                r#"[{"metadata":{"deletionGracePeriodSeconds":30}}]"#,
                5,
                30,
                "",
            ),
            (
                r#"[{"metadata":{"deletionGracePeriodSeconds":30}}]"#,
                31,
                0,
                "unexpected items still remain in namespace: n for gvr: /v1, Resource=pods",
            ),
            (r#"[{"metadata":{"finalizers":["x/y"]}}]"#, 31, 0, ""),
        ] {
            let mut o = Outcome::default();
            still_there("n", &PODS, &left(json), took, &mut o);
            o.pods_first = true;
            assert_eq!(o.grace, grace);
            assert_eq!(o.errors.join(""), error);
            assert!(!o.lets_go(&[], Time::UNIX_EPOCH));
            let told = conditions(&[], &o, Time::UNIX_EPOCH);
            let status = |k: &str| condition(&told, k).unwrap().status.clone();
            assert_eq!(status("NamespaceContentRemaining"), "False");
            assert_eq!(status("NamespaceFinalizersRemaining"), "False");
            let failed = if error.is_empty() { "False" } else { "True" };
            assert_eq!(status("NamespaceDeletionContentFailure"), failed);
        }
    }

    /// A dead group is waited for, not for ever; what is known to be there, and an apiserver that says nothing, are.
    #[test]
    fn a_dead_group_does_not_keep_a_namespace_for_ever() {
        let t = |s| Time::from_second(s).unwrap();
        let dead = || Outcome {
            failed_groups: vec!["dead.io/v1".into()],
            ..Outcome::default()
        };
        let since = conditions(&[], &dead(), t(1000));
        assert!(!dead().lets_go(&since, t(1001)));
        assert!(dead().lets_go(&since, t(1600)));
        let mut holds = dead();
        holds.remaining.insert("pods.".into(), 1);
        assert!(!holds.lets_go(&since, t(9999)));
        let silent = Outcome {
            undiscovered: Some("no answer".into()),
            ..Outcome::default()
        };
        assert!(!silent.lets_go(&since, t(9999)));
        assert!(Outcome::default().lets_go(&[], t(1)));
    }
}
