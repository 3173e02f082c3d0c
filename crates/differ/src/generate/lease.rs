//! Calls of the Lease service. Leases last for hours, so that none ends by itself.

use ferrite_client::pb;

use super::Maker;
use crate::step::Call;

/// Longer than any run, in seconds; short enough that what is left can be told from what was granted.
const HOURS: i64 = 36_000;

impl Maker {
    pub(super) fn lease(&mut self) -> Call {
        match self.rng.weighted(&[25, 10, 15, 22, 10, 10]) {
            0 => self.grant(),
            1 => self.moment(),
            2 => Call::Revoke(pb::LeaseRevokeRequest {
                id: self.known_or_not(),
            }),
            3 => Call::TimeToLive(pb::LeaseTimeToLiveRequest {
                id: self.known_or_not(),
                keys: self.rng.percent(70),
            }),
            4 => Call::Leases,
            _ => Call::KeepAlive(pb::LeaseKeepAliveRequest {
                id: self.known_or_not(),
            }),
        }
    }

    pub(super) fn grant(&mut self) -> Call {
        let slot = i64::try_from(self.rng.below(4)).unwrap_or(0);
        let own = i64::try_from(self.sequence).unwrap_or(0) * 8 + slot + 1_000;
        let id = match self.rng.percent(90) {
            true => own,
            false => -own,
        };
        if !self.leases.contains(&id) {
            self.leases.push(id);
        }
        Call::Grant(pb::LeaseGrantRequest {
            ttl: HOURS + self.rng.between(0, 9),
            id,
        })
    }

    /// Times and IDs that are not to stay.
    fn moment(&mut self) -> Call {
        let id = match self.rng.weighted(&[60, 20, 10, 10]) {
            0 => 0,
            1 => self.known_or_not(),
            2 => i64::MIN,
            _ => i64::MAX,
        };
        let known = self.leases.contains(&id);
        self.leases.retain(|lease| *lease != id || !known);
        Call::GrantForAMoment(pb::LeaseGrantRequest {
            ttl: self.rng.pick(&[
                -1,
                0,
                1,
                2,
                3,
                60,
                9_000_000_000,
                9_000_000_001,
                i64::MAX,
                i64::MIN,
            ]),
            id,
        })
    }

    fn known_or_not(&mut self) -> i64 {
        let known = self.leases.clone();
        match self.rng.percent(85) && !known.is_empty() {
            true => self.rng.pick(&known),
            false => self.rng.pick(&[404, -404, 0, i64::MAX]),
        }
    }
}
