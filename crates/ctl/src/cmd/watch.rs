//! `watch`: one watch from the command line, or any number from standard input (`-i`), printed as
//! they come, or handed to a command.

use std::collections::BTreeMap;
use std::io::BufRead;

use ferrite_client::{WatchEvent, Watcher, pb};
use ferrite_proto::mvccpb;

use super::{Words, kv, text, txn};
use crate::child;
use crate::commands::WATCH;
use crate::exit::{self, Failure};
use crate::gofmt::quote;
use crate::output::simple::event_name;
use crate::report;
use crate::session::Session;
use ferrite_cli::flags::{Flag, ParseError, Values};

const KEY: &str = "ETCDCTL_WATCH_KEY";
const RANGE_END: &str = "ETCDCTL_WATCH_RANGE_END";
const COUNT: &str = "bad number of arguments";
const CONFLICT: &str = "bad number of arguments (found conflicting environment key)";
const SEPARATOR: &str = "bad number of arguments (found separator --, but no commands)";
/// Lines of standard input that were read ahead.
const LINES_MAX: usize = 16;

/// What `watch` was told on one line.
#[derive(Debug, PartialEq)]
pub struct Order {
    request: Result<pb::WatchCreateRequest, String>,
    command: Vec<Vec<u8>>,
}

/// The key and the end that the environment gives.
pub struct Environment {
    key: String,
    end: String,
}

impl Environment {
    /// Reads it.
    pub fn read() -> Result<Self, Failure> {
        let get = |name| {
            std::env::var_os(name)
                .map(|v| v.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let (key, end) = (get(KEY), get(RANGE_END));
        if key.is_empty() && !end.is_empty() {
            return Err(Failure::args(format!(
                "{KEY} is empty but got {RANGE_END}={}",
                quote(end.as_bytes())
            )));
        }
        Ok(Self { key, end })
    }
}

/// Understands the arguments after `watch`: flags and keys, and after `--` a command. What is wrong
/// with the range shows only when the watch is made.
pub fn order(
    environment: &Environment,
    known: Vec<&'static Flag>,
    arguments: &Words,
) -> Result<Order, Failure> {
    let separator = arguments.iter().position(|a| a == b"--");
    let (before, command) = match separator {
        Some(at) if at + 1 == arguments.len() => return Err(Failure::args(SEPARATOR)),
        Some(at) => (&arguments[..at], arguments[at + 1..].to_vec()),
        None => (arguments, Vec::new()),
    };
    let mut values = Values::new(known);
    let mut words = values.parse(before).map_err(|error| {
        Failure::args(match error {
            ParseError::Help => "flag: help requested".to_owned(),
            ParseError::Wrong { message, .. } => message,
        })
    })?;
    if !environment.key.is_empty() {
        if !words.is_empty() {
            return Err(Failure::args(CONFLICT));
        }
        words.push(environment.key.as_bytes().to_vec());
        if !environment.end.is_empty() {
            words.push(environment.end.as_bytes().to_vec());
        }
    }
    if words.is_empty() {
        return Err(Failure::args(COUNT));
    }
    Ok(Order {
        request: request(&values, &words),
        command,
    })
}

fn request(values: &Values, words: &Words) -> Result<pb::WatchCreateRequest, String> {
    let prefix = values.bool("prefix");
    let key = words.first().cloned().unwrap_or_default();
    let (key, range_end) = match words {
        [_, _] if prefix => {
            return Err("`range_end` and `--prefix` are mutually exclusive".to_owned());
        }
        [_, end] => (key, end.clone().into()),
        // An empty key stands for the first one, as in a range.
        _ if prefix && key.is_empty() => (vec![0], vec![0].into()),
        _ if prefix => {
            let end = kv::prefix_end(&key);
            (key, end)
        }
        _ => (key, bytes::Bytes::new()),
    };
    Ok(pb::WatchCreateRequest {
        key: key.into(),
        range_end,
        start_revision: values.int("rev"),
        prev_kv: values.bool("prev-kv"),
        progress_notify: values.bool("progress-notify"),
        ..Default::default()
    })
}

/// One watch, until it ends.
pub async fn once(session: &Session, order: Order) -> Result<(), Failure> {
    let mut watcher = Watcher::new(session.client().await?, true);
    watcher.add(order.request.map_err(Failure::args)?);
    loop {
        let (_, event) = watcher.next().await;
        if event == WatchEvent::Closed {
            return Err(Failure::new(
                exit::INTERRUPTED,
                "watch is canceled by the server",
            ));
        }
        show(session, event, &order.command).await?;
    }
}

/// Watches that standard input asks for, until it ends.
pub async fn interactive(session: &Session, environment: &Environment) -> Result<(), Failure> {
    let mut watcher = Watcher::new(session.client().await?, true);
    let mut commands: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    let mut lines = lines();
    // A watch is in place before the next line is looked at.
    let mut making = None;
    loop {
        tokio::select! {
            biased;
            (id, event) = watcher.next() => {
                if making == Some(id) {
                    making = None;
                }
                if event == WatchEvent::Closed {
                    commands.remove(&id);
                } else if let Some(command) = commands.get(&id) {
                    show(session, event, command).await?;
                }
            }
            line = lines.recv(), if making.is_none() => {
                let line = line.unwrap_or_else(|| Err("EOF".to_owned())).map_err(|error| {
                    Failure::new(
                        exit::INVALID_INPUT,
                        format!("error reading watch request line: {error}"),
                    )
                })?;
                match understand(environment, &line)? {
                    Line::Watch(Order { request: Ok(request), command }) => {
                        let id = watcher.add(request);
                        commands.insert(id, command);
                        making = Some(id);
                    }
                    Line::Watch(Order { request: Err(error), .. }) => {
                        report::err(&format!("Invalid command {} ({error})", text(&line)));
                    }
                    Line::Progress => watcher.ask_progress(),
                    Line::Wrong(message) => report::err(&message),
                }
            }
        }
    }
}

/// Standard input, line by line, read by a thread of its own.
fn lines() -> tokio::sync::mpsc::Receiver<Result<Vec<u8>, String>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        loop {
            let mut line = Vec::new();
            let read = std::io::stdin().lock().read_until(b'\n', &mut line);
            let line = match read {
                Ok(_) if line.pop() == Some(b'\n') => Ok(line),
                Ok(_) => Err("EOF".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let last = line.is_err();
            if sender.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    receiver
}

#[derive(Debug, PartialEq)]
enum Line {
    Watch(Order),
    Progress,
    Wrong(String),
}

fn understand(environment: &Environment, line: &[u8]) -> Result<Line, Failure> {
    let words = txn::split(line)?;
    let typed = text(line);
    Ok(match words.first().map(|w| &w[..]) {
        None => Line::Wrong(format!(
            "Invalid command: {typed} (watch and progress supported)"
        )),
        Some(b"watch") if words.len() < 2 && environment.key.is_empty() => Line::Wrong(format!(
            "Invalid command {typed} (command type or key is not provided)"
        )),
        Some(b"watch") => Line::Watch(order(environment, WATCH.iter().collect(), &words[1..])?),
        Some(b"progress") => Line::Progress,
        Some(_) => Line::Wrong(format!("Invalid command {typed} (only support watch)")),
    })
}

/// Prints what a watch says, and runs the command for each event.
async fn show(session: &Session, event: WatchEvent, command: &Words) -> Result<(), Failure> {
    let response = match event {
        WatchEvent::Created | WatchEvent::Closed => return Ok(()),
        WatchEvent::Failed(error) => {
            report::err(&format!("watch was canceled ({error})"));
            pb::WatchResponse {
                canceled: true,
                ..Default::default()
            }
        }
        WatchEvent::Response(response) => response,
    };
    let revision = response.header.as_ref().map_or(0, |h| h.revision);
    if response.compact_revision != 0 {
        report::err("watch was canceled (etcdserver: mvcc: required revision has been compacted)");
    } else if response.events.is_empty() && !response.canceled && revision != 0 {
        report::line(&format!("progress notify: {revision}"));
    }
    session.printer.watch(&response)?;
    if command.is_empty() {
        return Ok(());
    }
    for event in &response.events {
        if let Err(failed) = child::run(command, variables(revision, event)).await {
            let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
            report::err(&format!(
                "command [{}] error ({})",
                words.join(" "),
                failed.text
            ));
            return Err(Failure::silent(exit::ERROR));
        }
    }
    Ok(())
}

fn variables(revision: i64, event: &mvccpb::Event) -> Vec<(&'static str, String)> {
    let pair = event.kv.clone().unwrap_or_default();
    vec![
        ("ETCD_WATCH_REVISION", revision.to_string()),
        ("ETCD_WATCH_EVENT_TYPE", quote(event_name(event).as_bytes())),
        ("ETCD_WATCH_KEY", quote(&pair.key)),
        ("ETCD_WATCH_VALUE", quote(&pair.value)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        line.split_whitespace()
            .map(|w| w.as_bytes().to_vec())
            .collect()
    }

    fn given(key: &str, end: &str, line: &str) -> Result<(String, String, usize), String> {
        let environment = Environment {
            key: key.to_owned(),
            end: end.to_owned(),
        };
        let order = order(&environment, WATCH.iter().collect(), &words(line))
            .map_err(|f| f.message.unwrap_or_default())?;
        let request = order.request?;
        Ok((
            text(&request.key),
            text(&request.range_end),
            order.command.len(),
        ))
    }

    #[test]
    fn keys_come_from_words_or_the_environment() {
        let ok = |key: &str, end: &str, n| Ok((key.to_owned(), end.to_owned(), n));
        assert_eq!(given("", "", "foo"), ok("foo", "", 0));
        assert_eq!(given("", "", "foo --rev 1 fop"), ok("foo", "fop", 0));
        assert_eq!(given("", "", "--prefix foo"), ok("foo", "fop", 0));
        assert_eq!(given("", "", "foo -- echo hi"), ok("foo", "", 2));
        assert_eq!(given("", "", "foo bar -- echo --x"), ok("foo", "bar", 2));
        assert_eq!(given("k", "", ""), ok("k", "", 0));
        assert_eq!(given("k", "l", "--rev=1 -- echo"), ok("k", "l", 1));
        let bad = |text: &str| Err(text.to_owned());
        assert_eq!(given("", "", ""), bad(COUNT));
        assert_eq!(given("", "", "-- echo"), bad(COUNT));
        assert_eq!(given("", "", "foo --"), bad(SEPARATOR));
        assert_eq!(given("k", "", "foo"), bad(CONFLICT));
        assert_eq!(given("k", "", "foo -- echo"), bad(CONFLICT));
        assert_eq!(
            given("", "", "foo bar --prefix"),
            bad("`range_end` and `--prefix` are mutually exclusive")
        );
        assert_eq!(given("", "", "foo --bogus"), bad("unknown flag: --bogus"));
        // More words than a range has are passed over, and the end with them.
        assert_eq!(given("", "", "foo bar baz"), ok("foo", "", 0));
    }
}
