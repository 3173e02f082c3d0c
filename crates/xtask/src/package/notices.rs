//! The licences of the libraries that are linked into the programs, as their authors want them to go along.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use super::shipped::output;
use crate::error::{Error, Result};
use crate::run::cargo;

/// All of them: which library has which licence, then every text once, with the libraries it came with.
///
/// # Errors
/// Cargo does not tell what is linked in, or where it lies.
pub fn text() -> Result<String> {
    let linked = linked()?;
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)
        .map_err(|why| Error::told(format!("cargo metadata: {why}")))?;
    let mut list = String::new();
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let none = Vec::new();
    for package in metadata["packages"].as_array().unwrap_or(&none) {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let name = format!("{} {}", field("name"), field("version"));
        // Ours have no source.
        if package["source"].is_null() || !linked.contains(&name) {
            continue;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(list, "{name}: {}", field("license"));
        let Some(folder) = Path::new(field("manifest_path")).parent() else {
            continue;
        };
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().to_uppercase();
            let about = ["LICEN", "COPYING", "NOTICE", "UNLICENSE"];
            if !about.iter().any(|start| file.starts_with(start)) {
                continue;
            }
            // One that is a folder, or no text, has its name in the list all the same.
            if let Ok(text) = std::fs::read_to_string(entry.path()) {
                let text = text.replace("\r\n", "\n").trim_end().to_owned();
                texts.entry(text).or_default().insert(name.clone());
            }
        }
    }
    if list.is_empty() {
        return Err(Error::told(
            "cargo metadata names no library that is linked in",
        ));
    }
    let mut all = format!("Libraries that are linked into the programs\n\n{list}");
    for (text, libraries) in texts {
        let libraries: Vec<String> = libraries.into_iter().collect();
        let _ = write!(
            all,
            "\n{}\n{}\n\n{text}\n",
            "=".repeat(78),
            libraries.join(", ")
        );
    }
    Ok(all)
}

/// Name and version of what the programs are linked of.
fn linked() -> Result<BTreeSet<String>> {
    let mut tree = cargo();
    tree.args([
        "tree",
        "--locked",
        "--edges=normal",
        "--prefix=none",
        "--format={p}",
    ]);
    for package in ["ferrite-server", "ferrite-ctl", "ferrite-utl"] {
        tree.args(["--package", package]);
    }
    Ok(output(&mut tree)?
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (name, version) = (words.next()?, words.next()?);
            Some(format!("{name} {}", version.strip_prefix('v')?))
        })
        .collect())
}
