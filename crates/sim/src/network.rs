//! The network: what becomes of a message, and of a database on its way.

use std::sync::Arc;

use ferrite_node::engine::FileState;
use ferrite_node::snapshot::prepare;
use ferrite_node::stage::raft::Input;
use ferrite_proto::raftpb::{Message, MessageType};

use crate::world::{Event, World};

impl World {
    /// A member hands a message to its transport.
    pub(crate) fn send(&mut self, from: usize, message: Message) {
        if let Err(reason) = self.safety.sends(&message) {
            self.fail(reason);
        }
        let votes = match message.msg_type() {
            MessageType::MsgVoteResp => !message.reject,
            MessageType::MsgVote => true,
            _ => false,
        };
        if votes && self.calm_since.is_none() && self.rng.per_mille(self.plan.ambush) {
            self.members[from].armed.effects = Some(self.rng.range(0, 4));
            self.members[from].armed.quick = true;
        }
        let Some(to) = self.place_of(message.to) else {
            return;
        };
        if message.msg_type() == MessageType::MsgSnap {
            self.send_database(from, to, &message);
            return;
        }
        self.stats.count("messages");
        let calm = self.calm_since.is_some();
        if self.cut[from][to] || (!calm && self.rng.per_mille(self.plan.loss)) {
            self.stats.count("messages lost");
            if self.rng.per_mille(200) {
                self.push_raft(from, Input::Unreachable(message.to));
            }
            return;
        }
        // A forwarded proposal sent twice would be two proposals: the transport sends it once at most.
        let once = message.msg_type() == MessageType::MsgProp;
        if !once && !calm && self.rng.per_mille(self.plan.duplicate) {
            self.stats.count("messages duplicated");
            let message = Box::new(message.clone());
            self.carry(from, to, message);
        }
        self.carry(from, to, Box::new(message));
    }

    fn carry(&mut self, from: usize, to: usize, message: Box<Message>) {
        let delay = self.delay() * self.slow[from][to];
        let arrives = self.now + delay;
        if arrives < self.arrives[from][to] {
            self.stats.count("messages reordered");
        }
        self.arrives[from][to] = self.arrives[from][to].max(arrives);
        self.after(delay, Event::Deliver { from, to, message });
    }

    pub(crate) fn delay(&mut self) -> u64 {
        let delay = self
            .rng
            .range(self.plan.delay_min_us, self.plan.delay_max_us);
        if self.rng.per_mille(self.plan.straggle) {
            delay * 10
        } else {
            delay
        }
    }

    fn send_database(&mut self, from: usize, to: usize, message: &Message) {
        self.stats.count("databases sent");
        let life = self.members[from].life;
        let Some(running) = &self.members[from].running else {
            return;
        };
        running.transfers.begin();
        let engine = running.stages.commit.engine.lock().clone();
        let id = message.to;
        match prepare(&engine, self.cluster_id, message) {
            Ok((message, view)) => {
                let took = self.rng.range(1_000, 1_500_000);
                let message = Box::new(message);
                self.after(
                    took,
                    Event::Transfer {
                        from,
                        life,
                        to,
                        message,
                        view,
                    },
                );
            }
            Err(_) => {
                self.stats.count("databases not ready to be sent");
                self.after(
                    1_000,
                    Event::TransferEnded {
                        from,
                        life,
                        id,
                        ok: false,
                    },
                );
            }
        }
    }

    /// The last byte of a database arrives, or does not. It is read here, as late as can be: the
    /// sender's commits since must not have touched its pages.
    pub(crate) fn transfer(
        &mut self,
        from: usize,
        life: u64,
        to: usize,
        message: Message,
        view: &Arc<FileState>,
    ) {
        if !self.lives(from, life) {
            return;
        }
        let id = message.to;
        let index = message
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.metadata.as_ref())
            .map_or(0, |metadata| metadata.index);
        let mut database = Vec::new();
        let mut unread = false;
        if let Err(error) = view.tx().write_to(&mut database) {
            if !self.is_read_failure(from, &error.to_string()) {
                self.fail(format!("copying the database to a member: {error}"));
                return;
            }
            self.stats.count("databases that the disk did not give");
            unread = true;
        }
        let lost = unread
            || self.cut[from][to]
            || (self.calm_since.is_none() && self.rng.per_mille(self.plan.loss));
        let mut ok = !lost && self.members[to].running.is_some();
        let member = self.members[from].id;
        if ok && self.knows_as_removed(to, member) {
            ok = false;
            if self.is_known_as_removed(member) {
                self.retire(from);
            }
        }
        if ok {
            match self.members[to].receive(index, &database) {
                Ok(()) => {
                    self.stats.count("databases received");
                    self.push_raft(to, Input::Peer(message));
                }
                Err(_) if self.members[to].armed.writes => {
                    ok = false;
                    self.crash(to);
                }
                Err(_) if self.members[to].full => ok = false,
                Err(error) if self.is_read_failure(to, &error.to_string()) => ok = false,
                Err(error) => self.fail(format!("saving a received database: {error}")),
            }
        }
        let delay = self.delay();
        self.after(delay, Event::TransferEnded { from, life, id, ok });
    }
}
