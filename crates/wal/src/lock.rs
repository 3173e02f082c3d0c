//! Write locks on segments, in the form that etcd's own processes respect: open-file-description
//! locks over the whole file. This is the crate's only unsafe code.

use std::fs::File;
use std::io;

/// Takes the write lock without waiting; `WouldBlock` when another open file holds it. The lock goes
/// away when the file is closed.
#[cfg(target_os = "linux")]
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut whole: libc::flock = {
        // SAFETY: `flock` is a plain C structure of integers, for which all zeros is a valid value.
        unsafe { std::mem::zeroed() }
    };
    whole.l_type = libc::F_WRLCK as libc::c_short;
    whole.l_whence = libc::SEEK_SET as libc::c_short;
    // Start 0 and length 0 mean the whole file, however long it grows.
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and F_OFD_SETLK reads one
    // `flock` from the pointer, which points to a live local and is not kept after the call.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const whole) };
    if answer == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EACCES) => Err(io::ErrorKind::WouldBlock.into()),
        // A file system without such locks: flock(2), as etcd falls back.
        Some(libc::EINVAL) => flock(file),
        _ => Err(error),
    }
}

/// Takes the write lock without waiting; `WouldBlock` when another open file holds it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    flock(file)
}

fn flock(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
