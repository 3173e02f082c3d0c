//! Clients that wait for their request, and readers that wait for an index.

use std::sync::Arc;

use ferrite_shuttled::port::Post;
use ferrite_shuttled::wait::{AppliedIndex, Waiters};
use shuttle::thread;

use crate::orders;

#[test]
fn a_waiter_is_answered_once_or_learns_that_nobody_will() {
    orders(1_000, || {
        let waiters: Arc<Waiters<u64>> = Arc::default();
        // Same shard and other shards.
        let ids = [1, 17, 2, 33];
        let receivers: Vec<_> = ids.iter().map(|id| (*id, waiters.register(*id))).collect();
        let answering = Arc::clone(&waiters);
        let answerer = thread::spawn(move || {
            answering.answer(1, 1);
            let mut post = Post::default();
            answering.answer_all(&mut post, [(17, 17), (2, 2), (99, 99)]);
        });
        let forgetting = Arc::clone(&waiters);
        let forgetter = thread::spawn(move || {
            forgetting.forget(2);
            forgetting.clear();
        });
        for (id, receiver) in receivers {
            match shuttle::future::block_on(receiver) {
                Ok(answer) => assert!(answer == id && id != 33, "{id} was answered {answer}"),
                Err(_) => assert!(!waiters.is_waiting(id)),
            }
        }
        answerer.join().unwrap();
        forgetter.join().unwrap();
        assert!(waiters.is_empty());
    });
}

#[test]
fn no_reader_sleeps_over_its_index() {
    orders(1_500, || {
        let applied: Arc<AppliedIndex<u64>> = Arc::new(AppliedIndex::new(0));
        let readers: Vec<_> = [1u64, 2, 3, 3]
            .into_iter()
            .map(|index| {
                let applied = Arc::clone(&applied);
                thread::spawn(move || {
                    let at_once = applied.wait(index, index);
                    if at_once.is_some() {
                        assert!(applied.get() >= index, "freed before {index} was applied");
                    }
                    usize::from(at_once.is_some())
                })
            })
            .collect();
        let advancing = Arc::clone(&applied);
        let applier = thread::spawn(move || {
            let mut freed = 0;
            for index in 1..=3 {
                let free = advancing.advance(index);
                assert!(
                    free.iter().all(|wanted| *wanted <= index),
                    "{free:?} at {index}"
                );
                freed += free.len();
            }
            freed
        });
        let at_once: usize = readers.into_iter().map(|one| one.join().unwrap()).sum();
        // Whoever came after the last round was served at once; nobody is left.
        assert_eq!(at_once + applier.join().unwrap(), 4);
    });
}
