//! The operator: adds, promotes and removes members, hands leadership on, rewrites databases, makes users and
//! switches authentication, lifts alarms, replaces members whose disk is damaged.

use bytes::Bytes;
use ferrite_membership::{ConfChangeContext, Member as ClusterMember, member_id};
use ferrite_node::Answer;
use ferrite_node::reconfigure::is_ready;
use ferrite_node::stage::commit;
use ferrite_node::stage::raft::Input;
use ferrite_proto::authpb::{Permission, UserAddOptions, permission::Type};
use ferrite_proto::etcdserverpb::{
    self as pb, AlarmRequest, AlarmType, InternalRaftRequest, alarm_request::AlarmAction,
};
use ferrite_proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};
use ferrite_proto::raftpb::{ConfChange, ConfChangeType};

use crate::clients::Owner;
use crate::member;
use crate::world::{Event, MEMBERS_MAX, World};

/// Acts until there are users, and authentication is on.
const FOUNDING: usize = 5;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    /// What it waits for.
    asked: Option<u64>,
    /// A learner's promotion under way, and whether it was ready when that was asked for.
    promoting: Option<(u64, u64, u64)>,
    step: usize,
}

impl World {
    pub(crate) fn operate(&mut self) {
        let pause = self.plan.operate_us.unwrap_or(1_000_000);
        let next = self.rng.range(pause / 2, pause * 3 / 2);
        self.after(next, Event::Operate);
        if self.operator.asked.is_some() {
            return;
        }
        if self.replace_damaged() {
            return;
        }
        // In the end only what must be done is done.
        if self.calm_since.is_some() {
            self.lift_alarms();
            self.switch_off();
            return;
        }
        // Tokens want users, and authentication that is on.
        if self.plan.auth && self.operator.step < FOUNDING {
            return self.change_users();
        }
        let reconfigures = self.plan.reconfigures;
        match self.rng.below(16) {
            0 | 1 => self.hand_over(),
            2 => self.defragment(),
            3 | 4 if reconfigures => self.add(true),
            5 if reconfigures => self.add(false),
            6 | 7 if reconfigures => self.promote(),
            8 if reconfigures => self.remove_some(),
            9..=12 if self.plan.auth => self.change_users(),
            13 => self.lift_alarms(),
            14 | 15 if self.plan.downgrades => self.downgrade(),
            _ => {}
        }
    }

    pub(crate) fn operator_heard(&mut self, id: u64, answer: Option<&Answer>) {
        if self.operator.asked == Some(id) {
            self.operator.asked = None;
            if matches!(answer, Some(Ok(_))) {
                self.stats.count("acts of the operator");
            }
        }
    }

    pub(crate) fn asks(&mut self, place: usize, request: InternalRaftRequest) {
        let id = self.propose_as(place, Owner::Operator, request, None);
        self.operator.asked = Some(id);
    }

    fn hand_over(&mut self) {
        let Some(place) = self.leader() else { return };
        let Some(running) = &self.members[place].running else {
            return;
        };
        let voters: Vec<u64> = running
            .stages
            .apply
            .applier()
            .cluster()
            .voters()
            .map(|voter| voter.id)
            .collect();
        if voters.is_empty() {
            return;
        }
        let to = voters[self.rng.below(voters.len())];
        self.stats.count("transfers of leadership");
        self.push_raft(place, Input::TransferLeader(to));
    }

    fn defragment(&mut self) {
        if let Some(place) = self.some_running() {
            self.push_commit(place, commit::Input::Defragment { ticket: 1 });
        }
    }

    fn change(&mut self, place: usize, kind: ConfChangeType, node_id: u64, context: String) {
        let id = self.expect(place, Owner::Operator, None, None);
        self.operator.asked = Some(id);
        if let Some(running) = &mut self.members[place].running {
            running.waiting.insert(id);
        }
        self.push_raft(
            place,
            Input::ProposeConfChange(ConfChange {
                id,
                change_type: kind as i32,
                node_id,
                context: context.into_bytes().into(),
            }),
        );
    }

    /// A new member, on a new disk, under a new ID.
    fn add(&mut self, learner: bool) {
        let Some(place) = self.some_running() else {
            return;
        };
        let Some(running) = &self.members[place].running else {
            return;
        };
        let cluster = running.stages.apply.applier().cluster();
        let may = if learner {
            cluster.learners().count() == 0
        } else {
            cluster.is_ready_to_add_voter()
        };
        if !may || cluster.members.len() >= 5 || self.members.len() >= MEMBERS_MAX {
            return;
        }
        let new = self.members.len();
        let peer_urls = vec![member::peer_url(new)];
        let id = member_id(&peer_urls, "simulated", Some(self.now as i64));
        match self.make(id) {
            Ok(member) => self.members.push(member),
            Err(reason) => return self.fail(format!("a new member: {reason}")),
        }
        let joins = ClusterMember {
            id,
            peer_urls,
            is_learner: learner,
            ..ClusterMember::default()
        };
        let kind = if learner {
            ConfChangeType::ConfChangeAddLearnerNode
        } else {
            ConfChangeType::ConfChangeAddNode
        };
        self.change(place, kind, id, ConfChangeContext::for_member(&joins));
    }

    /// As the production code: the leader alone knows whether a learner has caught up.
    fn promote(&mut self) {
        let Some(place) = self.leader() else { return };
        let Some(running) = &self.members[place].running else {
            return;
        };
        let cluster = running.stages.apply.applier().cluster();
        let Some(learner) = cluster.learners().next().map(|learner| learner.id) else {
            return;
        };
        let core = running.stages.raft.core();
        let matched = |id| {
            core.progress()
                .find(|(of, _)| *of == id)
                .map(|(_, progress)| progress.matched)
        };
        let (theirs, own) = (matched(learner), matched(core.id()));
        if !is_ready(theirs.as_ref(), own.as_ref()) || !cluster.is_ready_to_promote() {
            self.stats.count("learners not ready");
            return;
        }
        self.operator.promoting = Some((learner, theirs.unwrap_or(0), own.unwrap_or(u64::MAX)));
        let context = ConfChangeContext::for_promotion(learner);
        self.change(place, ConfChangeType::ConfChangeAddNode, learner, context);
    }

    /// The log gives a learner its vote.
    pub(crate) fn learner_promoted(&mut self, id: u64) {
        self.stats.count("learners promoted");
        if let Some((learner, theirs, leaders)) = self.operator.promoting
            && learner == id
            && theirs * 100 < leaders * 90
        {
            self.fail(format!(
                "learner {id:x} was promoted with {theirs} entries of {leaders}"
            ));
        }
    }

    fn remove_some(&mut self) {
        let Some(place) = self.some_running() else {
            return;
        };
        let Some(running) = &self.members[place].running else {
            return;
        };
        let cluster = running.stages.apply.applier().cluster();
        let ids = cluster.member_ids();
        if ids.len() < 2 {
            return;
        }
        let id = ids[self.rng.below(ids.len())];
        let learner = cluster.member(id).is_some_and(|found| found.is_learner);
        let cluster_of_two = cluster.voters().count() == 2;
        if !learner && (cluster.voters().count() < 2 || !cluster.is_ready_to_remove_voter(id)) {
            return;
        }
        // The last of two may stand still for ever when the other one led, was removed and has the longer log.
        let leads = self.leader().map(|leader| self.members[leader].id);
        if cluster_of_two && leads == Some(id) {
            return self.hand_over();
        }
        self.remove(place, id);
    }

    fn remove(&mut self, place: usize, id: u64) {
        self.stats.count("removals asked for");
        let kind = ConfChangeType::ConfChangeRemoveNode;
        self.change(place, kind, id, String::new());
    }

    /// A member whose damage was named is removed; whoever wants another one adds it. True if there was one.
    fn replace_damaged(&mut self) -> bool {
        let damaged = self
            .members
            .iter()
            .find(|member| member.gone && self.model.members().contains_key(&member.id));
        let Some(id) = damaged.map(|member| member.id) else {
            return false;
        };
        if let Some(place) = self.some_running() {
            self.remove(place, id);
        }
        true
    }

    fn lift_alarms(&mut self) {
        let Some(&(kind, member)) = self.model.alarms().first() else {
            return;
        };
        let Some(place) = self.some_running() else {
            return;
        };
        self.stats.count("alarms lifted");
        self.asks(place, alarm(AlarmAction::Deactivate, member, kind));
    }

    fn switch_off(&mut self) {
        if !self.model.auth().enabled() || self.operator.asked.is_some() {
            return;
        }
        if let Some(place) = self.some_running() {
            self.asks(
                place,
                InternalRaftRequest {
                    auth_disable: Some(pb::AuthDisableRequest {}),
                    ..InternalRaftRequest::default()
                },
            );
        }
    }

    /// A member's quota is used up: it raises the alarm, and only then tells the client.
    pub(crate) fn raise_no_space(&mut self, place: usize) {
        self.stats.count("quotas used up");
        let id = self.members[place].id;
        let request = alarm(AlarmAction::Activate, id, AlarmType::Nospace as i32);
        self.propose_as(place, Owner::Member, request, None);
    }

    fn change_users(&mut self) {
        let Some(place) = self.some_running() else {
            return;
        };
        let user = format!("u{}", self.rng.below(2));
        let role = format!("r{}", self.rng.below(2));
        let keys = self.plan.keys;
        let from = self.rng.range(0, keys);
        let key = Bytes::from(format!("k{from}"));
        let end = match self.rng.below(3) {
            0 => Bytes::new(),
            _ => Bytes::from(format!("k{}", self.rng.range(from + 1, keys + 2))),
        };
        let mut request = InternalRaftRequest::default();
        let founding = self.operator.step;
        self.operator.step += 1;
        let kind = if founding < 4 {
            founding
        } else if founding + 1 == FOUNDING {
            12
        } else {
            4 + self.rng.below(17)
        };
        match kind {
            0 => request.auth_user_add = Some(self.user_add("root")),
            1 => {
                request.auth_user_grant_role = Some(pb::AuthUserGrantRoleRequest {
                    user: "root".into(),
                    role: "root".into(),
                });
            }
            2 | 4 => {
                request.auth_role_add = Some(pb::AuthRoleAddRequest { name: role });
            }
            3 | 5 => request.auth_user_add = Some(self.user_add(&user)),
            6 | 7 => {
                request.auth_user_grant_role = Some(pb::AuthUserGrantRoleRequest { user, role });
            }
            8..=11 => {
                request.auth_role_grant_permission = Some(pb::AuthRoleGrantPermissionRequest {
                    name: role,
                    perm: Some(Permission {
                        perm_type: [Type::Read, Type::Write, Type::Readwrite][self.rng.below(3)]
                            as i32,
                        key,
                        range_end: end,
                    }),
                });
            }
            12 | 13 => request.auth_enable = Some(pb::AuthEnableRequest {}),
            14 => request.auth_disable = Some(pb::AuthDisableRequest {}),
            15 => {
                request.auth_role_revoke_permission = Some(pb::AuthRoleRevokePermissionRequest {
                    role,
                    key,
                    range_end: end,
                });
            }
            16 => {
                request.auth_user_revoke_role =
                    Some(pb::AuthUserRevokeRoleRequest { name: user, role });
            }
            17..=19 => {
                request.auth_user_change_password = Some(pb::AuthUserChangePasswordRequest {
                    name: user,
                    hashed_password: self.hash(),
                    ..pb::AuthUserChangePasswordRequest::default()
                });
            }
            _ if self.rng.per_mille(500) => {
                request.auth_user_delete = Some(pb::AuthUserDeleteRequest { name: user });
            }
            _ => request.auth_role_delete = Some(pb::AuthRoleDeleteRequest { role }),
        }
        self.stats.count("changes of users asked for");
        self.asks(place, request);
    }

    fn user_add(&mut self, name: &str) -> pb::AuthUserAddRequest {
        let no_password = self.rng.per_mille(300);
        pb::AuthUserAddRequest {
            name: name.into(),
            hashed_password: if no_password {
                String::new()
            } else {
                self.hash()
            },
            options: Some(UserAddOptions { no_password }),
            ..pb::AuthUserAddRequest::default()
        }
    }

    /// Of a password that nobody had before, as requests carry it.
    fn hash(&mut self) -> String {
        format!("{:016x}", self.rng.draw())
    }

    /// A member puts its name into the cluster, as it does at every start.
    pub(crate) fn publish(&mut self, place: usize, life: u64) {
        if !self.lives(place, life) {
            return;
        }
        let id = self.members[place].id;
        let Some(running) = &self.members[place].running else {
            return;
        };
        let cluster = running.stages.apply.applier().cluster();
        if cluster.member(id).is_some_and(|own| own.is_started()) {
            return;
        }
        let may = running.status.leader() != 0 && cluster.members.contains_key(&id);
        self.after(700_000, Event::Publish(place, life));
        if !may {
            return;
        }
        let request = InternalRaftRequest {
            cluster_member_attr_set: Some(ClusterMemberAttrSetRequest {
                member_id: id,
                member_attributes: Some(Attributes {
                    name: member::name(place),
                    client_urls: vec![format!("http://10.0.0.{place}:2379")],
                }),
            }),
            ..InternalRaftRequest::default()
        };
        self.propose_as(place, Owner::Member, request, None);
    }
}

fn alarm(action: AlarmAction, member_id: u64, alarm: i32) -> InternalRaftRequest {
    InternalRaftRequest {
        alarm: Some(AlarmRequest {
            action: action as i32,
            member_id,
            alarm,
        }),
        ..InternalRaftRequest::default()
    }
}
