//! Users: the token that calls carry is fetched with a name and a password, and fetched anew when a
//! server no longer takes it. A token that was given by itself is never replaced.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use ferrite_proto::etcdserverpb::{AuthenticateRequest, auth_client::AuthClient};
use tonic::Status;

use super::{Channel, Shared};

/// How often one call may fetch a token: a server that goes on refusing new ones is out of order.
pub(super) const LOGINS_MAX: usize = 100;
/// The call that fetches a token; it needs none.
pub(super) const PATH: &str = "/etcdserverpb.Auth/Authenticate";

const NOT_ENABLED: &str = "etcdserver: authentication is not enabled";
const NO_USER: &str = "etcdserver: user name is empty";
const BAD_TOKEN: &str = "etcdserver: invalid auth token";
const OLD_REVISION: &str = "etcdserver: revision of auth store is old";

/// A user.
#[derive(Clone)]
pub(super) struct Credentials {
    name: String,
    password: String,
}

type Login<'a> = Pin<Box<dyn Future<Output = Result<(), Status>> + Send + 'a>>;

impl Channel {
    /// Logs in as a user, now and whenever a token runs out.
    pub(crate) async fn log_in_as(&self, name: &str, password: &str) -> Result<(), Status> {
        let credentials = Credentials {
            name: name.to_owned(),
            password: password.to_owned(),
        };
        self.shared.set_credentials(Some(credentials));
        self.shared.log_in().await
    }

    /// Continues as the user of another channel.
    pub(crate) fn share_login(&self, other: &Self) {
        self.shared.set_credentials(other.shared.credentials());
        self.set_token(other.token());
    }
}

impl Shared {
    fn set_credentials(&self, credentials: Option<Credentials>) {
        *self
            .credentials
            .write()
            .unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    fn credentials(&self) -> Option<Credentials> {
        self.credentials
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Fetches a token if a user is known. A cluster that asks for none is content without.
    pub(super) fn log_in(self: &Arc<Self>) -> Login<'_> {
        let credentials = self.credentials();
        Box::pin(async move {
            let Some(Credentials { name, password }) = credentials else {
                return Ok(());
            };
            let channel = Channel {
                shared: Arc::clone(self),
            };
            let request = AuthenticateRequest { name, password };
            match AuthClient::new(channel.clone()).authenticate(request).await {
                Ok(response) => channel.set_token(Some(response.into_inner().token)),
                Err(status) if status.message() == NOT_ENABLED => channel.set_token(None),
                Err(status) => return Err(status),
            }
            Ok(())
        })
    }

    /// Whether a new token, or only another attempt, may help against this refusal.
    pub(super) fn refuses_token(&self, status: &Status) -> bool {
        if self.config.token.is_some() {
            return false;
        }
        match status.message() {
            NO_USER => self.credentials().is_some(),
            BAD_TOKEN | OLD_REVISION => true,
            _ => false,
        }
    }
}
