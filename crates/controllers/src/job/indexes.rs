//! Sets of completion indexes, as `status.completedIndexes` prints them: `1,3-5,7`.

use std::fmt;

/// Indexes in order, as intervals that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(u32, u32)>);

impl Indexes {
    /// Reads the printed form. What is not below `completions` is left out, and so is what cannot be read.
    pub fn parse(text: &str, completions: u32) -> Indexes {
        let mut out: Vec<(u32, u32)> = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
                continue;
            };
            if first >= completions {
                break;
            }
            let last = last.min(completions - 1);
            match out.last_mut() {
                _ if last < first => {}
                // Out of order: not printed by anybody who counts.
                Some((_, end)) if first <= *end => {}
                Some((_, end)) if first == *end + 1 => *end = last,
                _ => out.push((first, last)),
            }
        }
        Indexes(out)
    }

    /// From indexes in any order.
    pub fn of(indexes: impl IntoIterator<Item = u32>) -> Indexes {
        let mut all: Vec<u32> = indexes.into_iter().collect();
        all.sort_unstable();
        Indexes::joined(all.into_iter().map(|i| (i, i)))
    }

    /// Intervals that are sorted by their first index, made not to touch.
    fn joined(sorted: impl Iterator<Item = (u32, u32)>) -> Indexes {
        let mut out: Vec<(u32, u32)> = Vec::new();
        for (first, last) in sorted {
            match out.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => out.push((first, last)),
            }
        }
        Indexes(out)
    }

    /// Those of either.
    pub fn union(&self, other: &Indexes) -> Indexes {
        let mut all: Vec<(u32, u32)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        Indexes::joined(all.into_iter())
    }

    /// How many there are in both.
    pub fn overlap(&self, other: &Indexes) -> u64 {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut n = 0;
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            let (first, last) = (x.0.max(y.0), x.1.min(y.1));
            if first <= last {
                n += u64::from(last - first) + 1;
            }
            if x.1 <= y.1 {
                a.next();
            } else {
                b.next();
            }
        }
        n
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(a, b)| u64::from(b - a) + 1).sum()
    }

    /// Whether an index is among them.
    pub fn has(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first `count` indexes below `completions` that are not among these.
    pub fn missing(&self, count: usize, completions: u32) -> Vec<u32> {
        let mut out = Vec::new();
        let mut next = 0;
        for (first, last) in &self.0 {
            out.extend((next..(*first).min(completions)).take(count - out.len()));
            next = next.max(last.saturating_add(1));
        }
        out.extend((next..completions.max(next)).take(count - out.len()));
        out
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn printed_and_read() {
        for (text, completions, want) in [
            ("", 5, ""),
            ("0", 1, "0"),
            ("0,1", 5, "0,1"),
            ("0-2", 5, "0-2"),
            ("0-1,3", 5, "0,1,3"),
            ("0,2-3,4,7", 9, "0,2-4,7"),
            ("1-8", 5, "1-4"),
            ("1,7-9", 5, "1"),
            ("5", 5, ""),
            ("x,2", 5, "2"),
            ("1-x,3", 5, "3"),
            ("-1,3", 5, "3"),
            ("3-1", 5, ""),
            ("3,1,4", 5, "3,4"),
            ("4294967295", u32::MAX, ""),
            ("4294967290-4294967294", u32::MAX, "4294967290-4294967294"),
        ] {
            assert_eq!(
                Indexes::parse(text, completions).to_string(),
                want,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn they_are_sets(a in prop::collection::btree_set(0u32..40, 0..30), b in prop::collection::btree_set(0u32..40, 0..30), count in 0usize..50, completions in 0u32..45) {
            let (x, y) = (Indexes::of(a.iter().copied()), Indexes::of(b.iter().rev().copied()));
            let both: BTreeSet<u32> = a.union(&b).copied().collect();
            let union = x.union(&y);
            prop_assert_eq!(&union, &Indexes::of(both.iter().copied()));
            prop_assert_eq!(union.total(), both.len() as u64);
            prop_assert_eq!(x.overlap(&y), a.intersection(&b).count() as u64);
            for i in 0..45 {
                prop_assert_eq!(union.has(i), both.contains(&i));
            }
            let missing: Vec<u32> = (0..completions).filter(|i| !both.contains(i)).take(count).collect();
            prop_assert_eq!(union.missing(count, completions), missing);
            prop_assert_eq!(Indexes::parse(&union.to_string(), u32::MAX), union);
        }
    }
}
