//! Names and encodings of the database file: buckets, meta keys, revisions.
//!
//! Must never hold state; it is the vocabulary of the layers above.

use thiserror::Error;

/// A bucket of the database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// Revisions of keys.
    Key,
    /// Applied index, term, conf state, storage version, compaction marks.
    Meta,
    /// Leases.
    Lease,
    /// Whether authentication is on, and its revision.
    Auth,
    /// Users.
    AuthUsers,
    /// Roles.
    AuthRoles,
    /// Members of the cluster.
    Members,
    /// IDs of members removed for ever.
    MembersRemoved,
    /// Cluster version and downgrade state.
    Cluster,
    /// Raised alarms.
    Alarm,
}

impl Bucket {
    /// Every bucket, in the order of their names, which is their order in the file.
    pub const ALL: [Bucket; 10] = [
        Bucket::Alarm,
        Bucket::Auth,
        Bucket::AuthRoles,
        Bucket::AuthUsers,
        Bucket::Cluster,
        Bucket::Key,
        Bucket::Lease,
        Bucket::Members,
        Bucket::MembersRemoved,
        Bucket::Meta,
    ];

    /// The bucket's name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Bucket::Key => "key",
            Bucket::Meta => "meta",
            Bucket::Lease => "lease",
            Bucket::Auth => "auth",
            Bucket::AuthUsers => "authUsers",
            Bucket::AuthRoles => "authRoles",
            Bucket::Members => "members",
            Bucket::MembersRemoved => "members_removed",
            Bucket::Cluster => "cluster",
            Bucket::Alarm => "alarm",
        }
    }

    /// Position in an array with one place for each bucket.
    pub(crate) const fn slot(self) -> usize {
        self as usize
    }
}

/// Number of buckets.
pub(crate) const BUCKETS: usize = Bucket::ALL.len();

/// Keys of the meta bucket.
pub mod meta {
    /// Index of the last applied log entry, 8 bytes big endian.
    pub const CONSISTENT_INDEX: &str = "consistent_index";
    /// Term of that entry, 8 bytes big endian.
    pub const TERM: &str = "term";
    /// Voters and learners, JSON.
    pub const CONF_STATE: &str = "confState";
    /// Version of the schema, text.
    pub const STORAGE_VERSION: &str = "storageVersion";
    /// Revision of the last requested compaction.
    pub const SCHEDULED_COMPACT: &str = "scheduledCompactRev";
    /// Revision of the last compaction whose garbage is gone.
    pub const FINISHED_COMPACT: &str = "finishedCompactRev";
}

pub use meta::*;

/// A revision: the number of the transaction, and the place of a change in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    /// Number of the transaction that made the change.
    pub main: i64,
    /// Place of the change in its transaction, from 0.
    pub sub: i64,
}

/// A key of the key bucket: a revision, and whether the change was a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketKey {
    /// The revision.
    pub revision: Revision,
    /// True for a deletion.
    pub tombstone: bool,
}

/// Bytes of an encoded revision: main, `_`, sub.
pub const REVISION_LEN: usize = 17;
/// Bytes of an encoded revision of a deletion: as above, then `t`.
pub const TOMBSTONE_LEN: usize = 18;

/// An encoded key of the key bucket, on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionBytes {
    bytes: [u8; TOMBSTONE_LEN],
    len: u8,
}

impl std::ops::Deref for RevisionBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Bytes that are no revision.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("key bucket holds {0:02x?}, which is no revision")]
pub struct BadRevision(pub Vec<u8>);

impl Revision {
    /// A revision.
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }

    /// The 17 bytes of this revision.
    pub fn encode(self) -> RevisionBytes {
        BucketKey {
            revision: self,
            tombstone: false,
        }
        .encode()
    }
}

impl BucketKey {
    /// The 17 or 18 bytes of this key.
    pub fn encode(self) -> RevisionBytes {
        let mut bytes = [0; TOMBSTONE_LEN];
        bytes[..8].copy_from_slice(&self.revision.main.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..17].copy_from_slice(&self.revision.sub.to_be_bytes());
        let mut len = REVISION_LEN as u8;
        if self.tombstone {
            bytes[17] = b't';
            len = TOMBSTONE_LEN as u8;
        }
        RevisionBytes { bytes, len }
    }

    /// Reads a key of the key bucket.
    ///
    /// # Errors
    /// Wrong length, separator or mark, or a negative number.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRevision> {
        let bad = || BadRevision(bytes.iter().copied().take(64).collect());
        let (head, mark) = bytes.split_first_chunk::<REVISION_LEN>().ok_or_else(bad)?;
        let tombstone = match mark {
            [] => false,
            [b't'] => true,
            _ => return Err(bad()),
        };
        let [
            m0,
            m1,
            m2,
            m3,
            m4,
            m5,
            m6,
            m7,
            sep,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
        ] = *head;
        let main = i64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
        let sub = i64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        if sep != b'_' || main < 0 || sub < 0 {
            return Err(bad());
        }
        Ok(Self {
            revision: Revision { main, sub },
            tombstone,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_have_etcds_bytes() {
        let put = Revision::new(258, 3).encode();
        assert_eq!(
            &put[..],
            [0, 0, 0, 0, 0, 0, 1, 2, b'_', 0, 0, 0, 0, 0, 0, 0, 3]
        );
        let gone = BucketKey {
            revision: Revision::new(258, 3),
            tombstone: true,
        };
        assert_eq!(gone.encode().len(), 18);
        assert_eq!(gone.encode()[17], b't');
        assert_eq!(BucketKey::decode(&gone.encode()), Ok(gone));
    }

    #[test]
    fn damaged_revisions_are_errors() {
        let good = Revision::new(1, 0).encode();
        assert!(BucketKey::decode(&good[..16]).is_err());
        for (at, byte) in [(8, b'-'), (0, 0x80), (9, 0xff)] {
            let mut bad = good.to_vec();
            bad[at] = byte;
            assert!(BucketKey::decode(&bad).is_err(), "byte {at}");
        }
        let mut marked = good.to_vec();
        marked.push(b'x');
        assert!(BucketKey::decode(&marked).is_err());
    }

    #[test]
    fn buckets_stand_in_file_order() {
        let names: Vec<_> = Bucket::ALL.iter().map(|b| b.name()).collect();
        assert!(names.is_sorted());
        let mut slots: Vec<_> = Bucket::ALL.iter().map(|b| b.slot()).collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..BUCKETS).collect::<Vec<_>>());
    }
}
