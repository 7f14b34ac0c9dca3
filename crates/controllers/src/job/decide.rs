//! What a job's pods and status call for. Pure: a [`Pass`] is told what came of each step that the shell took for it.
//!
//! A pass goes through these steps, in this order: [`Pass::begin`] says which pods to create or delete; [`Pass::acted`] is told
//! how far that went; [`Pass::track`] says whose finalizers to remove, and whether the status is to be written before;
//! [`Pass::released`] is told which were removed; [`Pass::finish`] says whether the job is over and the status is to be
//! written again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{EventType, Time};
use serde_json::{Value, json};

use crate::children::BURST;
use crate::job::backoff::{Backoff, finished_at};
use crate::job::indexes::Indexes;
use crate::job::policy::{Verdict, is_failed, judge, replaces_only_failed, success};
use crate::job::{
    FINALIZER, IGNORED_FAILURES, INDEX, INDEX_FAILURES, failures_of_index, has_finalizer,
    ignored_failures_of_index, index_of,
};
use crate::views::{Job, JobCondition, JobStatus, Pod, UncountedPods};

/// Most UIDs in `status.uncountedTerminatedPods`: some 20 kB.
const UNCOUNTED: usize = 500;

/// What is known of a job.
pub struct World<'a> {
    /// From the cache.
    pub job: &'a Job,
    /// Its own pods.
    pub pods: Vec<Arc<Pod>>,
    /// UIDs of pods whose finalizer is gone though the cache does not show it yet.
    pub released: HashSet<String>,
    /// Failures before this pass.
    pub backoff: Backoff,
    /// Whether the cache shows all pods that were created and deleted.
    pub settled: bool,
    /// The time.
    pub now: Time,
}

/// What to do about a job's pods.
#[derive(Debug, Default)]
pub enum Action {
    /// Nothing.
    #[default]
    None,
    /// Create a pod for each, with its completion index where the job has them.
    Create(Vec<Option<u32>>),
    /// They are too many: take their finalizers away and delete them.
    Delete(Vec<Arc<Pod>>),
    /// The job is over: delete them. They keep their finalizers until they are counted.
    End(Vec<Arc<Pod>>),
}

/// How far an action went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Pods created or deleted.
    pub done: usize,
    /// Ready pods among those deleted.
    pub ready: usize,
}

/// One look at a job.
pub struct Pass<'a> {
    world: World<'a>,
    /// The status so far.
    pub status: JobStatus,
    /// Failures after this pass.
    pub backoff: Backoff,
    /// What happened to the job, for events.
    pub events: Vec<(EventType, String, String)>,
    /// When to look again though nothing changed.
    pub again: Option<Duration>,
    active: Vec<Arc<Pod>>,
    succeeded: i32,
    failed: i32,
    counted: Indexes,
    done: Indexes,
    failed_indexes: Option<Indexes>,
    delayed: HashMap<u32, Arc<Pod>>,
    ready: i32,
    terminating: i32,
    finished: Option<JobCondition>,
    /// Whether the status is to be written.
    flush: bool,
    /// UIDs of pods that still hold their finalizer.
    holding: HashSet<String>,
    /// Whether pods were left for the next pass.
    limited: bool,
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A whole second, as the API keeps it.
fn second(t: Time) -> Time {
    Time::from_second(t.as_second()).unwrap_or(t)
}

fn true_condition(kind: &str, reason: &str, message: &str, now: Time) -> JobCondition {
    JobCondition {
        kind: kind.into(),
        status: "True".into(),
        last_probe_time: Some(second(now)),
        last_transition_time: Some(second(now)),
        reason: reason.into(),
        message: message.into(),
    }
}

/// Puts a condition in; whether the list is another one then. One that is false and not there stays away.
fn ensure(list: &mut Vec<JobCondition>, new: JobCondition) -> bool {
    match list.iter_mut().find(|c| c.kind == new.kind) {
        Some(old) => {
            let same = |a: &JobCondition, b: &JobCondition| {
                (&a.status, &a.reason, &a.message) == (&b.status, &b.reason, &b.message)
            };
            let changed = !same(old, &new);
            if changed {
                *old = new;
            }
            changed
        }
        None if new.status == "False" => false,
        None => {
            list.push(new);
            true
        }
    }
}

fn holds(status: &JobStatus, kind: &str) -> Option<JobCondition> {
    let mut all = status.conditions.iter();
    all.find(|c| c.kind == kind && c.status == "True").cloned()
}

/// Of the active pods, those that are missed least first: not scheduled before scheduled, pending before running, not ready
/// before ready, lately ready before long ready, often restarted before seldom, young before old.
fn least_missed_first(pods: &mut [Arc<Pod>]) {
    use std::cmp::Reverse;
    pods.sort_by_cached_key(|p| {
        let phase = match p.status.phase.as_str() {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let restarts = p.status.container_statuses.iter().map(|c| c.restart_count);
        (
            !p.spec.node_name.is_empty(),
            phase,
            p.is_ready(),
            Reverse(p.ready_since()),
            Reverse(restarts.max().unwrap_or(0)),
            Reverse(p.metadata.creation_timestamp),
            p.metadata.name.clone(),
        )
    });
}

impl<'a> Pass<'a> {
    /// Looks at the job, and says what to do about its pods.
    pub fn begin(world: World<'a>) -> (Pass<'a>, Action) {
        let job = world.job;
        let mut status = job.status.clone();
        status
            .uncounted_terminated_pods
            .get_or_insert_with(UncountedPods::default);
        let active: Vec<Arc<Pod>> = world
            .pods
            .iter()
            .filter(|p| p.is_active())
            .cloned()
            .collect();
        let terminating = world
            .pods
            .iter()
            .filter(|p| p.metadata.is_deleting() && !p.is_ended());
        let mut pass = Pass {
            ready: count(active.iter().filter(|p| p.is_ready()).count()),
            terminating: count(terminating.count()),
            backoff: world.backoff,
            events: Vec::new(),
            again: None,
            active,
            succeeded: 0,
            failed: 0,
            counted: Indexes::default(),
            done: Indexes::default(),
            failed_indexes: None,
            delayed: HashMap::new(),
            finished: None,
            flush: false,
            holding: HashSet::new(),
            limited: false,
            status,
            world,
        };
        let action = pass.judge();
        (pass, action)
    }

    fn uncounted(&self) -> UncountedPods {
        self.status
            .uncounted_terminated_pods
            .clone()
            .unwrap_or_default()
    }

    fn completions(&self) -> Option<u32> {
        let n = self.world.job.spec.completions?;
        Some(u32::try_from(n).unwrap_or(0))
    }

    /// The pod's index where the job has one for it.
    fn valid_index(&self, pod: &Pod) -> Option<u32> {
        index_of(pod).filter(|i| self.completions().is_some_and(|n| *i < n))
    }

    fn is_held(&self, pod: &Pod) -> bool {
        has_finalizer(pod) && !self.world.released.contains(&pod.metadata.uid)
    }

    /// Pods that no status has counted yet.
    fn fresh(&self, known: &[String], is: impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
        let known: HashSet<&String> = known.iter().collect();
        let new = |p: &&Arc<Pod>| {
            self.is_held(p)
                && !known.contains(&p.metadata.uid)
                && (!self.world.job.is_indexed() || self.valid_index(p).is_some())
                && is(p)
        };
        self.world.pods.iter().filter(new).cloned().collect()
    }

    fn verdict(&self, pod: &Pod) -> Verdict {
        judge(self.world.job.spec.pod_failure_policy.as_ref(), pod)
    }

    fn failure(&self, reason: &str, message: &str) -> Option<JobCondition> {
        Some(true_condition(
            "FailureTarget",
            reason,
            message,
            self.world.now,
        ))
    }

    fn judge(&mut self) -> Action {
        let (job, now) = (self.world.job, self.world.now);
        let spec = &job.spec;
        let uncounted = self.uncounted();
        let succeeded = self.fresh(&uncounted.succeeded, |p| p.status.phase == "Succeeded");
        let failed = self.fresh(&uncounted.failed, |p| is_failed(job, p));
        let counting = failed.iter().filter(|p| self.verdict(p).counts()).count();
        let sum = |a: i32, b: usize, c: usize| a.saturating_add(count(b)).saturating_add(count(c));
        self.succeeded = sum(
            self.status.succeeded,
            succeeded.len(),
            uncounted.succeeded.len(),
        );
        self.failed = sum(self.status.failed, counting, uncounted.failed.len());
        if self.status.start_time.is_none() && !job.is_suspended() {
            self.status.start_time = Some(second(now));
        }
        self.backoff = self.backoff.after(&succeeded, &failed);

        self.finished = holds(&self.status, "SuccessCriteriaMet");
        if self.finished.is_none() {
            // What an earlier pass decided stands.
            self.finished = holds(&self.status, "FailureTarget").or_else(|| {
                let failed = self.world.pods.iter().filter(|p| is_failed(job, p));
                let why = failed.map(|p| self.verdict(p)).find_map(|v| match v {
                    Verdict::FailJob(why) => Some(why),
                    _ => None,
                })?;
                self.failure("PodFailurePolicy", &why)
            });
        }
        if self.finished.is_none() {
            let limit = spec.backoff_limit.unwrap_or(6);
            if self.failed > limit || self.restarted_too_often(limit) {
                self.finished = self.failure(
                    "BackoffLimitExceeded",
                    "Job has reached the specified backoff limit",
                );
            } else if let Some(left) = self.time_left() {
                if left.is_zero() {
                    self.finished = self.failure(
                        "DeadlineExceeded",
                        "Job was active longer than specified deadline",
                    );
                } else {
                    self.look_again(left);
                }
            }
        }
        if job.is_indexed() {
            self.judge_indexes();
        }
        if self.finished.is_some() {
            return Action::End(self.active.clone());
        }
        if !self.world.settled || job.metadata.is_deleting() {
            return Action::None;
        }
        self.manage()
    }

    /// The indexes of pods that have their finalizer.
    fn held_indexes(&self, is: impl Fn(&Pod) -> bool) -> Indexes {
        let pods = self.world.pods.iter();
        let held = pods.filter(|p| has_finalizer(p) && is(p));
        Indexes::of(held.filter_map(|p| self.valid_index(p)))
    }

    fn judge_indexes(&mut self) {
        let job = self.world.job;
        let spec = &job.spec;
        let completions = self.completions().unwrap_or(0);
        self.counted = Indexes::parse(&self.status.completed_indexes, completions);
        let done = self.held_indexes(|p| p.status.phase == "Succeeded");
        self.done = self.counted.union(&done);
        self.succeeded = i32::try_from(self.done.total()).unwrap_or(i32::MAX);
        if let Some(limit) = spec.backoff_limit_per_index {
            let failed = self.held_indexes(|p| {
                is_failed(job, p)
                    && match self.verdict(p) {
                        Verdict::FailIndex => true,
                        verdict => verdict.counts() && failures_of_index(p) >= limit,
                    }
            });
            let before = self.status.failed_indexes.as_deref().unwrap_or_default();
            let failed = Indexes::parse(before, completions).union(&failed);
            if self.finished.is_none() {
                let most = spec.max_failed_indexes;
                let most = most.map(|n| u64::from(u32::try_from(n).unwrap_or(0)));
                if most.is_some_and(|most| failed.total() > most) {
                    self.finished = self.failure(
                        "MaxFailedIndexesExceeded",
                        "Job has exceeded the specified maximal number of failed indexes",
                    );
                } else if !failed.is_empty()
                    && failed.total() + self.done.total() >= u64::from(completions)
                {
                    self.finished = self.failure("FailedIndexes", "Job has failed indexes");
                }
            }
            self.failed_indexes = Some(failed);
            self.delay_deletions();
        }
        if self.finished.is_none()
            && let Some(why) = success(spec.success_policy.as_ref(), completions, &self.done)
        {
            self.finished = Some(true_condition(
                "SuccessCriteriaMet",
                "SuccessPolicy",
                &why,
                self.world.now,
            ));
        }
    }

    /// The last failed pod of each index without a replacement: it stays until that one is made, which takes its count of
    /// failures over.
    fn delay_deletions(&mut self) {
        let job = self.world.job;
        let active: HashSet<u32> = self.active.iter().filter_map(|p| index_of(p)).collect();
        let total = |p: &Pod| failures_of_index(p).saturating_add(ignored_failures_of_index(p));
        let mut delayed: HashMap<u32, Arc<Pod>> = HashMap::new();
        for pod in self.fresh(&[], |p| is_failed(job, p)) {
            let Some(index) = self.valid_index(&pod) else {
                continue;
            };
            let failed = self.failed_indexes.as_ref();
            if self.done.has(index)
                || failed.is_some_and(|f| f.has(index))
                || active.contains(&index)
            {
                continue;
            }
            let later = delayed.get(&index).is_none_or(|last| {
                total(last) <= total(&pod) && finished_at(&pod) >= finished_at(last)
            });
            if later {
                delayed.insert(index, pod);
            }
        }
        self.delayed = delayed;
    }

    /// For pods that restart by themselves.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let policy = self.world.job.spec.template.pointer("/spec/restartPolicy");
        if policy.and_then(Value::as_str) != Some("OnFailure") {
            return false;
        }
        let alive = |p: &&Arc<Pod>| matches!(p.status.phase.as_str(), "Running" | "Pending");
        let statuses = self.world.pods.iter().filter(alive).flat_map(|p| {
            let inits = p.status.init_container_statuses.iter();
            inits.chain(&p.status.container_statuses)
        });
        let restarts: i64 = statuses.map(|s| i64::from(s.restart_count)).sum();
        restarts >= i64::from(limit.max(1))
    }

    /// Of the active deadline, if there is one.
    fn time_left(&self) -> Option<Duration> {
        let job = self.world.job;
        let (deadline, start) = (job.spec.active_deadline_seconds?, self.status.start_time?);
        if job.is_suspended() {
            return None;
        }
        let allowed = jiff::SignedDuration::from_secs(deadline.max(0));
        let left = allowed.checked_sub(self.world.now.duration_since(start))?;
        Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
    }

    fn look_again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |a| a.min(after)));
    }

    fn manage(&mut self) -> Action {
        let job = self.world.job;
        let spec = &job.spec;
        let active = count(self.active.len());
        let wanted = if job.is_suspended() {
            0
        } else {
            let parallelism = spec.parallelism.unwrap_or(1).max(0);
            match spec.completions {
                // The first success ends it: no more are started.
                None if self.succeeded > 0 => active,
                None => parallelism,
                Some(n) => n.saturating_sub(self.succeeded).clamp(0, parallelism),
            }
        };
        let surplus = self.surplus(usize::try_from(active - wanted).unwrap_or(0));
        if !surplus.is_empty() || job.is_suspended() {
            return Action::Delete(surplus);
        }
        let waits = if replaces_only_failed(job) {
            self.terminating
        } else {
            0
        };
        let missing = usize::try_from(wanted - waits - active).unwrap_or(0);
        if missing == 0 {
            return Action::None;
        }
        let mut missing = missing.min(BURST);
        if spec.backoff_limit_per_index.is_none() {
            let wait = self.backoff.remaining(self.world.now);
            if !wait.is_zero() {
                self.look_again(wait);
                return Action::None;
            }
        }
        let mut indexes = Vec::new();
        if job.is_indexed() {
            indexes = self.pending(missing);
            if spec.backoff_limit_per_index.is_some() {
                let waits = |i: &u32| {
                    let last = self.delayed.get(i).map(|p| &**p);
                    Backoff::of_index(last).remaining(self.world.now)
                };
                let shortest = indexes.iter().map(waits).min().unwrap_or_default();
                indexes.retain(|i| waits(i).is_zero());
                if indexes.is_empty() && !shortest.is_zero() {
                    self.look_again(shortest);
                    return Action::None;
                }
            }
            missing = indexes.len();
        }
        let pods = (0..missing).map(|n| indexes.get(n).copied());
        Action::Create(pods.collect())
    }

    /// Indexes without a pod.
    fn pending(&self, most: usize) -> Vec<u32> {
        let of = |pods: &mut dyn Iterator<Item = &Arc<Pod>>| {
            Indexes::of(pods.filter_map(|p| index_of(p)))
        };
        let mut taken = self.done.union(&of(&mut self.active.iter()));
        if replaces_only_failed(self.world.job) {
            let mut ending = self
                .world
                .pods
                .iter()
                .filter(|p| p.metadata.is_deleting() && !p.is_ended());
            taken = taken.union(&of(&mut ending));
        }
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        taken.missing(most, self.completions().unwrap_or(0))
    }

    /// Active pods that are too many: of an indexed job first those without an index of their own.
    fn surplus(&self, at_least: usize) -> Vec<Arc<Pod>> {
        let job = self.world.job;
        let (mut gone, mut left) = (Vec::new(), self.active.clone());
        least_missed_first(&mut left);
        if job.is_indexed() {
            let mut seen = HashSet::new();
            // The pod of an index that is missed most keeps it.
            left.reverse();
            left.retain(|p| {
                let keeps = self.valid_index(p).is_some_and(|i| seen.insert(i));
                if !keeps {
                    gone.push(p.clone());
                }
                keeps
            });
            gone.sort_by_key(|p| index_of(p));
            left.reverse();
        }
        let more = at_least.saturating_sub(gone.len());
        gone.extend(left.into_iter().take(more));
        if !job.is_suspended() {
            gone.truncate(BURST);
        }
        gone
    }

    /// A pod as the template wants it, with what tells of its index.
    pub fn pod(&self, index: Option<u32>) -> Value {
        let job = self.world.job;
        let reference =
            crate::children::controller_reference(&client::resource::JOBS, &job.metadata);
        let mut pod =
            crate::children::pod_from_template(&job.spec.template, &job.metadata.name, reference);
        let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) else {
            return pod;
        };
        let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|f| f == FINALIZER)
        {
            list.push(FINALIZER.into());
        }
        let Some(index) = index else {
            return pod;
        };
        let name = &job.metadata.name;
        metadata.insert("generateName".into(), generate_name(name, index).into());
        let set =
            |metadata: &mut serde_json::Map<String, Value>, map: &str, key: &str, value: String| {
                let map = metadata.entry(map).or_insert_with(|| json!({}));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key.into(), value.into());
                }
            };
        set(metadata, "annotations", INDEX, index.to_string());
        set(metadata, "labels", INDEX, index.to_string());
        if job.spec.backoff_limit_per_index.is_some() {
            let (mut failures, mut ignored) = (0, 0);
            if let Some(last) = self.delayed.get(&index) {
                failures = failures_of_index(last);
                ignored = ignored_failures_of_index(last);
                let n = if self.verdict(last).counts() {
                    &mut failures
                } else {
                    &mut ignored
                };
                *n = n.saturating_add(1);
            }
            set(
                metadata,
                "annotations",
                INDEX_FAILURES,
                failures.to_string(),
            );
            if ignored > 0 {
                set(
                    metadata,
                    "annotations",
                    IGNORED_FAILURES,
                    ignored.to_string(),
                );
            }
        }
        if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("hostname".into(), format!("{name}-{index}").into());
            for list in ["initContainers", "containers"] {
                let list = spec.get_mut(list).and_then(Value::as_array_mut);
                list.into_iter().flatten().for_each(tell_index);
            }
        }
        pod
    }

    /// What came of the action.
    pub fn acted(&mut self, action: &Action, outcome: Outcome) {
        let (done, job) = (count(outcome.done), self.world.job);
        let mut active = count(self.active.len());
        let mut flush = false;
        match action {
            Action::End(pods) => {
                if outcome.done != pods.len() || !self.world.settled {
                    // Pods may be left that nobody has seen or ended yet.
                    self.finished = None;
                }
                active -= done;
            }
            Action::Delete(_) => active -= done,
            Action::Create(_) => active += done,
            Action::None => {}
        }
        if matches!(action, Action::End(_) | Action::Delete(_)) {
            self.terminating = self.terminating.saturating_add(done);
            self.ready -= count(outcome.ready);
        }
        if !matches!(action, Action::End(_)) {
            let complete = match job.spec.completions {
                None => self.succeeded > 0,
                Some(n) => self.succeeded >= n,
            };
            if complete && active == 0 {
                self.finished = Some(true_condition(
                    "SuccessCriteriaMet",
                    "CompletionsReached",
                    "Reached expected number of succeeded pods",
                    self.world.now,
                ));
            } else if self.world.settled && !job.metadata.is_deleting() {
                flush = self.suspend_or_resume();
            }
        }
        self.status.active = active;
        self.status.ready = Some(self.ready);
        self.status.terminating = Some(self.terminating);
        let (old, new) = (&job.status, &self.status);
        self.flush = flush
            || (old.active, old.ready, old.terminating) != (new.active, new.ready, new.terminating);
    }

    fn suspend_or_resume(&mut self) -> bool {
        let (suspended, now) = (self.world.job.is_suspended(), second(self.world.now));
        let (status, reason, message, event) = if suspended {
            ("True", "JobSuspended", "Job suspended", "Suspended")
        } else {
            ("False", "JobResumed", "Job resumed", "Resumed")
        };
        let condition = JobCondition {
            status: status.into(),
            ..true_condition("Suspended", reason, message, now)
        };
        if !ensure(&mut self.status.conditions, condition) {
            return false;
        }
        let event = (EventType::Normal, event.to_owned(), message.to_owned());
        self.events.push(event);
        // The deadline counts the time since the job was last resumed.
        self.status.start_time = (!suspended).then_some(now);
        true
    }

    /// Whether a pod's finalizer may go: it is counted then, or does not count any more.
    fn may_release(&self, pod: &Pod) -> bool {
        let job = self.world.job;
        if job.metadata.is_deleting() || self.finished.is_some() || pod.status.phase == "Succeeded"
        {
            return true;
        }
        let waits = index_of(pod)
            .and_then(|i| self.delayed.get(&i))
            .is_some_and(|p| p.metadata.uid == pod.metadata.uid);
        is_failed(job, pod) && !waits
    }

    /// Notes ended pods in the status, and says whose finalizers to remove and whether the status is to be written before.
    pub fn track(&mut self) -> (Vec<Arc<Pod>>, bool) {
        let job = self.world.job;
        let mut pods = self.world.pods.clone();
        if job.is_indexed() {
            pods.sort_by_key(|p| index_of(p));
        }
        let held = pods.iter().filter(|p| self.is_held(p));
        self.holding = held.map(|p| p.metadata.uid.clone()).collect();
        self.count_released();
        let mut uncounted = self.uncounted();
        let known = |list: &[String]| list.iter().cloned().collect::<HashSet<String>>();
        let (succeeded, failed) = (known(&uncounted.succeeded), known(&uncounted.failed));
        let over = self.finished.as_ref();
        let over = over.is_some_and(|c| c.kind != "SuccessCriteriaMet");
        let (mut release, mut done) = (Vec::new(), Vec::new());
        for pod in pods {
            let uid = &pod.metadata.uid;
            if !self.is_held(&pod) || !self.may_release(&pod) {
                continue;
            }
            if pod.status.phase == "Succeeded" && !failed.contains(uid) {
                if job.is_indexed() {
                    // The index is enough to count a pod once.
                    let index = self.valid_index(&pod).filter(|i| !self.counted.has(*i));
                    self.flush |= index.is_some();
                    done.extend(index);
                } else if !succeeded.contains(uid) {
                    self.flush = true;
                    uncounted.succeeded.push(uid.clone());
                }
            } else if (is_failed(job, &pod) || over)
                && !failed.contains(uid)
                && (!job.is_indexed() || self.valid_index(&pod).is_some())
                && self.verdict(&pod).counts()
            {
                self.flush = true;
                uncounted.failed.push(uid.clone());
            }
            release.push(pod);
            if done.len() + uncounted.succeeded.len() + uncounted.failed.len() >= UNCOUNTED {
                // What is written brings the job back.
                self.limited = true;
                break;
            }
        }
        self.status.uncounted_terminated_pods = Some(uncounted);
        if job.is_indexed() {
            let counted = self.counted.union(&Indexes::of(done));
            self.status.succeeded = i32::try_from(counted.total()).unwrap_or(i32::MAX);
            let printed = counted.to_string();
            let failed = self.failed_indexes.as_ref().map(ToString::to_string);
            self.flush |=
                printed != self.status.completed_indexes || failed != self.status.failed_indexes;
            self.status.completed_indexes = printed;
            self.status.failed_indexes = failed;
        }
        // What is decided is told before the finalizers go, so that nothing is lost with the pods.
        if let Some(decided) = self.finished.take() {
            self.flush |= ensure(&mut self.status.conditions, decided.clone());
            let kind = if decided.kind == "FailureTarget" {
                "Failed"
            } else {
                "Complete"
            };
            let (reason, message) = (&decided.reason, &decided.message);
            self.finished = Some(true_condition(kind, reason, message, self.world.now));
        }
        (release, std::mem::take(&mut self.flush))
    }

    /// Counts the pods that are noted and have no finalizer any more.
    fn count_released(&mut self) {
        let mut uncounted = self.uncounted();
        let before = (uncounted.succeeded.len(), uncounted.failed.len());
        uncounted.succeeded.retain(|u| self.holding.contains(u));
        uncounted.failed.retain(|u| self.holding.contains(u));
        let gone = (
            before.0 - uncounted.succeeded.len(),
            before.1 - uncounted.failed.len(),
        );
        self.flush |= gone != (0, 0);
        self.status.succeeded = self.status.succeeded.saturating_add(count(gone.0));
        self.status.failed = self.status.failed.saturating_add(count(gone.1));
        self.status.uncounted_terminated_pods = Some(uncounted);
    }

    /// These UIDs have lost their finalizers. Whether the status changes by it.
    pub fn released(&mut self, uids: &HashSet<String>) -> bool {
        self.holding.retain(|u| !uids.contains(u));
        self.count_released();
        if self.world.job.is_indexed() {
            let completed = Indexes::parse(
                &self.status.completed_indexes,
                self.completions().unwrap_or(0),
            );
            self.status.succeeded = i32::try_from(completed.total()).unwrap_or(i32::MAX);
        }
        self.flush
    }

    /// Ends the job if every pod is counted. Whether the status is to be written.
    pub fn finish(&mut self) -> bool {
        let uncounted = self.uncounted();
        let counted = uncounted.succeeded.is_empty() && uncounted.failed.is_empty();
        if !self.limited
            && counted
            && self.terminating <= 0
            && let Some(condition) = self.finished.take()
        {
            self.flush = true;
            let complete = condition.kind == "Complete";
            if complete {
                self.status.completion_time = condition.last_transition_time;
                let wanted = self.world.job.spec.completions;
                if wanted.is_some_and(|n| self.status.succeeded > n) {
                    let message = "Too many succeeded pods running after completion count reached";
                    self.tell(EventType::Warning, "TooManySucceededPods", message);
                }
                self.tell(EventType::Normal, "Completed", "Job completed");
            } else {
                self.tell(EventType::Warning, &condition.reason, &condition.message);
            }
            ensure(&mut self.status.conditions, condition);
        }
        std::mem::take(&mut self.flush)
    }

    fn tell(&mut self, kind: EventType, reason: &str, message: &str) {
        self.events.push((kind, reason.into(), message.into()));
    }
}

/// Of an index's pods: the job's name is cut where the apiserver appends five characters.
fn generate_name(job: &str, index: u32) -> String {
    let end = format!("-{index}-");
    let cut: String = job.chars().take(58 - end.len()).collect();
    cut + &end
}

/// Gives a container the variable that holds its pod's index, unless it has one of that name.
fn tell_index(container: &mut Value) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let Some(container) = container.as_object_mut() else {
        return;
    };
    let env = container.entry("env").or_insert_with(|| json!([]));
    let Some(env) = env.as_array_mut() else {
        return;
    };
    let is = |e: &Value| e.get("name").and_then(Value::as_str) == Some(NAME);
    if !env.iter().any(is) {
        let path = format!("metadata.labels['{INDEX}']");
        env.push(json!({"name": NAME, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    }
}
