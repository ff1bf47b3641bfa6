//! What can be said of a `PromQL` query without asking Prometheus.

use super::diagnostics::{Place, Problem};
use super::types::{Comparison, Operator};
use promql_parser::parser::{self, Expr};

/// Longest query that is read. The parser's tree is as deep as the query is long, and it is walked by recursion.
const MOST_BYTES: usize = 4096;

/// Problems of a query and the condition on its values.
pub(super) fn lint(query: &str, is: Comparison, place: Place) -> Vec<Problem> {
    if query.len() > MOST_BYTES {
        return vec![Problem::error(
            "promql",
            place,
            format!("the query has {} bytes, at most {MOST_BYTES} are read", query.len()),
            Some("make it a recording rule and query that".to_owned()),
        )];
    }
    let expression = match parser::parse(query) {
        Ok(expression) => expression,
        Err(why) => {
            return vec![Problem::error(
                "promql",
                place,
                format!("the query does not parse: {}", why.trim()),
                None,
            )];
        }
    };
    let mut problems = Vec::new();
    if let Expr::MatrixSelector(_) = expression {
        let help = "take a function over the range, such as increase(...) or last_over_time(...)".to_owned();
        problems.push(Problem::error(
            "promql-range",
            place,
            "the query gives a range of samples, not values".to_owned(),
            Some(help),
        ));
    }
    if let Expr::StringLiteral(_) = expression {
        problems.push(Problem::error(
            "promql",
            place,
            "the query gives a text, not values".to_owned(),
            None,
        ));
    }
    if let Some(problem) = zero_when_true(&expression, is, place) {
        problems.push(problem);
    }
    if uses_rate(&expression) {
        let help = "rate windows show an outage late and a recovery later; use the raw counter, or a probe that asks the service".to_owned();
        problems.push(Problem::warning(
            "promql-rate",
            place,
            "a rate over a window cannot time a recovery".to_owned(),
            Some(help),
        ));
    }
    problems
}

/// A comparison without `bool` filters series and keeps their VALUE: `up == 0` gives 0 exactly when it is true, and nothing
/// when it is false. A condition that wants something above zero then reads it the wrong way round.
fn zero_when_true(expression: &Expr, is: Comparison, place: Place) -> Option<Problem> {
    let expression = match expression {
        Expr::Paren(inner) => return zero_when_true(&inner.expr, is, place),
        other => other,
    };
    let Expr::Binary(binary) = expression else {
        return None;
    };
    if !binary.op.is_comparison_operator() || binary.return_bool() {
        return None;
    }
    let right = number(&binary.rhs)?;
    let operator = binary.op.to_string();
    let zero_passes = match operator.as_str() {
        "==" => right == 0.0,
        "<" => right > 0.0,
        "<=" => right >= 0.0,
        ">=" => right <= 0.0,
        ">" => right < 0.0,
        _ => false,
    };
    let good_excludes_zero = !is.holds(0.0);
    (zero_passes && good_excludes_zero && is.operator != Operator::NotEqual || zero_passes && is.operator == Operator::NotEqual).then(|| {
        let help = format!(
            "`{operator} {right}` keeps the compared value, which is 0 when the condition is true, and no series at all when it is \
             false; write `{operator} bool {right}` for 1 and 0, or put the comparison into `is`"
        );
        Problem::error("promql-zero-when-true", place, "the value of this query is 0 when its condition is true".to_owned(), Some(help))
    })
}

fn number(expression: &Expr) -> Option<f64> {
    match expression {
        Expr::NumberLiteral(literal) => Some(literal.val),
        Expr::Paren(inner) => number(&inner.expr),
        Expr::Unary(inner) => number(&inner.expr).map(|value| -value),
        _ => None,
    }
}

fn uses_rate(expression: &Expr) -> bool {
    match expression {
        Expr::Aggregate(inner) => uses_rate(&inner.expr),
        Expr::Unary(inner) => uses_rate(&inner.expr),
        Expr::Binary(inner) => uses_rate(&inner.lhs) || uses_rate(&inner.rhs),
        Expr::Paren(inner) => uses_rate(&inner.expr),
        Expr::Subquery(inner) => uses_rate(&inner.expr),
        Expr::Call(call) => {
            matches!(call.func.name, "rate" | "irate" | "deriv" | "predict_linear")
                || call.args.args.iter().any(|held| uses_rate(held))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(query: &str, operator: Operator, value: f64) -> Vec<&'static str> {
        lint(query, Comparison { operator, value }, Place::START)
            .into_iter()
            .map(|problem| problem.code)
            .collect()
    }

    #[test]
    fn a_query_whose_value_is_zero_when_true_is_found() {
        assert_eq!(
            codes("up{job=\"x\"} == 0", Operator::GreaterOrEqual, 1.0),
            ["promql-zero-when-true"]
        );
        assert_eq!(
            codes("(max(up) or vector(0)) == 0", Operator::Greater, 0.0),
            ["promql-zero-when-true"]
        );
        assert!(codes("up == bool 0", Operator::GreaterOrEqual, 1.0).is_empty());
        assert!(codes("up", Operator::GreaterOrEqual, 1.0).is_empty());
        assert!(codes("up == 1", Operator::GreaterOrEqual, 1.0).is_empty());
    }

    #[test]
    fn queries_that_do_not_parse_or_give_ranges_are_found() {
        assert_eq!(codes("sum(up", Operator::Greater, 0.0), ["promql"]);
        assert_eq!(codes("up[5m]", Operator::Greater, 0.0), ["promql-range"]);
        assert_eq!(codes("rate(a_total[1m])", Operator::Greater, 0.0), ["promql-rate"]);
    }
}
