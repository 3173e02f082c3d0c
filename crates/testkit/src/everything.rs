//! Every kind of request, drawn at random, sent through every member.
//!
//! Nothing is remembered of what single requests were answered: members are compared afterwards, key by
//! key, by hash, by users, roles, leases, alarms and members. Left out is what etcd 3.5.1 is known to do
//! differently from member to member or to end by (past revisions and puts that keep something, within a
//! transaction; checks of ranges by users that are no root, after a snapshot), or from later versions (puts in
//! nested transactions under an alarm for space, which up to 3.5.32 are let through).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use ferrite_client::{Client, Code, Status, pb};
use ferrite_proto::authpb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Op;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;

use crate::{Cluster, Random};

/// How all keys start.
const PREFIX: &str = "every/";
const KEYS: u64 = 60;
const LEASES: u64 = 12;
const USERS: u64 = 5;
const ROLES: u64 = 4;
/// A compaction leaves this many revisions at most.
const KEPT: u64 = 400;
/// How deep transactions go.
const DEPTH: u64 = 3;

/// Clients at work.
#[derive(Debug)]
pub struct Everything {
    stop: Arc<AtomicBool>,
    gate: Arc<RwLock<()>>,
    compacted: Arc<AtomicI64>,
    members: Vec<Client>,
    clients: Vec<JoinHandle<Asked>>,
}

/// How many requests of each kind were answered, and how many failed.
#[derive(Debug, Default)]
pub struct Asked(BTreeMap<&'static str, (u64, u64)>);

impl Asked {
    /// Adds another's.
    pub fn merge(&mut self, other: Asked) {
        for (kind, (answered, failed)) in other.0 {
            let sum = self.0.entry(kind).or_default();
            sum.0 += answered;
            sum.1 += failed;
        }
    }

    /// Kinds of which not one was answered.
    #[must_use]
    pub fn never_answered(&self) -> Vec<&'static str> {
        let never = self.0.iter().filter(|(_, (answered, _))| *answered == 0);
        never.map(|(kind, _)| *kind).collect()
    }
}

impl Everything {
    /// Starts this many clients, each resting so long between two requests.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(cluster: &Cluster, clients: usize, pause: Duration, random: &mut Random) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let gate = Arc::new(RwLock::new(()));
        let compacted = Arc::new(AtomicI64::new(0));
        let members = || -> Vec<Client> {
            let endpoints = cluster.endpoints().into_iter();
            endpoints
                .map(|endpoint| {
                    let mut config = cluster.config(vec![endpoint]);
                    config.call_timeout = Some(Duration::from_secs(3));
                    Client::new(config).expect("loopback endpoints are good")
                })
                .collect()
        };
        let clients = (0..clients)
            .map(|_| {
                let client = Caller {
                    members: members(),
                    random: Random::of(random.number()),
                    compacted: Arc::clone(&compacted),
                    asked: Asked::default(),
                };
                tokio::spawn(client.work(pause, Arc::clone(&stop), Arc::clone(&gate)))
            })
            .collect();
        Self {
            stop,
            gate,
            compacted,
            members: members(),
            clients,
        }
    }

    /// Holds the clients back, all calls ended and authentication off, until what this returns is dropped.
    pub async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        let held = Arc::clone(&self.gate).write_owned().await;
        open_again(&self.members).await;
        held
    }

    /// The newest revision that anybody tried to compact up to.
    #[must_use]
    pub fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::Relaxed)
    }

    /// Stops the clients.
    ///
    /// # Panics
    /// If one panicked.
    pub async fn stop(self) -> Asked {
        self.stop.store(true, Ordering::Relaxed);
        let mut asked = Asked::default();
        for client in self.clients {
            asked.merge(client.await.expect("a client does not panic"));
        }
        open_again(&self.members).await;
        asked
    }
}

struct Caller {
    members: Vec<Client>,
    random: Random,
    compacted: Arc<AtomicI64>,
    asked: Asked,
}

impl Caller {
    async fn work(
        mut self,
        pause: Duration,
        stop: Arc<AtomicBool>,
        gate: Arc<RwLock<()>>,
    ) -> Asked {
        while !stop.load(Ordering::Relaxed) {
            let open = gate.read().await;
            let (kind, outcome) = self.request().await;
            drop(open);
            let sum = self.asked.0.entry(kind).or_default();
            let rest = match outcome {
                Ok(()) => {
                    sum.0 += 1;
                    pause
                }
                // A refusal is an answer too.
                Err(status) if !is_silence(status.code()) => {
                    sum.0 += 1;
                    pause
                }
                Err(_) => {
                    sum.1 += 1;
                    pause.max(Duration::from_millis(10))
                }
            };
            tokio::time::sleep(rest).await;
        }
        self.asked
    }

    fn member(&mut self) -> Client {
        let count = u64::try_from(self.members.len()).unwrap_or(1);
        let chosen = usize::try_from(self.random.below(count)).unwrap_or(0);
        self.members[chosen].clone()
    }

    async fn request(&mut self) -> (&'static str, Result<(), Status>) {
        let client = self.member();
        match self.random.below(1000) {
            0..250 => ("put", self.put_alone(&client).await),
            250..330 => {
                let request = self.deletion();
                ("delete", done(client.kv().delete_range(request).await))
            }
            330..560 => {
                let request = self.txn(DEPTH);
                ("txn", done(client.kv().txn(request).await))
            }
            560..580 => ("compact", self.compact(&client).await),
            580..700 => {
                let request = pb::RangeRequest {
                    key: PREFIX.into(),
                    range_end: after(PREFIX).into(),
                    limit: 20,
                    serializable: self.random.below(4) == 0,
                    ..Default::default()
                };
                ("range", done(client.kv().range(request).await))
            }
            700..880 => self.lease(&client).await,
            880..985 => self.users(&client).await,
            985..990 => ("auth on and off", self.lock_and_unlock(&client).await),
            _ => ("members", self.members_changed(&client).await),
        }
    }

    fn key(&mut self) -> String {
        format!("{PREFIX}{:03}", self.random.below(KEYS))
    }

    fn lease_id(&mut self) -> i64 {
        1 + i64::try_from(self.random.below(LEASES)).unwrap_or(0)
    }

    fn put(&mut self) -> pb::PutRequest {
        let length = usize::try_from(self.random.below(80)).unwrap_or(0);
        let value = format!("{:x}", self.random.number());
        pb::PutRequest {
            key: self.key().into(),
            value: value.bytes().cycle().take(length).collect(),
            lease: match self.random.below(5) {
                0 => self.lease_id(),
                _ => 0,
            },
            prev_kv: self.random.below(3) == 0,
            ..Default::default()
        }
    }

    async fn put_alone(&mut self, client: &Client) -> Result<(), Status> {
        let mut request = self.put();
        match self.random.below(10) {
            0 => {
                request.ignore_value = true;
                request.value = Vec::new().into();
            }
            1 => {
                request.ignore_lease = true;
                request.lease = 0;
            }
            _ => {}
        }
        done(client.kv().put(request).await)
    }

    fn deletion(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        let range_end = match self.random.below(4) {
            0 => after(&key[..key.len() - 1]),
            _ => String::new(),
        };
        pb::DeleteRangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            prev_kv: self.random.below(3) == 0,
        }
    }

    fn comparison(&mut self) -> pb::Compare {
        let small = i64::try_from(self.random.below(40)).unwrap_or(0);
        let (target, union) = match self.random.below(5) {
            0 => (CompareTarget::Version, TargetUnion::Version(small)),
            1 => (CompareTarget::Create, TargetUnion::CreateRevision(small)),
            2 => (CompareTarget::Mod, TargetUnion::ModRevision(small * 20)),
            3 => (CompareTarget::Value, TargetUnion::Value("8".into())),
            _ => (CompareTarget::Lease, TargetUnion::Lease(self.lease_id())),
        };
        let result = match self.random.below(4) {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            _ => CompareResult::NotEqual,
        };
        let whole = self.random.below(6) == 0;
        pb::Compare {
            result: result.into(),
            target: target.into(),
            key: if whole {
                PREFIX.into()
            } else {
                self.key().into()
            },
            range_end: if whole {
                after(PREFIX).into()
            } else {
                Vec::new().into()
            },
            target_union: Some(union),
        }
    }

    fn txn(&mut self, depth: u64) -> pb::TxnRequest {
        // At least one is compared: 3.5.1 asks for no permission within nested transactions, and on all members
        // but the one that proposed does not even look at ranges, so that it would differ from itself.
        let compare = (0..=self.random.below(2))
            .map(|_| self.comparison())
            .collect();
        pb::TxnRequest {
            compare,
            success: self.branch(depth),
            failure: self.branch(depth),
        }
    }

    fn branch(&mut self, depth: u64) -> Vec<pb::RequestOp> {
        // No key may be put twice, nor put and deleted, in one branch: refused whole by everybody, so
        // some are, and most are not.
        (0..self.random.below(4))
            .map(|_| {
                let request = match self.random.below(8) {
                    0..4 => Op::RequestPut(self.put()),
                    4 => Op::RequestDeleteRange(self.deletion()),
                    5 if depth > 1 => Op::RequestTxn(self.txn(depth - 1)),
                    _ => Op::RequestRange(pb::RangeRequest {
                        key: self.key().into(),
                        ..Default::default()
                    }),
                };
                pb::RequestOp {
                    request: Some(request),
                }
            })
            .collect()
    }

    async fn compact(&mut self, client: &Client) -> Result<(), Status> {
        let request = pb::RangeRequest {
            key: PREFIX.into(),
            ..Default::default()
        };
        let newest = client.kv().range(request).await?.into_inner();
        let newest = newest.header.map_or(0, |header| header.revision);
        let kept = i64::try_from(self.random.below(KEPT)).unwrap_or(0);
        let revision = newest - kept;
        if revision <= 0 {
            return Ok(());
        }
        self.compacted.fetch_max(revision, Ordering::Relaxed);
        let request = pb::CompactionRequest {
            revision,
            physical: self.random.below(3) == 0,
        };
        done(client.kv().compact(request).await)
    }

    async fn lease(&mut self, client: &Client) -> (&'static str, Result<(), Status>) {
        let id = self.lease_id();
        match self.random.below(6) {
            0 | 1 => {
                let ttl = [2, 4, 3_600][usize::try_from(self.random.below(3)).unwrap_or(0)];
                let request = pb::LeaseGrantRequest { ttl, id };
                ("grant", done(client.lease().lease_grant(request).await))
            }
            2 => {
                let request = pb::LeaseRevokeRequest { id };
                ("revoke", done(client.lease().lease_revoke(request).await))
            }
            3 => {
                let request = pb::LeaseTimeToLiveRequest { id, keys: true };
                let answer = client.lease().lease_time_to_live(request).await;
                ("time to live", done(answer))
            }
            4 => {
                let answer = client.lease().lease_leases(pb::LeaseLeasesRequest {}).await;
                ("leases", done(answer))
            }
            _ => ("keep alive", keep_alive(client, id).await),
        }
    }

    async fn users(&mut self, client: &Client) -> (&'static str, Result<(), Status>) {
        let user = format!("user{}", self.random.below(USERS));
        let role = format!("role{}", self.random.below(ROLES));
        // 3.5.1 to 3.5.7 grant ranges that end before they begin, later ones refuse: no such range.
        let key = self.key();
        let range_end = match self.random.below(3) {
            0 => after(PREFIX),
            _ => String::new(),
        };
        let mut auth = client.auth();
        match self.random.below(12) {
            0 => {
                // Hashing a password takes its time.
                let without = self.random.below(4) != 0;
                let request = pb::AuthUserAddRequest {
                    name: user,
                    password: if without { String::new() } else { "p".into() },
                    options: Some(authpb::UserAddOptions {
                        no_password: without,
                    }),
                    ..Default::default()
                };
                ("user add", done(auth.user_add(request).await))
            }
            1 => {
                let request = pb::AuthUserDeleteRequest { name: user };
                ("user delete", done(auth.user_delete(request).await))
            }
            2 => {
                let request = pb::AuthUserChangePasswordRequest {
                    name: user,
                    password: "q".into(),
                    ..Default::default()
                };
                let answer = auth.user_change_password(request).await;
                ("user passwd", done(answer))
            }
            3 | 4 => {
                let request = pb::AuthUserGrantRoleRequest { user, role };
                ("user grant", done(auth.user_grant_role(request).await))
            }
            5 => {
                let request = pb::AuthUserRevokeRoleRequest { name: user, role };
                ("user revoke", done(auth.user_revoke_role(request).await))
            }
            6 | 7 => {
                let request = pb::AuthRoleAddRequest { name: role };
                ("role add", done(auth.role_add(request).await))
            }
            8 => {
                let request = pb::AuthRoleDeleteRequest { role };
                ("role delete", done(auth.role_delete(request).await))
            }
            9 | 10 => {
                let perm_type = i32::try_from(self.random.below(3)).unwrap_or(0);
                let request = pb::AuthRoleGrantPermissionRequest {
                    name: role,
                    perm: Some(authpb::Permission {
                        perm_type,
                        key: key.into(),
                        range_end: range_end.into(),
                    }),
                };
                let answer = auth.role_grant_permission(request).await;
                ("role grant", done(answer))
            }
            _ => {
                let request = pb::AuthRoleRevokePermissionRequest {
                    role,
                    key: key.into(),
                    range_end: range_end.into(),
                };
                let answer = auth.role_revoke_permission(request).await;
                ("role revoke", done(answer))
            }
        }
    }

    /// Turns authentication on, writes as root, and turns it off, all while others write as nobody.
    async fn lock_and_unlock(&mut self, client: &Client) -> Result<(), Status> {
        let mut auth = client.auth();
        let add = pb::AuthUserAddRequest {
            name: "root".into(),
            password: "r".into(),
            ..Default::default()
        };
        // They may be there from last time.
        let _there = auth.user_add(add).await;
        let role = pb::AuthRoleAddRequest {
            name: "root".into(),
        };
        let _there = auth.role_add(role).await;
        let grant = pb::AuthUserGrantRoleRequest {
            user: "root".into(),
            role: "root".into(),
        };
        let _there = auth.user_grant_role(grant).await;
        let enabled = auth.auth_enable(pb::AuthEnableRequest {}).await;
        let root = self.member();
        let written = match root.authenticate("root", "r").await {
            Ok(()) => {
                let request = self.put();
                done(root.kv().put(request).await)
            }
            Err(status) => Err(status),
        };
        root.channel().set_token(None);
        open_again(&self.members).await;
        enabled.map(drop).and(written)
    }

    /// Adds a learner that never comes and removes it, or gives a member the addresses it has.
    async fn members_changed(&mut self, client: &Client) -> Result<(), Status> {
        let mut calls = client.cluster();
        let list = calls
            .member_list(pb::MemberListRequest { linearizable: true })
            .await?
            .into_inner()
            .members;
        if let Some(learner) = list.iter().find(|member| member.is_learner) {
            let request = pb::MemberRemoveRequest { id: learner.id };
            return done(calls.member_remove(request).await);
        }
        if self.random.below(3) == 0
            && let Some(member) = list.first()
        {
            let request = pb::MemberUpdateRequest {
                id: member.id,
                peer_urls: member.peer_urls.clone(),
            };
            return done(calls.member_update(request).await);
        }
        let request = pb::MemberAddRequest {
            peer_urls: vec![format!("http://127.0.0.1:{}", 1 + self.random.below(500))],
            is_learner: true,
        };
        done(calls.member_add(request).await)
    }
}

/// Turns authentication off, through whoever answers; it may be off already.
async fn open_again(members: &[Client]) {
    for _ in 0..20 {
        for client in members {
            let off = match client.auth().auth_disable(pb::AuthDisableRequest {}).await {
                Ok(_) => true,
                // Refused to strangers while it is on: as root, then.
                Err(_) => {
                    let root = client.authenticate("root", "r").await;
                    let off = match root {
                        Ok(()) => client.auth().auth_disable(pb::AuthDisableRequest {}).await,
                        Err(status) if status.message().contains("not enabled") => return,
                        Err(status) => Err(status),
                    };
                    client.channel().set_token(None);
                    off.is_ok()
                }
            };
            if off {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn keep_alive(client: &Client, id: i64) -> Result<(), Status> {
    let request = pb::LeaseKeepAliveRequest { id };
    let call = async {
        let stream = tokio_stream::iter([request]);
        let mut answers = client.lease().lease_keep_alive(stream).await?.into_inner();
        answers.message().await.map(drop)
    };
    match tokio::time::timeout(Duration::from_secs(3), call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}

fn done<T>(outcome: Result<T, Status>) -> Result<(), Status> {
    outcome.map(drop)
}

fn is_silence(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
    )
}

/// The end of the range of all keys that start so.
fn after(prefix: &str) -> String {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
