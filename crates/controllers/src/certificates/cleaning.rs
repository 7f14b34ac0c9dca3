//! certificatesigningrequest-cleaner-controller: removes requests that nobody needs any more: signed, denied or failed an hour
//! ago, undecided or approved without a certificate for a day, or with a certificate that has ended.
//!
//! Invariants: each is looked at when its time comes, so it goes at that time and not up to an hour after it, as upstream's
//! rounds have it; what has no time is not old.

use std::time::Duration;

use client::resource::CERTIFICATE_SIGNING_REQUESTS;
use client::{Change, DeleteOptions, ObjectKey, Time};
use jiff::SignedDuration;

use super::SigningRequest;
use crate::context::Context;

const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// When a request is to go; none for one that stays as it is.
pub fn ends(request: &SigningRequest) -> Option<Time> {
    let status = &request.status;
    let issued = !status.certificate.0.is_empty();
    let after = |t: Option<Time>, age| t.and_then(|t| t.checked_add(age).ok());
    let mut ends = Vec::new();
    if status.conditions.is_empty() {
        ends.push(after(request.metadata.creation_timestamp, PENDING));
    }
    for c in &status.conditions {
        let age = match c.kind.as_str() {
            "Denied" | "Failed" => DECIDED,
            "Approved" if issued => DECIDED,
            "Approved" => PENDING,
            _ => continue,
        };
        ends.push(after(c.last_update_time, age));
        if c.kind == "Approved" && issued {
            ends.push(certificate_ends(&status.certificate.0));
        }
    }
    ends.into_iter().flatten().min()
}

fn certificate_ends(pem: &[u8]) -> Option<Time> {
    let blocks = pki::key::pem_blocks(std::str::from_utf8(pem).ok()?).ok()?;
    let facts = pki::cert::facts_der(&blocks.first()?.der).ok()?;
    Time::from_second(facts.not_after).ok()
}

/// How long a request still stays; `None` when it is to go now.
fn left(ends: Time, now: Time) -> Option<Duration> {
    // It goes after that time, not at it.
    Duration::try_from(ends.duration_since(now))
        .ok()
        .map(|left| left + Duration::from_millis(1))
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let requests = ctx.informer::<SigningRequest>(&CERTIFICATE_SIGNING_REQUESTS);
    let queue = ctx.queue("certificate_cleaner");
    let q = queue.clone();
    requests.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let (requests, client) = (requests.store(), ctx.client.clone());
    ctx.run(queue, 1, move |key| {
        let (request, client) = (requests.get_key(&key), client.clone());
        async move {
            let Some(request) = request else {
                return Ok(None);
            };
            let Some(ends) = ends(&request) else {
                return Ok(None);
            };
            if let Some(left) = left(ends, Time::now()) {
                return Ok(Some(left));
            }
            let api = client.api(&CERTIFICATE_SIGNING_REQUESTS);
            let options = DeleteOptions::uid(request.metadata.uid.as_str());
            match api.delete(&key.name, &options).await {
                Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e),
                _ => Ok(None),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::{Blob, Condition};

    #[test]
    fn ages() {
        const MINUTE: i64 = 60;
        let at = |ago: i64| Some(Time::from_second(1_000_000_000 - ago * MINUTE).unwrap());
        let now = at(0).unwrap();
        let ca = pki::cert::Ca::generate("ca", pki::key::generate().unwrap()).unwrap();
        let pem = super::super::tests::request("a", &[], &[]);
        let certificate = |not_after| {
            let terms = pki::issue::Terms {
                not_after,
                ..Default::default()
            };
            pki::issue::issue(&ca, &pem, &terms).unwrap()
        };
        let (good, over) = (certificate(2_000_000_000), certificate(999_999_999));
        let (none, junk) = ("", "junk");
        let day = 24 * 60;
        for (what, created, conditions, certificate, goes) in [
            ("undecided", at(5 * 60), &[][..], none, false),
            ("undecided for a day", at(day + 1), &[], none, true),
            ("undecided, to the minute", at(day), &[], none, false),
            ("without a time", None, &[], none, false),
            ("signed", at(50), &[("Approved", at(50))], &good, false),
            (
                "signed long ago",
                at(120),
                &[("Approved", at(120))],
                &good,
                true,
            ),
            (
                "signed lately, made long ago",
                at(9 * day),
                &[("Approved", at(50))],
                &good,
                false,
            ),
            (
                "signed, untold when",
                at(9 * day),
                &[("Approved", None)],
                &good,
                false,
            ),
            ("signed, over", at(50), &[("Approved", at(50))], &over, true),
            (
                "signed, over, untold when",
                at(50),
                &[("Approved", None)],
                &over,
                true,
            ),
            (
                "signed, not to be read",
                at(50),
                &[("Approved", at(50))],
                junk,
                false,
            ),
            ("denied", at(50), &[("Denied", at(50))], none, false),
            (
                "denied long ago",
                at(120),
                &[("Denied", at(120))],
                none,
                true,
            ),
            (
                "failed",
                at(120),
                &[("Approved", at(120)), ("Failed", at(50))],
                none,
                false,
            ),
            (
                "failed long ago",
                at(120),
                &[("Approved", at(120)), ("Failed", at(120))],
                none,
                true,
            ),
            (
                "not signed",
                at(5 * 60),
                &[("Approved", at(5 * 60))],
                none,
                false,
            ),
            (
                "not signed for a day",
                at(25 * 60),
                &[("Approved", at(25 * 60))],
                none,
                true,
            ),
            (
                "something else",
                at(9 * day),
                &[("Other", at(9 * day))],
                none,
                false,
            ),
        ] {
            let mut r = SigningRequest::default();
            r.metadata.creation_timestamp = created;
            let condition = |(kind, at): &(&str, Option<Time>)| Condition {
                kind: (*kind).into(),
                last_update_time: *at,
                ..Condition::default()
            };
            r.status.conditions = conditions.iter().map(condition).collect();
            r.status.certificate = Blob(certificate.as_bytes().to_vec());
            let left = ends(&r).map(|ends| left(ends, now));
            assert_eq!(left == Some(None), goes, "{what}: {left:?}");
        }
    }

    #[test]
    fn the_time_is_waited_for() {
        let mut r = SigningRequest::default();
        r.metadata.creation_timestamp = Some(Time::UNIX_EPOCH);
        let ends = ends(&r).unwrap();
        assert_eq!(ends, Time::from_second(86_400).unwrap());
        let wait = |now| left(ends, Time::from_second(now).unwrap());
        assert_eq!(wait(86_390), Some(Duration::from_millis(10_001)));
        assert_eq!(wait(86_400), Some(Duration::from_millis(1)));
        assert_eq!(wait(86_401), None);
        // Times at their ends are none.
        r.metadata.creation_timestamp = Some(Time::MAX);
        assert_eq!(super::ends(&r), None);
    }
}
