//! What locks and elections are made of: a lease that is held, a key under a common prefix that lives
//! as long as the lease, and the wait until every older key there is gone. The keys are the original
//! client's, so programs of both kinds queue up in one line.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrite_client::pb::{
    self, Compare,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op::Request,
    response_op::Response,
};
use ferrite_client::{Client, Code, Status, WatchEvent, Watcher};
use ferrite_proto::mvccpb::{KeyValue, event::EventType};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use crate::cmd::{kv::prefix_end, lease};
use crate::exit::{self, Failure};

/// How long a session's lease lives unless told otherwise, in seconds.
pub const TTL_DEFAULT: i64 = 60;

/// SIGINT and SIGTERM, from the moment this is made.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over.
    pub fn new() -> Result<Self, Failure> {
        let failure = |e: std::io::Error| Failure::new(exit::ERROR, e.to_string());
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failure)?,
            terminate: signal(SignalKind::terminate()).map_err(failure)?,
        })
    }

    /// The next of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What a command says that was told to stop while it waited.
pub fn canceled() -> Failure {
    Failure::new(exit::ERROR, "context canceled")
}

/// A lease that is renewed as long as this lives.
pub struct Held {
    client: Client,
    /// The lease.
    pub lease: i64,
    ended: JoinHandle<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ended.abort();
    }
}

impl Held {
    /// Makes a lease and begins to renew it. A time to live that is not positive means the default.
    pub async fn start(client: &Client, ttl: i64) -> Result<Self, Failure> {
        let ttl = if ttl > 0 { ttl } else { TTL_DEFAULT };
        let request = pb::LeaseGrantRequest { id: 0, ttl };
        let granted = client.lease().lease_grant(request).await?.into_inner();
        let (client, lease) = (client.clone(), granted.id);
        let over = Instant::now() + Duration::from_secs(granted.ttl.unsigned_abs());
        let ended = tokio::spawn({
            let client = client.clone();
            async move {
                // It ends when the lease does; nothing here can fail otherwise.
                let _ = lease::hold(&client, lease, over, |_| Ok(())).await;
            }
        });
        Ok(Self {
            client,
            lease,
            ended,
        })
    }

    /// Waits until the lease is gone.
    pub async fn ended(&mut self) {
        // It is not cancelled before this is dropped.
        let _ = (&mut self.ended).await;
    }

    /// A place in the line of those who want `name`; not taken yet.
    pub fn place(&self, name: &[u8]) -> Place {
        let prefix = [name, b"/"].concat();
        let key = [&prefix, format!("{:x}", self.lease).as_bytes()].concat();
        Place {
            client: self.client.clone(),
            prefix,
            key: key.into(),
            lease: self.lease,
            revision: 0,
        }
    }
}

/// A key in a line: whose is the oldest has what all wait for.
#[derive(Clone)]
pub struct Place {
    client: Client,
    prefix: Vec<u8>,
    /// The key.
    pub key: Bytes,
    lease: i64,
    /// The revision at which the key was made; 0 until then.
    pub revision: i64,
}

fn put(key: Bytes, value: Bytes, lease: i64) -> pb::RequestOp {
    let request = pb::PutRequest {
        key,
        value,
        lease,
        ..Default::default()
    };
    pb::RequestOp {
        request: Some(Request::RequestPut(request)),
    }
}

fn get(request: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(Request::RequestRange(request)),
    }
}

fn created_at(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key,
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

fn key_range(key: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.clone(),
        ..Default::default()
    }
}

/// The oldest or the youngest key under a prefix.
fn outermost(prefix: &[u8], order: SortOrder) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// The oldest key under a prefix: whoever has what the line is for.
pub fn oldest(prefix: &[u8]) -> pb::RangeRequest {
    outermost(prefix, SortOrder::Ascend)
}

fn ranges(response: &pb::TxnResponse) -> impl Iterator<Item = Option<&KeyValue>> {
    response.responses.iter().map(|op| match &op.response {
        Some(Response::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    })
}

impl Place {
    /// Takes the place with this value; true if nobody stands before it.
    pub async fn take(&mut self, value: Bytes) -> Result<bool, Failure> {
        let oldest = get(oldest(&self.prefix));
        let request = pb::TxnRequest {
            compare: vec![created_at(self.key.clone(), 0)],
            success: vec![
                put(self.key.clone(), value.clone(), self.lease),
                oldest.clone(),
            ],
            failure: vec![get(key_range(&self.key)), oldest],
        };
        let response = self.client.kv().txn(request).await?.into_inner();
        let mut found = ranges(&response);
        let own = found.next().flatten();
        let first = found.next().flatten().map(|kv| kv.create_revision);
        self.revision = own.map_or_else(
            || response.header.as_ref().map_or(0, |h| h.revision),
            |kv| kv.create_revision,
        );
        if own.is_some_and(|kv| kv.value != value) {
            self.proclaim(value).await?;
        }
        Ok(first.is_none_or(|first| first == self.revision))
    }

    async fn proclaim(&self, value: Bytes) -> Result<(), Failure> {
        let request = pb::TxnRequest {
            compare: vec![created_at(self.key.clone(), self.revision)],
            success: vec![put(self.key.clone(), value, self.lease)],
            failure: Vec::new(),
        };
        let response = self.client.kv().txn(request).await?;
        if response.get_ref().succeeded {
            return Ok(());
        }
        Err(Failure::new(exit::ERROR, "election: not leader"))
    }

    /// Waits until everybody who stands before it has gone.
    pub async fn wait(&self) -> Result<(), Failure> {
        loop {
            let request = pb::RangeRequest {
                max_create_revision: self.revision - 1,
                ..outermost(&self.prefix, SortOrder::Descend)
            };
            let response = self.client.kv().range(request).await?.into_inner();
            let Some(next) = response.kvs.first() else {
                return Ok(());
            };
            let revision = response.header.as_ref().map_or(0, |h| h.revision);
            gone(&self.client, next.key.clone(), revision).await?;
        }
    }

    /// The key as it is now.
    pub async fn read(&self) -> Result<pb::RangeResponse, Failure> {
        let response = self.client.kv().range(key_range(&self.key)).await?;
        Ok(response.into_inner())
    }

    /// Gives the place up.
    pub async fn leave(&self) -> Result<(), Failure> {
        let request = pb::DeleteRangeRequest {
            key: self.key.clone(),
            ..Default::default()
        };
        let result = self.client.kv().delete_range(request).await;
        result.map(|_| ()).map_err(Failure::from)
    }

    /// Gives the place up if it is still the one that was taken.
    pub async fn resign(&self) -> Result<(), Failure> {
        let delete = pb::DeleteRangeRequest {
            key: self.key.clone(),
            ..Default::default()
        };
        let request = pb::TxnRequest {
            compare: vec![created_at(self.key.clone(), self.revision)],
            success: vec![pb::RequestOp {
                request: Some(Request::RequestDeleteRange(delete)),
            }],
            failure: Vec::new(),
        };
        let result = self.client.kv().txn(request).await;
        result.map(|_| ()).map_err(Failure::from)
    }
}

/// Waits until a key has been deleted, at this revision or later.
async fn gone(client: &Client, key: Bytes, revision: i64) -> Result<(), Failure> {
    let mut watcher = Watcher::new(client.clone(), false);
    watcher.add(pb::WatchCreateRequest {
        key,
        start_revision: revision,
        ..Default::default()
    });
    loop {
        for event in next_events(&mut watcher).await?.events {
            if event.r#type() == EventType::Delete {
                return Ok(());
            }
        }
    }
}

/// The next response of a watcher's one watch.
pub async fn next_events(watcher: &mut Watcher) -> Result<pb::WatchResponse, Failure> {
    loop {
        match watcher.next().await.1 {
            WatchEvent::Created => {}
            WatchEvent::Response(response) if response.compact_revision != 0 => {
                let text = "etcdserver: mvcc: required revision has been compacted";
                return Err(Status::new(Code::OutOfRange, text).into());
            }
            WatchEvent::Response(response) => return Ok(response),
            WatchEvent::Failed(error) => return Err(Failure::new(exit::ERROR, error)),
            WatchEvent::Closed => {
                return Err(Failure::new(exit::ERROR, "lost watcher waiting for delete"));
            }
        }
    }
}
