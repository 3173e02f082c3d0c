//! Pages for `man`, made of what the programs themselves say with `--help`.

use std::fmt::Write;

use super::shipped::Shipped;
use crate::error::Result;

/// How deep commands of commands are followed.
const DEPTH: usize = 3;

/// The page of a program.
///
/// # Errors
/// The program does not run here.
pub fn page(shipped: &Shipped, program: &str) -> Result<String> {
    let what = match program {
        "etcd" => "replicated key-value store",
        "etcdctl" => "command line client of etcd",
        _ => "administers etcd's files offline",
    };
    let mut page = format!(
        ".TH {} 1 \"\" \"Ferrite {}\" \"Ferrite\"\n.SH NAME\n{program} \\- {what}\n",
        program.to_uppercase(),
        shipped.version
    );
    match program {
        "etcd" => server(&shipped.says(program, &["--help"])?, &mut page),
        _ => tool(shipped, program, &mut page)?,
    }
    let see = ["etcd", "etcdctl", "etcdutl"]
        .into_iter()
        .filter(|other| *other != program)
        .map(|other| format!(".BR {other} (1)"))
        .collect::<Vec<_>>()
        .join(" ,\n");
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        ".SH SEE ALSO\n{see}\n.PP\nThe guides are in /usr/share/doc/ferrite\\-etcd/docs.\n"
    );
    Ok(page)
}

/// Flags, each with its variable and what it does, by the sections of the help.
fn server(help: &str, page: &mut String) {
    page.push_str(
        ".SH SYNOPSIS\n.B etcd\n[\\fIflags\\fR]\n.SH DESCRIPTION\nStarts a member. Each flag can also be set by the \
         variable named with it, or by a key of the file that\n.B \\-\\-config\\-file\nnames.\n",
    );
    for line in help.lines() {
        let _ = if line.trim().is_empty() {
            Ok(())
        } else if let Some(flag) = line.strip_prefix("  --") {
            writeln!(page, ".TP\n\\fB\\-\\-{}\\fR", escaped(flag))
        } else if line.starts_with(' ') {
            writeln!(page, "{}\n.br", text(line.trim()))
        } else {
            writeln!(
                page,
                ".SH {}",
                text(&line.trim_end_matches(':').to_uppercase())
            )
        };
    }
}

/// The help of every command as it stands.
fn tool(shipped: &Shipped, program: &str, page: &mut String) -> Result<()> {
    let _ = write!(
        page,
        ".SH SYNOPSIS\n.B {program}\n[\\fIflags\\fR] \\fIcommand\\fR\n.SH DESCRIPTION\n"
    );
    let help = shipped.says(program, &["--help"])?;
    verbatim(&help, page);
    if program == "etcdctl" {
        page.push_str(".SH OPTIONS\n");
        verbatim(&shipped.says(program, &["options"])?, page);
    }
    page.push_str(".SH COMMANDS\n");
    let mut waiting: Vec<Vec<String>> = commands(&help)
        .into_iter()
        .rev()
        .map(|name| vec![name])
        .collect();
    while let Some(words) = waiting.pop() {
        if words[0] == "help" || words[0] == "options" {
            continue;
        }
        let mut line: Vec<&str> = words.iter().map(String::as_str).collect();
        line.push("--help");
        let help = shipped.says(program, &line)?;
        let _ = writeln!(page, ".SS {program} {}", escaped(&words.join(" ")));
        verbatim(&help, page);
        if words.len() < DEPTH {
            for name in commands(&help).into_iter().rev() {
                waiting.push([words.clone(), vec![name]].concat());
            }
        }
    }
    Ok(())
}

/// The commands that a help lists: indented lines under a heading that ends in "ommands".
fn commands(help: &str) -> Vec<String> {
    let mut listed = false;
    let mut found = Vec::new();
    for line in help.lines() {
        if !line.starts_with(' ') && !line.is_empty() {
            listed = line.trim_end_matches(':').ends_with("ommands");
        } else if let (true, Some(name)) = (listed, line.split_whitespace().next()) {
            found.push(name.to_owned());
        }
    }
    found
}

fn verbatim(help: &str, page: &mut String) {
    page.push_str(".nf\n");
    for line in help.lines() {
        page.push_str(&text(line));
        page.push('\n');
    }
    page.push_str(".fi\n");
}

fn escaped(line: &str) -> String {
    line.replace('\\', "\\e").replace('-', "\\-")
}

/// A line that begins with a dot or an apostrophe would be a request.
fn text(line: &str) -> String {
    let line = escaped(line);
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_from_a_help() {
        let help = "what it is\n\nUsage:\n  etcdctl [command]\n\nKey-value commands\n  get   Reads\n  put   Writes\n\n\
                    Available Commands:\n  bbolt  Looks\n\nFlags:\n  --x  not one\n";
        assert_eq!(commands(help), ["get", "put", "bbolt"]);
    }

    #[test]
    fn no_line_of_a_help_is_taken_for_a_request() {
        let mut page = String::new();
        verbatim(".hidden 'x'\n'quoted\n a\\nb --flag", &mut page);
        assert_eq!(
            page,
            ".nf\n\\&.hidden 'x'\n\\&'quoted\n a\\enb \\-\\-flag\n.fi\n"
        );
    }
}
