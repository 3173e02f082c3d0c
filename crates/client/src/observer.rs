//! What goes wrong underneath a call that may still succeed, told to whoever wants to write it down.

use std::fmt;
use std::sync::Arc;

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// An endpoint could not be connected to.
    Dial {
        /// What happened, the endpoint with it.
        error: String,
    },
    /// An attempt failed, and another one follows or the call's time is up.
    Attempt {
        /// The first endpoint of the client.
        target: String,
        /// The call: `/etcdserverpb.KV/Range`.
        method: String,
        /// Counted from 0.
        attempt: u32,
        /// What the server or the connection said.
        error: String,
    },
}

type Tell = dyn Fn(&Noticed) + Send + Sync;

/// Whom to tell; nobody by default. It is called from the tasks that make calls, and must not wait.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<Tell>>);

impl Observer {
    /// Tells this function.
    pub fn new(tell: impl Fn(&Noticed) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(crate) fn tell(&self, what: impl FnOnce() -> Noticed) {
        if let Some(tell) = &self.0 {
            tell(&what());
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observer({})", self.0.is_some())
    }
}
