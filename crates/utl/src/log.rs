//! Log lines on standard error, in the form of etcd's offline tools: columns with tabs between, fields as JSON.

use std::panic::Location;

use ferrite_cli::report::{self, Timestamp};

/// The value of a field.
pub enum Field<'a> {
    /// Text.
    Text(&'a str),
    /// A whole number.
    Number(i64),
    /// Seconds.
    Seconds(f64),
    /// Yes or no.
    Flag(bool),
    /// Texts.
    List(&'a [String]),
}

impl Field<'_> {
    fn json(&self) -> String {
        // Text always encodes.
        let text = |text: &str| serde_json::to_string(text).unwrap_or_default();
        match self {
            Self::Text(value) => text(value),
            Self::Number(value) => value.to_string(),
            Self::Seconds(value) => value.to_string(),
            Self::Flag(value) => value.to_string(),
            Self::List(values) => {
                let values: Vec<String> = values.iter().map(|v| text(v)).collect();
                format!("[{}]", values.join(", "))
            }
        }
    }
}

/// Something an operator wants to see.
#[track_caller]
pub fn info(message: &str, fields: &[(&str, Field<'_>)]) {
    write("info", message, fields);
}

/// Something an operator should think about.
#[track_caller]
pub fn warn(message: &str, fields: &[(&str, Field<'_>)]) {
    write("warn", message, fields);
}

/// Something that failed; the command's own error line follows.
#[track_caller]
pub fn error(message: &str, fields: &[(&str, Field<'_>)]) {
    write("error", message, fields);
}

#[track_caller]
fn write(level: &str, message: &str, fields: &[(&str, Field<'_>)]) {
    let caller = Location::caller();
    let file = caller.file().rsplit('/').next().unwrap_or_default();
    let mut line = format!(
        "{}\t{level}\tetcdutl/{file}:{}\t{message}",
        Timestamp::now().seconds(),
        caller.line()
    );
    if !fields.is_empty() {
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\": {}", value.json()))
            .collect();
        line.push_str(&format!("\t{{{}}}", fields.join(", ")));
    }
    report::err(&line);
}
