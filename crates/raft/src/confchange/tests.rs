//! Changes given as text: `v1` voter, `l1` learner, `r1` removed, `u1` updated.

use ferrite_proto::raftpb::ConfState;

use super::*;

fn changes(text: &str) -> Vec<ConfChangeSingle> {
    let parse = |token: &str| {
        let kind = match &token[..1] {
            "v" => ConfChangeType::ConfChangeAddNode as i32,
            "l" => ConfChangeType::ConfChangeAddLearnerNode as i32,
            "r" => ConfChangeType::ConfChangeRemoveNode as i32,
            "u" => ConfChangeType::ConfChangeUpdateNode as i32,
            _ => 99,
        };
        ConfChangeSingle {
            change_type: kind,
            node_id: token[1..].parse().unwrap(),
        }
    };
    text.split_whitespace().map(parse).collect()
}

/// Runs commands (`simple …`, `joint …`, `autojoint …`, `leave`) and gives the last one's outcome.
fn run(commands: &[&str]) -> String {
    let mut tracker = ProgressTracker::new(10, 0);
    let mut outcome = String::new();
    for (i, command) in commands.iter().enumerate() {
        let changer = Changer {
            tracker: &tracker,
            last_index: i as u64,
        };
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let changed = match verb {
            "simple" => changer.simple(&changes(rest)),
            "joint" => changer.enter_joint(false, &changes(rest)),
            "autojoint" => changer.enter_joint(true, &changes(rest)),
            _ => changer.leave_joint(),
        };
        outcome = match changed {
            Ok((cfg, progress)) => {
                (tracker.config, tracker.progress) = (cfg, progress);
                let ids: Vec<_> = tracker.progress.keys().collect();
                format!("{} {ids:?}", tracker.config)
            }
            Err(e) => e.to_string(),
        };
    }
    outcome
}

#[test]
fn simple_changes_move_one_voter_at_a_time() {
    assert_eq!(run(&["simple v1"]), "voters=(1) [1]");
    assert_eq!(
        run(&["simple v1", "simple v2 l3"]),
        "voters=(1 2) learners=(3) [1, 2, 3]"
    );
    assert_eq!(
        run(&["simple v1", "simple v2 l3", "simple v3"]),
        "voters=(1 2 3) [1, 2, 3]"
    );
    assert_eq!(
        run(&["simple v1", "simple v2", "simple l2"]),
        "voters=(1) learners=(2) [1, 2]"
    );
    assert_eq!(
        run(&["simple v1", "simple v2", "simple r2", "simple r2"]),
        "voters=(1) [1]"
    );
    assert_eq!(run(&["simple v1", "simple u7 v0"]), "voters=(1) [1]");
    let refused = "conf change refused: more than one voter changed without entering joint config";
    assert_eq!(run(&["simple v1", "simple v2 v3"]), refused);
    assert_eq!(
        run(&["simple v1", "simple r1"]),
        "conf change refused: removed all voters"
    );
    assert_eq!(
        run(&["simple l1"]),
        "conf change refused: removed all voters"
    );
    assert_eq!(
        run(&["simple v1", "simple x2"]),
        "conf change refused: unexpected conf type 99"
    );
}

#[test]
fn joint_changes_keep_both_halves_until_left() {
    let enter = ["simple v1", "simple v2", "simple v3", "joint r1 v4 l5 l3"];
    let joint = "voters=(2 4)&&(1 2 3) learners=(5) learners_next=(3) [1, 2, 3, 4, 5]";
    assert_eq!(run(&enter), joint);
    let left = "voters=(2 4) learners=(3 5) [2, 3, 4, 5]";
    assert_eq!(run(&[&enter[..], &["leave"]].concat()), left);
    let twice = [&enter[..], &["joint v9"]].concat();
    assert_eq!(run(&twice), "conf change refused: config is already joint");
    let simple = [&enter[..], &["simple v9"]].concat();
    assert_eq!(
        run(&simple),
        "conf change refused: can't apply simple config change in joint config"
    );
    assert_eq!(
        run(&["simple v1", "leave"]),
        "conf change refused: can't leave a non-joint config"
    );
    assert_eq!(
        run(&["joint v1"]),
        "conf change refused: can't make a zero-voter config joint"
    );
    assert_eq!(
        run(&["simple v1", "autojoint v2"]),
        "voters=(1 2)&&(1) autoleave [1, 2]"
    );
    assert_eq!(
        run(&["simple v1", "autojoint v2", "leave"]),
        "voters=(1 2) [1, 2]"
    );
}

#[test]
fn a_learner_to_be_can_be_made_voter_again_or_removed() {
    let enter = ["simple v1", "simple v2", "joint l2"];
    assert_eq!(run(&enter), "voters=(1)&&(1 2) learners_next=(2) [1, 2]");
    let simple = ["simple v1", "simple v2", "joint l2 v2"];
    assert_eq!(run(&simple), "voters=(1 2)&&(1 2) [1, 2]");
    let removed = ["simple v1", "simple v2", "joint l2 r2", "leave"];
    assert_eq!(run(&removed), "voters=(1) [1]");
}

#[test]
fn stored_configurations_come_back() {
    let lists: [[&[u64]; 4]; 5] = [
        [&[], &[], &[], &[]],
        [&[1, 2, 3], &[], &[], &[]],
        [&[1, 2, 3], &[4, 5], &[], &[]],
        [&[1, 2, 3], &[5], &[1, 2, 4, 6], &[4]],
        [&[9], &[], &[1], &[]],
    ];
    for [voters, learners, outgoing, next] in lists {
        for auto_leave in [false, true] {
            let cs = ConfState {
                voters: voters.to_vec(),
                learners: learners.to_vec(),
                voters_outgoing: outgoing.to_vec(),
                learners_next: next.to_vec(),
                auto_leave: auto_leave && !outgoing.is_empty(),
            };
            let (config, _) = restore(ProgressTracker::new(1, 0), 10, &cs).unwrap();
            assert!(equivalent(&cs, &config.conf_state()), "{cs:?}");
        }
    }
}

#[test]
fn nonsense_from_the_wire_is_refused_or_told_apart() {
    let cs = ConfState {
        voters: vec![],
        learners: vec![1],
        ..ConfState::default()
    };
    assert!(restore(ProgressTracker::new(1, 0), 10, &cs).is_err());
    let cs = ConfState {
        voters: vec![1, 1],
        learners: vec![1],
        ..ConfState::default()
    };
    let same = restore(ProgressTracker::new(1, 0), 10, &cs)
        .is_ok_and(|(config, _)| equivalent(&cs, &config.conf_state()));
    assert!(!same);
}
