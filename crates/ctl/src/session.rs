//! What the global flags come to: an output form, and clients for the endpoints.

use std::sync::Arc;
use std::time::Duration;

use ferrite_client::tls::{ClientTls, TlsInfo};
use ferrite_client::{Client, Config, describe, srv};
use tokio::sync::OnceCell;

use crate::exit::{self, Failure};
use crate::output::{Form, Printer};
use crate::prompt;
use crate::report;
use ferrite_cli::flags::Values;
use ferrite_cli::gofmt;

/// What a running command works with.
pub struct Session {
    /// All flags.
    pub values: Values,
    /// How to print.
    pub printer: Printer,
    /// `--endpoints`, without blanks around them.
    pub endpoints: Vec<String>,
    discovered: OnceCell<Vec<String>>,
    credentials: Option<(String, String)>,
    base: Config,
}

impl Session {
    /// Reads the global flags.
    pub fn new(values: Values) -> Result<Self, Failure> {
        if values.bool("debug") {
            show_settings(&values);
        }
        let given = values.list("endpoints");
        let endpoints = given.iter().map(|e| e.trim().to_owned()).collect();
        let mut base = Config::new(Vec::<String>::new());
        base.tls = tls(&values)?;
        base.observer = report::observer();
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
            credentials(&values.text("user"), &values.text("password"), "Password: ")?
        } else {
            base.token = Some(token);
            None
        };
        let form = Form::parse(&values.text("write-out")).ok_or_else(|| Failure {
            hint: Some("--write-out can be fields, json, protobuf, simple or table.".into()),
            ..Failure::new(exit::BAD_FEATURE, "unsupported output format")
        })?;
        let printer = Printer::new(form, values.bool("hex"));
        Ok(Self {
            values,
            printer,
            endpoints,
            discovered: OnceCell::new(),
            credentials,
            base,
        })
    }

    /// How long a command may take.
    pub fn command_timeout(&self) -> Duration {
        self.values.duration("command-timeout")
    }

    /// The members to talk to: those that `--discovery-srv` finds, or else `--endpoints`.
    pub async fn members(&self) -> Result<Vec<String>, Failure> {
        let found = self.discovered.get_or_try_init(|| discover(&self.values));
        let found = found.await?;
        if found.is_empty() {
            return Ok(self.endpoints.clone());
        }
        Ok(found.clone())
    }

    /// A client for all endpoints.
    pub async fn client(&self) -> Result<Client, Failure> {
        connect(self.base.clone(), self.members().await?, self.user()).await
    }

    /// A client for one endpoint.
    pub async fn client_at(&self, endpoint: &str) -> Result<Client, Failure> {
        let endpoints = vec![endpoint.to_owned()];
        connect(self.base.clone(), endpoints, self.user()).await
    }

    /// A client for these endpoints, with a time limit of its own for each call.
    pub async fn client_for(
        &self,
        endpoints: Vec<String>,
        limit: Duration,
    ) -> Result<Client, Failure> {
        let config = Config {
            call_timeout: Some(limit),
            dial_timeout: self.base.dial_timeout.min(limit),
            // What fails here is counted, not written down.
            observer: Default::default(),
            ..self.base.clone()
        };
        connect(config, endpoints, self.user()).await
    }

    /// A client for all endpoints whose calls wait for an answer as long as it takes.
    pub async fn patient_client(&self) -> Result<Client, Failure> {
        connect(self.patient(), self.members().await?, self.user()).await
    }

    /// A patient client for the cluster that `make-mirror` writes to, with the `--dest-…` flags.
    pub async fn destination(&self, endpoint: &str) -> Result<Client, Failure> {
        let values = &self.values;
        let (user, password) = (values.text("dest-user"), values.text("dest-password"));
        let credentials = credentials(&user, &password, "Destination Password: ")?;
        let mut config = self.patient();
        config.token = None;
        config.tls = encryption(
            &TlsInfo {
                cert_file: values.text("dest-cert"),
                key_file: values.text("dest-key"),
                trusted_ca_file: values.text("dest-cacert"),
                ..TlsInfo::default()
            },
            values.bool("dest-insecure-transport"),
        )?;
        connect(config, vec![endpoint.to_owned()], credentials.as_ref()).await
    }

    fn user(&self) -> Option<&(String, String)> {
        self.credentials.as_ref()
    }

    fn patient(&self) -> Config {
        Config {
            call_timeout: None,
            ..self.base.clone()
        }
    }
}

/// Asks DNS for the members, if `--discovery-srv` says so.
async fn discover(values: &Values) -> Result<Vec<String>, Failure> {
    let domain = values.text("discovery-srv");
    if domain.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = srv::client_endpoints(&domain, &values.text("discovery-srv-name"))
        .await
        .map_err(|error| Failure::new(exit::ERROR, error))?;
    if !values.bool("insecure-discovery") {
        found.retain(|endpoint| {
            let secure = !endpoint.starts_with("http://");
            if !secure {
                report::err(&format!(
                    "ignoring discovered insecure endpoint {}",
                    gofmt::quote(endpoint.as_bytes())
                ));
            }
            secure
        });
    }
    Ok(found)
}

async fn connect(
    mut config: Config,
    endpoints: Vec<String>,
    credentials: Option<&(String, String)>,
) -> Result<Client, Failure> {
    config.endpoints = endpoints;
    let dial_timeout = config.dial_timeout;
    let client = Client::new(config)?;
    if let Some((name, password)) = credentials {
        match tokio::time::timeout(dial_timeout, client.login(name, password)).await {
            Ok(Ok(())) => {}
            Ok(Err(status)) => {
                return Err(Failure::new(exit::BAD_CONNECTION, describe(&status)));
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

/// How to encrypt connections, if the flags say anything about it.
fn tls(values: &Values) -> Result<Option<Arc<ClientTls>>, Failure> {
    for name in ["cert", "key", "cacert"] {
        if values.text(name).is_empty() && values.changed(name) {
            return Err(Failure::args(format!(
                "empty string is passed to --{name} option"
            )));
        }
    }
    let info = TlsInfo {
        cert_file: values.text("cert"),
        key_file: values.text("key"),
        trusted_ca_file: values.text("cacert"),
        insecure_skip_verify: values.bool("insecure-skip-tls-verify"),
        // Hosts that DNS names unproved must have a certificate for the domain that was asked for.
        server_name: if values.bool("insecure-discovery") {
            String::new()
        } else {
            values.text("discovery-srv")
        },
        ..TlsInfo::default()
    };
    encryption(&info, values.bool("insecure-transport"))
}

fn encryption(info: &TlsInfo, insecure: bool) -> Result<Option<Arc<ClientTls>>, Failure> {
    if insecure && *info == TlsInfo::default() {
        return Ok(None);
    }
    match ClientTls::new(info, &["h2"]) {
        Ok(tls) => Ok(Some(Arc::new(tls))),
        Err(error) => Err(Failure::args(error.to_string())),
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

/// The user and the password, asked for if need be.
fn credentials(
    user: &str,
    password: &str,
    question: &str,
) -> Result<Option<(String, String)>, Failure> {
    if user.is_empty() {
        return Ok(None);
    }
    let (user, password) = if !password.is_empty() {
        (user, password.to_owned())
    } else if let Some((user, password)) = user.split_once(':') {
        (user, password.to_owned())
    } else {
        let password = prompt::password(question).map_err(|e| {
            prompt::interrupted(&e).unwrap_or_else(|| Failure::new(exit::ERROR, e.to_string()))
        })?;
        (user, password)
    };
    Ok((!user.is_empty() && !password.is_empty()).then(|| (user.to_owned(), password)))
}
