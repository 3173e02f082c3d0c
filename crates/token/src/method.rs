//! The signature methods: which key a method needs, how it signs, how it verifies.
//!
//! A signature is made with a key of the method's own kind or not at all: the kind comes from what the
//! member was told, never from a token.

use ed25519_dalek as ed;
use hmac::{Hmac, Mac};
use rand_core::OsRng;
use rsa::signature::{RandomizedSigner as _, Signer as _, Verifier as _};
use rsa::traits::{PublicKeyParts, SignatureScheme};
use rsa::{Pkcs1v15Sign, Pss, RsaPrivateKey, RsaPublicKey};
use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::error::Error;

/// What kind of key a method takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Rsa,
    Pss,
    Ec,
    Ed,
    Hmac,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// A signature method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    /// As the header of a token says it.
    pub name: &'static str,
    pub family: Family,
    hash: Hash,
}

const METHODS: &[Method] = &[
    method("RS256", Family::Rsa, Hash::Sha256),
    method("RS384", Family::Rsa, Hash::Sha384),
    method("RS512", Family::Rsa, Hash::Sha512),
    method("PS256", Family::Pss, Hash::Sha256),
    method("PS384", Family::Pss, Hash::Sha384),
    method("PS512", Family::Pss, Hash::Sha512),
    method("ES256", Family::Ec, Hash::Sha256),
    method("ES384", Family::Ec, Hash::Sha384),
    method("ES512", Family::Ec, Hash::Sha512),
    method("HS256", Family::Hmac, Hash::Sha256),
    method("HS384", Family::Hmac, Hash::Sha384),
    method("HS512", Family::Hmac, Hash::Sha512),
    method("EdDSA", Family::Ed, Hash::Sha512),
];

const fn method(name: &'static str, family: Family, hash: Hash) -> Method {
    Method { name, family, hash }
}

/// What a name of a method means.
pub(crate) enum Named {
    Method(Method),
    /// `none`: a name, and no signature.
    Nothing,
    Unknown,
}

/// What signs.
pub(crate) enum Signer {
    Rsa(Box<RsaPrivateKey>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    P521(p521::ecdsa::SigningKey),
    Ed(ed::SigningKey),
    Hmac(Vec<u8>),
}

/// What verifies.
pub(crate) enum Verifier {
    Rsa(RsaPublicKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    P521(p521::ecdsa::VerifyingKey),
    Ed(ed::VerifyingKey),
    Hmac(Vec<u8>),
}

impl Signer {
    /// The key that verifies what this one signs.
    pub(crate) fn verifier(&self) -> Verifier {
        match self {
            Signer::Rsa(key) => Verifier::Rsa(key.to_public_key()),
            Signer::P256(key) => Verifier::P256(*key.verifying_key()),
            Signer::P384(key) => Verifier::P384(*key.verifying_key()),
            Signer::P521(key) => Verifier::P521(p521::ecdsa::VerifyingKey::from(key)),
            Signer::Ed(key) => Verifier::Ed(key.verifying_key()),
            Signer::Hmac(secret) => Verifier::Hmac(secret.clone()),
        }
    }
}

impl Verifier {
    /// Whether both are the same key.
    pub(crate) fn same(&self, other: &Verifier) -> bool {
        match (self, other) {
            (Verifier::Rsa(a), Verifier::Rsa(b)) => a == b,
            (Verifier::P256(a), Verifier::P256(b)) => a == b,
            (Verifier::P384(a), Verifier::P384(b)) => a == b,
            (Verifier::P521(a), Verifier::P521(b)) => {
                a.to_encoded_point(false) == b.to_encoded_point(false)
            }
            (Verifier::Ed(a), Verifier::Ed(b)) => a == b,
            (Verifier::Hmac(a), Verifier::Hmac(b)) => a == b,
            _ => false,
        }
    }
}

fn mac<M: Mac + hmac::digest::KeyInit>(secret: &[u8], input: &[u8]) -> Option<M> {
    // any length will do, so this is always there
    let mut mac = <M as Mac>::new_from_slice(secret).ok()?;
    mac.update(input);
    Some(mac)
}

impl Hash {
    fn of(self, input: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha256 => Sha256::digest(input).to_vec(),
            Hash::Sha384 => Sha384::digest(input).to_vec(),
            Hash::Sha512 => Sha512::digest(input).to_vec(),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }

    fn pkcs1(self) -> Pkcs1v15Sign {
        match self {
            Hash::Sha256 => Pkcs1v15Sign::new::<Sha256>(),
            Hash::Sha384 => Pkcs1v15Sign::new::<Sha384>(),
            Hash::Sha512 => Pkcs1v15Sign::new::<Sha512>(),
        }
    }

    /// Blinded when it signs: the time it takes must say nothing about the key.
    fn pss(self, salt: usize) -> Pss {
        match self {
            Hash::Sha256 => Pss::new_blinded_with_salt::<Sha256>(salt),
            Hash::Sha384 => Pss::new_blinded_with_salt::<Sha384>(salt),
            Hash::Sha512 => Pss::new_blinded_with_salt::<Sha512>(salt),
        }
    }
}

impl Method {
    pub(crate) fn named(name: &str) -> Named {
        match METHODS.iter().find(|method| method.name == name) {
            Some(method) => Named::Method(*method),
            None if name == "none" => Named::Nothing,
            None => Named::Unknown,
        }
    }

    /// The signature of `input`.
    pub(crate) fn sign(self, key: &Signer, input: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Sign(error.to_string());
        // the original's words for a key of another curve
        let wrong = || Error::Sign("key is invalid".into());
        match (self.family, self.hash, key) {
            (Family::Rsa, hash, Signer::Rsa(key)) => key
                .sign_with_rng(&mut OsRng, hash.pkcs1(), &hash.of(input))
                .map_err(|error| failed(&error)),
            (Family::Pss, hash, Signer::Rsa(key)) => key
                .sign_with_rng(&mut OsRng, hash.pss(hash.bytes()), &hash.of(input))
                .map_err(|error| failed(&error)),
            (Family::Ec, Hash::Sha256, Signer::P256(key)) => {
                let made: p256::ecdsa::Signature =
                    key.try_sign(input).map_err(|error| failed(&error))?;
                Ok(made.to_bytes().to_vec())
            }
            (Family::Ec, Hash::Sha384, Signer::P384(key)) => {
                let made: p384::ecdsa::Signature =
                    key.try_sign(input).map_err(|error| failed(&error))?;
                Ok(made.to_bytes().to_vec())
            }
            (Family::Ec, Hash::Sha512, Signer::P521(key)) => {
                let made: p521::ecdsa::Signature = key
                    .try_sign_with_rng(&mut OsRng, input)
                    .map_err(|error| failed(&error))?;
                Ok(made.to_bytes().to_vec())
            }
            (Family::Ed, _, Signer::Ed(key)) => key
                .try_sign(input)
                .map(|made| made.to_bytes().to_vec())
                .map_err(|error| failed(&error)),
            (Family::Hmac, hash, Signer::Hmac(secret)) => match hash {
                Hash::Sha256 => mac::<Hmac<Sha256>>(secret, input)
                    .map(|mac| mac.finalize().into_bytes().to_vec()),
                Hash::Sha384 => mac::<Hmac<Sha384>>(secret, input)
                    .map(|mac| mac.finalize().into_bytes().to_vec()),
                Hash::Sha512 => mac::<Hmac<Sha512>>(secret, input)
                    .map(|mac| mac.finalize().into_bytes().to_vec()),
            }
            .ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }

    /// Whether `signature` is one of `input`.
    pub(crate) fn verify(self, key: &Verifier, input: &[u8], signature: &[u8]) -> bool {
        match (self.family, self.hash, key) {
            (Family::Rsa, hash, Verifier::Rsa(key)) => {
                key.verify(hash.pkcs1(), &hash.of(input), signature).is_ok()
            }
            (Family::Pss, hash, Verifier::Rsa(key)) => {
                // As long as the hash (RFC 7518), or all the room there is: older members sign so.
                let encoded = (key.n().bits() - 1).div_ceil(8);
                let room = encoded.saturating_sub(hash.bytes() + 2);
                let hashed = hash.of(input);
                [hash.bytes(), room]
                    .into_iter()
                    .any(|salt| hash.pss(salt).verify(key, &hashed, signature).is_ok())
            }
            (Family::Ec, Hash::Sha256, Verifier::P256(key)) => {
                p256::ecdsa::Signature::from_slice(signature)
                    .is_ok_and(|signature| key.verify(input, &signature).is_ok())
            }
            (Family::Ec, Hash::Sha384, Verifier::P384(key)) => {
                p384::ecdsa::Signature::from_slice(signature)
                    .is_ok_and(|signature| key.verify(input, &signature).is_ok())
            }
            (Family::Ec, Hash::Sha512, Verifier::P521(key)) => {
                p521::ecdsa::Signature::from_slice(signature)
                    .is_ok_and(|signature| key.verify(input, &signature).is_ok())
            }
            (Family::Ed, _, Verifier::Ed(key)) => ed::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(input, &signature).is_ok()),
            // compared in constant time
            (Family::Hmac, hash, Verifier::Hmac(secret)) => match hash {
                Hash::Sha256 => mac::<Hmac<Sha256>>(secret, input)
                    .is_some_and(|mac| mac.verify_slice(signature).is_ok()),
                Hash::Sha384 => mac::<Hmac<Sha384>>(secret, input)
                    .is_some_and(|mac| mac.verify_slice(signature).is_ok()),
                Hash::Sha512 => mac::<Hmac<Sha512>>(secret, input)
                    .is_some_and(|mac| mac.verify_slice(signature).is_ok()),
            },
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

    fn bytes(text: &str) -> Vec<u8> {
        BASE64.decode(text).expect("a literal of this test")
    }

    fn point(x: &str, y: &str) -> Vec<u8> {
        [vec![4], bytes(x), bytes(y)].concat()
    }

    fn method(name: &str) -> Method {
        match Method::named(name) {
            Named::Method(method) => method,
            _ => panic!("{name}"),
        }
    }

    #[track_caller]
    fn accepts(name: &str, key: &Verifier, token: &str) {
        let (input, signature) = token.rsplit_once('.').expect("three parts");
        let mut signature = bytes(signature);
        assert!(method(name).verify(key, input.as_bytes(), &signature));
        signature[3] ^= 1;
        assert!(!method(name).verify(key, input.as_bytes(), &signature));
    }

    /// RFC 7515, A.1.
    #[test]
    fn rfc_7515_hs256() {
        let key = bytes(
            "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
        );
        accepts(
            "HS256",
            &Verifier::Hmac(key),
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        );
    }

    /// RFC 7515, A.3.
    #[test]
    fn rfc_7515_es256() {
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point(
            "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        ))
        .expect("a point of the curve");
        accepts(
            "ES256",
            &Verifier::P256(key),
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        );
    }

    /// RFC 7515, A.4.
    #[test]
    fn rfc_7515_es512() {
        let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(&point(
            "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
            "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
        ))
        .expect("a point of the curve");
        accepts(
            "ES512",
            &Verifier::P521(key),
            "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
        );
    }

    /// RFC 8037, A.4.
    #[test]
    fn rfc_8037_eddsa() {
        let secret: [u8; 32] = bytes("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
            .try_into()
            .expect("32 bytes");
        let key = Signer::Ed(ed::SigningKey::from_bytes(&secret));
        let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        accepts("EdDSA", &key.verifier(), token);
        let (input, signature) = token.rsplit_once('.').expect("three parts");
        let signed = method("EdDSA")
            .sign(&key, input.as_bytes())
            .expect("it signs");
        assert_eq!(BASE64.encode(signed), signature);
    }

    #[test]
    fn a_key_of_another_kind_signs_and_verifies_nothing() {
        let secret = Signer::Hmac(b"secret".to_vec());
        for method in METHODS {
            let fits = method.family == Family::Hmac;
            assert_eq!(method.sign(&secret, b"x").is_ok(), fits, "{}", method.name);
            let signature = method.sign(&secret, b"x").unwrap_or_default();
            assert_eq!(method.verify(&secret.verifier(), b"x", &signature), fits);
        }
    }
}
