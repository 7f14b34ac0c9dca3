//! ttl-after-finished-controller: removes Jobs that ended longer ago than their `spec.ttlSecondsAfterFinished`.
//!
//! Invariants: nothing is removed on the cache's word alone, since the time to live may just have been changed; what is removed
//! is the very Job that was asked for. A Job that ended without saying when is never removed.
//! `ttl_after_finished_controller_job_deletion_duration_seconds` is not counted.

use std::time::Duration;

use client::resource::JOBS;
use client::{Change, DeleteOptions, ObjectKey, Propagation, Time};
use jiff::SignedDuration;

use crate::Context;
use crate::views::Job;

/// What is to become of a Job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays.
    Keep,
    /// It goes after this time.
    Wait(Duration),
    /// It goes.
    Remove,
}

/// Whether a Job has ended and shall not stay.
fn needs_cleanup(job: &Job) -> bool {
    !job.metadata.is_deleting()
        && job.spec.ttl_seconds_after_finished.is_some()
        && job.finished().is_some()
}

/// What is to become of a Job now.
///
/// # Errors
/// Where it is not told when the Job ended.
pub fn decide(job: &Job, now: Time) -> Result<Decision, String> {
    let (Some(ttl), Some(ending), false) = (
        job.spec.ttl_seconds_after_finished,
        job.finished(),
        job.metadata.is_deleting(),
    ) else {
        return Ok(Decision::Keep);
    };
    let ended = ending.last_transition_time.ok_or_else(|| {
        format!(
            "unable to find the time when the Job {} finished",
            ObjectKey::of(job)
        )
    })?;
    let left = SignedDuration::from_secs(ttl.into()) - now.duration_since(ended);
    Ok(match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Decision::Wait(left),
        _ => Decision::Remove,
    })
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let jobs = ctx.informer::<Job>(&JOBS);
    let queue = ctx.queue("ttl_jobs_to_delete");
    let q = queue.clone();
    jobs.on_change(move |change| {
        let job = change.object();
        if !matches!(change, Change::Deleted(_)) && needs_cleanup(job) {
            q.add(ObjectKey::of(&**job));
        }
    });
    let (jobs, client) = (jobs.store(), ctx.client.clone());
    let workers = ctx.config.concurrent("ttl-after-finished", 5);
    ctx.run(queue, workers, move |key| {
        let (job, client) = (jobs.get_key(&key), client.clone());
        async move {
            match job {
                Some(job) => sync(&client, &job, Time::now()).await,
                None => Ok(None),
            }
        }
    });
}

/// Why a Job could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The apiserver's word.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The Job is not told of as it should be.
    #[error("{0}")]
    Job(String),
}

async fn sync(client: &client::Client, job: &Job, now: Time) -> Result<Option<Duration>, Error> {
    match decide(job, now).map_err(Error::Job)? {
        Decision::Keep => return Ok(None),
        Decision::Wait(left) => return Ok(Some(left)),
        Decision::Remove => {}
    }
    let api = client.namespaced(&JOBS, &job.metadata.namespace);
    let fresh: Job = match api.get(&job.metadata.name).await {
        Ok(fresh) => fresh,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    match decide(&fresh, now).map_err(Error::Job)? {
        Decision::Keep => return Ok(None),
        Decision::Wait(left) => return Ok(Some(left)),
        Decision::Remove => {}
    }
    let options = DeleteOptions {
        propagation: Some(Propagation::Foreground),
        ..DeleteOptions::uid(fresh.metadata.uid.as_str())
    };
    api.delete(&fresh.metadata.name, &options).await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    fn job(ttl: Option<i32>, ending: Option<(&str, &str, Option<i64>)>) -> Job {
        let mut conditions = vec![json!({"type": "Suspended", "status": "True"})];
        if let Some((kind, status, at)) = ending {
            let at = at.map(|s| Time::from_second(s).unwrap().to_string());
            conditions.push(json!({"type": kind, "status": status, "lastTransitionTime": at}));
        }
        serde_json::from_value(json!({
            "metadata": {"name": "j", "namespace": "n", "uid": "u"},
            "spec": {"ttlSecondsAfterFinished": ttl},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn time_to_live() {
        use Decision::{Keep, Remove, Wait};
        let wait = |seconds| Wait(Duration::from_secs(seconds));
        let ended = |at| Some(("Complete", "True", Some(at)));
        for (what, job, want) in [
            ("runs", job(Some(10), None), Keep),
            ("runs, for ever", job(None, None), Keep),
            ("ended, for ever", job(None, ended(900)), Keep),
            (
                "not ended after all",
                job(Some(10), Some(("Complete", "False", Some(900)))),
                Keep,
            ),
            (
                "is ending",
                job(Some(0), Some(("SuccessCriteriaMet", "True", Some(900)))),
                Keep,
            ),
            ("at once", job(Some(0), ended(1000)), Remove),
            ("ended long ago", job(Some(10), ended(900)), Remove),
            ("to the second", job(Some(100), ended(900)), Remove),
            ("a second left", job(Some(101), ended(900)), wait(1)),
            (
                "failed",
                job(Some(10), Some(("Failed", "True", Some(995)))),
                wait(5),
            ),
            (
                "failed long ago",
                job(Some(10), Some(("Failed", "True", Some(900)))),
                Remove,
            ),
            ("ended in the future", job(Some(10), ended(1020)), wait(30)),
            (
                "for very long",
                job(Some(i32::MAX), ended(1000)),
                wait(2_147_483_647),
            ),
        ] {
            assert_eq!(
                decide(&job, Time::from_second(1000).unwrap()),
                Ok(want),
                "{what}"
            );
        }
        let untold = job(Some(10), Some(("Complete", "True", None)));
        let why = "unable to find the time when the Job n/j finished";
        assert_eq!(decide(&untold, Time::UNIX_EPOCH), Err(why.into()));
        let mut deleting = job(Some(0), ended(0));
        deleting.metadata.deletion_timestamp = Some(Time::UNIX_EPOCH);
        assert_eq!(decide(&deleting, Time::MAX), Ok(Keep));
        assert!(!needs_cleanup(&deleting));
    }

    /// The apiserver's copy decides; its UID goes with the deletion.
    #[tokio::test]
    async fn nothing_is_removed_on_the_caches_word() {
        let old = job(Some(10), Some(("Complete", "True", Some(900))));
        for (live, wait, deleted) in [
            (
                Some(job(Some(10), Some(("Failed", "True", Some(900))))),
                None,
                true,
            ),
            (
                Some(job(Some(200), Some(("Failed", "True", Some(900))))),
                Some(100),
                false,
            ),
            (
                Some(job(None, Some(("Failed", "True", Some(900))))),
                None,
                false,
            ),
            (Some(job(Some(10), None)), None, false),
            (None, None, false),
        ] {
            let log: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
            let told = log.clone();
            let live = live.map(|j| {
                json!({
                    "metadata": {"name": "j", "namespace": "n", "uid": "live"},
                    "spec": {"ttlSecondsAfterFinished": j.spec.ttl_seconds_after_finished},
                    "status": {"conditions": j.status.conditions},
                })
            });
            let apiserver = testkit::apiserver::serve(move |asked, client| {
                let (told, live) = (told.clone(), live.clone());
                async move {
                    if asked.method == "DELETE" {
                        told.lock().unwrap().push(asked.body);
                        return client.send(200, &json!({"kind": "Status"})).await;
                    }
                    match live {
                        Some(job) => client.send(200, &job).await,
                        None => client.refuse(404).await,
                    }
                }
            });
            let config = testkit::apiserver::kubeconfig(apiserver.await);
            let client = client::Client::from_kubeconfig(config.path(), client::Options::default());
            let now = Time::from_second(1000).unwrap();
            let again = sync(&client.await.unwrap(), &old, now).await.unwrap();
            assert_eq!(again, wait.map(Duration::from_secs));
            let log = log.lock().unwrap();
            assert_eq!(log.len(), usize::from(deleted));
            for body in log.iter() {
                assert_eq!(body["propagationPolicy"], "Foreground");
                assert_eq!(body["preconditions"]["uid"], "live");
            }
        }
    }
}
