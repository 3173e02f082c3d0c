//! `etcd gateway` and `etcd grpc-proxy`: the programs before a cluster, which hold no data.
//!
//! Their commands and flags are read as the original's library for commands does. What they do with
//! connections and calls is in [`ferrite_proxy`].

mod discover;
mod door;
pub mod flags;
mod gateway;
mod grpc;
mod pages;
mod scrape;

use std::process::ExitCode;

use ferrite_cli::flags::{Flag, Kind, ParseError, Values, help};
use ferrite_cli::report::{err, out};

use crate::flags::Url;
use crate::listen::{self, SocketOptions};
use crate::log;

/// How one of them ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    With(ExitCode),
    /// By this signal.
    Signal(i32),
}

/// Why one cannot start. What is told goes where the original tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refused {
    /// On standard output.
    Out(String),
    /// On standard error.
    Err(String),
    /// As a line of the log that ends the process.
    Fatal(&'static str, String),
}

type Start = fn(&Values) -> Result<i32, Refused>;

/// A program with its one command.
struct Program {
    name: &'static str,
    help: &'static str,
    start_help: &'static str,
    flags: &'static [Flag],
    start: Start,
}

static PROGRAMS: &[Program] = &[
    Program {
        name: "gateway",
        help: "A proxy of connections before a cluster",
        start_help: "Start the gateway",
        flags: flags::GATEWAY,
        start: gateway::start,
    },
    Program {
        name: "grpc-proxy",
        help: "A proxy of calls before a cluster",
        start_help: "Start the gRPC proxy",
        flags: flags::GRPC_PROXY,
        start: grpc::start,
    },
];

static HELP: [Flag; 2] = [
    Flag {
        name: "help",
        short: Some('h'),
        kind: Kind::Bool,
        default: "false",
        help: "help for start",
    },
    Flag {
        name: "help",
        short: Some('h'),
        kind: Kind::Bool,
        default: "false",
        help: "help for this program",
    },
];

/// Runs what the arguments name; `None` where they name neither, so that they are the server's.
pub fn run(arguments: &[String]) -> Option<Ended> {
    let (name, rest) = arguments.split_first()?;
    let program = PROGRAMS.iter().find(|program| program.name == name)?;
    let rest: Vec<Vec<u8>> = rest.iter().map(|text| text.as_bytes().to_vec()).collect();
    Some(program.run(&rest))
}

impl Program {
    fn run(&self, arguments: &[Vec<u8>]) -> Ended {
        // Before the command's name any flag may stand.
        let mut values = Values::new(self.flags.iter().collect());
        let command = values.first_word(arguments);
        let named = command.and_then(|at| arguments.get(at));
        if named.map(Vec::as_slice) != Some(b"start") {
            return match Values::default().parse(arguments) {
                Ok(_) | Err(ParseError::Help) => {
                    out(format!("{}\n\n{}", self.help, self.usage()).as_bytes());
                    Ended::With(ExitCode::SUCCESS)
                }
                Err(ParseError::Wrong { message, .. }) => mistaken(&message, &self.usage()),
            };
        }
        let mut arguments = arguments.to_vec();
        if let Some(at) = command {
            arguments.remove(at);
        }
        match values.parse(&arguments) {
            Ok(_) => {}
            Err(ParseError::Help) => {
                out(format!("{}\n\n{}", self.start_help, self.start_usage()).as_bytes());
                return Ended::With(ExitCode::SUCCESS);
            }
            Err(ParseError::Wrong { message, .. }) => {
                return mistaken(&message, &self.start_usage());
            }
        }
        match (self.start)(&values) {
            Ok(number) => Ended::Signal(number),
            Err(Refused::Out(text)) => {
                log::flush();
                out(text.as_bytes());
                Ended::With(ExitCode::FAILURE)
            }
            Err(Refused::Err(text)) => {
                log::flush();
                err(&text);
                Ended::With(ExitCode::FAILURE)
            }
            Err(Refused::Fatal(message, error)) => log::fatal(message, &[("error", &error)]),
        }
    }

    fn usage(&self) -> String {
        let name = self.name;
        format!(
            "Usage:\n  etcd {name} [command]\n\nAvailable Commands:\n  start       {}\n\nFlags:\n{}\nUse \"etcd {name} [command] --help\" for more information about a command.\n",
            self.start_help,
            help(&[&HELP[1]]),
        )
    }

    fn start_usage(&self) -> String {
        let mut all: Vec<&Flag> = self.flags.iter().chain(&HELP[..1]).collect();
        all.sort_by_key(|flag| flag.name);
        format!(
            "Usage:\n  etcd {} start [flags]\n\nFlags:\n{}",
            self.name,
            help(&all)
        )
    }
}

/// The mistake, how it would be right, and the mistake once more: as the original does it.
fn mistaken(message: &str, usage: &str) -> Ended {
    err(&format!("Error: {message}\n{usage}\n{message}"));
    Ended::With(ExitCode::FAILURE)
}

/// Lines of the log go to standard error, as JSON.
fn start_log(least: log::Severity) {
    log::start(vec![log::output::Output::Stderr], least, log::Format::Json);
}

/// Binds an address; without a host it is all of the machine's.
fn bind(address: &str) -> Result<std::net::TcpListener, String> {
    let everywhere = address.starts_with(':');
    let url = |address: String| Url {
        scheme: "http".into(),
        user: String::new(),
        address,
        query: String::new(),
    };
    if !everywhere {
        return listen::bind(&url(address.to_owned()), SocketOptions::default());
    }
    // Where there is no version 6 there is version 4.
    listen::bind(&url(format!("[::]{address}")), SocketOptions::default())
        .or_else(|_| listen::bind(&url(format!("0.0.0.0{address}")), SocketOptions::default()))
}

/// Host and port apart, as Go does it: a host of version 6 stands in brackets.
fn split_host_port(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => Some((inner.strip_suffix(']')?, port)),
        None => (!host.contains([':', '[', ']'])).then_some((host, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_can_be_read() {
        for program in PROGRAMS {
            let values = Values::new(program.flags.iter().collect());
            for flag in program.flags {
                assert!(values.get(flag.name).is_some(), "{}", flag.name);
            }
        }
    }

    #[test]
    fn hosts_and_ports_are_taken_apart_as_go_does_it() {
        assert_eq!(split_host_port("a:1"), Some(("a", "1")));
        assert_eq!(split_host_port("[::1]:1"), Some(("::1", "1")));
        assert_eq!(split_host_port(":1"), Some(("", "1")));
        for bad in ["a", "::1:1", "[::1]", "[::1:1"] {
            assert_eq!(split_host_port(bad), None, "{bad}");
        }
    }
}
