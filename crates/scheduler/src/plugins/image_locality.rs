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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::{node, view};
    use crate::pod::Classes;
    use crate::view::{Container, Image};
    use std::sync::Arc;

    #[test]
    fn large_images_count_where_they_are_and_the_more_where_many_have_them() {
        let mut t = NodeTable::default();
        for (name, images) in [
            ("both", &[("app:latest", 1000), ("side:2", 400)][..]),
            ("one", &[("side:2", 400)]),
            ("small", &[("tiny:1", 20)]),
            ("none", &[]),
        ] {
            let mut n = node(name, "4", "8Gi");
            n.status.images = images
                .iter()
                .map(|(name, size)| Image {
                    names: vec![(*name).to_owned()],
                    size_bytes: size * MB,
                })
                .collect();
            t.upsert_node(&n);
        }
        let pod = |images: &[&str]| {
            let mut v = view("p", "1", "");
            v.spec.containers = images
                .iter()
                .map(|i| Container {
                    image: (*i).to_owned(),
                    ..Container::default()
                })
                .collect();
            Classes::default().pod(Arc::new(v))
        };
        let scores = |images: &[&str]| {
            let mut out = vec![0; t.width()];
            ImageLocality.score(&pod(images), &t, t.live(), &mut out);
            out
        };
        // A quarter of the nodes have 1,000 MB, half of them 400: 250 + 200 and 200 MB, of 23 to 2,000.
        assert_eq!(scores(&["app", "side:2"]), [21, 8, 0, 0]);
        // And for one container of 23 to 1,000.
        assert_eq!(scores(&["app"]), [23, 0, 0, 0]);
        assert_eq!(scores(&["tiny:1"]), [0, 0, 0, 0]);
        for (images, relevant) in [(&["app"], true), (&["nowhere"], false)] {
            assert_eq!(ImageLocality.relevant(&pod(images), &t), relevant);
        }
    }
}
