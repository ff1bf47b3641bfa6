//! Why a statistic has no value.

/// The input for which no value exists.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Undefined {
    /// There is nothing to calculate with.
    #[error("there is no {what}")]
    Empty {
        /// What is missing.
        what: &'static str,
    },
    /// A parameter lies where the formula has no meaning.
    #[error("{what} must be {wanted}, it is {value}")]
    OutOfRange {
        /// Name of the parameter.
        what: &'static str,
        /// What it must be.
        wanted: &'static str,
        /// What it is.
        value: f64,
    },
    /// More were counted than there are.
    #[error("{part} of {whole} cannot be")]
    MoreThanAll {
        /// The part.
        part: u64,
        /// The whole.
        whole: u64,
    },
    /// A sample has equal values, and the method is exact only without.
    #[error("the exact distribution holds without ties only")]
    Ties,
    /// The formula gives nothing for this input.
    #[error("{why}")]
    NoValue {
        /// Why not.
        why: &'static str,
    },
}

/// `value`, when it lies strictly between 0 and 1.
pub(crate) fn share(what: &'static str, value: f64) -> Result<f64, Undefined> {
    if value > 0.0 && value < 1.0 {
        return Ok(value);
    }
    let wanted = "between 0 and 1, both excluded";
    Err(Undefined::OutOfRange { what, wanted, value })
}

/// `value`, when it lies between 0 and 1.
pub(crate) fn closed_share(what: &'static str, value: f64) -> Result<f64, Undefined> {
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    let wanted = "between 0 and 1";
    Err(Undefined::OutOfRange { what, wanted, value })
}

/// `value`, when it is finite and greater than zero.
pub(crate) fn positive(what: &'static str, value: f64) -> Result<f64, Undefined> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    let wanted = "finite and above 0";
    Err(Undefined::OutOfRange { what, wanted, value })
}

/// `value`, when it is finite and not negative.
pub(crate) fn not_negative(what: &'static str, value: f64) -> Result<f64, Undefined> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    let wanted = "finite and not below 0";
    Err(Undefined::OutOfRange { what, wanted, value })
}

/// `value`, when it is a finite number.
pub(crate) fn finite(what: &'static str, value: f64) -> Result<f64, Undefined> {
    if value.is_finite() {
        return Ok(value);
    }
    let wanted = "a finite number";
    Err(Undefined::OutOfRange { what, wanted, value })
}

/// `count`, when it is not zero.
pub(crate) fn some(what: &'static str, count: u64) -> Result<u64, Undefined> {
    if count == 0 {
        Err(Undefined::Empty { what })
    } else {
        Ok(count)
    }
}

/// The part, when it is not more than the whole and the whole is not empty.
pub(crate) fn part_of(part: u64, whole: u64) -> Result<u64, Undefined> {
    some("trial", whole)?;
    if part > whole {
        return Err(Undefined::MoreThanAll { part, whole });
    }
    Ok(part)
}

/// The values in ascending order, when there is at least one and none of them is NaN (infinite ones have their place).
pub(crate) fn sorted(what: &'static str, values: &[f64]) -> Result<Vec<f64>, Undefined> {
    if values.is_empty() {
        return Err(Undefined::Empty { what });
    }
    if let Some(value) = values.iter().find(|value| value.is_nan()) {
        let wanted = "a number";
        return Err(Undefined::OutOfRange {
            what,
            wanted,
            value: *value,
        });
    }
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    Ok(values)
}
