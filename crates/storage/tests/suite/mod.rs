//! The contract of a store, as cases that every backend passes. Each case has its own prefix, so that one store serves
//! them all, in order; cases may compact.

#![allow(dead_code, reason = "not every test uses all of it")]

pub mod etcd_process;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use storage::{
    Error, Event, Expect, KeyValue, ListOptions, Revision, Store, WatchMessage, WatchStream,
    Written,
};

/// What differs between backends without being part of the contract.
pub struct Traits {
    /// Whether `Compacted` and `Future` errors carry the numbers.
    pub tells_revisions: bool,
    /// A value of this many bytes is refused.
    pub too_large: usize,
}

/// Runs every case.
pub async fn run(store: &dyn Store, traits: &Traits) {
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {
            $(
                println!("case {}", stringify!($case));
                let prefix = concat!("/registry/", stringify!($case), "/");
                tokio::time::timeout(Duration::from_secs(60), $case(store, prefix, traits))
                    .await
                    .unwrap_or_else(|_| panic!("{} does not end", stringify!($case)));
            )*
        };
    }
    cases!(
        creates_reads_and_refuses_a_second_creation,
        updates_only_what_it_saw,
        deletes_only_what_it_saw,
        any_writes_whatever_is_there,
        revisions_grow_by_one,
        one_of_many_racing_creations_wins,
        racing_updates_lose_nothing,
        lists_in_order_with_limit_and_continue,
        lists_as_of_an_old_revision,
        prefixes_do_not_leak,
        empty_and_binary_values_come_back,
        refuses_what_is_too_large,
        future_revisions_are_refused,
        watches_from_now,
        watches_from_the_past_without_gaps,
        watch_sees_only_its_prefix,
        watch_under_load_is_ordered_and_gapless,
        watch_events_have_previous_values,
        progress_follows_events,
        two_watchers_see_the_same,
        leases_delete_their_keys,
        a_key_leaves_its_lease_when_rewritten,
        unknown_leases_are_refused,
        compaction_ends_old_reads_and_watches,
        ready_and_sized,
    );
}

fn key(prefix: &str, name: &str) -> Vec<u8> {
    format!("{prefix}{name}").into_bytes()
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn done(written: Written) -> (Revision, Option<KeyValue>) {
    match written {
        Written::Done { revision, previous } => (revision, previous),
        Written::Mismatch { current, .. } => panic!("mismatch with {current:?}"),
    }
}

fn mismatch(written: Written) -> Option<KeyValue> {
    match written {
        Written::Mismatch { current, .. } => current,
        Written::Done { revision, .. } => panic!("written at {revision}"),
    }
}

async fn create(store: &dyn Store, key: &[u8], text: &str) -> Revision {
    done(
        store
            .put(key, value(text), Expect::Absent, 0)
            .await
            .unwrap(),
    )
    .0
}

async fn update(store: &dyn Store, key: &[u8], text: &str) -> Revision {
    done(store.put(key, value(text), Expect::Any, 0).await.unwrap()).0
}

async fn remove(store: &dyn Store, key: &[u8]) -> Revision {
    done(store.delete(key, Expect::Any).await.unwrap()).0
}

/// The next `count` events, skipping progress.
async fn events(stream: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut found = Vec::new();
    while found.len() < count {
        match stream
            .next()
            .await
            .expect("the watch ended")
            .expect("the watch failed")
        {
            WatchMessage::Events(events) => found.extend(events),
            WatchMessage::Progress(_) => {}
        }
    }
    assert_eq!(found.len(), count, "more events than expected");
    found
}

async fn creates_reads_and_refuses_a_second_creation(store: &dyn Store, prefix: &str, _: &Traits) {
    let key = key(prefix, "a");
    assert!(store.get(&key, 0).await.unwrap().kv.is_none());
    let (revision, previous) = done(
        store
            .put(&key, value("1"), Expect::Absent, 0)
            .await
            .unwrap(),
    );
    assert!(previous.is_none());
    let got = store.get(&key, 0).await.unwrap();
    assert!(got.revision >= revision);
    let kv = got.kv.unwrap();
    let expected = KeyValue {
        key: key.clone().into(),
        value: value("1"),
        mod_revision: revision,
        create_revision: revision,
        version: 1,
        lease: 0,
    };
    assert_eq!(kv, expected);
    let current = mismatch(
        store
            .put(&key, value("2"), Expect::Absent, 0)
            .await
            .unwrap(),
    );
    assert_eq!(current, Some(expected.clone()));
    assert_eq!(store.get(&key, 0).await.unwrap().kv, Some(expected));
}

async fn updates_only_what_it_saw(store: &dyn Store, prefix: &str, _: &Traits) {
    let key = key(prefix, "a");
    assert_eq!(
        mismatch(
            store
                .put(&key, value("x"), Expect::Revision(1), 0)
                .await
                .unwrap()
        ),
        None
    );
    let first = create(store, &key, "1").await;
    let (second, previous) = done(
        store
            .put(&key, value("2"), Expect::Revision(first), 0)
            .await
            .unwrap(),
    );
    let previous = previous.unwrap();
    assert_eq!((previous.value, previous.mod_revision), (value("1"), first));
    assert!(second > first);
    let kv = store.get(&key, 0).await.unwrap().kv.unwrap();
    assert_eq!(
        (kv.create_revision, kv.mod_revision, kv.version),
        (first, second, 2)
    );
    let before = store.revision().await.unwrap();
    let current = mismatch(
        store
            .put(&key, value("3"), Expect::Revision(first), 0)
            .await
            .unwrap(),
    )
    .unwrap();
    assert_eq!((current.value, current.mod_revision), (value("2"), second));
    assert_eq!(
        store.revision().await.unwrap(),
        before,
        "a refused write must not take a revision"
    );
    let old = store.get(&key, first).await.unwrap().kv.unwrap();
    assert_eq!((old.value, old.version), (value("1"), 1));
}

async fn deletes_only_what_it_saw(store: &dyn Store, prefix: &str, _: &Traits) {
    let key = key(prefix, "a");
    assert_eq!(
        mismatch(store.delete(&key, Expect::Any).await.unwrap()),
        None
    );
    let first = create(store, &key, "1").await;
    let second = update(store, &key, "2").await;
    assert_eq!(
        mismatch(store.delete(&key, Expect::Revision(first)).await.unwrap())
            .unwrap()
            .value,
        value("2")
    );
    let (third, previous) = done(store.delete(&key, Expect::Revision(second)).await.unwrap());
    assert_eq!(previous.unwrap().value, value("2"));
    assert!(store.get(&key, 0).await.unwrap().kv.is_none());
    assert!(store.get(&key, second).await.unwrap().kv.is_some());
    assert!(store.get(&key, third).await.unwrap().kv.is_none());
    let again = create(store, &key, "3").await;
    let kv = store.get(&key, 0).await.unwrap().kv.unwrap();
    assert_eq!(
        (kv.create_revision, kv.version),
        (again, 1),
        "a key made anew starts over"
    );
}

async fn any_writes_whatever_is_there(store: &dyn Store, prefix: &str, _: &Traits) {
    let key = key(prefix, "a");
    let (_, previous) = done(store.put(&key, value("1"), Expect::Any, 0).await.unwrap());
    assert!(previous.is_none());
    let (_, previous) = done(store.put(&key, value("2"), Expect::Any, 0).await.unwrap());
    assert_eq!(previous.unwrap().value, value("1"));
    let (_, previous) = done(store.delete(&key, Expect::Any).await.unwrap());
    assert_eq!(previous.unwrap().value, value("2"));
}

async fn revisions_grow_by_one(store: &dyn Store, prefix: &str, _: &Traits) {
    let mut last = store.revision().await.unwrap();
    for round in 0..10 {
        let revision = update(store, &key(prefix, &format!("{}", round % 3)), "x").await;
        assert_eq!(revision, last + 1);
        assert_eq!(store.revision().await.unwrap(), revision);
        last = revision;
    }
}

async fn one_of_many_racing_creations_wins(store: &dyn Store, prefix: &str, _: &Traits) {
    let key = key(prefix, "a");
    let all = (0..20).map(|n| store.put(&key, value(&n.to_string()), Expect::Absent, 0));
    let outcomes = futures::future::join_all(all).await;
    let winners: Vec<_> = outcomes
        .into_iter()
        .enumerate()
        .filter_map(|(n, outcome)| matches!(outcome.unwrap(), Written::Done { .. }).then_some(n))
        .collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(
        store.get(&key, 0).await.unwrap().kv.unwrap().value,
        value(&winners[0].to_string())
    );
}

async fn racing_updates_lose_nothing(store: &dyn Store, prefix: &str, _: &Traits) {
    let key = key(prefix, "counter");
    create(store, &key, "0").await;
    let one = || async {
        for _ in 0..10 {
            let mut seen = store.get(&key, 0).await.unwrap().kv.unwrap();
            loop {
                let number: u64 = std::str::from_utf8(&seen.value).unwrap().parse().unwrap();
                let next = value(&(number + 1).to_string());
                match store
                    .put(&key, next, Expect::Revision(seen.mod_revision), 0)
                    .await
                    .unwrap()
                {
                    Written::Done { .. } => break,
                    Written::Mismatch { current, .. } => seen = current.unwrap(),
                }
            }
        }
    };
    futures::future::join_all((0..10).map(|_| one())).await;
    let kv = store.get(&key, 0).await.unwrap().kv.unwrap();
    assert_eq!((kv.value, kv.version), (value("100"), 101));
}

async fn lists_in_order_with_limit_and_continue(store: &dyn Store, prefix: &str, _: &Traits) {
    for name in ["c", "a", "e", "b", "d"] {
        create(store, &key(prefix, name), name).await;
    }
    let all = store
        .list(prefix.as_bytes(), ListOptions::default())
        .await
        .unwrap();
    let names = |items: &[KeyValue]| -> Vec<String> {
        items
            .iter()
            .map(|kv| String::from_utf8(kv.key[prefix.len()..].to_vec()).unwrap())
            .collect()
    };
    assert_eq!(names(&all.items), ["a", "b", "c", "d", "e"]);
    assert_eq!((all.count, all.more), (5, false));
    assert!(
        all.items
            .iter()
            .all(|kv| kv.value == kv.key[prefix.len()..])
    );
    assert_eq!(all.revision, store.revision().await.unwrap());
    let page = store
        .list(
            prefix.as_bytes(),
            ListOptions {
                limit: 2,
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(
        (names(&page.items).join(""), page.count, page.more),
        ("ab".to_owned(), 5, true)
    );
    create(store, &key(prefix, "bb"), "later").await;
    let start: Bytes = [&page.items[1].key[..], b"\0"].concat().into();
    let options = ListOptions {
        start: start.clone(),
        limit: 2,
        revision: page.revision,
        count_only: false,
    };
    let second = store.list(prefix.as_bytes(), options).await.unwrap();
    assert_eq!(
        (names(&second.items).join(""), second.count, second.more),
        ("cd".to_owned(), 3, true)
    );
    assert_eq!(second.revision, page.revision);
    let after: Bytes = [&second.items[1].key[..], b"\0"].concat().into();
    let options = ListOptions {
        start: after,
        limit: 2,
        revision: page.revision,
        count_only: false,
    };
    let third = store.list(prefix.as_bytes(), options).await.unwrap();
    assert_eq!(
        (names(&third.items).join(""), third.count, third.more),
        ("e".to_owned(), 1, false)
    );
    let now = store.list(
        prefix.as_bytes(),
        ListOptions {
            start,
            limit: 1,
            ..Default::default()
        },
    );
    let now = now.await.unwrap();
    assert_eq!(names(&now.items), ["bb"]);
    let count = store
        .list(
            prefix.as_bytes(),
            ListOptions {
                count_only: true,
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!((count.items.len(), count.count), (0, 6));
    // From behind all that has the prefix on: nothing, as of now.
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    let options = ListOptions {
        start: end.into(),
        ..Default::default()
    };
    let beyond = store.list(prefix.as_bytes(), options).await.unwrap();
    assert_eq!(
        (beyond.items.len(), beyond.count, beyond.more),
        (0, 0, false)
    );
    assert!(beyond.revision >= count.revision, "{}", beyond.revision);
}

async fn lists_as_of_an_old_revision(store: &dyn Store, prefix: &str, _: &Traits) {
    let a = key(prefix, "a");
    let b = key(prefix, "b");
    create(store, &a, "a1").await;
    let first = create(store, &b, "b1").await;
    update(store, &a, "a2").await;
    let second = remove(store, &b).await;
    let third = create(store, &key(prefix, "c"), "c1").await;
    let values = |revision| async move {
        let options = ListOptions {
            revision,
            ..Default::default()
        };
        let listed = store.list(prefix.as_bytes(), options).await.unwrap();
        listed
            .items
            .iter()
            .map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(values(first).await, "a1 b1");
    assert_eq!(values(second - 1).await, "a2 b1");
    assert_eq!(values(second).await, "a2");
    assert_eq!(values(third).await, "a2 c1");
    assert_eq!(values(0).await, "a2 c1");
}

async fn prefixes_do_not_leak(store: &dyn Store, prefix: &str, _: &Traits) {
    create(store, &key(prefix, "pods/a"), "1").await;
    create(store, &key(prefix, "pods2/a"), "2").await;
    create(store, &key(prefix, "pod"), "3").await;
    let listed = store
        .list(&key(prefix, "pods/"), ListOptions::default())
        .await
        .unwrap();
    assert_eq!(
        listed
            .items
            .iter()
            .map(|kv| kv.value.clone())
            .collect::<Vec<_>>(),
        [value("1")]
    );
    // A start before the prefix does not widen it.
    let options = ListOptions {
        start: Bytes::from_static(b"/"),
        ..Default::default()
    };
    assert_eq!(
        store
            .list(&key(prefix, "pods/"), options)
            .await
            .unwrap()
            .count,
        1
    );
}

async fn empty_and_binary_values_come_back(store: &dyn Store, prefix: &str, _: &Traits) {
    let binary: Bytes = (0..=255u8).cycle().take(5000).collect::<Vec<_>>().into();
    let odd = [prefix.as_bytes(), &[0, 255, 1]].concat();
    done(
        store
            .put(&odd, binary.clone(), Expect::Absent, 0)
            .await
            .unwrap(),
    );
    let empty = key(prefix, "empty");
    done(
        store
            .put(&empty, Bytes::new(), Expect::Absent, 0)
            .await
            .unwrap(),
    );
    assert_eq!(store.get(&odd, 0).await.unwrap().kv.unwrap().value, binary);
    assert_eq!(
        store.get(&empty, 0).await.unwrap().kv.unwrap().value,
        Bytes::new()
    );
    let big: Bytes = vec![7; 1_400_000].into();
    done(
        store
            .put(&key(prefix, "big"), big.clone(), Expect::Absent, 0)
            .await
            .unwrap(),
    );
    assert_eq!(
        store
            .get(&key(prefix, "big"), 0)
            .await
            .unwrap()
            .kv
            .unwrap()
            .value,
        big
    );
}

async fn refuses_what_is_too_large(store: &dyn Store, prefix: &str, traits: &Traits) {
    let large: Bytes = vec![7; traits.too_large].into();
    let key = key(prefix, "a");
    match store.put(&key, large, Expect::Absent, 0).await {
        Err(Error::TooLarge { .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(store.get(&key, 0).await.unwrap().kv.is_none());
}

async fn future_revisions_are_refused(store: &dyn Store, prefix: &str, traits: &Traits) {
    let current = store.revision().await.unwrap();
    let asked = current + 1000;
    for error in [
        store.get(&key(prefix, "a"), asked).await.unwrap_err(),
        store
            .list(
                prefix.as_bytes(),
                ListOptions {
                    revision: asked,
                    ..Default::default()
                },
            )
            .await
            .unwrap_err(),
    ] {
        match error {
            Error::Future { current: told } => assert!(!traits.tells_revisions || told == current),
            other => panic!("{other:?}"),
        }
    }
}

async fn watches_from_now(store: &dyn Store, prefix: &str, _: &Traits) {
    let a = key(prefix, "a");
    create(store, &a, "before").await;
    let mut watch = store.watch(prefix.as_bytes(), 0).await.unwrap();
    let revision = update(store, &a, "after").await;
    let seen = events(&mut watch, 1).await;
    assert_eq!(
        (seen[0].kv.value.clone(), seen[0].kv.mod_revision),
        (value("after"), revision)
    );
    assert!(!seen[0].deleted);
}

async fn watches_from_the_past_without_gaps(store: &dyn Store, prefix: &str, _: &Traits) {
    let a = key(prefix, "a");
    let first = create(store, &a, "0").await;
    for round in 1..50 {
        update(store, &a, &round.to_string()).await;
    }
    let mut watch = store.watch(prefix.as_bytes(), first + 10).await.unwrap();
    for round in 50..60 {
        update(store, &a, &round.to_string()).await;
    }
    let seen = events(&mut watch, 50).await;
    for (position, event) in seen.iter().enumerate() {
        assert_eq!(event.kv.value, value(&(position + 10).to_string()));
        assert_eq!(event.kv.version, position as i64 + 11);
    }
    // A watch of a revision to come begins there.
    let now = store.revision().await.unwrap();
    let mut later = store.watch(prefix.as_bytes(), now + 2).await.unwrap();
    update(store, &a, "skipped").await;
    let revision = update(store, &a, "seen").await;
    assert_eq!(events(&mut later, 1).await[0].kv.mod_revision, revision);
}

async fn watch_sees_only_its_prefix(store: &dyn Store, prefix: &str, _: &Traits) {
    let from = store.revision().await.unwrap() + 1;
    let mut live = store.watch(&key(prefix, "in/"), 0).await.unwrap();
    create(store, &key(prefix, "in"), "no").await;
    create(store, &key(prefix, "in/a"), "yes").await;
    create(store, &key(prefix, "in0"), "no").await;
    let last = create(store, &key(prefix, "in/b"), "yes").await;
    let mut past = store.watch(&key(prefix, "in/"), from).await.unwrap();
    for watch in [&mut live, &mut past] {
        let seen = events(watch, 2).await;
        assert!(seen.iter().all(|event| event.kv.value == "yes"));
        assert_eq!(seen[1].kv.mod_revision, last);
    }
}

async fn watch_under_load_is_ordered_and_gapless(store: &dyn Store, prefix: &str, _: &Traits) {
    const WRITERS: usize = 20;
    const WRITES: usize = 50;
    let from = store.revision().await.unwrap() + 1;
    let write = |writer: usize| async move {
        for round in 0..WRITES {
            update(
                store,
                &key(prefix, &format!("{}", (writer + round) % 7)),
                &format!("{writer}/{round}"),
            )
            .await;
        }
    };
    let read = |from| async move {
        let mut watch = store.watch(prefix.as_bytes(), from).await.unwrap();
        let mut all = Vec::new();
        while all.len() < WRITERS * WRITES {
            if let WatchMessage::Events(events) = watch.next().await.unwrap().unwrap() {
                all.extend(
                    events
                        .into_iter()
                        .map(|event| (event.kv.mod_revision, event.kv.value)),
                );
            }
        }
        all
    };
    let (_, early, late) = tokio::join!(
        futures::future::join_all((0..WRITERS).map(write)),
        read(from),
        async {
            // Starts in the middle of the load.
            while store.revision().await.unwrap() < from + 300 {
                tokio::task::yield_now().await;
            }
            read(from).await
        }
    );
    let revisions: Vec<_> = early.iter().map(|(revision, _)| *revision).collect();
    let expected: Vec<_> = (from..from + (WRITERS * WRITES) as i64).collect();
    assert_eq!(revisions, expected);
    assert_eq!(early, late);
}

async fn watch_events_have_previous_values(store: &dyn Store, prefix: &str, _: &Traits) {
    let a = key(prefix, "a");
    let from = store.revision().await.unwrap() + 1;
    let mut live = store.watch(prefix.as_bytes(), 0).await.unwrap();
    create(store, &a, "1").await;
    update(store, &a, "2").await;
    let gone = remove(store, &a).await;
    create(store, &a, "3").await;
    let mut past = store.watch(prefix.as_bytes(), from).await.unwrap();
    for watch in [&mut live, &mut past] {
        let seen = events(watch, 4).await;
        let told: Vec<_> = seen
            .iter()
            .map(|event| {
                let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                (
                    event.deleted,
                    text(&event.kv.value),
                    event.previous.as_ref().map(|kv| text(&kv.value)),
                )
            })
            .collect();
        let some = |text: &str| Some(text.to_owned());
        let expected = [
            (false, "1".to_owned(), None),
            (false, "2".to_owned(), some("1")),
            (true, String::new(), some("2")),
            (false, "3".to_owned(), None),
        ];
        assert_eq!(told, expected);
        assert_eq!(
            (seen[2].kv.mod_revision, &seen[2].kv.key[..]),
            (gone, &a[..])
        );
        assert_eq!(seen[2].previous.as_ref().unwrap().version, 2);
    }
}

async fn progress_follows_events(store: &dyn Store, prefix: &str, _: &Traits) {
    let a = key(prefix, "a");
    let mut watch = store.watch(prefix.as_bytes(), 0).await.unwrap();
    let mut idle = store.watch(&key(prefix, "idle/"), 0).await.unwrap();
    let mut last = 0;
    for round in 0..20 {
        last = update(store, &a, &round.to_string()).await;
    }
    store.request_progress().await.unwrap();
    let mut seen = 0;
    loop {
        match watch.next().await.unwrap().unwrap() {
            WatchMessage::Events(events) => seen += events.len(),
            WatchMessage::Progress(revision) if revision >= last => break,
            WatchMessage::Progress(_) => {}
        }
    }
    assert_eq!(seen, 20, "progress overtook events");
    loop {
        match idle.next().await.unwrap().unwrap() {
            WatchMessage::Progress(revision) if revision >= last => break,
            WatchMessage::Progress(_) => {}
            WatchMessage::Events(events) => panic!("{events:?}"),
        }
    }
}

async fn two_watchers_see_the_same(store: &dyn Store, prefix: &str, _: &Traits) {
    let mut one = store.watch(prefix.as_bytes(), 0).await.unwrap();
    let mut two = store.watch(prefix.as_bytes(), 0).await.unwrap();
    for round in 0..30 {
        update(
            store,
            &key(prefix, &format!("{}", round % 4)),
            &round.to_string(),
        )
        .await;
    }
    let one: Vec<_> = events(&mut one, 30)
        .await
        .into_iter()
        .map(|event| event.kv)
        .collect();
    drop(two.next().await);
    let mut again = store
        .watch(prefix.as_bytes(), one[0].mod_revision)
        .await
        .unwrap();
    let again: Vec<_> = events(&mut again, 30)
        .await
        .into_iter()
        .map(|event| event.kv)
        .collect();
    assert_eq!(one, again);
}

async fn leases_delete_their_keys(store: &dyn Store, prefix: &str, _: &Traits) {
    let lease = store.grant(1).await.unwrap();
    let keys = [key(prefix, "a"), key(prefix, "b")];
    let mut watch = store.watch(prefix.as_bytes(), 0).await.unwrap();
    for key in &keys {
        done(
            store
                .put(key, value("1"), Expect::Absent, lease)
                .await
                .unwrap(),
        );
        assert_eq!(store.get(key, 0).await.unwrap().kv.unwrap().lease, lease);
    }
    create(store, &key(prefix, "stays"), "1").await;
    let seen = events(&mut watch, 5).await;
    let gone: Vec<_> = seen[3..]
        .iter()
        .map(|event| (event.deleted, event.kv.key.to_vec()))
        .collect();
    assert_eq!(gone, keys.map(|key| (true, key)));
    let listed = store
        .list(prefix.as_bytes(), ListOptions::default())
        .await
        .unwrap();
    assert_eq!(listed.count, 1);
}

async fn a_key_leaves_its_lease_when_rewritten(store: &dyn Store, prefix: &str, _: &Traits) {
    let lease = store.grant(1).await.unwrap();
    let kept = key(prefix, "kept");
    let gone = key(prefix, "gone");
    let mut watch = store.watch(&gone, 0).await.unwrap();
    done(
        store
            .put(&kept, value("1"), Expect::Absent, lease)
            .await
            .unwrap(),
    );
    done(
        store
            .put(&gone, value("1"), Expect::Absent, lease)
            .await
            .unwrap(),
    );
    update(store, &kept, "2").await;
    assert!(events(&mut watch, 2).await[1].deleted);
    assert_eq!(store.get(&kept, 0).await.unwrap().kv.unwrap().lease, 0);
}

async fn unknown_leases_are_refused(store: &dyn Store, prefix: &str, _: &Traits) {
    let error = store
        .put(&key(prefix, "a"), value("1"), Expect::Absent, 4711)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::LeaseNotFound(4711)), "{error:?}");
    assert!(store.get(&key(prefix, "a"), 0).await.unwrap().kv.is_none());
}

async fn compaction_ends_old_reads_and_watches(store: &dyn Store, prefix: &str, traits: &Traits) {
    let a = key(prefix, "a");
    let b = key(prefix, "b");
    let first = create(store, &a, "1").await;
    create(store, &b, "1").await;
    update(store, &a, "2").await;
    remove(store, &b).await;
    let edge = update(store, &a, "3").await;
    let last = update(store, &a, "4").await;
    store.compact(edge).await.unwrap();
    for error in [
        store.get(&a, first).await.unwrap_err(),
        store
            .list(
                prefix.as_bytes(),
                ListOptions {
                    revision: edge - 1,
                    ..Default::default()
                },
            )
            .await
            .unwrap_err(),
        store.compact(first).await.unwrap_err(),
    ] {
        match error {
            Error::Compacted { oldest } => assert!(!traits.tells_revisions || oldest == edge),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        store.compact(last + 1000).await.unwrap_err(),
        Error::Future { .. }
    ));
    assert_eq!(
        store.get(&a, edge).await.unwrap().kv.unwrap().value,
        value("3")
    );
    assert_eq!(
        store.get(&a, 0).await.unwrap().kv.unwrap().value,
        value("4")
    );
    assert!(store.get(&b, 0).await.unwrap().kv.is_none());
    let error = match store.watch(prefix.as_bytes(), first).await {
        Err(error) => error,
        Ok(mut stream) => stream.next().await.unwrap().unwrap_err(),
    };
    assert!(matches!(error, Error::Compacted { .. }), "{error:?}");
    let mut watch = store.watch(prefix.as_bytes(), edge + 1).await.unwrap();
    let seen = events(&mut watch, 1).await;
    assert_eq!(
        (seen[0].kv.mod_revision, seen[0].kv.value.clone()),
        (last, value("4"))
    );
    assert_eq!(seen[0].previous.as_ref().unwrap().value, value("3"));
}

async fn ready_and_sized(store: &dyn Store, _: &str, _: &Traits) {
    store.ready().await.unwrap();
    assert!(store.size_on_disk().await.unwrap() > 1_400_000);
}
