//! Script files: commands, each followed by `----` and the output it must have.
//!
//! ```text
//! # a comment
//! command arg key=value list=(1,2)
//! input lines, for commands that take them
//! ----
//! expected output, up to an empty line
//! ```
//! An output that holds empty lines stands between two pairs of `----`.

use std::fs;
use std::path::{Path, PathBuf};

use super::env::Env;

/// One argument: `key`, `key=value` or `key=(value,value)`.
pub struct Arg {
    pub key: String,
    pub values: Vec<String>,
}

pub struct Command {
    pub line: usize,
    pub name: String,
    pub args: Vec<Arg>,
    pub input: String,
    pub expected: String,
    /// Lines of the file before the expected output, from the previous one on.
    head: Vec<String>,
}

fn parse_args(text: &str) -> Vec<Arg> {
    let mut args = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let mut depth = 0;
        let end = rest.find(|c: char| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            depth == 0 && c.is_whitespace()
        });
        let (token, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail.trim_start();
        let (key, values) = match token.split_once('=') {
            None => (token, Vec::new()),
            Some((key, value)) => {
                let inner = value.strip_prefix('(').and_then(|v| v.strip_suffix(')'));
                let values = inner.unwrap_or(value).split(',');
                (key, values.map(|v| v.trim().to_owned()).collect())
            }
        };
        args.push(Arg {
            key: key.to_owned(),
            values,
        });
    }
    args
}

/// The commands of a script, and the lines after the last.
fn parse(text: &str) -> (Vec<Command>, Vec<String>) {
    let lines: Vec<&str> = text.lines().collect();
    let (mut commands, mut head) = (Vec::new(), Vec::new());
    let mut i = 0;
    while i < lines.len() {
        let line = lines[i].trim();
        head.push(lines[i].to_owned());
        i += 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, args) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let number = i;
        let mut input = String::new();
        while i < lines.len() && lines[i] != "----" {
            head.push(lines[i].to_owned());
            input += lines[i];
            input.push('\n');
            i += 1;
        }
        assert!(i < lines.len(), "line {number}: no ---- after the command");
        head.push(lines[i].to_owned());
        i += 1;
        let mut expected = String::new();
        if lines.get(i) == Some(&"----") {
            i += 1;
            while !(lines.get(i) == Some(&"----") && lines.get(i + 1) == Some(&"----")) {
                expected += lines[i];
                expected.push('\n');
                i += 1;
            }
            i += 2;
        } else {
            while i < lines.len() && !lines[i].is_empty() {
                expected += lines[i];
                expected.push('\n');
                i += 1;
            }
        }
        commands.push(Command {
            line: number,
            name: name.to_owned(),
            args: parse_args(args),
            input,
            expected,
            head: std::mem::take(&mut head),
        });
    }
    (commands, head)
}

/// Output without the log lines of the library the scripts were first written for.
fn without_log_lines(output: &str) -> String {
    let is_log = |line: &&str| {
        let level = line.trim_start().split(' ').next().unwrap_or_default();
        !["DEBUG", "INFO", "WARN", "ERROR"].contains(&level)
    };
    let lines: Vec<&str> = output.lines().filter(is_log).map(str::trim_end).collect();
    match lines.join("\n").trim_end() {
        "" => "ok".into(),
        text => text.into(),
    }
}

/// Runs a script; what differs, as text.
pub fn run(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("the script can be read");
    let (commands, _) = parse(&text);
    let mut env = Env::default();
    let mut differences = Vec::new();
    for c in &commands {
        let actual = without_log_lines(&env.handle(c));
        let expected = without_log_lines(&c.expected);
        if actual != expected {
            differences.push(format!(
                "{}:{}: {}\n--- expected\n{expected}\n--- got\n{actual}\n",
                path.display(),
                c.line,
                c.name,
            ));
        }
    }
    differences
}

/// Writes the outputs that a script has now into it.
pub fn rewrite(path: &Path) {
    let text = fs::read_to_string(path).expect("the script can be read");
    let (commands, tail) = parse(&text);
    let mut env = Env::default();
    let mut out = String::new();
    for c in &commands {
        for line in &c.head {
            out += line;
            out.push('\n');
        }
        out += env.handle(c).trim_end();
        out.push('\n');
    }
    for line in tail {
        out += &line;
        out.push('\n');
    }
    fs::write(path, out).expect("the script can be written");
}

/// The scripts of a folder, in order; none if it is absent.
pub fn scripts(folder: &Path) -> Vec<PathBuf> {
    let Ok(files) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = files
        .map(|f| f.expect("the folder can be read").path())
        .filter(|p| p.extension().is_some_and(|e| e == "txt"))
        .collect();
    paths.sort();
    paths
}
