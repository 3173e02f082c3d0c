//! The container image out of programs built here, on a base image that is pulled where a registry is reached,
//! and else made with debootstrap.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::binaries::PROGRAMS;
use crate::error::{Error, Result};
use crate::report::say;
use crate::{docker, run, sys};

/// The base image where a registry is reached; the Dockerfile's default.
const PULLED_BASE: &str = "debian:bookworm-slim";
/// The base image made here.
const OWN_BASE: &str = "ferrite-base:bookworm";
const SUITE: &str = "bookworm";

/// For one step of a build (a download included).
const STEP_LIMIT: Duration = Duration::from_secs(1800);

/// What `ferrite-dev image` was asked for.
#[derive(Debug)]
pub struct Options {
    /// The root of the source tree.
    pub root: PathBuf,
    /// The folder with the programs.
    pub programs: PathBuf,
    /// The image's name.
    pub tag: String,
    /// The base image, when the user names one.
    pub base: Option<String>,
    /// The Debian mirror for debootstrap, when the user names one.
    pub mirror: Option<String>,
}

/// Builds the image.
///
/// # Errors
/// No Docker engine, no base image to be had, or the build fails.
pub fn build(options: &Options) -> Result<()> {
    docker::engine()?;
    let base = match &options.base {
        Some(base) => base.clone(),
        None => base(&options.root, options.mirror.as_deref())?,
    };
    let context = options.root.join("target/image");
    std::fs::create_dir_all(&context).map_err(Error::io(context.display()))?;
    for program in PROGRAMS {
        let from = options.programs.join(program);
        let to = context.join(program);
        // A running program cannot be written to, but it can be replaced.
        let _ = std::fs::remove_file(&to);
        std::fs::copy(&from, &to).map_err(Error::io(format!("copying {}", from.display())))?;
    }
    say(&format!(
        "building {} on {base} with the programs of {}",
        options.tag,
        options.programs.display()
    ));
    let mut command = Command::new("docker");
    command
        .arg("build")
        .args(["--build-arg", &format!("BUILDER={base}")])
        .args(["--build-arg", &format!("BASE={base}")])
        .args(["--build-arg", "BINARIES=prebuilt"])
        .args(["--tag", &options.tag])
        .arg(&options.root);
    run::run_visibly(&mut command, STEP_LIMIT)
}

/// The image has that name here.
pub fn exists(image: &str) -> bool {
    run::answers("docker", &["image", "inspect", image])
}

/// The name of an image with a Debian in it and nothing else: one that is here, can be pulled, or is made now.
///
/// # Errors
/// None of that: no registry is reached, and debootstrap is not there or may not run.
pub fn base(root: &Path, mirror: Option<&str>) -> Result<String> {
    for image in [PULLED_BASE, OWN_BASE] {
        if exists(image) {
            return Ok(image.to_owned());
        }
    }
    say(&format!("pulling {PULLED_BASE} …"));
    let pulled = run::run(
        Command::new("docker").args(["pull", PULLED_BASE]),
        Duration::from_secs(180),
    )?;
    if pulled.ok {
        return Ok(PULLED_BASE.to_owned());
    }
    say("no image registry is reached; making a base image with debootstrap");
    make_base(root, mirror)?;
    Ok(OWN_BASE.to_owned())
}

fn make_base(root: &Path, mirror: Option<&str>) -> Result<()> {
    let dir = root.join("target/image-base");
    let tar = dir.join(format!("{SUITE}.tar"));
    if !tar.is_file() {
        std::fs::create_dir_all(&dir).map_err(Error::io(dir.display()))?;
        debootstrap(&dir.join(SUITE), &tar, mirror)?;
    }
    let mut import = Command::new("docker");
    import
        .args(["import", "--change", "CMD [\"/bin/sh\"]", "--change"])
        .arg("ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .arg(&tar)
        .arg(OWN_BASE);
    run::must(&mut import, STEP_LIMIT)?;
    say(&format!("imported {OWN_BASE}"));
    Ok(())
}

fn debootstrap(tree: &Path, tar: &Path, mirror: Option<&str>) -> Result<()> {
    if !sys::is_root() {
        return Err(Error::told(
            "debootstrap needs root: run this as root once, or name a base image that is here with --base",
        ));
    }
    if !run::answers("debootstrap", &["--version"]) {
        say("installing debootstrap (apt-get install debootstrap) …");
        let mut install = Command::new("apt-get");
        install
            .args(["install", "--yes", "--no-install-recommends", "debootstrap"])
            .stdout(Stdio::null());
        run::run_visibly(&mut install, STEP_LIMIT).map_err(|why| {
            Error::told(format!(
                "{why}. Install debootstrap by hand, or name a base image with --base"
            ))
        })?;
    }
    // What an interrupted run left is not to be trusted.
    if tree.exists() {
        std::fs::remove_dir_all(tree).map_err(Error::io(tree.display()))?;
    }
    let mirror = mirror.map(str::to_owned).or_else(apt_mirror);
    let mut command = Command::new("debootstrap");
    command
        .args(["--variant=minbase", SUITE])
        .arg(tree)
        .args(&mirror);
    command.stdout(Stdio::null());
    run::run_visibly(&mut command, STEP_LIMIT)?;
    let part = tar.with_extension("tar.part");
    let mut pack = Command::new("tar");
    pack.arg("--directory")
        .arg(tree)
        .args([
            "--exclude=./var/cache/apt/archives/*.deb",
            "--exclude=./var/lib/apt/lists/*",
        ])
        .args([
            "--exclude=./dev/*",
            "--exclude=./proc/*",
            "--exclude=./sys/*",
        ])
        .arg("--create")
        .arg("--file")
        .arg(&part)
        .arg(".");
    run::run_visibly(&mut pack, STEP_LIMIT)?;
    std::fs::rename(&part, tar).map_err(Error::io(tar.display()))?;
    std::fs::remove_dir_all(tree).map_err(Error::io(tree.display()))
}

/// The Debian mirror that this machine's apt uses, if it uses one.
fn apt_mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .find_map(|text| debian_mirror(&text))
}

/// The first Debian mirror in an apt source file, of either form.
fn debian_mirror(text: &str) -> Option<String> {
    text.lines()
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(str::split_whitespace)
        .find(|word| {
            let path = word.trim_end_matches('/');
            path.contains("://") && path.ends_with("/debian")
        })
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_both_forms() {
        let new = "Types: deb\n# URIs: http://old.example/debian\nURIs: http://a.example/debian\nSuites: bookworm\n";
        assert_eq!(
            debian_mirror(new).as_deref(),
            Some("http://a.example/debian")
        );
        let old = "# deb http://no.example/debian x\ndeb [arch=amd64] http://b.example/debian/ bookworm main\n";
        assert_eq!(
            debian_mirror(old).as_deref(),
            Some("http://b.example/debian/")
        );
        assert_eq!(
            debian_mirror("deb http://c.example/ubuntu jammy main\n"),
            None
        );
        assert_eq!(
            debian_mirror("URIs: http://d.example/debian-security\n"),
            None
        );
    }
}
