//! What an operator is given besides the programs: packages, examples, guides. Each is used here as it says.

mod guides;
mod kubernetes;
mod package;

use std::path::PathBuf;

/// The folder with our programs.
fn programs() -> PathBuf {
    let etcd = ferrite_testkit::our_program("etcd");
    etcd.parent().expect("it lies in a folder").to_owned()
}
