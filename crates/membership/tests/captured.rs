//! Membership bytes held against what etcd 3.4.23 and 3.5.1 wrote.

use ferrite_membership::{
    Cluster, ConfChangeContext, Member, V2Request, Version, conf_change_for_bootstrap,
    decode_v2_request, parse_initial_cluster, v2store,
};
use ferrite_proto::raftpb::ConfChange;
use prost::Message;

const SNAP_351: &[u8] = include_bytes!("fixtures/etcd-3.5.1.v2store.json");
const SNAP_3423: &[u8] = include_bytes!("fixtures/etcd-3.4.23.v2store.json");

fn one_member(version: Version) -> Cluster {
    let member = Member {
        id: 0x9e73_7feb_b6b9_9eee,
        peer_urls: vec!["http://127.0.0.1:22380".into()],
        name: "n1".into(),
        client_urls: vec!["http://127.0.0.1:22379".into()],
        ..Member::default()
    };
    let mut cluster = Cluster::from_members(0, [member]);
    cluster.version = Some(version);
    cluster
}

#[test]
fn v2_documents_of_both_versions_are_read() {
    assert_eq!(
        v2store::decode(SNAP_351).expect("3.5.1"),
        one_member(Version::new(3, 5, 0))
    );
    assert_eq!(
        v2store::decode(SNAP_3423).expect("3.4.23"),
        one_member(Version::new(3, 4, 0))
    );
    assert_eq!(v2store::is_meta_only(SNAP_351), Ok(true));
}

#[test]
fn the_v2_document_has_etcds_bytes() {
    let ours = v2store::encode(&one_member(Version::new(3, 5, 0)));
    assert_eq!(
        String::from_utf8_lossy(&ours),
        String::from_utf8_lossy(SNAP_351)
    );
}

/// ME-35: the figures of the second store are those that its document gives of itself.
#[test]
fn what_is_counted_is_what_the_document_says() {
    let mut cluster = one_member(Version::new(3, 7, 0));
    let silent = Member {
        id: 5,
        ..Member::default()
    };
    cluster.members.insert(5, silent);
    cluster.removed.extend([6, 7]);
    for cluster in [one_member(Version::new(3, 5, 0)), cluster] {
        let v2store::Writes { created, set } = v2store::writes(&cluster);
        let text = String::from_utf8(v2store::encode(&cluster)).expect("text");
        for said in [
            "\"getsFail\":1".to_owned(),
            format!("\"createSuccess\":{created}"),
            format!("\"setsSuccess\":{set}"),
        ] {
            assert!(text.contains(&said), "{said}: {text}");
        }
    }
}

#[test]
fn a_document_reads_back_whatever_is_in_it() {
    let mut cluster = one_member(Version::new(3, 7, 0));
    for id in 1..=3 {
        let peer_urls = vec![
            format!("http://10.0.0.{id}:2380"),
            format!("https://[::1]:{id}"),
        ];
        cluster.members.insert(
            id,
            Member {
                id,
                peer_urls,
                is_learner: id == 2,
                ..Member::default()
            },
        );
    }
    cluster.removed.extend([u64::MAX, 77]);
    assert_eq!(
        v2store::decode(&v2store::encode(&cluster)).expect("reads back"),
        cluster
    );
    assert_eq!(
        v2store::decode(&v2store::encode(&Cluster::default())).expect("empty"),
        Cluster::default()
    );
    // More events than the history holds: it wraps.
    cluster.removed.extend(1000..2200);
    assert_eq!(
        v2store::decode(&v2store::encode(&cluster)).expect("reads back"),
        cluster
    );
}

#[test]
fn damaged_documents_are_errors() {
    assert!(v2store::decode(b"").is_err());
    let text = String::from_utf8_lossy(SNAP_351);
    for (from, to) in [
        ("raftAttributes\":{", "x\":{"),
        ("9e737febb6b99eee\":{", "zz\":{"),
        ("3.5.0\",\"Children", "3\",\"Children"),
    ] {
        let damaged = text.replacen(from, to, 1);
        assert_ne!(damaged, text, "{from}");
        assert!(v2store::decode(damaged.as_bytes()).is_err(), "{from}");
    }
    let with_keys = text.replacen(
        r#""1":{"Path":"/1","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{}"#,
        r#""1":{"Path":"/1","Children":{"k":{"Path":"/1/k","Value":"v","Children":null}}"#,
        1,
    );
    assert_ne!(with_keys, text);
    assert_eq!(v2store::is_meta_only(with_keys.as_bytes()), Ok(false));
}

#[test]
fn bootstrap_entries_have_etcds_bytes() {
    let flag =
        "etcd-00=http://etcd-00:2380,etcd-01=http://etcd-01:2380,etcd-02=http://etcd-02:2380";
    let pairs = parse_initial_cluster(flag).expect("parses");
    let cluster = Cluster::from_initial_cluster("etcd-cluster-1", &pairs).expect("founds");
    assert_eq!(cluster.id, 0x6765_65fa_feda_eb51);
    let entries = conf_change_for_bootstrap(cluster.members.values());
    let captured: [&[u8]; 3] = [
        b"\x08\x00\x10\x00\x18\xcb\xdf\xb8\xd7\xb5\xd2\xbe\xb9\x97\x01\"O{\"id\":10913060357864828875,\"peerURLs\":[\"http://etcd-02:2380\"],\"name\":\"etcd-02\"}",
        b"\x08\x00\x10\x00\x18\x9c\xb8\xa1\xd9\xa9\xd4\x95\xb4\xdc\x01\"O{\"id\":15882039342309858332,\"peerURLs\":[\"http://etcd-01:2380\"],\"name\":\"etcd-01\"}",
        b"\x08\x00\x10\x00\x18\xfd\xd3\x90\xf2\xb2\xb8\xdf\xdd\xf9\x01\"O{\"id\":17995115013337262589,\"peerURLs\":[\"http://etcd-00:2380\"],\"name\":\"etcd-00\"}",
    ];
    assert_eq!(entries.len(), captured.len());
    for (number, (entry, bytes)) in entries.iter().zip(captured).enumerate() {
        assert_eq!(
            (entry.entry_type, entry.term, entry.index),
            (1, 1, number as u64 + 1)
        );
        assert_eq!(entry.data, bytes, "entry {}", number + 1);
    }
    // Applied to an empty state they give the cluster back.
    let mut state = Cluster {
        id: cluster.id,
        ..Cluster::default()
    };
    for entry in &entries {
        state
            .apply_conf_change(&ConfChange::decode(&*entry.data).expect("decodes"))
            .expect("applies");
    }
    assert_eq!(state, cluster);
}

#[test]
fn an_added_learner_has_etcds_context() {
    let learner = Member {
        id: 1_258_847_281_873_409_004,
        peer_urls: vec!["http://127.0.0.1:22999".into()],
        is_learner: true,
        ..Member::default()
    };
    assert_eq!(
        ConfChangeContext::for_member(&learner),
        r#"{"id":1258847281873409004,"peerURLs":["http://127.0.0.1:22999"],"isLearner":true}"#
    );
}

const ATTRIBUTES: &[u8] = b"\x08\x81\x98\xba\xa8\xc0\xc0\xa8\xf7\x9e\x01\x12\x03PUT\x1a&/0/members/9e737febb6b99eee/attributes\"5{\"name\":\"n1\",\"clientURLs\":[\"http://127.0.0.1:22379\"]}(\x002\x008\x00H\x00P\x00X\x00`\x00h\x00p\x00x\x00\x80\x01\x00";
const VERSION: &[u8] = b"\x08\x84\x98\xba\xa8\xc0\xc0\xa8\xf7\x9e\x01\x12\x03PUT\x1a\n/0/version\"\x053.5.0(\x002\x008\x00H\x00P\x00X\x00`\x00h\x00p\x00x\x00\x80\x01\x00";

#[test]
fn old_entries_are_understood_bare_and_wrapped() {
    let attributes = V2Request::SetAttributes {
        id: 0x9e73_7feb_b6b9_9eee,
        name: "n1".into(),
        client_urls: vec!["http://127.0.0.1:22379".into()],
    };
    for (bytes, meaning) in [
        (ATTRIBUTES, attributes),
        (VERSION, V2Request::SetVersion(Version::new(3, 5, 0))),
    ] {
        assert_eq!(decode_v2_request(bytes), Some(meaning.clone()));
        // InternalRaftRequest{id: 1, v2: …}
        let mut wrapped = vec![0x08, 1, 0x12];
        prost::encoding::encode_varint(bytes.len() as u64, &mut wrapped);
        wrapped.extend_from_slice(bytes);
        assert_eq!(decode_v2_request(&wrapped), Some(meaning));
    }
}

#[test]
fn other_entries_are_no_old_requests_or_are_passed_over() {
    // A put of etcd 3.5.1.
    let put = b"\"\x08\n\x02k1\x12\x02v1\xa2\x06\x0b\x08\x85\x98\xba\xa8\xc0\xc0\xa8\xf7\x9e\x01";
    assert_eq!(decode_v2_request(put), None);
    assert_eq!(decode_v2_request(b""), None);
    assert_eq!(decode_v2_request(&[0xff; 9]), None);
    let delete = b"\x12\x06DELETE\x1a\x04/1/k";
    assert_eq!(
        decode_v2_request(delete),
        Some(V2Request::Ignored("DELETE /1/k".into()))
    );
    // A compare-and-swap of the version is none of the two.
    let swap = b"\x12\x03PUT\x1a\n/0/version\"\x053.5.0\x32\x053.4.0";
    assert_eq!(
        decode_v2_request(swap),
        Some(V2Request::Ignored("PUT /0/version".into()))
    );
    for cut in 1..VERSION.len() {
        // Never a panic, and never another version than the one written.
        if let Some(V2Request::SetVersion(version)) = decode_v2_request(&VERSION[..cut]) {
            assert_eq!(version, Version::new(3, 5, 0));
        }
    }
}
