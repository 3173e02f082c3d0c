//! Group commit: clients, the raft stage, the log thread and its disk. What is acknowledged is on the disk,
//! whenever the power goes.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use ferrite_node::OnFatal;
use ferrite_node::stage::log::LogStage;
use ferrite_node::stage::raft::{Input, Params, Proposal, RaftStage};
use ferrite_peer::{Handler, Refused, SnapshotSource, Transport};
use ferrite_proto::raftpb::{ConfState, HardState, Message};
use ferrite_proto::{etcdserverpb, walpb};
use ferrite_raft::{Config, MemStorage, RawNode};
use ferrite_shuttled::port::Post;
use ferrite_shuttled::queue::{Queue, Wait};
use ferrite_shuttled::threads::wal::{Command, LogThread, SyncWatch};
use ferrite_shuttled::wait::Waiters;
use ferrite_wal::memfs::MemFs;
use ferrite_wal::snap::SnapDir;
use ferrite_wal::{Options, Preparation, Wal};
use shuttle::thread;

use crate::orders;

const DIR: &str = "/data/wal";

/// A member alone has nobody to talk to.
struct Alone;

impl Handler for Alone {
    fn receive(&self, _: Message) -> Result<(), Refused> {
        Err(Refused::Stopped)
    }
    fn is_removed(&self, id: u64) -> bool {
        panic!("a message for {id}, in a cluster of one")
    }
    fn report_unreachable(&self, _: u64) {}
    fn report_snapshot(&self, _: u64, _: bool) {}
    fn removed_by_cluster(&self) {}
    fn open_snapshot(&self, _: &Message) -> Result<SnapshotSource, String> {
        Err("there is nobody to send it to".into())
    }
}

fn transport() -> Transport {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
    });
    let config = ferrite_peer::Config {
        member_id: 1,
        cluster_id: 2,
        local_peer_urls: Vec::new(),
        server_version: "3.7.1".into(),
        min_cluster_version: "3.0.0".into(),
        snap_dir: "/nowhere".into(),
        dial_timeout: std::time::Duration::from_secs(1),
        read_timeout: std::time::Duration::from_secs(5),
        write_timeout: std::time::Duration::from_secs(5),
        connections_max: 1,
    };
    Transport::start_with(
        config,
        Arc::new(Alone),
        runtime.handle().clone(),
        &Default::default(),
    )
}

fn options(fs: &MemFs) -> Options {
    Options {
        fs: Arc::new(fs.clone()),
        segment_bytes: 64 << 10,
        no_fsync: false,
        preparation: Preparation::Inline,
        metrics: Default::default(),
    }
}

fn stage() -> RaftStage<()> {
    let storage = MemStorage::with_conf_state(ConfState {
        voters: vec![1],
        ..ConfState::default()
    });
    let config = Config {
        id: 1,
        async_storage_writes: true,
        seed: 7,
        ..Config::default()
    };
    let core = RawNode::new(config, storage).expect("a core");
    let params = Params {
        id: 1,
        election_ticks: 10,
        read_retry_ticks: 5,
        hold_ticks: 70,
        catchup_entries: 100,
        log_bytes_max: 1 << 20,
        first_read_context: 1,
    };
    RaftStage::new(core, HardState::default(), params)
}

/// The raft thread's loop, and the applying of an entry, which here is answering its client.
fn raft(queue: &Queue<Input<()>>, wal: &Queue<Command>, waiters: &Waiters<()>) {
    let mut stage = stage();
    let mut batch = VecDeque::new();
    let mut inputs: Vec<Input<()>> = vec![
        Input::AdvanceTicks(30),
        Input::Tick {
            disk_stalled: false,
        },
    ];
    loop {
        let effects = stage.step(inputs.drain(..));
        wal.push_all(effects.persist.into_iter().map(Command::Persist));
        let mut post = Post::default();
        for job in effects.apply {
            let ids = job.entries.iter().filter_map(|entry| {
                let id: [u8; 8] = entry.data.get(..8)?.try_into().ok()?;
                Some((u64::from_be_bytes(id), ()))
            });
            waiters.answer_all(&mut post, ids.collect::<Vec<_>>());
            queue.push(Input::Applied(job.responses));
        }
        drop(post);
        if queue.wait(&mut batch, None) == Wait::Closed {
            return;
        }
        inputs.extend(batch.drain(..));
    }
}

fn run(cut: bool) {
    let fs = MemFs::new(3);
    fs.put(Path::new("/data/.keep"), b"");
    let metadata = etcdserverpb::Metadata {
        node_id: 1,
        cluster_id: 2,
    };
    let wal = Wal::create(Path::new(DIR), &metadata, options(&fs)).expect("a log");
    let snaps = SnapDir::new(Arc::new(fs.clone()), Path::new("/data/snap"));
    let raft_queue: Queue<Input<()>> = Queue::new(100);
    let log_queue: Queue<Command> = Queue::new(100);
    let waiters: Arc<Waiters<()>> = Arc::default();
    // When the disk fails the process ends: whoever waits learns nothing.
    let (ending, raft_ending) = (Arc::clone(&waiters), raft_queue.clone());
    let log = LogThread {
        stage: LogStage::new(wal, snaps, 1, 0, 0),
        queue: log_queue.clone(),
        raft: raft_queue.clone(),
        apply: Queue::new(100),
        transport: transport(),
        watch: SyncWatch::new(std::time::Instant::now()),
        on_fatal: OnFatal::new(move |_| {
            raft_ending.close();
            ending.clear();
        }),
    };
    let log = thread::spawn(move || log.run());
    let (queue, log_in, answering) = (raft_queue.clone(), log_queue.clone(), Arc::clone(&waiters));
    let raft = thread::spawn(move || raft(&queue, &log_in, &answering));
    let clients: Vec<_> = (1..=3u64)
        .map(|client| {
            let (queue, waiters) = (raft_queue.clone(), Arc::clone(&waiters));
            thread::spawn(move || {
                let mut acknowledged = Vec::new();
                for round in 0..2 {
                    let id = client * 10 + round;
                    let receiver = waiters.register(id);
                    let data = Bytes::copy_from_slice(&id.to_be_bytes());
                    if queue
                        .try_push(Input::Propose(Proposal { id, data }))
                        .is_err()
                    {
                        break;
                    }
                    match shuttle::future::block_on(receiver) {
                        Ok(()) => acknowledged.push(id),
                        Err(_) => break,
                    }
                }
                acknowledged
            })
        })
        .collect();
    let after = cut.then(|| {
        let (fs, waiters, queue) = (fs.clone(), Arc::clone(&waiters), raft_queue.clone());
        thread::spawn(move || {
            fs.crash();
            queue.close();
            // The machine is off: the clients that wait get no answer any more.
            waiters.clear();
            Wal::read_on(&fs, Path::new(DIR), &walpb::Snapshot::default())
        })
    });
    if let Some(after) = after {
        // What was acknowledged before the cut is among what it left; what came after it was acknowledged by
        // nobody, as the log's file was gone.
        let read = after.join().unwrap().expect("a whole log");
        let left: Vec<u64> = ids(&read.entries);
        for client in clients {
            for id in client.join().unwrap() {
                assert!(
                    left.contains(&id),
                    "{id} was acknowledged; left is {left:?}"
                );
            }
        }
    } else {
        let mut acknowledged: Vec<u64> = clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect();
        acknowledged.sort_unstable();
        assert_eq!(acknowledged, [10, 11, 20, 21, 30, 31]);
        raft_queue.close();
    }
    raft.join().unwrap();
    log_queue.close();
    log.join().unwrap();
    if !cut {
        fs.crash();
        let read = Wal::read_on(&fs, Path::new(DIR), &walpb::Snapshot::default());
        let mut left = ids(&read.expect("a whole log").entries);
        left.sort_unstable();
        assert_eq!(left, [10, 11, 20, 21, 30, 31]);
    }
}

fn ids(entries: &[ferrite_proto::raftpb::Entry]) -> Vec<u64> {
    entries
        .iter()
        .filter_map(|entry| Some(u64::from_be_bytes(entry.data.get(..8)?.try_into().ok()?)))
        .collect()
}

#[test]
fn every_client_is_answered_and_all_is_on_the_disk() {
    orders(300, || run(false));
}

#[test]
fn what_is_acknowledged_survives_the_power_going_at_any_moment() {
    orders(300, || run(true));
}
