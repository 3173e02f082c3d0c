//! Leases as replicated state: which exist, with what time-to-live, and which keys hang on them.
//!
//! Time is not part of it: when a lease is over is the leader's judgement, and it says so by a
//! revocation in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferrite_mutate::mutation;
use ferrite_mvcc::schema::Bucket;
use ferrite_mvcc::{Backend, Leases, ReadError};
use ferrite_proto::leasepb;
use parking_lot::RwLock;
use prost::Message;

/// Longest time-to-live that etcd grants, in seconds.
pub const TTL_MAX_SECONDS: i64 = 9_000_000_000;

#[derive(Debug, Clone, Default)]
struct Lease {
    ttl_seconds: i64,
    remaining_seconds: i64,
    keys: BTreeSet<Box<[u8]>>,
}

/// How long a lease lives, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// As granted.
    pub ttl_seconds: i64,
    /// What was left of it at the last checkpoint; 0 when there was none since it was renewed.
    pub checkpoint_seconds: i64,
}

impl Lives {
    /// What a new leader gives the lease.
    pub fn restart_seconds(self) -> i64 {
        if self.checkpoint_seconds > 0 {
            self.checkpoint_seconds
        } else {
            self.ttl_seconds
        }
    }
}

/// The leases as readers on other threads see them. Cheap to clone; always as far as the state that
/// applied requests have reached.
#[derive(Debug, Clone, Default)]
pub struct View(Arc<RwLock<BTreeMap<i64, Lease>>>);

impl View {
    /// How long a lease lives; `None` when there is no such lease.
    pub fn lives(&self, id: i64) -> Option<Lives> {
        self.0.read().get(&id).map(lives)
    }

    /// The keys on a lease, in key order; `None` when there is no such lease.
    pub fn keys(&self, id: i64) -> Option<Vec<Box<[u8]>>> {
        self.0
            .read()
            .get(&id)
            .map(|lease| lease.keys.iter().cloned().collect())
    }

    /// Every lease, by ID.
    pub fn all(&self) -> Vec<(i64, Lives)> {
        self.0
            .read()
            .iter()
            .map(|(id, lease)| (*id, lives(lease)))
            .collect()
    }

    /// IDs of all leases, ascending.
    pub fn ids(&self) -> Vec<i64> {
        self.0.read().keys().copied().collect()
    }
}

fn lives(lease: &Lease) -> Lives {
    Lives {
        ttl_seconds: lease.ttl_seconds,
        checkpoint_seconds: lease.remaining_seconds,
    }
}

/// The leases of the cluster, kept equal to the `lease` bucket. Owned by whoever applies requests.
#[derive(Debug, Default)]
pub struct Lessor {
    /// Written here only, and only for requests that concern a lease: a plain put takes no lock.
    shared: View,
    keys: BTreeMap<Box<[u8]>, i64>,
}

impl Lessor {
    /// Reads the bucket; keys are attached later, by the store's own scan. A time-to-live below
    /// `ttl_min_seconds` counts as that.
    ///
    /// # Errors
    /// A damaged database file, a record that is no lease included.
    pub fn load(backend: &Backend, ttl_min_seconds: i64) -> Result<Self, ReadError> {
        let mut leases = BTreeMap::new();
        let mut bad = None;
        backend
            .view()
            .scan(
                Bucket::Lease,
                &[],
                None,
                &mut |key, value| match leasepb::Lease::decode(value) {
                    Ok(lease) => {
                        leases.insert(
                            lease.id,
                            Lease {
                                ttl_seconds: lease.ttl.max(ttl_min_seconds),
                                remaining_seconds: lease.remaining_ttl,
                                keys: BTreeSet::new(),
                            },
                        );
                        std::ops::ControlFlow::Continue(())
                    }
                    Err(error) => {
                        bad = Some(format!("bucket lease, key {key:02x?}: {error}"));
                        std::ops::ControlFlow::Break(())
                    }
                },
            )?;
        match bad {
            Some(text) => Err(ReadError(text)),
            None => Ok(Lessor {
                shared: View(Arc::new(RwLock::new(leases))),
                keys: BTreeMap::new(),
            }),
        }
    }

    /// What readers may hold on to; it follows every later change, [`Lessor::replace`] included.
    pub fn view(&self) -> View {
        self.shared.clone()
    }

    /// Takes over the leases of `other`. Readers see the old ones or the new ones, never a mixture.
    pub fn replace(&mut self, other: Lessor) {
        let leases = std::mem::take(&mut *other.shared.0.write());
        let before = std::mem::replace(&mut *self.shared.0.write(), leases);
        self.keys = other.keys;
        drop(before);
    }

    /// Creates a lease. The time-to-live has been raised to the minimum already.
    pub fn grant(&mut self, id: i64, ttl_seconds: i64, backend: &Backend) {
        let lease = Lease {
            ttl_seconds,
            ..Lease::default()
        };
        persist(id, &lease, backend);
        self.shared.0.write().insert(id, lease);
    }

    /// Keeps a remaining time-to-live. Unknown leases are passed over.
    pub fn checkpoint(
        &mut self,
        id: i64,
        remaining_seconds: i64,
        durable: bool,
        backend: &Backend,
    ) {
        if let Some(lease) = self.shared.0.write().get_mut(&id) {
            lease.remaining_seconds = remaining_seconds;
            if durable {
                persist(id, lease, backend);
            }
        }
    }

    /// The keys on a lease, in key order; `None` when there is no such lease.
    pub fn keys(&self, id: i64) -> Option<Vec<Box<[u8]>>> {
        self.shared.keys(id)
    }

    /// Forgets a lease whose keys have been deleted.
    pub fn remove(&mut self, id: i64, backend: &Backend) {
        let removed = self.shared.0.write().remove(&id);
        if let Some(lease) = removed {
            for key in lease.keys {
                self.keys.remove(&key);
            }
            backend.delete(Bucket::Lease, &id.to_be_bytes());
        }
    }

    /// IDs of all leases, ascending.
    pub fn ids(&self) -> Vec<i64> {
        self.shared.ids()
    }

    /// Granted time-to-live in seconds.
    pub fn ttl_seconds(&self, id: i64) -> Option<i64> {
        self.shared.lives(id).map(|lives| lives.ttl_seconds)
    }
}

fn persist(id: i64, lease: &Lease, backend: &Backend) {
    let record = leasepb::Lease {
        id,
        ttl: lease.ttl_seconds,
        remaining_ttl: lease.remaining_seconds,
    };
    backend.put(Bucket::Lease, &id.to_be_bytes(), &record.encode_to_vec());
}

impl Leases for Lessor {
    fn exists(&self, id: i64) -> bool {
        self.shared.0.read().contains_key(&id)
    }

    fn lease_of(&self, key: &[u8]) -> i64 {
        if self.keys.is_empty() {
            return 0;
        }
        self.keys.get(key).copied().unwrap_or(0)
    }

    fn attach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.shared.0.write().get_mut(&id) {
            lease.keys.insert(key.into());
            self.keys.insert(key.into(), id);
        }
    }

    fn detach(&mut self, id: i64, key: &[u8]) {
        if mutation!("keys-stay-attached") {
            return;
        }
        if let Some(lease) = self.shared.0.write().get_mut(&id) {
            lease.keys.remove(key);
        }
        // Only if it still hangs there: a put moves a key by attaching first.
        if self.keys.get(key) == Some(&id) {
            self.keys.remove(key);
        }
    }
}
