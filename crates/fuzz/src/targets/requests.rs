//! Requests: as clients send them, through the checks of the services, and as entries of the log.

use ferrite_mvcc::kv;
use ferrite_proto::etcdserverpb as pb;
use prost::Message;

use crate::input::{Input, put_piece};
use crate::solo::{self, Solo, Stopped};
use crate::{Target, feature};

/// Requests of clients.
pub const TARGET: Target = Target {
    name: "requests",
    about: "requests of clients in protobuf: decoded, checked, put into the log, applied, and there after a crash",
    run: requests,
    seeds,
    len_max: 2048,
};

/// Entries of the log.
pub const ENTRIES: Target = Target {
    name: "entries",
    about: "entries of the log with any content: applied or named, and told in words",
    run: entries,
    seeds: entry_seeds,
    len_max: 2048,
};

/// Requests of one input: each is written to a disk, if one in memory.
const REQUESTS_MAX: usize = 24;

fn decoded<T: Message + Default>(bytes: &[u8]) -> Option<T> {
    match T::decode(bytes) {
        Ok(request) => Some(request),
        Err(error) => {
            feature(&error.to_string());
            None
        }
    }
}

/// A request as its service would put it into the log; none when the service refuses it.
fn admitted(kind: u8, bytes: &[u8]) -> Option<pb::InternalRaftRequest> {
    let mut request = pb::InternalRaftRequest::default();
    let checked = |checked: Result<(), ferrite_mvcc::RequestError>| {
        if let Err(error) = &checked {
            feature(&error.to_string());
        }
        checked.ok()
    };
    match kind % 16 {
        0 | 1 => {
            let put: pb::PutRequest = decoded(bytes)?;
            kv::put_cost(&put);
            checked(kv::check_put(&put))?;
            request.put = Some(put);
        }
        2 => {
            let delete: pb::DeleteRangeRequest = decoded(bytes)?;
            checked(kv::check_delete(&delete))?;
            request.delete_range = Some(delete);
        }
        3..6 => {
            let txn: pb::TxnRequest = decoded(bytes)?;
            kv::txn_cost(&txn);
            checked(kv::check_txn(&txn, 128))?;
            request.txn = Some(txn);
        }
        6 => request.compaction = Some(decoded(bytes)?),
        7 => {
            let grant: pb::LeaseGrantRequest = decoded(bytes)?;
            request.lease_grant = Some(grant);
        }
        8 => request.lease_revoke = Some(decoded(bytes)?),
        9 => request.alarm = Some(decoded(bytes)?),
        10 => request.lease_checkpoint = Some(decoded(bytes)?),
        11 => request.auth_user_add = Some(decoded(bytes)?),
        12 => request.auth_role_add = Some(decoded(bytes)?),
        13 => request.auth_role_grant_permission = Some(decoded(bytes)?),
        14 => request.auth_user_grant_role = Some(decoded(bytes)?),
        _ => request.auth_role_revoke_permission = Some(decoded(bytes)?),
    }
    Some(request)
}

/// Reads that go past the log.
fn read(solo: &Solo, kind: u8, bytes: &[u8]) {
    let store = solo.applier().store();
    if kind.is_multiple_of(2) {
        if let Some(range) = decoded::<pb::RangeRequest>(bytes)
            && kv::check_range(&range).is_ok()
        {
            match kv::range(store, &range) {
                Ok(found) => crate::count("found", found.kvs.len()),
                Err(error) => feature(&error.to_string()),
            }
        }
    } else if let Some(txn) = decoded::<pb::TxnRequest>(bytes)
        && kv::check_txn(&txn, 128).is_ok()
        && kv::is_txn_readonly(&txn)
    {
        kv::is_txn_serializable(&txn);
        match kv::range_txn(store, &txn) {
            Ok(found) => crate::count("found in a txn", found.responses.len()),
            Err(error) => feature(&error.to_string()),
        }
    }
}

/// What must be the same after a crash.
fn state(solo: &Solo) -> (i64, Option<u32>, String, Vec<(i64, i64)>) {
    let store = solo.applier().store();
    let hash = store.hash_kv(0).ok().map(|hash| hash.hash);
    let leases = solo.applier().lessor();
    let mut ids: Vec<(i64, i64)> = leases
        .ids()
        .into_iter()
        .map(|id| (id, leases.ttl_seconds(id).unwrap_or(-1)))
        .collect();
    ids.sort_unstable();
    (
        store.current_revision(),
        hash,
        format!("{:?}", solo.applier().auth().status()),
        ids,
    )
}

fn requests(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let fs = solo::disk(1).unwrap_or_else(|error| panic!("a disk in memory: {error}"));
    let mut solo = started(Solo::start(&fs, 1));
    for id in 1..=REQUESTS_MAX as u64 {
        if input.is_done() {
            break;
        }
        let kind = input.byte();
        let piece = input.piece();
        if kind >= 224 {
            read(&solo, kind, piece);
            continue;
        }
        let Some(mut request) = admitted(kind, piece) else {
            continue;
        };
        request.header = Some(pb::RequestHeader {
            id,
            ..pb::RequestHeader::default()
        });
        match solo.propose(id, request.encode_to_vec()) {
            Ok(Some(Ok(_))) => feature(&format!("done {}", "k".repeat(usize::from(kind % 16)))),
            Ok(Some(Err(error))) => feature(&error.to_string()),
            Ok(None) => feature("no answer"),
            Err(stopped) => {
                panic!("a request that the service admits stops the member: {stopped:?}")
            }
        }
    }
    let before = state(&solo);
    drop(solo);
    fs.crash();
    let after = state(&started(Solo::start(&fs, 2)));
    assert_eq!(before, after, "after a crash");
}

fn started(outcome: Result<Solo, Stopped>) -> Solo {
    outcome.unwrap_or_else(|stopped| panic!("it starts: {stopped:?}"))
}

fn entries(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let fs = solo::disk(1).unwrap_or_else(|error| panic!("a disk in memory: {error}"));
    let mut solo = started(Solo::start(&fs, 1));
    let mut id = 0;
    while !input.is_done() && id < REQUESTS_MAX as u64 {
        id += 1;
        let data = input.piece().to_vec();
        let request = pb::InternalRaftRequest::decode(data.as_slice());
        if let Ok(request) = &request {
            // The line of the log that a slow request gets.
            crate::count("words", ferrite_proto::loggable::internal(request).len());
        }
        match solo.propose(id, data) {
            Ok(Some(Ok(_))) => feature("done"),
            Ok(Some(Err(error))) => feature(&error.to_string()),
            Ok(None) => feature("no answer"),
            Err(Stopped::Apply(reason)) => return feature(&reason),
            Err(stopped) => panic!("an entry stops the member in another way: {stopped:?}"),
        }
    }
    let before = state(&solo);
    drop(solo);
    fs.crash();
    let after = state(&started(Solo::start(&fs, 2)));
    assert_eq!(before, after, "after a crash");
}

fn one(out: &mut Vec<u8>, kind: u8, request: &impl Message) {
    out.push(kind);
    put_piece(out, &request.encode_to_vec());
}

fn put(key: &str, value: &str, lease: i64) -> pb::PutRequest {
    pb::PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        lease,
        ..pb::PutRequest::default()
    }
}

fn txn() -> pb::TxnRequest {
    let inner = pb::TxnRequest {
        success: vec![operation(put("c", "3", 0))],
        ..pb::TxnRequest::default()
    };
    pb::TxnRequest {
        compare: vec![pb::Compare {
            result: pb::compare::CompareResult::Greater as i32,
            target: pb::compare::CompareTarget::Version as i32,
            key: b"a"[..].to_vec().into(),
            target_union: Some(pb::compare::TargetUnion::Version(0)),
            ..pb::Compare::default()
        }],
        success: vec![
            operation(put("b", "2", 0)),
            pb::RequestOp {
                request: Some(pb::request_op::Request::RequestTxn(inner)),
            },
        ],
        failure: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestDeleteRange(
                pb::DeleteRangeRequest {
                    key: b"a"[..].to_vec().into(),
                    range_end: b"c"[..].to_vec().into(),
                    prev_kv: true,
                },
            )),
        }],
    }
}

fn operation(put: pb::PutRequest) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put)),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    one(&mut keys, 7, &pb::LeaseGrantRequest { id: 5, ttl: 60 });
    one(&mut keys, 0, &put("a", "1", 5));
    one(&mut keys, 3, &txn());
    let range = pb::RangeRequest {
        key: b"a"[..].to_vec().into(),
        range_end: vec![0].into(),
        limit: 2,
        revision: 2,
        sort_order: 1,
        sort_target: 4,
        ..pb::RangeRequest::default()
    };
    one(&mut keys, 224, &range);
    let reading = pb::TxnRequest {
        success: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestRange(range)),
        }],
        ..pb::TxnRequest::default()
    };
    one(&mut keys, 225, &reading);
    one(
        &mut keys,
        6,
        &pb::CompactionRequest {
            revision: 2,
            physical: true,
        },
    );
    one(&mut keys, 8, &pb::LeaseRevokeRequest { id: 5 });
    let mut users = Vec::new();
    let user = pb::AuthUserAddRequest {
        name: "root".into(),
        options: Some(ferrite_proto::authpb::UserAddOptions { no_password: true }),
        ..pb::AuthUserAddRequest::default()
    };
    one(&mut users, 11, &user);
    one(&mut users, 12, &pb::AuthRoleAddRequest { name: "r".into() });
    let permission = pb::AuthRoleGrantPermissionRequest {
        name: "r".into(),
        perm: Some(ferrite_proto::authpb::Permission {
            perm_type: 2,
            key: b"a"[..].to_vec().into(),
            range_end: b"m"[..].to_vec().into(),
        }),
    };
    one(&mut users, 13, &permission);
    one(
        &mut users,
        14,
        &pb::AuthUserGrantRoleRequest {
            user: "root".into(),
            role: "r".into(),
        },
    );
    one(
        &mut users,
        9,
        &pb::AlarmRequest {
            action: 1,
            member_id: 1,
            alarm: 1,
        },
    );
    one(&mut users, 0, &put("x", "y", 0));
    vec![keys, users]
}

fn entry_seeds() -> Vec<Vec<u8>> {
    let header = |id| {
        Some(pb::RequestHeader {
            id,
            ..pb::RequestHeader::default()
        })
    };
    let mut all = Vec::new();
    for request in [
        pb::InternalRaftRequest {
            header: header(1),
            put: Some(put("a", "1", 0)),
            ..Default::default()
        },
        pb::InternalRaftRequest {
            header: header(2),
            txn: Some(txn()),
            ..Default::default()
        },
        pb::InternalRaftRequest {
            header: header(3),
            range: Some(pb::RangeRequest {
                key: b"a"[..].to_vec().into(),
                ..Default::default()
            }),
            ..Default::default()
        },
        pb::InternalRaftRequest {
            header: header(4),
            auth_role_add: Some(pb::AuthRoleAddRequest { name: "r".into() }),
            ..Default::default()
        },
    ] {
        put_piece(&mut all, &request.encode_to_vec());
    }
    let v2 = b"\x08\x01\x12\x03PUT\x1a\x0a/0/version\x22\x053.5.0";
    let mut old = Vec::new();
    put_piece(&mut old, v2);
    vec![all, old, vec![0, 0]]
}
