//! Log lines for systemd's journal, in its native protocol: one datagram a line.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::Severity;

/// Where the journal listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// A socket to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    identifier: String,
}

impl Journal {
    /// Connects.
    ///
    /// # Errors
    /// In the original's words, when no journal listens there.
    pub fn connect(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| {
            format!(
                "can't find journal (dial unixgram {}: connect: {})",
                path.display(),
                ferrite_cli::gofmt::system(&error)
            )
        };
        let socket = UnixDatagram::unbound().map_err(failed)?;
        socket.connect(path).map_err(failed)?;
        let program = std::env::args().next().unwrap_or_default();
        let name = Path::new(&program).file_name();
        let identifier = name.map_or("etcd".into(), |name| name.to_string_lossy().into_owned());
        Ok(Journal { socket, identifier })
    }

    /// Sends a line. What the journal does not take is for the caller to write elsewhere.
    pub fn send(&self, severity: Severity, caller: &str, line: &str) -> std::io::Result<()> {
        let mut datagram = Vec::with_capacity(line.len() + 128);
        field(&mut datagram, "PRIORITY", priority(severity));
        let package = caller.rsplit_once('/').map_or(".", |(package, _)| package);
        field(&mut datagram, "PACKAGE", package);
        field(&mut datagram, "SYSLOG_IDENTIFIER", &self.identifier);
        field(&mut datagram, "MESSAGE", line);
        self.socket.send(&datagram).map(drop)
    }
}

fn priority(severity: Severity) -> &'static str {
    match severity {
        Severity::Debug => "7",
        Severity::Info => "6",
        Severity::Warn => "4",
        Severity::Error => "3",
        Severity::Panic | Severity::Fatal => "2",
    }
}

/// A value with line breaks needs its length before it.
fn field(datagram: &mut Vec<u8>, name: &str, value: &str) {
    datagram.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        let length = value.len() as u64;
        datagram.extend_from_slice(&length.to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_arrives_with_priority_package_and_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("socket");
        let error = Journal::connect(&path).expect_err("nobody listens");
        assert_eq!(
            error,
            format!(
                "can't find journal (dial unixgram {}: connect: no such file or directory)",
                path.display()
            )
        );
        let journal = UnixDatagram::bind(&path).expect("a socket");
        let sender = Journal::connect(&path).expect("connected");
        sender
            .send(Severity::Warn, "peer/stream.rs:7", "{\"level\":\"warn\"}\n")
            .expect("sent");
        let mut buffer = [0; 1024];
        let length = journal.recv(&mut buffer).expect("a datagram");
        let text = String::from_utf8_lossy(&buffer[..length]);
        assert!(
            text.starts_with("PRIORITY=4\nPACKAGE=peer\nSYSLOG_IDENTIFIER="),
            "{text:?}"
        );
        let tail = "MESSAGE\n\u{11}\0\0\0\0\0\0\0{\"level\":\"warn\"}\n\n";
        assert!(text.ends_with(tail), "{text:?}");
    }
}
