//! `completion`: scripts that complete commands and flags.

use ferrite_cli::completion::{Place, script};
use ferrite_cli::flags::Flag;

use super::Words;
use crate::commands::{COMMANDS, Command, GLOBAL};
use crate::exit::{self, Failure};
use crate::gofmt::quote;
use crate::report;

/// Prints the script for the shell named.
pub fn print(words: &Words) -> Result<(), Failure> {
    let [shell] = words else {
        return Err(Failure::new(
            exit::ERROR,
            format!("accepts 1 arg(s), received {}", words.len()),
        ));
    };
    let script = script("etcdctl", shell, &places()).ok_or_else(|| {
        Failure::new(
            exit::ERROR,
            format!(
                "invalid argument {} for \"etcdctl completion\"",
                quote(shell)
            ),
        )
    })?;
    report::out(script.as_bytes());
    Ok(())
}

/// Every command with the words before it, the program itself first.
fn places() -> Vec<Place> {
    fn visit(path: &str, above: &[&'static Flag], command: &'static Command, out: &mut Vec<Place>) {
        let shared: Vec<&Flag> = above.iter().copied().chain(command.shared).collect();
        let path = format!("{path} {}", command.name);
        let path = path.trim_start();
        out.push(Place {
            path: path.to_owned(),
            children: names(command.children),
            flags: command
                .flags
                .iter()
                .chain(shared.iter().copied())
                .map(|f| f.name)
                .collect(),
        });
        for child in command.children {
            visit(path, &shared, child, out);
        }
    }
    let global: Vec<&Flag> = GLOBAL.iter().collect();
    let mut out = vec![Place {
        path: String::new(),
        children: names(&COMMANDS),
        flags: global.iter().map(|f| f.name).collect(),
    }];
    for command in &COMMANDS {
        visit("", &global, command, &mut out);
    }
    out
}

fn names(commands: &'static [Command]) -> Vec<(&'static str, &'static str)> {
    commands.iter().map(|c| (c.name, c.help)).collect()
}
