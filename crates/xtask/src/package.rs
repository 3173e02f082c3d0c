//! Packages of the three programs: a Debian package, a folder in a tar, a container image as a file.
//!
//! All are made of one set of programs, so that one that was tested is the one that is shipped. What is in a package
//! follows from the source and the programs alone: no path, user or clock of the machine that builds it. Installing is
//! the package manager's work; nothing here touches the system.

pub mod deb;
pub mod folder;
pub mod man;
pub mod notices;
pub mod oci;
pub mod shipped;
pub mod stage;

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::run::say;
use crate::target_dir;
use shipped::Shipped;

/// Kinds of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `ferrite-etcd_<version>_<architecture>.deb`.
    Deb,
    /// `ferrite-<version>-linux-<architecture>.tar.gz`.
    Tar,
    /// `ferrite-etcd-<version>-oci.tar`, and the image in the Docker engine of this machine.
    Image,
}

/// What to make packages of, and where to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A folder with `etcd`, `etcdctl` and `etcdutl`; built for release unless given.
    pub bin_dir: Option<PathBuf>,
    /// Programs that are built have the system's libraries linked in, and run on every Linux.
    pub linked_whole: bool,
    /// Where packages go; `target/package` unless given.
    pub out: Option<PathBuf>,
    /// The image's name; `ferrite-etcd:latest` unless given.
    pub tag: Option<String>,
}

impl Options {
    fn out(&self) -> PathBuf {
        self.out
            .clone()
            .unwrap_or_else(|| target_dir().join("package"))
    }
}

/// Makes these packages; their files, in the same order.
///
/// # Errors
/// The programs do not build, a tool is missing, or a file cannot be written.
pub fn make(kinds: &[Kind], options: &Options) -> Result<Vec<PathBuf>> {
    let out = options.out();
    // Cargo is run elsewhere.
    let out = std::path::absolute(&out).map_err(Error::io(out.display()))?;
    std::fs::create_dir_all(&out).map_err(Error::io(out.display()))?;
    let shipped = Shipped::of(options, &out)?;
    let mut made = Vec::new();
    for kind in kinds {
        let file = match kind {
            Kind::Deb => deb::make(&shipped, &out)?,
            Kind::Tar => folder::make(&shipped, &out)?,
            Kind::Image => oci::make(&shipped, &out, options.tag.as_deref())?,
        };
        say(&format!("made {}", file.display()));
        made.push(file);
    }
    Ok(made)
}
