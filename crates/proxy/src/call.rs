//! What one call is about, and the layers that it passes on its way to a member.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ferrite_client::{Client, pb};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Request, Status};

/// Under which name a token comes, and goes on.
const TOKEN: &str = "token";
/// Where else one may stand.
const AUTHORIZATION: &str = "authorization";
/// How long the caller waits.
const TIMEOUT: &str = "grpc-timeout";

/// A future that a layer returns.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send + 'a>>;

/// What a call has with it and takes on to the member.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    token: Option<MetadataValue<Ascii>>,
    timeout: Option<MetadataValue<Ascii>>,
}

impl Caller {
    /// Of the metadata that came with a call.
    #[must_use]
    pub fn of(metadata: &MetadataMap) -> Self {
        Caller {
            token: metadata
                .get(TOKEN)
                .or_else(|| metadata.get(AUTHORIZATION))
                .cloned(),
            timeout: metadata.get(TIMEOUT).cloned(),
        }
    }

    /// The same caller, for what outlives its call.
    #[must_use]
    pub fn without_timeout(&self) -> Self {
        Caller {
            token: self.token.clone(),
            timeout: None,
        }
    }

    /// Who it is, as far as anybody can tell without asking.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        self.token.as_ref().map_or(b"", |token| token.as_bytes())
    }

    /// A request that goes on in the caller's name.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        if let Some(token) = &self.token {
            metadata.insert(TOKEN, token.clone());
        }
        if let Some(timeout) = &self.timeout {
            metadata.insert(TIMEOUT, timeout.clone());
        }
        request
    }
}

/// What a member said, without what belongs to its connection.
pub fn bare(status: &Status) -> Status {
    Status::new(status.code(), status.message())
}

/// A request to the store.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Read.
    Range(pb::RangeRequest),
    /// Write.
    Put(pb::PutRequest),
    /// Delete.
    Delete(pb::DeleteRangeRequest),
    /// Several at once.
    Txn(pb::TxnRequest),
    /// Forget.
    Compact(pb::CompactionRequest),
}

/// The answer to a request of the same name.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Read.
    Range(pb::RangeResponse),
    /// Written.
    Put(pb::PutResponse),
    /// Deleted.
    Delete(pb::DeleteRangeResponse),
    /// All of it, or the other branch.
    Txn(pb::TxnResponse),
    /// Forgotten.
    Compact(pb::CompactionResponse),
}

impl Answer {
    /// The revision in its header.
    #[must_use]
    pub fn revision(&self) -> i64 {
        let header = match self {
            Answer::Range(answer) => &answer.header,
            Answer::Put(answer) => &answer.header,
            Answer::Delete(answer) => &answer.header,
            Answer::Txn(answer) => &answer.header,
            Answer::Compact(answer) => &answer.header,
        };
        header.as_ref().map_or(0, |header| header.revision)
    }
}

/// The store, seen through some layers.
pub trait Kv: Send + Sync + 'static {
    /// Asks it.
    fn ask<'a>(&'a self, caller: &'a Caller, ask: Ask) -> Answering<'a, Answer>;
}

/// A store that is shared.
pub type SharedKv = Arc<dyn Kv>;

/// The members themselves.
#[derive(Debug, Clone)]
pub struct Members(pub Client);

impl Kv for Members {
    fn ask<'a>(&'a self, caller: &'a Caller, ask: Ask) -> Answering<'a, Answer> {
        Box::pin(async move {
            let mut kv = self.0.kv();
            let answer = match ask {
                Ask::Range(request) => kv
                    .range(caller.request(request))
                    .await
                    .map(|answer| Answer::Range(answer.into_inner())),
                Ask::Put(request) => kv
                    .put(caller.request(request))
                    .await
                    .map(|answer| Answer::Put(answer.into_inner())),
                Ask::Delete(request) => kv
                    .delete_range(caller.request(request))
                    .await
                    .map(|answer| Answer::Delete(answer.into_inner())),
                Ask::Txn(request) => kv
                    .txn(caller.request(request))
                    .await
                    .map(|answer| Answer::Txn(answer.into_inner())),
                Ask::Compact(request) => kv
                    .compact(caller.request(request))
                    .await
                    .map(|answer| Answer::Compact(answer.into_inner())),
            };
            answer.map_err(|status| bare(&status))
        })
    }
}

/// A layer that answered with another kind than was asked for.
fn confused() -> Status {
    Status::internal("the answer is none to what was asked")
}

/// Reads.
///
/// # Errors
/// The member's refusal.
pub async fn range(
    kv: &dyn Kv,
    caller: &Caller,
    request: pb::RangeRequest,
) -> Result<pb::RangeResponse, Status> {
    match kv.ask(caller, Ask::Range(request)).await? {
        Answer::Range(answer) => Ok(answer),
        _ => Err(confused()),
    }
}

/// Writes.
///
/// # Errors
/// The member's refusal.
pub async fn put(
    kv: &dyn Kv,
    caller: &Caller,
    request: pb::PutRequest,
) -> Result<pb::PutResponse, Status> {
    match kv.ask(caller, Ask::Put(request)).await? {
        Answer::Put(answer) => Ok(answer),
        _ => Err(confused()),
    }
}

/// Deletes.
///
/// # Errors
/// The member's refusal.
pub async fn delete(
    kv: &dyn Kv,
    caller: &Caller,
    request: pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, Status> {
    match kv.ask(caller, Ask::Delete(request)).await? {
        Answer::Delete(answer) => Ok(answer),
        _ => Err(confused()),
    }
}

/// Several at once.
///
/// # Errors
/// The member's refusal.
pub async fn txn(
    kv: &dyn Kv,
    caller: &Caller,
    request: pb::TxnRequest,
) -> Result<pb::TxnResponse, Status> {
    match kv.ask(caller, Ask::Txn(request)).await? {
        Answer::Txn(answer) => Ok(answer),
        _ => Err(confused()),
    }
}

/// Forgets.
///
/// # Errors
/// The member's refusal.
pub async fn compact(
    kv: &dyn Kv,
    caller: &Caller,
    request: pb::CompactionRequest,
) -> Result<pb::CompactionResponse, Status> {
    match kv.ask(caller, Ask::Compact(request)).await? {
        Answer::Compact(answer) => Ok(answer),
        _ => Err(confused()),
    }
}
