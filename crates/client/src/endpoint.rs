//! Endpoint addresses, as users write them.

use std::path::PathBuf;

use http::uri::Authority;

use crate::error::ConfigError;

/// Where one member listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host (name or address, IPv6 in brackets) and a port.
    Tcp(Authority),
    /// A unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads `host:port`, `http://host:port[/]`, `unix://path` or `unix:path`.
    ///
    /// # Errors
    /// Text that is none of these, and `https://` or `unixs://`, which this release cannot speak.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let bad = |reason: &'static str| ConfigError::Endpoint {
            endpoint: text.to_owned(),
            reason,
        };
        if text.starts_with("https://") || text.starts_with("unixs:") {
            return Err(ConfigError::Tls(text.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() {
                return Err(bad("the path of the unix socket is missing"));
            }
            return Ok(Self::Unix(path.into()));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        if rest.contains("://") {
            return Err(bad("unknown scheme; use http:// or none"));
        }
        let host = rest.split_once('/').map_or(rest, |(host, _)| host);
        if host.is_empty() {
            return Err(bad("the address is missing"));
        }
        let authority: Authority = host
            .parse()
            .map_err(|_| bad("not a host and a port; write host:port, or [ipv6]:port"))?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(bad(
                "not a host and a port; write host:port, or [ipv6]:port",
            ));
        }
        if authority.port_u16().is_none() {
            return Err(bad("the port is missing; write host:port"));
        }
        Ok(Self::Tcp(authority))
    }

    /// The name put into a request's `:authority`.
    #[must_use]
    pub(crate) fn authority(&self) -> Authority {
        match self {
            Self::Tcp(authority) => authority.clone(),
            Self::Unix(_) => Authority::from_static("localhost"),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(authority) => authority.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    fn parsed(text: &str) -> String {
        match Endpoint::parse(text) {
            Ok(endpoint) => endpoint.to_string(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn the_forms_users_write() {
        assert_eq!(parsed("127.0.0.1:2379"), "127.0.0.1:2379");
        assert_eq!(parsed("http://etcd-00:2379"), "etcd-00:2379");
        assert_eq!(parsed("http://etcd-00:2379/"), "etcd-00:2379");
        assert_eq!(parsed("[::1]:2379"), "[::1]:2379");
        assert_eq!(parsed("http://[::1]:2379"), "[::1]:2379");
        assert_eq!(parsed("unix:///run/e.sock"), "unix:///run/e.sock");
        assert_eq!(parsed("unix:rel.sock"), "unix://rel.sock");
    }

    #[test]
    fn what_is_refused_says_why() {
        assert!(parsed("https://h:1").contains("TLS"));
        assert!(parsed("h").contains("port is missing"));
        assert!(parsed("").contains("address is missing"));
        assert!(parsed("ftp://h:1").contains("unknown scheme"));
        assert!(parsed("h:99999").contains("error"));
        assert!(parsed("::1:2379").contains("error"));
        assert!(parsed("a b:1").contains("error"));
    }
}
