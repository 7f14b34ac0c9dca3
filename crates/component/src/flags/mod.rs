//! Go-style flags with pflag's rules, over upstream's inventory of flags.
//!
//! Names, types, defaults, sections and deprecation of flags come from `data/flags.tsv`; a daemon says of each how far it
//! is there ([`Support`]). A flag that is absent is warned of or refused when it is set to anything but its default. `_` and `-` in names are the same. Absent on purpose: abbreviations, and flags after `--`.

mod inventory;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

pub use inventory::Flag;
pub use value::Type;

use crate::logging::Logging;
use crate::support::{Instead, Support};
use crate::{support, version};

/// Why a command line was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// No such flag.
    #[error("unknown flag: --{0}")]
    Unknown(String),
    /// No such short flag.
    #[error("unknown shorthand flag: {0:?} in -{1}")]
    UnknownShort(char, String),
    /// A flag without its value.
    #[error("flag needs an argument: --{0}")]
    Missing(String),
    /// A value of the wrong form.
    #[error("invalid argument {value:?} for \"--{name}\" flag: {why}")]
    Invalid {
        /// The flag.
        name: String,
        /// As given; left out for flags that carry secrets, of which there are none.
        value: String,
        /// Go's message.
        why: String,
    },
    /// A flag of upstream's that this daemon does not implement and that must not be ignored.
    #[error("flag --{name} is not supported: {reason}")]
    Refused {
        /// The flag.
        name: String,
        /// Why, for people.
        reason: String,
    },
    /// A word that is no flag.
    #[error("unknown command {0:?}")]
    Positional(String),
}

/// A daemon's command line: upstream's inventory and what the daemon does with it.
pub struct CommandLine {
    daemon: &'static str,
    about: &'static str,
    /// Without support as long as the daemon has said nothing.
    flags: BTreeMap<String, (Flag, Option<Support>)>,
    /// The flags of which the daemon has said something.
    said: BTreeSet<String>,
    /// The values that work, of flags that work with few.
    only: BTreeMap<&'static str, &'static [&'static str]>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Outcome {
    /// Run with these.
    Run(Flags),
    /// Print this and end with success.
    Print(String),
}

/// The flags that every daemon honours because `component` implements them.
const COMMON: &[&str] = &[
    "feature-gates",
    "help",
    "logging-format",
    "v",
    "version",
    "vmodule",
];
/// What tunes metrics and logs, the same in every daemon.
const COMMON_WARNED: &[(&str, &[&str])] = &[
    (
        "every metric is served, with bounded labels",
        &[
            "allow-metric-labels",
            "allow-metric-labels-manifest",
            "disabled-metrics",
            "show-hidden-metrics-for-version",
        ],
    ),
    (
        "no daemon serves profiles",
        &["contention-profiling", "profiling"],
    ),
    (
        "each line is written to stderr at once",
        &[
            "log-flush-frequency",
            "log-json-info-buffer-size",
            "log-json-split-stream",
            "log-text-info-buffer-size",
            "log-text-split-stream",
        ],
    ),
];
/// What is refused in every daemon.
const COMMON_REFUSED: &[(&str, &[&str])] = &[(
    "a release behaves as its own version only",
    &["emulated-version", "min-compatibility-version"],
)];

/// Whether a number is there and is no port.
fn is_no_port(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|n| u16::try_from(n).is_err())
}

impl CommandLine {
    /// The command line of an upstream daemon by name. What is said here is what `component` itself implements or lacks;
    /// a flag of which nothing is said is refused.
    pub fn new(daemon: &'static str, about: &'static str) -> CommandLine {
        let flags = inventory::of(daemon)
            .map(|f| (f.name.clone(), (f, None)))
            .collect();
        let mut c = CommandLine {
            daemon,
            about,
            flags,
            said: BTreeSet::new(),
            only: BTreeMap::new(),
        };
        c.mark(COMMON, Support::Full, false);
        for (why, names) in COMMON_WARNED {
            c.mark(names, support::warned(why), false);
        }
        for (why, names) in COMMON_REFUSED {
            c.mark(names, support::refused(why), false);
        }
        c
    }

    fn mark(&mut self, names: &[&str], support: Support, must_exist: bool) {
        for name in names {
            // Two lists that name one flag would leave it to their order what it does.
            assert!(
                !must_exist || self.said.insert((*name).to_owned()) || !cfg!(debug_assertions),
                "{}: --{name} is said twice",
                self.daemon
            );
            match self.flags.get_mut(*name) {
                Some((_, s)) => *s = Some(support),
                None => assert!(
                    !must_exist || !cfg!(debug_assertions),
                    "{}: no flag --{name}",
                    self.daemon
                ),
            }
        }
    }

    /// Says how far flags are there. A name that upstream's daemon does not have, or that is said twice, is a mistake in
    /// the program (found in debug builds).
    #[must_use]
    pub fn support(mut self, support: Support, names: &[&str]) -> CommandLine {
        self.mark(names, support, true);
        self
    }

    /// Flags that the daemon implements.
    #[must_use]
    pub fn honour(self, names: &[&str]) -> CommandLine {
        self.support(Support::Full, names)
    }

    /// Flags that work but for what is `missing`.
    #[must_use]
    pub fn partial(self, missing: &'static str, names: &[&str]) -> CommandLine {
        self.support(Support::Partial(missing), names)
    }

    /// Flags that are accepted with a warning and do nothing; `why` says what is there in their place.
    #[must_use]
    pub fn ignore(self, why: &'static str, names: &[&str]) -> CommandLine {
        self.support(support::warned(why), names)
    }

    /// Flags that are refused unless they are set to their default.
    #[must_use]
    pub fn refuse(self, why: &'static str, names: &[&str]) -> CommandLine {
        self.support(support::refused(why), names)
    }

    /// A flag that works with these values and is refused with any other.
    #[must_use]
    pub fn only(mut self, name: &'static str, values: &'static [&'static str]) -> CommandLine {
        self.mark(&[name], Support::Full, true);
        self.only.insert(name, values);
        self
    }

    /// The daemon's name.
    pub fn daemon(&self) -> &'static str {
        self.daemon
    }

    /// Every flag by name, with how far it is there; `None` where the daemon says nothing, which is a mistake that tests
    /// look for.
    pub fn list(&self) -> impl Iterator<Item = (&Flag, Option<Support>)> {
        self.flags.values().map(|(f, s)| (f, *s))
    }

    /// A flag of our own, or one that replaces upstream's declaration; honoured.
    #[must_use]
    pub fn flag(
        mut self,
        name: &str,
        kind: Type,
        default: &str,
        section: &str,
        help: &str,
    ) -> CommandLine {
        let f = Flag {
            name: name.to_owned(),
            kind,
            default: default.to_owned(),
            section: section.to_owned(),
            short: None,
            deprecated: false,
            help: help.to_owned(),
        };
        self.flags.insert(name.to_owned(), (f, Some(Support::Full)));
        self
    }

    /// Parses arguments (without the program's name).
    ///
    /// # Errors
    /// [`FlagError`]; print as `Error: {e}` and end with code 1.
    pub fn parse<I, S>(&self, args: I) -> Result<Outcome, FlagError>
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let mut args = args.into_iter().map(Into::into);
        let mut given: Vec<(String, String)> = Vec::new();
        while let Some(arg) = args.next() {
            if let Some(long) = arg.strip_prefix("--").filter(|l| !l.is_empty()) {
                let (name, value) = match long.split_once('=') {
                    Some((n, v)) => (n, Some(v.to_owned())),
                    None => (long, None),
                };
                let name = name.replace('_', "-");
                let Some((flag, _)) = self.flags.get(&name) else {
                    return Err(FlagError::Unknown(name));
                };
                let value = match value.or_else(|| flag.kind.bare()) {
                    Some(v) => v,
                    None => args.next().ok_or(FlagError::Missing(name.clone()))?,
                };
                given.push((name, value));
            } else if let Some(short) = arg.strip_prefix('-').filter(|s| !s.is_empty() && *s != "-")
            {
                let mut chars = short.chars();
                let Some(c) = chars.next() else { continue };
                let found = self.flags.values().find(|(f, _)| f.short == Some(c));
                let Some((flag, _)) = found else {
                    return Err(FlagError::UnknownShort(c, short.to_owned()));
                };
                let rest = chars.as_str();
                let rest = rest.strip_prefix('=').unwrap_or(rest);
                let value = if !rest.is_empty() {
                    rest.to_owned()
                } else if let Some(v) = flag.kind.bare() {
                    v
                } else {
                    args.next().ok_or(FlagError::Missing(flag.name.clone()))?
                };
                given.push((flag.name.clone(), value));
            } else {
                return Err(FlagError::Positional(arg));
            }
        }
        if given.iter().any(|(n, v)| n == "help" && v == "true") {
            return Ok(Outcome::Print(self.help()));
        }
        if let Some((_, v)) = given.iter().rfind(|(n, v)| n == "version" && v != "false") {
            return Ok(Outcome::Print(match v.as_str() {
                "raw" => format!("{}\n", version::info()),
                _ => format!("Kubernetes {}\n", version::GIT_VERSION),
            }));
        }
        self.resolve(given).map(Outcome::Run)
    }

    fn resolve(&self, given: Vec<(String, String)>) -> Result<Flags, FlagError> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut warnings = Vec::new();
        let mut gates = crate::features::Features::default();
        for (name, text) in given {
            let Some((flag, support)) = self.flags.get(&name) else {
                return Err(FlagError::Unknown(name));
            };
            let items = flag.kind.items(&text).map_err(|why| FlagError::Invalid {
                name: name.clone(),
                value: text.clone(),
                why,
            })?;
            // Cut to what a port can be, it would be another.
            let is_port = name == "port" || name.ends_with("-port");
            if is_port && items.iter().any(|i| is_no_port(i)) {
                return Err(FlagError::Invalid {
                    name,
                    value: text,
                    why: "must be between 0 and 65535, inclusive".to_owned(),
                });
            }
            if name == "feature-gates" {
                gates
                    .apply(&text)
                    .and_then(|()| gates.check())
                    .map_err(|why| FlagError::Invalid {
                        name: name.clone(),
                        value: text.clone(),
                        why,
                    })?;
            }
            let asks = items != flag.default_items();
            if asks
                && let Some(values) = self.only.get(name.as_str())
                && !items.iter().all(|i| values.contains(&i.as_str()))
            {
                return Err(FlagError::Refused {
                    reason: format!("{:?} is not among {values:?}", items.join(",")),
                    name,
                });
            }
            match support.unwrap_or(NOTHING_SAID) {
                Support::Absent(Instead::Refused(reason)) if asks => {
                    return Err(FlagError::Refused {
                        name,
                        reason: reason.to_owned(),
                    });
                }
                Support::Absent(Instead::Warned(why)) if asks && !values.contains_key(&name) => {
                    warnings.push(format!("Flag --{name} has no effect: {why}"));
                }
                Support::Partial(missing) if asks && !values.contains_key(&name) => {
                    warnings.push(format!("Flag --{name} works only in part: {missing}"));
                }
                _ => {}
            }
            if flag.deprecated && is_there(*support) && !values.contains_key(&name) {
                warnings.push(format!("Flag --{name} has been deprecated"));
            }
            // The first use replaces the default; further uses of a list or map add to it.
            let slot = values.entry(name).or_default();
            if flag.kind.is_many() {
                slot.extend(items);
            } else {
                *slot = items;
            }
        }
        warnings.extend(gates.warnings());
        let mut out = Flags {
            daemon: self.daemon,
            warnings,
            values: BTreeMap::new(),
        };
        for (name, (flag, support)) in &self.flags {
            let set = values.remove(name);
            let is_set = set.is_some();
            let items = set.unwrap_or_else(|| flag.default_items());
            out.values.insert(
                name.clone(),
                Entry {
                    items,
                    is_set,
                    honoured: is_there(*support),
                },
            );
        }
        out.logging().check().map_err(|e| FlagError::Invalid {
            name: match e.field {
                "format" => "logging-format",
                "verbosity" => "v",
                field => field,
            }
            .to_owned(),
            value: e.value,
            why: e.why.to_owned(),
        })?;
        Ok(out)
    }

    /// The text of `--help`: the flags that work, by section, in upstream's layout; then the names of those without effect.
    pub fn help(&self) -> String {
        let mut sections: BTreeMap<&str, Vec<&Flag>> = BTreeMap::new();
        for (flag, support) in self.flags.values() {
            if is_there(*support) {
                sections
                    .entry(flag.section.as_str())
                    .or_default()
                    .push(flag);
            }
        }
        let mut out = format!("{}\n\nUsage:\n  {} [flags]\n", self.about, self.daemon);
        for (section, flags) in sections {
            let title = if section.is_empty() {
                "Flags".to_owned()
            } else {
                format!("{section} flags")
            };
            out.push_str(&format!("\n{title}:\n\n"));
            for f in flags {
                let short = f
                    .short
                    .map_or_else(|| "    ".to_owned(), |c| format!("-{c}, "));
                let kind = f.kind.name();
                let gap = if kind.is_empty() { "" } else { " " };
                let default = if f.default.is_empty() {
                    String::new()
                } else {
                    format!(" (default {})", f.shown_default())
                };
                let note = if f.deprecated { " (DEPRECATED)" } else { "" };
                out.push_str(&format!("  {short}--{}{gap}{kind}\n", f.name));
                let text = format!("{}{default}{note}", f.help);
                if !text.trim().is_empty() {
                    out.push_str(&format!("                {}\n", text.trim()));
                }
            }
        }
        let ignored: Vec<String> = self
            .flags
            .iter()
            .filter(|(_, (_, s))| matches!(s, Some(Support::Absent(Instead::Warned(_)))))
            .map(|(n, _)| format!("--{n}"))
            .collect();
        if !ignored.is_empty() {
            out.push_str(&format!(
                "\nAccepted, without effect:\n\n  {}\n",
                ignored.join(" ")
            ));
        }
        out
    }

    /// For `main`: parses the process's arguments; prints and ends the process for `--help`, `--version` and errors.
    pub fn parse_or_exit(&self) -> Flags {
        match self.parse(std::env::args().skip(1)) {
            Ok(Outcome::Run(flags)) => flags,
            Ok(Outcome::Print(text)) => {
                use std::io::Write;
                let _ = std::io::stdout().write_all(text.as_bytes());
                std::process::exit(0);
            }
            Err(e) => {
                eprintln!("Error: {e}");
                std::process::exit(1);
            }
        }
    }
}

/// What becomes of a flag of which the daemon says nothing.
const NOTHING_SAID: Support = support::refused("it is not implemented");

fn is_there(support: Option<Support>) -> bool {
    support.is_some_and(Support::is_there)
}

#[derive(Clone, Debug)]
struct Entry {
    items: Vec<String>,
    is_set: bool,
    honoured: bool,
}

/// Parsed flags. Values have been checked against their types, so getters cannot fail; asking for a flag that the daemon
/// does not honour, or for another type than declared, is a mistake in the program: a debug assertion, and in a release
/// build the zero value.
#[derive(Clone, Debug)]
pub struct Flags {
    daemon: &'static str,
    /// To be logged once logging works.
    pub warnings: Vec<String>,
    values: BTreeMap<String, Entry>,
}

impl Flags {
    fn items(&self, name: &str) -> &[String] {
        let entry = self.values.get(name).filter(|e| e.honoured);
        debug_assert!(
            entry.is_some(),
            "{}: --{name} is asked for but not honoured",
            self.daemon
        );
        entry.map_or(&[], |e| e.items.as_slice())
    }

    fn one(&self, name: &str) -> &str {
        self.items(name).last().map_or("", String::as_str)
    }

    /// Whether the command line sets it: then it overrides the configuration file.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|e| e.is_set)
    }

    /// A text; empty where there is no default.
    pub fn string(&self, name: &str) -> &str {
        self.one(name)
    }

    /// A text, or `None` if it is empty.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        Some(self.one(name)).filter(|s| !s.is_empty())
    }

    /// A path, or `None` if it is empty.
    pub fn path(&self, name: &str) -> Option<std::path::PathBuf> {
        self.non_empty(name).map(Into::into)
    }

    /// A boolean.
    pub fn bool(&self, name: &str) -> bool {
        value::parse_bool(self.one(name)).unwrap_or(false)
    }

    /// An integer.
    pub fn int(&self, name: &str) -> i64 {
        self.one(name).parse().unwrap_or(0)
    }

    /// A port: what is none was refused.
    pub fn port(&self, name: &str) -> u16 {
        u16::try_from(self.int(name)).unwrap_or(0)
    }

    /// A range of ports; `None` if it is empty.
    pub fn ports(&self, name: &str) -> Option<RangeInclusive<u16>> {
        value::port_range(self.one(name)).ok().flatten()
    }

    /// A number.
    pub fn float(&self, name: &str) -> f64 {
        self.one(name).parse().unwrap_or(0.0)
    }

    /// A duration; negative ones are zero.
    pub fn duration(&self, name: &str) -> Duration {
        crate::duration::parse(self.one(name)).unwrap_or_default()
    }

    /// An address.
    pub fn ip(&self, name: &str) -> Option<IpAddr> {
        self.one(name).parse().ok()
    }

    /// A list.
    pub fn strings(&self, name: &str) -> &[String] {
        self.items(name)
    }

    /// A map given as `a=b,c=d`.
    pub fn map(&self, name: &str) -> BTreeMap<String, String> {
        self.items(name)
            .iter()
            .filter_map(|i| i.split_once('='))
            .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
            .collect()
    }

    /// The feature gates as `--feature-gates` sets them.
    ///
    /// # Errors
    /// See [`Flags::set_features`].
    pub fn features(&self) -> Result<crate::features::Features, String> {
        let mut f = crate::features::Features::default();
        self.set_features(&mut f)?;
        Ok(f)
    }

    /// Sets what `--feature-gates` says above what a configuration file said.
    ///
    /// # Errors
    /// An unknown or locked gate, one that cannot be had, or a bad value.
    pub fn set_features(&self, features: &mut crate::features::Features) -> Result<(), String> {
        let items = self
            .values
            .get("feature-gates")
            .map_or(&[][..], |e| e.items.as_slice());
        for item in items {
            features.apply(item).map_err(|why| {
                format!("invalid argument {item:?} for \"--feature-gates\" flag: {why}")
            })?;
        }
        features.check()
    }

    /// What the flags say of logging.
    pub fn logging(&self) -> Logging {
        self.logging_over(Logging::default())
    }

    /// What the flags say of logging above what a configuration file says, whose verbosities of files they add to.
    pub fn logging_over(&self, file: Logging) -> Logging {
        let mut logging = file;
        if self.is_set("logging-format") {
            self.string("logging-format")
                .clone_into(&mut logging.format);
        }
        if self.is_set("v") {
            let v = crate::logging::parse_verbosity(self.string("v"));
            logging.verbosity = v.unwrap_or_default();
        }
        let modules = self.strings("vmodule").iter();
        let modules = modules.filter_map(|m| crate::logging::Module::parse(m).ok());
        logging.vmodule.extend(modules);
        logging
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli() -> CommandLine {
        CommandLine::new("kube-apiserver", "x")
            .honour(&[
                "etcd-servers",
                "secure-port",
                "event-ttl",
                "allow-privileged",
                "runtime-config",
                "bind-address",
                "service-account-key-file",
            ])
            .ignore("connections stay", &["goaway-chance"])
            .refuse("there is no konnectivity", &["egress-selector-config-file"])
    }

    fn run(args: &[&str]) -> Result<Flags, FlagError> {
        match cli().parse(args.iter().copied())? {
            Outcome::Run(f) => Ok(f),
            Outcome::Print(p) => panic!("{p}"),
        }
    }

    #[test]
    fn forms() {
        let f = run(&[
            "--etcd-servers=a,b",
            "--etcd_servers",
            "c",
            "--secure-port",
            "1",
            "--event-ttl=1m30s",
            "--allow-privileged",
            "-v",
            "4",
            "--runtime-config=api/all=true,x=y",
        ])
        .unwrap();
        assert_eq!(f.strings("etcd-servers"), ["a", "b", "c"]);
        assert_eq!(
            (
                f.port("secure-port"),
                f.duration("event-ttl").as_secs(),
                f.bool("allow-privileged")
            ),
            (1, 90, true)
        );
        assert_eq!(f.logging().verbosity, 4);
        assert_eq!(
            f.map("runtime-config").get("api/all").map(String::as_str),
            Some("true")
        );
        assert!(f.is_set("secure-port") && !f.is_set("bind-address"));
        let f = run(&["--v=300", "--vmodule=a*=5,", "--vmodule=b=1"]).unwrap();
        let logging = f.logging();
        let modules: Vec<_> = logging.vmodule.iter().map(|m| m.verbosity).collect();
        assert_eq!((logging.verbosity, modules), (300, vec![5, 1]));
        assert_eq!(run(&["-v=3"]).unwrap().logging().verbosity, 3);
        assert!(
            !run(&["--allow-privileged=false"])
                .unwrap()
                .bool("allow-privileged")
        );
    }

    /// Numbers at their ends, and silence: what cannot be had is refused and not taken for something else.
    #[test]
    fn what_is_no_port_and_no_way_of_logging_is_refused() {
        for (args, message) in [
            (
                vec!["--secure-port=65536"],
                "invalid argument \"65536\" for \"--secure-port\" flag: must be between 0 and 65535, inclusive",
            ),
            (
                vec!["--secure-port=-1"],
                "invalid argument \"-1\" for \"--secure-port\" flag: must be between 0 and 65535, inclusive",
            ),
            (
                vec!["--logging-format=xml"],
                "invalid argument \"xml\" for \"--logging-format\" flag: Unsupported log format",
            ),
            (
                vec!["--logging-format=json", "--vmodule=a=1"],
                "invalid argument \"\" for \"--vmodule\" flag: Only supported for text log format",
            ),
            (
                vec!["--vmodule=a"],
                "invalid argument \"a\" for \"--vmodule\" flag: \"a\" does not have the pattern=N format",
            ),
            (
                vec!["-v=-1"],
                "invalid argument \"-1\" for \"--v\" flag: strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
        ] {
            assert_eq!(run(&args).unwrap_err().to_string(), message, "{args:?}");
        }
        assert_eq!(
            run(&["--secure-port=65535"]).unwrap().port("secure-port"),
            65535
        );
    }

    #[test]
    fn defaults_are_upstreams() {
        let f = run(&[]).unwrap();
        assert_eq!(
            (f.port("secure-port"), f.duration("event-ttl").as_secs()),
            (6443, 3600)
        );
        assert_eq!(f.ip("bind-address").unwrap().to_string(), "0.0.0.0");
        assert!(f.strings("etcd-servers").is_empty());
    }

    #[test]
    fn errors_are_pflags() {
        let e = |args: &[&str]| run(args).unwrap_err().to_string();
        assert_eq!(e(&["--nope"]), "unknown flag: --nope");
        assert_eq!(
            e(&["--secure-port"]),
            "flag needs an argument: --secure-port"
        );
        assert_eq!(
            e(&["--secure-port=x"]),
            "invalid argument \"x\" for \"--secure-port\" flag: strconv.ParseInt: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            e(&["--allow-privileged=7"]),
            "invalid argument \"7\" for \"--allow-privileged\" flag: strconv.ParseBool: parsing \"7\": invalid syntax"
        );
        assert_eq!(
            e(&["--event-ttl=5"]),
            "invalid argument \"5\" for \"--event-ttl\" flag: time: missing unit in duration \"5\""
        );
        assert_eq!(
            e(&["--egress-selector-config-file=f"]),
            "flag --egress-selector-config-file is not supported: there is no konnectivity"
        );
        assert_eq!(e(&["word"]), "unknown command \"word\"");
    }

    #[test]
    fn ignored_flags_warn_once_and_refused_ones_pass_at_their_default() {
        let f = run(&["--goaway-chance=0.1", "--goaway-chance=0.2"]).unwrap();
        assert_eq!(
            f.warnings,
            ["Flag --goaway-chance has no effect: connections stay"]
        );
        assert!(run(&["--egress-selector-config-file="]).is_ok());
    }

    #[test]
    fn gates_are_checked_by_every_daemon() {
        let e = |gates: &str| {
            run(&[&format!("--feature-gates={gates}")])
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            e("Nope=true"),
            "invalid argument \"Nope=true\" for \"--feature-gates\" flag: unrecognized feature gate: Nope"
        );
        assert!(e("MemoryQoS=true").ends_with(
            "cannot set feature gate MemoryQoS to true: what it would turn on is not there"
        ));
        let f = run(&["--feature-gates=WatchList=false,EventedPLEG=true"]).unwrap();
        assert!(!f.features().unwrap().enabled("WatchList"));
        assert_eq!(f.warnings.len(), 1, "{:?}", f.warnings);
    }

    #[test]
    fn a_flag_of_which_nothing_is_said_is_refused() {
        let line = CommandLine::new("kube-apiserver", "");
        let e = line.parse(["--audit-policy-file=f"]).unwrap_err();
        assert_eq!(
            e.to_string(),
            "flag --audit-policy-file is not supported: it is not implemented"
        );
        assert!(line.parse(["--audit-policy-file="]).is_ok());
    }

    #[test]
    fn a_flag_with_few_values_refuses_the_others() {
        let line = CommandLine::new("kube-apiserver", "").only("storage-backend", &["etcd3"]);
        assert!(line.parse(["--storage-backend=etcd3"]).is_ok());
        assert_eq!(
            line.parse(["--storage-backend=etcd2"])
                .unwrap_err()
                .to_string(),
            "flag --storage-backend is not supported: \"etcd2\" is not among [\"etcd3\"]"
        );
    }

    #[test]
    fn help_and_version() {
        let Ok(Outcome::Print(h)) = cli().parse(["--help"]) else {
            panic!()
        };
        assert!(
            h.contains("Etcd flags:\n\n      --etcd-servers strings\n"),
            "{h}"
        );
        assert!(h.contains("--goaway-chance"));
        let Ok(Outcome::Print(v)) = cli().parse(["--version"]) else {
            panic!()
        };
        assert_eq!(v, "Kubernetes v1.37.0\n");
    }

    #[test]
    fn every_default_of_every_daemon_parses() {
        for d in [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
        ] {
            let c = CommandLine::new(d, "");
            assert!(c.flags.len() > 50, "{d}");
            for (f, _) in c.flags.values() {
                let text = f.default_items().join(",");
                if !text.is_empty() {
                    assert!(
                        f.kind.items(&text).is_ok(),
                        "{d} {} {:?} {text}",
                        f.name,
                        f.kind
                    );
                }
            }
        }
    }
}
