//! What failed and succeeded pods mean to a job's policies.

use crate::job::indexes::Indexes;
use crate::views::{ContainerStatus, ExitCodes, Job, Pod, PodFailurePolicy, SuccessPolicy};

/// What a rule says of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts as any failure does.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The job has failed, and why.
    FailJob(String),
}

impl Verdict {
    /// Whether the failure counts towards the limits.
    pub fn counts(&self) -> bool {
        *self != Verdict::Ignore
    }
}

fn ended_as<'a>(
    statuses: &'a [ContainerStatus],
    codes: &ExitCodes,
) -> Option<(&'a ContainerStatus, i32)> {
    statuses.iter().find_map(|s| {
        let code = s.state.terminated.as_ref()?.exit_code;
        let named = codes.container_name.as_ref().is_none_or(|n| *n == s.name);
        let matches = match codes.operator.as_str() {
            "In" => codes.values.contains(&code),
            "NotIn" => !codes.values.contains(&code),
            _ => false,
        };
        (named && code != 0 && matches).then_some((s, code))
    })
}

/// What the first rule that matches says; without one a failure counts.
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.map_or(&[][..], |p| &p.rules);
    for (i, rule) in rules.iter().enumerate() {
        let action = rule.action.as_str();
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        let why = match &rule.on_exit_codes {
            Some(codes) => ended_as(&pod.status.container_statuses, codes)
                .or_else(|| ended_as(&pod.status.init_container_statuses, codes))
                .map(|(container, code)| {
                    format!(
                        "Container {} for pod {namespace}/{name} failed with exit code {code} matching {action} rule at index {i}",
                        container.name
                    )
                }),
            None => pod
                .status
                .conditions
                .iter()
                .find(|c| {
                    let matches = |p: &crate::views::ConditionPattern| p.kind == c.kind && p.status == c.status;
                    rule.on_pod_conditions.iter().any(matches)
                })
                .map(|c| {
                    format!(
                        "Pod {namespace}/{name} has condition {} matching {action} rule at index {i}",
                        c.kind
                    )
                }),
        };
        match (why, action) {
            (Some(_), "Ignore") => return Verdict::Ignore,
            (Some(_), "FailIndex") => return Verdict::FailIndex,
            (Some(_), "Count") => return Verdict::Count,
            (Some(why), "FailJob") => return Verdict::FailJob(why),
            _ => {}
        }
    }
    Verdict::Count
}

/// The rule that the indexes which succeeded satisfy.
pub fn success(policy: Option<&SuccessPolicy>, completions: u32, done: &Indexes) -> Option<String> {
    let rules = policy.map_or(&[][..], |p| &p.rules);
    let enough = |n: u64, wanted: Option<i32>| {
        wanted.is_some_and(|w| n >= u64::from(u32::try_from(w).unwrap_or(0)))
    };
    let at = rules
        .iter()
        .position(|rule| match &rule.succeeded_indexes {
            _ if done.is_empty() => false,
            Some(text) => {
                let required = Indexes::parse(text, completions);
                let n = required.overlap(done);
                !required.is_empty() && (n == required.total() || enough(n, rule.succeeded_count))
            }
            None => enough(done.total(), rule.succeeded_count),
        })?;
    Some(format!("Matched rules at index {at}"))
}

/// Whether a pod counts as failed: one that is being deleted does too, unless replacements wait for it to end.
pub fn is_failed(job: &Job, pod: &Pod) -> bool {
    let phase = pod.status.phase.as_str();
    phase == "Failed"
        || (!replaces_only_failed(job) && pod.metadata.is_deleting() && phase != "Succeeded")
}

/// Whether pods that are being deleted are replaced when they have ended only.
pub fn replaces_only_failed(job: &Job) -> bool {
    job.spec.pod_replacement_policy.as_deref() == Some("Failed")
        || job.spec.pod_failure_policy.is_some()
}
