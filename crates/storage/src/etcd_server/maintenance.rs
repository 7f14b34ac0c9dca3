//! Status, Snapshot, Defragment, Alarm, and the member list.
//!
//! A snapshot is a file of etcd's own storage format (bbolt) with a sha256 of it at its end, so that `etcdctl snapshot
//! restore` makes an etcd of it. Defragmentation is the engine's own business: the call succeeds and does nothing.

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbClusterService, PbDefragmentRequest, PbDefragmentResponse,
    PbDowngradeRequest, PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest,
    PbHashResponse, PbMaintenanceService, PbMember, PbMemberAddRequest, PbMemberAddResponse,
    PbMemberListRequest, PbMemberListResponse, PbMemberPromoteRequest, PbMemberPromoteResponse,
    PbMemberRemoveRequest, PbMemberRemoveResponse, PbMemberUpdateRequest, PbMemberUpdateResponse,
    PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest, PbSnapshotResponse,
    PbStatusRequest, PbStatusResponse,
};
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{API_VERSION, MEMBER, Service, bolt, status};
use crate::Store;

/// Parts of a snapshot that may wait for the client.
const PARTS: usize = 4;

fn unimplemented<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "{what} is not part of the embedded store"
    )))
}

#[tonic::async_trait]
impl PbMaintenanceService for Service {
    type SnapshotStream = BoxStream<'static, Result<PbSnapshotResponse, Status>>;

    async fn alarm(
        &self,
        request: Request<PbAlarmRequest>,
    ) -> Result<Response<PbAlarmResponse>, Status> {
        if request.into_inner().action == 1 {
            return unimplemented("raising an alarm");
        }
        Ok(Response::new(PbAlarmResponse {
            header: self.header(),
            alarms: Vec::new(),
        }))
    }

    async fn status(
        &self,
        _: Request<PbStatusRequest>,
    ) -> Result<Response<PbStatusResponse>, Status> {
        let size = self.store.size_on_disk().await.map_err(status)?;
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let revision = u64::try_from(self.store.current()).unwrap_or(0);
        Ok(Response::new(PbStatusResponse {
            header: self.header(),
            version: API_VERSION.to_owned(),
            db_size: size,
            leader: MEMBER,
            raft_index: revision,
            raft_term: 2,
            raft_applied_index: revision,
            db_size_in_use: i64::try_from(self.store.live_bytes()).unwrap_or(size),
            ..Default::default()
        }))
    }

    async fn defragment(
        &self,
        _: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        Ok(Response::new(PbDefragmentResponse {
            header: self.header(),
        }))
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        unimplemented("the hash of the backend")
    }

    async fn hash_kv(
        &self,
        _: Request<PbHashKvRequest>,
    ) -> Result<Response<PbHashKvResponse>, Status> {
        unimplemented("the hash of the keys")
    }

    async fn snapshot(
        &self,
        _: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let (parts, receiver) = mpsc::channel(PARTS);
        let plan = bolt::Plan::new(&self.store).map_err(status)?;
        let service = self.clone();
        tokio::task::spawn_blocking(move || {
            let header = Service::header_at(plan.revision());
            let mut send = |blob: Vec<u8>, remaining_bytes: u64| {
                let version = API_VERSION.to_owned();
                parts
                    .blocking_send(Ok(PbSnapshotResponse {
                        header,
                        remaining_bytes,
                        blob,
                        version,
                    }))
                    .is_ok()
            };
            if let Err(error) = plan.write(&mut send) {
                let _ = parts.blocking_send(Err(status(error)));
            }
            drop(service);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn move_leader(
        &self,
        _: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        unimplemented("moving the leader")
    }

    async fn downgrade(
        &self,
        _: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        unimplemented("a downgrade")
    }
}

#[tonic::async_trait]
impl PbClusterService for Service {
    async fn member_add(
        &self,
        _: Request<PbMemberAddRequest>,
    ) -> Result<Response<PbMemberAddResponse>, Status> {
        unimplemented("adding a member")
    }

    async fn member_remove(
        &self,
        _: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        unimplemented("removing a member")
    }

    async fn member_update(
        &self,
        _: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        unimplemented("updating a member")
    }

    async fn member_list(
        &self,
        _: Request<PbMemberListRequest>,
    ) -> Result<Response<PbMemberListResponse>, Status> {
        let member = PbMember {
            id: MEMBER,
            name: "keelson".to_owned(),
            client_ur_ls: vec![self.address.clone()],
            ..Default::default()
        };
        Ok(Response::new(PbMemberListResponse {
            header: self.header(),
            members: vec![member],
        }))
    }

    async fn member_promote(
        &self,
        _: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        unimplemented("promoting a member")
    }
}
