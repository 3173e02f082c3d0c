//! The two-way counter of a serving thread: what its calls submit leaves as one batch, what the other
//! threads answer comes back as one batch.
//!
//! Waking a task of another thread's runtime costs a system call and, on a busy machine, a switch to that
//! thread; so does waking the raft thread. A thread that runs [`serve`] pays for one each way however many
//! calls are ready. Threads that do not, and calls outside a runtime, submit and are answered one by one:
//! the counter changes costs, never meaning.

use std::cell::RefCell;

use tokio::sync::{Notify, oneshot};

use crate::queue::Queue;
use crate::sync::{Arc, Mutex, thread_local};

type Parcel = Box<dyn FnOnce() + Send>;

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// The counter of this thread: its public half, and what waits to be submitted (by the node's number).
struct Here {
    port: Arc<Port>,
    outbox: Box<dyn std::any::Any>,
}

#[derive(Default)]
struct Port {
    inbox: Mutex<Vec<Parcel>>,
    /// Something is in the inbox or the outbox.
    ready: Notify,
}

/// What a thread has gathered for one queue.
struct Outbox<T> {
    queue: Queue<T>,
    items: Vec<T>,
}

/// Submits an item, now or with what else this thread has ready.
///
/// # Errors
/// The item itself when the queue is full or closed, if that is known now; later it goes to the `refused`
/// of [`serve`].
pub fn submit<T: 'static>(queue: &Queue<T>, item: T) -> Result<(), T> {
    HERE.with(|here| {
        let mut here = here.borrow_mut();
        let Some(here) = here.as_mut() else {
            return queue.try_push(item);
        };
        match here.outbox.downcast_mut::<Outbox<T>>() {
            Some(outbox) if outbox.queue.is(queue) => {
                outbox.items.push(item);
                if outbox.items.len() == 1 {
                    here.port.ready.notify_one();
                }
                Ok(())
            }
            // A counter of another node, as in a test with several.
            _ => queue.try_push(item),
        }
    })
}

/// Serves the counter of the current thread for one queue, until dropped. To be spawned once on the
/// thread's own runtime (a current-thread one).
pub async fn serve<T: 'static>(queue: Queue<T>, mut refused: impl FnMut(T)) {
    let port = Arc::new(Port::default());
    let here = Here {
        port: Arc::clone(&port),
        outbox: Box::new(Outbox {
            queue: queue.clone(),
            items: Vec::new(),
        }),
    };
    HERE.with(|place| place.replace(Some(here)));
    let _closed = Closed;
    loop {
        port.ready.notified().await;
        let items = HERE.with(|here| {
            let mut here = here.borrow_mut();
            let outbox = here.as_mut()?.outbox.downcast_mut::<Outbox<T>>()?;
            Some(std::mem::take(&mut outbox.items))
        });
        for item in queue.try_push_all(items.unwrap_or_default()) {
            refused(item);
        }
        let parcels = std::mem::take(&mut *port.inbox.lock());
        for parcel in parcels {
            parcel();
        }
    }
}

/// Takes the counter away with the task that serves it.
struct Closed;

impl Drop for Closed {
    fn drop(&mut self) {
        // While the thread itself ends its locals may be gone already, and the counter with them.
        let _gone = HERE.try_with(|here| here.take());
    }
}

/// Where an answer goes: to a call of some thread.
pub struct Reply<T> {
    sender: oneshot::Sender<T>,
    home: Option<Arc<Port>>,
}

impl<T: Send + 'static> Reply<T> {
    /// For a call of the current thread.
    pub fn channel() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        let home = HERE.with(|here| {
            let here = here.borrow();
            here.as_ref().map(|here| Arc::clone(&here.port))
        });
        (Reply { sender, home }, receiver)
    }

    /// Answers at once.
    pub fn send(self, answer: T) {
        // A client that went away needs no answer.
        let _gone = self.sender.send(answer);
    }

    /// Answers with the rest of the post.
    pub fn send_by(self, post: &mut Post, answer: T) {
        match self.home {
            None => {
                let _gone = self.sender.send(answer);
            }
            Some(port) => {
                let sender = self.sender;
                post.add(
                    port,
                    Box::new(move || {
                        let _gone = sender.send(answer);
                    }),
                );
            }
        }
    }
}

impl<T> std::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

/// Answers on their way, sorted by thread. They leave when the post is dropped.
#[derive(Default)]
pub struct Post(Vec<(Arc<Port>, Vec<Parcel>)>);

impl Post {
    fn add(&mut self, port: Arc<Port>, parcel: Parcel) {
        // As many as there are serving threads: a handful.
        match self
            .0
            .iter_mut()
            .find(|(known, _)| Arc::ptr_eq(known, &port))
        {
            Some((_, parcels)) => parcels.push(parcel),
            None => self.0.push((port, vec![parcel])),
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        for (port, mut parcels) in self.0.drain(..) {
            port.inbox.lock().append(&mut parcels);
            port.ready.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Wait;
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    fn served(test: impl AsyncFnOnce(&Queue<u32>, Arc<Mutex<Vec<u32>>>)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let queue = Queue::new(2);
        let refused = Arc::new(Mutex::new(Vec::new()));
        let local = tokio::task::LocalSet::new();
        let noting = Arc::clone(&refused);
        local.block_on(&runtime, async {
            let serving = serve(queue.clone(), move |item| noting.lock().push(item));
            let task = tokio::task::spawn_local(serving);
            tokio::task::yield_now().await;
            let all = tokio::time::timeout(Duration::from_secs(20), test(&queue, refused));
            all.await.expect("the test ends");
            task.abort();
        });
    }

    #[test]
    fn what_calls_submit_together_arrives_together_and_what_does_not_fit_is_refused() {
        served(async |queue, refused| {
            for item in [1, 2, 3] {
                assert_eq!(submit(queue, item), Ok(()));
            }
            assert!(
                queue.is_empty(),
                "not before the calls that are ready have run"
            );
            while refused.lock().is_empty() {
                tokio::task::yield_now().await;
            }
            let mut out = VecDeque::new();
            assert_eq!(queue.wait(&mut out, Some(Instant::now())), Wait::Open);
            assert_eq!((out, &*refused.lock()), (VecDeque::from([1, 2]), &vec![3]));
        });
    }

    #[test]
    fn answers_of_another_thread_reach_their_calls() {
        served(async |_, _| {
            let (replies, calls): (Vec<_>, Vec<_>) = (0..10).map(|_| Reply::channel()).unzip();
            let thread = std::thread::spawn(move || {
                let mut post = Post::default();
                for (number, reply) in replies.into_iter().enumerate() {
                    reply.send_by(&mut post, number);
                }
            });
            for (number, call) in calls.into_iter().enumerate() {
                assert_eq!(call.await, Ok(number));
            }
            thread.join().expect("the answering thread ends");
        });
    }

    #[test]
    fn without_a_counter_everything_goes_at_once() {
        let queue = Queue::new(1);
        assert_eq!(submit(&queue, 1), Ok(()));
        assert_eq!(submit(&queue, 2), Err(2));
        let (reply, mut call) = Reply::channel();
        let mut post = Post::default();
        reply.send_by(&mut post, 7);
        assert_eq!(call.try_recv(), Ok(7));
    }
}
