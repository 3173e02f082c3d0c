//! What every service asks before it acts for somebody.

use ferrite_apply::Response as Applied;
use ferrite_auth::{AuthInfo, Checker, Error as AuthError, State};
use ferrite_node::Error;
use ferrite_proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use tonic::Status;

use super::Context;
use crate::auth::Caller;
use crate::errors;
use crate::spans;

/// Judges what is done with leases.
pub type LeaseChecker<'a> = Checker<'a, &'a dyn Fn(i64) -> Option<Vec<Box<[u8]>>>>;

/// The right to read, as it was when the reading began.
#[must_use = "what was read may be given out only if users and roles are still the same"]
pub struct ReadRight {
    /// 0 for nobody, whose rights do not change.
    revision: u64,
}

impl ReadRight {
    /// To be asked after the reading, and before its result is given out or its failure told.
    ///
    /// # Errors
    /// Users or roles changed meanwhile.
    pub fn still_holds(&self, context: &Context) -> Result<(), Status> {
        if self.revision != 0 && self.revision != context.node.auth().revision() {
            return Err(errors::auth(AuthError::OldRevision));
        }
        Ok(())
    }
}

impl Context {
    async fn who(&self, caller: &Caller) -> Result<Option<AuthInfo>, Error> {
        self.gate.who(&self.node, caller).await
    }

    /// Lets anybody pass whom the cluster knows; everybody while authentication is off.
    ///
    /// # Errors
    /// The status to answer with.
    pub async fn require_user(&self, caller: &Caller) -> Result<(), Status> {
        if !self.node.auth().enabled() {
            return Ok(());
        }
        match self.who(caller).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(errors::auth(AuthError::UserEmpty)),
            Err(error) => Err(errors::status(&error)),
        }
    }

    /// Lets root pass; everybody while authentication is off.
    ///
    /// # Errors
    /// The status to answer with.
    pub async fn require_admin(&self, caller: &Caller) -> Result<(), Status> {
        let who = self.who(caller).await;
        let who = who.map_err(|error| errors::status(&error))?;
        let state = self.node.auth().state();
        state
            .is_admin_permitted(&who.unwrap_or_default())
            .map_err(errors::auth)
    }

    /// Judges who may read, before the reading.
    ///
    /// # Errors
    /// The status to answer with.
    pub async fn may_read(
        &self,
        caller: &Caller,
        judge: impl FnOnce(&State, &AuthInfo) -> Result<(), AuthError> + Send,
    ) -> Result<ReadRight, Status> {
        if !self.node.auth().enabled() {
            return Ok(ReadRight { revision: 0 });
        }
        let who = self.judged(caller, judge).await?;
        Ok(ReadRight {
            revision: who.revision,
        })
    }

    /// As the two steps of a read, for what changes nothing and is done at once.
    async fn judged(
        &self,
        caller: &Caller,
        judge: impl FnOnce(&State, &AuthInfo) -> Result<(), AuthError> + Send,
    ) -> Result<AuthInfo, Status> {
        let who = self.who(caller).await;
        let who = who.map_err(|error| errors::status(&error))?;
        let who = who.unwrap_or_default();
        judge(&self.node.auth().state(), &who).map_err(errors::auth)?;
        Ok(who)
    }

    /// Judges what is done with leases on this member, without the log. Needs a user in any case.
    ///
    /// # Errors
    /// The status to answer with.
    pub async fn may_use_leases(
        &self,
        caller: &Caller,
        judge: impl FnOnce(&LeaseChecker<'_>) -> Result<(), AuthError> + Send,
    ) -> Result<ReadRight, Status> {
        let auth = self.node.auth();
        if !auth.enabled() {
            return Ok(ReadRight { revision: 0 });
        }
        let revision = auth.revision();
        let who = self.who(caller).await;
        let who = who.map_err(|error| errors::status(&error))?;
        let who = who.ok_or_else(|| errors::auth(AuthError::UserEmpty))?;
        let leases = self.node.leases();
        let state = auth.state();
        judge(&Checker::new(&state, &who, &|id| leases.keys(id))).map_err(errors::auth)?;
        // Root's rights do not depend on what changes.
        let root = state.enabled() && state.is_admin_permitted(&who).is_ok();
        Ok(ReadRight {
            revision: if root { 0 } else { revision },
        })
    }

    /// Puts a request into the log in the caller's name.
    pub fn propose<'a>(
        &'a self,
        caller: &Caller,
        request: InternalRaftRequest,
    ) -> impl Future<Output = Result<Applied, Status>> + Send + use<'a> {
        // Encoded here unless somebody has to be recognised first: the request is a large struct, and not
        // to be kept with the call.
        let named = if self.node.auth().enabled() {
            let caller = caller.clone();
            Err(Box::pin(
                async move { self.propose_as(&caller, request).await },
            ))
        } else {
            Ok(self.node.propose_until(request, caller.deadline()))
        };
        async move {
            spans::event("Send raft proposal");
            let answer = match named {
                Ok(answer) => answer.await,
                Err(answer) => answer.await,
            };
            spans::event("Receive raft result");
            answer.map_err(|error| errors::status(&error))
        }
    }

    async fn propose_as(
        &self,
        caller: &Caller,
        mut request: InternalRaftRequest,
    ) -> Result<Applied, Error> {
        // Asked before the token is looked at, as in the original.
        if self.node.refuses(&request) {
            return Err(Error::TooManyRequests);
        }
        if let Some(who) = self.who(caller).await? {
            request.header = Some(RequestHeader {
                id: 0,
                username: who.username,
                auth_revision: who.revision,
            });
        }
        self.node.propose_until(request, caller.deadline()).await
    }
}
