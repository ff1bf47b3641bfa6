//! Kubernetes quantities (`100m`, `2Gi`, `1e3`) as thousandths.
//!
//! Source: k8s.io/apimachinery `resource.Quantity` grammar.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in thousandths, rounded up as Kubernetes does; `None` when it is malformed or absurdly large.
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let split = text
        .char_indices()
        .find(|(_, letter)| !(letter.is_ascii_digit() || matches!(letter, '.' | '+' | '-')))
        .map_or(text.len(), |(index, _)| index);
    let (number, suffix) = text.split_at_checked(split)?;
    let (multiplier, divisor) = scale(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 18 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let places = u32::try_from(fraction.len()).ok()?;
    let numerator = digits.checked_mul(multiplier)?.checked_mul(1000)?;
    let denominator = divisor.checked_mul(10_i128.checked_pow(places)?)?;
    let floor = numerator.div_euclid(denominator);
    Some(if numerator.rem_euclid(denominator) == 0 {
        floor
    } else {
        floor + 1
    })
}

/// Multiplier and divisor of a suffix.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10_i128
                .checked_pow(power.unsigned_abs())
                .filter(|_| power.abs() <= 18)?;
            if power >= 0 { (size, 1) } else { (1, size) }
        }
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::milli;

    #[test]
    fn every_suffix_of_the_grammar_is_read() {
        for (text, expected) in [
            ("100m", Some(100)),
            ("1", Some(1000)),
            ("0.5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1e3", Some(1_000_000)),
            ("12E", Some(12_000_000_000_000_000_000_000)),
            ("1Ki", Some(1_024_000)),
            ("100n", Some(1)),
            ("", None),
            ("1.2.3", None),
            ("one", None),
            ("1Zi", None),
            ("1e99", None),
        ] {
            assert_eq!(milli(&Quantity(text.to_owned())), expected, "{text}");
        }
    }
}
