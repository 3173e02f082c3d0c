//! The Debian package, without Debian's helpers: two tars and a version in an `ar` file.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::shipped::{Shipped, output};
use super::stage::{Places, Stage};
use crate::error::{Error, Result};
use crate::root;

/// The package's name. It takes the place of Debian's two packages of the original.
pub const NAME: &str = "ferrite-etcd";

const PLACES: Places = Places {
    bin: "usr/bin",
    doc: "usr/share/doc/ferrite-etcd",
    man: "usr/share/man",
    completions: [
        "usr/share/bash-completion/completions",
        "usr/share/zsh/vendor-completions",
        "usr/share/fish/vendor_completions.d",
    ],
    units: "lib/systemd/system",
};

const CONFFILE: &str = "etc/default/etcd";

/// Makes the package.
///
/// # Errors
/// A tool is missing, or a file cannot be written.
pub fn make(shipped: &Shipped, out: &Path) -> Result<PathBuf> {
    let architecture = Shipped::architecture();
    let version = format!("{}-1", shipped.version);
    let work = out.join("deb");
    let data = Stage::new(work.join("data"))?;
    data.fill(shipped, PLACES)?;
    data.copy("deploy/debian/etcd.default", CONFFILE, 0o644)?;
    let doc = PLACES.doc;
    data.copy(
        "deploy/debian/copyright",
        &format!("{doc}/copyright"),
        0o644,
    )?;
    let changes = root().join("CHANGELOG.md");
    let changes = std::fs::read(&changes).map_err(Error::io(changes.display()))?;
    data.put_gz(&format!("{doc}/changelog"), changes)?;
    let changes = changelog(&version, &maintainer(), shipped.date)?;
    data.put_gz(&format!("{doc}/changelog.Debian"), changes)?;

    let control = Stage::new(work.join("control"))?;
    let size = size(data.dir())?.div_ceil(1024);
    control.put(
        "control",
        0o644,
        fields(&version, architecture, shipped.glibc.as_deref(), size),
    )?;
    control.put("conffiles", 0o644, format!("/{CONFFILE}\n"))?;
    for script in ["postinst", "prerm", "postrm"] {
        control.copy(&format!("deploy/debian/{script}"), script, 0o755)?;
    }
    let mut sums = String::new();
    for file in files(data.dir())? {
        if file == CONFFILE {
            continue;
        }
        let mut md5sum = Command::new("md5sum");
        sums += &output(md5sum.arg(&file).current_dir(data.dir()))?;
    }
    control.put("md5sums", 0o644, sums)?;

    let mut archive = b"!<arch>\n".to_vec();
    member(&mut archive, "debian-binary", shipped.date, b"2.0\n");
    for (name, stage) in [("control.tar.gz", &control), ("data.tar.gz", &data)] {
        let tar = work.join(name);
        stage.pack(shipped.date, &tar)?;
        let bytes = std::fs::read(&tar).map_err(Error::io(tar.display()))?;
        member(&mut archive, name, shipped.date, &bytes);
    }
    let file = out.join(format!("{NAME}_{version}_{architecture}.deb"));
    std::fs::write(&file, archive).map_err(Error::io(file.display()))?;
    std::fs::remove_dir_all(&work).map_err(Error::io(work.display()))?;
    Ok(file)
}

/// Adds a file to an `ar` archive: a header of 60 characters, and the bytes, filled up to an even number.
fn member(archive: &mut Vec<u8>, name: &str, date: u64, bytes: &[u8]) {
    let header = format!(
        "{name:<16}{date:<12}{:<6}{:<6}{:<8}{:<10}`\n",
        0,
        0,
        "100644",
        bytes.len()
    );
    assert_eq!(header.len(), 60, "an ar header: {header:?}");
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(bytes);
    if bytes.len() % 2 == 1 {
        archive.push(b'\n');
    }
}

fn fields(version: &str, architecture: &str, glibc: Option<&str>, kib: u64) -> String {
    let libraries = glibc.map_or_else(String::new, |glibc| {
        format!(", libc6 (>= {glibc}), libgcc-s1")
    });
    format!(
        "Package: {NAME}\n\
         Version: {version}\n\
         Architecture: {architecture}\n\
         Maintainer: {}\n\
         Installed-Size: {kib}\n\
         Depends: adduser{libraries}\n\
         Provides: etcd, etcd-client, etcd-server\n\
         Conflicts: etcd, etcd-client, etcd-server\n\
         Replaces: etcd, etcd-client, etcd-server\n\
         Section: net\n\
         Priority: optional\n\
         Description: replicated key-value store, etcd rebuilt in Rust\n \
         Ferrite keeps the small, precious data of a distributed system on several\n \
         machines, so that it survives the loss of some of them. Seen from outside it\n \
         is etcd 3.7: clients, members and data folders of etcd fit.\n \
         .\n \
         This package has the server, etcdctl and etcdutl. It takes the place of the\n \
         packages etcd-server and etcd-client, and opens the data folder of the former.\n",
        maintainer()
    )
}

/// Who packs, by the variables that Debian's own tools look at.
fn maintainer() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("DEBFULLNAME"), variable("DEBEMAIL")) {
        (Some(name), Some(email)) => format!("{name} <{email}>"),
        _ => "The authors of Ferrite <nobody@ferrite.invalid>".to_owned(),
    }
}

fn changelog(version: &str, maintainer: &str, date: u64) -> Result<String> {
    let mut command = Command::new("date");
    command
        .args(["--utc", "--rfc-email", "--date"])
        .arg(format!("@{date}"))
        .env("LC_ALL", "C");
    let date = output(&mut command)?;
    let mut text = Vec::new();
    // Writing to a vector cannot fail.
    let _ = write!(
        text,
        "{NAME} ({version}) unstable; urgency=medium\n\n  * What changed is in changelog.gz.\n\n -- {maintainer}  {}\n",
        date.trim()
    );
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Every file below, by its path from there, in order.
fn files(dir: &Path) -> Result<Vec<String>> {
    let mut find = Command::new("find");
    find.args([".", "-type", "f", "-printf", "%P\\n"]);
    let found = output(find.current_dir(dir))?;
    let mut found: Vec<String> = found.lines().map(str::to_owned).collect();
    found.sort();
    Ok(found)
}

fn size(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for file in files(dir)? {
        let path = dir.join(file);
        sum += std::fs::metadata(&path)
            .map_err(Error::io(path.display()))?
            .len();
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::member;

    #[test]
    fn members_begin_at_even_places() {
        let mut archive = Vec::new();
        member(&mut archive, "debian-binary", 7, b"odd");
        assert_eq!(archive.len(), 64);
        assert_eq!(
            String::from_utf8_lossy(&archive),
            "debian-binary   7           0     0     100644  3         `\nodd\n"
        );
    }
}
