//! What the walkthrough needs of a place to run the cluster in; [`crate::loopback`] and [`crate::docker`] are
//! the two there are.

use std::process::Command;

use crate::error::Result;
use crate::process::Journal;
use crate::report::Report;
use crate::spec::{MEMBERS, MemberSpec};

/// How a member is made to go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Told to end (SIGTERM, `docker stop`) and waited for.
    Term,
    /// Killed (SIGKILL, `docker kill`).
    Kill,
}

/// How a member ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// As it should: by itself after SIGTERM, or by the signal that killed it.
    pub clean: bool,
    /// The status, in words.
    pub words: String,
}

/// A three-member cluster somewhere, and the means of the user's document to handle it. Members are
/// numbered as in their names.
pub trait Bed {
    /// The members.
    fn specs(&self) -> &[MemberSpec; MEMBERS];

    /// Starts the cluster with no data.
    ///
    /// # Errors
    /// It cannot be started; the message says why and what to do.
    fn up(&mut self) -> Result<()>;

    /// What must hold of the place itself (names, ports, environment), told to the report.
    ///
    /// # Errors
    /// It cannot be looked at.
    fn look(&mut self, report: &mut Report) -> Result<()>;

    /// Ends the whole cluster and starts it again on the data it left.
    ///
    /// # Errors
    /// It cannot be stopped or started.
    fn down_and_up(&mut self) -> Result<()>;

    /// Stops a member; returns when it is gone.
    ///
    /// # Errors
    /// It cannot be stopped.
    fn stop(&mut self, member: usize, how: Stop) -> Result<Ending>;

    /// Starts a stopped member; returns at once.
    ///
    /// # Errors
    /// It cannot be started.
    fn start(&mut self, member: usize) -> Result<()>;

    /// `etcdctl` with the version-3 API, speaking to this member. Words have no blanks or quotes in them.
    fn etcdctl(&self, member: usize, words: &[&str]) -> Command;

    /// `etcdctl member list` with the version-2 API, answered by this member.
    fn member_list(&self, member: usize) -> Command;

    /// A shell in which `$CTL` is `etcdctl` with the version-3 API, speaking to this member.
    fn shell(&self, member: usize) -> Command;

    /// The member's log.
    fn journal(&self, member: usize) -> &Journal;

    /// Removes everything that [`Bed::up`] made.
    fn clean_up(&mut self);
}
