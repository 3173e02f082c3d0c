//! A leader that removes itself from a cluster of two: the other one has the entry, and learns that it is
//! committed only from the leader. Alone it could elect nobody, for it would need the vote of who is gone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ferrite_membership::{Cluster, parse_initial_cluster};
use ferrite_node::stage::raft::{Effects, Input};
use ferrite_node::stage::{apply, log};
use ferrite_proto::raftpb::{ConfChange, ConfChangeType, Message};
use ferrite_sim::member::{Member, initial_cluster, name};
use ferrite_sim::plan::Plan;
use ferrite_sim::prng::Prng;

/// Part of the second after which a member that was removed stops; too short for the other one to stand for election.
const TICKS_LEFT: usize = 3;

struct Two {
    members: Vec<Member>,
    inputs: Vec<Vec<Input<u64>>>,
    /// What leaves the members reaches nobody.
    silent: bool,
    now: Instant,
}

impl Two {
    fn start() -> Two {
        let pairs = parse_initial_cluster(&initial_cluster(2)).expect("flags");
        let cluster = Cluster::from_initial_cluster("simulated", &pairs).expect("a cluster");
        let plan = Plan::draw(&mut Prng::new(1));
        let now = Instant::now();
        let members = (0..2).map(|place| {
            let id = cluster.member_by_name(&name(place)).expect("a member").id;
            let mut member = Member::new(place, 2, id, &plan, 1, None).expect("a disk");
            member.start(7, &plan, now, None).expect("it starts");
            member
        });
        Two {
            members: members.collect(),
            inputs: vec![Vec::new(), Vec::new()],
            silent: false,
            now,
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = self.members.iter().position(|m| m.id == message.to);
            if let (Some(to), false) = (to, self.silent) {
                self.inputs[to].push(Input::Peer(message));
            }
        }
    }

    /// Runs one member until it has nothing to do, all that is its own included.
    fn run(&mut self, place: usize) {
        while !self.inputs[place].is_empty() {
            let inputs = std::mem::take(&mut self.inputs[place]);
            let now = self.now;
            let stages = &mut self.members[place]
                .running
                .as_mut()
                .expect("it runs")
                .stages;
            let effects: Effects<u64> = stages.raft.step(inputs);
            let mut jobs: VecDeque<_> = effects
                .persist
                .into_iter()
                .map(log::Input::Persist)
                .collect();
            let written = stages.log.step(&mut jobs).expect("a disk");
            let mut own: Vec<Input<u64>> = written
                .persisted
                .into_iter()
                .map(Input::Persisted)
                .collect();
            for job in effects.apply {
                let applied = stages
                    .apply
                    .step(apply::Input::Apply(job), || now, |_| false, |_, _, _| {})
                    .expect("entries");
                own.extend(applied.raft);
            }
            self.inputs[place].extend(own);
            self.send(effects.send);
            self.send(written.to_peers);
        }
    }

    fn tick(&mut self) {
        self.now += Duration::from_millis(100);
        for place in 0..2 {
            self.inputs[place].push(Input::Tick {
                disk_stalled: false,
            });
        }
        self.settle();
    }

    fn settle(&mut self) {
        while self.inputs.iter().any(|inputs| !inputs.is_empty()) {
            self.run(0);
            self.run(1);
        }
    }

    fn members_known_to(&self, place: usize) -> usize {
        let running = self.members[place].running.as_ref().expect("it runs");
        running.stages.apply.applier().cluster().members.len()
    }

    fn leads(&self, place: usize) -> bool {
        let running = self.members[place].running.as_ref().expect("it runs");
        running.stages.raft.leadership().is_leader
    }
}

#[test]
fn it_tells_the_one_that_is_left_before_it_stops() {
    let mut two = Two::start();
    let leader = loop {
        two.tick();
        if let Some(leader) = (0..2).find(|place| two.leads(*place)) {
            break leader;
        }
    };
    two.tick();
    let other = 1 - leader;
    let change = ConfChange {
        id: 9,
        change_type: ConfChangeType::ConfChangeRemoveNode as i32,
        node_id: two.members[leader].id,
        ..ConfChange::default()
    };
    two.inputs[leader].push(Input::ProposeConfChange(change));
    two.run(leader);
    two.run(other);
    // The acknowledgement arrives; what the leader says to it does not.
    two.silent = true;
    two.run(leader);
    assert_eq!(
        (two.members_known_to(leader), two.members_known_to(other)),
        (1, 2)
    );
    two.silent = false;
    for _ in 0..TICKS_LEFT {
        two.tick();
    }
    assert_eq!(two.members_known_to(other), 1, "nobody has told it");
}
