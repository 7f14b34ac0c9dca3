//! Go-style flags with pflag's rules, over upstream's inventory of flags.
//!
//! A daemon says which of upstream's flags it honours and which are safe to ignore; names, types, defaults, sections and
//! deprecation come from `data/flags.tsv`. A known flag that is neither is refused when it is set to anything but its
//! default. `_` and `-` in names are the same. Absent on purpose: abbreviations, and flags after `--`.

mod inventory;
mod value;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

pub use inventory::Flag;
pub use value::Type;

use crate::version;

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

/// What a daemon does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It works.
    Honoured,
    /// Accepted with one warning.
    Ignored,
    /// Refused with a reason, unless set to its default.
    Refused(&'static str),
}

/// A daemon's command line: upstream's inventory and what the daemon does with it.
pub struct CommandLine {
    daemon: &'static str,
    about: &'static str,
    flags: BTreeMap<String, (Flag, Status)>,
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
/// Safe to ignore everywhere: they tune what has no counterpart here.
const COMMON_IGNORED: &[&str] = &[
    "allow-metric-labels",
    "allow-metric-labels-manifest",
    "contention-profiling",
    "disabled-metrics",
    "log-flush-frequency",
    "log-json-info-buffer-size",
    "log-json-split-stream",
    "log-text-info-buffer-size",
    "log-text-split-stream",
    "profiling",
    "show-hidden-metrics-for-version",
];

impl CommandLine {
    /// The command line of an upstream daemon by name; all its flags are refused until told otherwise, except those that
    /// `component` itself implements.
    pub fn new(daemon: &'static str, about: &'static str) -> CommandLine {
        let flags = inventory::of(daemon)
            .map(|f| {
                (
                    f.name.clone(),
                    (f, Status::Refused("it is not implemented yet")),
                )
            })
            .collect();
        let mut c = CommandLine {
            daemon,
            about,
            flags,
        };
        c.mark(COMMON, Status::Honoured, false);
        c.mark(COMMON_IGNORED, Status::Ignored, false);
        c
    }

    fn mark(&mut self, names: &[&str], status: Status, must_exist: bool) {
        for name in names {
            match self.flags.get_mut(*name) {
                Some((_, s)) => *s = status,
                None => assert!(
                    !must_exist || !cfg!(debug_assertions),
                    "{}: no flag --{name}",
                    self.daemon
                ),
            }
        }
    }

    /// Flags that the daemon implements. A name that upstream's daemon does not have is a mistake in the program (found
    /// in debug builds).
    #[must_use]
    pub fn honour(mut self, names: &[&str]) -> CommandLine {
        self.mark(names, Status::Honoured, true);
        self
    }

    /// Flags that can be ignored without harm.
    #[must_use]
    pub fn ignore(mut self, names: &[&str]) -> CommandLine {
        self.mark(names, Status::Ignored, true);
        self
    }

    /// A flag that is refused with its own reason.
    #[must_use]
    pub fn refuse(mut self, name: &str, reason: &'static str) -> CommandLine {
        self.mark(&[name], Status::Refused(reason), true);
        self
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
        self.flags.insert(name.to_owned(), (f, Status::Honoured));
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
        for (name, text) in given {
            let Some((flag, status)) = self.flags.get(&name) else {
                return Err(FlagError::Unknown(name));
            };
            let items = flag.kind.items(&text).map_err(|why| FlagError::Invalid {
                name: name.clone(),
                value: text.clone(),
                why,
            })?;
            match status {
                Status::Refused(reason) if items != flag.default_items() => {
                    return Err(FlagError::Refused {
                        name,
                        reason: (*reason).to_owned(),
                    });
                }
                Status::Ignored if !values.contains_key(&name) && items != flag.default_items() => {
                    warnings.push(format!(
                        "Flag --{name} is accepted and ignored: it is not implemented"
                    ));
                }
                _ => {}
            }
            if flag.deprecated && *status == Status::Honoured && !values.contains_key(&name) {
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
        let mut out = Flags {
            daemon: self.daemon,
            warnings,
            values: BTreeMap::new(),
        };
        for (name, (flag, status)) in &self.flags {
            let set = values.remove(name);
            let is_set = set.is_some();
            let items = set.unwrap_or_else(|| flag.default_items());
            out.values.insert(
                name.clone(),
                Entry {
                    items,
                    is_set,
                    honoured: *status == Status::Honoured,
                },
            );
        }
        Ok(out)
    }

    /// The text of `--help`: the honoured flags by section, in upstream's layout; then the names of ignored flags.
    pub fn help(&self) -> String {
        let mut sections: BTreeMap<&str, Vec<&Flag>> = BTreeMap::new();
        for (flag, status) in self.flags.values() {
            if *status == Status::Honoured {
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
            .filter(|(_, (_, s))| *s == Status::Ignored)
            .map(|(n, _)| format!("--{n}"))
            .collect();
        if !ignored.is_empty() {
            out.push_str(&format!(
                "\nAccepted and ignored:\n\n  {}\n",
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

    /// A port: an integer cut to 0..=65535.
    pub fn port(&self, name: &str) -> u16 {
        u16::try_from(self.int(name).clamp(0, 65535)).unwrap_or(0)
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
    /// An unknown or locked gate, or a bad value.
    pub fn features(&self) -> Result<crate::features::Features, String> {
        let mut f = crate::features::Features::default();
        for item in self
            .values
            .get("feature-gates")
            .map_or(&[][..], |e| e.items.as_slice())
        {
            f.apply(item).map_err(|why| {
                format!("invalid argument {item:?} for \"--feature-gates\" flag: {why}")
            })?;
        }
        Ok(f)
    }

    /// What [`crate::logging::init`] needs.
    pub fn logging(&self) -> crate::logging::Options {
        let get = |n: &str| self.values.get(n).map_or(&[][..], |e| e.items.as_slice());
        crate::logging::Options {
            verbosity: get("v").last().and_then(|v| v.parse().ok()).unwrap_or(0),
            vmodule: get("vmodule").to_vec(),
            json: get("logging-format").last().is_some_and(|f| f == "json"),
        }
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
            .ignore(&["goaway-chance"])
            .refuse(
                "egress-selector-config-file",
                "konnectivity is not implemented",
            )
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
        assert_eq!(run(&["-v=3"]).unwrap().logging().verbosity, 3);
        assert!(
            !run(&["--allow-privileged=false"])
                .unwrap()
                .bool("allow-privileged")
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
            "flag --egress-selector-config-file is not supported: konnectivity is not implemented"
        );
        assert_eq!(e(&["word"]), "unknown command \"word\"");
    }

    #[test]
    fn ignored_flags_warn_once_and_refused_ones_pass_at_their_default() {
        let f = run(&["--goaway-chance=0.1", "--goaway-chance=0.2"]).unwrap();
        assert_eq!(
            f.warnings,
            ["Flag --goaway-chance is accepted and ignored: it is not implemented"]
        );
        assert!(run(&["--egress-selector-config-file="]).is_ok());
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
