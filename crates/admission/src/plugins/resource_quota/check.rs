//! Whether a request fits the quotas of its namespace, and what it is charged.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::Status;
use api::quota::pod::Silent;
use api::quota::scope::{Scope, Test};
use api::quota::{Amounts, Evaluator, Measured, Quota, add, growth, read};
use serde::Deserialize;
use serde_json::Value;

use crate::config::Limited;

/// What quotas need to know of a write.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Of the resource.
    pub evaluator: Evaluator,
    /// Whether it changes an object.
    pub update: bool,
    /// Whether that object was found.
    pub found: bool,
    /// What happens is told, and cannot be refused.
    pub status: bool,
    /// Nothing is charged.
    pub dry_run: bool,
    /// The object.
    pub new: Measured,
    /// The object as it is stored.
    pub old: Option<Measured>,
    /// What its containers leave open.
    pub silent: Silent,
    /// For refusals.
    pub group: String,
    /// For refusals.
    pub resource: String,
    /// For refusals.
    pub name: String,
    /// Seconds since 1970.
    pub now: i64,
}

impl Request {
    fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(&self.group, &self.resource, &self.name, why)
    }
}

/// A quota as it is while requests are checked.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// As it was read.
    pub seen: Arc<Value>,
    quota: Quota,
    scopes: Vec<Test>,
    hard: Amounts,
    /// With what was charged since.
    pub used: Amounts,
    /// Whether anything was.
    pub changed: bool,
}

impl Standing {
    /// # Errors
    /// When it has not the form of a quota.
    pub fn new(seen: Arc<Value>) -> Result<Standing, Status> {
        let quota = Quota::deserialize(&*seen).map_err(Status::internal)?;
        Ok(Standing {
            scopes: quota.scopes(),
            hard: read(&quota.status.hard),
            used: read(&quota.status.used),
            changed: false,
            quota,
            seen,
        })
    }

    pub fn name(&self) -> &str {
        &self.quota.metadata.name
    }

    /// Adds a charge.
    pub fn charge(&mut self, charge: &Amounts) {
        if !charge.is_empty() {
            add(&mut self.used, charge);
            self.changed = true;
        }
    }

    /// What is used of a name, as it was written where nothing was charged.
    pub fn shown(&self, name: &str) -> String {
        let written = self.quota.status.used.get(name);
        let used = self.used.get(name).copied().unwrap_or_default();
        let same = |text: &&String| text.parse() == Ok(used);
        written
            .filter(same)
            .map_or_else(|| used.to_string(), Clone::clone)
    }

    /// Whether the quota is about an object.
    fn matches(&self, e: &Evaluator, scope: &Scope) -> Result<bool, Status> {
        if !self.hard.keys().any(|name| e.tracks(name)) {
            return Ok(false);
        }
        let mut all = true;
        for test in &self.scopes {
            all &= test.matches(scope).map_err(plain)?;
        }
        Ok(all)
    }
}

/// An error that is nobody's fault.
fn plain(why: impl std::fmt::Display) -> Status {
    Status::failure(500, "", why.to_string())
}

fn joined<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(",")
}

/// The scopes of an object that need a quota. One that cannot be evaluated lifts the check, as upstream's does: `None`.
fn limited_scopes<'a>(limited: &'a [Limited], scope: &Scope) -> Option<Vec<&'a Test>> {
    let mut out = Vec::new();
    for test in limited.iter().flat_map(|l| &l.scopes) {
        if test.matches(scope).ok()? {
            out.push(test);
        }
    }
    Some(out)
}

/// The names of what is used that need a quota.
fn limited_names(r: &Request, limited: &[Limited], usage: &Amounts) -> BTreeSet<String> {
    let own = limited
        .iter()
        .filter(|l| l.group == r.group && l.resource == r.resource);
    let parts: Vec<&str> = own
        .flat_map(|l| l.contains.iter().map(String::as_str))
        .collect();
    let used = usage.iter().filter(|(_, q)| q.sign() > 0);
    used.map(|(name, _)| name)
        .filter(|name| parts.iter().any(|p| name.contains(p)))
        .cloned()
        .collect()
}

/// Upstream prints its list of requirements as Go does.
fn shown(tests: &[&Test]) -> String {
    let each = tests.iter().map(|t| {
        let r = &t.requirement;
        format!(
            "{{{} {} [{}]}}",
            r.scope_name,
            r.operator,
            r.values.join(" ")
        )
    });
    format!("[{}]", each.collect::<Vec<_>>().join(" "))
}

/// What each quota is charged for a request, in their order; empty when none is charged anything.
///
/// # Errors
/// 403 where it does not fit.
pub(super) fn check(
    quotas: &[Standing],
    r: &Request,
    limited: &[Limited],
) -> Result<Vec<Amounts>, Status> {
    let Some(needed) = limited_scopes(limited, &r.new.scope) else {
        return Ok(Vec::new());
    };
    let usage = r.new.usage(r.now);
    let names = limited_names(r, limited, &usage);
    let (mut covered, mut covered_scopes) = (BTreeSet::new(), BTreeSet::new());
    let mut concerned = Vec::new();
    for (i, q) in quotas.iter().enumerate() {
        for test in &q.scopes {
            let held = test.matches(&r.new.scope).map_err(|e| {
                let scope = shown(&[test]);
                plain(format!(
                    "error matching scopes of quota {}, err: error on matching scope {}: {e}",
                    q.name(),
                    scope.trim_matches(['[', ']'])
                ))
            })?;
            if held {
                covered_scopes.insert(test.requirement.scope_name.as_str());
            }
        }
        if !q.matches(&r.evaluator, &r.new.scope)? {
            continue;
        }
        let tracked: Vec<&str> = q
            .hard
            .keys()
            .map(String::as_str)
            .filter(|n| r.evaluator.tracks(n))
            .collect();
        if let Some(missing) = r.silent.missing(tracked.iter().copied()) {
            return Err(r.forbidden(&format!("failed quota: {}: {missing}", q.name())));
        }
        if tracked.iter().any(|n| !q.used.contains_key(*n)) {
            let names = joined(tracked);
            let why = format!("status unknown for quota: {}, resources: {names}", q.name());
            return Err(r.forbidden(&why));
        }
        covered.extend(tracked);
        concerned.push(i);
    }
    let negative = usage.iter().filter(|(_, q)| q.sign() < 0);
    let negative = joined(negative.map(|(n, _)| n.as_str()));
    if !negative.is_empty() {
        return Err(r.forbidden(&format!(
            "quota usage is negative for resource(s): {negative}"
        )));
    }
    if r.update && !r.found {
        return Err(r.forbidden(
            "unable to get previous usage since prior version of object was not found",
        ));
    }
    let whole = growth(&usage, &Amounts::new());
    let grown = match &r.old {
        Some(old) if r.update => growth(&usage, &old.usage(r.now)),
        _ => whole.clone(),
    };
    // A quota that the object falls under only now is charged all of it.
    let mut charges = vec![Amounts::new(); quotas.len()];
    let mut any = concerned.is_empty() && !grown.is_empty();
    for i in &concerned {
        let (Some(q), Some(charge)) = (quotas.get(*i), charges.get_mut(*i)) else {
            continue;
        };
        let knew = match &r.old {
            Some(old) if r.update => q.matches(&r.evaluator, &old.scope)?,
            _ => false,
        };
        charge.clone_from(if knew { &grown } else { &whole });
        any |= !charge.is_empty();
    }
    if !any {
        return Ok(Vec::new());
    }
    let uncovered = joined(
        names
            .iter()
            .map(String::as_str)
            .filter(|n| !covered.contains(n)),
    );
    if !uncovered.is_empty() {
        return Err(r.forbidden(&format!("insufficient quota to consume: {uncovered}")));
    }
    let uncovered = needed
        .into_iter()
        .filter(|t| !covered_scopes.contains(t.requirement.scope_name.as_str()));
    let uncovered: Vec<&Test> = uncovered.collect();
    if !uncovered.is_empty() {
        let why = format!(
            "insufficient quota to match these scopes: {}",
            shown(&uncovered)
        );
        return Err(plain(why));
    }
    for (q, charge) in quotas.iter().zip(&mut charges) {
        charge.retain(|name, _| q.hard.contains_key(name));
        if !r.status {
            fits(q, charge).map_err(|why| r.forbidden(&why))?;
        }
    }
    if charges.iter().all(Amounts::is_empty) {
        charges.clear();
    }
    Ok(charges)
}

/// Whether a charge is within what a quota has left.
fn fits(q: &Standing, charge: &Amounts) -> Result<(), String> {
    let left = |name: &str| {
        let used = q.used.get(name).copied().unwrap_or_default();
        (used, q.hard.get(name).copied().unwrap_or_default())
    };
    let exceeded = charge.iter().filter(|(name, more)| {
        let (used, hard) = left(name);
        used + **more > hard
    });
    let exceeded: Vec<_> = exceeded.collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let list = |amount: &dyn Fn(&str) -> String| {
        let all = exceeded.iter().map(|(n, _)| format!("{n}={}", amount(n)));
        all.collect::<Vec<_>>().join(",")
    };
    let requested = exceeded.iter().map(|(n, q)| format!("{n}={q}"));
    let hard = |name: &str| q.quota.status.hard.get(name).cloned().unwrap_or_default();
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        q.name(),
        requested.collect::<Vec<_>>().join(","),
        list(&|n| q.shown(n)),
        list(&hard),
    ))
}
