//! One look at every member, all at once: what each says of itself, and how long it took to read through the
//! quorum. A member that does not answer delays nobody longer than the limit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ferrite_client::{Client, describe, pb};
use tokio::task::JoinSet;

use crate::cmd::endpoint::is_denied;
use crate::exit::Failure;
use crate::metrics;
use crate::session::Session;

/// How long a look may take.
const LIMIT: Duration = Duration::from_secs(2);

/// All members at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// In the order of their names.
    pub members: Vec<Member>,
}

/// One member.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name; empty if it is not known.
    pub name: String,
    /// Its ID; 0 if it is not known.
    pub id: u64,
    /// Where it was asked.
    pub endpoint: String,
    /// What it said, or why it did not.
    pub answer: Result<Answer, String>,
}

/// What one member said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Of itself.
    pub status: pb::StatusResponse,
    /// How long a read through the quorum took, or why there was none.
    pub read: Result<Duration, String>,
    /// The store's revision.
    pub revision: i64,
    /// Its metrics, where they can be had.
    pub metrics: Option<Metrics>,
}

/// What is taken from a page of metrics.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// gRPC calls that it has answered.
    pub requests: Option<f64>,
    /// Syncs of the log, by how long they took in seconds.
    pub syncs: Vec<(f64, f64)>,
    /// Memory of the process, in bytes.
    pub resident: Option<f64>,
}

impl Sample {
    /// How many members answered.
    pub fn answering(&self) -> usize {
        self.members.iter().filter(|m| m.answer.is_ok()).count()
    }
}

/// Asks again and again, over connections that stay.
pub struct Looker<'a> {
    session: &'a Session,
    cluster: bool,
    clients: BTreeMap<String, Client>,
    known: Vec<(String, u64, String)>,
}

impl<'a> Looker<'a> {
    /// Asks every member of the cluster, or only the endpoints given.
    pub fn new(session: &'a Session, cluster: bool) -> Self {
        Self {
            session,
            cluster,
            clients: BTreeMap::new(),
            known: Vec::new(),
        }
    }

    /// Name, ID and endpoint of those to ask. Without an answer, those that were known before.
    async fn members(&mut self) -> Result<Vec<(String, u64, String)>, Failure> {
        let given = self.session.members().await?;
        if self.cluster {
            let client = self.session.client().await?;
            let request = pb::MemberListRequest {
                linearizable: false,
            };
            let mut cluster = client.cluster();
            let list = tokio::time::timeout(LIMIT, cluster.member_list(request)).await;
            if let Ok(Ok(list)) = list {
                self.known = list
                    .into_inner()
                    .members
                    .into_iter()
                    .map(|m| {
                        let endpoint = m.client_urls.into_iter().next().unwrap_or_default();
                        (m.name, m.id, endpoint)
                    })
                    .collect();
                self.known.sort();
            }
        }
        if self.known.is_empty() {
            self.known = given
                .into_iter()
                .map(|endpoint| (String::new(), 0, endpoint))
                .collect();
        }
        Ok(self.known.clone())
    }

    /// Looks once.
    pub async fn look(&mut self) -> Result<Sample, Failure> {
        let members = self.members().await?;
        let at = Instant::now();
        let mut asking = JoinSet::new();
        let mut seen = Vec::new();
        for (index, (name, id, endpoint)) in members.into_iter().enumerate() {
            seen.push(Member {
                name,
                id,
                answer: Err("it has not started yet".to_owned()),
                endpoint: endpoint.clone(),
            });
            if endpoint.is_empty() {
                continue;
            }
            let client = match self.clients.get(&endpoint) {
                Some(client) => client.clone(),
                None => {
                    let client = self.session.client_at(&endpoint).await?;
                    self.clients.insert(endpoint.clone(), client.clone());
                    client
                }
            };
            asking.spawn(async move {
                let answer = tokio::time::timeout(LIMIT, ask(&client, &endpoint)).await;
                let answer = answer
                    .unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())));
                (index, answer)
            });
        }
        while let Some(done) = asking.join_next().await {
            if let Ok((index, answer)) = done
                && let Some(member) = seen.get_mut(index)
            {
                if let Ok(Answer { status, .. }) = &answer {
                    member.id = status.header.as_ref().map_or(member.id, |h| h.member_id);
                }
                member.answer = answer;
            }
        }
        Ok(Sample { at, members: seen })
    }
}

async fn ask(client: &Client, endpoint: &str) -> Result<Answer, String> {
    let status = client.maintenance().status(pb::StatusRequest {}).await;
    let status = status.map_err(|s| describe(&s))?.into_inner();
    let request = pb::RangeRequest {
        key: "health".into(),
        ..Default::default()
    };
    let begun = Instant::now();
    // Without a quorum the read hangs; what the member says of itself counts all the same.
    let mut kv = client.kv();
    let read = tokio::time::timeout(LIMIT * 2 / 3, kv.range(request)).await;
    let took = begun.elapsed();
    let mut revision = status.header.as_ref().map_or(0, |h| h.revision);
    let read = match read {
        Ok(Ok(response)) => {
            let header = response.into_inner().header;
            revision = header.map_or(revision, |h| h.revision);
            Ok(took)
        }
        Ok(Err(status)) if is_denied(&status) => Ok(took),
        Ok(Err(status)) => Err(describe(&status)),
        Err(_) => Err("no quorum".to_owned()),
    };
    let page = tokio::time::timeout(LIMIT / 4, metrics::page(endpoint)).await;
    let metrics = page.ok().and_then(Result::ok).map(|page| Metrics {
        requests: metrics::sum(&page, "grpc_server_handled_total"),
        syncs: metrics::histogram(&page, "etcd_disk_wal_fsync_duration_seconds"),
        resident: metrics::sum(&page, "process_resident_memory_bytes"),
    });
    Ok(Answer {
        status,
        read,
        revision,
        metrics,
    })
}
