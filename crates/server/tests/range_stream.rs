//! `KV.RangeStream` through the real server: the same answer as `Range`, in pieces.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ferrite_client::pb::range_request::{SortOrder, SortTarget};
use ferrite_client::pb::request_op::Request as Op;
use ferrite_client::pb::{
    self, CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse,
    RangeStreamResponse, RequestOp, TxnRequest,
};
use ferrite_client::{Client, Code, Config, Status, Streaming};
use ferrite_testkit::{Cluster, PATIENCE, Ports, eventually, our_program};

fn put(key: String, value: Vec<u8>) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

async fn put_all(client: &Client, puts: impl Iterator<Item = PutRequest>) {
    let mut txn = TxnRequest::default();
    let mut bytes = 0;
    for put in puts {
        bytes += put.value.len();
        txn.success.push(RequestOp {
            request: Some(Op::RequestPut(put)),
        });
        // below the limits of a request
        if txn.success.len() == 100 || bytes > 1_000_000 {
            client.kv().txn(std::mem::take(&mut txn)).await.unwrap();
            bytes = 0;
        }
    }
    client.kv().txn(txn).await.unwrap();
}

fn everything() -> RangeRequest {
    RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..Default::default()
    }
}

async fn open(client: &Client, request: RangeRequest) -> Streaming<RangeStreamResponse> {
    client
        .kv()
        .range_stream(request)
        .await
        .unwrap()
        .into_inner()
}

/// The next piece; `None` at the end.
async fn next(
    stream: &mut Streaming<RangeStreamResponse>,
) -> Result<Option<RangeResponse>, Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message())
        .await
        .expect("a piece in time")?;
    Ok(message.map(|message| message.range_response.expect("a response in it")))
}

async fn pieces(client: &Client, request: RangeRequest) -> Result<Vec<RangeResponse>, Status> {
    let mut stream = client.kv().range_stream(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(piece) = next(&mut stream).await? {
        pieces.push(piece);
    }
    Ok(pieces)
}

/// As the messages merge: lists grow, what is set later wins.
fn merged(pieces: Vec<RangeResponse>) -> RangeResponse {
    let mut all = RangeResponse::default();
    for piece in pieces {
        all.kvs.extend(piece.kvs);
        all.header = piece.header.or(all.header);
        all.more |= piece.more;
        all.count = all.count.max(piece.count);
    }
    all
}

async fn refused(client: &Client, request: RangeRequest) -> (Code, String) {
    let status = pieces(client, request).await.expect_err("a refusal");
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn all_pieces_together_are_the_range() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    // of very different sizes, some of them changed and some gone
    let value = |n: usize| vec![b'v'; (n % 7) * 3 + usize::from(n.is_multiple_of(97)) * 40_000];
    put_all(
        &client,
        (0..2_500).map(|n| put(format!("k/{n:05}"), value(n))),
    )
    .await;
    put_all(
        &client,
        (0..2_500)
            .step_by(3)
            .map(|n| put(format!("k/{n:05}"), value(n + 1))),
    )
    .await;
    let old = client.kv().range(everything()).await.unwrap().into_inner();
    let old = old.header.unwrap().revision;
    let delete = DeleteRangeRequest {
        key: "k/00500".into(),
        range_end: "k/00700".into(),
        ..Default::default()
    };
    client.kv().delete_range(delete).await.unwrap();

    // a range is read in slices, too: what must be in it is known from what was written
    let alive: Vec<String> = (0..2_500)
        .filter(|n| !(500..700).contains(n))
        .map(|n| format!("k/{n:05}"))
        .collect();
    for limit in [0, 999, 1_000, 1_001, 1_999, 2_000, 2_299, 2_300, 2_301] {
        let request = RangeRequest {
            limit,
            ..everything()
        };
        let found = client.kv().range(request).await.unwrap().into_inner();
        let expected = match usize::try_from(limit).unwrap() {
            0 => &alive[..],
            limit => &alive[..limit.min(alive.len())],
        };
        let keys: Vec<_> = found.kvs.iter().map(|kv| kv.key.clone()).collect();
        assert!(keys == expected, "{limit}: {} keys", keys.len());
        assert_eq!(found.count, 2_300, "{limit}");
        assert_eq!(found.more, expected.len() < alive.len(), "{limit}");
    }

    let from = |key: &str, end: &str| RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    };
    let limited = |limit| RangeRequest {
        limit,
        ..everything()
    };
    for request in [
        everything(),
        limited(1),
        limited(9),
        limited(10),
        limited(11),
        limited(777),
        limited(2_300),
        limited(2_301),
        limited(i64::MAX),
        limited(-3),
        from("k/00017", ""),
        from("k/00017", "k/00018"),
        from("k/00490", "k/00710"),
        from("k/01000", "\0"),
        from("x", ""),
        from("x", "z"),
        from("z", "a"),
        RangeRequest {
            count_only: true,
            ..everything()
        },
        RangeRequest {
            count_only: true,
            limit: 5,
            ..everything()
        },
        RangeRequest {
            keys_only: true,
            ..everything()
        },
        RangeRequest {
            keys_only: true,
            ..limited(1_500)
        },
        RangeRequest {
            serializable: true,
            ..everything()
        },
        RangeRequest {
            revision: old,
            ..everything()
        },
        RangeRequest {
            revision: old,
            ..limited(600)
        },
        RangeRequest {
            sort_order: SortOrder::Ascend as i32,
            ..limited(50)
        },
    ] {
        let whole = client
            .kv()
            .range(request.clone())
            .await
            .unwrap()
            .into_inner();
        let pieces = pieces(&client, request.clone()).await.unwrap();
        let (last, others) = pieces.split_last().expect("at least one piece");
        assert!(last.header.is_some(), "{request:?}");
        for piece in others {
            // nothing but keys before the end
            assert!(piece.header.is_none() && !piece.more && piece.count == 0);
            assert!(!piece.kvs.is_empty());
        }
        assert!(pieces[0].kvs.len() <= 10, "{}", pieces[0].kvs.len());
        if request.count_only || whole.kvs.len() <= 10 {
            assert_eq!(pieces.len(), 1, "{request:?}");
        }
        assert!(merged(pieces) == whole, "{request:?}");
    }
}

#[tokio::test]
async fn every_piece_is_of_the_revision_of_the_first() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    put_all(
        &client,
        (0..400).map(|n| put(format!("k/{n:05}"), vec![1; 40_000])),
    )
    .await;
    let before = client.kv().range(everything()).await.unwrap().into_inner();
    let mut stream = open(&client, everything()).await;
    let mut got = vec![next(&mut stream).await.unwrap().unwrap()];
    put_all(
        &client,
        (0..90).map(|n| put(format!("k/{:05}", n * 7 + 3), vec![2; 10])),
    )
    .await;
    let delete = DeleteRangeRequest {
        key: "k/00300".into(),
        range_end: vec![0].into(),
        ..Default::default()
    };
    client.kv().delete_range(delete).await.unwrap();
    while let Some(piece) = next(&mut stream).await.unwrap() {
        got.push(piece);
    }
    assert!(merged(got) == before);
}

#[tokio::test]
async fn a_compaction_ends_a_stream_whose_revision_it_takes() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    // much more than what is under way to a client that does not read
    put_all(
        &client,
        (0..600).map(|n| put(format!("k/{n:05}"), vec![1; 64_000])),
    )
    .await;
    let mut stream = open(&client, everything()).await;
    let first = next(&mut stream).await.unwrap().unwrap();
    assert_eq!((first.kvs.len(), first.header), (10, None));
    let changed = client
        .kv()
        .put(put("k/00000".into(), vec![2]))
        .await
        .unwrap();
    let revision = changed.into_inner().header.unwrap().revision;
    let compact = CompactionRequest {
        revision,
        physical: false,
    };
    client.kv().compact(compact).await.unwrap();
    let ended = loop {
        match next(&mut stream).await {
            Ok(Some(piece)) => assert!(piece.header.is_none(), "it came to its end"),
            Ok(None) => panic!("it ended without an error"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (ended.code(), ended.message()),
        (
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted"
        )
    );
}

#[tokio::test]
async fn what_cannot_be_streamed_is_refused() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    put_all(
        &client,
        (0..9).map(|n| put(format!("k/{n}"), vec![b'9' - n])),
    )
    .await;
    let sort = "RangeStream does not support custom sort orders";
    let filter = "RangeStream does not support revision filters";
    for (request, code, text) in [
        (
            RangeRequest {
                key: "".into(),
                ..everything()
            },
            Code::InvalidArgument,
            "etcdserver: key is not provided",
        ),
        (
            RangeRequest {
                sort_order: 9,
                ..everything()
            },
            Code::InvalidArgument,
            "etcdserver: invalid sort option",
        ),
        (
            RangeRequest {
                sort_order: SortOrder::Descend as i32,
                ..everything()
            },
            Code::Unimplemented,
            sort,
        ),
        (
            RangeRequest {
                sort_order: SortOrder::Ascend as i32,
                sort_target: SortTarget::Mod as i32,
                ..everything()
            },
            Code::Unimplemented,
            sort,
        ),
        (
            RangeRequest {
                min_mod_revision: 1,
                ..everything()
            },
            Code::Unimplemented,
            filter,
        ),
        (
            RangeRequest {
                max_mod_revision: 1,
                ..everything()
            },
            Code::Unimplemented,
            filter,
        ),
        (
            RangeRequest {
                min_create_revision: 1,
                ..everything()
            },
            Code::Unimplemented,
            filter,
        ),
        (
            RangeRequest {
                max_create_revision: 1,
                ..everything()
            },
            Code::Unimplemented,
            filter,
        ),
        (
            RangeRequest {
                revision: 99,
                ..everything()
            },
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ] {
        assert_eq!(refused(&client, request).await, (code, text.to_owned()));
    }
    // the flaw of the original: no order, and a target to order by, is let through
    let by_value = RangeRequest {
        sort_target: SortTarget::Value as i32,
        ..everything()
    };
    let got = merged(pieces(&client, by_value).await.unwrap());
    let keys: Vec<_> = got.kvs.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!(keys.first().unwrap(), "k/8");
    assert_eq!(keys.last().unwrap(), "k/0");
}

/// A client that takes a message now and then must not make the server hold the whole range.
#[tokio::test]
async fn a_slow_reader_of_a_large_range_costs_little_memory() {
    // a gigabyte where there is time for it
    let megabytes = match std::env::var_os("FERRITE_SOAK_SECONDS") {
        Some(_) => 1_024,
        None => 160,
    };
    const GROWTH_MAX: u64 = 48 << 20;
    let cluster = Cluster::builder()
        .extra_args(&["--quota-backend-bytes=4294967296"])
        .start()
        .await;
    let client = cluster.client(0);
    for n in 0..megabytes {
        let request = put(format!("k/{n:05}"), vec![n as u8; 1 << 20]);
        client.kv().put(request).await.unwrap();
    }
    // what loading took is not what reading takes
    cluster.member(0).terminate().await;
    cluster.start_all().await;
    let client = cluster.client(0);
    let before = cluster.member(0).resident_bytes();
    let mut most = before;
    let mut stream = open(&client, everything()).await;
    let mut keys = 0;
    while let Some(piece) = next(&mut stream).await.unwrap() {
        keys += piece.kvs.len();
        // not a wait for anything: the reader is slow
        tokio::time::sleep(Duration::from_millis(20)).await;
        most = most.max(cluster.member(0).resident_bytes());
    }
    assert_eq!(keys, megabytes);
    eprintln!(
        "{megabytes} MiB streamed, {} KiB before and {} KiB more at most",
        before >> 10,
        (most - before) >> 10
    );
    assert!(most - before < GROWTH_MAX, "{before} then {most}");
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn learners_refuse_it_and_json_does_not_know_it() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    let mut ports = Ports::default();
    let (peer, serving) = (ports.take(), ports.take());
    let (peer, serving) = (
        format!("http://127.0.0.1:{peer}"),
        format!("http://127.0.0.1:{serving}"),
    );
    let add = pb::MemberAddRequest {
        peer_urls: vec![peer.clone()],
        is_learner: true,
    };
    client.cluster().member_add(add).await.unwrap();
    let member = cluster.member(0);
    let learner = Command::new(our_program("etcd"))
        .args(["--name=new", "--initial-cluster-state=existing"])
        .arg(format!(
            "--data-dir={}",
            cluster.scratch().join("new").display()
        ))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--listen-client-urls={serving}"))
        .arg(format!("--advertise-client-urls={serving}"))
        .arg(format!(
            "--initial-cluster=m0={},new={peer}",
            member.peer_url()
        ))
        .arg("--initial-cluster-token=testkit")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _learner = Killed(learner);
    let learner = Client::new(Config::new([serving])).unwrap();
    let status = eventually("the learner answers", PATIENCE, async || {
        let serializable = RangeRequest {
            serializable: true,
            ..everything()
        };
        match pieces(&learner, serializable).await {
            Err(status) if status.code() == Code::FailedPrecondition => Some(status),
            _ => None,
        }
    })
    .await;
    assert_eq!(
        status.message(),
        "etcdserver: rpc not supported for learner"
    );

    let address = member
        .endpoint()
        .strip_prefix("http://")
        .unwrap()
        .to_owned();
    let mut plain = std::net::TcpStream::connect(address).unwrap();
    let asked = "POST /v3/kv/rangestream HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    plain.write_all(asked.as_bytes()).unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}
