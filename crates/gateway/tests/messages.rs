//! Messages as JSON and back, held against the code that everything else uses; and garbage.

use bytes::Bytes;
use ferrite_gateway::websocket::Frames;
use ferrite_gateway::{Broken, Form, Route, Values, find, routes, to_json, to_message};
use ferrite_proto::etcdserverpb as pb;
use ferrite_proto::mvccpb::KeyValue;
use pb::request_op::Request as Op;
use proptest::prelude::*;
use prost::Message as _;

fn route(path: &str) -> Route {
    find(path).unwrap_or_else(|| panic!("no route {path}"))
}

fn read<M: prost::Message + Default>(path: &str, json: &str) -> Result<M, String> {
    match to_message(json.as_bytes(), route(path).method.input) {
        Ok(bytes) => Ok(M::decode(Bytes::from(bytes)).expect("a message")),
        Err(broken) => Err(broken.to_string()),
    }
}

fn written(path: &str, message: &impl prost::Message, form: Form) -> String {
    let json = to_json(&message.encode_to_vec(), route(path).method.output, form);
    String::from_utf8(json.expect("a message")).expect("text")
}

#[test]
fn fields_are_read_by_both_names_and_in_every_form() {
    for json in [
        r#"{"key":"YQ==","range_end":"_-8","limit":"10","sort_order":"DESCEND","sort_target":3,"keys_only":true}"#,
        r#"{"key":"YQ","rangeEnd":"/+8=","limit":1e1,"sortOrder":2,"sortTarget":"MOD","keysOnly":true,
            "revision":null,"nobody":[{"knows":"this"}],"count_only":false}"#,
        "{\"key\":\"\\u0059Q=\\n=\\n\\r\\n\",\"range_end\":\"_-8=\",\"limit\":100.0e-1,\"sort_order\":2,\"sort_target\":3.0,\"keys_only\":true}",
    ] {
        let request: pb::RangeRequest = read("kv/range", json).expect(json);
        let wanted = pb::RangeRequest {
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(&[255, 239]),
            limit: 10,
            sort_order: 2,
            sort_target: 3,
            keys_only: true,
            ..Default::default()
        };
        assert_eq!(request, wanted, "{json}");
    }
    let request: pb::LeaseGrantRequest = read(
        "lease/grant",
        r#"{"ID":"-9223372036854775808","TTL":9223372036854775807}"#,
    )
    .expect("a request");
    assert_eq!((request.id, request.ttl), (i64::MIN, i64::MAX));
    let request: pb::MemberRemoveRequest =
        read("cluster/member/remove", r#"{"ID":18446744073709551615}"#).expect("a request");
    assert_eq!(request.id, u64::MAX);
    let request: pb::WatchRequest = read(
        "watch",
        r#"{"createRequest":{"key":"YQ==","filters":["NODELETE",0,"NOBODY"],"prevKv":true}}"#,
    )
    .expect("a request");
    let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = request.request_union else {
        panic!("{request:?}");
    };
    assert_eq!((create.filters, create.prev_kv), (vec![1, 0], true));
    // A choice is there even where it says nothing.
    let request: pb::TxnRequest = read(
        "kv/txn",
        r#"{"compare":[{"version":0}],"success":[{"request_txn":{}}]}"#,
    )
    .expect("a request");
    let target = request.compare[0].target_union.clone();
    assert_eq!(target, Some(pb::compare::TargetUnion::Version(0)));
    assert!(matches!(
        request.success[0].request,
        Some(Op::RequestTxn(_))
    ));
}

#[test]
fn what_does_not_fit_is_named_in_protobufs_words() {
    for (path, json, wanted) in [
        (
            "kv/range",
            "1",
            "proto: syntax error (line 1:1): unexpected token 1",
        ),
        (
            "kv/range",
            "\"x\"",
            "proto: syntax error (line 1:1): unexpected token \"x\"",
        ),
        (
            "kv/range",
            "{\n\n  \"limit\": \"1 \"}",
            "proto: (line 3:12): invalid value for int64 field limit: \"1 \"",
        ),
        (
            "kv/range",
            "{\"sort_order\": {}}",
            "proto: (line 1:16): invalid value for enum field sortOrder: {",
        ),
        (
            "kv/range",
            "{\"sort_order\": 1.5}",
            "proto: (line 1:16): invalid value for enum field sortOrder: 1.5",
        ),
        (
            "cluster/member/remove",
            "{\"ID\":-1}",
            "proto: (line 1:7): invalid value for uint64 field ID: -1",
        ),
        (
            "cluster/member/add",
            "{\"peerURLs\":[1]}",
            "proto: (line 1:14): invalid value for string field peerURLs: 1",
        ),
        (
            "kv/txn",
            "{\"success\":[null]}",
            "proto: syntax error (line 1:13): unexpected token null",
        ),
        (
            "auth/user/get",
            "{\"ä\":1,\"name\":\"\\ud800\\u0041\"}",
            "proto: syntax error (line 1:15): invalid escape code \"\\\\u0041\" in string",
        ),
    ] {
        let found = read::<pb::RangeRequest>(path, json);
        assert_eq!(found.unwrap_err(), wanted, "{json}");
    }
    let broken = to_message(b"{\"name\":\"\xff\"}", route("auth/user/get").method.input);
    let wanted = "proto: syntax error (line 1:9): invalid UTF-8 in string";
    assert_eq!(broken, Err(Broken::Nonsense(wanted.to_owned())));
    let deep = format!(
        "{}{{}}{}",
        "{\"success\":[{\"request_txn\":".repeat(60),
        "}]}".repeat(60)
    );
    let found = read::<pb::TxnRequest>("kv/txn", &deep);
    assert_eq!(found.unwrap_err(), "proto: exceeded max recursion depth");
}

#[test]
fn answers_say_what_is_there_and_nothing_else() {
    let header = Some(pb::ResponseHeader {
        cluster_id: u64::MAX,
        member_id: 1,
        revision: -1,
        raft_term: 0,
    });
    let kv = KeyValue {
        key: Bytes::from_static(b"a"),
        version: 1,
        ..Default::default()
    };
    let range = pb::RangeResponse {
        header,
        kvs: vec![kv.clone(), KeyValue::default(), kv],
        more: true,
        count: 3,
    };
    assert_eq!(
        written("kv/range", &range, Form::Body),
        "{\"header\":{\"cluster_id\":\"18446744073709551615\",\"member_id\":\"1\",\"revision\":\"-1\"},\
         \"kvs\":[{\"key\":\"YQ==\",\"version\":\"1\"},{},{\"key\":\"YQ==\",\"version\":\"1\"}],\
         \"more\":true,\"count\":\"3\"}"
    );
    let alarm = pb::AlarmResponse {
        header: None,
        alarms: vec![
            pb::AlarmMember {
                member_id: 5,
                alarm: 1,
            },
            pb::AlarmMember {
                member_id: 6,
                alarm: 77,
            },
        ],
    };
    assert_eq!(
        written("maintenance/alarm", &alarm, Form::Body),
        r#"{"alarms":[{"memberID":"5","alarm":"NOSPACE"},{"memberID":"6","alarm":77}]}"#
    );
    let hash = pb::HashKvResponse {
        hash: u32::MAX,
        ..Default::default()
    };
    assert_eq!(
        written("maintenance/hashkv", &hash, Form::Body),
        r#"{"hash":4294967295}"#
    );
    let watch = pb::WatchResponse {
        canceled: true,
        cancel_reason: "<a> & \u{1}\"b\"".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        written("watch", &watch, Form::Line),
        "{\"result\":{\"canceled\":true,\"cancel_reason\":\"\\u003ca\\u003e \\u0026 \\u0001\\\"b\\\"\"}}\n"
    );
    assert_eq!(
        written(
            "maintenance/defragment",
            &pb::DefragmentResponse::default(),
            Form::Body
        ),
        "{}"
    );
    let output = route("kv/range").method.output;
    for garbage in [
        &b"\x0a\xff"[..],
        b"\x0b",
        b"\x0a\x01\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        assert!(to_json(garbage, output, Form::Body).is_err(), "{garbage:?}");
    }
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn operation() -> impl Strategy<Value = pb::RequestOp> {
    let leaf = prop_oneof![
        (bytes(), bytes(), any::<i64>(), any::<bool>()).prop_map(
            |(key, range_end, limit, keys_only)| {
                Op::RequestRange(pb::RangeRequest {
                    key,
                    range_end,
                    limit,
                    keys_only,
                    ..Default::default()
                })
            }
        ),
        (bytes(), bytes(), any::<i64>()).prop_map(|(key, value, lease)| {
            Op::RequestPut(pb::PutRequest {
                key,
                value,
                lease,
                ..Default::default()
            })
        }),
        bytes().prop_map(|key| Op::RequestDeleteRange(pb::DeleteRangeRequest {
            key,
            ..Default::default()
        })),
    ];
    let op = leaf.prop_map(|request| pb::RequestOp {
        request: Some(request),
    });
    op.prop_recursive(3, 12, 4, |inner| {
        prop::collection::vec(inner, 0..4).prop_map(|success| pb::RequestOp {
            request: Some(Op::RequestTxn(pb::TxnRequest {
                success,
                ..Default::default()
            })),
        })
    })
}

proptest! {
    /// A request that is written as JSON is read as the same request.
    #[test]
    fn requests_survive_the_way_there_and_back(
        success in prop::collection::vec(operation(), 0..4),
        failure in prop::collection::vec(operation(), 0..4),
    ) {
        let txn = pb::TxnRequest { success, failure, ..Default::default() };
        let input = route("kv/txn").method.input;
        let json = to_json(&txn.encode_to_vec(), input, Form::Body).expect("a message");
        serde_json::from_slice::<serde_json::Value>(&json).expect("JSON");
        let mut values = Values::new(1 << 20);
        values.push(&json);
        let value = values.next_value().expect("a value").expect("whole");
        prop_assert_eq!(&value, &json);
        let back = to_message(&value, input).expect("a request");
        prop_assert_eq!(pb::TxnRequest::decode(Bytes::from(back)).expect("a message"), txn);
    }

    /// Whatever comes is an error or a value, whichever message it is taken for.
    #[test]
    fn garbage_is_refused(
        pieces in prop::collection::vec(prop_oneof![
            any::<Vec<u8>>(),
            "[\\[\\]{}\":,0-9eE+.\\\\unltrfas -]{0,12}".prop_map(String::into_bytes),
            Just(b"{\"key\":".to_vec()),
            Just(b"{\"success\":[{\"request_txn\":".to_vec()),
            Just(b"\"\\ud83d\\ude00\"".to_vec()),
        ], 0..12),
    ) {
        let garbage = pieces.concat();
        let mut values = Values::new(1 << 10);
        values.push(&garbage);
        let mut taken = 0;
        while let Ok(Some(value)) = values.next_value() {
            prop_assert!(!value.is_empty());
            for route in routes() {
                let _either = to_message(&value, route.method.input);
            }
            taken += 1;
            prop_assert!(taken <= garbage.len());
        }
        let _either = values.end();
        for route in routes() {
            let _either = to_message(&garbage, route.method.input);
            let _either = to_json(&garbage, route.method.output, Form::Line);
        }
        let mut frames = Frames::new(1 << 10);
        frames.push(&garbage);
        while let Ok(Some(_)) = frames.next_said() {}
    }
}
