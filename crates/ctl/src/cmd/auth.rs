//! `auth …`.

use ferrite_client::pb;

use super::Words;
use crate::exit::Failure;
use crate::report;
use crate::session::Session;

const NO_ROOT_ROLE: &str = "etcdserver: root user does not have root role";
const ROOT: &str = "root";

/// Refuses arguments of `auth …`.
pub fn check(words: &Words, name: &str) -> Result<(), Failure> {
    if words.is_empty() {
        return Ok(());
    }
    Err(Failure::args(format!(
        "auth {name} command does not accept any arguments"
    )))
}

/// `auth enable`. A root user without its role is given it.
pub async fn enable(session: &Session) -> Result<(), Failure> {
    let client = session.client().await?;
    let enable = async || client.auth().auth_enable(pb::AuthEnableRequest {}).await;
    if let Err(status) = enable().await {
        if status.message() != NO_ROOT_ROLE {
            return Err(status.into());
        }
        let role = pb::AuthRoleAddRequest {
            name: ROOT.to_owned(),
        };
        client.auth().role_add(role).await?;
        let grant = pb::AuthUserGrantRoleRequest {
            user: ROOT.to_owned(),
            role: ROOT.to_owned(),
        };
        client.auth().user_grant_role(grant).await?;
        enable().await?;
    }
    report::line("Authentication Enabled");
    Ok(())
}

/// `auth disable`.
pub async fn disable(session: &Session) -> Result<(), Failure> {
    let client = session.client().await?;
    client
        .auth()
        .auth_disable(pb::AuthDisableRequest {})
        .await?;
    report::line("Authentication Disabled");
    Ok(())
}

/// `auth status`.
pub async fn status(session: &Session) -> Result<(), Failure> {
    let client = session.client().await?;
    let response = client.auth().auth_status(pb::AuthStatusRequest {}).await?;
    session.printer.auth_status(response.get_ref())
}
