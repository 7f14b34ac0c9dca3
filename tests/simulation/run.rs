//! One run: an apiserver, the controllers, people and machines in one thread, whose time and chance are the seed's.

use std::sync::Arc;
use std::time::Duration;

use client::Client;
use component::Shutdown;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::machines::{self, Machines};
use crate::memory::Memory;
use crate::truth::{Shared, lock};
use crate::users::Users;
use crate::wire::Wire;
use crate::{end, fate, truth, wire};

/// How long things may go wrong.
const TROUBLE: std::ops::Range<u64> = 60..300;
/// How long what was asked for may take when all is well again: the longest delays of queues and of Jobs, and what a
/// node that was down costs.
const CALM: Duration = Duration::from_secs(3600);

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The same for the same seed.
    pub digest: u64,
    pub writes: i64,
    /// Seconds of the run's own clock.
    pub took: f64,
    /// Empty when all held.
    pub wrong: Vec<String>,
    pub diary: Vec<String>,
    pub busiest: Vec<(String, u64)>,
}

/// A controller manager that can be killed.
struct Manager {
    wire: Arc<Wire>,
    stop: CancellationToken,
}

impl Manager {
    async fn start(server: &Arc<apiserver::Server>, seed: u64, bad: bool) -> Manager {
        let wire = Wire::new(server, bad, seed);
        let client = wire.client("kube-controller-manager").await;
        let stop = CancellationToken::new();
        let deps = controllers::Dependencies {
            client,
            service_account_credentials: false,
            leader: None,
            queues: Default::default(),
            synced: Default::default(),
        };
        tokio::spawn(controllers::run(
            controllers::Config::default(),
            deps,
            stop.clone(),
        ));
        Manager { wire, stop }
    }

    /// Between any two calls.
    fn kill(&self) {
        self.wire.cut();
        self.stop.cancel();
    }
}

async fn work(seed: u64) -> Outcome {
    fate::start();
    let mut chance = StdRng::seed_from_u64(seed);
    let store = Memory::new();
    let shutdown = Shutdown {
        token: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let truth = Shared::default();
    let server = wire::serve(&store, &shutdown, truth::observers(&truth)).await;
    let good = Wire::new(&server, false, seed);
    let client = good.client("world").await;
    let mut users = Users::new(client.clone(), truth.clone()).await;
    let mut machines = Machines::new(client.clone(), truth.clone()).await;
    let mut manager = Manager::start(&server, chance.random(), true).await;

    let trouble = Instant::now() + Duration::from_secs(chance.random_range(TROUBLE));
    let mut next = Instant::now();
    while Instant::now() < trouble && lock(&truth).violations.is_empty() {
        sleep(Duration::from_millis(chance.random_range(50..1500))).await;
        machines.step(&mut chance).await;
        if Instant::now() >= next {
            users.act(&mut chance).await;
            let wait = if chance.random_bool(0.3) { 300 } else { 8_000 };
            next = Instant::now() + Duration::from_millis(chance.random_range(1..wait));
        }
        if chance.random_bool(0.01) {
            users.say("the controllers are killed".into());
            manager.kill();
            sleep(Duration::from_millis(chance.random_range(1..5000))).await;
            manager = Manager::start(&server, chance.random(), true).await;
        }
        if chance.random_bool(0.003) {
            let (node, time) = (
                chance.random_range(0..machines::COUNT),
                chance.random_range(5..200),
            );
            users.say(format!("node-{node} is down for {time} s"));
            machines.fail(node, Duration::from_secs(time));
        }
    }
    users.say("all is well".into());
    manager.wire.mend();
    machines.recover();
    users.settle().await;
    let wrong = settle(&client, &truth, &store, &mut machines, &mut chance).await;
    manager.kill();
    shutdown.token.cancel();
    Outcome {
        digest: store.digest(),
        writes: storage::Store::revision(&store).await.unwrap_or(0),
        took: fate::elapsed(),
        wrong,
        diary: users.diary,
        busiest: store.busiest(),
    }
}

async fn settle(
    client: &Client,
    truth: &Shared,
    store: &Memory,
    machines: &mut Machines,
    chance: &mut StdRng,
) -> Vec<String> {
    let deadline = Instant::now() + CALM;
    let mut look = Instant::now() + Duration::from_secs(20);
    loop {
        sleep(Duration::from_secs(1)).await;
        machines.step(chance).await;
        let violations = lock(truth).violations.clone();
        if !violations.is_empty() {
            return violations;
        }
        if Instant::now() < look {
            continue;
        }
        look = Instant::now() + Duration::from_secs(20);
        let mut problems = end::problems(client, truth).await;
        if store.keys("/registry/namespaces/b").is_empty() {
            // Of a namespace that is gone nothing stays.
            let rest = store
                .keys("/registry/")
                .into_iter()
                .filter(|k| k.contains("/b/"));
            problems.extend(rest.map(|k| format!("{k} is in no namespace")));
        }
        if problems.is_empty() || Instant::now() > deadline {
            return problems;
        }
    }
}

/// Runs a seed in a thread of its own, since hash seeds belong to threads, and deep trees take a deep stack. Once per
/// process: tokio counts its runtimes, and chooses by that number too.
pub fn run(seed: u64) -> Outcome {
    let run = move || {
        fate::seed(seed);
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(work(seed))
    };
    let thread = std::thread::Builder::new().stack_size(256 << 20).spawn(run);
    thread.unwrap().join().unwrap()
}
