//! Image collection: when the disk that holds images is fuller than the high threshold, unused images go, least recently
//! used first, until it is below the low one.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::cri::proto::ContainerFilter;
use crate::node::file_system;
use crate::shared::Shared;

/// When images were first seen and last used.
#[derive(Default)]
pub struct ImageGc {
    seen: HashMap<String, (Instant, Instant)>,
}

impl ImageGc {
    /// Looks at the images and frees space when needed; gives the bytes freed.
    pub async fn run(&mut self, shared: &Arc<Shared>) -> crate::cri::Result<u64> {
        let now = Instant::now();
        let images = shared.image_rt.list_images().await?;
        let containers = shared
            .rt
            .list_containers(ContainerFilter::default())
            .await?;
        let used: BTreeSet<String> = containers
            .into_iter()
            .flat_map(|c| {
                [
                    c.image_ref,
                    c.image_id,
                    c.image.map(|i| i.image).unwrap_or_default(),
                ]
            })
            .collect();
        self.seen.retain(|id, _| images.iter().any(|i| &i.id == id));
        for i in &images {
            let e = self.seen.entry(i.id.clone()).or_insert((now, now));
            if in_use(i, &used) {
                e.1 = now;
            }
        }
        let s = &shared.settings;
        let place = shared
            .image_rt
            .image_fs_info()
            .await?
            .image_filesystems
            .into_iter()
            .find_map(|f| f.fs_id.map(|i| i.mountpoint))
            .unwrap_or_else(|| s.root_dir.display().to_string());
        let Some((total, free, ..)) = file_system(Path::new(&place)) else {
            return Ok(0);
        };
        if total == 0 || 100 - free * 100 / total < s.image_high {
            return Ok(0);
        }
        let mut to_free = total * (100 - s.image_low) / 100 - free;
        let mut freed = 0;
        let mut candidates: Vec<_> = images
            .iter()
            .filter(|i| !i.pinned && !in_use(i, &used))
            .collect();
        candidates.sort_by_key(|i| self.seen.get(&i.id).map(|s| (s.1, s.0)));
        for i in candidates {
            if to_free <= 0 {
                break;
            }
            if self
                .seen
                .get(&i.id)
                .is_none_or(|s| s.0.elapsed() < s_age(shared))
            {
                continue;
            }
            tracing::info!(image = %i.id, "removing an unused image to free space");
            if shared.image_rt.remove_image(&i.id).await.is_ok() {
                freed += i.size;
                to_free -= i64::try_from(i.size).unwrap_or(i64::MAX);
            }
        }
        if to_free > 0 {
            shared.node_event(
                true,
                "FreeDiskSpaceFailed",
                format!("Failed to garbage collect required amount of images. Attempted to free {to_free} bytes, but only found {freed} bytes eligible to free."),
            );
        }
        Ok(freed)
    }
}

fn s_age(shared: &Shared) -> std::time::Duration {
    shared.settings.image_min_age
}

fn in_use(i: &crate::cri::proto::Image, used: &BTreeSet<String>) -> bool {
    used.contains(&i.id)
        || i.repo_tags
            .iter()
            .chain(&i.repo_digests)
            .any(|n| used.contains(n))
}
