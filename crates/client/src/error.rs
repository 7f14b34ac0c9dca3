//! The one error of this crate.

use api::Status;

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The apiserver answered with a failure Status.
    #[error("{0}")]
    Api(Box<Status>),
    /// No connection could be made; the request was not sent.
    #[error("connecting to {server}: {message}")]
    Connect {
        /// `host:port`.
        server: String,
        /// What went wrong.
        message: String,
    },
    /// The connection failed while the request was under way: it may or may not have been carried out.
    #[error("request to the apiserver: {0}")]
    Transport(String),
    /// The request or the wait for its answer took longer than allowed.
    #[error("timed out waiting for the apiserver")]
    Timeout,
    /// The kubeconfig, a certificate or a token file is unusable.
    #[error("client configuration: {0}")]
    Config(String),
    /// The answer is not what the caller's type expects.
    #[error("decoding {what}: {message}")]
    Decode {
        /// What was being decoded.
        what: String,
        /// The decoder's words.
        message: String,
    },
    /// The caller's value cannot be encoded.
    #[error("encoding {what}: {message}")]
    Encode {
        /// What was being encoded.
        what: String,
        /// The encoder's words.
        message: String,
    },
    /// The answer is larger than this client accepts.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl Error {
    /// The Status the apiserver answered with.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Api(s) => Some(s),
            _ => None,
        }
    }

    fn reason_is(&self, reason: &str) -> bool {
        self.status().is_some_and(|s| s.reason == reason)
    }

    /// HTTP code of the Status, 0 when there is none.
    pub fn code(&self) -> u16 {
        self.status().map_or(0, |s| s.code)
    }

    /// 404 `NotFound`.
    pub fn is_not_found(&self) -> bool {
        self.reason_is("NotFound")
    }

    /// 409 `Conflict`.
    pub fn is_conflict(&self) -> bool {
        self.reason_is("Conflict")
    }

    /// 409 `AlreadyExists`.
    pub fn is_already_exists(&self) -> bool {
        self.reason_is("AlreadyExists")
    }

    /// 403 `Forbidden`.
    pub fn is_forbidden(&self) -> bool {
        self.reason_is("Forbidden")
    }

    /// 422 `Invalid`.
    pub fn is_invalid(&self) -> bool {
        self.reason_is("Invalid")
    }

    /// 410: the resource version or continue token is too old.
    pub fn is_expired(&self) -> bool {
        self.reason_is("Expired") || self.reason_is("Gone") || self.code() == 410
    }

    /// 429.
    pub fn is_too_many_requests(&self) -> bool {
        self.reason_is("TooManyRequests") || self.code() == 429
    }

    /// 405 or 404 for the path: the resource does not serve this verb.
    pub fn is_method_not_supported(&self) -> bool {
        self.reason_is("MethodNotAllowed") || self.code() == 405
    }

    /// A create refused because its namespace is being deleted.
    pub fn is_namespace_terminating(&self) -> bool {
        self.is_forbidden()
            && self
                .status()
                .and_then(|s| s.details.as_ref())
                .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
    }
}
