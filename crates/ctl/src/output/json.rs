//! The JSON form: Go's encoding of the messages. Numbers are numbers, bytes are base64, and a field at
//! its zero value is left out; fields come in the order of the messages' definition.

use ferrite_client::pb::{self, response_op::Response};
use ferrite_proto::authpb::Permission;
use ferrite_proto::mvccpb::{Event, KeyValue};

use super::{At, Health, Printer};

/// An object being written.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }

    fn raw(mut self, name: &str, value: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&format!("\"{name}\":{value}"));
        self
    }

    fn optional(self, name: &str, value: Option<String>) -> Self {
        match value {
            Some(value) => self.raw(name, &value),
            None => self,
        }
    }

    fn number<N: Default + PartialEq + std::fmt::Display>(self, name: &str, value: N) -> Self {
        if value == N::default() {
            return self;
        }
        self.raw(name, &value.to_string())
    }

    fn text(self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            return self;
        }
        self.raw(name, &escape(value))
    }

    fn bytes(self, name: &str, value: &[u8]) -> Self {
        if value.is_empty() {
            return self;
        }
        self.raw(name, &format!("\"{}\"", base64(value)))
    }

    fn texts(self, name: &str, values: &[String]) -> Self {
        if values.is_empty() {
            return self;
        }
        self.raw(name, &array(values, |v| escape(v)))
    }

    fn list<T>(self, name: &str, values: &[T], one: impl Fn(&T) -> String) -> Self {
        if values.is_empty() {
            return self;
        }
        self.raw(name, &array(values, one))
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn array<T>(values: &[T], one: impl Fn(&T) -> String) -> String {
    let parts: Vec<String> = values.iter().map(one).collect();
    format!("[{}]", parts.join(","))
}

/// An array as Go writes a slice that was never filled: `null`.
fn slice<T>(values: &[T], one: impl Fn(&T) -> String) -> String {
    if values.is_empty() {
        return "null".to_owned();
    }
    array(values, one)
}

/// A JSON string as Go writes it: safe inside HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{08}' => out.push_str("\\b"),
            '\u{0c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = 0u32;
        for index in 0..3 {
            group = group << 8 | u32::from(chunk.get(index).copied().unwrap_or(0));
        }
        for index in 0..4 {
            if index <= chunk.len() {
                let sextet = (group >> (18 - 6 * index)) & 63;
                out.push(char::from(ALPHABET[sextet as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

fn header(header: &pb::ResponseHeader) -> String {
    Object::new()
        .number("cluster_id", header.cluster_id)
        .number("member_id", header.member_id)
        .number("revision", header.revision)
        .number("raft_term", header.raft_term)
        .end()
}

fn kv(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .end()
}

/// An object that begins with the fields of a header, as leases' do.
fn under_header(h: Option<&pb::ResponseHeader>) -> Object {
    let Some(h) = h else {
        return Object::new();
    };
    Object::new()
        .number("cluster_id", h.cluster_id)
        .number("member_id", h.member_id)
        .number("revision", h.revision)
        .number("raft_term", h.raft_term)
}

pub fn lease_grant(r: &pb::LeaseGrantResponse) -> String {
    under_header(r.header.as_ref())
        .raw("ID", &r.id.to_string())
        .raw("TTL", &r.ttl.to_string())
        .raw("Error", &escape(&r.error))
        .end()
}

pub fn lease_keep_alive(r: &pb::LeaseKeepAliveResponse) -> String {
    under_header(r.header.as_ref())
        .raw("ID", &r.id.to_string())
        .raw("TTL", &r.ttl.to_string())
        .end()
}

pub fn lease_time_to_live(r: &pb::LeaseTimeToLiveResponse) -> String {
    under_header(r.header.as_ref())
        .raw("id", &r.id.to_string())
        .raw("ttl", &r.ttl.to_string())
        .raw("granted-ttl", &r.granted_ttl.to_string())
        .raw(
            "keys",
            &slice(&r.keys, |key| format!("\"{}\"", base64(key))),
        )
        .end()
}

pub fn lease_list(r: &pb::LeaseLeasesResponse) -> String {
    let one = |lease: &pb::LeaseStatus| Object::new().raw("id", &lease.id.to_string()).end();
    under_header(r.header.as_ref())
        .raw("leases", &array(&r.leases, one))
        .end()
}

/// A response that has only a header.
pub fn header_only(h: Option<&pb::ResponseHeader>) -> String {
    Object::new().optional("header", h.map(header)).end()
}

pub fn put(r: &pb::PutResponse) -> String {
    Object::new()
        .optional("header", r.header.as_ref().map(header))
        .optional("prev_kv", r.prev_kv.as_ref().map(kv))
        .end()
}

pub fn get(r: &pb::RangeResponse) -> String {
    let object = Object::new()
        .optional("header", r.header.as_ref().map(header))
        .list("kvs", &r.kvs, kv);
    let object = if r.more {
        object.raw("more", "true")
    } else {
        object
    };
    object.number("count", r.count).end()
}

pub fn del(r: &pb::DeleteRangeResponse) -> String {
    Object::new()
        .optional("header", r.header.as_ref().map(header))
        .number("deleted", r.deleted)
        .list("prev_kvs", &r.prev_kvs, kv)
        .end()
}

pub fn txn(r: &pb::TxnResponse) -> String {
    let object = Object::new().optional("header", r.header.as_ref().map(header));
    let object = if r.succeeded {
        object.raw("succeeded", "true")
    } else {
        object
    };
    object
        .list("responses", &r.responses, |op| {
            let inner = Object::new();
            let inner = match &op.response {
                Some(Response::ResponseRange(r)) => inner.raw("response_range", &get(r)),
                Some(Response::ResponsePut(r)) => inner.raw("response_put", &put(r)),
                Some(Response::ResponseDeleteRange(r)) => {
                    inner.raw("response_delete_range", &del(r))
                }
                Some(Response::ResponseTxn(r)) => inner.raw("response_txn", &txn(r)),
                None => inner,
            };
            Object::new().raw("Response", &inner.end()).end()
        })
        .end()
}

fn member(p: Printer, member: &pb::Member) -> String {
    let object = Object::new();
    let object = if p.hex {
        object.raw("ID", &format!("\"{:x}\"", member.id))
    } else {
        object.number("ID", member.id)
    };
    let object = object
        .text("name", &member.name)
        .texts("peerURLs", &member.peer_urls)
        .texts("clientURLs", &member.client_urls);
    if member.is_learner {
        object.raw("isLearner", "true").end()
    } else {
        object.end()
    }
}

/// Members, and the one that was added if any was.
pub fn members(
    p: Printer,
    h: Option<&pb::ResponseHeader>,
    added: Option<Option<&pb::Member>>,
    members: &[pb::Member],
) -> String {
    if !p.hex {
        return Object::new()
            .optional("header", h.map(header))
            .optional("member", added.flatten().map(|m| member(p, m)))
            .list("members", members, |m| member(p, m))
            .end();
    }
    let null = || "null".to_owned();
    let h = h.map_or_else(null, |h| {
        Object::new()
            .raw("cluster_id", &format!("\"{:x}\"", h.cluster_id))
            .raw("member_id", &format!("\"{:x}\"", h.member_id))
            .number("revision", h.revision)
            .number("raft_term", h.raft_term)
            .end()
    });
    let object = Object::new().raw("header", &h);
    let object = match added {
        Some(added) => object.raw("member", &added.map_or_else(null, |m| member(p, m))),
        None => object,
    };
    object
        .raw("members", &array(members, |m| member(p, m)))
        .end()
}

pub fn health(list: &[Health]) -> String {
    slice(list, |h| {
        Object::new()
            .raw("endpoint", &escape(&h.endpoint))
            .raw("health", &h.healthy.to_string())
            .raw("took", &escape(&h.took))
            .text("error", &h.error)
            .end()
    })
}

pub fn status(list: &[At<pb::StatusResponse>]) -> String {
    slice(list, |at| {
        let r = &at.response;
        let object = Object::new()
            .optional("header", r.header.as_ref().map(header))
            .text("version", &r.version)
            .number("dbSize", r.db_size)
            .number("leader", r.leader)
            .number("raftIndex", r.raft_index)
            .number("raftTerm", r.raft_term)
            .number("raftAppliedIndex", r.raft_applied_index)
            .texts("errors", &r.errors)
            .number("dbSizeInUse", r.db_size_in_use);
        let object = if r.is_learner {
            object.raw("isLearner", "true")
        } else {
            object
        };
        let status = object
            .text("storageVersion", &r.storage_version)
            .number("dbSizeQuota", r.db_size_quota)
            .optional(
                "downgradeInfo",
                r.downgrade_info.as_ref().map(|info| {
                    let object = Object::new();
                    let object = if info.enabled {
                        object.raw("enabled", "true")
                    } else {
                        object
                    };
                    object.text("targetVersion", &info.target_version).end()
                }),
            )
            .end();
        Object::new()
            .raw("Endpoint", &escape(&at.endpoint))
            .raw("Status", &status)
            .end()
    })
}

pub fn hash_kv(list: &[At<pb::HashKvResponse>]) -> String {
    slice(list, |at| {
        let r = &at.response;
        let hash = Object::new()
            .optional("header", r.header.as_ref().map(header))
            .number("hash", r.hash)
            .number("compact_revision", r.compact_revision)
            .number("hash_revision", r.hash_revision)
            .end();
        Object::new()
            .raw("Endpoint", &escape(&at.endpoint))
            .raw("HashKV", &hash)
            .end()
    })
}

pub fn alarms(r: &pb::AlarmResponse) -> String {
    Object::new()
        .optional("header", r.header.as_ref().map(header))
        .list("alarms", &r.alarms, |alarm| {
            Object::new()
                .number("memberID", alarm.member_id)
                .number("alarm", alarm.alarm)
                .end()
        })
        .end()
}

/// A response of a watch: the client's own structure, of which nothing is left out.
pub fn watch(r: &pb::WatchResponse) -> String {
    let event = |event: &Event| {
        Object::new()
            .number("type", event.r#type)
            .optional("kv", event.kv.as_ref().map(kv))
            .optional("prev_kv", event.prev_kv.as_ref().map(kv))
            .end()
    };
    let h = r.header.as_ref().map_or_else(|| "{}".to_owned(), header);
    Object::new()
        .raw("Header", &h)
        .raw("Events", &slice(&r.events, event))
        .raw("CompactRevision", &r.compact_revision.to_string())
        .raw("Canceled", &r.canceled.to_string())
        .raw("Created", &r.created.to_string())
        .raw("CancelReason", &escape(&r.cancel_reason))
        .end()
}

/// A response of a header and names.
pub fn names(h: Option<&pb::ResponseHeader>, what: &str, names: &[String]) -> String {
    Object::new()
        .optional("header", h.map(header))
        .texts(what, names)
        .end()
}

pub fn role_get(r: &pb::AuthRoleGetResponse) -> String {
    let permission = |p: &Permission| {
        Object::new()
            .number("permType", p.perm_type)
            .bytes("key", &p.key)
            .bytes("range_end", &p.range_end)
            .end()
    };
    Object::new()
        .optional("header", r.header.as_ref().map(header))
        .list("perm", &r.perm, permission)
        .end()
}

pub fn auth_status(r: &pb::AuthStatusResponse) -> String {
    let object = Object::new().optional("header", r.header.as_ref().map(header));
    let object = if r.enabled {
        object.raw("enabled", "true")
    } else {
        object
    };
    object.number("authRevision", r.auth_revision).end()
}

pub fn downgrade(r: &pb::DowngradeResponse) -> String {
    Object::new()
        .optional("header", r.header.as_ref().map(header))
        .text("version", &r.version)
        .end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Form;

    #[test]
    fn base64_pads() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xff\xfe\xfd\xfc", "//79/A=="),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn strings_are_safe_in_html() {
        assert_eq!(
            escape("a<b>&\"\\\n\u{1}\u{2028}é"),
            r#""a\u003cb\u003e\u0026\"\\\n\u0001\u2028é""#
        );
    }

    #[test]
    fn keys_stand_in_the_messages_order() {
        let h = pb::ResponseHeader {
            cluster_id: 1,
            member_id: 2,
            revision: 3,
            raft_term: 4,
        };
        let pair = KeyValue {
            key: "abc".into(),
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            value: "123".into(),
            lease: 0,
        };
        let range = pb::RangeResponse {
            header: Some(h),
            kvs: vec![pair],
            more: false,
            count: 1,
        };
        assert_eq!(
            get(&range),
            r#"{"header":{"cluster_id":1,"member_id":2,"revision":3,"raft_term":4},"kvs":[{"key":"YWJj","create_revision":2,"mod_revision":2,"version":1,"value":"MTIz"}],"count":1}"#
        );
        let status_response = pb::StatusResponse {
            header: Some(h),
            version: "3.7.1".into(),
            db_size: 20480,
            leader: 1,
            raft_index: 4,
            raft_term: 2,
            raft_applied_index: 4,
            db_size_in_use: 16384,
            storage_version: "3.7.0".into(),
            db_size_quota: 2_147_483_648,
            downgrade_info: Some(pb::DowngradeInfo::default()),
            ..Default::default()
        };
        assert_eq!(
            status(&[At {
                endpoint: "h:1".into(),
                response: status_response
            }]),
            r#"[{"Endpoint":"h:1","Status":{"header":{"cluster_id":1,"member_id":2,"revision":3,"raft_term":4},"version":"3.7.1","dbSize":20480,"leader":1,"raftIndex":4,"raftTerm":2,"raftAppliedIndex":4,"dbSizeInUse":16384,"storageVersion":"3.7.0","dbSizeQuota":2147483648,"downgradeInfo":{}}}]"#
        );
        assert_eq!(status(&[]), "null");
    }

    #[test]
    fn ids_in_hexadecimal_are_strings() {
        let h = pb::ResponseHeader {
            cluster_id: 255,
            member_id: 16,
            revision: 0,
            raft_term: 2,
        };
        let one = pb::Member {
            id: 171,
            name: "a".into(),
            ..Default::default()
        };
        assert_eq!(
            members(Printer::new(Form::Json, true), Some(&h), None, &[one]),
            r#"{"header":{"cluster_id":"ff","member_id":"10","raft_term":2},"members":[{"ID":"ab","name":"a"}]}"#
        );
    }
}
