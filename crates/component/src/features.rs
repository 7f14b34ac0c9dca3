//! Feature gates: the known list (imported from upstream, `data/features.tsv`), what `--feature-gates` sets, and what is on.

use std::collections::BTreeMap;

const DATA: &str = include_str!("../data/features.tsv");

/// One known gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// `ALPHA`, `BETA`, `GA`, `DEPRECATED`.
    pub stage: &'static str,
    /// On without being asked for.
    pub default: bool,
    /// Cannot be set to anything else than its default.
    pub locked: bool,
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
                Some((
                    name,
                    Gate {
                        stage,
                        default: default == "true",
                        locked: cols.next() == Some("locked"),
                    },
                ))
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
        if name != "AllAlpha" && name != "AllBeta" {
            let Some(gate) = self.known.get(name) else {
                return Err(format!("unrecognized feature gate: {name}"));
            };
            if gate.locked && gate.default != on {
                return Err(format!(
                    "cannot set feature gate {name} to {on}, feature is locked to {}",
                    gate.default
                ));
            }
        }
        self.set.insert(name.to_owned(), on);
        Ok(())
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
            "ALPHA" => self.set.get("AllAlpha"),
            "BETA" => self.set.get("AllBeta"),
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
        assert!(f.enabled("APIServerIdentity"));
        f.apply("APIServerIdentity=false").unwrap();
        assert!(!f.enabled("APIServerIdentity"));
        assert_eq!(
            f.apply("Nope=true").unwrap_err(),
            "unrecognized feature gate: Nope"
        );
        assert_eq!(
            f.apply("APIServerTracing=false").unwrap_err(),
            "cannot set feature gate APIServerTracing to false, feature is locked to true"
        );
        assert_eq!(f.apply("X").unwrap_err(), "missing bool value for X");
        assert!(
            f.apply("APIServerIdentity=maybe")
                .unwrap_err()
                .starts_with("invalid value of APIServerIdentity=maybe, err:")
        );
    }

    #[test]
    fn all_beta_sets_the_stage_but_not_named_gates() {
        let mut f = Features::default();
        f.apply("AllBeta=false,APIServerIdentity=true").unwrap();
        assert!(f.enabled("APIServerIdentity"));
        assert!(!f.enabled("APIResponseCompression"));
        assert!(f.enabled("APIServerTracing"));
    }
}
