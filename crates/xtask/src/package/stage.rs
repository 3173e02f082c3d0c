//! A folder that becomes a package: files with the modes they are to have, packed with one owner and one date.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::shipped::{PROGRAMS, Shipped, output};
use super::{man, notices};
use crate::error::{Error, Result};
use crate::root;

/// A folder to be packed.
#[derive(Debug)]
pub struct Stage {
    dir: PathBuf,
}

/// Where each kind of file goes, from the package's root.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// Programs.
    pub bin: &'static str,
    /// Documents.
    pub doc: &'static str,
    /// Pages for `man`, below which is `man1`.
    pub man: &'static str,
    /// Completions for bash, zsh and fish.
    pub completions: [&'static str; 3],
    /// Units of systemd.
    pub units: &'static str,
}

impl Stage {
    /// An empty folder; what was there is removed.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(dir: PathBuf) -> Result<Self> {
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(Error::io(dir.display()))?;
        }
        let stage = Self { dir };
        stage.folder(&stage.dir)?;
        Ok(stage)
    }

    /// A folder that holds others, as it is.
    #[must_use]
    pub fn around(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn folder(&self, path: &Path) -> Result<()> {
        std::fs::create_dir_all(path).map_err(Error::io(path.display()))?;
        // Whatever this machine's mask says.
        for folder in path
            .ancestors()
            .take_while(|path| path.starts_with(&self.dir))
        {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder, mode).map_err(Error::io(folder.display()))?;
        }
        Ok(())
    }

    /// Writes a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, path: &str, mode: u32, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = self.dir.join(path);
        self.folder(path.parent().unwrap_or(&self.dir))?;
        std::fs::write(&path, bytes).map_err(Error::io(path.display()))?;
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).map_err(Error::io(path.display()))
    }

    /// Writes a file compressed, without a name and a date in it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put_gz(&self, path: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.put(path, 0o644, bytes)?;
        let file = self.dir.join(path);
        output(
            Command::new("gzip")
                .args(["--best", "--no-name", "--force"])
                .arg(file),
        )
        .map(drop)
    }

    /// Copies a file of the source tree.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn copy(&self, source: &str, path: &str, mode: u32) -> Result<()> {
        let from = root().join(source);
        let bytes = std::fs::read(&from).map_err(Error::io(from.display()))?;
        self.put(path, mode, bytes)
    }

    /// All that is in every package.
    ///
    /// # Errors
    /// A program does not say what is asked of it, or a file cannot be read or written.
    pub fn fill(&self, shipped: &Shipped, places: Places) -> Result<()> {
        for program in PROGRAMS {
            let from = shipped.dir.join(program);
            let bytes = std::fs::read(&from).map_err(Error::io(from.display()))?;
            self.put(&format!("{}/{program}", places.bin), 0o755, bytes)?;
            let page = man::page(shipped, program)?;
            self.put_gz(&format!("{}/man1/{program}.1", places.man), page)?;
        }
        let [bash, zsh, fish] = places.completions;
        for program in ["etcdctl", "etcdutl"] {
            for (shell, path) in [
                ("bash", format!("{bash}/{program}")),
                ("zsh", format!("{zsh}/_{program}")),
                ("fish", format!("{fish}/{program}.fish")),
            ] {
                self.put(&path, 0o644, shipped.says(program, &["completion", shell])?)?;
            }
        }
        for unit in ["etcd.service", "etcd-backup.service", "etcd-backup.timer"] {
            let source = format!("deploy/systemd/{unit}");
            self.copy(&source, &format!("{}/{unit}", places.units), 0o644)?;
        }
        let doc = places.doc;
        for page in documents()? {
            self.copy(&page, &format!("{doc}/{page}"), 0o644)?;
        }
        self.put_gz(&format!("{doc}/third-party.txt"), notices::text()?)
    }

    /// Packs everything below into a tar whose bytes follow from the files alone.
    ///
    /// # Errors
    /// `tar` or `gzip` fails.
    pub fn pack(&self, date: u64, to: &Path) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--format=gnu", "--sort=name", "--numeric-owner"])
            .args(["--owner=0", "--group=0"])
            .arg(format!("--mtime=@{date}"))
            .args(["--use-compress-program", "gzip --best --no-name"])
            .arg("--file")
            .arg(to)
            .arg("--directory")
            .arg(&self.dir)
            .arg(".");
        output(&mut tar).map(drop)
    }
}

/// The documents of the source tree that whoever runs a member may want.
fn documents() -> Result<Vec<String>> {
    let mut found = vec!["README.md".to_owned(), "README.ru.md".to_owned()];
    let mut folders = vec!["docs".to_owned(), "deploy/kubernetes".to_owned()];
    while let Some(folder) = folders.pop() {
        let path = root().join(&folder);
        for entry in std::fs::read_dir(&path).map_err(Error::io(path.display()))? {
            let entry = entry.map_err(Error::io(path.display()))?;
            let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
            match entry.path().is_dir() {
                true => folders.push(name),
                false => found.push(name),
            }
        }
    }
    found.sort();
    Ok(found)
}
