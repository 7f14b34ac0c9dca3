//! Upstream's flags, imported by `hack/import-flags.py`.

use super::value::Type;

const DATA: &str = include_str!("../../data/flags.tsv");

/// One flag as declared.
#[derive(Clone, Debug)]
pub struct Flag {
    /// With dashes, without the leading two.
    pub name: String,
    /// The form of its value.
    pub kind: Type,
    /// As help prints it; empty for the type's zero value.
    pub default: String,
    /// The heading in help; empty: none.
    pub section: String,
    /// `-v`.
    pub short: Option<char>,
    /// Whether upstream wants it gone.
    pub deprecated: bool,
    /// For people; empty for imported flags.
    pub help: String,
}

impl Flag {
    /// The default as the values it stands for.
    pub fn default_items(&self) -> Vec<String> {
        let text = if self.kind.is_many() {
            self.default
                .strip_prefix('[')
                .and_then(|d| d.strip_suffix(']'))
                .unwrap_or(&self.default)
        } else {
            &self.default
        };
        if text.is_empty() {
            return self.kind.zero();
        }
        self.kind.items(text).unwrap_or_default()
    }

    pub(super) fn shown_default(&self) -> String {
        match self.kind {
            Type::Text => format!("{:?}", self.default),
            _ => self.default.clone(),
        }
    }
}

/// The flags of one daemon.
pub fn of(daemon: &str) -> impl Iterator<Item = Flag> {
    let daemon = daemon.to_owned();
    DATA.lines().filter_map(move |line| {
        let mut cols = line.split('\t');
        if cols.next()? != daemon {
            return None;
        }
        let mut col = || cols.next().map(str::to_owned);
        let (name, kind, default, section, short, deprecated) =
            (col()?, col()?, col()?, col()?, col()?, col()?);
        Some(Flag {
            kind: Type::named(&name, &kind),
            name,
            default,
            section,
            short: short.chars().next(),
            deprecated: !deprecated.is_empty(),
            help: String::new(),
        })
    })
}
