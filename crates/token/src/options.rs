//! What follows `jwt,` in `--auth-token`.

use crate::duration;
use crate::error::Error;
use crate::method::{Method, Named};

/// How long a token is good for when the options do not say: five minutes, in nanoseconds.
const TTL_DEFAULT: i64 = 300_000_000_000;

/// The options, files read.
pub(crate) struct Options {
    pub method: Method,
    pub public: Vec<u8>,
    pub private: Vec<u8>,
    /// Nanoseconds.
    pub ttl: i64,
    /// Names that mean nothing, in the order given.
    pub unknown: Vec<String>,
}

fn read(path: &str) -> Result<Vec<u8>, Error> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    std::fs::read(path).map_err(|error| {
        // Without the number of the error, and small, as in Go.
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        Error::options(format!("open {path}: {}", text.to_lowercase()))
    })
}

impl Options {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        // no text at all is no option, while a comma too many is one without a name
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (name, value) = part
                .split_once('=')
                .filter(|(_, value)| !value.contains('='))
                .ok_or_else(|| Error::options(format!("{part:?} is not name=value")))?;
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(Error::options(format!("{name:?} is given twice")));
            }
            pairs.push((name, value));
        }
        let value = |name: &str| {
            pairs
                .iter()
                .find(|(other, _)| *other == name)
                .map_or("", |(_, value)| *value)
        };
        let ttl = match value("ttl") {
            "" => TTL_DEFAULT,
            text => duration::parse(text)
                .ok_or_else(|| Error::options(format!("time: invalid duration {text:?}")))?,
        };
        let public = read(value("pub-key"))?;
        let private = read(value("priv-key"))?;
        let method = match Method::named(value("sign-method")) {
            Named::Method(method) => method,
            Named::Nothing => return Err(Error::UnsupportedMethod),
            Named::Unknown => return Err(Error::options("auth: invalid auth signature method")),
        };
        let unknown = pairs
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| !["sign-method", "pub-key", "priv-key", "ttl"].contains(name))
            .map(str::to_owned)
            .collect();
        Ok(Options {
            method,
            public,
            private,
            ttl,
            unknown,
        })
    }
}
