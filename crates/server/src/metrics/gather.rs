//! The figures of a member at one moment.

use std::borrow::Cow;

use ferrite_metrics::cells::Snapshot;
use ferrite_metrics::table::asked;
use ferrite_metrics::{Family, Label, Page};
use ferrite_node::config::ETCD_VERSION;
use ferrite_node::{Node, hex};
use ferrite_peer::{HistogramSnapshot, PeerStats, TransportStats};

use super::process;

/// The sender of a database, where it did not say who it is.
const UNKNOWN_SENDER: &str = "UNKNOWN_SNAPSHOT_SENDER";

/// Everything there is to show.
pub fn page(node: &Node) -> Page {
    let mut page = Page::new();
    node.metrics().gather(&mut page);
    member(node, &mut page);
    store(node, &mut page);
    peers(node, &mut page);
    process::gather(&mut page);
    page
}

fn plain(page: &mut Page, family: &Family, number: f64) {
    page.number(family, &[], number);
}

fn member(node: &Node, page: &mut Page) {
    let status = node.status();
    let cluster = node.published().get_cluster();
    let learner = cluster
        .member(node.member_id())
        .is_some_and(|member| member.is_learner);
    let flag = |on: bool| f64::from(u8::from(on));
    plain(page, &asked::HAS_LEADER, flag(status.leader() != 0));
    plain(page, &asked::IS_LEADER, flag(status.is_leader()));
    plain(page, &asked::IS_LEARNER, flag(learner));
    plain(page, &asked::COMMITTED, status.committed() as f64);
    plain(page, &asked::APPLIED, node.applied_index() as f64);
    plain(page, &asked::PENDING, node.pending_proposals() as f64);
    // Below zero stands for none, as on the command line.
    let quota = node.config().quota_bytes.map_or(-1.0, |bytes| bytes as f64);
    plain(page, &asked::QUOTA, quota);
    let one = |page: &mut Page, family, name, value: &str| {
        page.number(family, &[(name, Cow::Borrowed(value))], 1.0);
    };
    one(page, &asked::VERSION, "server_version", ETCD_VERSION);
    one(
        page,
        &asked::GO_VERSION,
        "server_go_version",
        process::NO_GO,
    );
    one(page, &asked::ID, "server_id", &hex(node.member_id()));
    let local = hex(node.member_id());
    for (ids, known) in [
        (cluster.members.keys().copied().collect::<Vec<_>>(), 1.0),
        (cluster.removed.iter().copied().collect(), 0.0),
    ] {
        for id in ids {
            let labels = [
                ("Local", Cow::Borrowed(&*local)),
                ("Remote", hex(id).into()),
            ];
            page.number(&asked::KNOWN_PEERS, &labels, known);
        }
    }
}

fn store(node: &Node, page: &mut Page) {
    let store = node.store();
    let stats = store.stats();
    let backend = store.backend();
    let watchers = node.watch_hub().stats();
    let compacted = store.compact_revision() as f64;
    let readers = node.engine().db().open_readers().count;
    for (family, number) in [
        (&asked::RANGES, stats.ranges as f64),
        (&asked::PUTS, stats.puts as f64),
        (&asked::DELETES, stats.deletes as f64),
        (&asked::TXNS, stats.txns as f64),
        (&asked::PUT_BYTES, stats.put_bytes as f64),
        (&asked::COMPACTED_KEYS, stats.compacted as f64),
        (&asked::KEYS, stats.keys as f64),
        (&asked::DB_SIZE, backend.size() as f64),
        (&asked::DB_SIZE_IN_USE, backend.size_in_use() as f64),
        (&asked::DB_OPEN_READS, readers as f64),
        (&asked::AUTH_REVISION, node.auth().revision() as f64),
        (&asked::WATCH_STREAMS, watchers.streams as f64),
        (&asked::WATCHERS, watchers.watchers as f64),
        (&asked::SLOW_WATCHERS, watchers.behind as f64),
        (&asked::PENDING_EVENTS, watchers.pending_events as f64),
        (&asked::CURRENT_REVISION, store.current_revision() as f64),
        (&asked::COMPACT_REVISION, compacted),
    ] {
        plain(page, family, number);
    }
}

fn snapshot(seen: &HistogramSnapshot) -> Snapshot {
    Snapshot {
        buckets: seen.buckets.clone(),
        count: seen.count,
        sum: seen.sum,
    }
}

/// A sample with labels is there once there is something to show.
fn peers(node: &Node, page: &mut Page) {
    let TransportStats {
        members,
        unknown_received_failures,
        unknown_snapshot_receive_failures,
    } = node.transport().stats();
    let local = hex(node.member_id());
    for member in &members {
        peer(page, &local, member);
    }
    if unknown_received_failures > 0 {
        let labels = [("From", Cow::Borrowed("unknown"))];
        let failures = unknown_received_failures as f64;
        page.number(&asked::PEER_RECEIVED_FAILURES, &labels, failures);
    }
    if unknown_snapshot_receive_failures > 0 {
        let labels = [("From", Cow::Borrowed(UNKNOWN_SENDER))];
        let failures = unknown_snapshot_receive_failures as f64;
        page.number(&asked::SNAPSHOT_RECEIVE_FAILURES, &labels, failures);
    }
}

fn peer(page: &mut Page, local: &str, seen: &PeerStats) {
    let remote = hex(seen.id);
    let between: [Label<'_>; 2] = [
        ("Local", Cow::Borrowed(local)),
        ("Remote", Cow::Borrowed(&*remote)),
    ];
    let to: [Label<'_>; 1] = [("To", Cow::Borrowed(&*remote))];
    let from: [Label<'_>; 1] = [("From", Cow::Borrowed(&*remote))];
    if seen.active || seen.disconnected > 0 {
        let active = f64::from(u8::from(seen.active));
        page.number(&asked::ACTIVE_PEERS, &between, active);
    }
    let sending =
        seen.snapshot_send_inflight + seen.snapshot_send_success + seen.snapshot_send_failures;
    let receiving = seen.snapshot_receive_inflight
        + seen.snapshot_receive_success
        + seen.snapshot_receive_failures;
    for (family, labels, number, there) in [
        (
            &asked::DISCONNECTED_PEERS,
            &between[..],
            seen.disconnected,
            seen.disconnected,
        ),
        (
            &asked::PEER_SENT_BYTES,
            &to,
            seen.sent_bytes,
            seen.sent_bytes,
        ),
        (
            &asked::PEER_RECEIVED_BYTES,
            &from,
            seen.received_bytes,
            seen.received_bytes,
        ),
        (
            &asked::PEER_SENT_FAILURES,
            &to,
            seen.sent_failures,
            seen.sent_failures,
        ),
        (
            &asked::PEER_RECEIVED_FAILURES,
            &from,
            seen.received_failures,
            seen.received_failures,
        ),
        (
            &asked::SNAPSHOT_SEND_SUCCESS,
            &to,
            seen.snapshot_send_success,
            seen.snapshot_send_success,
        ),
        (
            &asked::SNAPSHOT_SEND_FAILURES,
            &to,
            seen.snapshot_send_failures,
            seen.snapshot_send_failures,
        ),
        (
            &asked::SNAPSHOT_SEND_INFLIGHTS,
            &to,
            seen.snapshot_send_inflight,
            sending,
        ),
        (
            &asked::SNAPSHOT_RECEIVE_SUCCESS,
            &from,
            seen.snapshot_receive_success,
            seen.snapshot_receive_success,
        ),
        (
            &asked::SNAPSHOT_RECEIVE_FAILURES,
            &from,
            seen.snapshot_receive_failures,
            seen.snapshot_receive_failures,
        ),
        (
            &asked::SNAPSHOT_RECEIVE_INFLIGHTS,
            &from,
            seen.snapshot_receive_inflight,
            receiving,
        ),
    ] {
        if there > 0 {
            page.number(family, labels, number as f64);
        }
    }
    for (family, labels, histogram) in [
        (
            &asked::SNAPSHOT_SEND_SECONDS,
            &to,
            &seen.snapshot_send_seconds,
        ),
        (
            &asked::SNAPSHOT_RECEIVE_SECONDS,
            &from,
            &seen.snapshot_receive_seconds,
        ),
        (&asked::ROUND_TRIP, &to, &seen.rtt_seconds),
    ] {
        if histogram.count > 0 {
            page.snapshot(family, labels, snapshot(histogram));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_between_members_are_shown_once_there_are_some() {
        let shown = |seen: &PeerStats| {
            let mut page = Page::new();
            peer(&mut page, "1", seen);
            let text = page.text();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let mut seen = PeerStats {
            id: 0xab,
            ..PeerStats::default()
        };
        assert_eq!(shown(&seen), [""; 0]);
        seen.sent_failures = 2;
        seen.received_failures = 3;
        seen.snapshot_send_failures = 4;
        seen.snapshot_receive_failures = 5;
        let shown = shown(&seen);
        for line in [
            "etcd_network_peer_sent_failures_total{To=\"ab\"} 2",
            "etcd_network_peer_received_failures_total{From=\"ab\"} 3",
            "etcd_network_snapshot_send_failures{To=\"ab\"} 4",
            "etcd_network_snapshot_send_inflights_total{To=\"ab\"} 0",
            "etcd_network_snapshot_receive_failures{From=\"ab\"} 5",
            "etcd_network_snapshot_receive_inflights_total{From=\"ab\"} 0",
        ] {
            assert!(shown.iter().any(|one| one == line), "{line}: {shown:?}");
        }
        assert_eq!(shown.len(), 6, "{shown:?}");
    }
}
