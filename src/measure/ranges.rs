//! Multisets of record numbers as ranges, so that ten million records cost as much as the gaps between them.

/// `first..=last`, each `times` times.
pub(crate) type Range = (u64, u64, u32);

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

/// Cuts all layers along all of their edges. Ranges of one layer may overlap and come in any order: their counts add up.
pub(crate) fn overlay(layers: &[Vec<Range>]) -> Vec<Piece> {
    // (position, layer, count change); positions one past the end need more than 64 bits.
    let mut edges: Vec<(u128, usize, i64)> = Vec::new();
    for (layer, ranges) in layers.iter().enumerate() {
        for (first, last, times) in ranges {
            if first > last || *times == 0 {
                continue;
            }
            edges.push((u128::from(*first), layer, i64::from(*times)));
            edges.push((u128::from(*last) + 1, layer, -i64::from(*times)));
        }
    }
    edges.sort_unstable();
    let mut pieces = Vec::new();
    let mut counts = vec![0_i64; layers.len()];
    let mut from: u128 = 0;
    for (position, layer, change) in edges {
        if position > from && counts.iter().any(|count| *count > 0) {
            let ends = (u64::try_from(from), u64::try_from(position - 1));
            if let (Ok(first), Ok(last)) = ends {
                pieces.push(Piece {
                    first,
                    last,
                    counts: counts.iter().map(|count| count.unsigned_abs()).collect(),
                });
            }
        }
        from = position;
        if let Some(count) = counts.get_mut(layer) {
            *count += change;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges_of_one_layer_add_up() {
        let pieces = overlay(&[vec![(1, 4, 1), (3, 6, 2)]]);
        let seen: Vec<(u64, u64, u64)> = pieces
            .iter()
            .map(|piece| (piece.first, piece.last, piece.count(0)))
            .collect();
        assert_eq!(seen, vec![(1, 2, 1), (3, 4, 3), (5, 6, 2)]);
    }

    #[test]
    fn the_last_number_of_all_is_counted() {
        let pieces = overlay(&[vec![(u64::MAX - 1, u64::MAX, 1)], vec![(0, 0, 1)]]);
        assert_eq!(pieces.iter().map(Piece::size).sum::<u64>(), 3);
    }

    #[test]
    fn layers_are_told_apart() {
        let pieces = overlay(&[vec![(1, 10, 1)], vec![(4, 5, 1)]]);
        let missing: u64 = pieces
            .iter()
            .filter(|piece| piece.count(0) > 0 && piece.count(1) == 0)
            .map(Piece::size)
            .sum();
        assert_eq!(missing, 8);
    }
}
