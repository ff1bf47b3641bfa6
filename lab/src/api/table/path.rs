//! The subset of JSONPath that printer columns use.
//!
//! `.a.b`, `.a['b.c']`, `.a\.b`, `[0]`, `[*]`, `[?(@.type=="Ready")]`. What it cannot read finds nothing, as a wrong
//! path would.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(usize),
    All,
    Filter(Vec<Step>, Value),
}

/// Everything that the path leads to.
pub(super) fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    parse(path).map(|steps| walk(object, &steps)).unwrap_or_default()
}

fn walk<'a>(object: &'a Value, steps: &[Step]) -> Vec<&'a Value> {
    let mut current = vec![object];
    for step in steps {
        current = current
            .into_iter()
            .flat_map(|value| -> Vec<&'a Value> {
                match (step, value) {
                    (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
                    (Step::Index(index), Value::Array(items)) => items.get(*index).into_iter().collect(),
                    (Step::All, Value::Array(items)) => items.iter().collect(),
                    (Step::All, Value::Object(map)) => map.values().collect(),
                    (Step::Filter(inner, wanted), Value::Array(items)) => items
                        .iter()
                        .filter(|item| walk(item, inner).contains(&wanted))
                        .collect(),
                    _ => Vec::new(),
                }
            })
            .collect();
    }
    current
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let mut rest = path
        .trim()
        .trim_start_matches('{')
        .trim_end_matches('}')
        .trim_start_matches('$');
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after)?;
            let (inside, after) = after.split_at_checked(end)?;
            steps.push(bracket(inside)?);
            rest = after.strip_prefix(']')?;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let mut name = String::new();
            let mut characters = rest.char_indices();
            let mut end = rest.len();
            while let Some((index, character)) = characters.next() {
                match character {
                    '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
                    '.' | '[' => {
                        end = index;
                        break;
                    }
                    _ => name.push(character),
                }
            }
            if name.is_empty() {
                return None;
            }
            steps.push(if name == "*" { Step::All } else { Step::Field(name) });
            rest = rest.get(end..)?;
        }
    }
    Some(steps)
}

/// Where the bracket ends that opened just before: quotes and inner brackets are skipped.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(index),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn bracket(inside: &str) -> Option<Step> {
    let inside = inside.trim();
    if inside == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|filter| filter.strip_suffix(')')) {
        let (left, right) = filter.split_once("==")?;
        let wanted = unquote(right.trim())
            .map(|text| Value::from(text.to_owned()))
            .or_else(|| serde_json::from_str(right.trim()).ok())?;
        return Some(Step::Filter(parse(left.trim().strip_prefix('@')?)?, wanted));
    }
    if let Some(name) = unquote(inside) {
        return Some(Step::Field(name.to_owned()));
    }
    inside.parse().ok().map(Step::Index)
}

fn unquote(text: &str) -> Option<&str> {
    ['\'', '"']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_that_printer_columns_use_is_read() {
        let object =
            json!({"a": {"b.c": 1, "list": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "?"}]}});
        for (path, expected) in [
            (".a.list[0].type", vec![json!("Ready")]),
            (".a['b.c']", vec![json!(1)]),
            (r".a.b\.c", vec![json!(1)]),
            (r#".a.list[?(@.type=="Ready")].status"#, vec![json!("True")]),
            (".a.list[?(@.type=='X')].status", vec![json!("?")]),
            (".a.list[*].type", vec![json!("Ready"), json!("X")]),
            ("{.a.list[1].type}", vec![json!("X")]),
            (".a.none", vec![]),
            ("[", vec![]),
        ] {
            assert_eq!(find(&object, path), expected.iter().collect::<Vec<_>>(), "{path}");
        }
    }
}
