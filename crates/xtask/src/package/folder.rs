//! One folder in a tar, for machines without a package manager of Debian's: programs, pages, completions, units.

use std::path::{Path, PathBuf};

use super::shipped::Shipped;
use super::stage::{Places, Stage};
use crate::error::{Error, Result};

/// Makes the file.
///
/// # Errors
/// A tool is missing, or a file cannot be written.
pub fn make(shipped: &Shipped, out: &Path) -> Result<PathBuf> {
    let name = format!(
        "ferrite-{}-linux-{}",
        shipped.version,
        Shipped::architecture()
    );
    let work = out.join("tar");
    let stage = Stage::new(work.join(&name))?;
    stage.fill(
        shipped,
        Places {
            bin: "bin",
            doc: "doc",
            man: "share/man",
            completions: [
                "share/bash-completion/completions",
                "share/zsh/site-functions",
                "share/fish/vendor_completions.d",
            ],
            units: "systemd",
        },
    )?;
    stage.copy("deploy/debian/etcd.default", "systemd/etcd.default", 0o644)?;
    stage.copy("LICENSE", "LICENSE", 0o644)?;
    stage.copy("CHANGELOG.md", "CHANGELOG.md", 0o644)?;
    let needs = (shipped.glibc.as_deref())
        .map_or_else(String::new, |glibc| format!(" with glibc {glibc} or newer"));
    stage.put(
        "INSTALL",
        0o644,
        format!(
            "The programs need Linux{needs}, and nothing else.\n\n\
             \x20   install -m 0755 bin/* /usr/bin/\n\
             \x20   useradd --system --home-dir /var/lib/etcd --no-create-home --user-group etcd\n\
             \x20   install -m 0644 systemd/etcd.service /etc/systemd/system/\n\
             \x20   install -m 0644 systemd/etcd.default /etc/default/etcd\n\
             \x20   systemctl daemon-reload\n\n\
             Then say in /etc/default/etcd who the member is, and: systemctl enable --now etcd\n\
             The guides are in doc/docs, operations.md first.\n",
        ),
    )?;
    // The tar has the folder in it, not its contents alone.
    let parent = Stage::around(work.clone());
    let file = out.join(format!("{name}.tar.gz"));
    parent.pack(shipped.date, &file)?;
    std::fs::remove_dir_all(&work).map_err(Error::io(work.display()))?;
    Ok(file)
}
