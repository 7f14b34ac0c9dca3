//! The forms of flag values, and the messages Go gives for bad ones.

use std::ops::RangeInclusive;

/// The form of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Any text.
    Text,
    /// `true` when bare.
    Bool,
    /// `--version`, `--version=raw`.
    Version,
    /// 64 bits.
    Int,
    /// 32 bits.
    Int32,
    /// A number.
    Float,
    /// `1m30s`.
    Duration,
    /// An address, or nothing.
    Ip,
    /// `ip:port`, `ip`, `port`.
    IpPort,
    /// `from-to`.
    PortRange,
    /// Comma-separated (CSV), repeatable.
    Strings,
    /// Repeatable, commas are kept.
    StringArray,
    /// `a=b,c=d`, repeatable.
    Map,
    /// `a=true,b=false`, repeatable.
    BoolMap,
    /// Numbers, comma-separated, repeatable.
    Int32s,
    /// A verbosity.
    Level,
    /// `pattern=N,pattern=N`, repeatable.
    Modules,
}

fn int_error(text: &str) -> String {
    format!("strconv.ParseInt: parsing {text:?}: invalid syntax")
}

pub(super) fn parse_bool(v: &str) -> Option<bool> {
    match v {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Type {
    /// The type by upstream's name; an unknown one is text.
    pub(super) fn named(flag: &str, name: &str) -> Type {
        match name {
            "bool" => Type::Bool,
            "version[=true]" => Type::Version,
            "int" => Type::Int,
            "Level" => Type::Level,
            "pattern=N,..." => Type::Modules,
            "int32" => Type::Int32,
            "float" | "float32" => Type::Float,
            "duration" => Type::Duration,
            "ip" => Type::Ip,
            "ipport" => Type::IpPort,
            "portRange" => Type::PortRange,
            "strings" | "[]v1.Taint" => Type::Strings,
            // `cert,key:name,name` keeps its comma.
            "stringArray" | "namedCertKey" | "reserved-memory" => Type::StringArray,
            // Maps of feature gates keep a component's prefix: `kube:A=true`.
            "colonSeparatedMultimapStringString" if flag != "feature-gates" => Type::Map,
            "mapStringString" | "stringToString" => Type::Map,
            "mapStringBool" | "colonSeparatedMultimapStringString" => Type::BoolMap,
            "int32Slice" => Type::Int32s,
            _ => Type::Text,
        }
    }

    /// As help shows it; empty for booleans.
    pub(super) fn name(self) -> &'static str {
        match self {
            Type::Bool => "",
            Type::Text => "string",
            Type::Version => "version[=true]",
            Type::Int => "int",
            Type::Int32 => "int32",
            Type::Float => "float",
            Type::Duration => "duration",
            Type::Ip => "ip",
            Type::IpPort => "ipport",
            Type::PortRange => "portRange",
            Type::Strings => "strings",
            Type::StringArray => "stringArray",
            Type::Map => "mapStringString",
            Type::BoolMap => "mapStringBool",
            Type::Int32s => "int32Slice",
            Type::Level => "Level",
            Type::Modules => "pattern=N,...",
        }
    }

    /// The value of the flag without `=value`, where it needs none.
    pub(super) fn bare(self) -> Option<String> {
        matches!(self, Type::Bool | Type::Version).then(|| "true".to_owned())
    }

    /// Whether several uses add up.
    pub(super) fn is_many(self) -> bool {
        matches!(
            self,
            Type::Strings
                | Type::StringArray
                | Type::Map
                | Type::BoolMap
                | Type::Int32s
                | Type::Modules
        )
    }

    pub(super) fn zero(self) -> Vec<String> {
        let one = match self {
            Type::Bool | Type::Version => "false",
            Type::Int | Type::Int32 | Type::Float | Type::Level => "0",
            Type::Duration => "0s",
            Type::Text | Type::Ip | Type::IpPort | Type::PortRange => "",
            _ => return Vec::new(),
        };
        vec![one.to_owned()]
    }

    /// Checks a text and splits it into its items (one, except for lists and maps).
    pub(super) fn items(self, text: &str) -> Result<Vec<String>, String> {
        let one = || Ok(vec![text.trim().to_owned()]);
        match self {
            Type::Text => Ok(vec![text.to_owned()]),
            Type::StringArray => Ok(vec![text.to_owned()]),
            Type::Bool => match parse_bool(text) {
                Some(b) => Ok(vec![b.to_string()]),
                None => Err(format!(
                    "strconv.ParseBool: parsing {text:?}: invalid syntax"
                )),
            },
            Type::Version => match text {
                "raw" => one(),
                _ => Type::Bool.items(text),
            },
            Type::Int => text
                .parse::<i64>()
                .map_err(|_| int_error(text))
                .and_then(|_| one()),
            Type::Int32 => text
                .parse::<i32>()
                .map_err(|_| int_error(text))
                .and_then(|_| one()),
            Type::Float => match text.parse::<f64>() {
                Ok(_) => one(),
                Err(_) => Err(format!(
                    "strconv.ParseFloat: parsing {text:?}: invalid syntax"
                )),
            },
            Type::Duration => crate::duration::parse_nanos(text.trim()).and_then(|_| one()),
            Type::Ip => match text.trim() {
                "" => one(),
                t if t.parse::<std::net::IpAddr>().is_ok() => one(),
                _ => Err(format!("failed to parse IP: {text:?}")),
            },
            Type::IpPort => {
                let t = text.trim();
                let ok = t.is_empty()
                    || t.parse::<std::net::IpAddr>().is_ok()
                    || t.parse::<std::net::SocketAddr>().is_ok()
                    || t.parse::<u16>().is_ok();
                if ok {
                    one()
                } else {
                    Err(format!("{text:?} is not a valid IP or IP:port"))
                }
            }
            Type::PortRange => port_range(text).and_then(|_| one()),
            Type::Strings => csv(text),
            Type::Level => crate::logging::parse_verbosity(text).and_then(|_| one()),
            Type::Modules => {
                let items = text.split(',').filter(|i| !i.is_empty());
                items
                    .map(|i| crate::logging::Module::parse(i).map(|_| i.to_owned()))
                    .collect()
            }
            Type::Int32s => {
                let items: Vec<String> = text.split(',').map(|s| s.trim().to_owned()).collect();
                match items.iter().find(|i| i.parse::<i32>().is_err()) {
                    Some(bad) => Err(int_error(bad)),
                    None => Ok(items),
                }
            }
            Type::Map | Type::BoolMap => {
                let items: Vec<String> = text
                    .split(',')
                    .map(|s| s.trim().to_owned())
                    .filter(|s| !s.is_empty())
                    .collect();
                for item in &items {
                    match item.split_once('=') {
                        None if self == Type::BoolMap => {
                            return Err(format!("missing bool value for {item}"));
                        }
                        // A key alone switches on in --runtime-config.
                        None => {}
                        Some((k, v)) if self == Type::BoolMap && parse_bool(v.trim()).is_none() => {
                            return Err(format!(
                                "invalid value of {k}={v}, err: strconv.ParseBool: parsing {v:?}: invalid syntax"
                            ));
                        }
                        Some(_) => {}
                    }
                }
                Ok(items)
            }
        }
    }
}

/// One line of CSV as Go's reader takes it: fields may be in double quotes, a doubled quote stands for one.
fn csv(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    let mut begun = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted => {
                if chars.peek() == Some(&'"') {
                    chars.next();
                    field.push('"');
                } else {
                    quoted = false;
                }
            }
            '"' if !begun => {
                quoted = true;
                begun = true;
            }
            '"' => return Err("parse error on line 1: bare \" in non-quoted field".to_owned()),
            ',' if !quoted => {
                out.push(std::mem::take(&mut field));
                begun = false;
            }
            c => {
                begun = true;
                field.push(c);
            }
        }
    }
    if quoted {
        return Err("parse error on line 1: extraneous or missing \" in quoted-field".to_owned());
    }
    out.push(field);
    Ok(out)
}

/// `FIRST-LAST`, `FIRST+MORE` or one port; `None` for an empty text.
pub(super) fn port_range(text: &str) -> Result<Option<RangeInclusive<u16>>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || format!("unable to parse port range: {text}");
    let number = |s: &str| s.parse::<u32>().map_err(|_| wrong());
    let (low, high) = match (text.split_once('-'), text.split_once('+')) {
        (None, None) => (number(text)?, number(text)?),
        (Some((low, high)), None) => (number(low)?, number(high)?),
        (None, Some((low, more))) => (number(low)?, number(low)?.saturating_add(number(more)?)),
        _ => return Err(wrong()),
    };
    let (Ok(low), Ok(high)) = (u16::try_from(low), u16::try_from(high)) else {
        return Err(format!(
            "the port range cannot be greater than 65535: {text}"
        ));
    };
    if high < low {
        return Err(format!("end port cannot be less than start port: {text}"));
    }
    Ok(Some(low..=high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports() {
        for (text, want) in [
            ("30000-32767", "30000..=32767"),
            ("30000+2767", "30000..=32767"),
            ("30000", "30000..=30000"),
            ("0-65535", "0..=65535"),
            ("", "None"),
            ("80-20", "end port cannot be less than start port: 80-20"),
            ("30000-65536", "cannot be greater than 65535"),
            ("65535+4294967295", "cannot be greater than 65535"),
            ("30000-", "unable to parse port range: 30000-"),
            ("-1", "unable to parse"),
            ("1-2+3", "unable to parse"),
            ("99999999999", "unable to parse"),
        ] {
            let got = port_range(text).map_or_else(|e| e, |v| format!("{v:?}"));
            assert!(got.contains(want), "{text}: {got}");
        }
    }
}
