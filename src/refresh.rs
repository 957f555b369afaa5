//! Fetches stored responses again, ahead of their end and behind a stale response, so that no caller waits for that.
//!
//! One task for each account takes what hits have put into the account's queue (`cache/refreshes`). What always holds: at
//! most one refresh of an account is under way; it is sent only from budget that nobody else needs (`spare`), it never waits
//! in the budget's queue, and its response is stored by the same fill as that of a miss; an operation whose refreshes hang
//! leaves most of the time to others, and an account without budget to spare delays no other; a queue outlives reloads, and a key of which account, address or operation is no longer what the
//! configuration says is not refreshed; nothing is sent once the shutdown has begun. Must not know who used a response.
//! Never fails: what was not fetched is asked for again by the next hit.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};

use crate::{
    body::BufferedRequest,
    cache::{DueRefresh, RefreshQueue},
    catch_panic::catch_panic,
    edge::Drain,
    gateway::Gateway,
    path::{self, OwnCall, RefreshResult, UpstreamCall},
    snapshot::{Account, Worker},
    spare::{LONG_PAUSE, NotSpare},
};

/// How often the tasks are compared with the accounts in force.
const TICK: Duration = Duration::from_secs(1);

/// A refresh that fails after this time or later has held up others.
const LONG: Duration = Duration::from_secs(1);
/// How many times as long as such a refresh has taken, none of its operation is tried: an operation that hangs has the only
/// place for refreshes for a quarter of the time at most.
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

/// Operations (by name) whose last refresh has failed after a long time, and until when the others have the place.
type HangingOperations = HashMap<String, Instant>;

/// What comes after one try.
enum NextTry {
    Over,
    /// The same again, after this time.
    After(Duration),
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
        let mut hanging = HangingOperations::new();
        loop {
            if self.queue.is_empty() {
                // Nothing sweeps this pool: an idle connection would stay in it, even once closed.
                self.worker.pool.clear();
            }
            let due = self.queue.next().await;
            loop {
                match catch_panic(pin!(self.refresh(&due, &mut hanging))).await {
                    Ok(NextTry::Over) => break,
                    Ok(NextTry::After(pause)) => sleep(pause).await,
                    Ok(NextTry::Stop) => return,
                    Err(_) => {
                        tracing::error!(account = self.account, "the refresh of a stored response has panicked");
                        break;
                    }
                }
            }
        }
    }

    /// Refreshes one response, if there is budget for that now.
    async fn refresh(&self, due: &DueRefresh, hanging: &mut HangingOperations) -> NextTry {
        let Some(gateway) = self.gateway.upgrade().filter(|_| !self.drain.begun()) else { return NextTry::Stop };
        let Some(call) = self.call(&gateway, due) else { return NextTry::Over };
        drop(gateway);
        let (operation, began) = (call.operation.clone(), Instant::now());
        if let Some(until) = hanging.get(&operation.name).filter(|until| began < **until) {
            // Else each hit would ask for it again.
            due.entry().iter().for_each(|entry| entry.leave_unrefreshed(began, *until - began));
            return NextTry::Over;
        }
        match call.check_surplus() {
            Ok(()) => {}
            // It may last, and others may be of a class that does not fail.
            Err(NotSpare::ClassFailing) => return NextTry::Over,
            Err(not_spare) => return NextTry::After(not_spare.pause()),
        }
        match Box::pin(path::refresh(call, due)).await {
            RefreshResult::Over => NextTry::Over,
            RefreshResult::Failed => {
                let now = Instant::now();
                let took = now - began;
                if took >= LONG {
                    hanging.insert(operation.name.clone(), now + took * REST);
                }
                NextTry::Over
            }
            // The shares of the day may refuse it for long.
            RefreshResult::NotSpare => NextTry::After(LONG_PAUSE),
        }
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
