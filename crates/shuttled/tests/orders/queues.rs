//! The queue between two threads, and the counter of a serving thread before it.

use std::collections::VecDeque;
use std::sync::Arc;

use ferrite_shuttled::port::{Post, Reply, serve, submit};
use ferrite_shuttled::queue::{Queue, Wait};
use ferrite_shuttled::sync::Mutex;
use shuttle::thread;

use crate::orders;

#[test]
fn what_is_sent_arrives_once_and_in_each_senders_order() {
    orders(1_000, || {
        let queue = Queue::new(3);
        let senders: Vec<_> = (0..3u32)
            .map(|sender| {
                let queue = queue.clone();
                thread::spawn(move || {
                    let mut refused = 0;
                    for item in 0..4u32 {
                        let item = (sender, item);
                        match item.1 {
                            0 => queue.push(item),
                            1 => queue.push_all([item]),
                            2 => refused += queue.try_push_all(vec![item]).len(),
                            _ => refused += usize::from(queue.try_push(item).is_err()),
                        }
                    }
                    refused
                })
            })
            .collect();
        let receiving = queue.clone();
        let receiver = thread::spawn(move || {
            let (mut all, mut batch) = (Vec::new(), VecDeque::new());
            let mut rounds = 0u32;
            loop {
                // A deadline that may come first must lose nothing either.
                rounds += 1;
                let deadline = rounds.is_multiple_of(2).then(std::time::Instant::now);
                if receiving.wait(&mut batch, deadline) == Wait::Closed {
                    return all;
                }
                all.extend(batch.drain(..));
            }
        });
        let refused: usize = senders.into_iter().map(|one| one.join().unwrap()).sum();
        queue.close();
        let all = receiver.join().unwrap();
        assert_eq!(all.len() + refused, 12);
        for sender in 0..3 {
            let own: Vec<u32> = all
                .iter()
                .filter(|item| item.0 == sender)
                .map(|item| item.1)
                .collect();
            assert!(own.is_sorted_by(|a, b| a < b), "{own:?}");
        }
    });
}

#[test]
fn every_call_of_a_serving_thread_is_answered_or_refused() {
    orders(1_000, || {
        let queue: Queue<(u32, Reply<u32>)> = Queue::new(3);
        let answering = queue.clone();
        let answerer = thread::spawn(move || {
            let mut batch = VecDeque::new();
            while answering.wait(&mut batch, None) == Wait::Open {
                let mut post = Post::default();
                for (item, reply) in batch.drain(..) {
                    reply.send_by(&mut post, item + 100);
                }
            }
        });
        let servers: Vec<_> = (0..2u32)
            .map(|server| {
                let queue = queue.clone();
                thread::spawn(move || {
                    let refused = Arc::new(Mutex::new(0));
                    let noting = Arc::clone(&refused);
                    let counter = serve(queue.clone(), move |(_, _): (u32, Reply<u32>)| {
                        *noting.lock() += 1;
                    });
                    let calls = async {
                        let call = async |item: u32| {
                            // The counter is there once the task that serves it has run.
                            tokio::task::yield_now().await;
                            let (reply, receiver) = Reply::channel();
                            if submit(&queue, (item, reply)).is_err() {
                                return false;
                            }
                            match receiver.await {
                                Ok(answer) => {
                                    assert_eq!(answer, item + 100);
                                    true
                                }
                                // Refused later: its reply was dropped.
                                Err(_) => false,
                            }
                        };
                        let first = server * 10;
                        let (a, b, c) = tokio::join!(call(first), call(first + 1), call(first + 2));
                        [a, b, c].into_iter().filter(|answered| *answered).count()
                    };
                    let answered = shuttle::future::block_on(async {
                        tokio::select! {
                            biased;
                            () = counter => unreachable!("it serves until it is dropped"),
                            answered = calls => answered,
                        }
                    });
                    (answered, *refused.lock())
                })
            })
            .collect();
        for server in servers {
            let (answered, refused) = server.join().unwrap();
            assert!(
                answered + refused == 3,
                "{answered} answered, {refused} refused"
            );
        }
        queue.close();
        answerer.join().unwrap();
    });
}
