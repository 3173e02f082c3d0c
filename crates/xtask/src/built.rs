//! The test programs of the workspace: built by one `cargo test --no-run`, then run one after the other.
//!
//! They are run by us and not by cargo, so that it is known which program a failed test belongs to, and
//! the test can be run again without anything being built again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::root;
use crate::run::{cargo, line_of, say};

/// A test program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// The file of its `main` or its library's root, from the root of the tree: its name for people.
    pub source: PathBuf,
    /// The folder of its package: where it is run, as cargo does.
    pub package: PathBuf,
    /// What is started.
    pub executable: PathBuf,
}

impl Program {
    /// The command that runs it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.package)
            .env("CARGO_MANIFEST_DIR", &self.package);
        command
    }
}

/// Builds every test program of the workspace.
///
/// # Errors
/// Something does not compile; the compiler has said what.
pub fn build() -> Result<Vec<Program>> {
    let mut command = cargo();
    command
        .args(["test", "--locked", "--workspace", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"]);
    let line = line_of(&command);
    say(&line);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Error::io(format!("cannot run {line}")))?;
    if !output.status.success() {
        return Err(Error::told(format!("{line}: {}", output.status)));
    }
    let found = programs(&String::from_utf8_lossy(&output.stdout), &root());
    match found.is_empty() {
        true => Err(Error::told(format!("{line}: names no test program"))),
        false => Ok(found),
    }
}

/// The test programs among what cargo says it has built, one JSON object a line, in a steady order.
fn programs(messages: &str, root: &Path) -> Vec<Program> {
    let mut found: Vec<Program> = messages
        .lines()
        .filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
                return None;
            }
            let path = |value: &serde_json::Value| value.as_str().map(PathBuf::from);
            let source = path(&message["target"]["src_path"])?;
            Some(Program {
                source: source.strip_prefix(root).unwrap_or(&source).to_owned(),
                package: path(&message["manifest_path"])?.parent()?.to_owned(),
                executable: path(&message["executable"])?,
            })
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_what_else_is_built() {
        let artifact = |source: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/tree/crates/one/Cargo.toml","target":{{"src_path":"/tree/crates/one/{source}"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let messages = [
            artifact("tests/b.rs", true, r#""/out/b-1""#),
            artifact("src/lib.rs", false, "null"),
            artifact("src/main.rs", false, r#""/out/one""#),
            "not JSON".to_owned(),
            artifact("src/lib.rs", true, r#""/out/one-2""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let found = programs(&messages.join("\n"), Path::new("/tree"));
        let program = |source: &str, executable: &str| Program {
            source: Path::new("crates/one").join(source),
            package: "/tree/crates/one".into(),
            executable: executable.into(),
        };
        assert_eq!(
            found,
            [
                program("src/lib.rs", "/out/one-2"),
                program("tests/b.rs", "/out/b-1")
            ]
        );
    }
}
