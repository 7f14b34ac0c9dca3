//! certificatesigningrequest-signing-controller: signs the approved requests of four signers. Idle without
//! `--cluster-signing-cert-file` or the flags of single signers.
//!
//! Invariants: nothing is signed that is not approved, or that its signer has no business with; no certificate outlives its
//! authority; the authority's files are read again for each certificate, so that new ones are used as soon as they are there,
//! and while they cannot be read the last that could are used. The four signers share one queue, upstream's have one each.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::Time;
use client::resource::CERTIFICATE_SIGNING_REQUESTS;
use pki::cert::Ca;
use pki::issue::Terms;
use serde_json::json;

use super::{
    CLIENT, Error, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, SigningRequest, SigningRequestStatus,
    kubelet_client, kubelet_serving,
};
use crate::context::{Context, rewrite};

/// Certificates begin so long ago, for those whose clock is behind.
const BACKDATE: i64 = 5 * 60;
/// Those that are good for less do not end earlier for that.
const SHORT: i64 = 8 * 3600;
/// The least that can be asked for.
const LEAST: i64 = 10 * 60;

/// What one signer signs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `spec.signerName`
    pub signer: &'static str,
    /// The authority's certificate.
    pub cert: PathBuf,
    /// The authority's key.
    pub key: PathBuf,
}

/// A signer's pair of flags: its name, what the flags begin with, and what messages call it.
const FLAGS: [(&str, &str, &str); 4] = [
    (
        KUBELET_SERVING,
        "cluster-signing-kubelet-serving",
        "cluster-signing-kubelet-serving",
    ),
    (
        KUBELET_CLIENT,
        "cluster-signing-kubelet-client",
        "cluster-signing-kube-apiserver-client",
    ),
    (
        CLIENT,
        "cluster-signing-kube-apiserver-client",
        "cluster-signing-kube-apiserver",
    ),
    (
        LEGACY,
        "cluster-signing-legacy-unknown",
        "cluster-signing-legacy-unknown",
    ),
];

/// What the flags say; `flag` gives the value of each, empty without one.
///
/// # Errors
/// Upstream's message.
pub fn files<'a>(flag: impl Fn(&str) -> &'a str) -> Result<Vec<Files>, String> {
    let pair = |stem: &str| {
        let cert = flag(&format!("{stem}-cert-file"));
        (cert, flag(&format!("{stem}-key-file")))
    };
    let make = |signer, (cert, key): (&str, &str)| Files {
        signer,
        cert: cert.into(),
        key: key.into(),
    };
    let mut own = Vec::new();
    for (signer, stem, called) in FLAGS {
        match pair(stem) {
            ("", "") => {}
            ("", _) => return Err(format!("\"{called}\": cannot specify key without cert")),
            (_, "") => return Err(format!("\"{called}\": cannot specify cert without key")),
            both => own.push(make(signer, both)),
        }
    }
    let all = pair("cluster-signing");
    if all != ("", "") && !own.is_empty() {
        return Err("cannot specify --cluster-signing-{cert,key}-file and other --cluster-signing-*-file flags at the same time".into());
    }
    if all.0.is_empty() || all.1.is_empty() {
        return Ok(own);
    }
    Ok(FLAGS.map(|(signer, ..)| make(signer, all)).into())
}

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Leave,
    /// It is refused for good.
    Fail(String),
    /// It is signed.
    Sign,
}

/// What is to be done with a request by one of its signers.
///
/// # Errors
/// For a request that cannot be read.
pub fn decide(request: &SigningRequest) -> Result<Decision, String> {
    let (spec, status) = (&request.spec, &request.status);
    if !status.waits_for_a_signer() || !FLAGS.iter().any(|f| f.0 == spec.signer_name) {
        return Ok(Decision::Leave);
    }
    let asked = request.asked()?;
    let fits = match spec.signer_name.as_str() {
        KUBELET_SERVING => kubelet_serving(&asked, &spec.usages),
        KUBELET_CLIENT => kubelet_client(&asked, &spec.usages),
        CLIENT => client_usages(&spec.usages),
        // Anything goes, as ever.
        _ => Ok(()),
    };
    Ok(fits.map_or_else(Decision::Fail, |()| Decision::Sign))
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(odd) = usages.iter().find(|u| !known.contains(&u.as_str())) {
        return Err(format!("invalid usage for client certificate: {odd}"));
    }
    if usages.iter().any(|u| u == "client auth") {
        return Ok(());
    }
    Err("missing required usage for client certificate: client auth".into())
}

/// How long a certificate is to be good, in seconds: as asked for, within what the signer gives.
fn duration(most: i64, asked: Option<i32>) -> i64 {
    match asked.map(i64::from) {
        None => most,
        Some(asked) if asked > most => most,
        Some(asked) => asked.max(LEAST),
    }
}

/// Words for key usages, with the bit of each.
const USAGES: [(&str, u16); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Words for extended key usages, with the identifier of each, in the order in which certificates tell them.
const EXTENDED: [(&str, &[u8]); 13] = [
    ("any", &[0x55, 0x1d, 0x25, 0]),
    ("server auth", &[0x2b, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[0x2b, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[0x2b, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[0x2b, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[0x2b, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[0x2b, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[0x2b, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[0x2b, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
    (
        "netscape sgc",
        &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1],
    ),
];

/// The terms of a certificate that is to be good for `seconds` and to be used for `usages`, by an authority that ends at
/// `authority`.
///
/// # Errors
/// Upstream's message.
pub fn terms(usages: &[String], seconds: i64, now: i64, authority: i64) -> Result<Terms, String> {
    let has = |word: &str| usages.iter().any(|u| u == word);
    let known =
        |u: &String| USAGES.iter().any(|(w, _)| w == u) || EXTENDED.iter().any(|(w, _)| w == u);
    let odd: Vec<String> = usages
        .iter()
        .filter(|u| !known(u))
        .map(|u| api::text::go_quote(u))
        .collect();
    if !odd.is_empty() {
        return Err(format!("unrecognized usage values: [{}]", odd.join(" ")));
    }
    let mut extended: Vec<&'static [u8]> = EXTENDED
        .iter()
        .filter(|(word, _)| has(word))
        .map(|(_, id)| *id)
        .collect();
    extended.dedup();
    let shown = || {
        Time::from_second(authority).map_or_else(
            |_| authority.to_string(),
            |t| t.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        )
    };
    let not_before = now.saturating_sub(BACKDATE);
    let backdate = if seconds < SHORT { 0 } else { BACKDATE };
    let not_after = now.saturating_add(seconds - backdate).min(authority);
    if not_before >= authority {
        return Err(format!("the signer has expired: NotAfter={}", shown()));
    }
    if now >= authority {
        return Err(format!(
            "refusing to sign a certificate that expired in the past: NotAfter={}",
            shown()
        ));
    }
    Ok(Terms {
        usage: USAGES
            .iter()
            .filter(|(word, _)| has(word))
            .fold(0, |bits, (_, bit)| bits | 1 << bit),
        extended,
        not_before,
        not_after,
    })
}

struct Loaded {
    cert: String,
    key: String,
    ca: Arc<Ca>,
    not_after: i64,
}

/// An authority in files that may change.
pub struct Authority {
    files: Files,
    loaded: Mutex<Loaded>,
}

impl Authority {
    /// Reads the files.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn new(files: Files) -> Result<Authority, String> {
        let read = |path: &PathBuf| pki::file::read(path).map_err(|e| e.to_string());
        let (cert, key) = (read(&files.cert)?, read(&files.key)?);
        let loaded = Mutex::new(load(&files, cert, key)?);
        Ok(Authority { files, loaded })
    }

    /// The authority as the files have it now, and when it ends.
    ///
    /// # Errors
    /// For new files that cannot be used.
    fn current(&self) -> Result<(Arc<Ca>, i64), String> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match (
            pki::file::read(&self.files.cert),
            pki::file::read(&self.files.key),
        ) {
            (Ok(cert), Ok(key)) if cert != loaded.cert || key != loaded.key => {
                *loaded = load(&self.files, cert, key)?;
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, signer = self.files.signer, "The authority's files cannot be read; it is used as it was");
            }
            _ => {}
        }
        Ok((loaded.ca.clone(), loaded.not_after))
    }
}

fn load(files: &Files, cert: String, key: String) -> Result<Loaded, String> {
    let name = files.cert.display();
    let bad = |why: &dyn std::fmt::Display| format!("error reading CA cert file \"{name}\": {why}");
    let blocks = pki::key::pem_blocks(&cert).map_err(|e| bad(&e))?;
    let found = blocks.iter().filter(|b| b.label == "CERTIFICATE").count();
    if found != 1 {
        return Err(bad(&format!("expected 1 certificate, found {found}")));
    }
    let ca = Ca::from_pem(&cert, &key).map_err(|e| bad(&e))?;
    let not_after = pki::issue::not_after(&ca).map_err(|e| bad(&e))?;
    Ok(Loaded {
        cert,
        key,
        ca: Arc::new(ca),
        not_after,
    })
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let mut authorities = Vec::new();
    for files in &ctx.config.signing {
        match Authority::new(files.clone()) {
            Ok(authority) => authorities.push(authority),
            Err(error) => tracing::error!(signer = files.signer, error, "A signer cannot work"),
        }
    }
    if authorities.is_empty() {
        tracing::info!("No request is signed, since no authority to sign with is specified");
        return;
    }
    let (client, authorities) = (ctx.client.clone(), Arc::new(authorities));
    let most = ctx.config.signing_duration;
    super::watch(&ctx, "certificate", move |request| {
        let (client, authorities) = (client.clone(), authorities.clone());
        async move { handle(&client, &authorities, most, &request).await }
    });
}

async fn handle(
    client: &client::Client,
    authorities: &[Authority],
    most: Duration,
    request: &SigningRequest,
) -> Result<(), Error> {
    let signer = &request.spec.signer_name;
    let Some(authority) = authorities.iter().find(|a| a.files.signer == signer) else {
        return Ok(());
    };
    let change = match decide(request).map_err(Error::Request)? {
        Decision::Leave => return Ok(()),
        Decision::Fail(why) => Err(json!({
            "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why,
            "lastUpdateTime": client::view::print_time(Time::now()),
        })),
        Decision::Sign => {
            let failed = |why| Error::Request(format!("error auto signing csr: {why}"));
            Ok(sign(authority, most, request, Time::now()).map_err(failed)?)
        }
    };
    let api = client.api(&CERTIFICATE_SIGNING_REQUESTS);
    let (name, uid) = (&request.metadata.name, &request.metadata.uid);
    rewrite(&api, name, uid, "status", |object| {
        if !SigningRequestStatus::of(object).is_some_and(|s| s.waits_for_a_signer()) {
            return false;
        }
        match &change {
            Err(condition) => super::add_condition(object, condition.clone()),
            Ok(certificate) => {
                if let Some(status) = object.get_mut("status").and_then(|s| s.as_object_mut()) {
                    status.insert("certificate".into(), STANDARD.encode(certificate).into());
                }
            }
        }
        true
    })
    .await?;
    Ok(())
}

fn sign(
    authority: &Authority,
    most: Duration,
    request: &SigningRequest,
    now: Time,
) -> Result<String, String> {
    let (ca, ends) = authority.current()?;
    let most = i64::try_from(most.as_secs()).unwrap_or(i64::MAX);
    let seconds = duration(most, request.spec.expiration_seconds);
    let terms = terms(&request.spec.usages, seconds, now.as_second(), ends)?;
    pki::issue::issue(&ca, request.pem()?, &terms).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use serde_json::Value;

    use super::super::tests::{request as pem, words};
    use super::*;
    use crate::views::{Blob, Condition};

    const CLIENT_USAGES: [&str; 3] = ["client auth", "digital signature", "key encipherment"];
    const SERVER_USAGES: [&str; 3] = ["server auth", "digital signature", "key encipherment"];

    fn request(
        signer: &str,
        name: &str,
        organization: &[&str],
        dns: &[&str],
        usages: &[&str],
        conditions: &[&str],
    ) -> SigningRequest {
        let mut r = SigningRequest::default();
        r.metadata.name = "csr-1".into();
        r.metadata.uid = "u".into();
        r.spec.signer_name = signer.into();
        r.spec.usages = words(usages);
        r.spec.request = Blob(pem(name, organization, dns).into());
        let condition = |kind: &&str| Condition {
            kind: (*kind).into(),
            ..Condition::default()
        };
        r.status.conditions = conditions.iter().map(condition).collect();
        r
    }

    #[test]
    fn what_is_signed() {
        use Decision::{Leave, Sign};
        let fail = |why: &str| Decision::Fail(why.into());
        let (node, nodes, dns, yes) = (
            "system:node:a",
            &["system:nodes"][..],
            &["a.b"][..],
            &["Approved"][..],
        );
        let (client, server) = (&CLIENT_USAGES[..], &SERVER_USAGES[..]);
        for (what, signer, name, organization, dns, usages, conditions, want) in [
            (
                "a client",
                CLIENT,
                "hello",
                &["some"][..],
                &[][..],
                client,
                yes,
                Sign,
            ),
            (
                "a client without encipherment",
                CLIENT,
                "hello",
                &["some"],
                &[],
                &client[..2],
                yes,
                Sign,
            ),
            (
                "a client that serves",
                CLIENT,
                "hello",
                &["some"],
                &[],
                &["server auth", "client auth"],
                yes,
                fail("invalid usage for client certificate: server auth"),
            ),
            (
                "a client that is none",
                CLIENT,
                "hello",
                &["some"],
                &[],
                &["digital signature"],
                yes,
                fail("missing required usage for client certificate: client auth"),
            ),
            (
                "a kubelet",
                KUBELET_CLIENT,
                node,
                nodes,
                &[],
                client,
                yes,
                Sign,
            ),
            (
                "a kubelet without encipherment",
                KUBELET_CLIENT,
                node,
                nodes,
                &[],
                &client[..2],
                yes,
                Sign,
            ),
            (
                "no kubelet",
                KUBELET_CLIENT,
                "mike",
                nodes,
                &[],
                client,
                yes,
                fail("subject common name does not begin with system:node:"),
            ),
            (
                "a kubelet's port",
                KUBELET_SERVING,
                node,
                nodes,
                dns,
                server,
                yes,
                Sign,
            ),
            (
                "a kubelet's port without encipherment",
                KUBELET_SERVING,
                node,
                nodes,
                dns,
                &server[..2],
                yes,
                Sign,
            ),
            (
                "a port without a name",
                KUBELET_SERVING,
                node,
                nodes,
                &[],
                server,
                yes,
                fail("DNS or IP subjectAltName is required"),
            ),
            (
                "a client's usages",
                KUBELET_SERVING,
                node,
                nodes,
                dns,
                client,
                yes,
                fail("usages did not match [digital signature key encipherment server auth]"),
            ),
            ("anything", LEGACY, "", &[], dns, &["any"], yes, Sign),
            (
                "failed",
                KUBELET_SERVING,
                node,
                nodes,
                dns,
                server,
                &["Approved", "Failed"],
                Leave,
            ),
            (
                "not approved",
                KUBELET_SERVING,
                node,
                nodes,
                dns,
                server,
                &[],
                Leave,
            ),
            (
                "denied",
                KUBELET_SERVING,
                node,
                nodes,
                dns,
                server,
                &["Approved", "Denied"],
                Leave,
            ),
            (
                "an unknown signer",
                "kubernetes.io/not-recognised",
                node,
                nodes,
                dns,
                server,
                yes,
                Leave,
            ),
            (
                "somebody else's signer",
                "example.com/sample",
                node,
                nodes,
                dns,
                server,
                yes,
                Leave,
            ),
        ] {
            let mut r = request(signer, name, organization, dns, usages, conditions);
            assert_eq!(decide(&r), Ok(want), "{what}");
            r.status.certificate = Blob(b"x".to_vec());
            assert_eq!(decide(&r), Ok(Leave), "{what}, signed");
        }
        let mut r = request(LEGACY, "", &[], &[], &[], yes);
        r.spec.request = Blob(vec![0xff]);
        assert!(
            decide(&r)
                .unwrap_err()
                .starts_with("unable to parse csr \"csr-1\": ")
        );
    }

    #[test]
    fn how_long_certificates_are_good() {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 3600;
        for (asked, want) in [
            (Some(30 * MINUTE), 30 * MINUTE),
            (Some(3 * HOUR), HOUR),
            (Some(-MINUTE), 10 * MINUTE),
            (Some(10 * MINUTE - 1), 10 * MINUTE),
            (Some(10 * MINUTE), 10 * MINUTE),
            (Some(HOUR), HOUR),
            (None, HOUR),
        ] {
            let asked = asked.map(|s| i32::try_from(s).unwrap());
            assert_eq!(duration(HOUR, asked), want, "{asked:?}");
        }
        let now = 1_000_000_000;
        for (what, seconds, ends, want) in [
            ("short", HOUR, 24 * HOUR, Ok(HOUR)),
            ("very short", MINUTE, 24 * HOUR, Ok(MINUTE)),
            ("just short", 8 * HOUR - 1, 24 * HOUR, Ok(8 * HOUR - 1)),
            ("just long", 8 * HOUR, 24 * HOUR, Ok(8 * HOUR - 5 * MINUTE)),
            ("long", 20 * HOUR, 24 * HOUR, Ok(20 * HOUR - 5 * MINUTE)),
            (
                "longer than the authority",
                48 * HOUR,
                24 * HOUR,
                Ok(24 * HOUR),
            ),
            ("for ever", i64::MAX, 24 * HOUR, Ok(24 * HOUR)),
            (
                "over lately",
                HOUR,
                0,
                Err(
                    "refusing to sign a certificate that expired in the past: NotAfter=2001-09-09 01:46:40 +0000 UTC",
                ),
            ),
            (
                "over",
                HOUR,
                -5 * MINUTE,
                Err("the signer has expired: NotAfter=2001-09-09 01:41:40 +0000 UTC"),
            ),
        ] {
            let got = terms(&[], seconds, now, now + ends);
            let got = got.map(|t| (t.not_before - now, t.not_after - now));
            assert_eq!(
                got,
                want.map(|end| (-5 * MINUTE, end)).map_err(str::to_owned),
                "{what}"
            );
        }
    }

    #[test]
    fn words_for_usages() {
        let id = |word: &str| EXTENDED.iter().find(|e| e.0 == word).unwrap().1;
        for (usages, bits, extended) in [
            (&["signing"][..], 1, vec![]),
            (&["signing", "digital signature"], 1, vec![]),
            (&["client auth"], 0, vec!["client auth"]),
            (&["client auth", "client auth"], 0, vec!["client auth"]),
            (
                &["client auth", "server auth"],
                0,
                vec!["server auth", "client auth"],
            ),
            (&["cert sign", "encipher only"], 1 << 5 | 1 << 7, vec![]),
            (
                &["ocsp signing", "crl sign", "s/mime", "content commitment"],
                1 << 6 | 1 << 1,
                vec!["s/mime", "ocsp signing"],
            ),
            (&["s/mime", "email protection"], 0, vec!["email protection"]),
            (
                &[
                    "key encipherment",
                    "data encipherment",
                    "key agreement",
                    "decipher only",
                ],
                1 << 2 | 1 << 3 | 1 << 4 | 1 << 8,
                vec![],
            ),
        ] {
            let got = terms(&words(usages), 1, 0, 10).unwrap();
            let extended: Vec<_> = extended.into_iter().map(id).collect();
            assert_eq!((got.usage, got.extended), (bits, extended), "{usages:?}");
        }
        let odd = terms(
            &words(&["client auth", "unsupported string", "\"x"]),
            1,
            0,
            10,
        );
        assert_eq!(
            odd,
            Err("unrecognized usage values: [\"unsupported string\" \"\\\"x\"]".into())
        );
    }

    #[test]
    fn flags() {
        let names = |files: Vec<Files>| {
            files
                .iter()
                .map(|f| {
                    (
                        f.signer,
                        f.cert.display().to_string(),
                        f.key.display().to_string(),
                    )
                })
                .collect::<Vec<_>>()
        };
        let read = |set: &[(&str, &'static str)]| {
            let set: HashMap<String, &'static str> = set
                .iter()
                .map(|(f, v)| (format!("cluster-signing-{f}"), *v))
                .collect();
            files(move |flag| set.get(flag).copied().unwrap_or_default()).map(names)
        };
        assert_eq!(read(&[]), Ok(vec![]));
        assert_eq!(read(&[("cert-file", "c")]), Ok(vec![]));
        let all = read(&[("cert-file", "c"), ("key-file", "k")]).unwrap();
        assert_eq!(
            all,
            [KUBELET_SERVING, KUBELET_CLIENT, CLIENT, LEGACY].map(|s| (s, "c".into(), "k".into()))
        );
        let one = read(&[
            ("kubelet-client-cert-file", "c"),
            ("kubelet-client-key-file", "k"),
        ]);
        assert_eq!(one, Ok(vec![(KUBELET_CLIENT, "c".into(), "k".into())]));
        for (set, why) in [
            (
                &[("kubelet-serving-cert-file", "c")][..],
                "\"cluster-signing-kubelet-serving\": cannot specify cert without key",
            ),
            (
                &[("legacy-unknown-key-file", "k")],
                "\"cluster-signing-legacy-unknown\": cannot specify key without cert",
            ),
            (
                &[
                    ("cert-file", "c"),
                    ("kube-apiserver-client-cert-file", "c"),
                    ("kube-apiserver-client-key-file", "k"),
                ],
                "cannot specify --cluster-signing-{cert,key}-file and other --cluster-signing-*-file flags at the same time",
            ),
        ] {
            assert_eq!(read(set), Err(why.into()));
        }
    }

    fn write(folder: &Path, name: &str, common_name: &str) -> Files {
        let files = Files {
            signer: CLIENT,
            cert: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        };
        let key = pki::key::generate().unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        let ca = Ca::generate(common_name, key).unwrap();
        std::fs::write(&files.cert, ca.cert_pem).unwrap();
        files
    }

    #[test]
    fn new_files_are_used_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = write(folder.path(), "ca", "one");
        let authority = Authority::new(files.clone()).unwrap();
        let (first, _) = authority.current().unwrap();
        assert!(
            Arc::ptr_eq(&first, &authority.current().unwrap().0),
            "read once"
        );
        write(folder.path(), "ca", "two");
        let second = authority.current().unwrap().0;
        assert_eq!(
            pki::cert::facts(&second.cert_pem).unwrap().common_name,
            "two"
        );
        // Half of what was written is not used, and neither is what came before it.
        let other = write(folder.path(), "other", "three");
        std::fs::copy(&other.cert, &files.cert).unwrap();
        assert!(authority.current().is_err());
        std::fs::copy(&other.key, &files.key).unwrap();
        let third = authority.current().unwrap().0;
        std::fs::remove_file(&files.cert).unwrap();
        assert!(
            Arc::ptr_eq(&third, &authority.current().unwrap().0),
            "as it was"
        );
        let two = std::fs::read_to_string(&other.cert).unwrap().repeat(2);
        std::fs::write(&files.cert, two).unwrap();
        let why = authority.current().err().unwrap();
        assert!(why.ends_with("expected 1 certificate, found 2"), "{why}");
    }

    #[tokio::test]
    async fn approved_requests_are_signed() {
        let folder = tempfile::tempdir().unwrap();
        let authorities = [Authority::new(write(folder.path(), "ca", "ca")).unwrap()];
        for (what, signer, usages, live, signed, failed) in [
            (
                "signed",
                CLIENT,
                &CLIENT_USAGES[..],
                json!(["Approved"]),
                true,
                false,
            ),
            (
                "refused",
                CLIENT,
                &["code signing"],
                json!(["Approved"]),
                false,
                true,
            ),
            (
                "denied in between",
                CLIENT,
                &CLIENT_USAGES,
                json!(["Approved", "Denied"]),
                false,
                false,
            ),
            (
                "not for this one",
                KUBELET_CLIENT,
                &CLIENT_USAGES,
                json!(["Approved"]),
                false,
                false,
            ),
        ] {
            let mut r = request(signer, "hello", &["some"], &[], usages, &["Approved"]);
            r.spec.expiration_seconds = Some(1800);
            let puts: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
            let told = puts.clone();
            let apiserver = testkit::apiserver::serve(move |asked, client| {
                let (told, live) = (told.clone(), live.clone());
                async move {
                    if asked.method == "PUT" {
                        told.lock().unwrap().push((asked.target, asked.body));
                    }
                    let conditions: Vec<_> = live
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|k| json!({"type": k, "status": "True"}))
                        .collect();
                    let object = json!({"metadata": {"name": "csr-1", "uid": "u", "resourceVersion": "7"}, "status": {"conditions": conditions}});
                    client.send(200, &object).await
                }
            });
            let config = testkit::apiserver::kubeconfig(apiserver.await);
            let client = client::Client::from_kubeconfig(config.path(), client::Options::default());
            let most = Duration::from_secs(365 * 24 * 3600);
            handle(&client.await.unwrap(), &authorities, most, &r)
                .await
                .unwrap();
            let puts = puts.lock().unwrap();
            assert_eq!(puts.len(), usize::from(signed || failed), "{what}");
            for (path, body) in puts.iter() {
                assert!(
                    path.ends_with("/certificatesigningrequests/csr-1/status"),
                    "{path}"
                );
                let last = body["status"]["conditions"]
                    .as_array()
                    .unwrap()
                    .last()
                    .unwrap();
                assert_eq!(
                    last["type"] == "Failed" && last["reason"] == "SignerValidationFailure",
                    failed,
                    "{what}"
                );
                let certificate = &body["status"]["certificate"];
                assert_eq!(certificate.is_string(), signed, "{what}");
                if let Some(certificate) = certificate.as_str() {
                    let pem = String::from_utf8(STANDARD.decode(certificate).unwrap()).unwrap();
                    let facts = pki::cert::facts(&pem).unwrap();
                    assert_eq!(
                        (
                            facts.common_name.as_str(),
                            facts.organizations.len(),
                            facts.is_ca
                        ),
                        ("hello", 1, false)
                    );
                    assert_eq!(facts.not_after - facts.not_before, 1800 + 300);
                }
            }
        }
    }
}
