//! Container events that trigger an early look at the runtime.
//!
//! Two sources, tried in this order: CRI `GetContainerEvents`, and containerd's own event service on the same socket
//! (containerd 1.6 answers the first with `Unimplemented`). Either only says *that* something changed; what changed is
//! always read from the runtime, so a lost or foreign event does no harm. Where neither exists the relist timer is the
//! only driver.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::proto::{ContainerEventResponse, GetEventsRequest};
use super::{CriError, unix_channel};

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
}

/// Which source feeds the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// CRI `GetContainerEvents`.
    Cri,
    /// containerd's event service.
    Containerd,
}

/// Follows container events and wakes `wake` for each, until `stop`.
///
/// `connected` is told whether a stream is open, so that the relist can slow down while it is. Reconnects with a delay
/// of one to ten seconds. Returns at once when the runtime has no event source at all.
pub async fn follow(
    endpoint: String,
    wake: Arc<Notify>,
    connected: tokio::sync::watch::Sender<bool>,
    stop: CancellationToken,
) {
    let Ok(channel) = unix_channel(&endpoint) else {
        return;
    };
    let mut delay = Duration::from_secs(1);
    let mut unsupported = [false, false];
    loop {
        for (i, source) in [EventSource::Cri, EventSource::Containerd]
            .into_iter()
            .enumerate()
        {
            if unsupported.get(i).copied().unwrap_or(true) {
                continue;
            }
            let r = tokio::select! {
                () = stop.cancelled() => return,
                r = stream(channel.clone(), source, &wake, &connected) => r,
            };
            let _ = connected.send(false);
            match r {
                Ok(()) => delay = Duration::from_secs(1),
                Err(e) if e.is_unimplemented() => {
                    if let Some(u) = unsupported.get_mut(i) {
                        *u = true;
                    }
                    continue;
                }
                Err(e) => tracing::debug!(?source, error = %e, "event stream ended"),
            }
            break;
        }
        if unsupported == [true, true] {
            tracing::info!("the container runtime offers no events; relying on relist");
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay * 2).min(Duration::from_secs(10));
    }
}

async fn stream(
    channel: Channel,
    source: EventSource,
    wake: &Notify,
    connected: &tokio::sync::watch::Sender<bool>,
) -> Result<(), CriError> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|e| CriError::Unavailable(e.to_string()))?;
    match source {
        EventSource::Cri => {
            let codec =
                tonic_prost::ProstCodec::<GetEventsRequest, ContainerEventResponse>::default();
            let path = http::uri::PathAndQuery::from_static(
                "/runtime.v1.RuntimeService/GetContainerEvents",
            );
            let mut s = grpc
                .server_streaming(tonic::Request::new(GetEventsRequest {}), path, codec)
                .await?
                .into_inner();
            while let Some(_event) = s.message().await? {
                let _ = connected.send(true);
                wake.notify_one();
            }
        }
        EventSource::Containerd => {
            let codec = tonic_prost::ProstCodec::<SubscribeRequest, Envelope>::default();
            let path = http::uri::PathAndQuery::from_static(
                "/containerd.services.events.v1.Events/Subscribe",
            );
            let filters = [
                "/tasks/exit",
                "/tasks/start",
                "/tasks/oom",
                "/tasks/paused",
                "/tasks/delete",
                "/containers/delete",
            ]
            .iter()
            .map(|t| format!("topic==\"{t}\",namespace==\"k8s.io\""))
            .collect();
            let req = tonic::Request::new(SubscribeRequest { filters });
            let mut s = grpc.server_streaming(req, path, codec).await?.into_inner();
            let _ = connected.send(true);
            wake.notify_one();
            while let Some(_event) = s.message().await? {
                wake.notify_one();
            }
        }
    }
    Ok(())
}
