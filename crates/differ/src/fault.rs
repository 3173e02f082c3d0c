//! Answers broken on purpose, so that a test can show that each kind of difference would be found.

use ferrite_client::pb::response_op::Response;
use ferrite_client::{Code, pb};
use ferrite_proto::mvccpb::event::EventType;

use crate::answer::Answer;
use crate::exceptions::Ears;
use crate::generate::Areas;
use crate::step::Call;
use crate::streams::Heard;

/// A small lie about one kind of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)] // what they do is below
pub enum Fault {
    Text,
    Code,
    IdleRevision,
    More,
    PreviousValue,
    CreatedInTxn,
    StreamedCount,
    AttachedKey,
    Hash,
    DeletionUnheard,
    PreviousOfEvents,
    Fragment,
    Progress,
    RangeOfRole,
    UserOfRole,
    AuthRevision,
    LockRevision,
    LeaderValue,
    Learner,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Text,
        Self::Code,
        Self::IdleRevision,
        Self::More,
        Self::PreviousValue,
        Self::CreatedInTxn,
        Self::StreamedCount,
        Self::AttachedKey,
        Self::Hash,
        Self::DeletionUnheard,
        Self::PreviousOfEvents,
        Self::Fragment,
        Self::Progress,
        Self::RangeOfRole,
        Self::UserOfRole,
        Self::AuthRevision,
        Self::LockRevision,
        Self::LeaderValue,
        Self::Learner,
    ];

    /// Sequences that ask for what it is about.
    #[must_use]
    pub fn areas(self) -> Areas {
        match self {
            Self::RangeOfRole | Self::UserOfRole | Self::AuthRevision => Areas::Auth,
            Self::LockRevision | Self::LeaderValue => Areas::Contests,
            Self::Learner => Areas::Members,
            _ => Areas::Data,
        }
    }

    pub(crate) fn apply(self, call: &Call, answer: &mut Answer) {
        match (self, answer) {
            (Self::Text, Answer::Refused { message, .. }) => {
                if let Some(shorter) = message.strip_suffix(" request") {
                    *message = shorter.to_owned();
                }
            }
            (Self::Code, Answer::Refused { code, .. }) if *code == Code::FailedPrecondition => {
                *code = Code::InvalidArgument;
            }
            (Self::IdleRevision, Answer::Delete(response)) if response.deleted == 0 => {
                bump(&mut response.header);
            }
            (Self::More, Answer::Range(response)) => response.more = false,
            (Self::PreviousValue, Answer::Put(response)) => response.prev_kv = None,
            (Self::CreatedInTxn, Answer::Txn(response)) => created_later(response),
            (Self::StreamedCount, Answer::Range(response))
                if matches!(call, Call::Streamed(_)) && response.more =>
            {
                response.count -= 1;
            }
            (Self::AttachedKey, Answer::TimeToLive(response)) => {
                response.keys.pop();
            }
            (Self::Hash, Answer::HashKv(response)) => response.hash ^= 1,
            (Self::RangeOfRole, Answer::Role(response)) => {
                for perm in &mut response.perm {
                    perm.range_end.clear();
                }
            }
            (Self::UserOfRole, Answer::User(response)) => {
                response.roles.pop();
            }
            (Self::AuthRevision, Answer::AuthStatus(response)) => response.auth_revision += 1,
            (Self::LockRevision, Answer::Locked(response)) => bump(&mut response.header),
            (Self::LeaderValue, Answer::Led(response)) => {
                if let Some(kv) = &mut response.kv {
                    kv.value.clear();
                }
            }
            (Self::Learner, Answer::Members(response)) => {
                for member in &mut response.members {
                    member.is_learner = false;
                }
            }
            _ => {}
        }
    }

    pub(crate) fn apply_heard(self, ears: &mut Ears) {
        for heard in ears.values_mut() {
            match self {
                Self::DeletionUnheard => {
                    let deletion = |one: &Heard| matches!(one, Heard::Event(event) if event.r#type == EventType::Delete as i32);
                    if let Some(at) = heard.iter().position(deletion) {
                        heard.remove(at);
                    }
                }
                Self::PreviousOfEvents => {
                    for one in heard {
                        if let Heard::Event(event) = one {
                            event.prev_kv = None;
                        }
                    }
                }
                Self::Fragment => {
                    for one in heard {
                        if let Heard::End { fragment, .. } = one {
                            *fragment = false;
                        }
                    }
                }
                Self::Progress => {
                    for one in heard {
                        if let Heard::Progress(revision) = one {
                            *revision -= 1;
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

fn bump(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        header.revision += 1;
    }
}

fn created_later(response: &mut pb::TxnResponse) {
    for op in &mut response.responses {
        match &mut op.response {
            Some(Response::ResponseRange(range)) => {
                for kv in &mut range.kvs {
                    kv.create_revision += 1;
                }
            }
            Some(Response::ResponseTxn(inner)) => created_later(inner),
            _ => {}
        }
    }
}
