//! The keys a watcher watches.

use bytes::Bytes;

/// Keys watched. The bytes are its own: it does not hold on to the request it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// One key.
    Key(Bytes),
    /// From the first to before the second.
    Range(Bytes, Bytes),
    /// From this key on, with no upper bound.
    From(Bytes),
}

impl Span {
    /// Reads etcd's form: an empty key is the smallest one, an empty end means the key alone, and one
    /// zero byte as end means no upper bound. `None` when nothing can lie in it.
    pub fn new(key: &[u8], range_end: &[u8]) -> Option<Self> {
        let key: &[u8] = if key.is_empty() { &[0] } else { key };
        let start = Bytes::copy_from_slice(key);
        match range_end {
            [] => Some(Span::Key(start)),
            [0] => Some(Span::From(start)),
            end if key < end => Some(Span::Range(start, Bytes::copy_from_slice(end))),
            _ => None,
        }
    }

    /// Whether the key lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Span::Key(one) => one == key,
            Span::Range(start, end) => &start[..] <= key && key < &end[..],
            Span::From(start) => &start[..] <= key,
        }
    }
}
