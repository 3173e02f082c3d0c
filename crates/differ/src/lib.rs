//! The same requests to the original and to us, and every answer compared.
//!
//! Sequences of requests are generated from a seed ([`generate()`]) and run against a pair of servers,
//! one of each kind, which live through all sequences as one long history ([`Pair`]): nothing is ever
//! reset, so the two stores must evolve alike. Answers are compared whole, after what must differ
//! (IDs, terms, tokens) is made equal and after what etcd changed since the version compared with is
//! accounted for ([`exceptions`]). A sequence that is answered differently is made as small as it
//! goes on fresh servers and printed as a script ([`shrink()`]).
//!
//! Requests are issued one after the other, by several clients in turn, so that every outcome is
//! determined. This crate holds no opinion on what is right: the original decides.

mod answer;
mod ask;
mod contest;
pub mod exceptions;
mod fault;
mod generate;
mod pair;
mod revision;
mod rng;
mod session;
mod shrink;
mod side;
mod step;
mod streams;

pub use answer::Answer;
pub use fault::Fault;
pub use generate::{Areas, generate};
pub use pair::{Difference, Pair};
pub use session::{Failure, Session, Settings, Summary};
pub use shrink::shrink;
pub use step::{Call, Step, Token};
