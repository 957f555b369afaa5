//! The tables of the clock, of orders and of webhooks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    Options,
    clock::{Clock, Pace, STEPPED_START},
    orders::{branches::BranchShares, steps::InitialStatus},
    webhook::{self, AllowedHosts, PayloadTemplate, Rule},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClockTable {
    #[serde(default)]
    pace: PaceKey,
    factor: Option<f64>,
    start: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum PaceKey {
    #[default]
    Real,
    Accelerated,
    Stepped,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowTable {
    begin: Option<InitialStatus>,
    kept: Option<usize>,
    express: Option<BTreeMap<String, f64>>,
    instant: Option<BTreeMap<String, f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookTable {
    url: Option<String>,
    secret: Option<String>,
    hosts: Option<AllowedHosts>,
    timeout: Option<String>,
    retries: Option<Vec<String>>,
    payload: Option<String>,
    kept: Option<usize>,
    #[serde(default)]
    rules: Vec<Rule>,
}

impl ClockTable {
    pub(super) fn clock(&self) -> Result<Clock, String> {
        let start = self.start.as_deref().map(instant).transpose()?;
        let pace = match (self.pace, self.factor) {
            (PaceKey::Accelerated, Some(factor)) => {
                Pace::Accelerated(self::factor(factor).map_err(|e| format!("clock.{e}"))?)
            }
            (PaceKey::Accelerated, None) => return Err("clock.factor: required for pace = \"accelerated\"".to_owned()),
            (_, Some(_)) => return Err("clock.factor: for pace = \"accelerated\" only".to_owned()),
            (PaceKey::Stepped, None) => Pace::Stepped,
            (PaceKey::Real, None) => Pace::Real,
        };
        Ok(clock(pace, start))
    }
}

/// A clock of this pace. By default a stepped one starts at a fixed time, the others now.
pub(crate) fn clock(pace: Pace, start: Option<i64>) -> Clock {
    let usual = if pace == Pace::Stepped { STEPPED_START } else { Clock::default().now() };
    Clock::starting(pace, start.unwrap_or(usual))
}

/// Checks the factor of an accelerated clock.
///
/// # Errors
///
/// If it is not above 0 and at most 1,000,000.
pub(crate) fn factor(factor: f64) -> Result<f64, String> {
    if factor > 0.0 && factor <= 1e6 { Ok(factor) } else { Err("factor: above 0, at most 1000000".to_owned()) }
}

fn instant(text: &str) -> Result<i64, String> {
    let at: Timestamp = text.parse().map_err(|_| "clock.start: a time such as 2026-01-02T03:04:05Z".to_owned())?;
    Ok(at.as_millisecond())
}

fn millis(name: &str, text: &str) -> Result<u64, String> {
    let time: Duration =
        humantime::parse_duration(text).map_err(|_| format!("{name}: a duration such as \"90s\" or \"2h 30m\""))?;
    Ok(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl FlowTable {
    pub(super) fn apply(&self, options: &mut Options) -> Result<(), String> {
        let plan = &mut options.switches.flow;
        plan.begin = self.begin.unwrap_or(plan.begin);
        plan.kept = self.kept.unwrap_or(plan.kept);
        if plan.kept == 0 {
            return Err("flow.kept: at least 1".to_owned());
        }
        if let Some(shares) = &self.express {
            plan.express = BranchShares::of(shares, false).map_err(|error| format!("flow.express: {error}"))?;
        }
        if let Some(shares) = &self.instant {
            plan.instant = BranchShares::of(shares, true).map_err(|error| format!("flow.instant: {error}"))?;
        }
        Ok(())
    }
}

impl WebhookTable {
    pub(super) fn apply(self, options: &mut Options) -> Result<(), String> {
        let mut settings = webhook::WebhookSettings::clone(&options.switches.webhook);
        if let Some(url) = self.url {
            if !webhook::address(&url) {
                return Err("webhook.url: must be an http address".to_owned());
            }
            settings.url = Some(url);
        }
        if self.secret.as_ref().is_some_and(|secret| secret.is_empty()) {
            return Err("webhook.secret: must not be empty; leave it out for unsigned webhooks".to_owned());
        }
        settings.secret = self.secret.map(Zeroizing::new).or(settings.secret);
        settings.hosts = self.hosts.unwrap_or(settings.hosts);
        settings.kept = self.kept.unwrap_or(settings.kept);
        if settings.kept == 0 {
            return Err("webhook.kept: at least 1".to_owned());
        }
        if let Some(text) = self.timeout {
            settings.timeout_ms = millis("webhook.timeout", &text)?;
        }
        if let Some(pauses) = self.retries {
            settings.retries_ms =
                pauses.iter().map(|text| millis("webhook.retries", text)).collect::<Result<_, _>>()?;
        }
        if let Some(text) = self.payload {
            settings.payload = PayloadTemplate::of(&text).map_err(|error| format!("webhook.payload: {error}"))?;
        }
        for (position, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|error| format!("webhook.rules[{position}].{error}"))?;
        }
        settings.rules.extend(self.rules);
        options.switches.webhook = Arc::new(settings);
        Ok(())
    }
}
