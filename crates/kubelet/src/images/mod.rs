//! Images: present or pulled by policy, with back-off, credentials and a bound on parallel pulls.
//!
//! Reasons, messages and events are upstream's.

pub mod credentials;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::cri::proto::{AuthConfig, PodSandboxConfig};
use crate::cri::{CriError, Runtime};

/// First wait after a failed pull.
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// Longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// When a failed pull is looked at first: from then on the container is in back-off, and its status says so.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// How often an image in back-off is looked at, and the back-off told.
const LOOK_AGAIN: Duration = Duration::from_secs(12);

/// Why an image cannot be used: the reason of the waiting state, its message, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageError {
    /// `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`, `InvalidImageName`, `ImageInspectError`.
    pub reason: &'static str,
    /// Details.
    pub message: String,
    /// When the next attempt makes sense.
    pub retry_at: Option<Instant>,
}

/// An event about a container's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEvent {
    /// Warning rather than Normal.
    pub warning: bool,
    /// Reason.
    pub reason: &'static str,
    /// Message.
    pub message: String,
}

struct Back {
    wait: Duration,
    until: Instant,
    message: String,
}

/// Pulls images.
pub struct Images {
    rt: Arc<dyn Runtime>,
    slots: Semaphore,
    backoff: Mutex<HashMap<String, Back>>,
}

/// An image name with `latest` applied; the error says why it is none.
pub fn with_default_tag(image: &str) -> Result<String, String> {
    if image.len() == 64
        && image
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(format!(
            "invalid repository name ({image}), cannot specify 64-byte hexadecimal strings"
        ));
    }
    let (domain, path) = match image.split_once('/') {
        Some((d, p)) if d.contains(['.', ':']) || d == "localhost" || d.to_lowercase() != d => {
            (d, p)
        }
        _ => ("", image),
    };
    let remote = path.split(':').next().unwrap_or_default();
    if remote.to_lowercase() != remote {
        return Err(format!(
            "invalid reference format: repository name ({remote}) must be lowercase"
        ));
    }
    tagged(image, domain).ok_or_else(|| "invalid reference format".to_string())
}

fn tagged(image: &str, domain: &str) -> Option<String> {
    let (name, digest) = match image.split_once('@') {
        Some((n, d)) => (n, Some(d)),
        None => (image, None),
    };
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let (repo, tag) = match name.get(slash..).and_then(|l| l.find(':')) {
        Some(i) => (name.get(..slash + i)?, name.get(slash + i + 1..)),
        None => (name, None),
    };
    let (host, path) = match repo.split_once('/') {
        Some((h, p)) if !domain.is_empty() => (Some(h), p),
        _ => (None, repo),
    };
    let part = |s: &str| {
        !s.is_empty()
            && s.chars().all(|c| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
            })
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if host.is_some_and(|h| {
        h.is_empty()
            || !h
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
    }) || path.is_empty()
        || !path.split('/').all(part)
    {
        return None;
    }
    if let Some(t) = tag {
        let ok = !t.is_empty()
            && t.len() <= 128
            && t.chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
            && !t.starts_with(['.', '-']);
        if !ok {
            return None;
        }
    }
    if let Some(d) = digest {
        let (alg, hex) = d.split_once(':')?;
        if alg.is_empty() || hex.len() < 32 || !hex.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        return Some(image.to_string());
    }
    Some(if tag.is_some() {
        image.to_string()
    } else {
        format!("{image}:latest")
    })
}

impl Images {
    /// With `parallel` pulls at once.
    pub fn new(rt: Arc<dyn Runtime>, parallel: usize) -> Images {
        Images {
            rt,
            slots: Semaphore::new(parallel.max(1)),
            backoff: Mutex::default(),
        }
    }

    /// Makes sure the image is there; gives its id in the runtime. `emit` gets the events.
    pub async fn ensure(
        &self,
        uid: &str,
        image: &str,
        policy: &str,
        auths: &[AuthConfig],
        sandbox: &PodSandboxConfig,
        emit: &(dyn Fn(ImageEvent) + Send + Sync),
    ) -> Result<String, ImageError> {
        let event = |warning, reason, message: String| {
            emit(ImageEvent {
                warning,
                reason,
                message,
            })
        };
        let full = with_default_tag(image).map_err(|why| {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {why}"
            );
            event(true, "InspectFailed", message.clone());
            ImageError {
                reason: "InvalidImageName",
                message,
                retry_at: None,
            }
        })?;
        if policy != "Always" {
            match self.rt.image_status(&full).await {
                Ok(Some(i)) => {
                    let message = format!(
                        "Container image \"{image}\" already present on machine and can be accessed by the pod"
                    );
                    event(false, "Pulled", message);
                    return Ok(i.id);
                }
                Ok(None) if policy == "Never" => {
                    let message = format!(
                        "Container image \"{image}\" is not present with pull policy of Never"
                    );
                    event(true, "ErrImageNeverPull", message.clone());
                    return Err(ImageError {
                        reason: "ErrImageNeverPull",
                        message,
                        retry_at: Some(Instant::now() + BACKOFF_FIRST),
                    });
                }
                Ok(None) => {}
                Err(e) => {
                    let message = format!("Failed to inspect image \"{image}\": {e}");
                    event(true, "InspectFailed", message.clone());
                    return Err(ImageError {
                        reason: "ImageInspectError",
                        message,
                        retry_at: None,
                    });
                }
            }
        }
        let key = format!("{uid}_{full}");
        let now = Instant::now();
        let waiting = {
            let b = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
            b.get(&key)
                .filter(|b| b.until > now)
                .map(|b| (b.until, b.message.clone()))
        };
        if let Some((until, earlier)) = waiting {
            let message = format!("Back-off pulling image \"{image}\"");
            event(false, "BackOff", message.clone());
            return Err(ImageError {
                reason: "ImagePullBackOff",
                message: format!("{message}: {earlier}"),
                retry_at: Some(until.min(Instant::now() + LOOK_AGAIN)),
            });
        }
        event(false, "Pulling", format!("Pulling image \"{image}\""));
        let begun = Instant::now();
        let Ok(_slot) = self.slots.acquire().await else {
            return Err(ImageError {
                reason: "ErrImagePull",
                message: "shutting down".into(),
                retry_at: None,
            });
        };
        let pulling = Instant::now();
        match self.pull(&full, auths, sandbox).await {
            Ok(id) => {
                self.backoff
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&key);
                let size = self
                    .rt
                    .image_status(&full)
                    .await
                    .ok()
                    .flatten()
                    .map_or(0, |i| i.size);
                let text = |d: Duration| {
                    component::duration::format(Duration::from_millis(
                        u64::try_from(d.as_millis()).unwrap_or(0),
                    ))
                };
                event(
                    false,
                    "Pulled",
                    format!(
                        "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {size} bytes.",
                        text(pulling.elapsed()),
                        text(begun.elapsed())
                    ),
                );
                Ok(id)
            }
            Err(e) => {
                // A code that says nothing is left out.
                let text = match &e {
                    CriError::Status { code, message } if code == "Unknown" => message.clone(),
                    other => other.to_string(),
                };
                event(
                    true,
                    "Failed",
                    format!("Failed to pull image \"{image}\": {text}"),
                );
                let (reason, message) = classify(image, &text);
                let now = Instant::now();
                {
                    let mut b = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
                    b.retain(|_, v| v.until + 2 * BACKOFF_MAX > now);
                    let wait = b
                        .get(&key)
                        .map_or(BACKOFF_FIRST, |b| (b.wait * 2).min(BACKOFF_MAX));
                    b.insert(
                        key,
                        Back {
                            wait,
                            until: now + wait,
                            message: format!("{reason}: {message}"),
                        },
                    );
                }
                Err(ImageError {
                    reason,
                    message,
                    retry_at: Some(now + FIRST_LOOK),
                })
            }
        }
    }

    async fn pull(
        &self,
        image: &str,
        auths: &[AuthConfig],
        sandbox: &PodSandboxConfig,
    ) -> Result<String, CriError> {
        if auths.is_empty() {
            return self.rt.pull_image(image, None, Some(sandbox.clone())).await;
        }
        let mut last = CriError::Timeout;
        for a in auths {
            match self
                .rt
                .pull_image(image, Some(a.clone()), Some(sandbox.clone()))
                .await
            {
                Ok(id) => return Ok(id),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Forgets the back-off of a pod that is gone.
    pub fn forget(&self, uid: &str) {
        let prefix = format!("{uid}_");
        self.backoff
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|k, _| !k.starts_with(&prefix));
    }
}

fn classify(image: &str, error: &str) -> (&'static str, String) {
    for (name, what) in [
        ("RegistryUnavailable", "the registry is unavailable"),
        (
            "SignatureValidationFailed",
            "the signature validation failed",
        ),
    ] {
        if let Some(rest) = error.strip_prefix(name) {
            return (
                name,
                format!("image pull failed for {image} because {what}{rest}"),
            );
        }
    }
    ("ErrImagePull", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let plain = "invalid reference format";
        let upper =
            |n: &str| format!("invalid reference format: repository name ({n}) must be lowercase");
        for (image, want) in [
            ("busybox", Ok("busybox:latest")),
            ("a.b:5000/x/y", Ok("a.b:5000/x/y:latest")),
            ("x:1.2-r3", Ok("x:1.2-r3")),
            ("Busybox", Err(upper("Busybox"))),
            ("a.b/Nope::1", Err(upper("Nope"))),
            ("x:", Err(plain.into())),
            ("", Err(plain.into())),
            ("x y", Err(plain.into())),
            ("/x", Err(plain.into())),
            (
                "x@sha256:0123456789012345678901234567890123456789",
                Ok("x@sha256:0123456789012345678901234567890123456789"),
            ),
            ("x@sha256:12", Err(plain.into())),
        ] {
            assert_eq!(with_default_tag(image), want.map(str::to_string), "{image}");
        }
    }
}
