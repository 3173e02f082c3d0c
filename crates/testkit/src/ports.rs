//! Ports on loopback that stay a member's own while it is down.
//!
//! A port of the kernel's ephemeral range could be taken by any outgoing connection while a member
//! restarts, so ports come from below that range, each held by a lock on a file that tests running
//! at the same time respect.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 14_000;
const COUNT: u32 = 16_000;
/// A prime, so that stepping by it visits every port.
const STRIDE: u32 = 7_919;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Ports held until this is dropped.
#[derive(Debug, Default)]
pub struct Ports {
    held: Vec<File>,
}

impl Ports {
    /// One more port that nothing listens on.
    ///
    /// # Panics
    /// When none is free.
    pub fn take(&mut self) -> u16 {
        let dir = std::env::temp_dir().join("ferrite-testkit-ports");
        std::fs::create_dir_all(&dir).expect("the folder of port locks can be made");
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let offset = std::process::id().wrapping_add(step).wrapping_mul(STRIDE);
            let port = u16::try_from(FIRST + offset % COUNT).expect("the range fits");
            let Ok(file) = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(dir.join(port.to_string()))
            else {
                continue;
            };
            // SAFETY: flock takes an open descriptor, which `file` keeps open over the call, and
            // two integers; it touches no memory of ours.
            let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
            if locked == 0 && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                self.held.push(file);
                return port;
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }
}
