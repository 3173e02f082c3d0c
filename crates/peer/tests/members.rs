//! Members on loopback: streams, loss and return, priorities, removal.

mod common;

use std::time::Duration;

use common::*;
use ferrite_peer::{Dialer, FetchError, get_json};
use ferrite_proto::raftpb::{Entry, Message, MessageType};

fn multi() -> tokio::runtime::Runtime {
    record_logs();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn append(from: &Member, to: u64, index: u64, size: usize) -> Message {
    let mut msg = from.message(MessageType::MsgApp, to);
    msg.log_term = 3;
    msg.index = index;
    msg.entries = vec![Entry {
        term: 3,
        index: index + 1,
        data: vec![7; size].into(),
        ..Default::default()
    }];
    msg
}

#[test]
fn three_members_exchange_messages_over_streams() {
    multi().block_on(async {
        let (a, b, c) = (
            Member::start(0xa1).await,
            Member::start(0xa2).await,
            Member::start(0xa3).await,
        );
        for (x, y) in [(&a, &b), (&a, &c), (&b, &a), (&b, &c), (&c, &a), (&c, &b)] {
            x.knows(y);
        }
        for (x, y) in [(&a, &b), (&a, &c), (&b, &a), (&b, &c), (&c, &a), (&c, &b)] {
            x.connected(y).await;
        }
        assert_eq!(a.transport.peer_ids(), [0xa2, 0xa3]);
        assert_eq!(a.transport.connected_count(), 2);
        assert!(a.transport.active_since(0xa2).is_some());
        assert!(a.transport.active_since(0xff).is_none());

        let mut batch = Vec::new();
        for i in 0..500u64 {
            batch.push(append(&a, 0xa2, i, 10));
            batch.push(append(&a, 0xa3, i, 10));
            let mut resp = a.message(MessageType::MsgAppResp, 0xa2);
            resp.index = i;
            batch.push(resp);
        }
        batch.push(a.message(MessageType::MsgPreVote, 0xa3));
        batch.push(a.message(MessageType::MsgHeartbeat, 0xffff));
        // From a plain thread, as the raft thread does.
        let transport = a.transport.clone();
        let expected: Vec<Message> = (0..500).map(|i| append(&a, 0xa2, i, 10)).collect();
        std::thread::spawn(move || transport.send(batch))
            .join()
            .expect("sent");

        eventually("all appends", || {
            b.node.of_type(MessageType::MsgApp).len() == 500
                && c.node.of_type(MessageType::MsgApp).len() == 500
                && !c.node.of_type(MessageType::MsgPreVote).is_empty()
                && !b.node.of_type(MessageType::MsgAppResp).is_empty()
        })
        .await;
        assert_eq!(
            b.node.of_type(MessageType::MsgApp),
            expected,
            "in order and unchanged"
        );
        let resps = b.node.of_type(MessageType::MsgAppResp);
        assert_eq!(
            resps.iter().map(|m| m.index).collect::<Vec<_>>(),
            [499],
            "only the last one"
        );
        assert!(
            b.node.of_type(MessageType::MsgHeartbeat).is_empty(),
            "link heartbeats stay outside"
        );

        eventually("probes", || {
            a.transport
                .stats()
                .members
                .iter()
                .all(|m| m.rtt.is_some() && m.rtt_seconds.count > 0)
        })
        .await;
        let stats = a.transport.stats();
        assert!(
            stats
                .members
                .iter()
                .all(|m| m.sent_bytes > 5000 && m.active && m.sent_failures == 0)
        );
        assert!(b.transport.stats().members[0].received_bytes > 5000);
        for member in [a, b, c] {
            member.stop().await;
        }
    });
}

#[test]
fn a_lost_peer_is_named_at_once_and_again_until_it_returns() {
    multi().block_on(async {
        let (a, b) = (Member::start(0xb1).await, Member::start(0xb2).await);
        a.knows(&b);
        b.knows(&a);
        a.connected(&b).await;
        let of_b = [("remote-peer-id", "b2")];
        eventually("a probe", || {
            a.transport.stats().members[0].rtt_seconds.count >= 2
        })
        .await;
        assert_eq!(
            log_count(&of_b, "prober detected"),
            0,
            "nothing is wrong yet"
        );

        let addr = b.stop().await;
        for tripper in ["ROUND_TRIPPER_RAFT_MESSAGE", "ROUND_TRIPPER_SNAPSHOT"] {
            let fields = [("remote-peer-id", "b2"), ("round-tripper-name", tripper)];
            within(Duration::from_secs(5), tripper, &mut || {
                log_count(&fields, "prober detected unhealthy status") > 0
            })
            .await;
            let line = &log_lines(&fields, "prober detected")[0];
            assert!(line.fields["error"].contains("refused"), "{line:?}");
            assert!(line.fields["rtt"].ends_with('s'), "{line:?}");
        }
        for kind in ["stream MsgApp v2", "stream Message"] {
            let reader = [
                ("remote-peer-id", "b2"),
                ("stream-reader-type", kind),
                ("local-member-id", "b1"),
            ];
            eventually(kind, || {
                log_count(&reader, "lost TCP streaming connection with remote peer") > 0
            })
            .await;
        }
        eventually("inactive", || {
            log_count(
                &[("peer-id", "b2")],
                "peer became inactive (message send to peer failed)",
            ) > 0
        })
        .await;
        assert_eq!(a.transport.connected_count(), 0);

        a.transport
            .send(vec![a.message(MessageType::MsgHeartbeat, 0xb2)]);
        eventually("unreachable", || {
            a.node.unreachable.lock().contains_key(&0xb2)
        })
        .await;

        let again = [
            ("remote-peer-id", "b2"),
            ("round-tripper-name", "ROUND_TRIPPER_SNAPSHOT"),
        ];
        within(
            Duration::from_millis(6500),
            "the line is repeated",
            &mut || log_count(&again, "prober detected") >= 2,
        )
        .await;
        let lines = log_lines(&again, "prober detected");
        let gap = lines[1].at - lines[0].at;
        assert!(
            (4500..6000).contains(&gap.as_millis()),
            "every five seconds: {gap:?}"
        );

        let active = || log_count(&[("peer-id", "b2")], "peer became active");
        let before = active();
        let b = Member::start_at(0xb2, addr, Options::default()).await;
        b.knows(&a);
        within(Duration::from_secs(2), "back", &mut || active() > before).await;
        eventually("a heartbeat gets through", || {
            a.transport
                .send(vec![a.message(MessageType::MsgHeartbeat, 0xb2)]);
            !b.node.of_type(MessageType::MsgHeartbeat).is_empty()
        })
        .await;
        assert!(a.transport.stats().members[0].disconnected >= 1);
        a.stop().await;
        b.stop().await;
    });
}

#[test]
fn a_silent_peer_is_lost_within_the_read_timeout() {
    multi().block_on(async {
        let a = Member::start(0xc1).await;
        // Accepts, answers nothing: what a stopped process looks like.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        a.transport.add_peer(0xc2, &[url]);
        eventually("a probe that gets no answer is unhealthy", || {
            log_count(
                &[("remote-peer-id", "c2")],
                "prober detected unhealthy status",
            ) >= 2
        })
        .await;
        a.stop().await;
        drop(listener);
    });
}

#[test]
fn a_stream_that_falls_silent_is_lost() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    multi().block_on(async {
        let options = Options { read_timeout: Duration::from_millis(500), ..Options::default() };
        let a = Member::start_with(0xc3, options).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1000];
                let _ = stream.read(&mut request).await;
                let answer = b"HTTP/1.1 200 OK\r\nX-Server-Version: 3.5.1\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = stream.write_all(answer).await;
                open.push(stream);
            }
        });
        a.transport.add_peer(0xc4, &[url]);
        let reader = [("remote-peer-id", "c4"), ("stream-reader-type", "stream Message")];
        eventually("established", || log_count(&reader, "established TCP streaming") > 0).await;
        within(Duration::from_secs(2), "lost", &mut || log_count(&reader, "lost TCP streaming") > 0).await;
        let line = &log_lines(&reader, "lost TCP streaming")[0];
        assert!(line.fields["error"].contains("i/o timeout"), "{line:?}");
        let inactive = log_lines(&[("peer-id", "c4")], "peer became inactive");
        assert!(inactive[0].fields["error"].starts_with("failed to read c4 on stream M"), "{inactive:?}");
        a.stop().await;
    });
}

#[test]
fn big_appends_do_not_starve_heartbeats() {
    multi().block_on(async {
        let (a, b) = (Member::start(0xd1).await, Member::start(0xd2).await);
        a.knows(&b);
        b.knows(&a);
        a.connected(&b).await;
        let mut batch: Vec<Message> = (0..100).map(|i| append(&a, 0xd2, i, 1 << 20)).collect();
        batch.push(a.message(MessageType::MsgHeartbeat, 0xd2));
        a.transport.send(batch);
        eventually("the heartbeat", || {
            !b.node.of_type(MessageType::MsgHeartbeat).is_empty()
        })
        .await;
        let appends = b.node.of_type(MessageType::MsgApp).len();
        assert!(
            appends < 50,
            "the heartbeat came after {appends} appends of a megabyte"
        );
        eventually("every append", || {
            b.node.of_type(MessageType::MsgApp).len() == 100
        })
        .await;
        assert!(a.node.unreachable.lock().is_empty());
        a.stop().await;
        b.stop().await;
    });
}

#[test]
fn a_full_queue_drops_and_reports() {
    multi().block_on(async {
        let a = Member::start(0xe1).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        a.transport.add_peer(0xe2, &[url]);
        let batch: Vec<Message> = (0..300)
            .map(|_| a.message(MessageType::MsgHeartbeat, 0xe2))
            .collect();
        a.transport.send(batch);
        assert_eq!(
            a.node.unreachable.lock().get(&0xe2),
            Some(&1),
            "reported once for the batch"
        );
        assert!(a.transport.stats().members[0].sent_failures >= 200);
        assert!(
            log_count(
                &[("remote-peer-id", "e2"), ("message-type", "MsgHeartbeat")],
                "dropped internal Raft message since sending buffer is full"
            ) >= 1
        );
        a.stop().await;
    });
}

#[test]
fn a_removed_member_is_told_and_its_messages_are_dropped() {
    multi().block_on(async {
        let (a, b) = (Member::start(0xf1).await, Member::start(0xf2).await);
        a.node.removed.lock().push(0xf2);
        b.knows(&a);
        eventually("410 reaches the removed member", || {
            b.node
                .told_removed
                .load(std::sync::atomic::Ordering::Relaxed)
        })
        .await;
        a.knows(&b);
        a.transport
            .send(vec![a.message(MessageType::MsgHeartbeat, 0xf2)]);
        b.transport
            .send(vec![b.message(MessageType::MsgHeartbeat, 0xf1)]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(a.node.received.lock().is_empty());
        assert!(b.node.received.lock().is_empty());
        a.transport.remove_peer(0xf2);
        assert!(a.transport.peer_ids().is_empty());
        a.stop().await;
        b.stop().await;
    });
}

/// A newcomer that took another member's name, or its folder, answers at an URL of the cluster: that it is not the
/// one who was meant says nothing about who asked.
#[test]
fn who_reaches_the_wrong_member_is_not_removed() {
    multi().block_on(async {
        let (a, b) = (Member::start(0xf3).await, Member::start(0xf4).await);
        let told = |member: &Member| {
            let told = &member.node.told_removed;
            told.load(std::sync::atomic::Ordering::Relaxed)
        };
        let unreachable = |id: u64| {
            let counts = a.node.unreachable.lock();
            counts.get(&id).copied().unwrap_or_default()
        };
        // It is 403 in both cases.
        let mismatch = answering(r#"{"message":"cannot process message to mismatch member"}"#);
        let removed = answering(r#"{"message":"cannot process message from removed member"}"#);
        for (id, url) in [(0xf5, b.url()), (0xf6, mismatch.await)] {
            a.transport.add_peer(id, &[url]);
            eventually("the message is refused", || {
                a.transport
                    .send(vec![a.message(MessageType::MsgHeartbeat, id)]);
                unreachable(id) > 0
            })
            .await;
            assert!(!told(&a), "{id:x}");
        }
        assert!(b.node.received.lock().is_empty());
        a.transport.add_peer(0xf7, &[removed.await]);
        eventually("the removed member is told", || {
            a.transport
                .send(vec![a.message(MessageType::MsgHeartbeat, 0xf7)]);
            told(&a)
        })
        .await;
        a.stop().await;
        b.stop().await;
    });
}

/// The URL of somebody who refuses everything, with this body.
async fn answering(body: &'static str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = format!(
                "HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok() {
                let _gone = stream.write_all(answer.as_bytes()).await;
                while matches!(stream.read(&mut head).await, Ok(1..)) {}
            }
        }
    });
    url
}

#[test]
fn the_second_url_is_used_when_the_first_is_dead() {
    multi().block_on(async {
        let (a, b) = (Member::start(0x101).await, Member::start(0x102).await);
        b.knows(&a);
        a.transport
            .add_peer(0x102, &["http://127.0.0.1:1".to_owned(), b.url()]);
        a.connected(&b).await;
        a.transport.update_peer(0x102, &[b.url()]);
        a.transport
            .send(vec![a.message(MessageType::MsgVote, 0x102)]);
        eventually("the vote", || {
            b.node.of_type(MessageType::MsgVote).len() == 1
        })
        .await;
        a.stop().await;
        b.stop().await;
    });
}

#[test]
fn an_unknown_sender_is_answered_as_a_remote() {
    multi().block_on(async {
        let (a, b) = (Member::start(0x111).await, Member::start(0x112).await);
        // b does not know a; a's pipeline introduces it by its headers.
        a.knows(&b);
        eventually("a vote by POST", || {
            a.transport
                .send(vec![a.message(MessageType::MsgVote, 0x112)]);
            !b.node.of_type(MessageType::MsgVote).is_empty()
        })
        .await;
        assert!(b.transport.peer_ids().is_empty());
        b.transport
            .send(vec![b.message(MessageType::MsgVoteResp, 0x111)]);
        eventually("the answer", || {
            !a.node.of_type(MessageType::MsgVoteResp).is_empty()
        })
        .await;
        a.stop().await;
        b.stop().await;
    });
}

#[test]
fn json_is_fetched_from_the_first_url_that_answers() {
    multi().block_on(async {
        let a = Member::start(0x121).await;
        let urls = ["http://127.0.0.1:1".to_owned(), a.url()];
        let limit = Duration::from_secs(5);
        let (value, _) =
            get_json::<serde_json::Value>(&Dialer::default(), &urls, "/members", &[], limit)
                .await
                .expect("JSON");
        assert_eq!(value["path"], "/members");
        let error =
            get_json::<serde_json::Value>(&Dialer::default(), &[a.url()], "/raft/x", &[], limit)
                .await;
        assert!(matches!(error, Err(FetchError::Status { .. })), "{error:?}");
        a.stop().await;
    });
}

/// BG-01: members that answer are probed every four seconds, by each of the two ways.
#[test]
fn a_member_that_answers_is_probed_every_four_seconds() {
    multi().block_on(async {
        let (a, b) = (Member::start(0xa11).await, Member::start(0xb22).await);
        a.knows(&b);
        b.knows(&a);
        a.connected(&b).await;
        let probes = || a.transport.stats().members[0].rtt_seconds.count;
        // At first they come when something changes, too.
        let mut seen = probes();
        let apart = loop {
            let apart = within(Duration::from_secs(15), "a probe", &mut || probes() > seen).await;
            seen = probes();
            if apart > Duration::from_secs(1) {
                break apart;
            }
        };
        let expected = Duration::from_millis(3_500)..Duration::from_millis(5_500);
        assert!(expected.contains(&apart), "{apart:?}");
        a.stop().await;
        b.stop().await;
    });
}
