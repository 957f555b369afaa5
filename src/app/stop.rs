//! The shutdown: drains, cuts off what is left, and closes everything, in bounded time.
//!
//! Callers come first; the admin port is drained after them, so that health is answered as long as anything is in progress.
//! What always holds: the shutdown ends within `limits.drain` of its beginning, or [`CLOSING`] after it cut something
//! off, in the time in which the process runs, whatever hangs: a disk, a name lookup, a thread; and [`SNAPSHOT_CLOSING`] after the drain if only the cache's
//! snapshot does. What could not be ended is named in the log and left to the end of the process. Never fails.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

use super::{App, cache_snapshots::on_thread};
use crate::{
    deadline::{Deadline, until},
    edge::runtime::DataThread,
};

/// How long the process may go on after the drain has cut something off, until threads, store and logs are closed.
pub const CLOSING: Duration = Duration::from_secs(2);

/// The part of [`CLOSING`] that is left for the process itself to end.
pub const ENDING: Duration = Duration::from_millis(100);

/// How long the exchange log may take to write its last lines, at most.
const LOG_CLOSING: Duration = Duration::from_secs(5);

/// How long the audit log may take for its last lines, at most.
const AUDIT_CLOSING: Duration = Duration::from_millis(500);

/// How long the last snapshot of the cache may take, at most. What was used most comes first, and the snapshot before stays
/// if there is no time for this one.
const SNAPSHOT_CLOSING: Duration = Duration::from_secs(5);

impl App {
    /// Drains and stops: readiness turns to 503; connections are still accepted for `drain_grace`; then the
    /// listeners close; what is in progress `drain` after the call is cut off. Before [`App::accept`] nothing is drained:
    /// only calls of the gateway's own can be in progress. Blocks.
    pub fn stop(self) {
        let mut limits = self.gateway.in_force.load().config.limits.clone();
        if !self.listeners.is_empty() {
            limits.drain = Duration::ZERO;
        }
        let App { drain, threads, store, snapshots, ledger, audit, control, gateway, clock, acceptor, .. } = self;
        let (began, mut cut_off) = (Instant::now(), Instant::now() + limits.drain);
        drain.begin();
        clock.block_on(async {
            let grace = limits.drain_grace.min(limits.drain);
            sleep(grace).await;
            drain.stop.cancel();
            drain.tasks.close();
            drop(acceptor);
            // A data thread ends when the last sender to it is dropped.
            let ended = threads.into_iter().map(|DataThread { ended, heartbeat, .. }| (ended, heartbeat));
            let ended: Vec<_> = ended.collect();
            let stop_admin = || {
                drain.stop_admin.cancel();
                drain.admin_tasks.close();
            };
            let drained = async {
                drain.tasks.wait().await;
                stop_admin();
                drain.admin_tasks.wait().await;
            };
            // What arrived during a pause of the process is read after it.
            if Deadline::never().bound_running(limits.drain - grace, drained).await.is_none()
                && let left @ 1.. = drain.tasks.len()
            {
                tracing::warn!(left, "connections and orders are still in progress and are cut off");
            }
            stop_admin();
            drain.cut.cancel();
            // Nor does it shorten the closing.
            cut_off = cut_off.max(Instant::now());

            let (admin_by, end_by) = (Instant::now() + CLOSING / 4, Instant::now() + CLOSING / 2);
            if until(admin_by, drain.admin_tasks.wait()).await.is_none() {
                let left = drain.admin_tasks.len();
                tracing::warn!(left, "commands of the admin port are still in progress and are cut off");
            }
            for (ended, heartbeat) in ended {
                bounded(end_by, heartbeat.name(), ended).await;
            }
        });
        gateway.live.orders.write_time();
        let close_by = close_by(cut_off, Instant::now());
        // Before anything is counted for the last time: calls of the gateway's own that are in progress are dropped with the
        // runtime, and then count as sent or as never sent. Files that are being read or written may delay that.
        control.shutdown_timeout(CLOSING / 4);
        gateway.live.spending.write();
        clock.block_on(async {
            let (log, log_closing) = (gateway.live.log.clone(), (close_by - Instant::now()).min(LOG_CLOSING));
            let log = on_thread("log-close", move || log.close(log_closing));
            let vault = gateway.current.load().vault.clone();
            let session = async {
                if let Some(vault) = vault {
                    vault.close().await;
                }
            };
            let session = bounded(close_by.min(Instant::now() + CLOSING / 2), "the vault", session);
            let state = async {
                // Nothing is sent any more.
                ledger.close(gateway.close_counts()).await;
                store.close().await;
                gateway.live.orders.archive().close().await;
            };
            let state = bounded(close_by, "the state store, whose disk does not respond", state);
            // No order is refused any more, and what the journal says of those that were may not be on disk in time.
            let orders = gateway.live.orders.clone();
            let withdrawn = on_thread("orders-withdrawn", move || orders.note_withdrawn());
            let withdrawn = bounded(close_by, "the note of orders that were not sent", withdrawn);
            // Commands that were cut off have their lines by now.
            let audit_closing = (close_by - Instant::now()).min(AUDIT_CLOSING);
            let audit = on_thread("audit-close", move || audit.close(audit_closing));
            let snapshot_by = close_by.min(Instant::now() + SNAPSHOT_CLOSING);
            let entries = snapshots.close(snapshot_by);
            let entries = bounded(snapshot_by, "the snapshot of the cache, whose disk does not respond", entries);
            let _ = tokio::join!(state, withdrawn, entries, log, session, audit);
        });
        // Does not wait for a name lookup that hangs.
        clock.shutdown_background();
        tracing::info!(seconds = began.elapsed().as_secs_f32(), "stopped");
    }
}

/// Until when store and logs are waited for, if the drain ends at `cut_off` at the latest and has ended at `now`.
fn close_by(cut_off: Instant, now: Instant) -> Instant {
    // Before the process ends without them, so that the log says what is not waited for.
    cut_off.max(now + CLOSING).min(cut_off + CLOSING - 2 * ENDING)
}

/// Waits for something to end, but not for longer than `close_by`.
async fn bounded<T>(close_by: Instant, what: &str, end: impl Future<Output = T>) {
    if until(close_by, end).await.is_none() {
        tracing::error!("the shutdown does not wait any longer for {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_waited_for_until_shortly_before_the_promised_end() {
        let (second, cut_off) = (Duration::from_secs(1), Instant::now() + Duration::from_secs(60));
        for late in [0, 1, 2] {
            assert_eq!(close_by(cut_off, cut_off + second * late), cut_off + CLOSING - 2 * ENDING);
        }
        assert_eq!(close_by(cut_off, cut_off - second * 30), cut_off, "nothing was left to be cut off");
    }
}
