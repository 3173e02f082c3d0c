//! The ways out: what the programs share, and etcdctl's log lines.

use ferrite_cli::report::Timestamp;
pub use ferrite_cli::report::{err, line, out};

use crate::output::json::escape;

/// Writes a log line in etcd's form.
pub fn log(level: &str, message: &str, fields: &[(&str, &str)]) {
    let mut text = format!(
        "{{\"level\":{},\"ts\":\"{}\",\"msg\":{}",
        escape(level),
        Timestamp::now().millis(),
        escape(message)
    );
    for (name, value) in fields {
        text.push_str(&format!(",{}:{}", escape(name), escape(value)));
    }
    text.push('}');
    err(&text);
}

/// Says what went wrong underneath when a call ran out of time.
pub fn last_failure(status: &ferrite_client::Status) {
    if let Some(last) = ferrite_client::last_failure(status) {
        log(
            "warn",
            "the call did not succeed in time",
            &[("last-failure", &last)],
        );
    }
}
