//! `etcdutl` as its users see it: files in, text and exit codes out.

mod bbolt;
mod common;
mod damage;
mod files;
mod oracle;
mod program;
