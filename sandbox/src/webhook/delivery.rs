//! One delivery: its content, its state, and the results of its attempts.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::clock;

/// Sorts the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueueKey {
    /// When the next attempt is due, Unix milliseconds.
    pub(super) due: i64,
    /// Position among those due at the same time: twice the number of the delivery, or one more than
    /// that of the delivery that it was put behind.
    pub(super) rank: u64,
    pub(super) id: u64,
}

/// Counters of deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeliveryCounts {
    /// Events that happened while an address was set.
    pub events: u64,
    /// Requests sent, including retries.
    pub attempts: u64,
    /// Deliveries with a 2xx response.
    pub delivered: u64,
    /// Deliveries given up after the last retry.
    pub failed: u64,
    /// Events lost by a rule.
    pub lost: u64,
    /// Events sent twice by a rule.
    pub duplicated: u64,
    /// Events sent after the order's next one by a rule.
    pub reordered: u64,
    /// Events delayed by a rule.
    pub delayed: u64,
    /// Deliveries dropped for newer ones before they ended.
    pub dropped: u64,
}

/// Result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttemptResult {
    /// Status and beginning of the body of the response.
    Answered(u16, String),
    /// No response.
    Failed(&'static str),
    /// It cannot be sent at all, so it is not retried.
    Undeliverable(&'static str),
}

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) at: i64,
    pub(super) outcome: AttemptResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryState {
    Waiting(QueueKey),
    Sending,
    Delivered,
    Failed,
    Lost,
}

#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) id: u64,
    pub(super) at: i64,
    pub(super) order: u64,
    pub(super) awb: String,
    pub(super) status: &'static str,
    pub(super) url: Arc<str>,
    pub(super) body: Bytes,
    /// The rule that was applied to it.
    pub(super) act: Option<&'static str>,
    pub(super) state: DeliveryState,
    pub(super) attempts: Vec<Attempt>,
}

impl DeliveryCounts {
    /// With their names.
    pub(crate) fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("events", self.events),
            ("attempts", self.attempts),
            ("delivered", self.delivered),
            ("failed", self.failed),
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("reordered", self.reordered),
            ("delayed", self.delayed),
            ("dropped", self.dropped),
        ]
    }

    pub(crate) fn json(&self) -> Value {
        self.named()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), json!(count)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

impl Delivery {
    pub(super) fn json(&self) -> Value {
        let attempts: Vec<Value> = self
            .attempts
            .iter()
            .map(|attempt| match &attempt.outcome {
                AttemptResult::Answered(status, answer) => {
                    json!({"at": clock::utc(attempt.at), "status": status, "answer": answer})
                }
                AttemptResult::Failed(error) | AttemptResult::Undeliverable(error) => {
                    json!({"at": clock::utc(attempt.at), "error": error})
                }
            })
            .collect();
        let (state, due) = match self.state {
            DeliveryState::Waiting(QueueKey { due, .. }) => ("waiting", Some(clock::utc(due))),
            DeliveryState::Sending => ("sending", None),
            DeliveryState::Delivered => ("delivered", None),
            DeliveryState::Failed => ("failed", None),
            DeliveryState::Lost => ("lost", None),
        };
        json!({
            "id": self.id, "at": clock::utc(self.at), "awb": self.awb, "status": self.status,
            "url": &*self.url, "body": String::from_utf8_lossy(&self.body), "rule": self.act,
            "state": state, "due": due, "attempts": attempts,
        })
    }
}
