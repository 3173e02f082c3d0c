//! The ways out: what the programs share, and etcdctl's log lines.

use ferrite_cli::report::Timestamp;
pub use ferrite_cli::report::{err, line, out};
use ferrite_client::{Noticed, Observer};

use crate::output::json::escape;

/// Writes a log line in etcd's form.
pub fn log(level: &str, message: &str, fields: &[(&str, &str)]) {
    let fields = fields.iter().map(|(name, value)| (*name, escape(value)));
    write_log(level, "", message, fields);
}

/// As [`log`], with the name of who logs; values come as they stand in JSON.
fn write_log<'a>(
    level: &str,
    logger: &str,
    message: &str,
    fields: impl Iterator<Item = (&'a str, String)>,
) {
    let mut text = format!(
        "{{\"level\":{},\"ts\":\"{}\"",
        escape(level),
        Timestamp::now().micros()
    );
    if !logger.is_empty() {
        text.push_str(&format!(",\"logger\":{}", escape(logger)));
    }
    text.push_str(&format!(",\"msg\":{}", escape(message)));
    for (name, value) in fields {
        text.push_str(&format!(",{}:{value}", escape(name)));
    }
    text.push('}');
    err(&text);
}

/// How much the client says of what goes wrong underneath a call: `ETCD_CLIENT_DEBUG`.
const CLIENT_LOG: &str = "ETCD_CLIENT_DEBUG";
/// The name under which the client logs.
const CLIENT: &str = "etcd-client";

/// Whom the client tells of failed attempts: standard error, as far as the variable lets it.
pub fn observer() -> Observer {
    let wanted = std::env::var(CLIENT_LOG).unwrap_or_default();
    let loud = !wanted.is_empty();
    let quiet = match wanted.to_lowercase().as_str() {
        "" | "true" | "debug" | "info" | "warn" => false,
        "error" | "dpanic" | "panic" | "fatal" => true,
        _ => {
            err(&format!(
                "Invalid value for environment variable '{CLIENT_LOG}'. Using default level: 'info'"
            ));
            false
        }
    };
    if quiet {
        return Observer::default();
    }
    Observer::new(move |what| match what {
        Noticed::Dial { error } if loud => {
            let fields = [("error", escape(error))];
            write_log("warn", CLIENT, "cannot connect", fields.into_iter());
        }
        Noticed::Dial { .. } => {}
        Noticed::Attempt {
            target,
            method,
            attempt,
            error,
        } => {
            let fields = [
                ("target", escape(target)),
                ("method", escape(method)),
                ("attempt", attempt.to_string()),
                ("error", escape(error)),
            ];
            let message = "retrying of unary invoker failed";
            write_log("warn", CLIENT, message, fields.into_iter());
        }
    })
}
