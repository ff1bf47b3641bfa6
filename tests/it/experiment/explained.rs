//! Every diagnostic, as reviewed.

use super::{VALID, codes, explained, files_in, read};
use chaosrun::experiment::parse;
use std::collections::BTreeSet;

#[test]
fn every_invalid_file_of_the_corpus_is_explained_as_reviewed() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../corpus/invalid");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for path in files_in("tests/corpus/invalid") {
            let name = path.file_name().unwrap().to_str().unwrap();
            let source = std::fs::read(&path).unwrap();
            let problems = parse(name, &source, &|_| None).expect_err(&format!("{name} must not be valid"));
            insta::assert_snapshot!(name, problems.render(false));
        }
    });
}

#[test]
fn every_code_in_the_source_occurs_in_the_corpus_or_in_a_test_of_hostile_files() {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for path in files_in("tests/corpus/invalid") {
        seen.extend(codes(std::fs::read(&path).unwrap()));
    }
    seen.extend(codes(vec![b'a'; 2_000_000]));
    seen.extend(codes(b"a: \xff"));
    seen.extend(codes("- ".repeat(100)));
    let mut missing = BTreeSet::new();
    let folder = super::root().join("src/experiment");
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for call in [".error(", ".warn(", "Problem::error(", "Problem::warning("] {
            for after in text.split(call).skip(1) {
                let code = after
                    .trim_start()
                    .strip_prefix('"')
                    .and_then(|rest| rest.split('"').next());
                missing.extend(code.filter(|code| !seen.contains(code)).map(str::to_owned));
            }
        }
    }
    // Says that schema and types disagree, which the property tests look for.
    missing.remove("decode");
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn the_problems_of_several_files_are_shown_together() {
    let mut all = read("kind: x").unwrap_err();
    let other = parse("other.yaml", b"kind: [", &|_| None).unwrap_err();
    all.extend(other);
    let text = all.render(false);
    assert!(text.contains("example.yaml:1:7: error[unknown-value]"), "{text}");
    assert!(text.contains("other.yaml:1:"), "{text}");
}

#[test]
fn a_terminal_gets_the_same_facts_drawn() {
    let text = read(VALID.replace("podKill", "podKil")).unwrap_err().render(true);
    for part in [
        "example.yaml:10:16",
        "unknown key \"podKil\"",
        "did you mean \"podKill\"?",
        "unknown-key",
        "1 error",
    ] {
        let plain: String = strip_styles(&text);
        assert!(plain.contains(part), "{part} is missing in\n{plain}");
    }
}

fn strip_styles(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(held) = rest.next() {
        if held == '\u{1b}' {
            rest.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(held);
        }
    }
    plain
}

#[test]
fn line_ends_and_a_byte_order_mark_move_no_column() {
    let wrong = VALID.replace("ready: \">= 3\"", "ready: \">> 3\"");
    let expected = "example.yaml:8:33: error[comparison]";
    for text in [wrong.clone(), wrong.replace('\n', "\r\n"), format!("\u{feff}{wrong}")] {
        let shown = explained(&text);
        assert!(shown.contains(expected), "{shown}");
        assert!(!shown.contains('\r'), "{shown:?}");
    }
}

#[test]
fn an_alias_is_explained_where_it_is_used() {
    let text = VALID
        .replace("text: \"It comes back\"", "text: &text \"It comes back\"")
        .replace("\"< 60s\"", "*text");
    let shown = explained(&text);
    assert!(shown.contains("example.yaml:11:13: error[limit]"), "{shown}");
}

#[test]
fn a_merged_mapping_is_no_doubled_key() {
    let text = VALID.replace(
        "- {name: kill, podKill: {}}",
        "- &first {name: kill, podKill: {}}\n- {<<: *first, name: again}",
    );
    let loaded = read(&text).map_err(|problems| problems.render(false)).unwrap();
    assert_eq!(loaded[0].experiment.faults[1].name, "again");
}

#[test]
fn one_mistake_is_one_problem() {
    for (from, to, code) in [
        ("podKill", "podKil", "unknown-key"),
        ("{name: kill, podKill: {}}", "{name: kill, podKill: 7}", "wrong-type"),
        ("podKill: {}", "podKill: ", "no-value"),
        ("rto: \"< 60s\"", "rot: \"< 60s\"", "unknown-key"),
        ("deployment: web", "deploymnt: web", "unknown-key"),
        ("target: {namespace: shop, deployment: web}", "", "missing-key"),
        ("slos: {rto: \"< 60s\"}", "", "missing-key"),
        ("faults:\n- {name: kill, podKill: {}}", "", "missing-key"),
        ("faults:\n- {name: kill, podKill: {}}", "faults: kill", "wrong-type"),
        ("metadata: {name: example}", "metadata: {}", "missing-key"),
        ("namespace: shop, ", "", "missing-key"),
        ("namespace: shop", "namespace: \"${UNSET}\"", "variable-unset"),
        ("deployment: web", "deployment: \"${UNSET}\"", "variable-unset"),
        ("podKill: {}", "podKill: {}, mode: {precent: 50}", "unknown-key"),
        ("- {name: ready, pods: {ready: \">= 3\"}}", "- ready", "wrong-type"),
    ] {
        let wrong = VALID.replace(from, to);
        assert_ne!(wrong, VALID);
        assert_eq!(codes(&wrong), [code], "{}", explained(&wrong));
    }
}
