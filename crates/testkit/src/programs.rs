//! Where the programs under test are.

use std::path::{Path, PathBuf};

/// Whose server a member runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Ferrite's.
    Ferrite,
    /// The original's, version 3.5.1, from the folder that `ETCD_ORACLE_DIR` names.
    Etcd351,
    /// The original's, version 3.4, as Debian packages it: the program that `ETCD_34` names, or
    /// the `etcd` of `/usr/bin`. A test that needs it asks [`etcd34`] first.
    Etcd34,
}

impl Kind {
    /// The path of this kind's `etcd`.
    ///
    /// # Panics
    /// If it is not there; a test that needs the oracle asks [`oracle`] first.
    #[must_use]
    pub fn server(self) -> PathBuf {
        match self {
            Self::Ferrite => our_program("etcd"),
            Self::Etcd351 => Path::new(
                &std::env::var_os("ETCD_ORACLE_DIR").expect("ETCD_ORACLE_DIR names the oracle"),
            )
            .join("etcd"),
            Self::Etcd34 => std::env::var_os("ETCD_34")
                .map_or_else(|| PathBuf::from("/usr/bin/etcd"), PathBuf::from),
        }
    }
}

/// The folder of the original's programs (`etcd`, `etcdctl`, `etcdutl`), or `None` after printing
/// that the test is skipped.
///
/// # Panics
/// In CI, where nothing is skipped.
#[must_use]
pub fn oracle() -> Option<PathBuf> {
    match std::env::var_os("ETCD_ORACLE_DIR") {
        Some(dir) => Some(dir.into()),
        None => {
            assert!(
                std::env::var_os("CI").is_none(),
                "ETCD_ORACLE_DIR must name the folder of etcd 3.5.1's programs in CI"
            );
            eprintln!("SKIPPED: ETCD_ORACLE_DIR is not set");
            None
        }
    }
}

/// The original's `etcd` 3.4 that `ETCD_34` names, or `None` after printing that the test is skipped: not every
/// distribution has it any more.
#[must_use]
pub fn etcd34() -> Option<PathBuf> {
    let given = std::env::var_os("ETCD_34").filter(|given| !given.is_empty());
    if given.is_none() {
        eprintln!("SKIPPED: ETCD_34 is not set, which names etcd 3.4");
    }
    given.map(PathBuf::from)
}

/// One of our programs: from `FERRITE_BIN_DIR`, else from the folder that the test was built into.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn our_program(name: &str) -> PathBuf {
    let dir = match std::env::var_os("FERRITE_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe().expect("a program knows its own path");
            // target/<profile>/deps/<test>, or target/<profile>/<program>
            let up = match own.parent().is_some_and(|dir| dir.ends_with("deps")) {
                true => 2,
                false => 1,
            };
            own.ancestors()
                .nth(up)
                .expect("it lies in target/<profile>")
                .to_owned()
        }
    };
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is not there: build it first (cargo build -p ferrite-server -p ferrite-ctl -p ferrite-utl), \
         or name the folder of the programs in FERRITE_BIN_DIR",
        path.display()
    );
    path
}
