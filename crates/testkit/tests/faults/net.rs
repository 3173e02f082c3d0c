//! A network of our own: each member in a network namespace whose only link is a tunnel device, and behind all
//! of them a switch in this process that loses, delays, doubles and cuts what goes from one to another.
//!
//! The packets are the kernel's, of real connections. No queueing discipline of the kernel is needed, which
//! not every kernel has.

use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferrite_testkit::Random;

/// Longest packet of a tunnel.
const PACKET_BYTES: usize = 1 << 16;
/// Packets under way at once; more are lost, as in any router.
const UNDER_WAY_MAX: usize = 20_000;

/// What happens to packets from one place to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Nothing arrives.
    pub cut: bool,
    /// Of a thousand, how many are lost.
    pub lost: u64,
    /// Of a thousand, how many arrive twice.
    pub doubled: u64,
    /// How long they take at least.
    pub delay: Duration,
    /// How much longer some take: they overtake each other.
    pub jitter: Duration,
}

struct Packet {
    due: Instant,
    order: u64,
    to: usize,
    bytes: Vec<u8>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap gives the largest first: the one that is due first.
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

struct Shared {
    /// Links by place of the sender and of the receiver.
    links: Mutex<Vec<Vec<Link>>>,
    under_way: Mutex<BinaryHeap<Packet>>,
    changed: Condvar,
    ended: AtomicBool,
    passed: AtomicU64,
    lost: AtomicU64,
}

/// The switch. Ends when dropped.
pub struct Switch {
    shared: Arc<Shared>,
}

/// A tunnel device in this namespace; it can be moved to another and stays ours.
///
/// # Errors
/// What the system says; without privileges, that.
pub fn tunnel(name: &str) -> std::io::Result<File> {
    const IFF_TUN: i16 = 1;
    const IFF_NO_PI: i16 = 0x1000;
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut request = Request {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    assert!(name.len() < 16, "a name of a device is short");
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is open, and the request is of the size and shape that this call reads and
    // writes (struct ifreq: a name of 16 bytes, then a union of 24).
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &mut request) };
    if answer < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(file)
}

impl Switch {
    /// Connects these tunnels. The place of each is the last number of its address, less ten.
    pub fn start(tunnels: Vec<File>, seed: u64) -> Self {
        let places = tunnels.len();
        let shared = Arc::new(Shared {
            links: Mutex::new(vec![vec![Link::default(); places]; places]),
            under_way: Mutex::new(BinaryHeap::new()),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let mut writers = Vec::new();
        for (place, tunnel) in tunnels.into_iter().enumerate() {
            let reader = tunnel.try_clone().expect("a descriptor can be copied");
            writers.push(tunnel);
            let shared = Arc::clone(&shared);
            let random = Random::of(seed.wrapping_add(place as u64));
            std::thread::spawn(move || receive(&shared, reader, place, random));
        }
        let sending = Arc::clone(&shared);
        std::thread::spawn(move || send(&sending, &mut writers));
        Switch { shared }
    }

    /// Changes the links from each place to each other.
    pub fn set(&self, link: impl Fn(usize, usize) -> Link) {
        let mut links = lock(&self.shared.links);
        for (from, row) in links.iter_mut().enumerate() {
            for (to, one) in row.iter_mut().enumerate() {
                *one = link(from, to);
            }
        }
    }

    /// Packets that went through, and that were lost.
    pub fn counts(&self) -> (u64, u64) {
        (
            self.shared.passed.load(Ordering::Relaxed),
            self.shared.lost.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn receive(shared: &Shared, mut tunnel: File, from: usize, mut random: Random) {
    let mut buffer = vec![0; PACKET_BYTES];
    let mut order = 0;
    while !shared.ended.load(Ordering::Relaxed) {
        let Ok(len) = tunnel.read(&mut buffer) else {
            // The namespace is gone, and the device with it.
            return;
        };
        let bytes = &buffer[..len];
        // Version 4 only; the receiver's address is at 16 to 19.
        let (Some(4), Some(last)) = (bytes.first().map(|first| first >> 4), bytes.get(19)) else {
            continue;
        };
        let to = usize::from(*last).wrapping_sub(10);
        let Some(link) = lock(&shared.links)[from].get(to).copied() else {
            continue;
        };
        if link.cut || random.below(1_000) < link.lost {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let copies = 1 + usize::from(random.below(1_000) < link.doubled);
        for _ in 0..copies {
            let jitter = u64::try_from(link.jitter.as_micros()).unwrap_or(0);
            let more = Duration::from_micros(random.below(jitter + 1));
            order += 1;
            let packet = Packet {
                due: Instant::now() + link.delay + more,
                order: order << 8 | from as u64,
                to,
                bytes: bytes.to_vec(),
            };
            let mut under_way = lock(&shared.under_way);
            if under_way.len() < UNDER_WAY_MAX {
                under_way.push(packet);
                shared.changed.notify_one();
            }
        }
    }
}

fn send(shared: &Shared, tunnels: &mut [File]) {
    let mut under_way = lock(&shared.under_way);
    while !shared.ended.load(Ordering::Relaxed) {
        let now = Instant::now();
        let wait = match under_way.peek() {
            Some(first) if first.due <= now => {
                if let Some(packet) = under_way.pop() {
                    drop(under_way);
                    // A device that is gone or down loses packets, like any other.
                    if tunnels[packet.to].write(&packet.bytes).is_ok() {
                        shared.passed.fetch_add(1, Ordering::Relaxed);
                    }
                    under_way = lock(&shared.under_way);
                }
                continue;
            }
            Some(first) => first.due - now,
            None => Duration::from_millis(200),
        };
        under_way = shared
            .changed
            .wait_timeout(under_way, wait)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}
