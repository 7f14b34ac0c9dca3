use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_000_000;
const DEFAULT: Tolerances = Tolerances { down: 0.1, up: 0.1 };

fn at(second: i64) -> Time {
    Time::from_second(second).unwrap()
}

fn timing() -> Timing {
    Timing {
        cpu_initialization: Duration::from_secs(120),
        initial_readiness: Duration::from_secs(10),
        now: at(NOW),
    }
}

/// What a pod of a table is: `r` ready, `u` not ready, `h` ready and started just now, `c` ready and not ready since the
/// beginning of its third minute, `p` pending, `f` failed, `d` being deleted.
fn pods(kinds: &str, requests: &[&str]) -> Vec<Arc<Pod>> {
    let one = |(i, kind): (usize, char)| {
        let request = requests.get(i).or(requests.last()).copied();
        let container = |n: usize| {
            let requests = request.map_or(json!({}), |q| json!({"cpu": q, "memory": q}));
            json!({"name": format!("c{n}"), "resources": {"requests": requests}})
        };
        let (started, ready) = match kind {
            'h' => (NOW, "True"),
            'c' => (NOW - 180, "True"),
            'u' => (0, "False"),
            _ => (0, "True"),
        };
        let phase = match kind {
            'p' => "Pending",
            'f' => "Failed",
            _ => "Running",
        };
        let deleted = (kind == 'd').then(|| at(NOW).to_string());
        let pod = json!({
            "metadata": {"name": format!("p{i}"), "deletionTimestamp": deleted},
            "spec": {"containers": [container(1), container(2)]},
            "status": {"phase": phase, "startTime": at(started).to_string(), "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": at(started).to_string()}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    kinds.chars().enumerate().map(one).collect()
}

fn samples(values: impl IntoIterator<Item = i64>) -> Samples {
    let one = |(i, value): (usize, i64)| {
        let sample = Sample {
            value,
            timestamp: Some(at(NOW)),
            window: Duration::from_secs(60),
        };
        (format!("p{i}"), sample)
    };
    values.into_iter().enumerate().map(one).collect()
}

#[test]
fn replicas_by_utilization() {
    let (one, up) = (
        &["1"][..],
        Tolerances {
            down: 0.1,
            up: 0.01,
        },
    );
    let down = Tolerances {
        down: 0.01,
        up: 0.1,
    };
    // Two containers each: what is requested and used of a pod is twice what stands here.
    for (what, current, target, kinds, requests, levels, tolerances, wanted) in [
        (
            "up",
            3,
            30,
            "rrr",
            one,
            &[300, 500, 700][..],
            DEFAULT,
            Ok((5, 50, 1000)),
        ),
        (
            "one is not ready",
            3,
            30,
            "urr",
            one,
            &[300, 500, 700],
            DEFAULT,
            Ok((4, 60, 1200)),
        ),
        (
            "one is hot",
            3,
            30,
            "hcc",
            one,
            &[300, 500, 700],
            DEFAULT,
            Ok((4, 60, 1200)),
        ),
        (
            "two are not ready",
            3,
            30,
            "ruu",
            one,
            &[400, 500, 700],
            DEFAULT,
            Ok((3, 40, 800)),
        ),
        (
            "two are hot",
            3,
            30,
            "chh",
            one,
            &[400, 500, 700],
            DEFAULT,
            Ok((3, 40, 800)),
        ),
        (
            "up beside the failed",
            2,
            30,
            "rrff",
            one,
            &[500, 700],
            DEFAULT,
            Ok((4, 60, 1200)),
        ),
        (
            "up beside the deleted",
            2,
            30,
            "rrdd",
            one,
            &[500, 700],
            DEFAULT,
            Ok((4, 60, 1200)),
        ),
        (
            "down",
            5,
            50,
            "rrrrr",
            one,
            &[100, 300, 500, 250, 250],
            DEFAULT,
            Ok((3, 28, 560)),
        ),
        (
            "down without the unready",
            5,
            50,
            "rrruu",
            one,
            &[100, 300, 500, 250, 250],
            DEFAULT,
            Ok((2, 30, 600)),
        ),
        (
            "down without the pending",
            5,
            50,
            "rpppp",
            one,
            &[100],
            DEFAULT,
            Ok((1, 10, 200)),
        ),
        (
            "down without the hot",
            5,
            50,
            "ccchh",
            one,
            &[100, 300, 500, 250, 250],
            DEFAULT,
            Ok((2, 30, 600)),
        ),
        (
            "down beside the failed",
            5,
            50,
            "rrrrrff",
            one,
            &[100, 300, 500, 250, 250],
            DEFAULT,
            Ok((3, 28, 560)),
        ),
        (
            "down beside the deleted",
            5,
            50,
            "rrrrrdd",
            one,
            &[100, 300, 500, 250, 250],
            DEFAULT,
            Ok((3, 28, 560)),
        ),
        (
            "the deleted that still run do not count",
            5,
            50,
            "rrrdd",
            one,
            &[100, 300, 500, 250, 250],
            DEFAULT,
            Ok((2, 30, 600)),
        ),
        (
            "within tolerance",
            3,
            100,
            "rrr",
            &["0.9", "1", "1.1"],
            &[1010, 1030, 1020],
            DEFAULT,
            Ok((3, 102, 2040)),
        ),
        (
            "beyond its own tolerance",
            3,
            100,
            "rrr",
            &["0.9", "1", "1.1"],
            &[1010, 1030, 1020],
            up,
            Ok((4, 102, 2040)),
        ),
        (
            "below, within tolerance",
            3,
            100,
            "rrr",
            one,
            &[980, 980, 980],
            DEFAULT,
            Ok((3, 98, 1960)),
        ),
        (
            "below its own tolerance",
            3,
            100,
            "rrr",
            one,
            &[650, 650, 650],
            down,
            Ok((2, 65, 1300)),
        ),
        (
            "more samples than pods",
            4,
            100,
            "rrrr",
            one,
            &[4000, 9500, 3000, 7000, 3200, 2000],
            DEFAULT,
            Ok((24, 587, 11750)),
        ),
        (
            "two are missing",
            4,
            100,
            "rrrr",
            one,
            &[400, 95],
            DEFAULT,
            Ok((3, 24, 495)),
        ),
        (
            "no change where some are missing",
            2,
            100,
            "rr",
            one,
            &[1000],
            DEFAULT,
            Ok((2, 100, 2000)),
        ),
        (
            "not up where some are missing",
            2,
            100,
            "rr",
            one,
            &[1900],
            DEFAULT,
            Ok((2, 190, 3800)),
        ),
        (
            "not down where some are missing",
            2,
            100,
            "rr",
            one,
            &[600],
            DEFAULT,
            Ok((2, 60, 1200)),
        ),
        (
            "missing and not ready",
            3,
            50,
            "urr",
            one,
            &[100, 450],
            DEFAULT,
            Ok((3, 45, 900)),
        ),
        (
            "missing and hot",
            3,
            50,
            "hcc",
            one,
            &[100, 450],
            DEFAULT,
            Ok((3, 45, 900)),
        ),
        (
            "missing and not ready, up",
            3,
            50,
            "urr",
            one,
            &[100, 2000],
            DEFAULT,
            Ok((4, 200, 4000)),
        ),
        (
            "missing and hot, up",
            3,
            50,
            "hcc",
            one,
            &[100, 2000],
            DEFAULT,
            Ok((4, 200, 4000)),
        ),
        (
            "missing and not ready, down",
            4,
            50,
            "urrr",
            one,
            &[100, 100, 100],
            DEFAULT,
            Ok((3, 10, 200)),
        ),
        (
            "the missing are taken to use a target beyond what is requested",
            4,
            300,
            "urrr",
            &["1", "1", "2", "2"],
            &[200, 100, 100],
            DEFAULT,
            Ok((2, 6, 200)),
        ),
        (
            "a surge turns nothing round",
            2,
            50,
            "rrr",
            one,
            &[100, 100],
            DEFAULT,
            Ok((2, 10, 200)),
        ),
        (
            "nothing is of a pod",
            1,
            100,
            "",
            one,
            &[100],
            DEFAULT,
            Err("no pods returned by selector while calculating replica count"),
        ),
        (
            "all are starting",
            1,
            100,
            "h",
            one,
            &[100],
            DEFAULT,
            Err("did not receive metrics for targeted pods (pods might be unready)"),
        ),
        (
            "nothing is requested",
            1,
            100,
            "r",
            &[],
            &[200],
            DEFAULT,
            Err("missing request for cpu in container c1 of Pod p0"),
        ),
        (
            "zero is requested",
            1,
            100,
            "r",
            &["0"],
            &[200],
            DEFAULT,
            Err("no metrics returned matched known pods"),
        ),
    ] {
        let told = by_utilization(
            current,
            target,
            "cpu",
            "",
            &pods(kinds, requests),
            samples(levels.iter().map(|l| 2 * l)),
            tolerances,
            &timing(),
        );
        let told = told.map(|(n, u)| (n, u.utilization, u.average));
        assert_eq!(told, wanted.map_err(str::to_owned), "{what}");
    }
    // One container of each.
    let of = |kinds: &str, container: &str| {
        let told = by_utilization(
            3,
            30,
            "cpu",
            container,
            &pods(kinds, one),
            samples([300, 500, 700]),
            DEFAULT,
            &timing(),
        );
        told.map(|(n, u)| (n, u.utilization, u.average))
    };
    assert_eq!(of("rrr", "c2"), Ok((5, 50, 500)));
    assert_eq!(of("hcc", "c2"), Ok((4, 60, 600)));
    assert_eq!(
        of("rrr", "c3"),
        Err("container c3 not found in Pod p0".into())
    );
}

#[test]
fn replicas_by_what_pods_use_on_the_average() {
    let up = Tolerances {
        down: 0.1,
        up: 0.01,
    };
    for (what, current, target, kinds, levels, tolerances, wanted) in [
        (
            "up",
            3,
            15_000,
            "rrr",
            &[20_000, 10_000, 30_000][..],
            DEFAULT,
            Ok((4, 20_000)),
        ),
        (
            "who is hot counts",
            3,
            15_000,
            "cch",
            &[50_000, 10_000, 30_000],
            DEFAULT,
            Ok((6, 30_000)),
        ),
        (
            "who is not ready counts",
            3,
            15_000,
            "uru",
            &[50_000, 15_000, 30_000],
            DEFAULT,
            Ok((7, 31_666)),
        ),
        (
            "down",
            5,
            20_000,
            "rrrrr",
            &[12_000; 5],
            DEFAULT,
            Ok((3, 12_000)),
        ),
        (
            "within tolerance",
            3,
            20_000,
            "rrr",
            &[20_000, 21_000, 21_000],
            DEFAULT,
            Ok((3, 20_666)),
        ),
        (
            "beyond its own",
            3,
            20_000,
            "rrr",
            &[20_000, 21_000, 21_000],
            up,
            Ok((4, 20_666)),
        ),
        (
            "some are missing",
            5,
            20_000,
            "rrrrr",
            &[20_000, 19_000, 21_000],
            DEFAULT,
            Ok((5, 20_000)),
        ),
        (
            "a surge",
            2,
            17_000,
            "rrr",
            &[10_000, 10_000],
            DEFAULT,
            Ok((2, 10_000)),
        ),
        (
            "pending ones only",
            1,
            10,
            "p",
            &[10],
            DEFAULT,
            Err("did not receive metrics for targeted pods (pods might be unready)"),
        ),
        (
            "more than can be counted",
            3,
            1,
            "rrr",
            &[i64::MAX; 3],
            DEFAULT,
            Ok((i32::MAX, i64::MAX / 3)),
        ),
    ] {
        let told = by_average(
            current,
            target,
            "",
            &pods(kinds, &["1"]),
            samples(levels.iter().copied()),
            tolerances,
            &timing(),
        );
        assert_eq!(told, wanted.map_err(str::to_owned), "{what}");
    }
    // As a resource it is, who starts does not count.
    let cpu = by_average(
        3,
        600,
        "cpu",
        &pods("hcc", &["1"]),
        samples([600, 1000, 1400]),
        DEFAULT,
        &timing(),
    );
    assert_eq!(cpu, Ok((4, 1200)));
}

#[test]
fn replicas_by_one_value() {
    let up = Tolerances {
        down: 0.1,
        up: 0.01,
    };
    for (what, current, usage, target, kinds, tolerances, wanted) in [
        ("up", 3, 20_000, 15_000, "rrr", DEFAULT, Ok(4)),
        ("up from one", 1, 8600, 4400, "r", DEFAULT, Ok(2)),
        ("by who is ready", 3, 50_000, 10_000, "uru", DEFAULT, Ok(5)),
        (
            "fewer, by who is ready",
            3,
            8600,
            4400,
            "uru",
            DEFAULT,
            Ok(2),
        ),
        ("down", 5, 12_000, 20_000, "rrrrr", DEFAULT, Ok(3)),
        ("within tolerance", 3, 20_666, 20_000, "rrr", DEFAULT, Ok(3)),
        (
            "within tolerance, without a pod",
            3,
            8600,
            8888,
            "",
            DEFAULT,
            Ok(3),
        ),
        ("beyond its own", 3, 20_666, 20_000, "rrr", up, Ok(4)),
        (
            "more than can be counted",
            3,
            i64::MAX,
            1,
            "rrr",
            DEFAULT,
            Ok(i32::MAX),
        ),
        ("from zero", 0, 30, 20, "", DEFAULT, Ok(2)),
        (
            "without a pod",
            3,
            50,
            10,
            "",
            DEFAULT,
            Err(
                "unable to calculate ready pods: no pods returned by selector while calculating replica count",
            ),
        ),
    ] {
        let told = by_value(current, usage, target, &pods(kinds, &["1"]), tolerances);
        assert_eq!(told, wanted.map_err(str::to_owned), "{what}");
    }
    for (what, there, usage, target, tolerances, wanted) in [
        ("up", 3, 20_000, 5000, DEFAULT, (4, 6667)),
        (
            "up, by an external metric",
            3,
            8600,
            2150,
            DEFAULT,
            (4, 2867),
        ),
        ("down", 5, 6000, 2000, DEFAULT, (3, 1200)),
        ("within tolerance", 4, 20_208, 5000, DEFAULT, (4, 5052)),
        ("beyond its own", 4, 20_208, 5000, up, (5, 5052)),
        (
            "more than can be counted",
            1,
            i64::MAX,
            1,
            DEFAULT,
            (i32::MAX, i64::MAX),
        ),
        (
            "as much as can be counted",
            1,
            i64::MAX,
            i64::MAX,
            DEFAULT,
            (1, i64::MAX),
        ),
        ("nobody is there", 0, 10, 10, DEFAULT, (1, i64::MAX)),
    ] {
        assert_eq!(by_share(there, usage, target, tolerances), wanted, "{what}");
    }
}

#[test]
fn pods_by_what_their_samples_are_good_for() {
    let pod = |started: Option<i64>, ready: Option<(&str, i64)>, phase: &str| -> Vec<Arc<Pod>> {
        let conditions: Vec<Value> = ready
            .map(|(status, since)| json!({"type": "Ready", "status": status, "lastTransitionTime": at(since).to_string()}))
            .into_iter()
            .collect();
        let pod = json!({"metadata": {"name": "p0"}, "status": {"phase": phase,
            "startTime": started.map(|s| at(s).to_string()), "conditions": conditions}});
        vec![Arc::new(serde_json::from_value(pod).unwrap())]
    };
    let (ready, unready, missing) = ([1, 0, 0], [0, 1, 0], [0, 0, 1]);
    for (what, pods, resource, sampled, wanted) in [
        (
            "ready for long",
            pod(Some(NOW - 200), Some(("True", NOW - 190)), "Running"),
            "cpu",
            true,
            ready,
        ),
        (
            "no condition",
            pod(Some(NOW - 200), None, "Running"),
            "cpu",
            true,
            unready,
        ),
        (
            "no start",
            pod(None, Some(("True", NOW - 190)), "Running"),
            "cpu",
            true,
            unready,
        ),
        (
            "starting, not ready",
            pod(Some(NOW - 60), Some(("False", NOW - 60)), "Running"),
            "cpu",
            true,
            unready,
        ),
        (
            "starting, a window is not over",
            pod(Some(NOW - 90), Some(("True", NOW - 30)), "Running"),
            "cpu",
            true,
            unready,
        ),
        (
            "starting, a window is over",
            pod(Some(NOW - 90), Some(("True", NOW - 61)), "Running"),
            "cpu",
            true,
            ready,
        ),
        (
            "was never ready",
            pod(Some(NOW - 200), Some(("False", NOW - 195)), "Running"),
            "cpu",
            true,
            unready,
        ),
        (
            "was ready once",
            pod(Some(NOW - 200), Some(("False", NOW - 100)), "Running"),
            "cpu",
            true,
            ready,
        ),
        (
            "starting, of memory",
            pod(Some(NOW), Some(("False", NOW)), "Running"),
            "memory",
            true,
            ready,
        ),
        (
            "pending",
            pod(None, None, "Pending"),
            "memory",
            true,
            unready,
        ),
        (
            "no sample",
            pod(Some(NOW - 200), Some(("True", NOW - 190)), "Running"),
            "cpu",
            false,
            missing,
        ),
    ] {
        let samples = samples(sampled.then_some(1));
        let g = group(&pods, &samples, resource, &timing());
        assert_eq!(
            [g.ready, g.unready.len(), g.missing.len()],
            wanted,
            "{what}"
        );
        assert!(g.ignored.is_empty());
    }
}

#[test]
fn what_pods_request() {
    let c = |name: &str, q: &str| json!({"name": name, "resources": {"requests": {"cpu": q}}});
    let sidecar = |name: &str, q: &str| {
        let mut c = c(name, q);
        c["restartPolicy"] = json!("Always");
        c
    };
    for (what, spec, container, wanted) in [
        (
            "all containers",
            json!({"containers": [c("a", "100m"), c("b", "200m")]}),
            "",
            Ok(300),
        ),
        (
            "one of them",
            json!({"containers": [c("a", "100m"), c("b", "200m")]}),
            "b",
            Ok(200),
        ),
        (
            "sidecars, not other init containers",
            json!({"initContainers": [sidecar("s", "50m"), c("i", "9")], "containers": [c("a", "100m")]}),
            "",
            Ok(150),
        ),
        (
            "a sidecar",
            json!({"initContainers": [sidecar("s", "50m")], "containers": [c("a", "100m")]}),
            "s",
            Ok(50),
        ),
        (
            "the pod itself",
            json!({"resources": {"requests": {"cpu": "400m"}}, "containers": [c("a", "100m"), {"name": "b"}]}),
            "",
            Ok(400),
        ),
        (
            "the pod itself and its overhead",
            json!({"resources": {"requests": {"cpu": "400m"}}, "overhead": {"cpu": "1"}}),
            "",
            Ok(1400),
        ),
        (
            "a container of it",
            json!({"resources": {"requests": {"cpu": "400m"}}, "containers": [c("a", "100m")]}),
            "a",
            Ok(100),
        ),
        (
            "the pod speaks of something else",
            json!({"resources": {"requests": {"memory": "1"}}, "containers": [c("a", "100m"), c("b", "1")]}),
            "",
            Ok(1100),
        ),
        (
            "nobody speaks of it",
            json!({"resources": {"requests": {"memory": "1"}}, "containers": [{"name": "a"}]}),
            "",
            Err("missing pod-level request for cpu in Pod p"),
        ),
        (
            "a container says nothing",
            json!({"containers": [c("a", "100m"), {"name": "b"}]}),
            "",
            Err("missing request for cpu in container b of Pod p"),
        ),
        (
            "no such container",
            json!({"containers": [c("a", "100m")]}),
            "z",
            Err("container z not found in Pod p"),
        ),
    ] {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let told = request(&pod, container, "cpu");
        assert_eq!(told, wanted.map_err(str::to_owned), "{what}");
    }
}

#[test]
fn utilization_is_of_pods_with_requests() {
    let requests = |all: &[i64]| -> BTreeMap<String, i64> {
        let all = all.iter().enumerate();
        all.map(|(i, r)| (format!("p{i}"), *r)).collect()
    };
    let of = |levels: &[i64], r: &[i64], target: i32| {
        utilization(&samples(levels.iter().copied()), &requests(r), target)
    };
    let usage = |ratio, utilization, average| Usage {
        ratio,
        utilization,
        average,
    };
    assert_eq!(of(&[50, 76], &[100, 100], 50), Ok(usage(1.26, 63, 63)));
    assert_eq!(of(&[50, 76, 99], &[100, 100], 50), Ok(usage(1.26, 63, 63)));
    assert_eq!(of(&[50, 76], &[100, 100, 500], 50), Ok(usage(1.26, 63, 63)));
    assert!(of(&[50, 76], &[], 50).is_err());
    assert_eq!(
        average(&samples([5000, 10_000]), 10_000),
        usage(0.75, 0, 7500)
    );
    let most = of(&[i64::MAX, i64::MAX], &[1, 1], 1).unwrap();
    assert_eq!(most.utilization, i32::MAX);
}
