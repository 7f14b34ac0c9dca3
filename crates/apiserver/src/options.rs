//! `CreateOptions`, `UpdateOptions`, `PatchOptions`, `DeleteOptions`, `GetOptions` and `ListOptions`: reading and checking.
//!
//! Source: upstream's `apimachinery/pkg/apis/meta/v1/validation` and `meta/internalversion/validation`.

use api::Status;
use api::field::{ErrorList, Path};
use serde_json::Value;

use crate::query::Query;

/// What writes have in common.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// `fieldManager`; empty for none.
    pub field_manager: String,
    /// What to do with unknown and duplicate fields.
    pub validation: FieldValidation,
    /// `force` of an apply.
    pub force: Option<bool>,
}

/// `fieldValidation`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// A `Warning:` header each.
    #[default]
    Warn,
    /// 400.
    Strict,
}

fn invalid(kind: &str, errors: &ErrorList) -> Result<(), Status> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("meta.k8s.io", kind, "", errors))
    }
}

fn check_dry_run(values: &[&str], errors: &mut ErrorList) {
    if values.iter().any(|v| *v != "All") {
        let shown: Vec<Value> = values
            .iter()
            .map(|v| Value::String((*v).to_owned()))
            .collect();
        errors.not_supported(&Path::new("dryRun"), Value::Array(shown), &["All"]);
    }
}

impl WriteOptions {
    /// Reads the options of a write; `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`, `apply` whether this
    /// is a server-side apply.
    pub fn parse(query: &Query, kind: &str, apply: bool) -> Result<WriteOptions, Status> {
        let mut errors = ErrorList::new();
        let manager = query.str("fieldManager");
        let force = query.flag("force");
        if kind == "PatchOptions" {
            if apply {
                if manager.is_empty() {
                    errors.required(&Path::new("fieldManager"), "is required for apply patch");
                }
            } else if force.is_some() {
                errors.forbidden(
                    &Path::new("force"),
                    "may not be specified for non-apply patch",
                );
            }
        }
        errors.extend(api::meta::validate_field_manager(
            manager,
            &Path::new("fieldManager"),
        ));
        let dry: Vec<&str> = query.all("dryRun").collect();
        check_dry_run(&dry, &mut errors);
        let validation = match query.str("fieldValidation") {
            "Ignore" => FieldValidation::Ignore,
            "Warn" | "" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.not_supported(
                    &Path::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                );
                FieldValidation::Warn
            }
        };
        invalid(kind, &errors)?;
        Ok(WriteOptions {
            dry_run: !dry.is_empty(),
            field_manager: manager.to_owned(),
            validation,
            force,
        })
    }
}

/// `propagationPolicy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The collector deletes dependents later.
    Background,
    /// Dependents first.
    Foreground,
    /// Dependents stay.
    Orphan,
}

/// `metav1.DeleteOptions`
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Nothing is deleted.
    pub dry_run: bool,
    /// Seconds.
    pub grace: Option<i64>,
    /// The uid that must match.
    pub uid: Option<String>,
    /// The resourceVersion that must match.
    pub resource_version: Option<String>,
    /// The deprecated form of `policy`.
    pub orphan: Option<bool>,
    /// How dependents are treated.
    pub policy: Option<Propagation>,
}

impl DeleteOptions {
    /// Reads options from a decoded body and from the query; the body wins when it is there.
    pub fn parse(body: Option<&Value>, query: &Query) -> Result<DeleteOptions, Status> {
        let mut out = DeleteOptions::default();
        let (policy, dry): (Option<String>, Vec<String>) = match body {
            Some(b) => {
                out.grace = b.get("gracePeriodSeconds").and_then(Value::as_i64);
                let pre = |k: &str| {
                    b.get("preconditions")
                        .and_then(|p| p.get(k))
                        .and_then(Value::as_str)
                        .map(str::to_owned)
                };
                out.uid = pre("uid");
                out.resource_version = pre("resourceVersion");
                out.orphan = b.get("orphanDependents").and_then(Value::as_bool);
                let dry = b.get("dryRun").and_then(Value::as_array).map(|a| {
                    a.iter()
                        .filter_map(|v| v.as_str().map(str::to_owned))
                        .collect()
                });
                (
                    b.get("propagationPolicy")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                    dry.unwrap_or_default(),
                )
            }
            None => {
                out.grace = query.int("gracePeriodSeconds")?;
                out.orphan = query.flag("orphanDependents");
                out.uid = query.get("uid").map(str::to_owned);
                out.resource_version = query.get("resourceVersion").map(str::to_owned);
                (
                    query.get("propagationPolicy").map(str::to_owned),
                    query.all("dryRun").map(str::to_owned).collect(),
                )
            }
        };
        let mut errors = ErrorList::new();
        let path = Path::new("propagationPolicy");
        if let Some(p) = &policy {
            if out.orphan.is_some() {
                errors.invalid(
                    &path,
                    p.as_str(),
                    "orphanDependents and deletionPropagation cannot be both set",
                );
            }
            out.policy = match p.as_str() {
                "Background" => Some(Propagation::Background),
                "Foreground" => Some(Propagation::Foreground),
                "Orphan" => Some(Propagation::Orphan),
                other => {
                    errors.not_supported(
                        &path,
                        other,
                        &["Foreground", "Background", "Orphan", "nil"],
                    );
                    None
                }
            };
        }
        let dry: Vec<&str> = dry.iter().map(String::as_str).collect();
        check_dry_run(&dry, &mut errors);
        out.dry_run = !dry.is_empty();
        invalid("DeleteOptions", &errors)?;
        if out.grace.is_some_and(|g| g < 0) {
            out.grace = Some(1);
        }
        Ok(out)
    }
}

/// What [`ListOptions`] are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// A list.
    List,
    /// A watch; `watch_list` is whether the gate WatchList is on.
    Watch {
        /// See above.
        watch_list: bool,
    },
}

/// `metav1.ListOptions`, for lists and watches.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Raw.
    pub label_selector: String,
    /// Raw.
    pub field_selector: String,
    /// Raw; empty for the newest.
    pub resource_version: String,
    /// `Exact`, `NotOlderThan` or empty.
    pub version_match: String,
    /// 0 for all.
    pub limit: usize,
    /// Raw.
    pub continue_token: String,
    /// Seconds a watch lasts.
    pub timeout: Option<i64>,
    /// Whether bookmarks may be sent.
    pub bookmarks: bool,
    /// WatchList.
    pub send_initial_events: Option<bool>,
    /// Whether this is a watch.
    pub watch: bool,
}

impl ListOptions {
    /// Reads and checks.
    pub fn parse(query: &Query, listing: Listing) -> Result<ListOptions, Status> {
        let watch = listing != Listing::List;
        let limit = query.int("limit")?.unwrap_or(0);
        let o = ListOptions {
            label_selector: query.str("labelSelector").to_owned(),
            field_selector: query.str("fieldSelector").to_owned(),
            resource_version: query.str("resourceVersion").to_owned(),
            version_match: query.str("resourceVersionMatch").to_owned(),
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: query.str("continue").to_owned(),
            timeout: query.int("timeoutSeconds")?,
            bookmarks: query.flag("allowWatchBookmarks") == Some(true),
            send_initial_events: query.flag("sendInitialEvents"),
            watch,
        };
        let mut errors = ErrorList::new();
        let (rv, m) = (o.resource_version.as_str(), o.version_match.as_str());
        let path = Path::new("resourceVersionMatch");
        let watch_list = watch && o.send_initial_events.is_some();
        if !m.is_empty() && watch && !watch_list {
            errors.forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        } else if watch
            && o.send_initial_events.is_none()
            && matches!(rv, "" | "0")
            && !o.continue_token.is_empty()
        {
            // Upstream reads such a watch as one that asks for the initial events.
            errors.forbidden(
                &path,
                "resourceVersionMatch is forbidden when continue is provided",
            );
        } else if !m.is_empty() && !watch_list {
            if rv.is_empty() {
                errors.forbidden(
                    &path,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if !o.continue_token.is_empty() {
                errors.forbidden(
                    &path,
                    "resourceVersionMatch is forbidden when continue is provided",
                );
            }
            if m != "Exact" && m != "NotOlderThan" {
                errors.not_supported(&path, m, &["Exact", "NotOlderThan", ""]);
            }
            if m == "Exact" && rv == "0" {
                errors.forbidden(
                    &path,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
        if let Some(send) = o.send_initial_events {
            let send_path = Path::new("sendInitialEvents");
            if !watch {
                errors.forbidden(&send_path, "sendInitialEvents is forbidden for list");
            } else {
                if m != "NotOlderThan" {
                    errors.forbidden(
                        &path,
                        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                    );
                }
                if listing == (Listing::Watch { watch_list: false }) {
                    errors.forbidden(
                        &send_path,
                        "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
                    );
                }
                if !m.is_empty() && m != "NotOlderThan" {
                    errors.not_supported(&path, m, &["NotOlderThan"]);
                }
                if send && !o.continue_token.is_empty() {
                    errors.forbidden(
                        &send_path,
                        "sendInitialEvents is forbidden when continue is provided",
                    );
                }
            }
        }
        invalid("ListOptions", &errors)?;
        Ok(o)
    }

    /// The resourceVersion as a number: `None` when not given. The error has the text inside a list's 400.
    pub fn revision(&self) -> Result<Option<i64>, String> {
        let rv = self.resource_version.as_str();
        if rv.is_empty() {
            return Ok(None);
        }
        parse_revision(rv).map(Some)
    }
}

/// A resourceVersion as a number, with upstream's error.
pub fn parse_revision(rv: &str) -> Result<i64, String> {
    rv.parse::<u64>()
        .ok()
        .and_then(|n| i64::try_from(n).ok())
        .ok_or_else(|| {
            let why = if !rv.is_empty() && rv.bytes().all(|b| b.is_ascii_digit()) {
                "value out of range"
            } else {
                "invalid syntax"
            };
            let q = api::text::go_quote(rv);
            format!("resourceVersion: Invalid value: {q}: strconv.ParseUint: parsing {q}: {why}")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_watch_list_is_read() {
        let query =
            Query::parse("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
        let of = |watch_list| ListOptions::parse(&query, Listing::Watch { watch_list });
        assert!(of(true).is_ok());
        assert!(
            of(false)
                .unwrap_err()
                .message
                .contains("unless the WatchList feature gate is enabled")
        );
    }
}
