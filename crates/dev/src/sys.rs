//! The few system calls that the standard library does not offer, and all `unsafe` of this crate.
//!
//! It owns: signals to and from this process, the terminal's mode, and the promise that a child does
//! not outlive us. Each `unsafe` block carries its proof.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

pub use libc::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGTERM};

/// Prepares a command for being our child. It begins with no signal blocked (what [`on_signals`] blocks here would
/// else stay blocked there, and a member never see its SIGTERM). And on Linux the kernel kills it (SIGKILL) when the
/// thread that spawns it ends, however it ends: a member never outlives this program, not even its `kill -9`. Spawn
/// from a thread that lives as long as the child may. Elsewhere only an orderly end takes the children along.
pub fn our_child(command: &mut Command) {
    let parent = std::process::id();
    let hook = move || {
        // SAFETY: `none` is plain data that sigemptyset initialises before pthread_sigmask reads it through a valid
        // pointer; the old mask is not asked for. Both are async-signal-safe, as code between fork and exec of a
        // threaded process must be.
        let answer = unsafe {
            let mut none = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())
        };
        if answer != 0 {
            return Err(io::Error::from_raw_os_error(answer));
        }
        die_with(parent)
    };
    // SAFETY: the hook runs in the forked child before exec, and only makes the calls proved above and in `die_with`;
    // building an `io::Error` from a number does not allocate.
    unsafe {
        command.pre_exec(hook);
    }
}

/// In the child: asks the kernel to kill us when `parent` (its spawning thread) ends.
#[cfg(target_os = "linux")]
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: prctl(PR_SET_PDEATHSIG) and getppid are bare system calls: they take no lock, allocate nothing and touch
    // no memory of ours, so they are sound between fork and exec. The argument is a signal number passed by value.
    let (set, now) = unsafe {
        let signal = libc::SIGKILL as libc::c_ulong;
        (libc::prctl(libc::PR_SET_PDEATHSIG, signal), libc::getppid())
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have died before the call above: then no signal will ever come.
    if u32::try_from(now) != Ok(parent) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn die_with(_parent: u32) -> io::Result<()> {
    Ok(())
}

/// Sends a signal to a child that has not been waited for yet (so that its ID is still its own).
///
/// # Errors
/// The system's answer, `ESRCH` when there is no such process.
pub fn signal_child(child: &std::process::Child, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    // SAFETY: kill takes two integers and touches no memory. `pid` is positive and belongs to a child
    // that is not reaped while the caller's `&Child` exists, so it cannot name another process.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes SIGINT, SIGTERM, SIGHUP and SIGCONT away from their default actions: from now on they reach
/// only `on_signal`, which runs on a thread of its own (so it may lock and print). Call once, from
/// `main`, before any other thread starts: threads inherit the mask. So would children: see [`our_child`].
///
/// # Errors
/// The system's answer when the mask cannot be set or the thread not be started.
pub fn on_signals(on_signal: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    // SAFETY: `set` is plain data that sigemptyset initialises before anything reads it; sigaddset and
    // pthread_sigmask get valid pointers to it and a null old-mask pointer, which is allowed.
    let set = unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut set);
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGCONT] {
            libc::sigaddset(&mut set, signal);
        }
        let answer = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        if answer != 0 {
            return Err(io::Error::from_raw_os_error(answer));
        }
        set
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            loop {
                let mut signal = 0;
                // SAFETY: both pointers are to live, initialised locals; the signals of `set` are blocked
                // in this thread too, as sigwait asks.
                if unsafe { libc::sigwait(&set, &mut signal) } == 0 {
                    on_signal(signal);
                }
            }
        })?;
    Ok(())
}

/// The terminal's mode before [`keys_mode`] changed it; set once.
static SAVED: OnceLock<libc::termios> = OnceLock::new();

/// Makes the terminal on standard input hand over single keys without echo; Ctrl-C and Ctrl-Z keep
/// their meaning and output its newlines. False when standard input is no terminal of ours (a pipe, or a
/// job in the background), and then nothing is changed. May be called again (after SIGCONT).
///
/// # Errors
/// The system's answer when the mode cannot be read or set.
pub fn keys_mode() -> io::Result<bool> {
    // SAFETY: isatty, tcgetpgrp and getpgrp take at most a descriptor number and touch no memory of ours.
    let ours = unsafe { libc::isatty(0) == 1 && libc::tcgetpgrp(0) == libc::getpgrp() };
    if !ours {
        return Ok(false);
    }
    let saved = match SAVED.get() {
        Some(saved) => saved,
        None => {
            // SAFETY: termios is plain data (integers), valid when zeroed, and tcgetattr gets a valid
            // pointer to it; its content is used only after tcgetattr said that it filled it.
            let (answer, mode) = unsafe {
                let mut mode = std::mem::zeroed::<libc::termios>();
                (libc::tcgetattr(0, &mut mode), mode)
            };
            if answer != 0 {
                return Err(io::Error::last_os_error());
            }
            SAVED.get_or_init(|| mode)
        }
    };
    let mut mode = *saved;
    mode.c_lflag &= !(libc::ICANON | libc::ECHO);
    mode.c_cc[libc::VMIN] = 1;
    mode.c_cc[libc::VTIME] = 0;
    // SAFETY: tcsetattr reads one initialised termios through a valid pointer.
    if unsafe { libc::tcsetattr(0, libc::TCSANOW, &mode) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

/// Gives the terminal the mode it had before [`keys_mode`]; nothing if that never ran. For every way
/// out: the ordinary end, signals, and the panic hook (release builds abort on a panic and run no drops).
pub fn restore_terminal() {
    if let Some(saved) = SAVED.get() {
        // SAFETY: tcsetattr reads one initialised termios through a valid pointer; a failure (the
        // terminal is gone) leaves nothing to do.
        unsafe {
            libc::tcsetattr(0, libc::TCSANOW, saved);
        }
    }
}

/// The user we run as is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
