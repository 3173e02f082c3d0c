//! Messages that no honest member sends: they are refused or passed over, and nothing panics.

use bytes::Bytes;
use ferrite_proto::raftpb::{
    ConfState, Entry, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use ferrite_raft::{
    Config, Error, LOCAL_APPEND_THREAD, MemStorage, RawNode, Storage, decode_conf_change,
};

fn conf(voters: &[u64]) -> ConfState {
    ConfState {
        voters: voters.to_vec(),
        ..ConfState::default()
    }
}

/// Member 1 of 1, 2 and 3, with the entries 1 to 5 of term 1 of which 3 are committed.
fn member(config: Config) -> RawNode<MemStorage> {
    let mut storage = MemStorage::with_conf_state(conf(&[1, 2, 3]));
    storage
        .append(&(1..=5).map(|i| entry(i, 1)).collect::<Vec<_>>())
        .unwrap();
    storage.set_hard_state(HardState {
        term: 1,
        vote: 0,
        commit: 3,
    });
    RawNode::new(Config { id: 1, ..config }, storage).unwrap()
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        ..Entry::default()
    }
}

fn message(kind: MessageType, term: u64) -> Message {
    Message {
        msg_type: kind as i32,
        to: 1,
        from: 2,
        term,
        ..Message::default()
    }
}

/// Does the work that is due.
fn work(raw: &mut RawNode<MemStorage>) -> Vec<Message> {
    let mut sent = Vec::new();
    while raw.has_ready() {
        let rd = raw.ready();
        if let Some(hs) = rd.hard_state {
            raw.storage_mut().set_hard_state(hs);
        }
        if let Some(snapshot) = rd.snapshot {
            raw.storage_mut().apply_snapshot(snapshot).unwrap();
        }
        raw.storage_mut().append(&rd.entries).unwrap();
        for e in &rd.committed_entries {
            if let Ok(change) = decode_conf_change(e) {
                let _ = raw.apply_conf_change(&change);
            }
        }
        sent.extend(rd.messages);
        raw.advance();
    }
    sent
}

/// Makes it the leader of term 2.
fn elect(raw: &mut RawNode<MemStorage>) {
    raw.campaign();
    work(raw);
    raw.step(message(MessageType::MsgVoteResp, 2)).unwrap();
    work(raw);
    assert!(raw.is_leader());
}

fn refused(outcome: Result<(), Error>) -> bool {
    matches!(outcome, Err(Error::InvalidMessage { .. }))
}

#[test]
fn a_heartbeat_past_the_log_is_named_and_changes_nothing() {
    let mut raw = member(Config::default());
    work(&mut raw);
    let mut m = message(MessageType::MsgHeartbeat, 1);
    m.commit = 9;
    let error = raw.step(m).unwrap_err();
    assert_eq!(
        error,
        Error::CommitOutOfRange {
            commit: 9,
            last_index: 5
        }
    );
    assert_eq!(raw.basic_status().hard_state.commit, 3);
}

#[test]
fn committed_entries_are_not_overwritten() {
    let mut raw = member(Config::default());
    work(&mut raw);
    let mut m = message(MessageType::MsgApp, 4);
    (m.index, m.log_term, m.entries) = (3, 1, vec![entry(4, 4), entry(5, 4)]);
    m.commit = 5;
    raw.step(m.clone()).unwrap();
    work(&mut raw);
    assert_eq!(raw.basic_status().hard_state.commit, 5);
    // An old prefix is answered with what is committed; a forged one that would reach into it is not.
    m.index = 3;
    m.term = 5;
    raw.step(m).unwrap();
    let sent = work(&mut raw);
    assert_eq!(sent.last().map(|m| (m.index, m.reject)), Some((5, false)));
    assert_eq!(raw.entry_term(5), Ok(4));
}

#[test]
fn malformed_appends_are_refused() {
    let append = |entries: Vec<Entry>| {
        let mut m = message(MessageType::MsgApp, 3);
        (m.index, m.log_term, m.entries) = (5, 1, entries);
        m
    };
    let mut raw = member(Config::default());
    assert!(refused(raw.step(append(vec![entry(7, 2)]))), "a gap");
    assert!(
        refused(raw.step(append(vec![entry(6, 2), entry(6, 2)]))),
        "twice"
    );
    assert!(
        refused(raw.step(append(vec![entry(6, 3), entry(7, 2)]))),
        "falling terms"
    );
    assert!(
        refused(raw.step(append(vec![entry(6, 4)]))),
        "newer than its sender"
    );
    let mut m = append(vec![entry(0, 2)]);
    m.index = u64::MAX;
    assert!(refused(raw.step(m)), "overflow");
    let mut m = append(vec![]);
    m.term = 0;
    assert!(refused(raw.step(m)), "no term");
    let mut m = append(vec![]);
    m.from = 1;
    assert!(refused(raw.step(m)), "from itself");
    let mut m = append(vec![]);
    m.from = LOCAL_APPEND_THREAD;
    assert!(refused(raw.step(m)), "from a thread");
    assert_eq!(raw.term(), 1, "none of them was listened to");
}

#[test]
fn snapshots_without_sense_are_refused_or_passed_over() {
    let snap = |index, term, conf_state| {
        let mut m = message(MessageType::MsgSnap, 2);
        m.snapshot = Some(Snapshot {
            data: Bytes::new(),
            metadata: Some(SnapshotMetadata {
                conf_state,
                index,
                term,
            }),
        });
        m
    };
    let mut raw = member(Config::default());
    raw.step(message(MessageType::MsgSnap, 2)).unwrap();
    raw.step(snap(9, 2, None)).unwrap();
    raw.step(snap(9, 2, Some(conf(&[2, 3])))).unwrap();
    let sent = work(&mut raw);
    assert!(
        sent.iter().all(|m| m.index == 3),
        "answered with what is committed"
    );
    assert!(refused(raw.step(snap(u64::MAX, 2, Some(conf(&[1, 2, 3]))))));
    assert!(refused(raw.step(snap(9, 3, Some(conf(&[1, 2, 3]))))));
    assert!(refused(raw.step(snap(9, 2, Some(conf(&[1, 1]))))));
    let mut learner_and_voter = conf(&[1, 2]);
    learner_and_voter.learners = vec![1];
    assert!(refused(raw.step(snap(9, 2, Some(learner_and_voter)))));
    assert_eq!(raw.last_index(), 5);
    raw.step(snap(9, 2, Some(conf(&[1, 2, 3])))).unwrap();
    work(&mut raw);
    assert_eq!((raw.last_index(), raw.storage().last_index()), (9, 9));
}

#[test]
fn a_leader_is_not_led_astray_by_answers() {
    let mut raw = member(Config::default());
    elect(&mut raw);
    let mut m = message(MessageType::MsgAppResp, 2);
    m.index = 99;
    assert!(refused(raw.step(m.clone())), "never sent");
    (m.reject, m.reject_hint, m.log_term) = (true, u64::MAX, u64::MAX);
    raw.step(m).unwrap();
    raw.read_index(Bytes::from_static(b"read"));
    let mut m = message(MessageType::MsgHeartbeatResp, 2);
    for context in [&[1u8, 2][..], &[255; 8], &[255; 40]] {
        m.context = Bytes::copy_from_slice(context);
        raw.step(m.clone()).unwrap();
    }
    let before = raw.basic_status().hard_state.commit;
    assert_eq!(before, 3);
    let rd = raw.ready();
    assert!(rd.read_states.is_empty(), "made-up answers confirm no read");
}

#[test]
fn undecodable_conf_changes_are_not_let_into_the_log() {
    let mut raw = member(Config::default());
    elect(&mut raw);
    let last = raw.last_index();
    for kind in [1, 2] {
        let mut m = message(MessageType::MsgProp, 0);
        m.entries = vec![Entry {
            entry_type: kind,
            data: Bytes::from_static(&[255, 255, 255]),
            ..Entry::default()
        }];
        assert!(matches!(raw.step(m), Err(Error::ConfChange(_))));
    }
    assert!(
        refused(raw.step(message(MessageType::MsgProp, 0))),
        "nothing proposed"
    );
    assert!(
        refused(raw.step(message(MessageType::MsgReadIndex, 0))),
        "nothing asked"
    );
    assert_eq!(raw.last_index(), last);
}

#[test]
fn local_and_unknown_messages_do_not_come_from_peers() {
    let mut raw = member(Config::default());
    for kind in [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgCheckQuorum,
        MessageType::MsgUnreachable,
        MessageType::MsgStorageAppendResp,
        MessageType::MsgStorageApplyResp,
    ] {
        assert_eq!(raw.step(message(kind, 1)), Err(Error::StepLocalMsg));
    }
    let mut m = message(MessageType::MsgAppResp, 1);
    m.from = 9;
    assert_eq!(raw.step(m.clone()), Err(Error::StepPeerNotFound));
    m.msg_type = 77;
    assert!(refused(raw.step(m)));
    let mut m = message(MessageType::MsgVote, u64::MAX);
    m.index = u64::MAX;
    assert!(refused(raw.step(m)), "a term that leaves no next one");
}

#[test]
fn stored_state_that_does_not_fit_is_an_error() {
    let start = |change: fn(&mut Config, &mut MemStorage)| {
        let mut storage = MemStorage::with_conf_state(conf(&[1, 2, 3]));
        storage.append(&[entry(1, 1), entry(2, 1)]).unwrap();
        let mut config = Config {
            id: 1,
            ..Config::default()
        };
        change(&mut config, &mut storage);
        RawNode::new(config, storage).err().map(|e| e.to_string())
    };
    assert_eq!(start(|_, _| {}), None);
    let commit = start(|_, s| {
        s.set_hard_state(HardState {
            term: 1,
            vote: 0,
            commit: 3,
        });
    });
    assert!(
        commit
            .unwrap()
            .contains("stored commit index 3 is outside [0, 2]")
    );
    assert!(
        start(|c, _| c.applied = 1)
            .unwrap()
            .contains("applied index 1 is outside [0, 0]")
    );
    assert!(
        start(|c, _| c.id = 0)
            .unwrap()
            .contains("cannot use none as id")
    );
    assert!(start(|c, _| c.election_tick = 1).is_some());
    assert!(start(|_, s| *s = MemStorage::with_conf_state(conf(&[1, 1]))).is_some());
}

/// Whatever the fields hold, in whatever role: no panic.
#[test]
fn random_messages_never_panic() {
    let mut state = 7u64;
    let mut next = move |n: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % n
    };
    for round in 0..300 {
        let mut raw = member(Config {
            check_quorum: round % 2 == 0,
            pre_vote: round % 4 == 1,
            max_inflight_msgs: 2,
            ..Config::default()
        });
        if round % 4 == 0 {
            elect(&mut raw);
        }
        for _ in 0..100 {
            let mut number = || match next(8) {
                0 => u64::MAX - next(3),
                1 => u64::MAX / 2 - next(2),
                _ => next(9),
            };
            let mut m = Message {
                msg_type: 0,
                to: 1,
                from: number(),
                term: number().min(raw_term_bound(&raw)),
                log_term: number(),
                index: number(),
                commit: number(),
                reject_hint: number(),
                vote: number(),
                ..Message::default()
            };
            let (first, snapshot) = (m.index, (number(), number()));
            m.msg_type = next(25) as i32;
            m.reject = next(2) == 0;
            m.context = Bytes::from(vec![next(3) as u8; next(12) as usize]);
            m.entries = (0..next(4))
                .map(|i| Entry {
                    entry_type: next(4) as i32,
                    term: next(9),
                    index: if next(3) == 0 {
                        next(9)
                    } else {
                        first.wrapping_add(i + 1)
                    },
                    data: Bytes::from(vec![next(20) as u8; next(4) as usize]),
                })
                .collect();
            if next(2) == 0 {
                m.snapshot = Some(Snapshot {
                    data: Bytes::new(),
                    metadata: (next(3) > 0).then(|| SnapshotMetadata {
                        conf_state: (next(3) > 0).then(|| ConfState {
                            voters: (0..next(4)).map(|_| next(5)).collect(),
                            learners: (0..next(2)).map(|_| next(5)).collect(),
                            voters_outgoing: (0..next(3)).map(|_| next(5)).collect(),
                            learners_next: (0..next(2)).map(|_| next(5)).collect(),
                            auto_leave: next(2) == 0,
                        }),
                        index: snapshot.0,
                        term: snapshot.1,
                    }),
                });
            }
            // Only this process speaks for its own threads: the transport sees to that.
            if m.from < u64::MAX - 1 {
                let _ = raw.step(m);
            }
            raw.tick();
            if next(3) == 0 {
                work(&mut raw);
            }
        }
    }
}

/// Most messages keep to a term near the member's, or they would all be refused for it.
fn raw_term_bound(raw: &RawNode<MemStorage>) -> u64 {
    raw.term().saturating_add(1)
}
