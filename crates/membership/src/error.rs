//! Why a change or a piece of stored membership is refused.

/// A refusal. The first six are etcd's own, and reach clients through the server's error table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The ID was removed; removed IDs never come back.
    #[error("membership: ID removed")]
    IdRemoved,
    /// A member with this ID exists.
    #[error("membership: ID exists")]
    IdExists,
    /// No member has this ID.
    #[error("membership: ID not found")]
    IdNotFound,
    /// Another member uses one of the peer URLs.
    #[error("membership: peerURL exists")]
    PeerUrlExists,
    /// The member to promote votes already.
    #[error("membership: can only promote a learner member")]
    MemberNotLearner,
    /// The only voter is to be removed. Never checked by etcd, which ends by a panic when it is committed.
    #[error("membership: cannot remove the last voting member")]
    LastVoter,
    /// One more learner would be too many.
    #[error("membership: too many learner members in cluster")]
    TooManyLearners,
    /// Two members would get the same ID.
    #[error("member exists with identical ID {0:x}: give the members different peer URLs")]
    IdenticalId(u64),
    /// The hash of a member's URLs is the ID that means "nobody".
    #[error("cannot use 0 as member id: change the member's peer URLs or the cluster token")]
    ZeroId,
    /// The context of a membership change does not decode.
    #[error(
        "conf change of type {kind} for member {id:x} has a malformed context ({detail}): the log is damaged"
    )]
    MalformedContext {
        /// The change's type number.
        kind: i32,
        /// The member it is about.
        id: u64,
        /// What the decoder said.
        detail: String,
    },
    /// A membership change names one member and its context another.
    #[error(
        "conf change for member {id:x} carries the description of member {other:x}: the log is damaged"
    )]
    DifferentId {
        /// The member it is about.
        id: u64,
        /// The member in the context.
        other: u64,
    },
    /// A membership change of a type that etcd does not have.
    #[error("unknown ConfChange type {0}: a newer version proposed it; upgrade this member")]
    UnknownChange(i32),
    /// The clusters differ in size.
    #[error("member count is unequal: the configuration lists {} [{}], the running cluster has {} [{}]",
        .configured.len(), .configured.join(" "), .running.len(), .running.join(" "))]
    MemberCountUnequal {
        /// The members of the local configuration, as `name=URLs`.
        configured: Vec<String>,
        /// Those of the running cluster.
        running: Vec<String>,
    },
    /// The running cluster has a member that the local configuration has not.
    #[error("PeerURLs: no match found for existing member ({id:x}, [{}]), last resolver error ({detail})", peer_urls.join(" "))]
    NoMatch {
        /// The existing member.
        id: u64,
        /// Its peer URLs.
        peer_urls: Vec<String>,
        /// Why the last comparison failed.
        detail: String,
    },
    /// A version that is not `major.minor.patch`.
    #[error("{0:?} is not a version of the form major.minor.patch")]
    BadVersion(String),
    /// A key in a membership bucket that is no hexadecimal member ID.
    #[error("bucket {bucket}: key {key:?} is no member ID: the database is damaged")]
    BadKey {
        /// The bucket.
        bucket: &'static str,
        /// The key, lossily as text.
        key: String,
    },
    /// A value in a membership bucket, or a `.snap` document, that does not decode.
    #[error("{place}: {detail}: the file is damaged")]
    Malformed {
        /// Which bucket and key, or which node of the document.
        place: String,
        /// What is wrong with it.
        detail: String,
    },
    /// `--initial-cluster` and the like: the text is etcd's.
    #[error("{0}")]
    Config(String),
}
