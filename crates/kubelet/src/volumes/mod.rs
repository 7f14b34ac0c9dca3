//! Volumes of pods: made, kept current, and removed.
//!
//! Kinds: emptyDir, hostPath, configMap, secret, downwardAPI, projected, and claims ([`claims`]). A volume lives below
//! `<root>/pods/<uid>/volumes/kubernetes.io~<kind>/<name>`, as upstream's, so either kubelet can take over or clean up.
//!
//! Absent on purpose: gitRepo (CVE-2024-10220, CVE-2025-1767), and everything that needs a plugin, which is refused with
//! a message that names it.

pub mod claims;
pub mod kinds;
pub mod objects;
pub mod ownership;
pub mod subpath;
pub mod tokens;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures::future::join_all;

use crate::pod::quantity::Quantity;
use crate::pod::{DownwardApi, EmptyDir, HostPath, KeyToPath, Pod, Volume};
use crate::runtime::env::{Context, Data, meta_field, resource_field};
use writer::{FileData, Payload};

/// How many mounts may lie on top of each other where a pod's data is.
const MOUNTS_DEEP: usize = 3;

/// The most bytes of config maps, secrets and the like in all volumes of a pod: one value may be in any number of files.
/// Upstream has no such limit.
const MAX_CONTENT: usize = 256 * 1024 * 1024;

/// A volume ready to be mounted into containers.
#[derive(Clone, Debug, PartialEq)]
pub struct Mounted {
    /// Path on the node.
    pub path: PathBuf,
    /// Containers may only read it.
    pub read_only: bool,
}

/// What all volumes of a pod came to.
#[derive(Clone, Debug, Default)]
pub struct MountedVolumes {
    /// By volume name.
    pub volumes: BTreeMap<String, Mounted>,
    /// When to set up again although nothing changed (a token is due).
    pub refresh_at: Option<Instant>,
}

/// Why a volume could not be set up; the text follows `MountVolume.SetUp failed for volume "x" : `.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// An object is missing or could not be read.
    #[error("{0}")]
    Object(String),
    /// The file system.
    #[error("{0}")]
    Io(String),
    /// The volume cannot be used on this node.
    #[error("{0}")]
    Invalid(String),
}

/// Where volumes get their content from.
#[async_trait::async_trait]
pub trait Sources: Send + Sync {
    /// A config map; `Ok(None)` when it does not exist.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, String>;
    /// A secret; `Ok(None)` when it does not exist.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, String>;
    /// A bound token of the pod's service account and when to ask for the next one.
    async fn token(
        &self,
        pod: &Pod,
        audience: &str,
        seconds: i64,
    ) -> Result<(String, Instant), String>;
    /// The volume of a claim in the pod's namespace; with `ephemeral` one that was made for the pod.
    async fn claim(
        &self,
        pod: &Pod,
        name: &str,
        ephemeral: bool,
    ) -> Result<claims::Claimed, String>;
    /// Mounts memory at `dir`, at most so many bytes, unless it is mounted there already.
    fn mount_memory(&self, dir: &Path, size: i64) -> io::Result<()> {
        mount_memory(dir, size)
    }
    /// Mounts huge pages of so many bytes at `dir`, unless they are mounted there already.
    fn mount_huge_pages(&self, dir: &Path, page: i64) -> io::Result<()> {
        mount_huge_pages(dir, page)
    }
}

fn mount_huge_pages(dir: &Path, page: i64) -> io::Result<()> {
    if is_own_file_system(dir) {
        return Ok(());
    }
    let options = std::ffi::CString::new(format!("pagesize={page}"))?;
    rustix::mount::mount(
        "hugetlbfs",
        dir,
        "hugetlbfs",
        rustix::mount::MountFlags::NODEV,
        options.as_c_str(),
    )
    .map_err(io::Error::from)
}

/// The size of the pages of an emptyDir of huge pages: the one that its medium names, or else the only one that containers
/// ask for.
fn page_size(pod: &Pod, medium: &str) -> Result<i64, VolumeError> {
    let asked: BTreeSet<i64> = crate::pod::resources::huge_pages(pod, |r| &r.requests)
        .chain(crate::pod::resources::huge_pages(pod, |r| &r.limits))
        .map(|(page, _)| page)
        .collect();
    let none = || {
        VolumeError::Invalid(format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        ))
    };
    match medium.strip_prefix("HugePages-") {
        Some(size) => Quantity::parse(size)
            .map(Quantity::value)
            .filter(|page| asked.contains(page))
            .ok_or_else(none),
        None if asked.len() > 1 => Err(VolumeError::Invalid(format!(
            "medium: {medium} can't be used if container requests multiple huge page sizes"
        ))),
        None => asked.first().copied().ok_or_else(none),
    }
}

fn mount_memory(dir: &Path, size: i64) -> io::Result<()> {
    if is_own_file_system(dir) {
        return Ok(());
    }
    let mount = |options: String| {
        let options = std::ffi::CString::new(options)?;
        rustix::mount::mount(
            "tmpfs",
            dir,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            options.as_c_str(),
        )
        .map_err(io::Error::from)
    };
    let size = if size > 0 {
        format!("size={size}")
    } else {
        String::new()
    };
    // Older kernels do not know `noswap`.
    mount(format!("noswap,{size}").trim_end_matches(',').to_string()).or_else(|_| mount(size))
}

/// The most memory a volume of a pod may take: its own limit, the pod's, or what the node has for pods.
fn memory_limit(pod: &Pod, own: Option<&str>, ctx: &Context) -> i64 {
    let value = |q: Option<&str>| q.and_then(Quantity::parse).map_or(0, Quantity::value);
    let node = value(ctx.allocatable.get("memory").map(String::as_str));
    let of_pod = crate::pod::resources::pod_limit(pod, "memory").map_or(0, Quantity::value);
    [of_pod, value(own)]
        .into_iter()
        .filter(|v| *v > 0)
        .fold(node, |least, v| if least > 0 { least.min(v) } else { v })
}

fn io_err(what: &Path, e: io::Error) -> VolumeError {
    VolumeError::Io(format!("{}: {e}", what.display()))
}

/// The directory of a volume.
pub fn directory(pod_dir: &Path, kind: &str, name: &str) -> PathBuf {
    pod_dir
        .join("volumes")
        .join(format!("kubernetes.io~{kind}"))
        .join(name)
}

/// Sets up every volume of the pod; called again it brings contents up to date.
///
/// One volume that fails does not keep the others from being set up. The errors carry the names of those that failed.
pub async fn set_up(
    pod: &Pod,
    pod_dir: &Path,
    ctx: &Context,
    sources: &dyn Sources,
) -> Result<MountedVolumes, Vec<(String, VolumeError)>> {
    let room = &AtomicUsize::new(MAX_CONTENT);
    let all = pod.spec.volumes.iter().map(|v| async move {
        let mut refresh = None;
        let m = one(pod, v, pod_dir, ctx, sources, &mut refresh, room).await;
        (v.name.clone(), m, refresh)
    });
    let mut out = MountedVolumes::default();
    let mut failed = Vec::new();
    for (name, m, refresh) in join_all(all).await {
        out.refresh_at = out.refresh_at.into_iter().chain(refresh).min();
        match m {
            Ok(m) => {
                out.volumes.insert(name, m);
            }
            Err(e) => failed.push((name, e)),
        }
    }
    if failed.is_empty() {
        Ok(out)
    } else {
        Err(failed)
    }
}

async fn one(
    pod: &Pod,
    v: &Volume,
    pod_dir: &Path,
    ctx: &Context,
    sources: &dyn Sources,
    refresh: &mut Option<Instant>,
    room: &AtomicUsize,
) -> Result<Mounted, VolumeError> {
    let ns = &pod.metadata.namespace;
    let group = pod.spec.security_context.as_ref().and_then(|s| s.fs_group);
    if let Some(e) = &v.empty_dir {
        let size = memory_limit(pod, e.size_limit.as_deref(), ctx);
        let dir = directory(pod_dir, "empty-dir", &v.name);
        return empty_dir(&dir, e, group, size, pod, sources);
    }
    if let Some(h) = &v.host_path {
        return host_path(h);
    }
    if let Some(c) = &v.persistent_volume_claim {
        let claimed = sources.claim(pod, &c.claim_name, false).await;
        return claimed_volume(claimed, pod, &v.name, pod_dir, c.read_only).await;
    }
    if v.ephemeral.is_some() {
        let name = format!("{}-{}", pod.metadata.name, v.name);
        let claimed = sources.claim(pod, &name, true).await;
        return claimed_volume(claimed, pod, &v.name, pod_dir, false).await;
    }
    let (kind, payload) = if let Some(c) = &v.config_map {
        let mode = c.default_mode.unwrap_or(0o644);
        let data = sources
            .config_map(ns, &c.name)
            .await
            .map_err(VolumeError::Object)?;
        (
            "configmap",
            object_payload(
                "ConfigMap",
                &c.name,
                data,
                &c.items,
                c.optional == Some(true),
                mode,
                room,
            )?,
        )
    } else if let Some(s) = &v.secret {
        let mode = s.default_mode.unwrap_or(0o644);
        let data = sources
            .secret(ns, &s.secret_name)
            .await
            .map_err(VolumeError::Object)?;
        (
            "secret",
            object_payload(
                "Secret",
                &s.secret_name,
                data,
                &s.items,
                s.optional == Some(true),
                mode,
                room,
            )?,
        )
    } else if let Some(d) = &v.downward_api {
        let mode = d.default_mode.unwrap_or(0o644);
        ("downward-api", downward(pod, d, ctx, mode, room)?)
    } else if let Some(p) = &v.projected {
        let mode = p.default_mode.unwrap_or(0o644);
        let mut payload = Payload::new();
        for s in &p.sources {
            if let Some(c) = &s.config_map {
                let data = sources
                    .config_map(ns, &c.name)
                    .await
                    .map_err(VolumeError::Object)?;
                payload.extend(object_payload(
                    "ConfigMap",
                    &c.name,
                    data,
                    &c.items,
                    c.optional == Some(true),
                    mode,
                    room,
                )?);
            } else if let Some(c) = &s.secret {
                let data = sources
                    .secret(ns, &c.name)
                    .await
                    .map_err(VolumeError::Object)?;
                payload.extend(object_payload(
                    "Secret",
                    &c.name,
                    data,
                    &c.items,
                    c.optional == Some(true),
                    mode,
                    room,
                )?);
            } else if let Some(d) = &s.downward_api {
                payload.extend(downward(pod, d, ctx, mode, room)?);
            } else if let Some(t) = &s.service_account_token {
                let (token, due) = sources
                    .token(pod, &t.audience, t.expiration_seconds.unwrap_or(3600))
                    .await
                    .map_err(VolumeError::Object)?;
                *refresh = Some(refresh.map_or(due, |r| r.min(due)));
                // With a group the writer gives the file to it; else one user who runs all containers owns it.
                let owner = run_as_user(pod);
                let mode = if group.is_some() || owner.is_some() {
                    0o600
                } else {
                    mode
                };
                payload.insert(
                    t.path.clone(),
                    FileData {
                        data: token.into_bytes().into(),
                        mode,
                        owner,
                    },
                );
            } else {
                return Err(VolumeError::Invalid(format!(
                    "a source of projected volume {:?} is not supported by this kubelet",
                    v.name
                )));
            }
        }
        ("projected", payload)
    } else if v.git_repo.is_some() {
        return Err(VolumeError::Invalid(
            "gitRepo volumes are not supported".into(),
        ));
    } else {
        let kind = if v.csi.is_some() {
            "csi"
        } else if v.nfs.is_some() {
            "nfs"
        } else if v.image.is_some() {
            "image"
        } else {
            "this kind of"
        };
        return Err(VolumeError::Invalid(format!(
            "{kind} volumes are not supported by this kubelet"
        )));
    };
    let dir = directory(pod_dir, kind, &v.name);
    if !dir.exists() {
        fs::create_dir_all(&dir).map_err(|e| io_err(&dir, e))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))
            .map_err(|e| io_err(&dir, e))?;
    }
    // Secrets and tokens never reach a disk. A volume that has content is left where it is: containers hold it.
    if kind != "configmap" && !dir.join("..data").exists() {
        let size = memory_limit(pod, None, ctx);
        sources
            .mount_memory(&dir, size)
            .map_err(|e| io_err(&dir, e))?;
    }
    writer::write(&dir, &payload, group).map_err(|e| io_err(&dir, e))?;
    Ok(Mounted {
        path: dir,
        read_only: true,
    })
}

/// The user every container runs as, when they agree.
fn run_as_user(pod: &Pod) -> Option<i64> {
    let default = pod
        .spec
        .security_context
        .as_ref()
        .and_then(|s| s.run_as_user);
    let mut users = pod.all_containers().map(|c| {
        c.security_context
            .as_ref()
            .and_then(|s| s.run_as_user)
            .or(default)
    });
    let first = users.next()??;
    users.all(|u| u == Some(first)).then_some(first)
}

/// Takes bytes of what a pod's volumes may hold.
fn take(room: &AtomicUsize, bytes: usize) -> Result<(), VolumeError> {
    let taken = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(bytes)
    });
    taken.map(drop).map_err(|_| {
        VolumeError::Invalid(format!(
            "the files of all volumes of the pod together are larger than {} MiB",
            MAX_CONTENT >> 20
        ))
    })
}

fn object_payload(
    kind: &str,
    name: &str,
    data: Option<Data>,
    items: &[KeyToPath],
    optional: bool,
    default_mode: i32,
    room: &AtomicUsize,
) -> Result<Payload, VolumeError> {
    let Some(data) = data else {
        if optional {
            return Ok(Payload::new());
        }
        return Err(VolumeError::Object(format!(
            "{} \"{name}\" not found",
            kind.to_lowercase()
        )));
    };
    let mut out = Payload::new();
    if items.is_empty() {
        for (k, v) in data.values {
            take(room, v.len())?;
            out.insert(
                k,
                FileData {
                    data: v.into(),
                    mode: default_mode,
                    owner: None,
                },
            );
        }
        return Ok(out);
    }
    let values: BTreeMap<String, Bytes> = data
        .values
        .into_iter()
        .map(|(k, v)| (k, v.into()))
        .collect();
    for i in items {
        match values.get(&i.key) {
            Some(v) => {
                take(room, v.len())?;
                out.insert(
                    i.path.clone(),
                    FileData {
                        data: v.clone(),
                        mode: i.mode.unwrap_or(default_mode),
                        owner: None,
                    },
                );
            }
            None if optional => {}
            None => {
                let what = if kind == "Secret" {
                    "references non-existent secret key"
                } else {
                    "configmap references non-existent config key"
                };
                return Err(VolumeError::Object(format!("{what}: {}", i.key)));
            }
        }
    }
    Ok(out)
}

fn downward(
    pod: &Pod,
    d: &DownwardApi,
    ctx: &Context,
    default_mode: i32,
    room: &AtomicUsize,
) -> Result<Payload, VolumeError> {
    let mut out = Payload::new();
    for i in &d.items {
        let text = if let Some(f) = &i.field_ref {
            meta_field(pod, &f.field_path).map_err(VolumeError::Invalid)?
        } else if let Some(r) = &i.resource_field_ref {
            let c = pod.container(&r.container_name).ok_or_else(|| {
                VolumeError::Invalid(format!("container {} not found", r.container_name))
            })?;
            resource_field(pod, c, r, &ctx.allocatable).map_err(VolumeError::Invalid)?
        } else {
            continue;
        };
        take(room, text.len())?;
        out.insert(
            i.path.clone(),
            FileData {
                data: text.into_bytes().into(),
                mode: i.mode.unwrap_or(default_mode),
                owner: None,
            },
        );
    }
    Ok(out)
}

fn empty_dir(
    dir: &Path,
    e: &EmptyDir,
    group: Option<i64>,
    size: i64,
    pod: &Pod,
    sources: &dyn Sources,
) -> Result<Mounted, VolumeError> {
    let ready = dir
        .join("../../../plugins/kubernetes.io~empty-dir")
        .join(dir.file_name().unwrap_or_default())
        .join("ready");
    let page = match e.medium.as_str() {
        "" | "Memory" => None,
        medium if medium == "HugePages" || medium.starts_with("HugePages-") => {
            Some(page_size(pod, medium)?)
        }
        other => {
            return Err(VolumeError::Invalid(format!(
                "emptyDir medium {other:?} is not supported by this kubelet"
            )));
        }
    };
    let fresh = !dir.exists();
    if fresh {
        fs::create_dir_all(dir).map_err(|err| io_err(dir, err))?;
    }
    if e.medium == "Memory" {
        sources
            .mount_memory(dir, size)
            .map_err(|err| io_err(dir, err))?;
    }
    if let Some(page) = page {
        sources
            .mount_huge_pages(dir, page)
            .map_err(|err| io_err(dir, err))?;
    }
    if fresh || !ready.exists() {
        // As the kernel makes it: anyone may write to memory, but remove only what is theirs.
        let sticky = if e.medium == "Memory" { 0o1000 } else { 0 };
        let mut mode = 0o777 | sticky;
        if let Some(g) = group {
            let gid = u32::try_from(g).map_err(|_| VolumeError::Invalid(format!("fsGroup {g}")))?;
            std::os::unix::fs::chown(dir, None, Some(gid)).map_err(|err| io_err(dir, err))?;
            mode |= 0o2000;
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))
            .map_err(|err| io_err(dir, err))?;
        if let Some(parent) = ready.parent() {
            let _ = fs::create_dir_all(parent);
            let _ = fs::write(&ready, b"");
        }
    }
    Ok(Mounted {
        path: dir.to_path_buf(),
        read_only: false,
    })
}

/// What the kubelet keeps of local volumes of a pod: the path of one that is set up.
const LOCAL: &str = "plugins/kubernetes.io~local-volume";

/// A local volume of a pod is given to the pod's group when it is first set up, unless another pod of this node has it by
/// then: what is changed later is its users' matter.
async fn local(
    pod: &Pod,
    volume: &str,
    pod_dir: &Path,
    path: PathBuf,
    read_only: bool,
) -> Result<Mounted, VolumeError> {
    // Nothing is made here: a disk that is not mounted must not be taken for an empty one.
    if !path.is_dir() {
        return Err(VolumeError::Invalid(format!(
            "local volume path {} is not a directory",
            path.display()
        )));
    }
    let ready = pod_dir.join(LOCAL).join(volume).join("path");
    if !ready.exists() {
        let security = pod.spec.security_context.as_ref();
        if let Some(security) = security
            && let (Some(group), false) = (security.fs_group, read_only)
            && !is_set_up(pod_dir, &path)
        {
            let policy = security.fs_group_change_policy.as_deref();
            let given = ownership::give(&path, group, policy).await;
            given.map_err(|e| io_err(&path, e))?;
        }
        let parent = ready.parent().unwrap_or(pod_dir);
        fs::create_dir_all(parent).map_err(|e| io_err(parent, e))?;
        fs::write(&ready, path.as_os_str().as_encoded_bytes()).map_err(|e| io_err(&ready, e))?;
    }
    Ok(Mounted { path, read_only })
}

/// Whether a pod of this node has a local volume.
fn is_set_up(pod_dir: &Path, path: &Path) -> bool {
    let pods = pod_dir.parent().and_then(|p| fs::read_dir(p).ok());
    let volumes = pods.into_iter().flatten().flatten();
    let mut volumes = volumes.flat_map(|pod| {
        let volumes = fs::read_dir(pod.path().join(LOCAL));
        volumes.into_iter().flatten().flatten()
    });
    volumes.any(|v| {
        let has = fs::read(v.path().join("path"));
        has.is_ok_and(|has| has == path.as_os_str().as_encoded_bytes())
    })
}

/// A volume that a claim stands for.
async fn claimed_volume(
    claimed: Result<claims::Claimed, String>,
    pod: &Pod,
    volume: &str,
    pod_dir: &Path,
    read_only: bool,
) -> Result<Mounted, VolumeError> {
    match claimed.map_err(VolumeError::Object)? {
        claims::Claimed::HostPath(h) => Ok(Mounted {
            read_only,
            ..host_path(&h)?
        }),
        claims::Claimed::Local(path) => local(pod, volume, pod_dir, path.into(), read_only).await,
        claims::Claimed::Driver { .. } => Err(VolumeError::Invalid(
            "csi volumes are not supported by this kubelet".into(),
        )),
    }
}

fn host_path(h: &HostPath) -> Result<Mounted, VolumeError> {
    use std::os::unix::fs::FileTypeExt as _;
    let path = PathBuf::from(&h.path);
    if h.path.split('/').any(|s| s == "..") {
        return Err(VolumeError::Invalid(format!(
            "hostPath {:?} must not contain '..'",
            h.path
        )));
    }
    let kind = h.kind.as_deref().unwrap_or_default();
    let wrong = |what: &str| {
        Err(VolumeError::Invalid(format!(
            "hostPath type check failed: {} is not {what}",
            h.path
        )))
    };
    match kind {
        "" => {}
        "DirectoryOrCreate" => {
            if !path.exists() {
                fs::create_dir_all(&path).map_err(|e| io_err(&path, e))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                    .map_err(|e| io_err(&path, e))?;
            }
            if !path.is_dir() {
                return wrong("a directory");
            }
        }
        "FileOrCreate" => {
            if !path.exists() {
                fs::File::create(&path).map_err(|e| io_err(&path, e))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
                    .map_err(|e| io_err(&path, e))?;
            }
            if !path.is_file() {
                return wrong("a file");
            }
        }
        "Directory" if !path.is_dir() => return wrong("a directory"),
        "File" if !path.is_file() => return wrong("a file"),
        "Directory" | "File" => {}
        "Socket" | "CharDevice" | "BlockDevice" => {
            let t = fs::metadata(&path).map(|m| m.file_type());
            let ok = t.is_ok_and(|t| match kind {
                "Socket" => t.is_socket(),
                "CharDevice" => t.is_char_device(),
                _ => t.is_block_device(),
            });
            if !ok {
                return wrong(match kind {
                    "Socket" => "a socket",
                    "CharDevice" => "a character device",
                    _ => "a block device",
                });
            }
        }
        other => {
            return Err(VolumeError::Invalid(format!(
                "hostPath type {other:?} is unknown"
            )));
        }
    }
    Ok(Mounted {
        path,
        read_only: false,
    })
}

/// Whether something is mounted at exactly this path.
pub fn is_mount_point(path: &Path) -> bool {
    mounts_below(path).iter().any(|m| m == path)
}

/// Whether this is the root of a file system of its own, which is told without reading all mounts.
fn is_own_file_system(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    let parent = path.parent().and_then(device);
    device(path).is_some_and(|d| parent.is_some_and(|p| p != d))
}

/// Mount points at or below a path, deepest first.
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let Ok(path) = fs::canonicalize(path) else {
        return Vec::new();
    };
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut out: Vec<PathBuf> = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| {
            PathBuf::from(
                p.replace("\\040", " ")
                    .replace("\\011", "\t")
                    .replace("\\012", "\n")
                    .replace("\\134", "\\"),
            )
        })
        .filter(|p| p.starts_with(&path))
        .collect();
    out.sort_by_key(|p| std::cmp::Reverse(p.as_os_str().len()));
    out
}

/// Unmounts and removes everything of a pod below `pod_dir`; safe to repeat.
///
/// hostPath volumes are not touched: they are not below the directory. Nothing is deleted while a mount is left, so a
/// failed unmount never deletes what is mounted.
pub fn tear_down(pod_dir: &Path) -> io::Result<()> {
    if !pod_dir.exists() {
        return Ok(());
    }
    // A mount can hide another: that one is reached once the first is gone.
    for _ in 0..MOUNTS_DEEP {
        for m in mounts_below(pod_dir) {
            rustix::mount::unmount(&m, rustix::mount::UnmountFlags::empty())
                .or_else(|_| rustix::mount::unmount(&m, rustix::mount::UnmountFlags::DETACH))
                .or_else(|e| match e {
                    rustix::io::Errno::NOENT => Ok(()),
                    other => Err(other),
                })
                .map_err(|e| io::Error::other(format!("unmounting {}: {e}", m.display())))?;
        }
    }
    if !mounts_below(pod_dir).is_empty() {
        return Err(io::Error::other(format!(
            "{} still holds mounts",
            pod_dir.display()
        )));
    }
    for sub in ["volumes", "volume-subpaths", "plugins"] {
        let dir = pod_dir.join(sub);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    #[async_trait::async_trait]
    impl Sources for Fixed {
        async fn claim(
            &self,
            _: &Pod,
            name: &str,
            ephemeral: bool,
        ) -> Result<claims::Claimed, String> {
            match (name.split_once(':'), ephemeral) {
                (Some(("local", path)), false) | (Some((_, path)), true) => {
                    Ok(claims::Claimed::Local(path.into()))
                }
                _ => Err(format!("{name} is not bound")),
            }
        }
        async fn config_map(&self, _: &str, name: &str) -> Result<Option<Data>, String> {
            Ok((name == "cm").then(|| Data {
                values: BTreeMap::from([("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())]),
            }))
        }
        async fn secret(&self, _: &str, _: &str) -> Result<Option<Data>, String> {
            Ok(None)
        }
        async fn token(
            &self,
            _: &Pod,
            audience: &str,
            _: i64,
        ) -> Result<(String, Instant), String> {
            Ok((format!("tok-{audience}"), Instant::now()))
        }
        fn mount_memory(&self, dir: &Path, _: i64) -> io::Result<()> {
            fs::write(dir.join("..mounted"), b"")
        }
        fn mount_huge_pages(&self, dir: &Path, page: i64) -> io::Result<()> {
            fs::write(dir.join("..pages"), page.to_string())
        }
    }

    #[tokio::test]
    async fn huge_pages_are_of_the_size_that_containers_ask_for() {
        for (resources, medium, want) in [
            (r#"{"hugepages-2Mi":"4Mi"}"#, "HugePages", Ok("2097152")),
            (r#"{"hugepages-2Mi":"4Mi"}"#, "HugePages-2Mi", Ok("2097152")),
            (
                r#"{"hugepages-2Mi":"4Mi","hugepages-1Gi":"1Gi"}"#,
                "HugePages-1Gi",
                Ok("1073741824"),
            ),
            (
                r#"{"hugepages-2Mi":"4Mi","hugepages-1Gi":"1Gi"}"#,
                "HugePages",
                Err("can't be used if container requests multiple huge page sizes"),
            ),
            (
                r#"{"hugepages-2Mi":"4Mi"}"#,
                "HugePages-1Gi",
                Err("there is no resource request for huge pages"),
            ),
            (
                "{}",
                "HugePages",
                Err("there is no resource request for huge pages"),
            ),
            (
                "{}",
                "HugePages-x",
                Err("there is no resource request for huge pages"),
            ),
            ("{}", "Tape", Err("is not supported by this kubelet")),
        ] {
            let d = tempfile::tempdir().unwrap();
            let pod: Pod = serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"}},"spec":{{"containers":[{{"name":"c","resources":{{"limits":{resources}}}}}],
                   "volumes":[{{"name":"h","emptyDir":{{"medium":"{medium}"}}}}]}}}}"#
            ))
            .unwrap();
            let got = set_up(&pod, d.path(), &Context::default(), &Fixed).await;
            match (got, want) {
                (Ok(m), Ok(page)) => {
                    let told = fs::read_to_string(m.volumes["h"].path.join("..pages"));
                    assert_eq!(told.unwrap(), page, "{medium}");
                }
                (Err(e), Err(why)) => assert!(e[0].1.to_string().ends_with(why), "{e:?}"),
                (got, _) => panic!("{medium} {resources}: {got:?}"),
            }
        }
    }

    /// Memory: one value in many files is held once, and a pod's files have a bound together.
    #[tokio::test]
    async fn a_value_in_many_files_is_bounded() {
        struct Large;
        #[async_trait::async_trait]
        impl Sources for Large {
            async fn claim(&self, _: &Pod, _: &str, _: bool) -> Result<claims::Claimed, String> {
                Err("none".into())
            }
            async fn config_map(&self, _: &str, _: &str) -> Result<Option<Data>, String> {
                let values = BTreeMap::from([("k".to_string(), vec![b'x'; 1 << 20])]);
                Ok(Some(Data { values }))
            }
            async fn secret(&self, _: &str, _: &str) -> Result<Option<Data>, String> {
                Ok(None)
            }
            async fn token(&self, _: &Pod, _: &str, _: i64) -> Result<(String, Instant), String> {
                Err("none".into())
            }
        }
        let items = |dir: &str, n: usize| {
            let all: Vec<String> = (0..n)
                .map(|i| format!(r#"{{"key":"k","path":"{dir}/{i}"}}"#))
                .collect();
            all.join(",")
        };
        let one = |n| {
            format!(
                r#"{{"name":"a","configMap":{{"name":"cm","items":[{}]}}}}"#,
                items("a", n)
            )
        };
        let two = format!(
            r#"{{"name":"b","projected":{{"sources":[{{"configMap":{{"name":"cm","items":[{}]}}}},{{"configMap":{{"name":"cm","items":[{}]}}}}]}}}}"#,
            items("a", 200),
            items("b", 57)
        );
        let d = tempfile::tempdir().unwrap();
        let up = async |volumes: String| {
            set_up(&pod(&volumes), d.path(), &Context::default(), &Large).await
        };
        assert!(up(one(2)).await.is_ok());
        for too_much in [one(300), two] {
            let failed = up(too_much).await.unwrap_err();
            assert_eq!(
                failed[0].1.to_string(),
                "the files of all volumes of the pod together are larger than 256 MiB"
            );
        }
    }

    fn pod(volumes: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u","labels":{{"k":"v"}}}},"spec":{{"containers":[{{"name":"c"}}],"volumes":[{volumes}]}}}}"#
        ))
        .unwrap()
    }

    async fn up(dir: &Path, volumes: &str) -> Result<MountedVolumes, Vec<(String, VolumeError)>> {
        set_up(&pod(volumes), dir, &Context::default(), &Fixed).await
    }

    #[tokio::test]
    async fn contents_arrive_and_leave() {
        let d = tempfile::tempdir().unwrap();
        let m = up(
            d.path(),
            r#"{"name":"cm","configMap":{"name":"cm","items":[{"key":"a","path":"x/y","mode":256}]}},
               {"name":"e","emptyDir":{}},
               {"name":"p","projected":{"sources":[{"configMap":{"name":"cm"}},{"serviceAccountToken":{"path":"token","audience":"A"}},
                   {"downwardAPI":{"items":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}}]}}]}}"#,
        )
        .await
        .unwrap();
        let read = |v: &str, f: &str| fs::read_to_string(m.volumes[v].path.join(f)).unwrap();
        assert_eq!(read("cm", "x/y"), "1");
        assert_eq!(
            fs::metadata(m.volumes["cm"].path.join("x/y"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o400
        );
        assert_eq!(
            (read("p", "a"), read("p", "token"), read("p", "labels")),
            ("1".into(), "tok-A".into(), "k=\"v\"".into())
        );
        assert!(m.refresh_at.is_some());
        assert!(m.volumes["p"].path.join("..mounted").exists());
        assert!(!m.volumes["cm"].path.join("..mounted").exists());
        assert!(
            m.volumes["e"]
                .path
                .ends_with("volumes/kubernetes.io~empty-dir/e")
        );
        fs::write(m.volumes["e"].path.join("f"), "x").unwrap();
        up(d.path(), r#"{"name":"e","emptyDir":{}}"#).await.unwrap();
        assert!(m.volumes["e"].path.join("f").exists());
        tear_down(d.path()).unwrap();
        assert!(!d.path().join("volumes").exists());
    }

    /// With one user for all containers and no group the token is that user's alone; with a group, or several users, it is
    /// as readable as they need.
    #[tokio::test]
    async fn tokens_belong_to_the_one_user_of_the_pod() {
        use std::os::unix::fs::MetadataExt as _;
        let me = rustix::process::getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        let two = format!(
            r#","containers":[{{"name":"a"}},{{"name":"b","securityContext":{{"runAsUser":{}}}}}]"#,
            me + 1
        );
        let alone = r#","containers":[{"name":"a"},{"name":"b"}]"#.to_string();
        for (security, containers, mode) in [
            (format!(r#"{{"runAsUser":{me}}}"#), &alone, 0o600),
            (
                format!(r#"{{"runAsUser":{me},"fsGroup":{gid}}}"#),
                &alone,
                0o640,
            ),
            (format!(r#"{{"runAsUser":{me}}}"#), &two, 0o644),
            ("{}".to_string(), &alone, 0o644),
        ] {
            let d = tempfile::tempdir().unwrap();
            let pod: Pod = serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"}},"spec":{{"securityContext":{security}{containers},
                   "volumes":[{{"name":"p","projected":{{"sources":[{{"serviceAccountToken":{{"path":"token"}}}}]}}}}]}}}}"#
            ))
            .unwrap();
            let m = set_up(&pod, d.path(), &Context::default(), &Fixed)
                .await
                .unwrap();
            let file = fs::metadata(m.volumes["p"].path.join("token")).unwrap();
            assert_eq!(
                (file.permissions().mode() & 0o777, file.uid()),
                (mode, me),
                "{security} {containers}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_missing_or_unsupported_is_named() {
        let d = tempfile::tempdir().unwrap();
        let err = |v: &str| {
            let v = v.to_string();
            let dir = d.path().to_path_buf();
            async move { up(&dir, &v).await.unwrap_err().swap_remove(0) }
        };
        let (name, e) = err(r#"{"name":"s","secret":{"secretName":"none"}}"#).await;
        assert_eq!(
            (name.as_str(), e.to_string()),
            ("s", "secret \"none\" not found".to_string())
        );
        let (_, e) =
            err(r#"{"name":"s","configMap":{"name":"cm","items":[{"key":"zz","path":"a"}]}}"#)
                .await;
        assert_eq!(
            e.to_string(),
            "configmap references non-existent config key: zz"
        );
        // CVE-2024-10220, CVE-2025-1767
        let (_, e) = err(r#"{"name":"g","gitRepo":{"repository":"x"}}"#).await;
        assert_eq!(e.to_string(), "gitRepo volumes are not supported");
        let (_, e) = err(r#"{"name":"g","csi":{"driver":"x"}}"#).await;
        assert!(e.to_string().contains("csi"));
        assert!(
            up(
                d.path(),
                r#"{"name":"s","secret":{"secretName":"none","optional":true}}"#
            )
            .await
            .is_ok()
        );
    }

    #[tokio::test]
    async fn every_volume_that_fails_is_named() {
        let d = tempfile::tempdir().unwrap();
        let e = up(
            d.path(),
            r#"{"name":"a","configMap":{"name":"none"}},{"name":"b","secret":{"secretName":"none"}},{"name":"c","emptyDir":{}}"#,
        )
        .await
        .unwrap_err();
        let names: Vec<&str> = e.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn memory_of_volumes_is_bounded() {
        let ctx = Context {
            allocatable: BTreeMap::from([("memory".into(), "1Gi".into())]),
            ..Context::default()
        };
        let p = pod("");
        assert_eq!(memory_limit(&p, None, &ctx), 1 << 30);
        assert_eq!(memory_limit(&p, Some("1Mi"), &ctx), 1 << 20);
        assert_eq!(memory_limit(&p, Some("2Gi"), &ctx), 1 << 30);
        let p: Pod = serde_json::from_str(
            r#"{"spec":{"containers":[{"name":"c","resources":{"limits":{"memory":"64Mi"}}}]}}"#,
        )
        .unwrap();
        assert_eq!(memory_limit(&p, None, &ctx), 64 << 20);
    }

    #[tokio::test]
    async fn claims_are_mounted_and_nothing_is_made_in_their_place() {
        let d = tempfile::tempdir().unwrap();
        let data = d.path().join("data");
        let v = |name: &str, more: &str| {
            format!(r#"{{"name":"v","persistentVolumeClaim":{{"claimName":"{name}"{more}}}}}"#)
        };
        let local = format!("local:{}", data.display());
        let failed = up(d.path(), &v("c", "")).await.unwrap_err();
        assert_eq!(failed[0].1.to_string(), "c is not bound");
        let failed = up(d.path(), &v(&local, "")).await.unwrap_err();
        assert!(failed[0].1.to_string().contains("is not a directory"));
        assert!(!data.exists());
        fs::create_dir(&data).unwrap();
        fs::write(data.join("f"), "kept").unwrap();
        let pod_dir = d.path().join("pod");
        let m = up(&pod_dir, &v(&local, "")).await.unwrap();
        assert_eq!(
            (&m.volumes["v"].path, m.volumes["v"].read_only),
            (&data, false)
        );
        let m = up(&pod_dir, &v(&local, r#","readOnly":true"#))
            .await
            .unwrap();
        assert!(m.volumes["v"].read_only);
        let _ = tear_down(&pod_dir);
        assert_eq!(fs::read_to_string(data.join("f")).unwrap(), "kept");
    }

    /// What pods make of a volume later is theirs, as long as one of them has it.
    #[tokio::test]
    async fn a_local_volume_is_given_to_the_group_of_the_pod_that_has_it_first() {
        let d = tempfile::tempdir().unwrap();
        let data = d.path().join("data");
        fs::create_dir(&data).unwrap();
        let file = data.join("f");
        fs::write(&file, "x").unwrap();
        let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        let take_away = || fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        take_away();
        let up = async |name: &str, security: &str, more: &str| {
            let gid = rustix::process::getgid().as_raw();
            let pod: Pod = serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"}},"spec":{{"securityContext":{},"containers":[{{"name":"c"}}],
                   "volumes":[{{"name":"v","persistentVolumeClaim":{{"claimName":"local:{}"{more}}}}}]}}}}"#,
                security.replace("GID", &gid.to_string()),
                data.display(),
            ))
            .unwrap();
            let dir = d.path().join("pods").join(name);
            set_up(&pod, &dir, &Context::default(), &Fixed)
                .await
                .unwrap();
            dir
        };
        let group = r#"{"fsGroup":GID}"#;
        let without = up("without", "{}", "").await;
        assert_eq!(mode(), 0o600);
        fs::remove_dir_all(without).unwrap();
        let reader = up("reader", group, r#","readOnly":true"#).await;
        assert_eq!(mode(), 0o600, "one that may not write changes nothing");
        fs::remove_dir_all(reader).unwrap();
        let first = up("first", group, "").await;
        assert_eq!(mode(), 0o660);
        take_away();
        up("first", group, "").await;
        let second = up("second", group, "").await;
        assert_eq!(mode(), 0o600);
        fs::remove_dir_all(first).unwrap();
        fs::remove_dir_all(second).unwrap();
        let careful = r#"{"fsGroup":GID,"fsGroupChangePolicy":"OnRootMismatch"}"#;
        let third = up("third", careful, "").await;
        assert_eq!(mode(), 0o600, "the top fits");
        fs::remove_dir_all(third).unwrap();
        up("fourth", group, "").await;
        assert_eq!(mode(), 0o660);
    }

    #[tokio::test]
    async fn host_path_types() {
        let d = tempfile::tempdir().unwrap();
        let p = d.path().join("new");
        let v = |kind: &str| {
            format!(
                r#"{{"name":"h","hostPath":{{"path":"{}","type":"{kind}"}}}}"#,
                p.display()
            )
        };
        for (kind, is_not) in [
            ("Directory", Some("a directory")),
            ("DirectoryOrCreate", None),
            ("Directory", None),
            ("File", Some("a file")),
            ("Socket", Some("a socket")),
        ] {
            let failed = up(d.path(), &v(kind)).await.err().map(|all| {
                let all = all.iter().map(|(name, e)| format!("{name}: {e}"));
                all.collect::<Vec<_>>()
            });
            let want = is_not.map(|what| {
                let at = p.display();
                vec![format!("h: hostPath type check failed: {at} is not {what}")]
            });
            assert_eq!(failed, want, "{kind}");
        }
    }
}
