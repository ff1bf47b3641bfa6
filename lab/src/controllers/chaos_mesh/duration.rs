//! Go's durations, as every field of Chaos Mesh that is a time takes them. Pure.

use jiff::SignedDuration;

/// Nanoseconds of a unit.
fn unit(name: &str) -> Option<i128> {
    Some(match name {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// Reads `1h30m`, `-1.5s`, `300ms` or `0`; anything else is an error in the words of Go.
pub(super) fn parse(text: &str) -> Result<SignedDuration, String> {
    let invalid = || format!("time: invalid duration \"{text}\"");
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut rest = unsigned;
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let is_number = |letter: char| letter.is_ascii_digit() || letter == '.';
        let end = rest.find(|letter| !is_number(letter)).unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(end).ok_or_else(invalid)?;
        let end = after.find(is_number).unwrap_or(after.len());
        let (name, next) = after.split_at_checked(end).ok_or_else(invalid)?;
        if number.is_empty() || number == "." {
            return Err(invalid());
        }
        if name.is_empty() {
            return Err(format!("time: missing unit in duration \"{text}\""));
        }
        let scale = unit(name).ok_or_else(|| format!("time: unknown unit \"{name}\" in duration \"{text}\""))?;
        total = total.saturating_add(nanoseconds(number, scale).ok_or_else(invalid)?);
        rest = next;
    }
    let total = if text.starts_with('-') { -total } else { total };
    // Go's durations are 64 bits of nanoseconds.
    i64::try_from(total)
        .map(SignedDuration::from_nanos)
        .map_err(|_| invalid())
}

fn nanoseconds(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(scale)?;
    let mut part = scale;
    for digit in fraction.chars() {
        part /= 10;
        total = total.checked_add(i128::from(digit.to_digit(10)?).checked_mul(part)?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, milliseconds) in [
            ("1h30m", 5_400_000),
            ("300ms", 300),
            ("-1.5s", -1500),
            ("0", 0),
            (".5s", 500),
        ] {
            assert_eq!(parse(text).unwrap().as_millis(), milliseconds, "{text}");
        }
        for (text, why) in [
            ("", "invalid duration"),
            ("30", "missing unit"),
            ("1d", "unknown unit \"d\""),
            ("soon", "invalid duration"),
            ("s", "invalid duration"),
            ("9999999h", "invalid duration"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
