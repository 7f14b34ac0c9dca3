//! Issuing service-account tokens: the TokenRequest subresource, JWKS and the discovery document.

use api::Status;
use api::field::{ErrorList, Path};
use api::reader::ObjectReader;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::jwt::{KeySet, Signer};

/// Tokens with exactly this lifetime are the ones the ServiceAccount admission plugin asks for; they live longer, and
/// warn after it.
pub const WARN_ONLY_SECONDS: i64 = 3607;
/// How long they live then: a year.
pub const EXTENDED_SECONDS: i64 = 24 * 365 * 3600;
const MIN_SECONDS: i64 = 600;
const DEFAULT_SECONDS: i64 = 3600;

/// What a token says.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The service account's namespace.
    pub namespace: String,
    /// Its name and UID.
    pub account: (String, String),
    /// Who shall accept it.
    pub audiences: Vec<String>,
    /// The pod it is bound to: name and UID.
    pub pod: Option<(String, String)>,
    /// The secret it is bound to.
    pub secret: Option<(String, String)>,
    /// The node it, or its pod, is bound to; an empty UID is left out.
    pub node: Option<(String, String)>,
    /// Lifetime in seconds.
    pub seconds: i64,
    /// Seconds after which its use is noted.
    pub warn_after: Option<i64>,
}

/// Makes tokens. `now` is in seconds since 1970.
#[async_trait]
pub trait TokenIssuer: Send + Sync + 'static {
    /// A signed token.
    ///
    /// # Errors
    /// 500 when signing fails.
    async fn issue(&self, claims: &Claims, now: i64) -> Result<String, Status>;
}

/// Signs with a private key of this process.
pub struct LocalIssuer {
    issuer: String,
    signer: Signer,
}

impl LocalIssuer {
    /// `issuer` is the first `--service-account-issuer`.
    pub fn new(issuer: impl Into<String>, signer: Signer) -> LocalIssuer {
        LocalIssuer {
            issuer: issuer.into(),
            signer,
        }
    }
}

/// The claims as JSON.
fn document(issuer: &str, c: &Claims, now: i64) -> Value {
    let reference = |(name, uid): &(String, String)| {
        if uid.is_empty() {
            json!({"name": name})
        } else {
            json!({"name": name, "uid": uid})
        }
    };
    let mut k8s = json!({"namespace": c.namespace, "serviceaccount": reference(&c.account)});
    if let Some(o) = k8s.as_object_mut() {
        for (key, r) in [("pod", &c.pod), ("secret", &c.secret), ("node", &c.node)] {
            if let Some(r) = r {
                o.insert(key.to_owned(), reference(r));
            }
        }
        if let Some(w) = c.warn_after {
            o.insert("warnafter".to_owned(), (now + w).into());
        }
    }
    json!({
        "aud": c.audiences,
        "exp": now + c.seconds,
        "iat": now,
        "iss": issuer,
        "jti": uuid::Uuid::new_v4().to_string(),
        "kubernetes.io": k8s,
        "nbf": now,
        "sub": format!("system:serviceaccount:{}:{}", c.namespace, c.account.0),
    })
}

#[async_trait]
impl TokenIssuer for LocalIssuer {
    async fn issue(&self, claims: &Claims, now: i64) -> Result<String, Status> {
        self.signer
            .sign(&document(&self.issuer, claims, now))
            .map_err(|e| Status::internal(format!("failed to generate token: {e}")))
    }
}

/// The rules of TokenRequest.
#[derive(Clone, Debug)]
pub struct TokenPolicy {
    /// `--api-audiences` (by default the issuer).
    pub api_audiences: Vec<String>,
    /// `--service-account-max-token-expiration` in seconds; 0: none.
    pub max_seconds: i64,
    /// `--service-account-extend-token-expiration`.
    pub extend: bool,
}

fn at<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// `POST …/serviceaccounts/<name>/token`: fills in and answers a TokenRequest. Gives the object and a warning for the
/// client, if there is one. `now` is in seconds since 1970.
///
/// # Errors
/// The Status upstream answers: 400, 404, 409, 422.
pub async fn token_request(
    policy: &TokenPolicy,
    issuer: &dyn TokenIssuer,
    reader: &dyn ObjectReader,
    namespace: &str,
    name: &str,
    mut request: Value,
    now: i64,
) -> Result<(Value, Option<String>), Status> {
    const GROUP: &str = "authentication.k8s.io";
    let mut errors = ErrorList::new();
    let given = |p: &str| at(&request, p).to_owned();
    let (own_name, own_ns, own_uid) = (
        given("/metadata/name"),
        given("/metadata/namespace"),
        given("/metadata/uid"),
    );
    if !own_name.is_empty() && own_name != name {
        errors.invalid(
            &Path::new("metadata").child("name"),
            own_name,
            "must match the service account name if specified",
        );
        return Err(Status::invalid(GROUP, "TokenRequest", name, &errors));
    }
    if !own_ns.is_empty() && own_ns != namespace {
        let path = Path::new("metadata").child("namespace");
        errors.invalid(
            &path,
            own_ns,
            "must match the service account namespace if specified",
        );
        return Err(Status::invalid(GROUP, "TokenRequest", name, &errors));
    }
    let find = async |resource: &'static str, ns: &str, name: &str| {
        reader
            .get("", resource, ns, name)
            .await?
            .ok_or_else(|| Status::not_found("", resource, name))
    };
    let account = find("serviceaccounts", namespace, name).await?;
    let account_uid = at(&account, "/metadata/uid").to_owned();
    if !own_uid.is_empty() && own_uid != account_uid {
        let why = format!(
            "the UID in the token request ({own_uid}) does not match the UID of the service account ({account_uid})"
        );
        return Err(Status::conflict(GROUP, "TokenRequest", name, &why));
    }
    let mut audiences: Vec<String> = request
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.clone_from(&policy.api_audiences);
    }
    let mut seconds = match request.pointer("/spec/expirationSeconds") {
        None | Some(Value::Null) => DEFAULT_SECONDS,
        Some(v) => v.as_i64().unwrap_or(0),
    };
    let path = Path::new("spec").child("expirationSeconds");
    if seconds < MIN_SECONDS {
        errors.invalid(
            &path,
            seconds,
            "may not specify a duration less than 10 minutes",
        );
    }
    if seconds > 1 << 32 {
        errors.invalid(
            &path,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    if !errors.is_empty() {
        return Err(Status::invalid(GROUP, "TokenRequest", "", &errors));
    }

    let mut claims = Claims {
        namespace: namespace.to_owned(),
        account: (name.to_owned(), account_uid.clone()),
        audiences: audiences.clone(),
        ..Claims::default()
    };
    if let Some(bound) = request
        .pointer("/spec/boundObjectRef")
        .filter(|b| !b.is_null())
    {
        let (kind, version, bound_name, bound_uid) = (
            at(bound, "/kind"),
            at(bound, "/apiVersion"),
            at(bound, "/name"),
            at(bound, "/uid"),
        );
        let uid_of = |o: &Value| at(o, "/metadata/uid").to_owned();
        let group = version.split_once('/').map_or("", |(g, _)| g);
        let uid = match (group, kind) {
            ("", "Pod") => {
                let pod = find("pods", namespace, bound_name).await?;
                if at(&pod, "/spec/serviceAccountName") != name {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {name:?} to pod running with different serviceaccount name."
                    )));
                }
                let node = at(&pod, "/spec/nodeName");
                if !node.is_empty() {
                    let found = reader.get("", "nodes", "", node).await?;
                    claims.node = Some((
                        node.to_owned(),
                        found.map(|n| uid_of(&n)).unwrap_or_default(),
                    ));
                }
                let uid = uid_of(&pod);
                claims.pod = Some((bound_name.to_owned(), uid.clone()));
                uid
            }
            ("", "Node") => {
                let uid = uid_of(&*find("nodes", "", bound_name).await?);
                claims.node = Some((bound_name.to_owned(), uid.clone()));
                uid
            }
            ("", "Secret") => {
                let uid = uid_of(&*find("secrets", namespace, bound_name).await?);
                claims.secret = Some((bound_name.to_owned(), uid.clone()));
                uid
            }
            _ => {
                let v = version.rsplit('/').next().unwrap_or(version);
                return Err(Status::bad_request(format!(
                    "cannot bind token to object of type {group}/{v}, Kind={kind}"
                )));
            }
        };
        if !bound_uid.is_empty() && bound_uid != uid {
            let why = format!(
                "the UID in the bound object reference ({bound_uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict(group, kind, bound_name, &why));
        }
    }
    let mut warning = None;
    if policy.max_seconds > 0 && seconds > policy.max_seconds {
        warning = Some(format!(
            "requested expiration of {seconds} seconds shortened to {} seconds",
            policy.max_seconds
        ));
        seconds = policy.max_seconds;
    }
    claims.seconds = seconds;
    let ours = audiences.iter().all(|a| policy.api_audiences.contains(a));
    if policy.extend && claims.pod.is_some() && seconds == WARN_ONLY_SECONDS && ours {
        claims.warn_after = Some(seconds);
        claims.seconds = EXTENDED_SECONDS;
    }
    let token = issuer.issue(&claims, now).await?;

    let time = |t: i64| {
        jiff::Timestamp::from_second(t)
            .map(|t| t.to_string())
            .unwrap_or_default()
    };
    let Some(root) = request.as_object_mut() else {
        return Err(Status::bad_request("the body is not an object"));
    };
    let meta = root.entry("metadata").or_insert_with(|| json!({}));
    if let Some(m) = meta.as_object_mut() {
        m.insert("name".into(), name.into());
        m.insert("namespace".into(), namespace.into());
        m.insert("uid".into(), account_uid.into());
        m.insert("creationTimestamp".into(), time(now).into());
    }
    let spec = root.entry("spec").or_insert_with(|| json!({}));
    if let Some(s) = spec.as_object_mut() {
        s.insert("audiences".into(), audiences.into());
        s.insert("expirationSeconds".into(), seconds.into());
        s.entry("boundObjectRef").or_insert(Value::Null);
    }
    root.insert(
        "status".into(),
        json!({"token": token, "expirationTimestamp": time(now + seconds)}),
    );
    Ok((request, warning))
}

/// The document of `/.well-known/openid-configuration`. `jwks_uri` is `--service-account-jwks-uri`, or the apiserver's own
/// `/openid/v1/jwks`.
pub fn openid_configuration(issuer: &str, jwks_uri: &str, keys: &KeySet) -> String {
    // As text, for the order of the members.
    format!(
        "{{\"issuer\":{},\"jwks_uri\":{},\"response_types_supported\":[\"id_token\"],\
         \"subject_types_supported\":[\"public\"],\"id_token_signing_alg_values_supported\":{}}}",
        json!(issuer),
        json!(jwks_uri),
        json!(keys.algorithms()),
    )
}
