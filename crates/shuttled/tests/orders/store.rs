//! The buffer of the store between the apply thread, the thread that commits and readers: nothing is ever out of
//! sight while it moves from the buffer into the file.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use ferrite_shuttled::backend::{Backend, Batch};
use ferrite_shuttled::file::{FileView, ReadError, Visit};
use ferrite_shuttled::queue::{Queue, Wait};
use ferrite_shuttled::schema::Bucket;
use shuttle::thread;

use crate::orders;

/// A state of the file.
#[derive(Clone, Default)]
struct File(BTreeMap<(Bucket, Vec<u8>), Bytes>);

impl File {
    fn with(&self, batch: &Batch) -> Self {
        let mut next = self.clone();
        for bucket in Bucket::ALL {
            for (key, value) in batch.iter(bucket) {
                match value {
                    Some(value) => next.0.insert((bucket, key.to_vec()), value.clone()),
                    None => next.0.remove(&(bucket, key.to_vec())),
                };
            }
        }
        next
    }
}

impl FileView for File {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.0.get(&(bucket, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), ReadError> {
        for ((_, key), value) in self.0.range((bucket, from.to_vec())..) {
            if to.is_some_and(|to| key.as_slice() >= to) {
                break;
            }
            if visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn size_in_use(&self) -> u64 {
        self.size()
    }
}

fn number(value: Option<Bytes>) -> u8 {
    value.and_then(|value| value.first().copied()).unwrap_or(0)
}

#[test]
fn what_was_seen_stays_in_sight_while_it_is_committed() {
    orders(1_000, || {
        let backend = Backend::new(Arc::new(File::default()));
        let batches: Queue<Arc<Batch>> = Queue::new(10);
        let committed: Queue<()> = Queue::new(10);
        let commit = {
            let (backend, batches, committed) =
                (backend.clone(), batches.clone(), committed.clone());
            thread::spawn(move || {
                let (mut file, mut batch) = (File::default(), VecDeque::new());
                while batches.wait(&mut batch, None) == Wait::Open {
                    for batch in batch.drain(..) {
                        file = file.with(&batch);
                        assert!(backend.commit_done(Arc::new(file.clone())));
                        committed.push(());
                    }
                }
                file
            })
        };
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let backend = backend.clone();
                thread::spawn(move || {
                    let mut last = 0;
                    for round in 0..4 {
                        let now = if round % 2 == 0 {
                            number(backend.get(Bucket::Key, b"a").expect("it reads"))
                        } else {
                            let view = backend.view();
                            let a = number(view.get(Bucket::Key, b"a").expect("it reads"));
                            let b = number(view.get(Bucket::Meta, b"b").expect("it reads"));
                            // They are written one after the other, and a view is of one moment.
                            assert!(a == b || a == b + 1, "a {a}, b {b}");
                            let mut scanned = 0;
                            view.scan(Bucket::Key, b"a", None, &mut |_, value| {
                                scanned = value[0];
                                ControlFlow::Break(())
                            })
                            .expect("it reads");
                            assert_eq!(scanned, a);
                            a
                        };
                        assert!(now >= last, "{now} after {last}");
                        last = now;
                    }
                })
            })
            .collect();
        let mut under_way = 0;
        let mut done = VecDeque::new();
        for value in 1..=4u8 {
            backend.put(Bucket::Key, b"a", &[value]);
            backend.put(Bucket::Meta, b"b", &[value]);
            if let Some(batch) = backend.freeze() {
                under_way += 1;
                batches.push(batch);
            }
            if value == 2 {
                while done.len() < under_way {
                    committed.wait(&mut done, None);
                }
            }
        }
        while done.len() < under_way {
            committed.wait(&mut done, None);
        }
        if let Some(batch) = backend.freeze() {
            batches.push(batch);
        }
        batches.close();
        let file = commit.join().unwrap();
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(number(file.get(Bucket::Key, b"a").expect("it reads")), 4);
        assert_eq!(backend.pending().0, 0);
        assert_eq!(
            number(backend.get(Bucket::Meta, b"b").expect("it reads")),
            4
        );
    });
}
