//! Kubernetes quantities (`100m`, `1Gi`, `1e3`) as numbers. Depends on nothing.
//!
//! Source of the grammar: the API reference page of `resource.Quantity`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths, rounded up; `None` when the text is no quantity.
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (mantissa, digits) = decimal(number)?;
    let (factor, divisor) = scale(suffix)?;
    let numerator = mantissa.checked_mul(factor)?.checked_mul(1000)?;
    let denominator = 10_i128.checked_pow(digits)?.checked_mul(divisor)?;
    Some(numerator.div_euclid(denominator) + i128::from(numerator.rem_euclid(denominator) != 0))
}

/// The value as a whole number, rounded up.
pub(crate) fn whole(quantity: &Quantity) -> Option<i64> {
    let milli = milli(quantity)?;
    i64::try_from(milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0)).ok()
}

/// A decimal number as an integer and the count of digits after the point.
fn decimal(text: &str) -> Option<(i128, u32)> {
    let (before, after) = text.split_once('.').unwrap_or((text, ""));
    let digits = u32::try_from(after.len()).ok()?;
    format!("{before}{after}")
        .parse()
        .ok()
        .map(|mantissa| (mantissa, digits))
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let factor = match suffix {
        "n" => return Some((1, 1_000_000_000)),
        "u" => return Some((1, 1_000_000)),
        "m" => return Some((1, 1000)),
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(power.unsigned_abs())?;
            return Some(if power < 0 { (1, factor) } else { (factor, 1) });
        }
    };
    Some((factor, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_and_rounds_up() {
        let cases: [(&str, Option<i128>); 12] = [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("128Mi", Some(134_217_728_000)),
            ("1e3", Some(1_000_000)),
            ("1k", Some(1_000_000)),
            ("1u", Some(1)),
            ("3500n", Some(1)),
            ("", None),
            ("Mi", None),
            ("1x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(milli(&Quantity(text.to_owned())), expected, "{text}");
        }
        assert_eq!(whole(&Quantity("1001m".to_owned())), Some(2));
    }
}
