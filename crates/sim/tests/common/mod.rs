//! What the tests share.

use std::sync::Mutex;

/// Runs each on one of as many threads as there are processors; the answers, in order.
pub fn parallel<I: Send + Clone, T: Send>(
    items: impl IntoIterator<Item = I>,
    run: impl Fn(I) -> T + Sync,
) -> Vec<T> {
    let items: Vec<I> = items.into_iter().collect();
    let items = Mutex::new(items.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = items.lock().expect("no thread has panicked").next();
                    let Some((place, item)) = next else { return };
                    let answer = run(item);
                    let mut done = done.lock().expect("no thread has panicked");
                    done.push((place, answer));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no thread has panicked");
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, answer)| answer).collect()
}
