//! Command line words: `--flag value`, `--flag=value`, and plain words, in any order.

use anyhow::{Result, bail};
use std::collections::VecDeque;

/// The words that have not been read yet.
pub struct Args {
    words: VecDeque<String>,
}

impl Args {
    pub fn new(words: Vec<String>) -> Self {
        Args {
            words: words.into(),
        }
    }

    /// An option before the command's name.
    pub fn leading_option(&mut self, name: &str) -> Result<Option<String>> {
        let flag = format!("--{name}");
        match self.words.front() {
            Some(word) if *word == flag || word.starts_with(&format!("{flag}=")) => {
                self.option(name)
            }
            _ => Ok(None),
        }
    }

    /// The value of `--name`, wherever it is; the last one wins.
    pub fn option(&mut self, name: &str) -> Result<Option<String>> {
        let flag = format!("--{name}");
        let prefix = format!("--{name}=");
        let mut value = None;
        let mut i = 0;
        while let Some(word) = self.words.get(i) {
            if let Some(v) = word.strip_prefix(&prefix) {
                value = Some(v.to_string());
                self.words.remove(i);
            } else if *word == flag {
                self.words.remove(i);
                match self.words.remove(i) {
                    Some(v) => value = Some(v),
                    None => bail!("{flag} needs a value"),
                }
            } else {
                i += 1;
            }
        }
        Ok(value)
    }

    /// Whether any of these flags (with their dashes) is there.
    pub fn switch(&mut self, names: &[&str]) -> bool {
        let before = self.words.len();
        self.words.retain(|w| !names.contains(&w.as_str()));
        self.words.len() != before
    }

    /// The next word.
    pub fn next_word(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// All that is left, as it is.
    pub fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.words).into()
    }

    /// Fails when words are left that nothing has asked for.
    pub fn end(&self) -> Result<()> {
        match self.words.front() {
            None => Ok(()),
            Some(word) if word.split('=').next() == Some("--state-dir") => {
                bail!("--state-dir stands before the command: keelson --state-dir DIR COMMAND")
            }
            Some(word) => {
                bail!("\"{word}\" is not understood here; `keelson help` lists commands and flags")
            }
        }
    }
}

/// A Go-style duration such as `90s`, `2m`, `1m30s` or `500ms`.
pub fn duration(text: &str) -> Result<std::time::Duration> {
    let bad = || anyhow::anyhow!("\"{text}\" is not a duration; write it like 90s, 2m or 1m30s");
    let mut total = 0.0;
    let mut rest = text;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let (number, tail) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total += number
            * match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = tail;
    }
    std::time::Duration::try_from_secs_f64(total).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::new(words.iter().map(|w| w.to_string()).collect())
    }

    #[test]
    fn options_are_found_anywhere_and_leave_the_rest() {
        let mut a = args(&["x", "--nodes=2", "y", "--nodes", "4", "-f"]);
        assert_eq!(a.option("nodes").unwrap().as_deref(), Some("4"));
        assert!(a.switch(&["-f", "--follow"]));
        assert_eq!(a.rest(), ["x", "y"]);
        let error = args(&["--nodes"]).option("nodes").unwrap_err();
        assert_eq!(error.to_string(), "--nodes needs a value");
        let error = args(&["--what"]).end().unwrap_err().to_string();
        assert!(error.starts_with("\"--what\" is not understood"), "{error}");
    }

    #[test]
    fn a_leading_option_is_only_read_at_the_front() {
        let mut a = args(&["kubectl", "--state-dir", "x"]);
        assert_eq!(a.leading_option("state-dir").unwrap(), None);
        let mut a = args(&["--state-dir", "x", "up"]);
        assert_eq!(a.leading_option("state-dir").unwrap().as_deref(), Some("x"));
        assert_eq!(a.next_word().as_deref(), Some("up"));
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1m30s").unwrap().as_millis(), 90_000);
        assert_eq!(duration("500ms").unwrap().as_millis(), 500);
        let huge = format!("{}h", "9".repeat(30));
        for bad in ["", "5", "s", "5x", &huge] {
            let error = duration(bad).unwrap_err().to_string();
            let why = format!("\"{bad}\" is not a duration");
            assert!(error.starts_with(&why), "{error}");
        }
    }
}
