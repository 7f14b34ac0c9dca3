//! One look at an autoscaler, without I/O: what its metrics and limits make of its scale, and what is said about it.

use std::sync::Arc;
use std::time::Duration;

use api::quantity::{Format, Quantity};
use api::selector::Selector;
use client::{EventType, Time};
use serde_json::{Value, json};

use super::calculate::{
    Samples, Timing, Tolerances, by_average, by_share, by_utilization, by_value,
};
use super::limits::{self, History, Numbers};
use super::{Autoscaler, Metric, OfMetric, OfResource, Pod, Status};
use crate::selector::LabelSelector;
use crate::views::Condition;

const ABLE: &str = "AbleToScale";
const ACTIVE: &str = "ScalingActive";
const LIMITED: &str = "ScalingLimited";

/// `autoscaling/v1.Scale`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// Wanted.
    pub replicas: i32,
    /// There.
    pub status_replicas: i32,
    /// Of the pods.
    pub selector: String,
}

impl Scale {
    /// From the object.
    pub fn read(scale: &Value) -> Scale {
        let number = |p: &str| {
            let n = scale.pointer(p).and_then(Value::as_i64).unwrap_or(0);
            i32::try_from(n).unwrap_or(i32::MAX)
        };
        let selector = scale.pointer("/status/selector").and_then(Value::as_str);
        Scale {
            replicas: number("/spec/replicas"),
            status_replicas: number("/status/replicas"),
            selector: selector.unwrap_or_default().to_owned(),
        }
    }
}

/// Puts the number into a scale.
pub fn set_replicas(scale: &mut Value, n: i32) {
    if let Some(scale) = scale.as_object_mut() {
        let spec = scale.entry("spec").or_insert_with(|| json!({}));
        if let Some(spec) = spec.as_object_mut() {
            spec.insert("replicas".into(), n.into());
        }
    }
}

/// What was read of a metric.
pub enum Fetched {
    /// Per pod.
    Samples(Samples),
    /// One number.
    Value(i64),
}

/// What a metric asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// How many replicas.
    pub replicas: i32,
    /// What asks, in messages.
    pub name: String,
    /// `MetricStatus`
    pub status: Value,
}

/// Why a metric asks for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmeasured {
    /// Of the event and the condition.
    pub reason: &'static str,
    /// Of the event and the condition.
    pub message: String,
    /// Of the whole.
    pub error: String,
}

/// See [`Judge::judge`].
pub type Measured = Result<Proposal, Unmeasured>;

/// A selector of metrics. None is asked for as nothing is, and an empty one: without a selector.
///
/// # Errors
/// Upstream's.
pub fn selector(of: Option<&LabelSelector>) -> Result<Selector, String> {
    let Some(of) = of else {
        return Ok(Selector::nothing());
    };
    let value = serde_json::to_value(of).unwrap_or_default();
    api::selector::LabelSelector::from_value(Some(&value))
        .map_or(Ok(Selector::nothing()), |s| s.selector())
}

/// A selector as Go prints it.
pub fn shown(of: Option<&LabelSelector>) -> String {
    of.map_or_else(|| "nil".into(), LabelSelector::to_string)
}

fn milli(q: &str) -> i64 {
    Quantity::parse(q).map_or(0, |q| q.milli_value())
}

fn quantity(milli: i64) -> String {
    Quantity::from_milli(milli, Format::DecimalSi).to_string()
}

/// What metrics are judged by.
pub struct Judge<'a> {
    /// What there is.
    pub scale: &'a Scale,
    /// Whose samples count.
    pub pods: &'a [Arc<Pod>],
    /// What is not worth a change.
    pub tolerances: Tolerances,
    /// Whose samples count yet.
    pub timing: Timing,
}

type Judged = Result<(i32, String, Value), String>;

impl Judge<'_> {
    /// What a metric asks for.
    ///
    /// # Errors
    /// Why it asks for nothing.
    pub fn judge(&self, m: &Metric, fetched: Result<Fetched, String>) -> Measured {
        let (reason, judged, outer) = match m.kind.as_str() {
            "Resource" => {
                let judged = self.resource(&m.resource, "resource", fetched);
                let judged = judged.map(|(n, name, current)| {
                    let status = json!({"name": m.resource.name, "current": current});
                    (n, name, json!({"type": "Resource", "resource": status}))
                });
                let outer = format!("failed to get {} resource metric value", m.resource.name);
                ("FailedGetResourceMetric", judged, outer)
            }
            "ContainerResource" => {
                let of = &m.container_resource;
                let judged = self.resource(of, "container resource", fetched);
                let judged = judged.map(|(n, name, current)| {
                    let status =
                        json!({"name": of.name, "container": of.container, "current": current});
                    let status = json!({"type": "ContainerResource", "containerResource": status});
                    (n, name, status)
                });
                let outer = format!("failed to get {} container metric value", of.container);
                ("FailedGetContainerResourceMetric", judged, outer)
            }
            "Pods" => (
                "FailedGetPodsMetric",
                self.of_pods(&m.pods, fetched),
                "failed to get pods metric value".to_owned(),
            ),
            "Object" => {
                // A target that is a share is told of once more.
                return self.value(m, &m.object, fetched, "Object");
            }
            "External" => return self.value(m, &m.external, fetched, "External"),
            kind => {
                let message = format!("unknown metric source type {kind:?}");
                return Err(Unmeasured {
                    reason: "InvalidMetricSourceType",
                    error: message.clone(),
                    message,
                });
            }
        };
        match judged {
            Ok((replicas, name, status)) => Ok(Proposal {
                replicas,
                name,
                status,
            }),
            Err(message) => Err(Unmeasured {
                reason,
                error: format!("{outer}: {message}"),
                message,
            }),
        }
    }

    fn resource(&self, of: &OfResource, what: &str, fetched: Result<Fetched, String>) -> Judged {
        let name = &of.name;
        let samples = |fetched: Result<Fetched, String>| match fetched? {
            Fetched::Samples(samples) => Ok(samples),
            Fetched::Value(_) => Ok(Samples::new()),
        };
        // As the server of metrics writes them.
        let format = if name == "memory" {
            Format::BinarySi
        } else {
            Format::DecimalSi
        };
        let current = self.scale.replicas;
        if let Some(target) = &of.target.average_value {
            let judged = samples(fetched).and_then(|samples| {
                by_average(
                    current,
                    milli(target),
                    name,
                    self.pods,
                    samples,
                    self.tolerances,
                    &self.timing,
                )
            });
            let (n, used) = judged.map_err(|e| format!("failed to get {name} usage: {e}"))?;
            let used = Quantity::from_milli(used, format).to_string();
            return Ok((n, format!("{name} resource"), json!({"averageValue": used})));
        }
        let Some(target) = of.target.average_utilization else {
            return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into());
        };
        let judged = samples(fetched).and_then(|samples| {
            by_utilization(
                current,
                target,
                name,
                &of.container,
                self.pods,
                samples,
                self.tolerances,
                &self.timing,
            )
        });
        let (n, usage) = judged.map_err(|e| format!("failed to get {name} utilization: {e}"))?;
        let used = Quantity::from_milli(usage.average, format).to_string();
        let status = json!({"averageUtilization": usage.utilization, "averageValue": used});
        let name = format!("{name} {what} utilization (percentage of request)");
        Ok((n, name, status))
    }

    fn of_pods(&self, of: &OfMetric, fetched: Result<Fetched, String>) -> Judged {
        let Fetched::Samples(samples) = fetched? else {
            return Err("no metrics returned from custom metrics API".into());
        };
        let target = of.target.average_value.as_deref().map_or(0, milli);
        let (n, used) = by_average(
            self.scale.replicas,
            target,
            "",
            self.pods,
            samples,
            self.tolerances,
            &self.timing,
        )?;
        let status = json!({"metric": of.metric, "current": {"averageValue": quantity(used)}});
        let name = format!("pods metric {}", of.metric.name);
        Ok((n, name, json!({"type": "Pods", "pods": status})))
    }

    /// Object and External.
    fn value(
        &self,
        m: &Metric,
        of: &OfMetric,
        fetched: Result<Fetched, String>,
        kind: &str,
    ) -> Measured {
        let object = kind == "Object";
        let metric = &of.metric.name;
        let (reason, outer) = if object {
            (
                "FailedGetObjectMetric",
                "failed to get object metric value".to_owned(),
            )
        } else {
            (
                "FailedGetExternalMetric",
                format!("failed to get {metric} external metric value"),
            )
        };
        let fail = |message: String, inner: String| Unmeasured {
            reason,
            message,
            error: format!("{outer}: {inner}"),
        };
        let target = &of.target;
        let share = target.average_value.as_deref();
        let whole = target.value.as_deref();
        let (share, whole) = if object {
            (
                share.filter(|_| target.kind == "AverageValue"),
                whole.filter(|_| target.kind == "Value"),
            )
        } else {
            (share, whole.filter(|_| share.is_none()))
        };
        let status = |current: Value| {
            let mut status = json!({"metric": of.metric, "current": current});
            if object && let Some(s) = status.as_object_mut() {
                s.insert("describedObject".into(), json!(m.object.described_object));
                return json!({"type": "Object", "object": status});
            }
            json!({"type": "External", "external": status})
        };
        let used = |fetched: Result<Fetched, String>| match fetched? {
            Fetched::Value(used) => Ok(used),
            Fetched::Samples(_) => Err("no single value was returned".to_owned()),
        };
        let shown = format!(
            "external metric {metric}({})",
            shown(of.metric.selector.as_ref())
        );
        if let Some(target) = share {
            let what = if object { "object" } else { "external" };
            let used = used(fetched).map_err(|e| {
                let inner = format!("failed to get {metric} {what} metric: {e}");
                fail(e, inner)
            })?;
            let there = self.scale.status_replicas;
            let (replicas, each) = by_share(there, used, milli(target), self.tolerances);
            return Ok(Proposal {
                replicas,
                name: shown,
                status: status(json!({"averageValue": quantity(each)})),
            });
        }
        let Some(target) = whole else {
            let what = kind.to_lowercase();
            let why = format!(
                "invalid {what} metric source: neither a value target nor an average value target was set"
            );
            return Err(fail(why.clone(), why));
        };
        let judged = used(fetched).and_then(|used| {
            let current = self.scale.replicas;
            let n = by_value(current, used, milli(target), self.pods, self.tolerances)?;
            Ok((n, used))
        });
        let (replicas, used) = judged.map_err(|e| {
            let inner = if object {
                e.clone()
            } else {
                format!("failed to get external metric {metric}: {e}")
            };
            fail(e, inner)
        })?;
        let name = if object {
            format!("{} metric {metric}", m.object.described_object.kind)
        } else {
            shown
        };
        Ok(Proposal {
            replicas,
            name,
            status: status(json!({"value": quantity(used)})),
        })
    }
}

/// What a look comes to before any metric is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing.
    Nothing,
    /// The limits say it, and why.
    Limit(i32, &'static str),
    /// The metrics are to be asked.
    Metrics,
}

/// One look.
pub struct Pass<'a> {
    autoscaler: &'a Autoscaler,
    /// When.
    pub now: Time,
    /// As it will be.
    pub(super) status: Status,
    /// What is told.
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// `status.currentMetrics`
    metrics: Vec<Value>,
}

impl<'a> Pass<'a> {
    /// Begins with what is said so far.
    pub fn new(autoscaler: &'a Autoscaler, now: Time) -> Pass<'a> {
        Pass {
            autoscaler,
            now,
            status: autoscaler.status.clone(),
            events: Vec::new(),
            metrics: Vec::new(),
        }
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.events.push((EventType::Warning, reason, message));
    }

    fn set(&mut self, kind: &str, holds: bool, reason: &str, message: String) {
        let status = if holds { "True" } else { "False" };
        let all = &mut self.status.conditions;
        let at = all.iter().position(|c| c.kind == kind);
        let at = at.unwrap_or_else(|| {
            all.push(Condition {
                kind: kind.to_owned(),
                ..Condition::default()
            });
            all.len() - 1
        });
        if let Some(c) = all.get_mut(at) {
            if c.status != status {
                c.last_transition_time = Some(self.now);
            }
            c.status = status.to_owned();
            c.reason = reason.to_owned();
            c.message = message;
        }
    }

    /// The scale cannot be read.
    pub fn unscalable(&mut self, why: &str) {
        self.warn("FailedGetScale", why.to_owned());
        let message =
            format!("the HPA controller was unable to get the target's current scale: {why}");
        self.set(ABLE, false, "FailedGetScale", message);
    }

    fn min(&self) -> i32 {
        self.autoscaler.spec.min_replicas.unwrap_or(1)
    }

    /// The scale was read.
    pub fn begin(&mut self, scale: &Scale, history: &mut History) -> Want {
        let message = "the HPA controller was able to get the target's current scale";
        self.set(ABLE, true, "SucceededGetScale", message.into());
        history.begin(scale.replicas, self.now);
        let (current, max) = (scale.replicas, self.autoscaler.spec.max_replicas);
        if current == 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.set(ACTIVE, false, "ScalingDisabled", message.into());
            self.status.conditions.retain(|c| c.kind != "ScaledToZero");
            Want::Nothing
        } else if current > max {
            Want::Limit(max, "Current number of replicas above Spec.MaxReplicas")
        } else if current < self.min() {
            Want::Limit(
                self.min(),
                "Current number of replicas below Spec.MinReplicas",
            )
        } else {
            Want::Metrics
        }
    }

    /// The selector of the pods.
    ///
    /// # Errors
    /// When there is none.
    pub fn selector(&mut self, scale: &Scale) -> Result<Selector, String> {
        if scale.selector.is_empty() {
            let why = "selector is required";
            self.warn("SelectorRequired", why.into());
            let message = "the HPA target's scale is missing a selector";
            self.set(ACTIVE, false, "InvalidSelector", message.into());
            return Err(why.into());
        }
        Selector::parse(&scale.selector).map_err(|e| {
            let why = format!(
                "couldn't convert selector into a corresponding internal selector object: {e}"
            );
            self.warn("InvalidSelector", why.clone());
            self.set(ACTIVE, false, "InvalidSelector", why.clone());
            why
        })
    }

    /// Others scale the same pods.
    pub fn ambiguous(&mut self, selector: &str, rivals: &[String]) -> String {
        let why = format!(
            "pods by selector {selector} are controlled by multiple HPAs: [{}]",
            rivals.join(" ")
        );
        self.warn("AmbiguousSelector", why.clone());
        self.set(ACTIVE, false, "AmbiguousSelector", why.clone());
        why
    }

    /// The most that a metric asks for, and which.
    fn most(&mut self, measured: Vec<Measured>, current: i32) -> Result<(i32, String), String> {
        let all = measured.len();
        let (mut replicas, mut name, mut invalid) = (0, String::new(), 0usize);
        let mut first: Option<Unmeasured> = None;
        for m in measured {
            match m {
                Ok(p) => {
                    self.metrics.push(p.status);
                    if replicas == 0 || p.replicas > replicas {
                        (replicas, name) = (p.replicas, p.name);
                    }
                }
                Err(u) => {
                    self.metrics.push(json!({"type": ""}));
                    self.warn(u.reason, u.message.clone());
                    invalid += 1;
                    first.get_or_insert(u);
                }
            }
        }
        if let Some(u) = first
            && (invalid >= all || replicas < current)
        {
            let message = format!(
                "the HPA was unable to compute the replica count: {}",
                u.message
            );
            self.set(ACTIVE, false, u.reason, message);
            return Err(format!(
                "invalid metrics ({invalid} invalid out of {all}), first error is: {}",
                u.error
            ));
        }
        let message =
            format!("the HPA was able to successfully calculate a replica count from {name}");
        self.set(ACTIVE, true, "ValidMetricFound", message);
        Ok((replicas, name))
    }

    /// What the metrics and the limits come to, and why.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn apply(
        &mut self,
        measured: Result<Vec<Measured>, String>,
        scale: &Scale,
        history: &mut History,
        window: Duration,
    ) -> Result<(i32, String), String> {
        let current = scale.replicas;
        let most = measured.and_then(|m| self.most(m, current));
        let (desired, name) = match most {
            Ok((n, name)) => (n.max(0), name),
            Err(why) => {
                self.end(scale, self.status.desired_replicas, false);
                self.warn("FailedComputeMetricsReplicas", why.clone());
                return Err(why);
            }
        };
        let reason = match desired.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{name} above target"),
            std::cmp::Ordering::Less => "All metrics below target".into(),
            std::cmp::Ordering::Equal => String::new(),
        };
        let mut n = Numbers {
            min: self.min(),
            max: self.autoscaler.spec.max_replicas,
            current,
            desired,
        };
        let spec = &self.autoscaler.spec;
        let (stable, why) = match &spec.behavior {
            None => (
                history.stabilize(desired, window, self.now),
                limits::DOWN_STABILIZED,
            ),
            Some(b) => {
                let seconds = |n: i32| component::duration::seconds(i64::from(n));
                let up = b
                    .scale_up
                    .stabilization_window_seconds
                    .map_or(Duration::ZERO, seconds);
                let down = b
                    .scale_down
                    .stabilization_window_seconds
                    .map_or(window, seconds);
                history.stabilize_both(n, up, down, self.now)
            }
        };
        let (reason_able, message) = if stable == desired {
            ("ReadyForNewScale", "recommended size matches current size")
        } else {
            why
        };
        self.set(ABLE, true, reason_able, message.into());
        n.desired = stable;
        let (limited, why) = match &spec.behavior {
            None => limits::limit(n),
            Some(b) => history.limit(n, b, self.now),
        };
        self.set(LIMITED, limited != stable, why.0, why.1.into());
        Ok((limited, reason))
    }

    /// The scale could not be written.
    pub fn not_rescaled(&mut self, desired: i32, reason: &str, why: &str, scale: &Scale) {
        let message = format!("New size: {desired}; reason: {reason}; error: {why}");
        self.warn("FailedRescale", message);
        let message = format!("the HPA controller was unable to update the target scale: {why}");
        self.set(ABLE, false, "FailedUpdateScale", message);
        self.end(scale, self.status.desired_replicas, false);
    }

    /// The scale was written.
    pub fn rescaled(&mut self, desired: i32, reason: &str, scale: &Scale, history: &mut History) {
        let message =
            format!("the HPA controller was able to update the target scale to {desired}");
        self.set(ABLE, true, "SucceededRescale", message);
        let message = format!("New size: {desired}; reason: {reason}");
        self.events
            .push((EventType::Normal, "SuccessfulRescale", message));
        if let Some(b) = &self.autoscaler.spec.behavior {
            history.scaled(b, scale.replicas, desired, self.now);
        }
        self.status.conditions.retain(|c| c.kind != "ScaledToZero");
    }

    /// The numbers of the status.
    pub fn end(&mut self, scale: &Scale, desired: i32, rescaled: bool) {
        self.status.current_replicas = scale.replicas;
        self.status.desired_replicas = desired;
        self.status.current_metrics.clone_from(&self.metrics);
        if rescaled {
            // Whole seconds, as they are stored.
            self.status.last_scale_time = Time::from_second(self.now.as_second()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::hpa::calculate::Sample;

    fn now() -> Time {
        Time::from_second(1_000_000).unwrap()
    }

    fn autoscaler(spec: Value) -> Autoscaler {
        serde_json::from_value(json!({"metadata": {"name": "h", "namespace": "n"}, "spec": spec}))
            .unwrap()
    }

    fn scale(replicas: i32) -> Scale {
        Scale {
            replicas,
            status_replicas: replicas,
            selector: "a=b".into(),
        }
    }

    fn told(pass: &Pass<'_>, kind: &str) -> (String, String, String) {
        let c = pass.status.conditions.iter().find(|c| c.kind == kind);
        let c = c.unwrap_or_else(|| panic!("no {kind}"));
        (c.status.clone(), c.reason.clone(), c.message.clone())
    }

    fn brief(pass: &Pass<'_>, kind: &str) -> String {
        let (status, reason, _) = told(pass, kind);
        format!("{status} {reason}")
    }

    fn reasons(pass: &Pass<'_>) -> Vec<&'static str> {
        pass.events.iter().map(|e| e.1).collect()
    }

    fn proposal(replicas: i32, name: &str) -> Measured {
        Ok(Proposal {
            replicas,
            name: name.into(),
            status: json!({"type": name}),
        })
    }

    fn failure(reason: &'static str) -> Measured {
        Err(Unmeasured {
            reason,
            message: "no".into(),
            error: "failed: no".into(),
        })
    }

    const WINDOW: Duration = Duration::from_secs(300);

    #[test]
    fn the_limits_come_first() {
        for (what, replicas, min, wanted) in [
            ("it was scaled to zero", 0, json!(2), Want::Nothing),
            ("to zero, without a minimum", 0, json!(0), Want::Nothing),
            (
                "above",
                11,
                json!(2),
                Want::Limit(10, "Current number of replicas above Spec.MaxReplicas"),
            ),
            (
                "below",
                1,
                json!(2),
                Want::Limit(2, "Current number of replicas below Spec.MinReplicas"),
            ),
            ("within", 5, json!(2), Want::Metrics),
            ("the minimum is one", 1, Value::Null, Want::Metrics),
        ] {
            let a = autoscaler(json!({"minReplicas": min, "maxReplicas": 10}));
            let (mut pass, mut history) = (Pass::new(&a, now()), History::default());
            assert_eq!(pass.begin(&scale(replicas), &mut history), wanted, "{what}");
            assert_eq!(brief(&pass, ABLE), "True SucceededGetScale");
            if wanted == Want::Nothing {
                assert_eq!(brief(&pass, ACTIVE), "False ScalingDisabled");
            }
            assert_eq!(history.asked.len(), 1);
        }
    }

    #[test]
    fn the_metric_that_asks_for_most_decides() {
        let failed = "False FailedGetPodsMetric";
        for (what, current, measured, wanted, active) in [
            (
                "up",
                3,
                vec![proposal(5, "cpu")],
                Ok((5, "cpu above target")),
                "True ValidMetricFound",
            ),
            (
                "the most",
                3,
                vec![proposal(4, "a"), proposal(6, "b"), proposal(5, "c")],
                Ok((6, "b above target")),
                "True ValidMetricFound",
            ),
            (
                "down",
                5,
                vec![proposal(3, "a")],
                Ok((5, "All metrics below target")),
                "True ValidMetricFound",
            ),
            (
                "neither",
                5,
                vec![proposal(5, "a")],
                Ok((5, "")),
                "True ValidMetricFound",
            ),
            (
                "too many",
                6,
                vec![proposal(20, "a")],
                Ok((10, "a above target")),
                "True ValidMetricFound",
            ),
            (
                "twice as many",
                3,
                vec![proposal(20, "a")],
                Ok((6, "a above target")),
                "True ValidMetricFound",
            ),
            (
                "none at all",
                3,
                vec![proposal(0, "a")],
                Ok((3, "All metrics below target")),
                "True ValidMetricFound",
            ),
            (
                "one fails, up",
                3,
                vec![failure("FailedGetPodsMetric"), proposal(5, "b")],
                Ok((5, "b above target")),
                failed,
            ),
            (
                "one fails, down",
                5,
                vec![proposal(3, "b"), failure("FailedGetPodsMetric")],
                Err("invalid metrics (1 invalid out of 2), first error is: failed: no"),
                failed,
            ),
            (
                "all fail",
                5,
                vec![
                    failure("FailedGetPodsMetric"),
                    failure("FailedGetObjectMetric"),
                ],
                Err("invalid metrics (2 invalid out of 2), first error is: failed: no"),
                failed,
            ),
        ] {
            let a = autoscaler(json!({"maxReplicas": 10}));
            let (mut pass, mut history) = (Pass::new(&a, now()), History::default());
            pass.begin(&scale(current), &mut history);
            let told = pass.apply(Ok(measured), &scale(current), &mut history, WINDOW);
            let wanted = wanted.map(|(n, why)| (n, why.to_owned()));
            assert_eq!(told, wanted.map_err(str::to_owned), "{what}");
            // One that fails is told of; the others stand for the whole where they ask for more.
            let active = if what == "one fails, up" {
                "True ValidMetricFound"
            } else {
                active
            };
            assert_eq!(brief(&pass, ACTIVE), active, "{what}");
            let failures = reasons(&pass);
            let whole = failures.contains(&"FailedComputeMetricsReplicas");
            assert_eq!(whole, told.is_err(), "{what}");
            if told.is_err() {
                assert_eq!(pass.status.current_metrics.len(), pass.metrics.len());
                assert!(!pass.status.conditions.iter().any(|c| c.kind == LIMITED));
            }
        }
    }

    #[test]
    fn what_limits_is_told() {
        let fast = json!({"scaleUp": {"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]},
            "scaleDown": {"selectPolicy": "Disabled"}});
        for (what, behavior, current, desired, wanted, able, limited) in [
            (
                "fits",
                Value::Null,
                5,
                6,
                6,
                "True ReadyForNewScale",
                "False DesiredWithinRange",
            ),
            (
                "too many",
                Value::Null,
                6,
                20,
                10,
                "True ReadyForNewScale",
                "True TooManyReplicas",
            ),
            (
                "too fast",
                Value::Null,
                2,
                9,
                4,
                "True ReadyForNewScale",
                "True ScaleUpLimit",
            ),
            (
                "stabilized",
                Value::Null,
                5,
                3,
                5,
                "True ScaleDownStabilized",
                "False DesiredWithinRange",
            ),
            (
                "by behaviour",
                fast.clone(),
                5,
                9,
                6,
                "True ReadyForNewScale",
                "True ScaleUpLimit",
            ),
            (
                "stabilized by behaviour",
                fast,
                5,
                3,
                5,
                "True ScaleDownStabilized",
                "False DesiredWithinRange",
            ),
        ] {
            let a = autoscaler(json!({"maxReplicas": 10, "behavior": behavior}));
            let (mut pass, mut history) = (Pass::new(&a, now()), History::default());
            pass.begin(&scale(current), &mut history);
            let measured = Ok(vec![proposal(desired, "m")]);
            let told = pass.apply(measured, &scale(current), &mut history, WINDOW);
            assert_eq!(told.unwrap().0, wanted, "{what}");
            assert_eq!(brief(&pass, ABLE), able, "{what}");
            assert_eq!(brief(&pass, LIMITED), limited, "{what}");
        }
    }

    #[test]
    fn how_it_went_is_told() {
        let a = autoscaler(json!({"maxReplicas": 10, "behavior": {}}));
        let (mut pass, mut history) = (Pass::new(&a, now()), History::default());
        pass.begin(&scale(3), &mut history);
        pass.rescaled(5, "m above target", &scale(3), &mut history);
        pass.end(&scale(3), 5, true);
        assert_eq!(pass.events.len(), 1);
        let (kind, reason, message) = &pass.events[0];
        assert_eq!((*kind, *reason), (EventType::Normal, "SuccessfulRescale"));
        assert_eq!(message, "New size: 5; reason: m above target");
        assert_eq!(
            told(&pass, ABLE),
            (
                "True".into(),
                "SucceededRescale".into(),
                "the HPA controller was able to update the target scale to 5".into()
            )
        );
        assert_eq!(
            (pass.status.current_replicas, pass.status.desired_replicas),
            (3, 5)
        );
        assert_eq!(pass.status.last_scale_time, Some(now()));
        assert_eq!(history.ups.len(), 1);

        let mut pass = Pass::new(&a, now());
        pass.begin(&scale(3), &mut history);
        pass.not_rescaled(5, "m above target", "refused", &scale(3));
        assert_eq!(reasons(&pass), ["FailedRescale"]);
        assert_eq!(
            pass.events[0].2,
            "New size: 5; reason: m above target; error: refused"
        );
        assert_eq!(brief(&pass, ABLE), "False FailedUpdateScale");
        assert_eq!(pass.status.last_scale_time, None);

        let mut pass = Pass::new(&a, now());
        pass.unscalable("gone");
        assert_eq!(reasons(&pass), ["FailedGetScale"]);
        assert_eq!(
            told(&pass, ABLE).2,
            "the HPA controller was unable to get the target's current scale: gone"
        );

        let mut pass = Pass::new(&a, now());
        assert!(pass.selector(&scale(1)).is_ok());
        let without = Scale::default();
        assert_eq!(
            pass.selector(&without),
            Err("selector is required".to_owned())
        );
        assert_eq!(told(&pass, ACTIVE).1, "InvalidSelector");
        let odd = Scale {
            selector: "a in (b".into(),
            ..Scale::default()
        };
        let why = pass.selector(&odd).unwrap_err();
        assert!(why.starts_with("couldn't convert selector into a corresponding"));
        let rivals = ["{a n}".to_owned(), "{h n}".to_owned()];
        let why = pass.ambiguous("a=b", &rivals);
        assert_eq!(
            why,
            "pods by selector a=b are controlled by multiple HPAs: [{a n} {h n}]"
        );
        assert_eq!(
            reasons(&pass),
            ["SelectorRequired", "InvalidSelector", "AmbiguousSelector"]
        );
    }

    /// The same outcome is the same status: nothing is written for it.
    #[test]
    fn the_same_again_changes_nothing() {
        let mut a = autoscaler(json!({"maxReplicas": 10}));
        let mut history = History::default();
        for second in [1_000_000, 1_000_015] {
            let mut pass = Pass::new(&a, Time::from_second(second).unwrap());
            pass.begin(&scale(5), &mut history);
            let same = Ok(vec![proposal(5, "m")]);
            pass.apply(same, &scale(5), &mut history, WINDOW).unwrap();
            pass.end(&scale(5), 5, false);
            let status = pass.status.clone();
            if second > 1_000_000 {
                assert_eq!(status, a.status);
            }
            a.status = status;
        }
        let stored = serde_json::to_value(&a.status).unwrap();
        assert_eq!(serde_json::from_value::<Status>(stored).unwrap(), a.status);
    }

    fn pods(n: usize) -> Vec<Arc<Pod>> {
        let one = |i: usize| {
            let pod = json!({"metadata": {"name": format!("p{i}")},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]},
                "status": {"phase": "Running", "startTime": "1970-01-01T00:00:00Z",
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        (0..n).map(one).collect()
    }

    fn judge(metric: Value, fetched: Result<Fetched, String>) -> Measured {
        let there = scale(2);
        let pods = pods(2);
        let judge = Judge {
            scale: &there,
            pods: &pods,
            tolerances: Tolerances { down: 0.1, up: 0.1 },
            timing: Timing {
                cpu_initialization: Duration::from_secs(120),
                initial_readiness: Duration::from_secs(10),
                now: now(),
            },
        };
        judge.judge(&serde_json::from_value(metric).unwrap(), fetched)
    }

    fn each(value: i64) -> Result<Fetched, String> {
        let sample = Sample {
            value,
            ..Sample::default()
        };
        let all = ["p0", "p1"].map(|p| (p.to_owned(), sample.clone()));
        Ok(Fetched::Samples(BTreeMap::from(all)))
    }

    #[test]
    fn each_kind_of_metric() {
        let one = |v: i64| Ok(Fetched::Value(v));
        let qps = json!({"name": "qps"});
        let to = json!({"kind": "Ingress", "name": "i", "apiVersion": "networking.k8s.io/v1"});
        let selected = json!({"name": "qps", "selector": {"matchLabels": {"a": "b"}}});
        for (metric, fetched, replicas, name, status) in [
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}),
                each(1000),
                4,
                "cpu resource utilization (percentage of request)",
                json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 100, "averageValue": "1"}}}),
            ),
            (
                json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}),
                each((2 << 30) * 1000),
                4,
                "memory resource",
                json!({"type": "Resource", "resource": {"name": "memory", "current": {"averageValue": "2Gi"}}}),
            ),
            (
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": {"averageUtilization": 50}}}),
                each(1000),
                4,
                "cpu container resource utilization (percentage of request)",
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                    "current": {"averageUtilization": 100, "averageValue": "1"}}}),
            ),
            (
                json!({"type": "Pods", "pods": {"metric": qps, "target": {"type": "AverageValue", "averageValue": "10"}}}),
                each(20_000),
                4,
                "pods metric qps",
                json!({"type": "Pods", "pods": {"metric": qps, "current": {"averageValue": "20"}}}),
            ),
            (
                json!({"type": "Object", "object": {"describedObject": to, "metric": qps, "target": {"type": "Value", "value": "10"}}}),
                one(20_000),
                4,
                "Ingress metric qps",
                json!({"type": "Object", "object": {"describedObject": to, "metric": qps, "current": {"value": "20"}}}),
            ),
            (
                json!({"type": "Object", "object": {"describedObject": to, "metric": qps, "target": {"type": "AverageValue", "averageValue": "5"}}}),
                one(20_000),
                4,
                "external metric qps(nil)",
                json!({"type": "Object", "object": {"describedObject": to, "metric": qps, "current": {"averageValue": "10"}}}),
            ),
            (
                json!({"type": "External", "external": {"metric": selected, "target": {"type": "Value", "value": "10"}}}),
                one(20_000),
                4,
                "external metric qps(&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},})",
                json!({"type": "External", "external": {"metric": selected, "current": {"value": "20"}}}),
            ),
            (
                json!({"type": "External", "external": {"metric": qps, "target": {"type": "AverageValue", "averageValue": "5"}}}),
                one(20_000),
                4,
                "external metric qps(nil)",
                json!({"type": "External", "external": {"metric": qps, "current": {"averageValue": "10"}}}),
            ),
        ] {
            let Ok(told) = judge(metric.clone(), fetched) else {
                panic!("{metric}");
            };
            assert_eq!(told.replicas, replicas, "{metric}");
            assert_eq!(told.status, status, "{metric}");
            assert_eq!(told.name, name, "{metric}");
        }
    }

    #[test]
    fn each_kind_of_failure() {
        let no = || Err("no".to_owned());
        let qps = json!({"name": "qps"});
        for (metric, reason, message, error) in [
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}}),
                "FailedGetResourceMetric",
                "failed to get cpu utilization: no",
                "failed to get cpu resource metric value: failed to get cpu utilization: no",
            ),
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageValue": "1"}}}),
                "FailedGetResourceMetric",
                "failed to get cpu usage: no",
                "failed to get cpu resource metric value: failed to get cpu usage: no",
            ),
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {}}}),
                "FailedGetResourceMetric",
                "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set",
                "failed to get cpu resource metric value: invalid resource metric source: neither an average utilization target nor an average value (usage) target was set",
            ),
            (
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": {"averageUtilization": 50}}}),
                "FailedGetContainerResourceMetric",
                "failed to get cpu utilization: no",
                "failed to get c container metric value: failed to get cpu utilization: no",
            ),
            (
                json!({"type": "Pods", "pods": {"metric": qps, "target": {"averageValue": "1"}}}),
                "FailedGetPodsMetric",
                "no",
                "failed to get pods metric value: no",
            ),
            (
                json!({"type": "Object", "object": {"metric": qps, "target": {"type": "Value", "value": "1"}}}),
                "FailedGetObjectMetric",
                "no",
                "failed to get object metric value: no",
            ),
            (
                json!({"type": "Object", "object": {"metric": qps, "target": {"type": "AverageValue", "averageValue": "1"}}}),
                "FailedGetObjectMetric",
                "no",
                "failed to get object metric value: failed to get qps object metric: no",
            ),
            (
                json!({"type": "External", "external": {"metric": qps, "target": {"value": "1"}}}),
                "FailedGetExternalMetric",
                "no",
                "failed to get qps external metric value: failed to get external metric qps: no",
            ),
            (
                json!({"type": "External", "external": {"metric": qps, "target": {"averageValue": "1"}}}),
                "FailedGetExternalMetric",
                "no",
                "failed to get qps external metric value: failed to get qps external metric: no",
            ),
            (
                json!({"type": "External", "external": {"metric": qps, "target": {}}}),
                "FailedGetExternalMetric",
                "invalid external metric source: neither a value target nor an average value target was set",
                "failed to get qps external metric value: invalid external metric source: neither a value target nor an average value target was set",
            ),
            (
                json!({"type": "Later"}),
                "InvalidMetricSourceType",
                "unknown metric source type \"Later\"",
                "unknown metric source type \"Later\"",
            ),
        ] {
            let wanted = Unmeasured {
                reason,
                message: message.into(),
                error: error.into(),
            };
            assert_eq!(judge(metric.clone(), no()), Err(wanted), "{metric}");
        }
    }

    #[test]
    fn a_scale_is_read_and_changed() {
        let mut object = json!({"kind": "Scale", "spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "a=b"}});
        let wanted = Scale {
            replicas: 3,
            status_replicas: 2,
            selector: "a=b".into(),
        };
        assert_eq!(Scale::read(&object), wanted);
        set_replicas(&mut object, 7);
        assert_eq!(object["spec"], json!({"replicas": 7}));
        let mut empty = json!({"kind": "Scale"});
        assert_eq!(Scale::read(&empty), Scale::default());
        set_replicas(&mut empty, 1);
        assert_eq!(empty["spec"], json!({"replicas": 1}));
    }
}
