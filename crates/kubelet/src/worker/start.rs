//! Starting one container: image, configuration, mounts, create, start, postStart hook.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::cri::proto;
use crate::images::credentials;
use crate::pod::{Container, Pod, VolumeMount};
use crate::runtime::config::{self, ImageUser, Inputs};
use crate::runtime::env::{self, Data, Objects};
use crate::runtime::state::{ContainerRecord, Phase, RuntimePod};
use crate::shared::Shared;
use crate::volumes::objects::Kind;
use crate::volumes::{MountedVolumes, subpath};

/// Why a container did not start: reason and message of its waiting state.
#[derive(Debug)]
#[expect(missing_docs, reason = "plain data")]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
    pub retry_at: Option<Instant>,
}

fn failure(reason: &'static str, message: impl Into<String>) -> Failure {
    Failure {
        reason,
        message: message.into(),
        retry_at: None,
    }
}

/// Expands the variables of a subPathExpr; all of them must have a value.
fn expand_sub_path(expr: &str, env: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let expanded = env::expand(expr, &|name| {
        let value = env.iter().rfind(|(n, _)| n == name).map(|(_, v)| v.clone());
        if value.as_deref().unwrap_or_default().is_empty() {
            missing.borrow_mut().insert(name.to_string());
        }
        value
    })
    .map_err(|e| format!("subPathExpr {e}"))?;
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    if missing.is_empty() {
        Ok(expanded)
    } else {
        Err(format!("missing value for {}", missing.join(", ")))
    }
}

/// Starts containers of one pod in one sandbox.
pub struct Starter<'a> {
    /// Shared parts.
    pub shared: &'a Arc<Shared>,
    /// The pod.
    pub pod: &'a Arc<Pod>,
    /// The runtime's view.
    pub rt: &'a RuntimePod,
    /// Sandbox id.
    pub sandbox: &'a str,
    /// Sandbox configuration.
    pub config: &'a proto::PodSandboxConfig,
    /// Addresses of the pod.
    pub ips: &'a [String],
    /// Its volumes.
    pub volumes: &'a MountedVolumes,
}

/// Objects read beforehand, so that building the environment is pure.
#[derive(Default)]
struct Fetched {
    config_maps: std::collections::BTreeMap<String, Result<Option<Data>, String>>,
    secrets: std::collections::BTreeMap<String, Result<Option<Data>, String>>,
}

impl Objects for Fetched {
    fn config_map(&self, name: &str) -> Result<Option<Data>, String> {
        self.config_maps.get(name).cloned().unwrap_or(Ok(None))
    }
    fn secret(&self, name: &str) -> Result<Option<Data>, String> {
        self.secrets.get(name).cloned().unwrap_or(Ok(None))
    }
}

impl Starter<'_> {
    /// Starts the container.
    pub async fn start(&self, c: &Container) -> Result<(), Failure> {
        let (shared, pod) = (self.shared, self.pod);
        let image = self.image(c).await?;
        let failed = |reason, message: String| {
            shared.container_event(pod, &c.name, true, "Failed", format!("Error: {message}"));
            failure(reason, message)
        };
        let restart_count = match self.rt.find(&c.name) {
            Some(r) => r.restart_count.saturating_add(1),
            None => count_by_logs(&Path::new(&self.config.log_directory).join(&c.name)),
        };
        let inputs = self
            .inputs(c, restart_count, image)
            .await
            .map_err(|m| failed("CreateContainerConfigError", m))?;
        let target = inputs.target.clone();
        let cfg = config::container(pod, c, &inputs, &shared.host())
            .map_err(|e| failed("CreateContainerConfigError", e.0))?;
        drop(target);
        let logs = Path::new(&self.config.log_directory).join(&c.name);
        std::fs::create_dir_all(&logs).map_err(|e| {
            failed(
                "CreateContainerConfigError",
                format!("{}: {e}", logs.display()),
            )
        })?;

        // A container made but never started would keep its name from the new one.
        if let Some(r) = self.rt.find(&c.name).filter(|r| r.phase == Phase::Created) {
            let _ = shared.rt.remove_container(&r.id).await;
        }
        let id = shared
            .rt
            .create_container(self.sandbox, cfg, self.config.clone())
            .await
            .map_err(|e| failed("CreateContainerError", e.message()))?;
        shared.container_event(pod, &c.name, false, "Created", "Container created");
        if let Err(e) = shared.rt.start_container(&id).await {
            return Err(failed(
                "RunContainerError",
                e.message().replace(&id, &c.name),
            ));
        }
        shared.container_event(pod, &c.name, false, "Started", "Container started");
        self.legacy_log_link(c, &id, restart_count);

        if let Some(h) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
            let record = ContainerRecord {
                id: id.clone(),
                name: c.name.clone(),
                ..ContainerRecord::default()
            };
            if let Err(e) = super::kill::run_hook(shared, pod, &record, h).await {
                tracing::info!(pod = %pod.key(), container = %c.name, error = %e, "postStart hook failed");
                shared.container_event(
                    pod,
                    &c.name,
                    true,
                    "FailedPostStartHook",
                    "PostStartHook failed",
                );
                let grace = pod.spec.termination_grace_period_seconds;
                let mut memory = super::Memory::default();
                let _ = super::kill::container(
                    shared,
                    pod,
                    &record,
                    grace,
                    "FailedPostStartHook",
                    &mut memory,
                )
                .await;
                return Err(failure("PostStartHookError", e));
            }
        }
        Ok(())
    }

    async fn image(&self, c: &Container) -> Result<String, Failure> {
        let (shared, pod) = (self.shared, self.pod);
        let mut secrets = Vec::new();
        for s in &pod.spec.image_pull_secrets {
            match shared
                .object(Kind::Secret, &pod.metadata.namespace, &s.name)
                .await
            {
                Ok(Some(d)) => secrets.push(d),
                _ => {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        s.name
                    );
                    shared.event(pod, true, "FailedToRetrieveImagePullSecret", message);
                }
            }
        }
        let auths = credentials::lookup(&c.image, &secrets);
        let emit = |e: crate::images::ImageEvent| {
            shared.container_event(pod, &c.name, e.warning, e.reason, e.message)
        };
        shared
            .images
            .ensure(
                &pod.metadata.uid,
                &c.image,
                c.pull_policy(),
                &auths,
                self.config,
                &emit,
            )
            .await
            .map_err(|e| {
                shared.container_event(
                    pod,
                    &c.name,
                    true,
                    "Failed",
                    format!("Error: {}", e.reason),
                );
                Failure {
                    reason: e.reason,
                    message: e.message,
                    retry_at: e.retry_at,
                }
            })
    }

    async fn inputs(
        &self,
        c: &Container,
        restart_count: i32,
        image_ref: String,
    ) -> Result<Inputs, String> {
        let (shared, pod) = (self.shared, self.pod);
        if let Some(s) = shared
            .services
            .as_ref()
            .filter(|s| !pod.is_static() && !s.has_synced())
        {
            let wait = tokio::time::timeout(std::time::Duration::from_secs(5), s.synced());
            if wait.await.is_err() {
                return Err(
                    "services have not yet been read at least once, cannot construct envvars"
                        .into(),
                );
            }
        }
        let mut fetched = Fetched::default();
        let ns = &pod.metadata.namespace;
        let sources = c.env.iter().filter_map(|e| e.value_from.as_ref());
        let maps = c
            .env_from
            .iter()
            .filter_map(|e| e.config_map_ref.as_ref().map(|r| &r.name))
            .chain(
                sources
                    .clone()
                    .filter_map(|s| s.config_map_key_ref.as_ref().map(|r| &r.name)),
            );
        for name in maps {
            if !fetched.config_maps.contains_key(name) {
                fetched
                    .config_maps
                    .insert(name.clone(), shared.object(Kind::ConfigMap, ns, name).await);
            }
        }
        let names = c
            .env_from
            .iter()
            .filter_map(|e| e.secret_ref.as_ref().map(|r| &r.name))
            .chain(sources.filter_map(|s| s.secret_key_ref.as_ref().map(|r| &r.name)));
        for name in names {
            if !fetched.secrets.contains_key(name) {
                fetched
                    .secrets
                    .insert(name.clone(), shared.object(Kind::Secret, ns, name).await);
            }
        }
        let ctx = shared.context(pod, self.ips);
        let env = env::build(pod, c, &ctx, &fetched)?;
        let mounts = self.mounts(c, &env)?;
        let image_user = match shared
            .image_rt
            .image_status(&c.image)
            .await
            .map_err(|e| e.to_string())?
        {
            Some(i) => match i.uid {
                Some(v) => ImageUser {
                    uid: Some(v.value),
                    name: String::new(),
                },
                None if i.username.is_empty() => ImageUser {
                    uid: Some(0),
                    name: String::new(),
                },
                None => ImageUser {
                    uid: None,
                    name: i.username,
                },
            },
            None => ImageUser {
                uid: Some(0),
                name: String::new(),
            },
        };
        let target = if c.target_container_name.is_empty() {
            None
        } else {
            let t = self.rt.find(&c.target_container_name).ok_or_else(|| {
                format!(
                    "unable to find target container {}",
                    c.target_container_name
                )
            })?;
            Some(t.id.clone())
        };
        Ok(Inputs {
            restart_count,
            image_ref,
            image_user,
            env,
            mounts,
            target,
        })
    }

    fn mounts(&self, c: &Container, env: &[(String, String)]) -> Result<Vec<proto::Mount>, String> {
        let pod_dir = self.shared.pod_dir(self.pod);
        let mut out = Vec::new();
        let mut own_hosts = true;
        for (i, m) in c.volume_mounts.iter().enumerate() {
            let v = self.volumes.volumes.get(&m.name).ok_or_else(|| {
                format!(
                    "cannot find volume \"{}\" to mount into container \"{}\"",
                    m.name, c.name
                )
            })?;
            own_hosts &= m.mount_path != "/etc/hosts";
            let sub = if m.sub_path_expr.is_empty() {
                m.sub_path.clone()
            } else {
                expand_sub_path(&m.sub_path_expr, env)?
            };
            let host = if sub.is_empty() {
                v.path.clone()
            } else {
                let at = subpath::target(&pod_dir, &m.name, &c.name, i);
                subpath::bind(&v.path, &sub, &at, v.read_only).map_err(|e| {
                    format!(
                        "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}",
                        m.name, c.name
                    )
                })?
            };
            out.push(proto::Mount {
                container_path: if m.mount_path.starts_with('/') {
                    m.mount_path.clone()
                } else {
                    format!("/{}", m.mount_path)
                },
                host_path: host.display().to_string(),
                readonly: m.read_only || v.read_only,
                selinux_relabel: false,
                propagation: propagation(m)?,
                ..Default::default()
            });
        }
        if own_hosts {
            let file = self.hosts_file(&pod_dir)?;
            out.push(proto::Mount {
                container_path: "/etc/hosts".into(),
                host_path: file.display().to_string(),
                ..Default::default()
            });
        }
        if !c.termination_message_path.is_empty() {
            let dir = pod_dir.join("containers").join(&c.name);
            let file = dir.join(format!("{:08x}", rand::random::<u32>()));
            std::fs::create_dir_all(&dir)
                .and_then(|()| std::fs::File::create(&file))
                .map_err(|e| format!("{}: {e}", file.display()))?;
            let _ = std::fs::set_permissions(
                &file,
                std::os::unix::fs::PermissionsExt::from_mode(0o666),
            );
            out.push(proto::Mount {
                container_path: c.termination_message_path.clone(),
                host_path: file.display().to_string(),
                ..Default::default()
            });
        }
        Ok(out)
    }

    fn hosts_file(&self, pod_dir: &Path) -> Result<PathBuf, String> {
        let file = pod_dir.join("etc-hosts");
        let pod = self.pod;
        let text = if pod.spec.host_network {
            let own =
                std::fs::read_to_string("/etc/hosts").map_err(|e| format!("/etc/hosts: {e}"))?;
            format!("# Kubernetes-managed hosts file (host network).\n{own}")
        } else {
            let name = config::hostname(pod);
            let mut text = String::from(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            for ip in self.ips {
                if pod.spec.subdomain.is_empty() {
                    text.push_str(&format!("{ip}\t{name}\n"));
                } else {
                    let domain = format!(
                        "{}.{}.svc.{}",
                        pod.spec.subdomain,
                        pod.metadata.namespace,
                        self.shared.settings.cluster.domain
                    );
                    text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
                }
            }
            text
        };
        let mut text = text;
        if !pod.spec.host_aliases.is_empty() {
            text.push_str("\n# Entries added by HostAliases.\n");
            for a in &pod.spec.host_aliases {
                text.push_str(&format!("{}\t{}\n", a.ip, a.hostnames.join("\t")));
            }
        }
        std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
        let _ =
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644));
        Ok(file)
    }

    /// The link that log collectors of old look for.
    fn legacy_log_link(&self, c: &Container, id: &str, restart_count: i32) {
        let m = &self.pod.metadata;
        let Some(dir) = self
            .shared
            .settings
            .pod_logs_dir
            .parent()
            .map(|p| p.join("containers"))
        else {
            return;
        };
        let log = Path::new(&self.config.log_directory)
            .join(&c.name)
            .join(format!("{restart_count}.log"));
        let stem: String = format!("{}_{}_{}", m.name, m.namespace, c.name)
            .chars()
            .take(251 - id.len().min(200))
            .collect();
        if log.exists() && std::fs::create_dir_all(&dir).is_ok() {
            let _ = std::os::unix::fs::symlink(&log, dir.join(format!("{stem}-{id}.log")));
        }
    }
}

fn propagation(m: &VolumeMount) -> Result<i32, String> {
    Ok(match m.mount_propagation.as_deref() {
        None | Some("" | "None") => proto::MountPropagation::Private,
        Some("HostToContainer") => proto::MountPropagation::HostToContainer,
        Some("Bidirectional") => proto::MountPropagation::Bidirectional,
        Some(other) => return Err(format!("invalid MountPropagation mode: \"{other}\"")),
    } as i32)
}

/// The restart count after the logs that are left, for a container the runtime has forgotten.
fn count_by_logs(dir: &Path) -> i32 {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            e.file_name()
                .to_str()
                .and_then(|n| n.split_once(".log"))
                .and_then(|(n, _)| n.parse::<i32>().ok())
        })
        .max()
        .map_or(0, |n| n.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_count_survives_a_forgetful_runtime() {
        let d = tempfile::tempdir().unwrap();
        assert_eq!(count_by_logs(d.path()), 0);
        for f in ["0.log", "2.log.20260101-000000.gz", "x.log", "1.log"] {
            std::fs::write(d.path().join(f), "").unwrap();
        }
        assert_eq!(count_by_logs(d.path()), 3);
    }
}
