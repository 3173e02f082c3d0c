//! `etcdserverpb.Maintenance`.

use std::sync::Arc;
use std::time::Instant;

use ferrite_apply::Response as Applied;
use ferrite_mvcc::RequestError;
use ferrite_node::config::ETCD_VERSION;
use ferrite_node::versions;
use ferrite_proto::etcdserverpb::alarm_request::AlarmAction;
use ferrite_proto::etcdserverpb::downgrade_request::DowngradeAction;
use ferrite_proto::etcdserverpb::maintenance_server::Maintenance;
use ferrite_proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    InternalRaftRequest, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Response, Status};

use super::{Context, mismatched};
use crate::auth::Caller;
use crate::errors;

/// The service.
#[derive(Clone)]
pub struct MaintenanceService(pub Context);

/// The quota shown when there is none: etcd shows the negative number that it was given.
const NO_QUOTA: i64 = -1;

/// Bytes of the database in one message of a snapshot, as etcd's.
const SNAPSHOT_CHUNK_BYTES: usize = 32 << 10;
/// Messages of a snapshot that wait for a slow client: half a megabyte.
const SNAPSHOT_CHUNKS_MAX: usize = 16;

/// Work that reads the whole database, off the thread that serves connections.
async fn aside<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(run)
        .await
        .map_err(|_| Status::new(Code::Internal, "etcdserver: the computation failed"))
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        let caller = Caller::of(&request);
        let request = request.into_inner();
        match request.action() {
            AlarmAction::Get => self.0.require_user(&caller).await?,
            AlarmAction::Activate | AlarmAction::Deactivate => {
                self.0.require_admin(&caller).await?;
            }
        }
        let request = InternalRaftRequest {
            alarm: Some(request),
            ..InternalRaftRequest::default()
        };
        let applied = self.0.propose(&caller, request).await?;
        let Applied::Alarm(mut response) = applied else {
            return Err(mismatched());
        };
        response.header = Some(self.0.header_now());
        Ok(Response::new(response))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        self.0.admit(request.metadata(), true)?;
        self.0.require_user(&Caller::of(&request)).await?;
        let node = &self.0.node;
        let cluster = node.published().get_cluster();
        let backend = node.store().backend();
        let mut problems = Vec::new();
        if node.status().leader() == 0 {
            problems.push("etcdserver: no leader".to_owned());
        }
        for alarm in node.published().get_alarms(AlarmType::None) {
            problems.push(format!(
                "memberID:{} alarm:{}",
                alarm.member_id,
                alarm.alarm().as_str_name()
            ));
        }
        let downgrade = cluster.downgrade.clone().unwrap_or_default();
        Ok(Response::new(StatusResponse {
            header: Some(self.0.header_now()),
            version: ETCD_VERSION.into(),
            db_size: i64::try_from(backend.size()).unwrap_or(i64::MAX),
            leader: node.status().leader(),
            raft_index: node.status().committed(),
            raft_term: node.status().term(),
            raft_applied_index: node.applied_index(),
            errors: problems,
            db_size_in_use: i64::try_from(backend.size_in_use()).unwrap_or(i64::MAX),
            is_learner: self.0.is_learner(),
            storage_version: node
                .storage_version()
                .map_or_else(String::new, |version| version.to_string()),
            db_size_quota: node
                .config()
                .quota_bytes
                .map_or(NO_QUOTA, |quota| i64::try_from(quota).unwrap_or(i64::MAX)),
            downgrade_info: Some(DowngradeInfo {
                enabled: downgrade.enabled,
                target_version: downgrade.target_version,
            }),
        }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        self.0.require_admin(&Caller::of(&request)).await?;
        let store = self.0.node.store().clone();
        let started = Instant::now();
        let hash = aside(move || store.hash()).await;
        self.0.node.metrics().hash.observe(started.elapsed());
        let hash = hash?.map_err(|error| errors::request(&RequestError::from(error)))?;
        Ok(Response::new(HashResponse {
            header: Some(self.0.header_now()),
            hash,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        self.0.require_admin(&Caller::of(&request)).await?;
        let store = self.0.node.store().clone();
        let revision = request.get_ref().revision;
        let started = Instant::now();
        let found = aside(move || store.hash_kv(revision)).await;
        self.0.node.metrics().hash_rev.observe(started.elapsed());
        let found = found?.map_err(|error| errors::request(&RequestError::from(error)))?;
        Ok(Response::new(HashKvResponse {
            header: Some(self.0.header(found.current_revision)),
            hash: found.hash,
            compact_revision: found.compact_revision,
            hash_revision: found.hash_revision,
        }))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        self.0.require_admin(&Caller::of(&request)).await?;
        let caller = Caller::of(&request);
        self.0
            .node
            .move_leader(request.get_ref().target_id, caller.deadline())
            .await
            .map_err(|error| errors::status(&error))?;
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        self.0.require_admin(&Caller::of(&request)).await?;
        tracing::info!("starting defragment");
        let started = Instant::now();
        let defragmenting = self.0.serving.defragmenting();
        let done = self.0.node.defragment().await;
        drop(defragmenting);
        if let Err(error) = done {
            tracing::warn!(error, "failed to defragment");
            return Err(Status::unknown(error));
        }
        tracing::info!(took = ?started.elapsed(), "finished defragment");
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    type SnapshotStream = tokio_stream::wrappers::ReceiverStream<Result<SnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.0.admit_stream(request.metadata(), true)?;
        self.0.require_admin(&Caller::of(&request)).await?;
        let node = self.0.node.clone();
        let version = node
            .storage_version()
            .map_or_else(String::new, |version| version.to_string());
        // What is applied and not in the file yet belongs to the snapshot.
        let view = aside(move || {
            node.flush();
            node.engine().view().map_err(|error| error.to_string())
        })
        .await?
        .map_err(|error| Status::internal(format!("etcdserver: {error}")))?;
        let (sender, receiver) = tokio::sync::mpsc::channel(SNAPSHOT_CHUNKS_MAX);
        let (metrics, started) = (Arc::clone(self.0.node.metrics()), Instant::now());
        tokio::task::spawn_blocking(move || {
            let mut stream = SnapshotStream {
                remaining: view.tx().size(),
                chunk: Vec::with_capacity(SNAPSHOT_CHUNK_BYTES),
                digest: Sha256::new(),
                version,
                sender,
            };
            let sent = view
                .tx()
                .write_to(&mut stream)
                .map_err(|error| error.to_string());
            // A client that went away ends the copy with a broken pipe: nobody is left to be told.
            let _gone = match sent {
                Ok(_) => stream.finish(),
                Err(error) => stream
                    .sender
                    .blocking_send(Err(Status::unknown(error)))
                    .map_err(|_| std::io::ErrorKind::BrokenPipe.into()),
            };
            metrics.snapshot.observe(started.elapsed());
        });
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(
            receiver,
        )))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        self.0.require_admin(&Caller::of(&request)).await?;
        let node = &self.0.node;
        let asked = request.get_ref();
        let version = match DowngradeAction::try_from(asked.action) {
            Ok(DowngradeAction::Validate) => node.check_downgrade(&asked.version).await,
            Ok(DowngradeAction::Enable) => {
                let enabled = node.enable_downgrade(&asked.version).await;
                if let Err(error) = &enabled {
                    tracing::warn!(error = %error, "reject downgrade request");
                }
                enabled
            }
            Ok(DowngradeAction::Cancel) => node.cancel_downgrade().await,
            Err(_) => return Err(errors::unknown_method()),
        }
        .map_err(|error| errors::status(&error))?;
        Ok(Response::new(DowngradeResponse {
            header: Some(self.0.header_now()),
            version: versions::short(version),
        }))
    }
}

/// Cuts a database into messages and ends it with its digest.
struct SnapshotStream {
    remaining: u64,
    chunk: Vec<u8>,
    digest: Sha256,
    version: String,
    sender: tokio::sync::mpsc::Sender<Result<SnapshotResponse, Status>>,
}

impl SnapshotStream {
    fn send(&mut self) -> std::io::Result<()> {
        self.digest.update(&self.chunk);
        self.remaining = self.remaining.saturating_sub(self.chunk.len() as u64);
        let blob = std::mem::replace(&mut self.chunk, Vec::with_capacity(SNAPSHOT_CHUNK_BYTES));
        self.message(blob)
    }

    fn message(&self, blob: Vec<u8>) -> std::io::Result<()> {
        let message = SnapshotResponse {
            // The original's has none either.
            header: None,
            remaining_bytes: self.remaining,
            blob: blob.into(),
            version: self.version.clone(),
        };
        self.sender
            .blocking_send(Ok(message))
            .map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    fn finish(mut self) -> std::io::Result<()> {
        if !self.chunk.is_empty() {
            self.send()?;
        }
        let digest = std::mem::take(&mut self.digest).finalize().to_vec();
        self.message(digest)
    }
}

impl std::io::Write for SnapshotStream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = SNAPSHOT_CHUNK_BYTES - self.chunk.len();
        let taken = room.min(bytes.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == SNAPSHOT_CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
