//! Applies committed requests to the replicated state: one request and the state in, a response and
//! effects out.
//!
//! Deterministic: the same entries give the same state on every member, whatever was compacted,
//! cached or restarted where. Nothing here reads a clock, does I/O or fails half-way: a request is
//! applied or refused with a named reason. What must not be decided by local circumstances (the size
//! of the database file) only ever changes the response, never the state.

mod alarms;
mod applier;
mod auth;
mod error;
mod operation;
mod response;

pub use alarms::{Alarms, MemberAlarm};
pub use applier::{Applied, Applier, Config, Effect, Progress, StateError};
pub use auth::TokenChange;
pub use error::ApplyError;
pub use ferrite_auth::{Answer as AuthAnswer, ROOT, View as AuthView};
pub use ferrite_lease::{Lessor, View as LeaseView};
pub use operation::operation;
pub use response::Response;
