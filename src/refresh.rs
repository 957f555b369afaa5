//! Fetches stored responses again, ahead of their end and behind a stale response, so that no caller waits for that.
//!
//! One task for each account takes what hits have put into the account's queue (`cache/refreshes`). What always holds: one
//! refresh of an account is under way at a time, beside those that hang, of which there are few ([`Underway`]), so that neither
//! a response nor an operation that hangs keeps others from being refreshed; a refresh is sent only from budget that nobody
//! else needs (`spare`), it never waits in the budget's queue, and its response is stored by the same fill as that of a miss;
//! an account without budget to spare delays no other; a queue outlives reloads, and a key of which account, address or
//! operation is no longer what the configuration says is not refreshed; nothing is sent once the shutdown has begun. Must not
//! know who used a response. Never fails: what was not fetched is asked for again by the next hit.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    body::BufferedRequest,
    cache::{DueRefresh, Key, RefreshQueue},
    catch_panic::catch_panic,
    edge::Drain,
    gateway::Gateway,
    path::{self, OwnCall, RefreshResult, UpstreamCall},
    snapshot::{Account, Worker},
    spare::{LONG_PAUSE, NotSpare},
};

/// How often the tasks are compared with the accounts in force.
const TICK: Duration = Duration::from_secs(1);

/// A refresh that takes longer hangs: the next one does not wait for it.
const HANGS: Duration = Duration::from_secs(1);
/// Refreshes of an operation that may be under way, one of which hangs at least.
const OF_OPERATION: usize = 2;
/// Refreshes of an account that may be under way.
const OF_ACCOUNT: usize = 4;
/// How many times as long as a refresh that hangs has taken, none of its operation is tried once another one of it has hung
/// before it.
const REST: u32 = 3;

/// The tasks that refresh stored responses.
pub struct Refresher {
    gateway: Weak<Gateway>,
    drain: Drain,
}

/// The refreshes of one account.
struct AccountRefreshes {
    gateway: Weak<Gateway>,
    drain: Drain,
    account: String,
    queue: Arc<RefreshQueue>,
    /// Connections of its own.
    worker: Arc<Worker>,
}

/// The refreshes of an account that are under way.
#[derive(Default)]
struct Underway {
    fetches: JoinSet<EndedRefresh>,
    /// By their names.
    operations: HashMap<String, OperationRefreshes>,
}

/// The refreshes of one operation.
#[derive(Default)]
struct OperationRefreshes {
    underway: usize,
    /// The key of the last refresh that hung in vain, if none has ended in another way since.
    hung: Option<Key>,
    rests_until: Option<Instant>,
}

/// A refresh that is over.
struct EndedRefresh {
    due: DueRefresh,
    operation: String,
    /// When it ended, which may be noted later.
    at: Instant,
    took: Duration,
    /// `None`: it panicked.
    result: Option<RefreshResult>,
}

/// What comes after one try.
enum NextTry {
    Over,
    /// The same again, after this time.
    After(DueRefresh, Duration),
    /// The gateway is being stopped.
    Stop,
}

impl Refresher {
    pub fn new(gateway: &Arc<Gateway>, drain: Drain) -> Self {
        Refresher { gateway: Arc::downgrade(gateway), drain }
    }

    /// Keeps one task for each account in force, until the shutdown begins. Dropping it ends them.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        let mut running = HashMap::<String, (Arc<RefreshQueue>, AbortHandle)>::new();
        while let Some(gateway) = self.gateway.upgrade()
            && !self.drain.begun()
        {
            while tasks.try_join_next().is_some() {}
            let snapshot = gateway.current.load_full();
            running.retain(|name, (queue, task)| {
                let same = |account: &Arc<Account>| account.name == *name && Arc::ptr_eq(&account.refreshes, queue);
                let known = snapshot.accounts.iter().any(same);
                if !known {
                    task.abort();
                }
                known && !task.is_finished()
            });
            for account in &snapshot.accounts {
                running.entry(account.name.clone()).or_insert_with(|| {
                    let queue = account.refreshes.clone();
                    (queue.clone(), tasks.spawn(self.of_account(&account.name, queue).run()))
                });
            }
            drop((snapshot, gateway));
            sleep(TICK).await;
        }
    }

    fn of_account(&self, account: &str, queue: Arc<RefreshQueue>) -> AccountRefreshes {
        let Refresher { gateway, drain } = self;
        let (gateway, drain, account) = (gateway.clone(), drain.clone(), account.to_owned());
        AccountRefreshes { gateway, drain, account, queue, worker: Arc::default() }
    }
}

impl AccountRefreshes {
    async fn run(self) {
        let mut underway = Underway::default();
        loop {
            let mut due = self.next(&mut underway).await;
            loop {
                match self.refresh(due, &mut underway).await {
                    NextTry::Over => break,
                    NextTry::After(again, pause) => {
                        due = again;
                        sleep(pause).await;
                    }
                    NextTry::Stop => return,
                }
            }
        }
    }

    /// The next response to refresh. Those that hang may end meanwhile.
    async fn next(&self, underway: &mut Underway) -> DueRefresh {
        loop {
            if self.queue.is_empty() && underway.fetches.is_empty() {
                // Nothing sweeps this pool: an idle connection would stay in it, even once closed.
                self.worker.pool.clear();
            }
            tokio::select! {
                Some(ended) = underway.fetches.join_next() => underway.note_joined(ended.ok()),
                due = self.queue.next() => return due,
            }
        }
    }

    /// Refreshes one response, if there is budget for that now. Ends when it is over, or hangs.
    async fn refresh(&self, due: DueRefresh, underway: &mut Underway) -> NextTry {
        underway.note_ended();
        let Some(gateway) = self.gateway.upgrade().filter(|_| !self.drain.begun()) else { return NextTry::Stop };
        let Some(call) = self.call(&gateway, &due) else { return NextTry::Over };
        drop(gateway);
        let operation = call.operation.name.clone();
        if let Some(rest) = underway.rest(&operation, Instant::now()) {
            // Else each hit would ask for it again.
            due.entry().iter().for_each(|entry| entry.leave_unrefreshed(Instant::now(), rest));
            return NextTry::Over;
        }
        if underway.fetches.len() >= OF_ACCOUNT {
            return NextTry::After(due, HANGS);
        }
        match call.check_surplus() {
            Ok(()) => {}
            // It may last, and others may be of a class that does not fail.
            Err(NotSpare::ClassFailing) => return NextTry::Over,
            Err(not_spare) => return NextTry::After(due, not_spare.pause()),
        }
        underway.fetch(call, due).await
    }

    /// The call that fetches a response again; `None` if it is no longer stored, or no longer what the configuration says.
    fn call(&self, gateway: &Gateway, due: &DueRefresh) -> Option<UpstreamCall> {
        if !due.is_stored() {
            return None;
        }
        let request = due.key.request()?;
        let snapshot = gateway.current.load_full();
        let account = snapshot.accounts.iter().find(|account| account.name == self.account)?.clone();
        let operation = snapshot.catalog.classify(&request.method, request.target.path()).ok()?.clone();
        let same = request.account == account.name
            && request.operation == operation.name
            && *request.address == *account.route(operation.api).url;
        if !same || operation.cache.is_none() {
            return None;
        }
        let (method, target, headers, body) = (request.method, request.target, request.headers, request.body);
        let request = BufferedRequest { method, target, headers, body };
        Some(OwnCall { snapshot, account, operation }.with(self.worker.clone(), request))
    }
}

impl Underway {
    /// Fetches a response; returns when that is over, or hangs.
    async fn fetch(&mut self, call: UpstreamCall, due: DueRefresh) -> NextTry {
        let (operation, began) = (call.operation.name.clone(), Instant::now());
        self.operations.entry(operation.clone()).or_default().underway += 1;
        let task = self.fetches.spawn(async move {
            let result = catch_panic(pin!(path::refresh(call, &due))).await.ok();
            let at = Instant::now();
            EndedRefresh { due, operation, at, took: at - began, result }
        });
        let hangs_at = began + HANGS;
        while let Ok(Some(ended)) = timeout_at(hangs_at, self.fetches.join_next_with_id()).await {
            let Ok((id, ended)) = ended else { continue };
            let not_spare = ended.result == Some(RefreshResult::NotSpare);
            let due = self.note(ended);
            if id == task.id() {
                // The shares of the day may refuse it for long.
                return if not_spare { NextTry::After(due, LONG_PAUSE) } else { NextTry::Over };
            }
        }
        NextTry::Over
    }

    /// Those that have ended since they were waited for.
    fn note_ended(&mut self) {
        while let Some(ended) = self.fetches.try_join_next() {
            self.note_joined(ended.ok());
        }
    }

    fn note_joined(&mut self, ended: Option<EndedRefresh>) {
        drop(ended.map(|ended| self.note(ended)));
    }

    fn note(&mut self, ended: EndedRefresh) -> DueRefresh {
        let EndedRefresh { due, operation, at, took, result } = ended;
        if result.is_none() {
            tracing::error!(operation, "the refresh of a stored response has panicked");
        }
        let of = self.operations.entry(operation).or_default();
        of.underway = of.underway.saturating_sub(1);
        if result != Some(RefreshResult::Failed) || took < HANGS {
            of.hung = None;
        } else if of.hung.replace(due.key.clone()).is_some_and(|before| before != due.key) {
            of.rests_until = Some(at + took * REST);
        }
        due
    }

    /// How long no refresh of an operation is to begin.
    fn rest(&self, operation: &str, now: Instant) -> Option<Duration> {
        let of = self.operations.get(operation)?;
        let rest = of.rests_until.map(|until| until.saturating_duration_since(now)).filter(|rest| !rest.is_zero());
        rest.or_else(|| (of.underway >= OF_OPERATION).then_some(HANGS))
    }
}
