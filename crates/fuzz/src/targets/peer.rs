//! What other members send: the two codecs of streams, fed in pieces, and every decoded message into a
//! consensus core that must survive it.

use bytes::BytesMut;
use ferrite_peer::codec::{AppDecoder, AppEncoder, MessageDecoder, encode_message};
use ferrite_proto::raftpb::{
    ConfState, Entry, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use ferrite_raft::{Config, MemStorage, RawNode, Storage, decode_conf_change};

use crate::{Target, feature};

/// The stream of appends.
pub const MSGAPP: Target = Target {
    name: "msgapp_stream",
    about: "a stream of appends in its stateful form, in pieces, each message into a consensus core",
    run: msgapp,
    seeds: msgapp_seeds,
    len_max: 4096,
};

/// The stream of all other messages.
pub const MESSAGES: Target = Target {
    name: "message_stream",
    about: "a stream of messages, in pieces, each into a consensus core",
    run: messages,
    seeds: message_seeds,
    len_max: 4096,
};

/// Messages handed to the core at most: it does real work for each.
const STEPS_MAX: usize = 64;

/// Member 1 of 1, 2 and 3, with the entries 1 to 5 of which 3 are committed.
struct Core {
    raw: RawNode<MemStorage>,
    steps: usize,
    /// Term and vote, and what is committed: none of it is ever taken back.
    before: (u64, u64, u64),
}

impl Core {
    fn new() -> Self {
        let mut storage = MemStorage::with_conf_state(ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        });
        let entries: Vec<Entry> = (1..=5).map(|index| entry(index, 1, b"")).collect();
        storage
            .append(&entries)
            .unwrap_or_else(|error| panic!("an empty log takes entries: {error}"));
        storage.set_hard_state(HardState {
            term: 1,
            vote: 0,
            commit: 3,
        });
        let config = Config {
            id: 1,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let raw = RawNode::new(config, storage)
            .unwrap_or_else(|error| panic!("a sound core starts: {error}"));
        let mut core = Core {
            raw,
            steps: 0,
            before: (0, 0, 0),
        };
        core.work();
        core
    }

    fn step(&mut self, message: Message) {
        if self.steps == STEPS_MAX {
            return;
        }
        self.steps += 1;
        let kind = message.msg_type;
        match self.raw.step(message) {
            Ok(()) => feature(&format!("taken {}", "k".repeat(kind.clamp(0, 32) as usize))),
            Err(error) => feature(&error.to_string()),
        }
        self.work();
    }

    fn work(&mut self) {
        let mut rounds = 0;
        while self.raw.has_ready() {
            rounds += 1;
            assert!(rounds < 1_000, "a core that never has done all its work");
            let ready = self.raw.ready();
            if let Some(state) = ready.hard_state {
                let (term, vote, commit) = self.before;
                assert!(
                    state.term >= term && state.commit >= commit,
                    "taken back: {:?} after {:?}",
                    state,
                    self.before
                );
                assert!(
                    state.term > term || vote == 0 || state.vote == vote,
                    "a second vote in term {term}"
                );
                self.before = (state.term, state.vote, state.commit);
                self.raw.storage_mut().set_hard_state(state);
            }
            if let Some(snapshot) = ready.snapshot {
                feature("a snapshot");
                self.raw
                    .storage_mut()
                    .apply_snapshot(snapshot)
                    .unwrap_or_else(|error| panic!("a snapshot handed out is in order: {error}"));
            }
            self.raw
                .storage_mut()
                .append(&ready.entries)
                .unwrap_or_else(|error| panic!("entries handed out fit: {error}"));
            for entry in &ready.committed_entries {
                feature("committed");
                if let Ok(change) = decode_conf_change(entry)
                    && let Err(error) = self.raw.apply_conf_change(&change)
                {
                    feature(&error.to_string());
                }
            }
            self.raw.advance();
        }
        let last = self.raw.storage().last_index();
        let commit = self.raw.basic_status().hard_state.commit;
        assert!(commit <= last, "committed {commit}, the log ends at {last}");
    }
}

/// The pieces in which the bytes arrive: the first byte says how long they are.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (size, rest) = bytes
        .split_first()
        .map_or((1, bytes), |(size, rest)| (usize::from(*size), rest));
    rest.chunks(size.max(1) * 4)
}

fn msgapp(bytes: &[u8]) {
    let mut decoder = AppDecoder::new(1, 2);
    let mut core = Core::new();
    let mut all = Vec::new();
    'stream: for chunk in chunks(bytes) {
        decoder.feed(chunk);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => {
                    all.push(message.clone());
                    core.step(message);
                }
                Ok(None) => break,
                Err(error) => {
                    feature(&error.to_string());
                    break 'stream;
                }
            }
        }
    }
    // What was understood is understood again when we say it. The short form says by whom and to whom by the
    // connection alone, and of entries no more than that they follow each other: a message that says otherwise
    // is none that we send.
    let (mut encoder, mut decoder) = (AppEncoder::default(), AppDecoder::new(1, 2));
    for message in all {
        let ours = message.msg_type == MessageType::MsgApp as i32
            && (message.from, message.to) == (2, 1)
            && message.term != 0
            && follow(&message);
        if !ours {
            continue;
        }
        let mut out = BytesMut::new();
        encoder.encode(&message, &mut out);
        decoder.feed(&out);
        match decoder.next_message() {
            Ok(Some(again)) => {
                assert_eq!(again.entries, message.entries, "said again");
                assert_eq!(
                    (again.term, again.log_term, again.index, again.commit),
                    (
                        message.term,
                        message.log_term,
                        message.index,
                        message.commit
                    ),
                    "said again"
                );
            }
            Ok(None) => panic!("half a message came out of an encoder"),
            Err(error) => panic!("what we encode we cannot read: {error}"),
        }
    }
}

fn follow(message: &Message) -> bool {
    message
        .entries
        .iter()
        .zip(1u64..)
        .all(|(entry, at)| Some(entry.index) == message.index.checked_add(at))
}

fn messages(bytes: &[u8]) {
    let mut decoder = MessageDecoder::new(1 << 20);
    let mut core = Core::new();
    for chunk in chunks(bytes) {
        decoder.feed(chunk);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => {
                    let mut out = BytesMut::new();
                    encode_message(&message, &mut out);
                    let mut second = MessageDecoder::new(1 << 21);
                    second.feed(&out);
                    match second.next_message() {
                        Ok(Some(again)) => assert_eq!(again, message, "said again"),
                        other => panic!("what we encode we cannot read: {other:?}"),
                    }
                    core.step(message);
                }
                Ok(None) => break,
                Err(error) => return feature(&error.to_string()),
            }
        }
    }
}

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry {
        index,
        term,
        data: data.to_vec().into(),
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

fn append(term: u64, index: u64, entries: &[Entry], commit: u64) -> Message {
    Message {
        log_term: term,
        index,
        entries: entries.to_vec(),
        commit,
        ..message(MessageType::MsgApp, term)
    }
}

fn msgapp_seeds() -> Vec<Vec<u8>> {
    let stream = |messages: &[Message]| {
        let (mut encoder, mut out) = (AppEncoder::default(), BytesMut::new());
        out.extend_from_slice(&[255]);
        for message in messages {
            encoder.encode(message, &mut out);
        }
        out.to_vec()
    };
    let first = Message {
        log_term: 1,
        ..append(2, 5, &[entry(6, 2, b"a")], 5)
    };
    vec![
        stream(&[
            first.clone(),
            append(2, 6, &[entry(7, 2, b"b"), entry(8, 2, b"")], 6),
            ferrite_peer::codec::link_heartbeat(),
            append(2, 8, &[], 8),
        ]),
        stream(&[
            first,
            append(3, 4, &[entry(5, 3, b"other"), entry(6, 3, b"")], 9),
        ]),
    ]
}

fn message_seeds() -> Vec<Vec<u8>> {
    let kinds = [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgProp,
        MessageType::MsgApp,
        MessageType::MsgAppResp,
        MessageType::MsgVote,
        MessageType::MsgVoteResp,
        MessageType::MsgSnap,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResp,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        MessageType::MsgTransferLeader,
        MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
        MessageType::MsgPreVote,
        MessageType::MsgPreVoteResp,
    ];
    let mut seeds = Vec::new();
    let mut all = BytesMut::new();
    all.extend_from_slice(&[2]);
    for kind in kinds {
        let mut one = message(kind, 2);
        one.index = 5;
        one.log_term = 1;
        one.commit = 5;
        one.context = vec![1; 8].into();
        if kind == MessageType::MsgProp {
            one.term = 0;
            one.entries = vec![entry(0, 0, b"proposed")];
        }
        if kind == MessageType::MsgSnap {
            one.snapshot = Some(Snapshot {
                data: Default::default(),
                metadata: Some(SnapshotMetadata {
                    index: 9,
                    term: 2,
                    conf_state: Some(ConfState {
                        voters: vec![1, 2],
                        ..ConfState::default()
                    }),
                }),
            });
        }
        encode_message(&one, &mut all);
        let mut alone = BytesMut::new();
        alone.extend_from_slice(&[255]);
        encode_message(&one, &mut alone);
        seeds.push(alone.to_vec());
    }
    seeds.push(all.to_vec());
    // Elected, then answered.
    let mut led = BytesMut::new();
    led.extend_from_slice(&[255]);
    for one in [
        message(MessageType::MsgTimeoutNow, 1),
        message(MessageType::MsgVoteResp, 2),
        Message {
            index: 6,
            ..message(MessageType::MsgAppResp, 2)
        },
        Message {
            reject: true,
            reject_hint: 2,
            index: 6,
            ..message(MessageType::MsgAppResp, 2)
        },
    ] {
        encode_message(&one, &mut led);
    }
    seeds.push(led.to_vec());
    seeds
}
