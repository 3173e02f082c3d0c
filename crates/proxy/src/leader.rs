//! Whether the cluster has a leader, for streams that want to end when it has none.
//!
//! A member ends a watch that requires a leader when it has lost it. One such watch, of a key that nobody
//! writes, tells it to all streams. It is opened when the first stream wants to know.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_client::{Client, pb};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Status};

/// What is watched: nobody writes it, and its revision is far away.
const KEY: &str = "__lostleader";
const REVISION: i64 = i64::MAX - 2;
/// Pause before the watch is opened again.
const PAUSE: Duration = Duration::from_millis(100);
/// How a stream says that it wants a leader.
const REQUIRES: &str = "hasleader";

/// Knows whether there is a leader.
#[derive(Debug, Clone)]
pub struct Leader {
    client: Client,
    known: Arc<OnceLock<watch::Receiver<Option<bool>>>>,
}

/// Hears of the loss, on behalf of one stream.
#[derive(Debug, Clone)]
pub struct Required(Option<watch::Receiver<Option<bool>>>);

impl Leader {
    /// Of this cluster.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Leader {
            client,
            known: Arc::default(),
        }
    }

    /// What a stream with this metadata has to hear.
    ///
    /// # Errors
    /// It requires a leader, and there is none.
    pub async fn require(&self, metadata: &MetadataMap) -> Result<Required, Status> {
        if metadata.get(REQUIRES).map(MetadataValue::as_bytes) != Some(b"true") {
            return Ok(Required(None));
        }
        let known = self.known.get_or_init(|| {
            let (tell, known) = watch::channel(None);
            tokio::spawn(follow(self.client.clone(), tell));
            known
        });
        let mut known = known.clone();
        let first = known.wait_for(Option::is_some).await.map(|has| *has);
        match first {
            Ok(Some(false)) | Err(_) => Err(no_leader()),
            Ok(_) => Ok(Required(Some(known))),
        }
    }
}

impl Required {
    /// Ends when the leader is lost, if that matters.
    pub async fn lost(&mut self) {
        match &mut self.0 {
            None => std::future::pending().await,
            Some(known) => {
                let _ended = known.wait_for(|has| *has == Some(false)).await.map(drop);
            }
        }
    }
}

/// The refusal.
#[must_use]
pub fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}

async fn follow(client: Client, tell: watch::Sender<Option<bool>>) {
    loop {
        // A connection that breaks says nothing of the leader; one that cannot be made does.
        if let Err(lost) = once(&client, &tell).await
            && lost
        {
            tell.send_replace(Some(false));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One watch, to its end; whether the leader is lost.
async fn once(client: &Client, tell: &watch::Sender<Option<bool>>) -> Result<(), bool> {
    let (requests, queued) = mpsc::channel(1);
    let create = pb::WatchCreateRequest {
        key: KEY.into(),
        start_revision: REVISION,
        ..Default::default()
    };
    let create = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    // There is room for one.
    let _sent = requests.try_send(create);
    let mut request = Request::new(ReceiverStream::new(queued));
    let value = MetadataValue::from_static("true");
    request.metadata_mut().insert(REQUIRES, value);
    let opened = client.watch().watch(request).await;
    let mut answers = opened.map_err(|_| true)?.into_inner();
    let mut made = false;
    loop {
        match answers.message().await {
            Ok(Some(answer)) if answer.created && !answer.canceled => {
                made = true;
                tell.send_replace(Some(true));
            }
            // With users on, it may not be watched; whoever answers so is there.
            Ok(Some(answer)) if answer.canceled => {
                let leaderless = answer.cancel_reason.contains("no leader");
                if !leaderless {
                    tell.send_replace(Some(true));
                }
                return Err(leaderless);
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(status) => {
                let leaderless = status.message() == "etcdserver: no leader";
                return Err(leaderless || !made);
            }
        }
    }
}
