//! Calls of clients, by method and code.
//!
//! A method is found once a call; after that a call knows its cells by number.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cells::{Histogram, SHARDS, shard};
use crate::page::{Family, Kind, Label, Page};

/// What of a method comes in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallType {
    /// One message each way.
    Unary,
    /// Many answers.
    ServerStream,
    /// Many each way.
    BidiStream,
}

impl CallType {
    fn name(self) -> &'static str {
        match self {
            CallType::Unary => "unary",
            CallType::ServerStream => "server_stream",
            CallType::BidiStream => "bidi_stream",
        }
    }
}

use CallType::{BidiStream, ServerStream, Unary};

/// What a service offers.
type Methods = &'static [(&'static str, CallType)];

/// Every method by service. Those whose services are added to the original's server last are shown from their first
/// call on, the others from the start.
const SERVICES: &[(&str, bool, Methods)] = &[
    (
        "etcdserverpb.KV",
        true,
        &[
            ("Range", Unary),
            ("Put", Unary),
            ("Txn", Unary),
            ("DeleteRange", Unary),
            ("Compact", Unary),
            ("RangeStream", ServerStream),
        ],
    ),
    (
        "etcdserverpb.Lease",
        true,
        &[
            ("LeaseKeepAlive", BidiStream),
            ("LeaseGrant", Unary),
            ("LeaseRevoke", Unary),
            ("LeaseTimeToLive", Unary),
            ("LeaseLeases", Unary),
        ],
    ),
    ("etcdserverpb.Watch", true, &[("Watch", BidiStream)]),
    (
        "etcdserverpb.Cluster",
        true,
        &[
            ("MemberAdd", Unary),
            ("MemberRemove", Unary),
            ("MemberUpdate", Unary),
            ("MemberList", Unary),
            ("MemberPromote", Unary),
        ],
    ),
    (
        "etcdserverpb.Maintenance",
        true,
        &[
            ("Status", Unary),
            ("Alarm", Unary),
            ("Defragment", Unary),
            ("Hash", Unary),
            ("HashKV", Unary),
            ("Snapshot", ServerStream),
            ("MoveLeader", Unary),
            ("Downgrade", Unary),
        ],
    ),
    (
        "etcdserverpb.Auth",
        true,
        &[
            ("Authenticate", Unary),
            ("AuthEnable", Unary),
            ("AuthDisable", Unary),
            ("AuthStatus", Unary),
            ("UserAdd", Unary),
            ("UserGet", Unary),
            ("UserList", Unary),
            ("UserDelete", Unary),
            ("UserChangePassword", Unary),
            ("UserGrantRole", Unary),
            ("UserRevokeRole", Unary),
            ("RoleAdd", Unary),
            ("RoleGet", Unary),
            ("RoleList", Unary),
            ("RoleDelete", Unary),
            ("RoleGrantPermission", Unary),
            ("RoleRevokePermission", Unary),
        ],
    ),
    (
        "grpc.health.v1.Health",
        true,
        &[("Check", Unary), ("List", Unary), ("Watch", ServerStream)],
    ),
    (
        "v3lockpb.Lock",
        false,
        &[("Lock", Unary), ("Unlock", Unary)],
    ),
    (
        "v3electionpb.Election",
        false,
        &[
            ("Campaign", Unary),
            ("Proclaim", Unary),
            ("Leader", Unary),
            ("Observe", ServerStream),
            ("Resign", Unary),
        ],
    ),
];

/// gRPC's codes by number, as Go names them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
/// The code for what is none.
const UNKNOWN: usize = 2;

const STARTED: Family = Family {
    name: "grpc_server_started_total",
    help: "Total number of RPCs started on the server.",
    kind: Kind::Counter,
};
const HANDLED: Family = Family {
    name: "grpc_server_handled_total",
    help: "Total number of RPCs completed on the server, regardless of success or failure.",
    kind: Kind::Counter,
};
const RECEIVED: Family = Family {
    name: "grpc_server_msg_received_total",
    help: "Total number of RPC stream messages received on the server.",
    kind: Kind::Counter,
};
const SENT: Family = Family {
    name: "grpc_server_msg_sent_total",
    help: "Total number of gRPC stream messages sent by the server.",
    kind: Kind::Counter,
};
const HANDLING: Family = Family {
    name: "grpc_server_handling_seconds",
    help: "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
    kind: Kind::Histogram,
};

/// What one thread counts of one method.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Tally {
    started: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    handled: [AtomicU64; CODES.len()],
}

/// One method.
#[derive(Debug)]
pub struct Method {
    service: &'static str,
    name: &'static str,
    /// What of it comes in a stream.
    pub call: CallType,
    shown_unused: bool,
    tallies: [Tally; SHARDS],
    took: OnceLock<Histogram>,
}

impl Method {
    fn here(&self, pick: impl FnOnce(&Tally) -> Option<&AtomicU64>) {
        if let Some(cell) = self.tallies.get(shard()).and_then(pick) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sum(&self, pick: impl Fn(&Tally) -> &AtomicU64) -> u64 {
        let cells = self.tallies.iter().map(pick);
        cells.map(|cell| cell.load(Ordering::Relaxed)).sum()
    }

    /// A call has begun.
    pub fn started(&self) {
        self.here(|tally| Some(&tally.started));
    }

    /// A message has come in, or the end of them.
    pub fn received(&self) {
        self.here(|tally| Some(&tally.received));
    }

    /// A message has gone out, or could not.
    pub fn sent(&self) {
        self.here(|tally| Some(&tally.sent));
    }

    /// A call has ended with this code, after as long, where that is known.
    pub fn handled(&self, code: usize, took: Option<Duration>) {
        self.here(|tally| tally.handled.get(code).or(tally.handled.get(UNKNOWN)));
        if let (Some(histogram), Some(took)) = (self.took.get(), took) {
            histogram.observe(took);
        }
    }
}

/// All methods.
#[derive(Debug)]
pub struct Calls {
    methods: Vec<Method>,
}

impl Default for Calls {
    fn default() -> Self {
        let methods = SERVICES
            .iter()
            .flat_map(|(service, shown_unused, methods)| {
                methods.iter().map(|(name, call)| Method {
                    service,
                    name,
                    call: *call,
                    shown_unused: *shown_unused,
                    tallies: Default::default(),
                    took: OnceLock::new(),
                })
            });
        Calls {
            methods: methods.collect(),
        }
    }
}

impl Calls {
    /// From now on also counts how long calls take.
    pub fn time(&self) {
        for method in &self.methods {
            method.took.get_or_init(Histogram::default_seconds);
        }
    }

    /// Whether it does.
    pub fn timed(&self) -> bool {
        self.methods
            .first()
            .is_some_and(|method| method.took.get().is_some())
    }

    /// The number of the method at this path, such as `/etcdserverpb.KV/Put`. The busiest come first.
    pub fn find(&self, path: &str) -> Option<usize> {
        let (service, name) = path.strip_prefix('/')?.split_once('/')?;
        self.methods
            .iter()
            .position(|method| method.name == name && method.service == service)
    }

    /// The method of this number.
    pub fn get(&self, number: usize) -> Option<&Method> {
        self.methods.get(number)
    }

    /// Everything counted.
    pub fn gather(&self, page: &mut Page) {
        for method in &self.methods {
            let started = method.sum(|tally| &tally.started);
            if started == 0 && !method.shown_unused {
                continue;
            }
            let labels: [Label<'_>; 3] = [
                ("grpc_method", method.name.into()),
                ("grpc_service", method.service.into()),
                ("grpc_type", method.call.name().into()),
            ];
            page.number(&STARTED, &labels, started as f64);
            page.number(
                &RECEIVED,
                &labels,
                method.sum(|tally| &tally.received) as f64,
            );
            page.number(&SENT, &labels, method.sum(|tally| &tally.sent) as f64);
            if let Some(took) = method.took.get() {
                page.histogram(&HANDLING, &labels, took);
            }
            for (number, code) in CODES.iter().enumerate() {
                let handled = method
                    .tallies
                    .iter()
                    .filter_map(|tally| tally.handled.get(number))
                    .map(|cell| cell.load(Ordering::Relaxed))
                    .sum::<u64>();
                if handled > 0 || method.shown_unused {
                    let [a, b, c] = labels.clone();
                    let labels = [a, b, c, ("grpc_code", (*code).into())];
                    page.number(&HANDLED, &labels, handled as f64);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_found_by_its_path_and_by_no_other() {
        let calls = Calls::default();
        for path in ["/etcdserverpb.KV/Put", "/v3electionpb.Election/Observe"] {
            let found = calls.find(path).and_then(|number| calls.get(number));
            let found = found.expect("it is known");
            assert_eq!(format!("/{}/{}", found.service, found.name), path);
        }
        let health = calls.find("/grpc.health.v1.Health/Watch");
        assert_ne!(calls.find("/etcdserverpb.Watch/Watch"), health);
        for path in ["/etcdserverpb.KV/Nothing", "/KV/Put", "Put", "/", ""] {
            assert_eq!(calls.find(path), None, "{path}");
        }
    }

    #[test]
    fn a_service_added_last_is_shown_once_it_is_used() {
        let calls = Calls::default();
        let text = |calls: &Calls| {
            let mut page = Page::new();
            calls.gather(&mut page);
            page.text()
        };
        assert!(!text(&calls).contains("Lock"));
        assert_eq!(
            text(&calls)
                .lines()
                .filter(|line| line.contains("\"Put\"") && line.contains("_handled_"))
                .count(),
            17
        );
        let lock = calls.find("/v3lockpb.Lock/Lock").and_then(|n| calls.get(n));
        let lock = lock.expect("it is known");
        lock.started();
        lock.handled(1, None);
        let text = text(&calls);
        assert!(text.contains(
            "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Lock\",grpc_service=\"v3lockpb.Lock\",grpc_type=\"unary\"} 1\n"
        ));
        assert!(!text.contains("grpc_code=\"OK\",grpc_method=\"Lock\""));
    }
}
