//! What clients asked and saw, and when: nothing else. At the end a search looks for an order of all that is
//! legal for one copy of the keys and in which whoever ended before another began comes first: then the
//! history is linearizable (Wing and Gong's search with Lowe's memory of states already tried, over keys
//! that no operation connects).
//!
//! The search is told in what order to try, by the revisions in the answers, so that it seldom turns back.
//! That is a hint: what it finds is checked step by step, and when it fails every other order is tried.

use std::collections::{BTreeMap, HashSet};

/// Keys there may be.
pub const KEYS_MAX: usize = 10;
/// Steps of a search at most; the revisions lead it through in as many as there are operations.
const STEPS_MAX: usize = 400_000;

/// A comparison of a transaction; key by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The version is this.
    Version(usize, i64),
    /// The value is this one.
    Value(usize, u64),
}

/// A part of an operation. Ranges are half open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Puts a value.
    Put(usize, u64),
    /// Deletes a range.
    Delete(usize, usize),
    /// Reads a range.
    Get(usize, usize),
}

/// An operation: a transaction, or something as simple as one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Op {
    /// All must hold.
    pub compare: Vec<Compare>,
    /// Done if so.
    pub success: Vec<Act>,
    /// Done otherwise.
    pub failure: Vec<Act>,
}

/// What the client saw of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// Keys deleted, by each deletion.
    pub deleted: Vec<i64>,
    /// Key, value and version of what was found, by each read.
    pub got: Vec<Vec<(usize, u64, i64)>>,
}

/// A place in the order to try: revision, and whether it changed nothing.
pub type Hint = (i64, bool);

#[derive(Debug)]
struct Record {
    op: Op,
    began: u64,
    /// Never, for one whose outcome nobody knows.
    ended: u64,
    seen: Option<Seen>,
    hint: Hint,
    dropped: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    records: Vec<Record>,
}

/// Value and version of each key.
type State = [Option<(u64, i64)>; KEYS_MAX];

fn run(op: &Op, state: &mut State) -> Seen {
    let holds = op.compare.iter().all(|compare| match compare {
        Compare::Version(key, version) => state[*key].map_or(0, |found| found.1) == *version,
        Compare::Value(key, value) => state[*key].is_some_and(|found| found.0 == *value),
    });
    let mut seen = Seen {
        succeeded: holds,
        ..Seen::default()
    };
    for act in if holds { &op.success } else { &op.failure } {
        match *act {
            Act::Put(key, value) => {
                let version = state[key].map_or(0, |found| found.1);
                state[key] = Some((value, version + 1));
            }
            Act::Delete(from, to) => {
                let gone = state[from..to].iter_mut().filter_map(Option::take);
                seen.deleted.push(gone.count() as i64);
            }
            Act::Get(from, to) => seen.got.push(
                (from..to)
                    .filter_map(|key| state[key].map(|found| (key, found.0, found.1)))
                    .collect(),
            ),
        }
    }
    seen
}

impl Op {
    /// A single act.
    pub fn simple(act: Act) -> Op {
        Op {
            success: vec![act],
            ..Op::default()
        }
    }

    fn keys(&self) -> Vec<usize> {
        let mut keys: Vec<usize> = self
            .compare
            .iter()
            .map(|compare| match compare {
                Compare::Version(key, _) | Compare::Value(key, _) => *key,
            })
            .collect();
        for act in self.success.iter().chain(&self.failure) {
            match act {
                Act::Put(key, _) => keys.push(*key),
                Act::Delete(from, to) | Act::Get(from, to) => keys.extend(*from..*to),
            }
        }
        keys
    }
}

impl History {
    /// An operation begins.
    pub fn begins(&mut self, op: Op, now: u64) -> usize {
        self.records.push(Record {
            op,
            began: now,
            ended: u64::MAX,
            seen: None,
            hint: (i64::MAX, true),
            dropped: false,
        });
        self.records.len() - 1
    }

    /// It is answered.
    pub fn ends(&mut self, op: usize, seen: Seen, hint: Hint, now: u64) {
        let record = &mut self.records[op];
        (record.ended, record.seen, record.hint) = (now, Some(seen), hint);
    }

    /// It certainly has not been carried out, and nothing was seen.
    pub fn drops(&mut self, op: usize) {
        self.records[op].dropped = true;
    }

    /// Where one that was never answered was seen in the end: only a hint.
    pub fn hints(&mut self, op: usize, hint: Hint) {
        self.records[op].hint = hint;
    }

    /// # Errors
    /// There is no order.
    pub fn judge(&self) -> Result<Vec<(&'static str, u64)>, String> {
        let kept: Vec<&Record> = self.records.iter().filter(|r| !r.dropped).collect();
        let mut part: Vec<usize> = (0..KEYS_MAX).collect();
        for record in &kept {
            let keys = record.op.keys();
            for key in &keys {
                let (a, b) = (part[keys[0]], part[*key]);
                for one in &mut part {
                    if *one == b {
                        *one = a;
                    }
                }
            }
        }
        let mut parts: BTreeMap<usize, Vec<&Record>> = BTreeMap::new();
        for record in kept {
            if let Some(key) = record.op.keys().first() {
                parts.entry(part[*key]).or_default().push(record);
            }
        }
        let (mut ordered, mut given_up, mut searched) = (0, 0, 0);
        for records in parts.into_values() {
            searched += 1;
            let known = records.iter().filter(|r| r.seen.is_some()).count() as u64;
            match (Search::new(records)).go() {
                Found::Order => ordered += known,
                Found::None(reason) => return Err(reason),
                Found::GaveUp => given_up += 1,
            }
        }
        let mut judged = vec![
            ("histories searched", searched),
            ("operations put in order", ordered),
        ];
        if given_up > 0 {
            judged.push(("searches given up", given_up));
        }
        Ok(judged)
    }
}

enum Found {
    Order,
    None(String),
    GaveUp,
}

struct Search<'a> {
    /// By their beginning.
    records: Vec<&'a Record>,
    done: Vec<bool>,
    /// Those before are done, or of unknown outcome.
    head: usize,
    /// Of unknown outcome.
    loose: Vec<usize>,
    state: State,
    tried: HashSet<(u64, u64)>,
    mark: u64,
}

struct Step {
    op: usize,
    before: State,
    others: std::vec::IntoIter<usize>,
    head: usize,
}

fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn sum(state: &State) -> u64 {
    state.iter().enumerate().fold(0, |sum, (key, found)| {
        let (value, version) = found.unwrap_or((u64::MAX, -1));
        sum ^ mix(mix(value ^ ((key as u64) << 56)) ^ version as u64)
    })
}

impl<'a> Search<'a> {
    fn new(mut records: Vec<&'a Record>) -> Self {
        records.sort_by_key(|record| record.began);
        let loose = (0..records.len())
            .filter(|at| records[*at].seen.is_none())
            .collect();
        Search {
            done: vec![false; records.len()],
            records,
            head: 0,
            loose,
            state: State::default(),
            tried: HashSet::new(),
            mark: 0,
        }
    }

    fn is_left(&self, at: usize) -> bool {
        !self.done[at] && self.records[at].seen.is_some()
    }

    /// What may come next: everything that began before anything left has ended.
    fn next(&mut self) -> Option<Vec<usize>> {
        while self.head < self.records.len() && !self.is_left(self.head) {
            self.head += 1;
        }
        if self.head == self.records.len() {
            return None;
        }
        let mut first_end = u64::MAX;
        let mut may = Vec::new();
        for at in self.head..self.records.len() {
            if self.records[at].began > first_end {
                break;
            }
            if self.is_left(at) {
                first_end = first_end.min(self.records[at].ended);
                may.push(at);
            }
        }
        for at in &self.loose {
            if !self.done[*at] && self.records[*at].began <= first_end {
                may.push(*at);
            }
        }
        may.retain(|at| self.records[*at].began <= first_end);
        may.sort_by_key(|at| (self.records[*at].hint, self.records[*at].began));
        Some(may)
    }

    fn go(mut self) -> Found {
        let mut steps: Vec<Step> = Vec::new();
        let Some(first) = self.next() else {
            return Found::Order;
        };
        let mut others = first.into_iter();
        let mut furthest = (0, 0);
        for _ in 0..STEPS_MAX {
            let Some(at) = others.next() else {
                let Some(step) = steps.pop() else {
                    return Found::None(self.explain(furthest.1));
                };
                self.done[step.op] = false;
                self.mark ^= mix(step.op as u64);
                self.state = step.before;
                self.head = step.head;
                others = step.others;
                continue;
            };
            let before = self.state;
            let seen = run(&self.records[at].op, &mut self.state);
            let legal = self.records[at].seen.as_ref().is_none_or(|s| *s == seen);
            let mark = self.mark ^ mix(at as u64);
            if !legal || !self.tried.insert((mark, sum(&self.state))) {
                self.state = before;
                continue;
            }
            self.done[at] = true;
            self.mark = mark;
            steps.push(Step {
                op: at,
                before,
                others,
                head: self.head,
            });
            if steps.len() > furthest.0 {
                furthest = (steps.len(), self.head);
            }
            match self.next() {
                None => return Found::Order,
                Some(may) => others = may.into_iter(),
            }
        }
        Found::GaveUp
    }

    fn explain(&self, head: usize) -> String {
        let stuck = &self.records[head.min(self.records.len() - 1)];
        format!(
            "not linearizable: no order fits from about {} us on, where {:?} saw {:?}",
            stuck.began, stuck.op, stuck.seen
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: u64) -> Op {
        Op::simple(Act::Put(0, value))
    }

    fn history(ops: &[(Op, u64, u64, Option<Seen>)]) -> History {
        let mut history = History::default();
        for (op, began, ended, seen) in ops {
            let id = history.begins(op.clone(), *began);
            if let Some(seen) = seen {
                history.ends(id, seen.clone(), (0, true), *ended);
            }
        }
        history
    }

    fn done() -> Option<Seen> {
        Some(Seen {
            succeeded: true,
            ..Seen::default()
        })
    }

    fn got(found: &[(usize, u64, i64)]) -> Option<Seen> {
        Some(Seen {
            succeeded: true,
            got: vec![found.to_vec()],
            ..Seen::default()
        })
    }

    fn get() -> Op {
        Op::simple(Act::Get(0, 1))
    }

    #[test]
    fn a_read_may_see_either_of_two_writes_at_once_and_no_old_one() {
        let both = |value, version| {
            history(&[
                (put(1), 0, 1, done()),
                (put(2), 2, 5, done()),
                (put(3), 2, 5, done()),
                (get(), 6, 7, got(&[(0, value, version)])),
            ])
            .judge()
        };
        assert!(both(2, 3).is_ok() && both(3, 3).is_ok());
        assert!(both(1, 1).is_err() && both(2, 2).is_err());
    }

    #[test]
    fn a_write_without_an_answer_may_come_at_any_time_or_never() {
        let after = |found: &[&[(usize, u64, i64)]]| {
            let mut ops = vec![(put(1), 0, 1, done()), (put(9), 2, 0, None)];
            for (at, found) in (0..).zip(found) {
                ops.push((get(), 10 + 2 * at, 11 + 2 * at, got(found)));
            }
            history(&ops).judge()
        };
        assert!(after(&[&[(0, 1, 1)], &[(0, 1, 1)]]).is_ok());
        assert!(after(&[&[(0, 1, 1)], &[(0, 9, 2)]]).is_ok());
        assert!(after(&[&[(0, 9, 2)], &[(0, 1, 1)]]).is_err());
    }

    #[test]
    fn transactions_of_several_keys_are_one() {
        let move_one = Op {
            compare: vec![Compare::Value(0, 1)],
            success: vec![Act::Delete(0, 1), Act::Put(1, 1)],
            failure: vec![],
        };
        let moved = Some(Seen {
            succeeded: true,
            deleted: vec![1],
            ..Seen::default()
        });
        let all = Op::simple(Act::Get(0, 2));
        let seeing = |found: &[(usize, u64, i64)]| {
            history(&[
                (put(1), 0, 1, done()),
                (move_one.clone(), 2, 6, moved.clone()),
                (all.clone(), 3, 5, got(found)),
            ])
            .judge()
        };
        assert!(seeing(&[(0, 1, 1)]).is_ok() && seeing(&[(1, 1, 1)]).is_ok());
        assert!(seeing(&[]).is_err() && seeing(&[(0, 1, 1), (1, 1, 1)]).is_err());
    }
}
