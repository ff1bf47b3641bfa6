//! The limits of an experiment and its trials: what is judged in each trial, what over all of them, and how many there are.

use super::file::{LimitFile, LimitText, OverTrialsFile, RateFile, ShareText, SlosFile, TrialsFile};
use super::quantity::{count_limit, duration, share, time_limit};
use super::resolve::Resolver;
use super::types::{About, Assertion, Limit, Over, RtoSlo, RtoStart, Slos, Trials, TrialsSlo, When};
use std::time::Duration;

/// Most trials of an experiment that goes on until it is decided, unless the file says otherwise.
const MOST_UNTIL_DECIDED: u32 = 1000;
/// How sure a verdict on a quantile has to be, unless the file says otherwise.
const CONFIDENCE: f64 = 0.95;

type Parse = fn(&str) -> Result<Limit, String>;

impl Resolver<'_> {
    fn limit(&mut self, pointer: &str, text: Option<&LimitText>, parse: Parse) -> Option<Limit> {
        match parse(&text?.0) {
            Ok(limit) => Some(limit),
            Err(why) => {
                self.error("limit", self.at(pointer), why, None);
                None
            }
        }
    }

    fn share(&mut self, pointer: &str, text: &ShareText) -> Option<f64> {
        match share(&text.0) {
            Ok(value) => Some(value),
            Err(why) => {
                self.error("limit", self.at(pointer), why, None);
                None
            }
        }
    }

    /// Strictly between nothing and everything: certainty needs infinitely many trials.
    fn strict_share(&mut self, pointer: &str, text: Option<&ShareText>, default: f64) -> f64 {
        let Some(text) = text else { return default };
        let Some(value) = self.share(pointer, text) else {
            return default;
        };
        if value > 0.0 && value < 1.0 {
            return value;
        }
        let message = format!("{:?} cannot be proven by any number of trials", text.0.trim());
        let help = "write a share above 0% and below 100%, such as 95%";
        self.error("cannot-hold", self.at(pointer), message, Some(help));
        default
    }

    /// The limit of each trial; those over all trials go to `over`.
    fn limits_of(
        &mut self,
        key: &str,
        file: Option<&LimitFile>,
        about: About,
        parse: Parse,
        over: &mut Vec<TrialsSlo>,
    ) -> Option<Limit> {
        let pointer = format!("/slos/{key}");
        let file = match file? {
            LimitFile::Each(text) => return self.limit(&pointer, Some(text), parse),
            LimitFile::Over(file) => file,
        };
        let confidence = self.strict_share(&format!("{pointer}/confidence"), file.confidence.as_ref(), CONFIDENCE);
        let shares = quantiles(file);
        for (word, share, text) in &shares {
            if let Some(limit) = self.limit(&format!("{pointer}/{word}"), *text, parse) {
                let over_share = Over::Share {
                    share: *share,
                    confidence,
                };
                over.push(TrialsSlo {
                    about,
                    limit,
                    over: over_share,
                });
            }
        }
        if let Some(limit) = self.limit(&format!("{pointer}/max"), file.max.as_ref(), parse) {
            over.push(TrialsSlo {
                about,
                limit,
                over: Over::Max,
            });
        }
        let any = shares.iter().any(|(.., text)| text.is_some());
        if file.confidence.is_some() && !any {
            self.warn(
                "confidence-unused",
                self.places.key(&format!("{pointer}/confidence")),
                "there is no quantile that this confidence could be about",
                "give a quantile as well, such as p95: 120s",
            );
        }
        if !any && file.each.is_none() && file.max.is_none() && !self.places.misspelt_below(&pointer) {
            let help = "give at least one of each, max, p50, p75, p80, p90, p95, p99, p99.9";
            self.error("no-slo", self.at(&pointer), format!("{key} has no limit"), Some(help));
        }
        self.limit(&format!("{pointer}/each"), file.each.as_ref(), parse)
    }

    pub(super) fn slos(&mut self, file: &SlosFile) -> Slos {
        let from = match file.rto_from.as_deref() {
            Some("impact") => RtoStart::Impact,
            _ => RtoStart::Fault,
        };
        let availability = (file.availability.as_ref()).and_then(|text| self.share("/slos/availability", text));
        let assertions: Vec<Assertion> = file
            .assertions
            .iter()
            .enumerate()
            .map(|(index, held)| Assertion {
                probe: self.probe(&format!("/slos/assertions/{index}/probe"), &held.probe),
                when: if held.when == "after" {
                    When::After
                } else {
                    When::During
                },
            })
            .collect();
        if file.rto_from.is_some() && file.rto.is_none() {
            let place = self.places.key("/slos/rtoFrom");
            let help = "give rto as well, such as rto: \"< 120s\"";
            self.warn("rto-from-unused", place, "there is no rto that could start here", help);
        }
        let mut over = Vec::new();
        let rto = self
            .limits_of("rto", file.rto.as_ref(), About::Rto { from }, time_limit, &mut over)
            .map(|limit| RtoSlo { limit, from });
        let rpo_seconds = self.limits_of("rpo", file.rpo.as_ref(), About::Rpo, time_limit, &mut over);
        let lost = self.limits_of("lost", file.lost.as_ref(), About::Lost, count_limit, &mut over);
        let duplicated = self.limits_of(
            "duplicated",
            file.duplicated.as_ref(),
            About::Duplicated,
            count_limit,
            &mut over,
        );
        let slos = Slos {
            rto,
            rpo_seconds,
            lost,
            duplicated,
            availability,
            assertions,
            over_trials: over,
        };
        let given = file.rto.is_some()
            || file.rpo.is_some()
            || file.lost.is_some()
            || file.duplicated.is_some()
            || file.recovered.is_some()
            || file.availability.is_some()
            || !file.assertions.is_empty();
        if !given && self.places.written("/slos") && !self.places.misspelt_below("/slos") {
            let help = "give at least one of rto, rpo, lost, duplicated, recovered, availability, assertions";
            self.error(
                "no-slo",
                self.places.key("/slos"),
                "there is no limit to test",
                Some(help),
            );
        }
        slos
    }

    /// The claim about the share of trials in which service comes back at all.
    pub(super) fn recovered(&mut self, file: Option<&RateFile>, watched: Duration) -> Option<TrialsSlo> {
        let file = file?;
        let share = self.strict_share("/slos/recovered/rate", Some(&file.rate), CONFIDENCE);
        let confidence = self.strict_share("/slos/recovered/confidence", file.confidence.as_ref(), CONFIDENCE);
        Some(TrialsSlo {
            about: About::Recovered,
            limit: Limit {
                max: watched.as_secs_f64(),
                strict: false,
            },
            over: Over::Share { share, confidence },
        })
    }

    pub(super) fn trials(&mut self, file: &TrialsFile, slos: &Slos) -> Trials {
        let cooldown = self.duration("/trials/cooldown", file.cooldown.as_ref(), Duration::from_secs(10));
        let most = if file.until_decided { MOST_UNTIL_DECIDED } else { 1 };
        let max_time =
            (file.max_time.as_ref()).map(|text| self.positive("/trials/maxTime", Some(text), Duration::from_secs(1)));
        let phase = file.phase.as_ref().and_then(|text| self.phase(text));
        let shares = slos
            .over_trials
            .iter()
            .any(|slo| matches!(slo.over, Over::Share { .. }));
        if file.until_decided && !shares {
            self.error(
                "until-decided",
                self.places.key("/trials/untilDecided"),
                "no claim is about a share of the trials, so nothing would ever be decided",
                Some("claim a quantile, such as rto: {p95: 120s}, or leave this out and give a count"),
            );
        }
        if file.until_decided && file.run_all {
            self.error(
                "exactly-one",
                self.places.key("/trials/runAll"),
                "untilDecided and runAll exclude each other",
                Some("keep one of the two"),
            );
        }
        Trials {
            count: file.count.unwrap_or(most),
            until_decided: file.until_decided,
            max_time,
            phase,
            control: file.control.unwrap_or(0),
            run_all: file.run_all,
            ..Trials::fixed(most, cooldown)
        }
    }

    /// `random-within 30s`.
    fn phase(&mut self, text: &str) -> Option<Duration> {
        let trimmed = text.trim();
        let period = trimmed
            .strip_prefix("random-within")
            .filter(|rest| rest.starts_with(char::is_whitespace))
            .and_then(|rest| duration(rest).ok())
            .filter(|period| *period >= Duration::from_millis(10));
        if period.is_none() {
            let help = "write random-within and the checkpoint or trigger interval: random-within 30s";
            self.error(
                "phase",
                self.at("/trials/phase"),
                format!("{trimmed:?} is no phase of the injection"),
                Some(help),
            );
        }
        period
    }
}

/// Every quantile that may be written, with its share.
fn quantiles(file: &OverTrialsFile) -> [(&'static str, f64, Option<&LimitText>); 7] {
    [
        ("p50", 0.5, file.p50.as_ref()),
        ("p75", 0.75, file.p75.as_ref()),
        ("p80", 0.8, file.p80.as_ref()),
        ("p90", 0.9, file.p90.as_ref()),
        ("p95", 0.95, file.p95.as_ref()),
        ("p99", 0.99, file.p99.as_ref()),
        ("p99.9", 0.999, file.p999.as_ref()),
    ]
}
