//! Jobs and cron jobs.

use std::collections::BTreeSet;

use apiserver::resource::{Context, Strategy};
use serde_json::{Value, json};

use super::split_status;
use super::workload::shown_selector;
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_label, dns1123_subdomain, each, non_negative, qualified_name};
use crate::defaults;
use crate::validate::{Errors, Path, meta, pod_spec, shown};
use crate::value::{Tree, same};
use crate::warn;
use api::cron;

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
/// From before labels of the project had a prefix.
const LEGACY_UID_LABEL: &str = "controller-uid";
/// From before labels of the project had a prefix.
const LEGACY_NAME_LABEL: &str = "job-name";

/// The most pods an indexed job may run at once.
const MAX_PARALLELISM: i64 = 100_000;
/// Above so many completions other limits hold.
const MANY_COMPLETIONS: i64 = 100_000;
/// The limits above many completions.
const MANY_LIMIT: i64 = 10_000;
/// The most rules of a policy.
const MAX_RULES: usize = 20;

struct Job;

fn template_defaults(t: &mut Value) {
    defaults::pod::template(t);
}

fn policy_defaults(spec: &mut Value) {
    for rule in spec.list_mut("podFailurePolicy.rules") {
        for c in rule.list_mut("onPodConditions") {
            c.put_if_zero("status", "True");
        }
    }
}

fn job_defaults(o: &mut Value) {
    if !o.has("spec") {
        o.put("spec", json!({}));
    }
    if let Some(t) = o.at_mut("spec.template") {
        template_defaults(t);
    }
    if !o.has("spec.completions") && !o.has("spec.parallelism") {
        o.put("spec.completions", 1);
    }
    o.put_if_absent("spec.parallelism", 1);
    let backoff = if o.has("spec.backoffLimitPerIndex") {
        i32::MAX
    } else {
        6
    };
    o.put_if_absent("spec.backoffLimit", backoff);
    labels_from_template(o);
    o.put_if_absent("spec.completionMode", "NonIndexed");
    o.put_if_absent("spec.suspend", false);
    let replacement = if o.has("spec.podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    o.put_if_absent("spec.podReplacementPolicy", replacement);
    o.put_if_absent("spec.manualSelector", false);
    if let Some(spec) = o.at_mut("spec") {
        policy_defaults(spec);
    }
}

fn labels_from_template(o: &mut Value) {
    let labels = o.at("spec.template.metadata.labels").clone();
    if !labels.is_blank() && o.map("metadata.labels").is_empty() {
        o.put("metadata.labels", labels);
    }
}

fn put_label(map: &mut Value, key: &str, value: &str) {
    if !map.is_object() {
        *map = json!({});
    }
    if let Some(m) = map.as_object_mut() {
        m.entry(key).or_insert_with(|| value.into());
    }
}

/// Unless the client selects its own pods, the job's identity does.
fn generate_selector(o: &mut Value) {
    if o.flag("spec.manualSelector") {
        return;
    }
    let (name, uid) = (o.name().to_owned(), o.text("metadata.uid").to_owned());
    let labels = o.slot("spec.template.metadata.labels");
    for (key, value) in [
        (LEGACY_NAME_LABEL, &name),
        (NAME_LABEL, &name),
        (LEGACY_UID_LABEL, &uid),
        (UID_LABEL, &uid),
    ] {
        put_label(labels, key, value);
    }
    put_label(o.slot("spec.selector.matchLabels"), UID_LABEL, &uid);
}

fn has_label(e: &mut Errors, o: &Value, key: &str, want: &str) {
    let labels = o.at("spec.template.metadata.labels");
    let path = Path::new("spec")
        .child("template")
        .child("metadata")
        .child("labels")
        .key(key);
    let why = format!("must be '{want}'");
    match labels.map("").get(key).and_then(Value::as_str) {
        None => e.required(&path, &why),
        Some(v) if v != want => e.invalid_shown(&path, &labels.to_string(), &why),
        Some(_) => {}
    }
}

fn generated_selector(e: &mut Errors, o: &Value, prefixed: bool) {
    let selector = o.at("spec.selector");
    if o.flag("spec.manualSelector") || selector.is_null() {
        return;
    }
    let (name, uid) = (o.name(), o.text("metadata.uid"));
    if uid.is_empty() {
        e.required(&Path::new("metadata").child("uid"), "");
    }
    let mut expected = json!({LEGACY_UID_LABEL: uid, LEGACY_NAME_LABEL: name});
    has_label(e, o, LEGACY_UID_LABEL, uid);
    has_label(e, o, LEGACY_NAME_LABEL, name);
    if prefixed {
        has_label(e, o, UID_LABEL, uid);
        has_label(e, o, NAME_LABEL, name);
        put_label(&mut expected, UID_LABEL, uid);
        put_label(&mut expected, NAME_LABEL, name);
    }
    if !meta::selector_matches(selector, &expected) {
        e.invalid_shown(
            &Path::new("spec").child("selector"),
            &shown_selector(selector),
            "`selector` not auto-generated",
        );
    }
}

fn domain_prefixed(e: &mut Errors, path: &Path, value: &str) {
    if value.is_empty() {
        e.required(path, "");
        return;
    }
    match value.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            each(e, path, host, dns1123_subdomain(host));
        }
        _ => e.invalid(
            path,
            value,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
    }
}

/// `at most`, for an optional count.
fn limit(e: &mut Errors, path: &Path, spec: &Value, key: &str, max: i64, why: &str) {
    if let Some(n) = spec.int_opt(key).filter(|n| *n > max) {
        e.invalid(&path.child(key), n, why);
    }
}

fn indexed(e: &mut Errors, path: &Path, spec: &Value) {
    let completions = spec.int_opt("completions");
    if completions.is_none() {
        e.required(
            &path.child("completions"),
            "when completion mode is Indexed",
        );
    }
    limit(
        e,
        path,
        spec,
        "parallelism",
        MAX_PARALLELISM,
        "must be less than or equal to 100000 when completion mode is Indexed",
    );
    if let Some(n) = completions {
        limit(
            e,
            path,
            spec,
            "maxFailedIndexes",
            n,
            "must be less than or equal to completions",
        );
    }
    limit(
        e,
        path,
        spec,
        "maxFailedIndexes",
        MAX_PARALLELISM,
        "must be less than or equal to 100000",
    );
    if completions.is_some_and(|n| n > MANY_COMPLETIONS) && spec.has("backoffLimitPerIndex") {
        const WHY: &str = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
        if !spec.has("maxFailedIndexes") {
            e.required(
                &path.child("maxFailedIndexes"),
                "must be specified when completions is above 100000",
            );
        }
        limit(e, path, spec, "parallelism", MANY_LIMIT, WHY);
        limit(e, path, spec, "maxFailedIndexes", MANY_LIMIT, WHY);
    }
}

fn completion_mode(e: &mut Errors, path: &Path, spec: &Value) {
    match spec.text_opt("completionMode") {
        Some("Indexed") => indexed(e, path, spec),
        None | Some("NonIndexed") => {
            for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(n) = spec.int_opt(key) {
                    e.invalid(&path.child(key), n, "requires indexed completion mode");
                }
            }
        }
        Some(other) => e.not_supported(
            &path.child("completionMode"),
            other,
            &["NonIndexed", "Indexed"],
        ),
    }
}

fn job_spec(e: &mut Errors, path: &Path, spec: &Value) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        if let Some(n) = spec.int_opt(key) {
            non_negative(e, &path.child(key), n);
        }
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        e.required(
            &path.child("backoffLimitPerIndex"),
            "when maxFailedIndexes is specified",
        );
    }
    if let Some(by) = spec.text_opt("managedBy") {
        domain_prefixed(e, &path.child("managedBy"), by);
        if by.len() > 63 {
            e.too_long(&path.child("managedBy"), 63);
        }
    }
    completion_mode(e, path, spec);
    if spec.has("podFailurePolicy") {
        failure_policy(e, &path.child("podFailurePolicy"), spec);
    }
    if spec.has("successPolicy") {
        let p = path.child("successPolicy");
        if spec.text("completionMode") == "Indexed" {
            success_policy(e, &p, spec);
        } else {
            let shown = shown::internal("batch/v1", "SuccessPolicy", spec.at("successPolicy"));
            e.invalid_shown(&p, &shown, "requires indexed completion mode");
        }
    }
    replacement_policy(e, &path.child("podReplacementPolicy"), spec);
    let template = path.child("template");
    pod_spec::template(e, &template, spec.at("template"));
    restart_policy(e, &template.child("spec").child("restartPolicy"), spec);
}

fn restart_policy(e: &mut Errors, path: &Path, spec: &Value) {
    match spec.text("template.spec.restartPolicy") {
        "" | "Always" => e.required(path, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" => {
            if spec.has("podFailurePolicy") {
                e.invalid(
                    path,
                    "OnFailure",
                    "only \"Never\" is supported when podFailurePolicy is specified",
                );
            }
        }
        other => e.not_supported(path, other, &["OnFailure", "Never"]),
    }
}

fn replacement_policy(e: &mut Errors, path: &Path, spec: &Value) {
    let Some(p) = spec.text_opt("podReplacementPolicy") else {
        return;
    };
    let allowed: &[&str] = if spec.has("podFailurePolicy") {
        &["Failed"]
    } else {
        &["Failed", "TerminatingOrFailed"]
    };
    if !allowed.contains(&p) {
        e.not_supported(path, p, allowed);
    }
}

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// One of a few words, required.
fn one_of(e: &mut Errors, path: &Path, value: &str, allowed: &[&str]) {
    if value.is_empty() {
        let quoted: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
        e.required(path, &format!("valid values: [{}]", quoted.join(" ")));
    } else if !allowed.contains(&value) {
        e.not_supported(path, value, allowed);
    }
}

fn failure_policy(e: &mut Errors, path: &Path, spec: &Value) {
    let rules = spec.list("podFailurePolicy.rules");
    let path = path.child("rules");
    if rules.len() > MAX_RULES {
        e.too_many(&path, rules.len(), MAX_RULES);
    }
    let names: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|k| spec.at("template.spec").list(k))
        .map(|c| c.text("name"))
        .collect();
    for (i, rule) in rules.iter().enumerate() {
        failure_rule(e, &path.index(i), rule, spec, &names);
    }
}

fn failure_rule(e: &mut Errors, path: &Path, rule: &Value, spec: &Value, names: &BTreeSet<&str>) {
    let action = rule.text("action");
    if action == "FailIndex" {
        if !spec.has("backoffLimitPerIndex") {
            e.invalid(
                &path.child("action"),
                action,
                "requires the backoffLimitPerIndex to be set",
            );
        }
    } else {
        one_of(e, &path.child("action"), action, &ACTIONS);
    }
    let (codes, conditions) = (rule.at("onExitCodes"), rule.list("onPodConditions"));
    if !codes.is_null() {
        exit_codes(e, &path.child("onExitCodes"), codes, names);
    }
    let p = path.child("onPodConditions");
    if conditions.len() > MAX_RULES {
        e.too_many(&p, conditions.len(), MAX_RULES);
    }
    for (i, c) in conditions.iter().enumerate() {
        let kind = c.text("type");
        each(e, &p.index(i).child("type"), kind, qualified_name(kind));
        one_of(e, &p.index(i).child("status"), c.text("status"), &STATUSES);
    }
    if !codes.is_null() && !conditions.is_empty() {
        e.invalid_omitted(
            path,
            "specifying both OnExitCodes and OnPodConditions is not supported",
        );
    }
    if codes.is_null() && conditions.is_empty() {
        e.invalid_omitted(
            path,
            "specifying one of OnExitCodes and OnPodConditions is required",
        );
    }
}

fn exit_codes(e: &mut Errors, path: &Path, codes: &Value, names: &BTreeSet<&str>) {
    let operator = codes.text("operator");
    one_of(e, &path.child("operator"), operator, &OPERATORS);
    if let Some(n) = codes.text_opt("containerName")
        && !names.contains(n)
    {
        e.invalid(
            &path.child("containerName"),
            n,
            "must be one of the container or initContainer names in the pod template",
        );
    }
    let p = path.child("values");
    let values: Vec<i64> = codes
        .list("values")
        .iter()
        .filter_map(Value::as_i64)
        .collect();
    if values.is_empty() {
        e.invalid(
            &p,
            codes.at("values").clone(),
            "at least one value is required",
        );
    } else if values.len() > 255 {
        e.too_many(&p, values.len(), 255);
    }
    let mut seen = BTreeSet::new();
    for (i, v) in values.iter().enumerate() {
        if operator == "In" && *v == 0 {
            e.invalid(&p.index(i), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(v) {
            e.duplicate(&p.index(i), *v);
        }
    }
    if !values.is_sorted() {
        e.invalid(&p, codes.at("values").clone(), "must be ordered");
    }
}

fn success_policy(e: &mut Errors, path: &Path, spec: &Value) {
    let rules = spec.list("successPolicy.rules");
    let p = path.child("rules");
    if rules.is_empty() {
        e.required(
            &p,
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    if rules.len() > MAX_RULES {
        e.too_many(&p, rules.len(), MAX_RULES);
    }
    let completions = spec.int("completions");
    for (i, rule) in rules.iter().enumerate() {
        success_rule(e, &p.index(i), rule, completions);
    }
}

fn success_rule(e: &mut Errors, path: &Path, rule: &Value, completions: i64) {
    let (count, text) = (
        rule.int_opt("succeededCount"),
        rule.text_opt("succeededIndexes"),
    );
    if count.is_none() && text.is_none() {
        e.required(
            path,
            "at least one of succeededCount or succeededIndexes must be specified",
        );
    }
    let mut total = 0;
    if let Some(t) = text {
        match indexes(t, completions) {
            Ok(list) => total = list.iter().map(|(x, y)| y - x + 1).sum(),
            Err(why) => e.invalid(
                &path.child("succeededIndexes"),
                t,
                &format!("error parsing succeededIndexes: {why}"),
            ),
        }
    }
    let Some(count) = count else { return };
    let p = path.child("succeededCount");
    non_negative(e, &p, count);
    if count > completions {
        e.invalid(
            &p,
            count,
            &format!(
                "must be less than or equal to {completions} (the number of specified completions)"
            ),
        );
    }
    if text.is_some() && count > total {
        e.invalid(&p, count, &format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"));
    }
}

/// Intervals such as `1,3-5`.
fn indexes(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut out: Vec<(i64, i64)> = vec![];
    if text.is_empty() {
        return Ok(out);
    }
    for part in text.split(',') {
        let (x, y) = interval(part, completions)?;
        if let Some((_, last)) = out.last()
            && *last >= x
        {
            return Err(format!(
                "non-increasing order, previous: {last}, current: {x}"
            ));
        }
        out.push((x, y));
    }
    Ok(out)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let number = |s: &str| -> Result<i64, String> {
        let n: i64 = s
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {s:?}"))?;
        if n >= completions {
            return Err(format!("too large index: {s:?}"));
        }
        Ok(n)
    };
    match text.split('-').collect::<Vec<_>>()[..] {
        [one] => number(one).map(|n| (n, n)),
        [from, to] => {
            let (x, y) = (number(from)?, number(to)?);
            if x >= y {
                return Err(format!("non-increasing order, previous: {x}, current: {y}"));
            }
            Ok((x, y))
        }
        _ => Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

fn full_spec(e: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    job_spec(e, &path, spec);
    let selector = spec.at("selector");
    if selector.is_null() {
        e.required(&path.child("selector"), "");
    }
    meta::selector(e, &path.child("selector"), selector);
    let labels = spec.at("template.metadata.labels");
    if !meta::selector_matches(selector, labels) {
        e.invalid_shown(
            &path.child("template").child("metadata").child("labels"),
            &labels.to_string(),
            "`selector` does not match template `labels`",
        );
    }
}

fn validate_job(e: &mut Errors, o: &Value, prefixed: bool) {
    generated_selector(e, o, prefixed);
    let spec = o.at("spec");
    full_spec(e, spec);
    let completions = spec.int("completions");
    if spec.text("completionMode") == "Indexed" && completions > 0 {
        let host = format!("{}-{}", o.name(), completions - 1);
        if !dns1123_label(&host).is_empty() {
            e.invalid(
                &Path::new("metadata").child("name"),
                o.name(),
                &format!("will not able to create pod with invalid DNS label: {host}"),
            );
        }
    }
}

/// What may change of the template of a suspended job that runs nothing.
fn allow_scheduling(old: &mut Value, new: &Value) {
    old.copy_at("spec.affinity.nodeAffinity", new);
    if old.at("spec.affinity").is_blank() {
        old.remove_at("spec.affinity");
    }
    for key in [
        "spec.nodeSelector",
        "spec.tolerations",
        "spec.schedulingGates",
        "metadata.annotations",
        "metadata.labels",
    ] {
        if new.has(key) || old.has(key) {
            old.copy_at(key, new);
        }
    }
    for key in ["containers", "initContainers"] {
        let new = new.at("spec").list(key);
        let old = old
            .at_mut("spec")
            .map(|s| s.list_mut(key))
            .unwrap_or_default();
        if new.len() == old.len() {
            for (o, n) in old.iter_mut().zip(new) {
                if o.at("name") == n.at("name") {
                    o.copy_at("resources", n);
                }
            }
        }
    }
}

fn condition(o: &Value, kind: &str) -> bool {
    o.list("status.conditions")
        .iter()
        .any(|c| c.text("type") == kind && c.text("status") == "True")
}

fn template_change(e: &mut Errors, new: &Value, old: &Value) {
    let (template, mut before) = (new.at("spec.template"), old.at("spec.template").clone());
    let open = old.flag("spec.suspend")
        && (!old.has("status.startTime") || condition(old, "Suspended"))
        && old.int("status.active") == 0;
    if open {
        allow_scheduling(&mut before, template);
    }
    if !same(template, &before) {
        e.invalid_shown(
            &Path::new("spec").child("template"),
            &shown::internal("v1", "PodTemplateSpec", template),
            "field is immutable",
        );
    }
}

fn change(e: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (n, o) = (new.at("spec"), old.at("spec"));
    full_spec(e, n);
    let completions = path.child("completions");
    let changed = !same(n.at("completions"), o.at("completions"));
    if n.text("completionMode") != "Indexed" {
        if changed {
            e.invalid(
                &completions,
                n.at("completions").clone(),
                "field is immutable",
            );
        }
    } else if changed && n.has("completions") && n.int("completions") != n.int("parallelism") {
        e.invalid(
            &completions,
            n.int("completions"),
            "can only be modified in tandem with spec.parallelism",
        );
    }
    if !same(n.at("selector"), o.at("selector")) {
        e.invalid_shown(
            &path.child("selector"),
            &shown_selector(n.at("selector")),
            "field is immutable",
        );
    }
    template_change(e, new, old);
    for key in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        if !same(n.at(key), o.at(key)) {
            e.invalid(&path.child(key), n.at(key).clone(), "field is immutable");
        }
    }
}

fn status(new: &Value, old: &Value) -> Errors {
    let mut e = Errors::new();
    let path = Path::new("status");
    let (n, o) = (new.at("status"), old.at("status"));
    for key in ["active", "succeeded", "failed", "ready", "terminating"] {
        non_negative(&mut e, &path.child(key), n.int(key));
    }
    status_conditions(&mut e, &path.child("conditions"), new, old);
    let (complete, failed) = (condition(new, "Complete"), condition(new, "Failed"));
    let finished = complete || failed;
    let changed = |key: &str| !same(n.at(key), o.at(key));
    let finishes = finished != (condition(old, "Complete") || condition(old, "Failed"));
    if changed("completionTime") || complete != condition(old, "Complete") {
        let p = path.child("completionTime");
        if n.has("completionTime") && !complete {
            e.invalid(
                &p,
                n.at("completionTime").clone(),
                "cannot set completionTime when there is no Complete=True condition",
            );
        }
        if !n.has("completionTime") && complete {
            e.required(&p, "completionTime is required for Complete jobs");
        }
    }
    if (finishes || changed("active")) && finished && n.int("active") > 0 {
        e.invalid(
            &path.child("active"),
            n.int("active"),
            "active>0 is invalid for finished job",
        );
    }
    if finishes && !n.has("startTime") && finished && !new.flag("spec.suspend") {
        e.required(
            &path.child("startTime"),
            "startTime is required for finished job",
        );
    }
    if (changed("ready") || changed("active")) && n.int("ready") > n.int("active") {
        e.invalid(
            &path.child("ready"),
            n.int("ready"),
            "cannot set more ready pods than active",
        );
    }
    for (key, guarded) in [
        ("failed", true),
        (
            "succeeded",
            new.text("spec.completionMode") != "Indexed"
                || new.at("spec.completions") != new.at("spec.parallelism"),
        ),
    ] {
        if guarded && n.int(key) < o.int(key) {
            e.invalid(
                &path.child(key),
                n.int(key),
                &format!("cannot decrease the {key} counter"),
            );
        }
    }
    e
}

fn status_conditions(e: &mut Errors, path: &Path, new: &Value, old: &Value) {
    let is = |kind| condition(new, kind);
    let changed = |kind| is(kind) != condition(old, kind);
    let mut refuse = |bad: bool, why: &str| {
        if bad {
            e.invalid_omitted(path, why);
        }
    };
    refuse(
        is("Complete") && is("Failed") && (changed("Complete") || changed("Failed")),
        "cannot set Complete=True and Failed=true conditions",
    );
    refuse(
        is("Complete") && is("FailureTarget") && (changed("Complete") || changed("FailureTarget")),
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    refuse(
        is("Failed") && !is("FailureTarget") && changed("Failed"),
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    refuse(
        is("Complete")
            && !is("SuccessCriteriaMet")
            && (changed("Complete") || changed("SuccessCriteriaMet")),
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    refuse(
        is("SuccessCriteriaMet") && is("Failed"),
        "cannot set SuccessCriteriaMet=True and Failed=true conditions",
    );
    refuse(
        is("SuccessCriteriaMet") && is("FailureTarget"),
        "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
    );
    for kind in ["Failed", "Complete", "FailureTarget"] {
        refuse(
            condition(old, kind) && !is(kind),
            &format!("cannot disable the terminal {kind}=True condition"),
        );
    }
    refuse(
        condition(old, "SuccessCriteriaMet") && !is("SuccessCriteriaMet"),
        "cannot disable the SuccessCriteriaMet=True condition",
    );
}

impl Strategy for Job {
    fn default(&self, o: &mut Value) {
        job_defaults(o);
    }

    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        // Labels that came from the template go on doing so; labels that only happen to be the same cannot be told apart.
        let shared = same(
            o.at("metadata.labels"),
            o.at("spec.template.metadata.labels"),
        );
        generate_selector(o);
        if shared {
            o.remove_at("metadata.labels");
        }
        labels_from_template(o);
        o.put("status", json!({}));
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        split_status(ctx, o, old);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        validate_job(&mut e, o, true);
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        if ctx.subresource == "status" {
            return status(o, old);
        }
        let labels = old.map("spec.template.metadata.labels");
        let prefixed = labels.contains_key(NAME_LABEL) && labels.contains_key(UID_LABEL);
        let mut e = Errors::new();
        validate_job(&mut e, o, prefixed);
        change(&mut e, o, old);
        e
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn orphan_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        )
    }

    fn field_values(&self, o: &Value) -> Vec<(&'static str, String)> {
        vec![("status.successful", o.int("status.succeeded").to_string())]
    }

    fn warnings(&self, ctx: &Context<'_>, o: &Value, old: Option<&Value>) -> Vec<String> {
        warnings(ctx, o, old, &Path::new("spec"), "spec")
    }
}

/// Of the job's spec at a path of an object that counts generations.
fn warnings(
    ctx: &Context<'_>,
    o: &Value,
    old: Option<&Value>,
    path: &Path,
    at: &str,
) -> Vec<String> {
    let mut out = vec![];
    if old.is_none() {
        warn::name(&mut out, o, "Pod names and hostnames");
    }
    let grown = |old: &Value| old.int("metadata.generation") != o.int("metadata.generation");
    if ctx.subresource.is_empty() && old.is_none_or(grown) {
        out.extend(warn::pod::job(path, o.at(at)));
    }
    out
}

/// Jobs.
pub fn job(_: &Config) -> Parts {
    Parts::new(Job).fields(&["status.successful"])
}

struct CronJob;

/// A job's name has 11 characters more than its cron job's.
const MAX_CRON_NAME: usize = 52;

fn cron_spec(e: &mut Errors, spec: &Value, old: Option<&Value>) {
    let path = Path::new("spec");
    let schedule = spec.text("schedule");
    let zone = spec.text_opt("timeZone");
    let p = path.child("schedule");
    if schedule.is_empty() {
        e.required(&p, "");
    } else {
        let allowed = old.is_some_and(|o| o.text("schedule").contains("TZ"));
        if let Err(why) = cron::parse(schedule) {
            e.invalid(&p, schedule, &why);
        }
        if schedule.contains("TZ") && !allowed {
            e.invalid(
                &p,
                schedule,
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            );
        } else if schedule.contains("TZ") && zone.is_some() {
            e.invalid(
                &p,
                schedule,
                "cannot use both timeZone field and TZ or CRON_TZ in schedule",
            );
        }
    }
    let count = |e: &mut Errors, key: &str| {
        if let Some(n) = spec.int_opt(key) {
            non_negative(e, &path.child(key), n);
        }
    };
    count(e, "startingDeadlineSeconds");
    if let Some(z) = zone
        && old.is_none_or(|o| o.text_opt("timeZone") != Some(z))
    {
        time_zone(e, &path.child("timeZone"), z);
    }
    let policy = spec.text("concurrencyPolicy");
    if policy.is_empty() {
        e.required(&path.child("concurrencyPolicy"), "");
    } else if !["Allow", "Forbid", "Replace"].contains(&policy) {
        e.not_supported(
            &path.child("concurrencyPolicy"),
            policy,
            &["Allow", "Forbid", "Replace"],
        );
    }
    let job = path.child("jobTemplate").child("spec");
    let inner = spec.at("jobTemplate.spec");
    job_spec(e, &job, inner);
    if inner.has("selector") {
        e.invalid_shown(
            &job.child("selector"),
            &shown_selector(inner.at("selector")),
            "`selector` will be auto-generated",
        );
    }
    if inner.flag("manualSelector") {
        e.not_supported(&job.child("manualSelector"), true, &["nil", "false"]);
    }
    count(e, "successfulJobsHistoryLimit");
    count(e, "failedJobsHistoryLimit");
}

fn time_zone(e: &mut Errors, path: &Path, zone: &str) {
    let unknown = format!("unknown time zone {zone}");
    let odd = |part: &str| {
        part.is_empty()
            || part.len() > 14
            || part == "."
            || part == ".."
            || part.starts_with('-')
            || !part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ".-_+".contains(c))
    };
    if zone.is_empty() {
        e.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if zone.split('/').any(odd) {
        e.invalid(path, zone, &unknown);
    } else {
        if zone.eq_ignore_ascii_case("local") {
            e.invalid(
                path,
                zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        }
        if cron::zone(zone).is_err() {
            e.invalid(path, zone, &unknown);
        }
    }
}

impl Strategy for CronJob {
    fn default(&self, o: &mut Value) {
        o.put_if_zero("spec.concurrencyPolicy", "Allow");
        o.put_if_absent("spec.suspend", false);
        o.put_if_absent("spec.successfulJobsHistoryLimit", 3);
        o.put_if_absent("spec.failedJobsHistoryLimit", 1);
        if let Some(t) = o.at_mut("spec.jobTemplate.spec.template") {
            template_defaults(t);
        }
        if let Some(spec) = o.at_mut("spec.jobTemplate.spec") {
            policy_defaults(spec);
        }
    }

    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        o.put("status", json!({}));
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        split_status(ctx, o, old);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        cron_spec(&mut e, o.at("spec"), None);
        if o.name().len() > MAX_CRON_NAME {
            e.invalid(
                &Path::new("metadata").child("name"),
                o.name(),
                "must be no more than 52 characters",
            );
        }
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = Errors::new();
        if ctx.subresource != "status" {
            cron_spec(&mut e, o.at("spec"), Some(old.at("spec")));
        }
        e
    }

    fn warnings(&self, ctx: &Context<'_>, o: &Value, old: Option<&Value>) -> Vec<String> {
        let path = Path::new("spec").child("jobTemplate").child("spec");
        let mut out = warnings(ctx, o, old, &path, "spec.jobTemplate.spec");
        if old.is_some() && ctx.subresource.is_empty() && o.text("spec.schedule").contains("TZ") {
            out.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".into());
        }
        out
    }
}

/// Cron jobs.
pub fn cron_job(_: &Config) -> Parts {
    Parts::new(CronJob)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(spec: Value) -> Value {
        let mut o = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j5", "uid": "u"},
            "spec": {"suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "b"}]}}}});
        for (k, v) in spec.map("") {
            o.slot("spec").put(k, v.clone());
        }
        job_defaults(&mut o);
        // What the schema's markers fill in.
        for c in o.slot("spec.template.spec").list_mut("containers") {
            c.put("terminationMessagePath", "/dev/termination-log");
            c.put("terminationMessagePolicy", "File");
            c.put("imagePullPolicy", "Always");
        }
        generate_selector(&mut o);
        labels_from_template(&mut o);
        o
    }

    fn wrong(spec: Value) -> String {
        let mut e = Errors::new();
        validate_job(&mut e, &made(spec), true);
        if e.is_empty() {
            String::new()
        } else {
            e.aggregate()
        }
    }

    #[test]
    fn jobs() {
        for (spec, want) in [
            (json!({}), ""),
            (
                json!({"parallelism": -1}),
                "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"podFailurePolicy": {"rules": [{"action": "Foo"}]}}),
                "[spec.podFailurePolicy.rules[0].action: Unsupported value: \"Foo\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\", spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required]",
            ),
            (
                json!({"selector": {"matchLabels": {"a": "b"}}}),
                "[spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u\"}}: `selector` not auto-generated, spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u\",\"batch.kubernetes.io/job-name\":\"j5\",\"controller-uid\":\"u\",\"job-name\":\"j5\"}: `selector` does not match template `labels`]",
            ),
        ] {
            assert_eq!(wrong(spec), want);
        }
        let o = made(json!({}));
        assert_eq!(o.label(NAME_LABEL), Some("j5"));
        assert_eq!(o.int("spec.completions"), 1);
    }

    #[test]
    fn templates_stay() {
        let old = made(json!({}));
        let mut new = old.clone();
        new.put("spec.template.spec.nodeSelector", json!({"a": "b"}));
        let check = |new: &Value, old: &Value| {
            let mut e = Errors::new();
            change(&mut e, new, old);
            e.aggregate()
        };
        assert_eq!(check(&new, &old), "[]");
        let mut running = old.clone();
        running.put("spec.suspend", false);
        let error = check(&new, &running);
        let (at, said) = ("spec.template: Invalid value: {", "}: field is immutable");
        assert!(error.starts_with(at) && error.ends_with(said), "{error}");
    }

    #[test]
    fn index_lists() {
        assert_eq!(indexes("1,3-5", 6), Ok(vec![(1, 1), (3, 5)]));
        assert_eq!(
            indexes("3,1", 6).unwrap_err(),
            "non-increasing order, previous: 3, current: 1"
        );
        assert_eq!(indexes("6", 6).unwrap_err(), "too large index: \"6\"");
        assert_eq!(
            indexes("x", 6).unwrap_err(),
            "cannot convert string to integer for index: \"x\""
        );
    }

    #[test]
    fn cron_jobs() {
        let template = made(json!({})).at("spec.template").clone();
        let spec = |more: Value| {
            let mut s = json!({"schedule": "* * * * *", "concurrencyPolicy": "Allow",
                "jobTemplate": {"spec": {"template": template}}});
            for (k, v) in more.map("") {
                s.put(k, v.clone());
            }
            let mut e = Errors::new();
            cron_spec(&mut e, &s, None);
            if e.is_empty() {
                String::new()
            } else {
                e.aggregate()
            }
        };
        for (more, want) in [
            (json!({}), ""),
            (
                json!({"schedule": "x"}),
                "spec.schedule: Invalid value: \"x\": expected exactly 5 fields, found 1: [x]",
            ),
            (
                json!({"timeZone": "No/Where"}),
                "spec.timeZone: Invalid value: \"No/Where\": unknown time zone No/Where",
            ),
            (
                json!({"concurrencyPolicy": "x"}),
                "spec.concurrencyPolicy: Unsupported value: \"x\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
        ] {
            assert_eq!(spec(more), want);
        }
    }
}
