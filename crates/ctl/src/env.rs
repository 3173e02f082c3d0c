//! `ETCDCTL_*` variables: each global flag has one, a flag set both ways is refused, and a variable
//! that is no flag's, or whose value cannot be read, only earns a warning.

use std::ffi::OsString;

use crate::exit::{self, Failure};
use crate::gofmt::quote;
use crate::report;
use ferrite_cli::flags::{Flag, Values};

const PREFIX: &str = "ETCDCTL_";
/// Chooses between the program's two faces; every user of the image has it set.
pub const API: &str = "ETCDCTL_API";
const CONFLICT: &str = "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))";

/// The variable of a flag.
pub fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_uppercase().replace('-', "_"))
}

/// Takes the flags that were not given from the environment.
pub fn apply(
    values: &mut Values,
    inherited: &[&'static Flag],
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(), Failure> {
    let environment: Vec<(String, String)> = environment
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    for (name, value) in environment {
        let flag = inherited.iter().copied().find(|f| variable(f.name) == name);
        match flag {
            Some(flag) if values.changed(flag.name) => {
                report::log("fatal", CONFLICT, &[("environment-variable", &name)]);
                return Err(Failure::silent(exit::ERROR));
            }
            Some(flag) if !value.is_empty() => {
                // It does not end the program in the original either, which does not say a word.
                if let Err(error) = values.set(flag, &value) {
                    let text = format!(
                        "invalid value {} for {name}: {error}",
                        quote(value.as_bytes())
                    );
                    report::log(
                        "warn",
                        "ignored environment variable",
                        &[("environment-variable", &name), ("error", &text)],
                    );
                }
            }
            None if name == API && value == "3" => {}
            _ => report::log(
                "warn",
                "unrecognized environment variable",
                &[("environment-variable", &format!("{name}={value}"))],
            ),
        }
    }
    Ok(())
}
