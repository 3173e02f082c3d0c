//! Results in the forms that `--write-out` names.

use ferrite_cli::{frame, gofmt, report};
use ferrite_mvcc::HashKv;

use crate::error::{BAD_FEATURE, Failure};
use crate::status::Status;

/// A form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line with commas.
    Simple,
    /// A line a field.
    Fields,
    /// JSON.
    Json,
    /// A framed table.
    Table,
    /// Refused when something is to be printed.
    Protobuf,
}

impl Form {
    /// Reads the flag.
    ///
    /// # Errors
    /// Unknown forms, with the exit code for them.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "simple" => Ok(Self::Simple),
            "fields" => Ok(Self::Fields),
            "json" => Ok(Self::Json),
            "table" => Ok(Self::Table),
            "protobuf" => Ok(Self::Protobuf),
            _ => Err(Failure::new(
                BAD_FEATURE,
                "unsupported output format (--write-out can be fields, json, simple or table)",
            )),
        }
    }
}

/// A value: what JSON and fields show, and what tables and lines show.
struct Item {
    json_name: &'static str,
    field_name: &'static str,
    column: &'static str,
    raw: Raw,
    cell: String,
}

enum Raw {
    Number(i128),
    Text(String),
}

fn number(
    (json_name, field_name, column): (&'static str, &'static str, &'static str),
    value: impl Into<i128>,
    cell: impl FnOnce(i128) -> String,
) -> Item {
    let value = value.into();
    Item {
        json_name,
        field_name,
        column,
        raw: Raw::Number(value),
        cell: cell(value),
    }
}

fn decimal(value: i128) -> String {
    value.to_string()
}

/// Prints the status of a snapshot.
///
/// # Errors
/// A form that there is not.
pub fn status(form: Form, status: &Status) -> Result<(), Failure> {
    let size = gofmt::size(status.total_size);
    print(
        form,
        &[
            number(("hash", "Hash", "hash"), status.hash, |v| format!("{v:x}")),
            number(
                ("revision", "Revision", "revision"),
                status.revision,
                decimal,
            ),
            number(
                ("totalKey", "Keys", "total keys"),
                status.total_keys as u64,
                decimal,
            ),
            number(
                ("totalSize", "Size", "total size"),
                status.total_size,
                |_| size,
            ),
            Item {
                json_name: "version",
                field_name: "Version",
                column: "version",
                raw: Raw::Text(status.version.clone()),
                cell: status.version.clone(),
            },
        ],
    )
}

/// Prints a hash.
///
/// # Errors
/// A form that there is not.
pub fn hash_kv(form: Form, hash: &HashKv) -> Result<(), Failure> {
    print(
        form,
        &[
            number(("hash", "Hash", "hash"), hash.hash, decimal),
            number(
                ("hashRevision", "Hash revision", "hash revision"),
                hash.hash_revision,
                decimal,
            ),
            number(
                ("compactRevision", "Compact revision", "compact revision"),
                hash.compact_revision,
                decimal,
            ),
        ],
    )
}

fn print(form: Form, items: &[Item]) -> Result<(), Failure> {
    let cells = || {
        items
            .iter()
            .map(|item| item.cell.clone())
            .collect::<Vec<_>>()
    };
    match form {
        Form::Simple => report::line(&cells().join(", ")),
        Form::Fields => {
            for item in items {
                let value = match &item.raw {
                    Raw::Number(number) => number.to_string(),
                    Raw::Text(text) => text.clone(),
                };
                report::line(&format!("\"{}\" : {value}", item.field_name));
            }
        }
        Form::Json => {
            let members: Vec<String> = items
                .iter()
                .map(|item| match &item.raw {
                    Raw::Number(number) => format!("\"{}\":{number}", item.json_name),
                    // A version holds digits and dots only.
                    Raw::Text(text) => format!("\"{}\":\"{text}\"", item.json_name),
                })
                .collect();
            report::line(&format!("{{{}}}", members.join(",")));
        }
        Form::Table => {
            let header: Vec<&str> = items.iter().map(|item| item.column).collect();
            report::out(frame::render(&header, &[cells()]).as_bytes());
        }
        Form::Protobuf => {
            return Err(Failure::new(
                BAD_FEATURE,
                "protobuf not supported as output format",
            ));
        }
    }
    Ok(())
}
