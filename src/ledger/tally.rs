//! Records of a sink, counted one line at a time.

use super::lines::Line;
use super::parse::ParseError;
use crate::evidence::IdCounts;
use crate::experiment::Ledger;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};

/// Most keys whose order is followed, 16 bytes each.
const MOST_KEYS: usize = 1_000_000;

/// What a sink holds.
#[derive(Debug)]
pub(crate) struct Tally {
    id_field: String,
    key_field: Option<String>,
    pub(crate) counts: IdCounts,
    order: Option<Order>,
}

/// Highest record of each key (by hash: two of a million keys meet with a chance of 1 in 10^7).
#[derive(Debug, Default)]
struct Order {
    highest: HashMap<u64, u64>,
    behind: u64,
}

impl Tally {
    pub(crate) fn new(ledger: &Ledger) -> Self {
        Self {
            id_field: ledger.id_field.clone(),
            key_field: ledger.key_field.clone(),
            counts: IdCounts::default(),
            order: ledger.key_field.as_ref().map(|_| Order::default()),
        }
    }

    /// For sinks whose files come in no order that means anything.
    pub(crate) fn without_order(mut self) -> Self {
        (self.key_field, self.order) = (None, None);
        self
    }

    /// Counts the record of a line; empty lines are passed over.
    ///
    /// # Errors
    /// A record without a number, or numbers that cannot be held.
    pub(crate) fn add(&mut self, line: Line<'_>) -> Result<(), ParseError> {
        if line.text.trim().is_empty() {
            return Ok(());
        }
        let (id, key) = record(line.text, &self.id_field, self.key_field.as_deref()).map_err(|why| line.fail(why))?;
        let first = self.counts.add(id).map_err(|error| line.fail(error.to_string()))?;
        // A copy is a duplicate, and not out of order as well.
        if let (true, Some(order)) = (first, &mut self.order) {
            order.see(id, &key.unwrap_or_default());
            if order.highest.len() > MOST_KEYS {
                self.order = None;
            }
        }
        Ok(())
    }

    /// Records behind a later one of their key; none when it is not followed, or there were too many keys.
    pub(crate) fn reordered(&self) -> Option<u64> {
        self.order.as_ref().map(|order| order.behind)
    }
}

impl Order {
    fn see(&mut self, id: u64, key: &str) {
        let mut hasher = DefaultHasher::new();
        hasher.write(key.as_bytes());
        let highest = self.highest.entry(hasher.finish()).or_insert(id);
        if id < *highest {
            self.behind += 1;
        } else {
            *highest = id;
        }
    }
}

/// Number and key of a record.
///
/// # Errors
/// A sentence.
pub(crate) fn record(text: &str, id_field: &str, key_field: Option<&str>) -> Result<(u64, Option<String>), String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let (id, key) = Wanted { id_field, key_field }
        .deserialize(&mut json)
        .and_then(|found| json.end().map(|()| found))
        .map_err(|error| error.to_string())?;
    let id = id
        .as_ref()
        .and_then(Value::as_u64)
        .ok_or_else(|| format!("no whole number in the field {id_field:?}"))?;
    let key = match (key_field, key) {
        (None, _) => None,
        (Some(_), Some(Value::String(key))) => Some(key),
        (Some(field), None | Some(Value::Null)) => return Err(format!("no key in the field {field:?}")),
        (Some(_), Some(other)) => Some(other.to_string()),
    };
    Ok((id, key))
}

/// Two fields of an object; the rest is passed over without being built.
struct Wanted<'a> {
    id_field: &'a str,
    key_field: Option<&'a str>,
}

type Found = (Option<Value>, Option<Value>);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Found;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("a record, which is a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let (mut id, mut key) = (None, None);
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let (is_id, is_key) = (name == self.id_field, Some(name.as_ref()) == self.key_field);
            if is_id || is_key {
                let value: Value = map.next_value()?;
                if is_key {
                    key = Some(value.clone());
                }
                if is_id {
                    id = Some(value);
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((id, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_among_other_fields_and_a_broken_one_is_named() {
        assert_eq!(
            record(r#"{"a":[1,{"id":9}],"id":7,"k":"x"}"#, "id", None),
            Ok((7, None))
        );
        assert_eq!(
            record(r#"{"id":7,"k":3}"#, "id", Some("k")),
            Ok((7, Some("3".to_owned())))
        );
        assert_eq!(
            record("{\"id\":18446744073709551615}", "id", None),
            Ok((u64::MAX, None))
        );
        for (text, why) in [
            ("{\"id\":18446744073709551616}", "no whole number"),
            ("{\"id\":1e400}", "out of range"),
            ("{\"id\":-1}", "no whole number"),
            ("{\"id\":1.5}", "no whole number"),
            ("{\"other\":1}", "no whole number"),
            ("{\"id\":1", "EOF"),
            ("{\"id\":1}{", "trailing"),
            ("[1]", "a record"),
            ("{\"id\":1,\"k\":null}", "no key"),
        ] {
            let error = record(text, "id", text.contains('k').then_some("k")).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_record_behind_a_later_one_of_its_key_is_out_of_order_and_a_copy_is_not() {
        let mut order = Order::default();
        for (id, key) in [(1, "a"), (3, "a"), (2, "a"), (5, "b"), (4, "a")] {
            order.see(id, key);
        }
        assert_eq!(order.behind, 1);
    }
}
