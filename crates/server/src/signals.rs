//! What signals do. SIGTERM and SIGINT end the member in order; SIGHUP has read again what can change under
//! a running member; SIGQUIT writes to the log what every thread and queue is doing, and the member goes on.
//! SIGUSR1, SIGUSR2 and SIGALRM do nothing, as in a program of Go's; by default each would end the process.
//!
//! SIGHUP and SIGQUIT have a thread of their own: they are wanted most when something else hangs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ferrite_node::Node;
use ferrite_tls::{ServerTls, TlsInfo, UnixTime, Use, examine};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::debug;
use crate::door::Loads;
use crate::flags::Url;
use crate::log;
use crate::room::Room;

/// The signals that end the member.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> std::io::Result<Self> {
        for ignored in [
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
        ] {
            // What takes the place of the default stays when the stream is dropped.
            drop(signal(ignored)?);
        }
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one.
    pub async fn recv(&mut self) -> i32 {
        let (number, name) = tokio::select! {
            _ = self.terminate.recv() => (signal_hook::consts::SIGTERM, "terminated"),
            _ = self.interrupt.recv() => (signal_hook::consts::SIGINT, "interrupt"),
        };
        tracing::info!(signal = name, "received signal; shutting down");
        number
    }
}

/// What the other signals concern, as far as it is there.
#[derive(Clone, Default)]
pub struct Subjects {
    node: Arc<OnceLock<Node>>,
    room: Arc<OnceLock<Room>>,
    certificates: Arc<Mutex<Vec<Arc<ServerTls>>>>,
    config_file: Option<PathBuf>,
    examined: Arc<Mutex<Vec<(TlsInfo, Use)>>>,
    loads: Loads,
}

impl Subjects {
    /// For a process whose flags came from this file, if from one.
    pub fn of(config_file: Option<&str>) -> Self {
        Subjects {
            config_file: config_file.map(PathBuf::from),
            ..Subjects::default()
        }
    }

    /// Threads that serve.
    pub fn loads(&self) -> &Loads {
        &self.loads
    }

    /// The member runs.
    pub fn set_node(&self, node: &Node) {
        // There is one only.
        let _second = self.node.set(node.clone());
    }

    /// Connections have this room.
    pub fn set_room(&self, room: &Room) {
        let _second = self.room.set(room.clone());
    }

    /// These certificates are shown.
    pub fn add_certificates(&self, tls: &Arc<ServerTls>) {
        let mut all = self
            .certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(tls));
    }

    /// Says what these certificates say and why others will refuse them, now and when they are read again.
    pub fn examine(&self, info: &TlsInfo, used: Use) {
        if info.is_empty() {
            return;
        }
        tell(info, &used);
        let mut all = self.examined.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((info.clone(), used));
    }

    fn report(&self) {
        let lines = debug::report(self.node.get(), self.room.get(), &self.loads);
        tracing::info!(lines = lines.len(), "received SIGQUIT; what is going on:");
        for line in lines {
            tracing::info!("{line}");
        }
    }

    /// Whatever changes under a running member is read where it is used. This reads it now, so that whoever
    /// changed it learns at once whether it will do.
    fn reload(&self) {
        // First, so that the rest is found in the new files.
        log::reopen(self.config_file.as_deref());
        tracing::info!("received SIGHUP; reading again what may have changed");
        let all = self
            .certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let examined = self
            .examined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let good: Vec<bool> = examined
            .iter()
            .map(|(info, used)| tell(info, used))
            .collect();
        for tls in all {
            let file = tls.info().cert_file.clone();
            let refused = examined
                .iter()
                .zip(&good)
                .any(|((info, _), good)| info.cert_file == file && !good);
            match tls.reload() {
                // Why others will not take them stands above.
                Ok(()) if refused => {}
                Ok(()) => tracing::info!("cert-file" = file, "the certificates can be used"),
                Err(error) => tracing::warn!(
                    "cert-file" = file,
                    error = %error,
                    "the certificates cannot be used; going on with those read before"
                ),
            }
        }
    }
}

/// A line for each certificate and each thing that is wrong with it; whether nothing is.
fn tell(info: &TlsInfo, used: &Use) -> bool {
    let examined = match examine(info, used, UnixTime::now()) {
        Ok(examined) => examined,
        // Told where the files are read to be used.
        Err(_) => return true,
    };
    for found in &examined {
        tracing::info!(
            "cert-file" = found.file,
            "not-before" = found.not_before,
            "not-after" = found.not_after,
            "common-name" = found.common_name,
            names = ?found.names,
            issuer = found.issuer,
            "read a certificate"
        );
        for fault in &found.faults {
            tracing::warn!(
                "cert-file" = found.file,
                "not-before" = found.not_before,
                "not-after" = found.not_after,
                error = fault,
                "others will refuse the certificate"
            );
        }
        for warning in &found.warnings {
            tracing::warn!(
                "cert-file" = found.file,
                "not-after" = found.not_after,
                error = warning,
                "others may refuse the certificate"
            );
        }
    }
    examined.iter().all(|found| found.faults.is_empty())
}

/// The hosts of those URLs that are reached encrypted.
pub fn encrypted_hosts(urls: &[Url]) -> Vec<String> {
    let mut hosts: Vec<String> = urls
        .iter()
        .filter(|url| url.is_encrypted())
        .filter_map(|url| url.host_port().map(|(host, _)| host.to_owned()))
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// Listens for SIGHUP and SIGQUIT until the process ends.
///
/// # Errors
/// A thread or runtime that cannot be made.
pub fn attend(subjects: Subjects) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut hangup, mut quit) = {
        let _inside = runtime.enter();
        (signal(SignalKind::hangup())?, signal(SignalKind::quit())?)
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        Some(()) = hangup.recv() => subjects.reload(),
                        Some(()) = quit.recv() => subjects.report(),
                        else => return,
                    }
                }
            });
        })?;
    Ok(())
}
