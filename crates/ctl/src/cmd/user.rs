//! `user …`.

use ferrite_client::pb;
use ferrite_proto::authpb;

use super::{Words, text};
use crate::exit::Failure;
use crate::prompt;
use crate::report;
use crate::session::Session;
use ferrite_cli::flags::Values;

/// The one name that a command takes.
pub fn name(words: &Words, command: &str) -> Result<String, Failure> {
    let [name] = words else {
        return Err(Failure::args(format!(
            "user {command} command requires user name as its argument"
        )));
    };
    Ok(text(name))
}

/// The user and the role that a command takes.
pub fn user_and_role(words: &Words, refusal: &str) -> Result<(String, String), Failure> {
    let [user, role] = words else {
        return Err(Failure::args(refusal));
    };
    Ok((text(user), text(role)))
}

/// The request of `user add`, with a password from wherever it is to come.
pub fn add_request(values: &Values, words: &Words) -> Result<pb::AuthUserAddRequest, Failure> {
    let given = name(words, "add")?;
    let no_password = values.bool("no-password");
    let flag = values.text("new-user-password");
    let (name, password) = if no_password {
        (given, String::new())
    } else if !flag.is_empty() {
        (given, flag)
    } else if let Some((name, password)) = given.split_once(':') {
        if name.is_empty() {
            return Err(Failure::args("empty user name is not allowed"));
        }
        (name.to_owned(), password.to_owned())
    } else {
        let password = password(values, &given)?;
        (given, password)
    };
    Ok(pb::AuthUserAddRequest {
        name,
        password,
        options: Some(authpb::UserAddOptions { no_password }),
        ..Default::default()
    })
}

fn password(values: &Values, user: &str) -> Result<String, Failure> {
    if values.bool("interactive") {
        prompt::new_password(user)
    } else {
        prompt::piped_password()
    }
}

/// `user add`.
pub async fn add(session: &Session, request: pb::AuthUserAddRequest) -> Result<(), Failure> {
    let client = session.client().await?;
    let done = format!("User {} created", request.name);
    let r = client.auth().user_add(request).await?.into_inner();
    session.printer.done(&done, r.header.as_ref(), &r)
}

/// `user delete`.
pub async fn delete(session: &Session, name: String) -> Result<(), Failure> {
    let client = session.client().await?;
    let done = format!("User {name} deleted");
    let request = pb::AuthUserDeleteRequest { name };
    let r = client.auth().user_delete(request).await?.into_inner();
    session.printer.done(&done, r.header.as_ref(), &r)
}

/// `user get`.
pub async fn get(session: &Session, name: String) -> Result<(), Failure> {
    let client = session.client().await?;
    let request = pb::AuthUserGetRequest { name: name.clone() };
    let user = client.auth().user_get(request).await?.into_inner();
    if !session.values.bool("detail") {
        return session.printer.user_get(&name, &user);
    }
    report::line(&format!("User: {name}"));
    for role in user.roles {
        report::line("");
        let request = pb::AuthRoleGetRequest { role: role.clone() };
        let response = client.auth().role_get(request).await?;
        session.printer.role_get(&role, response.get_ref())?;
    }
    Ok(())
}

/// Refuses arguments of `user list`.
pub fn check_list(words: &Words) -> Result<(), Failure> {
    if words.is_empty() {
        return Ok(());
    }
    Err(Failure::args("user list command requires no arguments"))
}

/// `user list`.
pub async fn list(session: &Session) -> Result<(), Failure> {
    let client = session.client().await?;
    let response = client.auth().user_list(pb::AuthUserListRequest {}).await?;
    session.printer.user_list(response.get_ref())
}

/// The request of `user passwd`.
pub fn passwd_request(
    values: &Values,
    words: &Words,
) -> Result<pb::AuthUserChangePasswordRequest, Failure> {
    let name = name(words, "passwd")?;
    Ok(pb::AuthUserChangePasswordRequest {
        password: password(values, &name)?,
        name,
        ..Default::default()
    })
}

/// `user passwd`.
pub async fn passwd(
    session: &Session,
    request: pb::AuthUserChangePasswordRequest,
) -> Result<(), Failure> {
    let client = session.client().await?;
    let r = client.auth().user_change_password(request).await?;
    let r = r.into_inner();
    let printer = session.printer;
    printer.done("Password updated", r.header.as_ref(), &r)
}

/// `user grant-role`.
pub async fn grant_role(session: &Session, user: String, role: String) -> Result<(), Failure> {
    let client = session.client().await?;
    let done = format!("Role {role} is granted to user {user}");
    let request = pb::AuthUserGrantRoleRequest { user, role };
    let r = client.auth().user_grant_role(request).await?.into_inner();
    session.printer.done(&done, r.header.as_ref(), &r)
}

/// `user revoke-role`.
pub async fn revoke_role(session: &Session, name: String, role: String) -> Result<(), Failure> {
    let client = session.client().await?;
    let done = format!("Role {role} is revoked from user {name}");
    let request = pb::AuthUserRevokeRoleRequest { name, role };
    let r = client.auth().user_revoke_role(request).await?.into_inner();
    session.printer.done(&done, r.header.as_ref(), &r)
}
