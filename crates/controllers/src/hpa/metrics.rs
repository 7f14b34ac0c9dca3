//! Reading metrics from the three APIs that serve them.

use std::collections::BTreeMap;
use std::time::Duration;

use api::quantity::Quantity;
use api::selector::Selector;
use client::rest::escape;
use client::{Client, Time};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::calculate::{Sample, Samples};

/// Over how long a custom metric was taken that does not say it.
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "T: Default + Deserialize<'de>"))]
struct List<T: Default> {
    #[serde(deserialize_with = "client::view::nullable")]
    items: Vec<T>,
}

/// `metrics.k8s.io/v1beta1.PodMetrics`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PodMetrics {
    metadata: Named,
    timestamp: Option<Time>,
    window: String,
    #[serde(deserialize_with = "client::view::nullable")]
    containers: Vec<ContainerMetrics>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerMetrics {
    name: String,
    #[serde(deserialize_with = "client::view::nullable")]
    usage: BTreeMap<String, String>,
}

/// `custom.metrics.k8s.io.MetricValue`, of any version, and `external.metrics.k8s.io.ExternalMetricValue`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct MetricValue {
    described_object: Named,
    timestamp: Option<Time>,
    window_seconds: Option<i64>,
    /// In v1beta1.
    window: Option<i64>,
    value: String,
}

fn milli(q: &str) -> i64 {
    Quantity::parse(q).map_or(0, |q| q.milli_value())
}

fn span(seconds: i64) -> Duration {
    component::duration::seconds(seconds)
}

/// What pods, or one container of each, use of a resource.
pub(super) fn of_resource(items: &[PodMetrics], resource: &str, container: &str) -> Samples {
    let mut out = Samples::new();
    for m in items {
        let value = if container.is_empty() {
            let mut used = m.containers.iter().map(|c| c.usage.get(resource));
            let sum = used.try_fold(0i64, |sum, q| Some(sum.saturating_add(milli(q?))));
            sum.filter(|_| !m.containers.is_empty())
        } else {
            let named = m.containers.iter().find(|c| c.name == container);
            named.and_then(|c| c.usage.get(resource)).map(|q| milli(q))
        };
        if let Some(value) = value {
            let nanos = component::duration::parse_nanos(&m.window).unwrap_or(0);
            let sample = Sample {
                value,
                timestamp: m.timestamp,
                window: Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)),
            };
            out.insert(m.metadata.name.clone(), sample);
        }
    }
    out
}

/// A custom metric of pods.
pub(super) fn of_pods(items: Vec<MetricValue>) -> Samples {
    let one = |m: MetricValue| {
        let window = m.window_seconds.or(m.window).map_or(WINDOW, span);
        let sample = Sample {
            value: milli(&m.value),
            timestamp: m.timestamp,
            window,
        };
        (m.described_object.name, sample)
    };
    items.into_iter().map(one).collect()
}

/// All values of an external metric together.
pub(super) fn together(items: &[MetricValue]) -> i64 {
    let values = items.iter().map(|m| milli(&m.value));
    values.fold(0, i64::saturating_add)
}

/// Where metrics are read.
pub(super) struct Metrics<'a> {
    /// As the controller.
    pub client: &'a Client,
    /// Of `custom.metrics.k8s.io`, as it is served.
    pub custom_version: &'a str,
    /// Of the autoscaler.
    pub namespace: &'a str,
}

impl Metrics<'_> {
    async fn list<T: DeserializeOwned + Default>(
        &self,
        api: &str,
        path: &str,
        selectors: &[(&str, &Selector)],
    ) -> Result<Vec<T>, String> {
        let query: Vec<String> = selectors
            .iter()
            .map(|(name, s)| (name, s.to_string()))
            .filter(|(_, s)| !s.is_empty())
            .map(|(name, s)| format!("{name}={}", escape(&s)))
            .collect();
        let mut path = path.to_owned();
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let list: List<T> = self
            .client
            .get_json(&path)
            .await
            .map_err(|e| format!("unable to fetch metrics from {api} API: {e}"))?;
        if list.items.is_empty() {
            return Err(format!("no metrics returned from {api} API"));
        }
        Ok(list.items)
    }

    /// What pods use of a resource.
    ///
    /// # Errors
    /// Upstream's.
    pub async fn resource(
        &self,
        resource: &str,
        container: &str,
        pods: &Selector,
    ) -> Result<Samples, String> {
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods",
            escape(self.namespace)
        );
        let items = self
            .list::<PodMetrics>("resource metrics", &path, &[("labelSelector", pods)])
            .await;
        let items =
            items.map_err(|e| format!("unable to get metrics for resource {resource}: {e}"))?;
        Ok(of_resource(&items, resource, container))
    }

    fn custom(&self, path: &str) -> String {
        format!(
            "/apis/custom.metrics.k8s.io/{}/namespaces/{}/{path}",
            escape(self.custom_version),
            escape(self.namespace)
        )
    }

    /// A custom metric of pods.
    ///
    /// # Errors
    /// Upstream's.
    pub async fn pods(
        &self,
        metric: &str,
        pods: &Selector,
        of: &Selector,
    ) -> Result<Samples, String> {
        let path = self.custom(&format!("pods/*/{}", escape(metric)));
        let selectors = [("labelSelector", pods), ("metricLabelSelector", of)];
        let items = self.list("custom metrics", &path, &selectors).await;
        items
            .map(of_pods)
            .map_err(|e| format!("unable to get metric {metric}: {e}"))
    }

    /// A custom metric of one object; of the namespace itself where `resource` is empty.
    ///
    /// # Errors
    /// Upstream's.
    pub async fn object(
        &self,
        resource: &str,
        name: &str,
        metric: &str,
        of: &Selector,
    ) -> Result<i64, String> {
        let path = if resource.is_empty() {
            format!("metrics/{}", escape(metric))
        } else {
            format!("{}/{}/{}", escape(resource), escape(name), escape(metric))
        };
        let items: Vec<MetricValue> = self
            .list(
                "custom metrics",
                &self.custom(&path),
                &[("metricLabelSelector", of)],
            )
            .await?;
        match items.as_slice() {
            [one] => Ok(milli(&one.value)),
            more => Err(format!(
                "unable to fetch metrics from custom metrics API: the custom metrics API server returned {} results when we asked for exactly one",
                more.len()
            )),
        }
    }

    /// An external metric.
    ///
    /// # Errors
    /// Upstream's.
    pub async fn external(&self, metric: &str, of: &Selector) -> Result<i64, String> {
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{}",
            escape(self.namespace),
            escape(metric)
        );
        let items: Vec<MetricValue> = self
            .list("external metrics", &path, &[("labelSelector", of)])
            .await?;
        Ok(together(&items))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn list<T: DeserializeOwned + Default>(items: Value) -> Vec<T> {
        serde_json::from_value::<List<T>>(json!({"items": items}))
            .unwrap()
            .items
    }

    #[test]
    fn pods_are_summed_over_their_containers_where_all_are_known() {
        let items: Vec<PodMetrics> = list(json!([
            {"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "30s", "containers": [
                {"name": "x", "usage": {"cpu": "100m", "memory": "1Ki"}}, {"name": "y", "usage": {"cpu": "250m"}}]},
            {"metadata": {"name": "b"}, "window": "odd", "containers": [
                {"name": "x", "usage": {"cpu": "1"}}, {"name": "y", "usage": {"memory": "1"}}]},
            {"metadata": {"name": "c"}, "containers": null},
        ]));
        let values = |resource: &str, container: &str| {
            let all = of_resource(&items, resource, container).into_iter();
            all.map(|(n, s)| (n, s.value)).collect::<Vec<_>>()
        };
        assert_eq!(values("cpu", ""), [("a".into(), 350)]);
        assert_eq!(values("cpu", "x"), [("a".into(), 100), ("b".into(), 1000)]);
        assert_eq!(values("memory", "x"), [("a".into(), 1_024_000)]);
        assert!(values("cpu", "z").is_empty());
        let a = &of_resource(&items, "cpu", "")["a"];
        assert_eq!(a.window, Duration::from_secs(30));
        assert_eq!(a.timestamp, Some("2026-01-01T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn custom_and_external_values() {
        let items = list(json!([
            {"describedObject": {"name": "a"}, "value": "10", "windowSeconds": 5},
            {"describedObject": {"name": "b"}, "value": "500m", "window": 7},
            {"describedObject": {"name": "c"}, "value": "0"},
        ]));
        assert_eq!(together(&items), 10_500);
        let all = of_pods(items);
        let told = |n: &str| (all[n].value, all[n].window.as_secs());
        assert_eq!(
            [told("a"), told("b"), told("c")],
            [(10_000, 5), (500, 7), (0, 60)]
        );
        let most = list(json!([{"value": "9Ei"}, {"value": "9Ei"}]));
        assert_eq!(together(&most), i64::MAX);
    }
}
