//! Requests as etcd's logs show them: in protobuf's text form, with the sizes of values in place of
//! values, and without passwords. Nothing here may ever show either.
//!
//! Two forms are mixed, as in the original: puts and comparisons of values are written in the older
//! one (a space behind every field, octal escapes), everything else in the newer one.

use std::fmt::Write as _;

use crate::authpb::Permission;
use crate::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Op;

/// Fields of a message, one after another.
#[derive(Default)]
struct Text(String);

impl Text {
    fn field(&mut self, name: &str, write: impl FnOnce(&mut String)) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(name);
        self.0.push(':');
        write(&mut self.0);
    }

    fn number<N: Default + PartialEq + std::fmt::Display>(&mut self, name: &str, number: N) {
        if number != N::default() {
            self.field(name, |out| {
                let _infallible = write!(out, "{number}");
            });
        }
    }

    fn flag(&mut self, name: &str, set: bool) {
        if set {
            self.field(name, |out| out.push_str("true"));
        }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.field(name, |out| quote(out, bytes));
        }
    }

    /// An enumeration's value by name, or by number where it has none.
    fn choice(&mut self, name: &str, number: i32, known: Option<&str>) {
        match known {
            _ if number == 0 => {}
            Some(known) => self.field(name, |out| out.push_str(known)),
            None => self.number(name, number),
        }
    }

    fn message(&mut self, name: &str, inner: Text) {
        self.field(name, |out| {
            let _infallible = write!(out, "{{{}}}", inner.0);
        });
    }
}

fn text(write: impl FnOnce(&mut Text)) -> Text {
    let mut text = Text::default();
    write(&mut text);
    text
}

/// Quoted, with what is neither text nor printable as hexadecimal digits.
fn quote(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => {
                    out.push('\\');
                    out.push(c);
                }
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                    let _infallible = write!(out, "\\x{:02x}", u32::from(c));
                }
                c if (0x80..=0x9f).contains(&u32::from(c)) => {
                    let _infallible = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _infallible = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
}

/// The older form of it.
fn quote_octal(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for byte in bytes {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x20..=0x7e => out.push(char::from(*byte)),
            _ => {
                let _infallible = write!(out, "\\{byte:03o}");
            }
        }
    }
    out.push('"');
}

/// A field in the older form.
fn old_bytes(out: &mut String, name: &str, bytes: &[u8]) {
    if !bytes.is_empty() {
        let _infallible = write!(out, "{name}:");
        quote_octal(out, bytes);
        out.push(' ');
    }
}

fn old_value(out: &mut String, name: &str, value: impl std::fmt::Display, set: bool) {
    if set {
        let _infallible = write!(out, "{name}:{value} ");
    }
}

/// A put.
pub fn put(put: &pb::PutRequest) -> String {
    let mut out = String::new();
    old_bytes(&mut out, "key", &put.key);
    old_value(
        &mut out,
        "value_size",
        put.value.len(),
        !put.value.is_empty(),
    );
    old_value(&mut out, "lease", put.lease, put.lease != 0);
    old_value(&mut out, "prev_kv", true, put.prev_kv);
    old_value(&mut out, "ignore_value", true, put.ignore_value);
    old_value(&mut out, "ignore_lease", true, put.ignore_lease);
    out
}

fn range_text(range: &pb::RangeRequest) -> Text {
    use pb::range_request::{SortOrder, SortTarget};
    let order = SortOrder::try_from(range.sort_order).ok();
    let target = SortTarget::try_from(range.sort_target).ok();
    text(|text| {
        text.bytes("key", &range.key);
        text.bytes("range_end", &range.range_end);
        text.number("limit", range.limit);
        text.number("revision", range.revision);
        text.choice(
            "sort_order",
            range.sort_order,
            order.map(|o| o.as_str_name()),
        );
        text.choice(
            "sort_target",
            range.sort_target,
            target.map(|t| t.as_str_name()),
        );
        text.flag("serializable", range.serializable);
        text.flag("keys_only", range.keys_only);
        text.flag("count_only", range.count_only);
        text.number("min_mod_revision", range.min_mod_revision);
        text.number("max_mod_revision", range.max_mod_revision);
        text.number("min_create_revision", range.min_create_revision);
        text.number("max_create_revision", range.max_create_revision);
    })
}

/// A range.
pub fn range(range: &pb::RangeRequest) -> String {
    range_text(range).0
}

fn delete_text(delete: &pb::DeleteRangeRequest) -> Text {
    text(|text| {
        text.bytes("key", &delete.key);
        text.bytes("range_end", &delete.range_end);
        text.flag("prev_kv", delete.prev_kv);
    })
}

/// A deletion.
pub fn delete_range(delete: &pb::DeleteRangeRequest) -> String {
    delete_text(delete).0
}

fn compare(compare: &pb::Compare) -> String {
    let result = CompareResult::try_from(compare.result).ok();
    let result = result.map(|result| result.as_str_name());
    let target = CompareTarget::try_from(compare.target).ok();
    let target = target.map(|target| target.as_str_name());
    if let Some(TargetUnion::Value(value)) = &compare.target_union {
        let mut out = String::new();
        for (name, number, known) in [
            ("result", compare.result, result),
            ("target", compare.target, target),
        ] {
            match known {
                Some(known) => old_value(&mut out, name, known, number != 0),
                None => old_value(&mut out, name, number, number != 0),
            }
        }
        old_bytes(&mut out, "key", &compare.key);
        old_value(&mut out, "value_size", value.len(), !value.is_empty());
        old_bytes(&mut out, "range_end", &compare.range_end);
        return out;
    }
    let written = text(|text| {
        text.choice("result", compare.result, result);
        text.choice("target", compare.target, target);
        text.bytes("key", &compare.key);
        // A member of a union is there even if it is zero.
        let mut number = |name: &str, number: i64| {
            text.field(name, |out| {
                let _infallible = write!(out, "{number}");
            });
        };
        match &compare.target_union {
            Some(TargetUnion::Version(version)) => number("version", *version),
            Some(TargetUnion::CreateRevision(revision)) => number("create_revision", *revision),
            Some(TargetUnion::ModRevision(revision)) => number("mod_revision", *revision),
            Some(TargetUnion::Lease(lease)) => number("lease", *lease),
            Some(TargetUnion::Value(_)) | None => {}
        }
        text.bytes("range_end", &compare.range_end);
    });
    written.0
}

fn operation(op: &pb::RequestOp) -> String {
    match &op.request {
        Some(Op::RequestPut(request)) => format!("request_put:<{}>", put(request)),
        Some(Op::RequestTxn(request)) => format!("request_txn:<{}>", txn(request)),
        Some(Op::RequestRange(request)) => {
            text(|text| text.message("request_range", range_text(request))).0
        }
        Some(Op::RequestDeleteRange(request)) => {
            text(|text| text.message("request_delete_range", delete_text(request))).0
        }
        None => String::new(),
    }
}

/// A transaction.
pub fn txn(txn: &pb::TxnRequest) -> String {
    let list = |texts: Vec<String>| texts.join(" ");
    format!(
        "compare:<{}> success:<{}> failure:<{}>",
        list(txn.compare.iter().map(compare).collect()),
        list(txn.success.iter().map(operation).collect()),
        list(txn.failure.iter().map(operation).collect()),
    )
}

fn header_text(header: &pb::RequestHeader) -> Text {
    text(|text| {
        text.number("ID", header.id);
        text.bytes("username", header.username.as_bytes());
        text.number("auth_revision", header.auth_revision);
    })
}

fn permission(permission: &Permission) -> Text {
    let kind = crate::authpb::permission::Type::try_from(permission.perm_type).ok();
    text(|text| {
        text.choice(
            "permType",
            permission.perm_type,
            kind.map(|k| k.as_str_name()),
        );
        text.bytes("key", &permission.key);
        text.bytes("range_end", &permission.range_end);
    })
}

/// A request as it travels through the log.
pub fn internal(request: &pb::InternalRaftRequest) -> String {
    let header = request.header.as_ref().map(header_text).unwrap_or_default();
    let special = if let Some(grant) = &request.lease_grant {
        format!(
            "lease_grant:<ttl:{}-second id:{:016x}>",
            grant.ttl, grant.id
        )
    } else if let Some(revoke) = &request.lease_revoke {
        format!("lease_revoke:<id:{:016x}>", revoke.id)
    } else if let Some(login) = &request.authenticate {
        format!(
            "authenticate:<name:{} simple_token:{}>",
            login.name, login.simple_token
        )
    } else if let Some(add) = &request.auth_user_add {
        format!("auth_user_add:<name:{}>", add.name)
    } else if let Some(change) = &request.auth_user_change_password {
        format!("auth_user_change_password:<name:{}>", change.name)
    } else if let Some(request) = &request.put {
        format!("put:<{}>", put(request))
    } else if let Some(request) = &request.txn {
        format!("txn:<{}>", txn(request))
    } else {
        return plain(request, header).0;
    };
    format!("header:<{}> {special}", header.0)
}

/// What holds neither a value nor a password.
fn plain(request: &pb::InternalRaftRequest, header: Text) -> Text {
    fn name(name: &str) -> Text {
        text(|text| text.bytes("name", name.as_bytes()))
    }
    fn role(role: &str) -> Text {
        text(|text| text.bytes("role", role.as_bytes()))
    }
    fn named_role(name: &str, role: &str, first: &str) -> Text {
        text(|text| {
            text.bytes(first, name.as_bytes());
            text.bytes("role", role.as_bytes());
        })
    }
    text(|out| {
        if request.header.is_some() {
            out.message("header", header);
        }
        out.number("ID", request.id);
        if let Some(range) = &request.range {
            out.message("range", range_text(range));
        }
        if let Some(delete) = &request.delete_range {
            out.message("delete_range", delete_text(delete));
        }
        if let Some(compaction) = &request.compaction {
            let inner = text(|text| {
                text.number("revision", compaction.revision);
                text.flag("physical", compaction.physical);
            });
            out.message("compaction", inner);
        }
        if let Some(alarm) = &request.alarm {
            let inner = text(|text| {
                text.choice("action", alarm.action, Some(alarm.action().as_str_name()));
                text.number("memberID", alarm.member_id);
                text.choice("alarm", alarm.alarm, Some(alarm.alarm().as_str_name()));
            });
            out.message("alarm", inner);
        }
        if let Some(checkpoint) = &request.lease_checkpoint {
            let inner = text(|text| {
                for point in &checkpoint.checkpoints {
                    let inner = self::text(|text| {
                        text.number("ID", point.id);
                        text.number("remaining_TTL", point.remaining_ttl);
                    });
                    text.message("checkpoints", inner);
                }
            });
            out.message("lease_checkpoint", inner);
        }
        for (set, field) in [
            (request.auth_enable.is_some(), "auth_enable"),
            (request.auth_disable.is_some(), "auth_disable"),
            (request.auth_status.is_some(), "auth_status"),
            (request.auth_user_list.is_some(), "auth_user_list"),
            (request.auth_role_list.is_some(), "auth_role_list"),
        ] {
            if set {
                out.message(field, Text::default());
            }
        }
        if let Some(asked) = &request.auth_user_delete {
            out.message("auth_user_delete", name(&asked.name));
        }
        if let Some(asked) = &request.auth_user_get {
            out.message("auth_user_get", name(&asked.name));
        }
        if let Some(asked) = &request.auth_user_grant_role {
            out.message(
                "auth_user_grant_role",
                named_role(&asked.user, &asked.role, "user"),
            );
        }
        if let Some(asked) = &request.auth_user_revoke_role {
            out.message(
                "auth_user_revoke_role",
                named_role(&asked.name, &asked.role, "name"),
            );
        }
        if let Some(asked) = &request.auth_role_add {
            out.message("auth_role_add", name(&asked.name));
        }
        if let Some(asked) = &request.auth_role_delete {
            out.message("auth_role_delete", role(&asked.role));
        }
        if let Some(asked) = &request.auth_role_get {
            out.message("auth_role_get", role(&asked.role));
        }
        if let Some(asked) = &request.auth_role_grant_permission {
            let mut inner = name(&asked.name);
            if let Some(perm) = &asked.perm {
                inner.message("perm", permission(perm));
            }
            out.message("auth_role_grant_permission", inner);
        }
        if let Some(asked) = &request.auth_role_revoke_permission {
            let inner = text(|text| {
                text.bytes("role", asked.role.as_bytes());
                text.bytes("key", &asked.key);
                text.bytes("range_end", &asked.range_end);
            });
            out.message("auth_role_revoke_permission", inner);
        }
        if let Some(set) = &request.cluster_version_set {
            let inner = text(|text| text.bytes("ver", set.ver.as_bytes()));
            out.message("cluster_version_set", inner);
        }
        if let Some(set) = &request.cluster_member_attr_set {
            let attributes = set.member_attributes.as_ref();
            let inner = text(|text| {
                text.number("member_ID", set.member_id);
                if let Some(attributes) = attributes {
                    let inner = self::text(|text| {
                        text.bytes("name", attributes.name.as_bytes());
                        for url in &attributes.client_urls {
                            text.bytes("client_urls", url.as_bytes());
                        }
                    });
                    text.message("member_attributes", inner);
                }
            });
            out.message("cluster_member_attr_set", inner);
        }
        if let Some(set) = &request.downgrade_info_set {
            let inner = text(|text| {
                text.flag("enabled", set.enabled);
                text.bytes("ver", set.ver.as_bytes());
            });
            out.message("downgrade_info_set", inner);
        }
        if request.downgrade_version_test.is_some() {
            out.message("downgrade_version_test", Text::default());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_of(key: &[u8], value: &'static str) -> pb::PutRequest {
        pb::PutRequest {
            key: key.to_vec().into(),
            value: value.into(),
            ..Default::default()
        }
    }

    #[test]
    fn values_are_shown_by_their_size() {
        let request = pb::PutRequest {
            lease: 7,
            prev_kv: true,
            ..put_of(b"a\"\xff\n", "secret")
        };
        assert_eq!(
            put(&request),
            r#"key:"a\"\377\n" value_size:6 lease:7 prev_kv:true "#
        );
        let transaction = pb::TxnRequest {
            compare: vec![
                pb::Compare {
                    result: CompareResult::Greater as i32,
                    target: CompareTarget::Value as i32,
                    key: "k".into(),
                    target_union: Some(TargetUnion::Value("secret".into())),
                    ..Default::default()
                },
                pb::Compare {
                    target: CompareTarget::Mod as i32,
                    key: "k".into(),
                    target_union: Some(TargetUnion::ModRevision(0)),
                    ..Default::default()
                },
            ],
            success: vec![pb::RequestOp {
                request: Some(Op::RequestPut(put_of(b"k", "secret"))),
            }],
            failure: vec![pb::RequestOp {
                request: Some(Op::RequestRange(pb::RangeRequest {
                    key: "k\u{7f}é".into(),
                    limit: 3,
                    sort_order: 2,
                    ..Default::default()
                })),
            }],
        };
        assert_eq!(
            txn(&transaction),
            "compare:<result:GREATER target:VALUE key:\"k\" value_size:6  \
             target:MOD key:\"k\" mod_revision:0> \
             success:<request_put:<key:\"k\" value_size:6 >> \
             failure:<request_range:{key:\"k\\x7fé\" limit:3 sort_order:DESCEND}>"
        );
    }

    #[test]
    fn passwords_are_not_shown() {
        let header = Some(pb::RequestHeader {
            id: 5,
            username: "root".into(),
            auth_revision: 2,
        });
        let request = pb::InternalRaftRequest {
            header: header.clone(),
            auth_user_add: Some(pb::AuthUserAddRequest {
                name: "u".into(),
                password: "secret".into(),
                hashed_password: "secret".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            internal(&request),
            "header:<ID:5 username:\"root\" auth_revision:2> auth_user_add:<name:u>"
        );
        let request = pb::InternalRaftRequest {
            header,
            compaction: Some(pb::CompactionRequest {
                revision: 9,
                physical: true,
            }),
            ..Default::default()
        };
        assert_eq!(
            internal(&request),
            "header:{ID:5 username:\"root\" auth_revision:2} \
             compaction:{revision:9 physical:true}"
        );
    }
}
