//! A service's quota: requests per second and per calendar day.
//!
//! Always holds: a refused request takes nothing; a reload keeps what was used; an override replaces the configured limits
//! until its instant and not longer. With `enforce = false` nothing is refused but by an override that blocks: what would
//! have been refused is counted, and noted in the claim. It fails with [`Exceeded`].

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use http::HeaderValue;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    bucket::TokenBucket,
    bucket_start::BucketMark,
    calendar_day::LocalTime,
    claim::{Claim, ClaimedDay},
    day::{DayCounter, DayShortage, Unrecorded},
    day_share::DayView,
    header, learned,
    lease::CounterContext,
    outlook::DayUse,
    overridden::{OverrideNotice, QuotaOverride},
    tokens::InsufficientTokens,
    usage::{LimitWindow, TokensLeft, UsageByWindow, WindowUsage},
    wall_clock::WallClock,
};
use crate::{
    config::{self, Rate},
    retry_after::whole_seconds,
};

/// A service's quota. A missing limit means unlimited; the day is counted all the same.
#[derive(Debug)]
pub struct Quota {
    day: Arc<DayCounter>,
    clock: WallClock,
    in_force: ArcSwap<LimitsInForce>,
    /// Locked while the limits change.
    settings: Mutex<QuotaSettings>,
    /// Requests that were served although they would have been refused, since the start; by [`LimitWindow`].
    would_refuse: [AtomicU64; 2],
}

/// What the limits are made of.
#[derive(Debug)]
struct QuotaSettings {
    configured: config::QuotaConfig,
    overridden: Option<QuotaOverride>,
    zone: TimeZone,
}

#[derive(Debug)]
struct LimitsInForce {
    second: Option<SecondLimit>,
    day: Option<u64>,
    /// Of the day, once no override is in force.
    configured_day: Option<u64>,
    enforce: bool,
    /// In force.
    overridden: Option<QuotaOverride>,
    /// In force, or over: then it is in force again if the clock turns out to have been ahead.
    set: Option<QuotaOverride>,
    /// `RateLimit-Policy`.
    policy: Option<HeaderValue>,
}

#[derive(Clone, Debug)]
struct SecondLimit {
    bucket: Arc<TokenBucket>,
    rate: Rate,
}

/// A service's quota is used up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Exceeded {
    /// No token of the second.
    #[error("the service's per-second quota is used up")]
    Second {
        /// Whole seconds, at least 1.
        retry_after: Duration,
        /// The limit is not the configured one.
        notice: Option<OverrideNotice>,
    },
    /// No units left today.
    #[error("the service's daily quota is used up")]
    Day {
        /// Whole seconds, at least 1.
        retry_after: Duration,
        /// When there are units again, in the account's zone: at midnight, or when an override ends.
        resets_at: LocalTime,
        /// The limit is not the configured one.
        notice: Option<OverrideNotice>,
    },
    /// Everything is refused.
    #[error("the service is blocked")]
    Blocked {
        /// Whole seconds, at least 1.
        retry_after: Duration,
        /// When something is admitted again, in the account's zone: at the end of the block, or at the end of the day.
        frees_at: LocalTime,
        notice: OverrideNotice,
    },
    /// There may be units left today, but taking them cannot be recorded.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
}

impl Exceeded {
    /// How long to wait before the next try.
    pub fn retry_after(&self) -> Duration {
        match self {
            Exceeded::Second { retry_after, .. }
            | Exceeded::Day { retry_after, .. }
            | Exceeded::Blocked { retry_after, .. } => *retry_after,
            Exceeded::Unrecorded(_) => Duration::ZERO,
        }
    }
}

impl Quota {
    /// An unused quota. The day starts at midnight of `zone`, the account's time zone.
    pub fn new(quota: &config::QuotaConfig, zone: &TimeZone, context: impl Into<CounterContext>) -> Self {
        let context = context.into();
        let (clock, begins) = (context.clock, context.bucket());
        let day = DayCounter::new(quota.day.filter(|_| quota.enforce), zone, context);
        let second = |rate| SecondLimit { bucket: Arc::new(TokenBucket::new(rate, begins)), rate };
        let settings = QuotaSettings { configured: quota.clone(), overridden: None, zone: zone.clone() };
        let in_force = ArcSwap::from_pointee(LimitsInForce {
            second: quota.second.map(second),
            day: quota.day,
            configured_day: quota.day,
            enforce: quota.enforce,
            overridden: None,
            set: None,
            policy: None,
        });
        let quota = Self { day, clock, in_force, settings: Mutex::new(settings), would_refuse: Default::default() };
        quota.change(|_| {});
        quota
    }

    /// Changes the configured limits. The day keeps its count, and the second its tokens as far as the new burst allows. An
    /// override stays in force.
    pub fn reconfigure(&self, quota: &config::QuotaConfig) {
        if self.settings.lock().configured == *quota {
            return;
        }
        self.change(|settings| settings.configured = quota.clone());
    }

    /// Before a change of the zone; see [`DayCounter::prepare_zone`].
    pub fn prepare_zone(&self, zone: &TimeZone) -> bool {
        self.day.prepare_zone(zone)
    }

    /// Changes the account's time zone; the day keeps its count.
    pub fn set_zone(&self, zone: &TimeZone) {
        self.day.set_zone(zone);
        self.settings.lock().zone = zone.clone();
    }

    /// Puts an override in force, or ends it.
    pub fn set_override(&self, overridden: Option<QuotaOverride>) {
        self.change(|settings| settings.overridden = overridden);
    }

    fn change(&self, change: impl FnOnce(&mut QuotaSettings)) {
        let mut settings = self.settings.lock();
        change(&mut settings);
        let set = settings.overridden.clone();
        let overridden = set.clone().filter(|set| !set.is_over(self.clock.settled_millis()));
        let limits = overridden.as_ref().map(|set| set.applied_to(&settings.configured));
        let limits = limits.as_ref().unwrap_or(&settings.configured);
        let second = match (self.in_force.load().second.clone(), limits.second) {
            (Some(SecondLimit { bucket, .. }), Some(rate)) => {
                bucket.set_rate(rate);
                Some(SecondLimit { bucket, rate })
            }
            (_, rate) => rate.map(|rate| SecondLimit { bucket: Arc::new(TokenBucket::empty(rate)), rate }),
        };
        let limit = limits.day.filter(|_| limits.enforce);
        if self.day.limit() != limit {
            self.day.set_limit(limit);
        }
        let mut in_force = LimitsInForce {
            second,
            day: limits.day,
            configured_day: settings.configured.day,
            enforce: limits.enforce,
            overridden,
            set,
            policy: None,
        };
        in_force.policy = header::policy(&self.usage_under(&in_force, Instant::now()));
        self.in_force.store(Arc::new(in_force));
    }

    /// The limits in force at this instant.
    fn limits(&self) -> Guard<Arc<LimitsInForce>> {
        let limits = self.in_force.load();
        let now = || self.clock.settled_millis();
        if limits.set.as_ref().is_some_and(|set| set.is_over(now()) == limits.overridden.is_some()) {
            self.change(|_| {});
            return self.in_force.load();
        }
        limits
    }

    /// Takes one request of this second into the claim. `now`: the present time.
    ///
    /// # Errors
    /// [`Exceeded`] when the bucket is empty, or an override blocks the service; nothing is taken then.
    pub fn claim_second(&self, claim: &mut Claim, now: Instant) -> Result<(), Exceeded> {
        let limits = self.limits();
        self.check_block_of(&limits)?;
        let Some(second) = &limits.second else { return Ok(()) };
        match second.bucket.take(1, now) {
            Ok(taken) => claim.second = Some(taken),
            Err(_) if !limits.enforce => self.note(LimitWindow::Second, claim),
            Err(insufficient) => {
                let wait = if let InsufficientTokens::Until(wait) = insufficient { wait } else { Duration::ZERO };
                let notice = limits.overridden.as_ref().map(|set| self.notice(set));
                return Err(Exceeded::Second { retry_after: whole_seconds(wait), notice });
            }
        }
        Ok(())
    }

    /// Takes one request of today into the claim, unless it has one already. Waits for the ledger, at most until `until`.
    ///
    /// # Errors
    /// [`Exceeded`] when none is left.
    pub async fn claim_day(&self, claim: &mut Claim, until: Instant) -> Result<(), Exceeded> {
        if matches!(claim.day, ClaimedDay::Taken(_)) {
            return Ok(());
        }
        let taken = self.day.reserve_by(1, until).await.map_err(|shortage| match shortage {
            DayShortage::NotLeased | DayShortage::Stalled => Exceeded::Unrecorded(Unrecorded),
            DayShortage::Exhausted => self.day_exceeded(),
        })?;
        let is_enforced = taken.is_limited();
        claim.day = ClaimedDay::Taken(taken);
        if !is_enforced && self.limits().day.is_some_and(|limit| self.day.today().used > limit) {
            self.note(LimitWindow::Day, claim);
        }
        Ok(())
    }

    /// Has one request of today taken together with the account's budget, unless the claim has one already.
    ///
    /// # Errors
    /// [`Exceeded`] when none is left at present.
    pub fn owe_day(&self, claim: &mut Claim) -> Result<(), Exceeded> {
        if matches!(claim.day, ClaimedDay::Taken(_)) {
            return Ok(());
        }
        let limits = self.limits();
        if let Some(view) = self.used_up(&limits) {
            if limits.enforce {
                return Err(self.day_refusal(&limits, &view));
            }
            self.note(LimitWindow::Day, claim);
        }
        claim.day = ClaimedDay::Due(self.day.clone());
        Ok(())
    }

    /// Takes nothing.
    ///
    /// # Errors
    /// [`Exceeded`] if no request is left today.
    pub fn check_day(&self) -> Result<(), Exceeded> {
        let limits = self.limits();
        let used_up = self.used_up(&limits).filter(|_| limits.enforce);
        used_up.map_or(Ok(()), |view| Err(self.day_refusal(&limits, &view)))
    }

    /// The day, if no request of its limit is left.
    fn used_up(&self, limits: &LimitsInForce) -> Option<DayView> {
        limits.day.and_then(|limit| Some(self.day.view()).filter(|view| view.used >= limit))
    }

    /// The refusal of a request that found none left today.
    pub fn day_exceeded(&self) -> Exceeded {
        self.day_refusal(&self.limits(), &self.day.view())
    }

    fn day_refusal(&self, limits: &LimitsInForce, view: &DayView) -> Exceeded {
        // What was short may have come back, or midnight may have passed.
        let is_left = limits.day.is_none_or(|limit| view.used < limit);
        let frees_at = if is_left { view.now } else { self.day_renewed_at(limits, view) };
        Exceeded::Day {
            retry_after: whole_seconds(millis_until(frees_at, view)),
            resets_at: self.day.local(frees_at),
            notice: limits.overridden.as_ref().map(|set| self.notice(set)),
        }
    }

    /// When the day has more units than now: at midnight, or before if an override ends before and the configured limit
    /// leaves more; never while an override blocks. Milliseconds since 1970.
    fn day_renewed_at(&self, limits: &LimitsInForce, view: &DayView) -> i64 {
        let Some(set) = &limits.overridden else { return view.ends };
        // On the clock of the day.
        let until = view.now.saturating_add_unsigned(set.millis_left(self.clock.settled_millis()));
        let left = |limit: Option<u64>| limit.unwrap_or(u64::MAX).saturating_sub(view.used);
        let left_now = if set.block { 0 } else { left(limits.day) };
        let renews = left(limits.configured_day) > left_now || (set.block && !limits.enforce);
        match (set.block, renews) {
            (true, true) => until,
            (true, false) => until.max(view.ends),
            (false, true) => until.min(view.ends),
            (false, false) => view.ends,
        }
    }

    /// For [`super::DayLedger::bucket`] of the next process.
    pub fn bucket_mark(&self) -> BucketMark {
        let tokens = self.limits().second.as_ref().map_or(0, |second| second.bucket.left(Instant::now()));
        BucketMark { tokens, rate_part: learned::ALL, paused_for: Duration::ZERO }
    }

    /// The count of the day.
    pub fn day(&self) -> &Arc<DayCounter> {
        &self.day
    }

    /// Takes nothing.
    ///
    /// # Errors
    /// [`Exceeded`] if an override blocks the service, whatever `enforce` says.
    pub fn check_block(&self) -> Result<(), Exceeded> {
        self.check_block_of(&self.limits())
    }

    fn check_block_of(&self, limits: &LimitsInForce) -> Result<(), Exceeded> {
        let Some(set) = limits.overridden.as_ref().filter(|set| set.block) else { return Ok(()) };
        let view = self.day.view();
        let frees_at = self.day_renewed_at(limits, &view);
        let retry_after = whole_seconds(millis_until(frees_at, &view));
        Err(Exceeded::Blocked { retry_after, frees_at: self.day.local(frees_at), notice: self.notice(set) })
    }

    /// A request is served that the limit would have refused.
    fn note(&self, window: LimitWindow, claim: &mut Claim) {
        self.would_refuse[window as usize].fetch_add(1, Ordering::Relaxed);
        claim.would_refuse.get_or_insert(window);
    }

    fn notice(&self, set: &QuotaOverride) -> OverrideNotice {
        set.notice(&self.settings.lock().zone)
    }

    /// What is left of the windows that have a limit.
    pub fn usage(&self) -> UsageByWindow {
        self.usage_under(&self.limits(), Instant::now())
    }

    fn usage_under(&self, limits: &LimitsInForce, now: Instant) -> UsageByWindow {
        let is_blocked = limits.overridden.as_ref().is_some_and(|set| set.block);
        let day = |limit: u64| {
            let view = self.day.view();
            let resets_in = whole_seconds(millis_until(self.day_renewed_at(limits, &view), &view)).as_secs();
            WindowUsage::of(limit, limit.saturating_sub(view.used), resets_in)
        };
        if is_blocked {
            return UsageByWindow { second: None, day: Some(day(0)) };
        }
        let second = |SecondLimit { bucket, rate }: &SecondLimit| TokensLeft { rate: *rate, left: bucket.left(now) };
        UsageByWindow { second: limits.second.as_ref().map(second).map(TokensLeft::window), day: limits.day.map(day) }
    }

    /// Requests used today, reserved ones included; counted even without a limit.
    pub fn used_today(&self) -> u64 {
        self.day.today().used
    }

    /// How far the day is used, for warnings and forecasts.
    pub fn day_use(&self) -> DayUse {
        self.day.day_use(self.limits().day)
    }

    /// Whether what is beyond the limits is refused.
    pub fn is_enforced(&self) -> bool {
        self.limits().enforce
    }

    /// Requests of a window that were served although the limit would have refused them, since the start.
    pub fn would_refuse(&self, window: LimitWindow) -> u64 {
        self.would_refuse[window as usize].load(Ordering::Relaxed)
    }

    /// `RateLimit-Policy`, and `RateLimit` as of `now`, the present time; `None` without a limit.
    pub fn headers(&self, now: Instant) -> (Option<HeaderValue>, Option<HeaderValue>) {
        let limits = self.limits();
        (limits.policy.clone(), header::left(&self.usage_under(&limits, now)))
    }
}

/// From the instant of `view`; zero if `at` is over.
fn millis_until(at: i64, view: &DayView) -> Duration {
    Duration::from_millis(u64::try_from(at.saturating_sub(view.now)).unwrap_or(0))
}
