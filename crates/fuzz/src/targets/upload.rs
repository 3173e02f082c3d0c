//! The upload of a database by a member that calls itself leader: the message before it, the file, and the
//! check that stands between it and the place of this member's own.

use std::path::Path;

use ferrite_node::engine::read_only;
use ferrite_node::recover::FileFacts;
use ferrite_node::snapshot;
use ferrite_peer::codec::MessageDecoder;
use ferrite_proto::raftpb::{Message, MessageType, Snapshot, SnapshotMetadata};
use ferrite_wal::fs::{Fs, Open, read_all};

use crate::input::{Input, put_piece};
use crate::solo::{self, Solo};
use crate::{Target, feature};

/// See the module.
pub const TARGET: Target = Target {
    name: "upload",
    about: "a raft snapshot: its message and its database, the database a sound one with patches, or any bytes",
    run,
    seeds,
    len_max: 2048,
};

const PAGE: usize = 4096;

/// A database that a member of this project has written, and the index in it.
fn database() -> &'static (Vec<u8>, u64, u64) {
    static MADE: std::sync::OnceLock<(Vec<u8>, u64, u64)> = std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        let fs = solo::disk(1).unwrap_or_else(|error| panic!("a disk in memory: {error}"));
        let mut solo =
            Solo::start(&fs, 1).unwrap_or_else(|stopped| panic!("it starts: {stopped:?}"));
        for id in 1..30 {
            let put = ferrite_proto::etcdserverpb::PutRequest {
                key: format!("k{}", id % 7).into_bytes().into(),
                value: vec![b'v'; 300].into(),
                ..Default::default()
            };
            let request = ferrite_proto::etcdserverpb::InternalRaftRequest {
                id,
                put: Some(put),
                ..Default::default()
            };
            let data = prost::Message::encode_to_vec(&request);
            if let Err(stopped) = solo.propose(id, data) {
                panic!("it takes puts: {stopped:?}");
            }
        }
        if let Err(stopped) = solo.flush() {
            panic!("it writes its database: {stopped:?}");
        }
        let member = solo.applier().cluster().members.keys().next().copied();
        let index = solo.applier().progress().index;
        let bytes = read_all(&fs, &solo::config().database())
            .unwrap_or_else(|error| panic!("its database is there: {error}"));
        (bytes, index, member.unwrap_or(0))
    })
}

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let style = input.byte();
    let (sound, index, member) = database();
    let head = input.piece();
    let mut decoder = MessageDecoder::new(1 << 20);
    if style & 1 == 0 {
        let mut out = bytes::BytesMut::new();
        ferrite_peer::codec::encode_message(&message(*index), &mut out);
        decoder.feed(&out);
    } else {
        decoder.feed(head);
    }
    let message = match decoder.next_message() {
        Ok(Some(message)) => message,
        Ok(None) => return feature("half a message"),
        Err(error) => return feature(&error.to_string()),
    };
    let file = if style & 2 == 0 {
        let mut file = sound.clone();
        while !input.is_done() {
            let at = input.below(file.len() / PAGE) * PAGE + input.below(PAGE);
            let patch = input.piece();
            let to = (at + patch.len()).min(file.len());
            file[at..to].copy_from_slice(&patch[..to - at]);
        }
        file.truncate(sound.len() - usize::from(style >> 4) * 1024);
        file
    } else {
        input.rest().to_vec()
    };
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => panic!("a folder for the file: {error}"),
    };
    let path = folder.path().join("received");
    if let Err(error) = std::fs::write(&path, &file) {
        panic!("the file is written: {error}");
    }
    match snapshot::check(&path, *member, &message) {
        Err(reason) => feature(&reason),
        Ok(()) => {
            feature("accepted");
            adopt(&path, &file);
        }
    }
}

/// What passed the check takes the place of a member's database; the member starts from it or says why not.
fn adopt(path: &Path, file: &[u8]) {
    if let Ok(view) = read_only(path)
        && let Ok(facts) = FileFacts::read(&view)
    {
        crate::count("members", facts.cluster(1).members.len());
    }
    let fs = solo::disk(2).unwrap_or_else(|error| panic!("a disk in memory: {error}"));
    match Solo::start(&fs, 1) {
        Ok(solo) => drop(solo),
        Err(stopped) => panic!("it starts: {stopped:?}"),
    }
    let written = fs
        .open(&solo::config().database(), Open::Create)
        .and_then(|database| {
            database.write_at(0, file)?;
            database.sync()
        });
    if let Err(error) = written {
        panic!("the file takes the place: {error}");
    }
    match Solo::start(&fs, 2) {
        Ok(_) => feature("started from it"),
        Err(stopped) => feature(&format!("{stopped:?}")),
    }
}

fn message(index: u64) -> Message {
    Message {
        msg_type: MessageType::MsgSnap as i32,
        to: 1,
        from: 2,
        term: 2,
        snapshot: Some(Snapshot {
            data: Default::default(),
            metadata: Some(SnapshotMetadata {
                index,
                term: 2,
                conf_state: None,
            }),
        }),
        ..Message::default()
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let (sound, index, _) = database();
    let mut said = bytes::BytesMut::new();
    ferrite_peer::codec::encode_message(&message(*index), &mut said);
    let mut whole = vec![1];
    put_piece(&mut whole, &said);
    let mut seeds = vec![vec![0, 0], whole, vec![0x40, 0]];
    for page in 0..(sound.len() / PAGE).min(24) {
        let mut seed = vec![0, 0];
        seed.extend((page as u16).to_le_bytes());
        seed.extend([0, 0]);
        put_piece(&mut seed, &sound[page * PAGE..][..48]);
        seeds.push(seed);
    }
    seeds
}
