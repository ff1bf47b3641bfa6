//! Durations, comparisons and limits as people write them.

use super::types::{Comparison, Limit, Operator};
use crate::fault::Amount;
use std::time::Duration;

/// Digits, perhaps with decimals: what the patterns of the schema allow, and nothing else that Rust would read as a number.
fn plain_number(text: &str) -> Option<f64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if digits(whole) && digits(decimals) {
        text.parse().ok().filter(|value: &f64| value.is_finite())
    } else {
        None
    }
}

/// `1h30m`, `250ms`, `1.5s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("a duration is missing".to_owned());
    }
    if rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(format!("the duration {text:?} has no unit; write {rest}s or {rest}ms"));
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest
            .find(|held: char| !(held.is_ascii_digit() || held == '.'))
            .unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        let unit_end = after
            .find(|held: char| held.is_ascii_digit() || held == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => {
                return Err(format!(
                    "{text:?} is no duration; units are ms, s, m, h: 250ms, 10s, 2m, 1h30m"
                ));
            }
        };
        let number =
            plain_number(digits).ok_or_else(|| format!("{text:?} is no duration; write 250ms, 10s, 2m, 1h30m"))?;
        let part =
            Duration::try_from_secs_f64(number * seconds).map_err(|_| format!("the duration {text:?} is too long"))?;
        total = total
            .checked_add(part)
            .ok_or_else(|| format!("the duration {text:?} is too long"))?;
        rest = next;
    }
    // The event log keeps milliseconds.
    Ok(Duration::from_millis(
        u64::try_from((total.as_micros() + 500) / 1000).unwrap_or(u64::MAX),
    ))
}

/// `-10m`, `90s`, in milliseconds.
pub(super) fn offset(text: &str) -> Result<i64, String> {
    let trimmed = text.trim();
    let (sign, span) = match trimmed.strip_prefix('-') {
        Some(span) => (-1, span),
        None => (1, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let millis = i64::try_from(duration(span)?.as_millis()).ok();
    // Chaos Mesh counts in nanoseconds, in 64 bits.
    let millis = millis.filter(|millis| *millis <= i64::MAX / 1_000_000);
    match millis {
        Some(0) => Err("a clock that is off by nothing is right".to_owned()),
        Some(millis) => Ok(sign * millis),
        None => Err(format!("the offset {text:?} is too long")),
    }
}

/// `256Mi`, `1.5G`, `80%`.
pub(super) fn amount(text: &str) -> Result<Amount, String> {
    let text = text.trim();
    let end = text
        .find(|held: char| !(held.is_ascii_digit() || held == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let wrong = || format!("{text:?} is no amount; write 256Mi, 1Gi, 500M or 80%");
    let number = plain_number(number).ok_or_else(wrong)?;
    let unit = unit.trim();
    let whole = |value: f64| {
        let value = value.round();
        // Below 2^53 every whole number is exact.
        if (1.0..9e15).contains(&value) {
            format!("{value:.0}").parse::<u64>().map_err(|_| wrong())
        } else {
            Err(format!("{text:?} is too little or too much"))
        }
    };
    if unit == "%" {
        let percent = whole(number)?;
        return u32::try_from(percent)
            .ok()
            .filter(|percent| *percent <= 1000)
            .map(Amount::Percent)
            .ok_or_else(|| format!("{text:?} is too much"));
    }
    let factor = match unit {
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        _ => return Err(wrong()),
    };
    whole(number * factor).map(Amount::Bytes)
}

/// `500kbit`, `1mbit`, in kilobits per second.
pub(super) fn bit_rate(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|held: char| !held.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim() {
        "kbit" => 1,
        "mbit" => 1000,
        "gbit" => 1_000_000,
        _ => return Err(format!("{text:?} is no rate; write 500kbit, 1mbit or 1gbit")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no rate; write 500kbit"))?;
    // tc counts in bytes per second, 32 bits wide in its older versions.
    number
        .checked_mul(factor)
        .filter(|kilobits| (1..=32_000_000).contains(kilobits))
        .ok_or_else(|| format!("the rate {text:?} is out of range: 1kbit to 32gbit"))
}

/// `25%` or `25`, from 1 to 100.
pub(super) fn percent(text: &str) -> Result<u8, String> {
    let number = text.trim().trim_end_matches('%').trim();
    number
        .parse()
        .ok()
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| format!("{text:?} is no share; write a number from 1% to 100%"))
}

/// `>= 2`; a plain number means `==`.
pub(super) fn comparison(text: &str) -> Result<Comparison, String> {
    let trimmed = text.trim();
    let operators = [
        (">=", Operator::GreaterOrEqual),
        ("<=", Operator::LessOrEqual),
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        (">", Operator::Greater),
        ("<", Operator::Less),
    ];
    let found = operators
        .into_iter()
        .find_map(|(word, operator)| Some((trimmed.strip_prefix(word)?, operator)));
    let (number, operator) = found.unwrap_or((trimmed, Operator::Equal));
    let number = number.trim();
    let value = match number.strip_prefix('-') {
        Some(number) => plain_number(number).map(|value| -value),
        None => plain_number(number),
    };
    match value {
        Some(value) => Ok(Comparison { operator, value }),
        None => Err(format!(
            "{text:?} is no condition on a number; write \">= 2\", \"== 0\" or \"< 1.5\""
        )),
    }
}

/// Whether a limit is strict, and its number.
fn upper_limit(text: &str) -> Result<(bool, &str), String> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("<=") {
        return Ok((false, rest.trim()));
    }
    if let Some(rest) = text.strip_prefix('<') {
        return Ok((true, rest.trim()));
    }
    let rest = text.trim_start_matches(['>', '=', '!']);
    if rest.len() == text.len() {
        return Ok((false, text));
    }
    let rest = rest.trim();
    Err(format!(
        "{text:?} is no upper limit; write \"< {rest}\" or \"<= {rest}\""
    ))
}

/// `< 120s` in seconds.
pub(super) fn time_limit(text: &str) -> Result<Limit, String> {
    let (strict, rest) = upper_limit(text)?;
    duration(rest).map(|limit| Limit {
        max: limit.as_secs_f64(),
        strict,
    })
}

/// `0`, `<= 5`.
pub(super) fn count_limit(text: &str) -> Result<Limit, String> {
    let (strict, rest) = upper_limit(text)?;
    let digits = rest.bytes().all(|byte| byte.is_ascii_digit());
    match rest.parse::<u32>() {
        Ok(max) if digits => Ok(Limit {
            max: f64::from(max),
            strict,
        }),
        _ => Err(format!("{text:?} is no number of records; write 0 or \"<= 5\"")),
    }
}

/// `>= 90%` as 0.9.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let rest = text.trim().strip_prefix(">=").unwrap_or(text).trim();
    let number = rest.strip_suffix('%').and_then(|number| plain_number(number.trim()));
    match number {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err(format!("{text:?} is no share; write \">= 90%\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up_and_need_a_unit() {
        assert_eq!(duration("1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration(" 250ms ").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert!(duration("10").unwrap_err().contains("write 10s"));
        for wrong in [
            "",
            "s",
            "10 parsecs",
            "1..5s",
            "-1s",
            ".5s",
            "5.s",
            "1 s",
            "1e3s",
            "9999999999999999999999h",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_clock_can_be_behind_or_ahead_and_not_right() {
        assert_eq!(offset("-10m"), Ok(-600_000));
        assert_eq!(offset(" +1.5s"), Ok(1500));
        assert_eq!(offset("90s"), Ok(90_000));
        for bad in ["0s", "-0ms", "10", "--5s", "-9000000h", ""] {
            assert!(offset(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn comparisons_and_limits_keep_their_strictness() {
        assert_eq!(
            comparison(">= 2").unwrap(),
            Comparison {
                operator: Operator::GreaterOrEqual,
                value: 2.0
            }
        );
        assert_eq!(
            comparison("3").unwrap(),
            Comparison {
                operator: Operator::Equal,
                value: 3.0
            }
        );
        assert!(comparison("> many").is_err());
        assert_eq!(
            time_limit("< 2m").unwrap(),
            Limit {
                max: 120.0,
                strict: true
            }
        );
        assert_eq!(
            time_limit("120s").unwrap(),
            Limit {
                max: 120.0,
                strict: false
            }
        );
        assert_eq!(
            count_limit("0").unwrap(),
            Limit {
                max: 0.0,
                strict: false
            }
        );
        assert!((share(">= 90%").unwrap() - 0.9).abs() < 1e-12);
        assert!(share("90").is_err());
    }
}
