//! The few calls of the system that the standard library lacks: local time, and memory that stays in RAM.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds by which local time is ahead of UTC at that moment; 0 where nobody knows.
pub fn local_offset_seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let Ok(seconds) = libc::time_t::try_from(since.as_secs()) else {
        return 0;
    };
    let mut broken = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call, and localtime_r writes only into the second one,
    // a structure for which all zeroes is a valid value. It may read TZ from the environment, which
    // nothing in this program changes.
    let filled = unsafe { libc::localtime_r(&raw const seconds, broken.as_mut_ptr()) };
    if filled.is_null() {
        return 0;
    }
    // SAFETY: it was zeroed, which is valid for `tm`, and filled in by a call that succeeded.
    unsafe { broken.assume_init() }.tm_gmtoff
}

/// Keeps what memory the process has and will have in RAM, page by page as it is used.
///
/// # Errors
/// What is in the way, and the way out.
pub fn lock_memory() -> Result<(), String> {
    let why = |what: String| {
        format!(
            "--memory-mlock: {what}: allow it (CAP_IPC_LOCK, or LimitMEMLOCK=infinity, ulimit -l unlimited), or leave the flag out"
        )
    };
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is valid for the call, which writes a structure of that type there.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if known == 0 && limit.rlim_cur != libc::RLIM_INFINITY && !may_lock() {
        // Beyond the limit the next allocation would fail, and end the process at any moment.
        return Err(why(format!(
            "this process may lock only {} bytes",
            limit.rlim_cur
        )));
    }
    // SAFETY: mlockall takes flags and touches no memory of ours but to keep it where it is.
    let locked =
        unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if locked == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(why(format!("memory cannot be locked: {error}")))
}

/// Whether the process may lock memory without limit (capability 14).
fn may_lock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << 14) != 0)
}
