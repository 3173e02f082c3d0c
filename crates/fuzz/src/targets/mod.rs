//! One file a border that bytes of others come in at.

pub mod database;
pub mod disk;
pub mod gateway;
pub mod peer;
pub mod requests;
pub mod settings;
pub mod snap;
pub mod upload;
pub mod wal;
