//! `role …`.

use bytes::Bytes;
use ferrite_client::pb;
use ferrite_proto::authpb::{Permission, permission};

use super::{Words, kv, text};
use crate::exit::Failure;
use crate::session::Session;
use ferrite_cli::flags::Values;

const BOTH: &str = "--from-key and --prefix flags are mutually exclusive";
/// The first key, and as the end of a range: there is none.
const ZERO: &[u8] = b"\0";

/// The one name that a command takes.
pub fn name(words: &Words, command: &str) -> Result<String, Failure> {
    let [name] = words else {
        return Err(Failure::args(format!(
            "role {command} command requires role name as its argument"
        )));
    };
    Ok(text(name))
}

/// Refuses arguments of `role list`.
pub fn check_list(words: &Words) -> Result<(), Failure> {
    if words.is_empty() {
        return Ok(());
    }
    Err(Failure::args("role list command requires no arguments"))
}

/// The range that a key, an end and the flags mean together.
fn range(values: &Values, key: &[u8], more: &Words) -> Result<(Bytes, Bytes), Failure> {
    let (prefix, from_key) = (values.bool("prefix"), values.bool("from-key"));
    let wrong = |text: &str| Err(Failure::args(text));
    let end = if key.is_empty() {
        if prefix && from_key {
            return wrong(BOTH);
        }
        let end = if prefix || from_key { ZERO } else { b"" };
        return Ok((Bytes::from_static(ZERO), Bytes::from_static(end)));
    } else if let Some(end) = more.first() {
        if prefix {
            return wrong("unexpected endkey argument with --prefix flag");
        }
        if from_key {
            return wrong("unexpected endkey argument with --from-key flag");
        }
        Bytes::copy_from_slice(end)
    } else if prefix && from_key {
        return wrong(BOTH);
    } else if prefix {
        kv::prefix_end(key)
    } else if from_key {
        Bytes::from_static(ZERO)
    } else {
        Bytes::new()
    };
    Ok((Bytes::copy_from_slice(key), end))
}

/// The request of `role grant-permission`.
pub fn grant_request(
    values: &Values,
    words: &Words,
) -> Result<pb::AuthRoleGrantPermissionRequest, Failure> {
    let [role, kind, key, more @ ..] = words else {
        return Err(Failure::args(
            "role grant command requires role name, permission type, and key [endkey] as its argument",
        ));
    };
    let kind = text(kind);
    let perm_type = permission::Type::from_str_name(&kind.to_uppercase())
        .ok_or_else(|| Failure::args(format!("invalid permission type: {kind}")))?;
    let (key, range_end) = range(values, key, more)?;
    Ok(pb::AuthRoleGrantPermissionRequest {
        name: text(role),
        perm: Some(Permission {
            perm_type: perm_type.into(),
            key,
            range_end,
        }),
    })
}

/// The request of `role revoke-permission`, and the key as it was given.
pub fn revoke_request(
    values: &Values,
    words: &Words,
) -> Result<(pb::AuthRoleRevokePermissionRequest, String), Failure> {
    let [role, given, more @ ..] = words else {
        return Err(Failure::args(
            "role revoke-permission command requires role name and key [endkey] as its argument",
        ));
    };
    let (key, range_end) = range(values, given, more)?;
    let request = pb::AuthRoleRevokePermissionRequest {
        role: text(role),
        key,
        range_end,
    };
    Ok((request, text(given)))
}

/// `role add`.
pub async fn add(session: &Session, name: String) -> Result<(), Failure> {
    let client = session.client().await?;
    let done = format!("Role {name} created");
    let request = pb::AuthRoleAddRequest { name };
    let r = client.auth().role_add(request).await?.into_inner();
    session.printer.done(&done, r.header.as_ref(), &r)
}

/// `role delete`.
pub async fn delete(session: &Session, role: String) -> Result<(), Failure> {
    let client = session.client().await?;
    let done = format!("Role {role} deleted");
    let request = pb::AuthRoleDeleteRequest { role };
    let r = client.auth().role_delete(request).await?.into_inner();
    session.printer.done(&done, r.header.as_ref(), &r)
}

/// `role get`.
pub async fn get(session: &Session, role: String) -> Result<(), Failure> {
    let client = session.client().await?;
    let request = pb::AuthRoleGetRequest { role: role.clone() };
    let response = client.auth().role_get(request).await?;
    session.printer.role_get(&role, response.get_ref())
}

/// `role list`.
pub async fn list(session: &Session) -> Result<(), Failure> {
    let client = session.client().await?;
    let response = client.auth().role_list(pb::AuthRoleListRequest {}).await?;
    session.printer.role_list(response.get_ref())
}

/// `role grant-permission`.
pub async fn grant(
    session: &Session,
    request: pb::AuthRoleGrantPermissionRequest,
) -> Result<(), Failure> {
    let client = session.client().await?;
    let done = format!("Role {} updated", request.name);
    let r = client.auth().role_grant_permission(request).await?;
    let r = r.into_inner();
    session.printer.done(&done, r.header.as_ref(), &r)
}

/// `role revoke-permission`; `key` is the key as it was given.
pub async fn revoke(
    session: &Session,
    request: pb::AuthRoleRevokePermissionRequest,
    key: String,
) -> Result<(), Failure> {
    let client = session.client().await?;
    let role = &request.role;
    let what = match &request.range_end[..] {
        b"" => format!("key {key}"),
        ZERO => format!("range [{key}, <open ended>"),
        end => format!("range [{key}, {})", text(end)),
    };
    let done = format!("Permission of {what} is revoked from role {role}");
    let r = client.auth().role_revoke_permission(request).await?;
    let r = r.into_inner();
    session.printer.done(&done, r.header.as_ref(), &r)
}
