//! Bootstrap tokens, for nodes that join: bootstrap-signer-controller signs the ConfigMap kube-public/cluster-info with every
//! token that may sign, so that who knows a token can trust it; token-cleaner-controller removes tokens that have expired.
//! Both are off by default, as upstream.
//!
//! Invariants: tokens are Secrets of their own type in kube-system, and no other Secret is watched; what is signed is what the
//! ConfigMap holds when it is written; a signature ends with its token, also when nobody removes that; a token whose end
//! cannot be read has expired.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::resource::{CONFIG_MAPS, SECRETS};
use client::{Change, DeleteOptions, Informer, ObjectKey, ObjectMeta, Selector, Time, views};
use jiff::SignedDuration;
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::{Context, rewrite};
use crate::views::{Blob, ConfigMap};

const TOKENS: &str = "kube-system";
const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";
const TOKEN_PREFIX: &str = "bootstrap-token-";
const PUBLIC: &str = "kube-public";
const CLUSTER_INFO: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// `v1.Secret`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Token {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Content.
    pub data: BTreeMap<String, Blob>,
}

views!(Token);

/// How long a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// For ever.
    Always,
    /// So long.
    For(Duration),
    /// No longer.
    Nothing,
}

impl Token {
    fn get(&self, key: &str) -> &[u8] {
        self.data.get(key).map_or(&[], |b| &b.0)
    }

    /// How long it is good.
    pub fn left(&self, now: Time) -> Left {
        let expires = self.get("expiration");
        if expires.is_empty() {
            return Left::Always;
        }
        let ends = std::str::from_utf8(expires)
            .ok()
            .and_then(|text| api::time::parse_rfc3339(text).ok());
        let Some(ends) = ends else {
            return Left::Nothing;
        };
        let now = SignedDuration::new(now.as_second(), now.subsec_nanosecond());
        let nanos = i32::try_from(ends.nanos).unwrap_or(0);
        let left = SignedDuration::new(ends.seconds, nanos).saturating_sub(now);
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => Left::For(left),
            _ => Left::Nothing,
        }
    }

    /// Its ID and secret, where it may sign.
    pub fn signing(&self, now: Time) -> Option<(&str, &[u8])> {
        let id = self.metadata.name.strip_prefix(TOKEN_PREFIX)?;
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let secret = self.get("token-secret");
        let good = id.len() == 6
            && id.bytes().all(fits)
            && self.get("token-id") == id.as_bytes()
            && !secret.is_empty()
            && self.left(now) != Left::Nothing
            && self.get("usage-bootstrap-signing") == b"true";
        good.then_some((id, secret))
    }
}

/// A JWS (RFC 7515) of the content without the content.
pub fn signature(content: &str, id: &str, secret: &[u8]) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// The ConfigMap's data with the signatures of the tokens; `None` where it has them, or nothing to sign.
pub fn decide(
    data: &BTreeMap<String, String>,
    tokens: &BTreeMap<String, Vec<u8>>,
) -> Option<BTreeMap<String, String>> {
    let content = data.get(CONTENT)?;
    let kept = data.iter().filter(|(key, _)| !key.starts_with(SIGNATURE));
    let mut signed: BTreeMap<String, String> = kept.map(|(k, v)| (k.clone(), v.clone())).collect();
    signed.extend(tokens.iter().map(|(id, secret)| {
        let key = format!("{SIGNATURE}{id}");
        (key, signature(content, id, secret))
    }));
    (signed != *data).then_some(signed)
}

fn tokens(ctx: &Context) -> Informer<Token> {
    let selector = Selector {
        fields: format!("type={TOKEN_TYPE}"),
        ..Selector::namespace(TOKENS)
    };
    ctx.informers.get(&SECRETS, selector)
}

/// Starts the signer.
pub fn start_signer(ctx: Context) {
    let maps = ctx.informers.get::<ConfigMap>(
        &CONFIG_MAPS,
        Selector {
            fields: format!("metadata.name={CLUSTER_INFO}"),
            ..Selector::namespace(PUBLIC)
        },
    );
    let tokens = tokens(&ctx);
    let queue = ctx.queue("bootstrap_signer_queue");
    let q = queue.clone();
    maps.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let q = queue.clone();
    tokens.on_change(move |_| q.add(ObjectKey::new(PUBLIC, CLUSTER_INFO)));
    let (maps, tokens, client) = (maps.store(), tokens.store(), ctx.client.clone());
    ctx.run(queue, 1, move |key| {
        let (map, tokens, client) = (maps.get_key(&key), tokens.list(), client.clone());
        async move {
            let Some(map) = map else {
                return Ok(None);
            };
            let now = Time::now();
            let signing = tokens.iter().filter_map(|t| t.signing(now));
            let signing: BTreeMap<String, Vec<u8>> = signing
                .map(|(id, secret)| (id.to_owned(), secret.to_owned()))
                .collect();
            let ends = tokens.iter().filter_map(|t| match t.left(now) {
                Left::For(left) => Some(left),
                _ => None,
            });
            let again = ends.min();
            if decide(&map.data, &signing).is_some() {
                sign(&client, &map, &signing).await?;
            }
            Ok::<_, client::Error>(again)
        }
    });
}

async fn sign(
    client: &client::Client,
    map: &ConfigMap,
    tokens: &BTreeMap<String, Vec<u8>>,
) -> Result<(), client::Error> {
    let api = client.namespaced(&CONFIG_MAPS, &map.metadata.namespace);
    let ObjectMeta { name, uid, .. } = &map.metadata;
    rewrite(&api, name, uid, "", |object| {
        let data = object.get("data").cloned().unwrap_or_default();
        let data = serde_json::from_value(data).unwrap_or_default();
        let (Some(signed), Some(object)) = (decide(&data, tokens), object.as_object_mut()) else {
            return false;
        };
        let signed = signed.into_iter().map(|(k, v)| (k, Value::from(v)));
        object.insert("data".into(), Value::Object(signed.collect()));
        true
    })
    .await
}

/// Starts the cleaner.
pub fn start_cleaner(ctx: Context) {
    let tokens = tokens(&ctx);
    let queue = ctx.queue("token_cleaner");
    let q = queue.clone();
    tokens.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let (tokens, client) = (tokens.store(), ctx.client.clone());
    ctx.run(queue, 1, move |key| {
        let (token, client) = (tokens.get_key(&key), client.clone());
        async move {
            match token {
                Some(token) => clean(&client, &token, Time::now()).await,
                None => Ok(None),
            }
        }
    });
}

async fn clean(
    client: &client::Client,
    token: &Token,
    now: Time,
) -> Result<Option<Duration>, client::Error> {
    match token.left(now) {
        Left::Always => return Ok(None),
        Left::For(left) => return Ok(Some(left)),
        Left::Nothing => {}
    }
    let api = client.namespaced(&SECRETS, &token.metadata.namespace);
    let options = DeleteOptions::uid(token.metadata.uid.as_str());
    match api.delete(&token.metadata.name, &options).await {
        Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const ID: &str = "abc123";
    /// Of "payload", by the token `abc123.tokenSecret`, as upstream computes it.
    const SIGNED: &str =
        "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiYzEyMyJ9..QSxpUG7Q542CirTI2ECPSZjvBOJURUW5a7XqFpNI958";

    fn now() -> Time {
        Time::from_second(1_000_000_000).unwrap()
    }

    fn token(name: &str, data: &[(&str, &str)]) -> Token {
        let mut t = Token::default();
        t.metadata.name = name.into();
        t.metadata.namespace = TOKENS.into();
        t.metadata.uid = "u".into();
        t.kind = TOKEN_TYPE.into();
        let data = data.iter().filter(|(_, v)| !v.is_empty());
        t.data = data
            .map(|(k, v)| ((*k).to_owned(), Blob(v.as_bytes().to_vec())))
            .collect();
        t
    }

    #[test]
    fn which_tokens_sign() {
        let (hour, over, name) = (
            "2001-09-09T02:46:40Z",
            "2001-09-09T00:46:40Z",
            "bootstrap-token-abc123",
        );
        for (what, name, id, secret, usage, expires, signs) in [
            ("for ever", name, ID, "s", "true", "", true),
            ("for an hour", name, ID, "s", "true", hour, true),
            (
                "for an hour, elsewhere",
                name,
                ID,
                "s",
                "true",
                "2001-09-09T04:46:40+02:00",
                true,
            ),
            ("no longer", name, ID, "s", "true", over, false),
            (
                "to the second",
                name,
                ID,
                "s",
                "true",
                "2001-09-09T01:46:40Z",
                false,
            ),
            ("an odd end", name, ID, "s", "true", "garbage", false),
            ("no use", name, ID, "s", "", "", false),
            ("no use, odd end", name, ID, "s", "", "garbage", false),
            ("another use", name, ID, "s", "True", "", false),
            ("no ID", name, "", "s", "true", "", false),
            ("no secret", name, ID, "", "true", "", false),
            (
                "another ID",
                "bootstrap-token-def456",
                ID,
                "s",
                "true",
                "",
                false,
            ),
            ("no prefix", ID, ID, "s", "true", "", false),
            (
                "short",
                "bootstrap-token-abc12",
                "abc12",
                "s",
                "true",
                "",
                false,
            ),
            (
                "long",
                "bootstrap-token-abc1234",
                "abc1234",
                "s",
                "true",
                "",
                false,
            ),
            (
                "odd",
                "bootstrap-token-abc.23",
                "abc.23",
                "s",
                "true",
                "",
                false,
            ),
        ] {
            let t = token(
                name,
                &[
                    ("token-id", id),
                    ("token-secret", secret),
                    ("usage-bootstrap-signing", usage),
                    ("expiration", expires),
                ],
            );
            assert_eq!(t.signing(now()), signs.then_some((ID, &b"s"[..])), "{what}");
        }
    }

    #[test]
    fn what_is_signed() {
        assert_eq!(signature("payload", ID, b"tokenSecret"), SIGNED);
        let data = |more: &[(&str, &str)]| -> BTreeMap<String, String> {
            let all = [("kubeconfig", "payload"), ("other", "kept")];
            all.iter()
                .chain(more)
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let one = BTreeMap::from([(ID.to_owned(), b"tokenSecret".to_vec())]);
        let none = BTreeMap::new();
        let (new, old) = (
            ("jws-kubeconfig-abc123", SIGNED),
            ("jws-kubeconfig-abc123", "old"),
        );
        for (what, before, tokens, want) in [
            ("a token", data(&[]), &one, Some(data(&[new]))),
            ("signed", data(&[new]), &one, None),
            ("signed otherwise", data(&[old]), &one, Some(data(&[new]))),
            ("no token", data(&[old]), &none, Some(data(&[]))),
            (
                "another token",
                data(&[new, ("jws-kubeconfig-def456", "x")]),
                &one,
                Some(data(&[new])),
            ),
            ("nothing", data(&[]), &none, None),
            (
                "no content",
                BTreeMap::from([("a".to_owned(), "b".to_owned())]),
                &one,
                None,
            ),
        ] {
            assert_eq!(decide(&before, tokens), want, "{what}");
        }
    }

    /// What the ConfigMap holds now is signed, and the rest of it stays.
    #[tokio::test]
    async fn the_content_of_now_is_signed() {
        let puts: Arc<Mutex<Vec<Value>>> = Arc::default();
        let told = puts.clone();
        let apiserver = testkit::apiserver::serve(move |asked, client| {
            let told = told.clone();
            async move {
                if asked.method == "PUT" {
                    told.lock().unwrap().push(asked.body);
                }
                let object = json!({
                    "metadata": {"name": CLUSTER_INFO, "namespace": PUBLIC, "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
                    "data": {"kubeconfig": "payload", "x": "y"},
                });
                client.send(200, &object).await
            }
        });
        let config = testkit::apiserver::kubeconfig(apiserver.await);
        let client = client::Client::from_kubeconfig(config.path(), client::Options::default());
        let mut map = ConfigMap::default();
        map.metadata.name = CLUSTER_INFO.into();
        map.metadata.namespace = PUBLIC.into();
        map.metadata.uid = "u".into();
        map.data.insert(CONTENT.into(), "of before".into());
        let tokens = BTreeMap::from([(ID.to_owned(), b"tokenSecret".to_vec())]);
        sign(&client.await.unwrap(), &map, &tokens).await.unwrap();
        let puts = puts.lock().unwrap();
        assert_eq!(puts.len(), 1);
        assert_eq!(
            puts[0]["data"],
            json!({"kubeconfig": "payload", "x": "y", "jws-kubeconfig-abc123": SIGNED})
        );
        assert_eq!(puts[0]["metadata"]["labels"], json!({"a": "b"}));
    }

    #[tokio::test]
    async fn expired_tokens_go() {
        for (what, expires, answer, want) in [
            ("for ever", "", 200, Ok((None, 0))),
            ("over", "2001-09-09T00:46:40Z", 200, Ok((None, 1))),
            ("an odd end", "soon", 200, Ok((None, 1))),
            ("not yet", "2001-09-09T01:46:42Z", 200, Ok((Some(2), 0))),
            (
                "long",
                "9999-12-31T23:59:59Z",
                200,
                Ok((Some(252_402_300_799), 0)),
            ),
            ("gone", "2001-09-09T00:46:40Z", 404, Ok((None, 1))),
            ("refused", "2001-09-09T00:46:40Z", 500, Err(500)),
        ] {
            let deleted: Arc<Mutex<Vec<Value>>> = Arc::default();
            let told = deleted.clone();
            let apiserver = testkit::apiserver::serve(move |asked, client| {
                let told = told.clone();
                async move {
                    told.lock().unwrap().push(asked.body);
                    match answer {
                        200 => client.send(200, &json!({"kind": "Status"})).await,
                        code => client.refuse(code).await,
                    }
                }
            });
            let config = testkit::apiserver::kubeconfig(apiserver.await);
            let client = client::Client::from_kubeconfig(config.path(), client::Options::default());
            let t = token("bootstrap-token-abc123", &[("expiration", expires)]);
            let got = clean(&client.await.unwrap(), &t, now()).await;
            let deleted = deleted.lock().unwrap();
            let got = got
                .map(|wait| (wait.map(|w| w.as_secs()), deleted.len()))
                .map_err(|e| e.code());
            assert_eq!(got, want, "{what}");
            assert!(
                deleted.iter().all(|d| d["preconditions"]["uid"] == "u"),
                "{what}"
            );
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let t = token("bootstrap-token-abc123", &[("token-secret", "hush")]);
        let shown = format!("{t:?}");
        assert!(!shown.contains("hush") && !shown.contains("104"), "{shown}");
    }
}
