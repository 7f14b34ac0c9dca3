//! Random operations against a model that remembers everything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use storage::embedded::{Embedded, Options};
use storage::{Error, Expect, ListOptions, Store, WatchMessage, Written};

#[derive(Clone, Debug)]
enum Op {
    Put { key: u8, size: u16, expect: u8 },
    Delete { key: u8, expect: u8 },
    Compact { back: u8 },
    Reopen,
    Read { back: u8, start: u8, limit: u8 },
    Watch { back: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..6u8, 0..3000u16, 0..4u8).prop_map(|(key, size, expect)| Op::Put { key, size, expect }),
        4 => (0..6u8, 0..4u8).prop_map(|(key, expect)| Op::Delete { key, expect }),
        1 => (0..20u8).prop_map(|back| Op::Compact { back }),
        1 => Just(Op::Reopen),
        3 => (0..30u8, 0..7u8, 0..4u8).prop_map(|(back, start, limit)| Op::Read { back, start, limit }),
        1 => (0..30u8).prop_map(|back| Op::Watch { back }),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct Pair {
    value: Bytes,
    revision: i64,
    create: i64,
    version: i64,
}

type State = BTreeMap<String, Pair>;

/// Every state there ever was, by revision.
struct Model {
    states: Vec<State>,
    compacted: i64,
}

impl Model {
    fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    fn at(&self, revision: i64) -> &State {
        &self.states[usize::try_from(revision).unwrap() - 1]
    }

    fn now(&self) -> &State {
        self.at(self.revision())
    }
}

fn name(key: u8) -> String {
    format!("/registry/{}/{}", key / 3, key % 3)
}

fn options() -> Options {
    Options {
        retention: Duration::ZERO,
        file_bytes: 4 << 10,
        rewrite_slack: 4 << 10,
        watcher_bytes: 4 << 10,
        ..Options::default()
    }
}

fn pair(kv: &storage::KeyValue) -> Pair {
    Pair {
        value: kv.value.clone(),
        revision: kv.mod_revision,
        create: kv.create_revision,
        version: kv.version,
    }
}

fn expectation(kind: u8, found: Option<&Pair>) -> Expect {
    match kind {
        0 => Expect::Any,
        1 => Expect::Absent,
        2 => Expect::Revision(found.map_or(1, |pair| pair.revision)),
        _ => Expect::Revision(found.map_or(7, |pair| pair.revision - 1)),
    }
}

fn holds(expect: Expect, found: Option<&Pair>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found.is_some_and(|pair| pair.revision == revision),
    }
}

async fn run(ops: Vec<Op>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Embedded::open(dir.path(), options()).await.unwrap();
    let mut model = Model {
        states: vec![State::new()],
        compacted: 0,
    };
    let mut live = store.watch(b"/registry/", 0).await.unwrap();
    let mut live_from = 2;
    for op in ops {
        match op {
            Op::Put { key, size, expect } => {
                let key = name(key);
                let found = model.now().get(&key).cloned();
                let expect = expectation(expect, found.as_ref());
                let value: Bytes = vec![key.as_bytes()[10]; size.into()].into();
                let written = store
                    .put(key.as_bytes(), value.clone(), expect, 0)
                    .await
                    .unwrap();
                if holds(expect, found.as_ref()) {
                    let next = model.revision() + 1;
                    let Written::Done { revision, previous } = written else {
                        panic!("refused")
                    };
                    assert_eq!(
                        (revision, previous.as_ref().map(pair)),
                        (next, found.clone())
                    );
                    let mut state = model.now().clone();
                    let create = found.as_ref().map_or(next, |pair| pair.create);
                    let version = found.map_or(1, |pair| pair.version + 1);
                    state.insert(
                        key,
                        Pair {
                            value,
                            revision,
                            create,
                            version,
                        },
                    );
                    model.states.push(state);
                } else {
                    let Written::Mismatch { current, revision } = written else {
                        panic!("written")
                    };
                    assert_eq!(
                        (current.as_ref().map(pair), revision),
                        (found, model.revision())
                    );
                }
            }
            Op::Delete { key, expect } => {
                let key = name(key);
                let found = model.now().get(&key).cloned();
                let expect = expectation(expect, found.as_ref());
                let written = store.delete(key.as_bytes(), expect).await.unwrap();
                if found.is_some() && holds(expect, found.as_ref()) {
                    let Written::Done { revision, previous } = written else {
                        panic!("refused")
                    };
                    assert_eq!(
                        (revision, previous.as_ref().map(pair)),
                        (model.revision() + 1, found)
                    );
                    let mut state = model.now().clone();
                    state.remove(&key);
                    model.states.push(state);
                } else {
                    let Written::Mismatch { current, .. } = written else {
                        panic!("written")
                    };
                    assert_eq!(current.as_ref().map(pair), found);
                }
            }
            Op::Compact { back } => {
                let revision = model.revision() - i64::from(back);
                let result = store.compact(revision).await;
                if revision > model.compacted {
                    result.unwrap();
                    model.compacted = revision;
                } else {
                    assert!(matches!(result, Err(Error::Compacted { .. })));
                }
            }
            Op::Reopen => {
                drop(live);
                drop(store);
                store = Embedded::open(dir.path(), options()).await.unwrap();
                assert_eq!(store.revision().await.unwrap(), model.revision());
                assert_eq!(store.compacted(), model.compacted);
                live_from = model.revision() + 1;
                live = store.watch(b"/registry/", 0).await.unwrap();
            }
            Op::Read { back, start, limit } => {
                let revision = model.revision() - i64::from(back);
                let options = ListOptions {
                    start: name(start).into(),
                    limit: limit.into(),
                    revision: revision.max(1),
                    count_only: false,
                };
                let listed = store.list(b"/registry/", options).await;
                if revision.max(1) < model.compacted {
                    assert!(matches!(listed, Err(Error::Compacted { .. })));
                    continue;
                }
                let listed = listed.unwrap();
                let expected: Vec<_> = model.at(revision.max(1)).range(name(start)..).collect();
                assert_eq!(listed.count, expected.len() as i64);
                let limit = if limit == 0 {
                    expected.len()
                } else {
                    usize::from(limit).min(expected.len())
                };
                assert_eq!(listed.more, limit < expected.len());
                let found: Vec<_> = listed
                    .items
                    .iter()
                    .map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), pair(kv)))
                    .collect();
                let expected: Vec<_> = expected[..limit]
                    .iter()
                    .map(|(key, pair)| ((*key).clone(), (*pair).clone()))
                    .collect();
                assert_eq!(found, expected);
            }
            Op::Watch { back } => {
                let from = (model.revision() - i64::from(back)).max(2);
                match store.watch(b"/registry/", from).await {
                    Err(Error::Compacted { .. }) => assert!(from < model.compacted),
                    Err(error) => panic!("{error}"),
                    Ok(mut stream) => {
                        assert!(from >= model.compacted);
                        follow(&mut stream, &model, from).await;
                    }
                }
            }
        }
    }
    match live_from {
        from if from >= model.compacted => follow(&mut live, &model, from).await,
        _ => {}
    }
}

/// Reads every change from `from` to now and compares each with the model.
async fn follow(stream: &mut storage::WatchStream, model: &Model, from: i64) {
    let mut next = from;
    while next <= model.revision() {
        let WatchMessage::Events(events) = stream.next().await.unwrap().unwrap() else {
            continue;
        };
        for event in events {
            assert_eq!(event.kv.mod_revision, next);
            let key = String::from_utf8(event.kv.key.to_vec()).unwrap();
            let (before, after) = (model.at(next - 1).get(&key), model.at(next).get(&key));
            assert_eq!(event.previous.as_ref().map(pair).as_ref(), before);
            assert_eq!(event.deleted, after.is_none());
            if let Some(after) = after {
                assert_eq!(&pair(&event.kv), after);
            }
            next += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_the_model(ops in proptest::collection::vec(op(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), run(ops)).await.expect("it does not end");
        });
    }
}
