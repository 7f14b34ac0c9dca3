//! The gate of the small daemons' secure ports: an authenticator, an authorizer, and the paths that everybody may read.

use std::sync::Arc;

use async_trait::async_trait;
use component::serve;

use crate::authz::forbidden;
use crate::{Attributes, Authenticator, Authorizer, Decision, Peer, UserInfo};

/// See the module. A request that passes carries its [`UserInfo`] in its extensions.
pub struct Gate {
    /// Who.
    pub authenticator: Arc<dyn Authenticator>,
    /// May they.
    pub authorizer: Arc<dyn Authorizer>,
    /// `--authorization-always-allow-paths`: neither authenticated nor authorized; a trailing `*` matches the rest.
    pub open_paths: Vec<String>,
    /// What a request asks for; `None`: the path itself with the lower-cased method as the verb.
    pub attributes: Option<fn(&http::request::Parts, UserInfo) -> Attributes>,
}

/// The attributes of a request that is about its path.
pub fn path_attributes(request: &http::request::Parts, user: UserInfo) -> Attributes {
    Attributes {
        user,
        verb: request.method.as_str().to_ascii_lowercase(),
        path: request.uri.path().to_owned(),
        ..Attributes::default()
    }
}

#[async_trait]
impl serve::Gate for Gate {
    async fn check(
        &self,
        peer: &Peer,
        request: &mut http::request::Parts,
    ) -> Result<(), serve::Refusal> {
        let path = request.uri.path();
        let open = |p: &String| match p.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => p == path,
        };
        if self.open_paths.iter().any(open) {
            return Ok(());
        }
        let user = match self
            .authenticator
            .authenticate(peer, &request.headers)
            .await
        {
            Ok(Some(user)) => user,
            Ok(None) => {
                return Err(serve::Refusal {
                    code: 401,
                    message: "Unauthorized".to_owned(),
                });
            }
            Err(err) => {
                tracing::info!(%err, ?peer, "Unable to authenticate the request");
                return Err(serve::Refusal {
                    code: 401,
                    message: "Unauthorized".to_owned(),
                });
            }
        };
        if user.name != crate::ANONYMOUS {
            peer.authenticated();
        }
        let ask = self.attributes.unwrap_or(path_attributes)(request, user.clone());
        match self.authorizer.authorize(&ask).await {
            (Decision::Allow, _) => {
                request.extensions.insert(user);
                Ok(())
            }
            (_, reason) => Err(serve::Refusal {
                code: 403,
                message: forbidden::status(&ask, &reason).message,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::{Tokens, Union, token_file::TokenFile};
    use crate::authz::Masters;
    use component::serve::Gate as _;

    /// Lets `jane` GET one path, and remembers nobody.
    struct OnePath;

    #[async_trait]
    impl Authorizer for OnePath {
        async fn authorize(&self, a: &Attributes) -> (Decision, String) {
            let may = a.user.name == "jane" && a.verb == "get" && a.path == "/metrics";
            let decision = if may {
                Decision::Allow
            } else {
                Decision::NoOpinion
            };
            (decision, String::new())
        }

        async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<crate::Rule>, Option<String>) {
            (Vec::new(), None)
        }
    }

    #[tokio::test]
    async fn a_request_is_about_its_method_and_path() {
        let file = TokenFile::parse("t,jane,2\n").unwrap();
        let tokens = Tokens(vec![Arc::new(file)]);
        let gate = Gate {
            authenticator: Arc::new(Union::new(vec![Arc::new(tokens)], true)),
            authorizer: Arc::new(OnePath),
            open_paths: vec![],
            attributes: None,
        };
        for (method, path, token, want) in [
            ("GET", "/metrics?a=b", "t", Ok(())),
            (
                "POST",
                "/metrics",
                "t",
                Err("forbidden: User \"jane\" cannot post path \"/metrics\""),
            ),
            (
                "GET",
                "/metrics/",
                "t",
                Err("forbidden: User \"jane\" cannot get path \"/metrics/\""),
            ),
            (
                "GET",
                "/metrics",
                "",
                Err("forbidden: User \"system:anonymous\" cannot get path \"/metrics\""),
            ),
        ] {
            let peer = Peer::new(None, Vec::new());
            let mut r = http::Request::builder().method(method).uri(path);
            if !token.is_empty() {
                r = r.header("authorization", format!("Bearer {token}"));
            }
            let (mut parts, ()) = r.body(()).unwrap().into_parts();
            let got = gate.check(&peer, &mut parts).await.map_err(|e| e.message);
            assert_eq!(got, want.map_err(str::to_owned), "{method} {path} {token}");
            // Whoever may do nothing is known all the same; nobody in particular is not.
            assert_eq!(
                peer.is_authenticated(),
                !token.is_empty(),
                "{method} {path}"
            );
        }
    }

    #[tokio::test]
    async fn open_paths_bad_tokens_and_refusals() {
        let file = TokenFile::parse("t1,root,1,system:masters\nt2,jane,2\n").unwrap();
        let gate = Gate {
            authenticator: Arc::new(Union::new(
                vec![Arc::new(Tokens(vec![Arc::new(file)]))],
                false,
            )),
            authorizer: Arc::new(Masters),
            open_paths: vec!["/healthz".into()],
            attributes: None,
        };
        let peer = Peer::new(None, Vec::new());
        for (path, token, want) in [
            ("/healthz", "", Ok(())),
            ("/metrics", "", Err(401)),
            ("/metrics", "nope", Err(401)),
            ("/metrics", "t2", Err(403)),
            ("/metrics", "t1", Ok(())),
        ] {
            let mut r = http::Request::get(path);
            if !token.is_empty() {
                r = r.header("authorization", format!("Bearer {token}"));
            }
            let (mut parts, ()) = r.body(()).unwrap().into_parts();
            let got = gate.check(&peer, &mut parts).await.map_err(|e| e.code);
            assert_eq!(got, want, "{path} {token}");
            assert_eq!(parts.extensions.get::<UserInfo>().is_some(), token == "t1");
        }
    }
}
