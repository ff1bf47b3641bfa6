//! Files that are too large, too deep, too clever, or no text at all: a clear message, quickly, and never a crash.

use super::{VALID, codes, explained};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Far above what it takes on a busy machine in a debug build, far below what an attack would cost.
const SOON: Duration = Duration::from_mins(2);

#[expect(clippy::disallowed_methods, reason = "real time is what is tested")]
fn elapsed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    drop(work());
    start.elapsed()
}

fn soon<T>(work: impl FnOnce() -> T) -> T {
    let mut value = None;
    let took = elapsed(|| value = Some(work()));
    assert!(took < SOON, "took {took:?}");
    value.unwrap()
}

#[test]
fn a_file_of_ten_megabytes_is_refused_by_its_size() {
    let text = VALID.repeat(10 * 1024 * 1024 / VALID.len() + 1);
    let shown = soon(|| explained(&text));
    assert!(shown.contains("error[file-too-large]"), "{shown}");
    assert!(shown.contains("at most 1048576 are read"), "{shown}");
    assert!(shown.len() < 1000, "{} characters", shown.len());
}

#[test]
fn an_alias_bomb_is_refused_with_its_name() {
    let mut text = "a0: &a0 [boom, boom, boom, boom, boom, boom, boom, boom, boom]\n".to_owned();
    for level in 1..12 {
        let before = level - 1;
        let aliases = vec![format!("*a{before}"); 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{aliases}]").unwrap();
    }
    let shown = soon(|| explained(&text));
    assert!(shown.contains("error[yaml-limit]"), "{shown}");
    assert!(shown.contains("alias"), "{shown}");
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        format!("{}1{}", "[".repeat(200), "]".repeat(200)),
    ] {
        let shown = soon(|| explained(&text));
        assert!(shown.contains("error[yaml"), "{shown}");
    }
    let mut text = String::new();
    for level in 0..400 {
        writeln!(text, "{}a:", " ".repeat(level)).unwrap();
    }
    assert!(soon(|| explained(&text)).contains("error[yaml-limit]"));
}

#[test]
fn many_problems_are_counted_and_the_first_hundred_shown() {
    let mut text = VALID.to_owned();
    for number in 0..20_000 {
        writeln!(text, "key{number}: 1").unwrap();
    }
    let shown = soon(|| explained(&text));
    assert!(
        shown.contains("example.yaml: and 19900 more"),
        "{}",
        shown.get(shown.len().saturating_sub(300)..).unwrap()
    );
    assert!(shown.ends_with("20000 errors\n"));
}

#[test]
fn bytes_that_are_no_text_are_named() {
    let shown = explained(b"kind: Experiment\nmetadata: {name: \xff\xfe}\n");
    assert!(shown.starts_with("example.yaml:2:18: error[not-utf8]"), "{shown}");
    assert!(codes(b"a: \0").contains(&"yaml"));
    assert_eq!(codes([0xff; 64]), ["not-utf8"]);
}

#[test]
fn a_file_sends_no_commands_to_the_terminal_that_shows_it() {
    for text in [
        "a: \u{1b}]0;owned\u{7}",
        "\"\\e[2J\": 1",
        "kind: \"\\e[31m\"",
        "a: \u{9b}31m",
    ] {
        let shown = explained(text);
        assert!(
            !shown.contains(|held: char| held.is_control() && held != '\n'),
            "{shown:?}"
        );
    }
}

#[test]
fn queries_that_would_exhaust_the_stack_are_refused() {
    for query in [
        "(".repeat(200_000),
        format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("1{}", "+1".repeat(200_000)),
        "-".repeat(200_000),
    ] {
        let text = VALID.replace(
            "pods: {ready: \">= 3\"}",
            &format!("promql: {{query: '{query}', is: 1}}"),
        );
        assert_eq!(soon(|| codes(&text)), ["promql"]);
    }
    // The longest that is read.
    for query in [
        format!("{}1{}", "(".repeat(2000), ")".repeat(2000)),
        format!("1{}", "+1".repeat(2000)),
        format!("{}1", "-".repeat(4000)),
    ] {
        let text = VALID.replace(
            "pods: {ready: \">= 3\"}",
            &format!("promql: {{query: '{query}', is: 1}}"),
        );
        soon(|| codes(&text));
    }
}

#[test]
fn a_variable_brings_in_no_structure_and_is_not_expanded_twice() {
    let text = VALID.replace("It comes back", "${TEXT}");
    let lookup = |name: &str| (name == "TEXT").then(|| "\"}\nguards: {maxPercent: 100} ${OTHER}".to_owned());
    let loaded = chaosrun::experiment::parse("example.yaml", text.as_bytes(), &lookup).unwrap();
    assert_eq!(
        loaded[0].experiment.claim.text,
        "\"}\nguards: {maxPercent: 100} ${OTHER}"
    );
    assert_eq!(loaded[0].experiment.guards.max_percent, 50);
    assert_eq!(loaded[0].variables.iter().collect::<Vec<_>>(), ["TEXT"]);
}

#[test]
fn a_shipped_scenario_is_read_in_milliseconds() {
    let path = super::root().join("scenarios/driver-kill.yaml");
    let source = std::fs::read(path).unwrap();
    // The best of ten, because the machine may be busy; a release build takes a tenth of a debug build.
    let best = (0..10)
        .map(|_| elapsed(|| super::read(&source).unwrap()))
        .min()
        .unwrap();
    let most = if cfg!(debug_assertions) { 50 } else { 5 };
    assert!(best < Duration::from_millis(most), "{best:?}");
}
