//! What the tests share: leases in memory, and a store whose file is in memory.
#![allow(dead_code)] // each test binary uses its part

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferrite_mvcc::schema::Bucket;
use ferrite_mvcc::{Backend, Batch, CompactionProgress, Leases, MemFile, RestoreOptions, Store};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct TestLeases {
    pub granted: BTreeSet<i64>,
    pub attached: BTreeMap<Vec<u8>, i64>,
}

impl Leases for TestLeases {
    fn exists(&self, id: i64) -> bool {
        self.granted.contains(&id)
    }
    fn lease_of(&self, key: &[u8]) -> i64 {
        self.attached.get(key).copied().unwrap_or(0)
    }
    fn attach(&mut self, id: i64, key: &[u8]) {
        assert!(self.exists(id), "attached to a lease that is gone");
        let before = self.attached.insert(key.to_vec(), id);
        assert_eq!(before, None, "attached twice");
    }
    fn detach(&mut self, id: i64, key: &[u8]) {
        assert_eq!(self.attached.remove(key), Some(id));
    }
}

/// A store with its leases and its file.
pub struct Member {
    pub store: Store,
    pub leases: TestLeases,
    pub file: MemFile,
    pub frozen: Option<Arc<Batch>>,
    pub options: RestoreOptions,
}

impl Member {
    pub fn new() -> Self {
        Self::with(RestoreOptions::default())
    }

    pub fn with(options: RestoreOptions) -> Self {
        Self::open(MemFile::new(), TestLeases::default(), options)
    }

    pub fn open(file: MemFile, mut leases: TestLeases, options: RestoreOptions) -> Self {
        leases.attached.clear();
        let backend = Backend::new(Arc::new(file.clone()));
        let store = Store::restore(backend, &mut leases, options).expect("the file is sound");
        Self {
            store,
            leases,
            file,
            frozen: None,
            options,
        }
    }

    pub fn freeze(&mut self) {
        if let Some(batch) = self.store.backend().freeze() {
            self.frozen = Some(batch);
        }
    }

    pub fn commit_done(&mut self) {
        if let Some(batch) = self.frozen.take() {
            self.file = self.file.with(&batch);
            let file = Arc::new(self.file.clone());
            assert!(self.store.backend().commit_done(file));
        }
    }

    pub fn commit_all(&mut self) {
        self.commit_done();
        self.freeze();
        self.commit_done();
    }

    /// Comes up from the file as another process would, having committed everything.
    pub fn restart(&mut self) {
        self.commit_all();
        self.crash();
    }

    /// Comes up from what was committed.
    pub fn crash(&mut self) {
        *self = Self::open(self.file.clone(), self.leases.clone(), self.options);
    }

    pub fn put(&mut self, key: &str, value: &str) -> i64 {
        let mut txn = self.store.write();
        txn.put(key.as_bytes(), value.as_bytes(), 0, &mut self.leases);
        txn.end().revision
    }

    pub fn delete(&mut self, key: &str) -> i64 {
        let mut txn = self.store.write();
        txn.delete_range(key.as_bytes(), &[], &mut self.leases);
        txn.end().revision
    }

    pub fn finish_compactions(&self) {
        for _ in 0..1_000_000 {
            match self.store.compaction_step(7).expect("the file is sound") {
                CompactionProgress::Idle => return,
                CompactionProgress::AwaitingHash => panic!("nobody computes the hash"),
                _ => {}
            }
        }
        panic!("compaction does not end");
    }

    /// Keys of the key bucket as they lie there, with garbage.
    pub fn stored(&self) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        let view = self.store.backend().view();
        view.scan(Bucket::Key, &[], None, &mut |key, _| {
            keys.push(key.to_vec());
            std::ops::ControlFlow::Continue(())
        })
        .expect("the file is sound");
        keys
    }
}
