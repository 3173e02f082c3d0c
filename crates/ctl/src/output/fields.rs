//! The fields form: a `"Name" : value` line for each.

use std::fmt::Display;

use ferrite_client::pb::{self, response_op::Response};
use ferrite_proto::mvccpb::KeyValue;

use super::{At, Health, Printer, simple};
use crate::gofmt::quote;

fn field(out: &mut String, name: &str, value: impl Display) {
    out.push_str(&format!("\"{name}\" : {value}\n"));
}

fn text(out: &mut String, name: &str, value: &str) {
    field(out, name, quote(value.as_bytes()));
}

fn id(p: Printer, out: &mut String, name: &str, id: u64) {
    if p.hex {
        field(out, name, format_args!("{id:x}"));
    } else {
        field(out, name, id);
    }
}

/// Of a response that has only a header.
pub fn header(p: Printer, out: &mut String, header: Option<&pb::ResponseHeader>) {
    let header = header.copied().unwrap_or_default();
    id(p, out, "ClusterID", header.cluster_id);
    id(p, out, "MemberID", header.member_id);
    if header.revision > 0 {
        field(out, "Revision", header.revision);
    }
    field(out, "RaftTerm", header.raft_term);
}

fn kv(p: Printer, out: &mut String, prefix: &str, kv: &KeyValue) {
    field(out, &format!("{prefix}Key"), quote(&kv.key));
    field(out, &format!("{prefix}CreateRevision"), kv.create_revision);
    field(out, &format!("{prefix}ModRevision"), kv.mod_revision);
    field(out, &format!("{prefix}Version"), kv.version);
    field(out, &format!("{prefix}Value"), quote(&kv.value));
    let lease = format!("{prefix}Lease");
    if p.hex {
        field(out, &lease, format_args!("{:016x}", kv.lease));
    } else {
        field(out, &lease, kv.lease);
    }
}

pub fn put(p: Printer, out: &mut String, r: &pb::PutResponse) {
    header(p, out, r.header.as_ref());
    if let Some(prev) = &r.prev_kv {
        kv(p, out, "Prev", prev);
    }
}

pub fn get(p: Printer, out: &mut String, r: &pb::RangeResponse) {
    header(p, out, r.header.as_ref());
    for pair in &r.kvs {
        kv(p, out, "", pair);
    }
    field(out, "More", r.more);
    field(out, "Count", r.count);
}

pub fn del(p: Printer, out: &mut String, r: &pb::DeleteRangeResponse) {
    header(p, out, r.header.as_ref());
    field(out, "Deleted", r.deleted);
    for prev in &r.prev_kvs {
        kv(p, out, "Prev", prev);
    }
}

pub fn txn(p: Printer, out: &mut String, r: &pb::TxnResponse) {
    header(p, out, r.header.as_ref());
    field(out, "Succeeded", r.succeeded);
    for response in &r.responses {
        match &response.response {
            Some(Response::ResponseDeleteRange(r)) => del(p, out, r),
            Some(Response::ResponsePut(r)) => put(p, out, r),
            Some(Response::ResponseRange(r)) => get(p, out, r),
            Some(Response::ResponseTxn(r)) => txn(p, out, r),
            None => field(out, "Unknown", "\"<nil>\""),
        }
    }
}

fn lease_id(p: Printer, out: &mut String, id: i64) {
    if p.hex {
        field(out, "ID", simple::lease_id(id));
    } else {
        field(out, "ID", id);
    }
}

/// Of a lease granted or renewed.
pub fn lease(p: Printer, out: &mut String, h: Option<&pb::ResponseHeader>, id: i64, ttl: i64) {
    header(p, out, h);
    lease_id(p, out, id);
    field(out, "TTL", ttl);
}

pub fn lease_time_to_live(p: Printer, out: &mut String, r: &pb::LeaseTimeToLiveResponse) {
    lease(p, out, r.header.as_ref(), r.id, r.ttl);
    field(out, "GrantedTTL", r.granted_ttl);
    for key in &r.keys {
        field(out, "Key", quote(key));
    }
}

pub fn lease_list(p: Printer, out: &mut String, r: &pb::LeaseLeasesResponse) {
    header(p, out, r.header.as_ref());
    for lease in &r.leases {
        lease_id(p, out, lease.id);
    }
}

pub fn member_list(p: Printer, out: &mut String, r: &pb::MemberListResponse) {
    header(p, out, r.header.as_ref());
    for member in &r.members {
        id(p, out, "ID", member.id);
        text(out, "Name", &member.name);
        for url in &member.peer_urls {
            text(out, "PeerURL", url);
        }
        for url in &member.client_urls {
            text(out, "ClientURL", url);
        }
        field(out, "IsLearner", member.is_learner);
        out.push('\n');
    }
}

pub fn health(out: &mut String, list: &[Health]) {
    for h in list {
        text(out, "Endpoint", &h.endpoint);
        field(out, "Health", h.healthy);
        field(out, "Took", &h.took);
        field(out, "Error", &h.error);
        out.push('\n');
    }
}

pub fn status(p: Printer, out: &mut String, list: &[At<pb::StatusResponse>]) {
    for at in list {
        let r = &at.response;
        let downgrade = r.downgrade_info.clone().unwrap_or_default();
        header(p, out, r.header.as_ref());
        text(out, "Version", &r.version);
        text(out, "StorageVersion", &r.storage_version);
        field(out, "DBSize", r.db_size);
        field(out, "DBSizeInUse", r.db_size_in_use);
        field(out, "DBSizeQuota", r.db_size_quota);
        field(out, "Leader", r.leader);
        field(out, "IsLearner", r.is_learner);
        field(out, "RaftIndex", r.raft_index);
        field(out, "RaftTerm", r.raft_term);
        field(out, "RaftAppliedIndex", r.raft_applied_index);
        field(out, "Errors", format_args!("[{}]", r.errors.join(" ")));
        text(out, "Endpoint", &at.endpoint);
        text(out, "DowngradeTargetVersion", &downgrade.target_version);
        field(out, "DowngradeEnabled", downgrade.enabled);
        out.push('\n');
    }
}

pub fn hash_kv(p: Printer, out: &mut String, list: &[At<pb::HashKvResponse>]) {
    for at in list {
        header(p, out, at.response.header.as_ref());
        text(out, "Endpoint", &at.endpoint);
        field(out, "Hash", at.response.hash);
        field(out, "HashRevision", at.response.hash_revision);
        out.push('\n');
    }
}

pub fn alarms(p: Printer, out: &mut String, r: &pb::AlarmResponse) {
    header(p, out, r.header.as_ref());
    for alarm in &r.alarms {
        id(p, out, "MemberID", alarm.member_id);
        field(out, "AlarmType", simple::alarm_name(alarm.alarm));
        out.push('\n');
    }
}

pub fn watch(p: Printer, out: &mut String, r: &pb::WatchResponse) {
    header(p, out, r.header.as_ref());
    for event in &r.events {
        field(out, "Type", simple::event_name(event));
        if let Some(prev) = &event.prev_kv {
            kv(p, out, "Prev", prev);
        }
        kv(p, out, "", &event.kv.clone().unwrap_or_default());
    }
}

pub fn role_get(p: Printer, out: &mut String, r: &pb::AuthRoleGetResponse) {
    header(p, out, r.header.as_ref());
    for permission in &r.perm {
        // The original has two spaces here.
        let name = permission.perm_type().as_str_name();
        field(out, "PermType", format_args!(" {name}"));
        field(out, "Key", quote(&permission.key));
        field(out, "RangeEnd", quote(&permission.range_end));
    }
}

pub fn role_list(p: Printer, out: &mut String, r: &pb::AuthRoleListResponse) {
    header(p, out, r.header.as_ref());
    out.push_str("\"Roles\" :");
    for role in &r.roles {
        out.push_str(&format!(" {}", quote(role.as_bytes())));
    }
    out.push('\n');
}
