//! Watch streams: frames into events.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::codec::{self, Codec};
use crate::error::{Error, Result};
use crate::transport::Body;

/// A frame beyond this is refused.
const FRAME_LIMIT: usize = 64 << 20;

/// What a watch says.
#[derive(Debug)]
pub enum WatchEvent<V> {
    /// The object is new to this watch.
    Added(V),
    /// The object changed.
    Modified(V),
    /// The object is gone, or no longer selected; its last state.
    Deleted(V),
    /// An object came, changed or (`gone`) went, and cannot be read as what the caller asked for.
    Unreadable {
        /// Which object, as far as that could be read.
        object: Identity,
        /// Whether it is gone.
        gone: bool,
        /// Why not.
        error: Error,
    },
    /// Nothing changed up to this version.
    Bookmark {
        /// The version to resume from.
        resource_version: String,
        /// Whether this ends the initial events of a WatchList.
        initial_events_end: bool,
    },
}

/// Which object: all that is read of one that cannot be read whole. Fields that are not what they should be stay empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.resourceVersion`
    pub resource_version: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IdentityMeta {
    #[serde(deserialize_with = "text")]
    namespace: String,
    #[serde(deserialize_with = "text")]
    name: String,
    #[serde(deserialize_with = "text")]
    resource_version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IdentityView {
    metadata: IdentityMeta,
}

/// A string, or nothing of whatever else is there.
fn text<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Any {
        Text(String),
        Other(serde::de::IgnoredAny),
    }
    Ok(match Any::deserialize(d)? {
        Any::Text(s) => s,
        Any::Other(_) => String::new(),
    })
}

impl Identity {
    /// Of an object in the codec's encoding; empty where even that cannot be read.
    pub fn of(codec: &Codec, object: &[u8]) -> Identity {
        let view: IdentityView = codec.decode(object).unwrap_or_default();
        let m = view.metadata;
        Identity {
            namespace: m.namespace,
            name: m.name,
            resource_version: m.resource_version,
        }
    }
}

/// The frames of a watch response.
pub struct WatchStream {
    body: Body,
    buffer: BytesMut,
    protobuf: bool,
    /// No newline before this offset.
    scanned: usize,
    codec: Codec,
}

#[derive(Deserialize)]
struct JsonFrame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
struct BookmarkMeta {
    #[serde(default, rename = "resourceVersion")]
    resource_version: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct BookmarkView {
    #[serde(default)]
    metadata: BookmarkMeta,
}

impl WatchStream {
    /// Of a response to a watch request.
    pub fn new(response: http::Response<Body>, codec: Codec) -> WatchStream {
        let protobuf = response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.starts_with(codec::PROTOBUF));
        WatchStream {
            body: response.into_body(),
            buffer: BytesMut::new(),
            protobuf,
            scanned: 0,
            codec,
        }
    }

    /// The next event; `None` when the server ended the watch. A failure Status sent inside the stream is an error. After
    /// [`Error::Decode`] the stream goes on behind the frame.
    pub async fn next<V: DeserializeOwned>(&mut self) -> Result<Option<WatchEvent<V>>> {
        loop {
            if let Some(frame) = self.frame()? {
                return self.decode(&frame).map(Some);
            }
            match self.body.chunk().await? {
                None => return Ok(None),
                Some(chunk) => {
                    if self.buffer.len() + chunk.len() > FRAME_LIMIT {
                        return Err(Error::TooLarge(FRAME_LIMIT));
                    }
                    self.buffer.extend_from_slice(&chunk);
                }
            }
        }
    }

    fn frame(&mut self) -> Result<Option<Bytes>> {
        if self.protobuf {
            let Some((head, _)) = self.buffer.split_first_chunk::<4>() else {
                return Ok(None);
            };
            let length = u32::from_be_bytes(*head) as usize;
            if length > FRAME_LIMIT {
                return Err(Error::TooLarge(FRAME_LIMIT));
            }
            if self.buffer.len() < 4 + length {
                return Ok(None);
            }
            self.buffer.advance(4);
            return Ok(Some(self.buffer.split_to(length).freeze()));
        }
        loop {
            let rest = self.buffer.get(self.scanned..).unwrap_or_default();
            let Some(end) = rest.iter().position(|b| *b == b'\n') else {
                self.scanned = self.buffer.len();
                return Ok(None);
            };
            let line = self.buffer.split_to(self.scanned + end + 1).freeze();
            self.scanned = 0;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn decode<V: DeserializeOwned>(&self, frame: &[u8]) -> Result<WatchEvent<V>> {
        let fail = |message: String| Error::Decode {
            what: "watch event".into(),
            message,
        };
        let (kind, object) = if self.protobuf {
            wire::envelope::watch_event(frame).map_err(|e| fail(e.to_string()))?
        } else {
            let f: JsonFrame<'_> =
                serde_json::from_slice(frame).map_err(|e| fail(e.to_string()))?;
            (f.kind, f.object.get().as_bytes())
        };
        let read = |event: fn(V) -> WatchEvent<V>| match self.codec.decode(object) {
            Ok(v) => event(v),
            Err(error) => WatchEvent::Unreadable {
                object: Identity::of(&self.codec, object),
                gone: kind == "DELETED",
                error,
            },
        };
        match kind {
            "ADDED" => Ok(read(WatchEvent::Added)),
            "MODIFIED" => Ok(read(WatchEvent::Modified)),
            "DELETED" => Ok(read(WatchEvent::Deleted)),
            "BOOKMARK" => {
                let b: BookmarkView = self.codec.decode(object)?;
                Ok(WatchEvent::Bookmark {
                    resource_version: b.metadata.resource_version,
                    initial_events_end: b
                        .metadata
                        .annotations
                        .get("k8s.io/initial-events-end")
                        .is_some_and(|v| v == "true"),
                })
            }
            "ERROR" => Err(match codec::decode_status(object) {
                Some(status) => Error::Api(Box::new(status)),
                None => Error::Transport(
                    "the server ended the watch with an error it did not describe".into(),
                ),
            }),
            other => Err(fail(format!("unknown type {other:?}"))),
        }
    }
}
