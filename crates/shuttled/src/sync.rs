//! The locks that the production code asks for, made of those of `shuttle`.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Instant;

pub use shuttle::thread_local;
// The counting of references needs no order of its own.
pub use std::sync::Arc;

pub use shuttle::sync::atomic::{AtomicU64, Ordering};

/// As `parking_lot::Mutex`.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

/// As `parking_lot::MutexGuard`.
pub struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    /// As there.
    pub fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    /// As there.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(guard) => guard,
            None => unreachable!("a guard is given up within a wait only"),
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Some(guard) => guard,
            None => unreachable!("a guard is given up within a wait only"),
        }
    }
}

/// As `parking_lot::Condvar`.
#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

/// As `parking_lot::WaitTimeoutResult`.
pub struct Waited(bool);

impl Waited {
    /// As there.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// As there.
    pub fn new() -> Self {
        Condvar(shuttle::sync::Condvar::new())
    }

    /// As there.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// As there.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// As there.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.0.take() {
            let held = self.0.wait(held).unwrap_or_else(PoisonError::into_inner);
            guard.0 = Some(held);
        }
    }

    /// Time does not pass here: whether the deadline comes first is left to the scheduler's dice.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _deadline: Instant) -> Waited {
        use shuttle::rand::Rng as _;
        if shuttle::rand::thread_rng().r#gen::<bool>() {
            self.wait(guard);
            Waited(false)
        } else {
            shuttle::thread::yield_now();
            Waited(true)
        }
    }
}

/// As `parking_lot::RwLock`.
#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// As there.
    pub fn new(value: T) -> Self {
        RwLock(shuttle::sync::RwLock::new(value))
    }

    /// As there.
    pub fn read(&self) -> shuttle::sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As there.
    pub fn write(&self) -> shuttle::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
