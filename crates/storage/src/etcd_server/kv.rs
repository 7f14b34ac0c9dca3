//! Range, Put, DeleteRange, Txn, Compact.
//!
//! Every write is a transaction on the engine's writer: what it reads there is loaded from disk only afterwards, on the
//! request's own task. Within a transaction reads see its earlier writes, as in etcd.

use std::cmp::Ordering;
use std::collections::HashSet;

use bytes::Bytes;
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbCompare, PbDeleteRequest, PbDeleteResponse,
    PbKeyValue, PbKvService, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse,
    PbRangeStreamResponse, PbResponseOp, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse,
    PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::{Service, pair, status};
use crate::embedded::RangeRead;
use crate::embedded::hub::Stored;
use crate::embedded::index::KeyRange;
use crate::embedded::writer::{Transaction, Txn};
use crate::{Error, Store};

/// etcd's own limit.
const MAX_OPERATIONS: usize = 128;
const MAX_DEPTH: usize = 8;

/// The range that etcd's key and range_end mean.
pub fn key_range(key: Vec<u8>, end: Vec<u8>) -> KeyRange {
    let start = if key == b"\0" && !end.is_empty() {
        Bytes::new()
    } else {
        Bytes::from(key)
    };
    let end = match end.as_slice() {
        [] => {
            let mut end = start.to_vec();
            end.push(0);
            Some(end.into())
        }
        [0] => None,
        _ => Some(end.into()),
    };
    KeyRange { start, end }
}

fn no_key() -> Status {
    Status::invalid_argument("etcdserver: key is not provided")
}

/// What a range request keeps of the pairs found, before their values are read.
struct Selection {
    found: Vec<(Bytes, Stored)>,
    count: i64,
    request: PbRangeRequest,
}

impl Selection {
    fn filter(&mut self) {
        let request = &self.request;
        let within = |value: i64, low: i64, high: i64| {
            (low == 0 || value >= low) && (high == 0 || value <= high)
        };
        self.found.retain(|(_, stored)| {
            within(
                stored.version.revision,
                request.min_mod_revision,
                request.max_mod_revision,
            ) && within(
                stored.version.create,
                request.min_create_revision,
                request.max_create_revision,
            )
        });
    }

    async fn load(mut self) -> Result<PbRangeResponse, Status> {
        self.filter();
        let request = self.request;
        // 0 none, 1 ascending, 2 descending; 0 key, 1 version, 2 create, 3 mod, 4 value. A target without an order is
        // ascending.
        let by_value = request.sort_target == 4;
        let sorted = request.sort_order != 0 || request.sort_target != 0;
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let mut found = self.found;
        let filtered = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ]
        .iter()
        .any(|revision| *revision != 0);
        if limit > 0 && request.sort_order == 0 && !filtered {
            // etcd reads one more than the limit then, and sorts these alone.
            found.truncate(limit.saturating_add(1));
        }
        if sorted && !by_value {
            let key = |(_, stored): &(Bytes, Stored)| match request.sort_target {
                1 => i64::from(stored.version.version),
                2 => stored.version.create,
                3 => stored.version.revision,
                _ => 0,
            };
            found.sort_by_key(|pair| key(pair));
            if request.sort_target == 0 {
                found.sort_by(|a, b| a.0.cmp(&b.0));
            }
            if request.sort_order == 2 {
                found.reverse();
            }
        }
        let mut more = false;
        if limit > 0 && !by_value && found.len() > limit {
            found.truncate(limit);
            more = true;
        }
        if request.count_only {
            found.clear();
        }
        let mut kvs = Vec::with_capacity(found.len());
        for (key, stored) in found {
            kvs.push(load(key, stored, request.keys_only && !by_value).await?);
        }
        if by_value {
            kvs.sort_by(|a, b| a.value.cmp(&b.value));
            if request.sort_order == 2 {
                kvs.reverse();
            }
            if limit > 0 && kvs.len() > limit {
                kvs.truncate(limit);
                more = true;
            }
            if request.keys_only {
                kvs.iter_mut().for_each(|kv| kv.value.clear());
            }
        }
        Ok(PbRangeResponse {
            header: None,
            kvs,
            more,
            count: self.count,
        })
    }
}

async fn load(key: Bytes, stored: Stored, key_only: bool) -> Result<PbKeyValue, Status> {
    if key_only {
        return Ok(PbKeyValue {
            key: key.into(),
            create_revision: stored.version.create,
            mod_revision: stored.version.revision,
            version: i64::from(stored.version.version),
            value: Vec::new(),
            lease: stored.version.lease,
        });
    }
    stored.load(key).await.map(pair).map_err(status)
}

enum Raw {
    Range(Selection),
    Put(Option<(Bytes, Stored)>),
    Delete(Vec<(Bytes, Stored)>, bool),
    Txn(bool, Vec<Raw>),
}

impl Raw {
    fn respond(self, revision: i64) -> BoxFuture<'static, Result<PbTxnOpResponse, Status>> {
        Box::pin(async move {
            let header = Service::header_at(revision);
            Ok(match self {
                Self::Range(selection) => PbTxnOpResponse::ResponseRange(PbRangeResponse {
                    header,
                    ..selection.load().await?
                }),
                Self::Put(previous) => {
                    let prev_kv = match previous {
                        Some((key, stored)) => Some(load(key, stored, false).await?),
                        None => None,
                    };
                    PbTxnOpResponse::ResponsePut(PbPutResponse { header, prev_kv })
                }
                Self::Delete(gone, previous) => {
                    let deleted = i64::try_from(gone.len()).unwrap_or(i64::MAX);
                    let mut prev_kvs = Vec::new();
                    if previous {
                        for (key, stored) in gone {
                            prev_kvs.push(load(key, stored, false).await?);
                        }
                    }
                    PbTxnOpResponse::ResponseDeleteRange(PbDeleteResponse {
                        header,
                        deleted,
                        prev_kvs,
                    })
                }
                Self::Txn(succeeded, results) => {
                    let mut responses = Vec::with_capacity(results.len());
                    for result in results {
                        responses.push(PbResponseOp {
                            response: Some(result.respond(revision).await?),
                        });
                    }
                    PbTxnOpResponse::ResponseTxn(PbTxnResponse {
                        header,
                        succeeded,
                        responses,
                    })
                }
            })
        })
    }
}

type Outcome = Result<(Raw, i64), Status>;

/// A request on its way through the writer.
struct Operation {
    request: Option<PbTxnOpRequest>,
    outcome: Option<Result<Raw, Status>>,
    reply: oneshot::Sender<Outcome>,
}

impl Transaction for Operation {
    fn run(&mut self, txn: &mut Txn<'_>) -> Result<(), Error> {
        let Some(request) = self.request.take() else {
            return Ok(());
        };
        let outcome = operate(request, txn);
        let failed = outcome.is_err();
        self.outcome = Some(outcome);
        // The reason is in the outcome; the writer only needs to know that nothing stays.
        if failed {
            Err(Error::Unavailable(String::new()))
        } else {
            Ok(())
        }
    }

    fn finish(self: Box<Self>, result: Result<i64, Error>) {
        let outcome = match (self.outcome, result) {
            (Some(Err(failed)), _) => Err(failed),
            (Some(Ok(raw)), Ok(revision)) => Ok((raw, revision)),
            (_, Err(error)) => Err(status(error)),
            (None, Ok(_)) => Err(Status::internal("the transaction did not run")),
        };
        let _ = self.reply.send(outcome);
    }
}

fn operate(request: PbTxnOpRequest, txn: &mut Txn<'_>) -> Result<Raw, Status> {
    match request {
        PbTxnOpRequest::RequestRange(request) => select(request, txn).map(Raw::Range),
        PbTxnOpRequest::RequestPut(request) => put(request, txn),
        PbTxnOpRequest::RequestDeleteRange(request) => {
            let range = key_range(request.key, request.range_end);
            let gone = txn.range(&range, txn.revision());
            for (key, _) in &gone {
                txn.delete(key).map_err(status)?;
            }
            Ok(Raw::Delete(gone, request.prev_kv))
        }
        PbTxnOpRequest::RequestTxn(request) => {
            let mut succeeded = true;
            for compare in &request.compare {
                succeeded = succeeded && compares(compare, txn)?;
            }
            let operations = if succeeded {
                request.success
            } else {
                request.failure
            };
            let mut results = Vec::with_capacity(operations.len());
            for operation in operations
                .into_iter()
                .filter_map(|operation| operation.request)
            {
                results.push(operate(operation, txn)?);
            }
            Ok(Raw::Txn(succeeded, results))
        }
    }
}

fn select(mut request: PbRangeRequest, txn: &Txn<'_>) -> Result<Selection, Status> {
    let current = txn.revision();
    let revision = match request.revision {
        asked if asked <= 0 => current,
        asked if asked > current => return Err(status(Error::Future { current })),
        asked if asked < txn.compacted() => {
            return Err(status(Error::Compacted {
                oldest: txn.compacted(),
            }));
        }
        asked => asked,
    };
    let range = key_range(
        std::mem::take(&mut request.key),
        std::mem::take(&mut request.range_end),
    );
    let found = txn.range(&range, revision);
    let count = i64::try_from(found.len()).unwrap_or(i64::MAX);
    Ok(Selection {
        found,
        count,
        request,
    })
}

fn put(request: PbPutRequest, txn: &mut Txn<'_>) -> Result<Raw, Status> {
    let key = Bytes::from(request.key);
    let current = txn.get(&key);
    let mut value = Bytes::from(request.value);
    let mut lease = request.lease;
    if request.ignore_value || request.ignore_lease {
        let Some(current) = &current else {
            return Err(Status::invalid_argument("etcdserver: key not found"));
        };
        if request.ignore_value {
            value = txn.value(current).map_err(status)?;
        }
        if request.ignore_lease {
            lease = current.version.lease;
        }
    }
    let (previous, _) = txn.put(&key, value, lease).map_err(status)?;
    Ok(Raw::Put(
        previous
            .filter(|_| request.prev_kv)
            .map(|previous| (key, previous)),
    ))
}

fn compares(compare: &PbCompare, txn: &Txn<'_>) -> Result<bool, Status> {
    let range = key_range(compare.key.clone(), compare.range_end.clone());
    let found = txn.range(&range, txn.revision());
    if found.is_empty() {
        // What does not exist compares as zeros, and never by value.
        if let Some(PbTargetUnion::Value(_)) | None = &compare.target_union
            && compare.target == 3
        {
            return Ok(false);
        }
        return Ok(holds(compare.result, number(compare, None)));
    }
    for (_, stored) in &found {
        let order = match &compare.target_union {
            Some(PbTargetUnion::Value(value)) => txn
                .value(stored)
                .map_err(status)?
                .as_ref()
                .cmp(value.as_slice()),
            _ => number(compare, Some(stored)),
        };
        if !holds(compare.result, order) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn number(compare: &PbCompare, stored: Option<&Stored>) -> Ordering {
    let version = stored.map(|stored| &stored.version);
    // A union left out means zero: the target then says what is compared.
    match &compare.target_union {
        Some(PbTargetUnion::Version(wanted)) => {
            version.map_or(0, |v| i64::from(v.version)).cmp(wanted)
        }
        Some(PbTargetUnion::CreateRevision(wanted)) => version.map_or(0, |v| v.create).cmp(wanted),
        Some(PbTargetUnion::ModRevision(wanted)) => version.map_or(0, |v| v.revision).cmp(wanted),
        Some(PbTargetUnion::Lease(wanted)) => version.map_or(0, |v| v.lease).cmp(wanted),
        Some(PbTargetUnion::Value(_)) => Ordering::Less,
        None => match (compare.target, version) {
            (0, Some(v)) => i64::from(v.version).cmp(&0),
            (1, Some(v)) => v.create.cmp(&0),
            (2, Some(v)) => v.revision.cmp(&0),
            (4, Some(v)) => v.lease.cmp(&0),
            (3, Some(v)) => v.place.len.cmp(&0),
            _ => Ordering::Equal,
        },
    }
}

fn holds(result: i32, order: Ordering) -> bool {
    match result {
        0 => order.is_eq(),
        1 => order.is_gt(),
        2 => order.is_lt(),
        _ => order.is_ne(),
    }
}

/// Refuses what etcd refuses before a transaction runs.
fn check(operation: &PbTxnOpRequest, depth: usize) -> Result<usize, Status> {
    if depth > MAX_DEPTH {
        return Err(Status::invalid_argument(
            "etcdserver: too many operations in txn request",
        ));
    }
    match operation {
        PbTxnOpRequest::RequestRange(request) if request.key.is_empty() => Err(no_key()),
        PbTxnOpRequest::RequestRange(request) => Ok(request.key.len()),
        PbTxnOpRequest::RequestPut(request) => {
            if request.key.is_empty() {
                Err(no_key())
            } else if request.ignore_value && !request.value.is_empty() {
                Err(Status::invalid_argument("etcdserver: value is provided"))
            } else if request.ignore_lease && request.lease != 0 {
                Err(Status::invalid_argument("etcdserver: lease is provided"))
            } else {
                Ok(request.key.len() + request.value.len())
            }
        }
        PbTxnOpRequest::RequestDeleteRange(request) if request.key.is_empty() => Err(no_key()),
        PbTxnOpRequest::RequestDeleteRange(request) => Ok(request.key.len()),
        PbTxnOpRequest::RequestTxn(request) => {
            if request.compare.iter().any(|compare| compare.key.is_empty()) {
                return Err(no_key());
            }
            let mut size = 0;
            for branch in [&request.success, &request.failure] {
                if branch.len() > MAX_OPERATIONS || request.compare.len() > MAX_OPERATIONS {
                    return Err(Status::invalid_argument(
                        "etcdserver: too many operations in txn request",
                    ));
                }
                size += check_branch(branch, depth)?;
            }
            Ok(size)
        }
    }
}

fn check_branch(branch: &[PbTxnRequestOp], depth: usize) -> Result<usize, Status> {
    let mut put = HashSet::new();
    let mut size = 0;
    for operation in branch
        .iter()
        .filter_map(|operation| operation.request.as_ref())
    {
        size += check(operation, depth + 1)?;
        if let PbTxnOpRequest::RequestPut(request) = operation
            && !put.insert(request.key.as_slice())
        {
            return Err(duplicate());
        }
    }
    for operation in branch
        .iter()
        .filter_map(|operation| operation.request.as_ref())
    {
        if let PbTxnOpRequest::RequestDeleteRange(request) = operation {
            let range = key_range(request.key.clone(), request.range_end.clone());
            if put.iter().any(|key| range.contains(key)) {
                return Err(duplicate());
            }
        }
    }
    Ok(size)
}

fn duplicate() -> Status {
    Status::invalid_argument("etcdserver: duplicate key given in txn request")
}

impl Service {
    async fn operate(&self, request: PbTxnOpRequest) -> Result<PbTxnOpResponse, Status> {
        let size = check(&request, 0)?;
        let (reply, answer) = oneshot::channel();
        let operation = Operation {
            request: Some(request),
            outcome: None,
            reply,
        };
        let _room = self.store.admit(size).await.map_err(status)?;
        self.store.transact(Box::new(operation)).map_err(status)?;
        let (raw, revision) = answer
            .await
            .unwrap_or_else(|_| Err(Status::unavailable("the store is closed")))?;
        raw.respond(revision).await
    }
}

fn unexpected() -> Status {
    Status::internal("the answer is of another kind")
}

#[tonic::async_trait]
impl PbKvService for Service {
    type RangeStreamStream = BoxStream<'static, Result<PbRangeStreamResponse, Status>>;

    async fn range(
        &self,
        request: Request<PbRangeRequest>,
    ) -> Result<Response<PbRangeResponse>, Status> {
        let mut request = request.into_inner();
        if request.key.is_empty() {
            return Err(no_key());
        }
        let range = key_range(
            std::mem::take(&mut request.key),
            std::mem::take(&mut request.range_end),
        );
        let plain = request.sort_order == 0
            && request.sort_target == 0
            && request.min_mod_revision == 0
            && request.max_mod_revision == 0
            && request.min_create_revision == 0
            && request.max_create_revision == 0;
        // One more than asked for tells whether there is more.
        let limit = match usize::try_from(request.limit) {
            Ok(limit) if plain && limit > 0 => limit.saturating_add(1),
            _ => 0,
        };
        let count_only = plain && request.count_only;
        let read = RangeRead {
            range,
            limit,
            revision: request.revision,
            count_only,
        };
        let found = self.store.find(&read).map_err(status)?;
        let header = Self::header_at(found.revision);
        let selection = Selection {
            found: found.items,
            count: found.count,
            request,
        };
        Ok(Response::new(PbRangeResponse {
            header,
            ..selection.load().await?
        }))
    }

    async fn range_stream(
        &self,
        request: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let response = self.range(request).await?.into_inner();
        let message = PbRangeStreamResponse {
            range_response: Some(response),
        };
        Ok(Response::new(Box::pin(stream::iter([Ok(message)]))))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        match self
            .operate(PbTxnOpRequest::RequestPut(request.into_inner()))
            .await?
        {
            PbTxnOpResponse::ResponsePut(response) => Ok(Response::new(response)),
            _ => Err(unexpected()),
        }
    }

    async fn delete_range(
        &self,
        request: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        match self
            .operate(PbTxnOpRequest::RequestDeleteRange(request.into_inner()))
            .await?
        {
            PbTxnOpResponse::ResponseDeleteRange(response) => Ok(Response::new(response)),
            _ => Err(unexpected()),
        }
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        match self
            .operate(PbTxnOpRequest::RequestTxn(request.into_inner()))
            .await?
        {
            PbTxnOpResponse::ResponseTxn(response) => Ok(Response::new(response)),
            _ => Err(unexpected()),
        }
    }

    async fn compact(
        &self,
        request: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        self.store
            .compact(request.into_inner().revision)
            .await
            .map_err(status)?;
        Ok(Response::new(PbCompactionResponse {
            header: self.header(),
        }))
    }
}
