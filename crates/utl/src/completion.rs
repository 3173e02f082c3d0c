//! `completion`: scripts that complete commands and flags.

use ferrite_cli::completion::{Place, script};
use ferrite_cli::{gofmt, report};

use crate::commands::{COMMANDS, Command, GLOBAL};
use crate::error::{ERROR, Failure};

/// Prints the script for the shell named.
///
/// # Errors
/// Not exactly one shell, or one that there is no script for.
pub fn print(words: &[Vec<u8>]) -> Result<(), Failure> {
    let [shell] = words else {
        return Err(Failure::new(
            ERROR,
            format!("accepts 1 arg(s), received {}", words.len()),
        ));
    };
    let script = script("etcdutl", shell, &places()).ok_or_else(|| {
        Failure::new(
            ERROR,
            format!(
                "invalid argument {} for \"etcdutl completion\"",
                gofmt::quote(shell)
            ),
        )
    })?;
    report::out(script.as_bytes());
    Ok(())
}

/// Every command with the words before it, the program itself first.
fn places() -> Vec<Place> {
    fn visit(
        path: &str,
        children: &'static [Command],
        own: &'static [ferrite_cli::flags::Flag],
        out: &mut Vec<Place>,
    ) {
        out.push(Place {
            path: path.to_owned(),
            children: children.iter().map(|c| (c.name, c.help)).collect(),
            flags: own.iter().chain(&GLOBAL).map(|f| f.name).collect(),
        });
        for child in children {
            let path = format!("{path} {}", child.name);
            visit(path.trim_start(), child.children, child.flags, out);
        }
    }
    let mut out = Vec::new();
    visit("", &COMMANDS, &[], &mut out);
    out
}
