//! The words of `tc` that matter here. Pure.

use std::fmt;
use std::time::Duration;

/// What shall happen to packets.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Netem {
    pub delay: Duration,
    pub jitter: Duration,
    /// Share of packets, 0 to 1.
    pub loss: f64,
    /// Share of packets of which one bit is turned round, 0 to 1. Not offered as a word of `tc`.
    pub corrupt: f64,
    /// Bytes in a second; 0 is no limit. Not offered as a word of `tc`.
    pub rate: u64,
}

impl Netem {
    /// For the process that holds the packets: microseconds, microseconds, share, share, bytes.
    pub(crate) fn arguments(&self) -> [String; 5] {
        [
            self.delay.as_micros().to_string(),
            self.jitter.as_micros().to_string(),
            self.loss.to_string(),
            self.corrupt.to_string(),
            self.rate.to_string(),
        ]
    }

    /// The other way round.
    pub(super) fn from_arguments(arguments: &[String]) -> Option<Self> {
        let micros = |index: usize| Some(Duration::from_micros(arguments.get(index)?.parse().ok()?));
        Some(Self {
            delay: micros(0)?,
            jitter: micros(1)?,
            loss: arguments.get(2)?.parse().ok()?,
            corrupt: arguments.get(3)?.parse().ok()?,
            rate: arguments.get(4)?.parse().ok()?,
        })
    }
}

impl fmt::Display for Netem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if !self.delay.is_zero() {
            words.push(format!("delay {}ms", self.delay.as_secs_f64() * 1000.0));
            if !self.jitter.is_zero() {
                words.push(format!(" {}ms", self.jitter.as_secs_f64() * 1000.0));
            }
        }
        if self.loss > 0.0 {
            words.push(format!("loss {}%", self.loss * 100.0));
        }
        formatter.write_str(&words.join(" "))
    }
}

/// A call of `tc`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Call {
    Netem {
        device: String,
        netem: Netem,
    },
    Show {
        device: String,
    },
    Delete {
        device: String,
    },
    /// Not about netem: the host's own business.
    Other,
}

/// Understands a call.
///
/// # Errors
/// A netem of which a word is not offered.
pub(super) fn parse(arguments: &[String]) -> Result<Call, String> {
    let mut words = arguments
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with('-'));
    if words.next() != Some("qdisc") {
        return Ok(Call::Other);
    }
    let action = words.next().unwrap_or("show");
    let rest: Vec<&str> = words.collect();
    let device = rest
        .iter()
        .position(|word| *word == "dev")
        .and_then(|index| rest.get(index + 1))
        .map(|device| (*device).to_owned());
    let Some(device) = device else { return Ok(Call::Other) };
    match action {
        "show" => Ok(Call::Show { device }),
        "del" | "delete" => Ok(Call::Delete { device }),
        "add" | "replace" | "change" => {
            let Some(start) = rest.iter().position(|word| *word == "netem") else {
                return Ok(Call::Other);
            };
            let netem = netem(rest.get(start + 1..).unwrap_or_default())?;
            Ok(Call::Netem { device, netem })
        }
        _ => Ok(Call::Other),
    }
}

fn netem(words: &[&str]) -> Result<Netem, String> {
    let mut netem = Netem::default();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        match *word {
            "delay" | "latency" => {
                let text = words.next().ok_or("netem: delay needs a time")?;
                netem.delay = time(text)?;
                if let Some(jitter) = words.peek().and_then(|text| time(text).ok()) {
                    netem.jitter = jitter;
                    words.next();
                }
            }
            "loss" | "drop" => {
                let text = words.next().ok_or("netem: loss needs a share")?;
                let number = text.trim_end_matches('%').parse::<f64>();
                let percent = number.map_err(|_| format!("netem: Illegal \"loss percent\" {text}"))?;
                if !(0.0..=100.0).contains(&percent) {
                    return Err(format!("netem: Illegal \"loss percent\" {text}"));
                }
                netem.loss = percent / 100.0;
            }
            other => {
                return Err(format!(
                    "netem: What is \"{other}\"? (this kernel has no netem, and its double in the lab knows delay and loss only)"
                ));
            }
        }
    }
    Ok(netem)
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("netem: Illegal time \"{text}\"");
    let end = text
        .find(|letter: char| letter.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" | "sec" | "secs" => number,
        "ms" | "msec" | "msecs" => number / 1e3,
        // Without a unit `tc` means microseconds.
        "us" | "usec" | "usecs" | "" => number / 1e6,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Result<Call, String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn delay_jitter_and_loss_are_understood() {
        let Ok(Call::Netem { device, netem }) = call("qdisc add dev eth0 root netem delay 100ms 10ms loss 25%") else {
            panic!("netem")
        };
        assert_eq!(device, "eth0");
        assert_eq!(netem.delay, Duration::from_millis(100));
        assert_eq!(netem.jitter, Duration::from_millis(10));
        assert!((netem.loss - 0.25).abs() < 1e-9);
        assert_eq!(Netem::from_arguments(&netem.arguments()), Some(netem));
        assert_eq!(netem.to_string(), "delay 100ms  10ms loss 25%");
    }

    #[test]
    fn what_is_not_offered_is_refused_and_what_is_not_ours_is_handed_on() {
        assert!(
            call("qdisc add dev eth0 root netem corrupt 5%")
                .unwrap_err()
                .contains("corrupt")
        );
        assert!(call("qdisc add dev eth0 root netem loss 120%").is_err());
        assert_eq!(call("qdisc add dev eth0 root tbf rate 1mbit"), Ok(Call::Other));
        assert_eq!(call("filter show dev eth0"), Ok(Call::Other));
        assert_eq!(
            call("-s qdisc show dev eth0"),
            Ok(Call::Show {
                device: "eth0".to_owned()
            })
        );
    }
}
