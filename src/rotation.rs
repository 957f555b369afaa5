//! The task that keeps an account's key pairs current: it reads the source, has new pairs verified, and
//! decides what happens to refused requests.
//!
//! There is one task for each account: a reload only sends it what has changed. A reading or a canary is shared by those who
//! wait for it, and nothing is locked. At most one reading, and one canary for each version, run at a time. They
//! do not delay each other, nor a request that needs neither. A canary that panics is undecided; if the task
//! itself panics, it is restarted with the pairs that it held. The task does not know how a canary is sent. It
//! ends when it is dropped, and its canaries with it.

mod copy_schedule;
mod operators;
mod pending;
mod readings;
mod task;

use std::{pin::pin, time::Duration};

use tokio::time::Instant;

use self::task::RotationTask;
use crate::{
    backoff::Backoff,
    catch_panic::catch_panic,
    keys::{Keeper, Lease, ReadAt, Verdict},
};

/// First and maximum wait before a task that panicked is restarted.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A task that ran for so long is restarted after the first wait.
const STABLE: Duration = Duration::from_secs(600);

/// Keeps an account's key pairs current until it is dropped. `canary` has Fastrac verify a lease, within a
/// deadline of its own.
pub async fn keep<C, F>(mut keeper: Keeper, canary: C)
where
    C: Fn(Lease) -> F + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    keeper.life.restore_revoked(keeper.revocations.versions());
    // It may have been opened long ago: a start or a reload waits for disks.
    keeper.life.await_first(Instant::now());
    let mut waits = Backoff::new(FIRST_WAIT, MAX_WAIT);
    loop {
        let began = Instant::now();
        if catch_panic(pin!(RotationTask::new(&mut keeper, &canary).run())).await.is_ok() {
            return;
        }
        if began.elapsed() > STABLE {
            waits.reset();
        }
        let wait = waits.next();
        tracing::error!(account = keeper.life.account(), ?wait, "the rotation task has panicked and is restarted");
        tokio::time::sleep(wait).await;
        keeper.life.recover(ReadAt::now());
    }
}

#[cfg(test)]
mod tests;
