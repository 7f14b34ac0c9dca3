//! Quotas are charged before anything is stored, and never exceeded.

use serde_json::{Value, json};

use crate::server::{Connection, Server, text};

const QUOTAS: &str = "/api/v1/namespaces/counted/resourcequotas";
const MAPS: &str = "/api/v1/namespaces/counted/configmaps";

/// A quota with a status, as the controller manager would write it. Returns once admission sees it.
async fn quota(c: &mut Connection, name: &str, hard: Value, used: Value) {
    let quota = json!({"metadata": {"name": name}, "spec": {"hard": hard}});
    let mut quota = c.post(QUOTAS, &quota).await.expect(201);
    quota["status"] = json!({"hard": hard, "used": used});
    let path = format!("{QUOTAS}/{name}/status");
    let stored = c.put(&path, &quota).await.expect(200);
    let version = text(&stored, "/metadata/resourceVersion");
    let shown = format!("{QUOTAS}?resourceVersion={version}&resourceVersionMatch=NotOlderThan");
    c.get(&shown).await.expect(200);
}

#[tokio::test]
async fn many_creations_at_once_get_no_more_than_there_is() {
    let server = Server::start().await;
    let mut c = server.with_namespace("counted").await;
    let hard = json!({"count/configmaps": "10"});
    quota(&mut c, "q", hard, json!({"count/configmaps": "0"})).await;
    let mut tasks = Vec::new();
    for i in 0..8 {
        let mut c = server.connect().await;
        tasks.push(tokio::spawn(async move {
            let mut codes = Vec::new();
            for j in 0..5 {
                let map = json!({"metadata": {"name": format!("m-{i}-{j}")}});
                let answer = c.post(MAPS, &map).await;
                if answer.code == 403 {
                    let told = text(&answer.json(), "/message");
                    let why = "is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=10, limited: count/configmaps=10";
                    assert!(told.ends_with(why), "{told}");
                }
                codes.push(answer.code);
            }
            codes
        }));
    }
    let mut codes = Vec::new();
    for task in tasks {
        codes.extend(task.await.unwrap());
    }
    assert_eq!(codes.iter().filter(|c| **c == 201).count(), 10);
    assert_eq!(codes.iter().filter(|c| **c == 403).count(), 30);
    let items = c.get(MAPS).await.expect(200)["items"].clone();
    assert_eq!(items.as_array().unwrap().len(), 10);
    let q = c.get(&format!("{QUOTAS}/q")).await.expect(200);
    assert_eq!(q["status"]["used"], json!({"count/configmaps": "10"}));
    let managers = q["metadata"]["managedFields"].as_array().unwrap();
    assert!(
        managers
            .iter()
            .any(|m| m["manager"] == "kube-apiserver" && m["subresource"] == "status"),
        "{managers:?}"
    );
    // What goes is given back by the controller manager, which does not run here.
    let name = text(&items[0], "/metadata/name");
    c.delete(&format!("{MAPS}/{name}")).await.expect(200);
    let map = json!({"metadata": {"name": "again"}});
    c.post(MAPS, &map).await.expect(403);
}

#[tokio::test]
async fn a_dry_run_is_charged_nothing_and_changes_are_charged_what_they_add() {
    let server = Server::start().await;
    let mut c = server.with_namespace("counted").await;
    let hard = json!({"services": "5", "services.nodeports": "2"});
    let used = json!({"services": "0", "services.nodeports": "0"});
    quota(&mut c, "q", hard, used).await;
    let services = "/api/v1/namespaces/counted/services";
    let service = |kind: &str, ports: u16| {
        let ports: Vec<Value> = (0..ports)
            .map(|p| json!({"name": format!("p{p}"), "port": 80 + p, "nodePort": if kind == "NodePort" { 30_000 + p } else { 0 }}))
            .collect();
        json!({"metadata": {"name": "s"}, "spec": {"type": kind, "selector": {"a": "b"}, "ports": ports}})
    };
    let used = async |c: &mut Connection| {
        c.get(&format!("{QUOTAS}/q")).await.expect(200)["status"]["used"].clone()
    };
    let dry = format!("{services}?dryRun=All");
    c.post(&dry, &service("NodePort", 1)).await.expect(201);
    c.post(&dry, &service("NodePort", 3)).await.expect(403);
    assert_eq!(
        used(&mut c).await,
        json!({"services": "0", "services.nodeports": "0"})
    );
    c.post(services, &service("ClusterIP", 1)).await.expect(201);
    let one = format!("{services}/s");
    let kind = json!({"spec": {"type": "NodePort"}});
    c.merge(&one, &kind).await.expect(200);
    assert_eq!(
        used(&mut c).await,
        json!({"services": "1", "services.nodeports": "1"})
    );
    // The same again adds nothing.
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    c.merge(&one, &label).await.expect(200);
    assert_eq!(
        used(&mut c).await,
        json!({"services": "1", "services.nodeports": "1"})
    );
    let ports = service("NodePort", 3)["spec"]["ports"].clone();
    let more = json!({"spec": {"ports": ports}});
    let refused = c.merge(&one, &more).await.expect(403);
    assert!(text(&refused, "/message").contains(
        "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=1, limited: services.nodeports=2"
    ));
}
