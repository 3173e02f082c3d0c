//! From a stored configuration back to the tracker's, by the changes that lead to it.

use ferrite_proto::raftpb::{ConfChangeSingle, ConfChangeType, ConfState};

use super::{Changed, Changer};
use crate::tracker::ProgressTracker;

/// Builds the stored configuration on an empty tracker.
pub(crate) fn restore(mut empty: ProgressTracker, last_index: u64, cs: &ConfState) -> Changed {
    let change = |kind: ConfChangeType| {
        move |&node_id: &u64| ConfChangeSingle {
            change_type: kind as i32,
            node_id,
        }
    };
    let add = change(ConfChangeType::ConfChangeAddNode);
    let learn = change(ConfChangeType::ConfChangeAddLearnerNode);
    let drop = change(ConfChangeType::ConfChangeRemoveNode);

    // First the outgoing voters, one by one, as if they were the configuration. (Voters may be added to
    // an empty configuration; a learner may not come first.)
    let outgoing = cs.voters_outgoing.iter().map(add);
    // Then all of them out and the incoming members in, in one joint step or, if there is nothing to
    // leave, again one by one.
    let incoming: Vec<_> = cs
        .voters_outgoing
        .iter()
        .map(drop)
        .chain(cs.voters.iter().map(add))
        .chain(cs.learners.iter().map(learn))
        .chain(cs.learners_next.iter().map(learn))
        .collect();

    let joint = !cs.voters_outgoing.is_empty();
    let singles: Vec<_> = if joint {
        outgoing.collect()
    } else {
        incoming.clone()
    };
    for single in singles {
        let changer = Changer {
            tracker: &empty,
            last_index,
        };
        (empty.config, empty.progress) = changer.simple(&[single])?;
    }
    if joint {
        let changer = Changer {
            tracker: &empty,
            last_index,
        };
        return changer.enter_joint(cs.auto_leave, &incoming);
    }
    Ok((empty.config, empty.progress))
}

/// Whether two stored configurations mean the same, whatever the order of their lists.
pub(crate) fn equivalent(a: &ConfState, b: &ConfState) -> bool {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    sorted(&a.voters) == sorted(&b.voters)
        && sorted(&a.learners) == sorted(&b.learners)
        && sorted(&a.voters_outgoing) == sorted(&b.voters_outgoing)
        && sorted(&a.learners_next) == sorted(&b.learners_next)
        && a.auto_leave == b.auto_leave
}
