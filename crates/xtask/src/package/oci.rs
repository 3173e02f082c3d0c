//! The container image as a file in OCI's layout, for registries and engines other than this machine's.
//!
//! Docker builds the image and writes it in a form of its own; here its parts are named by their hashes.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::shipped::{Shipped, output};
use crate::error::{Error, Result};
use crate::run::{cargo, shown};

const IMAGE: &str = "ferrite-etcd:latest";

/// Builds the image out of the programs, and writes it to a file.
///
/// # Errors
/// No Docker engine answers, or the image cannot be built or written.
pub fn make(shipped: &Shipped, out: &Path, tag: Option<&str>) -> Result<PathBuf> {
    let tag = tag.unwrap_or(IMAGE);
    let mut build = cargo();
    build
        .args([
            "run",
            "--quiet",
            "--release",
            "--locked",
            "-p",
            "ferrite-dev",
            "--",
        ])
        .args(["image", "--tag", tag, "--bin-dir"])
        .arg(&shipped.dir);
    shown(&mut build)?;
    let file = out.join(format!("ferrite-etcd-{}-oci.tar", shipped.version));
    export(tag, &shipped.version, &out.join("oci"), &file)?;
    Ok(file)
}

/// Writes an image that the engine has to a file; `work` is a folder for what lies in between.
///
/// # Errors
/// The engine does not have it, or a file cannot be written.
pub fn export(image: &str, version: &str, work: &Path, file: &Path) -> Result<()> {
    if work.exists() {
        std::fs::remove_dir_all(work).map_err(Error::io(work.display()))?;
    }
    let (saved, layout) = (work.join("saved"), work.join("layout"));
    for dir in [&saved, &layout.join("blobs/sha256")] {
        std::fs::create_dir_all(dir).map_err(Error::io(dir.display()))?;
    }
    let tar = work.join("saved.tar");
    output(
        Command::new("docker")
            .args(["save", "--output"])
            .arg(&tar)
            .arg(image),
    )?;
    output(
        Command::new("tar")
            .arg("-xf")
            .arg(&tar)
            .arg("-C")
            .arg(&saved),
    )?;
    lay_out(&saved, &layout, version)?;
    let mut pack = Command::new("tar");
    pack.args(["--create", "--format=gnu", "--sort=name", "--numeric-owner"])
        .args(["--owner=0", "--group=0", "--mtime=@0", "--file"])
        .arg(file)
        .arg("--directory")
        .arg(&layout)
        .arg(".");
    output(&mut pack)?;
    std::fs::remove_dir_all(work).map_err(Error::io(work.display()))
}

fn read(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(Error::io(path.display()))?;
    serde_json::from_slice(&bytes).map_err(|why| Error::told(format!("{}: {why}", path.display())))
}

fn lay_out(saved: &Path, layout: &Path, version: &str) -> Result<()> {
    let list = read(&saved.join("manifest.json"))?;
    let image = &list[0];
    let told = |what: &str| Error::told(format!("docker save: no {what} in manifest.json"));
    let config_path = saved.join(image["Config"].as_str().ok_or_else(|| told("Config"))?);
    let config = read(&config_path)?;
    let mut layers = Vec::new();
    for layer in image["Layers"].as_array().ok_or_else(|| told("Layers"))? {
        let path = saved.join(layer.as_str().ok_or_else(|| told("path of a layer"))?);
        let mut gzip = Command::new("gzip");
        output(gzip.args(["--fast", "--no-name", "--force"]).arg(&path))?;
        let mut packed = path.into_os_string();
        packed.push(".gz");
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        layers.push(blob(Path::new(&packed), layout, kind)?);
    }
    let write = |path: PathBuf, value: &Value| {
        std::fs::write(&path, value.to_string()).map_err(Error::io(path.display()))
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(&config_path, layout, "application/vnd.oci.image.config.v1+json")?,
        "layers": layers,
    });
    let path = saved.join("oci-manifest.json");
    write(path.clone(), &manifest)?;
    let mut entry = blob(&path, layout, "application/vnd.oci.image.manifest.v1+json")?;
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": version });
    entry["platform"] = json!({ "os": config["os"], "architecture": config["architecture"] });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    write(layout.join("index.json"), &index)?;
    write(
        layout.join("oci-layout"),
        &json!({ "imageLayoutVersion": "1.0.0" }),
    )
}

/// Moves a file among the blobs, under its hash; what names it elsewhere.
fn blob(file: &Path, layout: &Path, kind: &str) -> Result<Value> {
    let sum = output(Command::new("sha256sum").arg(file))?;
    // A name with odd characters has a mark before its sum.
    let sum = sum.trim_start_matches('\\');
    let sum = sum.split(' ').next().unwrap_or_default();
    let size = std::fs::metadata(file)
        .map_err(Error::io(file.display()))?
        .len();
    let to = layout.join("blobs/sha256").join(sum);
    std::fs::rename(file, &to).map_err(Error::io(to.display()))?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{sum}"), "size": size }))
}
