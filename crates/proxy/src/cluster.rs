//! Who the proxies are. Clients that ask for members are told of proxies, so that they stay with them.
//!
//! A proxy with a resolver prefix registers itself below it, under a lease that it keeps alive, and tells
//! of all that are registered there. Others tell of themselves alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_client::{Client, describe, pb};
use ferrite_proto::mvccpb::event::EventType;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::call::{self, Caller, SharedKv};
use crate::namespace::Namespace;

/// Pause before another attempt to register, or to watch who did: the original's.
const RETRY: Duration = Duration::from_secs(1);

/// How a proxy is to be known.
#[derive(Debug, Clone, Default)]
pub struct Advertised {
    /// Where clients reach it; empty for not at all.
    pub address: String,
    /// Below which key proxies register; empty for none.
    pub prefix: String,
    /// Seconds that a registration outlives its proxy.
    pub ttl: i64,
    /// Its name: the machine's.
    pub name: String,
}

/// What is registered, as the original writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default)]
    op: u8,
    #[serde(default)]
    addr: String,
    #[serde(default)]
    metadata: serde_json::Value,
}

/// What [`Entry::metadata`] holds, as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    #[serde(default)]
    name: String,
}

/// Who is registered, by key.
type Known = Arc<Mutex<BTreeMap<Vec<u8>, Entry>>>;

/// Tells of proxies.
#[derive(Debug, Clone)]
pub struct Proxies {
    advertised: Advertised,
    known: Known,
}

impl Proxies {
    /// Starts to register and to watch, where that is wanted. `kv` is the store as clients see it.
    #[must_use]
    pub fn start(
        client: &Client,
        kv: &SharedKv,
        namespace: &Namespace,
        advertised: Advertised,
    ) -> Self {
        let known = Known::default();
        if !advertised.prefix.is_empty() {
            tokio::spawn(register(client.clone(), Arc::clone(kv), advertised.clone()));
            if !advertised.address.is_empty() {
                let place = Place {
                    client: client.clone(),
                    kv: Arc::clone(kv),
                    namespace: namespace.clone(),
                    prefix: format!("{}/", advertised.prefix),
                    known: Arc::clone(&known),
                };
                tokio::spawn(place.follow());
            }
        }
        Proxies { advertised, known }
    }

    /// The list of members that clients are given; `None` where it is the cluster's own.
    ///
    /// # Errors
    /// What is registered cannot be read.
    pub fn list(&self) -> Result<Option<pb::MemberListResponse>, Status> {
        if self.advertised.address.is_empty() {
            return Ok(None);
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut members = Vec::new();
        for entry in known.values() {
            let about = match &entry.metadata {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let about: About =
                serde_json::from_str(&about).map_err(|error| Status::unknown(error.to_string()))?;
            members.push(member(about.name, entry.addr.clone()));
        }
        drop(known);
        if members.is_empty() {
            let own = &self.advertised;
            members.push(member(own.name.clone(), own.address.clone()));
        }
        Ok(Some(pb::MemberListResponse {
            header: None,
            members,
        }))
    }
}

fn member(name: String, address: String) -> pb::Member {
    pb::Member {
        name,
        client_urls: vec![address],
        ..Default::default()
    }
}

/// Registers, again and again when the lease is lost.
async fn register(client: Client, kv: SharedKv, advertised: Advertised) {
    loop {
        match session(&client, &kv, &advertised).await {
            Ok(()) => {
                tracing::warn!("session expired; possible network partition or server restart");
                tracing::warn!("creating a new session to rejoin");
            }
            Err(status) => {
                let error = describe(&status);
                tracing::warn!(error, "failed to create a session");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One lease, to its end.
async fn session(client: &Client, kv: &SharedKv, advertised: &Advertised) -> Result<(), Status> {
    let grant = pb::LeaseGrantRequest {
        ttl: advertised.ttl,
        id: 0,
    };
    let granted = client.lease().lease_grant(grant).await?.into_inner();
    let about = About {
        name: advertised.name.clone(),
    };
    let entry = Entry {
        op: 0,
        addr: advertised.address.clone(),
        metadata: serde_json::to_string(&about)
            .map_err(|error| Status::internal(error.to_string()))?
            .into(),
    };
    let put = pb::PutRequest {
        key: format!("{}/{}", advertised.prefix, advertised.address).into(),
        value: serde_json::to_vec(&entry)
            .map_err(|error| Status::internal(error.to_string()))?
            .into(),
        lease: granted.id,
        ..Default::default()
    };
    call::put(&**kv, &Caller::default(), put).await?;
    tracing::info!(
        addr = advertised.address,
        "lease-ttl" = advertised.ttl,
        "registered session with lease"
    );
    let third = u64::try_from(granted.ttl).unwrap_or(1).saturating_mul(1000) / 3;
    let pause = Duration::from_millis(third.max(500));
    // The lease is over when nobody has heard of it for as long as it lives.
    let mut lives = tokio::time::Instant::now() + 3 * pause;
    loop {
        tokio::time::sleep(pause).await;
        match renewed(client, granted.id).await {
            Ok(true) => lives = tokio::time::Instant::now() + 3 * pause,
            Ok(false) => return Ok(()),
            Err(_) if tokio::time::Instant::now() < lives => {}
            Err(_) => return Ok(()),
        }
    }
}

/// Keeps a lease alive once; whether it still is.
async fn renewed(client: &Client, id: i64) -> Result<bool, Status> {
    let asked = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let kept = async {
        let mut answers = client.lease().lease_keep_alive(asked).await?.into_inner();
        answers.message().await
    };
    let answer = tokio::time::timeout(RETRY, kept).await;
    let answer = answer.map_err(|_| Status::unavailable("no answer in time"))??;
    Ok(answer.is_some_and(|answer| answer.ttl > 0))
}

/// Where proxies register.
struct Place {
    client: Client,
    kv: SharedKv,
    namespace: Namespace,
    prefix: String,
    known: Known,
}

impl Place {
    async fn follow(self) {
        loop {
            match self.once().await {
                Ok(()) => tracing::info!("endpoints watch channel closed"),
                Err(status) => {
                    let (prefix, error) = (&self.prefix, describe(&status));
                    tracing::warn!(prefix, error, "failed to establish endpoint watch");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn end(&self) -> Vec<u8> {
        let mut end = self.prefix.clone().into_bytes();
        // It ends in a slash, which has a successor.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end
    }

    fn put(&self, pair: &ferrite_proto::mvccpb::KeyValue) {
        match serde_json::from_slice::<Entry>(&pair.value) {
            Ok(entry) => {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(pair.key.to_vec(), entry);
            }
            Err(error) => {
                let key = String::from_utf8_lossy(&pair.key);
                tracing::warn!(%key, %error, "unmarshal endpoint update failed");
            }
        }
    }

    async fn once(&self) -> Result<(), Status> {
        let range = pb::RangeRequest {
            key: self.prefix.clone().into(),
            range_end: self.end().into(),
            serializable: true,
            ..Default::default()
        };
        let found = call::range(&*self.kv, &Caller::default(), range).await?;
        let revision = found.header.as_ref().map_or(0, |header| header.revision);
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        found.kvs.iter().for_each(|pair| self.put(pair));
        let create = pb::WatchCreateRequest {
            key: self.namespace.key(self.prefix.as_bytes()),
            range_end: self.namespace.end(&self.end()),
            start_revision: revision + 1,
            ..Default::default()
        };
        let create = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        let (requests, queued) = mpsc::channel(1);
        // There is room for one.
        let _sent = requests.try_send(create);
        let opened = self.client.watch().watch(ReceiverStream::new(queued)).await;
        let mut answers = opened?.into_inner();
        while let Some(response) = answers.message().await? {
            if response.canceled {
                return Ok(());
            }
            for event in response.events {
                let Some(mut pair) = event.kv else { continue };
                pair.key = self.namespace.bare(&pair.key);
                if event.r#type == EventType::Delete as i32 {
                    let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                    known.remove(&pair.key.to_vec());
                } else {
                    self.put(&pair);
                }
            }
        }
        Ok(())
    }
}
