//! Tells systemd that the member serves: one datagram to the socket that `NOTIFY_SOCKET` names.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const READY: &[u8] = b"READY=1";

/// Says so, if anybody wants to hear it, and logs what came of it in the original's words.
pub fn ready() {
    tracing::info!("notifying init daemon");
    match std::env::var_os("NOTIFY_SOCKET").map_or(Ok(()), |socket| tell(&socket)) {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => {
            tracing::error!(error = %error, "failed to notify systemd for readiness");
        }
    }
}

fn tell(socket: &OsStr) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.send_to_addr(READY, &address(socket)?)?;
    Ok(())
}

#[cfg(target_os = "linux")]
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }
}

#[cfg(not(target_os = "linux"))]
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    SocketAddr::from_pathname(socket)
}
