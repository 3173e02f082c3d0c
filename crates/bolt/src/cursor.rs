//! A position in one tree, moved forwards and backwards.
//!
//! Owns the descent through branch pages. It notices pages that do not belong where they hang: keys must go on
//! ascending from leaf to leaf, so that a loop or a page hung twice ends in a named error, not in an endless scan.

use crate::error::Error;
use crate::format::DEPTH_MAX;
use crate::page::{Kind, Page};
use crate::read::{Pin, Root};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

struct Level {
    page: Arc<Page>,
    id: u64,
    index: usize,
}

/// How to choose the way down.
enum Way<'a> {
    To(&'a [u8]),
    First,
    Last,
}

pub(crate) struct Cursor<'a> {
    pin: &'a Pin,
    /// From the root to a leaf; empty past either end.
    stack: Vec<Level>,
}

impl<'a> Cursor<'a> {
    /// At the first key that is not below `from`.
    pub fn at_or_after(pin: &'a Pin, root: &Root, from: &[u8]) -> Result<Cursor<'a>, Error> {
        let mut cursor = Cursor::enter(pin, root, &Way::To(from))?;
        if let Some(leaf) = cursor.stack.last_mut() {
            let (Ok(i) | Err(i)) = leaf.page.search(from);
            leaf.index = i;
            if i == leaf.page.count() {
                cursor.leave_leaf(Direction::Forward)?;
            }
        }
        Ok(cursor)
    }

    /// At the last key below `to`, or at the last one of all.
    pub fn before(pin: &'a Pin, root: &Root, to: Option<&[u8]>) -> Result<Cursor<'a>, Error> {
        let way = to.map_or(Way::Last, Way::To);
        let mut cursor = Cursor::enter(pin, root, &way)?;
        if let Some(leaf) = cursor.stack.last_mut() {
            let i = match to {
                Some(key) => match leaf.page.search(key) {
                    Ok(i) | Err(i) => i,
                },
                None => leaf.page.count(),
            };
            match i.checked_sub(1) {
                Some(i) => leaf.index = i,
                None => cursor.leave_leaf(Direction::Backward)?,
            }
        }
        Ok(cursor)
    }

    fn enter(pin: &'a Pin, root: &Root, way: &Way<'_>) -> Result<Cursor<'a>, Error> {
        let mut cursor = Cursor {
            pin,
            stack: Vec::new(),
        };
        match root {
            Root::Empty => {}
            Root::Inline(page) => cursor.stack.push(Level {
                page: page.clone(),
                id: 0,
                index: 0,
            }),
            Root::Page(id) => cursor.descend(*id, way)?,
        }
        Ok(cursor)
    }

    fn descend(&mut self, mut id: u64, way: &Way<'_>) -> Result<(), Error> {
        loop {
            if self.stack.len() >= DEPTH_MAX {
                return Err(Error::damage(
                    id,
                    format!("the tree is deeper than {DEPTH_MAX} levels: a loop of pages"),
                ));
            }
            let page = self.pin.page(id)?;
            let (index, child) = match page.kind() {
                Kind::Leaf => {
                    if page.count() == 0 && !self.stack.is_empty() {
                        return Err(Error::damage(id, "empty leaf below a branch"));
                    }
                    (page.count().saturating_sub(1), None)
                }
                Kind::Branch => {
                    let index = match way {
                        Way::To(key) => page.child_index(key),
                        Way::First => 0,
                        Way::Last => page.count() - 1,
                    };
                    (index, Some(page.child(index)))
                }
            };
            let index = match (child, way) {
                (None, Way::First) => 0,
                _ => index,
            };
            self.stack.push(Level { page, id, index });
            match child {
                Some(child) => id = child,
                None => return Ok(()),
            }
        }
    }

    /// The leaf and the element's index in it; `None` past the end.
    pub fn current(&self) -> Option<(&Page, usize)> {
        let leaf = self.stack.last()?;
        (leaf.index < leaf.page.count()).then_some((&*leaf.page, leaf.index))
    }

    /// The pages from the root to the leaf.
    pub fn path(&self) -> impl Iterator<Item = u64> + '_ {
        self.stack.iter().map(|l| l.id)
    }

    pub fn advance(&mut self, direction: Direction) -> Result<(), Error> {
        let Some(leaf) = self.stack.last_mut() else {
            return Ok(());
        };
        match direction {
            Direction::Forward if leaf.index + 1 < leaf.page.count() => leaf.index += 1,
            Direction::Backward if leaf.index > 0 => leaf.index -= 1,
            _ => self.leave_leaf(direction)?,
        }
        Ok(())
    }

    /// On to the neighbouring leaf, or past the end.
    fn leave_leaf(&mut self, direction: Direction) -> Result<(), Error> {
        let Some(left) = self.stack.pop() else {
            return Ok(());
        };
        while let Some(level) = self.stack.last_mut() {
            let next = match direction {
                Direction::Forward => Some(level.index + 1).filter(|&i| i < level.page.count()),
                Direction::Backward => level.index.checked_sub(1),
            };
            let Some(next) = next else {
                self.stack.pop();
                continue;
            };
            level.index = next;
            let child = level.page.child(next);
            let way = match direction {
                Direction::Forward => Way::First,
                Direction::Backward => Way::Last,
            };
            self.descend(child, &way)?;
            let (lower, upper) = match (direction, self.stack.last()) {
                (Direction::Forward, Some(new)) => (&left, new),
                (Direction::Backward, Some(new)) => (new, &left),
                (_, None) => return Ok(()),
            };
            // Below a branch no leaf is empty, so both have a key.
            if lower.page.key(lower.page.count() - 1) >= upper.page.key(0) {
                return Err(Error::damage(
                    upper.id,
                    format!("its keys are not above those of page {}", lower.id),
                ));
            }
            return Ok(());
        }
        Ok(())
    }
}
