//! ImageLocality: prefers nodes that have the pod's images, weighted by size and by how widely an image is spread.

use crate::bits::BitSet;
use crate::framework::{MAX_SCORE, Plugin, Scope, Score};
use crate::nodes::NodeTable;
use crate::pod::Pod;

const MB: i64 = 1024 * 1024;
/// Images smaller than this together count nothing.
const MIN: i64 = 23 * MB;
/// Per container: beyond this more bytes count nothing.
const MAX_PER_CONTAINER: i64 = 1000 * MB;

struct ImageLocality;

impl Score for ImageLocality {
    fn relevant(&self, pod: &Pod, nodes: &NodeTable) -> bool {
        pod.class
            .images
            .iter()
            .any(|i| nodes.nodes_with_image(i) > 0)
    }

    fn score(&self, pod: &Pod, nodes: &NodeTable, rows: &BitSet, out: &mut [i64]) {
        let total = nodes.len().max(1) as f64;
        let max = MAX_PER_CONTAINER * pod.class.containers.max(1) as i64;
        for row in rows.iter() {
            let (Some(r), Some(o)) = (nodes.row(row), out.get_mut(row)) else {
                continue;
            };
            let sum: i64 = pod
                .class
                .images
                .iter()
                .filter_map(|i| Some((r.images.get(i.as_str())?, nodes.nodes_with_image(i))))
                .map(|(size, on)| (*size as f64 * (on as f64 / total)) as i64)
                .fold(0, i64::saturating_add);
            *o = MAX_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN);
        }
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        weight: 1,
        score: Some(Scope::Static(Box::new(ImageLocality))),
        ..Plugin::new("ImageLocality")
    }
}
