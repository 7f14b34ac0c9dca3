//! How far an entry of a list is there: of a flag, a configuration field, a gate, a plugin, a controller, a resource, a
//! volume kind, a metric.
//!
//! Every entry of every list carries a [`Support`], so nothing is accepted in silence, and `docs/status.md` is made of
//! what the lists say.

use std::fmt;

/// How far an entry is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It does what upstream's does.
    Full,
    /// It works, but for what is named.
    Partial(&'static str),
    /// It is not there.
    Absent(Instead),
}

/// What whoever asks for something absent gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// It is accepted with one warning; the text says what is there in its place, or why nothing is lost.
    Warned(&'static str),
    /// It is refused; the text says why.
    Refused(&'static str),
}

/// Absent, and accepted with one warning.
pub const fn warned(text: &'static str) -> Support {
    Support::Absent(Instead::Warned(text))
}

/// Absent, and refused.
pub const fn refused(text: &'static str) -> Support {
    Support::Absent(Instead::Refused(text))
}

impl Support {
    /// Whether there is code for it.
    pub const fn is_there(self) -> bool {
        !matches!(self, Support::Absent(_))
    }

    /// `Full`, `Partial`, `Absent, warned` or `Absent, refused`.
    pub const fn word(self) -> &'static str {
        match self {
            Support::Full => "Full",
            Support::Partial(_) => "Partial",
            Support::Absent(Instead::Warned(_)) => "Absent, warned",
            Support::Absent(Instead::Refused(_)) => "Absent, refused",
        }
    }

    /// What is missing, or what happens instead; empty when nothing is missing.
    pub const fn text(self) -> &'static str {
        match self {
            Support::Full => "",
            Support::Partial(text)
            | Support::Absent(Instead::Warned(text) | Instead::Refused(text)) => text,
        }
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            "" => f.write_str(self.word()),
            text => write!(f, "{}: {text}", self.word()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_is_missing() {
        assert_eq!(Support::Full.to_string(), "Full");
        assert_eq!(Support::Partial("x").to_string(), "Partial: x");
        assert_eq!(warned("x").to_string(), "Absent, warned: x");
        assert_eq!(refused("x").to_string(), "Absent, refused: x");
        assert!(Support::Partial("x").is_there() && !warned("x").is_there());
    }
}
