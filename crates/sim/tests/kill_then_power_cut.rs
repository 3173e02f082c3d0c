//! What a member found on its disk at a start it may acknowledge without writing it again: a power cut
//! later must not take it away. (After a kill, the last writes are in the page cache only.)

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use ferrite_node::stage::log::Input;
use ferrite_node::stage::raft::PersistJob;
use ferrite_proto::raftpb::{Entry, HardState};
use ferrite_sim::member::Member;
use ferrite_sim::plan::Plan;
use ferrite_sim::prng::Prng;

fn job(index: u64) -> Input {
    let entry = |index| Entry {
        index,
        term: 2,
        data: Bytes::from(vec![0x11; 300]),
        ..Entry::default()
    };
    Input::Persist(PersistJob {
        hard_state: Some(HardState {
            term: 2,
            vote: 0,
            commit: 1,
        }),
        entries: vec![entry(index), entry(index + 1)],
        must_sync: true,
        ..PersistJob::default()
    })
}

/// Starts the member and says where its log ends.
fn start(member: &mut Member, plan: &Plan) -> u64 {
    member
        .start(1, plan, Instant::now(), None)
        .expect("the member starts");
    member
        .running
        .as_ref()
        .map_or(0, |running| running.stages.raft.core().last_index())
}

#[test]
fn what_a_start_has_found_stays() {
    let mut grown = 0;
    for operations in 0..60 {
        for seed in 0..8 {
            let plan = Plan {
                segment_bytes: 3_000,
                ..Plan::draw(&mut Prng::new(seed))
            };
            let mut member = Member::new(0, 1, 0, &plan, seed, None).expect("an empty disk");
            let first = start(&mut member, &plan);
            member.disk.fail_after(Some(operations));
            let mut next = first + 1;
            while let Some(running) = &mut member.running {
                let mut batch = VecDeque::from([job(next)]);
                if running.stages.log.step(&mut batch).is_err() {
                    break;
                }
                next += 2;
            }
            member.crash(false);
            let found = start(&mut member, &plan);
            grown += u64::from(found >= next);
            member.crash(true);
            let left = start(&mut member, &plan);
            assert!(
                left >= found,
                "after {operations} operations, seed {seed}: the log ended at {found}, and at {left} after a power cut"
            );
        }
    }
    assert!(grown > 0, "no kill left anything unsynced that was found");
}
