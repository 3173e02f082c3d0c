//! A group of members and the messages between them, driven by script commands. Messages wait until they
//! are delivered; storage and applying are in memory.

use std::collections::VecDeque;
use std::fmt::Write as _;

use bytes::Bytes;
use ferrite_proto::raftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
    Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use ferrite_raft::{
    Config, MemStorage, NO_LIMIT, RawNode, ReadOnlyOption, SnapshotStatus, Storage, StorageError,
    decode_conf_change, is_local_target,
};

use super::describe;
use super::script::Command;

/// A log in memory with every snapshot that applying has led to.
pub struct History {
    pub log: MemStorage,
    pub snapshots: Vec<Snapshot>,
}

impl Storage for History {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.log.initial_state()
    }
    fn entries(&self, lo: u64, hi: u64, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        self.log.entries(lo, hi, max_size)
    }
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.log.term(index)
    }
    fn first_index(&self) -> u64 {
        self.log.first_index()
    }
    fn last_index(&self) -> u64 {
        self.log.last_index()
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.snapshots.last().cloned().unwrap_or_default())
    }
}

struct Node {
    raw: RawNode<History>,
    config: Config,
    append_work: VecDeque<Message>,
    apply_work: VecDeque<Message>,
}

#[derive(Default)]
pub struct Env {
    nodes: Vec<Node>,
    messages: Vec<Message>,
    /// Nothing but errors is put out: for the setting up.
    quiet: bool,
}

type Outcome = Result<String, String>;

fn text(e: impl ToString) -> String {
    e.to_string()
}

fn indented(block: &str) -> String {
    block.lines().map(|l| format!("  {l}\n")).collect()
}

/// Whether delivery must not fail: a member's messages to itself and to its storage.
fn is_local(m: &Message) -> bool {
    m.from == m.to || is_local_target(m.from) || is_local_target(m.to)
}

fn parse_changes(input: &str) -> Result<Vec<ConfChangeSingle>, String> {
    let parse = |token: &str| {
        let kind = match token.as_bytes()[0] {
            b'v' => ConfChangeType::ConfChangeAddNode,
            b'l' => ConfChangeType::ConfChangeAddLearnerNode,
            b'r' => ConfChangeType::ConfChangeRemoveNode,
            b'u' => ConfChangeType::ConfChangeUpdateNode,
            _ => return Err(format!("unknown input: {token}")),
        };
        Ok(ConfChangeSingle {
            change_type: kind as i32,
            node_id: token[1..].parse().map_err(text)?,
        })
    };
    input.split_whitespace().map(parse).collect()
}

impl Env {
    /// Runs a command; its output, or `ok`.
    pub fn handle(&mut self, c: &Command) -> String {
        let quiet_before = self.quiet;
        let outcome = self.dispatch(c);
        let quiet = self.quiet;
        if c.name == "stabilize" {
            self.quiet = quiet_before; // its log level is its own
        }
        match outcome {
            Err(e) => e,
            Ok(out) if out.is_empty() || quiet => "ok".into(),
            Ok(out) => out,
        }
    }

    fn dispatch(&mut self, c: &Command) -> Outcome {
        let ids = || -> Vec<usize> {
            let plain = c.args.iter().filter(|a| a.values.is_empty());
            plain
                .map(|a| a.key.parse::<usize>().expect("a number") - 1)
                .collect()
        };
        let value = |key: &str| {
            let arg = c.args.iter().find(|a| a.key == key);
            arg.map(|a| a.values[0].clone())
        };
        let first = || c.args[0].key.parse::<usize>().expect("a number") - 1;
        match c.name.as_str() {
            "add-nodes" => return self.add_nodes(c),
            "campaign" => self.nodes[first()].raw.campaign(),
            "compact" => {
                let index = c.args[1].key.parse().map_err(text)?;
                let storage = self.nodes[first()].raw.storage_mut();
                storage.log.compact(index).map_err(text)?;
                return self.raft_log(first());
            }
            "deliver-msgs" => return self.deliver_msgs(c),
            "process-ready" => return self.each(ids(), "handling Ready", Self::process_ready),
            "process-append-thread" => {
                return self.each(ids(), "processing append thread", Self::process_append);
            }
            "process-apply-thread" => {
                return self.each(ids(), "processing apply thread", Self::process_apply);
            }
            "log-level" => self.quiet = c.args[0].key.eq_ignore_ascii_case("none"),
            "raft-log" => return self.raft_log(first()),
            "raft-state" => return Ok(self.raft_state()),
            "set-randomized-election-timeout" => {
                let ticks = value("timeout").expect("a timeout").parse().map_err(text)?;
                self.nodes[first()].raw.set_election_timeout(ticks);
            }
            "stabilize" => {
                if let Some(level) = value("log-level") {
                    self.quiet = level.eq_ignore_ascii_case("none");
                }
                let mut ids = ids();
                if ids.is_empty() {
                    ids = (0..self.nodes.len()).collect();
                }
                return self.stabilize(&ids);
            }
            "status" => {
                let line = |(id, pr)| format!("{id}: {pr}\n");
                let status = self.nodes[first()].raw.status();
                return Ok(status.progress.iter().map(line).collect());
            }
            "tick-election" => self.tick(first(), |cfg| cfg.election_tick),
            "tick-heartbeat" => self.tick(first(), |cfg| cfg.heartbeat_tick),
            "transfer-leadership" => {
                let id = |key| value(key).expect("from and to").parse::<u64>();
                let from = id("from").map_err(text)? as usize - 1;
                self.nodes[from]
                    .raw
                    .transfer_leader(id("to").map_err(text)?);
            }
            "forget-leader" => self.nodes[first()].raw.forget_leader(),
            "send-snapshot" => {
                let (from, to) = (ids()[0], ids()[1]);
                let node = &self.nodes[from].raw;
                let m = Message {
                    msg_type: MessageType::MsgSnap as i32,
                    term: node.term(),
                    from: from as u64 + 1,
                    to: to as u64 + 1,
                    snapshot: Some(node.storage().snapshot().map_err(text)?),
                    ..Message::default()
                };
                let out = describe::message(&m);
                self.messages.push(m);
                return Ok(out);
            }
            "propose" => {
                let data = Bytes::from(c.args[1].key.clone());
                self.nodes[first()].raw.propose(data).map_err(text)?;
            }
            "propose-conf-change" => return self.propose_conf_change(c),
            "report-unreachable" => {
                let (at, id) = (ids()[0], ids()[1]);
                self.nodes[at].raw.report_unreachable(id as u64 + 1);
            }
            // From here on ours: the other library's scripts have no words for these.
            "report-snapshot" => {
                let (at, id) = (ids()[0], ids()[1]);
                let failed = value("failed").is_some_and(|v| v == "true");
                let status = if failed {
                    SnapshotStatus::Failure
                } else {
                    SnapshotStatus::Finish
                };
                self.nodes[at].raw.report_snapshot(id as u64 + 1, status);
            }
            "read-index" => {
                let context = Bytes::from(c.args[1].key.clone());
                self.nodes[first()].raw.read_index(context);
            }
            "allow-campaign" => {
                let allowed = value("allowed").is_none_or(|v| v == "true");
                self.nodes[first()].raw.set_campaign_allowed(allowed);
            }
            "step-down" => self.nodes[first()].raw.step_down(),
            _ => return Err("unknown command".into()),
        }
        Ok(String::new())
    }

    fn add_nodes(&mut self, c: &Command) -> Outcome {
        let n: usize = c.args[0].key.parse().map_err(text)?;
        let mut config = Config {
            election_tick: 3,
            heartbeat_tick: 1,
            max_inflight_msgs: i32::MAX as usize,
            max_committed_size_per_ready: 0,
            ..Config::default()
        };
        let (mut cs, mut index, mut data) = (ConfState::default(), 0, Bytes::new());
        for arg in &c.args[1..] {
            for v in &arg.values {
                let number = || v.parse::<u64>().map_err(text);
                let flag = || v.parse::<bool>().map_err(text);
                match arg.key.as_str() {
                    "voters" => cs.voters.push(number()?),
                    "learners" => cs.learners.push(number()?),
                    "inflight" => config.max_inflight_msgs = number()? as usize,
                    "index" => {
                        index = number()?;
                        config.applied = index;
                    }
                    "content" => data = Bytes::from(v.clone()),
                    "async-storage-writes" => config.async_storage_writes = flag()?,
                    "prevote" => config.pre_vote = flag()?,
                    "checkquorum" => config.check_quorum = flag()?,
                    "max-committed-size-per-ready" => {
                        config.max_committed_size_per_ready = number()?;
                    }
                    "max-size-per-msg" => config.max_size_per_msg = number()?,
                    "max-uncommitted-size" => config.max_uncommitted_entries_size = number()?,
                    "disable-conf-change-validation" => {
                        config.disable_conf_change_validation = flag()?;
                    }
                    "disable-proposal-forwarding" => config.disable_proposal_forwarding = flag()?,
                    "read-only" if v == "lease-based" => {
                        config.read_only = ReadOnlyOption::LeaseBased;
                    }
                    "read-only" => {}
                    "step-down-on-removal" => config.step_down_on_removal = flag()?,
                    other => return Err(format!("unknown argument {other}")),
                }
            }
        }
        let bootstrap = index != 0 || !data.is_empty() || cs != ConfState::default();
        for _ in 0..n {
            let mut snapshot = Snapshot::default();
            let mut log = MemStorage::new();
            if bootstrap {
                if index <= 1 {
                    return Err("index must be specified as > 1 due to bootstrap".into());
                }
                snapshot = Snapshot {
                    data: data.clone(),
                    metadata: Some(SnapshotMetadata {
                        conf_state: Some(cs.clone()),
                        index,
                        term: 1,
                    }),
                };
                log.apply_snapshot(snapshot.clone()).map_err(text)?;
            }
            config.id = self.nodes.len() as u64 + 1;
            let storage = History {
                log,
                snapshots: vec![snapshot],
            };
            self.nodes.push(Node {
                raw: RawNode::new(config.clone(), storage).map_err(text)?,
                config: config.clone(),
                append_work: VecDeque::new(),
                apply_work: VecDeque::new(),
            });
        }
        Ok(String::new())
    }

    fn tick(&mut self, node: usize, ticks: fn(&Config) -> usize) {
        let node = &mut self.nodes[node];
        for _ in 0..ticks(&node.config) {
            node.raw.tick();
        }
    }

    /// Does the same at each of the nodes; with several, each under a heading.
    fn each(
        &mut self,
        ids: Vec<usize>,
        what: &str,
        f: impl Fn(&mut Self, usize) -> Outcome,
    ) -> Outcome {
        if let [id] = ids[..] {
            return f(self, id);
        }
        let mut out = String::new();
        for id in ids {
            let _ = writeln!(out, "> {} {what}", id + 1);
            out += &indented(&f(self, id)?);
        }
        Ok(out)
    }

    fn deliver_msgs(&mut self, c: &Command) -> Outcome {
        let mut kind = None;
        let mut recipients = Vec::new();
        for arg in &c.args {
            match arg.key.as_str() {
                "drop" => {
                    for v in &arg.values {
                        recipients.push((v.parse::<u64>().map_err(text)?, true));
                    }
                }
                "type" => {
                    let name = &arg.values[0];
                    kind = Some(MessageType::from_str_name(name).ok_or("unknown message type")?);
                }
                id => recipients.push((id.parse::<u64>().map_err(text)?, false)),
            }
        }
        let mut out = String::new();
        let mut any = false;
        for (to, drop) in recipients {
            any |= self.deliver(to, kind, drop, &mut out);
        }
        if !any {
            out.push_str("no messages\n");
        }
        Ok(out)
    }

    /// Delivers or drops what is under way to a member; whether there was anything.
    fn deliver(
        &mut self,
        to: u64,
        kind: Option<MessageType>,
        drop: bool,
        out: &mut String,
    ) -> bool {
        let meant = |m: &mut Message| {
            m.to == to && !(drop && is_local(m)) && kind.is_none_or(|k| m.msg_type() == k)
        };
        let messages: Vec<_> = self.messages.extract_if(.., meant).collect();
        for m in &messages {
            let dropped = if drop { "dropped: " } else { "" };
            let _ = writeln!(out, "{dropped}{}", describe::message(m));
            if !drop && let Err(e) = self.nodes[to as usize - 1].raw.step(m.clone()) {
                let _ = writeln!(out, "{e}");
            }
        }
        !messages.is_empty()
    }

    fn process_ready(&mut self, id: usize) -> Outcome {
        let node = &mut self.nodes[id];
        let rd = node.raw.ready();
        let out = describe::ready(&rd);
        let synchronous = !node.config.async_storage_writes;
        if synchronous {
            write(node, rd.hard_state, &rd.entries, rd.snapshot)?;
            apply(node, &rd.committed_entries)?;
        }
        for m in rd.messages {
            assert!(
                !(synchronous && is_local_target(m.to)),
                "local work without being asked for"
            );
            match m.msg_type() {
                MessageType::MsgStorageAppend => node.append_work.push_back(m),
                MessageType::MsgStorageApply => node.apply_work.push_back(m),
                _ => self.messages.push(m),
            }
        }
        if synchronous {
            node.raw.advance();
        }
        Ok(out)
    }

    fn process_append(&mut self, id: usize) -> Outcome {
        let node = &mut self.nodes[id];
        let Some(mut m) = node.append_work.pop_front() else {
            return Ok("no append work to perform".into());
        };
        let responses = std::mem::take(&mut m.responses);
        let out = format!("Processing:\n{}\n", describe::message(&m));
        let hs = HardState {
            term: m.term,
            vote: m.vote,
            commit: m.commit,
        };
        let hs = (hs != HardState::default()).then_some(hs);
        write(node, hs, &m.entries, m.snapshot)?;
        Ok(out + &self.respond(responses))
    }

    fn process_apply(&mut self, id: usize) -> Outcome {
        let node = &mut self.nodes[id];
        let Some(mut m) = node.apply_work.pop_front() else {
            return Ok("no apply work to perform".into());
        };
        let responses = std::mem::take(&mut m.responses);
        let out = format!("Processing:\n{}\n", describe::message(&m));
        apply(node, &m.entries)?;
        Ok(out + &self.respond(responses))
    }

    fn respond(&mut self, responses: Vec<Message>) -> String {
        let mut out = String::from("Responses:\n");
        for m in responses {
            out += &describe::message(&m);
            out.push('\n');
            self.messages.push(m);
        }
        out
    }

    fn stabilize(&mut self, ids: &[usize]) -> Outcome {
        let mut out = String::new();
        loop {
            let mut done = true;
            for &id in ids {
                if self.nodes[id].raw.has_ready() {
                    let _ = writeln!(out, "> {} handling Ready", id + 1);
                    out += &indented(&self.process_ready(id)?);
                    done = false;
                }
            }
            for &id in ids {
                let mut block = String::new();
                if self.deliver(id as u64 + 1, None, false, &mut block) {
                    let _ = writeln!(out, "> {} receiving messages", id + 1);
                    out += &indented(&block);
                    done = false;
                }
            }
            for &id in ids {
                if !self.nodes[id].append_work.is_empty() {
                    let _ = writeln!(out, "> {} processing append thread", id + 1);
                    done = false;
                }
                while !self.nodes[id].append_work.is_empty() {
                    out += &indented(&self.process_append(id)?);
                }
            }
            for &id in ids {
                if !self.nodes[id].apply_work.is_empty() {
                    let _ = writeln!(out, "> {} processing apply thread", id + 1);
                    done = false;
                }
                while !self.nodes[id].apply_work.is_empty() {
                    out += &indented(&self.process_apply(id)?);
                }
            }
            if done {
                return Ok(out);
            }
        }
    }

    fn raft_log(&self, id: usize) -> Outcome {
        let log = self.nodes[id].raw.storage();
        let (first, last) = (log.first_index(), log.last_index());
        if last < first {
            return Ok(format!(
                "log is empty: first index={first}, last index={last}"
            ));
        }
        let entries = log.entries(first, last + 1, NO_LIMIT).map_err(text)?;
        Ok(describe::entries(&entries))
    }

    fn raft_state(&self) -> String {
        let mut out = String::new();
        for node in &self.nodes {
            let status = node.raw.status();
            let (id, soft) = (status.basic.id, status.basic.soft_state);
            let voter = status.config.voters.contains(id);
            let voter = if voter { "(Voter)" } else { "(Non-Voter)" };
            let term = status.basic.hard_state.term;
            let _ = writeln!(
                out,
                "{id}: {} {voter} Term:{term} Lead:{}",
                soft.state, soft.leader
            );
        }
        out
    }

    fn propose_conf_change(&mut self, c: &Command) -> Outcome {
        let at = c.args[0].key.parse::<usize>().map_err(text)? - 1;
        let (mut v1, mut transition) = (false, ConfChangeTransition::Auto);
        for arg in &c.args[1..] {
            match (arg.key.as_str(), arg.values[0].as_str()) {
                ("v1", v) => v1 = v.parse().map_err(text)?,
                ("transition", "auto") => {}
                ("transition", "implicit") => transition = ConfChangeTransition::JointImplicit,
                ("transition", "explicit") => transition = ConfChangeTransition::JointExplicit,
                (key, _) => return Err(format!("unknown command {key}")),
            }
        }
        let changes = parse_changes(&c.input)?;
        let raw = &mut self.nodes[at].raw;
        let outcome = if v1 {
            raw.propose_conf_change(&ConfChange {
                change_type: changes[0].change_type,
                node_id: changes[0].node_id,
                ..ConfChange::default()
            })
        } else {
            raw.propose_conf_change(&ConfChangeV2 {
                transition: transition as i32,
                changes,
                context: Bytes::new(),
            })
        };
        outcome.map(|()| String::new()).map_err(text)
    }
}

fn write(
    node: &mut Node,
    hard_state: Option<HardState>,
    entries: &[Entry],
    snapshot: Option<Snapshot>,
) -> Result<(), String> {
    let storage = node.raw.storage_mut();
    if let Some(hs) = hard_state {
        storage.log.set_hard_state(hs);
    }
    if let Some(snapshot) = snapshot {
        assert!(
            entries.is_empty(),
            "a snapshot and entries at the same time"
        );
        return storage.log.apply_snapshot(snapshot).map_err(text);
    }
    storage.log.append(entries).map_err(text)
}

/// Applies entries to a state machine that strings their data together, and notes each state.
fn apply(node: &mut Node, entries: &[Entry]) -> Result<(), String> {
    for e in entries {
        let last = node
            .raw
            .storage()
            .snapshots
            .last()
            .expect("one at least")
            .clone();
        let (update, conf_state) = if e.entry_type == EntryType::EntryNormal as i32 {
            let held = last.metadata.and_then(|m| m.conf_state);
            (e.data.clone(), held)
        } else {
            let change = decode_conf_change(e).map_err(text)?;
            let cs = node.raw.apply_conf_change(&change).map_err(text)?;
            (change.context, Some(cs))
        };
        let snapshot = Snapshot {
            data: [last.data, update].concat().into(),
            metadata: Some(SnapshotMetadata {
                conf_state,
                index: e.index,
                term: e.term,
            }),
        };
        node.raw.storage_mut().snapshots.push(snapshot);
    }
    Ok(())
}
