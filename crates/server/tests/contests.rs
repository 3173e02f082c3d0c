//! Locks and elections through the real server, and the same conversations with etcd's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ferrite_client::pb::{
    self, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    RangeRequest, ResponseHeader,
};
use ferrite_client::{Client, Code, Config, Status, Streaming};
use ferrite_proto::mvccpb::KeyValue;
use ferrite_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest,
};
use ferrite_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use ferrite_testkit::{Cluster, Kind, PATIENCE, eventually, oracle};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A client that waits for as long as it takes.
fn patient(cluster: &Cluster, member: usize) -> Client {
    let mut config = Config::new([cluster.member(member).endpoint()]);
    config.call_timeout = None;
    Client::new(config).unwrap()
}

async fn grant(client: &Client, id: i64, ttl: i64) -> i64 {
    let request = LeaseGrantRequest { id, ttl };
    let response = client.lease().lease_grant(request).await.unwrap();
    response.into_inner().id
}

async fn revoke(client: &Client, id: i64) {
    let request = LeaseRevokeRequest { id };
    client.lease().lease_revoke(request).await.unwrap();
}

/// The keys under a name, in the order in which they were created, with values and leases.
async fn contenders(client: &Client, name: &str) -> Vec<KeyValue> {
    contenders_now(client, name).await.unwrap()
}

async fn contenders_now(client: &Client, name: &str) -> Result<Vec<KeyValue>, Status> {
    let request = RangeRequest {
        key: format!("{name}/").into(),
        range_end: format!("{name}0").into(),
        sort_order: pb::range_request::SortOrder::Ascend as i32,
        sort_target: pb::range_request::SortTarget::Create as i32,
        ..Default::default()
    };
    Ok(client.kv().range(request).await?.into_inner().kvs)
}

async fn until_contenders(client: &Client, name: &str, count: usize) {
    eventually("so many contend", PATIENCE, async || {
        let found = contenders_now(client, name).await.ok()?;
        (found.len() == count).then_some(())
    })
    .await;
}

async fn lock(client: &Client, name: &str, lease: i64) -> Result<LockResponse, Status> {
    let request = LockRequest {
        name: name.to_owned().into(),
        lease,
    };
    let locked = tokio::time::timeout(PATIENCE, async { client.lock().lock(request).await });
    Ok(locked.await.expect("the lock in time")?.into_inner())
}

fn lock_later(client: &Client, name: &'static str, lease: i64) -> Waiting<LockResponse> {
    let client = client.clone();
    tokio::spawn(async move { lock(&client, name, lease).await })
}

async fn unlock(client: &Client, key: &[u8]) -> Result<ResponseHeader, Status> {
    let request = UnlockRequest {
        key: key.to_vec().into(),
    };
    let unlocked = client.lock().unlock(request).await?.into_inner();
    Ok(unlocked.header.unwrap())
}

async fn campaign(
    client: &Client,
    name: &str,
    lease: i64,
    value: &str,
) -> Result<CampaignResponse, Status> {
    let request = CampaignRequest {
        name: name.to_owned().into(),
        lease,
        value: value.to_owned().into(),
    };
    let elected = tokio::time::timeout(PATIENCE, async {
        client.election().campaign(request).await
    });
    Ok(elected.await.expect("the election in time")?.into_inner())
}

type Waiting<T> = JoinHandle<Result<T, Status>>;

fn campaign_later(
    client: &Client,
    name: &'static str,
    lease: i64,
    value: &'static str,
) -> Waiting<CampaignResponse> {
    let client = client.clone();
    tokio::spawn(async move { campaign(&client, name, lease, value).await })
}

async fn proclaim(
    client: &Client,
    leader: Option<LeaderKey>,
    value: &str,
) -> Result<ResponseHeader, Status> {
    let request = ProclaimRequest {
        leader,
        value: value.to_owned().into(),
    };
    let answer = client.election().proclaim(request).await?.into_inner();
    Ok(answer.header.unwrap())
}

async fn resign(client: &Client, leader: Option<LeaderKey>) -> Result<ResponseHeader, Status> {
    let request = ResignRequest { leader };
    let answer = client.election().resign(request).await?.into_inner();
    Ok(answer.header.unwrap())
}

async fn leader(client: &Client, name: &str) -> Result<LeaderResponse, Status> {
    let request = LeaderRequest {
        name: name.to_owned().into(),
    };
    Ok(client.election().leader(request).await?.into_inner())
}

async fn observe(client: &Client, name: &str) -> Streaming<LeaderResponse> {
    let request = LeaderRequest {
        name: name.to_owned().into(),
    };
    // a server may say nothing, headers included, before there is a leader
    let opened = tokio::time::timeout(PATIENCE, async { client.election().observe(request).await });
    opened
        .await
        .expect("the stream in time")
        .unwrap()
        .into_inner()
}

async fn observed(stream: &mut Streaming<LeaderResponse>) -> LeaderResponse {
    tokio::time::timeout(PATIENCE, stream.message())
        .await
        .expect("a leader in time")
        .unwrap()
        .expect("the stream goes on")
}

/// What was answered, without what differs from cluster to cluster.
struct Told(Vec<String>);

impl Told {
    fn header(header: &mut ResponseHeader) {
        assert_ne!(
            (header.cluster_id, header.member_id, header.raft_term),
            (0, 0, 0)
        );
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }

    fn add(&mut self, what: &str, answer: impl std::fmt::Debug) {
        self.0.push(format!("{what}: {answer:?}"));
    }

    fn locked(&mut self, what: &str, answer: Result<LockResponse, Status>) -> Vec<u8> {
        let mut answer = answer.unwrap();
        Self::header(answer.header.as_mut().unwrap());
        let key = answer.key.to_vec();
        self.add(what, answer);
        key
    }

    fn elected(&mut self, what: &str, answer: Result<CampaignResponse, Status>) -> LeaderKey {
        let mut answer = answer.unwrap();
        Self::header(answer.header.as_mut().unwrap());
        let key = answer.leader.clone().unwrap();
        self.add(what, answer);
        key
    }

    fn led(&mut self, what: &str, mut answer: LeaderResponse) {
        Self::header(answer.header.as_mut().unwrap());
        self.add(what, answer);
    }

    fn done(&mut self, what: &str, answer: Result<ResponseHeader, Status>) {
        match answer {
            Ok(mut header) => {
                Self::header(&mut header);
                self.add(what, header);
            }
            Err(status) => self.failed(what, &status),
        }
    }

    fn failed(&mut self, what: &str, status: &Status) {
        self.add(what, (status.code(), status.message()));
    }
}

async fn locks(kind: Kind) -> Vec<String> {
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let client = patient(&cluster, 0);
    let mut told = Told(Vec::new());
    for id in [0x0abc_def0, 0x1111, 0x2222, 0x3333, -5] {
        grant(&client, id, 600).await;
    }
    let first = told.locked("free", lock(&client, "n", 0x0abc_def0).await);
    told.locked("again", lock(&client, "n", 0x0abc_def0).await);
    let status = lock(&client, "n", 0x9999).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unknown, "etcdserver: requested lease not found")
    );
    told.failed("no such lease", &status);

    let second = lock_later(&client, "n", 0x1111);
    until_contenders(&client, "n", 2).await;
    let third = lock_later(&client, "n", 0x2222);
    until_contenders(&client, "n", 3).await;
    assert!(!second.is_finished() && !third.is_finished());
    told.done("unlock", unlock(&client, &first).await);
    let second = told.locked("its turn", second.await.unwrap());
    assert!(!third.is_finished());
    // the third loses its lease while it waits, and is told when its turn would have come
    revoke(&client, 0x2222).await;
    told.done("unlock", unlock(&client, &second).await);
    told.failed("expired", &third.await.unwrap().unwrap_err());
    told.done("nothing there", unlock(&client, b"n/77").await);
    told.done("no key", unlock(&client, b"").await);

    // a waiter that goes away takes its key with it, and nobody waits for it
    let holder = told.locked("free again", lock(&client, "n", 0x0abc_def0).await);
    let gone = lock_later(&client, "n", 0x1111);
    until_contenders(&client, "n", 2).await;
    let after = lock_later(&client, "n", 0x3333);
    until_contenders(&client, "n", 3).await;
    gone.abort();
    until_contenders(&client, "n", 2).await;
    told.done("unlock", unlock(&client, &holder).await);
    told.locked("past who went away", after.await.unwrap());

    told.locked("a name of nothing", lock(&client, "", 0x1111).await);
    told.locked("a negative lease", lock(&client, "m", -5).await);
    told.locked("a name inside", lock(&client, "n/x", 0x1111).await);

    // without a lease the server makes one
    let own = lock(&client, "own", 0).await.unwrap();
    let pair = contenders(&client, "own").await.remove(0);
    assert_eq!(own.key, format!("own/{:x}", pair.lease));
    let request = LeaseTimeToLiveRequest {
        id: pair.lease,
        keys: true,
    };
    let lease = client.lease().lease_time_to_live(request).await.unwrap();
    let lease = lease.into_inner();
    assert!((50..=60).contains(&lease.ttl), "{}", lease.ttl);
    told.add("granted", lease.granted_ttl);
    told.0
}

async fn elections(kind: Kind) -> Vec<String> {
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let client = patient(&cluster, 0);
    let mut told = Told(Vec::new());
    for id in [0xa, 0xb, 0xc, 0xd] {
        grant(&client, id, 600).await;
    }
    told.failed("nobody", &leader(&client, "e").await.unwrap_err());
    told.failed(
        "no such lease",
        &campaign(&client, "e", 0x9999, "x").await.unwrap_err(),
    );
    told.done("no leader given", proclaim(&client, None, "x").await);
    told.done("no leader given", resign(&client, None).await);

    let first = told.elected("free", campaign(&client, "e", 0xa, "one").await);
    told.led("led", leader(&client, "e").await.unwrap());
    told.elected("again", campaign(&client, "e", 0xa, "one").await);
    told.elected("another value", campaign(&client, "e", 0xa, "two").await);
    told.led("led", leader(&client, "e").await.unwrap());

    let mut watched = observe(&client, "e").await;
    told.led("observed", observed(&mut watched).await);
    told.done(
        "proclaim",
        proclaim(&client, Some(first.clone()), "three").await,
    );
    told.led("observed", observed(&mut watched).await);
    let other = |leader: &LeaderKey| LeaderKey {
        rev: leader.rev + 1,
        ..leader.clone()
    };
    let stranger = LeaderKey {
        key: "e/77".into(),
        ..first.clone()
    };
    for (what, key) in [
        ("another revision", other(&first)),
        ("another key", stranger),
    ] {
        told.done(what, proclaim(&client, Some(key.clone()), "x").await);
        told.done(what, resign(&client, Some(key)).await);
    }
    told.done(
        "no key",
        proclaim(&client, Some(LeaderKey::default()), "x").await,
    );
    told.add("none deleted", contenders(&client, "e").await);

    let second = campaign_later(&client, "e", 0xb, "second");
    until_contenders(&client, "e", 2).await;
    let third = campaign_later(&client, "e", 0xc, "third");
    until_contenders(&client, "e", 3).await;
    // proclaims while it waits for its turn
    let third_again = campaign_later(&client, "e", 0xc, "3rd");
    eventually("the new value", PATIENCE, async || {
        (contenders(&client, "e").await[2].value == "3rd").then_some(())
    })
    .await;
    assert!(!second.is_finished() && !third.is_finished());
    told.done("resign", resign(&client, Some(first.clone())).await);
    told.elected("its turn", second.await.unwrap());
    told.led("observed", observed(&mut watched).await);
    told.done("gone", proclaim(&client, Some(first.clone()), "x").await);
    told.done("gone", resign(&client, Some(first)).await);
    // the leader's lease ends
    revoke(&client, 0xb).await;
    told.elected("its turn", third.await.unwrap());
    let third = told.elected("its turn", third_again.await.unwrap());
    told.led("observed", observed(&mut watched).await);
    told.done("resign", resign(&client, Some(third)).await);
    told.failed("nobody", &leader(&client, "e").await.unwrap_err());
    // observing a name that nobody leads, until somebody does
    told.elected("free", campaign(&client, "e", 0xd, "fourth").await);
    told.led("observed", observed(&mut watched).await);

    // a candidate that goes away takes its key with it
    let gone = campaign_later(&client, "e", 0xa, "gone");
    until_contenders(&client, "e", 2).await;
    gone.abort();
    until_contenders(&client, "e", 1).await;
    told.add("left", contenders(&client, "e").await);
    told.0
}

#[tokio::test]
async fn locks_are_those_of_etcd() {
    let ours = locks(Kind::Ferrite).await;
    if oracle().is_some() {
        assert_eq!(ours, locks(Kind::Etcd351).await);
    }
}

#[tokio::test]
async fn elections_are_those_of_etcd() {
    let ours = elections(Kind::Ferrite).await;
    if oracle().is_some() {
        assert_eq!(ours, elections(Kind::Etcd351).await);
    }
}

#[tokio::test]
async fn a_name_that_nobody_leads_is_observed_from_its_first_leader_on() {
    let cluster = Cluster::builder().start().await;
    let client = patient(&cluster, 0);
    grant(&client, 0xa, 600).await;
    let mut watched = observe(&client, "e").await;
    campaign(&client, "e", 0xa, "first").await.unwrap();
    let first = observed(&mut watched).await;
    let kv = first.kv.unwrap();
    assert_eq!((&kv.key[..], &kv.value[..]), (&b"e/a"[..], &b"first"[..]));
    assert_eq!(first.header.unwrap().revision, kv.mod_revision);
}

/// Keeps a lease alive until told to stop.
fn keep_alive(client: &Client, id: i64, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move {
        let (requests, receiver) = mpsc::unbounded_channel();
        requests.send(LeaseKeepAliveRequest { id }).unwrap();
        let receiver = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        let mut answers = client
            .lease()
            .lease_keep_alive(receiver)
            .await
            .unwrap()
            .into_inner();
        while !stop.load(Ordering::Relaxed) {
            let answer = answers.message().await.unwrap().unwrap();
            assert!(answer.ttl > 0, "the lease of a waiting client is alive");
            tokio::time::sleep(Duration::from_millis(300)).await;
            requests.send(LeaseKeepAliveRequest { id }).unwrap();
        }
    })
}

/// Fifty want one name through three members; it goes from one to the next in the order in which they
/// came, also when a holder dies and its lease has to run out, and when a member is killed.
#[tokio::test]
async fn fifty_contenders_have_their_turns_in_order() {
    const CONTENDERS: usize = 50;
    // before the kill: nobody keeps a lease alive while there is no leader
    const DYING: [usize; 2] = [7, 20];
    const KILL_AT: usize = 30;
    // long enough that a busy machine holds no election of its own accord
    let cluster = Cluster::builder()
        .members(3)
        .election_ms(2_500)
        .start()
        .await;
    cluster.move_leader(2).await;
    let holders = Arc::new(AtomicUsize::new(0));
    let (turns, mut taken) = mpsc::unbounded_channel();
    let asking = patient(&cluster, 0);
    for n in 0..CONTENDERS {
        // nobody waits at the member that will be killed
        let client = patient(&cluster, n % 2);
        let dies = DYING.contains(&n);
        let lease = grant(&client, 0, if dies { 5 } else { 600 }).await;
        let stop = Arc::new(AtomicBool::new(false));
        let alive = dies.then(|| keep_alive(&client, lease, Arc::clone(&stop)));
        let (holders, turns) = (Arc::clone(&holders), turns.clone());
        tokio::spawn(async move {
            let request = LockRequest {
                name: "fair".into(),
                lease,
            };
            let locked = client.lock().lock(request).await.unwrap().into_inner();
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "one holds it");
            tokio::time::sleep(Duration::from_millis(5)).await;
            holders.fetch_sub(1, Ordering::SeqCst);
            turns.send(n).unwrap();
            match alive {
                Some(alive) => {
                    stop.store(true, Ordering::Relaxed);
                    alive.await.unwrap();
                }
                None => {
                    // refused while there is no leader, which is nothing a holder can help
                    eventually("the lock is given back", PATIENCE * 2, async || {
                        unlock(&client, &locked.key).await.ok()
                    })
                    .await;
                }
            }
        });
        // the order in which they came is the order of their keys
        if n == 0 {
            assert_eq!(taken.recv().await, Some(0));
            // keeps everybody waiting until all have come
            let holder = grant(&asking, 0xfff, 600).await;
            lock(&asking, "fair", holder).await.unwrap();
        }
        let others = if n == 0 { 1 } else { n + 1 };
        until_contenders(&asking, "fair", others).await;
    }
    unlock(&asking, b"fair/fff").await.unwrap();
    for n in 1..CONTENDERS {
        let turn = tokio::time::timeout(PATIENCE * 3, taken.recv()).await;
        assert_eq!(turn.expect("the next turn in time"), Some(n));
        if n == KILL_AT {
            // the leader: who waits goes on waiting through the election
            cluster.member(2).kill9();
        }
    }
    until_contenders(&asking, "fair", 0).await;
}
