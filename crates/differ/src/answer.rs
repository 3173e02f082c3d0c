//! What a server said, in a form that two servers can be held to.

use std::fmt;

use ferrite_client::pb::response_op::Response;
use ferrite_client::{Code, Status, code_name, pb};
use ferrite_proto::v3electionpb::{
    CampaignResponse, LeaderResponse, ProclaimResponse, ResignResponse,
};
use ferrite_proto::v3lockpb::{LockResponse, UnlockResponse};

use crate::step::{INVENTED, terse};

/// One answer. IDs that must differ between clusters are told apart only by being there or not.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the names are those of the calls
pub enum Answer {
    Refused {
        code: Code,
        message: String,
    },
    /// Nothing came within the time that a call may take.
    Silent,
    /// The step has nothing to say.
    Nothing,
    /// Responses that are a header and no more.
    Done(Option<pb::ResponseHeader>),
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Grant(pb::LeaseGrantResponse),
    TimeToLive(pb::LeaseTimeToLiveResponse),
    Leases(pb::LeaseLeasesResponse),
    KeepAlive(pb::LeaseKeepAliveResponse),
    Watch(pb::WatchResponse),
    /// What the watchers of all streams have heard, in words.
    Heard(Vec<String>),
    Locked(LockResponse),
    Unlocked(UnlockResponse),
    Elected(CampaignResponse),
    Proclaimed(ProclaimResponse),
    Resigned(ResignResponse),
    Led(LeaderResponse),
    Members(pb::MemberListResponse),
    Added(pb::MemberAddResponse),
    /// Members without a change: removals, updates, promotions.
    Changed(Option<pb::ResponseHeader>, Vec<pb::Member>),
    Defragmented(Option<pb::ResponseHeader>),
    Moved(Option<pb::ResponseHeader>),
    Status {
        has_leader: bool,
        is_learner: bool,
        errors: Vec<String>,
        revision: i64,
    },
    HashKv(pb::HashKvResponse),
    Alarms(pb::AlarmResponse),
    AuthStatus(pb::AuthStatusResponse),
    Authenticated(pb::AuthenticateResponse),
    User(pb::AuthUserGetResponse),
    Users(pb::AuthUserListResponse),
    Role(pb::AuthRoleGetResponse),
    Roles(pb::AuthRoleListResponse),
}

impl Answer {
    pub(crate) fn refused(status: &Status) -> Self {
        Self::Refused {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }

    /// The revision that the answer's header names, for those that carry the store's.
    pub(crate) fn revision(&self) -> Option<i64> {
        self.header().map(|header| header.revision)
    }

    fn header(&self) -> Option<&pb::ResponseHeader> {
        match self {
            Self::Done(header) => header.as_ref(),
            Self::Range(response) => response.header.as_ref(),
            Self::Put(response) => response.header.as_ref(),
            Self::Delete(response) => response.header.as_ref(),
            Self::Txn(response) => response.header.as_ref(),
            Self::Grant(response) => response.header.as_ref(),
            Self::TimeToLive(response) => response.header.as_ref(),
            Self::Leases(response) => response.header.as_ref(),
            Self::Locked(response) => response.header.as_ref(),
            Self::Unlocked(response) => response.header.as_ref(),
            Self::Elected(response) => response.header.as_ref(),
            Self::Proclaimed(response) => response.header.as_ref(),
            Self::Resigned(response) => response.header.as_ref(),
            _ => None,
        }
    }

    fn header_mut(&mut self) -> Option<&mut pb::ResponseHeader> {
        match self {
            Self::Refused { .. }
            | Self::Silent
            | Self::Nothing
            | Self::Heard(_)
            | Self::Status { .. } => None,
            Self::Done(header) => header.as_mut(),
            Self::Range(response) => response.header.as_mut(),
            Self::Put(response) => response.header.as_mut(),
            Self::Delete(response) => response.header.as_mut(),
            Self::Txn(response) => response.header.as_mut(),
            Self::Grant(response) => response.header.as_mut(),
            Self::TimeToLive(response) => response.header.as_mut(),
            Self::Leases(response) => response.header.as_mut(),
            Self::KeepAlive(response) => response.header.as_mut(),
            Self::Watch(response) => response.header.as_mut(),
            Self::Locked(response) => response.header.as_mut(),
            Self::Unlocked(response) => response.header.as_mut(),
            Self::Elected(response) => response.header.as_mut(),
            Self::Proclaimed(response) => response.header.as_mut(),
            Self::Resigned(response) => response.header.as_mut(),
            Self::Led(response) => response.header.as_mut(),
            Self::Members(response) => response.header.as_mut(),
            Self::Added(response) => response.header.as_mut(),
            Self::Changed(header, _) | Self::Defragmented(header) | Self::Moved(header) => {
                header.as_mut()
            }
            Self::HashKv(response) => response.header.as_mut(),
            Self::Alarms(response) => response.header.as_mut(),
            Self::AuthStatus(response) => response.header.as_mut(),
            Self::Authenticated(response) => response.header.as_mut(),
            Self::User(response) => response.header.as_mut(),
            Self::Users(response) => response.header.as_mut(),
            Self::Role(response) => response.header.as_mut(),
            Self::Roles(response) => response.header.as_mut(),
        }
    }

    /// Takes out what says nothing about behaviour: IDs, terms, tokens, addresses, and the order of
    /// what has no order.
    pub(crate) fn level(mut self) -> Self {
        if let Some(header) = self.header_mut() {
            level_header(header);
        }
        match &mut self {
            Self::Txn(response) => level_inner(response),
            Self::TimeToLive(response) => response.keys.sort(),
            Self::Leases(response) => response.leases.sort_by_key(|lease| lease.id),
            Self::Members(response) => level_members(&mut response.members),
            Self::Changed(_, members) => level_members(members),
            Self::Added(response) => {
                level_members(&mut response.members);
                if let Some(member) = &mut response.member {
                    level_members(std::slice::from_mut(member));
                }
            }
            Self::Alarms(response) => {
                for alarm in &mut response.alarms {
                    alarm.member_id = present(alarm.member_id);
                }
                response
                    .alarms
                    .sort_by_key(|alarm| (alarm.member_id, alarm.alarm));
            }
            Self::Authenticated(response) => {
                // sixteen letters, a dot, the index at which it was made
                let made = response.token.split_once('.').is_some_and(|(text, index)| {
                    text.len() == 16
                        && text.bytes().all(|byte| byte.is_ascii_alphabetic())
                        && index.parse::<u64>().is_ok()
                });
                if made {
                    "token".clone_into(&mut response.token);
                }
            }
            _ => {}
        }
        self
    }
}

/// Members without their IDs, the server's own URLs, and the order that follows from IDs.
fn level_members(members: &mut [pb::Member]) {
    for member in &mut *members {
        member.id = present(member.id);
        for url in member.peer_urls.iter_mut().chain(&mut member.client_urls) {
            if !url.ends_with(INVENTED) {
                "url".clone_into(url);
            }
        }
    }
    members.sort_by(|a, b| (&a.name, &a.peer_urls).cmp(&(&b.name, &b.peer_urls)));
}

fn present(id: u64) -> u64 {
    u64::from(id != 0)
}

pub(crate) fn level_header(header: &mut pb::ResponseHeader) {
    header.cluster_id = present(header.cluster_id);
    header.member_id = present(header.member_id);
    header.raft_term = present(header.raft_term);
}

/// Headers inside a transaction carry no IDs; if one does, it shows.
fn level_inner(response: &mut pb::TxnResponse) {
    for op in &mut response.responses {
        let header = match &mut op.response {
            Some(Response::ResponseRange(response)) => response.header.as_mut(),
            Some(Response::ResponsePut(response)) => response.header.as_mut(),
            Some(Response::ResponseDeleteRange(response)) => response.header.as_mut(),
            Some(Response::ResponseTxn(response)) => {
                level_inner(response);
                response.header.as_mut()
            }
            None => None,
        };
        if let Some(header) = header {
            level_header(header);
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, message } => write!(f, "{}: {message}", code_name(*code)),
            Self::Heard(lines) => write!(f, "\n      {}", lines.join("\n      ")),
            other => f.write_str(&terse(&format!("{other:?}"))),
        }
    }
}
