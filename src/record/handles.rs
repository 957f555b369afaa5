//! Metric handles of one configuration snapshot, resolved when first used and found by index.
//!
//! On the path a handle is two array accesses and an atomic add: no string is hashed. Index `None`,
//! or one that the snapshot doesn't have, is the row `-`.

use std::{sync::OnceLock, time::Duration};

use prometheus::{Histogram, IntCounter, IntGauge};
use strum::VariantArray as _;

use super::{CacheResult, Metrics, Names};
use crate::outcome::Outcome;

/// What a request that no name is known of carries as label.
pub(super) const NONE: &str = "-";

const OUTCOMES: usize = Outcome::VARIANTS.len();

/// Status labels: those that a sane Fastrac sends; others share one label for each hundred.
#[rustfmt::skip]
const STATUSES: [(u16, &str); 33] = [
    (200, "200"), (201, "201"), (202, "202"), (204, "204"), (301, "301"), (302, "302"), (303, "303"), (304, "304"),
    (307, "307"), (308, "308"), (400, "400"), (401, "401"), (402, "402"), (403, "403"), (404, "404"), (405, "405"),
    (406, "406"), (408, "408"), (409, "409"), (410, "410"), (413, "413"), (415, "415"), (422, "422"), (423, "423"),
    (425, "425"), (429, "429"), (500, "500"), (501, "501"), (502, "502"), (503, "503"), (504, "504"), (520, "520"),
    (522, "522"),
];

/// After the listed statuses: none, and what is left of each hundred.
const OTHERS: [&str; 6] = ["failed", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// A handle, or the place for it.
type HandleSlot<T> = OnceLock<T>;
/// One row of slots, made when first used.
type HandleRow<T> = OnceLock<Box<[HandleSlot<T>]>>;

pub(super) struct MetricHandles {
    operations: usize,
    /// By service and operation, then outcome.
    requests: Box<[HandleRow<IntCounter>]>,
    /// By operation, then outcome.
    durations: Box<[HandleRow<(Histogram, Histogram)>]>,
    /// By service.
    service_durations: Box<[HandleSlot<Histogram>]>,
    /// By service.
    in_flight: Box<[HandleSlot<IntGauge>]>,
    /// By account and operation, then status.
    upstream: Box<[HandleRow<(IntCounter, Histogram)>]>,
    /// By operation, then result.
    cache: Box<[HandleRow<IntCounter>]>,
    /// By operation.
    saved: Box<[HandleSlot<IntCounter>]>,
    /// By account.
    retries: Box<[HandleSlot<IntCounter>]>,
}

/// Service, operation and outcome of one finished request.
#[derive(Clone, Copy)]
pub(super) struct RequestLabels {
    pub(super) service: Option<usize>,
    pub(super) operation: Option<usize>,
    pub(super) outcome: Outcome,
}

fn empty<T>(length: usize) -> Box<[OnceLock<T>]> {
    (0..length).map(|_| OnceLock::new()).collect()
}

/// Row of an index: 0 is `-`.
fn row(index: Option<usize>, length: usize) -> usize {
    index.filter(|index| *index < length).map_or(0, |index| index + 1)
}

fn slot<T>(rows: &[HandleRow<T>], row: usize, (column, columns): (usize, usize), make: impl FnOnce() -> T) -> &T {
    rows[row].get_or_init(|| empty(columns))[column].get_or_init(make)
}

impl MetricHandles {
    pub(super) fn new(names: &Names) -> MetricHandles {
        let (services, accounts) = (names.services.len() + 1, names.accounts.len() + 1);
        let operations = names.operations.len() + 1;
        MetricHandles {
            operations,
            requests: empty(services * operations),
            durations: empty(operations),
            service_durations: empty(services),
            in_flight: empty(services),
            upstream: empty(accounts * operations),
            cache: empty(operations),
            saved: empty(operations),
            retries: empty(accounts),
        }
    }

    pub(super) fn count(&self, metrics: &Metrics, names: &Names, of: RequestLabels) {
        let row = row(of.service, names.services.len()) * self.operations + row(of.operation, names.operations.len());
        slot(&self.requests, row, (of.outcome as usize, OUTCOMES), || {
            metrics.requests(names.service(of.service), names.operation(of.operation), of.outcome.as_str())
        })
        .inc();
    }

    pub(super) fn observe(
        &self,
        metrics: &Metrics,
        names: &Names,
        of: RequestLabels,
        (total, own): (Duration, Duration),
    ) {
        let operation = row(of.operation, names.operations.len());
        let (duration, overhead) = slot(&self.durations, operation, (of.outcome as usize, OUTCOMES), || {
            metrics.durations(names.operation(of.operation), of.outcome.as_str())
        });
        duration.observe(total.as_secs_f64());
        overhead.observe(own.as_secs_f64());
        self.service_durations[row(of.service, names.services.len())]
            .get_or_init(|| metrics.service_duration(names.service(of.service)))
            .observe(total.as_secs_f64());
    }

    pub(super) fn cache(&self, metrics: &Metrics, names: &Names, operation: Option<usize>, result: CacheResult) {
        let row = row(operation, names.operations.len());
        slot(&self.cache, row, (result as usize, CacheResult::ALL.len()), || {
            metrics.cache_requests(names.operation(operation), result.as_str())
        })
        .inc();
    }

    pub(super) fn saved(&self, metrics: &Metrics, names: &Names, operation: Option<usize>) {
        self.saved[row(operation, names.operations.len())]
            .get_or_init(|| metrics.calls_saved(names.operation(operation)))
            .inc();
    }

    pub(super) fn in_flight(&self, metrics: &Metrics, names: &Names, service: usize) -> &IntGauge {
        self.in_flight[row(Some(service), names.services.len())]
            .get_or_init(|| metrics.in_flight(names.service(Some(service))))
    }

    pub(super) fn upstream(&self, metrics: &Metrics, names: &Names, attempt: super::CountedAttempt) {
        let account = row(Some(attempt.account), names.accounts.len());
        let operation = row(attempt.operation, names.operations.len());
        let (column, label) = status_label(attempt.status);
        let columns = STATUSES.len() + OTHERS.len();
        let (count, duration) = slot(&self.upstream, account * self.operations + operation, (column, columns), || {
            metrics.upstream(names.account(Some(attempt.account)), names.operation(attempt.operation), label)
        });
        count.inc();
        duration.observe(attempt.took.as_secs_f64());
    }

    pub(super) fn retried(&self, metrics: &Metrics, names: &Names, account: usize) {
        self.retries[row(Some(account), names.accounts.len())]
            .get_or_init(|| metrics.retries(names.account(Some(account))))
            .inc();
    }
}

/// Column and label of a status; `None` is `failed`.
fn status_label(status: Option<u16>) -> (usize, &'static str) {
    let Some(status) = status else { return (STATUSES.len(), OTHERS[0]) };
    match STATUSES.binary_search_by_key(&status, |(code, _)| *code) {
        Ok(at) => (at, STATUSES[at].1),
        Err(_) => {
            // What is beyond 5xx is an error too.
            let hundred = usize::from(status / 100).clamp(1, 5);
            (STATUSES.len() + hundred, OTHERS[hundred])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_label_from_the_closed_list() {
        assert!(STATUSES.is_sorted_by_key(|(code, _)| *code));
        for status in 0..=u16::MAX {
            let (column, label) = status_label(Some(status));
            assert!(column < STATUSES.len() + OTHERS.len());
            assert!(label.len() == 3 && (label == status.to_string() || label.ends_with("xx")), "{status}: {label}");
        }
        assert_eq!(status_label(None).1, "failed");
    }

    #[test]
    fn outcomes_and_results_index_their_row() {
        for (at, outcome) in Outcome::VARIANTS.iter().copied().enumerate() {
            assert_eq!(outcome as usize, at);
        }
        for (at, result) in CacheResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, at);
        }
    }
}
