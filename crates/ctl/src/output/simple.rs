//! The simple form: for people, and for scripts that read one thing.

use ferrite_client::pb::{self, response_op::Response};
use ferrite_proto::authpb::{Permission, permission};
use ferrite_proto::mvccpb::{Event, KeyValue};

use super::{Health, Printer, table};
use crate::cmd::kv::prefix_end;
use crate::report;

fn bytes(p: Printer, out: &mut Vec<u8>, bytes: &[u8]) {
    if p.hex {
        for byte in bytes {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    } else {
        out.extend_from_slice(bytes);
    }
    out.push(b'\n');
}

fn kv(p: Printer, out: &mut Vec<u8>, kv: &KeyValue) {
    if !p.value_only {
        bytes(p, out, &kv.key);
    }
    bytes(p, out, &kv.value);
}

fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

pub fn put(p: Printer, out: &mut Vec<u8>, r: &pb::PutResponse) {
    line(out, "OK");
    if let Some(prev) = &r.prev_kv {
        kv(p, out, prev);
    }
}

pub fn get(p: Printer, out: &mut Vec<u8>, r: &pb::RangeResponse) {
    for pair in &r.kvs {
        kv(p, out, pair);
    }
}

pub fn del(p: Printer, out: &mut Vec<u8>, r: &pb::DeleteRangeResponse) {
    line(out, &r.deleted.to_string());
    for prev in &r.prev_kvs {
        kv(p, out, prev);
    }
}

pub fn txn(p: Printer, out: &mut Vec<u8>, r: &pb::TxnResponse) {
    line(out, if r.succeeded { "SUCCESS" } else { "FAILURE" });
    for response in &r.responses {
        line(out, "");
        match &response.response {
            Some(Response::ResponseDeleteRange(r)) => del(p, out, r),
            Some(Response::ResponsePut(r)) => put(p, out, r),
            Some(Response::ResponseRange(r)) => get(p, out, r),
            Some(Response::ResponseTxn(r)) => txn(p, out, r),
            None => line(out, "unexpected response"),
        }
    }
}

/// A lease's ID as Go prints it: sixteen hexadecimal digits, a sign counting as one.
pub fn lease_id(id: i64) -> String {
    if id < 0 {
        format!("-{:015x}", id.unsigned_abs())
    } else {
        format!("{id:016x}")
    }
}

pub fn lease_grant(out: &mut Vec<u8>, r: &pb::LeaseGrantResponse) {
    let id = lease_id(r.id);
    line(out, &format!("lease {id} granted with TTL({}s)", r.ttl));
}

pub fn lease_revoke(out: &mut Vec<u8>, id: i64) {
    line(out, &format!("lease {} revoked", lease_id(id)));
}

pub fn lease_keep_alive(out: &mut Vec<u8>, r: &pb::LeaseKeepAliveResponse) {
    let id = lease_id(r.id);
    line(out, &format!("lease {id} keepalived with TTL({})", r.ttl));
}

pub fn lease_time_to_live(out: &mut Vec<u8>, r: &pb::LeaseTimeToLiveResponse, keys: bool) {
    let id = lease_id(r.id);
    if r.granted_ttl == 0 && r.ttl == -1 {
        line(out, &format!("lease {id} already expired"));
        return;
    }
    let text = format!(
        "lease {id} granted with TTL({}s), remaining({}s)",
        r.granted_ttl, r.ttl
    );
    out.extend_from_slice(text.as_bytes());
    if keys {
        out.extend_from_slice(b", attached keys([");
        out.extend_from_slice(&r.keys.join(&b' '));
        out.extend_from_slice(b"])");
    }
    out.push(b'\n');
}

pub fn lease_list(out: &mut Vec<u8>, r: &pb::LeaseLeasesResponse) {
    line(out, &format!("found {} leases", r.leases.len()));
    for lease in &r.leases {
        line(out, &lease_id(lease.id));
    }
}

pub fn rows(out: &mut Vec<u8>, rows: &table::Rows) {
    for row in &rows.cells {
        line(out, &row.join(", "));
    }
}

pub fn member_add(out: &mut Vec<u8>, r: &pb::MemberAddResponse) {
    let member = r.member.as_ref();
    let role = match member {
        Some(member) if member.is_learner => " as learner ",
        _ => " ",
    };
    let id = member.map_or(0, |m| m.id);
    let cluster = r.header.as_ref().map_or(0, |h| h.cluster_id);
    line(
        out,
        &format!("Member {id:16x} added{role}to cluster {cluster:16x}"),
    );
}

pub fn member_change(out: &mut Vec<u8>, done: &str, id: u64, header: Option<&pb::ResponseHeader>) {
    let cluster = header.map_or(0, |h| h.cluster_id);
    line(
        out,
        &format!("Member {id:16x} {done} cluster {cluster:16x}"),
    );
}

pub fn health(out: &mut Vec<u8>, list: &[Health]) {
    for h in list {
        if h.error.is_empty() {
            line(
                out,
                &format!(
                    "{} is healthy: successfully committed proposal: took = {}",
                    h.endpoint, h.took
                ),
            );
        } else {
            report::err(&format!(
                "{} is unhealthy: failed to commit proposal: {}",
                h.endpoint, h.error
            ));
        }
    }
}

pub fn alarms(out: &mut Vec<u8>, r: &pb::AlarmResponse) {
    for alarm in &r.alarms {
        // Fields at their zero value are left out, as in protobuf's text form.
        let mut parts = Vec::new();
        if alarm.member_id != 0 {
            parts.push(format!("memberID:{}", alarm.member_id));
        }
        if alarm.alarm != 0 {
            parts.push(format!("alarm:{}", alarm_name(alarm.alarm)));
        }
        line(out, &parts.join(" "));
    }
}

/// An alarm's name, or its number if there is none.
pub fn alarm_name(alarm: i32) -> String {
    pb::AlarmType::try_from(alarm)
        .map_or_else(|_| alarm.to_string(), |a| a.as_str_name().to_owned())
}

/// What happened to a key.
pub fn event_name(event: &Event) -> &'static str {
    event.r#type().as_str_name()
}

pub fn watch(p: Printer, out: &mut Vec<u8>, r: &pb::WatchResponse) {
    for event in &r.events {
        line(out, event_name(event));
        if let Some(prev) = &event.prev_kv {
            kv(p, out, prev);
        }
        kv(p, out, &event.kv.clone().unwrap_or_default());
    }
}

/// The role that may do everything, whatever has been granted to it.
const ROOT_ROLE: &str = "root";
/// As the end of a range: there is none.
const OPEN_END: &[u8] = b"\0";

fn granted(out: &mut Vec<u8>, permission: &Permission) {
    let (key, end) = (&permission.key, &permission.range_end);
    out.push(b'\t');
    if end.is_empty() {
        out.extend_from_slice(key);
        out.push(b'\n');
        return;
    }
    out.push(b'[');
    out.extend_from_slice(key);
    out.extend_from_slice(b", ");
    if &end[..] == OPEN_END {
        out.extend_from_slice(b"<open ended>");
    } else {
        out.extend_from_slice(end);
        out.push(b')');
    }
    if !key.is_empty() && prefix_end(key) == *end {
        out.extend_from_slice(b" (prefix ");
        out.extend_from_slice(key);
        out.push(b')');
    }
    out.push(b'\n');
}

pub fn role_get(out: &mut Vec<u8>, role: &str, r: &pb::AuthRoleGetResponse) {
    use permission::Type::{Read, Readwrite, Write};
    line(out, &format!("Role {role}"));
    for (heading, one) in [("KV Read:", Read), ("KV Write:", Write)] {
        line(out, heading);
        if role == ROOT_ROLE && r.perm.is_empty() {
            line(out, "\t[, <open ended>");
        }
        for permission in &r.perm {
            if permission.perm_type() == one || permission.perm_type() == Readwrite {
                granted(out, permission);
            }
        }
    }
}

/// One name a line.
pub fn names(out: &mut Vec<u8>, names: &[String]) {
    for name in names {
        line(out, name);
    }
}

pub fn user_get(out: &mut Vec<u8>, user: &str, r: &pb::AuthUserGetResponse) {
    line(out, &format!("User: {user}"));
    let roles: String = r.roles.iter().map(|role| format!(" {role}")).collect();
    line(out, &format!("Roles:{roles}"));
}

pub fn auth_status(out: &mut Vec<u8>, r: &pb::AuthStatusResponse) {
    line(out, &format!("Authentication Status: {}", r.enabled));
    line(out, &format!("AuthRevision: {}", r.auth_revision));
}
