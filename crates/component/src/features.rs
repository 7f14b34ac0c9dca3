//! Feature gates: upstream's list (imported, `data/features.tsv`), what `--feature-gates` sets, and what is on.
//!
//! Code asks a gate with [`Features::enabled`] and is named in [`SUPPORT`]. A gate that nothing reads cannot be moved from
//! its default: what it would turn on is not there, or what it would turn off is always on.

use std::collections::BTreeMap;

use crate::support::{Instead, Support, refused, warned};

const DATA: &str = include_str!("../data/features.tsv");

const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";

/// How far gates are there; those that are not named are refused when they are moved from their default.
const SUPPORT: &[(Support, &[&str])] = &[
    (
        Support::Full,
        &[
            "APIResponseCompression",
            "StatefulSetSemanticRevisionComparison",
            "WatchList",
        ],
    ),
    (
        Support::Partial("the apiserver keeps the field where the gate is off, too"),
        &["MaxUnavailableStatefulSet"],
    ),
    (
        Support::Partial("it is refused where it would move a gate that nothing reads"),
        &[ALL_ALPHA, ALL_BETA],
    ),
    (
        warned("a lease is always given back when its holder ends"),
        &["ControllerManagerReleaseLeaderElectionLockOnExit"],
    ),
    (
        warned("it is about how upstream's code works inside"),
        &[
            "APIServingWithRoutine",
            "AtomicFIFO",
            "CRIListStreaming",
            "ClientsAllowCARotation",
            "ClientsAllowTLSCacheGC",
            "ConcurrentWatchObjectDecode",
            "ContextualLogging",
            "DetectCacheInconsistency",
            "EventedPLEG",
            "InOrderInformers",
            "InOrderInformersBatchProcess",
            "InformerResourceVersion",
            "ListFromCacheSnapshot",
            "OpportunisticBatching",
            "PLEGOnDemandRelist",
            "SchedulerAsyncAPICalls",
            "SchedulerAsyncPreemption",
            "SchedulerPopFromBackoffQ",
            "SizeBasedListCostEstimate",
            "StaleControllerConsistencyDaemonSet",
            "StaleControllerConsistencyJob",
            "StaleControllerConsistencyReplicaSet",
            "StaleControllerConsistencyStatefulSet",
            "UnlockWhileProcessingFIFO",
            "WatchCacheInitializationPostStartHook",
            "WatchListClient",
        ],
    ),
    (
        warned("options of logging need no gate"),
        &["LoggingAlphaOptions", "LoggingBetaOptions"],
    ),
    (
        warned("daemons are for Linux"),
        &["WindowsCPUAndMemoryAffinity", "WindowsGracefulNodeShutdown"],
    ),
    (
        warned("no daemon of a cloud is among these"),
        &[
            "CloudControllerManagerWatchBasedRoutesReconciliation",
            "CloudControllerManagerWebhook",
        ],
    ),
];

const OFF: Support = refused("what it would turn on is not there");
const ON: Support = refused("nothing asks for it: what is there of it cannot be turned off");

/// One known gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// `ALPHA`, `BETA`, `GA`, `DEPRECATED`.
    pub stage: &'static str,
    /// On without being asked for.
    pub default: bool,
    /// Cannot be set to anything else than its default.
    pub locked: bool,
    /// Whether anything reads it.
    pub support: Support,
}

/// The gates of one daemon.
#[derive(Clone, Debug)]
pub struct Features {
    known: BTreeMap<&'static str, Gate>,
    set: BTreeMap<String, bool>,
}

impl Default for Features {
    fn default() -> Features {
        let known = DATA
            .lines()
            .filter_map(|line| {
                let mut cols = line.split('\t');
                let (name, stage, default) = (cols.next()?, cols.next()?, cols.next()?);
                let default = default == "true";
                let said = SUPPORT.iter().find(|(_, names)| names.contains(&name));
                let gate = Gate {
                    stage,
                    default,
                    locked: cols.next() == Some("locked"),
                    support: said.map_or(if default { ON } else { OFF }, |(s, _)| *s),
                };
                Some((name, gate))
            })
            .collect();
        Features {
            known,
            set: BTreeMap::new(),
        }
    }
}

fn parse_bool(v: &str) -> Option<bool> {
    match v {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Features {
    /// Applies `A=true,B=false` (the flag may be repeated: call again). `component:A=true` is read as `A=true` for the
    /// component `kube`, others are skipped. `AllAlpha` and `AllBeta` set all of their stage that are not set by name.
    ///
    /// # Errors
    /// Upstream's messages: a missing or invalid value, an unknown gate, a locked gate.
    pub fn apply(&mut self, text: &str) -> Result<(), String> {
        for item in text.split(',').map(str::trim).filter(|s| !s.is_empty()) {
            let item = match item.split_once(':') {
                Some(("kube", rest)) => rest,
                Some(_) => continue,
                None => item,
            };
            let Some((name, value)) = item.split_once('=') else {
                return Err(format!("missing bool value for {item}"));
            };
            let (name, value) = (name.trim(), value.trim());
            let on = parse_bool(value).ok_or_else(|| {
                format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")
            })?;
            self.set(name, on)?;
        }
        Ok(())
    }

    /// Sets one gate, as a component configuration's `featureGates` does.
    ///
    /// # Errors
    /// An unknown gate, a locked gate.
    pub fn set(&mut self, name: &str, on: bool) -> Result<(), String> {
        let Some(gate) = self.known.get(name) else {
            return Err(format!("unrecognized feature gate: {name}"));
        };
        if gate.locked && gate.default != on {
            return Err(format!(
                "cannot set feature gate {name} to {on}, feature is locked to {}",
                gate.default
            ));
        }
        self.set.insert(name.to_owned(), on);
        Ok(())
    }

    /// The gates that were moved from their default though nothing reads them.
    fn moved(&self) -> impl Iterator<Item = (&'static str, bool, Instead)> + '_ {
        self.all()
            .filter_map(|(name, gate, on)| match gate.support {
                Support::Absent(instead) if on != gate.default => Some((name, on, instead)),
                _ => None,
            })
    }

    /// Refuses gates that were moved from their default though nothing reads them and somebody would miss it.
    ///
    /// # Errors
    /// The first of them.
    pub fn check(&self) -> Result<(), String> {
        let refused = self.moved().find_map(|(name, on, instead)| match instead {
            Instead::Refused(why) => Some((name, on, why)),
            Instead::Warned(_) => None,
        });
        match refused {
            Some((name, on, why)) => Err(format!("cannot set feature gate {name} to {on}: {why}")),
            None => Ok(()),
        }
    }

    /// What to log about gates that were moved and change nothing, and about named gates that are to go.
    pub fn warnings(&self) -> Vec<String> {
        let moved = self
            .moved()
            .filter_map(|(name, on, instead)| match instead {
                Instead::Warned(why) => {
                    Some(format!("Feature gate {name}={on} has no effect: {why}"))
                }
                Instead::Refused(_) => None,
            });
        let going = self.set.iter().filter_map(|(name, on)| {
            let kind = match self.known.get(name.as_str())?.stage {
                "GA" => "GA",
                "DEPRECATED" => "deprecated",
                _ => return None,
            };
            Some(format!(
                "Setting {kind} feature gate {name}={on}. It will be removed in a future release."
            ))
        });
        moved.chain(going).collect()
    }

    /// Whether a gate is on. An unknown gate is off.
    pub fn enabled(&self, name: &str) -> bool {
        let Some(gate) = self.known.get(name) else {
            return false;
        };
        if let Some(on) = self.set.get(name) {
            return *on;
        }
        let all = match gate.stage {
            _ if name == ALL_ALPHA || name == ALL_BETA => None,
            "ALPHA" => self.set.get(ALL_ALPHA),
            "BETA" => self.set.get(ALL_BETA),
            _ => None,
        };
        all.copied()
            .filter(|on| !gate.locked || *on == gate.default)
            .unwrap_or(gate.default)
    }

    /// Every known gate with its facts and whether it is on, for the `kubernetes_feature_enabled` metric.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, Gate, bool)> + '_ {
        self.known.iter().map(|(n, g)| (*n, *g, self.enabled(n)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_as_upstream() {
        let mut f = Features::default();
        assert!(f.enabled("WatchList"));
        f.apply("WatchList=false").unwrap();
        assert!(!f.enabled("WatchList"));
        for (text, message) in [
            ("Nope=true", "unrecognized feature gate: Nope"),
            (
                "APIServerTracing=false",
                "cannot set feature gate APIServerTracing to false, feature is locked to true",
            ),
            (
                "GitRepoVolumeDriver=true",
                "cannot set feature gate GitRepoVolumeDriver to true, feature is locked to false",
            ),
            ("X", "missing bool value for X"),
            (
                "WatchList=maybe",
                "invalid value of WatchList=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
        ] {
            assert_eq!(f.apply(text).unwrap_err(), message);
        }
    }

    #[test]
    fn all_beta_sets_the_stage_but_not_named_gates() {
        let mut f = Features::default();
        f.apply("AllBeta=false,WatchList=true").unwrap();
        assert!(f.enabled("WatchList"));
        assert!(!f.enabled("APIResponseCompression"));
        assert!(f.enabled("APIServerTracing"));
    }

    #[test]
    fn a_gate_without_a_reader_cannot_be_moved() {
        let of = |text: &str| {
            let mut f = Features::default();
            f.apply(text).unwrap();
            f
        };
        for ok in ["WatchList=false", "MemoryQoS=false", "AllAlpha=false"] {
            assert_eq!(of(ok).check(), Ok(()), "{ok}");
        }
        assert_eq!(
            of("MemoryQoS=true").check().unwrap_err(),
            "cannot set feature gate MemoryQoS to true: what it would turn on is not there"
        );
        assert_eq!(
            of("PodLevelResources=false").check().unwrap_err(),
            "cannot set feature gate PodLevelResources to false: nothing asks for it: what is there of it cannot be turned off"
        );
        for (all, first) in [
            (
                "AllAlpha=true",
                "AllowUnsafeMalformedObjectDeletion to true",
            ),
            ("AllBeta=false", "APIServerIdentity to false"),
        ] {
            let why = of(all).check().unwrap_err();
            assert!(
                why.starts_with(&format!("cannot set feature gate {first}: ")),
                "{why}"
            );
        }
        let harmless = of("ConcurrentWatchObjectDecode=true");
        assert_eq!(harmless.check(), Ok(()));
        assert_eq!(harmless.warnings().len(), 1);
    }

    #[test]
    fn gates_that_go_are_told() {
        let mut f = Features::default();
        f.apply("APIServerTracing=true,AllowDNSOnlyNodeCSR=false,WatchList=true")
            .unwrap();
        assert_eq!(
            f.warnings(),
            [
                "Setting GA feature gate APIServerTracing=true. It will be removed in a future release.",
                "Setting deprecated feature gate AllowDNSOnlyNodeCSR=false. It will be removed in a future release.",
            ]
        );
    }

    #[test]
    fn every_gate_that_is_said_something_of_is_known() {
        let f = Features::default();
        for name in SUPPORT.iter().flat_map(|(_, names)| names.iter()) {
            assert!(f.known.contains_key(name), "{name}");
        }
    }
}
