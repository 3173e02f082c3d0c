//! Deliberate mistakes in production code, for the simulator to find.
//!
//! `mutation!("name")` stands where a mistake would be made. Without the feature `on` it is the constant
//! `false`, and the compiler drops what hangs on it; a release build of `etcd` with the feature does not
//! compile. With it, a mistake is made by the threads that asked for it and by no others.

/// Whether this build can make mistakes.
pub const ON: bool = cfg!(feature = "on");

/// Whether the mistake of this name is to be made here and now.
#[macro_export]
macro_rules! mutation {
    ($name:literal) => {
        $crate::is_made($name)
    };
}

#[cfg(not(feature = "on"))]
mod made {
    /// Never.
    #[inline(always)]
    pub const fn is_made(_name: &str) -> bool {
        false
    }

    /// Does nothing in this build.
    pub fn make(_name: Option<&'static str>) {}
}

#[cfg(feature = "on")]
mod made {
    use std::cell::Cell;

    std::thread_local! {
        static MADE: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Whether this thread makes this mistake.
    #[inline]
    pub fn is_made(name: &str) -> bool {
        MADE.get().is_some_and(|made| made == name)
    }

    /// Has this thread make a mistake from here on, or none.
    pub fn make(name: Option<&'static str>) {
        MADE.set(name);
    }
}

pub use made::{is_made, make};
