//! What clients saw, and whether a store that answers one request after another could have answered so.
//!
//! etcd says of each answer at which revision it holds, so that nobody has to search for an order: the one it
//! claims is looked at. The writes, as the history of the store tells them, are one after another; each read
//! shows the state at the revision it names; and nothing is placed before what had ended when it began. Where
//! that holds there is such an order, and this is it.

use std::collections::BTreeMap;

/// One call of a client.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it was sent, in nanoseconds of one clock.
    pub began: u64,
    /// When its answer came; none if none came.
    pub ended: Option<u64>,
    /// What was asked, and what the answer was.
    pub what: What,
}

/// What was asked, and what the answer was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A value that no other call writes was put; at this revision, if it was answered.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// When.
        revision: Option<i64>,
    },
    /// A value took the place of another, or did not; both by revision, if it was answered.
    Swap {
        /// The key.
        key: String,
        /// The value that had to be there.
        from: String,
        /// The value put then.
        value: String,
        /// Whether it was, and at which revision the answer holds.
        outcome: Option<(bool, i64)>,
    },
    /// A value was read at a revision. Unanswered reads say nothing.
    Read {
        /// The key.
        key: String,
        /// What was found, and when it was written.
        found: Option<(String, i64)>,
        /// When.
        revision: i64,
    },
}

/// One event of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its revision; each has one.
    pub revision: i64,
    /// The key put.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What was wrong.
pub type Wrong = Vec<String>;

/// Holds the calls against the store's history, which begins with the first event there ever was.
pub fn judge(calls: &[Call], history: &[Event]) -> Wrong {
    let mut wrong = Vec::new();
    let mut by_value: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for event in history {
        if let Some(before) = by_value.insert((&event.key, &event.value), event.revision) {
            wrong.push(format!("{event:?} is there twice: also at {before}"));
        }
    }
    let state_at = |key: &str, revision: i64| {
        let mut last = None;
        for event in history {
            if event.revision > revision {
                break;
            }
            if event.key == key {
                last = Some((event.value.clone(), event.revision));
            }
        }
        last
    };
    // Where each call stands: a write at its revision, a read behind it.
    let mut placed: Vec<(&Call, i64, bool)> = Vec::new();
    let mut asked: BTreeMap<(&str, &str), ()> = BTreeMap::new();
    for call in calls {
        match &call.what {
            What::Put {
                key,
                value,
                revision,
            } => {
                asked.insert((key, value), ());
                match (revision, by_value.get(&(key.as_str(), value.as_str()))) {
                    (Some(said), Some(there)) if said == there => placed.push((call, *there, true)),
                    (Some(_), there) => {
                        wrong.push(format!("lost or moved, there is {there:?}: {call:?}"))
                    }
                    (None, Some(there)) => placed.push((call, *there, true)),
                    (None, None) => {}
                }
            }
            What::Swap {
                key,
                from,
                value,
                outcome,
            } => {
                asked.insert((key, value), ());
                let there = by_value.get(&(key.as_str(), value.as_str())).copied();
                let took =
                    |at: i64| state_at(key, at - 1).is_some_and(|(before, _)| before == *from);
                match (outcome, there) {
                    (Some((true, said)), Some(at)) if *said == at && took(at) => {
                        placed.push((call, at, true))
                    }
                    (Some((false, at)), None) => {
                        if state_at(key, *at).is_some_and(|(value, _)| value == *from) {
                            wrong.push(format!("refused although it was there: {call:?}"));
                        }
                        placed.push((call, *at, false));
                    }
                    (None, Some(at)) if took(at) => placed.push((call, at, true)),
                    (None, None) => {}
                    (_, there) => {
                        wrong.push(format!("there is {there:?}, and that is wrong: {call:?}"))
                    }
                }
            }
            What::Read {
                key,
                found,
                revision,
            } => {
                let there = state_at(key, *revision);
                if there != *found {
                    wrong.push(format!("at {revision} there was {there:?}: {call:?}"));
                }
                placed.push((call, *revision, false));
            }
        }
    }
    for event in history {
        if !asked.contains_key(&(event.key.as_str(), event.value.as_str())) {
            wrong.push(format!("nobody asked for {event:?}"));
        }
    }
    wrong.extend(order(&placed));
    wrong
}

/// Nothing stands before what had ended when it began.
fn order(placed: &[(&Call, i64, bool)]) -> Wrong {
    let mut wrong = Vec::new();
    let mut ends: Vec<(u64, i64, &Call)> = placed
        .iter()
        .filter_map(|(call, revision, _)| Some((call.ended?, *revision, *call)))
        .collect();
    ends.sort_by_key(|(ended, _, _)| *ended);
    let mut begins: Vec<&(&Call, i64, bool)> = placed.iter().collect();
    begins.sort_by_key(|(call, _, _)| call.began);
    let mut ends = ends.into_iter().peekable();
    let mut newest: Option<(i64, &Call)> = None;
    for (call, revision, writes) in begins {
        while let Some((ended, before, other)) = ends.peek()
            && *ended < call.began
        {
            if newest.is_none_or(|(revision, _)| revision < *before) {
                newest = Some((*before, other));
            }
            ends.next();
        }
        // A write has a revision of its own; a read may share that of what it sees.
        if let Some((before, other)) = newest
            && (*revision < before || (*writes && *revision == before))
        {
            wrong.push(format!("{call:?} stands before {other:?}, which had ended"));
        }
    }
    wrong
}

/// Holds what a watcher was told against the store's history: all of it from its first event on, once, in order.
pub fn judge_watch(who: &str, told: &[Event], history: &[Event]) -> Wrong {
    let mut wrong = Vec::new();
    for (at, (told, there)) in told.iter().zip(history).enumerate() {
        if told != there {
            wrong.push(format!(
                "{who}: event {at} was told as {told:?}, it is {there:?}"
            ));
            return wrong;
        }
    }
    if told.len() != history.len() {
        wrong.push(format!(
            "{who}: told {} events of {}",
            told.len(),
            history.len()
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: i64, key: &str, value: &str) -> Event {
        Event {
            revision,
            key: key.into(),
            value: value.into(),
        }
    }

    fn put(began: u64, ended: Option<u64>, key: &str, value: &str, revision: Option<i64>) -> Call {
        Call {
            began,
            ended,
            what: What::Put {
                key: key.into(),
                value: value.into(),
                revision,
            },
        }
    }

    fn read(began: u64, ended: u64, found: Option<(&str, i64)>, revision: i64) -> Call {
        Call {
            began,
            ended: Some(ended),
            what: What::Read {
                key: "k".into(),
                found: found.map(|(value, revision)| (value.into(), revision)),
                revision,
            },
        }
    }

    fn swap(from: &str, value: &str, outcome: Option<(bool, i64)>) -> Call {
        Call {
            began: 50,
            ended: outcome.map(|_| 60),
            what: What::Swap {
                key: "k".into(),
                from: from.into(),
                value: value.into(),
                outcome,
            },
        }
    }

    #[test]
    fn what_one_store_could_have_answered_passes() {
        let history = [event(2, "k", "a"), event(3, "k", "b"), event(4, "k", "c")];
        let calls = [
            put(0, Some(10), "k", "a", Some(2)),
            // Both are under way at once; the second never hears of it.
            put(11, Some(30), "k", "c", Some(4)),
            put(11, None, "k", "b", None),
            // A write that nobody heard of and that never was.
            put(12, None, "k", "never", None),
            read(12, 20, Some(("a", 2)), 2),
            read(13, 35, Some(("b", 3)), 3),
            read(40, 41, Some(("c", 4)), 4),
            swap("a", "unmade", Some((false, 4))),
        ];
        assert_eq!(judge(&calls, &history), Wrong::new());
        assert_eq!(judge_watch("w", &history, &history), Wrong::new());
    }

    #[test]
    fn what_no_store_could_have_answered_is_named() {
        let history = [event(2, "k", "a"), event(3, "k", "b")];
        let first = put(0, Some(10), "k", "a", Some(2));
        let second = put(20, Some(30), "k", "b", Some(3));
        let both = |more: &[Call]| {
            let calls = [&[first.clone(), second.clone()], more].concat();
            judge(&calls, &history).join("\n")
        };
        assert_eq!(both(&[]), "");
        // Stale: b had been answered when this read began.
        assert!(both(&[read(31, 32, Some(("a", 2)), 2)]).contains("which had ended"));
        // Something else than there was at that revision.
        assert!(both(&[read(31, 32, Some(("a", 2)), 3)]).contains("there was"));
        assert!(both(&[read(31, 32, None, 3)]).contains("there was"));
        // Acknowledged and gone.
        assert!(both(&[put(31, Some(32), "k", "gone", Some(4))]).contains("lost"));
        // A comparison that was wrong, either way.
        assert!(both(&[swap("b", "x", Some((false, 3)))]).contains("although it was there"));
        let late = [event(2, "k", "a"), event(3, "k", "b"), event(4, "k", "x")];
        let calls = [
            first.clone(),
            second.clone(),
            swap("a", "x", Some((true, 4))),
        ];
        assert!(judge(&calls, &late).join("\n").contains("that is wrong"));
        // An order against time.
        let calls = [
            put(0, Some(10), "k", "b", Some(3)),
            put(20, Some(30), "k", "a", Some(2)),
        ];
        assert!(
            judge(&calls, &history)
                .join("\n")
                .contains("which had ended")
        );
        // Nobody asked for it; twice the same.
        assert!(
            judge(&[first], &history)
                .join("\n")
                .contains("nobody asked")
        );
        let twice = [event(2, "k", "a"), event(3, "k", "a")];
        assert!(judge(&[], &twice).join("\n").contains("twice"));
        // Watchers: a gap, a repetition, the end missing.
        for told in [
            vec![event(3, "k", "b")],
            vec![event(2, "k", "a"), event(2, "k", "a"), event(3, "k", "b")],
            vec![event(2, "k", "a")],
        ] {
            assert!(!judge_watch("w", &told, &history).is_empty(), "{told:?}");
        }
    }
}
