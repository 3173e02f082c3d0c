//! What the apply thread shows to everybody: membership, alarms, how far it is.

use std::sync::Arc;

use ferrite_apply::{Alarms, Applier, Progress};
use ferrite_membership::Cluster;
use ferrite_proto::etcdserverpb::{AlarmMember, AlarmType};
use parking_lot::RwLock;

/// Copies for readers; the originals belong to the apply thread.
pub struct Published {
    cluster: RwLock<Arc<Cluster>>,
    alarms: RwLock<Arc<Alarms>>,
    progress: RwLock<Progress>,
}

impl Published {
    /// The state at start.
    pub fn new(applier: &Applier) -> Self {
        Published {
            cluster: RwLock::new(Arc::new(applier.cluster().clone())),
            alarms: RwLock::new(Arc::new(applier.alarms().clone())),
            progress: RwLock::new(applier.progress()),
        }
    }

    pub(crate) fn cluster(&self, cluster: Arc<Cluster>) {
        *self.cluster.write() = cluster;
    }

    pub(crate) fn alarms(&self, alarms: Alarms) {
        *self.alarms.write() = Arc::new(alarms);
    }

    pub(crate) fn progress(&self, progress: Progress) {
        *self.progress.write() = progress;
    }

    /// The membership.
    pub fn get_cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster.read())
    }

    /// The alarms of one kind; of all kinds for `None`.
    pub fn get_alarms(&self, kind: AlarmType) -> Vec<AlarmMember> {
        self.alarms.read().list(kind)
    }

    /// How far the state is.
    pub fn get_progress(&self) -> Progress {
        *self.progress.read()
    }
}
