//! Sequences of requests from a seed: valid ones, invalid ones, and those at the borders.
//!
//! A sequence keeps to a few keys under a prefix of its own, so that requests meet each other; some
//! of its ranges reach further, over what others left.

mod auth;
mod contest;
mod kv;
mod lease;
mod members;
mod watch;

use ferrite_client::pb;

use crate::revision::now;
use crate::rng::Rng;
use crate::step::{CLIENTS, Call, Step};

/// What sequences are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Areas {
    /// Keys, leases, watchers, compactions.
    Data,
    /// Users, roles, and what they may.
    Auth,
    /// Locks and elections.
    Contests,
    /// Changes of the membership.
    Members,
    /// Everything.
    All,
}

impl Areas {
    /// How often each kind of sequence comes: keys, leases, watchers, the whole store, large values
    /// watched, users, contests, members.
    fn weights(self) -> [usize; 8] {
        match self {
            Self::Data => [68, 12, 6, 10, 4, 0, 0, 0],
            Self::Auth => [0, 0, 0, 0, 0, 1, 0, 0],
            Self::Contests => [0, 0, 0, 0, 0, 0, 1, 0],
            Self::Members => [0, 0, 0, 0, 0, 0, 0, 1],
            Self::All => [44, 10, 6, 10, 2, 13, 10, 5],
        }
    }
}

/// Steps of a sequence, at least and at most.
const STEPS: (i64, i64) = (8, 26);

/// Sequences between two comparisons of everything.
const ALL_EVERY: u64 = 40;

/// The sequence of this number in the run with this seed.
#[must_use]
pub fn generate(seed: u64, sequence: u64, areas: Areas) -> Vec<Step> {
    let mut maker = Maker {
        rng: Rng::of(seed, sequence),
        prefix: format!("{sequence:04x}/").into_bytes(),
        sequence,
        leases: Vec::new(),
        urls: Vec::new(),
        invented: 0,
    };
    if sequence % ALL_EVERY == ALL_EVERY - 1 {
        return everything();
    }
    match maker.rng.weighted(&areas.weights()) {
        0 => maker.steps(&[60, 1, 0]),
        1 => maker.steps(&[45, 45, 0]),
        2 => maker.steps(&[40, 5, 40]),
        3 => maker.whole_store(),
        4 => maker.large_and_watched(),
        5 => maker.auth(),
        6 => maker.contest(),
        _ => maker.membership(),
    }
}

/// Everything the servers hold, compared.
fn everything() -> Vec<Step> {
    let all = pb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..Default::default()
    };
    let calls = [
        Call::Range(all.clone()),
        Call::Range(pb::RangeRequest {
            count_only: true,
            ..all
        }),
        Call::HashKv(pb::HashKvRequest { revision: 0 }),
        Call::Leases,
        Call::Status,
        Call::Members(pb::MemberListRequest { linearizable: true }),
        Call::Alarm(pb::AlarmRequest::default()),
    ];
    calls.map(|call| Step { client: 0, call }).into()
}

/// Makes one sequence.
struct Maker {
    rng: Rng,
    prefix: Vec<u8>,
    sequence: u64,
    /// Leases granted so far in this sequence, as far as is known without an answer.
    leases: Vec<i64>,
    /// Peer URLs named so far.
    urls: Vec<String>,
    invented: u64,
}

impl Maker {
    /// Steps of key-value, lease and watch calls in these proportions.
    fn steps(&mut self, weights: &[usize; 3]) -> Vec<Step> {
        let mut steps = Vec::new();
        let count = self.rng.between(STEPS.0, STEPS.1);
        for _ in 0..count {
            let call = match self.rng.weighted(weights) {
                0 => self.kv(),
                1 => self.lease(),
                _ => self.watch(),
            };
            steps.push(self.by_anyone(call));
        }
        if weights[2] > 0 {
            steps.push(self.by_anyone(Call::Sync));
        }
        self.tidy(&mut steps);
        steps
    }

    /// A sequence with compactions, hashes and reads of the past in it, watched or not.
    fn whole_store(&mut self) -> Vec<Step> {
        let watched = self.rng.percent(25);
        let mut steps = Vec::new();
        for _ in 0..self.rng.between(STEPS.0, STEPS.1) {
            let call = match self
                .rng
                .weighted(&[50, 12, 10, 4, if watched { 14 } else { 0 }])
            {
                0 => self.kv(),
                1 => self.compact(),
                2 => Call::HashKv(pb::HashKvRequest {
                    revision: match self.rng.percent(40) {
                        true => 0,
                        false => self.revision(),
                    },
                }),
                3 => self.about_the_member(),
                _ => self.watch(),
            };
            steps.push(self.by_anyone(call));
        }
        if watched {
            steps.push(self.by_anyone(Call::Sync));
        }
        self.tidy(&mut steps);
        steps
    }

    fn about_the_member(&mut self) -> Call {
        match self.rng.below(4) {
            0 if self.rng.percent(20) => Call::Defragment,
            0 | 1 => Call::Members(pb::MemberListRequest {
                linearizable: self.rng.percent(50),
            }),
            2 => Call::Status,
            _ => Call::Alarm(pb::AlarmRequest {
                alarm: self.rng.pick(&[0, 1, 2, 0, 5]),
                member_id: self.rng.pick(&[0, 0, 7]),
                ..Default::default()
            }),
        }
    }

    /// Leases go with their sequence; keys mostly do, so that the store stays small.
    fn tidy(&mut self, steps: &mut Vec<Step>) {
        for id in std::mem::take(&mut self.leases) {
            let call = Call::Revoke(pb::LeaseRevokeRequest { id });
            steps.push(self.by_anyone(call));
        }
        if self.rng.percent(85) {
            let end = next_prefix(&self.prefix);
            let call = Call::DeleteRange(pb::DeleteRangeRequest {
                key: self.prefix.clone().into(),
                range_end: end.into(),
                prev_kv: self.rng.percent(30),
            });
            steps.push(self.by_anyone(call));
        }
    }

    fn by_anyone(&mut self, call: Call) -> Step {
        Step {
            client: self.rng.below(CLIENTS),
            call,
        }
    }

    /// One of the sequence's keys; now and then another, or none.
    fn key(&mut self) -> bytes::Bytes {
        let suffix: &[u8] = match self.rng.weighted(&[30, 25, 20, 10, 8, 5, 4, 2, 1, 1]) {
            0 => b"a",
            1 => b"b",
            2 => b"c",
            3 => b"d",
            4 => b"aa",
            5 => b"",
            6 => b"a\0",
            7 => b"\xff\xff",
            8 => return bytes::Bytes::new(),
            _ => return vec![0].into(),
        };
        [&self.prefix, suffix].concat().into()
    }

    /// A key that is one.
    fn some_key(&mut self) -> bytes::Bytes {
        loop {
            let key = self.key();
            if !key.is_empty() {
                return key;
            }
        }
    }

    /// A key and the end of a range from it.
    fn range_of_keys(&mut self) -> (bytes::Bytes, bytes::Bytes) {
        let key = self.key();
        let end = match self.rng.weighted(&[35, 25, 15, 8, 8, 5, 4]) {
            0 => Vec::new(),
            1 => {
                // the whole sequence
                let end = next_prefix(&self.prefix);
                return (self.prefix.clone().into(), end.into());
            }
            2 => self.key().to_vec(),
            3 => {
                let mut end = key.to_vec();
                if let Some(last) = end.last_mut() {
                    *last = last.wrapping_add(1);
                }
                end
            }
            4 => [&key[..], b"\0"].concat(),
            5 => vec![0],
            _ => return (vec![0].into(), vec![0].into()),
        };
        (key, end.into())
    }

    /// A revision to read at or to compare with.
    fn revision(&mut self) -> i64 {
        use crate::revision::{compacted, start};
        match self.rng.weighted(&[40, 25, 12, 10, 5, 3, 3, 2]) {
            0 => now(-self.rng.between(0, 6)),
            1 => start(self.rng.between(0, 8)),
            2 => compacted(self.rng.between(-1, 2)),
            3 => 0,
            4 => now(self.rng.between(1, 3)),
            5 => -self.rng.between(1, 3),
            6 => self.rng.between(1, 5),
            _ => self.rng.pick(&[i64::MAX, i64::MIN]),
        }
    }

    /// A lease of this sequence, or none, or one that there is not.
    fn lease_id(&mut self) -> i64 {
        if self.leases.is_empty() {
            return self.rng.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 404]);
        }
        let leases = self.leases.clone();
        match self.rng.weighted(&[45, 50, 5]) {
            0 => 0,
            1 => self.rng.pick(&leases),
            _ => 404,
        }
    }
}

/// Where the keys with this prefix end; its last byte is a slash.
fn next_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
