//! `etcdutl`: etcd's tool for files at rest.
//!
//! From the command line to the exit code: [`run`] finds the command in the table of [`commands`], reads
//! the flags, lets the module named like the command do the work, and turns a [`Failure`] into a line on
//! standard error and a code. Nothing here talks to a server but [`takeover`]; a file that a server uses is
//! refused.

mod bbolt;
mod commands;
mod completion;
mod defrag;
mod error;
mod examples;
mod file;
mod hashkv;
mod help;
mod log;
mod migrate;
mod printer;
mod restore;
mod status;
mod takeover;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

use commands::{Action, COMMANDS, Command, GLOBAL};
use error::{BAD_ARGS, ERROR, Failure};
use ferrite_cli::flags::{ParseError, Values};
use ferrite_cli::{gofmt, report, similar};
use printer::Form;

/// The version of etcd whose behaviour this is.
const ETCD_VERSION: &str = "3.7.1";
/// The version of its API.
const API_VERSION: &str = "3.7";

fn main() -> ExitCode {
    let arguments: Vec<Vec<u8>> = std::env::args_os()
        .skip(1)
        .map(OsStringExt::into_vec)
        .collect();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::err(&format!("Error: {}", failure.message));
            if let Some(hint) = &failure.hint {
                report::err(hint);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Flags known after the commands of `path`.
fn known(path: &[&'static Command]) -> Values {
    let own = path.last().map_or(&[][..], |command| command.flags);
    Values::new(GLOBAL.iter().chain(own).collect())
}

fn children(path: &[&'static Command]) -> &'static [Command] {
    path.last()
        .map_or(&COMMANDS[..], |command| command.children)
}

fn run(mut arguments: Vec<Vec<u8>>) -> Result<(), Failure> {
    let mut path: Vec<&'static Command> = Vec::new();
    // Flags may stand before, between and after the commands' names.
    while let Some(index) = known(&path).first_word(&arguments) {
        let Some(command) = commands::find(children(&path), &text(&arguments[index])) else {
            break;
        };
        arguments.remove(index);
        path.push(command);
    }
    let mut values = known(&path);
    if path.is_empty()
        && let Some(index) = values.first_word(&arguments)
    {
        return Err(unknown_command(&text(&arguments[index])));
    }
    let words = match values.parse(&arguments) {
        Ok(words) => words,
        Err(ParseError::Help) => {
            report::out(help::page(&path).as_bytes());
            return Ok(());
        }
        Err(ParseError::Wrong { message, unknown }) => {
            return Err(bad_flag(&path, message, unknown.as_deref()));
        }
    };
    let Some(command) = path.last().copied() else {
        report::out(help::page(&path).as_bytes());
        return Ok(());
    };
    let missing: Vec<String> = command
        .required
        .iter()
        .filter(|name| !values.changed(name))
        .map(|name| format!("\"{name}\""))
        .collect();
    if !missing.is_empty() {
        let message = format!("required flag(s) {} not set", missing.join(", "));
        return Err(bad_flag(&path, message, None));
    }
    dispatch(command, &path, &values, words)
}

fn dispatch(
    command: &'static Command,
    path: &[&'static Command],
    values: &Values,
    words: Vec<Vec<u8>>,
) -> Result<(), Failure> {
    let timeout = values.duration("timeout");
    let form = || Form::parse(&values.text("write-out"));
    match command.action {
        Action::Group => {
            report::out(help::page(path).as_bytes());
            if let Some(word) = words.first() {
                // The original prints help and succeeds; at least say what was not understood.
                report::err(&format!(
                    "unknown command {} for \"{}\"",
                    gofmt::quote(word),
                    names(path)
                ));
            }
            Ok(())
        }
        Action::Help => help_topic(&words),
        Action::Version => {
            report::out(version().as_bytes());
            Ok(())
        }
        Action::Completion => completion::print(&words),
        Action::Defrag => {
            let data_dir = PathBuf::from(values.text("data-dir"));
            Ok(defrag::defrag(&data_dir, timeout)?)
        }
        Action::HashKv => {
            let received = words.len();
            let Some(file) = only(words) else {
                return Err(bad_flag(
                    path,
                    format!("accepts 1 arg(s), received {received}"),
                    None,
                ));
            };
            let form = form()?;
            let hash = hashkv::hash_kv(&file, values.int("rev"), timeout)?;
            printer::hash_kv(form, &hash)
        }
        Action::Migrate => {
            let migration = migrate::Migration {
                target: migrate::parse_target(&values.text("target-version"))?,
                data_dir: PathBuf::from(values.text("data-dir")),
                force: values.bool("force"),
            };
            Ok(migration.run(timeout)?)
        }
        Action::SnapshotStatus => {
            let Some(path) = only(words) else {
                let message = "snapshot status requires exactly one argument";
                return Err(Failure::new(BAD_ARGS, message));
            };
            file::must_exist(&path)?;
            let form = form()?;
            printer::status(form, &status::status(&path, timeout)?)
        }
        Action::SnapshotRestore => Ok(restore_of(values, words)?.run()?),
        Action::BboltCheck
        | Action::BboltStats
        | Action::BboltBuckets
        | Action::BboltKeys
        | Action::BboltGet
        | Action::BboltPage => bbolt_of(command.action, path, values, words),
        Action::Takeover(what) => match words.first() {
            Some(word) => Err(bad_flag(
                path,
                format!("unexpected argument {}", gofmt::quote(word)),
                None,
            )),
            None => takeover::run(what, values),
        },
    }
}

/// `bbolt …`: the file first, then what to look at in it.
fn bbolt_of(
    action: Action,
    path: &[&'static Command],
    values: &Values,
    mut words: Vec<Vec<u8>>,
) -> Result<(), Failure> {
    let (least, most) = match action {
        Action::BboltKeys => (2, usize::MAX),
        Action::BboltGet => (3, usize::MAX),
        Action::BboltPage => (1, usize::MAX),
        Action::BboltStats => (1, 2),
        _ => (1, 1),
    };
    let given = words.len();
    if !(least..=most).contains(&given) {
        let message = match (least, most) {
            (least, usize::MAX) => {
                format!("requires at least {least} arg(s), only received {given}")
            }
            (least, most) if least == most => format!("accepts {least} arg(s), received {given}"),
            (least, most) => format!("accepts between {least} and {most} arg(s), received {given}"),
        };
        return Err(bad_flag(path, message, None));
    }
    let rest = words.split_off(1);
    let file = only(words).ok_or_else(|| Failure::new(ERROR, "path required"))?;
    let source = bbolt::Source {
        path: file,
        timeout: values.duration("timeout"),
    };
    let format = |flag: &str| bbolt::Format::parse(&values.text(flag));
    match action {
        Action::BboltCheck => source.check(),
        Action::BboltStats => source.stats(rest.first().map_or(b"", |prefix| prefix)),
        Action::BboltBuckets => source.buckets(),
        Action::BboltKeys => source.keys(&rest, format("format")?),
        Action::BboltGet => {
            let Some((key, buckets)) = rest.split_last() else {
                return Err(Failure::new(ERROR, "key required"));
            };
            let key = bbolt::parse_key(key, &values.text("parse-format"))?;
            source.get(buckets, &key, format("format")?)
        }
        _ => source.pages(&rest, values.bool("all"), format("format-value")?),
    }
}

fn restore_of(values: &Values, words: Vec<Vec<u8>>) -> Result<restore::Restore, Failure> {
    let bad = |message: &str| Failure::new(BAD_ARGS, message);
    let snapshot =
        only(words).ok_or_else(|| bad("snapshot restore requires exactly one argument"))?;
    let bump_revision = values.uint("bump-revision");
    if (bump_revision > 0) != values.bool("mark-compacted") {
        return Err(bad("--mark-compacted required if --revision-bump > 0"));
    }
    let name = values.text("name");
    let data_dir = match values.text("data-dir") {
        given if given.is_empty() => PathBuf::from(format!("{name}.etcd")),
        given => PathBuf::from(given),
    };
    let wal_dir = match values.text("wal-dir") {
        given if given.is_empty() => data_dir.join("member").join("wal"),
        given => PathBuf::from(given),
    };
    Ok(restore::Restore {
        snapshot,
        name,
        data_dir,
        wal_dir,
        initial_cluster: values.text("initial-cluster"),
        token: values.text("initial-cluster-token"),
        peer_urls: values
            .text("initial-advertise-peer-urls")
            .split(',')
            .map(str::to_owned)
            .collect(),
        skip_hash_check: values.bool("skip-hash-check"),
        bump_revision,
    })
}

/// The one argument, as a path; `None` if there are more or none.
fn only(words: Vec<Vec<u8>>) -> Option<PathBuf> {
    let [word] = <[Vec<u8>; 1]>::try_from(words).ok()?;
    Some(PathBuf::from(OsString::from_vec(word)))
}

/// What `etcdutl version` prints.
fn version() -> String {
    format!(
        "etcdutl version: {ETCD_VERSION}\nAPI version: {API_VERSION}\nFerrite version: {}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// `etcdutl help …`.
fn help_topic(words: &[Vec<u8>]) -> Result<(), Failure> {
    let mut path = Vec::new();
    for word in words {
        let name = text(word);
        let Some(command) = commands::find(children(&path), &name) else {
            // The original prints help and succeeds; at least say what was not understood.
            if path.is_empty() {
                let all: Vec<String> = words.iter().map(|w| format!("`{}`", text(w))).collect();
                report::err(&format!("Unknown help topic [{}]", all.join(" ")));
            } else {
                let quoted = gofmt::quote(name.as_bytes());
                report::err(&format!(
                    "unknown command {quoted} for \"{}\"",
                    names(&path)
                ));
            }
            break;
        };
        path.push(command);
    }
    report::out(help::page(&path).as_bytes());
    Ok(())
}

fn names(path: &[&'static Command]) -> String {
    let names: Vec<&str> = ["etcdutl"]
        .into_iter()
        .chain(path.iter().map(|c| c.name))
        .collect();
    names.join(" ")
}

fn unknown_command(typed: &str) -> Failure {
    let similar = similar(COMMANDS.iter().map(|c| c.name), typed);
    let mut hint = String::new();
    if !similar.is_empty() {
        hint.push_str("\nDid you mean this?\n");
        for name in similar {
            hint.push_str(&format!("\t{name}\n"));
        }
        hint.push('\n');
    }
    hint.push_str("Run 'etcdutl --help' for usage.");
    Failure {
        code: ERROR,
        message: format!(
            "unknown command {} for \"etcdutl\"",
            gofmt::quote(typed.as_bytes())
        ),
        hint: Some(hint),
    }
}

fn bad_flag(path: &[&'static Command], message: String, unknown: Option<&str>) -> Failure {
    let known = known(path);
    let names_known = known.known().iter().map(|flag| flag.name);
    let mut hint = String::new();
    if let Some(name) = unknown
        .map(|typed| similar(names_known, typed))
        .unwrap_or_default()
        .first()
    {
        hint.push_str(&format!("Did you mean --{name}?\n"));
    }
    hint.push_str(&format!("Run '{} --help' for usage.", names(path)));
    Failure {
        code: ERROR,
        message,
        hint: Some(hint),
    }
}
