//! What the global flags come to: an output form, and clients for the endpoints.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use ferrite_client::{Client, Config, Status};

use crate::exit::{self, Failure};
use crate::flags::Values;
use crate::output::{Form, Printer};
use crate::report;

/// What a running command works with.
pub struct Session {
    /// All flags.
    pub values: Values,
    /// How to print.
    pub printer: Printer,
    /// `--endpoints`, as given.
    pub endpoints: Vec<String>,
    credentials: Option<(String, String)>,
    base: Config,
    tls: bool,
}

impl Session {
    /// Reads the global flags.
    pub fn new(values: Values) -> Result<Self, Failure> {
        if values.bool("debug") {
            show_settings(&values);
        }
        if !values.text("discovery-srv").is_empty() {
            return Err(Failure::args(
                "--discovery-srv is not supported by this release of Ferrite; give the addresses with --endpoints",
            ));
        }
        let endpoints = values.list("endpoints");
        let mut tls = !values.bool("insecure-transport");
        for name in ["cert", "key", "cacert"] {
            let text = values.text(name);
            if text.is_empty() && values.changed(name) {
                return Err(Failure::args(format!(
                    "empty string is passed to --{name} option"
                )));
            }
            tls |= !text.is_empty();
        }
        let mut base = Config::new(Vec::<String>::new());
        base.dial_timeout = values.duration("dial-timeout");
        base.call_timeout = Some(values.duration("command-timeout"));
        base.keepalive_time = values.duration("keepalive-time");
        base.keepalive_timeout = values.duration("keepalive-timeout");
        for (name, limit) in [
            ("max-request-bytes", &mut base.max_send_bytes),
            ("max-recv-bytes", &mut base.max_recv_bytes),
        ] {
            match usize::try_from(values.int(name)) {
                Ok(0) => {}
                Ok(bytes) => *limit = bytes,
                Err(_) => return Err(Failure::args(format!("--{name} must not be negative"))),
            }
        }
        let token = values.text("auth-jwt-token");
        let credentials = if token.is_empty() {
            credentials(&values)?
        } else {
            base.token = Some(token);
            None
        };
        let form = Form::parse(&values.text("write-out"))
            .ok_or_else(|| Failure::new(exit::BAD_FEATURE, "unsupported output format"))?;
        let printer = Printer::new(form, values.bool("hex"));
        Ok(Self {
            values,
            printer,
            endpoints,
            credentials,
            base,
            tls,
        })
    }

    /// How long a command may take.
    pub fn command_timeout(&self) -> Duration {
        self.values.duration("command-timeout")
    }

    /// A client for all endpoints.
    pub async fn client(&self) -> Result<Client, Failure> {
        let endpoints: Vec<String> = self.endpoints.iter().map(|e| e.trim().to_owned()).collect();
        self.client_for(&endpoints).await
    }

    /// A client for one endpoint.
    pub async fn client_at(&self, endpoint: &str) -> Result<Client, Failure> {
        self.client_for(&[endpoint.to_owned()]).await
    }

    async fn client_for(&self, endpoints: &[String]) -> Result<Client, Failure> {
        let mut config = self.base.clone();
        config.endpoints = endpoints.to_vec();
        if self.tls
            && let Some(endpoint) = endpoints.iter().find(|e| !e.contains("://"))
        {
            return Err(ferrite_client::ConfigError::Tls(endpoint.clone()).into());
        }
        let client = Client::new(config)?;
        if let Some((name, password)) = &self.credentials {
            match tokio::time::timeout(self.base.dial_timeout, client.authenticate(name, password))
                .await
            {
                Ok(Ok(())) => {}
                Ok(Err(status)) if not_enabled(&status) => {}
                Ok(Err(status)) => {
                    report::last_failure(&status);
                    return Err(Failure::new(
                        exit::BAD_CONNECTION,
                        ferrite_client::describe(&status),
                    ));
                }
                Err(_) => {
                    return Err(Failure::new(
                        exit::BAD_CONNECTION,
                        "context deadline exceeded",
                    ));
                }
            }
        }
        Ok(client)
    }
}

/// What `--debug` prints: every global setting, as the variable that would make it.
fn show_settings(values: &Values) {
    let mut flags: Vec<_> = crate::commands::GLOBAL.iter().collect();
    flags.sort_by_key(|f| f.name);
    for flag in flags {
        if let Some(value) = values.get(flag.name) {
            report::err(&format!("{}={value}", crate::env::variable(flag.name)));
        }
    }
}

fn not_enabled(status: &Status) -> bool {
    status.message() == "etcdserver: authentication is not enabled"
}

/// The user and the password, asked for if need be.
fn credentials(values: &Values) -> Result<Option<(String, String)>, Failure> {
    let user = values.text("user");
    if user.is_empty() {
        return Ok(None);
    }
    let password = values.text("password");
    let (user, password) = if !password.is_empty() {
        (user, password)
    } else if let Some((user, password)) = user.split_once(':') {
        (user.to_owned(), password.to_owned())
    } else {
        let password = ask("Password: ").map_err(|e| Failure::new(exit::ERROR, e.to_string()))?;
        (user, password)
    };
    Ok((!user.is_empty() && !password.is_empty()).then_some((user, password)))
}

/// Reads a line that a terminal does not show.
fn ask(prompt: &str) -> std::io::Result<String> {
    let terminal = std::io::stdin().is_terminal();
    let echo = |word: &str| {
        if terminal {
            // Without stty the password is seen; asking is still better than failing.
            let _ = std::process::Command::new("stty").arg(word).status();
        }
    };
    report::out(prompt.as_bytes());
    echo("-echo");
    let mut line = String::new();
    let result = std::io::stdin().lock().read_line(&mut line);
    echo("echo");
    if terminal {
        report::out(b"\n");
    }
    result?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
