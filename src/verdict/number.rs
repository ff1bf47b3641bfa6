//! Numbers for people: no more digits than the uncertainty deserves, never finer than a millisecond.

use crate::model::Bounded;

/// Digits after the point that a value with this uncertainty deserves.
#[must_use]
pub fn decimals(width: f64) -> usize {
    if width < 0.05 {
        3
    } else if width < 0.5 {
        2
    } else {
        1
    }
}

/// With so many digits after the point.
#[must_use]
pub fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    // Rounding must not leave a negative zero behind.
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().all(|digit| matches!(digit, '0' | '.')) => digits.to_owned(),
        _ => text,
    }
}

/// A limit or a count, without digits that say nothing.
#[must_use]
pub fn count(value: f64) -> String {
    let text = fixed(value, 3);
    match text.split_once('.') {
        Some((whole, fraction)) => {
            let fraction = fraction.trim_end_matches('0');
            if fraction.is_empty() {
                whole.to_owned()
            } else {
                format!("{whole}.{fraction}")
            }
        }
        None => text,
    }
}

/// `41.20 s [41.10, 41.30]`, or `3 records` when it is exact.
pub(super) fn with_bounds(measured: &Bounded, unit: &str) -> String {
    let unit = if unit.is_empty() {
        String::new()
    } else {
        format!(" {unit}")
    };
    let width = measured.upper - measured.lower;
    if width <= 0.0 {
        return format!("{}{unit}", count(measured.value));
    }
    let digits = if unit.is_empty() { 4 } else { decimals(width) };
    format!(
        "{}{unit} [{}, {}]",
        fixed(measured.value, digits),
        fixed(measured.lower, digits),
        fixed(measured.upper, digits)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_the_uncertainty() {
        assert_eq!(
            with_bounds(&Bounded::new(119.971_234_567, 120.012), "s"),
            "119.992 s [119.971, 120.012]"
        );
        assert_eq!(with_bounds(&Bounded::new(1.0, 3.0), "s"), "2.0 s [1.0, 3.0]");
        assert_eq!(with_bounds(&Bounded::exact(3.0), "records"), "3 records");
    }

    #[test]
    fn nothing_is_minus_zero() {
        assert_eq!(fixed(-0.0001, 2), "0.00");
        assert_eq!(count(-0.000_000_1), "0");
    }
}
