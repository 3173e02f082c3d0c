//! Help texts, made from the table of commands.

use crate::commands::{COMMANDS, Command, GLOBAL, Group};
use crate::examples::EXAMPLES;
use ferrite_cli::{examples, flags};

const POINTER: &str = "Use \"etcdctl options\" for a list of global command-line options (applies to all commands).\n";

/// The program's own page.
pub fn root() -> String {
    let mut text = String::from(
        "etcdctl - the command line client of etcd, by Ferrite\n\nUsage:\n  etcdctl [flags]\n  etcdctl [command]\n",
    );
    for group in Group::ALL {
        text.push_str(&format!("\n{}\n", group.title()));
        let commands: Vec<_> = COMMANDS.iter().filter(|c| c.group == group).collect();
        list(&mut text, &commands);
    }
    text.push_str("\nUse \"etcdctl [command] --help\" for more about a command.\n");
    text.push_str(POINTER);
    text
}

/// A command's page; `path` is the names of the command and those above it.
pub fn command(path: &[&'static Command]) -> String {
    let Some(command) = path.last() else {
        return root();
    };
    let mut names = String::from("etcdctl");
    for command in path {
        names.push(' ');
        names.push_str(command.name);
    }
    let mut text = format!("{}\n\nUsage:\n  {names} {}\n", command.help, command.usage);
    if !command.more.is_empty() {
        text.push_str(&format!("\n{}\n", command.more));
    }
    if !command.children.is_empty() {
        text.push_str("\nCommands:\n");
        let children: Vec<_> = command.children.iter().collect();
        list(&mut text, &children);
    }
    let words: Vec<&str> = path.iter().map(|c| c.name).collect();
    text.push_str(&examples::render(examples::of(EXAMPLES, &words.join(" "))));
    let own: Vec<_> = command
        .flags
        .iter()
        .chain(path.iter().flat_map(|c| c.shared))
        .collect();
    if !own.is_empty() {
        text.push_str("\nFlags:\n");
        text.push_str(&flags::help(&own));
    }
    text.push('\n');
    text.push_str(POINTER);
    text
}

/// The page of global flags.
pub fn options() -> String {
    let mut sorted: Vec<_> = GLOBAL.iter().collect();
    sorted.sort_by_key(|f| f.name);
    format!(
        "The following options can be passed to any command:\n\n{}",
        flags::help(&sorted)
    )
}

fn list(text: &mut String, commands: &[&'static Command]) {
    let width = commands.iter().map(|c| c.name.len()).max().unwrap_or(0);
    for command in commands {
        text.push_str(&format!("  {:width$}  {}\n", command.name, command.help));
    }
}
