//! Whatever bytes come from disk or the wire, decoding them answers and never panics.

use ferrite_membership::{
    Cluster, ConfChangeContext, Member, Version, bucket, decode_v2_request, parse_initial_cluster,
    v2store,
};
use ferrite_proto::raftpb::ConfChange;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in -1..6i32, id in 0..3u64) {
        // Any answer will do.
        let _ = decode_v2_request(&bytes);
        let _ = v2store::decode(&bytes);
        let _ = Member::from_json(&bytes);
        let _ = bucket::decode_member(&bytes, &bytes);
        let _ = bucket::decode_removed(&bytes);
        let mut cluster = Cluster::from_members(1, [Member { id: 1, ..Member::default() }]);
        let change = ConfChange { id: 0, change_type: kind, node_id: id, context: bytes.into() };
        let before = cluster.clone();
        if cluster.apply_conf_change(&change).is_err() {
            prop_assert_eq!(cluster, before);
        }
    }

    #[test]
    fn random_text(text in "[a-c0-9=,:/.@\\[\\] é]{0,40}") {
        let _ = text.parse::<Version>();
        if let Ok(pairs) = parse_initial_cluster(&text) {
            let _ = Cluster::from_initial_cluster("t", &pairs);
        }
    }

    #[test]
    fn members_read_back(id in any::<u64>(), peer_urls in proptest::collection::vec(".{0,12}", 0..3),
                         is_learner in any::<bool>(), name in ".{0,12}", client_urls in proptest::collection::vec(".{0,12}", 0..3)) {
        let member = Member { id, peer_urls, is_learner, name, client_urls };
        let json = member.to_json();
        prop_assert_eq!(Member::from_json(json.as_bytes()).expect("reads"), member.clone());
        let context = ConfChangeContext::from_json(json.as_bytes()).expect("reads");
        prop_assert_eq!(context, ConfChangeContext { member: member.clone(), is_promote: false });
        let cluster = Cluster::from_members(0, [member.clone()]);
        let back = v2store::decode(&v2store::encode(&cluster)).expect("reads");
        // A name without client URLs has not been published.
        if !member.client_urls.is_empty() {
            prop_assert_eq!(back, cluster);
        }
    }
}
