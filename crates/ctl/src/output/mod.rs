//! What commands print, in the five forms that `--write-out` chooses from.

pub mod fields;
pub mod json;
pub mod simple;
pub mod table;

use ferrite_client::pb;
use prost::Message;

use crate::exit::{self, Failure};
use crate::report;

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people, and scripts of few words.
    Simple,
    /// `"Name" : value` lines.
    Fields,
    /// One JSON text.
    Json,
    /// The response's bytes.
    Protobuf,
    /// A table.
    Table,
}

impl Form {
    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "simple" => Self::Simple,
            "fields" => Self::Fields,
            "json" => Self::Json,
            "protobuf" => Self::Protobuf,
            "table" => Self::Table,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Fields => "fields",
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Table => "table",
        }
    }
}

/// How one endpoint answered a health check.
pub struct Health {
    /// The endpoint.
    pub endpoint: String,
    /// Whether it serves.
    pub healthy: bool,
    /// How long that took, as text; empty if it was not reached.
    pub took: String,
    /// What is wrong; empty if nothing.
    pub error: String,
}

/// One endpoint's answer.
pub struct At<T> {
    /// The endpoint.
    pub endpoint: String,
    /// What it answered.
    pub response: T,
}

/// Leases are printed in the protobuf form as their header alone: the original's answer is no message.
fn header_bytes(header: Option<&pb::ResponseHeader>) -> Vec<u8> {
    header.map(Message::encode_to_vec).unwrap_or_default()
}

/// Prints responses.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    /// The form chosen.
    pub form: Form,
    /// Whether bytes and IDs are printed in hexadecimal.
    pub hex: bool,
    /// Whether simple output leaves keys out.
    pub value_only: bool,
}

impl Printer {
    /// A printer of one form.
    pub fn new(form: Form, hex: bool) -> Self {
        Self {
            form,
            hex,
            value_only: false,
        }
    }

    /// The refusal of a form that a command does not have.
    pub fn unsupported(self) -> Failure {
        Failure::new(
            exit::BAD_FEATURE,
            format!("{} not supported as output format", self.form.name()),
        )
    }

    /// Prints in the form chosen; what has no fields or table form is refused.
    fn emit(
        self,
        message: Option<&dyn Fn() -> Vec<u8>>,
        simple: &dyn Fn(&mut Vec<u8>),
        fields: Option<&dyn Fn(&mut String)>,
        json: &dyn Fn() -> String,
        table: Option<&dyn Fn() -> table::Rows>,
    ) -> Result<(), Failure> {
        let bytes = match self.form {
            Form::Simple => {
                let mut out = Vec::new();
                simple(&mut out);
                out
            }
            Form::Fields => {
                let mut out = String::new();
                fields.ok_or_else(|| self.unsupported())?(&mut out);
                out.into_bytes()
            }
            Form::Json => {
                let mut out = json();
                out.push('\n');
                out.into_bytes()
            }
            Form::Protobuf => message.ok_or_else(|| self.unsupported())?(),
            Form::Table => {
                let rows = table.ok_or_else(|| self.unsupported())?();
                ferrite_cli::frame::render(&rows.header, &rows.cells).into_bytes()
            }
        };
        report::out(&bytes);
        Ok(())
    }

    /// The answer to `put`.
    pub fn put(self, r: &pb::PutResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::put(self, out, r),
            Some(&|out| fields::put(self, out, r)),
            &|| json::put(r),
            None,
        )
    }

    /// The answer to `get`.
    pub fn get(self, r: &pb::RangeResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::get(self, out, r),
            Some(&|out| fields::get(self, out, r)),
            &|| json::get(r),
            None,
        )
    }

    /// The answer to `del`.
    pub fn del(self, r: &pb::DeleteRangeResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::del(self, out, r),
            Some(&|out| fields::del(self, out, r)),
            &|| json::del(r),
            None,
        )
    }

    /// The answer to `txn`.
    pub fn txn(self, r: &pb::TxnResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::txn(self, out, r),
            Some(&|out| fields::txn(self, out, r)),
            &|| json::txn(r),
            None,
        )
    }

    /// The answer to `lease grant`.
    pub fn lease_grant(self, r: &pb::LeaseGrantResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| header_bytes(r.header.as_ref())),
            &|out| simple::lease_grant(out, r),
            Some(&|out| fields::lease(self, out, r.header.as_ref(), r.id, r.ttl)),
            &|| json::lease_grant(r),
            None,
        )
    }

    /// The answer to `lease revoke`.
    pub fn lease_revoke(self, id: i64, r: &pb::LeaseRevokeResponse) -> Result<(), Failure> {
        self.emit(
            None,
            &|out| simple::lease_revoke(out, id),
            Some(&|out| fields::header(self, out, r.header.as_ref())),
            &|| json::header_only(r.header.as_ref()),
            None,
        )
    }

    /// One answer to `lease keep-alive`.
    pub fn lease_keep_alive(self, r: &pb::LeaseKeepAliveResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| header_bytes(r.header.as_ref())),
            &|out| simple::lease_keep_alive(out, r),
            Some(&|out| fields::lease(self, out, r.header.as_ref(), r.id, r.ttl)),
            &|| json::lease_keep_alive(r),
            None,
        )
    }

    /// The answer to `lease timetolive`; `keys` says whether they were asked for.
    pub fn lease_time_to_live(
        self,
        r: &pb::LeaseTimeToLiveResponse,
        keys: bool,
    ) -> Result<(), Failure> {
        self.emit(
            Some(&|| header_bytes(r.header.as_ref())),
            &|out| simple::lease_time_to_live(out, r, keys),
            Some(&|out| fields::lease_time_to_live(self, out, r)),
            &|| json::lease_time_to_live(r),
            None,
        )
    }

    /// The answer to `lease list`.
    pub fn lease_list(self, r: &pb::LeaseLeasesResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| header_bytes(r.header.as_ref())),
            &|out| simple::lease_list(out, r),
            Some(&|out| fields::lease_list(self, out, r)),
            &|| json::lease_list(r),
            None,
        )
    }

    /// The members.
    pub fn member_list(self, r: &pb::MemberListResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::rows(out, &table::members(&r.members)),
            Some(&|out| fields::member_list(self, out, r)),
            &|| json::members(self, r.header.as_ref(), None, &r.members),
            Some(&|| table::members(&r.members)),
        )
    }

    /// The answer to `member add`.
    pub fn member_add(self, r: &pb::MemberAddResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::member_add(out, r),
            None,
            &|| json::members(self, r.header.as_ref(), Some(r.member.as_ref()), &r.members),
            None,
        )
    }

    /// The answer to a change of a member; `done` says what was done, for people.
    pub fn member_change<M: Message>(
        self,
        done: &str,
        id: u64,
        header: Option<&pb::ResponseHeader>,
        members: &[pb::Member],
        raw: &M,
    ) -> Result<(), Failure> {
        self.emit(
            Some(&|| raw.encode_to_vec()),
            &|out| simple::member_change(out, done, id, header),
            None,
            &|| json::members(self, header, None, members),
            None,
        )
    }

    /// Health of endpoints. What is wrong goes to standard error in the simple form.
    pub fn health(self, list: &[Health]) -> Result<(), Failure> {
        self.emit(
            None,
            &|out| simple::health(out, list),
            Some(&|out| fields::health(out, list)),
            &|| json::health(list),
            Some(&|| table::health(list)),
        )
    }

    /// Status of endpoints.
    pub fn status(self, list: &[At<pb::StatusResponse>]) -> Result<(), Failure> {
        self.emit(
            None,
            &|out| simple::rows(out, &table::status(list)),
            Some(&|out| fields::status(self, out, list)),
            &|| json::status(list),
            Some(&|| table::status(list)),
        )
    }

    /// Hashes of endpoints.
    pub fn hash_kv(self, list: &[At<pb::HashKvResponse>]) -> Result<(), Failure> {
        self.emit(
            None,
            &|out| simple::rows(out, &table::hash_kv(list)),
            Some(&|out| fields::hash_kv(self, out, list)),
            &|| json::hash_kv(list),
            Some(&|| table::hash_kv(list)),
        )
    }

    /// Alarms.
    pub fn alarms(self, r: &pb::AlarmResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::alarms(out, r),
            Some(&|out| fields::alarms(self, out, r)),
            &|| json::alarms(r),
            None,
        )
    }

    /// The answer to `move-leader`.
    pub fn move_leader(
        self,
        from: u64,
        to: u64,
        r: &pb::MoveLeaderResponse,
    ) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| {
                out.extend_from_slice(
                    format!("Leadership transferred from {from:x} to {to:x}\n").as_bytes(),
                );
            },
            None,
            &|| json::header_only(r.header.as_ref()),
            None,
        )
    }

    /// A response of a watch.
    pub fn watch(self, r: &pb::WatchResponse) -> Result<(), Failure> {
        let message = || {
            let shown = pb::WatchResponse {
                watch_id: 0,
                cancel_reason: String::new(),
                fragment: false,
                ..r.clone()
            };
            shown.encode_to_vec()
        };
        self.emit(
            Some(&message),
            &|out| simple::watch(self, out, r),
            Some(&|out| fields::watch(self, out, r)),
            &|| json::watch(r),
            None,
        )
    }

    /// The answer to a change of which there is nothing to tell but that it was `done`.
    pub fn done<M: Message>(
        self,
        done: &str,
        header: Option<&pb::ResponseHeader>,
        raw: &M,
    ) -> Result<(), Failure> {
        self.emit(
            Some(&|| raw.encode_to_vec()),
            &|out| out.extend_from_slice(format!("{done}\n").as_bytes()),
            Some(&|out| fields::header(self, out, header)),
            &|| json::header_only(header),
            None,
        )
    }

    /// The answer to `role get`.
    pub fn role_get(self, role: &str, r: &pb::AuthRoleGetResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::role_get(out, role, r),
            Some(&|out| fields::role_get(self, out, r)),
            &|| json::role_get(r),
            None,
        )
    }

    /// The answer to `role list`.
    pub fn role_list(self, r: &pb::AuthRoleListResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::names(out, &r.roles),
            Some(&|out| fields::role_list(self, out, r)),
            &|| json::names(r.header.as_ref(), "roles", &r.roles),
            None,
        )
    }

    /// The answer to `user get`.
    pub fn user_get(self, user: &str, r: &pb::AuthUserGetResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::user_get(out, user, r),
            None,
            &|| json::names(r.header.as_ref(), "roles", &r.roles),
            None,
        )
    }

    /// The answer to `user list`.
    pub fn user_list(self, r: &pb::AuthUserListResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::names(out, &r.users),
            None,
            &|| json::names(r.header.as_ref(), "users", &r.users),
            None,
        )
    }

    /// The answer to `auth status`.
    pub fn auth_status(self, r: &pb::AuthStatusResponse) -> Result<(), Failure> {
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| simple::auth_status(out, r),
            None,
            &|| json::auth_status(r),
            None,
        )
    }

    /// The answer to a step of a downgrade.
    pub fn downgrade(self, step: &str, r: &pb::DowngradeResponse) -> Result<(), Failure> {
        let text = format!("Downgrade {step} success, cluster version {}\n", r.version);
        self.emit(
            Some(&|| r.encode_to_vec()),
            &|out| out.extend_from_slice(text.as_bytes()),
            None,
            &|| json::downgrade(r),
            None,
        )
    }
}
