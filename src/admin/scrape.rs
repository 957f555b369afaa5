//! `/metrics`: reads the gauges whose values live in other rooms, and encodes all families.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    body::Bytes,
    extract::State,
    http::{
        HeaderMap,
        header::{CONTENT_TYPE, VARY},
    },
    response::IntoResponse,
};
use jiff::Timestamp;
use strum::VariantArray as _;

use super::{
    AdminState, degraded,
    error::{AdminError, off_thread},
};
use crate::{
    accept::weight,
    admission::{LimitWindow, UsageByWindow, WindowUsage},
    gateway::{Gateway, Outlook},
    record::{BreakerStateInfo, KeyInfo, OPENMETRICS_CONTENT_TYPE, Scrape, TEXT_CONTENT_TYPE},
    snapshot::{Account, Snapshot},
    upstream::breaker::{self, Breaker},
};

/// The commit that the program was built from.
pub(super) const REVISION: &str = match option_env!("FASTRAC_GATEWAY_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Prometheus text, or OpenMetrics if the client prefers it.
pub(super) async fn metrics(
    State(state): State<Arc<AdminState>>,
    headers: HeaderMap,
) -> Result<impl IntoResponse + use<>, AdminError> {
    let openmetrics = prefers_openmetrics(&headers);
    let text = state.texts.get(&state, openmetrics).await?;
    let kind = if openmetrics { OPENMETRICS_CONTENT_TYPE } else { TEXT_CONTENT_TYPE };
    Ok(([(CONTENT_TYPE, kind), (VARY, "accept")], text))
}

/// The texts that were made last, so that many readers share one.
///
/// A text takes 71 ms of CPU with 10,000 services. A reader gets a new one as long as texts have taken less than a
/// [`SHARE`]th of the time so far, apart from an [`ALLOWANCE`]; beyond that, the last one is kept for [`KEPT`]. One is made
/// at a time, off the control thread, and all who waited while it was made share it.
#[derive(Default)]
pub(super) struct KeptTexts(tokio::sync::Mutex<KeptText>);

/// How long a text is kept.
const KEPT: Duration = Duration::from_secs(1);
/// Part of the time that making texts may take.
const SHARE: u32 = 10;
/// How long making texts may take before they are kept.
const ALLOWANCE: Duration = Duration::from_millis(500);

struct KeptText {
    /// Prometheus text and OpenMetrics: when it was begun, and the text.
    texts: [Option<(Instant, Bytes)>; 2],
    /// How long texts have taken to make, less their share of the time since.
    spent: Duration,
    since: Instant,
}

impl Default for KeptText {
    fn default() -> Self {
        KeptText { texts: [None, None], spent: Duration::ZERO, since: Instant::now() }
    }
}

impl KeptTexts {
    async fn get(&self, state: &Arc<AdminState>, openmetrics: bool) -> Result<Bytes, AdminError> {
        let arrived = Instant::now();
        let mut kept = self.0.lock().await;
        let now = Instant::now();
        kept.spent = kept.spent.saturating_sub((now - kept.since) / SHARE);
        kept.since = now;
        if let Some((begun, text)) = &kept.texts[usize::from(openmetrics)]
            && (*begun >= arrived || kept.spent > ALLOWANCE && now - *begun < KEPT)
        {
            return Ok(text.clone());
        }
        let state = state.clone();
        // Walks thousands of series and cache entries.
        let text = Bytes::from(off_thread(move || text(&state, openmetrics)).await?);
        kept.spent += now.elapsed();
        kept.texts[usize::from(openmetrics)] = Some((now, text.clone()));
        Ok(text)
    }
}

fn text(state: &AdminState, openmetrics: bool) -> String {
    let gateway = &state.admin.gateway;
    let (snapshot, in_force) = (gateway.current.load_full(), gateway.in_force.load_full());
    let scrape = gateway.live.metrics.scrape();
    admission(&scrape, &snapshot);
    outlooks(&scrape, gateway, &snapshot);
    for account in &snapshot.accounts {
        keys(&scrape, account);
        account
            .address
            .breakers
            .each()
            .for_each(|breaker| scrape.breaker(&account.name, breaker.class().as_str(), states(breaker)));
        let unknown = gateway.live.orders.unknown_count(&account.name);
        scrape.orders_unknown(&account.name, usize::try_from(unknown).unwrap_or(usize::MAX));
    }
    for (operation, held) in snapshot.cache.usage() {
        scrape.cache(&operation, held.entries, held.bytes);
    }
    scrape.memory(snapshot.memory.used(), snapshot.memory.limit());
    let tls = &gateway.live.tls;
    // A file that the configuration names is part of it: an unusable certificate is a failed reload too.
    let loaded = gateway.reloaded_well() && tls.each().all(|(_, tls)| tls.fault().is_none());
    scrape.config(&in_force.config.hash, loaded, in_force.since);
    scrape.degraded(degraded::list(&state.admin).into_iter().map(|one| one.reason.as_str()));
    scrape.build(env!("CARGO_PKG_VERSION"), REVISION);
    for (listener, tls) in tls.each() {
        if let Some(ends) = tls.expires().and_then(|ends| SystemTime::try_from(ends).ok()) {
            scrape.certificate(listener, ends);
        }
    }
    if openmetrics { scrape.openmetrics() } else { scrape.text() }
}

fn admission(scrape: &Scrape<'_>, snapshot: &Snapshot) {
    for (service, quota) in snapshot.catalog.services.iter().zip(&snapshot.quotas) {
        for (name, window) in windows(quota.usage()) {
            scrape.quota(&service.name, name, window.limit as f64, used(window));
        }
        for window in [LimitWindow::Second, LimitWindow::Day] {
            scrape.would_refuse(&service.name, window.as_str(), quota.would_refuse(window));
        }
        for credential in &service.config.credentials {
            if let Some(last_used) = snapshot.callers.last_used(&credential.access_key) {
                scrape.credential(&service.name, &credential.access_key, last_used);
            }
        }
    }
    for account in &snapshot.accounts {
        let usage = account.budget.usage();
        for (name, window) in windows(usage.windows).chain([("in_flight", usage.in_flight)]) {
            scrape.budget(&account.name, name, window.limit as f64, used(window));
        }
        // A waiter waits for tokens or for an in-flight permit; the queue does not distinguish them, and
        // tokens are the usual case.
        scrape.budget_waiting(&account.name, "second", usage.waiting);
        if let Some(rate) = usage.learned {
            scrape.budget_learned_limit(&account.name, rate);
        }
    }
}

/// Warnings and forecasts of limits of a day.
fn outlooks(scrape: &Scrape<'_>, gateway: &Gateway, snapshot: &Snapshot) {
    let time = |at: Option<Timestamp>| at.and_then(|at| SystemTime::try_from(at).ok());
    for (service, quota) in snapshot.catalog.services.iter().zip(&snapshot.quotas) {
        let day = quota.day_use();
        if day.limit.is_some() {
            let Outlook { warning, runs_out_at } = gateway.quota_outlook(&service.name, day);
            scrape.quota_outlook(&service.name, warning, time(runs_out_at));
        }
    }
    for account in &snapshot.accounts {
        let day = account.budget.day_use();
        if day.limit.is_some() {
            let Outlook { warning, runs_out_at } = gateway.budget_outlook(&account.name, day);
            scrape.budget_outlook(&account.name, warning, time(runs_out_at));
        }
    }
}

fn states(breaker: &Breaker) -> impl Iterator<Item = BreakerStateInfo> {
    let current = breaker.state();
    breaker::State::VARIANTS.iter().map(move |state| BreakerStateInfo {
        state: state.as_str(),
        current: *state == current,
        entered: breaker.transitions(*state),
    })
}

fn windows(usage: UsageByWindow) -> impl Iterator<Item = (&'static str, WindowUsage)> {
    let named = [("second", usage.second), ("day", usage.day)];
    named.into_iter().filter_map(|(name, window)| Some((name, window?)))
}

fn used(window: WindowUsage) -> f64 {
    window.used() as f64
}

fn keys(scrape: &Scrape<'_>, account: &Account) {
    let status = account.keys.status();
    for pair in &status.pairs {
        let Ok(loaded) = SystemTime::try_from(pair.loaded_at) else { continue };
        scrape.key(&account.name, KeyInfo { version: pair.version.as_str(), state: pair.role.as_str(), loaded });
    }
    let last_success = status.source.last_success.and_then(|at| SystemTime::try_from(at).ok());
    scrape.key_source(&account.name, status.source.up, last_success);
}

/// Whether OpenMetrics is accepted with at least the weight of the text format.
fn prefers_openmetrics(headers: &HeaderMap) -> bool {
    let (openmetrics, text) = (weight(headers, "application/openmetrics-text"), weight(headers, "text/plain"));
    openmetrics > 0.0 && openmetrics >= text
}

#[cfg(test)]
mod tests {
    use axum::http::header::ACCEPT;

    use super::*;

    #[test]
    fn openmetrics_only_if_preferred() {
        let prefers = |accept: &str| prefers_openmetrics(&[(ACCEPT, accept.parse().unwrap())].into_iter().collect());
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            // Prometheus 3
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,*/*;q=0.1",
        ] {
            assert!(prefers(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "application/openmetrics-text;q=0",
            "text/plain, application/openmetrics-text;q=0.5",
        ] {
            assert!(!prefers(accept), "{accept}");
        }
    }
}
