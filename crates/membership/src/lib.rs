//! Who belongs to the cluster: members, removed IDs, the cluster's version and a running downgrade,
//! as one piece of replicated state.
//!
//! Owns: how IDs are computed ([`id`]), what a membership change may do ([`Cluster`]), and the forms
//! this state takes on disk and on the wire: buckets ([`bucket`]), the version-2 store's JSON
//! ([`v2store`]), old log entries ([`v2request`]), the entries a new cluster starts with
//! ([`bootstrap`]) and the `--initial-cluster` flag ([`initial`]).
//!
//! Pure: no I/O, no clock, no name resolution. Whoever applies log entries calls in; nothing here
//! knows whether an entry is committed.

pub mod bootstrap;
pub mod bucket;
pub mod cluster;
mod error;
mod gojson;
pub mod id;
pub mod initial;
mod member;
pub mod transition;
pub mod v2request;
pub mod v2store;
mod version;

pub use bootstrap::conf_change_for_bootstrap;
pub use cluster::{Change, Cluster};
pub use error::Error;
pub use id::{cluster_id, member_id};
pub use initial::parse_initial_cluster;
pub use member::{ConfChangeContext, Member, members_json};
pub use v2request::{V2Request, decode_v2_request};
pub use version::{DowngradeInfo, Version};
