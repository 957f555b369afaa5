//! Looks names up on few threads of its own, whoever and however many ask.
//!
//! getaddrinfo(3) blocks, at times for a minute, and cannot be cancelled. What always holds: there is one lookup of a
//! name at a time, shared by all that wait for it, each no longer than it may; at most [`PLACES`] run at once, the
//! others wait for a place, those of names whose last lookup failed behind the rest. A lookup gives its place up after
//! [`LATE`], so that names that hang keep no others waiting; there are at most [`MAX_THREADS`] all the same. The
//! threads belong to no runtime, so neither a drain nor the end of the process waits for them. They end when there is
//! nothing to look up.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{
    cached_name::{CachedName, Known},
    error::LookupError,
    race::interleaved,
};
use crate::deadline;

/// Maximum number of lookups at once. The names are those of accounts, proxies and vaults: few, and looked up seldom.
const PLACES: usize = 8;
/// How long a lookup keeps its place. Most take milliseconds.
const LATE: Duration = Duration::from_secs(1);
/// How often requests that wait look whether places have become free.
const LOOK: Duration = Duration::from_millis(250);
/// Maximum number of lookups, with those that have given their place up.
const MAX_THREADS: usize = 64;

/// How long a lookup may take before the last known addresses of its name are used instead (RFC 8767, section 5: 1.8 s;
/// less, because a connection has to be opened as well).
const STALE_AFTER: Duration = Duration::from_secs(1);

type LookupResult = Result<Vec<SocketAddr>, LookupError>;

/// Lookups and their results. Clones share them.
#[derive(Clone)]
pub(super) struct Lookups(Arc<SharedLookups>);

struct SharedLookups {
    lookup: Box<dyn Fn(&str) -> LookupResult + Send + Sync>,
    state: Mutex<LookupState>,
}

#[derive(Default)]
struct LookupState {
    cached: HashMap<String, CachedName>,
    /// Lookups that run or wait for a thread, by name.
    running: HashMap<String, RunningLookup>,
    /// Names that wait for a thread.
    waiting: VecDeque<String>,
    threads: usize,
}

/// A lookup that has no result yet.
struct RunningLookup {
    began: Instant,
    /// When a thread began with it.
    taken: Option<Instant>,
    result: watch::Sender<Option<LookupResult>>,
}

/// What a request for addresses has to wait for.
struct PendingLookup {
    began: Instant,
    result: watch::Receiver<Option<LookupResult>>,
    /// The last addresses of the name.
    stale: Option<Vec<SocketAddr>>,
}

impl Lookups {
    pub(super) fn new(lookup: impl Fn(&str) -> LookupResult + Send + Sync + 'static) -> Self {
        Lookups(Arc::new(SharedLookups { lookup: Box::new(lookup), state: Mutex::default() }))
    }

    /// The addresses of a name, in the order in which they are to be tried. Cancel safe.
    ///
    /// # Errors
    /// [`LookupError`], not later than at `by`.
    pub(super) async fn addresses(&self, name: &str, port: u16, by: Instant) -> LookupResult {
        let mut found = self.find(name, by).await?;
        found.iter_mut().for_each(|address| address.set_port(port));
        self.order(name, &mut found);
        Ok(found)
    }

    /// Moves the addresses of a name that are avoided to the end, and counts the others.
    pub(super) fn order(&self, name: &str, addresses: &mut [SocketAddr]) -> usize {
        let state = self.0.state.lock();
        state.cached.get(name).map_or(addresses.len(), |cached| cached.order(addresses, Instant::now()))
    }

    /// Tries this address of a name after the others for some time.
    pub(super) fn avoid(&self, name: &str, address: IpAddr) {
        if let Some(cached) = self.0.state.lock().cached.get_mut(name) {
            cached.avoid(address, Instant::now());
        }
    }

    async fn find(&self, name: &str, by: Instant) -> LookupResult {
        let began = Instant::now();
        let PendingLookup { began: started, mut result, stale } = match self.begin(name, began) {
            Ok(pending) => pending,
            Err(known) => return known,
        };
        let until = if stale.is_some() { by.min(started + STALE_AFTER) } else { by };
        let result = loop {
            let look_at = until.min(Instant::now() + LOOK);
            let sent = deadline::until(look_at, result.wait_for(Option::is_some)).await;
            // The sender is dropped only after it has sent a result.
            if let Some(sent) = sent {
                break sent.ok().and_then(|result| result.clone());
            }
            if look_at == until {
                break None;
            }
            self.0.fill_places();
        };
        let result = result.unwrap_or_else(|| Err(LookupError::slow(began.elapsed())));
        result.or_else(|error| stale.ok_or(error))
    }

    /// The lookup of a name, started if there is none.
    ///
    /// # Errors
    /// The result, if it is known.
    fn begin(&self, name: &str, now: Instant) -> Result<PendingLookup, LookupResult> {
        let mut state = self.0.state.lock();
        let stale = match state.cached.get(name).map_or(Known::Due(None), |cached| cached.at(now)) {
            Known::Addresses(addresses) => return Err(Ok(addresses)),
            Known::Failed(error) => return Err(Err(error)),
            Known::Due(stale) => stale,
        };
        if let Some(running) = state.running.get(name) {
            return Ok(PendingLookup { began: running.began, result: running.result.subscribe(), stale });
        }
        let (sender, result) = watch::channel(None);
        state.running.insert(name.to_owned(), RunningLookup { began: now, taken: None, result: sender });
        state.waiting.push_back(name.to_owned());
        if let Err(error) = self.0.start_thread(&mut state, now)
            // Otherwise another thread will come to it.
            && state.threads == 0
        {
            state.waiting.clear();
            state.finish(name, Err(LookupError::Failed(format!("no thread for a name lookup: {error}"))));
        }
        Ok(PendingLookup { began: now, result, stale })
    }

    /// Tries this address of a name first from now on.
    pub(super) fn prefer(&self, name: &str, address: IpAddr) {
        if let Some(cached) = self.0.state.lock().cached.get_mut(name) {
            cached.prefer(address);
        }
    }
}

impl SharedLookups {
    /// Starts a thread if there is a place for it.
    fn start_thread(self: &Arc<Self>, state: &mut LookupState, now: Instant) -> io::Result<()> {
        if state.places_taken(now) < PLACES && state.threads < MAX_THREADS {
            let shared = self.clone();
            thread::Builder::new().name("lookup".into()).spawn(move || shared.work())?;
            state.threads += 1;
        }
        Ok(())
    }

    /// Starts threads for names that wait, where lookups have given their places up.
    fn fill_places(self: &Arc<Self>) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        for _ in 0..state.waiting.len() {
            // Tried again by the next request that looks.
            let _ = self.start_thread(&mut state, now);
        }
    }

    /// What a thread does.
    fn work(&self) {
        while let Some(name) = self.next() {
            let lookup = catch_unwind(AssertUnwindSafe(|| (self.lookup)(&name)));
            let result = lookup.unwrap_or_else(|_| Err(LookupError::Failed("the name lookup panicked".into())));
            self.state.lock().finish(&name, result.map(|addresses| interleaved(&addresses)));
        }
    }

    /// The next name to look up; `None`: the thread ends.
    fn next(&self) -> Option<String> {
        let (mut state, now) = (self.state.lock(), Instant::now());
        // Threads whose lookup was late may be too many.
        let next = if state.places_taken(now) <= PLACES { state.take_waiting(now) } else { None };
        if next.is_none() {
            state.threads -= 1;
        }
        next
    }
}

impl LookupState {
    /// Threads, without those whose lookup has given its place up.
    fn places_taken(&self, now: Instant) -> usize {
        let late = |running: &&RunningLookup| running.taken.is_some_and(|taken| now >= taken + LATE);
        self.threads - self.running.values().filter(late).count()
    }

    /// The next name to look up.
    fn take_waiting(&mut self, now: Instant) -> Option<String> {
        let has_failed = |name: &String| self.cached.get(name).is_some_and(|cached| cached.has_failed(now));
        let next = self.waiting.iter().position(|name| !has_failed(name)).unwrap_or(0);
        let name = self.waiting.remove(next)?;
        self.running.get_mut(&name)?.taken = Some(now);
        Some(name)
    }

    /// Keeps a result, and passes it on to all that wait for it.
    fn finish(&mut self, name: &str, result: LookupResult) {
        let now = Instant::now();
        self.cached.retain(|known, cached| known == name || !cached.is_forgotten(now));
        self.cached.entry(name.to_owned()).or_default().keep(result.clone(), now);
        if let Some(running) = self.running.remove(name) {
            running.result.send_replace(Some(result));
        }
    }
}

/// Asks the system's resolver. Blocks.
pub(super) fn system(name: &str) -> LookupResult {
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let failed = |error: std::io::Error| LookupError::Failed(error.to_string());
    match getaddrinfo(Some(name), None, Some(hints)) {
        Ok(found) => {
            let found = found.map(|found| found.map(|found| found.sockaddr)).collect::<Result<Vec<_>, _>>();
            found.map_err(failed).and_then(|found| {
                let none = || LookupError::NoAddress("the name has no address".into());
                if found.is_empty() { Err(none()) } else { Ok(found) }
            })
        }
        Err(error) if matches!(error.kind(), LookupErrorKind::NoName | LookupErrorKind::NoData) => {
            Err(LookupError::NoAddress(std::io::Error::from(error).to_string()))
        }
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests;
