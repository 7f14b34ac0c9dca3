//! `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1) as far as it is honoured.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use crate::queue::Times;

/// How NodeResourcesFit scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The more is left, the better.
    LeastAllocated,
    /// The less is left, the better.
    MostAllocated,
    /// By points of (utilization in percent, score of 0 to 10).
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// A strategy and the weights of resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoringStrategy {
    /// The strategy.
    pub strategy: Strategy,
    /// Resources with weights of 1 to 100.
    pub resources: Vec<(String, i64)>,
}

impl Default for ScoringStrategy {
    fn default() -> ScoringStrategy {
        ScoringStrategy {
            strategy: Strategy::LeastAllocated,
            resources: vec![("cpu".into(), 1), ("memory".into(), 1)],
        }
    }
}

/// One scheduler name and its plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// `spec.schedulerName` of the pods it serves.
    pub scheduler_name: String,
    /// NodeResourcesFit's args.
    pub scoring: ScoringStrategy,
    /// Plugins switched off.
    pub disabled: BTreeSet<String>,
    /// Score weights that differ from the default.
    pub weights: BTreeMap<String, i64>,
}

/// The configuration of one scheduler process.
#[derive(Clone, Debug)]
pub struct Config {
    /// One per scheduler name, at least one.
    pub profiles: Vec<Profile>,
    /// Queue times.
    pub times: Times,
    /// Bindings in flight at most.
    pub parallel_bindings: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            profiles: vec![Profile {
                scheduler_name: "default-scheduler".into(),
                ..Profile::default()
            }],
            times: Times::default(),
            parallel_bindings: 128,
        }
    }
}

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It does not parse or has a field that is not honoured.
    #[error("{0}")]
    Parse(#[from] serde_yaml::Error),
    /// Wrong apiVersion or kind.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    Kind {
        /// As given.
        api_version: String,
        /// As given.
        kind: String,
    },
    /// A value out of range.
    #[error("{field}: Invalid value: {value}: {detail}")]
    Invalid {
        /// The path.
        field: String,
        /// As given.
        value: String,
        /// Why.
        detail: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Vec<ProfileFile>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    /// Accepted: all nodes are always scored.
    #[serde(rename = "percentageOfNodesToScore")]
    _percentage: Option<i32>,
    /// Accepted: deciding is one thread.
    #[serde(rename = "parallelism")]
    _parallelism: Option<i32>,
    #[serde(rename = "clientConnection")]
    _client: Option<serde_yaml::Value>,
    #[serde(rename = "leaderElection")]
    _leader: Option<serde_yaml::Value>,
    #[serde(rename = "enableProfiling")]
    _profiling: Option<bool>,
    #[serde(rename = "enableContentionProfiling")]
    _contention: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileFile {
    scheduler_name: Option<String>,
    #[serde(default)]
    plugins: BTreeMap<String, PluginSet>,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginSet {
    #[serde(default)]
    enabled: Vec<PluginRef>,
    #[serde(default)]
    disabled: Vec<PluginRef>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginRef {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: serde_yaml::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FitArgs {
    scoring_strategy: Option<StrategyFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StrategyFile {
    #[serde(rename = "type")]
    type_: String,
    #[serde(default)]
    resources: Vec<PluginRef>,
    requested_to_capacity_ratio: Option<Shape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

fn invalid(field: &str, value: impl ToString, detail: &str) -> ConfigError {
    ConfigError::Invalid {
        field: field.into(),
        value: value.to_string(),
        detail: detail.into(),
    }
}

fn strategy(file: StrategyFile) -> Result<ScoringStrategy, ConfigError> {
    let strategy = match file.type_.as_str() {
        "LeastAllocated" => Strategy::LeastAllocated,
        "MostAllocated" => Strategy::MostAllocated,
        "RequestedToCapacityRatio" => {
            let points: Vec<(i64, i64)> = file
                .requested_to_capacity_ratio
                .map(|s| {
                    s.shape
                        .into_iter()
                        .map(|p| (p.utilization, p.score))
                        .collect()
                })
                .unwrap_or_default();
            if points.is_empty() {
                return Err(ConfigError::Invalid {
                    field: "scoringStrategy.requestedToCapacityRatio.shape".into(),
                    value: "[]".into(),
                    detail: "at least one point must be specified".into(),
                });
            }
            Strategy::RequestedToCapacityRatio(points)
        }
        other => return Err(invalid("scoringStrategy.type", other, "unknown strategy")),
    };
    let resources = if file.resources.is_empty() {
        ScoringStrategy::default().resources
    } else {
        file.resources
            .into_iter()
            .map(|r| (r.name, r.weight.unwrap_or(1)))
            .collect()
    };
    for (name, weight) in &resources {
        if !(1..=100).contains(weight) {
            let detail = format!("resource weight of {name} not in valid range [1, 100]");
            return Err(invalid("scoringStrategy.resources", weight, &detail));
        }
    }
    Ok(ScoringStrategy {
        strategy,
        resources,
    })
}

impl Config {
    /// Reads a configuration file's text (YAML or JSON).
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let file: File = serde_yaml::from_str(text)?;
        if file.api_version != "kubescheduler.config.k8s.io/v1"
            || file.kind != "KubeSchedulerConfiguration"
        {
            return Err(ConfigError::Kind {
                api_version: file.api_version,
                kind: file.kind,
            });
        }
        let mut config = Config::default();
        let seconds = |field: &str, v: Option<i64>, d: Duration| match v {
            None => Ok(d),
            Some(s) => match u64::try_from(s) {
                Ok(s) if s > 0 => Ok(Duration::from_secs(s)),
                _ => Err(invalid(field, s, "must be greater than 0")),
            },
        };
        let times = &mut config.times;
        times.initial_backoff = seconds(
            "podInitialBackoffSeconds",
            file.pod_initial_backoff_seconds,
            times.initial_backoff,
        )?;
        times.max_backoff = seconds(
            "podMaxBackoffSeconds",
            file.pod_max_backoff_seconds,
            times.max_backoff,
        )?;
        if times.max_backoff < times.initial_backoff {
            let v = times.max_backoff.as_secs();
            return Err(invalid(
                "podMaxBackoffSeconds",
                v,
                "must be greater than or equal to PodInitialBackoffSeconds",
            ));
        }
        if !file.profiles.is_empty() {
            config.profiles = file
                .profiles
                .into_iter()
                .map(profile)
                .collect::<Result<_, _>>()?;
        }
        let mut names = BTreeSet::new();
        for p in &config.profiles {
            if !names.insert(&p.scheduler_name) {
                return Err(invalid(
                    "profiles.schedulerName",
                    &p.scheduler_name,
                    "duplicate value",
                ));
            }
        }
        Ok(config)
    }
}

fn profile(file: ProfileFile) -> Result<Profile, ConfigError> {
    let mut profile = Profile {
        scheduler_name: file
            .scheduler_name
            .unwrap_or_else(|| "default-scheduler".into()),
        ..Profile::default()
    };
    for (point, set) in file.plugins {
        for p in set.disabled {
            if point == "multiPoint" || point == "filter" {
                profile.disabled.insert(p.name);
            } else if point == "score" {
                profile.weights.insert(p.name, 0);
            }
        }
        for p in set.enabled {
            profile.disabled.remove(&p.name);
            if let Some(w) = p.weight.filter(|w| *w > 0) {
                profile.weights.insert(p.name, w);
            }
        }
    }
    for c in file.plugin_config {
        if c.name == "NodeResourcesFit" {
            let args: FitArgs = serde_yaml::from_value(c.args)?;
            if let Some(s) = args.scoring_strategy {
                profile.scoring = strategy(s)?;
            }
        }
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file() {
        let c = Config::parse(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n\
             - schedulerName: packer\n  plugins:\n    score:\n      disabled: [{name: ImageLocality}]\n  pluginConfig:\n  \
             - name: NodeResourcesFit\n    args:\n      scoringStrategy:\n        type: MostAllocated\n        \
             resources: [{name: cpu, weight: 3}]\n",
        )
        .unwrap();
        assert_eq!(c.profiles[0].scheduler_name, "packer");
        assert_eq!(c.profiles[0].scoring.strategy, Strategy::MostAllocated);
        assert_eq!(c.profiles[0].scoring.resources, [("cpu".to_owned(), 3)]);
        assert_eq!(c.profiles[0].weights["ImageLocality"], 0);
    }

    #[test]
    fn bad_files_are_refused() {
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        for (text, part) in [
            ("kind: x\napiVersion: y\n".to_owned(), "no kind"),
            (format!("{head}bogus: 1\n"), "bogus"),
            (
                format!("{head}podInitialBackoffSeconds: 0\n"),
                "must be greater than 0",
            ),
            (format!("{head}profiles: [{{}}, {{}}]\n"), "duplicate"),
        ] {
            let e = Config::parse(&text).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
    }
}
