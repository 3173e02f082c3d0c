//! The commit thread: batches and defragmentations from several sides, on a disk in memory.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use ferrite_mvcc::schema::Bucket;
use ferrite_node::OnFatal;
use ferrite_node::disk::Disk;
use ferrite_node::engine::DatabaseOptions;
use ferrite_node::snapshot::Transfers;
use ferrite_node::stage::apply::Input as ApplyInput;
use ferrite_node::stage::commit::{CommitStage, Defragmentation};
use ferrite_node::stage::raft::Input as RaftInput;
use ferrite_shuttled::queue::{Queue, Wait};
use ferrite_shuttled::threads::commit::{Command, CommitThread, Sealed};
use ferrite_shuttled::threads::wal;
use ferrite_shuttled::wait::Waiters;
use ferrite_wal::memfs::MemFs;
use shuttle::thread;

use crate::orders;

const OPTIONS: DatabaseOptions = DatabaseOptions {
    no_sync: false,
    cache_bytes: 1 << 20,
};

fn run() {
    let fs = MemFs::new(5);
    fs.put(Path::new("/snap/.keep"), b"");
    let disk = Disk::on(Arc::new(fs.clone()), 64 << 10);
    let database = Path::new("/snap/db");
    let engine = disk.open_database(database, OPTIONS).expect("a database");
    let backend = ferrite_mvcc::Backend::new(engine.view().expect("a view"));
    let stage = CommitStage {
        backend: backend.clone(),
        engine: Arc::new(parking_lot::Mutex::new(engine)),
        snaps: disk.snap_dir(Path::new("/snap")),
        disk,
        database: database.to_owned(),
        database_options: OPTIONS,
        snapshot_count: 2,
        snapshot_bytes: 1 << 20,
        bytes_since_snapshot: 0,
        max_snapshots: 1,
        last_snapshot: 0,
        defragmentation: Defragmentation::default(),
    };
    let queue: Queue<Command> = Queue::new(100);
    let raft: Queue<RaftInput<()>> = Queue::new(100);
    let apply: Queue<ApplyInput> = Queue::new(100);
    let log: Queue<wal::Command> = Queue::new(100);
    let defragmentations: Arc<Waiters<Result<(), String>>> = Arc::default();
    let commit = CommitThread {
        stage,
        queue: queue.clone(),
        raft: raft.clone(),
        apply: apply.clone(),
        wal: log.clone(),
        transfers: Arc::new(Transfers::default()),
        defragmentations: Arc::clone(&defragmentations),
        metrics: Default::default(),
        defragmenting: None,
        on_fatal: OnFatal::new(|reason| panic!("{reason}")),
    };
    let commit = thread::spawn(move || commit.run());
    let askers: Vec<_> = (1..=2u64)
        .map(|ticket| {
            let (queue, waiters) = (queue.clone(), Arc::clone(&defragmentations));
            thread::spawn(move || {
                let receiver = waiters.register(ticket);
                queue.push(Command::Defragment { ticket });
                let done = shuttle::future::block_on(receiver);
                assert_eq!(done.expect("an answer"), Ok(()), "defragmentation {ticket}");
            })
        })
        .collect();
    // The apply thread: the next batch once the one before is committed.
    let mut batch = VecDeque::new();
    for index in 1..=4u64 {
        backend.put(Bucket::Key, &index.to_be_bytes(), &[index as u8; 50]);
        backend.put(Bucket::Meta, b"consistent_index", &index.to_be_bytes());
        let frozen = backend.freeze().expect("nothing else is being committed");
        queue.push(Command::Commit(Sealed {
            batch: frozen,
            progress: ferrite_apply::Progress { index, term: 1 },
            cluster: Arc::default(),
            force_snapshot: false,
        }));
        'committed: loop {
            assert_eq!(apply.wait(&mut batch, None), Wait::Open);
            for input in batch.drain(..) {
                if let ApplyInput::Committed(done) = input {
                    assert_eq!(done, index, "each batch is done once, in order");
                    break 'committed;
                }
            }
        }
    }
    for asker in askers {
        asker.join().unwrap();
    }
    queue.close();
    commit.join().unwrap();
    raft.close();
    let (mut durable, mut inputs) = (Vec::new(), VecDeque::new());
    while raft.wait(&mut inputs, None) == Wait::Open {
        for input in inputs.drain(..) {
            if let RaftInput::Durable { index, .. } = input {
                durable.push(index);
            }
        }
    }
    assert_eq!(durable, [1, 2, 3, 4]);
    // And all of it is on the disk.
    fs.crash();
    let disk = Disk::on(Arc::new(fs), 64 << 10);
    let engine = disk.open_database(database, OPTIONS).expect("the database");
    let view = engine.view().expect("a view");
    for index in 1..=4u64 {
        use ferrite_mvcc::FileView as _;
        let value = view
            .get(Bucket::Key, &index.to_be_bytes())
            .expect("it reads");
        assert_eq!(value.as_deref(), Some([index as u8; 50].as_slice()));
    }
}

#[test]
fn every_batch_and_every_defragmentation_is_done_and_told_in_order() {
    orders(100, run);
}
