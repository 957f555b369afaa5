//! Which orders have the same content: fingerprints, and how often each was executed.
//!
//! What always holds: two orders have the same fingerprint if their operation (of either version) and
//! their JSON are equal, whatever the spacing and the order of members; memory is bounded.

use std::collections::HashMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::route::Operation;

/// Number of different orders that are at least remembered.
pub(super) const REMEMBERED: usize = 1_000_000;

/// How often each order was executed. Memory is bounded: at most twice as many orders are kept as are guaranteed to
/// be remembered.
#[derive(Debug)]
pub(super) struct ExecutedOrders {
    remembered: usize,
    recent: HashMap<[u8; 16], u64>,
    older: HashMap<[u8; 16], u64>,
}

impl ExecutedOrders {
    pub(super) fn new(remembered: usize) -> Self {
        ExecutedOrders { remembered, recent: HashMap::new(), older: HashMap::new() }
    }

    pub(super) fn times(&self, order: &[u8; 16]) -> u64 {
        self.recent.get(order).or_else(|| self.older.get(order)).copied().unwrap_or(0)
    }

    /// Counts one more execution; returns the new count.
    pub(super) fn again(&mut self, order: [u8; 16]) -> u64 {
        let times = self.times(&order) + 1;
        if self.recent.len() >= self.remembered && !self.recent.contains_key(&order) {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(order, times);
        times
    }
}

/// Sixteen bytes make a collision within a test run practically impossible.
pub(super) fn fingerprint(operation: Operation, content: &Value) -> [u8; 16] {
    let mut form = Vec::with_capacity(1024);
    form.push(operation.kind as u8);
    canonical(&mut form, content);
    let digest = Sha256::digest(form);
    std::array::from_fn(|position| digest[position])
}

/// Appends an encoding that is equal only for equal values: members are sorted by name, and everything of variable
/// length is preceded by its length.
pub(super) fn canonical(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (name, value) in members {
                sized(out, b'"', name);
                canonical(out, value);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            items.iter().for_each(|item| canonical(out, item));
            out.push(b']');
        }
        Value::String(string) => sized(out, b'"', string),
        Value::Number(number) => sized(out, b'0', &number.to_string()),
        Value::Bool(true) => out.push(b't'),
        Value::Bool(false) => out.push(b'f'),
        Value::Null => out.push(b'n'),
    }
}

fn sized(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    out.extend_from_slice(&text.len().to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_orders_are_remembered_and_the_oldest_forgotten() {
        let mut executed = ExecutedOrders::new(10);
        let order = |number: u8| [number; 16];
        for number in 0..100 {
            assert_eq!(executed.again(order(number)), 1);
            assert!(executed.recent.len() + executed.older.len() <= 20);
            for before in number.saturating_sub(9)..=number {
                assert_eq!(executed.times(&order(before)), 1, "{before} after {number}");
            }
        }
        assert_eq!((executed.times(&order(0)), executed.again(order(99)), executed.again(order(95))), (0, 2, 2));
    }
}
