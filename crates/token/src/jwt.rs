//! One member's tokens: user and auth revision, signed, good until a moment.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::keys::Keys;
use crate::method::Method;
use crate::options::Options;

/// Go reads bits behind the last whole byte and drops them.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

const NANOSECONDS: i128 = 1_000_000_000;

/// Signs and accepts the tokens of one method with one key.
pub struct Jwt {
    method: Method,
    keys: Keys,
    /// Nanoseconds a token is good for.
    ttl: i64,
    unknown: Vec<String>,
}

impl std::fmt::Debug for Jwt {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwt")
            .field("method", &self.method.name)
            .field("ttl", &self.ttl)
            .field("verify_only", &self.keys.signer.is_none())
            .finish_non_exhaustive()
    }
}

impl Jwt {
    /// Reads the options of `--auth-token`: what follows `jwt,`, for instance
    /// `pub-key=pub.pem,priv-key=priv.pem,sign-method=RS256,ttl=10m`. Key files are read here, once.
    ///
    /// With a public key alone tokens are accepted and not signed. A shared secret (`HS…`) is the whole
    /// of the file named by `priv-key`.
    ///
    /// # Errors
    /// [`Error`], with the original's text; [`Error::reason`] has what to log besides.
    pub fn from_options(options: &str) -> Result<Self, Error> {
        let options = Options::parse(options)?;
        let keys = Keys::new(options.method.family, &options.private, &options.public)?;
        Ok(Jwt {
            method: options.method,
            keys,
            ttl: options.ttl,
            unknown: options.unknown,
        })
    }

    /// Options that mean nothing and were passed over: worth a warning, `unknown JWT options`.
    #[must_use]
    pub fn unknown_options(&self) -> &[String] {
        &self.unknown
    }

    /// A token for this user at this auth revision, good from now on for the time the options say.
    ///
    /// # Errors
    /// [`Error::VerifyOnly`]; [`Error::Sign`] when key and method do not go together.
    pub fn sign(
        &self,
        username: &str,
        revision: u64,
        now_unix_seconds: u64,
    ) -> Result<String, Error> {
        let Some(key) = &self.keys.signer else {
            return Err(Error::VerifyOnly);
        };
        let now = i128::from(now_unix_seconds) * NANOSECONDS;
        let until = (now + i128::from(self.ttl)).div_euclid(NANOSECONDS);
        let header = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, self.method.name);
        let claims = format!(
            r#"{{"exp":{until},"revision":{revision},"username":{}}}"#,
            go_string(username)
        );
        let mut token = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = self.method.sign(key, token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// User and auth revision of a token that is signed by our key and method and good now.
    #[must_use]
    pub fn verify(&self, token: &str, now_unix_seconds: u64) -> Option<(String, u64)> {
        let (input, signature) = token.rsplit_once('.')?;
        let (header, claims) = input.split_once('.')?;
        if claims.contains('.') {
            return None;
        }
        let header = object(header)?;
        // Ours and no other: what a token calls its method never chooses how it is checked.
        if header.get("alg").and_then(Value::as_str) != Some(self.method.name) {
            return None;
        }
        let signature = LENIENT.decode(signature).ok()?;
        if !self
            .method
            .verify(&self.keys.verifier, input.as_bytes(), &signature)
        {
            return None;
        }
        let claims = object(claims)?;
        let now = i128::from(now_unix_seconds);
        if moment(&claims, "exp")?.is_some_and(|until| now >= until)
            || moment(&claims, "nbf")?.is_some_and(|from| now < from)
        {
            return None;
        }
        let username = claims.get("username")?.as_str()?;
        // a number, whole or not, below zero or not: the original drops what does not fit
        let revision = claims.get("revision")?.as_f64()?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some((username.to_owned(), revision as u64))
    }
}

/// A part of a token that holds a JSON object.
fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = LENIENT.decode(part).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// The second a claim names: `Some(None)` if it is absent or zero, `None` if it is no number.
fn moment(claims: &Map<String, Value>, name: &str) -> Option<Option<i128>> {
    let Some(value) = claims.get(name) else {
        return Some(None);
    };
    let seconds = value.as_f64()?;
    #[allow(clippy::cast_possible_truncation)]
    let whole = seconds.floor() as i128;
    Some((seconds != 0.0).then_some(whole))
}

/// A string as Go writes it in JSON, which HTML may carry unharmed.
fn go_string(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    let mut written = String::with_capacity(quoted.len());
    for c in quoted.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                written.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => written.push(c),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::go_string;

    #[test]
    fn strings_are_written_as_go_writes_them() {
        assert_eq!(
            go_string("a<b>&\u{2028}\"\\\n\u{1}é"),
            "\"a\\u003cb\\u003e\\u0026\\u2028\\\"\\\\\\n\\u0001é\""
        );
    }
}
