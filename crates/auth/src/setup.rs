//! The apiserver's authentication, authorization and token issuing, put together from its flags.

use std::path::PathBuf;
use std::sync::Arc;

use api::reader::ObjectReader;
use component::Flags;
use tokio::sync::mpsc::Receiver;

use crate::authn::bootstrap::BootstrapTokens;
use crate::authn::request_header::RequestHeader;
use crate::authn::service_account::{ServiceAccounts, USED_WAITING, Used};
use crate::authn::token_file::TokenFile;
use crate::authn::x509::{ClientCas, Verified, X509};
use crate::authn::{Agnostic, Tokens, Union};
use crate::authz::node::{NodeAuthorizer, NodeGraph};
use crate::authz::rbac::RbacIndex;
use crate::authz::{self, AlwaysAllow, AlwaysDeny};
use crate::issuer::{LocalIssuer, TokenIssuer, TokenPolicy};
use crate::jwt::{KeySet, Signer, public_keys};
use crate::{Authenticator, Authorizer, TokenAuthenticator};

/// The apiserver's flags that [`new`] reads: to be honoured by its command line.
pub const FLAGS: &[&str] = &[
    "anonymous-auth",
    "api-audiences",
    "authorization-mode",
    "client-ca-file",
    "enable-bootstrap-token-auth",
    "requestheader-allowed-names",
    "requestheader-client-ca-file",
    "requestheader-extra-headers-prefix",
    "requestheader-group-headers",
    "requestheader-uid-headers",
    "requestheader-username-headers",
    "service-account-extend-token-expiration",
    "service-account-issuer",
    "service-account-jwks-uri",
    "service-account-key-file",
    "service-account-lookup",
    "service-account-max-token-expiration",
    "service-account-signing-key-file",
    "token-auth-file",
];

/// Everything that comes out of the flags.
pub struct Auth {
    /// For every request.
    pub authenticator: Arc<dyn Authenticator>,
    /// For TokenReview.
    pub tokens: Tokens,
    /// For every request that is authenticated.
    pub authorizer: Arc<dyn Authorizer>,
    /// Empty; to be kept current. Also answers escalation checks.
    pub rbac: Arc<RbacIndex>,
    /// Empty; to be kept current.
    pub nodes: Arc<NodeGraph>,
    /// For TokenRequest; `None` without a signing key.
    pub issuer: Option<Arc<dyn TokenIssuer>>,
    /// The rules of TokenRequest.
    pub policy: TokenPolicy,
    /// Legacy tokens that are used, to be noted in their Secrets.
    pub used: Receiver<Used>,
    /// For `/openid/v1/jwks`.
    pub keys: KeySet,
    /// The first issuer, for `/.well-known/openid-configuration`; empty: there is none.
    pub issuer_url: String,
    /// The authorities of clients, to be published and hinted at in the handshake.
    pub client_ca_files: Vec<PathBuf>,
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

/// Reads the files the flags name and puts everything together.
///
/// # Errors
/// A file that cannot be read or used, with its path; an unknown authorization mode.
pub fn new(flags: &Flags, reader: Arc<dyn ObjectReader>) -> Result<Auth, String> {
    let mut all: Vec<Arc<dyn Authenticator>> = Vec::new();
    let mut client_ca_files = Vec::new();
    let client_ca = flags.path("client-ca-file");
    let mut proxy = None;
    if let Some(ca) = flags.path("requestheader-client-ca-file") {
        client_ca_files.push(ca.clone());
        let cas = Arc::new(ClientCas::new([ca])?);
        let names = flags.strings("requestheader-allowed-names").to_vec();
        let verified = Arc::new(Verified::new(cas, names));
        proxy = Some(Arc::clone(&verified));
        all.push(Arc::new(RequestHeader {
            proxy: verified,
            alone: client_ca.is_none(),
            user: flags.strings("requestheader-username-headers").to_vec(),
            uid: flags.strings("requestheader-uid-headers").to_vec(),
            group: flags.strings("requestheader-group-headers").to_vec(),
            extra_prefix: flags.strings("requestheader-extra-headers-prefix").to_vec(),
        }));
    }
    if let Some(ca) = client_ca {
        client_ca_files.push(ca.clone());
        all.push(Arc::new(X509::new(Arc::new(ClientCas::new([ca])?), proxy)));
    }
    let mut tokens: Vec<Arc<dyn TokenAuthenticator>> = Vec::new();
    let issuers = flags.strings("service-account-issuer").to_vec();
    let mut audiences = flags.strings("api-audiences").to_vec();
    if audiences.is_empty() {
        audiences.clone_from(&issuers);
    }
    let own = |tokens: Arc<dyn TokenAuthenticator>| {
        Arc::new(Agnostic {
            audiences: audiences.clone(),
            tokens,
        })
    };
    if let Some(file) = flags.path("token-auth-file") {
        tokens.push(own(Arc::new(TokenFile::read(&file)?)));
    }
    let mut signer = None;
    let mut keys = Vec::new();
    if let Some(file) = flags.non_empty("service-account-signing-key-file") {
        let s = Signer::from_pem(&read(file)?).map_err(|e| format!("{file}: {e}"))?;
        keys.push(s.public.clone());
        signer = Some(s);
    }
    for file in flags.strings("service-account-key-file") {
        keys.extend(public_keys(&read(file)?).map_err(|e| format!("{file}: {e}"))?);
    }
    let keys = KeySet::new(keys);
    let (telling, used) = tokio::sync::mpsc::channel(USED_WAITING);
    if !issuers.is_empty() {
        let lookup = flags.bool("service-account-lookup");
        let reader = Arc::clone(&reader);
        let accounts = ServiceAccounts::new(
            keys.clone(),
            issuers.clone(),
            audiences.clone(),
            lookup,
            reader,
        );
        tokens.push(Arc::new(accounts.telling(telling)));
    }
    if flags.bool("enable-bootstrap-token-auth") {
        tokens.push(own(Arc::new(BootstrapTokens(reader))));
    }
    let tokens = Tokens(tokens);
    if !tokens.0.is_empty() {
        all.push(Arc::new(tokens.clone()));
    }

    let (rbac, nodes) = (RbacIndex::new(), NodeGraph::new());
    let mut authorizers: Vec<Arc<dyn Authorizer>> = Vec::new();
    let modes = flags.strings("authorization-mode");
    for mode in modes {
        authorizers.push(match mode.as_str() {
            "RBAC" => Arc::clone(&rbac) as Arc<dyn Authorizer>,
            "Node" => Arc::new(NodeAuthorizer::new(Arc::clone(&nodes))),
            "AlwaysAllow" => Arc::new(AlwaysAllow),
            "AlwaysDeny" => Arc::new(AlwaysDeny),
            "ABAC" | "Webhook" => {
                return Err(format!("authorization-mode {mode} is not implemented"));
            }
            other => return Err(format!("authorization-mode {other:?} is not a valid mode")),
        });
    }
    if modes.is_empty() {
        authorizers.push(Arc::new(AlwaysAllow));
    }
    let issuer_url = issuers.first().cloned().unwrap_or_default();
    let max = flags
        .duration("service-account-max-token-expiration")
        .as_secs();
    Ok(Auth {
        authenticator: Arc::new(Union::new(all, flags.bool("anonymous-auth"))),
        tokens,
        authorizer: Arc::new(authz::Union::new(authorizers)),
        rbac,
        nodes,
        issuer: signer
            .map(|s| Arc::new(LocalIssuer::new(issuer_url.clone(), s)) as Arc<dyn TokenIssuer>),
        policy: TokenPolicy {
            api_audiences: audiences,
            max_seconds: i64::try_from(max).unwrap_or(i64::MAX),
            extend: flags.bool("service-account-extend-token-expiration"),
        },
        used,
        keys,
        issuer_url,
        client_ca_files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attributes, Decision, UserInfo};
    use api::Status;
    use component::CommandLine;
    use component::flags::Outcome;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use serde_json::Value;

    struct Nothing;
    impl ObjectReader for Nothing {
        fn get<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
            _: &'a str,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
            async { Ok(None) }.boxed()
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

    fn build(args: &[String]) -> Result<Auth, String> {
        let cli = CommandLine::new("kube-apiserver", "").honour(FLAGS);
        match cli.parse(args.iter().cloned()).unwrap() {
            Outcome::Run(f) => new(&f, Arc::new(Nothing)),
            Outcome::Print(p) => panic!("{p}"),
        }
    }

    #[tokio::test]
    async fn kubeadms_flags() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = pki::layout::Cluster {
            name: "k".into(),
            server: "https://127.0.0.1:1".into(),
            apiserver_sans: vec![],
            dns_domain: "cluster.local".into(),
            etcd_sans: vec![],
            nodes: vec![],
        };
        pki::layout::ensure(dir.path(), &cluster).unwrap();
        let p = |n: &str| dir.path().join("pki").join(n).display().to_string();
        let auth = build(&[
            "--authorization-mode=Node,RBAC".into(),
            format!("--client-ca-file={}", p("ca.crt")),
            "--enable-bootstrap-token-auth=true".into(),
            "--requestheader-allowed-names=front-proxy-client".into(),
            format!("--requestheader-client-ca-file={}", p("front-proxy-ca.crt")),
            "--requestheader-username-headers=X-Remote-User".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--service-account-key-file={}", p("sa.pub")),
            format!("--service-account-signing-key-file={}", p("sa.key")),
        ])
        .unwrap();
        assert_eq!(auth.keys.jwks()["keys"].as_array().unwrap().len(), 1);
        assert!(auth.issuer.is_some() && auth.policy.extend);
        let pem =
            std::fs::read_to_string(dir.path().join("pki/apiserver-kubelet-client.crt")).unwrap();
        let peer = crate::Peer::new(
            None,
            vec![pki::key::pem_blocks(&pem).unwrap().remove(0).der],
        );
        let user = auth
            .authenticator
            .authenticate(&peer, &http::HeaderMap::new())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.join(" ").as_str()),
            (
                "kube-apiserver-kubelet-client",
                "kubeadm:cluster-admins system:authenticated"
            )
        );
        let anonymous = auth
            .authenticator
            .authenticate(&Default::default(), &http::HeaderMap::new())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(anonymous.name, crate::ANONYMOUS);
        let masters = UserInfo {
            name: "m".into(),
            groups: vec!["system:masters".into()],
            ..UserInfo::default()
        };
        for (user, want) in [
            (masters, Decision::Allow),
            (user, Decision::NoOpinion),
            (anonymous, Decision::NoOpinion),
        ] {
            assert_eq!(
                auth.authorizer
                    .authorize(&Attributes {
                        user,
                        verb: "get".into(),
                        path: "/x".into(),
                        ..Attributes::default()
                    })
                    .await
                    .0,
                want
            );
        }
    }

    /// Knows one bootstrap token.
    struct Secret;
    impl ObjectReader for Secret {
        fn get<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
            _: &'a str,
            name: &'a str,
        ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
            let secret = serde_json::json!({"type": "bootstrap.kubernetes.io/token", "data": {
                "token-id": "YWJjZGVm", "token-secret": "MDEyMzQ1Njc4OWFiY2RlZg==",
                "usage-bootstrap-authentication": "dHJ1ZQ=="}});
            let found = (name == "bootstrap-token-abcdef").then(|| Arc::new(secret));
            async { Ok(found) }.boxed()
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

    /// TokenReview: static and bootstrap tokens are for the server's audiences, as upstream wraps them.
    #[tokio::test]
    async fn audiences_of_static_and_bootstrap_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        std::fs::write(&file, "static,jane,1\n").unwrap();
        let cli = CommandLine::new("kube-apiserver", "").honour(FLAGS);
        let args = [
            format!("--token-auth-file={}", file.display()),
            "--enable-bootstrap-token-auth=true".to_owned(),
            "--api-audiences=own".to_owned(),
        ];
        let Outcome::Run(flags) = cli.parse(args).unwrap() else {
            panic!("flags")
        };
        let auth = new(&flags, Arc::new(Secret)).unwrap();
        for token in ["static", "abcdef.0123456789abcdef"] {
            for (asked, want) in [
                (vec!["own"], Some(vec!["own"])),
                (vec!["vault", "own"], Some(vec!["own"])),
                (vec!["vault"], None),
            ] {
                let asked: Vec<String> = asked.into_iter().map(str::to_owned).collect();
                let got = auth.tokens.authenticate_token(token, &asked).await.unwrap();
                let want = want.map(|w| w.into_iter().map(str::to_owned).collect::<Vec<_>>());
                assert_eq!(got.map(|g| g.1), want, "{token} {asked:?}");
            }
        }
    }

    #[test]
    fn refusals() {
        assert_eq!(
            build(&["--authorization-mode=Nope".into()]).err().unwrap(),
            "authorization-mode \"Nope\" is not a valid mode"
        );
        assert!(
            build(&["--client-ca-file=/nonexistent".into()])
                .err()
                .unwrap()
                .contains("/nonexistent")
        );
    }
}
