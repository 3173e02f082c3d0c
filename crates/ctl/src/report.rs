//! The ways out: what the programs share, and etcdctl's log lines.

use ferrite_cli::report::Timestamp;
pub use ferrite_cli::report::{err, line, out};
use ferrite_client::{Noticed, Observer};

use crate::output::json::escape;

/// Writes a log line in etcd's form.
pub fn log(level: &str, message: &str, fields: &[(&str, &str)]) {
    let mut text = format!(
        "{{\"level\":{},\"ts\":\"{}\",\"msg\":{}",
        escape(level),
        Timestamp::now().micros(),
        escape(message)
    );
    for (name, value) in fields {
        text.push_str(&format!(",{}:{}", escape(name), escape(value)));
    }
    text.push('}');
    err(&text);
}

/// How much the client says of what goes wrong underneath a call: `ETCD_CLIENT_DEBUG`.
const CLIENT_LOG: &str = "ETCD_CLIENT_DEBUG";

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
        Noticed::Dial { error } if loud => log(
            "warn",
            "cannot connect",
            &[("logger", "etcd-client"), ("error", error)],
        ),
        Noticed::Dial { .. } => {}
        Noticed::Attempt {
            target,
            method,
            attempt,
            error,
        } => log(
            "warn",
            "retrying of unary invoker failed",
            &[
                ("logger", "etcd-client"),
                ("target", target),
                ("method", method),
                ("attempt", &attempt.to_string()),
                ("error", error),
            ],
        ),
    })
}
