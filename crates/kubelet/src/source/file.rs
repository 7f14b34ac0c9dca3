//! Static pods: manifests in a folder (or one file), YAML or JSON, followed by inotify with a rescan as the fallback.
//!
//! A manifest that cannot be read keeps the pod it described before, so that a half-written file never stops a pod. A
//! static pod's UID is the hash of where it is, on which node, and what it says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::inotify::Inotify;
use crate::pod::{HASH_ANNOTATION, Pod, SEEN_ANNOTATION, SOURCE_ANNOTATION};
use crate::volumes::objects;

/// Largest manifest, in bytes.
const MAX_MANIFEST: u64 = 3 * 1024 * 1024;

/// Deepest manifest, in levels; pods have some fifteen.
const MAX_LEVELS: u32 = 100;

/// For trees as deep as text can make them.
const STACK: usize = 128 << 20;

/// A static pod and the manifest it came from, names and annotations applied.
#[derive(Clone, Debug)]
pub struct StaticPod {
    /// As the workers see it.
    pub pod: Arc<Pod>,
    /// As it is shown to the apiserver.
    pub manifest: Arc<Value>,
}

/// A folder of manifests.
pub struct FileSource {
    path: PathBuf,
    node: String,
    pods: Mutex<BTreeMap<PathBuf, StaticPod>>,
    read: AtomicBool,
}

/// Why a manifest is not used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Reading failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not a pod.
    #[error("{0}")]
    Invalid(String),
}

impl FileSource {
    /// Of a folder or file.
    pub fn new(path: PathBuf, node: String) -> FileSource {
        FileSource {
            path,
            node,
            pods: Mutex::default(),
            read: AtomicBool::new(false),
        }
    }

    /// Whether the folder was read at least once.
    pub fn has_read(&self) -> bool {
        self.read.load(Ordering::Acquire)
    }

    /// The pods.
    pub fn pods(&self) -> Vec<StaticPod> {
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Follows the folder until dropped; wakes `wake` on change.
    pub async fn watch(&self, wake: Arc<Notify>, every: Duration) {
        let mut inotify = None;
        loop {
            if inotify.is_none() {
                inotify = Inotify::new(&self.path)
                    .map_err(
                        |e| tracing::debug!(path = %self.path.display(), error = %e, "no inotify"),
                    )
                    .ok();
            }
            if self.scan() {
                wake.notify_one();
            }
            let event = async {
                match &mut inotify {
                    Some(i) => i.wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                r = event => {
                    if r.is_err() || !self.path.exists() {
                        inotify = None;
                    }
                    // Writers seldom write one byte at a time and stop there.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    /// Reads the folder; gives whether the pods changed or this was the first time.
    pub fn scan(&self) -> bool {
        let mut files: Vec<PathBuf> = match std::fs::metadata(&self.path) {
            Ok(m) if m.is_dir() => std::fs::read_dir(&self.path)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .filter(|p| {
                    p.file_name()
                        .is_some_and(|n| !n.to_string_lossy().starts_with('.'))
                        && p.is_file()
                })
                .collect(),
            Ok(_) => vec![self.path.clone()],
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => {
                tracing::warn!(path = %self.path.display(), error = %e, "reading static pods failed");
                return false;
            }
        };
        files.sort();
        let mut changed = false;
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let before = pods.len();
        pods.retain(|f, _| files.contains(f));
        changed |= pods.len() != before;
        for f in files {
            match load(&f, &self.node) {
                Ok(p) => {
                    if pods
                        .get(&f)
                        .is_none_or(|o| o.pod.metadata.uid != p.pod.metadata.uid)
                    {
                        tracing::info!(file = %f.display(), pod = %p.pod.key(), "static pod");
                        pods.insert(f, p);
                        changed = true;
                    }
                }
                Err(e) => {
                    tracing::error!(file = %f.display(), error = %e, "can't process manifest file")
                }
            }
        }
        !self.read.swap(true, Ordering::AcqRel) || changed
    }
}

fn load(file: &Path, node: &str) -> Result<StaticPod, ManifestError> {
    if std::fs::metadata(file)?.len() > MAX_MANIFEST {
        return Err(ManifestError::Invalid(
            "the manifest is larger than 3 MiB".into(),
        ));
    }
    let text = std::fs::read(file)?;
    let read = || {
        let value = wire::yaml::to_value(&text).map_err(|e| e.to_string())?;
        match wire::json::extent(&value).1 {
            0..=MAX_LEVELS => Ok(value),
            _ => Err(format!(
                "the manifest is nested deeper than {MAX_LEVELS} levels"
            )),
        }
    };
    // What is too deep is made and dropped where there is room for it.
    let value = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("manifest".into())
            .stack_size(STACK)
            .spawn_scoped(scope, read)?;
        let read = thread.join().unwrap_or_else(|_| Err("a panic".into()));
        read.map_err(ManifestError::Invalid)
    })?;
    make(value, &file.display().to_string(), node)
}

/// Names of containers and volumes become names of directories, so they must be labels, and each stand once.
fn check_names(pod: &Pod) -> Result<(), String> {
    let label = |s: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !s.is_empty()
            && s.len() <= 63
            && s.chars().all(inner)
            && !s.starts_with('-')
            && !s.ends_with('-')
    };
    let containers = pod.all_containers().map(|c| ("container", &c.name));
    let volumes = pod.spec.volumes.iter().map(|v| ("volume", &v.name));
    let mut seen = std::collections::BTreeSet::new();
    for (what, name) in containers.chain(volumes) {
        if !label(name) {
            return Err(format!("the {what} name {name:?} is not a DNS label"));
        }
        if !seen.insert((what, name)) {
            return Err(format!("the {what} name {name:?} stands twice"));
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Makes a static pod of a manifest.
fn make(mut value: Value, file: &str, node: &str) -> Result<StaticPod, ManifestError> {
    let invalid = |m: &str| ManifestError::Invalid(m.to_string());
    if value.get("kind").and_then(Value::as_str) != Some("Pod")
        || value.get("apiVersion").and_then(Value::as_str) != Some("v1")
    {
        return Err(invalid("the manifest is not a v1 Pod"));
    }
    let digest = ring::digest::digest(
        &ring::digest::SHA256,
        format!("{node}\n{file}\n{value}").as_bytes(),
    );
    let hash = hex(digest.as_ref().get(..16).unwrap_or_default());
    let meta = value
        .as_object_mut()
        .and_then(|o| {
            o.entry("metadata")
                .or_insert_with(|| json!({}))
                .as_object_mut()
        })
        .ok_or_else(|| invalid("metadata is not an object"))?;
    let name = meta
        .get("name")
        .and_then(Value::as_str)
        .filter(|n| !n.is_empty())
        .ok_or_else(|| invalid("metadata.name is missing"))?;
    let ok = |s: &str| {
        s.len() <= 253
            && s.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
    };
    if !ok(name) {
        return Err(invalid("metadata.name is not a valid name"));
    }
    let name = format!("{}-{node}", name.to_lowercase());
    meta.insert("name".into(), json!(name));
    let uid = match meta.get("uid").and_then(Value::as_str) {
        // It becomes the name of a directory.
        Some(u) if ok(u) && u.starts_with(|c: char| c.is_ascii_alphanumeric()) => u.to_string(),
        _ => hash.clone(),
    };
    meta.insert("uid".into(), json!(uid));
    if meta
        .get("namespace")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        meta.insert("namespace".into(), json!("default"));
    }
    if !meta
        .get("namespace")
        .and_then(Value::as_str)
        .is_some_and(ok)
    {
        return Err(invalid("metadata.namespace is not a valid name"));
    }
    let annotations = meta
        .entry("annotations")
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or_else(|| invalid("metadata.annotations is not an object"))?;
    annotations.insert(HASH_ANNOTATION.into(), json!(hash));
    annotations.insert(SOURCE_ANNOTATION.into(), json!("file"));
    annotations.insert(
        SEEN_ANNOTATION.into(),
        json!(jiff::Timestamp::now().to_string()),
    );
    let spec = value
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| invalid("spec is missing"))?;
    spec.insert("nodeName".into(), json!(node));
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if tolerations.is_null() {
        *tolerations = json!([]);
    }
    if let Some(list) = tolerations.as_array_mut() {
        let all = json!({"operator": "Exists", "effect": "NoExecute"});
        if !list.contains(&all) {
            list.push(all);
        }
    }
    if let Some(o) = value.as_object_mut() {
        o.remove("status");
    }
    let mut pod: Pod =
        serde_json::from_value(value.clone()).map_err(|e| ManifestError::Invalid(e.to_string()))?;
    if pod.spec.containers.is_empty() {
        return Err(invalid("spec.containers: Required value"));
    }
    check_names(&pod).map_err(ManifestError::Invalid)?;
    if !objects::references(&pod).is_empty() || !pod.spec.service_account_name.is_empty() {
        return Err(invalid(
            "static pods cannot refer to secrets, config maps or service accounts",
        ));
    }
    pod.status.phase = "Pending".into();
    if pod.spec.host_network {
        for p in pod.spec.containers.iter_mut().flat_map(|c| &mut c.ports) {
            p.host_port = p.container_port;
        }
    }
    Ok(StaticPod {
        pod: Arc::new(pod),
        manifest: Arc::new(value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  hostNetwork: true\n  containers:\n  - name: c\n    image: x:1\n    ports:\n    - containerPort: 80\n";

    #[test]
    fn names_uids_and_defaults() {
        let d = tempfile::tempdir().unwrap();
        let s = FileSource::new(d.path().into(), "n1".into());
        assert!(s.scan());
        std::fs::write(d.path().join("a.yaml"), POD).unwrap();
        std::fs::write(d.path().join(".hidden"), POD).unwrap();
        assert!(s.scan());
        let p = s.pods();
        assert_eq!(p.len(), 1);
        let m = &p[0].pod.metadata;
        assert_eq!(
            (m.name.as_str(), m.namespace.as_str()),
            ("web-n1", "default")
        );
        assert_eq!(m.annotations[HASH_ANNOTATION], m.uid);
        assert!(p[0].pod.is_static());
        assert_eq!(p[0].pod.spec.containers[0].ports[0].host_port, 80);
        assert_eq!(p[0].pod.spec.tolerations.len(), 1);
        let uid = m.uid.clone();
        assert!(!s.scan());
        std::fs::write(d.path().join("a.yaml"), POD.replace("x:1", "x:2")).unwrap();
        assert!(s.scan());
        assert_ne!(s.pods()[0].pod.metadata.uid, uid);
    }

    #[test]
    fn a_broken_manifest_keeps_the_pod_and_a_removed_one_ends_it() {
        let d = tempfile::tempdir().unwrap();
        let f = d.path().join("a.yaml");
        std::fs::write(&f, POD).unwrap();
        let s = FileSource::new(d.path().into(), "n1".into());
        assert!(s.scan());
        std::fs::write(&f, "apiVersion: v1\nkind: Po").unwrap();
        assert!(!s.scan());
        assert_eq!(s.pods().len(), 1);
        std::fs::remove_file(&f).unwrap();
        assert!(s.scan());
        assert!(s.pods().is_empty());
    }

    #[test]
    fn api_objects_are_refused() {
        let v: Value = serde_yaml::from_str(&POD.replace(
            "hostNetwork: true",
            "volumes:\n  - name: s\n    secret:\n      secretName: x",
        ))
        .unwrap();
        let nameless =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "../x"}, "spec": {}});
        for (manifest, why) in [
            (
                v,
                "static pods cannot refer to secrets, config maps or service accounts",
            ),
            (nameless, "metadata.name is not a valid name"),
        ] {
            let error = make(manifest, "f", "n").err().unwrap().to_string();
            assert!(error.ends_with(why), "{error}");
        }
    }

    #[test]
    fn manifests_of_any_depth_are_read_on_small_stacks() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.yaml");
        let deep = |open: &str, close: &str, levels: usize| {
            let inner = format!("{}{}", open.repeat(levels), close.repeat(levels));
            format!("{POD}x: {inner}\n")
        };
        for text in [
            deep("[", "]", 9_000),
            deep("{a: ", "}", 3_000),
            "[".repeat(1 << 20),
        ] {
            std::fs::write(&file, text).unwrap();
            let thread = std::thread::Builder::new().stack_size(512 << 10);
            let file = file.clone();
            let read = thread.spawn(move || load(&file, "n").err().unwrap().to_string());
            let error = read.unwrap().join().unwrap();
            let known = ["nested deeper than 100 levels", "yaml: "];
            assert!(known.iter().any(|k| error.contains(k)), "{error}");
        }
    }

    /// One manifest that cannot be used is told of and changes nothing about the others.
    #[test]
    fn a_bad_manifest_stops_no_other() {
        let d = tempfile::tempdir().unwrap();
        let bad = [
            "not yaml: [".to_string(),
            "[]".to_string(),
            "a: &a [*a]".to_string(),
            "\u{0}\u{1}".to_string(),
            "[".repeat(100_000),
            POD.replace("name: c", "name: ../../c"),
            POD.replace("name: c", "name: \"\""),
            POD.replace("name: c\n", "name: c\n  - name: c\n"),
            POD.replace(
                "containers:",
                "volumes: [{name: a/b, emptyDir: {}}]\n  containers:",
            ),
            POD.replace("containerPort: 80", "containerPort: 99999999999999999999"),
        ];
        for (i, text) in bad.iter().enumerate() {
            std::fs::write(d.path().join(format!("{i}.yaml")), text).unwrap();
        }
        std::fs::write(d.path().join("binary.yaml"), [0xff, 0xfe, 0]).unwrap();
        std::fs::create_dir(d.path().join("folder.yaml")).unwrap();
        std::fs::write(d.path().join("z.yaml"), POD).unwrap();
        let s = FileSource::new(d.path().into(), "n1".into());
        assert!(s.scan());
        let names: Vec<String> = s
            .pods()
            .iter()
            .map(|p| p.pod.metadata.name.clone())
            .collect();
        assert_eq!(names, ["web-n1"]);
    }
}
