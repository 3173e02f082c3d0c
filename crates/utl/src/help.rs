//! Help texts, made from the table of commands.

use ferrite_cli::examples;
use ferrite_cli::flags::{self, Flag};

use crate::commands::{COMMANDS, Command, GLOBAL};
use crate::examples::EXAMPLES;

/// The page of the program, or of the last command of `path`.
pub fn page(path: &[&'static Command]) -> String {
    let mut names = String::from("etcdutl");
    for command in path {
        names.push(' ');
        names.push_str(command.name);
    }
    let (mut text, children) = match path.last() {
        Some(command) => (
            format!("{}\n\nUsage:\n  {names} {}\n", command.help, command.usage),
            command.children,
        ),
        None => (
            format!(
                "etcdutl - administers etcd's files offline, by Ferrite\n\nUsage:\n  {names} [command]\n"
            ),
            &COMMANDS[..],
        ),
    };
    if !children.is_empty() {
        text.push_str("\nAvailable Commands:\n");
        let width = children.iter().map(|c| c.name.len()).max().unwrap_or(0);
        for child in children {
            text.push_str(&format!("  {:width$}  {}\n", child.name, child.help));
        }
    }
    let words: Vec<&str> = path.iter().map(|c| c.name).collect();
    text.push_str(&examples::render(examples::of(EXAMPLES, &words.join(" "))));
    let own: Vec<&Flag> = path.last().map_or(&[][..], |c| c.flags).iter().collect();
    if !own.is_empty() {
        text.push_str(&format!("\nFlags:\n{}", flags::help(&own)));
    }
    let global: Vec<&Flag> = GLOBAL.iter().collect();
    text.push_str(&format!("\nGlobal Flags:\n{}", flags::help(&global)));
    if !children.is_empty() {
        text.push_str(&format!(
            "\nUse \"{names} [command] --help\" for more about a command.\n"
        ));
    }
    text
}
