//! Revisions as a generator can name them before anything has run: relative to the current one, to
//! the sequence's first, to the compacted one. They travel in the requests' own `i64` fields, far
//! from any revision that a server reaches, and become numbers when a step is about to run; so a
//! sequence means the same on a fresh server, and after steps have been taken out of it.

use crate::step::Call;
use ferrite_client::pb;
use ferrite_client::pb::compare::TargetUnion;
use ferrite_client::pb::request_op::Request;

/// Distance between two anchors, far beyond what tests ask for as plain numbers.
const MARK: i64 = 1 << 58;
const NOW: i64 = MARK;
const START: i64 = 2 * MARK;
const COMPACTED: i64 = 3 * MARK;

/// The current revision, and this many on.
pub(crate) fn now(delta: i64) -> i64 {
    NOW + delta
}

/// The revision at which the sequence began, and this many on.
pub(crate) fn start(delta: i64) -> i64 {
    START + delta
}

/// The compacted revision, and this many on.
pub(crate) fn compacted(delta: i64) -> i64 {
    COMPACTED + delta
}

/// A number of a request in words, if it is one of these.
pub(crate) fn words(value: i64) -> Option<String> {
    [(NOW, "now"), (START, "start"), (COMPACTED, "compacted")]
        .into_iter()
        .find(|(anchor, _)| value.abs_diff(*anchor) < MARK.unsigned_abs() / 4)
        .map(|(anchor, word)| match value - anchor {
            0 => word.to_owned(),
            delta => format!("{word}{delta:+}"),
        })
}

/// What anchors stand for at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bases {
    /// The newest revision that an answer has named.
    pub now: i64,
    /// The one at the beginning of the sequence.
    pub start: i64,
    /// The compacted one; −1 while there is none.
    pub compacted: i64,
}

impl Bases {
    /// Those of an empty store.
    pub fn fresh() -> Self {
        Self {
            now: 1,
            start: 1,
            compacted: -1,
        }
    }

    fn plain(&self, value: &mut i64) {
        let bases = [
            (NOW, self.now),
            (START, self.start),
            (COMPACTED, self.compacted.max(0)),
        ];
        let near = |anchor: i64| value.abs_diff(anchor) < MARK.unsigned_abs() / 4;
        if let Some((anchor, base)) = bases.into_iter().find(|(anchor, _)| near(*anchor)) {
            *value = *value - anchor + base;
        }
    }

    /// The call with numbers in place of anchors.
    pub fn resolve(&self, call: &Call) -> Call {
        let mut call = call.clone();
        match &mut call {
            Call::Range(request) | Call::Streamed(request) => self.range(request),
            Call::Txn(request) => self.txn(request),
            Call::Compact(request) => self.plain(&mut request.revision),
            Call::HashKv(request) => self.plain(&mut request.revision),
            Call::Watch { create, .. } => self.plain(&mut create.start_revision),
            _ => {}
        }
        call
    }

    fn range(&self, request: &mut pb::RangeRequest) {
        for field in [
            &mut request.revision,
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            self.plain(field);
        }
    }

    fn txn(&self, request: &mut pb::TxnRequest) {
        for compare in &mut request.compare {
            if let Some(
                TargetUnion::CreateRevision(value)
                | TargetUnion::ModRevision(value)
                | TargetUnion::Version(value),
            ) = &mut compare.target_union
            {
                self.plain(value);
            }
        }
        for op in request.success.iter_mut().chain(&mut request.failure) {
            match &mut op.request {
                Some(Request::RequestRange(range)) => self.range(range),
                Some(Request::RequestTxn(txn)) => self.txn(txn),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_become_numbers_and_numbers_stay() {
        let bases = Bases {
            now: 100,
            start: 90,
            compacted: 50,
        };
        for (given, meant) in [
            (now(-3), 97),
            (start(2), 92),
            (compacted(-1), 49),
            (0, 0),
            (-1, -1),
            (9_000_000_001, 9_000_000_001),
            (i64::MAX, i64::MAX),
            (i64::MIN, i64::MIN),
        ] {
            let mut value = given;
            bases.plain(&mut value);
            assert_eq!(value, meant);
        }
    }
}
