//! The membership state, and what may change it.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_proto::raftpb::{ConfChange, ConfChangeType, ConfState};

use crate::error::Error;
use crate::id::{cluster_id, member_id};
use crate::initial;
use crate::member::{ConfChangeContext, Member};
use crate::version::{DowngradeInfo, Version};

/// Learners a cluster may have unless told otherwise.
pub const MAX_LEARNERS_DEFAULT: usize = 1;

/// Who belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's ID: fixed when it is founded, whoever comes and goes.
    pub id: u64,
    /// Members by ID.
    pub members: BTreeMap<u64, Member>,
    /// IDs that were removed, for ever.
    pub removed: BTreeSet<u64>,
    /// The version all members understand; nothing until the first leader has set it.
    pub version: Option<Version>,
    /// The last downgrade enabled or cancelled.
    pub downgrade: Option<DowngradeInfo>,
    /// Learners allowed at once (a setting, the same on all members).
    pub max_learners: usize,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            id: 0,
            members: BTreeMap::new(),
            removed: BTreeSet::new(),
            version: None,
            downgrade: None,
            max_learners: MAX_LEARNERS_DEFAULT,
        }
    }
}

/// What an applied membership change did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A member was added, voter or learner.
    Added(Member),
    /// A learner got its vote.
    Promoted(u64),
    /// A member was removed.
    Removed(u64),
    /// A member's peer URLs were changed.
    Updated(Member),
}

impl Cluster {
    /// A new cluster's members from `(name, url)` pairs, as `--initial-cluster` lists them; a name may
    /// stand several times. IDs are computed from URLs and token.
    pub fn from_initial_cluster(token: &str, pairs: &[(String, String)]) -> Result<Cluster, Error> {
        let mut cluster = Cluster::default();
        for (name, peer_urls) in initial::group(pairs)? {
            let id = member_id(&peer_urls, token, None);
            if id == 0 {
                return Err(Error::ZeroId);
            }
            let member = Member {
                id,
                peer_urls,
                name,
                ..Member::default()
            };
            if cluster.members.insert(id, member).is_some() {
                return Err(Error::IdenticalId(id));
            }
        }
        cluster.id = cluster_id(&cluster.member_ids());
        Ok(cluster)
    }

    /// Members of a running cluster, as `/members` lists them.
    pub fn from_members(id: u64, members: impl IntoIterator<Item = Member>) -> Cluster {
        let members = members
            .into_iter()
            .map(|member| (member.id, member))
            .collect();
        Cluster {
            id,
            members,
            ..Cluster::default()
        }
    }

    fn unequal(&self, existing: &Cluster) -> Error {
        Error::MemberCountUnequal {
            configured: self.listed(),
            running: existing.listed(),
        }
    }

    /// The members as a person reads them; one that has not started has no name yet.
    fn listed(&self) -> Vec<String> {
        self.members
            .values()
            .map(|member| {
                let name = match member.name.as_str() {
                    "" => "(not started)",
                    name => name,
                };
                format!("{name}={}", member.peer_urls.join(","))
            })
            .collect()
    }

    /// Takes the IDs of a running cluster over into this locally configured one, member by member
    /// with the same peer URLs. `same` compares two lists of URLs (resolving names, if it likes) and
    /// says why they differ; [`initial::same_urls`] compares the text.
    pub fn validate_and_assign_ids(
        &mut self,
        existing: &Cluster,
        same: &mut initial::SameUrls<'_>,
    ) -> Result<(), Error> {
        if self.members.len() != existing.members.len() {
            return Err(self.unequal(existing));
        }
        let mut local: Vec<Member> = self.members.values().cloned().collect();
        for member in existing.members.values() {
            let mut detail = "<nil>".to_owned();
            let mut found = false;
            for mine in &mut local {
                match same(&member.peer_urls, &mine.peer_urls) {
                    Ok(()) => {
                        mine.id = member.id;
                        found = true;
                        break;
                    }
                    Err(why) => detail = why,
                }
            }
            if !found {
                return Err(Error::NoMatch {
                    id: member.id,
                    peer_urls: member.peer_urls.clone(),
                    detail,
                });
            }
        }
        let members: BTreeMap<u64, Member> = local
            .into_iter()
            .map(|member| (member.id, member))
            .collect();
        if members.len() != existing.members.len() {
            return Err(self.unequal(existing));
        }
        self.members = members;
        self.id = existing.id;
        Ok(())
    }

    /// A member by ID.
    pub fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The member of this name. Names are not unique by force; the one with the lowest ID wins.
    pub fn member_by_name(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.name == name)
    }

    /// All IDs, ascending.
    pub fn member_ids(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    /// Members with a vote, by ID.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// Members without a vote, by ID.
    pub fn learners(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.is_learner)
    }

    /// Whether this ID was removed once.
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// The configuration raft starts from.
    pub fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters().map(|member| member.id).collect(),
            learners: self.learners().map(|member| member.id).collect(),
            ..ConfState::default()
        }
    }

    /// All members' peer URLs, sorted.
    pub fn peer_urls(&self) -> Vec<String> {
        sorted_urls(self.members.values().flat_map(|member| &member.peer_urls))
    }

    /// All members' client URLs, sorted.
    pub fn client_urls(&self) -> Vec<String> {
        sorted_urls(self.members.values().flat_map(|member| &member.client_urls))
    }

    /// Whether a voter may be added without the started ones falling below the new quorum. A cluster
    /// of one may always grow.
    pub fn is_ready_to_add_voter(&self) -> bool {
        let (voters, started) = self.count_voters(None);
        (started == 1 && voters == 1) || started > voters.div_ceil(2)
    }

    /// Whether this voter may be removed without the started ones falling below the new quorum.
    pub fn is_ready_to_remove_voter(&self, id: u64) -> bool {
        let (voters, started) = self.count_voters(Some(id));
        started > voters / 2
    }

    /// Whether a learner, counted as started, may be promoted.
    pub fn is_ready_to_promote(&self) -> bool {
        let (voters, started) = self.count_voters(None);
        started + 1 > voters.div_ceil(2)
    }

    /// Voters but for one, and how many of them have started.
    fn count_voters(&self, without: Option<u64>) -> (usize, usize) {
        let counted = || self.voters().filter(|member| Some(member.id) != without);
        (
            counted().count(),
            counted().filter(|member| member.is_started()).count(),
        )
    }

    /// Whether this change may be applied to this state. Decided at apply, the same on all members.
    pub fn validate_conf_change(&self, change: &ConfChange) -> Result<(), Error> {
        self.plan(change).map(drop)
    }

    /// Applies a committed change, or refuses it and stays as it was (raft then gets an empty change).
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> Result<Change, Error> {
        let done = self.plan(change)?;
        match &done {
            Change::Added(member) | Change::Updated(member) => {
                self.members.insert(member.id, member.clone());
            }
            Change::Promoted(id) => {
                if let Some(member) = self.members.get_mut(id) {
                    member.is_learner = false;
                }
            }
            Change::Removed(id) => {
                self.members.remove(id);
                self.removed.insert(*id);
            }
        }
        Ok(done)
    }

    fn plan(&self, change: &ConfChange) -> Result<Change, Error> {
        let id = change.node_id;
        if self.is_removed(id) {
            return Err(Error::IdRemoved);
        }
        let kind = ConfChangeType::try_from(change.change_type)
            .map_err(|_| Error::UnknownChange(change.change_type))?;
        let current = self.members.get(&id);
        match kind {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                let context = context(change)?;
                if context.is_promote {
                    return match current {
                        None => Err(Error::IdNotFound),
                        Some(member) if !member.is_learner => Err(Error::MemberNotLearner),
                        Some(_) => Ok(Change::Promoted(id)),
                    };
                }
                if current.is_some() {
                    return Err(Error::IdExists);
                }
                self.check_urls(id, &context.member.peer_urls)?;
                if context.member.is_learner
                    && kind == ConfChangeType::ConfChangeAddLearnerNode
                    && self.learners().count() >= self.max_learners
                {
                    return Err(Error::TooManyLearners);
                }
                Ok(Change::Added(context.member))
            }
            ConfChangeType::ConfChangeRemoveNode => match current {
                None => Err(Error::IdNotFound),
                // Two removals may be asked for at members that know of neither; no group is left after both.
                Some(member) if !member.is_learner && self.voters().count() == 1 => {
                    Err(Error::LastVoter)
                }
                Some(_) => Ok(Change::Removed(id)),
            },
            ConfChangeType::ConfChangeUpdateNode => {
                let Some(current) = current else {
                    return Err(Error::IdNotFound);
                };
                let context = context(change)?;
                self.check_urls(id, &context.member.peer_urls)?;
                // Only the peer URLs: a learner stays one, name and client URLs are the member's own.
                Ok(Change::Updated(Member {
                    peer_urls: context.member.peer_urls,
                    ..current.clone()
                }))
            }
        }
    }

    fn check_urls(&self, id: u64, urls: &[String]) -> Result<(), Error> {
        let taken = self
            .members
            .values()
            .filter(|member| member.id != id)
            .any(|member| member.peer_urls.iter().any(|url| urls.contains(url)));
        if taken {
            Err(Error::PeerUrlExists)
        } else {
            Ok(())
        }
    }

    /// Sets what a member published about itself. A removed member's late word changes nothing and is
    /// no error; an ID that never was a member is `IdNotFound`.
    pub fn set_attributes(
        &mut self,
        id: u64,
        name: String,
        client_urls: Vec<String>,
    ) -> Result<(), Error> {
        match self.members.get_mut(&id) {
            Some(member) => {
                member.name = name;
                member.client_urls = client_urls;
                Ok(())
            }
            None if self.removed.contains(&id) => Ok(()),
            None => Err(Error::IdNotFound),
        }
    }

    /// Sets the cluster's version.
    pub fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// Sets or cancels the downgrade.
    pub fn set_downgrade(&mut self, downgrade: DowngradeInfo) {
        self.downgrade = Some(downgrade);
    }
}

fn context(change: &ConfChange) -> Result<ConfChangeContext, Error> {
    let context =
        ConfChangeContext::from_json(&change.context).map_err(|error| Error::MalformedContext {
            kind: change.change_type,
            id: change.node_id,
            detail: error.to_string(),
        })?;
    if context.member.id != change.node_id {
        return Err(Error::DifferentId {
            id: change.node_id,
            other: context.member.id,
        });
    }
    Ok(context)
}

fn sorted_urls<'a>(urls: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut urls: Vec<String> = urls.cloned().collect();
    urls.sort_unstable();
    urls
}
