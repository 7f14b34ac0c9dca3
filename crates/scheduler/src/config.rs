//! `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1); how far each field is there, [`crate::fields`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use component::support::{Instead, Support};
use serde::Deserialize;
use serde_json::Value;

use crate::fields;
use crate::plugins::PLUGINS;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// `spec.schedulerName` of the pods it serves.
    pub scheduler_name: String,
    /// NodeResourcesFit's args.
    pub scoring: ScoringStrategy,
    /// Plugins switched off.
    pub disabled: BTreeSet<String>,
    /// Plugins whose filter is switched off.
    pub unfiltered: BTreeSet<String>,
    /// Score weights that differ from the default.
    pub weights: BTreeMap<String, i64>,
    /// Whether pods that fit nowhere may displace others.
    pub preemption: bool,
    /// DefaultPreemption's args.
    pub candidates: Candidates,
    /// VolumeBinding's args: how long a pod waits for its volumes.
    pub bind_timeout: Duration,
}

/// On how many nodes preemption finds room before it chooses: the larger of both, or all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// Of the nodes that preemption could mend, 0 to 100.
    pub percentage: usize,
    /// At least so many.
    pub absolute: usize,
}

impl Candidates {
    /// How many of `nodes`.
    pub fn of(self, nodes: usize) -> usize {
        let part = nodes.saturating_mul(self.percentage) / 100;
        part.max(self.absolute).min(nodes)
    }
}

impl Default for Candidates {
    fn default() -> Candidates {
        Candidates {
            percentage: 10,
            absolute: 100,
        }
    }
}

impl Default for Profile {
    fn default() -> Profile {
        Profile {
            scheduler_name: String::new(),
            scoring: ScoringStrategy::default(),
            disabled: BTreeSet::new(),
            unfiltered: BTreeSet::new(),
            weights: BTreeMap::new(),
            preemption: true,
            candidates: Candidates::default(),
            bind_timeout: Duration::from_secs(600),
        }
    }
}

/// How to reach the apiserver.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Empty: none is named.
    pub kubeconfig: String,
    /// Calls a second.
    pub qps: f32,
    /// Calls at once.
    pub burst: u32,
}

/// Whether and how one of several schedulers is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// Whether at all.
    pub elect: bool,
    /// How long others wait before they take over.
    pub lease_duration: Duration,
    /// How long the leader tries to renew.
    pub renew_deadline: Duration,
    /// Time between tries.
    pub retry_period: Duration,
    /// The lease.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

impl Default for Election {
    fn default() -> Election {
        Election {
            elect: true,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            name: "kube-scheduler".into(),
            namespace: "kube-system".into(),
        }
    }
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
    /// Leader election.
    pub election: Election,
    /// The connection, where a file says it.
    pub connection: Option<Connection>,
    /// What the file asks for and does not get; to be logged once.
    pub warnings: Vec<String>,
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
            election: Election::default(),
            connection: None,
            warnings: Vec::new(),
        }
    }
}

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read, or a field is wrong, unknown or not there.
    #[error(transparent)]
    File(#[from] component::config::ConfigError),
    /// The arguments of a plugin do not parse.
    #[error("pluginConfig {0}: {1}")]
    Args(String, serde_json::Error),
    /// A plugin that does not exist, or cannot be had.
    #[error("{field}: plugin {plugin:?} {why}")]
    Plugin {
        /// Where it is named.
        field: String,
        /// The name.
        plugin: String,
        /// What is the matter with it.
        why: String,
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

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct File {
    profiles: Vec<ProfileFile>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    client_connection: ConnectionFile,
    leader_election: ElectionFile,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConnectionFile {
    kubeconfig: String,
    qps: f32,
    burst: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ElectionFile {
    leader_elect: Option<bool>,
    lease_duration: String,
    renew_deadline: String,
    retry_period: String,
    resource_lock: String,
    resource_name: String,
    resource_namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProfileFile {
    scheduler_name: Option<String>,
    plugins: BTreeMap<String, PluginSet>,
    plugin_config: Vec<PluginConfig>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PluginSet {
    enabled: Vec<PluginRef>,
    disabled: Vec<PluginRef>,
}

impl PluginSet {
    fn enables(&self, name: &str) -> bool {
        self.enabled.iter().any(|p| p.name == name)
    }

    fn disables(&self, name: &str) -> bool {
        self.disabled
            .iter()
            .any(|p| p.name == name || p.name == "*")
    }

    /// What a plugin is at this point, if it was on or off before.
    fn turns(&self, name: &str, before: bool) -> bool {
        self.enables(name) || (before && !self.disables(name))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginRef {
    name: String,
    weight: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct FitArgs {
    scoring_strategy: Option<StrategyFile>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PreemptionArgs {
    min_candidate_nodes_absolute: Option<i32>,
    min_candidate_nodes_percentage: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BindingArgs {
    bind_timeout_seconds: Option<i64>,
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

fn check_shape(points: &[(i64, i64)]) -> Result<(), ConfigError> {
    let field = |i: usize, part: &str| {
        format!("scoringStrategy.requestedToCapacityRatio.shape[{i}].{part}")
    };
    let mut before = None;
    for (i, (utilization, score)) in points.iter().enumerate() {
        for (part, value, max) in [("utilization", *utilization, 100), ("score", *score, 10)] {
            if !(0..=max).contains(&value) {
                let detail = format!("not in valid range [0, {max}]");
                return Err(invalid(&field(i, part), value, &detail));
            }
        }
        if before.is_some_and(|b| b >= *utilization) {
            let detail = "values must be sorted in increasing order";
            return Err(invalid(&field(i, "utilization"), utilization, detail));
        }
        before = Some(*utilization);
    }
    Ok(())
}

fn candidates(args: &PreemptionArgs) -> Result<Candidates, ConfigError> {
    let default = Candidates::default();
    let read = |field: &str, value: Option<i32>, default: usize, max: usize, range: &str| {
        let Some(value) = value else {
            return Ok(default);
        };
        match usize::try_from(value) {
            Ok(v) if v <= max => Ok(v),
            _ => Err(invalid(
                field,
                value,
                &format!("not in valid range {range}"),
            )),
        }
    };
    let (percentage, absolute) = ("minCandidateNodesPercentage", "minCandidateNodesAbsolute");
    let c = Candidates {
        percentage: read(
            percentage,
            args.min_candidate_nodes_percentage,
            default.percentage,
            100,
            "[0, 100]",
        )?,
        absolute: read(
            absolute,
            args.min_candidate_nodes_absolute,
            default.absolute,
            usize::MAX,
            "[0, inf)",
        )?,
    };
    if c.percentage == 0 && c.absolute == 0 {
        let detail = format!("cannot be zero at the same time as {absolute}");
        return Err(invalid(percentage, 0, &detail));
    }
    Ok(c)
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
            check_shape(&points)?;
            Strategy::RequestedToCapacityRatio(points)
        }
        other => return Err(invalid("scoringStrategy.type", other, "unknown strategy")),
    };
    let resources = if file.resources.is_empty() {
        ScoringStrategy::default().resources
    } else {
        file.resources
            .into_iter()
            .map(|r| (r.name, r.weight.map_or(1, i64::from)))
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
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let loaded = fields::KIND.load::<File>(path)?;
        Config::new(&path.display().to_string(), loaded)
    }

    /// As [`Config::load`], from a text (YAML or JSON); `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(path: &str, text: &str) -> Result<Config, ConfigError> {
        Config::new(path, fields::KIND.parse::<File>(path, text)?)
    }

    fn new(path: &str, loaded: component::config::Loaded<File>) -> Result<Config, ConfigError> {
        let file = loaded.value;
        let mut warnings = loaded.warnings;
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
                .map(|p| profile(path, p, &mut warnings))
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
        let or = |set: f32, default: f32| if set == 0.0 { default } else { set };
        config.connection = Some(Connection {
            kubeconfig: file.client_connection.kubeconfig,
            qps: or(file.client_connection.qps, 50.0),
            burst: match u32::try_from(file.client_connection.burst) {
                Ok(0) => 100,
                Ok(n) => n,
                Err(_) => {
                    let v = file.client_connection.burst;
                    return Err(invalid("clientConnection.burst", v, "must be non-negative"));
                }
            },
        });
        config.election = election(file.leader_election)?;
        config.warnings = warnings;
        Ok(config)
    }
}

fn election(file: ElectionFile) -> Result<Election, ConfigError> {
    let mut e = Election::default();
    if !matches!(file.resource_lock.as_str(), "" | "leases") {
        let detail = "resourceLock value must be \"leases\"";
        return Err(invalid(
            "leaderElection.resourceLock",
            file.resource_lock,
            detail,
        ));
    }
    for (field, text, place) in [
        ("leaseDuration", &file.lease_duration, &mut e.lease_duration),
        ("renewDeadline", &file.renew_deadline, &mut e.renew_deadline),
        ("retryPeriod", &file.retry_period, &mut e.retry_period),
    ] {
        let field = format!("leaderElection.{field}");
        match component::duration::parse(text) {
            _ if text.is_empty() => {}
            Ok(d) if d.is_zero() => {}
            Ok(d) => *place = d,
            Err(why) => return Err(invalid(&field, text, &why.to_string())),
        }
    }
    e.elect = file.leader_elect.unwrap_or(true);
    for (text, place) in [
        (file.resource_name, &mut e.name),
        (file.resource_namespace, &mut e.namespace),
    ] {
        if !text.is_empty() {
            *place = text;
        }
    }
    Ok(e)
}

/// Names a set may hold: the known ones, those that are absent if nothing is lost by that.
fn check_names(
    field: &str,
    set: &PluginSet,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let wrong = |plugin: &str, why: &str| ConfigError::Plugin {
        field: field.to_owned(),
        plugin: plugin.to_owned(),
        why: why.to_owned(),
    };
    for p in set.disabled.iter().filter(|p| p.name != "*") {
        if !PLUGINS.iter().any(|d| d.name == p.name) {
            return Err(wrong(&p.name, "does not exist"));
        }
    }
    for p in &set.enabled {
        let Some(d) = PLUGINS.iter().find(|d| d.name == p.name) else {
            return Err(wrong(&p.name, "does not exist"));
        };
        match d.support {
            Support::Absent(Instead::Refused(why)) => {
                return Err(wrong(&p.name, &format!("is not supported: {why}")));
            }
            Support::Absent(Instead::Warned(why)) => {
                warnings.push(format!("{field}: plugin {} has no effect: {why}", d.name));
            }
            _ => {}
        }
    }
    Ok(())
}

fn profile(
    path: &str,
    file: ProfileFile,
    warnings: &mut Vec<String>,
) -> Result<Profile, ConfigError> {
    let mut profile = Profile {
        scheduler_name: file
            .scheduler_name
            .unwrap_or_else(|| "default-scheduler".into()),
        ..Profile::default()
    };
    for (point, set) in &file.plugins {
        check_names(&format!("profiles.plugins.{point}"), set, warnings)?;
    }
    let none = PluginSet::default();
    let at = |point: &str| file.plugins.get(point).unwrap_or(&none);
    for d in PLUGINS.iter().filter(|d| d.support.is_there()) {
        let all = at("multiPoint").turns(d.name, true);
        let filter = at("filter").turns(d.name, all);
        let score = at("score").turns(d.name, all);
        let wrong = |point: &str| ConfigError::Plugin {
            field: format!("profiles.plugins.{point}.disabled"),
            plugin: d.name.to_owned(),
            why: "can be switched off at multiPoint, filter, score and postFilter only".to_owned(),
        };
        if d.name == "DefaultPreemption" {
            profile.preemption = at("postFilter").turns(d.name, all);
        }
        // What is done at a point that has no other plugin, and cannot be left out.
        let own = match d.name {
            "PrioritySort" => "queueSort",
            "DefaultBinder" => "bind",
            "SchedulingGates" => "preEnqueue",
            _ => "",
        };
        if d.make.is_none() && !own.is_empty() && !all && !at(own).enables(d.name) {
            return Err(wrong("multiPoint"));
        }
        for (point, set) in &file.plugins {
            let on = match point.as_str() {
                "multiPoint" | "filter" | "score" | "postFilter" => continue,
                "preFilter" => filter,
                "preScore" => score,
                _ => all,
            };
            // Work is prepared where it is used; it cannot be switched off alone.
            let named = set.disabled.iter().any(|p| p.name == d.name);
            if on && !set.turns(d.name, true) && (named || point == own) {
                return Err(wrong(point));
            }
        }
        if !all && !filter && !score {
            profile.disabled.insert(d.name.to_owned());
        }
        if !filter {
            profile.unfiltered.insert(d.name.to_owned());
        }
        let weight = |point: &str| {
            let set = at(point).enabled.iter().find(|p| p.name == d.name);
            let weight = set.and_then(|p| p.weight).map(i64::from);
            weight.filter(|w| *w > 0)
        };
        match weight("score").or_else(|| weight("multiPoint")) {
            _ if !score => profile.weights.insert(d.name.to_owned(), 0),
            Some(w) => profile.weights.insert(d.name.to_owned(), w),
            None => None,
        };
    }
    for c in file.plugin_config {
        let Some(args) = fields::ARGS.iter().find(|(name, _)| *name == c.name) else {
            return Err(ConfigError::Plugin {
                field: "profiles.pluginConfig".into(),
                plugin: c.name,
                why: "takes no arguments or does not exist".into(),
            });
        };
        let mut doc = c.args;
        if let Some(o) = doc.as_object_mut() {
            o.remove("apiVersion");
            o.remove("kind");
        }
        let path = format!("{path}: pluginConfig {}", c.name);
        warnings.extend(component::config::check(&path, &mut doc, args.1)?);
        let wrong = |e| ConfigError::Args(c.name.clone(), e);
        match c.name.as_str() {
            _ if doc.is_null() => {}
            "NodeResourcesFit" => {
                let args: FitArgs = serde_json::from_value(doc).map_err(wrong)?;
                if let Some(s) = args.scoring_strategy {
                    profile.scoring = strategy(s)?;
                }
            }
            "DefaultPreemption" => {
                let args: PreemptionArgs = serde_json::from_value(doc).map_err(wrong)?;
                profile.candidates = candidates(&args)?;
            }
            "VolumeBinding" => {
                let args: BindingArgs = serde_json::from_value(doc).map_err(wrong)?;
                if let Some(seconds) = args.bind_timeout_seconds {
                    let detail = "invalid BindTimeoutSeconds, should not be a negative value";
                    let seconds = u64::try_from(seconds)
                        .map_err(|_| invalid("bindTimeoutSeconds", seconds, detail))?;
                    profile.bind_timeout = Duration::from_secs(seconds);
                }
            }
            _ => {}
        }
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    fn read(text: &str) -> Result<Config, String> {
        Config::parse("f", &format!("{HEAD}{text}")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_file() {
        let c = read(
            "profiles:\n- schedulerName: packer\n  plugins:\n    score:\n      disabled: [{name: ImageLocality}]\n  pluginConfig:\n  \
             - name: NodeResourcesFit\n    args:\n      apiVersion: kubescheduler.config.k8s.io/v1\n      kind: NodeResourcesFitArgs\n      \
             scoringStrategy:\n        type: MostAllocated\n        resources: [{name: cpu, weight: 3}]\n",
        )
        .unwrap();
        assert_eq!(c.profiles[0].scheduler_name, "packer");
        assert_eq!(c.profiles[0].scoring.strategy, Strategy::MostAllocated);
        assert_eq!(c.profiles[0].scoring.resources, [("cpu".to_owned(), 3)]);
        assert_eq!(c.profiles[0].weights["ImageLocality"], 0);
        assert!(c.profiles[0].disabled.is_empty() && c.profiles[0].preemption);
    }

    #[test]
    fn every_field_that_is_there_is_read() {
        assert_eq!(
            component::config::not_decoded::<File>(fields::KIND.fields),
            [] as [&str; 0]
        );
        for (name, args) in fields::ARGS {
            let left = match *name {
                "NodeResourcesFit" => component::config::not_decoded::<FitArgs>(args),
                "DefaultPreemption" => component::config::not_decoded::<PreemptionArgs>(args),
                "VolumeBinding" => component::config::not_decoded::<BindingArgs>(args),
                _ => {
                    assert!(args.iter().all(|f| !f.support.is_there()), "{name}");
                    continue;
                }
            };
            assert_eq!(left, [] as [&str; 0]);
        }
    }

    #[test]
    fn connection_and_election_come_from_the_file() {
        let c = read(
            "clientConnection: {kubeconfig: /k, qps: 7, burst: 9}\nleaderElection: {leaderElect: false, leaseDuration: 30s, resourceName: mine, retryPeriod: null}\n",
        )
        .unwrap();
        let want = Connection {
            kubeconfig: "/k".into(),
            qps: 7.0,
            burst: 9,
        };
        assert_eq!(c.connection, Some(want));
        let want = Election {
            elect: false,
            lease_duration: Duration::from_secs(30),
            name: "mine".into(),
            ..Election::default()
        };
        assert_eq!(c.election, want);
        let c = read("").unwrap();
        assert_eq!(c.election, Election::default());
        assert_eq!(c.connection.map(|c| (c.qps, c.burst)), Some((50.0, 100)));
        for (text, part) in [
            (
                "leaderElection: {resourceLock: endpoints}\n",
                "must be \"leases\"",
            ),
            (
                "leaderElection: {leaseDuration: x}\n",
                "leaderElection.leaseDuration",
            ),
            ("clientConnection: {burst: -1}\n", "non-negative"),
        ] {
            let e = read(text).unwrap_err();
            assert!(e.contains(part), "{text}: {e}");
        }
    }

    #[test]
    fn points_switch_plugins() {
        let of = |plugins: &str| {
            let text = format!("profiles:\n- plugins: {plugins}\n");
            read(&text).map(|c| c.profiles[0].clone())
        };
        let p = of("{multiPoint: {disabled: [{name: TaintToleration}]}}").unwrap();
        assert!(p.disabled.contains("TaintToleration") && p.disabled.len() == 1);
        let p = of("{filter: {disabled: [{name: '*'}], enabled: [{name: NodeName}]}}").unwrap();
        assert!(p.unfiltered.contains("NodeResourcesFit") && !p.unfiltered.contains("NodeName"));
        assert!(!p.weights.contains_key("NodeResourcesFit"));
        let p = of(
            "{score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 5}]}}",
        )
        .unwrap();
        assert_eq!(
            (p.weights["NodeResourcesFit"], p.weights["ImageLocality"]),
            (5, 0)
        );
        let p = of("{postFilter: {disabled: [{name: DefaultPreemption}]}}").unwrap();
        assert!(!p.preemption);
        for (plugins, part) in [
            (
                "{multiPoint: {enabled: [{name: Coscheduling}]}}",
                "\"Coscheduling\" does not exist",
            ),
            (
                "{score: {disabled: [{name: ImageLocalty}]}}",
                "\"ImageLocalty\" does not exist",
            ),
            (
                "{multiPoint: {enabled: [{name: GangScheduling}]}}",
                "is not supported",
            ),
            (
                "{preFilter: {disabled: [{name: NodeResourcesFit}]}}",
                "only",
            ),
            ("{bind: {disabled: [{name: DefaultBinder}]}}", "only"),
            ("{multiPoint: {disabled: [{name: DefaultBinder}]}}", "only"),
            ("{filters: {}}", "unknown field"),
        ] {
            let e = of(plugins).unwrap_err();
            assert!(e.contains(part), "{plugins}: {e}");
        }
        let c = read("profiles:\n- plugins: {multiPoint: {enabled: [{name: VolumeBinding}, {name: DynamicResources}]}}\n").unwrap();
        assert_eq!(c.warnings.len(), 1, "{:?}", c.warnings);
    }

    #[test]
    fn arguments_that_nothing_reads_are_refused() {
        let of = |name: &str, args: &str| {
            read(&format!(
                "profiles:\n- pluginConfig:\n  - name: {name}\n    args: {args}\n"
            ))
        };
        for (name, args) in [
            ("InterPodAffinity", "{hardPodAffinityWeight: 5}"),
            (
                "NodeAffinity",
                "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{}]}}}",
            ),
            (
                "PodTopologySpread",
                "{defaultingType: List, defaultConstraints: [{maxSkew: 1}]}",
            ),
            ("NodeResourcesFit", "{ignoredResources: [example.com/a]}"),
            (
                "NodeResourcesBalancedAllocation",
                "{resources: [{name: nvidia.com/gpu, weight: 1}]}",
            ),
            ("VolumeBinding", "{shape: [{utilization: 0, score: 0}]}"),
            ("Nope", "{}"),
        ] {
            assert!(of(name, args).is_err(), "{name} {args}");
        }
        for (name, args) in [
            (
                "InterPodAffinity",
                "{apiVersion: kubescheduler.config.k8s.io/v1, kind: InterPodAffinityArgs, hardPodAffinityWeight: 1}",
            ),
            (
                "DefaultPreemption",
                "{minCandidateNodesAbsolute: 100, minCandidateNodesPercentage: 10}",
            ),
            (
                "NodeResourcesBalancedAllocation",
                "{resources: [{name: cpu, weight: 1}, {name: memory, weight: 1}]}",
            ),
            ("PodTopologySpread", "{defaultingType: System}"),
            ("VolumeBinding", "{bindTimeoutSeconds: 600, shape: null}"),
        ] {
            let c = of(name, args).unwrap();
            assert!(c.warnings.is_empty(), "{name}: {:?}", c.warnings);
        }
    }

    #[test]
    fn arguments_at_their_ends() {
        let of = |name: &str, args: &str| {
            read(&format!(
                "profiles:\n- pluginConfig:\n  - name: {name}\n    args: {args}\n"
            ))
        };
        let shape = |points: &str| {
            format!(
                "{{scoringStrategy: {{type: RequestedToCapacityRatio, requestedToCapacityRatio: {{shape: {points}}}}}}}"
            )
        };
        let c = of(
            "NodeResourcesFit",
            &shape("[{utilization: 0, score: 0}, {utilization: 100, score: 10}]"),
        )
        .unwrap();
        assert_eq!(
            c.profiles[0].scoring.strategy,
            Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)])
        );
        for (points, part) in [
            ("[]", "at least one point"),
            ("[{utilization: 101, score: 0}]", "[0].utilization"),
            ("[{utilization: -1, score: 0}]", "[0, 100]"),
            ("[{utilization: 0, score: 11}]", "[0].score"),
            (
                "[{utilization: 9223372036854775807, score: 9223372036854775807}]",
                "[0, 100]",
            ),
            (
                "[{utilization: 9, score: 1}, {utilization: 9, score: 2}]",
                "increasing order",
            ),
        ] {
            let e = of("NodeResourcesFit", &shape(points)).unwrap_err();
            assert!(e.contains(part), "{points}: {e}");
        }
        let c = of("DefaultPreemption", "{minCandidateNodesAbsolute: 0}").unwrap();
        let found = c.profiles[0].candidates;
        assert_eq!((found.of(1000), found.of(9), found.of(0)), (100, 0, 0));
        let c = of(
            "DefaultPreemption",
            "{minCandidateNodesAbsolute: 2147483647}",
        );
        assert_eq!(c.unwrap().profiles[0].candidates.of(1000), 1000);
        for (args, part) in [
            ("{minCandidateNodesPercentage: 101}", "[0, 100]"),
            ("{minCandidateNodesAbsolute: -1}", "[0, inf)"),
            (
                "{minCandidateNodesAbsolute: 0, minCandidateNodesPercentage: 0}",
                "at the same time",
            ),
            ("{minCandidateNodesAbsolute: 2147483648}", "i32"),
        ] {
            let e = of("DefaultPreemption", args).unwrap_err();
            assert!(e.contains(part), "{args}: {e}");
        }
        for (args, seconds) in [
            ("{}", 600),
            ("{bindTimeoutSeconds: 0}", 0),
            ("{bindTimeoutSeconds: 30}", 30),
            ("{bindTimeoutSeconds: 9223372036854775807}", i64::MAX as u64),
        ] {
            let c = of("VolumeBinding", args).unwrap();
            let found = c.profiles[0].bind_timeout;
            assert_eq!(found, Duration::from_secs(seconds), "{args}");
        }
        let e = of("VolumeBinding", "{bindTimeoutSeconds: -1}").unwrap_err();
        assert!(e.contains("should not be a negative value"), "{e}");
        for weight in ["2147483648", "9223372036854775807"] {
            let plugins =
                format!("{{score: {{enabled: [{{name: NodeResourcesFit, weight: {weight}}}]}}}}");
            let e = read(&format!("profiles:\n- plugins: {plugins}\n")).unwrap_err();
            assert!(e.contains("i32"), "{e}");
        }
    }

    #[test]
    fn bad_files_are_refused() {
        let e = Config::parse("f", "kind: x\napiVersion: y\n").unwrap_err();
        assert!(e.to_string().contains("no kind"), "{e}");
        for (text, part) in [
            ("bogus: 1\n", "bogus"),
            ("podInitialBackoffSeconds: 0\n", "must be greater than 0"),
            ("profiles: [{}, {}]\n", "duplicate"),
            ("extenders: [{urlPrefix: http://x}]\n", "extenders"),
        ] {
            let e = read(text).unwrap_err();
            assert!(e.contains(part), "{e}");
        }
    }
}
