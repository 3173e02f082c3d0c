//! What is for whoever looks for a fault: `/debug/vars`, the pages of `--enable-pprof`, and what every
//! thread and queue is doing, there or after SIGQUIT.
//!
//! Nothing here shows what clients send: no key, no value, no password. Nothing stops or slows the member.

use std::fmt::Write as _;

use ::http::{Method, Response, StatusCode};
use bytes::Bytes;
use ferrite_node::{Node, hex};

use crate::door::Loads;
use crate::http;
use crate::room::{Room, descriptor_limit};
use crate::service::Context;

const PROFILES: &str = "/debug/pprof/";

/// Answers a path below `/debug/`, if it is one of ours.
pub fn serve(context: &Context, method: &Method, path: &str) -> Option<Response<Bytes>> {
    if path == "/debug/vars" {
        let refused = http::only_get(method);
        return Some(refused.unwrap_or_else(|| http::json(vars(&context.node))));
    }
    if !context.rules.profiles {
        return None;
    }
    profile(method, path, || {
        report(Some(&context.node), Some(&context.room), &context.loads)
    })
}

/// The pages of `--enable-pprof`; `report` tells what is going on.
pub fn profile(
    method: &Method,
    path: &str,
    report: impl FnOnce() -> Vec<String>,
) -> Option<Response<Bytes>> {
    if path == "/debug/pprof" {
        return Some(http::moved(method, PROFILES, None));
    }
    match path.strip_prefix(PROFILES)? {
        "" => Some(http::page(StatusCode::OK, INDEX)),
        "cmdline" => {
            let arguments: Vec<String> = std::env::args().collect();
            Some(http::page(StatusCode::OK, arguments.join("\0")))
        }
        "goroutine" => Some(http::page(StatusCode::OK, report().join("\n") + "\n")),
        other => Some(http::page(
            StatusCode::NOT_FOUND,
            format!(
                "{other}: this is no Go program, there is no such profile; {PROFILES}goroutine tells what every thread and queue is doing, and perf(1) profiles a running member\n"
            ),
        )),
    }
}

const INDEX: &str = "/debug/pprof/

cmdline    the command line, arguments separated by NUL
goroutine  what every thread and queue is doing; SIGQUIT writes the same to the log

Go's other profiles do not exist here: perf(1) profiles a running member.
";

/// As Go's expvar prints it: one variable a line, by name.
fn vars(node: &Node) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let memory = Memory::now();
    let all = [
        ("cmdline", serde_json::json!(arguments).to_string()),
        ("file_descriptor_limit", descriptor_limit().to_string()),
        ("memstats", memory.as_go_tells_it()),
        ("raft.status", raft_status(node)),
    ];
    let lines: Vec<String> = all
        .into_iter()
        .map(|(name, value)| format!("\"{name}\": {value}"))
        .collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

fn raft_status(node: &Node) -> String {
    let status = node.status();
    let core = status.core();
    let progress: Vec<String> = core
        .progress
        .iter()
        .map(|(id, (matched, next, state))| {
            format!(
                "\"{}\":{{\"match\":{matched},\"next\":{next},\"state\":\"{state}\"}}",
                hex(*id)
            )
        })
        .collect();
    format!(
        "{{\"id\":\"{}\",\"term\":{},\"vote\":\"{}\",\"commit\":{},\"lead\":\"{}\",\"raftState\":\"{}\",\"applied\":{},\"progress\":{{{}}},\"leadtransferee\":\"{}\"}}",
        hex(node.member_id()),
        status.term(),
        hex(core.vote),
        status.committed(),
        hex(status.leader()),
        core.role,
        core.applied,
        progress.join(","),
        hex(core.transferee)
    )
}

/// What the process holds, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    mapped: u64,
    resident: u64,
}

impl Memory {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let mut pages = text.split(' ').map(|n| n.parse::<u64>().unwrap_or(0));
        let mut next = || pages.next().unwrap_or(0).saturating_mul(page);
        Memory {
            mapped: next(),
            resident: next(),
        }
    }

    /// Under the names that dashboards of Go programs look for; what only a garbage collector has is 0.
    fn as_go_tells_it(self) -> String {
        serde_json::json!({
            "Alloc": self.resident,
            "HeapAlloc": self.resident,
            "HeapInuse": self.resident,
            "HeapSys": self.resident,
            "Sys": self.resident,
            "NumGC": 0,
            "PauseTotalNs": 0,
            "EnableGC": false,
        })
        .to_string()
    }
}

/// What every thread and queue is doing, a line each.
pub fn report(node: Option<&Node>, room: Option<&Room>, loads: &Loads) -> Vec<String> {
    let mut lines = Vec::new();
    match node {
        None => lines.push("member: not started yet".to_owned()),
        Some(node) => member(node, &mut lines),
    }
    process(room, loads, &mut lines);
    lines
}

/// The same of a process that is no member.
pub fn report_proxy(loads: &Loads) -> Vec<String> {
    let mut lines = Vec::new();
    process(None, loads, &mut lines);
    lines
}

fn process(room: Option<&Room>, loads: &Loads, lines: &mut Vec<String>) {
    if let Some(room) = room {
        lines.push(format!(
            "client connections: {} of at most {}",
            room.taken(),
            room.limit()
        ));
    }
    for (name, connections, calls) in loads.list() {
        lines.push(format!(
            "serving {name}: {connections} connections, {calls} calls under way"
        ));
    }
    let memory = Memory::now();
    lines.push(format!(
        "memory: {} bytes resident, {} bytes mapped",
        memory.resident, memory.mapped
    ));
    threads(lines);
}

fn member(node: &Node, lines: &mut Vec<String>) {
    let status = node.status();
    let core = status.core();
    lines.push(format!(
        "raft: {} in term {}, leader {}, committed {}, applied {}, last {}, heard of {:?} ago",
        core.role,
        status.term(),
        hex(status.leader()),
        status.committed(),
        node.applied_index(),
        status.last_index(),
        status.silent_for(std::time::Instant::now())
    ));
    for (name, load) in node.loads() {
        let doing = match load.taken {
            0 => format!("idle for {:?}", load.since),
            taken => format!("works on {taken} items for {:?}", load.since),
        };
        lines.push(format!("queue {name}: {} wait; {doing}", load.waiting));
    }
    lines.push(format!(
        "write-ahead log: the write or sync under way has lasted {:?}",
        node.log_write_age()
    ));
    let watch = node.watch_hub().stats();
    lines.push(format!(
        "watch: {} streams, {} watchers, {} of them behind, {} events in {} bytes queued",
        watch.streams, watch.watchers, watch.behind, watch.pending_events, watch.pending_bytes
    ));
    let peers = node.transport();
    lines.push(format!(
        "peers: {} of {} connected",
        peers.connected_count(),
        peers.peer_ids().len()
    ));
}

/// The system's view: what each thread waits for, and how much time it took. Empty where there is no `/proc`.
fn threads(lines: &mut Vec<String>) {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return;
    };
    let mut ids: Vec<u64> = tasks
        .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    ids.sort_unstable();
    for id in ids {
        let read = |what: &str| {
            std::fs::read_to_string(format!("/proc/self/task/{id}/{what}")).unwrap_or_default()
        };
        let stat = read("stat");
        // The name stands in brackets and may hold anything.
        let Some((_, after)) = stat.rsplit_once(')') else {
            continue; // gone meanwhile
        };
        let fields: Vec<&str> = after.split_whitespace().collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or("?");
        let state = match field(0) {
            "R" => "runs",
            "S" => "waits",
            "D" => "waits for a disk",
            "T" | "t" => "is stopped",
            other => other,
        };
        let mut line = format!("thread {id} {}: {state}", read("comm").trim());
        let place = read("wchan");
        if !matches!(place.trim(), "" | "0") {
            let _infallible = write!(line, " in {}", place.trim());
        }
        let _infallible = write!(line, ", {} user and {} system ticks", field(11), field(12));
        lines.push(line);
    }
}
