//! `.snap` files: the envelope, the snapshot in it, and the membership in that.

use std::path::Path;
use std::sync::Arc;

use ferrite_membership::v2store;
use ferrite_proto::{raftpb, snappb, walpb};
use ferrite_wal::memfs::MemFs;
use ferrite_wal::snap::{self, SnapDir};
use prost::Message;

use crate::{Target, feature};

/// See the module.
pub const TARGET: Target = Target {
    name: "snap",
    about: "a `.snap` file: any bytes, or any content in an envelope whose checksum holds",
    run,
    seeds,
    len_max: 4096,
};

fn run(bytes: &[u8]) {
    let Some((style, rest)) = bytes.split_first() else {
        return;
    };
    let file = if style & 1 == 0 {
        rest.to_vec()
    } else {
        let data = if style & 2 == 0 {
            rest.to_vec()
        } else {
            snapshot(rest).encode_to_vec()
        };
        snappb::Snapshot {
            crc: crc32c::crc32c(&data),
            data: Some(data.into()),
        }
        .encode_to_vec()
    };
    match snap::decode("x.snap".as_ref(), &file) {
        Ok(snapshot) => {
            feature("decoded");
            if let Err(error) = v2store::is_meta_only(&snapshot.data) {
                feature(&error.to_string());
            }
            match v2store::decode(&snapshot.data) {
                Ok(mut cluster) => {
                    feature("a membership");
                    // As in the original, a name without URLs for clients is not written.
                    for member in cluster.members.values_mut() {
                        if member.client_urls.is_empty() {
                            member.name.clear();
                        }
                    }
                    let again = v2store::decode(&v2store::encode(&cluster))
                        .unwrap_or_else(|error| panic!("what we write cannot be read: {error}"));
                    assert_eq!(again.members, cluster.members, "written and read again");
                }
                Err(error) => feature(&error.to_string()),
            }
        }
        Err(error) => feature(&error.to_string()),
    }
    // In its folder: beside a sound one it must not stand in the way of that.
    let fs = MemFs::new(1);
    fs.put(Path::new("/snap/.keep"), b"");
    let dir = SnapDir::new(Arc::new(fs.clone()), Path::new("/snap"));
    let sound = snapshot(b"{}");
    if dir.save(&sound).is_err() {
        panic!("a sound snapshot is saved");
    }
    fs.put(
        Path::new("/snap/0000000000000009-0000000000000009.snap"),
        &file,
    );
    let newest = dir.load_newest();
    let record = walpb::Snapshot {
        index: 5,
        term: 1,
        conf_state: None,
    };
    let matching = dir.load_newest_matching(&[record]);
    assert!(matching.is_ok(), "the sound one is found beside this one");
    assert!(newest.is_ok(), "one of the two is found");
}

fn snapshot(data: &[u8]) -> raftpb::Snapshot {
    raftpb::Snapshot {
        data: data.to_vec().into(),
        metadata: Some(raftpb::SnapshotMetadata {
            index: 5,
            term: 1,
            conf_state: None,
        }),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let captured: [&[u8]; 2] = [
        include_bytes!("../../../wal/tests/fixtures/etcd-3.5.1.snap"),
        include_bytes!("../../../wal/tests/fixtures/etcd-3.4.23.snap"),
    ];
    let mut seeds = Vec::new();
    for file in captured {
        seeds.push([&[0], file].concat());
        if let Ok(snapshot) = snap::decode("captured".as_ref(), file) {
            // The history of events is long and read by nobody.
            if let Ok(cluster) = v2store::decode(&snapshot.data) {
                let json = v2store::encode(&cluster);
                seeds.push([&[3], &json[..json.len().min(2048)]].concat());
            }
        }
    }
    let small = r#"{"Root":{"Path":"/","Children":{"0":{"Path":"/0","Children":{"members":{"Path":"/0/members","Children":{"8e9e05c52164694d":{"Path":"/0/members/8e9e05c52164694d","Children":{"attributes":{"Path":"/0/members/8e9e05c52164694d/attributes","Value":"{\"name\":\"a\",\"clientURLs\":[\"http://a:1\"]}"},"raftAttributes":{"Path":"/0/members/8e9e05c52164694d/raftAttributes","Value":"{\"peerURLs\":[\"http://a:2\"]}"}}}}},"removed_members":{"Path":"/0/removed_members","Children":{"1":{"Path":"/0/removed_members/1"}}},"version":{"Path":"/0/version","Value":"3.5.0"}}},"1":{"Path":"/1"}}}}"#;
    seeds.push([&[3], small.as_bytes()].concat());
    seeds.push([&[1], snapshot(small.as_bytes()).encode_to_vec().as_slice()].concat());
    seeds
}
