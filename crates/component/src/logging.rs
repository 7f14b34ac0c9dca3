//! Logs through `tracing`, printed as klog prints: text with a header, or JSON lines; to standard error.
//!
//! `-v` maps onto tracing's levels: errors, warnings and info always, debug from 4, trace from 6. An event may carry a
//! field `v`, which then decides by itself and is not printed. Libraries other than our own are heard from `info` up only
//! (from 4), whatever `-v` says: their debug output can hold headers and bodies (CVE-2020-8565).
//!
//! Times are UTC.

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

/// What is logged and how: `-v`, `--vmodule` and `--logging-format`, or the section `logging` of a configuration file
/// (`LoggingConfiguration`), as far as it is honoured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Logging {
    /// `text` or `json`; empty: `text`.
    pub format: String,
    /// From 4 debugging messages, from 6 all.
    pub verbosity: u32,
    /// Verbosities of single files; the first that matches counts.
    pub vmodule: Vec<Module>,
}

/// The verbosity of some files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Module {
    /// Matches names without `.rs`; `*` and `?` stand for anything.
    pub file_pattern: String,
    /// See [`Logging::verbosity`].
    pub verbosity: u32,
}

/// What is wrong with a setting, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("logging.{field}: Invalid value: {value:?}: {why}")]
pub struct Invalid {
    /// `format`, `verbosity`, `vmodule`.
    pub field: &'static str,
    /// As given.
    pub value: String,
    /// What it should be.
    pub why: &'static str,
}

/// As klog, which keeps verbosities in 32 bits with a sign.
const MOST: u32 = i32::MAX.unsigned_abs();

impl Module {
    /// Reads `pattern=N`.
    ///
    /// # Errors
    /// Upstream's words.
    pub fn parse(text: &str) -> Result<Module, String> {
        let (pattern, verbosity) = match text.split_once('=') {
            Some((p, v)) if !p.is_empty() && !v.is_empty() && !v.contains('=') => (p, v),
            _ => return Err(format!("{text:?} does not have the pattern=N format")),
        };
        Ok(Module {
            file_pattern: pattern.to_owned(),
            verbosity: parse_verbosity(verbosity)
                .map_err(|why| format!("parsing verbosity in {text:?}: {why}"))?,
        })
    }
}

/// Reads a verbosity.
///
/// # Errors
/// Go's words.
pub fn parse_verbosity(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let why = match text.parse::<u32>() {
        Ok(v) if digits && v <= MOST => return Ok(v),
        _ if digits => "value out of range",
        _ => "invalid syntax",
    };
    Err(format!("strconv.ParseUint: parsing {text:?}: {why}"))
}

impl Logging {
    fn is_json(&self) -> bool {
        self.format == "json"
    }

    /// Whether it can be done.
    ///
    /// # Errors
    /// The first setting that cannot.
    pub fn check(&self) -> Result<(), Invalid> {
        let invalid = |field, value: &str, why| {
            let value = value.to_owned();
            Err(Invalid { field, value, why })
        };
        if !matches!(self.format.as_str(), "" | "text" | "json") {
            return invalid("format", &self.format, "Unsupported log format");
        }
        if self.is_json() && !self.vmodule.is_empty() {
            return invalid("vmodule", "", "Only supported for text log format");
        }
        if self.verbosity > MOST {
            let value = self.verbosity.to_string();
            return invalid("verbosity", &value, "Must be <= 2147483647");
        }
        for m in &self.vmodule {
            let why = if m.file_pattern.is_empty() {
                "File pattern must not be empty"
            } else if m.file_pattern.contains(['=', ',']) {
                "File pattern must not contain equal sign or comma"
            } else if m.verbosity > MOST {
                "Must be <= 2147483647"
            } else {
                continue;
            };
            return invalid("vmodule", &m.file_pattern, why);
        }
        Ok(())
    }
}

/// Crates whose every level may be heard; by prefix of the target.
const OWN: &[&str] = &[
    "admission",
    "api",
    "apiserver",
    "auth",
    "client",
    "cluster_dns",
    "component",
    "controllers",
    "extensions",
    "keelson",
    "kube_apiserver",
    "kube_controller_manager",
    "kube_proxy",
    "kube_scheduler",
    "kubelet",
    "patch",
    "pki",
    "proxy",
    "registry",
    "scheduler",
    "storage",
    "testkit",
    "wire",
];

fn own(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or(target);
    OWN.contains(&name)
}

struct Verbosity {
    base: u32,
    modules: Vec<Module>,
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text) || text.split_first().is_some_and(|(_, t)| glob(pattern, t))
        }
        (Some((b'?', rest)), Some((_, t))) => glob(rest, t),
        (Some((p, rest)), Some((c, t))) => p == c && glob(rest, t),
        _ => false,
    }
}

fn needed(level: &Level) -> u32 {
    match *level {
        Level::TRACE => 6,
        Level::DEBUG => 4,
        _ => 0,
    }
}

impl Verbosity {
    fn of(&self, meta: &Metadata<'_>) -> u32 {
        if self.modules.is_empty() {
            return self.base;
        }
        let file = meta.file().unwrap_or_default();
        let stem = file
            .rsplit('/')
            .next()
            .unwrap_or(file)
            .trim_end_matches(".rs");
        self.modules
            .iter()
            .find(|m| glob(m.file_pattern.as_bytes(), stem.as_bytes()))
            .map_or(self.base, |m| m.verbosity)
    }

    fn allows(&self, meta: &Metadata<'_>) -> bool {
        let v = self.of(meta);
        if !own(meta.target()) {
            return *meta.level() <= Level::WARN || (*meta.level() == Level::INFO && v >= 4);
        }
        meta.fields().field("v").is_some() || needed(meta.level()) <= v
    }
}

struct V(Option<u64>);

impl Visit for V {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "v" {
            self.0 = Some(value);
        }
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "v" {
            self.0 = u64::try_from(value).ok();
        }
    }
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl<S: Subscriber> Filter<S> for Verbosity {
    fn enabled(&self, meta: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.allows(meta)
    }

    // Asked once per place in the code: what is never logged, such as the spans of libraries on every frame, costs nothing.
    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> Interest {
        if !self.allows(meta) {
            Interest::never()
        } else if meta.fields().field("v").is_some() {
            Interest::sometimes()
        } else {
            Interest::always()
        }
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if event.metadata().fields().field("v").is_none() {
            return true;
        }
        let mut v = V(None);
        event.record(&mut v);
        v.0.is_none_or(|v| v <= u64::from(self.of(event.metadata())))
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    pairs: Vec<(&'static str, serde_json::Value, bool)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: serde_json::Value, quoted: bool) {
        match (field.name(), value) {
            ("message", serde_json::Value::String(s)) => self.message = s,
            ("v", _) => {}
            (name, value) => self.pairs.push((name, value, quoted)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into(), true);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into(), false);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into(), false);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into(), false);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into(), false);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into(), true);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into(), true);
    }
}

struct Klog {
    json: bool,
    pid: u32,
}

impl<S, N> FormatEvent<S, N> for Klog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = if self.json {
            json_line(event.metadata(), fields, jiff::Timestamp::now())
        } else {
            text_line(event.metadata(), &fields, jiff::Timestamp::now(), self.pid)
        };
        out.write_str(&line)
    }
}

fn place(meta: &Metadata<'_>) -> String {
    let file = meta.file().unwrap_or("?");
    format!(
        "{}:{}",
        file.rsplit('/').next().unwrap_or(file),
        meta.line().unwrap_or(0)
    )
}

fn text_line(meta: &Metadata<'_>, fields: &Fields, now: jiff::Timestamp, pid: u32) -> String {
    let letter = match *meta.level() {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    let t = jiff::tz::Offset::UTC.to_datetime(now);
    let mut line = format!(
        "{letter}{:02}{:02} {:02}:{:02}:{:02}.{:06} {pid:>7} {}] {}",
        t.month(),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.subsec_nanosecond() / 1000,
        place(meta),
        serde_json::Value::from(fields.message.as_str()),
    );
    for (k, v, quoted) in &fields.pairs {
        let _ = match v {
            serde_json::Value::String(s) if !*quoted => write!(line, " {k}={s}"),
            v => write!(line, " {k}={v}"),
        };
    }
    line.push('\n');
    line
}

fn json_line(meta: &Metadata<'_>, fields: Fields, now: jiff::Timestamp) -> String {
    let mut doc = serde_json::Map::new();
    doc.insert("ts".into(), (now.as_microsecond() as f64 / 1000.0).into());
    doc.insert("caller".into(), place(meta).into());
    doc.insert("msg".into(), fields.message.into());
    if *meta.level() > Level::ERROR {
        doc.insert("v".into(), needed(meta.level()).into());
    }
    if *meta.level() == Level::WARN {
        doc.insert("severity".into(), "warning".into());
    }
    for (k, v, _) in fields.pairs {
        doc.insert(k.to_owned(), v);
    }
    format!("{}\n", serde_json::Value::Object(doc))
}

/// Starts logging for this process; a second call changes nothing. Only for `bin/` and tests.
pub fn init(logging: &Logging) {
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .event_format(Klog {
            json: logging.is_json(),
            pid: std::process::id(),
        })
        .with_filter(Verbosity {
            base: logging.verbosity,
            modules: logging.vmodule.clone(),
        });
    let _ = tracing::subscriber::set_global_default(Registry::default().with(layer));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Sink {
        fn write(&mut self, b: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(b);
            Ok(b.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn capture(v: u32, json: bool, f: impl FnOnce()) -> String {
        let sink = Sink::default();
        let s = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || s.clone())
            .event_format(Klog { json, pid: 7 })
            .with_filter(Verbosity {
                base: v,
                modules: vec![Module {
                    file_pattern: "logg*".into(),
                    verbosity: v,
                }],
            });
        tracing::subscriber::with_default(Registry::default().with(layer), f);
        let out = sink.0.lock().unwrap().clone();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_and_json() {
        let out = capture(0, false, || tracing::warn!(pod = "a/b", n = 3, "Slow"));
        assert!(
            out.starts_with('W') && out.contains("       7 logging.rs:"),
            "{out}"
        );
        assert!(out.ends_with("] \"Slow\" pod=\"a/b\" n=3\n"), "{out}");
        let out = capture(0, true, || tracing::info!(pod = "a/b", "Slow"));
        let doc: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (doc["msg"].as_str(), doc["pod"].as_str(), doc["v"].as_u64()),
            (Some("Slow"), Some("a/b"), Some(0))
        );
    }

    #[test]
    fn verbosity() {
        let run = |v| {
            capture(v, false, || {
                tracing::debug!("d");
                tracing::trace!("t");
                tracing::info!(v = 8, "eight");
                tracing::debug!(target: "hyper::proto", "Authorization: Bearer x");
            })
        };
        assert_eq!(run(3), "");
        assert!(run(4).contains("\"d\"") && !run(4).contains("\"t\""));
        let all = run(10);
        assert!(all.contains("\"t\"") && all.contains("\"eight\""));
        // CVE-2020-8565
        assert!(!all.contains("Bearer"), "{all}");
    }

    /// Silence: what cannot be done is not taken for something else.
    #[test]
    fn settings_that_cannot_be_had_are_refused() {
        let read = |text: &str| serde_yaml::from_str::<Logging>(text).unwrap();
        for text in [
            "{}",
            "{format: text, verbosity: 4, vmodule: [{filePattern: 'a*', verbosity: 2}]}",
            "{format: json, verbosity: 2147483647}",
        ] {
            assert_eq!(read(text).check(), Ok(()), "{text}");
        }
        for (text, message) in [
            (
                "format: xml",
                "logging.format: Invalid value: \"xml\": Unsupported log format",
            ),
            (
                "verbosity: 2147483648",
                "logging.verbosity: Invalid value: \"2147483648\": Must be <= 2147483647",
            ),
            (
                "{format: json, vmodule: [{filePattern: a, verbosity: 1}]}",
                "logging.vmodule: Invalid value: \"\": Only supported for text log format",
            ),
            (
                "vmodule: [{verbosity: 1}]",
                "logging.vmodule: Invalid value: \"\": File pattern must not be empty",
            ),
            (
                "vmodule: [{filePattern: 'a=b'}]",
                "logging.vmodule: Invalid value: \"a=b\": File pattern must not contain equal sign or comma",
            ),
        ] {
            assert_eq!(read(text).check().unwrap_err().to_string(), message);
        }
        for (text, message) in [
            ("a", "\"a\" does not have the pattern=N format"),
            ("=1", "\"=1\" does not have the pattern=N format"),
            ("a=1=2", "\"a=1=2\" does not have the pattern=N format"),
            (
                "a=-1",
                "parsing verbosity in \"a=-1\": strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
            (
                "a=4294967296",
                "parsing verbosity in \"a=4294967296\": strconv.ParseUint: parsing \"4294967296\": value out of range",
            ),
        ] {
            assert_eq!(Module::parse(text).unwrap_err(), message);
        }
    }
}
