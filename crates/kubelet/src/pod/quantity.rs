//! Resource quantities as the kubelet computes with them.
//!
//! Values are kept in billionths (`n`), which is the finest step the API knows; everything saturates, nothing panics.

const NANO: i128 = 1_000_000_000;

/// A quantity in billionths of its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(pub i128);

impl Quantity {
    /// Parses `100m`, `1.5Gi`, `2e3`, …; `None` when the text is no quantity.
    pub fn parse(text: &str) -> Option<Quantity> {
        let parsed = wire::quantity::Quantity::parse(text).ok()?;
        Some(Quantity(parsed.nanos()))
    }

    /// From whole units.
    pub fn whole(v: i64) -> Quantity {
        Quantity(i128::from(v) * NANO)
    }

    /// In whole units, rounded up.
    pub fn value(self) -> i64 {
        saturated(div_ceil(self.0, NANO))
    }

    /// In thousandths, rounded up.
    pub fn milli(self) -> i64 {
        saturated(div_ceil(self.0, NANO / 1000))
    }

    /// The quotient with `divisor`, rounded up, as the downward API prints it.
    pub fn divided_by(self, divisor: Quantity) -> i64 {
        if divisor.0 <= 0 {
            return self.value();
        }
        saturated(div_ceil(self.0, divisor.0))
    }

    /// CPU in canonical text: whole cores or millicores.
    pub fn cpu_text(self) -> String {
        let m = self.milli();
        if m % 1000 == 0 {
            (m / 1000).to_string()
        } else {
            format!("{m}m")
        }
    }

    /// Bytes in canonical text: the largest binary suffix that divides the value.
    pub fn bytes_text(self) -> String {
        let mut v = self.value();
        let mut suffix = "";
        for s in ["Ki", "Mi", "Gi", "Ti", "Pi"] {
            if v == 0 || v % 1024 != 0 {
                break;
            }
            v /= 1024;
            suffix = s;
        }
        format!("{v}{suffix}")
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, o: Quantity) -> Quantity {
        Quantity(self.0.saturating_add(o.0))
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, o: Quantity) -> Quantity {
        Quantity(self.0.saturating_sub(o.0))
    }
}

fn saturated(v: i128) -> i64 {
    i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX })
}

fn div_ceil(a: i128, b: i128) -> i128 {
    if b == 0 {
        return a;
    }
    let q = a / b;
    if a % b != 0 && (a > 0) == (b > 0) {
        q + 1
    } else {
        q
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_every_suffix() {
        for (text, milli) in [
            ("100m", 100),
            ("1", 1000),
            ("1.5", 1500),
            ("0.1", 100),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("2e3", 2_000_000),
            ("1E", 1_000_000_000_000_000_000_000u128 as i64),
            ("100u", 1),
            ("-1", -1000),
        ] {
            if text == "1E" {
                assert_eq!(
                    Quantity::parse(text).unwrap().value(),
                    1_000_000_000_000_000_000
                );
                continue;
            }
            assert_eq!(Quantity::parse(text).unwrap().milli(), milli, "{text}");
        }
        let (most, least) = (Quantity(i128::MAX), Quantity(i128::MIN));
        assert_eq!((most.value(), most.milli()), (i64::MAX, i64::MAX));
        assert_eq!((least.value(), least.milli()), (i64::MIN, i64::MIN));
        for bad in ["", "x", "1x", "1.2.3", "--1", "e"] {
            assert_eq!(Quantity::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn prints_canonically() {
        assert_eq!(Quantity::parse("1500m").unwrap().cpu_text(), "1500m");
        assert_eq!(Quantity::parse("2000m").unwrap().cpu_text(), "2");
        assert_eq!(Quantity::parse("1.5Gi").unwrap().bytes_text(), "1536Mi");
        assert_eq!(Quantity::whole(1000).bytes_text(), "1000");
        assert_eq!(
            Quantity::parse("250m")
                .unwrap()
                .divided_by(Quantity::whole(1)),
            1
        );
    }
}
