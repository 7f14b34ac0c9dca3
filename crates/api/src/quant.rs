//! Quantities as validation and printing need them: compared exactly, printed as they were written (the decoder has put
//! them in canonical form).

use std::cmp::Ordering;

use serde_json::Value;
use wire::quantity::Quantity;

/// Billionths.
const NANO: i128 = 1_000_000_000;

/// A quantity.
#[derive(Clone, Debug, Default)]
pub struct Quant {
    nano: i128,
    text: String,
}

/// The quantity in a JSON string or number; zero for anything else.
pub fn of(v: &Value) -> Quant {
    match v {
        Value::String(s) => parse(s).unwrap_or_default(),
        Value::Number(n) => parse(&n.to_string()).unwrap_or_default(),
        _ => Quant {
            nano: 0,
            text: "0".into(),
        },
    }
}

/// Parses `1`, `1.5Gi`, `100m`, `1e3`. What is finer than a billionth is rounded away from zero.
pub fn parse(s: &str) -> Option<Quant> {
    Some(Quant {
        nano: Quantity::parse(s).ok()?.nanos(),
        text: s.to_owned(),
    })
}

impl Quant {
    /// Below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Above zero.
    pub fn is_positive(&self) -> bool {
        self.nano > 0
    }

    /// Zero.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether there is nothing after the point.
    pub fn is_integer(&self) -> bool {
        self.nano % NANO == 0
    }

    /// Thousandths, rounded up.
    pub fn milli(&self) -> i128 {
        div_up(self.nano, NANO / 1000)
    }

    /// Ones, rounded up.
    pub fn value(&self) -> i128 {
        div_up(self.nano, NANO)
    }

    /// Whether this is a whole multiple of another.
    pub fn is_multiple_of(&self, other: &Quant) -> bool {
        other.nano != 0 && self.nano % other.nano == 0
    }

    /// The sum, printed in this one's units where it can be.
    #[must_use]
    pub fn add(&self, other: &Quant) -> Quant {
        let nano = self.nano.saturating_add(other.nano);
        let binary = self.text.ends_with('i') || self.nano == 0 && other.text.ends_with('i');
        Quant {
            nano,
            text: print(nano, binary),
        }
    }
}

fn div_up(n: i128, d: i128) -> i128 {
    if n >= 0 {
        n.saturating_add(d - 1) / d
    } else {
        n / d
    }
}

fn print(nano: i128, binary: bool) -> String {
    if nano % NANO != 0 {
        for (unit, size) in [("m", NANO / 1000), ("u", 1000), ("n", 1)] {
            if nano % size == 0 {
                return format!("{}{unit}", nano / size);
            }
        }
    }
    let n = nano / NANO;
    let (base, units): (i128, &[&str]) = if binary {
        (1024, &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
    } else {
        (1000, &["", "k", "M", "G", "T", "P", "E"])
    };
    let mut n = n;
    let mut unit = "";
    for u in units.iter().skip(1) {
        if n == 0 || n % base != 0 {
            break;
        }
        n /= base;
        unit = u;
    }
    format!("{n}{unit}")
}

impl std::fmt::Display for Quant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.text.is_empty() {
            "0"
        } else {
            &self.text
        })
    }
}

impl PartialEq for Quant {
    fn eq(&self, other: &Quant) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quant {}

impl PartialOrd for Quant {
    fn partial_cmp(&self, other: &Quant) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quant {
    fn cmp(&self, other: &Quant) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_compares() {
        let q = |s: &str| parse(s).unwrap();
        assert_eq!(q("1"), q("1000m"));
        assert_eq!(q("1Ki"), q("1024"));
        assert_eq!(q("1.5Gi"), q("1536Mi"));
        assert_eq!(q("1e3"), q("1k"));
        assert!(q("-1").is_negative());
        assert!(!q("100m").is_integer());
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("0.1").milli(), 100);
        assert!(parse("abc").is_none() && parse("").is_none() && parse("1x").is_none());
        assert_eq!(q("100m").add(&q("900m")).to_string(), "1");
        assert_eq!(q("64Mi").add(&q("64Mi")).to_string(), "128Mi");
        assert_eq!(q("100m").add(&q("250m")).to_string(), "350m");
    }
}
