//! LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases.
//!
//! The service is written by hand: etcd-client's generated one cannot be implemented, because it does not export the
//! request type of LeaseKeepAlive.

use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseStatus,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{Service, status};
use crate::embedded::MIN_LEASE;

/// `LeaseKeepAliveRequest` of etcd's rpc.proto.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct KeepAlive {
    #[prost(int64, tag = "1")]
    id: i64,
}

/// The lease service.
#[derive(Clone)]
pub struct LeaseServer(pub Service);

impl NamedService for LeaseServer {
    const NAME: &'static str = "etcdserverpb.Lease";
}

/// A function as a unary service.
struct Unary<F>(F);

impl<F, M, R, T> UnaryService<M> for Unary<F>
where
    F: FnMut(M) -> T,
    T: Future<Output = Result<R, Status>> + Send + 'static,
{
    type Response = R;
    type Future = BoxFuture<'static, Result<Response<R>, Status>>;

    fn call(&mut self, request: Request<M>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        Box::pin(async move { answer.await.map(Response::new) })
    }
}

struct KeepAlives(Service);

impl StreamingService<KeepAlive> for KeepAlives {
    type Response = PbLeaseKeepAliveResponse;
    type ResponseStream = BoxStream<'static, Result<PbLeaseKeepAliveResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<KeepAlive>>) -> Self::Future {
        let service = self.0.clone();
        let answers = request.into_inner().map(move |request| {
            let id = request?.id;
            // A lease that is gone has no time left; etcd says so with a zero.
            let ttl = service.store.keep_alive(id).unwrap_or(0);
            Ok(PbLeaseKeepAliveResponse {
                header: service.header(),
                id,
                ttl,
            })
        });
        Box::pin(async move { Ok(Response::new(answers.boxed())) })
    }
}

impl tonic::codegen::Service<http::Request<Body>> for LeaseServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        macro_rules! unary {
            ($method:ident) => {{
                let service = self.0.clone();
                Box::pin(async move {
                    let method = Unary(move |message| service.clone().$method(message));
                    Ok(Grpc::new(ProstCodec::default())
                        .unary(method, request)
                        .await)
                })
            }};
        }
        match request.uri().path() {
            "/etcdserverpb.Lease/LeaseGrant" => unary!(grant),
            "/etcdserverpb.Lease/LeaseRevoke" => unary!(revoke),
            "/etcdserverpb.Lease/LeaseTimeToLive" => unary!(time_to_live),
            "/etcdserverpb.Lease/LeaseLeases" => unary!(list),
            "/etcdserverpb.Lease/LeaseKeepAlive" => {
                let method = KeepAlives(self.0.clone());
                Box::pin(async move {
                    Ok(Grpc::new(ProstCodec::default())
                        .streaming(method, request)
                        .await)
                })
            }
            _ => Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) }),
        }
    }
}

impl Service {
    async fn grant(self, request: PbLeaseGrantRequest) -> Result<PbLeaseGrantResponse, Status> {
        let ttl = request.ttl.max(MIN_LEASE);
        if ttl > 9_000_000_000 {
            return Err(Status::out_of_range("etcdserver: too large lease TTL"));
        }
        let id = if request.id == 0 {
            self.store.new_lease_id().map_err(status)?
        } else {
            request.id
        };
        if !self.store.grant_as(id, ttl).await.map_err(status)? {
            return Err(Status::failed_precondition(
                "etcdserver: lease already exists",
            ));
        }
        Ok(PbLeaseGrantResponse {
            header: self.header(),
            id,
            ttl,
            error: String::new(),
        })
    }

    async fn revoke(self, request: PbLeaseRevokeRequest) -> Result<PbLeaseRevokeResponse, Status> {
        let revision = self.store.revoke(request.id).await.map_err(status)?;
        Ok(PbLeaseRevokeResponse {
            header: Self::header_at(revision),
        })
    }

    async fn time_to_live(
        self,
        request: PbLeaseTimeToLiveRequest,
    ) -> Result<PbLeaseTimeToLiveResponse, Status> {
        let header = self.header();
        let id = request.id;
        Ok(match self.store.lease(id) {
            None => PbLeaseTimeToLiveResponse {
                header,
                id,
                ttl: -1,
                ..Default::default()
            },
            Some(lease) => {
                let keys = if request.keys {
                    lease.keys.into_iter().map(Vec::from).collect()
                } else {
                    Vec::new()
                };
                PbLeaseTimeToLiveResponse {
                    header,
                    id,
                    ttl: lease.left,
                    granted_ttl: lease.granted,
                    keys,
                }
            }
        })
    }

    async fn list(self, _: PbLeaseLeasesRequest) -> Result<PbLeaseLeasesResponse, Status> {
        let leases = self
            .store
            .leases()
            .into_iter()
            .map(|id| PbLeaseStatus { id })
            .collect();
        Ok(PbLeaseLeasesResponse {
            header: self.header(),
            leases,
        })
    }
}
