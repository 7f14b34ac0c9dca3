//! Quantities: `100m`, `1.5Gi`, `1e3`. Source: upstream's `apimachinery/pkg/api/resource`.
//!
//! A value is a fixed-point number of nanos (10⁻⁹) in 128 bits, which covers what the format can express up to about
//! 1.7·10²⁹; larger values saturate. Values finer than a nano are rounded away from zero, as upstream does.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a quantity prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `12Mi`
    BinarySi,
    /// `12M`
    #[default]
    DecimalSi,
    /// `12e6`
    DecimalExponent,
}

/// An amount of a resource. Equality and order compare amounts, not formats.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity; the texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text does not have the form of a quantity.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The digits cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANOS: i128 = 1_000_000_000;
/// The cap of binary quantities, 2⁶³-1.
const MAX_BINARY: i128 = i64::MAX as i128 * NANOS;

struct Parts<'a> {
    positive: bool,
    num: &'a str,
    denom: &'a str,
    suffix: &'a str,
}

fn split(s: &str) -> Result<Parts<'_>, QuantityError> {
    let (positive, body) = match s.as_bytes().first() {
        Some(b'-') => (false, s.get(1..).unwrap_or_default()),
        Some(b'+') => (true, s.get(1..).unwrap_or_default()),
        _ => (true, s),
    };
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let at = digits(body);
    let (num, rest) = body.split_at(at);
    let (denom, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = suffix
        .bytes()
        .take_while(|b| b"eEinumkKMGTP".contains(b))
        .count();
    let tail = suffix.get(letters..).unwrap_or_default();
    let tail = tail.strip_prefix(['+', '-']).unwrap_or(tail);
    if !tail.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    Ok(Parts {
        positive,
        num: num.trim_start_matches('0'),
        denom,
        suffix,
    })
}

/// Base-10 exponent, or base-2 exponent, of a suffix.
fn suffix(s: &str) -> Result<(u32, i32, Format), QuantityError> {
    Ok(match s {
        "n" => (10, -9, Format::DecimalSi),
        "u" => (10, -6, Format::DecimalSi),
        "m" => (10, -3, Format::DecimalSi),
        "" => (10, 0, Format::DecimalSi),
        "k" => (10, 3, Format::DecimalSi),
        "M" => (10, 6, Format::DecimalSi),
        "G" => (10, 9, Format::DecimalSi),
        "T" => (10, 12, Format::DecimalSi),
        "P" => (10, 15, Format::DecimalSi),
        "E" => (10, 18, Format::DecimalSi),
        "Ki" => (2, 10, Format::BinarySi),
        "Mi" => (2, 20, Format::BinarySi),
        "Gi" => (2, 30, Format::BinarySi),
        "Ti" => (2, 40, Format::BinarySi),
        "Pi" => (2, 50, Format::BinarySi),
        "Ei" => (2, 60, Format::BinarySi),
        _ => match s.strip_prefix(['e', 'E']) {
            Some(e) if !e.is_empty() => {
                let e: i64 = e.parse().map_err(|_| QuantityError::Suffix)?;
                (10, e.clamp(-1000, 1000) as i32, Format::DecimalExponent)
            }
            _ => return Err(QuantityError::Suffix),
        },
    })
}

/// `digits * 10^exponent`, rounded up to an integer, saturating.
fn scale10(num: &str, denom: &str, exponent: i32) -> i128 {
    // Digits that can matter: more than 38 saturate or are only sticky.
    let mut value: i128 = 0;
    let mut exponent = exponent.saturating_sub(i32::try_from(denom.len()).unwrap_or(i32::MAX));
    let mut sticky = false;
    let mut full = false;
    for d in num.bytes().chain(denom.bytes()) {
        let d = i128::from(d - b'0');
        if !full && let Some(v) = value.checked_mul(10).and_then(|v| v.checked_add(d)) {
            value = v;
        } else {
            full = true;
            sticky |= d > 0;
            exponent = exponent.saturating_add(1);
        }
    }
    if value == 0 {
        return 0;
    }
    while exponent > 0 {
        match value.checked_mul(10) {
            Some(v) => value = v,
            None => return i128::MAX,
        }
        exponent -= 1;
    }
    while exponent < 0 && value > 0 {
        sticky |= value % 10 != 0;
        value /= 10;
        exponent += 1;
    }
    if sticky {
        value.saturating_add(1)
    } else {
        value
    }
}

impl Quantity {
    /// Zero, printed `0`.
    pub const ZERO: Quantity = Quantity {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// A whole number.
    pub const fn new(value: i64, format: Format) -> Quantity {
        Quantity {
            nanos: value as i128 * NANOS,
            format,
        }
    }

    /// Thousandths.
    pub const fn from_milli(value: i64, format: Format) -> Quantity {
        Quantity {
            nanos: value as i128 * 1_000_000,
            format,
        }
    }

    /// Reads upstream's syntax.
    pub fn parse(s: &str) -> Result<Quantity, QuantityError> {
        if s.is_empty() {
            return Err(QuantityError::Format);
        }
        let p = split(s)?;
        let (base, exponent, format) = suffix(p.suffix)?;
        if s.trim_start_matches(['+', '-'])
            .bytes()
            .next()
            .is_none_or(|b| !b.is_ascii_digit() && b != b'.')
        {
            return Err(QuantityError::Numeric);
        }
        let mut nanos = if base == 10 {
            scale10(p.num, p.denom, exponent + 9)
        } else {
            let mult = 1i128 << exponent;
            let whole = scale10(p.num, "", 0)
                .saturating_mul(mult)
                .saturating_mul(NANOS);
            // The fraction in 10⁻¹⁸, times 2^exponent, then in nanos, rounded up.
            let fraction = scale10("", p.denom, 18).saturating_mul(mult);
            whole
                .saturating_add(fraction / NANOS + i128::from(fraction % NANOS != 0))
                .min(MAX_BINARY)
        };
        let mut format = format;
        if format == Format::BinarySi && nanos > 0 && nanos < NANOS {
            format = Format::DecimalSi;
        }
        if !p.positive {
            nanos = -nanos;
        }
        Ok(Quantity { nanos, format })
    }

    /// The text that upstream prints after reading `s`: the canonical form, except that some texts which are canonical
    /// enough are kept as they are (`1.500`).
    pub fn canonical(s: &str) -> Result<Cow<'_, str>, QuantityError> {
        let q = Quantity::parse(s)?;
        if s == "0" {
            return Ok(Cow::Borrowed(s));
        }
        let p = split(s)?;
        let (base, exponent, _) = suffix(p.suffix)?;
        let digits = p.num.len() + p.denom.len();
        let keep = if base == 10 {
            let scale = exponent - i32::try_from(p.denom.len()).unwrap_or(i32::MAX);
            let first = p.num.bytes().chain(p.denom.bytes()).next();
            let zeros = p
                .num
                .bytes()
                .chain(p.denom.bytes())
                .rev()
                .take(3)
                .filter(|b| *b == b'0')
                .count()
                == 3;
            digits <= 18
                && scale >= -9
                && scale % 3 == 0
                && !zeros
                && first.is_some_and(|b| b != b'0')
        } else {
            let room = 15 - digits as i32 - (exponent as f32 * 3.0 / 10.0) as i32 - 1;
            p.denom.is_empty()
                && room >= 0
                && exponent % 10 == 0
                && p.num.parse::<i64>().is_ok_and(|v| v & 7 != 0)
        };
        if keep {
            return Ok(Cow::Borrowed(s));
        }
        let text = q.to_string();
        Ok(if text == s {
            Cow::Borrowed(s)
        } else {
            Cow::Owned(text)
        })
    }

    /// How it prints.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    fn ceil(&self, unit: i128) -> i64 {
        let q = self.nanos.div_euclid(unit) + i128::from(self.nanos.rem_euclid(unit) != 0);
        i64::try_from(q).unwrap_or(if q < 0 { i64::MIN } else { i64::MAX })
    }

    /// The value rounded up to a whole number; saturates at the bounds of `i64`.
    pub fn value(&self) -> i64 {
        self.ceil(NANOS)
    }

    /// Thousandths rounded up; saturates.
    pub fn milli_value(&self) -> i64 {
        self.ceil(1_000_000)
    }

    /// The value in units of 10⁻⁹; exact.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// As a float, possibly rounded.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / 1e9
    }

    /// The whole number it is, if it is one and fits.
    pub fn as_i64(&self) -> Option<i64> {
        if self.nanos % NANOS != 0 {
            None
        } else {
            i64::try_from(self.nanos / NANOS).ok()
        }
    }
}

impl Add for Quantity {
    type Output = Quantity;
    /// Takes the format of the first operand that is not zero; saturates.
    fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        Quantity {
            nanos: self.nanos.saturating_add(other.nanos),
            format,
        }
    }
}

impl Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        Quantity {
            nanos: self.nanos.saturating_sub(other.nanos),
            format,
        }
    }
}

impl Neg for Quantity {
    type Output = Quantity;
    fn neg(self) -> Quantity {
        Quantity {
            nanos: self.nanos.saturating_neg(),
            format: self.format,
        }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANOS == 0;
        if self.format == Format::BinarySi
            && whole
            && self.nanos.unsigned_abs() >= 1024 * NANOS.unsigned_abs()
        {
            let mut v = self.nanos / NANOS;
            let mut at = 0;
            while v % 1024 == 0 && at < 6 {
                v /= 1024;
                at += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
                .get(at)
                .copied()
                .unwrap_or_default();
            return write!(f, "{v}{suffix}");
        }
        let mut v = self.nanos;
        let mut exponent = -9i32;
        let limit = if self.format == Format::DecimalExponent {
            i32::MAX
        } else {
            18
        };
        while v % 1000 == 0 && exponent < limit {
            v /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 {
                write!(f, "{v}")
            } else {
                write!(f, "{v}e{exponent}")
            };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        };
        write!(f, "{v}{suffix}")
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(s: &str) -> Result<Quantity, QuantityError> {
        Quantity::parse(s)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Quantity, D::Error> {
        struct V;
        impl serde::de::Visitor<'_> for V {
            type Value = Quantity;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity")
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Quantity, E> {
                Quantity::parse(s.trim()).map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Quantity, E> {
                Ok(Quantity::new(v, Format::DecimalSi))
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Quantity, E> {
                Ok(Quantity {
                    nanos: i128::from(v) * NANOS,
                    format: Format::DecimalSi,
                })
            }
            fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Quantity, E> {
                Quantity::parse(&v.to_string()).map_err(E::custom)
            }
        }
        d.deserialize_any(V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (input, output) in [
            ("0", "0"),
            ("0n", "0"),
            ("0Ki", "0"),
            ("0e3", "0"),
            ("1", "1"),
            ("1000", "1k"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            ("100Mi", "100Mi"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1Ki", "1Ki"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            ("-0.0001Ki", "-102400u"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1000000e3", "1e9"),
            ("100e-3", "100e-3"),
            ("5E", "5E"),
            ("9223372036854775807", "9223372036854775807"),
            ("1000Ei", "9223372036854775807"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-1", "-1"),
            ("-1000m", "-1"),
            ("-0.5Gi", "-512Mi"),
            ("1.1Mi", "1153433600m"),
            ("0.1Mi", "104857600m"),
            ("12.34M", "12340k"),
            ("010", "010"),
            ("3.000", "3"),
            ("1000k", "1M"),
        ] {
            assert_eq!(Quantity::canonical(input).unwrap(), output, "{input}");
        }
    }

    #[test]
    fn errors() {
        for (input, error) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1 ", QuantityError::Format),
            ("1x", QuantityError::Format),
            ("1.1.M", QuantityError::Format),
            ("1+1.0M", QuantityError::Format),
            ("1i", QuantityError::Suffix),
            ("1mm", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1Mi3", QuantityError::Suffix),
        ] {
            assert_eq!(Quantity::parse(input).unwrap_err(), error, "{input}");
        }
    }

    #[test]
    fn arithmetic_and_order() {
        let q = |s: &str| Quantity::parse(s).unwrap();
        assert!(q("1000m") == q("1"));
        assert!(q("1Ki") > q("1k"));
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1001m").value(), 2);
        assert_eq!(q("-1500m").value(), -1);
        assert_eq!(q("1.0005").milli_value(), 1001);
        assert_eq!(q("2Gi").value(), 2 << 30);
        assert_eq!(q("1.5").as_i64(), None);
    }
}
