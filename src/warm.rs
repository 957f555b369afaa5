//! Walks the region tree of an account, so that its responses are stored before anyone asks for them: province, city,
//! district, sub-district, postal code.
//!
//! Begun by an operator, or on schedule (`cache.warm`). The ids of each level are those in the responses of the level above,
//! as raw text; paths come from the operation table, so that a row that the configuration corrects is followed. What always
//! holds: at most one walk of an account is under way; each response is fetched by the fill of a miss (`path::prefetch`), with lowest priority and
//! only from spare budget; what is stored, fresh and not near its end is not fetched, so a walk that is begun again resumes;
//! nothing that is stored is evicted for it; a walk knows a bounded number of ids, all from the address that they are sent
//! to; nothing is sent once the shutdown has begun. Must not know who asked. Never fails: what cannot be fetched, stored or
//! understood is counted and left out, and [`WalkEnd`] says why it ended early.

mod discover;
mod schedule;

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, uri::PathAndQuery};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{JoinSet, yield_now},
    time::{Instant, sleep},
};

use crate::{
    body::BufferedRequest,
    cache::Key,
    catch_panic::catch_panic,
    config::Class,
    edge::Drain,
    gateway::Gateway,
    path::{self, OwnCall, Prefetched, UpstreamCall},
    snapshot::{Account, Worker},
    spare::{NotSpare, days_spare_after},
};
use discover::{Found, IdMembers, LevelIds, ids};
pub use schedule::begin_walks_on_schedule;

/// One level of the tree.
struct RegionLevel {
    /// Name of the operation that lists it.
    operation: &'static str,
    /// Of the elements of the level above.
    members: IdMembers,
}

const fn region_level(operation: &'static str, names: &'static [&'static str]) -> RegionLevel {
    RegionLevel { operation, members: IdMembers { names, required: true } }
}

const LEVELS: [RegionLevel; 5] = [
    region_level("v2.province", &[]),
    region_level("v2.city", &["province_id"]),
    region_level("v2.district", &["city_id"]),
    region_level("v2.sub_district", &["district_id"]),
    // Only where responses name postal codes.
    RegionLevel {
        operation: "v2.post_code",
        members: IdMembers { names: &["post_code", "postal_code"], required: false },
    },
];

/// Most requests that a walk may know, done ones included. The real tree has fewer than 100,000.
const MOST_KNOWN: u64 = 200_000;

/// Wait before a response is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How often one response is tried.
const TRIES: u32 = 3;

/// The walks of all accounts.
pub struct Warmer {
    gateway: Weak<Gateway>,
    drain: Drain,
    /// By account: the walk under way, or the last one.
    walks: Mutex<BTreeMap<String, Arc<Mutex<Walk>>>>,
    begin: UnboundedSender<NewWalk>,
    /// When walks begin by themselves; `None`: never.
    next: Mutex<Option<Instant>>,
}

/// A walk that is to be begun.
struct NewWalk {
    account: String,
    walk: Arc<Mutex<Walk>>,
}

/// How far a walk is.
#[derive(Clone, Debug)]
struct Walk {
    began: Instant,
    /// `None`: it is under way.
    ended: Option<WalkEnd>,
    took: Duration,
    /// Name of the operation of the level that is being walked.
    level: &'static str,
    counts: WalkCounts,
}

/// Requests of a walk.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WalkCounts {
    /// Known so far; the levels below may bring more.
    pub known: u64,
    pub fetched: u64,
    /// Stored already, and not near its end.
    pub fresh: u64,
    /// Could not be fetched, or not be stored.
    pub failed: u64,
    /// With responses that are not the list that the level below is found by, or have elements without a readable id. They
    /// are counted as `fetched` or `fresh` too.
    pub not_understood: u64,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum WalkEnd {
    /// The whole tree was walked.
    Complete,
    /// The same, except for responses that could not be fetched, or not be stored, and what is below them.
    Incomplete,
    /// The same, except for what is below responses, or elements of them, that could not be understood.
    NotUnderstood,
    /// Storing another response might have evicted others.
    CacheFull,
    /// The account has one place in flight that is not kept for orders, which a walk would take from callers.
    OnePlace,
    /// The responses name more ids than those of a region tree would.
    TooManyIds,
    /// The account's address was changed: the ids are those of the earlier one.
    AddressChanged,
    /// The gateway is being stopped, or the account was removed.
    Stopped,
    /// An operation of the tree is not a cached GET lookup without `{name}` in the configuration in force.
    NotCached,
    Panicked,
}

/// How far a walk is, for reports.
#[derive(Clone, Debug)]
pub struct WalkProgress {
    /// `None`: it is under way.
    pub ended: Option<WalkEnd>,
    pub took: Duration,
    /// Name of the operation of the level that is being walked.
    pub level: &'static str,
    pub counts: WalkCounts,
    /// Time for the requests known so far, at the pace so far, or longer if the day's budget does not spare so many; `None`:
    /// nothing has been fetched yet, they will never be spared, or it has ended.
    pub left: Option<Duration>,
}

impl WalkCounts {
    /// Requests that are done with.
    fn done(&self) -> u64 {
        self.fetched + self.fresh + self.failed
    }
}

impl Walk {
    fn new() -> Self {
        let (began, took, level) = (Instant::now(), Duration::ZERO, LEVELS[0].operation);
        let counts = WalkCounts { known: 1, fetched: 0, fresh: 0, failed: 0, not_understood: 0 };
        Walk { began, ended: None, took, level, counts }
    }

    /// `account`: in force; `None`: it was removed.
    fn progress(&self, account: Option<&Account>) -> WalkProgress {
        let Walk { began, ended, level, counts, .. } = *self;
        let took = if ended.is_some() { self.took } else { began.elapsed() };
        let waiting = counts.known.saturating_sub(counts.done());
        let left = || {
            let pace = took.div_f64(counts.fetched as f64);
            Some(pace.mul_f64(waiting as f64).max(days_spare_after(account?, waiting)?))
        };
        let left = (ended.is_none() && counts.fetched > 0).then(left).flatten();
        WalkProgress { ended, took, level, counts, left }
    }
}

impl Warmer {
    /// Its walks run in the task.
    pub fn new(gateway: &Arc<Gateway>, drain: Drain) -> (Arc<Self>, WarmTask) {
        let (begin, begun) = unbounded_channel();
        let warmer =
            Warmer { gateway: Arc::downgrade(gateway), drain, walks: Mutex::default(), begin, next: Mutex::default() };
        let warmer = Arc::new(warmer);
        (warmer.clone(), WarmTask { warmer, begun })
    }

    /// Begins a walk of an account, unless one is under way. Returns whether it did.
    pub fn begin(&self, account: &str) -> bool {
        let mut walks = self.walks.lock();
        if walks.get(account).is_some_and(|walk| walk.lock().ended.is_none()) {
            return false;
        }
        let walk = Arc::new(Mutex::new(Walk::new()));
        let begins = self.begin.send(NewWalk { account: account.to_owned(), walk: walk.clone() }).is_ok();
        if begins {
            walks.insert(account.to_owned(), walk);
        }
        begins
    }

    /// Time until walks begin by themselves; `None`: they do not.
    pub fn next_in(&self) -> Option<Duration> {
        self.next.lock().map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Accounts whose last walk ended this long ago or longer, in a way that the next one may not.
    fn unfinished(&self, since: Duration) -> Vec<String> {
        let again = |end: WalkEnd| matches!(end, WalkEnd::Incomplete | WalkEnd::AddressChanged | WalkEnd::Panicked);
        let due = |walk: &Walk| walk.ended.is_some_and(again) && walk.began.elapsed() >= walk.took + since;
        self.walks.lock().iter().filter(|(_, walk)| due(&walk.lock())).map(|(account, _)| account.clone()).collect()
    }

    /// The walks under way and the last ones, by account.
    pub fn progress(&self) -> BTreeMap<String, WalkProgress> {
        let snapshot = self.gateway.upgrade().map(|gateway| gateway.current.load_full());
        let account =
            |name: &String| snapshot.as_ref()?.accounts.iter().map(Arc::as_ref).find(|account| account.name == *name);
        let progress = |(name, walk): (&String, &Arc<Mutex<Walk>>)| (name.clone(), walk.lock().progress(account(name)));
        self.walks.lock().iter().map(progress).collect()
    }
}

/// Runs the walks.
pub struct WarmTask {
    warmer: Arc<Warmer>,
    begun: UnboundedReceiver<NewWalk>,
}

impl WarmTask {
    /// Until it is dropped.
    pub async fn run(mut self) {
        let mut tasks = JoinSet::new();
        while let Some(NewWalk { account, walk }) = self.begun.recv().await {
            while tasks.try_join_next().is_some() {}
            let warmer = self.warmer.clone();
            tasks.spawn(async move {
                let walker = Walker::new(&warmer, &account, &walk);
                let end = catch_panic(pin!(walker.run())).await.unwrap_or(WalkEnd::Panicked);
                let mut walk = walk.lock();
                (walk.took, walk.ended) = (walk.began.elapsed(), Some(end));
                let WalkCounts { fetched, fresh, failed, not_understood, .. } = walk.counts;
                tracing::info!(
                    account,
                    ?end,
                    fetched,
                    fresh,
                    failed,
                    not_understood,
                    "the walk of the region tree has ended"
                );
            });
        }
    }
}

/// One walk.
struct Walker<'a> {
    warmer: &'a Warmer,
    account: &'a str,
    walk: &'a Mutex<Walk>,
    /// Connections of its own.
    worker: Arc<Worker>,
    /// The account's addresses when it began.
    addresses: OnceLock<[Arc<str>; 3]>,
}

impl<'a> Walker<'a> {
    fn new(warmer: &'a Warmer, account: &'a str, walk: &'a Mutex<Walk>) -> Self {
        Walker { warmer, account, walk, worker: Arc::default(), addresses: OnceLock::new() }
    }

    /// Level by level, so that how much is left is known early.
    async fn run(&self) -> WalkEnd {
        match self.walk_levels().await {
            Err(end) => end,
            Ok(()) => match self.walk.lock().counts {
                WalkCounts { failed: 1.., .. } => WalkEnd::Incomplete,
                WalkCounts { not_understood: 1.., .. } => WalkEnd::NotUnderstood,
                _ => WalkEnd::Complete,
            },
        }
    }

    async fn walk_levels(&self) -> Result<(), WalkEnd> {
        let mut steps = vec![None];
        for (index, level) in LEVELS.iter().enumerate() {
            self.walk.lock().level = level.operation;
            let below = LEVELS.get(index + 1).map(|below| below.members);
            let (mut found, mut left) = (LevelIds::default(), steps.len() as u64);
            for step in steps {
                // What is stored is given without waiting.
                yield_now().await;
                let body = self.fetch(level, step.as_ref()).await?;
                left -= 1;
                if let (Some(body), Some(below)) = (body, below) {
                    self.add_ids(&body, below, &mut found, left)?;
                }
                let counts = &mut self.walk.lock().counts;
                counts.known = counts.done() + left + found.len() as u64;
            }
            steps = found.into_ids().into_iter().map(Some).collect();
        }
        Ok(())
    }

    /// Adds the ids of a response to those that were found. `left`: requests of its level that are left.
    fn add_ids(&self, body: &[u8], below: IdMembers, found: &mut LevelIds, left: u64) -> Result<(), WalkEnd> {
        let ids = ids(body, below).map_err(|_| WalkEnd::TooManyIds)?;
        let counts = &mut self.walk.lock().counts;
        counts.not_understood += u64::from(!ids.understood);
        let most = MOST_KNOWN.saturating_sub(counts.done() + left);
        found.add(ids.found, usize::try_from(most).unwrap_or(usize::MAX)).map_err(|_| WalkEnd::TooManyIds)
    }

    /// One response of a level; `None`: there is none.
    async fn fetch(&self, level: &RegionLevel, id: Option<&Found>) -> Result<Option<Bytes>, WalkEnd> {
        let mut tries = 0;
        loop {
            let gateway = self.warmer.gateway.upgrade().filter(|_| !self.warmer.drain.begun());
            let gateway = gateway.ok_or(WalkEnd::Stopped)?;
            let (call, key) = self.call(&gateway, level, id)?;
            drop(gateway);
            let pause = match path::prefetch(call, &key).await {
                Prefetched::Fresh(body) => {
                    self.walk.lock().counts.fresh += 1;
                    return Ok(Some(body));
                }
                Prefetched::Fetched { body, stored } => {
                    let counts = &mut self.walk.lock().counts;
                    *(if stored { &mut counts.fetched } else { &mut counts.failed }) += 1;
                    return Ok(Some(body));
                }
                Prefetched::CacheFull => return Err(WalkEnd::CacheFull),
                Prefetched::NotSpare(NotSpare::OnePlace) => return Err(WalkEnd::OnePlace),
                Prefetched::NotSpare(not_spare) => not_spare.pause(),
                Prefetched::Failed => {
                    tries += 1;
                    if tries == TRIES {
                        self.walk.lock().counts.failed += 1;
                        return Ok(None);
                    }
                    RETRY_PAUSE
                }
            };
            sleep(pause).await;
        }
    }

    /// The call for one response and its key, by the configuration in force.
    fn call(&self, gateway: &Gateway, level: &RegionLevel, id: Option<&Found>) -> Result<(UpstreamCall, Key), WalkEnd> {
        let snapshot = gateway.current.load_full();
        let account = snapshot.accounts.iter().find(|account| account.name == self.account).cloned();
        let account = account.ok_or(WalkEnd::Stopped)?;
        let addresses = [&account.base, &account.v1, &account.v2].map(|route| route.url.clone());
        if *self.addresses.get_or_init(|| addresses.clone()) != addresses {
            return Err(WalkEnd::AddressChanged);
        }
        let rows = &snapshot.catalog.operations;
        let path = rows.iter().find(|row| row.name == level.operation).map(|row| row.path.as_str());
        let path = path.ok_or(WalkEnd::NotCached)?;
        let operation = snapshot.catalog.classify(&Method::GET, path).ok().filter(|row| row.name == level.operation);
        let operation = operation.filter(|row| row.class == Class::Lookup && row.cache.is_some());
        // Ids are given as parameters: nothing says what a `{name}` in the path stands for.
        let operation = operation.filter(|row| !row.path.contains('{'));
        let operation = operation.ok_or(WalkEnd::NotCached)?.clone();
        let query = id.map(|Found { parameter, value }| format!("{parameter}={value}"));
        let target = query.as_ref().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        let target = PathAndQuery::try_from(target).map_err(|_| WalkEnd::NotCached)?;
        let request = BufferedRequest { method: Method::GET, target, headers: HeaderMap::new(), body: Bytes::new() };
        let key = account.cache_key(&operation, None, &request).ok_or(WalkEnd::NotCached)?;
        Ok((OwnCall { snapshot, account, operation }.with(self.worker.clone(), request), key))
    }
}
