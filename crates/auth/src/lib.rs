//! Who is asking, and may they: authentication and authorization.
//!
//! Nothing here reads the store: other objects are read through [`api::reader::ObjectReader`].

pub mod authn;
pub mod authz;
pub mod gate;
pub mod issuer;
pub mod jwt;
pub mod setup;

use std::collections::BTreeMap;

use api::selector::{FieldSelector, Selector};
use async_trait::async_trait;

/// `system:masters`: may do everything, whatever RBAC says.
pub const GROUP_MASTERS: &str = "system:masters";
/// Every authenticated user is in it.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// Every anonymous request is in it.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of an anonymous user.
pub const ANONYMOUS: &str = "system:anonymous";

/// The identity behind a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// `system:node:n1`, `jane`, ….
    pub name: String,
    /// Often empty.
    pub uid: String,
    /// Group names.
    pub groups: Vec<String>,
    /// Keys are lower case.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

pub use component::serve::Peer;

/// Why authentication failed: answered 401 without saying more; the text is for the log only.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthenticationError(pub String);

/// One way to prove an identity.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)`: the request carries no credential of this kind. `Err`: it does, and it is bad.
    async fn authenticate(
        &self,
        peer: &Peer,
        headers: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError>;
}

/// One kind of bearer token. Also what TokenReview asks.
#[async_trait]
pub trait TokenAuthenticator: Send + Sync + 'static {
    /// The user and those of `audiences` that the token is for; an empty `audiences` means the apiserver's own, and the
    /// answer then is empty too. `Ok(None)`: not a token of this kind. `Err`: one of this kind, and bad.
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthenticationError>;
}

/// What is to be done, to what: the question to an authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Who.
    pub user: UserInfo,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the lower-cased HTTP method
    /// of a non-resource request.
    pub verb: String,
    /// Empty for cluster scope.
    pub namespace: String,
    /// Empty for the core group.
    pub group: String,
    /// The version of the request.
    pub version: String,
    /// The plural.
    pub resource: String,
    /// Empty for the resource itself.
    pub subresource: String,
    /// Empty where the request names none.
    pub name: String,
    /// The URL's path.
    pub path: String,
    /// Whether this is about a resource; otherwise about `path`.
    pub is_resource: bool,
    /// What the request selects by fields (KEP-4601).
    pub fields: Selected<FieldSelector>,
    /// What the request selects by labels (KEP-4601).
    pub labels: Selected<Selector>,
}

/// A selector as authorizers see it. All its conditions hold, so leaving out what cannot be read makes the question
/// broader, never narrower.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected<T> {
    /// What could be read; empty: everything is selected.
    pub known: T,
    /// Why the rest could not be read.
    pub error: Option<String>,
}

impl<T: Default> Selected<T> {
    fn of(parsed: Result<T, String>) -> Selected<T> {
        match parsed {
            Ok(known) => Selected { known, error: None },
            Err(e) => Selected {
                known: T::default(),
                error: Some(e),
            },
        }
    }
}

impl Selected<FieldSelector> {
    /// From a selector's text.
    pub fn fields(text: &str) -> Selected<FieldSelector> {
        Selected::of(FieldSelector::parse(text))
    }
}

impl Selected<Selector> {
    /// From a selector's text.
    pub fn labels(text: &str) -> Selected<Selector> {
        Selected::of(Selector::parse(text))
    }
}

/// An authorizer's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes; nobody else is asked.
    Allow,
    /// No; nobody else is asked.
    Deny,
    /// The next one decides; the last `NoOpinion` is a no.
    NoOpinion,
}

/// A rule that applies to a user, for SelfSubjectRulesReview and escalation checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs, `*` for all.
    pub verbs: Vec<String>,
    /// API groups, `*` for all.
    pub api_groups: Vec<String>,
    /// Resources, `*`, `pods/log`, `*/scale`.
    pub resources: Vec<String>,
    /// Names; empty for all.
    pub resource_names: Vec<String>,
    /// Paths of non-resource rules; a trailing `*` matches the rest.
    pub non_resource_urls: Vec<String>,
}

/// Decides whether a request may go on.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// The decision and, where there is one, a reason for people.
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String);

    /// The rules that apply to a user in a namespace; `incomplete` is an explanation where not all could be told.
    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Option<String>);
}
