//! Locks and elections: contenders with leases, holders that leave, callers that give up.

use ferrite_client::pb;
use ferrite_proto::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest};
use ferrite_proto::v3lockpb::{LockRequest, UnlockRequest};

use super::Maker;
use crate::step::{Call, Claim, Step};

/// Clients that contend: few, so that they meet.
const CONTENDERS: usize = 2;

impl Maker {
    pub(super) fn contest(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..3 {
            let call = self.grant();
            steps.push(self.by_anyone(call));
        }
        for _ in 0..self.rng.between(8, 22) {
            let client = self.rng.below(CONTENDERS);
            let call = self.move_in_contest();
            steps.push(Step { client, call });
        }
        self.tidy(&mut steps);
        steps
    }

    fn move_in_contest(&mut self) -> Call {
        match self.rng.weighted(&[28, 22, 16, 10, 8, 7, 5, 5, 5, 4, 4, 3]) {
            0 => Call::Lock(LockRequest {
                name: self.contested(),
                lease: self.contender(),
            }),
            1 => Call::Campaign(CampaignRequest {
                name: self.contested(),
                lease: self.contender(),
                value: self.rng.pick(&["", "x", "y"]).into(),
            }),
            2 => Call::Unlock(UnlockRequest {
                key: match self.rng.percent(85) {
                    true => self.contenders_key(),
                    false => self.key(),
                },
            }),
            3 => Call::Proclaim {
                claim: self.claim(),
                value: self.rng.pick(&["", "x", "z"]).into(),
            },
            4 => Call::Resign(self.claim()),
            5 => Call::Leader(LeaderRequest {
                name: self.contested(),
            }),
            6 => Call::Observe(LeaderRequest {
                name: self.contested(),
            }),
            7 => Call::GiveUp,
            8 => Call::Put(pb::PutRequest {
                key: match self.rng.percent(40) {
                    true => self.contenders_key(),
                    false => [&self.contested()[..], b"/zz"].concat().into(),
                },
                value: "by hand".into(),
                lease: self.lease_id(),
                ..Default::default()
            }),
            9 => {
                let key = self.contested();
                Call::DeleteRange(pb::DeleteRangeRequest {
                    range_end: [&key[..], b"0"].concat().into(),
                    key,
                    prev_kv: true,
                })
            }
            10 => Call::Revoke(pb::LeaseRevokeRequest {
                id: self.contender(),
            }),
            _ => self.grant(),
        }
    }

    fn contested(&mut self) -> bytes::Bytes {
        let name: &[u8] = match self.rng.weighted(&[70, 25, 5]) {
            0 => b"l",
            1 => b"m",
            _ => b"l/m",
        };
        [&self.prefix, name].concat().into()
    }

    /// A lease of this sequence; now and then one that there is not.
    fn contender(&mut self) -> i64 {
        let leases = self.leases.clone();
        match self.rng.percent(92) && !leases.is_empty() {
            true => self.rng.pick(&leases),
            false => self.rng.pick(&[404, -404]),
        }
    }

    fn contenders_key(&mut self) -> bytes::Bytes {
        let (name, lease) = (self.contested(), self.contender());
        let sign = if lease < 0 { "-" } else { "" };
        let lease = format!("/{sign}{:x}", lease.unsigned_abs());
        [&name[..], lease.as_bytes()].concat().into()
    }

    fn claim(&mut self) -> Claim {
        match self.rng.weighted(&[70, 10, 5, 15]) {
            0 => Claim::Own,
            1 => Claim::Stale,
            2 => Claim::None,
            _ => Claim::Forged(LeaderKey {
                name: self.contested(),
                key: self.contenders_key(),
                rev: self.rng.pick(&[0, 1, -1]),
                lease: self.contender(),
            }),
        }
    }
}
