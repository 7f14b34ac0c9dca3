//! Service-account tokens: bound ones (TokenRequest) and the legacy ones kept in secrets.
//!
//! A token is good when its signature, issuer, audience and times are, and when the objects it is bound to still exist
//! with the same UIDs. Successes are remembered for ten seconds, as upstream does.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::reader::ObjectReader;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::sync::mpsc::Sender;

use super::bootstrap::same;
use super::cache::{Cache, key};
use crate::jwt::{KeySet, peek};
use crate::{AuthenticationError, TokenAuthenticator, UserInfo};

const LEEWAY: i64 = 60;
/// Most audiences of an answer that is remembered; a token is shorter than they could be.
const MAX_REMEMBERED: usize = 16;
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// A legacy token was used whose Secret does not say so of this day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Of the Secret.
    pub namespace: String,
    /// Of the Secret.
    pub secret: String,
    /// Of the Secret.
    pub uid: String,
}

/// The label of a Secret with the day of its token's last use.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Uses that wait to be noted. One that finds no room is told with the next request.
pub const USED_WAITING: usize = 64;

/// The day that a label of use has, and the next.
pub fn days(now: i64) -> (String, String) {
    let day = |seconds: i64| {
        let t = jiff::Timestamp::from_second(seconds).unwrap_or_default();
        t.strftime("%Y-%m-%d").to_string()
    };
    (day(now), day(now.saturating_add(24 * 3600)))
}

/// See the module.
pub struct ServiceAccounts {
    keys: KeySet,
    issuers: Vec<String>,
    api_audiences: Vec<String>,
    /// Whether bound objects and accounts are looked up; `--service-account-lookup`.
    lookup: bool,
    reader: Arc<dyn ObjectReader>,
    /// Told of the use of legacy tokens.
    used: Option<Sender<Used>>,
    seen: Cache<(UserInfo, Vec<String>, i64)>,
}

impl ServiceAccounts {
    /// `issuers` as `--service-account-issuer` lists them; `api_audiences` default to them.
    pub fn new(
        keys: KeySet,
        issuers: Vec<String>,
        api_audiences: Vec<String>,
        lookup: bool,
        reader: Arc<dyn ObjectReader>,
    ) -> ServiceAccounts {
        ServiceAccounts {
            keys,
            issuers,
            api_audiences,
            lookup,
            reader,
            used: None,
            seen: Cache::new(Duration::from_secs(10)),
        }
    }

    /// Tells `used` when a legacy token is used, also one that is marked invalid.
    #[must_use]
    pub fn telling(self, used: Sender<Used>) -> ServiceAccounts {
        ServiceAccounts {
            used: Some(used),
            ..self
        }
    }

    fn tell(&self, secret: &Value, now: i64) {
        let (today, tomorrow) = days(now);
        let said = at(
            secret,
            "/metadata/labels/kubernetes.io~1legacy-token-last-used",
        );
        // Another apiserver's clock may be ahead.
        if said == today || said == tomorrow {
            return;
        }
        if let Some(used) = &self.used {
            let _ = used.try_send(Used {
                namespace: at(secret, "/metadata/namespace").to_owned(),
                secret: at(secret, "/metadata/name").to_owned(),
                uid: at(secret, "/metadata/uid").to_owned(),
            });
        }
    }

    async fn object(
        &self,
        resource: &str,
        ns: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, AuthenticationError> {
        self.reader
            .get("", resource, ns, name)
            .await
            .map_err(|e| AuthenticationError(e.message))
    }

    /// Exists with this UID and was not deleted more than [`LEEWAY`] ago.
    async fn bound(
        &self,
        resource: &str,
        ns: &str,
        claim: &Value,
        now: i64,
    ) -> Result<(), AuthenticationError> {
        let (name, uid) = (at(claim, "/name"), at(claim, "/uid"));
        let invalid = || fail("service account token has been invalidated");
        let found = self.object(resource, ns, name).await?.ok_or_else(invalid)?;
        if at(&found, "/metadata/uid") != uid {
            let kind = resource.trim_end_matches('s');
            return Err(fail(format!(
                "{kind} UID does not match service account {kind} ref claim ({uid})"
            )));
        }
        if deleted(&found, now) {
            Err(invalid())
        } else {
            Ok(())
        }
    }

    async fn account(
        &self,
        ns: &str,
        name: &str,
        uid: &str,
        now: i64,
    ) -> Result<(), AuthenticationError> {
        let Some(sa) = self.object("serviceaccounts", ns, name).await? else {
            return Err(fail(format!("serviceaccounts {name:?} not found")));
        };
        if at(&sa, "/metadata/uid") != uid {
            return Err(fail(format!(
                "service account UID ({}) does not match claim ({uid})",
                at(&sa, "/metadata/uid")
            )));
        }
        if deleted(&sa, now) {
            return Err(fail(format!(
                "service account {ns}/{name} has been deleted"
            )));
        }
        Ok(())
    }

    async fn bound_token(&self, c: &Value, now: i64) -> Result<UserInfo, AuthenticationError> {
        times(c, now)?;
        let k = c.get("kubernetes.io").cloned().unwrap_or_default();
        let (ns, name, uid) = (
            at(&k, "/namespace"),
            at(&k, "/serviceaccount/name"),
            at(&k, "/serviceaccount/uid"),
        );
        if ns.is_empty()
            || name.is_empty()
            || at(c, "/sub") != format!("system:serviceaccount:{ns}:{name}")
        {
            return Err(fail("sub claim is invalid"));
        }
        self.account(ns, name, uid, now).await?;
        let mut user = account_user(ns, name, uid);
        let mut extra = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(
                    format!("authentication.kubernetes.io/{key}"),
                    vec![value.to_owned()],
                );
            }
        };
        if let Some(secret) = k.get("secret") {
            self.bound("secrets", ns, secret, now).await?;
        }
        let node = k.get("node");
        if let Some(pod) = k.get("pod") {
            self.bound("pods", ns, pod, now).await?;
            extra("pod-name", at(pod, "/name"));
            extra("pod-uid", at(pod, "/uid"));
        } else if let Some(node) = node {
            self.bound("nodes", "", node, now).await?;
        }
        if let Some(node) = node {
            extra("node-name", at(node, "/name"));
            extra("node-uid", at(node, "/uid"));
        }
        let jti = at(c, "/jti");
        if !jti.is_empty() {
            extra("credential-id", &format!("JTI={jti}"));
        }
        if k.get("warnafter")
            .and_then(Value::as_i64)
            .is_some_and(|w| now > w)
        {
            tracing::debug!(
                subject = at(c, "/sub"),
                "A service account token is used after its warning time"
            );
        }
        Ok(user)
    }

    async fn legacy_token(
        &self,
        token: &str,
        c: &Value,
        now: i64,
    ) -> Result<UserInfo, AuthenticationError> {
        let claim = |n: &str| at(c, &format!("/kubernetes.io~1serviceaccount~1{n}")).to_owned();
        let (ns, secret) = (claim("namespace"), claim("secret.name"));
        let (name, uid) = (claim("service-account.name"), claim("service-account.uid"));
        for (value, what) in [
            (&ns, "namespace"),
            (&secret, "secretName"),
            (&name, "serviceAccountName"),
            (&uid, "serviceAccountUID"),
        ] {
            if value.is_empty() {
                return Err(fail(format!("{what} claim is missing")));
            }
        }
        if at(c, "/sub") != format!("system:serviceaccount:{ns}:{name}") {
            return Err(fail("sub claim is invalid"));
        }
        if self.lookup {
            let gone = || fail("Token has been invalidated");
            let s = self
                .object("secrets", &ns, &secret)
                .await?
                .ok_or_else(gone)?;
            if deleted(&s, i64::MAX) {
                return Err(gone());
            }
            let held = STANDARD.decode(at(&s, "/data/token")).unwrap_or_default();
            if !same(&String::from_utf8_lossy(&held), token) {
                return Err(fail("Token does not match server's copy"));
            }
            // One that is being deleted is gone at once.
            self.account(&ns, &name, &uid, i64::MAX).await?;
            self.tell(&s, now);
            let invalid = "/metadata/labels/kubernetes.io~1legacy-token-invalid-since";
            if !at(&s, invalid).is_empty() {
                return Err(fail(format!(
                    "the token in secret {ns}/{secret} for service account {ns}/{name} has been marked invalid. \
                     Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                     'kubernetes.io/legacy-token-invalid-since' label from the secret to temporarily allow use of this token"
                )));
            }
        }
        Ok(account_user(&ns, &name, &uid))
    }
}

fn at<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn fail(text: impl Into<String>) -> AuthenticationError {
    AuthenticationError(text.into())
}

fn deleted(object: &Value, now: i64) -> bool {
    let Some(t) = object
        .pointer("/metadata/deletionTimestamp")
        .and_then(Value::as_str)
    else {
        return false;
    };
    api::time::seconds(t).is_none_or(|t| t < now.saturating_sub(LEEWAY))
}

fn account_user(ns: &str, name: &str, uid: &str) -> UserInfo {
    UserInfo {
        name: format!("system:serviceaccount:{ns}:{name}"),
        uid: uid.to_owned(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{ns}"),
        ],
        ..UserInfo::default()
    }
}

fn times(c: &Value, now: i64) -> Result<(), AuthenticationError> {
    let get = |k: &str| {
        c.get(k)
            .and_then(|v| v.as_i64().or_else(|| v.as_f64().map(|f| f as i64)))
    };
    // A bound token without an end is none of ours.
    let Some(exp) = get("exp") else {
        return Err(fail("service account token has no expiry"));
    };
    if now - LEEWAY > exp {
        return Err(fail("service account token has expired"));
    }
    if get("nbf").is_some_and(|t| now + LEEWAY < t) {
        return Err(fail("service account token is not valid yet"));
    }
    if get("iat").is_some_and(|t| now + LEEWAY < t) {
        return Err(fail("service account token is issued in the future"));
    }
    Ok(())
}

fn audience(c: &Value) -> Vec<String> {
    match c.get("aud") {
        Some(Value::String(s)) => vec![s.clone()],
        Some(Value::Array(l)) => l
            .iter()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

#[async_trait]
impl TokenAuthenticator for ServiceAccounts {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthenticationError> {
        let now = jiff::Timestamp::now().as_second();
        let mut parts: Vec<&[u8]> = vec![token.as_bytes()];
        parts.extend(audiences.iter().map(String::as_bytes));
        let id = key(&parts);
        if let Some((user, aud, exp)) = self.seen.get(&id)
            && now <= exp
        {
            return Ok(Some((user, aud)));
        }
        let Some(seen) = peek(token) else {
            return Ok(None);
        };
        let issuer = at(&seen, "/iss").to_owned();
        let legacy = issuer == LEGACY_ISSUER;
        if !legacy && !self.issuers.contains(&issuer) {
            return Ok(None);
        }
        let c = self.keys.verify(token).map_err(AuthenticationError)?;
        let wanted = if audiences.is_empty() {
            &self.api_audiences
        } else {
            audiences
        };
        let mut token_audiences = audience(&c);
        if token_audiences.is_empty() && legacy {
            token_audiences.clone_from(&self.api_audiences);
        }
        // Both may be long, where a review asks about a token that is for many.
        let held: HashSet<&String> = token_audiences.iter().collect();
        let shared: Vec<String> = wanted
            .iter()
            .filter(|a| held.contains(a))
            .cloned()
            .collect();
        if shared.is_empty() {
            return Err(fail(format!(
                "token audiences {} is invalid for the target audiences {}",
                crate::authz::rules::quoted(&token_audiences),
                crate::authz::rules::quoted(wanted)
            )));
        }
        let user = if legacy {
            self.legacy_token(token, &c, now).await?
        } else {
            self.bound_token(&c, now).await?
        };
        let shared = if audiences.is_empty() {
            Vec::new()
        } else {
            shared
        };
        let exp = c
            .get("exp")
            .and_then(Value::as_i64)
            .unwrap_or(i64::MAX)
            .saturating_add(LEEWAY);
        if shared.len() <= MAX_REMEMBERED {
            self.seen.put(id, (user.clone(), shared.clone(), exp));
        }
        Ok(Some((user, shared)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authenticator;
    use crate::authn::{Tokens, Union};
    use crate::issuer::{EXTENDED_SECONDS, LocalIssuer, TokenPolicy, token_request};
    use crate::jwt::{Signer, public_keys};
    use api::Status;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use serde_json::json;
    use std::collections::HashMap;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Fake(Mutex<HashMap<String, Arc<Value>>>);

    impl Fake {
        fn put(&self, resource: &str, ns: &str, v: Value) {
            let name = v["metadata"]["name"].as_str().unwrap().to_owned();
            self.0
                .lock()
                .unwrap()
                .insert(format!("{resource}/{ns}/{name}"), Arc::new(v));
        }
        fn take(&self, key: &str) {
            self.0.lock().unwrap().remove(key);
        }
    }

    impl ObjectReader for Fake {
        fn get<'a>(
            &'a self,
            _: &'a str,
            resource: &'a str,
            ns: &'a str,
            name: &'a str,
        ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
            let found = self
                .0
                .lock()
                .unwrap()
                .get(&format!("{resource}/{ns}/{name}"))
                .cloned();
            async move { Ok(found) }.boxed()
        }
        fn list<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Vec<Arc<Value>>, Status>> {
            async { Ok(Vec::new()) }.boxed()
        }
    }

    const ISS: &str = "https://kubernetes.default.svc";

    struct World {
        fake: Arc<Fake>,
        keys: KeySet,
        issuer: LocalIssuer,
        policy: TokenPolicy,
        now: i64,
    }

    fn world() -> World {
        let fake = Arc::new(Fake::default());
        fake.put(
            "serviceaccounts",
            "ns",
            json!({"metadata": {"name": "sa", "uid": "u1"}}),
        );
        fake.put("pods", "ns", json!({"metadata": {"name": "p", "uid": "u2"}, "spec": {"serviceAccountName": "sa", "nodeName": "n1"}}));
        fake.put(
            "nodes",
            "",
            json!({"metadata": {"name": "n1", "uid": "u3"}}),
        );
        let key = pki::key::generate().unwrap();
        World {
            fake,
            keys: KeySet::new(public_keys(&key.public_key_pem()).unwrap()),
            issuer: LocalIssuer::new(ISS, Signer::from_pem(&key.serialize_pem()).unwrap()),
            policy: TokenPolicy {
                api_audiences: vec![ISS.into()],
                max_seconds: 0,
                extend: true,
            },
            now: jiff::Timestamp::now().as_second(),
        }
    }

    impl World {
        fn tokens(&self) -> Tokens {
            Tokens(vec![Arc::new(ServiceAccounts::new(
                self.keys.clone(),
                vec![ISS.into()],
                vec![ISS.into()],
                true,
                self.fake.clone(),
            ))])
        }
        async fn request(&self, spec: Value) -> Result<Value, Status> {
            Ok(token_request(
                &self.policy,
                &self.issuer,
                &*self.fake,
                "ns",
                "sa",
                json!({"spec": spec}),
                self.now,
            )
            .await?
            .0)
        }
    }

    /// What a review costs: a token for many, asked about by many names; and such an answer is not kept.
    #[tokio::test]
    async fn audiences_in_any_number_cost_no_more_than_their_length() {
        let w = world();
        let many: Vec<String> = (0..5_000).map(|n| format!("{n:x}")).collect();
        let out = w.request(json!({"audiences": many})).await.unwrap();
        let token = out["status"]["token"].as_str().unwrap();
        let accounts = ServiceAccounts::new(
            w.keys.clone(),
            vec![ISS.into()],
            vec![ISS.into()],
            true,
            w.fake.clone(),
        );
        let asked: Vec<String> = (0..300_000).map(|n| format!("{:x}", n % 10_000)).collect();
        let (_, shared) = accounts
            .authenticate_token(token, &asked)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(shared.len(), 150_000);
        assert_eq!(accounts.seen.len(), 0);
        let one = ["1".to_owned(), "zz".to_owned()];
        let (_, shared) = accounts
            .authenticate_token(token, &one)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(shared, ["1"]);
        assert_eq!(accounts.seen.len(), 1);
    }

    #[tokio::test]
    async fn a_bound_token_lives_as_long_as_its_pod() {
        let w = world();
        let out = w.request(json!({"expirationSeconds": 3607, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u2"}})).await.unwrap();
        let token = out["status"]["token"].as_str().unwrap().to_owned();
        let c = peek(&token).unwrap();
        assert_eq!(c["exp"], w.now + EXTENDED_SECONDS);
        assert_eq!(
            c["kubernetes.io"],
            json!({"namespace": "ns", "serviceaccount": {"name": "sa", "uid": "u1"}, "pod": {"name": "p", "uid": "u2"}, "node": {"name": "n1", "uid": "u3"}, "warnafter": w.now + 3607})
        );
        assert_eq!(
            (c["iss"].as_str(), c["aud"][0].as_str(), c["sub"].as_str()),
            (Some(ISS), Some(ISS), Some("system:serviceaccount:ns:sa"))
        );
        let union = Union::new(vec![Arc::new(w.tokens())], true);
        let mut h = http::HeaderMap::new();
        h.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let user = union
            .authenticate(&Default::default(), &h)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (user.name.as_str(), user.uid.as_str()),
            ("system:serviceaccount:ns:sa", "u1")
        );
        assert_eq!(
            user.groups,
            [
                "system:serviceaccounts",
                "system:serviceaccounts:ns",
                "system:authenticated"
            ]
        );
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(user.extra["authentication.kubernetes.io/node-uid"], ["u3"]);
        assert!(user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("JTI="));
        w.fake.take("pods/ns/p");
        let e = w
            .tokens()
            .authenticate_token(&token, &[])
            .await
            .unwrap_err();
        assert_eq!(e.0, "service account token has been invalidated");
        // A pod of the same name made again has another UID.
        w.fake.put(
            "pods",
            "ns",
            json!({"metadata": {"name": "p", "uid": "u9"}}),
        );
        let e = w
            .tokens()
            .authenticate_token(&token, &[])
            .await
            .unwrap_err();
        assert_eq!(
            e.0,
            "pod UID does not match service account pod ref claim (u2)"
        );
    }

    #[tokio::test]
    async fn audiences_times_and_issuers() {
        let mut w = world();
        let other = w.request(json!({"audiences": ["vault"]})).await.unwrap()["status"]["token"]
            .as_str()
            .unwrap()
            .to_owned();
        let t = w.tokens();
        assert!(
            t.authenticate_token(&other, &[])
                .await
                .unwrap_err()
                .0
                .contains("is invalid for the target audiences")
        );
        assert_eq!(
            t.authenticate_token(&other, &["vault".into(), "x".into()])
                .await
                .unwrap()
                .unwrap()
                .1,
            ["vault"]
        );
        w.now -= 4000;
        let old = w.request(json!({})).await.unwrap()["status"]["token"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            t.authenticate_token(&old, &[]).await.unwrap_err().0,
            "service account token has expired"
        );
        w.now += 8000;
        let future = w.request(json!({})).await.unwrap()["status"]["token"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            t.authenticate_token(&future, &[]).await.unwrap_err().0,
            "service account token is not valid yet"
        );
        assert!(t.authenticate_token("opaque", &[]).await.unwrap().is_none());
        let mut h = http::HeaderMap::new();
        let union = Union::new(vec![Arc::new(w.tokens())], true);
        assert_eq!(
            union
                .authenticate(&Default::default(), &h)
                .await
                .unwrap()
                .unwrap()
                .name,
            "system:anonymous"
        );
        h.insert("authorization", "Bearer nope".parse().unwrap());
        // CVE-2020-8565: the error does not repeat the token.
        let e = union
            .authenticate(&Default::default(), &h)
            .await
            .unwrap_err();
        assert_eq!(e.0, "invalid bearer token");
    }

    #[tokio::test]
    async fn what_a_token_may_be_bound_to() {
        let w = world();
        w.fake.put(
            "secrets",
            "ns",
            json!({"metadata": {"name": "s", "uid": "u5"}}),
        );
        for (kind, name, uid, claim) in [
            ("Secret", "s", "u5", "secret"),
            ("Node", "n1", "u3", "node"),
        ] {
            let bind = |name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
            let out = w.request(bind(name, uid)).await.unwrap();
            let c = peek(out["status"]["token"].as_str().unwrap()).unwrap();
            assert_eq!(c["kubernetes.io"][claim], json!({"name": name, "uid": uid}));
            assert!(c["kubernetes.io"]["pod"].is_null());
            assert_eq!(w.request(bind(name, "zzz")).await.unwrap_err().code, 409);
            assert_eq!(w.request(bind("nope", "")).await.unwrap_err().code, 404);
        }
        for (version, kind) in [("v1", "ConfigMap"), ("apps/v1", "Secret")] {
            let spec =
                json!({"boundObjectRef": {"apiVersion": version, "kind": kind, "name": "s"}});
            let e = w.request(spec).await.unwrap_err();
            assert!(
                e.message.starts_with("cannot bind token to object of type"),
                "{e:?}"
            );
        }
    }

    /// A legacy token is good as long as its Secret holds it, nobody marked it invalid, and its account is there; and its use
    /// is told once a day.
    #[tokio::test]
    async fn a_legacy_token_lives_as_long_as_its_secret_and_its_account() {
        let mut w = world();
        let key = pki::key::generate().unwrap();
        w.keys = KeySet::new(public_keys(&key.public_key_pem()).unwrap());
        let signer = Signer::from_pem(&key.serialize_pem()).unwrap();
        let claim = |name: &str| format!("kubernetes.io/serviceaccount/{name}");
        let claims = json!({
            "iss": LEGACY_ISSUER, "sub": "system:serviceaccount:ns:sa", claim("namespace"): "ns", claim("secret.name"): "s",
            claim("service-account.name"): "sa", claim("service-account.uid"): "u1",
        });
        let token = signer.sign(&claims).unwrap();
        let (today, tomorrow) = days(jiff::Timestamp::now().as_second());
        let secret = |labels: Value, token: &str| json!({"metadata": {"name": "s", "namespace": "ns", "uid": "su", "labels": labels}, "data": {"token": STANDARD.encode(token)}});
        let mut deleted = secret(json!({}), &token);
        deleted["metadata"]["deletionTimestamp"] = "2999-01-01T00:00:00Z".into();
        let invalid = "kubernetes.io/legacy-token-invalid-since";
        for (name, secret, sa, good, told) in [
            (
                "good",
                secret(json!({}), &token),
                json!({"uid": "u1"}),
                true,
                true,
            ),
            (
                "used today",
                secret(json!({LAST_USED: today}), &token),
                json!({"uid": "u1"}),
                true,
                false,
            ),
            (
                "used where it is tomorrow",
                secret(json!({LAST_USED: tomorrow}), &token),
                json!({"uid": "u1"}),
                true,
                false,
            ),
            (
                "used before",
                secret(json!({LAST_USED: "2020-01-01"}), &token),
                json!({"uid": "u1"}),
                true,
                true,
            ),
            (
                "marked invalid",
                secret(json!({invalid: "2020-01-01"}), &token),
                json!({"uid": "u1"}),
                false,
                true,
            ),
            (
                "another token",
                secret(json!({}), "other"),
                json!({"uid": "u1"}),
                false,
                false,
            ),
            ("deleted", deleted, json!({"uid": "u1"}), false, false),
            (
                "another account",
                secret(json!({}), &token),
                json!({"uid": "u9"}),
                false,
                false,
            ),
            (
                "a deleted account",
                secret(json!({}), &token),
                json!({"uid": "u1", "deletionTimestamp": "2999-01-01T00:00:00Z"}),
                false,
                false,
            ),
        ] {
            let mut account = json!({ "metadata": sa });
            account["metadata"]["name"] = "sa".into();
            w.fake.put("serviceaccounts", "ns", account);
            w.fake.put("secrets", "ns", secret);
            let (tx, mut rx) = tokio::sync::mpsc::channel(1);
            let accounts = ServiceAccounts::new(
                w.keys.clone(),
                vec![ISS.into()],
                vec![ISS.into()],
                true,
                w.fake.clone(),
            )
            .telling(tx);
            let result = accounts.authenticate_token(&token, &[]).await;
            assert_eq!(
                result
                    .is_ok_and(|u| u.is_some_and(|(u, _)| u.name == "system:serviceaccount:ns:sa")),
                good,
                "{name}"
            );
            let used = Used {
                namespace: "ns".into(),
                secret: "s".into(),
                uid: "su".into(),
            };
            assert_eq!(rx.try_recv().ok(), told.then_some(used), "{name}");
        }
        w.fake.take("secrets/ns/s");
        assert!(w.tokens().authenticate_token(&token, &[]).await.is_err());
    }

    #[tokio::test]
    async fn token_request_rules() {
        let w = world();
        let e = w
            .request(json!({"expirationSeconds": 10}))
            .await
            .unwrap_err();
        assert_eq!(
            (e.code, e.message.as_str()),
            (
                422,
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes"
            )
        );
        w.fake.put("pods", "ns", json!({"metadata": {"name": "q", "uid": "u4"}, "spec": {"serviceAccountName": "default"}}));
        let bind = |name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}});
        assert_eq!(w.request(bind("q", "")).await.unwrap_err().code, 400);
        assert_eq!(w.request(bind("p", "zzz")).await.unwrap_err().code, 409);
        assert_eq!(w.request(bind("nope", "")).await.unwrap_err().code, 404);
    }
}
