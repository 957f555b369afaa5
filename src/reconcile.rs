//! Proposes what became of orders whose outcome is unknown, from Fastrac's balance history and tracking.
//!
//! Reads at Fastrac like any caller, so it is above the path: [`Reconciler::propose`] when an operator asks for one
//! order, and [`Reconciler::run`] by itself once an order has been unknown for `orders.reconcile`. What always holds: it
//! never settles an order; it sends only what changes nothing, with lowest priority and from spare budget (`reader`); at
//! most one pass for each account runs at a time; the drain does not wait for it. Proposals are in memory: after a
//! restart they are made again. The rule is in `judge`. It must not know who asks. Never fails: what cannot be read is
//! the reason of a proposal.

mod history;
mod judge;
mod pass;
mod proposal;
mod reader;

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

pub use self::proposal::{FoundDebit, Proposal, ProposedFinding};
use self::{
    pass::{Pass, TrackedParties},
    proposal::is_due,
    reader::Reader,
};
use crate::{
    catch_panic::catch_panic, deadline::until, edge::Drain, gateway::Gateway, orders::UnknownOrder, snapshot::Worker,
};

/// How long an operator waits for a proposal.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long a proposal is given again before it is made anew.
const RECENT: Duration = Duration::from_secs(30);

/// Longest pause between two checks of which orders are to be read of.
const TICK: Duration = Duration::from_secs(15);

/// How long a pass of the background may take.
const PASS: Duration = Duration::from_secs(60);

/// The proposals, and what they are made from.
pub struct Reconciler {
    gateway: Weak<Gateway>,
    drain: Drain,
    /// The connections of its reads.
    worker: Arc<Worker>,
    /// By number of the order.
    proposals: Mutex<HashMap<u64, Proposal>>,
    tracked: TrackedParties,
    /// One permit for each account.
    passes: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// By the wall clock of that moment, milliseconds since 1970.
    started: i64,
}

impl Reconciler {
    pub fn new(gateway: &Arc<Gateway>, drain: Drain) -> Arc<Reconciler> {
        Arc::new(Reconciler {
            gateway: Arc::downgrade(gateway),
            drain,
            worker: Arc::default(),
            proposals: Mutex::default(),
            tracked: Mutex::default(),
            passes: Mutex::default(),
            started: Timestamp::now().as_millisecond(),
        })
    }

    /// What was proposed of an order last.
    pub fn last(&self, number: u64) -> Option<Proposal> {
        self.proposals.lock().get(&number).cloned()
    }

    /// What is proposed of an unknown order, after reading what is not known yet, within [`PATIENCE`].
    pub async fn propose(&self, order: &UnknownOrder) -> Proposal {
        let (began, end) = (Timestamp::now(), Instant::now() + PATIENCE);
        let recent = |last: &Proposal| began.duration_since(last.made_at).unsigned_abs() < RECENT;
        if let Some(last) = self
            .last(order.number)
            .filter(|last| last.finding == ProposedFinding::Executed || (last.is_whole && recent(last)))
        {
            return last;
        }
        let reading = self.pass(&order.account, end, HashSet::from([order.number]), began);
        until(end, Box::pin(reading)).await;
        self.last(order.number).unwrap_or_else(|| Proposal {
            finding: ProposedFinding::CannotTell,
            reason: format!("nothing could be read within {} s", PATIENCE.as_secs()),
            debit: None,
            made_at: Timestamp::now(),
            age: order.age,
            is_whole: false,
        })
    }

    /// Reads of orders that have been unknown for `orders.reconcile`, until the shutdown begins.
    pub async fn run(self: Arc<Self>) {
        while let Some(after) = self.after()
            && !self.drain.begun()
        {
            let pause = if after.is_zero() { TICK } else { TICK.min(after / 2).max(Duration::from_millis(100)) };
            sleep(pause).await;
            if !after.is_zero() && catch_panic(pin!(self.tick(after))).await.is_err() {
                tracing::error!("a pass over the unknown orders has panicked; the next one begins later");
            }
        }
    }

    /// `orders.reconcile`; `None` once the gateway has ended.
    fn after(&self) -> Option<Duration> {
        Some(self.gateway.upgrade()?.in_force.load().config.orders.reconcile)
    }

    async fn tick(&self, after: Duration) {
        let Some(orders) = self.unknown() else { return };
        let due: HashMap<String, HashSet<u64>> = {
            let mut proposals = self.proposals.lock();
            let unknown: HashSet<u64> = orders.iter().map(|order| order.number).collect();
            proposals.retain(|number, _| unknown.contains(number));
            let due = |order: &&UnknownOrder| is_due(proposals.get(&order.number), order.age, after);
            let mut accounts = HashMap::<String, HashSet<u64>>::new();
            for order in orders.iter().filter(due) {
                accounts.entry(order.account.clone()).or_default().insert(order.number);
            }
            accounts
        };
        for (account, wanted) in due {
            self.pass(&account, Instant::now() + PASS, wanted, Timestamp::now()).await;
        }
        // Reads are rare and nothing sweeps this pool: an idle connection would stay in it, even once closed.
        self.worker.pool.clear();
    }

    fn unknown(&self) -> Option<Vec<UnknownOrder>> {
        Some(self.gateway.upgrade()?.live.orders.unknown())
    }

    /// Makes proposals for these unknown orders of an account. Nothing if another pass has made them since `asked`.
    async fn pass(&self, account: &str, end: Instant, wanted: HashSet<u64>, asked: Timestamp) {
        let passes = {
            let mut passes = self.passes.lock();
            passes.entry(account.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };
        let Ok(_only) = passes.acquire().await else { return };
        let is_made = |number: &u64| self.last(*number).is_some_and(|last| last.is_whole && last.made_at >= asked);
        if wanted.iter().all(is_made) {
            return;
        }
        let (Some(gateway), Some(mut orders)) = (self.gateway.upgrade(), self.unknown()) else { return };
        orders.retain(|order| order.account == account);
        let (drain, worker, account) = (self.drain.clone(), self.worker.clone(), account.to_owned());
        let reader = Reader { gateway, drain, worker, account, end, started: self.started };
        let made = Pass { reader: &reader, tracked: &self.tracked, wanted }.run(orders).await;
        let mut proposals = self.proposals.lock();
        for (number, proposal) in made {
            match proposals.get_mut(&number) {
                Some(before) if !proposal.replaces(before) => before.age = proposal.age,
                Some(before) => *before = proposal,
                None => drop(proposals.insert(number, proposal)),
            }
        }
    }
}
