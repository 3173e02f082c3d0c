//! Whether a step is safe, judged on a picture alone: no clock, no network.

use std::fmt;

use ferrite_membership::Version;

use super::look::{Answer, Picture, Seen};
use super::peers::Unasked;

/// Members of older programs cannot stand beside ours: they end by what ours write to the log.
pub const OLDEST: Version = Version::new(3, 5, 0);
/// Programs of this version are ours or newer ones of the original's.
const OURS: Version = Version::new(3, 7, 0);
/// The first fixed against losing a write when it is killed (etcd issue 13766).
const FIXED: Version = Version::new(3, 5, 3);

/// What stands against a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsafe {
    /// The cluster cannot be asked.
    Trouble(String),
    /// A member does not answer.
    Silent { who: String, why: String },
    /// An endpoint is somebody else's.
    Stranger(String),
    /// Members belong to clusters of several IDs.
    SeveralClusters,
    /// Members do not agree on who leads.
    NoLeader,
    /// A member complains.
    Complains { who: String, what: String },
    /// An alarm is on.
    Alarm(String),
    /// A member is not known.
    NoSuchMember(String),
    /// Too few voters would be left.
    Quorum { voters: usize },
    /// A member's program is too old.
    TooOld { who: String, version: Version },
    /// It runs what it is to run already.
    Already { who: String, version: Version },
    /// Nothing would hold the cluster's version.
    WouldRise { cluster: Version },
    /// The cluster's version is above the program to come.
    Above { cluster: Version, to: Version },
    /// The members have not decided on the cluster's version yet.
    Undecided,
    /// What only a member's peer port tells is not known.
    PeerPort {
        what: &'static str,
        who: String,
        why: Unasked,
    },
    /// A member is behind.
    Behind { who: String, entries: u64 },
    /// Data differs.
    Differs {
        revision: i64,
        hashes: Vec<String>,
        lasting: bool,
    },
}

impl Unsafe {
    /// Whether waiting is of no use.
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Differs { lasting: true, .. }
                | Self::PeerPort {
                    why: Unasked { lasting: true, .. },
                    ..
                }
                | Self::NoSuchMember(_)
                | Self::Quorum { .. }
                | Self::TooOld { .. }
                | Self::Already { .. }
                | Self::WouldRise { .. }
                | Self::Above { .. }
                | Self::Stranger(_)
                | Self::SeveralClusters
        )
    }
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trouble(what) => write!(f, "{what}"),
            Self::Silent { who, why } => write!(
                f,
                "member {who} does not answer: {why}. --endpoints must name every member, and every member must be up"
            ),
            Self::Stranger(what) => {
                write!(
                    f,
                    "{what}, which is not in the list of members: take it out of --endpoints"
                )
            }
            Self::SeveralClusters => {
                write!(
                    f,
                    "the endpoints belong to several clusters: take the others out of --endpoints"
                )
            }
            Self::NoLeader => write!(f, "the members do not agree on a leader"),
            Self::Complains { who, what } => write!(f, "member {who} says: {what}"),
            Self::Alarm(alarm) => write!(f, "an alarm is on: {alarm}. See etcdctl alarm list"),
            Self::NoSuchMember(name) => {
                write!(
                    f,
                    "no member has the name or ID {name:?}: see etcdctl member list"
                )
            }
            Self::Quorum { voters } => write!(
                f,
                "without this member {} of {voters} voters are left, which is no quorum: the cluster would stand still. Add members first, or accept that with --allow-downtime",
                voters - 1
            ),
            Self::TooOld { who, version } => write!(
                f,
                "member {who} runs {version}: programs before 3.5 cannot be in one cluster with Ferrite. Upgrade the cluster to 3.5 first"
            ),
            Self::Already { who, version } => {
                write!(f, "member {who} runs {version} already")
            }
            Self::WouldRise { cluster } => write!(
                f,
                "this is the last member whose program is older: with it the cluster's version would rise above {}.{}, and the way back in place would be closed. Start members with --hold-cluster-version={}.{}, or let it rise with --last",
                cluster.major, cluster.minor, cluster.major, cluster.minor
            ),
            Self::Above { cluster, to } => write!(
                f,
                "the cluster has version {cluster}: a program of {}.{} would refuse to start. Start every member with --hold-cluster-version={}.{}, then take the version down by etcdctl downgrade enable, one minor version at a time",
                to.major, to.minor, to.major, to.minor
            ),
            Self::Undecided => write!(
                f,
                "the members have not decided on the cluster's version yet"
            ),
            Self::PeerPort { what, who, why } => write!(
                f,
                "{what} is not known: member {who} cannot be asked on its peer port, which must be reachable from here: {why}"
            ),
            Self::Behind { who, entries } => {
                write!(
                    f,
                    "member {who} is {entries} entries behind: wait until it has caught up"
                )
            }
            Self::Differs {
                revision, hashes, ..
            } => write!(
                f,
                "members hold different data at revision {revision}: {}. Find out which is right before anything else; a step would not mend it",
                hashes.join(", ")
            ),
        }
    }
}

/// Entries that a member may be behind while the others write on.
const LAG_MAX: u64 = 5_000;

fn answers(picture: &Picture) -> impl Iterator<Item = (&Seen, &Answer)> {
    let members = picture.members.iter();
    members.filter_map(|member| Some((member, member.answer.as_ref().ok()?)))
}

/// What must hold before and after every step.
pub fn health(picture: &Picture) -> Vec<Unsafe> {
    let mut reasons: Vec<Unsafe> = picture
        .trouble
        .iter()
        .cloned()
        .map(Unsafe::Trouble)
        .collect();
    reasons.extend(picture.strangers.iter().cloned().map(Unsafe::Stranger));
    for member in &picture.members {
        match &member.answer {
            Err(why) => reasons.push(Unsafe::Silent {
                who: member.title(),
                why: why.clone(),
            }),
            Ok(answer) => {
                if let Some(version) = answer.program.filter(|version| *version < OLDEST) {
                    reasons.push(Unsafe::TooOld {
                        who: member.title(),
                        version,
                    });
                }
                reasons.extend(answer.errors.iter().map(|what| Unsafe::Complains {
                    who: member.title(),
                    what: what.clone(),
                }));
            }
        }
    }
    reasons.extend(picture.alarms.iter().cloned().map(Unsafe::Alarm));
    let Some((_, first)) = answers(picture).next() else {
        return reasons;
    };
    if answers(picture).any(|(_, answer)| answer.cluster_id != first.cluster_id) {
        reasons.push(Unsafe::SeveralClusters);
    }
    let agreed = first.leader != 0
        && answers(picture)
            .all(|(_, answer)| (answer.leader, answer.term) == (first.leader, first.term));
    if !agreed {
        reasons.push(Unsafe::NoLeader);
    }
    let newest = answers(picture)
        .map(|(_, answer)| answer.applied)
        .max()
        .unwrap_or(0);
    for (member, answer) in answers(picture) {
        let entries = newest.saturating_sub(answer.applied);
        if entries > LAG_MAX {
            reasons.push(Unsafe::Behind {
                who: member.title(),
                entries,
            });
        }
    }
    reasons
}

/// Whether the cluster goes on while this member is away.
pub fn without(picture: &Picture, id: u64) -> Vec<Unsafe> {
    let voters = picture
        .members
        .iter()
        .filter(|member| !member.learner)
        .count();
    let voter = picture
        .members
        .iter()
        .any(|member| member.id == id && !member.learner);
    if voter && voters - 1 < voters / 2 + 1 {
        vec![Unsafe::Quorum { voters }]
    } else {
        Vec::new()
    }
}

/// What stands against ours in this member's place. `rise`: the version may rise with it.
pub fn forth(picture: &Picture, member: &Seen, rise: bool) -> Vec<Unsafe> {
    let mut reasons = Vec::new();
    if let Ok(Answer {
        program: Some(version),
        ..
    }) = member.answer
        && version >= OURS
    {
        reasons.push(Unsafe::Already {
            who: member.title(),
            version,
        });
    }
    let Some(cluster) = picture.cluster_version() else {
        reasons.extend(version_unknown(picture));
        return reasons;
    };
    // One member that gives no more than the cluster's version holds it.
    let held = answers(picture)
        .filter(|(other, _)| other.id != member.id)
        .any(|(_, answer)| match &answer.versions {
            Ok(given) => given.own.without_patch() <= cluster,
            Err(_) => answer
                .program
                .is_some_and(|own| own.without_patch() <= cluster),
        });
    if !held && !rise && cluster < OURS {
        let silent = unasked(
            picture,
            "whether a member holds the cluster's version",
            |other| other.id != member.id,
        );
        reasons.push(silent.unwrap_or(Unsafe::WouldRise { cluster }));
    }
    reasons
}

/// The first of these members that cannot be asked on its peer port.
fn unasked(picture: &Picture, what: &'static str, among: impl Fn(&Seen) -> bool) -> Option<Unsafe> {
    answers(picture)
        .filter(|(member, _)| among(member))
        .find_map(|(member, answer)| {
            Some(Unsafe::PeerPort {
                what,
                who: member.title(),
                why: answer.versions.as_ref().err()?.clone(),
            })
        })
}

/// Why the cluster's version is not known, if it is not.
pub fn version_unknown(picture: &Picture) -> Option<Unsafe> {
    if picture.cluster_version().is_some() || answers(picture).next().is_none() {
        return None;
    }
    let silent = unasked(picture, "the cluster's version", |_| true);
    Some(silent.unwrap_or(Unsafe::Undecided))
}

/// What stands against the original of version `to` in this member's place.
pub fn back(picture: &Picture, member: &Seen, to: Version) -> Vec<Unsafe> {
    let mut reasons = Vec::new();
    if let Ok(Answer {
        program: Some(version),
        ..
    }) = member.answer
        && version < OURS
    {
        reasons.push(Unsafe::Already {
            who: member.title(),
            version,
        });
    }
    match picture.cluster_version() {
        Some(cluster) if cluster > to => reasons.push(Unsafe::Above { cluster, to }),
        Some(_) => {}
        None => reasons.extend(version_unknown(picture)),
    }
    reasons
}

/// Whether a program loses a write when it is killed instead of stopped.
pub fn loses_when_killed(program: Option<Version>) -> bool {
    program.is_some_and(|version| (OLDEST..FIXED).contains(&version))
}

#[cfg(test)]
mod tests {
    use super::super::peers::Given;
    use super::*;

    const V351: Version = Version::new(3, 5, 1);
    const V371: Version = Version::new(3, 7, 1);

    fn member(id: u64, program: Version, given: Version) -> Seen {
        Seen {
            id,
            name: format!("m{id}"),
            learner: false,
            endpoint: String::new(),
            answer: Ok(Answer {
                program: Some(program),
                cluster_id: 7,
                leader: 1,
                term: 2,
                revision: 5,
                applied: 10,
                errors: Vec::new(),
                storage: String::new(),
                versions: Ok(Given {
                    own: given,
                    cluster: Some(OLDEST),
                }),
            }),
        }
    }

    fn unasked_by(lasting: bool) -> Unasked {
        Unasked {
            why: "turned away".to_owned(),
            lasting,
        }
    }

    fn picture(members: Vec<Seen>) -> Picture {
        Picture {
            members,
            ..Picture::default()
        }
    }

    fn answer(seen: &mut Seen) -> &mut Answer {
        seen.answer.as_mut().expect("it answers")
    }

    #[test]
    fn a_sound_cluster_has_nothing_against_it_and_each_fault_is_named() {
        let sound = picture((1..4).map(|id| member(id, V351, V351)).collect());
        assert_eq!(health(&sound), []);
        assert_eq!(without(&sound, 2), []);
        assert_eq!(forth(&sound, &sound.members[0], false), []);
        let named = |change: &dyn Fn(&mut Picture)| {
            let mut changed = sound.clone();
            change(&mut changed);
            health(&changed)
        };
        assert!(matches!(
            named(&|p| p.members[1].answer = Err("gone".into()))[..],
            [Unsafe::Silent { .. }]
        ));
        assert_eq!(
            named(&|p| answer(&mut p.members[1]).leader = 0),
            [Unsafe::NoLeader]
        );
        assert_eq!(
            named(&|p| answer(&mut p.members[1]).term = 3),
            [Unsafe::NoLeader]
        );
        assert_eq!(
            named(&|p| answer(&mut p.members[2]).cluster_id = 8),
            [Unsafe::SeveralClusters]
        );
        assert!(matches!(
            named(&|p| answer(&mut p.members[0]).program = Some(Version::new(3, 4, 23)))[..],
            [Unsafe::TooOld { .. }]
        ));
        assert!(matches!(
            named(&|p| p.alarms.push("NOSPACE".into()))[..],
            [Unsafe::Alarm(_)]
        ));
        assert!(matches!(
            named(&|p| answer(&mut p.members[0]).applied = 9_000)[..],
            [Unsafe::Behind { .. }, Unsafe::Behind { .. }]
        ));
    }

    #[test]
    fn one_of_one_or_two_voters_cannot_be_spared() {
        for (voters, spared) in [(1, false), (2, false), (3, true), (4, true), (5, true)] {
            let cluster = picture((0..voters).map(|id| member(id, V351, V351)).collect());
            assert_eq!(without(&cluster, 0).is_empty(), spared, "{voters}");
        }
        let mut learner = picture((0..2).map(|id| member(id, V351, V351)).collect());
        learner.members[1].learner = true;
        assert!(without(&learner, 1).is_empty());
    }

    #[test]
    fn the_last_one_goes_only_if_the_version_is_held_or_may_rise() {
        let rising = picture(vec![
            member(1, V371, V371),
            member(2, V371, V371),
            member(3, V351, V351),
        ]);
        let last = &rising.members[2];
        assert_eq!(
            forth(&rising, last, false),
            [Unsafe::WouldRise { cluster: OLDEST }]
        );
        assert_eq!(forth(&rising, last, true), []);
        let held = picture(vec![
            member(1, V371, OLDEST),
            member(2, V371, V371),
            member(3, V351, V351),
        ]);
        assert_eq!(forth(&held, &held.members[2], false), []);
        assert!(matches!(
            forth(&held, &held.members[0], false)[..],
            [Unsafe::Already { .. }]
        ));
    }

    #[test]
    fn the_way_back_ends_where_the_version_has_risen() {
        let held = picture(vec![member(1, V371, OLDEST), member(2, V371, V371)]);
        assert_eq!(back(&held, &held.members[0], OLDEST), []);
        let mut risen = held.clone();
        for seen in &mut risen.members {
            answer(seen).versions = Ok(Given {
                own: V371,
                cluster: Some(OURS),
            });
        }
        assert_eq!(
            back(&risen, &risen.members[0], OLDEST),
            [Unsafe::Above {
                cluster: OURS,
                to: OLDEST
            }]
        );
        // Where the peer port cannot be asked, the layout of the database tells.
        for seen in &mut risen.members {
            answer(seen).versions = Err(unasked_by(true));
            answer(seen).storage = "3.6.0".into();
        }
        assert!(matches!(
            back(&risen, &risen.members[0], OLDEST)[..],
            [Unsafe::Above { .. }]
        ));
    }

    #[test]
    fn a_peer_port_that_cannot_be_asked_is_named_where_it_matters() {
        let mut held = picture(vec![
            member(1, V371, OLDEST),
            member(2, V371, V371),
            member(3, V351, V351),
        ]);
        // Who holds the version gives it there only, and another one may still tell the cluster's.
        answer(&mut held.members[0]).versions = Err(unasked_by(false));
        let reasons = forth(&held, &held.members[2], false);
        assert!(
            matches!(&reasons[..], [Unsafe::PeerPort { who, .. }] if who == "m1 (1)"),
            "{reasons:?}"
        );
        assert!(!reasons[0].is_lasting());
        assert_eq!(forth(&held, &held.members[2], true), []);
        assert_eq!(version_unknown(&held), None);
        for seen in &mut held.members {
            answer(seen).versions = Err(unasked_by(true));
        }
        for reasons in [
            forth(&held, &held.members[2], true),
            back(&held, &held.members[0], OLDEST),
        ] {
            assert!(
                matches!(&reasons[..], [reason @ Unsafe::PeerPort { .. }] if reason.is_lasting()),
                "{reasons:?}"
            );
        }
        for seen in &mut held.members {
            answer(seen).versions = Ok(Given {
                own: V351,
                cluster: None,
            });
        }
        assert_eq!(version_unknown(&held), Some(Unsafe::Undecided));
    }

    #[test]
    fn programs_that_must_not_be_killed() {
        let loses = |patch| loses_when_killed(Some(Version::new(3, 5, patch)));
        assert!(loses(0) && loses(1) && loses(2));
        assert!(!loses(3) && !loses_when_killed(Some(V371)) && !loses_when_killed(None));
    }
}
