//! Messages, entries and Readies as text, in the form the scripts use.

use std::fmt::Write as _;

use ferrite_proto::raftpb::{
    ConfChangeType, ConfState, Entry, EntryType, HardState, Message, Snapshot,
};
use ferrite_raft::{LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Ready, decode_conf_change};

pub fn hard_state(hs: &HardState) -> String {
    let vote = match hs.vote {
        0 => String::new(),
        vote => format!(" Vote:{vote}"),
    };
    format!("Term:{}{vote} Commit:{}", hs.term, hs.commit)
}

fn list(ids: &[u64]) -> String {
    let ids: Vec<_> = ids.iter().map(u64::to_string).collect();
    format!("[{}]", ids.join(" "))
}

fn conf_state(cs: &ConfState) -> String {
    format!(
        "Voters:{} VotersOutgoing:{} Learners:{} LearnersNext:{} AutoLeave:{}",
        list(&cs.voters),
        list(&cs.voters_outgoing),
        list(&cs.learners),
        list(&cs.learners_next),
        cs.auto_leave
    )
}

pub fn snapshot(s: &Snapshot) -> String {
    let meta = s.metadata.clone().unwrap_or_default();
    let cs = meta.conf_state.unwrap_or_default();
    format!(
        "Index:{} Term:{} ConfState:{}",
        meta.index,
        meta.term,
        conf_state(&cs)
    )
}

fn is_empty(s: &Snapshot) -> bool {
    s.metadata.as_ref().is_none_or(|m| m.index == 0)
}

pub fn entry(e: &Entry) -> String {
    let text = if e.entry_type == EntryType::EntryNormal as i32 {
        format!("{:?}", String::from_utf8_lossy(&e.data))
    } else {
        let changes = decode_conf_change(e).expect("a conf change").changes;
        let single = |c: &ferrite_proto::raftpb::ConfChangeSingle| {
            let kind = match c.change_type() {
                ConfChangeType::ConfChangeAddNode => 'v',
                ConfChangeType::ConfChangeAddLearnerNode => 'l',
                ConfChangeType::ConfChangeRemoveNode => 'r',
                ConfChangeType::ConfChangeUpdateNode => 'u',
            };
            format!("{kind}{}", c.node_id)
        };
        changes.iter().map(single).collect::<Vec<_>>().join(" ")
    };
    let gap = if text.is_empty() { "" } else { " " };
    let kind = e.entry_type().as_str_name();
    format!("{}/{} {kind}{gap}{text}", e.term, e.index)
}

pub fn entries(entries: &[Entry]) -> String {
    entries.iter().map(|e| entry(e) + "\n").collect()
}

fn target(id: u64) -> String {
    match id {
        0 => "None".into(),
        LOCAL_APPEND_THREAD => "AppendThread".into(),
        LOCAL_APPLY_THREAD => "ApplyThread".into(),
        id => format!("{id:x}"),
    }
}

pub fn message(m: &Message) -> String {
    message_indented("", m)
}

fn message_indented(indent: &str, m: &Message) -> String {
    let mut out = format!(
        "{indent}{}->{} {} Term:{} Log:{}/{}",
        target(m.from),
        target(m.to),
        m.msg_type().as_str_name(),
        m.term,
        m.log_term,
        m.index
    );
    if m.reject {
        let _ = write!(out, " Rejected (Hint: {})", m.reject_hint);
    }
    if m.commit != 0 {
        let _ = write!(out, " Commit:{}", m.commit);
    }
    if m.vote != 0 {
        let _ = write!(out, " Vote:{}", m.vote);
    }
    match m.entries.as_slice() {
        [] => {}
        [single] => {
            let _ = write!(out, " Entries:[{}]", entry(single));
        }
        many => {
            out.push_str(" Entries:[");
            for e in many {
                let _ = write!(out, "\n{indent}  {}", entry(e));
            }
            let _ = write!(out, "\n{indent}]");
        }
    }
    if let Some(s) = m.snapshot.as_ref().filter(|s| !is_empty(s)) {
        let _ = write!(out, "\n{indent}  Snapshot: {}", snapshot(s));
    }
    if !m.responses.is_empty() {
        out.push_str(" Responses:[");
        for r in &m.responses {
            let _ = write!(out, "\n{}", message_indented(&format!("{indent}  "), r));
        }
        let _ = write!(out, "\n{indent}]");
    }
    out
}

pub fn ready(rd: &Ready) -> String {
    let mut out = String::new();
    if let Some(ss) = &rd.soft_state {
        let _ = writeln!(out, "Lead:{} State:{}", ss.leader, ss.state);
    }
    if let Some(hs) = &rd.hard_state {
        let _ = writeln!(out, "HardState {}", hard_state(hs));
    }
    if !rd.read_states.is_empty() {
        let one = |r: &ferrite_raft::ReadState| {
            format!("{}:{}", r.index, String::from_utf8_lossy(&r.request_ctx))
        };
        let all: Vec<_> = rd.read_states.iter().map(one).collect();
        let _ = writeln!(out, "ReadStates [{}]", all.join(" "));
    }
    if !rd.entries.is_empty() {
        let _ = write!(out, "Entries:\n{}", entries(&rd.entries));
    }
    if let Some(s) = rd.snapshot.as_ref().filter(|s| !is_empty(s)) {
        let _ = writeln!(out, "Snapshot {}", snapshot(s));
    }
    if !rd.committed_entries.is_empty() {
        let _ = write!(out, "CommittedEntries:\n{}", entries(&rd.committed_entries));
    }
    if !rd.messages.is_empty() {
        out.push_str("Messages:\n");
        for m in &rd.messages {
            out.push_str(&message(m));
            out.push('\n');
        }
    }
    if out.is_empty() {
        return "<empty Ready>".into();
    }
    format!("Ready MustSync={}:\n{out}", rd.must_sync)
}
