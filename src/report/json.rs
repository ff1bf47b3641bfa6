//! `report.json`.

use super::model::Run;

/// The report as JSON text with a newline at its end.
#[must_use]
pub fn json(run: &Run) -> String {
    // Every map key of the report is a string and every number is finite, so that this cannot fail.
    let mut text = serde_json::to_string_pretty(run).unwrap_or_default();
    text.push('\n');
    text
}
