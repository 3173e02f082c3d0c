//! What a leader decides alone counts in the term it was decided in, and in no other.

use bytes::Bytes;
use ferrite_node::stage::raft::{Effects, Input, Params, Persisted, Proposal, RaftStage};
use ferrite_proto::raftpb::{ConfState, HardState};
use ferrite_raft::{Config, MemStorage, RawNode};

type Stage = RaftStage<()>;

fn stage(voters: Vec<u64>) -> Stage {
    let storage = MemStorage::with_conf_state(ConfState {
        voters,
        ..ConfState::default()
    });
    let config = Config {
        id: 1,
        async_storage_writes: true,
        check_quorum: true,
        pre_vote: true,
        step_down_on_removal: true,
        seed: 7,
        ..Config::default()
    };
    let core = RawNode::new(config, storage).unwrap();
    let params = Params {
        id: 1,
        election_ticks: 10,
        read_retry_ticks: 5,
        hold_ticks: 70,
        catchup_entries: 100,
        log_bytes_max: 1 << 20,
        first_read_context: 1,
    };
    RaftStage::new(core, HardState::default(), params)
}

/// One input, and every write it leads to, durable at once.
fn settle(stage: &mut Stage, input: Input<()>) -> Effects<()> {
    let mut all = stage.step([input]);
    let mut jobs = std::mem::take(&mut all.persist);
    while !jobs.is_empty() {
        let done: Vec<_> = jobs
            .drain(..)
            .map(|job| {
                Input::Persisted(Persisted {
                    hard_state: job.hard_state,
                    entries: job.entries,
                    snapshot: job.snapshot,
                    responses: job.responses,
                })
            })
            .collect();
        let mut more = stage.step(done);
        jobs = std::mem::take(&mut more.persist);
        all.apply.append(&mut more.apply);
        all.dropped.append(&mut more.dropped);
    }
    all
}

fn propose(term: u64, id: u64) -> Input<()> {
    let data = Bytes::from(format!("request {id}"));
    let proposal = Proposal { id, data };
    Input::ProposeInTerm { term, proposal }
}

fn applied(effects: &Effects<()>) -> Vec<Bytes> {
    let entries = effects.apply.iter().flat_map(|job| &job.entries);
    entries.map(|entry| entry.data.clone()).collect()
}

#[test]
fn a_leader_takes_a_proposal_of_its_own_term_only() {
    let mut stage = stage(vec![1]);
    let early = settle(&mut stage, propose(0, 1));
    assert_eq!(early.dropped, [1], "nobody leads");
    for _ in 0..100 {
        settle(
            &mut stage,
            Input::Tick {
                disk_stalled: false,
            },
        );
    }
    assert!(stage.leadership().is_leader);
    let term = stage.leadership().term;
    let now = settle(&mut stage, propose(term, 2));
    assert_eq!(applied(&now), ["request 2"]);
    assert!(now.dropped.is_empty());
    for (other, id) in [(term - 1, 3), (term + 1, 4)] {
        let effects = settle(&mut stage, propose(other, id));
        assert_eq!(effects.dropped, [id]);
        assert!(applied(&effects).is_empty());
    }
}

#[test]
fn it_is_neither_held_nor_forwarded_where_nobody_leads() {
    let mut stage = stage(vec![1, 2, 3]);
    let effects = settle(&mut stage, propose(0, 1));
    assert_eq!(effects.dropped, [1]);
    assert!(effects.send.is_empty());
}
