//! Views: small owned structs of the fields a component reads.
//!
//! A view is any `#[derive(Deserialize)]` struct with `metadata`; fields it does not name are skipped, in protobuf by
//! length. Fields should have `#[serde(default)]`: the apiserver leaves empty ones out.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// `metav1.Time`, whole seconds in UTC when printed by the apiserver. Objects may have times up to the end of the year 9999,
/// which is a little more than [`jiff::Timestamp`] holds: these are read as its last moment, so that no object is kept from
/// being read by a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Time(jiff::Timestamp);

impl Time {
    /// 1970-01-01T00:00:00Z
    pub const UNIX_EPOCH: Time = Time(jiff::Timestamp::UNIX_EPOCH);
    /// The last moment.
    pub const MAX: Time = Time(jiff::Timestamp::MAX);

    /// Now.
    pub fn now() -> Time {
        Time(jiff::Timestamp::now())
    }

    /// Seconds since 1970.
    ///
    /// # Errors
    /// A moment that [`jiff::Timestamp`] cannot hold.
    pub fn from_second(seconds: i64) -> Result<Time, jiff::Error> {
        jiff::Timestamp::from_second(seconds).map(Time)
    }

    /// Nanoseconds since 1970.
    ///
    /// # Errors
    /// As of [`Time::from_second`].
    pub fn from_nanosecond(nanos: i128) -> Result<Time, jiff::Error> {
        jiff::Timestamp::from_nanosecond(nanos).map(Time)
    }

    /// Nanoseconds since 1970.
    pub fn as_nanosecond(self) -> i128 {
        self.0.as_nanosecond()
    }

    /// Seconds since 1970.
    pub fn as_second(self) -> i64 {
        self.0.as_second()
    }

    /// How long after another it is; negative when before.
    pub fn duration_since(self, other: Time) -> jiff::SignedDuration {
        self.0.duration_since(other.0)
    }

    /// A later, or with a negative duration an earlier moment.
    ///
    /// # Errors
    /// As of [`Time::from_second`].
    pub fn checked_add(self, by: jiff::SignedDuration) -> Result<Time, jiff::Error> {
        self.0.checked_add(by).map(Time)
    }
}

impl std::ops::Deref for Time {
    type Target = jiff::Timestamp;

    fn deref(&self) -> &jiff::Timestamp {
        &self.0
    }
}

impl From<jiff::Timestamp> for Time {
    fn from(t: jiff::Timestamp) -> Time {
        Time(t)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Time {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Time, jiff::Error> {
        text.parse().map(Time).or_else(|e| {
            // What is a time all the same is too late.
            let time = api::time::parse_rfc3339(text).ok();
            time.map(|_| Time::MAX).ok_or(e)
        })
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Time, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Time;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a time")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Time, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_str(Text)
    }
}

/// What informers, stores and listers need to know of an object.
pub trait View: DeserializeOwned + Send + Sync + 'static {
    /// `metadata.name`
    fn name(&self) -> &str;
    /// `metadata.namespace`, empty for cluster-scoped objects.
    fn namespace(&self) -> &str;
    /// `metadata.resourceVersion`
    fn resource_version(&self) -> &str;
    /// `metadata.uid`
    fn uid(&self) -> &str;
}

/// Implements [`View`] for structs whose `metadata` field has `name`, `namespace`, `resource_version` and `uid`.
#[macro_export]
macro_rules! views {
    ($($t:ty),* $(,)?) => { $(
        impl $crate::View for $t {
            fn name(&self) -> &str { &self.metadata.name }
            fn namespace(&self) -> &str { &self.metadata.namespace }
            fn resource_version(&self) -> &str { &self.metadata.resource_version }
            fn uid(&self) -> &str { &self.metadata.uid }
        }
    )* };
}

/// `metav1.ObjectMeta` without `managedFields`, `selfLink` and the annotations' heavier cousin, see [`SlimMeta`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Namespace, empty for cluster-scoped objects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Opaque version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Generation of the desired state.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// When the object was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Time>,
    /// When graceful deletion ends; set means that the object is being deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Time>,
    /// Seconds of grace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<i64>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Owners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<OwnerReference>,
    /// Finalizers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
}

/// The part of `metav1.ObjectMeta` that readers of many objects need: no annotations, owners or finalizers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlimMeta {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Namespace, empty for cluster-scoped objects.
    #[serde(default)]
    pub namespace: String,
    /// UID.
    #[serde(default)]
    pub uid: String,
    /// Opaque version.
    #[serde(default)]
    pub resource_version: String,
    /// Set means that the object is being deleted.
    #[serde(default)]
    pub deletion_timestamp: Option<Time>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// `metav1.OwnerReference`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// Of the owner.
    pub api_version: String,
    /// Of the owner.
    pub kind: String,
    /// Of the owner.
    pub name: String,
    /// Of the owner.
    pub uid: String,
    /// Whether this owner manages the object; at most one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether foreground deletion of the owner waits for this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

impl ObjectMeta {
    /// The owner that manages the object.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references
            .iter()
            .find(|o| o.controller == Some(true))
    }

    /// Whether deletion was asked for.
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }
}

/// Metadata of any object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct MetaView {
    /// Metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

views!(MetaView);

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// For `#[serde(default, deserialize_with = "client::view::nullable")]`: reads `null` as the default value.
pub fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// `metav1.Time` as Go prints it: `2006-01-02T15:04:05Z`.
pub fn print_time(t: impl Into<Time>) -> String {
    t.into().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime` as Go prints it: `2006-01-02T15:04:05.000000Z`.
pub fn print_micro_time(t: impl Into<Time>) -> String {
    t.into().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Serde for `metav1.MicroTime`.
pub mod micro_time {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Time;

    /// Writes six digits of fraction.
    pub fn serialize<S: Serializer>(t: &Option<Time>, s: S) -> Result<S::Ok, S::Error> {
        match t {
            Some(t) => s.serialize_str(&super::print_micro_time(*t)),
            None => s.serialize_none(),
        }
    }

    /// Reads any RFC 3339 time.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Time>, D::Error> {
        Option::<Time>::deserialize(d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Object {
        metadata: ObjectMeta,
    }

    #[test]
    fn a_time_at_its_end_keeps_no_object_from_being_read() {
        let pod = api::schema::message("v1", "Pod").unwrap();
        for (text, want) in [
            ("9999-12-31T23:59:59Z", Time::MAX),
            ("9999-12-30T23:00:00Z", Time::MAX),
            (
                "0000-01-01T00:00:00Z",
                Time::from_second(-62_167_219_200).unwrap(),
            ),
            ("1970-01-01T00:00:00Z", Time::UNIX_EPOCH),
        ] {
            let value = serde_json::json!({"metadata": {"name": "a", "deletionTimestamp": text}});
            let json: Object = serde_json::from_value(value.clone()).unwrap();
            let bytes = wire::proto::value_to_vec(&value, pod).unwrap();
            let proto: Object = wire::proto::from_slice(&bytes, pod).unwrap();
            for o in [json, proto] {
                assert_eq!(o.metadata.deletion_timestamp, Some(want), "{text}");
            }
        }
        assert!("9999-13-31T23:59:59Z".parse::<Time>().is_err());
        assert!("soon".parse::<Time>().is_err());
    }
}
