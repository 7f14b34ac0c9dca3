//! What a ResourceClaim counts for: itself, and the devices that it may be given of each device class.

use serde::Deserialize;

use super::{Amounts, Countable, Identity, Measured, Meta, add, count, nullable, raise};
use crate::quantity::{Format, Quantity};

/// The group of ResourceClaims.
pub const GROUP: &str = "resource.k8s.io";
const COUNT: &str = "count/resourceclaims.resource.k8s.io";
const BY_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices that a claim can be given at most.
const MOST: i64 = 32;

/// Whether resource claims count for what a quota names.
pub fn tracks(name: &str) -> bool {
    name == COUNT || name.ends_with(BY_CLASS)
}

/// The fields that matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaim {
    #[serde(deserialize_with = "nullable")]
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(deserialize_with = "nullable")]
    devices: Devices,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Devices {
    #[serde(deserialize_with = "nullable")]
    requests: Vec<Request>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Request {
    exactly: Option<Devs>,
    #[serde(deserialize_with = "nullable")]
    first_available: Vec<Devs>,
    /// In v1beta1, what is `exactly` later stands here.
    #[serde(deserialize_with = "nullable")]
    device_class_name: String,
    #[serde(deserialize_with = "nullable")]
    allocation_mode: String,
    #[serde(deserialize_with = "nullable")]
    count: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Devs {
    #[serde(deserialize_with = "nullable")]
    device_class_name: String,
    #[serde(deserialize_with = "nullable")]
    allocation_mode: String,
    #[serde(deserialize_with = "nullable")]
    count: i64,
}

impl Devs {
    /// A mode that is not known counts for nothing.
    fn amounts(&self) -> Amounts {
        let n = match self.allocation_mode.as_str() {
            "ExactCount" => self.count,
            "All" => MOST,
            _ => 0,
        };
        let name = format!("{}{BY_CLASS}", self.device_class_name);
        Amounts::from([(name, Quantity::new(n, Format::DecimalSi))])
    }
}

impl Request {
    /// Of alternatives, the most that any takes of a class.
    fn amounts(&self) -> Amounts {
        if !self.first_available.is_empty() {
            let mut most = Amounts::new();
            for one in &self.first_available {
                raise(&mut most, &one.amounts());
            }
            most.retain(|_, q| !q.is_zero());
            return most;
        }
        match &self.exactly {
            Some(exactly) => exactly.amounts(),
            None if !self.device_class_name.is_empty() => Devs {
                device_class_name: self.device_class_name.clone(),
                allocation_mode: self.allocation_mode.clone(),
                count: self.count,
            }
            .amounts(),
            None => Amounts::new(),
        }
    }
}

impl Countable for ResourceClaim {
    fn identity(&self) -> Identity {
        self.metadata.identity()
    }

    fn measure(&self) -> Measured {
        let mut stored = Amounts::from([(COUNT.to_owned(), count(1))]);
        for request in &self.spec.devices.requests {
            add(&mut stored, &request.amounts());
        }
        Measured {
            stored,
            ..Measured::default()
        }
    }
}
