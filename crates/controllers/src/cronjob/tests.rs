use std::sync::Mutex;

use super::*;

const HOURLY: &str = "0 * * * ?";
const EVERY: &str = "@every 1h";
const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Thursday, 19 May 2016, 10:00 UTC, and so many seconds.
fn ten(seconds: i64) -> Timestamp {
    let ten: Timestamp = "2016-05-19T10:00:00Z".parse().unwrap();
    ten.checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

fn cron_job(schedule: &str, created: i64) -> CronJob {
    serde_json::from_value(json!({
        "metadata": {
            "name": "tick", "namespace": "n", "uid": "cron", "resourceVersion": "7",
            "creationTimestamp": Time::from(ten(created)),
        },
        "spec": {
            "schedule": schedule,
            "concurrencyPolicy": "Allow",
            "jobTemplate": {
                "metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}},
                "spec": {"parallelism": 1, "template": {"spec": {"containers": [{"name": "c"}]}}},
            },
        },
    }))
    .unwrap()
}

fn a_job(name: &str, more: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name, "namespace": "n", "uid": format!("uid-{name}"), "resourceVersion": "1",
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "cron", "controller": true,
            }],
        },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        job[field] = value.clone();
    }
    job
}

fn ended(kind: &str, started: Option<i64>, completed: Option<i64>) -> Value {
    let time = |at: Option<i64>| at.map(|s| Time::from(ten(s)));
    json!({"status": {
        "startTime": time(started), "completionTime": time(completed),
        "conditions": [{"type": kind, "status": "True"}],
    }})
}

fn view(job: Value) -> Arc<Job> {
    Arc::new(serde_json::from_value(job).unwrap())
}

fn reference(name: &str) -> ObjectReference {
    ObjectReference::of(&JOBS, &*view(a_job(name, json!({}))))
}

fn reasons(told: &[Told]) -> Vec<&str> {
    told.iter().map(|t| t.reason).collect()
}

fn schedule(cj: &CronJob) -> Schedule {
    cron::parse(&cj.schedule_text().0).unwrap()
}

const UTC: TimeZone = TimeZone::UTC;

#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// It never ran.
    Never,
    /// It ran, and is done.
    Done,
    /// It runs, and the cache shows it.
    Runs,
    /// It runs, and the cache does not show it yet.
    Unseen,
}
use Before::{Done, Never, Runs, Unseen};

struct Case {
    schedule: &'static str,
    zone: Option<&'static str>,
    policies: &'static [&'static str],
    deadline: Option<i64>,
    suspend: bool,
    before: Before,
    /// Times, in seconds from ten.
    created: Option<i64>,
    last: i64,
    now: i64,
    /// The Job that is made, if any.
    makes: Option<i64>,
    /// Until it is looked at again, without the padding.
    wait: Option<i64>,
    told: &'static [&'static str],
}

const CASE: Case = Case {
    schedule: HOURLY,
    zone: None,
    policies: &["Allow", "Forbid", "Replace"],
    deadline: None,
    suspend: false,
    before: Never,
    created: None,
    last: -59 * MINUTE,
    now: MINUTE,
    makes: None,
    wait: None,
    told: &[],
};

const WEEK: i64 = 7 * DAY;
const MANY_TOLD: &[&str] = &["SawCompletedJob", "TooManyMissedTimes"];

#[rustfmt::skip]
const CASES: &[(&str, Case)] = &[
    ("no schedule", Case { schedule: "now and then", now: -MINUTE, told: &["UnparseableSchedule"], ..CASE }),
    ("no zone", Case { zone: Some("bad zone"), now: -MINUTE, told: &["UnknownTimeZone"], ..CASE }),
    ("never ran, not yet", Case { now: -MINUTE, wait: Some(MINUTE), ..CASE }),
    ("never ran, not yet, elsewhere", Case { zone: Some("America/New_York"), now: -MINUTE, wait: Some(MINUTE), ..CASE }),
    ("never ran, due", Case { makes: Some(0), wait: Some(59 * MINUTE), ..CASE }),
    ("never ran, due, elsewhere", Case { zone: Some("America/New_York"), makes: Some(0), wait: Some(59 * MINUTE), ..CASE }),
    ("never ran, due half an hour off", Case {
        zone: Some("Asia/Kolkata"), created: Some(-20 * MINUTE), wait: Some(29 * MINUTE), ..CASE
    }),
    ("never ran, a zone in both places", Case {
        schedule: "TZ=UTC 0 * * * ?", zone: Some("America/New_York"),
        makes: Some(0), wait: Some(59 * MINUTE), told: &["UnsupportedSchedule"], ..CASE
    }),
    ("never ran, suspended", Case { suspend: true, ..CASE }),
    ("never ran, too late", Case { deadline: Some(10), now: MINUTE + 11, wait: Some(59 * MINUTE - 11), ..CASE }),
    ("never ran, late, in time", Case { deadline: Some(1_000_000), makes: Some(0), wait: Some(59 * MINUTE), ..CASE }),
    ("never ran, due, any deadline", Case { deadline: Some(i64::MAX), makes: Some(0), wait: Some(59 * MINUTE), ..CASE }),
    ("done, not yet", Case { before: Done, now: -MINUTE, wait: Some(MINUTE), told: &["SawCompletedJob"], ..CASE }),
    ("done, due", Case { before: Done, makes: Some(0), wait: Some(59 * MINUTE), told: &["SawCompletedJob"], ..CASE }),
    ("done, suspended", Case { before: Done, suspend: true, told: &["SawCompletedJob"], ..CASE }),
    ("done, too late", Case { before: Done, deadline: Some(10), wait: Some(59 * MINUTE), told: &["SawCompletedJob"], ..CASE }),
    ("done, late, in time", Case {
        before: Done, deadline: Some(1_000_000), makes: Some(0), wait: Some(59 * MINUTE), told: &["SawCompletedJob"], ..CASE
    }),
    ("runs, not yet", Case { before: Runs, now: -MINUTE, wait: Some(MINUTE), ..CASE }),
    ("runs, due", Case {
        before: Runs, policies: &["Allow", "Replace"], makes: Some(0), wait: Some(59 * MINUTE), ..CASE
    }),
    ("runs, due, but one at a time", Case {
        before: Runs, policies: &["Forbid"], wait: Some(59 * MINUTE), told: &["JobAlreadyActive"], ..CASE
    }),
    ("runs, suspended", Case { before: Runs, suspend: true, ..CASE }),
    ("runs, too late", Case { before: Runs, deadline: Some(10), wait: Some(59 * MINUTE), ..CASE }),
    ("runs, late, in time", Case {
        before: Runs, policies: &["Allow"], deadline: Some(1_000_000), makes: Some(0), wait: Some(59 * MINUTE), ..CASE
    }),
    ("long overdue, in time", Case {
        before: Done, deadline: Some(1_000_000), now: WEEK, makes: Some(WEEK), wait: Some(HOUR), told: MANY_TOLD, ..CASE
    }),
    ("long overdue", Case { before: Done, now: WEEK, makes: Some(WEEK), wait: Some(HOUR), told: MANY_TOLD, ..CASE }),
    ("long overdue, the last two hours count", Case {
        before: Done, deadline: Some(2 * HOUR), now: WEEK, makes: Some(WEEK), wait: Some(HOUR), told: &["SawCompletedJob"], ..CASE
    }),
    ("long overdue, the last ten seconds count", Case {
        before: Done, deadline: Some(10), now: WEEK, makes: Some(WEEK), wait: Some(HOUR), told: &["SawCompletedJob"], ..CASE
    }),
    ("the clock was put back", Case {
        before: Done, last: 0, now: -MINUTE, wait: Some(61 * MINUTE), told: &["SawCompletedJob"], ..CASE
    }),
    ("runs, unseen, the time is taken", Case {
        before: Unseen, deadline: Some(1_000_000), last: 0, wait: Some(59 * MINUTE), ..CASE
    }),
    ("every hour, never ran, not yet", Case { schedule: EVERY, now: 0, wait: Some(59 * MINUTE), ..CASE }),
    ("every hour, never ran, due", Case {
        schedule: EVERY, created: Some(-61 * MINUTE), now: -MINUTE, makes: Some(-MINUTE), wait: Some(HOUR), ..CASE
    }),
    ("every hour, never ran, too late", Case {
        schedule: EVERY, created: Some(-61 * MINUTE), deadline: Some(10), now: -MINUTE + 11, wait: Some(HOUR - 11), ..CASE
    }),
    ("every hour, never ran, in time", Case {
        schedule: EVERY, created: Some(-61 * MINUTE), deadline: Some(1_000_000), now: -MINUTE + 9,
        makes: Some(-MINUTE), wait: Some(HOUR - 9), ..CASE
    }),
    ("every hour, done, not yet", Case {
        schedule: EVERY, before: Done, last: -MINUTE, now: 0, wait: Some(59 * MINUTE), told: &["SawCompletedJob"], ..CASE
    }),
    ("every hour, done, due", Case {
        schedule: EVERY, before: Done, last: -MINUTE, now: HOUR, makes: Some(59 * MINUTE), wait: Some(59 * MINUTE),
        told: &["SawCompletedJob"], ..CASE
    }),
    ("every hour, done, too late", Case {
        schedule: EVERY, before: Done, deadline: Some(10), last: -MINUTE, now: 59 * MINUTE + 11, wait: Some(HOUR - 11),
        told: &["SawCompletedJob"], ..CASE
    }),
    ("every hour, runs, not yet", Case { schedule: EVERY, before: Runs, last: -MINUTE, now: 0, wait: Some(59 * MINUTE), ..CASE }),
    ("every hour, runs, due", Case {
        schedule: EVERY, policies: &["Allow"], before: Runs, last: -61 * MINUTE, makes: Some(-MINUTE), wait: Some(58 * MINUTE), ..CASE
    }),
    ("every hour, runs, too late", Case {
        schedule: EVERY, before: Runs, deadline: Some(10), last: -MINUTE, now: 59 * MINUTE + 11, wait: Some(HOUR - 11), ..CASE
    }),
    ("every hour, runs, in time", Case {
        schedule: EVERY, policies: &["Allow"], before: Runs, deadline: Some(1_000_000), last: -MINUTE, now: 59 * MINUTE + 9,
        makes: Some(59 * MINUTE), wait: Some(HOUR - 9), ..CASE
    }),
    ("every hour, long overdue", Case {
        schedule: EVERY, before: Done, last: MINUTE, now: WEEK, makes: Some(WEEK - 59 * MINUTE), wait: Some(MINUTE),
        told: MANY_TOLD, ..CASE
    }),
    ("every hour, long overdue, too late", Case {
        schedule: EVERY, before: Done, deadline: Some(10), last: MINUTE, now: WEEK + MINUTE + 11, wait: Some(HOUR - 11),
        told: &["SawCompletedJob"], ..CASE
    }),
    ("never due", Case { schedule: "59 23 31 2 *", told: &["InvalidSchedule"], ..CASE }),
];

#[test]
fn what_is_due_is_made() {
    for (what, case) in CASES {
        for policy in case.policies {
            let ran = case.before != Never;
            let created = if ran { -61 * MINUTE } else { -MINUTE };
            let mut cj = cron_job(case.schedule, case.created.unwrap_or(created));
            cj.spec.concurrency_policy = (*policy).to_owned();
            cj.spec.time_zone = case.zone.map(str::to_owned);
            cj.spec.suspend = Some(case.suspend);
            cj.spec.starting_deadline_seconds = case.deadline;
            let mut jobs = Vec::new();
            if ran {
                cj.status.last_schedule_time = Some(ten(case.last).into());
                let name = cj.job_name(ten(case.last));
                cj.status.active.push(reference(&name));
                match case.before {
                    Done => jobs.push(view(a_job(
                        &name,
                        ended("Complete", None, Some(case.last + 10)),
                    ))),
                    Runs => jobs.push(view(a_job(&name, json!({})))),
                    _ => {}
                }
            }
            let now = ten(case.now);
            let mut told = observe(&mut cj, &jobs, &HashSet::new());
            let (more, decision) = decide(&cj, now, &UTC);
            told.extend(more);
            let (made, wait) = match decision {
                Decision::Wait(wait) => (None, wait),
                Decision::Start(at) => {
                    cj.status.last_schedule_time = Some(at.into());
                    (Some(at), due_in(&cj, now, &schedule(&cj), &UTC))
                }
            };
            assert_eq!(made, case.makes.map(ten), "{what}, {policy}");
            let wanted = case
                .wait
                .map(|s| Duration::from_secs(s.unsigned_abs()) + Duration::from_millis(100));
            assert_eq!(wait, wanted, "{what}, {policy}");
            assert_eq!(reasons(&told), case.told, "{what}, {policy}");
            let success = (case.before == Done).then(|| Time::from(ten(case.last + 10)));
            assert_eq!(cj.status.last_successful_time, success, "{what}, {policy}");
            let active = usize::from(matches!(case.before, Runs | Unseen));
            assert_eq!(cj.status.active.len(), active, "{what}, {policy}");
        }
    }
}

#[test]
fn messages_are_upstreams() {
    let told = |change: fn(&mut CronJob)| {
        let mut cj = cron_job(HOURLY, -3 * HOUR);
        change(&mut cj);
        decide(&cj, ten(MINUTE), &UTC)
            .0
            .pop()
            .map(|t| (t.kind, t.message))
    };
    use EventType::{Normal, Warning};
    for (change, kind, message) in [
        (
            (|cj| cj.spec.schedule = "a \"b".into()) as fn(&mut CronJob),
            Warning,
            "unparseable schedule: \"a \\\"b\" : expected exactly 5 fields, found 2: [a \"b]",
        ),
        (
            |cj| cj.spec.time_zone = Some("No/Where".into()),
            Warning,
            "invalid timeZone: \"No/Where\": unknown time zone No/Where",
        ),
        (
            |cj| cj.spec.schedule = "0 0 30 2 *".into(),
            Warning,
            "invalid schedule: 0 0 30 2 * : time difference between two schedules is less than 1 second",
        ),
        (
            |cj| cj.spec.schedule = "CRON_TZ=Asia/Tokyo 0 * * * *".into(),
            Warning,
            "CRON_TZ or TZ used in schedule \"CRON_TZ=Asia/Tokyo 0 * * * *\" is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
        ),
        (
            |cj| cj.spec.schedule = "* * * * *".into(),
            Warning,
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
        ),
        (
            |cj| {
                cj.spec.concurrency_policy = "Forbid".into();
                cj.status.active.push(reference("other"));
            },
            Normal,
            "Not starting job because prior execution is running and concurrency policy is Forbid",
        ),
    ] {
        assert_eq!(told(change), Some((kind, message.to_owned())));
    }
    let mut cj = cron_job(HOURLY, 0);
    cj.status.active = vec![reference("done"), reference("failed"), reference("gone")];
    let jobs = [
        view(a_job("done", ended("Complete", None, Some(5)))),
        view(a_job("failed", ended("Failed", None, None))),
        view(a_job("manual", json!({}))),
    ];
    let told = observe(&mut cj, &jobs, &HashSet::from(["uid-gone".to_owned()]));
    let told: Vec<_> = told
        .iter()
        .map(|t| (t.reason, t.message.as_str()))
        .collect();
    let want = [
        (
            "SawCompletedJob",
            "Saw completed job: done, condition: Complete",
        ),
        (
            "SawCompletedJob",
            "Saw completed job: failed, condition: Failed",
        ),
        (
            "UnexpectedJob",
            "Saw a job that the controller did not create or forgot: manual",
        ),
        ("MissingJob", "Active job went missing: gone"),
    ];
    assert_eq!(told, want);
    assert_eq!(cj.status.active, []);
    assert_eq!(cj.status.last_successful_time, Some(ten(5).into()));
}

#[test]
fn the_last_success_is_the_latest() {
    for (known, ends, want) in [
        (None, vec![], None),
        (None, vec![None], None),
        (Some(3), vec![None], Some(3)),
        (None, vec![Some(3), Some(9), Some(5)], Some(9)),
        (Some(20), vec![Some(9)], Some(20)),
    ] {
        let mut cj = cron_job(HOURLY, 0);
        cj.status.last_successful_time = known.map(|s| ten(s).into());
        let mut jobs: Vec<_> = ends
            .iter()
            .enumerate()
            .map(|(i, end)| view(a_job(&i.to_string(), ended("Complete", None, *end))))
            .collect();
        jobs.push(view(a_job("failed", ended("Failed", None, Some(99)))));
        // Those that are not in the status count as well, and are not told of.
        assert_eq!(observe(&mut cj, &jobs, &HashSet::new()), []);
        assert_eq!(cj.status.last_successful_time, want.map(|s| ten(s).into()));
    }
}

#[test]
fn the_last_scheduled_time() {
    use Missed::{Few, Many, None as No};
    let (weekdays, noon) = ("30 6-16/4 * * 1-5", "30 10,11,12 * * 1-5");
    for (what, text, created, last, deadline, now, want) in [
        ("not yet", "0 * * * *", 0, None, None, 30, Ok((0, None, No))),
        (
            "just now",
            "0 * * * *",
            0,
            None,
            None,
            61 * MINUTE,
            Ok((0, Some(HOUR), No)),
        ),
        (
            "to the second",
            "0 * * * *",
            0,
            None,
            None,
            HOUR,
            Ok((0, Some(HOUR), No)),
        ),
        (
            "five",
            "0 * * * *",
            10,
            None,
            None,
            301 * MINUTE,
            Ok((10, Some(5 * HOUR), Few)),
        ),
        (
            "a day off",
            weekdays,
            0,
            Some(30 * MINUTE),
            None,
            DAY + 31 * MINUTE,
            Ok((30 * MINUTE, Some(DAY + 30 * MINUTE), Few)),
        ),
        (
            "an estimate that fails",
            noon,
            0,
            Some(30 * MINUTE),
            None,
            30 * HOUR + 30 * MINUTE,
            Ok((30 * MINUTE, None, Few)),
        ),
        (
            "over a weekend",
            weekdays,
            0,
            Some(30 * MINUTE),
            None,
            4 * DAY + 31 * MINUTE,
            Ok((30 * MINUTE, Some(4 * DAY + 30 * MINUTE), Few)),
        ),
        (
            "a day off, never ran",
            weekdays,
            0,
            None,
            None,
            DAY + 31 * MINUTE,
            Ok((0, Some(DAY + 30 * MINUTE), Few)),
        ),
        (
            "every",
            EVERY,
            -59 * MINUTE,
            Some(MINUTE),
            None,
            WEEK,
            Ok((MINUTE, Some(WEEK - 59 * MINUTE), Many)),
        ),
        (
            "a hundred",
            "* * * * *",
            0,
            None,
            None,
            100 * MINUTE,
            Ok((0, Some(100 * MINUTE), Few)),
        ),
        (
            "more",
            "* * * * *",
            0,
            None,
            None,
            101 * MINUTE,
            Ok((0, Some(101 * MINUTE), Many)),
        ),
        (
            "never",
            "59 23 31 2 *",
            10,
            None,
            None,
            HOUR,
            Err(NO_INTERVAL),
        ),
        (
            "ran when it was made",
            "0 * * * *",
            0,
            Some(0),
            None,
            30,
            Ok((0, None, No)),
        ),
        (
            "ran later",
            "*/5 * * * *",
            0,
            Some(30 * MINUTE),
            None,
            31 * MINUTE,
            Ok((30 * MINUTE, None, No)),
        ),
        (
            "ran after the deadline",
            "*/5 * * * *",
            0,
            Some(30 * MINUTE),
            Some(60),
            31 * MINUTE,
            Ok((30 * MINUTE, None, No)),
        ),
        (
            "ran before the deadline",
            "*/5 * * * *",
            0,
            Some(30 * MINUTE),
            Some(60),
            32 * MINUTE,
            Ok((31 * MINUTE, None, No)),
        ),
        (
            "a deadline before all times",
            "0 * * * *",
            0,
            None,
            Some(i64::MAX),
            61 * MINUTE,
            Ok((0, Some(HOUR), No)),
        ),
        // In May there are 44,640 of these: the last one is found, and at once.
        (
            "many at a time",
            "* * * 5 *",
            12 * DAY + 13 * HOUR + 58 * MINUTE + 30,
            None,
            None,
            400 * DAY,
            Ok((
                12 * DAY + 13 * HOUR + 58 * MINUTE + 30,
                Some(377 * DAY + 13 * HOUR + 59 * MINUTE),
                Few,
            )),
        ),
    ] {
        let mut cj = cron_job(text, created);
        cj.status.last_schedule_time = last.map(|s| ten(s).into());
        cj.spec.starting_deadline_seconds = deadline;
        let got = most_recent(&cj, ten(now), &schedule(&cj), &UTC, deadline.is_some());
        let want = want.map(|(earliest, at, missed)| Recent {
            earliest: ten(earliest),
            at: at.map(ten),
            missed,
        });
        assert_eq!(got, want, "{what}");
    }
    // A deadline that is not asked for changes nothing.
    let mut cj = cron_job(EVERY, -59 * MINUTE);
    cj.status.last_schedule_time = Some(ten(MINUTE).into());
    cj.spec.starting_deadline_seconds = Some(10);
    let got = most_recent(&cj, ten(WEEK), &schedule(&cj), &UTC, false).unwrap();
    assert_eq!((got.earliest, got.missed), (ten(MINUTE), Many));
}

/// However many there are between: as going from one to the next.
#[test]
fn the_last_time_is_found_by_halves() {
    for text in [
        "* * * * *",
        "*/7 3-5 * * *",
        "* * * 5 *",
        "0 0 29 2 *",
        "* 2 * 3,11 sun",
    ] {
        let schedule = cron::parse(text).unwrap();
        let york = cron::zone("America/New_York").unwrap().unwrap();
        for (from, to) in [
            (0, 3 * DAY),
            (-300 * DAY, -190 * DAY),
            (7, 100_007),
            (0, 30),
        ] {
            let mut want = None;
            let mut at = ten(from);
            while let Some(next) = schedule.next(at, &york).filter(|t| *t <= ten(to)) {
                at = next;
                want = Some(next);
            }
            assert_eq!(
                last_between(&schedule, ten(from), ten(to), &york),
                want,
                "{text} {from} {to}"
            );
        }
    }
}

#[test]
fn the_next_look() {
    for (what, text, last, now, want) in [
        (
            "later that day",
            "30 6-16/4 * * 1-5",
            Some(30 * MINUTE),
            DAY + 31 * MINUTE,
            3 * HOUR + 59 * MINUTE,
        ),
        (
            "after the weekend",
            "30 10,11,12 * * 1-5",
            Some(30 * MINUTE),
            30 * HOUR + 30 * MINUTE,
            66 * HOUR,
        ),
        (
            "next week",
            "0 12 * * 4",
            Some(2 * HOUR),
            19 * DAY + 90 * MINUTE,
            48 * HOUR + 30 * MINUTE,
        ),
        ("tomorrow", "0 12 * * 5", None, 6 * HOUR, 20 * HOUR),
    ] {
        let mut cj = cron_job(text, 0);
        cj.status.last_schedule_time = last.map(|s| ten(s).into());
        let wait = due_in(&cj, ten(now), &schedule(&cj), &UTC);
        let want = Duration::from_secs(want.unsigned_abs()) + Duration::from_millis(100);
        assert_eq!(wait, Some(want), "{what}");
    }
    let cj = cron_job("0 0 30 2 *", 0);
    assert_eq!(due_in(&cj, ten(0), &schedule(&cj), &UTC), None);
}

/// Schedules without a zone are read in the zone of the machine.
#[test]
fn the_zone_of_the_machine() {
    let kolkata = cron::zone("Asia/Kolkata").unwrap().unwrap();
    let cj = cron_job(HOURLY, -MINUTE);
    let (_, decision) = decide(&cj, ten(31 * MINUTE), &kolkata);
    assert_eq!(decision, Decision::Start(ten(30 * MINUTE)));
}

#[test]
fn the_oldest_go_first() {
    let started =
        |name: &str, kind: &str, at: Option<i64>| view(a_job(name, ended(kind, at, None)));
    let jobs = [
        started("b", "Complete", None),
        started("a", "Complete", None),
        started("d", "Complete", Some(5)),
        started("c", "Complete", Some(5)),
        started("e", "Complete", Some(-5)),
        started("x", "Failed", Some(9)),
        started("y", "Failed", Some(1)),
        view(a_job(
            "runs",
            json!({"status": {"startTime": "2000-01-01T00:00:00Z"}}),
        )),
    ];
    for (succeeded, failed, want) in [
        (None, None, vec![]),
        (Some(5), Some(2), vec![]),
        (Some(9), Some(9), vec![]),
        (Some(4), Some(1), vec!["e", "y"]),
        (Some(1), None, vec!["e", "c", "d", "a"]),
        (Some(0), Some(0), vec!["e", "c", "d", "a", "b", "y", "x"]),
        (Some(-3), None, vec!["e", "c", "d", "a", "b"]),
    ] {
        let mut cj = cron_job(HOURLY, 0);
        cj.spec.successful_jobs_history_limit = succeeded;
        cj.spec.failed_jobs_history_limit = failed;
        let gone: Vec<_> = surplus(&cj, &jobs)
            .iter()
            .map(|j| j.metadata.name.clone())
            .collect();
        assert_eq!(gone, want, "{succeeded:?} {failed:?}");
    }
}

#[test]
fn jobs_are_as_the_template_says() {
    for (zone, annotations, scheduled, number) in [
        (None, json!({"x": "y"}), "2016-05-19T10:00:00Z", 2),
        (Some("UTC"), json!({"x": "y"}), "2016-05-19T10:00:00Z", 2),
        (
            Some("Africa/Abidjan"),
            json!(null),
            "2016-05-19T10:00:00Z",
            1,
        ),
        (
            Some("Europe/Rome"),
            json!({"x": "y", "z": "x"}),
            "2016-05-19T12:00:00+02:00",
            3,
        ),
        (
            Some("America/New_York"),
            json!({SCHEDULED: "mine"}),
            "2016-05-19T06:00:00-04:00",
            1,
        ),
    ] {
        let mut cj = cron_job("* * * * ?", 0);
        cj.spec.time_zone = zone.map(str::to_owned);
        cj.spec.job_template["metadata"]["annotations"] = annotations;
        let job = job(&cj, ten(0), json!({"uid": "cron"}));
        assert_eq!(job["metadata"]["name"], "tick-24394200");
        assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(job["metadata"]["ownerReferences"], json!([{"uid": "cron"}]));
        assert_eq!(job["metadata"]["annotations"][SCHEDULED], scheduled);
        assert_eq!(
            job["metadata"]["annotations"].as_object().unwrap().len(),
            number
        );
        assert_eq!(job["spec"], cj.spec.job_template["spec"]);
    }
}

#[test]
fn jobs_belong_to_who_their_controller_is_named_after() {
    let owner = |more: Value| {
        let mut o = json!({"apiVersion": "v", "kind": "k", "name": "tick", "uid": "u"});
        for (k, v) in more.as_object().into_iter().flatten() {
            o[k] = v.clone();
        }
        json!({"metadata": {"name": "j", "namespace": "n", "ownerReferences": [o]}})
    };
    for (job, want) in [
        (json!({"metadata": {"name": "j", "namespace": "n"}}), vec![]),
        (owner(json!({})), vec![]),
        (owner(json!({"controller": true})), vec!["n/tick"]),
        (
            owner(json!({"controller": true, "name": "other"})),
            vec!["n/other"],
        ),
    ] {
        assert_eq!(owner_index(&view(job)), want);
    }
}

/// A controller whose apiserver answers as `answer` says of method and path, and everything that it is asked for. Events are
/// not written.
async fn controller(
    cron_jobs: &[&CronJob],
    jobs: &[Value],
    answer: impl Fn(&str, &str, &Value) -> (u16, Value) + Send + Sync + 'static,
) -> (Controller, Arc<Mutex<Vec<(String, Value)>>>) {
    let log: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let (told, answer) = (log.clone(), Arc::new(answer));
    let apiserver = testkit::apiserver::serve(move |asked, client| {
        let (told, answer) = (told.clone(), answer.clone());
        async move {
            let path = asked.target.split('?').next().unwrap_or_default();
            let path = path.rsplit("/namespaces/").next().unwrap_or_default();
            let (code, body) = answer(&asked.method, path, &asked.body);
            told.lock()
                .unwrap()
                .push((format!("{} {path}", asked.method), asked.body));
            client.send(code, &body).await
        }
    });
    let config = testkit::apiserver::kubeconfig(apiserver.await);
    let options = client::Options::default();
    let client = client::Client::from_kubeconfig(config.path(), options)
        .await
        .unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let (recorder, _) = client::Recorder::new(
        client.clone(),
        client::events::Format::Core,
        "c",
        "",
        shutdown.clone(),
    );
    let ctx = Context {
        informers: client::Informers::new(client.clone(), shutdown.clone()),
        client,
        recorder,
        config: Arc::default(),
        shutdown,
        tasks: tokio_util::task::TaskTracker::new(),
        queues: crate::metrics::Queues::default(),
    };
    let c = Controller {
        cron_jobs: Store::default(),
        jobs: Store::default(),
        queue: WorkQueue::new("cronjob"),
        local: TimeZone::UTC,
        ctx,
    };
    c.jobs.add_index(BY_OWNER, owner_index);
    for cj in cron_jobs {
        c.cron_jobs.insert(Arc::new((*cj).clone()));
    }
    for job in jobs {
        c.jobs.insert(view(job.clone()));
    }
    (c, log)
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "m"});
    (code, status)
}

/// As the apiserver shows it.
fn shown(cj: &CronJob) -> Value {
    json!({"metadata": cj.metadata, "spec": {"schedule": cj.spec.schedule, "concurrencyPolicy": cj.spec.concurrency_policy}, "status": cj.status})
}

fn key() -> ObjectKey {
    ObjectKey::new("n", "tick")
}

fn asked(log: &Mutex<Vec<(String, Value)>>) -> Vec<String> {
    log.lock().unwrap().iter().map(|l| l.0.clone()).collect()
}

#[tokio::test]
async fn a_job_is_made_and_noted() {
    let cj = cron_job(HOURLY, -MINUTE);
    let live = shown(&cj);
    let (c, log) = controller(&[&cj], &[], move |method, path, body| {
        match (method, path) {
            ("POST", "n/jobs") => {
                let mut job = body.clone();
                job["metadata"]["uid"] = json!("new");
                job["metadata"]["namespace"] = json!("n");
                (201, job)
            }
            ("GET", "n/cronjobs/tick") => (200, live.clone()),
            _ => (200, body.clone()),
        }
    })
    .await;
    let again = c.sync(&key(), ten(MINUTE)).await.unwrap();
    assert_eq!(again, Some(Duration::from_millis(59 * 60_000 + 100)));
    assert_eq!(
        asked(&log),
        [
            "POST n/jobs",
            "GET n/cronjobs/tick",
            "PUT n/cronjobs/tick/status"
        ]
    );
    let log = log.lock().unwrap();
    let owner = json!([{
        "apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "cron", "controller": true, "blockOwnerDeletion": true,
    }]);
    assert_eq!(log[0].1["metadata"]["ownerReferences"], owner);
    let active = json!([{"kind": "Job", "namespace": "n", "name": "tick-24394200", "uid": "new", "apiVersion": "batch/v1"}]);
    let status = json!({"active": active, "lastScheduleTime": "2016-05-19T10:00:00Z"});
    assert_eq!(log[2].1["status"], status);
    assert_eq!(log[2].1["metadata"]["resourceVersion"], "7");
}

/// What the apiserver says to a creation, and what is noted then.
#[tokio::test]
async fn creations_that_fail() {
    let name = "tick-24394200";
    let foreign = json!({"metadata": {"name": name, "namespace": "n", "uid": "theirs"}});
    let later = Some(Duration::from_millis(59 * 60_000 + 100));
    let terminating = {
        let (code, mut status) = failure(403, "Forbidden");
        status["details"] = json!({"causes": [{"reason": "NamespaceTerminating", "message": "m"}]});
        (code, status)
    };
    for (what, refused, there, result, noted) in [
        (
            "made before, not noted",
            failure(409, "AlreadyExists"),
            a_job(name, json!({})),
            Ok(later),
            true,
        ),
        (
            "somebody else's",
            failure(409, "AlreadyExists"),
            foreign,
            Ok(later),
            false,
        ),
        (
            "refused",
            failure(403, "Forbidden"),
            json!(null),
            Err(403),
            false,
        ),
        (
            "the namespace goes",
            terminating,
            json!(null),
            Err(403),
            false,
        ),
    ] {
        let cj = cron_job(HOURLY, -MINUTE);
        let live = shown(&cj);
        let (c, log) = controller(&[&cj], &[], move |method, path, body| {
            match (method, path) {
                ("POST", "n/jobs") => refused.clone(),
                ("GET", "n/cronjobs/tick") => (200, live.clone()),
                ("GET", _) => (200, there.clone()),
                _ => (200, body.clone()),
            }
        })
        .await;
        let got = c.sync(&key(), ten(MINUTE)).await;
        assert_eq!(got.map_err(|e| e.code()), result, "{what}");
        let log = log.lock().unwrap();
        let put = log.iter().find(|l| l.0.starts_with("PUT"));
        assert_eq!(put.is_some(), noted, "{what}");
        if let Some((_, body)) = put {
            assert_eq!(body["status"]["active"][0]["uid"], "uid-tick-24394200");
        }
    }
}

/// Jobs go though none can be made, as under a quota that they use up.
#[tokio::test]
async fn a_full_quota_is_made_room_in() {
    let mut cj = cron_job(HOURLY, -HOUR);
    cj.spec.successful_jobs_history_limit = Some(1);
    cj.status.active = vec![reference("old")];
    let live = shown(&cj);
    let jobs = [
        a_job(
            "old",
            ended("Complete", Some(-61 * MINUTE), Some(-60 * MINUTE)),
        ),
        a_job("new", ended("Complete", Some(-MINUTE), Some(0))),
    ];
    let (c, log) = controller(&[&cj], &jobs, move |method, path, body| {
        match (method, path) {
            ("POST", "n/jobs") => failure(403, "Forbidden"),
            ("GET", _) => (200, live.clone()),
            ("DELETE", _) => (200, json!({"kind": "Status"})),
            _ => (200, body.clone()),
        }
    })
    .await;
    assert_eq!(c.sync(&key(), ten(MINUTE)).await.unwrap_err().code(), 403);
    let wanted = [
        "DELETE n/jobs/old",
        "POST n/jobs",
        "GET n/cronjobs/tick",
        "PUT n/cronjobs/tick/status",
    ];
    assert_eq!(asked(&log), wanted);
    let log = log.lock().unwrap();
    assert_eq!(log[0].1["propagationPolicy"], "Background");
    assert_eq!(log[0].1["preconditions"]["uid"], "uid-old");
    assert_eq!(
        log[3].1["status"],
        json!({"lastSuccessfulTime": "2016-05-19T10:00:00Z"})
    );
}

/// With `Replace` what runs is deleted first: the very Jobs of the status, in its own namespace.
#[tokio::test]
async fn what_runs_is_replaced() {
    let mut elsewhere = reference("elsewhere");
    elsewhere.namespace = "kube-system".into();
    let mut namesake = reference("namesake");
    namesake.uid = "older".into();
    for (what, get, delete, result, calls) in [
        ("replaced", 200, 200, Ok(()), 4),
        ("not to be read", 500, 200, Err(500), 1),
        ("not to be deleted", 200, 403, Err(403), 2),
    ] {
        let mut cj = cron_job(HOURLY, -MINUTE);
        cj.spec.concurrency_policy = "Replace".into();
        cj.status.active = vec![reference("runs"), namesake.clone(), elsewhere.clone()];
        let live = shown(&cj);
        let jobs = ["runs", "namesake"].map(|n| a_job(n, json!({})));
        let (runs, other) = (jobs[0].clone(), jobs[1].clone());
        let (c, log) = controller(&[], &jobs, move |method, path, body| match (method, path) {
            ("GET", "n/jobs/runs") if get == 200 => (200, runs.clone()),
            ("GET", "n/jobs/runs") => failure(get, "InternalError"),
            ("GET", "n/jobs/namesake") => (200, other.clone()),
            ("GET", _) => (200, live.clone()),
            ("DELETE", _) if delete == 200 => (200, json!({"kind": "Status"})),
            ("DELETE", _) => failure(delete, "Forbidden"),
            _ => (200, body.clone()),
        })
        .await;
        let got = c.begin(&mut cj, ten(0), ten(MINUTE)).await;
        assert_eq!(got.map(drop).map_err(|e| e.code()), result, "{what}");
        let asked = asked(&log);
        let wanted = [
            "GET n/jobs/runs",
            "DELETE n/jobs/runs",
            "GET n/jobs/namesake",
            "POST n/jobs",
        ];
        let n = asked.len();
        assert_eq!(asked, wanted[..n], "{what}");
        assert_eq!(n, calls, "{what}");
        if result.is_ok() {
            assert_eq!(cj.status.active.len(), 1);
            assert_eq!(cj.status.last_schedule_time, Some(ten(0).into()));
        }
    }
}

/// A cache that does not show yet what was written is not acted on.
#[tokio::test]
async fn the_apiserver_knows_better_than_the_cache() {
    let stale = cron_job(HOURLY, -MINUTE);
    let mut live = stale.clone();
    live.status.active = vec![reference("tick-24394200")];
    live.status.last_schedule_time = Some(ten(0).into());
    let shown = shown(&live);
    let jobs = [a_job("tick-24394200", json!({}))];
    let (c, log) = controller(&[&stale], &jobs, move |_, _, _| (200, shown.clone())).await;
    let again = c.sync(&key(), ten(MINUTE)).await.unwrap();
    assert_eq!(again, Some(Duration::from_millis(59 * 60_000 + 100)));
    assert_eq!(asked(&log), ["GET n/cronjobs/tick"]);
    // Nor is a Job missing that the apiserver has.
    let jobs = a_job("tick-24394200", json!({}));
    let (c, log) = controller(&[&live], &[], move |_, _, _| (200, jobs.clone())).await;
    assert_eq!(c.sync(&key(), ten(MINUTE)).await.unwrap(), again);
    assert_eq!(asked(&log), ["GET n/jobs/tick-24394200"]);
    // One that it has not is.
    let shown = self::shown(&live);
    let (c, log) = controller(&[&live], &[], move |method, path, body| {
        match (method, path) {
            ("GET", "n/cronjobs/tick") => (200, shown.clone()),
            ("GET", _) => failure(404, "NotFound"),
            _ => (200, body.clone()),
        }
    })
    .await;
    assert_eq!(c.sync(&key(), ten(MINUTE)).await.unwrap(), again);
    let put = log.lock().unwrap().pop().unwrap();
    assert_eq!(
        put.1["status"],
        json!({"lastScheduleTime": "2016-05-19T10:00:00Z"})
    );
}

/// A status is written only over the one it was decided from.
#[tokio::test]
async fn a_status_of_others_is_not_overwritten() {
    let mut cj = cron_job(HOURLY, -HOUR);
    cj.spec.suspend = Some(true);
    cj.status.active = vec![reference("done")];
    let mut live = cj.clone();
    live.status.active.push(reference("other"));
    let live = shown(&live);
    let jobs = [a_job("done", ended("Failed", None, None))];
    let (c, log) = controller(&[&cj], &jobs, move |_, _, _| (200, live.clone())).await;
    let refused = c.sync(&key(), ten(MINUTE)).await.unwrap_err();
    assert!(refused.is_conflict());
    assert_eq!(asked(&log), ["GET n/cronjobs/tick"]);
}

/// What is deleted is brought up to date and nothing more; what is gone is left alone.
#[tokio::test]
async fn the_end() {
    let mut cj = cron_job(HOURLY, -HOUR);
    cj.metadata.deletion_timestamp = Some(Time::now());
    let (c, log) = controller(&[&cj], &[], |_, _, _| failure(500, "")).await;
    assert_eq!(c.sync(&key(), ten(MINUTE)).await.unwrap(), None);
    c.cron_jobs.remove("n", "tick");
    assert_eq!(c.sync(&key(), ten(MINUTE)).await.unwrap(), None);
    assert_eq!(asked(&log), [""; 0]);
}

/// A new schedule is waited for; other changes are looked at.
#[tokio::test(start_paused = true)]
async fn changes() {
    let cj = cron_job(HOURLY, -HOUR);
    let change = |f: fn(&mut CronJob)| {
        let mut new = cj.clone();
        f(&mut new);
        Arc::new(new)
    };
    let old = change(|_| {});
    for (what, new, wait) in [
        ("nothing", change(|_| {}), Some(0)),
        (
            "the template",
            change(|c| c.spec.job_template = json!({})),
            Some(0),
        ),
        (
            "suspended",
            change(|c| c.spec.suspend = Some(true)),
            Some(0),
        ),
        (
            "the schedule",
            change(|c| c.spec.schedule = "5 * * * *".into()),
            Some(300_100 + 1_000),
        ),
        (
            "the zone",
            change(|c| c.spec.time_zone = Some("Asia/Kolkata".into())),
            Some(30 * 60_000 + 1_100),
        ),
        (
            "rarer",
            change(|c| {
                c.spec.schedule = "@every 3m".into();
                c.status.last_schedule_time = Some(ten(-MINUTE).into());
            }),
            Some(121_100),
        ),
        (
            "more often",
            change(|c| {
                c.spec.schedule = "@every 1m".into();
                c.status.last_schedule_time = Some(ten(-MINUTE).into());
            }),
            Some(1_100),
        ),
        (
            "never",
            change(|c| c.spec.schedule = "0 0 30 2 *".into()),
            Some(0),
        ),
        (
            "no schedule",
            change(|c| c.spec.schedule = "soon".into()),
            None,
        ),
    ] {
        let (c, _) = controller(&[], &[], |_, _, _| failure(500, "")).await;
        c.changed(
            Change::Updated {
                old: &old,
                new: &new,
            },
            ten(-1),
        );
        let from = tokio::time::Instant::now();
        let due =
            tokio::time::timeout(Duration::from_secs(DAY.unsigned_abs()), c.queue.next()).await;
        assert_eq!(due.is_ok(), wait.is_some(), "{what}");
        if let Some(wait) = wait {
            let waited = from.elapsed().as_millis();
            assert!((wait..wait + 10).contains(&waited), "{what}: {waited}");
        }
    }
}

/// Jobs bring the turn of the CronJob that they belong to, and of the one that lost them.
#[tokio::test]
async fn jobs_bring_the_turn_of_their_owner() {
    let cj = cron_job(HOURLY, 0);
    let owned = |kind: &str, name: &str, uid: &str| {
        let owner = json!({"apiVersion": "batch/v1", "kind": kind, "name": name, "uid": uid, "controller": true});
        view(json!({"metadata": {"name": "j", "namespace": "n", "ownerReferences": [owner]}}))
    };
    let ours = owned("CronJob", "tick", "cron");
    let orphan = view(json!({"metadata": {"name": "j", "namespace": "n"}}));
    for (what, change, turn) in [
        ("new", Change::Added(&ours), true),
        ("gone", Change::Deleted(&ours), true),
        (
            "lost",
            Change::Updated {
                old: &ours,
                new: &orphan,
            },
            true,
        ),
        (
            "won",
            Change::Updated {
                old: &orphan,
                new: &ours,
            },
            true,
        ),
        ("an orphan", Change::Added(&orphan), false),
        (
            "another kind",
            Change::Added(&owned("Foo", "tick", "cron")),
            false,
        ),
        (
            "another UID",
            Change::Added(&owned("CronJob", "tick", "old")),
            false,
        ),
        (
            "another name",
            Change::Added(&owned("CronJob", "tock", "cron")),
            false,
        ),
    ] {
        let (c, _) = controller(&[&cj], &[], |_, _, _| failure(500, "")).await;
        c.job_changed(change);
        assert_eq!(c.queue.len(), usize::from(turn), "{what}");
    }
}
