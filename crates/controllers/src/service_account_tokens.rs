//! serviceaccount-token-controller: Secrets of type `kubernetes.io/service-account-token` get a token of the service account
//! that they name, the authority of `--root-ca-file` and their namespace. Idle without `--service-account-private-key-file`.
//!
//! Invariants: a Secret whose account is not there, as the apiserver says and not only the cache, is deleted; a token that is
//! there is never replaced; an account refers to no Secret of this kind that is gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use auth::jwt::Signer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::resource::{SECRETS, SERVICE_ACCOUNTS};
use client::{Change, DeleteOptions, Informer, ObjectKey, ObjectMeta, Selector, Store, views};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::{Context, rewrite};
use crate::views::{Blob, ServiceAccount};

const TYPE: &str = "kubernetes.io/service-account-token";
/// The annotation of a Secret with its account's name.
const ACCOUNT: &str = "kubernetes.io/service-account.name";
/// The annotation of a Secret with its account's UID.
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const ISSUER: &str = "kubernetes/serviceaccount";

/// `v1.Secret` of a service account's token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenSecret {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Content.
    pub data: BTreeMap<String, Blob>,
}

views!(TokenSecret);

impl TokenSecret {
    /// The account that it names, and the UID if it names that too.
    pub fn account(&self) -> Option<(ObjectKey, &str)> {
        let annotation = |key| {
            self.metadata
                .annotations
                .get(key)
                .map_or("", String::as_str)
        };
        let name = annotation(ACCOUNT);
        let key = ObjectKey::new(self.metadata.namespace.as_str(), name);
        (!name.is_empty()).then(|| (key, annotation(ACCOUNT_UID)))
    }

    /// Whether an account of this UID is the one that it names.
    pub fn is_of(&self, uid: &str) -> bool {
        let named = self.account().map(|(_, uid)| uid);
        named.is_some_and(|named| named.is_empty() || named == uid)
    }
}

/// The Secrets with tokens.
pub fn secrets(ctx: &Context) -> Informer<TokenSecret> {
    let informer = ctx
        .informers
        .get(&SECRETS, Selector::fields(format!("type={TYPE}")));
    informer.store().add_index(ACCOUNT, |s: &TokenSecret| {
        s.account()
            .map(|(key, _)| key.to_string())
            .into_iter()
            .collect()
    });
    informer
}

/// The key that signs.
#[derive(Clone)]
pub struct Key(pub Arc<Signer>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Key").field(&self.0.public.kid).finish()
    }
}

/// What a token says.
fn claims(namespace: &str, account: &str, uid: &str, secret: &str) -> Value {
    json!({
        "iss": ISSUER,
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret,
        "kubernetes.io/serviceaccount/service-account.name": account,
        "kubernetes.io/serviceaccount/service-account.uid": uid,
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
    })
}

/// What a Secret lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lacks {
    authority: bool,
    namespace: bool,
    token: bool,
}

impl Lacks {
    fn of(data: &BTreeMap<String, Blob>, root_ca: &str) -> Lacks {
        let get = |key: &str| data.get(key).map_or(&[][..], |b| &b.0);
        Lacks {
            authority: !root_ca.is_empty() && get("ca.crt") != root_ca.as_bytes(),
            namespace: get("namespace").is_empty(),
            token: get("token").is_empty(),
        }
    }

    fn nothing(self) -> bool {
        self == Lacks::default()
    }
}

/// Writes into a Secret what it lacks. False when it lacks nothing.
fn complete(
    secret: &mut Value,
    account: &ObjectMeta,
    root_ca: &str,
    sign: impl FnOnce(&Value) -> Result<String, String>,
) -> Result<bool, String> {
    let live: TokenSecret = serde_json::from_value(secret.clone()).map_err(|e| e.to_string())?;
    let lacks = Lacks::of(&live.data, root_ca);
    if lacks.nothing() {
        return Ok(false);
    }
    let mut set = |path: [&str; 2], key: &str, value: String| {
        let mut at = &mut *secret;
        for step in path.into_iter().filter(|s| !s.is_empty()) {
            if !at.get(step).is_some_and(Value::is_object)
                && let Some(o) = at.as_object_mut()
            {
                o.insert(step.into(), json!({}));
            }
            match at.get_mut(step) {
                Some(next) => at = next,
                None => return,
            }
        }
        if let Some(o) = at.as_object_mut() {
            o.insert(key.into(), value.into());
        }
    };
    let namespace = live.metadata.namespace.as_str();
    if lacks.authority {
        set(["data", ""], "ca.crt", STANDARD.encode(root_ca));
    }
    if lacks.namespace {
        set(["data", ""], "namespace", STANDARD.encode(namespace));
    }
    if lacks.token {
        let claims = claims(namespace, &account.name, &account.uid, &live.metadata.name);
        set(["data", ""], "token", STANDARD.encode(sign(&claims)?));
    }
    set(["metadata", "annotations"], ACCOUNT, account.name.clone());
    set(
        ["metadata", "annotations"],
        ACCOUNT_UID,
        account.uid.clone(),
    );
    Ok(true)
}

/// Takes the references to Secrets out of an account. False when there is none.
fn forget(account: &mut Value, gone: &HashSet<String>) -> bool {
    let Some(list) = account.get_mut("secrets").and_then(Value::as_array_mut) else {
        return false;
    };
    let before = list.len();
    list.retain(|s| {
        s.get("name")
            .and_then(Value::as_str)
            .is_none_or(|n| !gone.contains(n))
    });
    list.len() != before
}

/// Why a Secret has to be looked at again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("{0}")]
    Token(String),
}

/// Names of Secrets that are gone, by account, with the UIDs of accounts that they named.
type Gone = Mutex<HashMap<ObjectKey, Vec<(String, String)>>>;

struct Controller {
    ctx: Context,
    key: Key,
    accounts: Store<ServiceAccount>,
    secrets: Store<TokenSecret>,
    gone: Arc<Gone>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let Some(key) = ctx.config.service_account_key.clone() else {
        tracing::warn!("There is no private key for tokens of service accounts");
        return;
    };
    let accounts = ctx.informer::<ServiceAccount>(&SERVICE_ACCOUNTS);
    let secrets = secrets(&ctx);
    let of_secrets = ctx.queue("serviceaccount_tokens_secret");
    let of_accounts = ctx.queue("serviceaccount_tokens_service");
    let (q, store) = (of_secrets.clone(), secrets.store());
    accounts.on_change(move |change| {
        let gone = match change {
            Change::Added(_) => false,
            Change::Updated { old, new } => old.metadata.uid != new.metadata.uid,
            Change::Deleted(_) => true,
        };
        if gone {
            let account = ObjectKey::of(&**change.object()).to_string();
            for s in store.by_index(ACCOUNT, &account) {
                q.add(ObjectKey::of(&*s));
            }
        }
    });
    let gone: Arc<Gone> = Arc::default();
    let (qs, qa, noted) = (of_secrets.clone(), of_accounts.clone(), gone.clone());
    secrets.on_change(move |change| {
        let Change::Deleted(s) = change else {
            qs.add(ObjectKey::of(&**change.object()));
            return;
        };
        if let Some((account, uid)) = s.account() {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            let names = noted.entry(account.clone()).or_default();
            names.push((s.metadata.name.clone(), uid.to_owned()));
            qa.add(account);
        }
    });
    let it = Arc::new(Controller {
        key,
        accounts: accounts.store(),
        secrets: secrets.store(),
        gone,
        ctx: ctx.clone(),
    });
    let workers = ctx.config.concurrent("serviceaccount-token", 5);
    let own = it.clone();
    ctx.run(of_secrets, workers, move |key| {
        let it = own.clone();
        async move { it.sync_secret(&key).await }
    });
    ctx.run(of_accounts, workers, move |key| {
        let it = it.clone();
        async move { it.sync_account(&key).await }
    });
}

impl Controller {
    /// The account that a Secret names; the cache may not show it yet.
    async fn account(&self, secret: &TokenSecret) -> Result<Option<ObjectMeta>, client::Error> {
        let Some((key, _)) = secret.account() else {
            return Ok(None);
        };
        let known = self.accounts.get_key(&key);
        if let Some(known) = known.filter(|a| secret.is_of(&a.metadata.uid)) {
            return Ok(Some(known.metadata.clone()));
        }
        let api = self
            .ctx
            .client
            .namespaced(&SERVICE_ACCOUNTS, &key.namespace);
        match api.get_metadata::<client::view::MetaView>(&key.name).await {
            Ok(a) => Ok(Some(a.metadata).filter(|a| secret.is_of(&a.uid))),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn sync_secret(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(secret) = self.secrets.get_key(key).filter(|s| s.account().is_some()) else {
            return Ok(None);
        };
        let api = self.ctx.client.namespaced(&SECRETS, &key.namespace);
        let Some(account) = self.account(&secret).await? else {
            let only = DeleteOptions::uid(secret.metadata.uid.as_str());
            return match api.delete(&key.name, &only).await {
                Ok(()) => Ok(None),
                Err(e) if e.is_not_found() || e.is_conflict() => Ok(None),
                Err(e) => Err(e.into()),
            };
        };
        let root_ca = &self.ctx.config.root_ca;
        if Lacks::of(&secret.data, root_ca).nothing() {
            return Ok(None);
        }
        let mut live = match api.get_value(&key.name).await {
            Ok(live) => live,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let version = live
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str);
        if version != Some(secret.metadata.resource_version.as_str()) {
            // The cache will show it, and then is its turn.
            return Ok(None);
        }
        let sign = |claims: &Value| self.key.0.sign(claims);
        if !complete(&mut live, &account, root_ca, sign).map_err(Error::Token)? {
            return Ok(None);
        }
        match api
            .update::<serde::de::IgnoredAny, _>(&key.name, &live)
            .await
        {
            Ok(_) => Ok(None),
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes references to Secrets that are gone out of an account.
    async fn sync_account(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let noted = || self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gone) = noted().remove(key) else {
            return Ok(None);
        };
        let Some(account) = self.accounts.get_key(key) else {
            return Ok(None);
        };
        let is_gone = |(name, uid): &&(String, String)| {
            (uid.is_empty() || *uid == account.metadata.uid)
                && self.secrets.get(&key.namespace, name).is_none()
        };
        let names: HashSet<String> = gone.iter().filter(is_gone).map(|g| g.0.clone()).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let api = self
            .ctx
            .client
            .namespaced(&SERVICE_ACCOUNTS, &key.namespace);
        let uid = account.metadata.uid.as_str();
        let result = rewrite(&api, &key.name, uid, "", |a| forget(a, &names)).await;
        if result.is_err() {
            noted().entry(key.clone()).or_default().extend(gone);
        }
        result.map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(annotations: Value, data: Value) -> Value {
        json!({"metadata": {"name": "s", "namespace": "ns", "uid": "su", "annotations": annotations}, "type": TYPE, "data": data})
    }

    fn view(o: &Value) -> TokenSecret {
        serde_json::from_value(o.clone()).unwrap()
    }

    fn account() -> ObjectMeta {
        ObjectMeta {
            name: "a".into(),
            namespace: "ns".into(),
            uid: "u".into(),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_secret_names_its_account() {
        for (annotations, named, is_of) in [
            (json!({}), None, false),
            (json!({ACCOUNT: ""}), None, false),
            (json!({ACCOUNT_UID: "u"}), None, false),
            (json!({ACCOUNT: "a"}), Some("a"), true),
            (json!({ACCOUNT: "a", ACCOUNT_UID: "u"}), Some("a"), true),
            (
                json!({ACCOUNT: "a", ACCOUNT_UID: "before"}),
                Some("a"),
                false,
            ),
        ] {
            let s = view(&secret(annotations.clone(), json!({})));
            let account = s.account().map(|(key, _)| key.name);
            assert_eq!(
                (account.as_deref(), s.is_of("u")),
                (named, is_of),
                "{annotations}"
            );
        }
    }

    #[test]
    fn what_a_secret_lacks_is_written() {
        let b = |t: &str| STANDARD.encode(t);
        let full = json!({"token": b("old"), "ca.crt": b("CA"), "namespace": b("ns")});
        let without = |key: &str| {
            let mut d = full.clone();
            d.as_object_mut().unwrap().remove(key);
            d
        };
        let mut other_ca = full.clone();
        other_ca["ca.crt"] = b("other").into();
        let mut other_ns = full.clone();
        other_ns["namespace"] = b("elsewhere").into();
        for (name, data, ca, want) in [
            ("all is there", full.clone(), "CA", None),
            (
                "another namespace is left alone",
                other_ns.clone(),
                "CA",
                None,
            ),
            ("no authority to give", without("ca.crt"), "", None),
            ("no authority", without("ca.crt"), "CA", Some(full.clone())),
            ("another authority", other_ca, "CA", Some(full.clone())),
            (
                "no namespace",
                without("namespace"),
                "CA",
                Some(full.clone()),
            ),
            (
                "no token",
                without("token"),
                "CA",
                Some(json!({"token": b("new"), "ca.crt": b("CA"), "namespace": b("ns")})),
            ),
            (
                "nothing",
                json!({}),
                "CA",
                Some(json!({"token": b("new"), "ca.crt": b("CA"), "namespace": b("ns")})),
            ),
            (
                "null",
                Value::Null,
                "",
                Some(json!({"token": b("new"), "namespace": b("ns")})),
            ),
        ] {
            let mut o = secret(json!({ACCOUNT: "a", "x": "y"}), data);
            if o["data"].is_null() {
                o.as_object_mut().unwrap().remove("data");
            }
            let mut signed = None;
            let wrote = complete(&mut o, &account(), ca, |claims| {
                signed = Some(claims.clone());
                Ok("new".into())
            });
            assert_eq!(wrote, Ok(want.is_some()), "{name}");
            let Some(want) = want else { continue };
            assert_eq!(o["data"], want, "{name}");
            assert_eq!(
                o["metadata"]["annotations"],
                json!({ACCOUNT: "a", ACCOUNT_UID: "u", "x": "y"}),
                "{name}"
            );
            assert_eq!(signed.is_some(), want["token"] == b("new"), "{name}");
        }
        let mut o = secret(json!({ACCOUNT: "a"}), json!({}));
        let kept = o.clone();
        assert_eq!(
            complete(&mut o, &account(), "", |_| Err("no".into())),
            Err("no".into())
        );
        assert_eq!(o["metadata"], kept["metadata"]);
    }

    /// The token is one that the authenticator of the apiserver takes for a legacy one.
    #[test]
    fn a_token_says_whose_it_is() {
        let key = pki::key::generate().unwrap();
        let signer = Signer::from_pem(&key.serialize_pem()).unwrap();
        let keys = auth::jwt::KeySet::new(auth::jwt::public_keys(&key.public_key_pem()).unwrap());
        let token = signer.sign(&claims("ns", "a", "u", "s")).unwrap();
        assert_eq!(
            keys.verify(&token),
            Ok(json!({
                "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:ns:a",
                "kubernetes.io/serviceaccount/namespace": "ns", "kubernetes.io/serviceaccount/secret.name": "s",
                "kubernetes.io/serviceaccount/service-account.name": "a", "kubernetes.io/serviceaccount/service-account.uid": "u",
            }))
        );
        assert!(!format!("{:?}", Key(Arc::new(signer))).contains("PRIVATE"));
    }

    #[test]
    fn references_to_what_is_gone_go() {
        let gone: HashSet<String> = ["s".to_owned()].into();
        for (secrets, want) in [
            (
                json!([{"name": "s"}, {"name": "t"}]),
                Some(json!([{"name": "t"}])),
            ),
            (json!([{"name": "t"}]), None),
            (json!([]), None),
            (Value::Null, None),
        ] {
            let mut a = json!({"metadata": {"name": "a"}, "secrets": secrets});
            let changed = forget(&mut a, &gone);
            assert_eq!(changed.then(|| a["secrets"].clone()), want);
        }
    }
}
