//! The judges of certificates: the library's, with the original's additional questions.
//!
//! One is made for each handshake, so that what it says in Go's words, and whom it said it of, can be
//! asked of it afterwards.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use crate::check::{self, Allowed, Holder, Purpose};
use crate::error::TlsError;
use crate::load::Authorities;
use crate::words;

/// What the original says to a certificate that no list lets in.
const NOT_ALLOWED: &str = "client certificate authentication failed";

/// What a judge said, and of whom.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    said: Mutex<Option<(String, Holder)>>,
}

impl Verdict {
    fn say(&self, text: impl Into<String>, of: &CertificateDer<'_>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        *said = Some((text.into(), Holder::of(of)));
    }

    pub(crate) fn take(&self) -> Option<(String, Holder)> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.take()
    }
}

fn refuse(error: CertificateError) -> Error {
    Error::InvalidCertificate(error)
}

/// Asks the library, unless the certificate is one of the trusted ones itself.
fn chain<T>(
    authorities: &Authorities,
    end_entity: &CertificateDer<'_>,
    purpose: Purpose,
    now: UnixTime,
    yes: T,
    ask: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let known = authorities
        .certificates
        .iter()
        .any(|known| known.as_ref() == end_entity.as_ref());
    if known {
        return check::trusted_itself(end_entity, purpose, now)
            .map(|()| yes)
            .map_err(refuse);
    }
    ask()
}

/// What all judges of one listener share.
#[derive(Debug)]
pub(crate) struct ClientRules {
    library: Arc<dyn ClientCertVerifier>,
    authorities: Arc<Authorities>,
    allowed: Allowed,
}

impl ClientRules {
    pub(crate) fn new(
        provider: &Arc<CryptoProvider>,
        authorities: Arc<Authorities>,
        allowed: Allowed,
    ) -> Result<Self, TlsError> {
        let library = WebPkiClientVerifier::builder_with_provider(
            Arc::clone(&authorities.store),
            Arc::clone(provider),
        )
        .build()
        .map_err(|error| TlsError::Library(error.to_string()))?;
        Ok(ClientRules {
            library,
            authorities,
            allowed,
        })
    }
}

/// Judges whoever connects.
#[derive(Debug)]
pub(crate) struct ClientJudge {
    pub(crate) rules: Arc<ClientRules>,
    pub(crate) revoked: Option<Result<Arc<BTreeSet<Vec<u8>>>, TlsError>>,
    pub(crate) verdict: Arc<Verdict>,
}

impl ClientCertVerifier for ClientJudge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.rules.library.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let rules = &self.rules;
        let verified = chain(
            &rules.authorities,
            end_entity,
            Purpose::Client,
            now,
            ClientCertVerified::assertion(),
            || {
                rules
                    .library
                    .verify_client_cert(end_entity, intermediates, now)
            },
        )
        .inspect_err(|error| self.verdict.say(words::tls(error), end_entity))
        .map_err(|error| match error {
            // The alert that goes with this is "bad certificate", the original's for what is meant for something else.
            Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ) => refuse(CertificateError::NotValidForName),
            other => other,
        })?;
        if !rules.allowed.lets_in(end_entity) {
            rules.allowed.tell(end_entity);
            self.verdict.say(NOT_ALLOWED, end_entity);
            // The alert that goes with this one is the original's, "bad certificate".
            return Err(refuse(CertificateError::NotValidForName));
        }
        match &self.revoked {
            None => {}
            // As in the original, a list that cannot be read lets nobody in.
            Some(Err(error)) => {
                self.verdict.say(error.to_string(), end_entity);
                return Err(refuse(CertificateError::UnknownRevocationStatus));
            }
            Some(Ok(serials)) => {
                let all: Vec<&CertificateDer<'_>> =
                    std::iter::once(end_entity).chain(intermediates).collect();
                if let Some(text) = check::revoked(serials, &all) {
                    self.verdict.say(text, end_entity);
                    return Err(refuse(CertificateError::Revoked));
                }
            }
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.rules
            .library
            .verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.rules
            .library
            .verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.library.supported_verify_schemes()
    }
}

/// What all judges of one dialler share.
#[derive(Debug)]
pub(crate) struct ServerRules {
    provider: Arc<CryptoProvider>,
    /// `None` where there is no authority at all.
    library: Option<Arc<WebPkiServerVerifier>>,
    authorities: Arc<Authorities>,
    allowed: Allowed,
    skip: bool,
}

impl ServerRules {
    pub(crate) fn new(
        provider: &Arc<CryptoProvider>,
        authorities: Arc<Authorities>,
        allowed: Allowed,
        skip: bool,
    ) -> Self {
        let library = WebPkiServerVerifier::builder_with_provider(
            Arc::clone(&authorities.store),
            Arc::clone(provider),
        )
        .build()
        .ok();
        ServerRules {
            provider: Arc::clone(provider),
            library,
            authorities,
            allowed,
            skip,
        }
    }
}

/// Judges whom we connect to.
#[derive(Debug)]
pub(crate) struct ServerJudge {
    pub(crate) rules: Arc<ServerRules>,
    pub(crate) host: String,
    pub(crate) verdict: Arc<Verdict>,
}

impl ServerJudge {
    fn not_allowed(&self, end_entity: &CertificateDer<'_>) -> Error {
        self.rules.allowed.tell(end_entity);
        self.verdict.say(NOT_ALLOWED, end_entity);
        let error = TlsError::Library(NOT_ALLOWED.to_owned());
        refuse(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

impl ServerCertVerifier for ServerJudge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let rules = &self.rules;
        if rules.skip {
            // Nothing is known of a certificate that was not checked, so no list lets it in.
            return if rules.allowed.everybody() {
                Ok(ServerCertVerified::assertion())
            } else {
                Err(self.not_allowed(end_entity))
            };
        }
        let yes = ServerCertVerified::assertion();
        let verified = chain(
            &rules.authorities,
            end_entity,
            Purpose::Server,
            now,
            yes,
            || match &rules.library {
                Some(library) => library.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                ),
                None => Err(refuse(CertificateError::UnknownIssuer)),
            },
        )
        .and_then(|verified| {
            if check::is_for(end_entity, &server_name.to_str()) {
                Ok(verified)
            } else {
                Err(refuse(CertificateError::NotValidForName))
            }
        })
        .inspect_err(|error| {
            let text = match error {
                Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                ) => format!(
                    "tls: failed to verify certificate: {}",
                    Holder::of(end_entity).not_for(&self.host)
                ),
                other => words::tls(other),
            };
            self.verdict.say(text, end_entity);
        })?;
        if !rules.allowed.lets_in(end_entity) {
            return Err(self.not_allowed(end_entity));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.rules.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.rules.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules
            .provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
