//! A service's quota: requests per second and per calendar day.
//!
//! Always holds: a refused request takes nothing, and a reload keeps what was used. It fails with
//! [`Exceeded`].

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use jiff::tz::TimeZone;
use tokio::time::Instant;

use super::{
    bucket::{InsufficientTokens, TokenBucket},
    calendar_day::Midnight,
    claim::Claim,
    day::{CounterContext, DayCounter, DayShortage, Unrecorded},
    header,
    usage::UsageByWindow,
};
use crate::{config, retry_after::whole_seconds};

/// A service's quota. A missing limit means unlimited; the day is counted all the same.
#[derive(Debug)]
pub struct Quota {
    second: Option<Arc<TokenBucket>>,
    day: Arc<DayCounter>,
    policy: Option<HeaderValue>,
}

/// A service's quota is used up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Exceeded {
    /// No token of the second.
    #[error("the service's per-second quota is used up")]
    Second {
        /// Whole seconds, at least 1.
        retry_after: Duration,
    },
    /// No units left today.
    #[error("the service's daily quota is used up")]
    Day {
        /// Whole seconds, at least 1.
        retry_after: Duration,
        /// Start of the next day in the account's zone.
        resets_at: Midnight,
    },
    /// There may be units left today, but taking them cannot be recorded.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
}

impl Quota {
    /// An unused quota. The day starts at midnight of `zone`, the account's time zone.
    pub fn new(quota: &config::QuotaConfig, zone: &TimeZone, context: impl Into<CounterContext>) -> Self {
        let day = DayCounter::new(quota.day, zone, context);
        Self::of(quota.second.map(|rate| Arc::new(TokenBucket::full(rate))), day)
    }

    /// This quota under changed limits. The day keeps its count and its zone; an unchanged rate
    /// keeps its bucket, a changed one starts with an empty bucket.
    pub fn reloaded(&self, quota: &config::QuotaConfig) -> Self {
        let kept = self.second.clone().filter(|bucket| Some(bucket.rate()) == quota.second);
        self.day.set_limit(quota.day);
        Self::of(kept.or_else(|| quota.second.map(|rate| Arc::new(TokenBucket::empty(rate)))), self.day.clone())
    }

    /// Changes the account's time zone; the day keeps its count.
    pub fn set_zone(&self, zone: &TimeZone) {
        self.day.set_zone(zone);
    }

    fn of(second: Option<Arc<TokenBucket>>, day: Arc<DayCounter>) -> Self {
        let mut quota = Self { second, day, policy: None };
        quota.policy = header::policy(&quota.usage());
        quota
    }

    /// Takes one request of this second into the claim.
    ///
    /// # Errors
    /// [`Exceeded`] when the bucket is empty; nothing is taken then.
    pub fn claim_second(&self, claim: &mut Claim) -> Result<(), Exceeded> {
        let Some(second) = &self.second else { return Ok(()) };
        let taken = second.take(1).map_err(|insufficient| {
            let wait = if let InsufficientTokens::Until(wait) = insufficient { wait } else { Duration::ZERO };
            Exceeded::Second { retry_after: whole_seconds(wait) }
        });
        claim.second = Some(taken?);
        Ok(())
    }

    /// Takes one request of today into the claim. Waits for the ledger, at most until `until` and not longer than a second.
    ///
    /// # Errors
    /// [`Exceeded`] when none is left.
    pub async fn claim_day(&self, claim: &mut Claim, until: Instant) -> Result<(), Exceeded> {
        claim.day = Some(self.day.reserve_by(1, until).await.map_err(|shortage| match shortage {
            DayShortage::NotLeased => Exceeded::Unrecorded(Unrecorded),
            DayShortage::Exhausted => Exceeded::Day {
                retry_after: Duration::from_secs(self.day.today().ends_in),
                resets_at: self.day.ends_at(),
            },
        })?);
        Ok(())
    }

    /// The count of the day.
    pub fn day(&self) -> &Arc<DayCounter> {
        &self.day
    }

    /// What is left of the windows that have a limit.
    pub fn usage(&self) -> UsageByWindow {
        UsageByWindow::of(self.second.as_deref(), &self.day)
    }

    /// Requests used today, reserved ones included; counted even without a limit.
    pub fn used_today(&self) -> u64 {
        self.day.today().used
    }

    /// `RateLimit-Policy`; `None` without a limit.
    pub fn policy_header(&self) -> Option<&HeaderValue> {
        self.policy.as_ref()
    }

    /// `RateLimit` as of now; `None` without a limit.
    pub fn limit_header(&self) -> Option<HeaderValue> {
        header::left(&self.usage())
    }
}
