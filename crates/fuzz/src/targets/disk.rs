//! The disk fails at its n-th operation, the power goes or the process, and the member starts again: what it
//! acknowledged is there, and nothing that nobody asked for.

use std::collections::BTreeMap;

use ferrite_proto::etcdserverpb as pb;
use prost::Message;

use crate::input::Input;
use crate::solo::{self, Solo, Stopped};
use crate::{Target, feature};

/// See the module.
pub const TARGET: Target = Target {
    name: "disk",
    about: "requests on a disk that fails at the n-th operation, through several lives with kills and power cuts",
    run,
    seeds,
    len_max: 1024,
};

/// Lives of one input.
const LIVES_MAX: usize = 6;
/// Steps of one life.
const STEPS_MAX: usize = 40;

type Keys = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the member holds.
fn held(solo: &Solo) -> Keys {
    let all = pb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..pb::RangeRequest::default()
    };
    match ferrite_mvcc::kv::range(solo.applier().store(), &all) {
        Ok(found) => found
            .kvs
            .into_iter()
            .map(|kv| (kv.key.to_vec(), kv.value.to_vec()))
            .collect(),
        Err(error) => panic!("what it holds cannot be read: {error}"),
    }
}

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let fs = solo::disk(1 + u64::from(input.byte()))
        .unwrap_or_else(|error| panic!("a disk in memory: {error}"));
    // What was acknowledged; with it, while a request is under way, what it would lead to.
    let mut acknowledged = Keys::new();
    let mut under_way: Option<Keys> = None;
    let mut id = 0;
    let mut revision = 0;
    for life in 1..=LIVES_MAX as u64 {
        if input.is_done() {
            break;
        }
        let style = input.byte();
        if style & 1 == 0 {
            fs.fail_after(Some(input.below(400) as u64));
        }
        match Solo::start(&fs, life) {
            Ok(mut solo) => {
                let found = held(&solo);
                let expected = found == acknowledged || Some(&found) == under_way.as_ref();
                assert!(
                    expected,
                    "life {life}: found {found:?}, acknowledged {acknowledged:?}, under way {under_way:?}"
                );
                let now = solo.applier().store().current_revision();
                assert!(
                    now >= revision,
                    "life {life}: revision {now} after {revision}"
                );
                acknowledged = found;
                under_way = None;
                for _ in 0..STEPS_MAX {
                    let step = input.byte();
                    if step == 0 {
                        break;
                    }
                    if let Err(stopped) = act(
                        &mut solo,
                        step,
                        &mut input,
                        &mut id,
                        &mut acknowledged,
                        &mut under_way,
                    ) {
                        feature(&format!("{stopped:?}"));
                        assert!(
                            !matches!(stopped, Stopped::Apply(_)),
                            "a failing disk is no reason not to apply: {stopped:?}"
                        );
                        break;
                    }
                    revision = solo.applier().store().current_revision();
                }
            }
            Err(Stopped::Start(reason)) => {
                feature(&reason);
                assert!(
                    style & 1 == 0,
                    "life {life}: on a disk that is well, after what can happen to one: {reason}"
                );
            }
            Err(stopped) => {
                feature(&format!("{stopped:?}"));
                assert!(
                    style & 1 == 0,
                    "life {life}: on a disk that is well: {stopped:?}"
                );
            }
        }
        if style & 2 == 0 {
            fs.crash();
        }
        fs.fail_after(None);
    }
    // At last, on a disk that is well.
    fs.crash();
    let solo = Solo::start(&fs, 99)
        .unwrap_or_else(|stopped| panic!("on a disk that is well again: {stopped:?}"));
    let found = held(&solo);
    assert!(
        found == acknowledged || Some(&found) == under_way.as_ref(),
        "at last: found {found:?}, acknowledged {acknowledged:?}, under way {under_way:?}"
    );
    if let Err(error) = solo.applier().store().hash_kv(0) {
        panic!("the hash: {error}");
    }
}

fn act(
    solo: &mut Solo,
    step: u8,
    input: &mut Input<'_>,
    id: &mut u64,
    acknowledged: &mut Keys,
    under_way: &mut Option<Keys>,
) -> Result<(), Stopped> {
    let mut request = pb::InternalRaftRequest::default();
    let mut next = acknowledged.clone();
    match step % 8 {
        0..4 => {
            let key = vec![b'a' + input.byte() % 8];
            let value = vec![input.byte(); usize::from(step) * 4];
            next.insert(key.clone(), value.clone());
            request.put = Some(pb::PutRequest {
                key: key.into(),
                value: value.into(),
                ..pb::PutRequest::default()
            });
        }
        4 => {
            let (from, to) = (b'a' + input.byte() % 8, b'a' + input.byte() % 8);
            next.retain(|key, _| !(from..to).contains(&key[0]));
            request.delete_range = Some(pb::DeleteRangeRequest {
                key: vec![from].into(),
                // An empty end would be the one key.
                range_end: vec![to].into(),
                ..pb::DeleteRangeRequest::default()
            });
        }
        5 => {
            let revision = solo.applier().store().current_revision() - i64::from(input.byte() % 8);
            request.compaction = Some(pb::CompactionRequest {
                revision,
                physical: step & 8 != 0,
            });
        }
        6 => return solo.defragment(),
        _ => return solo.flush(),
    }
    *id += 1;
    request.header = Some(pb::RequestHeader {
        id: *id,
        ..pb::RequestHeader::default()
    });
    *under_way = Some(next.clone());
    let answer = solo.propose(*id, request.encode_to_vec())?;
    *under_way = None;
    match answer {
        Some(Ok(_)) => *acknowledged = next,
        Some(Err(error)) => feature(&error.to_string()),
        None => feature("no answer"),
    }
    Ok(())
}

fn seeds() -> Vec<Vec<u8>> {
    let mut calm = vec![1, 1];
    for at in 0..30 {
        calm.extend([1 + at % 4, at, at]);
    }
    calm.extend([6, 7, 5, 2, 0]);
    let mut failing = vec![2];
    for life in 0..5u8 {
        failing.extend([0, 40 * life, 0]);
        for at in 0..9 {
            failing.extend([1, at, life]);
        }
        failing.extend([14, 7, 12, 1, 5, 13, 0, 0]);
    }
    let mut killed = vec![3];
    for life in 0..5u8 {
        killed.extend([2, 30 + 17 * life, 0, 1, life, life, 6, 2, 1, 9, 7, 0]);
    }
    vec![calm, failing, killed]
}
