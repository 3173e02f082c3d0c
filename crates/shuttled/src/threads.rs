//! The threads that own a disk.

pub use ferrite_node::OnFatal;

pub mod apply {
    //! What the apply thread is told.
    pub use ferrite_node::threads::apply::Command;
}

#[path = "../../node/src/threads/wal.rs"]
pub mod wal;

#[path = "../../node/src/threads/commit.rs"]
pub mod commit;
