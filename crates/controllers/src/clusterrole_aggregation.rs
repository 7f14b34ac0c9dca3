//! clusterrole-aggregation-controller: fills a ClusterRole that has an aggregation rule with the rules of those it selects.

use std::collections::HashSet;
use std::sync::Arc;

use client::resource::CLUSTER_ROLES;
use client::{ObjectKey, ObjectMeta, views};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Context;
use crate::context::rewrite;
use crate::selector::LabelSelector;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClusterRole {
    metadata: ObjectMeta,
    rules: Vec<Value>,
    aggregation_rule: Option<AggregationRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AggregationRule {
    cluster_role_selectors: Vec<LabelSelector>,
}

views!(ClusterRole);

/// The rules of all selected roles, by selector and name, without repetitions; `None` when the role has no aggregation
/// rule or is right already.
fn decide(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<Value>> {
    let aggregation = role.aggregation_rule.as_ref()?;
    let mut rules: Vec<Value> = Vec::new();
    let mut seen = HashSet::new();
    for selector in &aggregation.cluster_role_selectors {
        for other in all.iter().filter(|o| {
            o.metadata.name != role.metadata.name && selector.matches(&o.metadata.labels)
        }) {
            for rule in &other.rules {
                if seen.insert(rule.to_string()) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (rules != role.rules).then_some(rules)
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let roles = ctx.informer::<ClusterRole>(&CLUSTER_ROLES);
    let queue = ctx.queue("ClusterRoleAggregator");
    let (q, store) = (queue.clone(), roles.store());
    roles.on_change(move |_| {
        for role in store.list().iter().filter(|r| r.aggregation_rule.is_some()) {
            q.add(ObjectKey::of(&**role));
        }
    });
    let (store, client) = (roles.store(), ctx.client.clone());
    ctx.run(queue, 5, move |key| {
        let (store, client) = (store.clone(), client.clone());
        async move {
            let Some(role) = store.get_key(&key) else {
                return Ok(None);
            };
            let Some(rules) = decide(&role, &store.list()) else {
                return Ok::<_, client::Error>(None);
            };
            let api = client.api(&CLUSTER_ROLES);
            rewrite(&api, &key.name, &role.metadata.uid, "", |object| {
                let Some(o) = object.as_object_mut() else {
                    return false;
                };
                o.insert("rules".into(), json!(rules));
                true
            })
            .await?;
            Ok(None)
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(v: Value) -> Arc<ClusterRole> {
        Arc::new(serde_json::from_value(v).unwrap())
    }

    #[test]
    fn selected_rules_are_gathered_once() {
        let all = [
            role(json!({"metadata": {"name": "a", "labels": {"to": "x"}}, "rules": [1, 2]})),
            role(json!({"metadata": {"name": "b", "labels": {"to": "x"}}, "rules": [2, 3]})),
            role(json!({"metadata": {"name": "c"}, "rules": [9]})),
        ];
        let target = json!({"metadata": {"name": "t", "labels": {"to": "x"}}, "rules": [7],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]}});
        let target = role(target);
        let rules = decide(&target, &all).unwrap();
        assert_eq!(rules, [json!(1), json!(2), json!(3)]);
        assert_eq!(
            decide(
                &ClusterRole {
                    rules,
                    ..(*target).clone()
                },
                &all
            ),
            None
        );
        assert_eq!(decide(&all[2], &all), None);
    }
}
