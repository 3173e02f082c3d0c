//! Which keys this proxy owns, what it may answer from, and what it has to give back.
//!
//! Decisions only: time and the events of the leasing keys come in as arguments. What must hold:
//!
//! - A key is owned from an answer that made its leasing key. No write of this proxy that may concern the
//!   key was under way meanwhile, and none that began earlier can come later: its guard admits older
//!   leasing keys only.
//! - Nothing is answered while a write of this proxy that may concern the key is under way, nor when the
//!   session's lease may be over.
//! - A write of which nobody knows what became takes the key with it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrite_client::pb;
use ferrite_proto::mvccpb::event::EventType;
use ferrite_proto::mvccpb::{Event, KeyValue};

use super::local;
use crate::cache::{alone, meet, pair_alone};

/// What is written to a leasing key by whoever wants its owner to give it up.
pub const REVOKE: &[u8] = b"REVOKE";
/// A key that was given up is not acquired again for so long: the original's number.
const BACKOFF: Duration = Duration::from_secs(2);
/// Keys to own. The original has no limit; each is a key of the cluster as well.
const OWNED_MAX: usize = 1 << 16;
/// Bytes of them.
const BYTES_MAX: usize = 64 << 20;
/// What an owned key costs besides its name and value, about.
const OVERHEAD: usize = 256;

/// A range of keys as requests have it.
pub type Range = (Bytes, Bytes);

/// The lease on which the leasing keys hang.
#[derive(Debug, Clone, Copy)]
struct Session {
    lease: i64,
    /// Until then it lives, whatever happens.
    until: Instant,
}

/// A key that is this proxy's.
#[derive(Debug)]
pub struct Owned {
    /// The revision that made its leasing key.
    created: i64,
    /// What the key holds.
    pub pair: Option<KeyValue>,
    /// The answer that said so.
    pub header: pb::ResponseHeader,
    /// It was read since somebody last looked for what can go.
    used: bool,
}

impl Owned {
    fn bytes(&self) -> usize {
        let pair = self.pair.as_ref();
        OVERHEAD + pair.map_or(0, |pair| pair.key.len() + pair.value.len())
    }
}

/// A key that is being acquired.
#[derive(Debug)]
pub struct Acquiring {
    /// Which attempt it is: what an earlier one comes to says nothing of this one.
    number: u64,
    lease: i64,
    /// The newest revision at which its leasing key was somebody else's or nobody's.
    lost: i64,
    /// A write of this proxy came between.
    spoiled: bool,
}

/// What a read finds.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Its answer.
    Answer(pb::RangeResponse),
    /// Nothing: a member has to answer.
    Ask,
    /// Nothing yet: the key may be acquired, with a leasing key on this lease, by an attempt of this number.
    Acquire(i64, u64),
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    /// What leasing keys begin with.
    prefix: Bytes,
    session: Option<Session>,
    /// Leases that are or were this proxy's.
    leases: HashSet<i64>,
    /// The events of leasing keys are heard.
    watched: bool,
    owned: HashMap<Bytes, Owned>,
    /// Owned keys, roughly by age, and the revision that made each leasing key.
    by_age: VecDeque<(Bytes, i64)>,
    bytes: usize,
    acquiring: HashMap<Bytes, Acquiring>,
    attempts: u64,
    /// Keys that are being written, and how often.
    busy_keys: HashMap<Bytes, usize>,
    /// Ranges that are being written.
    busy_ranges: Vec<Range>,
    given_up: HashMap<Bytes, Instant>,
    /// Leasing keys to delete, where they were made at this revision or earlier.
    releases: BTreeMap<Bytes, i64>,
}

impl Table {
    /// Nothing is owned, and without a session nothing will be.
    #[must_use]
    pub fn new(prefix: &[u8]) -> Self {
        Table {
            prefix: Bytes::copy_from_slice(prefix),
            session: None,
            leases: HashSet::new(),
            watched: false,
            owned: HashMap::new(),
            by_age: VecDeque::new(),
            bytes: 0,
            acquiring: HashMap::new(),
            attempts: 0,
            busy_keys: HashMap::new(),
            busy_ranges: Vec::new(),
            given_up: HashMap::new(),
            releases: BTreeMap::new(),
        }
    }

    /// A lease was granted or kept alive: it lives until then.
    pub fn lives(&mut self, lease: i64, until: Instant) {
        self.leases.insert(lease);
        self.session = Some(Session { lease, until });
    }

    /// The lease is over, or will be: nothing is owned any more.
    pub fn lose(&mut self) {
        self.session = None;
        self.owned.clear();
        self.by_age.clear();
        self.bytes = 0;
        for acquiring in self.acquiring.values_mut() {
            acquiring.spoiled = true;
        }
    }

    /// The lease of this session.
    #[must_use]
    pub fn session(&self) -> Option<i64> {
        self.session.map(|session| session.lease)
    }

    /// A lease that is certainly over: its leasing keys are gone.
    pub fn forget(&mut self, lease: i64) {
        self.leases.remove(&lease);
    }

    /// Whether the events of leasing keys are heard.
    pub fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
    }

    fn lease(&self, now: Instant) -> Option<i64> {
        let session = self.session.filter(|session| now < session.until)?;
        Some(session.lease)
    }

    fn is_busy(&self, key: &[u8]) -> bool {
        self.busy_keys.contains_key(key)
            || self.busy_ranges.iter().any(|range| meet(range, (key, b"")))
    }

    /// What a read of one key finds.
    pub fn read(&mut self, request: &pb::RangeRequest, now: Instant) -> Found {
        let key = &request.key;
        let Some(lease) = self.lease(now) else {
            return Found::Ask;
        };
        if self.is_busy(key) || key.starts_with(&self.prefix) {
            return Found::Ask;
        }
        if let Some(owned) = self.owned.get_mut(key) {
            owned.used = true;
            return Found::Answer(local::answer(request, owned.header, owned.pair.as_ref()));
        }
        if request.serializable || !self.may_acquire(key, now) {
            return Found::Ask;
        }
        self.attempts += 1;
        let acquiring = Acquiring {
            number: self.attempts,
            lease,
            lost: 0,
            spoiled: false,
        };
        self.acquiring.insert(key.clone(), acquiring);
        Found::Acquire(lease, self.attempts)
    }

    fn may_acquire(&self, key: &[u8], now: Instant) -> bool {
        let given_up = self.given_up.get(key);
        self.watched
            && !self.acquiring.contains_key(key)
            && !self.releases.contains_key(key)
            && given_up.is_none_or(|at| now.saturating_duration_since(*at) > BACKOFF)
    }

    /// The answer to a transaction that reads only, where all that it looks at is owned.
    pub fn transact(&mut self, txn: &pb::TxnRequest, now: Instant) -> Option<pb::TxnResponse> {
        self.lease(now)?;
        local::transact(txn, |key| {
            let owned = self.owned.get(key)?;
            (!self.is_busy(key)).then_some(owned)
        })
    }

    /// What became of an acquisition that made its leasing key: the header and the key's pair.
    pub fn acquired(
        &mut self,
        key: &Bytes,
        number: u64,
        header: pb::ResponseHeader,
        pair: Option<KeyValue>,
        now: Instant,
    ) {
        let Some(acquiring) = self.not_acquired(key, number) else {
            self.release(key, header.revision);
            return;
        };
        let owned = Owned {
            created: header.revision,
            pair: pair.as_ref().map(pair_alone),
            header,
            used: false,
        };
        let still = !acquiring.spoiled
            && acquiring.lost < header.revision
            && self.lease(now) == Some(acquiring.lease)
            && owned.bytes() <= BYTES_MAX / 8;
        if !still {
            self.release(key, header.revision);
            return;
        }
        self.make_room(owned.bytes(), now);
        self.bytes += owned.bytes();
        let key = alone(key);
        self.by_age.push_back((key.clone(), owned.created));
        self.owned.insert(key, owned);
    }

    /// An acquisition came to nothing, or nobody knows what came of it. A leasing key that it made all the
    /// same is nobody's: it is deleted when somebody wants it.
    pub fn not_acquired(&mut self, key: &[u8], number: u64) -> Option<Acquiring> {
        let acquiring = self.acquiring.get(key)?;
        if acquiring.number != number {
            return None;
        }
        self.acquiring.remove(key)
    }

    /// What was used least goes until there is room.
    fn make_room(&mut self, bytes: usize, now: Instant) {
        while self.owned.len() >= OWNED_MAX || self.bytes + bytes > BYTES_MAX {
            let Some((key, created)) = self.by_age.pop_front() else {
                return;
            };
            match self.owned.get_mut(&key) {
                Some(owned) if owned.created == created && owned.used => {
                    owned.used = false;
                    self.by_age.push_back((key, created));
                }
                Some(owned) if owned.created == created => {
                    self.evict(&key, now);
                    self.release(&key, created);
                }
                // It went by another way.
                Some(_) | None => {}
            }
        }
    }

    /// Gives a key up, for now; what made its leasing key, if it was owned.
    fn evict(&mut self, key: &[u8], now: Instant) -> Option<i64> {
        let (key, owned) = self.owned.remove_entry(key)?;
        self.bytes -= owned.bytes();
        if self.by_age.len() > 2 * self.owned.len() + 1024 {
            let owned = &self.owned;
            self.by_age
                .retain(|(key, created)| owned.get(key).is_some_and(|one| one.created == *created));
        }
        if self.given_up.len() > 1024 {
            self.given_up
                .retain(|_, at| now.saturating_duration_since(*at) <= BACKOFF);
        }
        self.given_up.insert(key, now);
        Some(owned.created)
    }

    /// Gives a key up and its leasing key back.
    fn surrender(&mut self, key: &Bytes, now: Instant) {
        if let Some(created) = self.evict(key, now) {
            self.release(key, created);
        }
    }

    /// A leasing key of this proxy is to be deleted, if it was made at this revision or earlier.
    pub fn release(&mut self, key: &Bytes, created: i64) {
        let at = self.releases.entry(alone(key)).or_default();
        *at = created.max(*at);
    }

    /// Some leasing keys to delete.
    #[must_use]
    pub fn to_release(&self, most: usize) -> Vec<(Bytes, i64)> {
        let all = self.releases.iter().take(most);
        all.map(|(key, created)| (key.clone(), *created)).collect()
    }

    /// These are deleted.
    pub fn released(&mut self, all: &[(Bytes, i64)]) {
        for (key, created) in all {
            if self.releases.get(key) == Some(created) {
                self.releases.remove(key);
            }
        }
    }

    /// A write begins, or may begin, in these ranges. What is returned is handed to [`Table::end`].
    #[must_use]
    pub fn begin(&mut self, mut ranges: Vec<Range>, now: Instant) -> Vec<Range> {
        let prefix = Bytes::clone(&self.prefix);
        let leasing = |range: &Range| {
            let first = range.0.starts_with(&prefix);
            first || (!range.1.is_empty() && meet(range, (&prefix, b"")))
        };
        if ranges.iter().any(leasing) {
            // Whoever writes leasing keys themselves takes them all.
            let all: Vec<Bytes> = self.owned.keys().cloned().collect();
            for key in all {
                self.surrender(&key, now);
            }
            ranges.push((Bytes::new(), Bytes::from_static(b"\0")));
        }
        for range in &ranges {
            if range.1.is_empty() {
                *self.busy_keys.entry(range.0.clone()).or_default() += 1;
                if let Some(acquiring) = self.acquiring.get_mut(&range.0) {
                    acquiring.spoiled = true;
                }
                continue;
            }
            self.busy_ranges.push(range.clone());
            for (key, acquiring) in &mut self.acquiring {
                acquiring.spoiled |= meet(range, (key, b""));
            }
        }
        ranges
    }

    /// A write is over, and what it did is settled.
    pub fn end(&mut self, ranges: &[Range]) {
        for range in ranges {
            if !range.1.is_empty() {
                if let Some(at) = self.busy_ranges.iter().position(|one| one == range) {
                    self.busy_ranges.swap_remove(at);
                }
                continue;
            }
            if let Some(count) = self.busy_keys.get_mut(&range.0) {
                *count -= 1;
                if *count == 0 {
                    self.busy_keys.remove(&range.0);
                }
            }
        }
    }

    /// Nobody knows what a write in these ranges has done.
    pub fn doubt(&mut self, ranges: &[Range], now: Instant) {
        for (key, _) in self.owned_in(ranges) {
            self.surrender(&key, now);
        }
    }

    /// The owned keys in these ranges, each with the revision that made its leasing key.
    #[must_use]
    pub fn owned_in(&self, ranges: &[Range]) -> Vec<(Bytes, i64)> {
        let mut found = BTreeMap::new();
        for range in ranges {
            if range.1.is_empty() {
                if let Some(owned) = self.owned.get(&range.0) {
                    found.insert(range.0.clone(), owned.created);
                }
                continue;
            }
            let inside = self.owned.iter();
            let inside = inside.filter(|(key, _)| meet(range, (key, b"")));
            found.extend(inside.map(|(key, owned)| (key.clone(), owned.created)));
        }
        found.into_iter().collect()
    }

    /// The revision that made a key's leasing key, if it is owned; otherwise 0, which no revision is.
    #[must_use]
    pub fn created(&self, key: &[u8]) -> i64 {
        self.owned.get(key).map_or(0, |owned| owned.created)
    }

    /// Whether a leasing key that was made at this revision is what makes a key owned. A newer one is
    /// somebody else's, whatever was thought of the key.
    pub fn is_owned_since(&mut self, key: &[u8], created: i64, now: Instant) -> bool {
        let owned = self.created(key);
        if owned != 0 && owned < created {
            self.evict(key, now);
        }
        owned == created
    }

    /// What an owned key holds at a revision, which a write of this proxy has made or seen.
    pub fn settle(
        &mut self,
        key: &Bytes,
        created: i64,
        header: pb::ResponseHeader,
        pair: Option<KeyValue>,
        now: Instant,
    ) {
        let Some(owned) = self.owned.get_mut(key) else {
            return;
        };
        if owned.created != created || header.revision < owned.header.revision {
            return;
        }
        let leased = pair.as_ref().is_some_and(|pair| pair.lease != 0);
        self.bytes -= owned.bytes();
        owned.pair = pair.as_ref().map(pair_alone);
        owned.header = header;
        let bytes = owned.bytes();
        self.bytes += bytes;
        // Of the end of somebody's lease nobody would hear.
        if leased || bytes > BYTES_MAX / 8 || self.bytes > BYTES_MAX {
            self.surrender(key, now);
        }
    }

    /// What happened to the leasing key of this key.
    pub fn event(&mut self, key: &Bytes, event: &Event, now: Instant) {
        let Some(pair) = &event.kv else { return };
        let revision = pair.mod_revision;
        let deleted = event.r#type == EventType::Delete as i32;
        let own = !deleted && self.leases.contains(&pair.lease);
        if own && pair.value[..] == *REVOKE {
            self.release(key, pair.create_revision);
        }
        if let Some(acquiring) = self.acquiring.get_mut(key)
            && !(own && pair.lease == acquiring.lease && pair.value.is_empty())
        {
            // Somebody wants it, has it, or it is nobody's.
            acquiring.lost = acquiring.lost.max(revision);
            if own && pair.value[..] == *REVOKE {
                self.given_up.insert(alone(key), now);
            }
        }
        if let Some(owned) = self.owned.get(key)
            && revision > owned.created
        {
            self.evict(key, now);
        }
    }

    /// How many keys are owned.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.owned.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: i64 = 7;

    struct Under {
        table: Table,
        now: Instant,
    }

    fn header(revision: i64) -> pb::ResponseHeader {
        pb::ResponseHeader {
            revision,
            ..Default::default()
        }
    }

    fn pair(value: &'static str, revision: i64) -> KeyValue {
        KeyValue {
            key: "k".into(),
            value: value.into(),
            mod_revision: revision,
            ..Default::default()
        }
    }

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    fn one(name: &'static str) -> Vec<Range> {
        vec![(key(name), Bytes::new())]
    }

    /// An event of a leasing key: made at the first revision, changed at the second.
    fn event(value: Option<&'static [u8]>, lease: i64, created: i64, revision: i64) -> Event {
        let kind = match value {
            Some(_) => EventType::Put,
            None => EventType::Delete,
        };
        Event {
            r#type: kind as i32,
            kv: Some(KeyValue {
                value: value.unwrap_or_default().into(),
                lease,
                create_revision: created,
                mod_revision: revision,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    impl Under {
        fn new() -> Self {
            let now = Instant::now();
            let mut table = Table::new(b"A/");
            table.lives(LEASE, now + Duration::from_secs(50));
            table.set_watched(true);
            Under { table, now }
        }

        /// One that owns `k`, with this value, since revision 5.
        fn owning(value: &'static str) -> Self {
            let mut under = Under::new();
            assert_eq!(under.found("k"), Found::Acquire(LEASE, 1));
            let pair = pair(value, 3);
            under
                .table
                .acquired(&key("k"), 1, header(5), Some(pair), under.now);
            under
        }

        fn found(&mut self, name: &'static str) -> Found {
            let request = pb::RangeRequest {
                key: name.into(),
                ..Default::default()
            };
            self.table.read(&request, self.now)
        }

        /// The value that is answered for `k`.
        fn answered(&mut self) -> Option<String> {
            match self.found("k") {
                Found::Answer(answer) => {
                    let pair = answer.kvs.first().expect("a pair");
                    Some(String::from_utf8_lossy(&pair.value).into_owned())
                }
                Found::Ask | Found::Acquire(..) => None,
            }
        }

        fn releases(&self) -> Vec<(Bytes, i64)> {
            self.table.to_release(9)
        }
    }

    #[test]
    fn what_was_acquired_is_answered_while_the_lease_certainly_lives() {
        let mut under = Under::owning("v");
        assert_eq!(under.answered().as_deref(), Some("v"));
        under.now += Duration::from_secs(51);
        assert_eq!(under.found("k"), Found::Ask);
        // A lease that was kept alive was alive all the time.
        let until = under.now + Duration::from_secs(50);
        under.table.lives(LEASE, until);
        assert_eq!(under.answered().as_deref(), Some("v"));
        under.table.lose();
        assert_eq!(under.found("k"), Found::Ask);
        under.table.lives(8, until);
        assert_eq!(under.found("k"), Found::Acquire(8, 2));
    }

    #[test]
    fn only_one_acquires_at_a_time_and_only_what_it_will_hear_of() {
        let mut under = Under::new();
        assert_eq!(under.found("k"), Found::Acquire(LEASE, 1));
        assert_eq!(under.found("k"), Found::Ask);
        assert!(under.table.not_acquired(b"k", 1).is_some());
        under.table.set_watched(false);
        assert_eq!(under.found("k"), Found::Ask);
        under.table.set_watched(true);
        assert_eq!(under.found("A/k"), Found::Ask);
        assert_eq!(under.found("k"), Found::Acquire(LEASE, 2));
        // An attempt that was given up and succeeds late does not count for the next one.
        let pair = Some(pair("v", 3));
        under
            .table
            .acquired(&key("k"), 1, header(5), pair.clone(), under.now);
        assert_eq!(under.releases(), [(key("k"), 5)]);
        assert_eq!(under.found("k"), Found::Ask);
        under
            .table
            .acquired(&key("k"), 2, header(7), pair, under.now);
        assert!(under.answered().is_some());
    }

    #[test]
    fn who_is_asked_gives_the_key_up_and_waits_before_acquiring_it_again() {
        let mut under = Under::owning("v");
        // Somebody else's leasing key is not this proxy's affair.
        let others = event(Some(REVOKE), 9, 1, 4);
        under.table.event(&key("k"), &others, under.now);
        assert!(under.answered().is_some());
        let asked = event(Some(REVOKE), LEASE, 5, 8);
        under.table.event(&key("k"), &asked, under.now);
        assert_eq!(under.found("k"), Found::Ask);
        assert_eq!(under.releases(), [(key("k"), 5)]);
        under.table.released(&[(key("k"), 5)]);
        assert_eq!(under.found("k"), Found::Ask);
        under.now += BACKOFF + Duration::from_millis(1);
        assert_eq!(under.found("k"), Found::Acquire(LEASE, 2));
    }

    #[test]
    fn a_leasing_key_that_was_never_known_is_given_back_all_the_same() {
        let mut under = Under::new();
        let asked = event(Some(REVOKE), LEASE, 5, 8);
        under.table.event(&key("k"), &asked, under.now);
        assert_eq!(under.releases(), [(key("k"), 5)]);
        assert_eq!(under.found("k"), Found::Ask);
    }

    #[test]
    fn an_acquisition_that_was_overtaken_is_none() {
        for (event, kept) in [
            (event(Some(b""), LEASE, 5, 5), true),
            (event(None, 0, 0, 4), true),
            (event(None, 0, 0, 6), false),
            (event(Some(REVOKE), LEASE, 5, 6), false),
            (event(Some(b""), 9, 7, 7), false),
        ] {
            let mut under = Under::new();
            assert_eq!(under.found("k"), Found::Acquire(LEASE, 1));
            under.table.event(&key("k"), &event, under.now);
            let pair = Some(pair("v", 3));
            under
                .table
                .acquired(&key("k"), 1, header(5), pair, under.now);
            assert_eq!(under.answered().is_some(), kept, "{event:?}");
            assert_eq!(under.releases().is_empty(), kept, "{event:?}");
        }
    }

    #[test]
    fn what_is_lost_otherwise_is_not_answered_either() {
        for event in [event(None, 0, 0, 6), event(Some(b""), 9, 7, 7)] {
            let mut under = Under::owning("v");
            under.table.event(&key("k"), &event, under.now);
            assert!(under.answered().is_none(), "{event:?}");
        }
        // What was heard late concerns what was there before.
        let mut under = Under::owning("v");
        under
            .table
            .event(&key("k"), &event(None, 0, 0, 4), under.now);
        assert!(under.answered().is_some());
    }

    #[test]
    fn while_something_is_written_a_member_answers() {
        for range in [
            (key("k"), Bytes::new()),
            (key("a"), key("z")),
            (key("a"), key("\0")),
        ] {
            let mut under = Under::owning("v");
            let first = under.table.begin(vec![range.clone()], under.now);
            let second = under.table.begin(vec![range], under.now);
            assert_eq!(under.found("k"), Found::Ask);
            under.table.end(&first);
            assert_eq!(under.found("k"), Found::Ask);
            under.table.end(&second);
            assert!(under.answered().is_some());
        }
    }

    #[test]
    fn a_write_spoils_an_acquisition_that_it_meets() {
        for (range, kept) in [
            ((key("k"), Bytes::new()), false),
            ((key("j"), Bytes::new()), true),
            ((key("a"), key("z")), false),
            ((key("a"), key("b")), true),
        ] {
            let mut under = Under::new();
            assert_eq!(under.found("k"), Found::Acquire(LEASE, 1));
            let ranges = under.table.begin(vec![range.clone()], under.now);
            under.table.end(&ranges);
            let pair = Some(pair("v", 3));
            under
                .table
                .acquired(&key("k"), 1, header(5), pair, under.now);
            assert_eq!(under.answered().is_some(), kept, "{range:?}");
        }
        // One that begins meanwhile does not even try.
        let mut under = Under::new();
        let _ranges = under.table.begin(one("k"), under.now);
        assert_eq!(under.found("k"), Found::Ask);
    }

    #[test]
    fn of_two_writes_the_later_one_counts_in_whatever_order_they_are_told() {
        let mut under = Under::owning("v");
        let now = under.now;
        let mut settle = |revision, value| {
            let pair = Some(pair(value, revision));
            under
                .table
                .settle(&key("k"), 5, header(revision), pair, now);
        };
        settle(9, "later");
        settle(8, "earlier");
        assert_eq!(under.answered().as_deref(), Some("later"));
    }

    #[test]
    fn what_is_not_known_or_may_end_unheard_is_given_up() {
        let mut under = Under::owning("v");
        under.table.doubt(&[(key("a"), key("z"))], under.now);
        assert!(under.answered().is_none());
        assert_eq!(under.releases(), [(key("k"), 5)]);
        let mut under = Under::owning("v");
        let leased = KeyValue {
            lease: 99,
            ..pair("w", 8)
        };
        under
            .table
            .settle(&key("k"), 5, header(8), Some(leased), under.now);
        assert!(under.answered().is_none());
        assert_eq!(under.releases(), [(key("k"), 5)]);
    }

    #[test]
    fn whoever_writes_leasing_keys_takes_them_all() {
        for range in [
            (key("A/k"), Bytes::new()),
            (key("A"), key("z")),
            (key("\0"), key("\0")),
            (key("A/a"), key("A/b")),
        ] {
            let mut under = Under::owning("v");
            let ranges = under.table.begin(vec![range.clone()], under.now);
            under.table.end(&ranges);
            let expected = [(key("k"), 5)];
            assert_eq!(under.releases(), expected, "{range:?}");
        }
        let mut under = Under::owning("v");
        let ranges = under.table.begin(vec![(key("m"), key("z"))], under.now);
        under.table.end(&ranges);
        assert!(under.answered().is_some());
    }

    #[test]
    fn what_was_not_read_makes_room_for_what_is() {
        let mut under = Under::new();
        let name = |number: usize| Bytes::from(format!("{number}"));
        let acquire = |under: &mut Under, number: usize| {
            let request = pb::RangeRequest {
                key: name(number),
                ..Default::default()
            };
            let found = under.table.read(&request, under.now);
            if let Found::Acquire(_, attempt) = found {
                let (name, header) = (name(number), header(number as i64 + 1));
                let table = &mut under.table;
                table.acquired(&name, attempt, header, None, under.now);
            }
            found
        };
        for number in 0..OWNED_MAX {
            acquire(&mut under, number);
        }
        // The oldest is read once more.
        assert!(matches!(acquire(&mut under, 0), Found::Answer(_)));
        acquire(&mut under, OWNED_MAX);
        assert_eq!(under.table.len(), OWNED_MAX);
        assert!(matches!(acquire(&mut under, 0), Found::Answer(_)));
        assert_eq!(under.releases(), [(name(1), 2)]);
    }
}
