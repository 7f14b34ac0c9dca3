//! `IntOrString`: a number, or a string such as `50%` or a port name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A number or a string.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i32),
    /// A string.
    String(String),
}

impl IntOrString {
    /// From a field of an object; `None` for other types.
    pub fn from_value(value: &Value) -> Option<IntOrString> {
        match value {
            Value::String(s) => Some(IntOrString::String(s.clone())),
            Value::Number(n) => n
                .as_i64()
                .and_then(|i| i32::try_from(i).ok())
                .map(IntOrString::Int),
            _ => None,
        }
    }

    /// The number, or the percentage of `total` that the string asks for.
    ///
    /// # Errors
    /// Upstream's message for strings that are not a percentage.
    pub fn scaled(&self, total: i32, round_up: bool) -> Result<i32, String> {
        match self {
            IntOrString::Int(i) => Ok(*i),
            IntOrString::String(s) => {
                let percent = s.strip_suffix('%').ok_or(
                    "invalid value for IntOrString: invalid type: string is not a percentage",
                )?;
                let p: i64 = percent.parse().map_err(|_| format!("invalid value for IntOrString: invalid value {s:?}: strconv.Atoi: parsing {percent:?}: invalid syntax"))?;
                let product = p.saturating_mul(i64::from(total));
                let v = if round_up {
                    product.saturating_add(99).div_euclid(100)
                } else {
                    product.div_euclid(100)
                };
                i32::try_from(v)
                    .map_err(|_| "invalid value for IntOrString: out of range".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        let p = IntOrString::String("25%".into());
        assert_eq!((p.scaled(10, true), p.scaled(10, false)), (Ok(3), Ok(2)));
        assert_eq!(IntOrString::Int(7).scaled(1, true), Ok(7));
        assert!(IntOrString::String("x".into()).scaled(1, true).is_err());
    }
}
