//! Overrides of quotas: limits that an operator has changed for a time.
//!
//! Kept in the state store by service, so they survive reloads and restarts, also of services that are removed and added
//! again. What always holds: one that is set is in force at once, and is reported as done when it is on disk; it ends by
//! itself at its instant of the wall clock, and a momentary jump of that clock ends none: the last one of each service is
//! kept, over or not. A new one replaces the one before as a whole; only another block, or an end, replaces a block. Fails
//! with [`StoreError`] or [`NotOverridden`].

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Gateway;
use crate::{
    admission::{Quota, QuotaOverride},
    clock_jumps::settled_time,
    store::{Store, StoreError, StoreTable, StoredRow, WriteBatch},
};

const OVERRIDES: StoreTable<OverrideRow> = StoreTable::new("quota.overrides");

/// The overrides of all services.
#[derive(Debug)]
pub struct Overrides {
    store: Store,
    known: Mutex<BTreeMap<String, SetOverride>>,
}

/// An override, and who has set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOverride {
    pub limits: QuotaOverride,
    /// Name of the admin token.
    pub by: String,
    pub since: Timestamp,
}

/// Why an override is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOverridden {
    /// The configuration in force has no service of this name.
    UnknownService,
    /// The service is blocked, and the new override would lift that.
    Blocked(Box<SetOverride>),
}

/// An override was set or ended.
#[derive(Debug)]
pub struct ChangedOverride<W> {
    /// The one that was in force until then.
    pub replaced: Option<SetOverride>,
    /// Completes when the change is on disk.
    pub written: W,
}

/// `blocked until 2026-11-25T00:00:00Z, set by ops: loops`; `5 per second, 40 per day until …`.
impl fmt::Display for SetOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QuotaOverride { second, day, block, until, reason } = &self.limits;
        match (block, second, day) {
            (true, ..) => f.write_str("blocked")?,
            (_, Some(second), Some(day)) => write!(f, "{second} per second, {day} per day")?,
            (_, Some(second), None) => write!(f, "{second} per second")?,
            (_, None, day) => write!(f, "{} per day", day.unwrap_or_default())?,
        }
        write!(f, " until {until}, set by {}: {reason}", self.by)
    }
}

impl Overrides {
    /// Loads the last override of each service.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read: a start without them could serve a blocked service.
    pub async fn open(store: Store) -> Result<Arc<Self>, StoreError> {
        // The clock begins.
        Self::now();
        let rows = store.load(&OVERRIDES).await?.rows.into_iter();
        let known = rows.filter_map(|row| String::from_utf8(row.key).ok().zip(row.row.into_override())).collect();
        Ok(Arc::new(Overrides { store, known: Mutex::new(known) }))
    }

    /// The time that decides when overrides end: the wall clock's, without momentary jumps.
    pub fn now() -> Timestamp {
        Timestamp::try_from(settled_time()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The override of a service that is in force now.
    pub fn of(&self, service: &str) -> Option<SetOverride> {
        self.last(service).filter(|set| set.limits.until > Self::now())
    }

    /// The last override of a service, which may be over.
    fn last(&self, service: &str) -> Option<SetOverride> {
        self.known.lock().get(service).cloned()
    }

    /// Gives the last override of a service to its quota. No change can come in between, so the quota has the one that is
    /// known here and on disk.
    pub(super) fn apply(&self, service: &str, quota: &Quota) {
        let known = self.known.lock();
        quota.set_override(known.get(service).map(|set| set.limits.clone()));
    }

    /// Sets or ends the override of a service. [`Overrides::apply`] puts it in force.
    ///
    /// # Errors
    /// [`NotOverridden::Blocked`]; nothing has changed then.
    fn change(
        &self,
        service: &str,
        set: Option<&SetOverride>,
    ) -> Result<ChangedOverride<impl Future<Output = Result<(), StoreError>> + Send + use<>>, NotOverridden> {
        let mut batch = WriteBatch::default();
        // Held until the write is queued: two changes at once are on disk in the order in which they are in memory.
        let mut known = self.known.lock();
        let replaced = known.get(service).filter(|set| set.limits.until > Self::now()).cloned();
        if let Some(block) = replaced.as_ref().filter(|former| former.limits.block)
            && set.is_some_and(|set| !set.limits.block)
        {
            return Err(NotOverridden::Blocked(Box::new(block.clone())));
        }
        match set {
            Some(set) => {
                known.insert(service.to_owned(), set.clone());
                batch.put(&OVERRIDES, service.as_bytes(), &OverrideRow::of(set));
            }
            None => {
                known.remove(service);
                batch.remove(&OVERRIDES, service.as_bytes());
            }
        }
        Ok(ChangedOverride { replaced, written: self.store.write(batch) })
    }
}

impl Gateway {
    /// Puts an override of a service's quota in force, or ends it.
    ///
    /// # Errors
    /// [`NotOverridden`]; nothing has changed then.
    pub fn override_quota(
        &self,
        service: &str,
        set: Option<&SetOverride>,
    ) -> Result<ChangedOverride<impl Future<Output = Result<(), StoreError>> + Send + use<>>, NotOverridden> {
        let snapshot = self.current.load();
        let index = snapshot.catalog.services.iter().position(|known| known.name == service);
        let index = index.ok_or(NotOverridden::UnknownService)?;
        let changed = self.live.overrides.change(service, set)?;
        self.live.overrides.apply(service, &snapshot.quotas[index]);
        Ok(changed)
    }
}

/// Encoded as JSON. Times are in milliseconds since 1970.
#[derive(Serialize, Deserialize)]
struct OverrideRow {
    per_second: Option<u32>,
    per_day: Option<u64>,
    block: bool,
    until: i64,
    reason: String,
    by: String,
    since: i64,
}

impl OverrideRow {
    fn of(set: &SetOverride) -> Self {
        let SetOverride { limits, by, since } = set;
        OverrideRow {
            per_second: limits.second,
            per_day: limits.day,
            block: limits.block,
            until: limits.until.as_millisecond(),
            reason: limits.reason.to_string(),
            by: by.clone(),
            since: since.as_millisecond(),
        }
    }

    fn into_override(self) -> Option<SetOverride> {
        let limits = QuotaOverride {
            second: self.per_second,
            day: self.per_day,
            block: self.block,
            until: Timestamp::from_millisecond(self.until).ok()?,
            reason: self.reason.into(),
        };
        Some(SetOverride { limits, by: self.by, since: Timestamp::from_millisecond(self.since).ok()? })
    }
}

impl StoredRow for OverrideRow {
    fn encode(&self) -> Vec<u8> {
        // A struct of numbers and strings can always be encoded.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, tz::TimeZone};

    use super::*;
    use crate::{admission::WallClock, config::QuotaConfig};

    fn set(until: SignedDuration) -> SetOverride {
        // The store keeps milliseconds.
        let now = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap();
        let limits =
            QuotaOverride { second: Some(5), day: None, block: false, until: now + until, reason: "sale".into() };
        SetOverride { limits, by: "ops".to_owned(), since: now }
    }

    #[tokio::test]
    async fn survives_a_restart_until_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let overrides = Overrides::open(store.clone()).await.unwrap();
        let (long, over) = (set(SignedDuration::from_hours(2)), set(SignedDuration::from_secs(-1)));
        overrides.change("long", Some(&long)).unwrap().written.await.unwrap();
        overrides.change("over", Some(&over)).unwrap().written.await.unwrap();
        overrides.change("ended", Some(&long)).unwrap().written.await.unwrap();
        overrides.change("ended", None).unwrap().written.await.unwrap();
        let (expected, last) = ([Some(long.clone()), None, None], [Some(long), Some(over), None]);
        let services = ["long", "over", "ended"];
        assert_eq!(services.map(|service| overrides.of(service)), expected);
        store.close().await;
        let store = Store::open(folder.path()).unwrap();
        let overrides = Overrides::open(store.clone()).await.unwrap();
        assert_eq!(services.map(|service| overrides.of(service)), expected);
        assert_eq!(services.map(|service| overrides.last(service)), last, "it may have been the clock that was wrong");
    }

    /// Two operators change the override of a service at the same time.
    #[tokio::test]
    async fn what_is_in_force_is_what_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let overrides = Overrides::open(Store::open(folder.path()).unwrap()).await.unwrap();
        let configured = QuotaConfig { second: None, day: Some(1_000), enforce: true };
        let quota = Quota::new(&configured, &TimeZone::UTC, WallClock::system());
        for round in 0..300 {
            let change = |per_day| {
                let mut wanted = set(SignedDuration::from_hours(1));
                wanted.limits.day = Some(per_day);
                drop(overrides.change("a", Some(&wanted)).unwrap());
                overrides.apply("a", &quota);
            };
            std::thread::scope(|scope| {
                (1..=2).for_each(|number| drop(scope.spawn(move || change(2 * round + number))));
            });
            assert_eq!(quota.usage().day.map(|day| day.limit), overrides.of("a").unwrap().limits.day);
        }
    }

    #[tokio::test]
    async fn a_new_one_replaces_the_one_before_but_lifts_no_block() {
        let folder = tempfile::tempdir().unwrap();
        let overrides = Overrides::open(Store::open(folder.path()).unwrap()).await.unwrap();
        let hour = SignedDuration::from_hours(1);
        let (day, mut block, mut shorter) = (set(hour), set(hour), set(hour / 2));
        (block.limits.block, shorter.limits.block) = (true, true);
        let change = |set: Option<&SetOverride>| overrides.change("a", set).map(|changed| changed.replaced);
        assert_eq!(change(Some(&day)), Ok(None));
        assert_eq!(change(Some(&block)), Ok(Some(day.clone())));
        assert_eq!(change(Some(&day)), Err(NotOverridden::Blocked(Box::new(block.clone()))));
        assert_eq!(overrides.of("a"), Some(block.clone()));
        assert_eq!(change(Some(&shorter)), Ok(Some(block)));
        assert_eq!(change(None), Ok(Some(shorter.clone())));
        shorter.limits.until = Timestamp::now() - hour;
        assert_eq!((change(Some(&shorter)), change(Some(&day))), (Ok(None), Ok(None)), "it is over");
    }
}
