//! A set of node rows.

/// A fixed-capacity bit set that grows when a row beyond its end is inserted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitSet(Vec<u64>);

impl BitSet {
    /// Adds a row.
    pub fn insert(&mut self, row: usize) {
        let word = row / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(w) = self.0.get_mut(word) {
            *w |= 1 << (row % 64);
        }
    }

    /// Takes a row away.
    pub fn remove(&mut self, row: usize) {
        if let Some(w) = self.0.get_mut(row / 64) {
            *w &= !(1 << (row % 64));
        }
    }

    /// Whether a row is in.
    pub fn contains(&self, row: usize) -> bool {
        self.0
            .get(row / 64)
            .is_some_and(|w| w & (1 << (row % 64)) != 0)
    }

    /// Keeps only what is in `other` too.
    pub fn intersect(&mut self, other: &BitSet) {
        for (i, w) in self.0.iter_mut().enumerate() {
            *w &= other.0.get(i).copied().unwrap_or(0);
        }
    }

    /// Keeps the rows for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        for (i, w) in self.0.iter_mut().enumerate() {
            let mut rest = *w;
            while rest != 0 {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                if !keep(i * 64 + bit) {
                    *w &= !(1 << bit);
                }
            }
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// The rows in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(i, w)| {
            let mut rest = *w;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                Some(i * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_operations() {
        let mut a = BitSet::default();
        for row in [0, 63, 64, 130] {
            a.insert(row);
        }
        let mut b = BitSet::default();
        b.insert(63);
        b.insert(130);
        a.intersect(&b);
        assert_eq!(a.iter().collect::<Vec<_>>(), [63, 130]);
        a.retain(|row| row != 63);
        assert_eq!(a.iter().collect::<Vec<_>>(), [130]);
        a.remove(130);
        assert!(a.is_empty() && !a.contains(130));
        assert_eq!(b.len(), 2);
    }
}
