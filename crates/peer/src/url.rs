//! Peer URLs: parsing, and the choice among the several URLs of one member.

use std::fmt;
use std::sync::Arc;

use http::Uri;
use parking_lot::Mutex;

/// One parsed peer URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUrl {
    text: String,
    tls: bool,
    host: String,
    port: u16,
    authority: String,
}

impl PeerUrl {
    /// Parses `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    /// Words that name the URL and what is wrong with it.
    pub fn parse(text: &str) -> Result<PeerUrl, String> {
        let uri: Uri = text
            .trim()
            .parse()
            .map_err(|e| format!("peer URL {text:?} cannot be parsed: {e}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => {
                return Err(format!(
                    "peer URL {text:?} must begin with http:// or https://"
                ));
            }
        };
        let authority = uri
            .authority()
            .ok_or_else(|| format!("peer URL {text:?} has no host"))?
            .as_str();
        let host = uri.host().unwrap_or_default();
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(format!("peer URL {text:?} has no host"));
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(PeerUrl {
            text: text.trim().to_owned(),
            tls,
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
        })
    }

    /// Whether the scheme is https.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Host name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port, the scheme's default when absent.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the `Host` header carries.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Parses all URLs of a member, leaving out (and logging) those that cannot be used.
pub(crate) fn parse_all(urls: &[String]) -> Vec<Arc<PeerUrl>> {
    let mut out = Vec::with_capacity(urls.len());
    for url in urls {
        match PeerUrl::parse(url) {
            Ok(url) => out.push(Arc::new(url)),
            Err(error) => tracing::warn!(error, "ignored a peer URL that cannot be used"),
        }
    }
    out
}

/// Picks one URL of a member and moves on to the next when it turns out unreachable.
pub(crate) struct UrlPicker {
    state: Mutex<(Vec<Arc<PeerUrl>>, usize)>,
}

impl UrlPicker {
    pub(crate) fn new(urls: Vec<Arc<PeerUrl>>) -> UrlPicker {
        UrlPicker {
            state: Mutex::new((urls, 0)),
        }
    }

    pub(crate) fn update(&self, urls: Vec<Arc<PeerUrl>>) {
        *self.state.lock() = (urls, 0);
    }

    /// The URL to use now; `None` when the member has none.
    pub(crate) fn pick(&self) -> Option<Arc<PeerUrl>> {
        let state = self.state.lock();
        state.0.get(state.1).cloned()
    }

    /// Rotates if `url` is still the picked one, so that several users failing at once rotate once.
    pub(crate) fn unreachable(&self, url: &Arc<PeerUrl>) {
        let mut state = self.state.lock();
        let (urls, picked) = &mut *state;
        if urls.get(*picked).is_some_and(|u| u == url) {
            *picked = (*picked + 1) % urls.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_once_per_failed_url() {
        let urls = parse_all(&[
            "http://a:1".into(),
            "ftp://x".into(),
            "http://[::1]:2".into(),
        ]);
        assert_eq!(urls.len(), 2);
        assert_eq!((urls[1].host(), urls[1].port()), ("::1", 2));
        let picker = UrlPicker::new(urls.clone());
        let first = picker.pick().expect("a URL");
        picker.unreachable(&first);
        picker.unreachable(&first);
        assert_eq!(picker.pick().expect("a URL"), urls[1]);
        picker.unreachable(&urls[1]);
        assert_eq!(picker.pick().expect("a URL"), first);
    }
}
