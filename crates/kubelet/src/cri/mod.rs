//! The container runtime, as the kubelet sees it: CRI `runtime.v1` over gRPC on a unix socket.
//!
//! [`Runtime`] is the seam: the real client is [`CriClient`], tests bring a runtime of their own. Every call carries a
//! deadline, so a hung runtime never hangs a worker for ever; pulls and streams are the exceptions and are bounded by
//! their callers.
//!
//! Absent on purpose: streaming list calls, checkpoints and metrics descriptors.

pub mod events;
pub mod proto;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use proto::*;
use tonic::transport::{Channel, Endpoint, Uri};

/// Largest answer accepted from the runtime, in bytes.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Why a runtime call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CriError {
    /// The runtime answered with a gRPC status; the text is the runtime's own, as it appears in events.
    #[error("rpc error: code = {code} desc = {message}")]
    Status {
        /// Name of the gRPC code, e.g. `NotFound`.
        code: String,
        /// The runtime's message.
        message: String,
    },
    /// The runtime could not be reached.
    #[error("container runtime is down: {0}")]
    Unavailable(String),
    /// No answer within the call's deadline.
    #[error("rpc error: code = DeadlineExceeded desc = context deadline exceeded")]
    Timeout,
}

impl CriError {
    /// True when the object named in the call does not exist in the runtime.
    pub fn is_not_found(&self) -> bool {
        matches!(self, CriError::Status { code, .. } if code == "NotFound")
    }

    /// True when the runtime does not know the call.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, CriError::Status { code, .. } if code == "Unimplemented")
    }

    /// The message without the gRPC prefix.
    pub fn message(&self) -> String {
        match self {
            CriError::Status { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }
}

impl From<tonic::Status> for CriError {
    fn from(s: tonic::Status) -> Self {
        match s.code() {
            tonic::Code::Unavailable => CriError::Unavailable(s.message().to_string()),
            tonic::Code::DeadlineExceeded => CriError::Timeout,
            c => CriError::Status {
                code: format!("{c:?}"),
                message: s.message().to_string(),
            },
        }
    }
}

/// What a call to the runtime gives.
pub type Result<T> = std::result::Result<T, CriError>;

/// The CRI calls the kubelet makes.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Name and version of the runtime.
    async fn version(&self) -> Result<VersionResponse>;
    /// Conditions of the runtime and its network.
    async fn status(&self) -> Result<StatusResponse>;
    /// Tells the runtime the node's pod range.
    async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()>;
    /// Creates and starts a sandbox; gives its id.
    async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String>;
    /// Stops a sandbox and tears down its network; a missing one is no error.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()>;
    /// Removes a sandbox and what is left in it.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()>;
    /// Status of a sandbox.
    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus>;
    /// Sandboxes that match the filter.
    async fn list_pod_sandbox(&self, filter: PodSandboxFilter) -> Result<Vec<PodSandbox>>;
    /// Creates a container in a sandbox; gives its id.
    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sc: PodSandboxConfig,
    ) -> Result<String>;
    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Stops a container: TERM, then KILL after `timeout` seconds.
    async fn stop_container(&self, id: &str, timeout: i64) -> Result<()>;
    /// Removes a container.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// Containers that match the filter.
    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<Container>>;
    /// Status of a container.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;
    /// Makes the runtime reopen a rotated log.
    async fn reopen_container_log(&self, id: &str) -> Result<()>;
    /// Runs a command in a container; `timeout` zero means no limit.
    async fn exec_sync(
        &self,
        id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecSyncResponse>;
    /// Prepares a streaming exec; gives the URL of the runtime's streaming server.
    async fn exec(&self, req: ExecRequest) -> Result<String>;
    /// Prepares a streaming attach.
    async fn attach(&self, req: AttachRequest) -> Result<String>;
    /// Prepares a port-forward.
    async fn port_forward(&self, req: PortForwardRequest) -> Result<String>;
    /// Resource use of all containers.
    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>>;
    /// All images.
    async fn list_images(&self) -> Result<Vec<Image>>;
    /// The image, when the runtime has it.
    async fn image_status(&self, image: &str) -> Result<Option<Image>>;
    /// Pulls an image; gives its reference.
    async fn pull_image(
        &self,
        image: &str,
        auth: Option<AuthConfig>,
        sc: Option<PodSandboxConfig>,
    ) -> Result<String>;
    /// Removes an image.
    async fn remove_image(&self, image: &str) -> Result<()>;
    /// Use of the filesystems that hold images.
    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse>;
}

/// CRI client over one lazily connected, self-healing channel.
#[derive(Clone)]
pub struct CriClient {
    channel: Channel,
    timeout: Duration,
}

/// Opens a lazily connecting channel to a unix socket.
///
/// Accepts `unix:///path`, `unix:/path` and a plain absolute path.
pub fn unix_channel(endpoint: &str) -> std::result::Result<Channel, CriError> {
    let path = PathBuf::from(
        endpoint
            .strip_prefix("unix://")
            .or_else(|| endpoint.strip_prefix("unix:"))
            .unwrap_or(endpoint),
    );
    if !path.is_absolute() {
        return Err(CriError::Unavailable(format!(
            "endpoint {endpoint:?} is not a unix socket path"
        )));
    }
    let connector = UnixConnector { path };
    Ok(Endpoint::from_static("http://localhost")
        .initial_stream_window_size(1 << 20)
        .connect_with_connector_lazy(connector))
}

#[derive(Clone)]
struct UnixConnector {
    path: PathBuf,
}

impl tower_service::Service<Uri> for UnixConnector {
    type Response = hyper_util::rt::TokioIo<tokio::net::UnixStream>;
    type Error = std::io::Error;
    type Future = futures::future::BoxFuture<'static, std::io::Result<Self::Response>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.path.clone();
        Box::pin(async move {
            Ok(hyper_util::rt::TokioIo::new(
                tokio::net::UnixStream::connect(path).await?,
            ))
        })
    }
}

impl CriClient {
    /// A client for the runtime at `endpoint`; `timeout` bounds every ordinary call (upstream: 2 minutes).
    pub fn new(endpoint: &str, timeout: Duration) -> Result<Self> {
        Ok(CriClient {
            channel: unix_channel(endpoint)?,
            timeout,
        })
    }

    async fn call<Q, A>(&self, path: &'static str, req: Q, timeout: Option<Duration>) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let work = async {
            let mut grpc = tonic::client::Grpc::new(self.channel.clone())
                .max_decoding_message_size(MAX_MESSAGE);
            grpc.ready()
                .await
                .map_err(|e| CriError::Unavailable(e.to_string()))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let path = http::uri::PathAndQuery::from_static(path);
            Ok(grpc
                .unary(tonic::Request::new(req), path, codec)
                .await?
                .into_inner())
        };
        match timeout {
            Some(t) => tokio::time::timeout(t, work)
                .await
                .unwrap_or(Err(CriError::Timeout)),
            None => work.await,
        }
    }

    async fn runtime<Q, A>(&self, path: &'static str, req: Q) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.call(path, req, Some(self.timeout)).await
    }
}

fn absent_is_ok(r: Result<()>) -> Result<()> {
    match r {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

fn image_spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec {
        image: image.to_string(),
        ..Default::default()
    })
}

#[async_trait]
impl Runtime for CriClient {
    async fn version(&self) -> Result<VersionResponse> {
        self.runtime(
            "/runtime.v1.RuntimeService/Version",
            VersionRequest {
                version: "v1".into(),
            },
        )
        .await
    }

    async fn status(&self) -> Result<StatusResponse> {
        self.runtime(
            "/runtime.v1.RuntimeService/Status",
            StatusRequest { verbose: false },
        )
        .await
    }

    async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()> {
        let network_config = Some(NetworkConfig {
            pod_cidr: pod_cidr.to_string(),
        });
        let req = UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig { network_config }),
        };
        let _: UpdateRuntimeConfigResponse = self
            .runtime("/runtime.v1.RuntimeService/UpdateRuntimeConfig", req)
            .await?;
        Ok(())
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String> {
        let req = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_string(),
        };
        let t = Some(self.timeout.saturating_mul(2));
        let r: RunPodSandboxResponse = self
            .call("/runtime.v1.RuntimeService/RunPodSandbox", req, t)
            .await?;
        Ok(r.pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let req = StopPodSandboxRequest {
            pod_sandbox_id: id.to_string(),
        };
        let r: Result<StopPodSandboxResponse> = self
            .runtime("/runtime.v1.RuntimeService/StopPodSandbox", req)
            .await;
        absent_is_ok(r.map(|_| ()))
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let req = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_string(),
        };
        let r: Result<RemovePodSandboxResponse> = self
            .runtime("/runtime.v1.RuntimeService/RemovePodSandbox", req)
            .await;
        absent_is_ok(r.map(|_| ()))
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let req = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_string(),
            verbose: false,
        };
        let r: PodSandboxStatusResponse = self
            .runtime("/runtime.v1.RuntimeService/PodSandboxStatus", req)
            .await?;
        Ok(r.status.unwrap_or_default())
    }

    async fn list_pod_sandbox(&self, filter: PodSandboxFilter) -> Result<Vec<PodSandbox>> {
        let req = ListPodSandboxRequest {
            filter: Some(filter),
        };
        let r: ListPodSandboxResponse = self
            .runtime("/runtime.v1.RuntimeService/ListPodSandbox", req)
            .await?;
        Ok(r.items)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sc: PodSandboxConfig,
    ) -> Result<String> {
        let req = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_string(),
            config: Some(config),
            sandbox_config: Some(sc),
        };
        let r: CreateContainerResponse = self
            .runtime("/runtime.v1.RuntimeService/CreateContainer", req)
            .await?;
        Ok(r.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let req = StartContainerRequest {
            container_id: id.to_string(),
        };
        let _: StartContainerResponse = self
            .runtime("/runtime.v1.RuntimeService/StartContainer", req)
            .await?;
        Ok(())
    }

    async fn stop_container(&self, id: &str, timeout: i64) -> Result<()> {
        let req = StopContainerRequest {
            container_id: id.to_string(),
            timeout,
        };
        let t = Some(self.timeout + component::duration::seconds(timeout));
        let r: Result<StopContainerResponse> = self
            .call("/runtime.v1.RuntimeService/StopContainer", req, t)
            .await;
        absent_is_ok(r.map(|_| ()))
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let req = RemoveContainerRequest {
            container_id: id.to_string(),
        };
        let r: Result<RemoveContainerResponse> = self
            .runtime("/runtime.v1.RuntimeService/RemoveContainer", req)
            .await;
        absent_is_ok(r.map(|_| ()))
    }

    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<Container>> {
        let req = ListContainersRequest {
            filter: Some(filter),
        };
        let r: ListContainersResponse = self
            .runtime("/runtime.v1.RuntimeService/ListContainers", req)
            .await?;
        Ok(r.containers)
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let req = ContainerStatusRequest {
            container_id: id.to_string(),
            verbose: false,
        };
        let r: ContainerStatusResponse = self
            .runtime("/runtime.v1.RuntimeService/ContainerStatus", req)
            .await?;
        Ok(r.status.unwrap_or_default())
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let req = ReopenContainerLogRequest {
            container_id: id.to_string(),
        };
        let _: ReopenContainerLogResponse = self
            .runtime("/runtime.v1.RuntimeService/ReopenContainerLog", req)
            .await?;
        Ok(())
    }

    async fn exec_sync(
        &self,
        id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecSyncResponse> {
        let secs = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let req = ExecSyncRequest {
            container_id: id.to_string(),
            cmd: cmd.to_vec(),
            timeout: secs,
        };
        let t = if timeout.is_zero() {
            None
        } else {
            Some(self.timeout + timeout)
        };
        self.call("/runtime.v1.RuntimeService/ExecSync", req, t)
            .await
    }

    async fn exec(&self, req: ExecRequest) -> Result<String> {
        let r: ExecResponse = self.runtime("/runtime.v1.RuntimeService/Exec", req).await?;
        Ok(r.url)
    }

    async fn attach(&self, req: AttachRequest) -> Result<String> {
        let r: AttachResponse = self
            .runtime("/runtime.v1.RuntimeService/Attach", req)
            .await?;
        Ok(r.url)
    }

    async fn port_forward(&self, req: PortForwardRequest) -> Result<String> {
        let r: PortForwardResponse = self
            .runtime("/runtime.v1.RuntimeService/PortForward", req)
            .await?;
        Ok(r.url)
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>> {
        let req = ListContainerStatsRequest { filter: None };
        let r: ListContainerStatsResponse = self
            .runtime("/runtime.v1.RuntimeService/ListContainerStats", req)
            .await?;
        Ok(r.stats)
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        let r: ListImagesResponse = self
            .runtime(
                "/runtime.v1.ImageService/ListImages",
                ListImagesRequest { filter: None },
            )
            .await?;
        Ok(r.images)
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        let req = ImageStatusRequest {
            image: image_spec(image),
            verbose: false,
        };
        let r: ImageStatusResponse = self
            .runtime("/runtime.v1.ImageService/ImageStatus", req)
            .await?;
        Ok(r.image.filter(|i| !i.id.is_empty()))
    }

    async fn pull_image(
        &self,
        image: &str,
        auth: Option<AuthConfig>,
        sc: Option<PodSandboxConfig>,
    ) -> Result<String> {
        let req = PullImageRequest {
            image: image_spec(image),
            auth,
            sandbox_config: sc,
        };
        let r: PullImageResponse = self
            .call("/runtime.v1.ImageService/PullImage", req, None)
            .await?;
        Ok(r.image_ref)
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        let req = RemoveImageRequest {
            image: image_spec(image),
        };
        let _: RemoveImageResponse = self
            .runtime("/runtime.v1.ImageService/RemoveImage", req)
            .await?;
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse> {
        self.runtime(
            "/runtime.v1.ImageService/ImageFsInfo",
            ImageFsInfoRequest {},
        )
        .await
    }
}

impl std::fmt::Debug for AuthConfig {
    /// Shows where the credentials are for, never the credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}
