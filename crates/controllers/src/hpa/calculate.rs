//! How many replicas a metric asks for.
//!
//! Amounts are thousandths. Sums saturate, and what asks for more replicas than can be counted asks for the most that can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Quantity;
use client::Time;
use jiff::SignedDuration;

use super::Pod;
use crate::views::condition;

/// How far the ratio of a metric to its target may be from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Below.
    pub down: f64,
    /// Above.
    pub up: f64,
}

impl Tolerances {
    fn allow(&self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// Which samples of pods that started lately count.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// `--horizontal-pod-autoscaler-cpu-initialization-period`
    pub cpu_initialization: Duration,
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`
    pub initial_readiness: Duration,
    /// Now.
    pub now: Time,
}

/// A metric of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Thousandths.
    pub value: i64,
    /// When it was taken.
    pub timestamp: Option<Time>,
    /// Over how long.
    pub window: Duration,
}

/// By pod.
pub type Samples = BTreeMap<String, Sample>;

/// The pods by what their samples are good for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups<'a> {
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
}

fn later(t: Time, by: Duration) -> Time {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    t.checked_add(by).unwrap_or(Time::MAX)
}

fn group<'a>(
    pods: &'a [Arc<Pod>],
    samples: &Samples,
    resource: &str,
    timing: &Timing,
) -> Groups<'a> {
    let mut out = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.as_str();
        if pod.metadata.deletion_timestamp.is_some() || pod.status.phase == "Failed" {
            out.ignored.insert(name);
        } else if pod.status.phase == "Pending" {
            out.unready.insert(name);
        } else if let Some(sample) = samples.get(name) {
            if resource == "cpu" && is_unready(pod, sample, timing) {
                out.unready.insert(name);
            } else {
                out.ready += 1;
            }
        } else {
            out.missing.insert(name);
        }
    }
    out
}

/// Whether what a pod used is no measure of its work: it was starting.
fn is_unready(pod: &Pod, sample: &Sample, timing: &Timing) -> bool {
    let ready = condition(&pod.status.conditions, "Ready");
    let (Some(ready), Some(started)) = (ready, pod.status.start_time) else {
        return true;
    };
    let unready = ready.status == "False";
    let since = ready.last_transition_time.unwrap_or(Time::UNIX_EPOCH);
    if later(started, timing.cpu_initialization) > timing.now {
        // A whole window since it became ready.
        let taken = sample.timestamp.unwrap_or(Time::UNIX_EPOCH);
        return unready || taken < later(since, sample.window);
    }
    // It never was ready.
    unready && later(started, timing.initial_readiness) > since
}

/// How a metric compares with its target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// To the target.
    pub ratio: f64,
    /// Percent of what is requested; 0 where nothing is.
    pub utilization: i32,
    /// Per pod, thousandths.
    pub average: i64,
}

fn narrow(n: i64) -> i32 {
    i32::try_from(n).unwrap_or(if n < 0 { i32::MIN } else { i32::MAX })
}

/// Rounded up; what is beyond the numbers is the last of them.
fn replicas(n: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
    let n = n.ceil() as i32;
    n
}

#[expect(clippy::cast_precision_loss, reason = "ratios need no more")]
fn ratio(n: i64, to: i64) -> f64 {
    n as f64 / to as f64
}

/// The use of a resource, to `target` percent of what is requested.
///
/// # Errors
/// When no sample is of a pod with requests.
pub fn utilization(
    samples: &Samples,
    requests: &BTreeMap<String, i64>,
    target: i32,
) -> Result<Usage, String> {
    let (mut used, mut requested, mut n) = (0i64, 0i64, 0i64);
    for (pod, sample) in samples {
        if let Some(request) = requests.get(pod) {
            used = used.saturating_add(sample.value);
            requested = requested.saturating_add(*request);
            n += 1;
        }
    }
    if requested == 0 {
        return Err("no metrics returned matched known pods".into());
    }
    let percent = i128::from(used) * 100 / i128::from(requested);
    let utilization = narrow(i64::try_from(percent).unwrap_or(i64::MAX));
    Ok(Usage {
        ratio: f64::from(utilization) / f64::from(target),
        utilization,
        average: used / n.max(1),
    })
}

/// What pods use on the average, to a target.
pub fn average(samples: &Samples, target: i64) -> Usage {
    let used = samples
        .values()
        .fold(0i64, |sum, s| sum.saturating_add(s.value));
    let n = i64::try_from(samples.len()).unwrap_or(i64::MAX).max(1);
    Usage {
        ratio: ratio(used / n, target),
        utilization: 0,
        average: used / n,
    }
}

/// How many replicas samples of pods ask for. `missing` is what pods without a sample are taken to use when that argues for
/// fewer; when it argues for more they, and those that are starting, are taken to use nothing.
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are facts of one metric"
)]
fn propose(
    current: i32,
    pods: &[Arc<Pod>],
    mut samples: Samples,
    resource: &str,
    tolerances: Tolerances,
    timing: &Timing,
    usage: impl Fn(&Samples) -> Result<Usage, String>,
    missing: impl Fn(&str) -> i64,
) -> Result<(i32, Usage), String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(pods, &samples, resource, timing);
    samples.retain(|name, _| {
        !groups.ignored.contains(name.as_str()) && !groups.unready.contains(name.as_str())
    });
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let first = usage(&samples)?;
    let up_with_unready = !groups.unready.is_empty() && first.ratio > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        if tolerances.allow(first.ratio) {
            return Ok((current, first));
        }
        #[expect(clippy::cast_precision_loss, reason = "pods are fewer")]
        return Ok((replicas(first.ratio * groups.ready as f64), first));
    }
    let mut suppose = |name: &str, value| {
        let sample = Sample {
            value,
            ..Sample::default()
        };
        samples.insert(name.to_owned(), sample);
    };
    for name in &groups.missing {
        if first.ratio < 1.0 {
            suppose(name, missing(name));
        } else if first.ratio > 1.0 {
            suppose(name, 0);
        }
    }
    if up_with_unready {
        groups.unready.iter().for_each(|name| suppose(name, 0));
    }
    let second = usage(&samples)?.ratio;
    let turned = (first.ratio < 1.0 && second > 1.0) || (first.ratio > 1.0 && second < 1.0);
    if tolerances.allow(second) || turned {
        return Ok((current, first));
    }
    #[expect(clippy::cast_precision_loss, reason = "pods are fewer")]
    let new = replicas(second * samples.len() as f64);
    if (second < 1.0 && new > current) || (second > 1.0 && new < current) {
        return Ok((current, first));
    }
    Ok((new, first))
}

/// Replicas for a target in percent of what pods request.
///
/// # Errors
/// Upstream's, when it cannot be told.
#[expect(
    clippy::too_many_arguments,
    reason = "all of them are facts of one metric"
)]
pub fn by_utilization(
    current: i32,
    target: i32,
    resource: &str,
    container: &str,
    pods: &[Arc<Pod>],
    samples: Samples,
    tolerances: Tolerances,
    timing: &Timing,
) -> Result<(i32, Usage), String> {
    // What is said of the pods comes before what is said of their requests.
    let requests = std::cell::OnceCell::new();
    let get = || requests.get_or_init(|| requested(pods, container, resource));
    let most = i128::from(target.max(100));
    propose(
        current,
        pods,
        samples,
        resource,
        tolerances,
        timing,
        |samples| utilization(samples, get().as_ref().map_err(Clone::clone)?, target),
        |name| {
            let request = get().as_ref().ok().and_then(|r| r.get(name));
            let value = i128::from(request.copied().unwrap_or(0)) * most / 100;
            i64::try_from(value).unwrap_or(i64::MAX)
        },
    )
}

/// Replicas for a target that pods use on the average. `resource` is empty for metrics that are none.
///
/// # Errors
/// Upstream's, when it cannot be told.
pub fn by_average(
    current: i32,
    target: i64,
    resource: &str,
    pods: &[Arc<Pod>],
    samples: Samples,
    tolerances: Tolerances,
    timing: &Timing,
) -> Result<(i32, i64), String> {
    let usage = |s: &Samples| Ok(average(s, target));
    let (n, usage) = propose(
        current,
        pods,
        samples,
        resource,
        tolerances,
        timing,
        usage,
        |_| target,
    )?;
    Ok((n, usage.average))
}

/// Replicas for a value that is all pods' together.
///
/// # Errors
/// Upstream's, when there are no pods.
pub fn by_value(
    current: i32,
    usage: i64,
    target: i64,
    pods: &[Arc<Pod>],
    tolerances: Tolerances,
) -> Result<i32, String> {
    let ratio = ratio(usage, target);
    if current == 0 {
        return Ok(replicas(ratio));
    }
    if tolerances.allow(ratio) {
        return Ok(current);
    }
    if pods.is_empty() {
        return Err(
            "unable to calculate ready pods: no pods returned by selector while calculating replica count"
                .into(),
        );
    }
    let is_ready = |p: &&Arc<Pod>| {
        let ready = condition(&p.status.conditions, "Ready");
        p.status.phase == "Running" && ready.is_some_and(|c| c.status == "True")
    };
    #[expect(clippy::cast_precision_loss, reason = "pods are fewer")]
    let ready = pods.iter().filter(is_ready).count() as f64;
    Ok(replicas(ratio * ready))
}

/// Replicas for a value that is shared out among them, and what each has now.
pub fn by_share(
    status_replicas: i32,
    usage: i64,
    target: i64,
    tolerances: Tolerances,
) -> (i32, i64) {
    #[expect(clippy::cast_precision_loss, reason = "ratios need no more")]
    let (used, wanted) = (usage as f64, target as f64);
    let n = f64::from(status_replicas);
    let count = if tolerances.allow(used / (wanted * n)) {
        status_replicas
    } else {
        replicas(used / wanted)
    };
    #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
    let each = (used / n).ceil() as i64;
    (count, each)
}

/// What each pod requests of a resource, or one container of it.
fn requested(
    pods: &[Arc<Pod>],
    container: &str,
    resource: &str,
) -> Result<BTreeMap<String, i64>, String> {
    let one = |p: &Arc<Pod>| Ok((p.metadata.name.clone(), request(p, container, resource)?));
    pods.iter().map(one).collect()
}

fn milli(q: &str) -> i64 {
    Quantity::parse(q).map_or(0, |q| q.milli_value())
}

fn request(pod: &Pod, container: &str, resource: &str) -> Result<i64, String> {
    let name = &pod.metadata.name;
    let own = &pod.spec.resources.requests;
    let is_for_pods = |r: &String| r == "cpu" || r == "memory" || r.starts_with("hugepages-");
    if container.is_empty() && own.keys().any(is_for_pods) {
        return pod
            .requests(resource)
            .ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"));
    }
    let sidecars = pod.spec.init_containers.iter();
    let sidecars = sidecars.filter(|c| c.restart_policy == "Always");
    let mut sum = 0i64;
    for c in pod.spec.containers.iter().chain(sidecars) {
        if !container.is_empty() && container != c.name {
            continue;
        }
        let Some(q) = c.resources.requests.get(resource) else {
            return Err(format!(
                "missing request for {resource} in container {} of Pod {name}",
                c.name
            ));
        };
        sum = sum.saturating_add(milli(q));
        if container == c.name {
            return Ok(sum);
        }
    }
    if container.is_empty() {
        Ok(sum)
    } else {
        Err(format!("container {container} not found in Pod {name}"))
    }
}

impl Pod {
    /// What it requests as a whole, where it says something for itself.
    fn requests(&self, resource: &str) -> Option<i64> {
        let spec = &self.spec;
        let of = |c: &super::Container| c.resources.requests.get(resource).map(|q| milli(q));
        let overhead = spec.overhead.get(resource).map(|q| milli(q));
        let own = spec.resources.requests.get(resource).map(|q| milli(q));
        let add = |a: Option<i64>, b: Option<i64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        };
        let mut sum = spec.containers.iter().map(of).fold(None, add);
        let (mut sidecars, mut most) = (None, None);
        for c in &spec.init_containers {
            let here = add(of(c), sidecars);
            most = most.max(here);
            if c.restart_policy == "Always" {
                sum = add(sum, of(c));
                sidecars = here;
            }
        }
        add(own.or(sum.max(most)), overhead)
    }
}

#[cfg(test)]
mod tests;
