//! Endpoint addresses, as users write them.

use std::path::PathBuf;

use http::uri::Authority;

/// Where one member listens, and whether encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub(crate) address: Address,
    pub(crate) security: Security,
}

/// Whether an endpoint's scheme asks for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// `http://`: never.
    Plain,
    /// `https://` and `unixs://`: always.
    Tls,
    /// `unix://` and no scheme at all: if the client has been told how.
    IfConfigured,
}

/// Where one member listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A host (name or address, IPv6 in brackets) and a port.
    Tcp(Authority),
    /// A unix socket.
    Unix(PathBuf),
    /// Nothing that one could connect to: each attempt fails, with this reason. Other endpoints, if there are
    /// any, serve alone.
    Unusable {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Endpoint {
    /// Reads `host:port`, `http://host:port[/]`, `unix://path` or `unix:path`, and `https` and `unixs`
    /// in their places. Any other text is taken as well, as an endpoint that cannot be reached.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self::understand(text).unwrap_or_else(|reason| Self {
            address: Address::Unusable {
                text: text.to_owned(),
                reason,
            },
            security: Security::IfConfigured,
        })
    }

    fn understand(text: &str) -> Result<Self, &'static str> {
        let socket = match text.strip_prefix("unixs:") {
            Some(rest) => Some((rest, Security::Tls)),
            None => text
                .strip_prefix("unix:")
                .map(|rest| (rest, Security::IfConfigured)),
        };
        if let Some((rest, security)) = socket {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() {
                return Err("the path of the unix socket is missing");
            }
            return Ok(Self {
                address: Address::Unix(path.into()),
                security,
            });
        }
        let (rest, security) = if let Some(rest) = text.strip_prefix("http://") {
            (rest, Security::Plain)
        } else if let Some(rest) = text.strip_prefix("https://") {
            (rest, Security::Tls)
        } else {
            (text, Security::IfConfigured)
        };
        if rest.contains("://") {
            return Err("unknown scheme; use http://, https:// or none");
        }
        let host = rest.split_once('/').map_or(rest, |(host, _)| host);
        if host.is_empty() {
            return Err("the address is missing");
        }
        let authority: Authority = host
            .parse()
            .map_err(|_| "not a host and a port; write host:port, or [ipv6]:port")?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err("not a host and a port; write host:port, or [ipv6]:port");
        }
        if authority.port_u16().is_none() {
            return Err("the port is missing; write host:port");
        }
        Ok(Self {
            address: Address::Tcp(authority),
            security,
        })
    }

    /// Whether the scheme says that connections must be encrypted.
    pub(crate) fn asks_for_tls(&self) -> bool {
        self.security == Security::Tls
    }

    /// Whom the server's certificate must be for: the host, or a socket's file name without what
    /// follows a colon, as in the original.
    pub(crate) fn server_name(&self) -> String {
        match &self.address {
            Address::Tcp(authority) => {
                let host = authority.host();
                let host = host
                    .strip_prefix('[')
                    .and_then(|host| host.strip_suffix(']'))
                    .unwrap_or(host);
                // A name out of DNS ends with a dot, those in certificates do not.
                host.strip_suffix('.').unwrap_or(host).to_owned()
            }
            Address::Unix(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                match name.split_once(':') {
                    Some((name, _)) => name.to_owned(),
                    None => name.into_owned(),
                }
            }
            Address::Unusable { text, .. } => text.clone(),
        }
    }

    /// The name put into a request's `:authority`.
    #[must_use]
    pub(crate) fn authority(&self) -> Authority {
        match &self.address {
            Address::Tcp(authority) => authority.clone(),
            Address::Unix(_) | Address::Unusable { .. } => Authority::from_static("localhost"),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.address, self.security) {
            (Address::Tcp(authority), Security::Tls) => write!(f, "https://{authority}"),
            (Address::Tcp(authority), _) => authority.fmt(f),
            (Address::Unix(path), Security::Tls) => write!(f, "unixs://{}", path.display()),
            (Address::Unix(path), _) => write!(f, "unix://{}", path.display()),
            (Address::Unusable { text, .. }, _) => write!(f, "{text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Endpoint};

    fn parsed(text: &str) -> String {
        let endpoint = Endpoint::parse(text);
        match &endpoint.address {
            Address::Unusable { reason, .. } => format!("error: {reason}"),
            _ => endpoint.to_string(),
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
        assert_eq!(parsed("https://[::1]:2379"), "https://[::1]:2379");
        assert_eq!(parsed("unixs:///run/e.sock"), "unixs:///run/e.sock");
    }

    #[test]
    fn a_certificate_must_be_for_the_host_or_the_sockets_name() {
        let name = |text: &str| Endpoint::parse(text).server_name();
        for (text, wanted) in [
            ("https://etcd-00:2379", "etcd-00"),
            ("https://[::1]:2379", "::1"),
            ("https://etcd-00.example.:2379", "etcd-00.example"),
            ("10.0.0.1:2379", "10.0.0.1"),
            ("unixs:///run/localhost:2379", "localhost"),
            ("unixs:rel.sock", "rel.sock"),
        ] {
            assert_eq!(name(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_reached_says_why() {
        assert!(parsed("h").contains("port is missing"));
        assert!(parsed("").contains("address is missing"));
        assert!(parsed("ftp://h:1").contains("unknown scheme"));
        assert!(parsed("h:99999").contains("error"));
        assert!(parsed("::1:2379").contains("error"));
        assert!(parsed("a b:1").contains("error"));
    }
}
