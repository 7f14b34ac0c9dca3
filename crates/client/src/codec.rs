//! Decoding answers: protobuf where the schema knows the type, JSON otherwise.

use api::Status;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use wire::schema::Message;

use crate::error::{Error, Result};
use crate::resource::Resource;

/// Media type of JSON.
pub const JSON: &str = "application/json";
/// Media type of Kubernetes protobuf.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How one type of object is asked for and decoded.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    message: Option<&'static Message>,
}

impl Codec {
    /// For objects of a resource.
    pub fn of(resource: &Resource) -> Codec {
        Codec {
            message: api::schema::message(&resource.api_version(), &resource.kind),
        }
    }

    /// For lists of a resource.
    pub fn list_of(resource: &Resource) -> Codec {
        Codec {
            message: api::schema::message(
                &resource.api_version(),
                &format!("{}List", resource.kind),
            ),
        }
    }

    /// For `PartialObjectMetadata` of any resource.
    pub fn metadata() -> Codec {
        Codec {
            message: api::schema::message("meta.k8s.io/v1", "PartialObjectMetadata"),
        }
    }

    /// For types without a schema, and for trees that are to keep every field.
    pub const fn json() -> Codec {
        Codec { message: None }
    }

    /// The `Accept` header.
    pub fn accept(&self) -> &'static str {
        if self.message.is_some() {
            "application/vnd.kubernetes.protobuf,application/json"
        } else {
            JSON
        }
    }

    /// Decodes an object that is JSON or enveloped protobuf.
    pub fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        if wire::envelope::is_envelope(bytes) {
            let fail = |message: String| Error::Decode {
                what: std::any::type_name::<T>().into(),
                message,
            };
            let unknown = wire::envelope::unwrap(bytes).map_err(|e| fail(e.to_string()))?;
            // A failure is answered as a Status even where an object was asked for.
            let message = match self.message {
                Some(m) if unknown.kind.is_empty() || m.name == unknown.kind => Some(m),
                _ => api::schema::message(unknown.api_version, unknown.kind),
            };
            let Some(message) = message else {
                return Err(fail(format!(
                    "no schema for {} {}",
                    unknown.api_version, unknown.kind
                )));
            };
            return wire::proto::from_slice(unknown.raw, message).map_err(|e| fail(e.to_string()));
        }
        from_json(bytes)
    }
}

/// A Status as sent: in protobuf its kind stands only on the envelope.
#[derive(Default, Deserialize)]
struct RawStatus {
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    code: u16,
    #[serde(default)]
    details: Option<Box<api::status::StatusDetails>>,
}

/// Decodes a failure Status; `None` when the bytes are something else.
pub fn decode_status(bytes: &[u8]) -> Option<Status> {
    let raw: RawStatus = Codec::json().decode(bytes).ok()?;
    if raw.status != "Failure" && raw.reason.is_empty() {
        return None;
    }
    let mut status = Status::failure(raw.code, &raw.reason, raw.message);
    status.details = raw.details;
    Some(status)
}

/// Decodes JSON.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::Decode {
        what: std::any::type_name::<T>().into(),
        message: e.to_string(),
    })
}
