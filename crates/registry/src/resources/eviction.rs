//! `pods/eviction`: a delete that disruption budgets may refuse.

use api::Status;
use api::status::StatusCause;
use apiserver::resource::{ActionSubresource, Context, ObjectWriter};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::success;
use crate::resources::pod::set_condition;
use crate::validate::meta::selector_matches;
use crate::value::Tree;

/// Evicts a pod.
pub struct Eviction;

/// More pods than this in a budget's list of disrupted pods mean that its controller does not keep up.
const MAX_DISRUPTED: usize = 2000;

/// Tries at a pod that others change at the same time.
const TRIES: usize = 20;

const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

fn too_many(message: String, retry_after_seconds: i32) -> Status {
    let mut s = Status::too_many_requests(VIOLATES, retry_after_seconds);
    let details = s.details.get_or_insert_default();
    details.causes.push(StatusCause {
        reason: "DisruptionBudget".into(),
        message,
        ..StatusCause::default()
    });
    s
}

/// The condition that says whether more may be disrupted.
fn tell_allowed(budget: &mut Value, now: &str) {
    const KIND: &str = "DisruptionAllowed";
    let (status, reason) = if budget.int("status.disruptionsAllowed") > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let mut all = budget.list("status.conditions").to_vec();
    let old = all.iter().position(|c| c.text("type") == KIND);
    let since = old
        .and_then(|i| all.get(i))
        .filter(|c| c.text("status") == status)
        .map_or(now, |c| c.text("lastTransitionTime"));
    let condition = json!({
        "type": KIND, "status": status, "reason": reason, "message": "",
        "observedGeneration": budget.int("status.observedGeneration"), "lastTransitionTime": since,
    });
    match old.and_then(|i| all.get_mut(i)) {
        Some(slot) => *slot = condition,
        None => all.push(condition),
    }
    budget.put("status.conditions", all);
}

/// What a budget says to one more disruption: the new status, or the refusal.
fn decrement(budget: &mut Value, pod: &str, now: &str, dry_run: bool) -> Result<(), Status> {
    let name = budget.name().to_owned();
    if budget.int("status.observedGeneration") < budget.int("metadata.generation") {
        return Err(too_many(
            format!("The disruption budget {name} is still being processed by the server."),
            10,
        ));
    }
    let allowed = budget.int("status.disruptionsAllowed");
    let forbidden = |why: &str| Status::forbidden("policy", "poddisruptionbudget", &name, why);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if budget.map("status.disruptedPods").len() > MAX_DISRUPTED {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(too_many(refusal(budget), 0));
    }
    budget.put("status.disruptionsAllowed", allowed - 1);
    tell_allowed(budget, now);
    if !dry_run {
        let mut pods = budget.map("status.disruptedPods").clone();
        pods.insert(pod.to_owned(), now.into());
        budget.put("status.disruptedPods", pods);
    }
    Ok(())
}

fn refusal(budget: &Value) -> String {
    let name = budget.name();
    let c = budget.list("status.conditions").iter().find(|c| {
        c.text("type") == "DisruptionAllowed"
            && c.text("status") == "False"
            && !c.text("message").is_empty()
    });
    let (healthy, desired) = (
        budget.int("status.currentHealthy"),
        budget.int("status.desiredHealthy"),
    );
    match c {
        Some(c) if c.text("reason") == "SyncFailed" => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            c.text("message")
        ),
        _ if healthy <= desired => {
            format!(
                "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
            )
        }
        Some(c) => format!(
            "The disruption budget {name} does not allow evicting pods currently ({}): {}",
            c.text("reason"),
            c.text("message")
        ),
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

fn ended_or_pending(pod: &Value) -> bool {
    ["Succeeded", "Failed", "Pending"].contains(&pod.text("status.phase"))
        || pod.has("metadata.deletionTimestamp")
}

fn ready(pod: &Value) -> bool {
    pod.list("status.conditions")
        .iter()
        .any(|c| c.text("type") == "Ready" && c.text("status") == "True")
}

/// Whether a budget lets an unhealthy pod go without counting it.
fn unhealthy_goes(budget: &Value) -> bool {
    let (healthy, desired) = (
        budget.int("status.currentHealthy"),
        budget.int("status.desiredHealthy"),
    );
    budget.text("spec.unhealthyPodEvictionPolicy") == "AlwaysAllow"
        || healthy >= desired && desired > 0
}

async fn delete(
    ctx: &Context<'_>,
    writer: &dyn ObjectWriter,
    name: &str,
    mut options: Value,
    pinned: Option<&str>,
) -> Result<(), Status> {
    if !is_dry(ctx, &options) {
        let uid = options.text("preconditions.uid").to_owned();
        let version = pinned.map_or_else(
            || options.text("preconditions.resourceVersion").to_owned(),
            str::to_owned,
        );
        let mut mark = |pod: &mut Value| {
            for (asked, key, what) in [
                (&uid, "metadata.uid", "UID"),
                (&version, "metadata.resourceVersion", "ResourceVersion"),
            ] {
                let has = pod.text(key);
                if !asked.is_empty() && asked != has {
                    return Err(Status::conflict(
                        "",
                        "Pod",
                        name,
                        &format!(
                            "the {what} in the precondition ({asked}) does not match the {what} in record ({has}). The object might have been {}",
                            if what == "UID" {
                                "deleted and then recreated"
                            } else {
                                "modified"
                            }
                        ),
                    ));
                }
            }
            set_condition(
                pod,
                ctx.now,
                "DisruptionTarget",
                "True",
                "EvictionByEvictionAPI",
                "Eviction API: evicting",
            );
            Ok(())
        };
        let marked = writer
            .update("", "pods", ctx.namespace, name, &mut mark)
            .await?;
        if !version.is_empty() {
            options.put(
                "preconditions.resourceVersion",
                marked.text("metadata.resourceVersion"),
            );
        }
    }
    writer
        .delete(ctx, "", "pods", ctx.namespace, name, &options)
        .await?;
    Ok(())
}

/// A dry run is asked for in the query or in the eviction's own options.
fn is_dry(ctx: &Context<'_>, options: &Value) -> bool {
    ctx.dry_run || !options.list("dryRun").is_empty()
}

#[async_trait]
impl ActionSubresource for Eviction {
    async fn post(
        &self,
        ctx: &Context<'_>,
        writer: &dyn ObjectWriter,
        body: Value,
    ) -> Result<(u16, Value), Status> {
        let name = body.name().to_owned();
        if name != ctx.name {
            return Err(Status::bad_request(
                "name in URL does not match name in Eviction object",
            ));
        }
        let mut options = body.at("deleteOptions").clone();
        if options.is_null() {
            options = json!({});
        }
        let asked_version = options.has("preconditions.resourceVersion");
        let mut tries = 1..TRIES;
        let pod = loop {
            let pod = writer.read("", "pods", ctx.namespace, &name).await?;
            if !ended_or_pending(&pod) {
                break pod;
            }
            let pin = pod.text("status.phase") == "Pending"
                && !pod.has("metadata.deletionTimestamp")
                && !asked_version;
            let version = pin.then(|| pod.text("metadata.resourceVersion").to_owned());
            match delete(ctx, writer, &name, options.clone(), version.as_deref()).await {
                // It may have become one that a budget protects.
                Err(s) if s.is_conflict() && !asked_version && tries.next().is_some() => {}
                Err(s) => return Err(s),
                Ok(()) => return Ok(success()),
            }
        };
        let budgets = ctx
            .reader
            .list("policy", "poddisruptionbudgets", ctx.namespace)
            .await?;
        let matching: Vec<_> = budgets
            .iter()
            .filter(|b| selector_matches(b.at("spec.selector"), pod.at("metadata.labels")))
            .collect();
        let mut pinned = None;
        match matching.as_slice() {
            [] => {}
            [budget] if !ready(&pod) && unhealthy_goes(budget) => {
                pinned = Some(pod.text("metadata.resourceVersion").to_owned());
            }
            [budget] => {
                let dry = is_dry(ctx, &options);
                take(ctx, writer, budget.name(), &name, dry).await?;
            }
            _ => {
                return Err(Status::failure(
                    500,
                    "",
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        }
        match delete(ctx, writer, &name, options, pinned.as_deref()).await {
            Err(s) if s.is_conflict() && pinned.is_some() && !asked_version => {
                let budget = matching.first().map_or("", |b| b.name());
                Err(too_many(
                    format!(
                        "The disruption budget {budget} is still being processed by the server."
                    ),
                    10,
                ))
            }
            Err(s) => Err(s),
            Ok(()) => Ok(success()),
        }
    }
}

async fn take(
    ctx: &Context<'_>,
    writer: &dyn ObjectWriter,
    budget: &str,
    pod: &str,
    dry: bool,
) -> Result<(), Status> {
    let mut change = |b: &mut Value| decrement(b, pod, ctx.now, dry);
    if dry {
        let mut now = writer
            .read("policy", "poddisruptionbudgets", ctx.namespace, budget)
            .await?;
        return change(&mut now);
    }
    writer
        .update(
            "policy",
            "poddisruptionbudgets",
            ctx.namespace,
            budget,
            &mut change,
        )
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_count_down_and_refuse() {
        let mut b = json!({"metadata": {"name": "b", "generation": 1}, "status": {
            "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2}});
        decrement(&mut b, "p", "now", false).unwrap();
        assert_eq!(b.int("status.disruptionsAllowed"), 0);
        assert_eq!(b.at("status.disruptedPods"), &json!({"p": "now"}));
        b.put("status.currentHealthy", 2);
        let s = decrement(&mut b, "p2", "now", false).unwrap_err();
        assert_eq!((s.code, s.message.as_str()), (429, VIOLATES));
        let cause = &s.details.unwrap().causes[0];
        assert_eq!(
            cause.message,
            "The disruption budget b needs 2 healthy pods and has 2 currently"
        );
        b.put("metadata.generation", 2);
        let s = decrement(&mut b, "p2", "now", false).unwrap_err();
        assert_eq!(s.details.unwrap().retry_after_seconds, 10);
    }
}
