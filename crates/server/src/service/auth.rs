//! `etcdserverpb.Auth`: every request goes through the log, those that only ask included.

use ferrite_apply::{AuthAnswer as Answer, Response as Applied};
use ferrite_auth::Error as AuthError;
use ferrite_proto::etcdserverpb::auth_server::Auth;
use ferrite_proto::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
    InternalAuthenticateRequest, InternalRaftRequest, ResponseHeader,
};
use tonic::{Request, Response, Status};

use super::{Context, mismatched};
use crate::auth::{Caller, GateError};
use crate::errors;

/// The service.
#[derive(Clone)]
pub struct AuthService(pub Context);

impl AuthService {
    /// The checks that every call passes first; who calls, and what it asks.
    fn admit<T>(&self, request: Request<T>) -> Result<(Caller, T), Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let caller = Caller::of(&request);
        Ok((caller, request.into_inner()))
    }

    async fn ask(
        &self,
        caller: &Caller,
        request: InternalRaftRequest,
    ) -> Result<(Option<ResponseHeader>, Answer), Status> {
        match self.0.propose(caller, request).await? {
            Applied::Auth { revision, answer } => Ok((Some(self.0.header(revision)), answer)),
            _ => Err(mismatched()),
        }
    }

    /// As [`AuthService::ask`], for what answers with a header alone.
    async fn change(
        &self,
        caller: &Caller,
        request: InternalRaftRequest,
    ) -> Result<Option<ResponseHeader>, Status> {
        match self.ask(caller, request).await? {
            (header, Answer::Done) => Ok(header),
            _ => Err(mismatched()),
        }
    }

    /// Whether the password is right; the auth revision it was right at.
    async fn check_password(&self, name: &str, plain: &str) -> Result<u64, GateError> {
        let known = self.0.node.auth().state().credentials(name)?;
        if self.0.gate.matches(known.hashed, plain).await? {
            return Ok(known.revision);
        }
        tracing::info!("user-name" = name, "invalid password");
        Err(AuthError::AuthFailed.into())
    }
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_enable: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_disable: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_status: Some(asked),
            ..Default::default()
        };
        let (header, Answer::Status { enabled, revision }) = self.ask(&caller, request).await?
        else {
            return Err(mismatched());
        };
        Ok(Response::new(AuthStatusResponse {
            header,
            enabled,
            auth_revision: revision,
        }))
    }

    /// The password stays here: what goes into the log only says that it was right.
    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let (_, AuthenticateRequest { name, password }) = self.admit(request)?;
        let node = &self.0.node;
        let read = node.linearizable().await;
        read.map_err(|error| errors::status(&error))?;
        loop {
            let checked = self.check_password(&name, &password).await;
            let revision = checked.map_err(|error| {
                if !errors::is_not_enabled(&error) {
                    tracing::warn!(user = name.as_str(), error = %error, "invalid authentication was requested");
                }
                errors::gate(&error)
            })?;
            let prefix = self.0.gate.choose_prefix();
            let request = InternalRaftRequest {
                authenticate: Some(InternalAuthenticateRequest {
                    name: name.clone(),
                    password: String::new(),
                    simple_token: prefix.map_err(|error| errors::gate(&error))?,
                }),
                ..Default::default()
            };
            // In nobody's name: whoever asks for a token may carry one that is over.
            let applied = node.propose(request).await;
            let Applied::Auth {
                revision: store_revision,
                answer:
                    Answer::Authenticated {
                        user,
                        revision: given_at,
                        prefix,
                        index,
                    },
            } = applied.map_err(|error| errors::status(&error))?
            else {
                return Err(mismatched());
            };
            // Tried again when users changed meanwhile: the password might be another by now.
            if revision == node.auth().revision() {
                let token = self.0.gate.token(&user, given_at, &prefix, index);
                return Ok(Response::new(AuthenticateResponse {
                    header: Some(self.0.header(store_revision)),
                    token: token.map_err(|error| errors::gate(&error))?,
                }));
            }
            tracing::info!("revision when password checked became stale; retrying");
        }
    }

    async fn user_add(
        &self,
        request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        let (caller, mut asked) = self.admit(request)?;
        if !asked.options.is_some_and(|options| options.no_password) {
            let hashed = self.0.gate.hash(std::mem::take(&mut asked.password)).await;
            asked.hashed_password = hashed.map_err(|error| errors::gate(&error))?;
        }
        let request = InternalRaftRequest {
            auth_user_add: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_user_get: Some(asked),
            ..Default::default()
        };
        match self.ask(&caller, request).await? {
            (header, Answer::Roles(roles)) => {
                Ok(Response::new(AuthUserGetResponse { header, roles }))
            }
            _ => Err(mismatched()),
        }
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_user_list: Some(asked),
            ..Default::default()
        };
        match self.ask(&caller, request).await? {
            (header, Answer::Users(users)) => {
                Ok(Response::new(AuthUserListResponse { header, users }))
            }
            _ => Err(mismatched()),
        }
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_user_delete: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    /// Without a password the hash counts as it was sent.
    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let (caller, mut asked) = self.admit(request)?;
        if !asked.password.is_empty() {
            let hashed = self.0.gate.hash(std::mem::take(&mut asked.password)).await;
            asked.hashed_password = hashed.map_err(|error| errors::gate(&error))?;
        }
        let request = InternalRaftRequest {
            auth_user_change_password: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_user_grant_role: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_user_revoke_role: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_role_add: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_role_get: Some(asked),
            ..Default::default()
        };
        match self.ask(&caller, request).await? {
            (header, Answer::Permissions(perm)) => {
                Ok(Response::new(AuthRoleGetResponse { header, perm }))
            }
            _ => Err(mismatched()),
        }
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_role_list: Some(asked),
            ..Default::default()
        };
        match self.ask(&caller, request).await? {
            (header, Answer::Roles(roles)) => {
                Ok(Response::new(AuthRoleListResponse { header, roles }))
            }
            _ => Err(mismatched()),
        }
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_role_delete: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_role_grant_permission: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let request = InternalRaftRequest {
            auth_role_revoke_permission: Some(asked),
            ..Default::default()
        };
        let header = self.change(&caller, request).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }
}
