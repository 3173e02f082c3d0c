//! Sets of keys: the union of what several grants allow.

/// A key range that reaches beyond every key ends with this one byte.
const OPEN: &[u8] = &[0];

/// Where a range ends; ordered so that the open end is the greatest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Box<[u8]>),
    Open,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => **end > *key,
            End::Open => true,
        }
    }

    fn reaches(&self, range_end: &[u8]) -> bool {
        match self {
            End::Before(end) => !is_open(range_end) && **end >= *range_end,
            End::Open => true,
        }
    }
}

/// Whether a range end means "no end".
pub(crate) fn is_open(range_end: &[u8]) -> bool {
    range_end == OPEN
}

/// Disjoint ranges with a gap between any two, in key order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spans(Vec<(Box<[u8]>, End)>);

impl Spans {
    /// The union of grants in etcd's form: an empty range end is a single key.
    pub(crate) fn of<'a>(grants: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut ranges: Vec<(Box<[u8]>, End)> = grants
            .into_iter()
            .filter_map(|(key, range_end)| {
                let end = if range_end.is_empty() {
                    End::Before([key, &[0]].concat().into())
                } else if is_open(range_end) {
                    End::Open
                } else {
                    End::Before(range_end.into())
                };
                // Records of old versions may hold ranges that end before they begin: they allow nothing.
                end.is_after(key).then(|| (key.into(), end))
            })
            .collect();
        ranges.sort();
        let mut merged: Vec<(Box<[u8]>, End)> = Vec::with_capacity(ranges.len());
        for (begin, end) in ranges {
            match merged.last_mut() {
                Some((_, last)) if last.reaches(&begin) => {
                    if end > *last {
                        *last = end;
                    }
                }
                _ => merged.push((begin, end)),
            }
        }
        Spans(merged)
    }

    /// The range that holds a key.
    fn holding(&self, key: &[u8]) -> Option<&End> {
        let after = self.0.partition_point(|(begin, _)| **begin <= *key);
        let (_, end) = self.0.get(after.checked_sub(1)?)?;
        end.is_after(key).then_some(end)
    }

    /// Whether a request for `key` (up to `range_end`, unless that is empty) stays within.
    ///
    /// A range that ends before it begins names no key; as in etcd it is judged by where it begins.
    pub(crate) fn cover(&self, key: &[u8], range_end: &[u8]) -> bool {
        match self.holding(key) {
            None => false,
            Some(_) if range_end.is_empty() => true,
            Some(end) => end.reaches(range_end),
        }
    }
}

/// Whether a grant's range can be kept.
pub(crate) fn is_valid_grant(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || key < range_end || is_open(range_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    /// Whether a request for a key or range, or a grant of it, is about this key.
    fn names(key: &[u8], range_end: &[u8], one: &[u8]) -> bool {
        match range_end {
            [] => one == key,
            end if is_open(end) => one >= key,
            end => one >= key && one < end,
        }
    }

    fn check(grants: &[(&str, &str)], inside: &[(&str, &str)], outside: &[(&str, &str)]) {
        let grants = grants
            .iter()
            .map(|(key, end)| (key.as_bytes(), end.as_bytes()));
        let spans = Spans::of(grants);
        for (key, end) in inside {
            assert!(
                spans.cover(key.as_bytes(), end.as_bytes()),
                "{key:?}..{end:?}"
            );
        }
        for (key, end) in outside {
            assert!(
                !spans.cover(key.as_bytes(), end.as_bytes()),
                "{key:?}..{end:?}"
            );
        }
    }

    #[test]
    fn overlapping_and_touching_grants_cover_together_and_a_gap_denies() {
        check(
            &[("a", "c"), ("c", "e"), ("g", "i"), ("h", "k")],
            &[("b", "d"), ("a", "e"), ("g", "k"), ("h", ""), ("a", "")],
            &[("a", "f"), ("e", ""), ("d", "h"), ("k", ""), ("a", "\0")],
        );
        // A single key and the range from just behind it touch.
        check(
            &[("a", ""), ("a\0", "b")],
            &[("a", "b")],
            &[("a", "c"), ("b", "")],
        );
        check(
            &[("m", "\0")],
            &[("m", ""), ("x", "\0"), ("n", "z")],
            &[("a", "\0"), ("l", "n")],
        );
        check(&[("\0", "\0")], &[("\0", "\0"), ("a", ""), ("a", "b")], &[]);
        check(&[], &[], &[("a", ""), ("a", "b")]);
        // Names no key: judged by where it begins.
        check(
            &[("c", "e")],
            &[("d", "a"), ("d", "d")],
            &[("f", "a"), ("f", "f")],
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Over an alphabet of two letters a range is covered exactly when each of its keys is in some grant.
        #[test]
        fn covered_is_what_every_key_of_the_range_is_granted(
            grants in prop::collection::vec(("[ab]{1,2}", "[ab]{0,2}"), 0..6),
            key in "[ab]{1,2}",
            end in "[ab]{0,2}",
        ) {
            let granted: Vec<(&[u8], &[u8])> = grants
                .iter()
                .filter(|(key, end)| is_valid_grant(key.as_bytes(), end.as_bytes()))
                .map(|(key, end)| (key.as_bytes(), end.as_bytes()))
                .collect();
            prop_assume!(end.is_empty() || end > key);
            // Keys that stand for every gap between the bounds above: each short word, and just behind it.
            let mut universe: Vec<Vec<u8>> = Vec::new();
            for word in ["a", "b", "aa", "ab", "ba", "bb"] {
                universe.push(word.into());
                universe.push([word.as_bytes(), b"\0"].concat());
            }
            let all = universe
                .iter()
                .filter(|one| names(key.as_bytes(), end.as_bytes(), one))
                .all(|one| granted.iter().any(|(from, to)| names(from, to, one)));
            prop_assert_eq!(Spans::of(granted.iter().copied()).cover(key.as_bytes(), end.as_bytes()), all);
        }
    }
}
