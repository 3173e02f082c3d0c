//! The Rust crate `etcd-client` against a cluster. What this program and the test that starts it say to
//! each other stands in `../../python/conversation.py`.

use std::future::Future;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use etcd_client::{
    AlarmAction, AlarmType, Client, CompactionOptions, Compare, CompareOp, ConnectOptions,
    DeleteOptions, Error, EventType, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions,
    LockOptions, MemberAddOptions, Permission, PermissionType, ProclaimOptions, PutOptions,
    ResignOptions, RoleRevokePermissionOptions, SortOrder, SortTarget, Txn, TxnOp, WatchOptions,
    WatchResponse, WatchStream,
};

/// How long anything awaited may take; generous, for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn endpoints() -> Vec<String> {
    let all = std::env::var("ENDPOINTS").expect("ENDPOINTS names the members");
    all.split(',').map(str::to_owned).collect()
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the test listens");
}

/// Has the test do something to the cluster.
fn ask(what: &str) {
    say(&format!("do {what}"));
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .expect("the test answers");
    assert_eq!(answer.trim(), "done");
}

async fn everyone() -> Result<Client> {
    Ok(Client::connect(endpoints(), None).await?)
}

async fn one(index: usize, user: Option<(&str, &str)>) -> Result<Client, Error> {
    let options = user.map(|(name, password)| ConnectOptions::new().with_user(name, password));
    Client::connect([&endpoints()[index]], options).await
}

/// Repeats until there is an answer; errors of the cluster count as not yet.
async fn eventually<T, F, Fut>(what: &str, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>, Error>>,
{
    let start = Instant::now();
    let mut last = None;
    while start.elapsed() < PATIENCE {
        match tokio::time::timeout(Duration::from_secs(3), probe()).await {
            Ok(Ok(Some(answer))) => return answer,
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not in time: {what} ({last:?})");
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let answer = tokio::time::timeout(PATIENCE, future).await;
    answer.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// The refusal, with its code and its words.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Error>, code: &str, words: &str) {
    match answer {
        Err(Error::GRpcStatus(status)) => {
            let found = (format!("{:?}", status.code()), status.message().to_owned());
            assert_eq!(found, (code.to_owned(), words.to_owned()));
        }
        other => panic!("not refused with {words:?}: {other:?}"),
    }
}

async fn value(client: &mut Client, key: &str) -> Result<Option<String>> {
    let answer = client.get(key, None).await?;
    Ok(answer
        .kvs()
        .first()
        .map(|kv| String::from_utf8_lossy(kv.value()).into_owned()))
}

async fn kv() -> Result<()> {
    let mut client = everyone().await?;
    client.put("kv/a", "1", None).await?;
    let put = client
        .put("kv/a", "2", Some(PutOptions::new().with_prev_key()))
        .await?;
    assert_eq!(put.prev_key().expect("the value before").value(), b"1");
    client.put("kv/b", "3", None).await?;
    let sorted = GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Key, SortOrder::Descend);
    let found = client.get("kv/", Some(sorted)).await?;
    let found: Vec<_> = found
        .kvs()
        .iter()
        .map(|kv| (kv.key(), kv.value(), kv.version()))
        .collect();
    assert_eq!(found, [(&b"kv/b"[..], &b"3"[..], 1), (b"kv/a", b"2", 2)]);
    let counted = client
        .get(
            "kv/",
            Some(GetOptions::new().with_prefix().with_count_only()),
        )
        .await?;
    assert_eq!((counted.count(), counted.kvs().len()), (2, 0));
    let limited = client
        .get("kv/", Some(GetOptions::new().with_prefix().with_limit(1)))
        .await?;
    assert_eq!(
        (limited.count(), limited.more(), limited.kvs().len()),
        (2, true, 1)
    );
    let keys = client
        .get(
            "kv/",
            Some(GetOptions::new().with_prefix().with_keys_only()),
        )
        .await?;
    assert!(keys.kvs().iter().all(|kv| kv.value().is_empty()));
    let before = put.header().expect("a header").revision() - 1;
    let old = client
        .get("kv/a", Some(GetOptions::new().with_revision(before)))
        .await?;
    assert_eq!(old.kvs()[0].value(), b"1");
    client
        .get("kv/a", Some(GetOptions::new().with_serializable()))
        .await?;
    let gone = client
        .delete(
            "kv/",
            Some(DeleteOptions::new().with_prefix().with_prev_key()),
        )
        .await?;
    assert_eq!((gone.deleted(), gone.prev_kvs().len()), (2, 2));
    assert_eq!(client.delete("kv/a", None).await?.deleted(), 0);
    refused(
        client.put("", "no key", None).await,
        "InvalidArgument",
        "etcdserver: key is not provided",
    );
    Ok(())
}

async fn txn() -> Result<()> {
    let mut client = everyone().await?;
    client.put("txn/a", "1", None).await?;
    let txn = Txn::new()
        .when([
            Compare::value("txn/a", CompareOp::Equal, "1"),
            Compare::version("txn/a", CompareOp::Less, 2),
            Compare::create_revision("txn/none", CompareOp::Equal, 0),
            Compare::lease("txn/a", CompareOp::Equal, 0),
        ])
        .and_then([TxnOp::put("txn/a", "2", None), TxnOp::get("txn/a", None)])
        .or_else([TxnOp::delete("txn/a", None)]);
    let answer = client.txn(txn).await?;
    assert!(answer.succeeded());
    assert_eq!(answer.op_responses().len(), 2);
    let inner = Txn::new()
        .when([Compare::value("txn/a", CompareOp::NotEqual, "9")])
        .and_then([TxnOp::put("txn/b", "3", None)]);
    let txn = Txn::new()
        .when([Compare::mod_revision(
            "txn/a",
            CompareOp::Greater,
            1_000_000,
        )])
        .or_else([TxnOp::txn(inner), TxnOp::delete("txn/a", None)]);
    assert!(!client.txn(txn).await?.succeeded());
    assert_eq!(value(&mut client, "txn/a").await?, None);
    assert_eq!(value(&mut client, "txn/b").await?.as_deref(), Some("3"));
    let twice = Txn::new().and_then([
        TxnOp::put("txn/d", "1", None),
        TxnOp::put("txn/d", "2", None),
    ]);
    refused(
        client.txn(twice).await,
        "InvalidArgument",
        "etcdserver: duplicate key given in txn request",
    );
    Ok(())
}

/// The next answer of a stream of watches.
async fn next(stream: &mut WatchStream) -> Result<WatchResponse> {
    let answer = soon("a watch answers", stream.message()).await?;
    Ok(answer.ok_or("the stream of watches ended")?)
}

/// Events until there are `count`, each as its type and value.
async fn events(stream: &mut WatchStream, count: usize) -> Result<Vec<(EventType, String)>> {
    let mut found = Vec::new();
    while found.len() < count {
        let answer = next(stream).await?;
        assert!(!answer.canceled(), "{answer:?}");
        found.extend(answer.events().iter().map(|event| {
            let value = event.kv().map(|kv| kv.value().to_vec()).unwrap_or_default();
            (
                event.event_type(),
                String::from_utf8_lossy(&value).into_owned(),
            )
        }));
    }
    Ok(found)
}

async fn watch() -> Result<()> {
    let mut client = everyone().await?;
    let put = client.put("watch/k", "1", None).await?;
    let first = put.header().expect("a header").revision();
    client.put("watch/k", "2", None).await?;
    client.delete("watch/k", None).await?;
    let options = WatchOptions::new()
        .with_start_revision(first)
        .with_watch_id(7);
    let mut stream = client.watch("watch/k", Some(options)).await?;
    let created = next(&mut stream).await?;
    assert!(created.created() && created.watch_id() == 7, "{created:?}");
    let put = |value: &str| (EventType::Put, value.to_owned());
    let gone = (EventType::Delete, String::new());
    assert_eq!(events(&mut stream, 3).await?, [put("1"), put("2"), gone]);
    client.put("watch/k", "3", None).await?;
    assert_eq!(events(&mut stream, 1).await?, [put("3")]);
    stream.request_progress().await?;
    let progress = next(&mut stream).await?;
    assert!(
        progress.events().is_empty() && !progress.canceled(),
        "{progress:?}"
    );
    // A second watch in the same stream, which is cancelled while the first goes on.
    stream
        .watch(
            "watch/",
            Some(WatchOptions::new().with_prefix().with_watch_id(8)),
        )
        .await?;
    let created = next(&mut stream).await?;
    assert!(created.created() && created.watch_id() == 8, "{created:?}");
    client.put("watch/other", "4", None).await?;
    assert_eq!(events(&mut stream, 1).await?, [put("4")]);
    stream.cancel(8).await?;
    let cancelled = next(&mut stream).await?;
    assert!(
        cancelled.canceled() && cancelled.watch_id() == 8,
        "{cancelled:?}"
    );
    client.put("watch/other", "5", None).await?;
    client.put("watch/k", "6", None).await?;
    assert_eq!(events(&mut stream, 1).await?, [put("6")]);
    Ok(())
}

async fn lease() -> Result<()> {
    let mut client = everyone().await?;
    let short = client.lease_grant(4, None).await?;
    let kept = client
        .lease_grant(60, Some(LeaseGrantOptions::new().with_id(4711)))
        .await?;
    assert_eq!((kept.id(), kept.ttl()), (4711, 60));
    refused(
        client
            .lease_grant(60, Some(LeaseGrantOptions::new().with_id(4711)))
            .await,
        "FailedPrecondition",
        "etcdserver: lease already exists",
    );
    client
        .put(
            "lease/short",
            "v",
            Some(PutOptions::new().with_lease(short.id())),
        )
        .await?;
    client
        .put(
            "lease/kept",
            "v",
            Some(PutOptions::new().with_lease(kept.id())),
        )
        .await?;
    let left = client
        .lease_time_to_live(kept.id(), Some(LeaseTimeToLiveOptions::new().with_keys()))
        .await?;
    assert_eq!(left.granted_ttl(), 60);
    assert!((50..=60).contains(&left.ttl()), "{}", left.ttl());
    assert_eq!(left.keys(), [b"lease/kept".to_vec()]);
    let listed: Vec<i64> = client
        .leases()
        .await?
        .leases()
        .iter()
        .map(|lease| lease.id())
        .collect();
    assert!(
        listed.contains(&short.id()) && listed.contains(&kept.id()),
        "{listed:?}"
    );
    let (mut keeper, mut answers) = client.lease_keep_alive(short.id()).await?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        keeper.keep_alive().await?;
        let answer = soon("a lease is kept alive", answers.message()).await?;
        assert_eq!(answer.ok_or("the stream ended")?.ttl(), short.ttl());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(
        value(&mut client, "lease/short").await?.as_deref(),
        Some("v")
    );
    let mut expiry = client.watch("lease/short", None).await?;
    assert_eq!(
        events(&mut expiry, 1).await?,
        [(EventType::Delete, String::new())]
    );
    assert_eq!(client.lease_time_to_live(short.id(), None).await?.ttl(), -1);
    client.lease_revoke(kept.id()).await?;
    assert_eq!(value(&mut client, "lease/kept").await?, None);
    refused(
        client.lease_revoke(kept.id()).await,
        "NotFound",
        "etcdserver: requested lease not found",
    );
    Ok(())
}

async fn lock_service() -> Result<()> {
    let mut client = everyone().await?;
    let mut rival = one(1, None).await?;
    let held = client.lock("mutex", None).await?;
    assert!(held.key().starts_with(b"mutex/"), "{held:?}");
    let waiting = tokio::spawn(async move {
        let lease = rival.lease_grant(60, None).await?.id();
        rival
            .lock("mutex", Some(LockOptions::new().with_lease(lease)))
            .await
    });
    // The rival has queued up, and waits.
    eventually("the rival waits", || {
        let mut client = client.clone();
        async move {
            let queue = client
                .get("mutex/", Some(GetOptions::new().with_prefix()))
                .await?;
            Ok((queue.count() == 2).then_some(()))
        }
    })
    .await;
    assert!(!waiting.is_finished());
    client.unlock(held.key()).await?;
    let second = soon("the rival gets the lock", waiting).await??;
    assert_ne!(second.key(), held.key());
    client.unlock(second.key()).await?;
    Ok(())
}

async fn election_service() -> Result<()> {
    let mut client = everyone().await?;
    let mut rival = one(1, None).await?;
    refused(
        client.leader("election").await,
        "Unknown",
        "election: no leader",
    );
    let lease = client.lease_grant(30, None).await?.id();
    let won = soon("the first wins", client.campaign("election", "a", lease)).await?;
    let first = won.leader().ok_or("nobody leads")?.clone();
    assert_eq!((first.name(), first.lease()), (&b"election"[..], lease));
    let mut seen = client.observe("election").await?;
    let mut observed = async || -> Result<String> {
        let answer = soon("a leader is observed", seen.message()).await?;
        let kv = answer
            .ok_or("the observation ended")?
            .kv()
            .ok_or("no leader in it")?
            .clone();
        Ok(String::from_utf8_lossy(kv.value()).into_owned())
    };
    assert_eq!(observed().await?, "a");
    client
        .proclaim("b", Some(ProclaimOptions::new().with_leader(first.clone())))
        .await?;
    assert_eq!(observed().await?, "b");
    let leads = client.leader("election").await?;
    assert_eq!(leads.kv().expect("a leader").value(), b"b");
    let waiting = tokio::spawn(async move {
        let lease = rival.lease_grant(30, None).await?.id();
        rival.campaign("election", "c", lease).await
    });
    eventually("the rival waits", || {
        let mut client = client.clone();
        async move {
            let queue = client
                .get("election/", Some(GetOptions::new().with_prefix()))
                .await?;
            Ok((queue.count() == 2).then_some(()))
        }
    })
    .await;
    assert!(!waiting.is_finished());
    client
        .resign(Some(ResignOptions::new().with_leader(first.clone())))
        .await?;
    let second = soon("the rival wins", waiting).await??;
    let second = second.leader().ok_or("nobody leads")?.clone();
    assert_eq!(observed().await?, "c");
    assert!(
        client
            .proclaim("late", Some(ProclaimOptions::new().with_leader(first)))
            .await
            .is_err()
    );
    client
        .resign(Some(ResignOptions::new().with_leader(second)))
        .await?;
    Ok(())
}

async fn maintenance() -> Result<()> {
    let mut client = everyone().await?;
    let status = eventually("a status with a leader", || {
        let mut client = client.clone();
        async move {
            let status = client.status().await?;
            Ok((status.leader() != 0).then_some(status))
        }
    })
    .await;
    assert!(status.version().starts_with("3."), "{}", status.version());
    assert!(status.db_size() > 0 && status.raft_used_db_size() > 0 && !status.is_learner());
    assert!(status.raft_index() >= status.raft_applied_index() && status.raft_term() > 0);
    let alarms = client
        .alarm(AlarmAction::Get, AlarmType::None, None)
        .await?;
    assert!(alarms.alarms().is_empty(), "{alarms:?}");
    let put = client.put("maintenance/k", "in the snapshot", None).await?;
    let revision = put.header().expect("a header").revision();
    let mut hashes = Vec::new();
    for index in 0..endpoints().len() {
        let mut member = one(index, None).await?;
        // What it has applied, not only what the cluster has.
        member.get("maintenance/k", None).await?;
        hashes.push(member.hash_kv(revision).await?.hash());
        member.hash().await?;
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    // Elections may come between the question and the order.
    eventually("leadership moves", || async move {
        for index in 0..endpoints().len() {
            let mut member = one(index, None).await?;
            let status = member.status().await?;
            let itself = status.header().map(|header| header.member_id());
            if itself == Some(status.leader()) {
                let listed = member.member_list().await?;
                let mut others = listed.members().iter().map(|member| member.id());
                if let Some(other) = others.find(|id| *id != status.leader()) {
                    member.move_leader(other).await?;
                    return Ok(Some(()));
                }
            }
        }
        Ok(None)
    })
    .await;
    let path = format!("{}/etcd-client.db", std::env::var("SCRATCH")?);
    let mut file = std::fs::File::create(&path)?;
    let mut snapshot = one(0, None).await?.snapshot().await?;
    while let Some(part) = soon("a part of the snapshot", snapshot.message()).await? {
        file.write_all(part.blob())?;
        if part.remaining_bytes() == 0 && part.blob().is_empty() {
            break;
        }
    }
    say(&format!("snapshot {path}"));
    Ok(())
}

async fn defragment() -> Result<()> {
    for index in 0..endpoints().len() {
        let mut member = one(index, None).await?;
        member.defragment().await?;
        member.put("defragment", "v", None).await?;
        assert_eq!(
            value(&mut member, "defragment").await?.as_deref(),
            Some("v")
        );
    }
    Ok(())
}

async fn compaction() -> Result<()> {
    let mut client = everyone().await?;
    let mut revisions = Vec::new();
    for n in 0..5 {
        let put = client.put("compaction/k", format!("{n}"), None).await?;
        revisions.push(put.header().expect("a header").revision());
    }
    client
        .compact(revisions[3], Some(CompactionOptions::new().with_physical()))
        .await?;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let old = GetOptions::new().with_revision(revisions[0]);
    refused(
        client.get("compaction/k", Some(old)).await,
        "OutOfRange",
        compacted,
    );
    refused(
        client.compact(revisions[0], None).await,
        "OutOfRange",
        compacted,
    );
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused(
        client.compact(revisions[4] + 1_000_000, None).await,
        "OutOfRange",
        future,
    );
    let from = |revision| Some(WatchOptions::new().with_start_revision(revision));
    let mut left = client.watch("compaction/k", from(revisions[3])).await?;
    let put = |value: &str| (EventType::Put, value.to_owned());
    assert_eq!(events(&mut left, 2).await?, [put("3"), put("4")]);
    let mut gone = client.watch("compaction/k", from(revisions[0])).await?;
    let mut answer = next(&mut gone).await?;
    if !answer.canceled() {
        answer = next(&mut gone).await?;
    }
    assert!(answer.canceled(), "{answer:?}");
    assert_eq!(answer.compact_revision(), revisions[3]);
    Ok(())
}

async fn failover() -> Result<()> {
    let mut client = everyone().await?;
    let lease = client.lease_grant(30, None).await?.id();
    client
        .put(
            "failover/leased",
            "v",
            Some(PutOptions::new().with_lease(lease)),
        )
        .await?;
    let mut watches = Vec::new();
    for index in 0..endpoints().len() {
        let mut member = one(index, None).await?;
        let options = WatchOptions::new().with_prefix();
        let mut stream = member.watch("failover/k", Some(options)).await?;
        assert!(next(&mut stream).await?.created());
        watches.push(tokio::spawn(async move {
            let found = events(&mut stream, 1)
                .await
                .map_err(|error| error.to_string());
            found.map(|found| found[0].1.clone())
        }));
    }
    ask("kill");
    // One client of all three members, which has to find those that live by itself.
    eventually("a put is accepted without the killed member", || {
        let mut client = client.clone();
        async move {
            client
                .put("failover/k", "after the kill", None)
                .await
                .map(Some)
        }
    })
    .await;
    let mut delivered = 0;
    for watch in watches {
        if soon("a watch goes on or breaks", watch).await?.as_deref() == Ok("after the kill") {
            delivered += 1;
        }
    }
    assert!(delivered >= 2, "{delivered} watches of three went on");
    let ttl = eventually("the lease goes on", || {
        let mut client = client.clone();
        async move {
            let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
            keeper.keep_alive().await?;
            Ok(answers.message().await?.map(|answer| answer.ttl()))
        }
    })
    .await;
    assert_eq!(ttl, 30);
    ask("restart");
    for index in 0..endpoints().len() {
        eventually("every member serves", || async move {
            let mut member = one(index, None).await?;
            let answer = member.get("failover/k", None).await?;
            Ok(
                (answer.kvs().first().map(|kv| kv.value()) == Some(b"after the kill"))
                    .then_some(()),
            )
        })
        .await;
    }
    Ok(())
}

/// The member that has this peer URL.
async fn at(client: &mut Client, url: &str) -> Result<Option<u64>, Error> {
    let listed = client.member_list().await?;
    let found = listed
        .members()
        .iter()
        .find(|member| member.peer_urls() == [url]);
    Ok(found.map(|member| member.id()))
}

async fn members() -> Result<()> {
    let mut client = everyone().await?;
    let listed = client.member_list().await?;
    let mut names: Vec<&str> = listed
        .members()
        .iter()
        .map(|member| member.name())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["m0", "m1", "m2"]);
    let (old, new) = ("http://127.0.0.1:1", "http://127.0.0.1:2");
    for learner in [false, true] {
        // A cluster that has just come up, or lost a member, refuses for some seconds. And a change that the
        // leader drops, since it has not applied the one before, is never answered: each is tried until it
        // is seen.
        let id = eventually("a member is added", || {
            let mut client = client.clone();
            async move {
                let found = at(&mut client, old).await?;
                if found.is_none() {
                    let options = learner.then(|| MemberAddOptions::new().with_is_learner());
                    client.member_add([old], options).await?;
                }
                Ok(found)
            }
        })
        .await;
        let mut url = old;
        if learner {
            let early = "can only promote a learner member which is in sync with leader";
            eventually("it may not be promoted", || {
                let mut client = client.clone();
                async move {
                    match client.member_promote(id).await {
                        Err(Error::GRpcStatus(why)) if why.message().contains(early) => {
                            Ok(Some(()))
                        }
                        Err(why) => Err(why),
                        Ok(_) => Ok(None),
                    }
                }
            })
            .await;
        } else {
            // Not of a learner: the original's 3.5.1 then forgets that it is one.
            url = new;
            eventually("its URL changes", || {
                let mut client = client.clone();
                async move {
                    let found = at(&mut client, new).await?;
                    if found.is_none() {
                        client.member_update(id, [new.to_owned()]).await?;
                    }
                    Ok(found)
                }
            })
            .await;
        }
        let listed = client.member_list().await?;
        assert_eq!(listed.members().len(), 4);
        let added = listed.members().iter().find(|member| member.id() == id);
        let added = added.ok_or("not listed")?;
        assert_eq!((added.name(), added.is_learner()), ("", learner));
        eventually("it is removed", || {
            let mut client = client.clone();
            async move {
                let found = at(&mut client, url).await?;
                if found.is_some() {
                    client.member_remove(id).await?;
                }
                Ok(found.is_none().then_some(()))
            }
        })
        .await;
        assert_eq!(client.member_list().await?.members().len(), 3);
    }
    refused(
        client.member_remove(1).await,
        "NotFound",
        "etcdserver: member not found",
    );
    client.put("members/k", "v", None).await?;
    Ok(())
}

async fn auth() -> Result<()> {
    let mut plain = everyone().await?;
    plain.user_add("root", "secret", None).await?;
    plain.role_add("root").await?;
    plain.user_grant_role("root", "root").await?;
    plain.user_add("ann", "first", None).await?;
    plain.user_change_password("ann", "pass").await?;
    plain.role_add("reader").await?;
    plain
        .role_grant_permission("reader", Permission::read("auth/").with_prefix())
        .await?;
    plain
        .role_grant_permission("reader", Permission::read_write("own"))
        .await?;
    plain.user_grant_role("ann", "reader").await?;
    assert_eq!(plain.user_get("ann").await?.roles(), ["reader"]);
    assert_eq!(plain.user_list().await?.users(), ["ann", "root"]);
    assert_eq!(plain.role_list().await?.roles(), ["reader", "root"]);
    let permissions = plain.role_get("reader").await?.permissions();
    assert_eq!(
        permissions,
        [
            Permission::read("auth/").with_prefix(),
            Permission::new(PermissionType::Readwrite, "own"),
        ]
    );
    plain.auth_enable().await?;
    // A member that has not applied the change yet refuses all logins.
    let mut root = eventually("root logs in", || async {
        one(1, Some(("root", "secret"))).await.map(Some)
    })
    .await;
    let result = with_auth(&mut plain, &mut root).await;
    root.auth_disable().await?;
    result?;
    let read = eventually("all may read", || {
        let mut client = plain.clone();
        async move { client.get("private", None).await.map(Some) }
    })
    .await;
    assert_eq!(read.kvs()[0].value(), b"v");
    let all = RoleRevokePermissionOptions::new().with_prefix();
    plain
        .role_revoke_permission("reader", "auth/", Some(all))
        .await?;
    assert_eq!(plain.role_get("reader").await?.permissions().len(), 1);
    plain.user_revoke_role("ann", "reader").await?;
    plain.role_delete("reader").await?;
    plain.user_delete("ann").await?;
    plain.user_delete("root").await?;
    plain.role_delete("root").await?;
    Ok(())
}

async fn with_auth(plain: &mut Client, root: &mut Client) -> Result<()> {
    root.put("auth/k", "v", None).await?;
    root.put("private", "v", None).await?;
    let mut ann = eventually("ann logs in", || async {
        one(2, Some(("ann", "pass"))).await.map(Some)
    })
    .await;
    assert_eq!(value(&mut ann, "auth/k").await?.as_deref(), Some("v"));
    ann.put("own", "mine", None).await?;
    let mut seen = ann
        .watch("auth/", Some(WatchOptions::new().with_prefix()))
        .await?;
    assert!(next(&mut seen).await?.created());
    root.put("auth/k", "w", None).await?;
    assert_eq!(
        events(&mut seen, 1).await?,
        [(EventType::Put, "w".to_owned())]
    );
    let denied = "etcdserver: permission denied";
    refused(
        ann.put("auth/k", "no", None).await,
        "PermissionDenied",
        denied,
    );
    refused(ann.get("private", None).await, "PermissionDenied", denied);
    refused(ann.user_list().await, "PermissionDenied", denied);
    refused(
        plain.get("auth/k", None).await,
        "InvalidArgument",
        "etcdserver: user name is empty",
    );
    refused(
        one(0, Some(("ann", "wrong"))).await.map(|_| ()),
        "InvalidArgument",
        "etcdserver: authentication failed, invalid user ID or password",
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    for area in std::env::args().skip(1) {
        let done = match area.as_str() {
            "kv" => kv().await,
            "txn" => txn().await,
            "watch" => watch().await,
            "lease" => lease().await,
            "lock_service" => lock_service().await,
            "election_service" => election_service().await,
            "maintenance" => maintenance().await,
            "defragment" => defragment().await,
            "compaction" => compaction().await,
            "failover" => failover().await,
            "members" => members().await,
            "auth" => auth().await,
            _ => Err(format!("no such area: {area}").into()),
        };
        done.map_err(|error| format!("{area}: {error}"))?;
        say(&format!("ok {area}"));
    }
    Ok(())
}
