//! The `Warning:` headers of an answer, each text once and cut as upstream cuts them (its `WithWarningRecorder`).

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use http::HeaderValue;

/// When all texts together have more characters than this, each is cut to [`ITEM`], and what follows is left out.
const TOTAL: usize = 4 * 1024;

/// How many characters of each text are left when there are too many in all.
const ITEM: usize = 256;

/// Warnings in the order in which they were added. However many are added, no more than [`TOTAL`] and two times [`ITEM`]
/// characters are kept once they are cut.
#[derive(Default)]
pub struct Warnings(Mutex<Recorder>);

#[derive(Default)]
struct Recorder {
    seen: HashSet<String>,
    texts: Vec<String>,
    /// Characters in `texts`.
    written: usize,
    cut: bool,
}

impl Recorder {
    fn add(&mut self, text: String) {
        if text.is_empty() || self.full() || self.seen.contains(&text) {
            return;
        }
        // A header cannot carry them.
        let control = text.chars().any(char::is_control);
        self.seen.insert(text.clone());
        if control {
            return;
        }
        let length = text.chars().count();
        self.texts.push(text);
        self.written += length;
        if !self.cut && self.written > TOTAL {
            self.cut = true;
            self.written = self.texts.iter_mut().map(cut).sum();
        } else if self.cut
            && let Some(last) = self.texts.last_mut()
        {
            self.written += cut(last);
            self.written -= length;
        }
    }

    fn full(&self) -> bool {
        self.cut && self.written >= TOTAL
    }
}

/// Cuts a text and returns how many characters it has.
fn cut(text: &mut String) -> usize {
    match text.char_indices().nth(ITEM) {
        Some((end, _)) => {
            text.truncate(end);
            ITEM
        }
        None => text.chars().count(),
    }
}

impl Warnings {
    /// Adds a text, unless it is there or there is no more room.
    pub fn add(&self, text: impl Into<String>) {
        self.extend([text.into()]);
    }

    /// Adds texts, see [`Warnings::add`]. What no longer has room is not looked at.
    pub fn extend(&self, texts: impl IntoIterator<Item = String>) {
        let mut recorder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for text in texts {
            if recorder.full() {
                return;
            }
            recorder.add(text);
        }
    }

    /// The values of the headers.
    pub fn headers(&self) -> Vec<HeaderValue> {
        let recorder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recorder
            .texts
            .iter()
            .filter_map(|text| {
                let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
                HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()).ok()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[String]) -> Vec<String> {
        let warnings = Warnings::default();
        warnings.extend(all.iter().cloned());
        let text = |h: HeaderValue| String::from_utf8(h.as_bytes().to_vec()).unwrap();
        warnings.headers().into_iter().map(text).collect()
    }

    #[test]
    fn each_text_once_and_quoted() {
        let all = ["a \"b\" \\", "", "x\ny", "c", "a \"b\" \\"].map(str::to_owned);
        assert_eq!(texts(&all), [r#"299 - "a \"b\" \\""#, "299 - \"c\""]);
    }

    #[test]
    fn many_or_long_texts_are_cut() {
        // Within the limit nothing is cut.
        let long = vec!["ü".repeat(4000), "x".repeat(96)];
        let got = texts(&long);
        assert_eq!(got.len(), 2);
        assert!(got[0].contains(&long[0]));
        // One more character, and each is cut.
        let got = texts(&[long[0].clone(), "x".repeat(97)]);
        assert_eq!(got[0], format!("299 - \"{}\"", "ü".repeat(ITEM)));
        assert_eq!(got[1], format!("299 - \"{}\"", "x".repeat(97)));
        // Beyond the limit, the rest is left out.
        let many: Vec<String> = (0..100_000).map(|i| format!("{i:0300}")).collect();
        let got = texts(&many);
        assert_eq!(got.len(), TOTAL / ITEM);
        assert!(got.iter().all(|t| t.len() == ITEM + 8));
    }
}
