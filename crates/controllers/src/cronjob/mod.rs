//! cronjob-controller: makes Jobs at the times that a CronJob's schedule names, keeps account of those that run, and removes
//! the oldest that have ended.
//!
//! Invariants: a Job's name follows from the CronJob's and the scheduled minute, so no time is made into two Jobs, however
//! stale the caches; of the times that were missed only the last is made up for; a status is written only over the one that
//! it was decided from. Jobs are the CronJob's own by the name of their controller, as upstream.
//!
//! Different from upstream: a reference in `status.active` to a Job of another namespace or with another UID counts as
//! missing and is never followed to a deletion; when the name of a Job is taken by somebody else's the next time is waited
//! for, not only the next change. `cronjob_job_creation_skew_duration_seconds` is not counted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::cron::{self, Schedule};
use client::resource::{CRON_JOBS, JOBS};
use client::{
    Change, DeleteOptions, EventType, ObjectKey, ObjectMeta, ObjectReference, Propagation, Store,
    Time, WorkQueue, views,
};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::children::{BURST, Child, Family, set_status};
use crate::context::{Context, Failures, rewrite};
use crate::views::Job;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Jobs by namespace and name of their controller.
const BY_OWNER: &str = "controller-name";
/// Waited beyond a scheduled time, since clocks differ.
const PADDING: SignedDuration = SignedDuration::from_millis(100);
/// With more missed times than this the clock or the schedule is wrong.
const MANY: i64 = 100;

/// `batch/v1.CronJob`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CronJob {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Spec.
    pub spec: CronJobSpec,
    /// Status.
    pub status: CronJobStatus,
}

views!(CronJob);

/// `batch/v1.CronJobSpec`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are the API's")]
pub struct CronJobSpec {
    pub schedule: String,
    pub time_zone: Option<String>,
    pub starting_deadline_seconds: Option<i64>,
    pub concurrency_policy: String,
    pub suspend: Option<bool>,
    pub job_template: Value,
    pub successful_jobs_history_limit: Option<i32>,
    pub failed_jobs_history_limit: Option<i32>,
}

/// `batch/v1.CronJobStatus`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are the API's")]
pub struct CronJobStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub active: Vec<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<Time>,
}

impl Child for Job {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// An event to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether it is a warning.
    pub kind: EventType,
    /// Reason.
    pub reason: &'static str,
    /// Message.
    pub message: String,
}

fn normal(reason: &'static str, message: impl Into<String>) -> Told {
    Told {
        kind: EventType::Normal,
        reason,
        message: message.into(),
    }
}

fn warning(reason: &'static str, message: impl Into<String>) -> Told {
    Told {
        kind: EventType::Warning,
        reason,
        message: message.into(),
    }
}

impl CronJob {
    fn uids(&self) -> HashSet<&str> {
        self.status.active.iter().map(|r| r.uid.as_str()).collect()
    }

    fn drop_active(&mut self, uid: &str) {
        self.status.active.retain(|r| r.uid != uid);
    }

    /// The schedule's text with the time zone in front. One that names a zone itself is taken as it is, which is
    /// not supported.
    fn schedule_text(&self) -> (String, bool) {
        let text = &self.spec.schedule;
        let odd = text.contains("TZ");
        let text = match &self.spec.time_zone {
            Some(zone) if !odd && cron::zone(zone).is_ok() => format!("TZ={zone} {text}"),
            _ => text.clone(),
        };
        (text, odd)
    }

    /// `NAME-MINUTES`
    fn job_name(&self, at: Timestamp) -> String {
        format!("{}-{}", self.metadata.name, at.as_second() / 60)
    }
}

/// How many scheduled times have passed unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// At most the last one.
    None,
    /// Some.
    Few,
    /// More than [`MANY`].
    Many,
}

/// What [`most_recent`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent {
    /// From when on was looked.
    pub earliest: Timestamp,
    /// The last scheduled time that has come.
    pub at: Option<Timestamp>,
    /// Those before it.
    pub missed: Missed,
}

const NO_INTERVAL: &str = "time difference between two schedules is less than 1 second";

/// The last scheduled time since the last Job or the CronJob's creation; with `deadline` no time that is too late to start
/// is looked at. How many were missed is estimated from the distance of the first two.
///
/// # Errors
/// For a schedule that is never due.
pub fn most_recent(
    cj: &CronJob,
    now: Timestamp,
    schedule: &Schedule,
    local: &TimeZone,
    deadline: bool,
) -> Result<Recent, &'static str> {
    let since = cj
        .status
        .last_schedule_time
        .or(cj.metadata.creation_timestamp);
    let mut earliest = *since.unwrap_or(Time::UNIX_EPOCH);
    if let Some(seconds) = cj.spec.starting_deadline_seconds.filter(|_| deadline) {
        let limit = now.saturating_sub(SignedDuration::from_secs(seconds));
        earliest = earliest.max(limit.unwrap_or(Timestamp::MIN));
    }
    let recent = |at, missed| Recent {
        earliest,
        at,
        missed,
    };
    let first = schedule.next(earliest, local).ok_or(NO_INTERVAL)?;
    if now < first {
        return Ok(recent(None, Missed::None));
    }
    let second = schedule.next(first, local).ok_or(NO_INTERVAL)?;
    if now < second {
        return Ok(recent(Some(first), Missed::None));
    }
    let interval = second.duration_since(first).as_secs();
    if interval < 1 {
        return Err(NO_INTERVAL);
    }
    let count = now.duration_since(first).as_secs() / interval + 1;
    // One interval more is gone back: intervals may differ.
    let back = SignedDuration::from_secs((count - 2).saturating_mul(interval));
    let from = first.saturating_add(back).unwrap_or(first);
    let missed = if count > MANY {
        Missed::Many
    } else {
        Missed::Few
    };
    Ok(recent(last_between(schedule, from, now, local), missed))
}

/// The last scheduled time after `from` and not after `now`.
fn last_between(
    schedule: &Schedule,
    from: Timestamp,
    now: Timestamp,
    local: &TimeZone,
) -> Option<Timestamp> {
    let due = |after| schedule.next(after, local).filter(|t| *t <= now);
    let mut last = due(from)?;
    for _ in 0..MANY {
        let Some(next) = due(last) else {
            return Some(last);
        };
        last = next;
    }
    if !schedule.is_fixed() {
        return Some(last);
    }
    // There may be hundreds of thousands between: the last second after which one is still due is searched by halves.
    let (mut low, mut high) = (last.as_second(), now.as_second());
    while low < high {
        let middle = low + (high - low + 1) / 2;
        match Timestamp::from_second(middle).ok().and_then(due) {
            Some(next) => {
                last = next;
                low = next.as_second().saturating_sub(1).max(middle);
            }
            None => high = middle - 1,
        }
    }
    due(last).or(Some(last))
}

/// How long to wait for the next scheduled time; `None` when there is none.
pub fn due_in(
    cj: &CronJob,
    now: Timestamp,
    schedule: &Schedule,
    local: &TimeZone,
) -> Option<Duration> {
    let after = match most_recent(cj, now, schedule, local, false) {
        Ok(Recent { at: Some(at), .. }) => at,
        Ok(r) if r.missed == Missed::None => r.earliest,
        _ => now,
    };
    let next = schedule.next(after, local)?;
    let wait = next.duration_since(now).saturating_add(PADDING);
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// The oldest ended Jobs beyond the limits.
pub fn surplus(cj: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let beyond = |kind: &str, limit: Option<i32>| {
        let ended = |j: &&Arc<Job>| j.finished().is_some_and(|c| c.kind == kind);
        let mut ended: Vec<Arc<Job>> = match limit {
            Some(_) => jobs.iter().filter(ended).cloned().collect(),
            None => Vec::new(),
        };
        ended.sort_by(|a, b| {
            let key = |j: &Job| (j.status.start_time.is_none(), j.status.start_time);
            (key(a), &a.metadata.name).cmp(&(key(b), &b.metadata.name))
        });
        let limit = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        ended.truncate(ended.len().saturating_sub(limit));
        ended
    };
    let mut out = beyond("Complete", cj.spec.successful_jobs_history_limit);
    out.extend(beyond("Failed", cj.spec.failed_jobs_history_limit));
    out
}

/// Whether a Job runs that the status does not speak of.
fn has_strangers(cj: &CronJob, jobs: &[Arc<Job>]) -> bool {
    let active = cj.uids();
    jobs.iter()
        .any(|j| j.finished().is_none() && !active.contains(j.metadata.uid.as_str()))
}

/// The active Jobs that the cache does not show.
fn unseen(cj: &CronJob, jobs: &[Arc<Job>]) -> Vec<ObjectReference> {
    let seen: HashSet<&str> = jobs.iter().map(|j| j.metadata.uid.as_str()).collect();
    let active = cj.status.active.iter();
    active
        .filter(|r| !seen.contains(r.uid.as_str()))
        .cloned()
        .collect()
}

/// Brings the status up to what became of the Jobs. `gone` are the UIDs of those that the apiserver no longer has.
pub fn observe(cj: &mut CronJob, jobs: &[Arc<Job>], gone: &HashSet<String>) -> Vec<Told> {
    let mut told = Vec::new();
    let mut ended = HashSet::new();
    let mut last = cj.status.last_successful_time;
    let active = cj.uids();
    for job in jobs {
        let name = &job.metadata.name;
        let uid = job.metadata.uid.as_str();
        match (job.finished(), active.contains(uid)) {
            (None, true) => {}
            (None, false) => told.push(warning(
                "UnexpectedJob",
                format!("Saw a job that the controller did not create or forgot: {name}"),
            )),
            (Some(ending), found) => {
                if found && ended.insert(uid.to_owned()) {
                    told.push(normal(
                        "SawCompletedJob",
                        format!("Saw completed job: {name}, condition: {}", ending.kind),
                    ));
                }
                if job.is_succeeded() {
                    last = last.max(job.status.completion_time);
                }
            }
        }
    }
    let missing = cj.status.active.iter().filter(|r| gone.contains(&r.uid));
    told.extend(missing.map(|r| {
        let message = format!("Active job went missing: {}", r.name);
        normal("MissingJob", message)
    }));
    cj.status.last_successful_time = last;
    cj.status
        .active
        .retain(|r| !ended.contains(&r.uid) && !gone.contains(&r.uid));
    told
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing before something changes, or so long.
    Wait(Option<Duration>),
    /// The Job of this time is to be made.
    Start(Timestamp),
}

/// Whether a Job is due, and what is to be told of it.
pub fn decide(cj: &CronJob, now: Timestamp, local: &TimeZone) -> (Vec<Told>, Decision) {
    let mut told = Vec::new();
    if cj.metadata.is_deleting() {
        return (told, Decision::Wait(None));
    }
    if let Some(zone) = &cj.spec.time_zone
        && let Err(why) = cron::zone(zone)
    {
        let zone = api::text::go_quote(zone);
        told.push(warning(
            "UnknownTimeZone",
            format!("invalid timeZone: {zone}: {why}"),
        ));
        return (told, Decision::Wait(None));
    }
    if cj.spec.suspend == Some(true) {
        return (told, Decision::Wait(None));
    }
    let quoted = api::text::go_quote(&cj.spec.schedule);
    let (text, odd) = cj.schedule_text();
    if odd {
        told.push(warning(
            "UnsupportedSchedule",
            format!(
                "CRON_TZ or TZ used in schedule {quoted} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            ),
        ));
    }
    let schedule = match cron::parse(&text) {
        Ok(s) => s,
        Err(why) => {
            told.push(warning(
                "UnparseableSchedule",
                format!("unparseable schedule: {quoted} : {why}"),
            ));
            return (told, Decision::Wait(None));
        }
    };
    let recent = match most_recent(cj, now, &schedule, local, true) {
        Ok(r) => r,
        Err(why) => {
            told.push(warning(
                "InvalidSchedule",
                format!("invalid schedule: {} : {why}", cj.spec.schedule),
            ));
            return (told, Decision::Wait(None));
        }
    };
    let wait = || Decision::Wait(due_in(cj, now, &schedule, local));
    let Some(at) = recent.at else {
        return (told, wait());
    };
    if recent.missed == Missed::Many {
        told.push(warning(
            "TooManyMissedTimes",
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
        ));
    }
    let late = cj.spec.starting_deadline_seconds.is_some_and(|seconds| {
        at.saturating_add(SignedDuration::from_secs(seconds))
            .is_ok_and(|limit| limit < now)
    });
    if late {
        let at = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        told.push(warning(
            "MissSchedule",
            format!("Missed scheduled time to start a job: {at}"),
        ));
        return (told, wait());
    }
    let name = cj.job_name(at);
    let ours = |r: &ObjectReference| r.name == name && r.namespace == cj.metadata.namespace;
    if cj.status.active.iter().any(ours) || cj.status.last_schedule_time == Some(at.into()) {
        return (told, wait());
    }
    if cj.spec.concurrency_policy == "Forbid" && !cj.status.active.is_empty() {
        told.push(normal(
            "JobAlreadyActive",
            "Not starting job because prior execution is running and concurrency policy is Forbid",
        ));
        return (told, wait());
    }
    (told, Decision::Start(at))
}

/// The Job of a scheduled time, as the template wants it.
pub fn job(cj: &CronJob, at: Timestamp, owner: Value) -> Value {
    let template = &cj.spec.job_template;
    let mut annotations: Map<String, Value> = template
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    // Without a zone the time is told in UTC, whatever the schedule is read in.
    let zone = cj.spec.time_zone.as_deref().unwrap_or_default();
    let zone = cron::zone(zone).ok().flatten().unwrap_or(TimeZone::UTC);
    let shown = at.to_zoned(zone);
    let format = if shown.offset().is_zero() {
        "%Y-%m-%dT%H:%M:%SZ"
    } else {
        "%Y-%m-%dT%H:%M:%S%:z"
    };
    annotations.insert(SCHEDULED.into(), shown.strftime(format).to_string().into());
    let mut metadata = json!({
        "name": cj.job_name(at),
        "annotations": annotations,
        "ownerReferences": [owner],
    });
    if let (Some(labels), Some(m)) = (
        template.pointer("/metadata/labels"),
        metadata.as_object_mut(),
    ) {
        m.insert("labels".into(), labels.clone());
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template.get("spec")})
}

struct Controller {
    ctx: Context,
    cron_jobs: Store<CronJob>,
    jobs: Store<Job>,
    queue: WorkQueue<ObjectKey>,
    /// The zone of this machine: schedules without one are read in it.
    local: TimeZone,
}

fn owner_index(job: &Job) -> Vec<String> {
    let owner = job.metadata.controller();
    owner
        .map(|o| vec![format!("{}/{}", job.metadata.namespace, o.name)])
        .unwrap_or_default()
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let cron_jobs = ctx.informer::<CronJob>(&CRON_JOBS);
    let jobs = ctx.informer::<Job>(&JOBS);
    jobs.store().add_index(BY_OWNER, owner_index);
    let queue = ctx.queue("cronjob");
    let c = Arc::new(Controller {
        cron_jobs: cron_jobs.store(),
        jobs: jobs.store(),
        queue: queue.clone(),
        local: TimeZone::system(),
        ctx: ctx.clone(),
    });
    let it = c.clone();
    cron_jobs.on_change(move |change| it.changed(change, Timestamp::now()));
    let it = c.clone();
    jobs.on_change(move |change| it.job_changed(change));
    let workers = ctx.config.concurrent("cronjob", 5);
    ctx.run(queue, workers, move |key| {
        let c = c.clone();
        async move { c.sync(&key, Timestamp::now()).await }
    });
}

impl Controller {
    fn family<'a>(&'a self, cj: &'a CronJob) -> Family<'a> {
        Family {
            ctx: &self.ctx,
            resource: &CRON_JOBS,
            owner: &cj.metadata,
            finalizer: None,
        }
    }

    fn tell(&self, cj: &CronJob, told: Vec<Told>) {
        for t in told {
            self.family(cj).event(t.kind, t.reason, t.message);
        }
    }

    /// With a new schedule the next of its times is waited for; anything else is looked at now.
    fn changed(&self, change: Change<'_, CronJob>, now: Timestamp) {
        let cj = change.object();
        let key = ObjectKey::of(&**cj);
        let same = change.old().is_none_or(|old| {
            old.spec.schedule == cj.spec.schedule && old.spec.time_zone == cj.spec.time_zone
        });
        if same || matches!(change, Change::Deleted(_)) {
            return self.queue.add(key);
        }
        match cron::parse(&cj.schedule_text().0) {
            Ok(schedule) => {
                let wait = due_in(cj, now, &schedule, &self.local).unwrap_or_default();
                self.queue.add_after(key, wait);
            }
            Err(_) => {
                let message = format!("unparseable schedule for cronjob: {}", cj.spec.schedule);
                let told = warning("UnParseableCronJobSchedule", message);
                self.tell(cj, vec![told]);
            }
        }
    }

    fn job_changed(&self, change: Change<'_, Job>) {
        let owner = |job: &Job| job.metadata.controller().cloned();
        let now = owner(change.object());
        let before = change.old().and_then(|old| owner(old));
        let lost = before.filter(|o| now.as_ref() != Some(o));
        for owner in [lost, now].into_iter().flatten() {
            let key = ObjectKey::new(
                change.object().metadata.namespace.as_str(),
                owner.name.as_str(),
            );
            let known = self.cron_jobs.get_key(&key);
            if owner.kind == CRON_JOBS.kind && known.is_some_and(|c| c.metadata.uid == owner.uid) {
                self.queue.add(key);
            }
        }
    }

    async fn sync(
        &self,
        key: &ObjectKey,
        now: Timestamp,
    ) -> Result<Option<Duration>, client::Error> {
        let Some(seen) = self.cron_jobs.get_key(key) else {
            return Ok(None);
        };
        let jobs = self.jobs.by_index(BY_OWNER, &key.to_string());
        let mut cj = (*seen).clone();
        let mut base = cj.status.clone();
        self.clean_up(&mut cj, &jobs).await;
        let again = self.work(&mut cj, &mut base, &jobs, now).await;
        if cj.status != base {
            self.write_status(&cj, &base).await?;
        }
        again
    }

    /// Removes the oldest ended Jobs. What is refused is told, and tried again at the next look.
    async fn clean_up(&self, cj: &mut CronJob, jobs: &[Arc<Job>]) {
        for job in surplus(cj, jobs).into_iter().take(BURST) {
            let _ = self.delete(cj, &job).await;
        }
    }

    async fn delete(&self, cj: &mut CronJob, job: &Job) -> Result<(), client::Error> {
        let api = self.ctx.client.namespaced(&JOBS, &job.metadata.namespace);
        let options = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::uid(job.metadata.uid.as_str())
        };
        let deleted = api.delete(&job.metadata.name, &options).await;
        let told = match &deleted {
            Ok(()) => {
                cj.drop_active(&job.metadata.uid);
                normal(
                    "SuccessfulDelete",
                    format!("Deleted job {}", job.metadata.name),
                )
            }
            Err(e) => warning("FailedDelete", format!("Deleted job: {e}")),
        };
        self.tell(cj, vec![told]);
        deleted
    }

    /// Asks the apiserver for a Job of the status; `None` when it has it no longer.
    async fn get(
        &self,
        cj: &CronJob,
        active: &ObjectReference,
    ) -> Result<Option<Job>, client::Error> {
        if active.namespace != cj.metadata.namespace {
            return Ok(None);
        }
        let api = self.ctx.client.namespaced(&JOBS, &active.namespace);
        match api.get::<Job>(&active.name).await {
            Ok(job) => Ok(Some(job).filter(|j| j.metadata.uid == active.uid)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn work(
        &self,
        cj: &mut CronJob,
        base: &mut CronJobStatus,
        jobs: &[Arc<Job>],
        now: Timestamp,
    ) -> Result<Option<Duration>, client::Error> {
        if has_strangers(cj, jobs) {
            // The cache may not show yet what this controller wrote.
            let api = self
                .ctx
                .client
                .namespaced(&CRON_JOBS, &cj.metadata.namespace);
            let live: CronJob = api.get(&cj.metadata.name).await?;
            if live.metadata.uid != cj.metadata.uid {
                return Ok(None);
            }
            *base = live.status.clone();
            *cj = live;
        }
        let mut failures = Failures::default();
        let mut gone = HashSet::new();
        for active in unseen(cj, jobs).into_iter().take(BURST) {
            match self.get(cj, &active).await {
                Ok(None) => {
                    gone.insert(active.uid);
                }
                other => failures.note(other.map(drop)),
            }
        }
        let told = observe(cj, jobs, &gone);
        self.tell(cj, told);
        failures.end()?;
        let (told, decision) = decide(cj, now, &self.local);
        self.tell(cj, told);
        match decision {
            Decision::Wait(wait) => Ok(wait),
            Decision::Start(at) => self.begin(cj, at, now).await,
        }
    }

    async fn begin(
        &self,
        cj: &mut CronJob,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Duration>, client::Error> {
        if cj.spec.concurrency_policy == "Replace" {
            let active: Vec<_> = cj.status.active.iter().take(BURST).cloned().collect();
            for active in active {
                match self.get(cj, &active).await {
                    Ok(Some(job)) => self.delete(cj, &job).await?,
                    Ok(None) => cj.drop_active(&active.uid),
                    Err(e) => {
                        self.tell(cj, vec![warning("FailedGet", format!("Get job: {e}"))]);
                        return Err(e);
                    }
                }
            }
            if !cj.status.active.is_empty() {
                return Ok(Some(Duration::ZERO));
            }
        }
        let wait = |cj: &CronJob| {
            let schedule = cron::parse(&cj.schedule_text().0).ok();
            schedule.and_then(|s| due_in(cj, now, &s, &self.local))
        };
        let api = self.ctx.client.namespaced(&JOBS, &cj.metadata.namespace);
        let wanted = job(cj, at, self.family(cj).controller_reference());
        let made = match api.create::<Job, _>(&wanted).await {
            Ok(made) => {
                let message = format!("Created job {}", made.metadata.name);
                self.tell(cj, vec![normal("SuccessfulCreate", message)]);
                made
            }
            Err(e) if e.is_namespace_terminating() => return Err(e),
            // Made before, but the status was not written; or somebody else's.
            Err(e) if e.is_already_exists() => {
                let made: Job = api.get(&cj.job_name(at)).await?;
                let ours = made.metadata.controller();
                let ours = ours.is_some_and(|o| o.uid == cj.metadata.uid);
                if !ours || cj.uids().contains(made.metadata.uid.as_str()) {
                    return Ok(wait(cj));
                }
                made
            }
            Err(e) => {
                let message = format!("Error creating job: {e}");
                self.tell(cj, vec![warning("FailedCreate", message)]);
                return Err(e);
            }
        };
        cj.status.active.push(ObjectReference::of(&JOBS, &made));
        cj.status.last_schedule_time = Some(at.into());
        Ok(wait(cj))
    }

    /// A status that was written in between is not overwritten: what it says was not considered.
    async fn write_status(&self, cj: &CronJob, base: &CronJobStatus) -> Result<(), client::Error> {
        let status = serde_json::to_value(&cj.status).unwrap_or_default();
        let api = self
            .ctx
            .client
            .namespaced(&CRON_JOBS, &cj.metadata.namespace);
        let mut moved = false;
        let ObjectMeta { name, uid, .. } = &cj.metadata;
        rewrite(&api, name, uid, "status", |object| {
            let now = object.get("status").cloned().unwrap_or_default();
            let now: CronJobStatus = serde_json::from_value(now).unwrap_or_default();
            moved = now != *base && now != cj.status;
            !moved && set_status(object, &status)
        })
        .await?;
        if moved {
            return Err(client::Error::Api(Box::new(api::Status::failure(
                409,
                "Conflict",
                format!(
                    "the status of cronjob {} was written in between",
                    ObjectKey::of(cj)
                ),
            ))));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
