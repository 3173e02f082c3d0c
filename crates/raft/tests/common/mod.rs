//! Shared by the tests: scripts that drive a group of members, and the text they are compared in.
#![allow(dead_code)] // each test binary uses its part

pub mod describe;
pub mod env;
pub mod script;
