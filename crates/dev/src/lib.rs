//! The developer's tool behind the commands of the README: a cluster on this machine, the user's
//! walkthrough run unattended, the container image.
//!
//! It owns processes, a terminal and a container engine; it knows nothing of Raft or of etcd's
//! formats, and speaks to the programs only as a user does: command lines, their output, signals.
//!
//! - [`cluster`]: three members in one terminal, keys to stop and start them.
//! - [`walkthrough`]: the acceptance test, over a [`bed::Bed`] ([`loopback`] or [`docker`]).
//! - [`image`]: the container image, also where no image registry is reached.
//! - below them: [`spec`] (who the members are), [`process`] (a member as a child process),
//!   [`writer`] (puts without pause, and how long they were refused), [`logline`], [`sys`].

pub mod bed;
pub mod binaries;
pub mod cluster;
pub mod docker;
pub mod error;
pub mod image;
pub mod logline;
pub mod loopback;
pub mod process;
pub mod report;
pub mod run;
pub mod spec;
pub mod sys;
pub mod walkthrough;
pub mod writer;
