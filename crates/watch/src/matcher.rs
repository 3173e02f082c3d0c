//! From a key to the watchers whose span holds it.
//!
//! Single keys lie in a map; ranges lie in a search tree by start in which each node knows the
//! furthest end below it, balanced by drawn priorities (a treap), so that finding costs the
//! logarithm of the ranges plus what is found. Equal ranges share a node.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::span::Span;

/// Where a range ends. The open end lies behind every key, and is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Open,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < &end[..],
            End::Open => true,
        }
    }
}

type Link = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    /// The furthest end in this subtree.
    furthest: End,
    priority: u64,
    members: BTreeSet<u32>,
    left: Link,
    right: Link,
}

impl Node {
    fn refresh(&mut self) {
        let mut furthest = &self.end;
        for child in [&self.left, &self.right].into_iter().flatten() {
            furthest = furthest.max(&child.furthest);
        }
        self.furthest = furthest.clone();
    }

    fn order(&self, start: &Bytes, end: &End) -> std::cmp::Ordering {
        (start, end).cmp(&(&self.start, &self.end))
    }
}

/// Members by the keys they care for. Members are numbers; one may be added under one span only.
#[derive(Debug, Default)]
pub struct Matcher {
    keys: BTreeMap<Bytes, BTreeSet<u32>>,
    ranges: Link,
    drawn: u64,
}

impl Matcher {
    /// Adds a member.
    pub fn insert(&mut self, span: &Span, member: u32) {
        match range(span) {
            Err(key) => {
                self.keys.entry(key.clone()).or_default().insert(member);
            }
            Ok((start, end)) => {
                // the order of insertion must not shape the tree: priorities come from a fixed sequence
                self.drawn = self.drawn.wrapping_add(1);
                let priority = scramble(self.drawn);
                let root = self.ranges.take();
                self.ranges = Some(insert(root, start, &end, member, priority));
            }
        }
    }

    /// Removes a member that was added under this span.
    pub fn remove(&mut self, span: &Span, member: u32) {
        match range(span) {
            Err(key) => {
                if let Some(members) = self.keys.get_mut(key) {
                    members.remove(&member);
                    if members.is_empty() {
                        self.keys.remove(key);
                    }
                }
            }
            Ok((start, end)) => {
                let root = self.ranges.take();
                self.ranges = remove(root, start, &end, member);
            }
        }
    }

    /// Calls `found` once for each member whose span holds the key.
    pub fn each(&self, key: &[u8], found: &mut impl FnMut(u32)) {
        if let Some(members) = self.keys.get(key) {
            members.iter().copied().for_each(&mut *found);
        }
        stab(&self.ranges, key, found);
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_none()
    }
}

fn range(span: &Span) -> Result<(&Bytes, End), &Bytes> {
    match span {
        Span::Key(key) => Err(key),
        Span::Range(start, end) => Ok((start, End::Before(end.clone()))),
        Span::From(start) => Ok((start, End::Open)),
    }
}

/// Spreads a counter over all 64 bits (the finalizer of splitmix64).
fn scramble(n: u64) -> u64 {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn insert(node: Link, start: &Bytes, end: &End, member: u32, priority: u64) -> Box<Node> {
    let Some(mut node) = node else {
        return Box::new(Node {
            start: start.clone(),
            end: end.clone(),
            furthest: end.clone(),
            priority,
            members: BTreeSet::from([member]),
            left: None,
            right: None,
        });
    };
    match node.order(start, end) {
        std::cmp::Ordering::Equal => {
            node.members.insert(member);
            return node;
        }
        std::cmp::Ordering::Less => {
            let mut child = insert(node.left.take(), start, end, member, priority);
            if child.priority > node.priority {
                node.left = child.right.take();
                node.refresh();
                child.right = Some(node);
                child.refresh();
                return child;
            }
            node.left = Some(child);
        }
        std::cmp::Ordering::Greater => {
            let mut child = insert(node.right.take(), start, end, member, priority);
            if child.priority > node.priority {
                node.right = child.left.take();
                node.refresh();
                child.left = Some(node);
                child.refresh();
                return child;
            }
            node.right = Some(child);
        }
    }
    node.refresh();
    node
}

fn remove(node: Link, start: &Bytes, end: &End, member: u32) -> Link {
    let mut node = node?;
    match node.order(start, end) {
        std::cmp::Ordering::Equal => {
            node.members.remove(&member);
            if node.members.is_empty() {
                return merge(node.left, node.right);
            }
        }
        std::cmp::Ordering::Less => node.left = remove(node.left.take(), start, end, member),
        std::cmp::Ordering::Greater => node.right = remove(node.right.take(), start, end, member),
    }
    node.refresh();
    Some(node)
}

/// Joins two trees of which all of the first lies before all of the second.
fn merge(left: Link, right: Link) -> Link {
    match (left, right) {
        (None, one) | (one, None) => one,
        (Some(mut left), Some(mut right)) => Some(if left.priority > right.priority {
            left.right = merge(left.right.take(), Some(right));
            left.refresh();
            left
        } else {
            right.left = merge(Some(left), right.left.take());
            right.refresh();
            right
        }),
    }
}

fn stab(node: &Link, key: &[u8], found: &mut impl FnMut(u32)) {
    let Some(node) = node else { return };
    if !node.furthest.is_after(key) {
        return;
    }
    stab(&node.left, key, found);
    if &node.start[..] <= key {
        if node.end.is_after(key) {
            node.members.iter().copied().for_each(&mut *found);
        }
        stab(&node.right, key, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random spans come and go; what is found is what a look at each span finds.
    #[test]
    fn finds_what_a_walk_over_all_spans_finds() {
        let mut seed = 7u64;
        let mut draw = |below: u64| {
            seed += 1;
            scramble(seed) % below
        };
        let key = |n: u64| vec![b'a' + (n / 26 % 26) as u8, b'a' + (n % 26) as u8];
        let mut matcher = Matcher::default();
        let mut held: BTreeMap<u32, Span> = BTreeMap::new();
        for step in 0..1_500u32 {
            let (a, b) = (key(draw(300)), key(draw(300)));
            if draw(3) > 0 {
                let end = match draw(3) {
                    0 => Vec::new(),
                    1 => vec![0],
                    _ => b.clone(),
                };
                if let Some(span) = Span::new(&a, &end) {
                    matcher.insert(&span, step);
                    held.insert(step, span);
                }
            } else if let Some(member) = held
                .keys()
                .copied()
                .nth(draw(held.len() as u64 + 1) as usize)
            {
                let span = held.remove(&member).unwrap();
                matcher.remove(&span, member);
            }
            let mut found = BTreeSet::new();
            matcher.each(&a, &mut |member| {
                assert!(found.insert(member), "found twice")
            });
            let expected: BTreeSet<u32> = held
                .iter()
                .filter(|(_, span)| span.contains(&a))
                .map(|(member, _)| *member)
                .collect();
            assert_eq!(found, expected);
        }
        for (member, span) in held {
            matcher.remove(&span, member);
        }
        assert!(matcher.is_empty());
    }

    /// The form that etcd let through as "from this key on" by mistake is a range of its own.
    #[test]
    fn the_open_end_is_no_key() {
        assert_eq!(
            Span::new(b"k", b"\0"),
            Some(Span::From(Bytes::from_static(b"k")))
        );
        assert_eq!(Span::new(b"k", b"\0\0"), None);
        assert_eq!(Span::new(b"k", b"k"), None);
        assert_eq!(
            Span::new(b"", b""),
            Some(Span::Key(Bytes::from_static(b"\0")))
        );
        assert_eq!(
            Span::new(b"", b"\0"),
            Some(Span::From(Bytes::from_static(b"\0")))
        );
    }
}
