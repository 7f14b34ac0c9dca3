//! Service account tokens: the keys that verify them, the issuer that signs them, and the documents about both.

use std::sync::Arc;

use api::Status;
use apiserver::chain::ExtraPath;
use async_trait::async_trait;
use auth::issuer::{Claims, TokenIssuer as Signs};
use auth::setup::Auth;
use component::Flags;
use registry::resources::token::{Grant, Issued, TokenIssuer};

/// Upstream's `ExpirationExtensionSeconds`: a year, for tokens that old clients never renew.
const EXTENDED: i64 = 365 * 24 * 3600;
/// The life that kubelets ask for in the default volume; it marks tokens that may be extended.
const EXTENDABLE: i64 = 3607;

struct Issuer {
    signer: Arc<dyn Signs>,
    audiences: Vec<String>,
    max_seconds: i64,
    extend: bool,
}

#[async_trait]
impl TokenIssuer for Issuer {
    async fn issue(&self, grant: &Grant) -> Result<Issued, Status> {
        let now = jiff::Timestamp::now().as_second();
        let audiences = if grant.audiences.is_empty() {
            self.audiences.clone()
        } else {
            grant.audiences.clone()
        };
        let mut seconds = grant.expiration_seconds;
        if self.max_seconds > 0 {
            seconds = seconds.min(self.max_seconds);
        }
        let bound = |kind: &str| {
            grant
                .bound
                .iter()
                .find(|b| b.kind == kind)
                .map(|b| (b.name.clone(), b.uid.clone()))
        };
        let own = audiences.iter().all(|a| self.audiences.contains(a));
        let extend = self.extend && seconds == EXTENDABLE && own && bound("Pod").is_some();
        let claims = Claims {
            namespace: grant.namespace.clone(),
            account: (grant.name.clone(), grant.uid.clone()),
            audiences: audiences.clone(),
            seconds: if extend { EXTENDED } else { seconds },
            warn_after: extend.then_some(seconds),
            pod: bound("Pod"),
            secret: bound("Secret"),
            node: bound("Node"),
        };
        let token = self.signer.issue(&claims, now).await?;
        let expiration = jiff::Timestamp::from_second(now + seconds)
            .map(|t| t.to_string())
            .unwrap_or_default();
        Ok(Issued {
            token,
            expiration,
            audiences,
            expiration_seconds: seconds,
        })
    }
}

/// The issuer, where a signing key is given.
pub fn issuer(auth: &Auth) -> Option<Arc<dyn TokenIssuer>> {
    let signer = auth.issuer.clone()?;
    Some(Arc::new(Issuer {
        signer,
        audiences: auth.policy.api_audiences.clone(),
        max_seconds: auth.policy.max_seconds,
        extend: auth.policy.extend,
    }))
}

/// `/.well-known/openid-configuration` and `/openid/v1/jwks`.
/// `address` is where clients reach this server.
pub fn paths(auth: &Auth, flags: &Flags, address: &str) -> Vec<(String, ExtraPath)> {
    let issuer = &auth.issuer_url;
    if !issuer.starts_with("https://") {
        return Vec::new();
    }
    let jwks_uri = match flags.non_empty("service-account-jwks-uri") {
        Some(u) => u.to_owned(),
        None => format!("https://{address}/openid/v1/jwks"),
    };
    let document = auth::issuer::openid_configuration(issuer, &jwks_uri, &auth.keys).into_bytes();
    let jwks = auth.keys.jwks_text().into_bytes();
    vec![
        (
            "/.well-known/openid-configuration".into(),
            Arc::new(move |_: &_, _: &_| (200, "application/json", document.clone())),
        ),
        (
            "/openid/v1/jwks".into(),
            Arc::new(move |_: &_, _: &_| (200, "application/jwk-set+json", jwks.clone())),
        ),
    ]
}
