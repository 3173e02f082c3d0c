//! Key files: the PEM forms that the original's library reads, for each kind of method.

use ed25519_dalek as ed;
use rsa::pkcs8::{DecodePrivateKey as _, ObjectIdentifier, SubjectPublicKeyInfoRef};
use rsa::{BigUint, RsaPrivateKey, RsaPublicKey};
use sec1::der::{Decode as _, Encode as _};

use crate::error::Error;
use crate::method::{Family, Signer, Verifier};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Bits an RSA key may have: verifying with a longer one takes longer than anybody waits.
const RSA_BITS_MAX: usize = 16_384;

const NOT_PEM: &str = "invalid key: Key must be a PEM encoded PKCS1 or PKCS8 key";

/// The keys of one member.
pub(crate) struct Keys {
    /// Absent in a member that only verifies.
    pub signer: Option<Signer>,
    pub verifier: Verifier,
}

fn key_error(text: &str) -> Error {
    Error::Key(text.into())
}

/// What the file's first block holds, whatever its label says.
fn block(file: &[u8]) -> Result<Vec<u8>, Error> {
    pem::parse(file)
        .map(pem::Pem::into_contents)
        .map_err(|_| key_error(NOT_PEM))
}

impl Keys {
    pub(crate) fn new(family: Family, private: &[u8], public: &[u8]) -> Result<Self, Error> {
        if family == Family::Hmac {
            if private.is_empty() {
                return Err(Error::MissingKey);
            }
            return Ok(Keys {
                signer: Some(Signer::Hmac(private.to_vec())),
                verifier: Verifier::Hmac(private.to_vec()),
            });
        }
        let signer = match private {
            [] => None,
            file => Some(match family {
                Family::Ec => ec_private(&block(file)?)?,
                Family::Ed => ed_private(&block(file)?)?,
                _ => rsa_private(&block(file)?)?,
            }),
        };
        let given = match public {
            [] => None,
            file => Some(public_key(family, &block(file)?)?),
        };
        match (signer, given) {
            (None, None) => Err(Error::MissingKey),
            (None, Some(verifier)) => Ok(Keys {
                signer: None,
                verifier,
            }),
            (Some(signer), given) => {
                let verifier = signer.verifier();
                if given.is_some_and(|given| !given.same(&verifier)) {
                    return Err(Error::KeyMismatch);
                }
                Ok(Keys {
                    signer: Some(signer),
                    verifier,
                })
            }
        }
    }
}

/// PKCS #1 or PKCS #8.
fn rsa_private(der: &[u8]) -> Result<Signer, Error> {
    let pkcs1 = rsa::pkcs1::RsaPrivateKey::from_der(der).ok();
    let inner = match (&pkcs1, rsa::pkcs8::PrivateKeyInfo::from_der(der)) {
        (Some(_), _) => None,
        (None, Ok(info)) if info.algorithm.oid == RSA => Some(info.private_key),
        (None, Ok(_)) => return Err(key_error("key is not a valid RSA private key")),
        (None, Err(error)) => {
            return Err(Error::Key(format!(
                "x509: failed to parse private key: {error}"
            )));
        }
    };
    let key = match (pkcs1, inner) {
        (Some(key), _) => key,
        (None, inner) => rsa::pkcs1::RsaPrivateKey::from_der(inner.unwrap_or_default())
            .map_err(|error| Error::Key(format!("x509: failed to parse private key: {error}")))?,
    };
    let number = |digits: rsa::pkcs1::UintRef<'_>| BigUint::from_bytes_be(digits.as_bytes());
    if key.modulus.as_bytes().len() * 8 > RSA_BITS_MAX {
        return Err(Error::Key(format!(
            "the RSA key has more than {RSA_BITS_MAX} bits"
        )));
    }
    RsaPrivateKey::from_components(
        number(key.modulus),
        number(key.public_exponent),
        number(key.private_exponent),
        vec![number(key.prime1), number(key.prime2)],
    )
    .map(|key| Signer::Rsa(Box::new(key)))
    .map_err(|error| Error::Key(format!("crypto/rsa: invalid private key: {error}")))
}

/// SEC 1 or PKCS #8.
fn ec_private(der: &[u8]) -> Result<Signer, Error> {
    let (curve, secret) = if let Ok(key) = sec1::EcPrivateKey::from_der(der) {
        (
            key.parameters
                .and_then(|parameters| parameters.named_curve()),
            key.private_key.to_vec(),
        )
    } else {
        let info = rsa::pkcs8::PrivateKeyInfo::from_der(der).map_err(|error| {
            Error::Key(format!("x509: failed to parse EC private key: {error}"))
        })?;
        if info.algorithm.oid != EC {
            return Err(key_error("key is not a valid ECDSA private key"));
        }
        let key = sec1::EcPrivateKey::from_der(info.private_key).map_err(|error| {
            Error::Key(format!("x509: failed to parse EC private key: {error}"))
        })?;
        (
            info.algorithm.parameters_oid().ok(),
            key.private_key.to_vec(),
        )
    };
    let refused = |_| key_error("x509: invalid elliptic curve private key value");
    match curve {
        Some(P256) => p256::ecdsa::SigningKey::from_slice(&secret)
            .map(Signer::P256)
            .map_err(refused),
        Some(P384) => p384::ecdsa::SigningKey::from_slice(&secret)
            .map(Signer::P384)
            .map_err(refused),
        Some(P521) => p521::ecdsa::SigningKey::from_slice(&secret)
            .map(Signer::P521)
            .map_err(refused),
        _ => Err(key_error("x509: unknown elliptic curve")),
    }
}

/// PKCS #8.
fn ed_private(der: &[u8]) -> Result<Signer, Error> {
    let info = rsa::pkcs8::PrivateKeyInfo::from_der(der)
        .map_err(|error| Error::Key(format!("x509: failed to parse private key: {error}")))?;
    if info.algorithm.oid != ED25519 {
        return Err(key_error("key is not a valid Ed25519 private key"));
    }
    ed::SigningKey::from_pkcs8_der(der)
        .map(Signer::Ed)
        .map_err(|_| key_error("x509: invalid Ed25519 private key"))
}

/// A public key alone, or inside a certificate.
fn public_key(family: Family, der: &[u8]) -> Result<Verifier, Error> {
    let certified = x509_cert::Certificate::from_der(der)
        .ok()
        .and_then(|certificate| {
            certificate
                .tbs_certificate
                .subject_public_key_info
                .to_der()
                .ok()
        });
    let der = match (&certified, family) {
        // the original reads no certificate for Ed25519
        (Some(inner), Family::Rsa | Family::Pss | Family::Ec) => inner.as_slice(),
        _ => der,
    };
    let not_ours = match family {
        Family::Ec => "key is not a valid ECDSA public key",
        Family::Ed => "key is not a valid Ed25519 public key",
        _ => "key is not a valid RSA public key",
    };
    let info = match SubjectPublicKeyInfoRef::from_der(der) {
        Ok(info) => info,
        Err(error) => {
            return match (family, rsa::pkcs1::RsaPublicKey::from_der(der)) {
                (Family::Rsa | Family::Pss, Ok(key)) => rsa_public(&key),
                _ => Err(Error::Key(format!(
                    "x509: failed to parse public key: {error}"
                ))),
            };
        }
    };
    let bits = info.subject_public_key.raw_bytes();
    let refused = |_| key_error("x509: failed to unmarshal elliptic curve point");
    match (family, info.algorithm.oid) {
        (Family::Rsa | Family::Pss, RSA) => {
            let key = rsa::pkcs1::RsaPublicKey::from_der(bits)
                .map_err(|error| Error::Key(format!("x509: invalid RSA public key: {error}")))?;
            rsa_public(&key)
        }
        (Family::Ec, EC) => match info.algorithm.parameters_oid() {
            Ok(P256) => p256::ecdsa::VerifyingKey::from_sec1_bytes(bits)
                .map(Verifier::P256)
                .map_err(refused),
            Ok(P384) => p384::ecdsa::VerifyingKey::from_sec1_bytes(bits)
                .map(Verifier::P384)
                .map_err(refused),
            Ok(P521) => p521::ecdsa::VerifyingKey::from_sec1_bytes(bits)
                .map(Verifier::P521)
                .map_err(refused),
            _ => Err(key_error("x509: unsupported elliptic curve")),
        },
        (Family::Ed, ED25519) => <[u8; 32]>::try_from(bits)
            .ok()
            .and_then(|bytes| ed::VerifyingKey::from_bytes(&bytes).ok())
            .map(Verifier::Ed)
            .ok_or_else(|| key_error("x509: wrong Ed25519 public key size")),
        _ => Err(key_error(not_ours)),
    }
}

fn rsa_public(key: &rsa::pkcs1::RsaPublicKey<'_>) -> Result<Verifier, Error> {
    RsaPublicKey::new_with_max_size(
        BigUint::from_bytes_be(key.modulus.as_bytes()),
        BigUint::from_bytes_be(key.public_exponent.as_bytes()),
        RSA_BITS_MAX,
    )
    .map(Verifier::Rsa)
    .map_err(|error| Error::Key(format!("x509: invalid RSA public key: {error}")))
}
