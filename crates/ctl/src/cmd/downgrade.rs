//! `downgrade …`.

use ferrite_client::pb::{DowngradeRequest, downgrade_request::DowngradeAction};

use super::{Words, text};
use crate::exit::Failure;
use crate::session::Session;

/// The version that a command takes.
pub fn version(words: &Words) -> Result<String, Failure> {
    match words {
        [] => Err(Failure::args("TARGET_VERSION not provided")),
        [version] if version.is_empty() => Err(Failure::args("target version not provided")),
        [version] => Ok(text(version)),
        _ => Err(Failure::args("too many arguments")),
    }
}

async fn run(
    session: &Session,
    action: DowngradeAction,
    version: String,
    step: &str,
) -> Result<(), Failure> {
    let client = session.client().await?;
    let request = DowngradeRequest {
        action: action.into(),
        version,
    };
    let response = client.maintenance().downgrade(request).await?;
    session.printer.downgrade(step, response.get_ref())
}

/// `downgrade validate`.
pub async fn validate(session: &Session, version: String) -> Result<(), Failure> {
    run(session, DowngradeAction::Validate, version, "validate").await
}

/// `downgrade enable`.
pub async fn enable(session: &Session, version: String) -> Result<(), Failure> {
    run(session, DowngradeAction::Enable, version, "enable").await
}

/// `downgrade cancel`.
pub async fn cancel(session: &Session) -> Result<(), Failure> {
    run(session, DowngradeAction::Cancel, String::new(), "cancel").await
}
