//! TLS of this member: from flags to settings, certificates it makes for itself, and the connections
//! between members.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use ferrite_peer::{
    Acceptor, BoxFuture, BoxedIo, Connector, Dialer, PeerUrl, PlainAcceptor, PlainConnector,
    TurnedAway,
};
use ferrite_tls::{
    ClientTls, MemberStream, ServerTls, TlsError, TlsInfo, Version, check_names, self_signed,
};
use tokio::net::TcpStream;

use crate::config_file::{CLIENT_ALLOWED_CN, CLIENT_SKIP_SAN};
use crate::flags::{Url, Values};

/// What members speak among themselves, encrypted or not.
const PEER_PROTOCOL: &str = "http/1.1";

/// What the flags say.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// For clients.
    pub client: TlsInfo,
    /// For other members.
    pub peer: TlsInfo,
    /// Make a certificate for clients where none is given.
    pub client_auto: bool,
    /// Make a certificate for members where none is given.
    pub peer_auto: bool,
    /// How many years such a certificate is good for.
    pub validity_years: u64,
}

/// Reads the flags.
///
/// # Errors
/// What is wrong with versions and suites, in the original's words. Files are read later.
pub fn read(values: &Values) -> Result<Settings, String> {
    let said = |error: TlsError| error.to_string();
    let suites = values.list("cipher-suites");
    let (min, max) = (
        values.text("tls-min-version"),
        values.text("tls-max-version"),
    );
    check_names(min, max, &suites).map_err(said)?;
    let info = TlsInfo {
        cipher_suites: suites,
        min_version: Version::parse(min).map_err(said)?,
        max_version: Version::parse(max).map_err(said)?,
        ..TlsInfo::default()
    };
    let text = |name: &str| values.text(name).to_owned();
    Ok(Settings {
        client: TlsInfo {
            cert_file: text("cert-file"),
            key_file: text("key-file"),
            client_cert_file: text("client-cert-file"),
            client_key_file: text("client-key-file"),
            trusted_ca_file: text("trusted-ca-file"),
            client_cert_auth: values.bool("client-cert-auth"),
            crl_file: text("client-crl-file"),
            skip_client_san_verify: values.bool(CLIENT_SKIP_SAN),
            allowed_cns: values.list(CLIENT_ALLOWED_CN),
            allowed_hostnames: values.list("client-cert-allowed-hostname"),
            ..info.clone()
        },
        peer: TlsInfo {
            cert_file: text("peer-cert-file"),
            key_file: text("peer-key-file"),
            client_cert_file: text("peer-client-cert-file"),
            client_key_file: text("peer-client-key-file"),
            trusted_ca_file: text("peer-trusted-ca-file"),
            client_cert_auth: values.bool("peer-client-cert-auth"),
            crl_file: text("peer-crl-file"),
            skip_client_san_verify: values.bool("peer-skip-client-san-verification"),
            allowed_cns: values.list("peer-cert-allowed-cn"),
            allowed_hostnames: values.list("peer-cert-allowed-hostname"),
            ..info
        },
        client_auto: values.bool("auto-tls"),
        peer_auto: values.bool("peer-auto-tls"),
        validity_years: values.unsigned("self-signed-cert-validity"),
    })
}

impl Settings {
    /// TLS for members: what is given, or with `--peer-auto-tls` a certificate of our own.
    ///
    /// # Errors
    /// A certificate that cannot be made.
    pub fn for_peers(&self, data_dir: &Path, listen: &[Url]) -> Result<TlsInfo, TlsError> {
        if self.peer_auto && !self.peer.is_empty() {
            tracing::warn!("ignoring peer auto TLS since certs given");
        }
        let info = if self.peer_auto && self.peer.is_empty() {
            self.made(&data_dir.join("fixtures/peer"), listen, &self.peer)?
        } else {
            self.peer.clone()
        };
        if !info.is_empty() {
            announce("starting with peer TLS", &info);
        }
        for url in listen.iter().filter(|url| !url.is_encrypted()) {
            if !info.is_empty() {
                tracing::warn!(
                    "peer-url" = %url,
                    "scheme is HTTP while key and cert files are present; ignoring key and cert files"
                );
            }
            if info.client_cert_auth {
                tracing::warn!(
                    "peer-url" = %url,
                    "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL"
                );
            }
        }
        Ok(info)
    }

    /// TLS for clients: what is given, or with `--auto-tls` a certificate of our own.
    ///
    /// # Errors
    /// A certificate that cannot be made.
    pub fn for_clients(&self, data_dir: &Path, listen: &[Url]) -> Result<TlsInfo, TlsError> {
        if self.client_auto && !self.client.is_empty() {
            tracing::warn!("ignoring client auto TLS since certs given");
        }
        let info = if self.client_auto && self.client.is_empty() {
            self.made(&data_dir.join("fixtures/client"), listen, &self.client)?
        } else {
            self.client.clone()
        };
        if !info.is_empty() {
            announce("starting with client TLS", &info);
        }
        Ok(info)
    }

    /// A certificate of our own. As in the original nothing but versions and suites is left of the
    /// other flags: nobody could show a certificate that we would know.
    fn made(&self, dir: &Path, listen: &[Url], given: &TlsInfo) -> Result<TlsInfo, TlsError> {
        let hosts: Vec<String> = listen
            .iter()
            .filter_map(|url| url.host_port().map(|(host, _)| host.to_owned()))
            .collect();
        let made = self_signed(dir, &hosts, self.validity_years)?;
        Ok(TlsInfo {
            cipher_suites: given.cipher_suites.clone(),
            min_version: given.min_version,
            max_version: given.max_version,
            ..made
        })
    }
}

fn announce(message: &str, info: &TlsInfo) {
    tracing::info!(
        "tls-info" = %info,
        "cipher-suites" = ?info.cipher_suites,
        "{message}"
    );
}

/// What to do with connections to a peer URL that is listened on.
///
/// # Errors
/// What is wrong with certificates, in the original's words.
pub fn peer_acceptor(
    url: &Url,
    address: &str,
    info: &TlsInfo,
) -> Result<Arc<dyn Acceptor>, String> {
    if !url.is_encrypted() {
        return Ok(Arc::new(PlainAcceptor));
    }
    if info.is_empty() {
        return Err(format!(
            "cannot listen on TLS for {address}: KeyFile and CertFile are not presented"
        ));
    }
    let tls = ServerTls::new(info, &[PEER_PROTOCOL]).map_err(|error| error.to_string())?;
    Ok(Arc::new(TlsAcceptor(tls)))
}

/// How to connect to other members, and from which address, if that is to be a certain one.
///
/// # Errors
/// What is wrong with certificates, in the original's words.
pub fn peer_dialer(info: &TlsInfo, from: Option<IpAddr>) -> Result<Dialer, String> {
    let tls = ClientTls::new(info, &[]).map_err(|error| error.to_string())?;
    let plain = PlainConnector { from };
    Ok(Dialer(Arc::new(TlsConnector { tls, plain })))
}

struct TlsAcceptor(ServerTls);

impl Acceptor for TlsAcceptor {
    fn accept(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> BoxFuture<'_, Result<BoxedIo, TurnedAway>> {
        Box::pin(async move {
            match self.0.accept_member(stream, remote.ip()).await {
                Ok(accepted) => Ok(Box::new(MemberStream::from(accepted.stream)) as BoxedIo),
                Err(why) => Err(TurnedAway {
                    silent: why.is_silent(),
                    error: why.error,
                    server_name: why.server_name,
                    names: why.names,
                }),
            }
        })
    }
}

struct TlsConnector {
    tls: ClientTls,
    plain: PlainConnector,
}

impl Connector for TlsConnector {
    fn connect<'a>(&'a self, url: &'a PeerUrl) -> BoxFuture<'a, std::io::Result<BoxedIo>> {
        if !url.is_tls() {
            return self.plain.connect(url);
        }
        Box::pin(async move {
            let stream = self.plain.dial(url).await?;
            let stream = self.tls.connect(url.host(), stream).await?;
            Ok(Box::new(stream) as BoxedIo)
        })
    }
}
