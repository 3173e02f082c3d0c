//! What each request on keys and leases needs.

use ferrite_proto::etcdserverpb::request_op::Request;
use ferrite_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

use crate::{AuthInfo, Error, State};

/// Judges the requests of one caller against one state.
pub struct Checker<'a, K> {
    state: &'a State,
    who: &'a AuthInfo,
    /// The keys on a lease; `None` when there is no such lease.
    lease_keys: K,
}

impl<'a, K> Checker<'a, K>
where
    K: Fn(i64) -> Option<Vec<Box<[u8]>>>,
{
    /// `lease_keys` names the keys on a lease, `None` when there is no such lease.
    pub fn new(state: &'a State, who: &'a AuthInfo, lease_keys: K) -> Self {
        Checker {
            state,
            who,
            lease_keys,
        }
    }

    /// A put needs the right to write the key and, if it names a lease, every key on that: whoever
    /// attaches a key could otherwise not be the one who may revoke the lease. The previous pair needs
    /// the right to read.
    ///
    /// # Errors
    /// [`Error`], the first that applies.
    pub fn put(&self, request: &PutRequest) -> Result<(), Error> {
        self.state.is_put_permitted(self.who, &request.key)?;
        if request.lease != 0 {
            self.lease(request.lease)?;
        }
        if request.prev_kv {
            self.state.is_range_permitted(self.who, &request.key, &[])?;
        }
        Ok(())
    }

    /// A delete needs the right to write, and to read if it answers with what was deleted.
    ///
    /// # Errors
    /// [`Error`], the first that applies.
    pub fn delete_range(&self, request: &DeleteRangeRequest) -> Result<(), Error> {
        let (key, range_end) = (&request.key, &request.range_end);
        self.state
            .is_delete_range_permitted(self.who, key, range_end)?;
        if request.prev_kv {
            self.state.is_range_permitted(self.who, key, range_end)?;
        }
        Ok(())
    }

    /// A transaction needs all that its comparisons and both its branches need, whichever will run.
    ///
    /// # Errors
    /// [`Error`], the first that applies.
    pub fn txn(&self, request: &TxnRequest) -> Result<(), Error> {
        for compare in &request.compare {
            self.state
                .is_range_permitted(self.who, &compare.key, &compare.range_end)?;
        }
        let operations = request.success.iter().chain(&request.failure);
        for RequestOp { request } in operations {
            match request {
                Some(Request::RequestRange(range)) => {
                    self.state
                        .is_range_permitted(self.who, &range.key, &range.range_end)?;
                }
                Some(Request::RequestPut(put)) => self.put(put)?,
                Some(Request::RequestDeleteRange(delete)) => self.delete_range(delete)?,
                Some(Request::RequestTxn(txn)) => self.txn(txn)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Revoking or renewing a lease needs the right to write every key on it.
    ///
    /// # Errors
    /// [`Error`], the first that applies.
    pub fn lease(&self, id: i64) -> Result<(), Error> {
        if self.state.is_admin_permitted(self.who).is_ok() {
            return Ok(());
        }
        for key in (self.lease_keys)(id).unwrap_or_default() {
            self.state.is_put_permitted(self.who, &key)?;
        }
        Ok(())
    }

    /// Naming a lease's keys needs the right to read each of them.
    ///
    /// # Errors
    /// [`Error`], the first that applies.
    pub fn lease_keys(&self, id: i64) -> Result<(), Error> {
        if self.state.is_admin_permitted(self.who).is_ok() {
            return Ok(());
        }
        for key in (self.lease_keys)(id).unwrap_or_default() {
            self.state.is_range_permitted(self.who, &key, &[])?;
        }
        Ok(())
    }
}
