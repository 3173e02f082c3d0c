//! Counts what each thread reserves, so that an input of a few bytes which makes the code reserve
//! megabytes is a failure and not a slow test.
//!
//! The allocator is the system's; the program and the tests of this crate install it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with what each thread reserves counted.
pub struct Counting;

fn note(size: usize) {
    // While a thread ends its locals may be gone; what it reserves then is nobody's.
    let _ending = LIVE.try_with(|live| {
        let now = live.get().saturating_add(size);
        live.set(now);
        PEAK.set(PEAK.get().max(now));
        LARGEST.set(LARGEST.get().max(size));
    });
}

fn forget(size: usize) {
    let _ending = LIVE.try_with(|live| live.set(live.get().saturating_sub(size)));
}

// SAFETY: every call is handed on to the system's allocator unchanged, and its answer is handed back; the
// counters beside it are plain cells of the thread that never allocate (constant, without a destructor).
unsafe impl GlobalAlloc for Counting {
    // SAFETY: the caller's promises are those that `System` asks for.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the caller's promises are those that `System` asks for.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    // SAFETY: the caller's promises are those that `System` asks for.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        forget(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    // SAFETY: the caller's promises are those that `System` asks for.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        forget(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What a piece of work reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Most bytes held at one time, over what was held before.
    pub peak: usize,
    /// Largest single request, in bytes.
    pub largest: usize,
}

/// Runs something on this thread, and says what it reserved here. All zero where [`Counting`] is not
/// installed.
pub fn during<T>(run: impl FnOnce() -> T) -> (T, Used) {
    let before = LIVE.get();
    PEAK.set(before);
    LARGEST.set(0);
    let answer = run();
    let used = Used {
        peak: PEAK.get().saturating_sub(before),
        largest: LARGEST.get(),
    };
    (answer, used)
}
