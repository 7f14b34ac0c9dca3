//! The kinds of volumes upstream knows, and how far each is there.
//!
//! A pod with a volume of an absent kind does not start; its events name the kind.

use component::support::{Support, refused};

const NO_PLUGIN: Support =
    refused("the pod does not start: nothing attaches or mounts volumes of the network");
const CLAIM: Support =
    Support::Partial("volumes of kind hostPath, and local ones that are directories");
const NO_CLOUD: Support = refused("the pod does not start: upstream's own plugin is gone too");

/// Fields of a volume in `spec.volumes`.
#[rustfmt::skip]
pub static KINDS: &[(&str, Support)] = &[
    ("awsElasticBlockStore", NO_CLOUD),
    ("azureDisk", NO_CLOUD),
    ("azureFile", NO_CLOUD),
    ("cephfs", NO_CLOUD),
    ("cinder", NO_CLOUD),
    ("configMap", Support::Full),
    ("csi", refused("the pod does not start: no driver is called")),
    ("downwardAPI", Support::Full),
    ("emptyDir", Support::Partial("a size limit of a volume on disk or of huge pages is not enforced")),
    ("ephemeral", CLAIM),
    ("fc", NO_PLUGIN),
    ("flexVolume", NO_PLUGIN),
    ("flocker", NO_CLOUD),
    ("gcePersistentDisk", NO_CLOUD),
    ("gitRepo", refused("the pod does not start, on purpose: CVE-2024-10220, CVE-2025-1767")),
    ("glusterfs", NO_CLOUD),
    ("hostPath", Support::Full),
    ("image", refused("the pod does not start: no image is mounted")),
    ("iscsi", NO_PLUGIN),
    ("nfs", NO_PLUGIN),
    ("persistentVolumeClaim", CLAIM),
    ("photonPersistentDisk", NO_CLOUD),
    ("portworxVolume", NO_CLOUD),
    ("projected", Support::Partial("sources configMap, secret, downwardAPI and serviceAccountToken")),
    ("quobyte", NO_CLOUD),
    ("rbd", NO_CLOUD),
    ("scaleIO", NO_CLOUD),
    ("secret", Support::Full),
    ("storageos", NO_CLOUD),
    ("vsphereVolume", NO_CLOUD),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use super::*;
    use crate::pod::Pod;
    use crate::runtime::env::{Context, Data};
    use crate::volumes::claims::Claimed;
    use crate::volumes::{Sources, set_up};

    struct Everything;

    #[async_trait::async_trait]
    impl Sources for Everything {
        async fn config_map(&self, _: &str, _: &str) -> Result<Option<Data>, String> {
            Ok(Some(Data {
                values: BTreeMap::new(),
            }))
        }
        async fn claim(&self, _: &Pod, _: &str, _: bool) -> Result<Claimed, String> {
            Ok(Claimed::Local("/".into()))
        }
        async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
            self.config_map(namespace, name).await
        }
        async fn token(&self, _: &Pod, _: &str, _: i64) -> Result<(String, Instant), String> {
            Ok(("t".into(), Instant::now()))
        }
        fn mount_memory(&self, _: &std::path::Path, _: i64) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_list_says_what_set_up_does() {
        let dir = tempfile::tempdir().unwrap();
        for (kind, support) in KINDS {
            let source = match *kind {
                "hostPath" => r#"{"path": "/"}"#,
                "projected" => r#"{"sources": []}"#,
                _ => "{}",
            };
            let pod: Pod = serde_json::from_str(&format!(
                r#"{{"metadata": {{"name": "p", "namespace": "n", "uid": "u"}}, "spec": {{"containers": [{{"name": "c"}}], "volumes": [{{"name": "v", "{kind}": {source}}}]}}}}"#
            ))
            .unwrap();
            let done = set_up(&pod, dir.path(), &Context::default(), &Everything).await;
            assert_eq!(done.is_ok(), support.is_there(), "{kind}: {:?}", done.err());
        }
    }
}
