//! Settings of a reload on their way to an account's rotation task.
//!
//! They wait beside the task's inbox and not in it, so that they are neither lost nor late because it is full of what
//! refused requests say. Never fails.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{source::PairSource, source_traits::SourceId};
use crate::config::RotationConfig;

/// What a reload changes of an account's keys.
pub(crate) struct KeySettings {
    /// Another source; `None`: the present one stays.
    pub(crate) source: Option<Arc<PairSource>>,
    pub(crate) rotation: RotationConfig,
    /// The account is called at another address; with its source then, whose pairs and those of later ones may be sent there.
    pub(crate) moved: Option<SourceId>,
}

/// Settings that the rotation task takes.
pub(crate) struct TakenSettings {
    pub(crate) source: Option<Arc<PairSource>>,
    pub(crate) rotation: RotationConfig,
    /// Since when the account is called at another address, and its source then.
    pub(crate) moved: Option<(Instant, SourceId)>,
    /// Who waits for them: dropped once they are in force.
    waiting: Vec<mpsc::Sender<()>>,
}

/// The settings that the rotation task has not taken yet.
#[derive(Default)]
pub(super) struct PendingSettings {
    settings: Mutex<Option<TakenSettings>>,
    put: Notify,
}

/// Settings on their way to the rotation task; `None`: it has ended.
pub(crate) struct SentSettings(Option<mpsc::Receiver<()>>);

impl PendingSettings {
    /// Puts the settings that are the account's since then. Those of an earlier reload that still wait are in force with
    /// them.
    pub(super) fn put(&self, settings: KeySettings, since: Instant) -> SentSettings {
        let KeySettings { source, rotation, moved } = settings;
        let (reply, taken) = mpsc::channel();
        let moved = moved.map(|source| (since, source));
        let mut pending = self.settings.lock();
        let before = pending.take();
        let (source_before, moved_before, mut waiting) =
            before.map_or((None, None, Vec::new()), |before| (before.source, before.moved, before.waiting));
        waiting.push(reply);
        let (source, moved) = (source.or(source_before), moved.or(moved_before));
        *pending = Some(TakenSettings { source, rotation, moved, waiting });
        drop(pending);
        self.put.notify_one();
        SentSettings(Some(taken))
    }

    pub(super) fn take(&self) -> Option<TakenSettings> {
        self.settings.lock().take()
    }

    /// Returns once there are settings to take. Cancel safe.
    pub(super) async fn wait(&self) {
        self.put.notified().await;
    }
}

impl SentSettings {
    pub(super) fn to_ended_task() -> Self {
        Self(None)
    }

    /// Waits until they are in force, but not longer than `within`. Says whether they are; if not, they will be as soon as
    /// the task gets to it. Blocks.
    pub(crate) fn are_in_force(self, within: Duration) -> bool {
        // The task drops its end once they are.
        self.0.is_some_and(|taken| !matches!(taken.recv_timeout(within), Err(mpsc::RecvTimeoutError::Timeout)))
    }
}
