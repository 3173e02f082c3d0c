//! What a sequence is made of.

use std::fmt;

use ferrite_client::pb;
use ferrite_proto::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest};
use ferrite_proto::v3lockpb::{LockRequest, UnlockRequest};

use crate::revision::words;

/// How many clients take turns. The last one is the administrator's where authentication is on.
pub(crate) const CLIENTS: usize = 4;

/// The client that is root wherever authentication is on.
pub(crate) const ROOT: usize = CLIENTS - 1;

/// Root's password, in every sequence.
pub(crate) const ROOT_PASSWORD: &str = "r00t";

/// What the peer URLs of members that there are not have in common: nothing listens on this port.
pub(crate) const INVENTED: &str = ":9";

/// One request by one client.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Which client sends it.
    pub client: usize,
    /// What it asks.
    pub call: Call,
}

/// Which token a client sends with its calls from now on.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// None.
    None,
    /// The one it was given last.
    Own,
    /// The one that another client was given last.
    Of(usize),
    /// This text.
    Text(String),
}

/// Which member is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// The server itself.
    Own,
    /// The one with this peer URL, if there is one.
    At(String),
    /// This number.
    Id(u64),
}

/// Which leader key a candidate shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// None.
    None,
    /// What the client was given by its last campaign; nothing is asked if there was none.
    Own,
    /// The same with another revision.
    Stale,
    /// One that nobody was given.
    Forged(LeaderKey),
}

/// A request, or what a client does between requests.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the names are those of the calls
pub enum Call {
    Range(pb::RangeRequest),
    /// A range that we are asked to stream; the original answers the plain one (KV-12).
    Streamed(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),

    Grant(pb::LeaseGrantRequest),
    /// A lease too short, or with an ID too arbitrary, to live on: granted and revoked at once.
    GrantForAMoment(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
    KeepAlive(pb::LeaseKeepAliveRequest),

    /// A watcher on a stream, which opens with its first one.
    Watch {
        stream: usize,
        create: pb::WatchCreateRequest,
    },
    CancelWatch {
        stream: usize,
        watch_id: i64,
    },
    /// Asks the stream for its progress, where both versions have to answer.
    Progress {
        stream: usize,
    },
    CloseStream {
        stream: usize,
    },
    /// Waits until every watcher has told what happened so far, and compares.
    Sync,

    /// A lock that may have to wait; the client goes on meanwhile.
    Lock(LockRequest),
    Unlock(UnlockRequest),
    Campaign(CampaignRequest),
    Proclaim {
        claim: Claim,
        value: bytes::Bytes,
    },
    Resign(Claim),
    Leader(LeaderRequest),
    /// What an observer hears first, if there is a leader.
    Observe(LeaderRequest),
    /// The call that has waited longest is given up by its caller.
    GiveUp,

    Members(pb::MemberListRequest),
    MemberAdd(pb::MemberAddRequest),
    MemberRemove(Whom),
    MemberUpdate {
        whom: Whom,
        peer_urls: Vec<String>,
    },
    MemberPromote(Whom),
    MoveLeader(Whom),
    Defragment,
    Status,
    HashKv(pb::HashKvRequest),
    Alarm(pb::AlarmRequest),

    Token(Token),
    /// A range with a token from the far future: both wait for it as long as the caller does.
    FromTheFuture(pb::RangeRequest),
    AuthEnable,
    AuthDisable,
    AuthStatus,
    Authenticate(pb::AuthenticateRequest),
    UserAdd(pb::AuthUserAddRequest),
    UserGet(pb::AuthUserGetRequest),
    UserList,
    UserDelete(pb::AuthUserDeleteRequest),
    UserChangePassword(pb::AuthUserChangePasswordRequest),
    UserGrantRole(pb::AuthUserGrantRoleRequest),
    UserRevokeRole(pb::AuthUserRevokeRoleRequest),
    RoleAdd(pb::AuthRoleAddRequest),
    RoleGet(pb::AuthRoleGetRequest),
    RoleList,
    RoleDelete(pb::AuthRoleDeleteRequest),
    RoleGrantPermission(pb::AuthRoleGrantPermissionRequest),
    RoleRevokePermission(pb::AuthRoleRevokePermissionRequest),
}

impl Call {
    /// Whether somebody's turn may have come by it.
    pub(crate) fn may_end_a_wait(&self) -> bool {
        !matches!(
            self,
            Self::Lock(_)
                | Self::Campaign(_)
                | Self::Proclaim { .. }
                | Self::Leader(_)
                | Self::Observe(_)
                | Self::Grant(_)
                | Self::Put(_)
        )
    }

    /// Whether users, roles or tokens may be left behind by it.
    pub(crate) fn is_about_users(&self) -> bool {
        matches!(
            self,
            Self::Token(_)
                | Self::AuthEnable
                | Self::AuthDisable
                | Self::Authenticate(_)
                | Self::UserAdd(_)
                | Self::RoleAdd(_)
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = anchored(&short(&terse(&format!("{:?}", self.call))));
        write!(f, "client {}: {shown}", self.client)
    }
}

/// The text with long repetitions cut.
fn short(text: &str) -> String {
    const REPEATED_MAX: usize = 20;
    let mut shown = String::new();
    for run in text
        .replace("\\xff", "\u{ff}")
        .chars()
        .collect::<Vec<_>>()
        .chunk_by(|a, b| a == b)
    {
        let Some(&one) = run.first() else { continue };
        let one = match one {
            '\u{ff}' => "\\xff".to_owned(),
            other => other.to_string(),
        };
        if run.len() > REPEATED_MAX {
            shown.push_str(&format!("{one}…({} times)", run.len()));
        } else {
            shown.push_str(&one.repeat(run.len()));
        }
    }
    shown
}

/// The text with relative revisions in words.
fn anchored(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = piece.trim_end_matches(|c: char| !c.is_ascii_digit());
        match digits.parse().ok().and_then(words) {
            Some(words) => {
                shown.push_str(&words);
                shown.push_str(&piece[digits.len()..]);
            }
            None => shown.push_str(piece),
        }
    }
    shown
}

/// The debug form without fields that have their default value.
pub(crate) fn terse(debug: &str) -> String {
    const DEFAULTS: [&str; 7] = ["0", "b\"\"", "\"\"", "false", "None", "[]", "None(None)"];
    let mut shown = String::with_capacity(debug.len());
    let mut rest = debug;
    while let Some(at) = rest.find(": ") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        let name_from = before
            .rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .map_or(0, |at| at + 1);
        let default = DEFAULTS.iter().find(|default| {
            after
                .strip_prefix(**default)
                .is_some_and(|next| next.starts_with(", ") || next.starts_with(" }"))
        });
        match default {
            Some(default) => {
                shown.push_str(&before[..name_from]);
                let next = &after[default.len()..];
                rest = next.strip_prefix(", ").unwrap_or(next);
            }
            None => {
                shown.push_str(before);
                shown.push_str(": ");
                rest = after;
            }
        }
    }
    shown.push_str(rest);
    shown
        .replace(",  }", " }")
        .replace("{  }", "{}")
        .replace("request: Some(", "(")
        .replace("response: Some(", "(")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_leave_out_what_is_not_set() {
        let step = Step {
            client: 1,
            call: Call::Range(pb::RangeRequest {
                key: "a".into(),
                limit: 2,
                revision: crate::revision::now(-3),
                ..Default::default()
            }),
        };
        assert_eq!(
            step.to_string(),
            "client 1: Range(RangeRequest { key: b\"a\", limit: 2, revision: now-3, sort_target: Key })"
        );
    }
}
