//! A service's quota: requests per second and per calendar day.
//!
//! Always holds: a refused request takes nothing, and a reload keeps what was used. It fails with
//! [`Exceeded`].

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use jiff::tz::TimeZone;

use super::{
    bucket::{InsufficientTokens, TokenBucket},
    claim::Claim,
    day::{DayCounter, Midnight},
    header,
    usage::UsageByWindow,
    wall_clock::WallClock,
};
use crate::{config, retry_after::whole_seconds};

/// A service's quota. A missing limit means unlimited; the day is counted all the same.
#[derive(Debug)]
pub struct Quota {
    second: Option<Arc<TokenBucket>>,
    day: Arc<DayCounter>,
    policy: Option<HeaderValue>,
}

/// The window of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitWindow {
    /// Per second: a token bucket.
    Second,
    /// Per calendar day.
    Day,
}

/// A service's quota is used up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the service's quota is used up")]
pub struct Exceeded {
    /// The window that is used up.
    pub window: LimitWindow,
    /// Whole seconds, at least 1.
    pub retry_after: Duration,
    /// Start of the next day in the account's zone; only for [`LimitWindow::Day`].
    pub resets_at: Option<Midnight>,
}

impl Quota {
    /// An unused quota. The day starts at midnight of `zone`, the account's time zone.
    pub fn new(quota: &config::QuotaConfig, zone: &TimeZone, clock: WallClock) -> Self {
        let day = Arc::new(DayCounter::new(quota.day, zone, clock));
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
            Exceeded { window: LimitWindow::Second, retry_after: whole_seconds(wait), resets_at: None }
        });
        claim.second = Some(taken?);
        Ok(())
    }

    /// Takes one request of today into the claim.
    ///
    /// # Errors
    /// [`Exceeded`] when none is left.
    pub fn claim_day(&self, claim: &mut Claim) -> Result<(), Exceeded> {
        let taken = self.day.reserve(1).map_err(|_| Exceeded {
            window: LimitWindow::Day,
            retry_after: Duration::from_secs(self.day.today().ends_in),
            resets_at: Some(self.day.ends_at()),
        });
        claim.day = Some(taken?);
        Ok(())
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
