//! A namespace: clients see the keys below a prefix as if there were no others.
//!
//! Requests get the prefix, answers lose it. What is not below it is never asked for and never shown.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ferrite_client::pb::{self, RequestOp, ResponseOp, request_op::Request, response_op::Response};
use ferrite_proto::mvccpb::{Event, KeyValue};
use tonic::Status;

use crate::call::{Answer, Answering, Ask, Caller, Kv, SharedKv};

/// A prefix; the empty one changes nothing.
#[derive(Debug, Clone, Default)]
pub struct Namespace(Arc<[u8]>);

impl Namespace {
    /// Of a flag.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Namespace(prefix.as_bytes().into())
    }

    /// Of any bytes.
    #[must_use]
    pub fn of(prefix: &[u8]) -> Self {
        Namespace(prefix.into())
    }

    /// A namespace within this one.
    #[must_use]
    pub fn below(&self, prefix: &[u8]) -> Self {
        Namespace::of(&self.key(prefix))
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A key as members know it.
    #[must_use]
    pub fn key(&self, key: &[u8]) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.0.len() + key.len());
        whole.extend_from_slice(&self.0);
        whole.extend_from_slice(key);
        whole.freeze()
    }

    /// The end of a range as members know it. What is open ends with the namespace.
    #[must_use]
    pub fn end(&self, end: &[u8]) -> Bytes {
        match end {
            b"" => Bytes::new(),
            b"\0" => self.edge(),
            end => self.key(end),
        }
    }

    /// The first key behind all of them; of a prefix that nothing follows, the end of everything.
    fn edge(&self) -> Bytes {
        let mut edge = self.0.to_vec();
        while let Some(last) = edge.pop() {
            if let Some(next) = last.checked_add(1) {
                edge.push(next);
                return edge.into();
            }
        }
        Bytes::from_static(b"\0")
    }

    /// A key as clients know it. What is not below the prefix was not asked for, and stays as it is.
    #[must_use]
    pub fn bare(&self, key: &Bytes) -> Bytes {
        if key.starts_with(&self.0) {
            key.slice(self.0.len()..)
        } else {
            key.clone()
        }
    }

    /// The keys that are below the prefix, as clients know them.
    #[must_use]
    pub fn only(&self, keys: Vec<Bytes>) -> Vec<Bytes> {
        keys.into_iter()
            .filter(|key| key.starts_with(&self.0))
            .map(|key| self.bare(&key))
            .collect()
    }

    /// An event as clients know it.
    pub fn event(&self, event: &mut Event) {
        for pair in event.kv.iter_mut().chain(event.prev_kv.iter_mut()) {
            self.pair(pair);
        }
    }

    fn pair(&self, pair: &mut KeyValue) {
        pair.key = self.bare(&pair.key);
    }

    fn operation(&self, operation: &mut RequestOp) {
        match &mut operation.request {
            Some(Request::RequestRange(range)) => {
                range.range_end = self.end(&range.range_end);
                range.key = self.key(&range.key);
            }
            Some(Request::RequestPut(put)) => put.key = self.key(&put.key),
            Some(Request::RequestDeleteRange(delete)) => {
                delete.range_end = self.end(&delete.range_end);
                delete.key = self.key(&delete.key);
            }
            Some(Request::RequestTxn(txn)) => self.txn(txn),
            None => {}
        }
    }

    fn txn(&self, txn: &mut pb::TxnRequest) {
        for compare in &mut txn.compare {
            compare.range_end = self.end(&compare.range_end);
            compare.key = self.key(&compare.key);
        }
        for operation in txn.success.iter_mut().chain(&mut txn.failure) {
            self.operation(operation);
        }
    }

    fn answered(&self, answer: &mut ResponseOp) {
        match &mut answer.response {
            Some(Response::ResponseRange(range)) => self.ranged(range),
            Some(Response::ResponsePut(put)) => self.put(put),
            Some(Response::ResponseDeleteRange(delete)) => self.deleted(delete),
            Some(Response::ResponseTxn(txn)) => self.transacted(txn),
            None => {}
        }
    }

    fn ranged(&self, answer: &mut pb::RangeResponse) {
        answer.kvs.iter_mut().for_each(|pair| self.pair(pair));
    }

    fn put(&self, answer: &mut pb::PutResponse) {
        answer.prev_kv.iter_mut().for_each(|pair| self.pair(pair));
    }

    fn deleted(&self, answer: &mut pb::DeleteRangeResponse) {
        answer.prev_kvs.iter_mut().for_each(|pair| self.pair(pair));
    }

    fn transacted(&self, answer: &mut pb::TxnResponse) {
        for answer in &mut answer.responses {
            self.answered(answer);
        }
    }
}

/// The refusal of a request without a key, which the prefix would hide.
fn no_key() -> Status {
    Status::invalid_argument("etcdserver: key is not provided")
}

/// A store of which only one namespace is seen.
pub struct Below {
    kv: SharedKv,
    namespace: Namespace,
}

impl Below {
    /// What is below the prefix.
    #[must_use]
    pub fn new(kv: SharedKv, namespace: Namespace) -> Self {
        Below { kv, namespace }
    }
}

impl Kv for Below {
    fn ask<'a>(&'a self, caller: &'a Caller, mut ask: Ask) -> Answering<'a, Answer> {
        Box::pin(async move {
            let names = &self.namespace;
            match &mut ask {
                Ask::Range(range) => {
                    if range.key.is_empty() {
                        return Err(no_key());
                    }
                    range.range_end = names.end(&range.range_end);
                    range.key = names.key(&range.key);
                }
                Ask::Put(put) => {
                    if put.key.is_empty() {
                        return Err(no_key());
                    }
                    put.key = names.key(&put.key);
                }
                Ask::Delete(delete) => {
                    if delete.key.is_empty() {
                        return Err(no_key());
                    }
                    delete.range_end = names.end(&delete.range_end);
                    delete.key = names.key(&delete.key);
                }
                Ask::Txn(txn) => names.txn(txn),
                Ask::Compact(_) => {}
            }
            let mut answer = self.kv.ask(caller, ask).await?;
            match &mut answer {
                Answer::Range(answer) => names.ranged(answer),
                Answer::Put(answer) => names.put(answer),
                Answer::Delete(answer) => names.deleted(answer),
                Answer::Txn(answer) => names.transacted(answer),
                Answer::Compact(_) => {}
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_with_the_namespace() {
        let end = |prefix: &[u8], end: &'static [u8]| Namespace(prefix.into()).end(end);
        assert_eq!(end(b"a/", b"k")[..], *b"a/k");
        assert_eq!(end(b"a/", b"")[..], *b"");
        assert_eq!(end(b"a/", b"\0")[..], *b"a0");
        assert_eq!(end(b"a\xff", b"\0")[..], *b"b");
        assert_eq!(end(b"\xff\xff", b"\0")[..], *b"\0");
    }

    #[test]
    fn keys_lose_the_prefix_and_others_are_not_shown() {
        let names = Namespace::new("a/");
        assert_eq!(names.key(b"k")[..], *b"a/k");
        assert_eq!(names.bare(&Bytes::from_static(b"a/k"))[..], *b"k");
        let keys = [&b"a/k"[..], b"b/k", b"a", b"a/"].map(Bytes::from_static);
        assert_eq!(names.only(keys.to_vec()), [&b"k"[..], b""]);
    }
}
