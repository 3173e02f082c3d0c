//! What keeps ownership true while nobody asks: the session's lease is kept alive, the events of the
//! leasing keys are heard, and leasing keys that are wanted elsewhere are deleted.

use std::sync::Arc;
use std::time::Duration;

use ferrite_client::pb::request_op::Request;
use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_client::{Client, Code, describe, pb};
use ferrite_proto::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataValue;

use super::{Shared, created_before, operation, transaction};
use crate::call::{self, Caller, SharedKv};
use crate::namespace::Namespace;

/// Seconds that leasing keys outlive their proxy: the original's.
const TTL: i64 = 60;
/// Pause before another attempt.
const RETRY: Duration = Duration::from_secs(1);
/// Time for a question that is not a client's.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the watch of leasing keys is asked how far it has come.
const ASK: Duration = Duration::from_secs(5);
/// Silence after which it counts as broken, though its connection does not.
const SILENCE: Duration = Duration::from_secs(15);
/// How long the events of leasing keys may be unheard before the session is given up: whoever wants a key
/// waits so long.
const DEAF_MAX: Duration = Duration::from_secs(15);
/// Leasing keys deleted at once: far fewer than a transaction may have.
const RELEASES: usize = 32;

/// Keeps leases, one after the other, for as long as the proxy runs.
pub(super) async fn sessions(shared: Arc<Shared>, client: Client) {
    loop {
        match session(&shared, &client).await {
            Ok(lease) => {
                tracing::warn!(lease, "the session of leasing keys is over");
                shared.lose();
                close(&shared, &client, lease).await;
            }
            Err(status) => {
                let error = describe(&status);
                tracing::warn!(error, "cannot begin a session of leasing keys");
            }
        }
        sleep(RETRY).await;
    }
}

/// One lease, to its end; its number.
async fn session(shared: &Shared, client: &Client) -> Result<i64, Status> {
    let mut asked = Instant::now();
    let grant = pb::LeaseGrantRequest { ttl: TTL, id: 0 };
    let granted = client.lease().lease_grant(grant).await?.into_inner();
    let lease = granted.id;
    let mut ttl = granted.ttl;
    tracing::info!(lease, ttl, "a session of leasing keys has begun");
    loop {
        // A member counts from when it answered, which was not before it was asked. The rest is for clocks
        // that do not run alike.
        let lives = Duration::from_secs(u64::try_from(ttl).unwrap_or_default());
        let until = asked + lives - lives / 10;
        shared.table().lives(lease, until.into_std());
        shared.begun.send_replace(true);
        let mut pause = lives / 3;
        ttl = loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = shared.give_up.notified() => return Ok(lease),
            }
            asked = Instant::now();
            if asked >= until {
                return Ok(lease);
            }
            match timeout(PATIENCE, kept_alive(client, lease)).await {
                Ok(Ok(0)) => return Ok(lease),
                Ok(Ok(ttl)) => break ttl,
                Ok(Err(_)) | Err(_) => pause = RETRY,
            }
        };
    }
}

/// Keeps a lease alive once; the seconds that it has, 0 if it is over.
async fn kept_alive(client: &Client, id: i64) -> Result<i64, Status> {
    let asked = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let mut answers = client.lease().lease_keep_alive(asked).await?.into_inner();
    let answer = answers.message().await?;
    answer
        .map(|answer| answer.ttl.max(0))
        .ok_or_else(|| Status::unavailable("the member ended the stream"))
}

/// Ends a lease, and with it its leasing keys, as far as that can be done now.
async fn close(shared: &Shared, client: &Client, id: i64) {
    let mut lease = client.lease();
    let revoked = timeout(PATIENCE, lease.lease_revoke(pb::LeaseRevokeRequest { id })).await;
    let over = match revoked {
        Ok(Ok(_)) => true,
        Ok(Err(status)) => status.code() == Code::NotFound,
        Err(_) => false,
    };
    if over {
        shared.table().forget(id);
    }
}

/// Ends the session, so that nobody has to wait for what this proxy owns.
pub(super) async fn leave(shared: &Shared, client: &Client) {
    let lease = shared.table().session();
    shared.lose();
    if let Some(lease) = lease {
        close(shared, client, lease).await;
    }
}

/// Hears what happens to the leasing keys below this namespace, for as long as the proxy runs.
pub(super) async fn hear(shared: Arc<Shared>, client: Client, names: Namespace) {
    let mut next = 0;
    let mut deaf_since = Instant::now();
    loop {
        let (heard, ended) = watch(&shared, &client, &names, &mut next).await;
        shared.table().set_watched(false);
        if heard {
            deaf_since = Instant::now();
        }
        let lost = match ended {
            // What came between is gone for good.
            Ended::Refused => true,
            Ended::Broken => deaf_since.elapsed() > DEAF_MAX,
        };
        if lost {
            next = 0;
            deaf_since = Instant::now();
            shared.end_session();
        }
        shared.wake_all();
        sleep(if heard && !lost { RETRY / 20 } else { RETRY }).await;
    }
}

enum Ended {
    /// A member will not have this watch.
    Refused,
    /// By chance.
    Broken,
}

/// One watch, to its end, and whether it was ever there. `next` is the revision that it goes on from.
async fn watch(
    shared: &Shared,
    client: &Client,
    names: &Namespace,
    next: &mut i64,
) -> (bool, Ended) {
    let create = pb::WatchCreateRequest {
        key: names.key(b""),
        range_end: names.end(b"\0"),
        start_revision: *next,
        ..Default::default()
    };
    let request = |union| pb::WatchRequest {
        request_union: Some(union),
    };
    let (requests, queued) = mpsc::channel(2);
    // There is room for two.
    let _sent = requests.try_send(request(RequestUnion::CreateRequest(create)));
    let mut asked = tonic::Request::new(ReceiverStream::new(queued));
    // A member that has lost the leader hears of nothing.
    let value = MetadataValue::from_static("true");
    asked.metadata_mut().insert("hasleader", value);
    let mut stub = client.watch();
    let opened = stub.watch(asked);
    let mut answers = match timeout(PATIENCE, opened).await {
        Ok(Ok(answers)) => answers.into_inner(),
        Ok(Err(_)) | Err(_) => return (false, Ended::Broken),
    };
    let mut heard = false;
    let mut last = Instant::now();
    loop {
        let response = tokio::select! {
            response = answers.message() => response,
            () = sleep(ASK) => {
                if last.elapsed() > SILENCE {
                    return (heard, Ended::Broken);
                }
                let progress = pb::WatchProgressRequest {};
                let _full = requests.try_send(request(RequestUnion::ProgressRequest(progress)));
                continue;
            }
        };
        let Ok(Some(response)) = response else {
            return (heard, Ended::Broken);
        };
        last = Instant::now();
        if response.canceled {
            if !response.cancel_reason.is_empty() {
                let reason = &response.cancel_reason;
                tracing::warn!(reason, "the leasing keys cannot be watched");
            }
            return (heard, Ended::Refused);
        }
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created {
            heard = true;
            // From the present: nothing was acquired before.
            if *next == 0 {
                *next = revision + 1;
            }
            shared.table().set_watched(true);
        }
        let now = std::time::Instant::now();
        let mut table = shared.table();
        for event in &response.events {
            let Some(pair) = &event.kv else { continue };
            let key = names.bare(&pair.key);
            table.event(&key, event, now);
            *next = (*next).max(pair.mod_revision + 1);
            if event.r#type == EventType::Delete as i32 {
                shared.wake(&key);
            }
        }
        drop(table);
        if !response.events.is_empty() {
            shared.release.notify_one();
        }
    }
}

/// Whether a refusal says that the lease is gone, or that users are on, so that this proxy has no say any
/// more.
pub(super) fn ends_session(status: &Status) -> bool {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => true,
        Code::InvalidArgument => status.message() == "etcdserver: user name is empty",
        Code::NotFound => status.message() == "etcdserver: requested lease not found",
        _ => false,
    }
}

/// Deletes leasing keys that this proxy does not want any more, for as long as it runs.
pub(super) async fn release(shared: Arc<Shared>, kv: SharedKv) {
    loop {
        let all = shared.table().to_release(RELEASES);
        if all.is_empty() {
            shared.release.notified().await;
            continue;
        }
        let each = all.iter().map(|(key, created)| {
            let key = shared.leasing_key(key);
            let delete = pb::DeleteRangeRequest {
                key: key.clone(),
                ..Default::default()
            };
            let only = pb::TxnRequest {
                compare: vec![created_before(key, Default::default(), created + 1)],
                success: vec![operation(Request::RequestDeleteRange(delete))],
                ..Default::default()
            };
            operation(Request::RequestTxn(only))
        });
        let txn = transaction(Vec::new(), each.collect());
        let caller = Caller::default();
        match timeout(PATIENCE, call::txn(&*kv, &caller, txn)).await {
            Ok(Ok(_)) => shared.table().released(&all),
            Ok(Err(status)) if ends_session(&status) => {
                // The keys go with the lease.
                let error = describe(&status);
                tracing::warn!(error, "leasing keys cannot be given back");
                shared.table().released(&all);
                shared.end_session();
                sleep(RETRY).await;
            }
            Ok(Err(_)) | Err(_) => sleep(RETRY / 10).await,
        }
    }
}
