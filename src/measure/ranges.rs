//! Multisets of record numbers laid over each other, so that 100 million records cost as much as the gaps between them.

use crate::evidence::{IdCounts, Numbers, Packed, SinkRun};
use std::iter::Peekable;

/// `first..=last`, each `times` times.
pub(crate) type Range = (u64, u64, u32);

/// One multiset.
#[derive(Debug)]
pub(crate) enum Layer {
    /// May overlap and come in any order: their counts add up.
    Ranges(Vec<Range>),
    /// Too many to be listed.
    Counts(Box<IdCounts>),
}

impl Layer {
    /// A multiset of an event.
    ///
    /// # Errors
    /// When what was packed is damaged, as a sentence.
    pub(crate) fn of(runs: &[SinkRun], packed: Option<&Packed>) -> Result<Self, String> {
        match packed {
            Some(packed) => packed.open().map(Box::new).map(Self::Counts),
            None => Ok(Self::Ranges(
                runs.iter().map(|run| (run.first, run.last, run.times)).collect(),
            )),
        }
    }

    /// The same for a field that may be missing, which is an empty multiset.
    ///
    /// # Errors
    /// As [`Layer::of`].
    pub(crate) fn of_numbers(numbers: Option<&Numbers>) -> Result<Self, String> {
        numbers.map_or(Ok(Self::Ranges(Vec::new())), |numbers| {
            Self::of(&numbers.runs, numbers.packed.as_ref())
        })
    }

    /// The highest number.
    pub(crate) fn highest(&self) -> Option<u64> {
        match self {
            Self::Ranges(ranges) => ranges
                .iter()
                .filter(|(first, last, times)| first <= last && *times > 0)
                .map(|(_, last, _)| *last)
                .max(),
            Self::Counts(counts) => counts.highest(),
        }
    }

    /// How many copies in all.
    pub(crate) fn copies(&self) -> u64 {
        match self {
            Self::Ranges(ranges) => ranges
                .iter()
                .filter(|(first, last, _)| first <= last)
                .map(|(first, last, times)| (last - first).saturating_add(1).saturating_mul(u64::from(*times)))
                .fold(0, u64::saturating_add),
            Self::Counts(counts) => counts.copies(),
        }
    }

    /// Where the count changes, ascending; positions one past the end need more than 64 bits.
    fn edges(&self) -> Box<dyn Iterator<Item = (u128, i64)> + '_> {
        match self {
            Self::Ranges(ranges) => {
                let mut edges: Vec<(u128, i64)> = ranges
                    .iter()
                    .filter(|(first, last, times)| first <= last && *times > 0)
                    .flat_map(|(first, last, times)| ends(*first, *last, *times))
                    .collect();
                edges.sort_unstable();
                Box::new(edges.into_iter())
            }
            Self::Counts(counts) => Box::new(counts.runs().flat_map(|run| ends(run.first, run.last, run.times))),
        }
    }
}

fn ends(first: u64, last: u64, times: u32) -> [(u128, i64); 2] {
    let change = i64::from(times);
    [(u128::from(first), change), (u128::from(last) + 1, -change)]
}

/// A stretch over which every layer has one count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Count in each layer, in the order in which the layers were given.
    pub(crate) counts: Vec<u64>,
}

impl Piece {
    /// How many numbers it covers.
    pub(crate) fn size(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    pub(crate) fn count(&self, layer: usize) -> u64 {
        self.counts.get(layer).copied().unwrap_or(0)
    }
}

/// Cuts all layers along all of their edges and shows each piece that is not empty, ascending. Nothing is kept but the layers.
pub(crate) fn sweep(layers: &[Layer], mut visit: impl FnMut(&Piece)) {
    let mut edges: Vec<Peekable<_>> = layers.iter().map(|layer| layer.edges().peekable()).collect();
    let mut piece = Piece {
        first: 0,
        last: 0,
        counts: vec![0; layers.len()],
    };
    let mut from: u128 = 0;
    while let Some(position) = edges
        .iter_mut()
        .filter_map(|edges| edges.peek().map(|(position, _)| *position))
        .min()
    {
        if position > from
            && piece.counts.iter().any(|count| *count > 0)
            && let (Ok(first), Ok(last)) = (u64::try_from(from), u64::try_from(position - 1))
        {
            (piece.first, piece.last) = (first, last);
            visit(&piece);
        }
        from = position;
        for (edges, count) in edges.iter_mut().zip(&mut piece.counts) {
            while let Some((_, change)) = edges.next_if(|(held, _)| *held == position) {
                *count = count.saturating_add_signed(change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(layers: &[Vec<Range>]) -> Vec<Piece> {
        let layers: Vec<Layer> = layers.iter().cloned().map(Layer::Ranges).collect();
        let mut pieces = Vec::new();
        sweep(&layers, |piece| pieces.push(piece.clone()));
        pieces
    }

    #[test]
    fn overlapping_ranges_of_one_layer_add_up() {
        let seen: Vec<(u64, u64, u64)> = pieces(&[vec![(1, 4, 1), (3, 6, 2)]])
            .iter()
            .map(|piece| (piece.first, piece.last, piece.count(0)))
            .collect();
        assert_eq!(seen, vec![(1, 2, 1), (3, 4, 3), (5, 6, 2)]);
    }

    #[test]
    fn the_last_number_of_all_is_counted() {
        let pieces = pieces(&[vec![(u64::MAX - 1, u64::MAX, 1)], vec![(0, 0, 1)]]);
        assert_eq!(pieces.iter().map(Piece::size).sum::<u64>(), 3);
    }

    #[test]
    fn layers_are_told_apart() {
        let missing: u64 = pieces(&[vec![(1, 10, 1)], vec![(4, 5, 1)]])
            .iter()
            .filter(|piece| piece.count(0) > 0 && piece.count(1) == 0)
            .map(Piece::size)
            .sum();
        assert_eq!(missing, 8);
    }
}
