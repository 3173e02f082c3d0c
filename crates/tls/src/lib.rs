//! TLS as etcd's flags describe it, for listeners and for dialling.
//!
//! Owns what the flags of certificates mean: which files are read and when (again, at every handshake,
//! so that a rotation needs no restart), who is let in (authorities, revocation lists, allowed names,
//! addresses against certificates), which versions and suites are spoken, self-signed certificates,
//! and Go's words for what goes wrong. It knows nothing of what is said over a connection, makes no
//! socket and keeps no task of its own.
//!
//! Cryptography is AWS-LC's, built by a C compiler alone. `ring` would be smaller, but has no P-521,
//! the curve of every certificate that the original makes for itself.

mod check;
mod client;
mod error;
mod examine;
mod info;
mod load;
mod member;
mod names;
mod san;
mod self_signed;
mod server;
mod verify;
mod words;

pub use check::common_name;
pub use client::{ClientStream, ClientTls};
pub use error::TlsError;
pub use examine::{Examined, Use, examine};
pub use info::TlsInfo;
pub use member::MemberStream;
pub use names::{Version, check_names};
pub use rustls::pki_types::UnixTime;
pub use self_signed::self_signed;
pub use server::{Accepted, HANDSHAKE_TIMEOUT, Rejected, ServerStream, ServerTls, looks_like_tls};
