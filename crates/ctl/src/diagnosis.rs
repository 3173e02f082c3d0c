//! What is wrong with a cluster, in words, from what its members say of themselves.

use std::collections::BTreeSet;

use ferrite_client::pb;

use crate::gofmt;
use crate::output::At;

/// A member this many entries behind is lagging, not merely a moment later than the others.
const LAG_MAX: u64 = 5000;
/// The part of the quota from which on it is worth a word, in percent.
const FULL_PERCENT: i64 = 80;

/// A sentence for each thing that is wrong; none if all is well. `asked` is how many members there are,
/// `answers` what those said that answered.
pub fn of(asked: usize, answers: &[At<pb::StatusResponse>]) -> Vec<String> {
    let mut found = Vec::new();
    quorum(asked, answers, &mut found);
    leadership(answers, &mut found);
    let newest = answers.iter().map(|a| a.response.raft_index).max();
    for At { endpoint, response } in answers {
        of_member(endpoint, response, newest.unwrap_or(0), &mut found);
    }
    let versions: BTreeSet<&str> = answers.iter().map(|a| &a.response.version[..]).collect();
    if versions.len() > 1 {
        let versions: Vec<&str> = versions.into_iter().collect();
        found.push(format!(
            "the members run different versions ({}): finish the upgrade",
            versions.join(", ")
        ));
    }
    found
}

fn quorum(asked: usize, answers: &[At<pb::StatusResponse>], found: &mut Vec<String>) {
    let silent = asked.saturating_sub(answers.len());
    if silent == 0 {
        return;
    }
    let voters = asked - answers.iter().filter(|a| a.response.is_learner).count();
    let standing = answers.iter().filter(|a| !a.response.is_learner).count();
    let quorum = voters / 2 + 1;
    let rest = match standing.checked_sub(quorum) {
        None => format!(
            "no quorum: {quorum} of {voters} are needed, nothing can be written; start the missing members, or restore a snapshot if they are lost"
        ),
        Some(0) => "the next loss stops all writes".to_owned(),
        Some(spare) => format!("{spare} more may be lost before writes stop"),
    };
    found.push(format!(
        "{silent} of {asked} members did not answer: {rest}"
    ));
}

fn leadership(answers: &[At<pb::StatusResponse>], found: &mut Vec<String>) {
    let without: Vec<&str> = answers
        .iter()
        .filter(|a| a.response.leader == 0)
        .map(|a| &a.endpoint[..])
        .collect();
    if !without.is_empty() {
        found.push(format!(
            "{} knows no leader: an election is going on, or it does not reach the others at their peer URLs",
            without.join(", ")
        ));
    }
    let leaders: BTreeSet<u64> = answers.iter().map(|a| a.response.leader).collect();
    let leaders: Vec<String> = leaders
        .into_iter()
        .filter(|id| *id != 0)
        .map(|id| format!("{id:x}"))
        .collect();
    if leaders.len() > 1 {
        found.push(format!(
            "the members name different leaders ({}): an election has just been, or these endpoints are of several clusters",
            leaders.join(", ")
        ));
    }
    let clusters: BTreeSet<u64> = answers
        .iter()
        .filter_map(|a| Some(a.response.header.as_ref()?.cluster_id))
        .collect();
    if clusters.len() > 1 {
        found.push("the endpoints belong to different clusters".to_owned());
    }
}

fn of_member(endpoint: &str, r: &pb::StatusResponse, newest: u64, found: &mut Vec<String>) {
    let way_out = |error: &str| {
        if error.contains("NOSPACE") {
            "; compact, defrag, then \"etcdctl alarm disarm\""
        } else if error.contains("CORRUPT") {
            "; remove the member, empty its folder, and add it again"
        } else {
            ""
        }
    };
    for error in &r.errors {
        found.push(format!("{endpoint} says: {error}{}", way_out(error)));
    }
    let behind = newest.saturating_sub(r.raft_applied_index);
    if behind > LAG_MAX {
        found.push(format!(
            "{endpoint} is {behind} entries behind: its disk or its network is slow, or it has just started"
        ));
    }
    if r.is_learner {
        found.push(format!(
            "{endpoint} is a learner and has no vote: \"etcdctl member promote\" once it has caught up"
        ));
    }
    let size = |bytes: i64| gofmt::size(u64::try_from(bytes).unwrap_or(0));
    if r.db_size_quota > 0 && r.db_size >= r.db_size_quota / 100 * FULL_PERCENT {
        found.push(format!(
            "{endpoint} holds {} of the {} its database may take: compact and defrag, or raise --quota-backend-bytes",
            size(r.db_size),
            size(r.db_size_quota)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(endpoint: &str) -> At<pb::StatusResponse> {
        At {
            endpoint: endpoint.to_owned(),
            response: pb::StatusResponse {
                version: "3.7.1".to_owned(),
                leader: 1,
                raft_index: 10_000,
                raft_applied_index: 9_999,
                db_size: 10,
                db_size_quota: 1000,
                ..Default::default()
            },
        }
    }

    #[test]
    fn of_a_healthy_cluster_there_is_nothing_to_say() {
        assert!(of(3, &[member("a"), member("b"), member("c")]).is_empty());
    }

    #[test]
    fn each_trouble_has_its_sentence() {
        let says = |asked, answers: &[At<pb::StatusResponse>], words: &str| {
            let found = of(asked, answers);
            assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
        };
        says(
            3,
            &[member("a"), member("b")],
            "the next loss stops all writes",
        );
        says(3, &[member("a")], "no quorum: 2 of 3 are needed");
        says(
            5,
            &[member("a"), member("b"), member("c"), member("d")],
            "1 more may be lost",
        );
        let with = |change: fn(&mut pb::StatusResponse)| {
            let mut second = member("b");
            change(&mut second.response);
            [member("a"), second]
        };
        says(2, &with(|r| r.leader = 0), "b knows no leader");
        says(2, &with(|r| r.leader = 2), "different leaders (1, 2)");
        says(
            2,
            &with(|r| r.raft_applied_index = 1),
            "b is 9999 entries behind",
        );
        says(2, &with(|r| r.is_learner = true), "b is a learner");
        says(2, &with(|r| r.db_size = 900), "b holds 900 B of the 1.0 kB");
        says(2, &with(|r| r.version = "3.6.0".into()), "(3.6.0, 3.7.1)");
        says(
            2,
            &with(|r| r.errors.push("memberID:1 alarm:NOSPACE ".into())),
            "alarm disarm",
        );
    }
}
