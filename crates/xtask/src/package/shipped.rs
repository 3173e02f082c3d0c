//! The programs that go into packages: built without a trace of this machine, without symbols, and looked through.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Options;
use crate::error::{Error, Result};
use crate::run::{answers, cargo, say, shown};
use crate::{root, setup, target_dir};

/// Their names.
pub const PROGRAMS: [&str; 3] = ["etcd", "etcdctl", "etcdutl"];
/// Their cargo packages.
const CRATES: [&str; 3] = ["ferrite-server", "ferrite-ctl", "ferrite-utl"];

/// The programs, ready to be packed.
#[derive(Debug, Clone)]
pub struct Shipped {
    /// The folder with the three programs.
    pub dir: PathBuf,
    /// Ferrite's version.
    pub version: String,
    /// The oldest glibc they run with, as `2.34`; `None` when they need no library of the system.
    pub glibc: Option<String>,
    /// Seconds since 1970 that every file in a package says it is from.
    pub date: u64,
}

impl Shipped {
    /// Takes the programs from where the options say, or builds them.
    ///
    /// # Errors
    /// They do not build or are not there, or the tools of a C compiler are missing.
    pub fn of(options: &Options, out: &Path) -> Result<Self> {
        let from = match &options.bin_dir {
            Some(dir) => dir.clone(),
            None => build(options.linked_whole)?,
        };
        if !answers("strip", &["--version"]) || !answers("readelf", &["--version"]) {
            setup::packages(&["binutils"])?;
        }
        let dir = out.join("programs");
        std::fs::create_dir_all(&dir).map_err(Error::io(dir.display()))?;
        for program in PROGRAMS {
            let (from, to) = (from.join(program), dir.join(program));
            if !from.is_file() {
                return Err(Error::told(format!("no program {}", from.display())));
            }
            let mut strip = Command::new("strip");
            strip.args(["--strip-unneeded", "-o"]).arg(&to).arg(&from);
            output(&mut strip)?;
            for trace in traces() {
                if !contains(&to, trace.as_bytes())? {
                    continue;
                }
                let words = format!("{program} has the path {trace} of this machine in it");
                match options.bin_dir {
                    Some(_) => say(&format!(
                        "{words}: leave --bin-dir away to have it built without"
                    )),
                    None => return Err(Error::told(words)),
                }
            }
        }
        Ok(Self {
            glibc: glibc(&dir)?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            date: date()?,
            dir,
        })
    }

    /// What a program prints for these words.
    ///
    /// # Errors
    /// It does not run here, or fails.
    pub fn says(&self, program: &str, words: &[&str]) -> Result<String> {
        output(Command::new(self.dir.join(program)).args(words))
    }

    /// Debian's name for this machine's kind.
    #[must_use]
    pub fn architecture() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }
}

/// Builds for release, with the system's libraries linked in if `whole`; paths of this machine that the compilers would
/// write down are replaced.
fn build(whole: bool) -> Result<PathBuf> {
    let dir = target_dir().join("package-build");
    let mut rust: Vec<String> = std::env::var("RUSTFLAGS")
        .map(|flags| flags.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default();
    let mut c = std::env::var("CFLAGS").unwrap_or_default();
    for (path, name) in [(cargo_home(), "/cargo"), (root(), "/ferrite")] {
        rust.push(format!("--remap-path-prefix={}={name}", path.display()));
        c.push_str(&format!(" -ffile-prefix-map={}={name}", path.display()));
    }
    let mut build = cargo();
    let mut programs = dir.clone();
    if whole {
        // What runs while building is loaded into the compiler, which needs shared libraries: named apart, the
        // target is the programs alone.
        let target = host()?;
        rust.push("-Ctarget-feature=+crt-static".to_owned());
        build.env("CARGO_BUILD_TARGET", &target);
        programs.push(target);
    }
    build
        .args(["build", "--release", "--locked", "--bins", "--target-dir"])
        .arg(&dir)
        // Between its words stands a byte that no path has.
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\x1f"))
        .env("CFLAGS", c);
    for package in CRATES {
        build.args(["--package", package]);
    }
    shown(&mut build)?;
    Ok(programs.join("release"))
}

/// What the compiler calls this machine's kind.
fn host() -> Result<String> {
    let said = output(Command::new("rustc").arg("-vV"))?;
    said.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| Error::told(format!("rustc -vV names no host: {said}")))
}

fn cargo_home() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .unwrap_or_else(|| ".cargo".into())
}

/// What must not stand in a program.
fn traces() -> [String; 2] {
    [cargo_home(), root()].map(|path| format!("{}/", path.display()))
}

fn contains(file: &Path, words: &[u8]) -> Result<bool> {
    let bytes = std::fs::read(file).map_err(Error::io(file.display()))?;
    Ok(bytes.windows(words.len()).any(|window| window == words))
}

/// The newest version of glibc's symbols that one of the programs asks for, if any asks for a library.
fn glibc(dir: &Path) -> Result<Option<String>> {
    let mut newest = (0, 0);
    let mut needed = Vec::new();
    for program in PROGRAMS {
        let asked = |what: &str| output(Command::new("readelf").arg(what).arg(dir.join(program)));
        newest = newest.max(newest_glibc(&asked("--version-info")?));
        needed.extend(libraries(&asked("--dynamic")?));
    }
    match (newest, needed.as_slice()) {
        (_, []) => Ok(None),
        ((0, 0), [library, ..]) => Err(Error::told(format!(
            "the programs ask for {library}, and for no glibc"
        ))),
        ((major, minor), _) => Ok(Some(format!("{major}.{minor}"))),
    }
}

/// The shared libraries in what `readelf --dynamic` prints.
fn libraries(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| Some(line.split_once('[')?.1.trim_end_matches(']').to_owned()))
        .collect()
}

fn newest_glibc(text: &str) -> (u32, u32) {
    text.split("GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
            let mut parts = rest[..end.unwrap_or(rest.len())].split('.');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        })
        .max()
        .unwrap_or_default()
}

/// The date of what is packed: what `SOURCE_DATE_EPOCH` says, else that of the last commit.
fn date() -> Result<u64> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        let number = given.parse();
        return number.map_err(|_| Error::told(format!("SOURCE_DATE_EPOCH is {given:?}")));
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(root());
    let said = output(&mut git).unwrap_or_default();
    // Out of a folder without history, the day of the first version will do.
    Ok(said.trim().parse().unwrap_or(1_764_288_000))
}

/// Runs a tool that prints what is wanted.
///
/// # Errors
/// It is not there, or fails; the error has what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let line = crate::run::line_of(command);
    let ended = command
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io(format!("cannot run {line}")))?;
    if !ended.status.success() {
        let why = String::from_utf8_lossy(&ended.stderr);
        return Err(Error::told(format!(
            "{line}: {}: {}",
            ended.status,
            why.trim()
        )));
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{libraries, newest_glibc};

    #[test]
    fn what_needs_no_library_is_told_by_its_dynamic_section() {
        let shared = " 0x01 (NEEDED)  Shared library: [libm.so.6]\n 0x01 (NEEDED)  Shared library: [libc.so.6]\n 0x0c (INIT) 0x5000\n";
        assert_eq!(libraries(shared), ["libm.so.6", "libc.so.6"]);
        assert!(libraries(" 0x0c (INIT) 0x5000\n").is_empty());
    }

    #[test]
    fn versions_are_numbers_and_not_texts() {
        let text = "0x0010: Name: GLIBC_2.4  Flags: none\n Name: GLIBC_2.34\n Name: GLIBC_2.2.5\n(GLIBC_PRIVATE)";
        assert_eq!(newest_glibc(text), (2, 34));
        assert_eq!(newest_glibc("Name: GCC_3.0"), (0, 0));
    }
}
