//! Reloads the configuration file: on command, and when it has changed.
//!
//! Changes are detected by [`FileWatch`], following links: a replaced file, a swapped link to its folder
//! and an edit in place are all detected. A change counts when two polls see the same state, so a file is not
//! read while an editor writes it. A file that is removed is not a change; its return is. After a reload that failed
//! because of a file that the configuration names, a change of that file counts too. Fails with [`ReloadError`].

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{Gateway, Removals, StartError};
use crate::{
    backoff::Backoff,
    files::{FileWatch, configuration::LoadError, configuration_is_late, late_reads},
    record::UNLIMITED,
};

/// Interval between polls.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Errors of a configuration that a reload logs; `check` and `POST /reload` tell all.
const LOGGED_ERRORS: usize = 20;

/// The configuration was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The gateway was started without a file.
    #[error("this gateway has no configuration file")]
    NoFile,
    /// The file can't be read, or has faults.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What it names can't be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It removes more than it may without confirmation.
    #[error("the configuration was not reloaded: {0}")]
    Removals(Removals),
    /// Another reload is in progress and has not ended in time: a disk may not respond.
    #[error("another reload has not ended yet")]
    Busy,
}

/// How long a reload waits for the one before it; less than the admin port gives a request.
const TURN: Duration = Duration::from_secs(20);

/// Waits after changed files have been read in vain, because a disk did not respond.
const LATE_AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// When changed files are read again that could not be read in time.
#[derive(Debug)]
pub(super) struct LateReads {
    backoff: Backoff,
    /// Not before then.
    again: Option<Instant>,
}

impl Default for LateReads {
    fn default() -> Self {
        LateReads { backoff: LATE_AGAIN, again: None }
    }
}

impl LateReads {
    fn is_over(&self) -> bool {
        self.again.is_none_or(|again| Instant::now() >= again)
    }

    fn ended(&mut self, was_late: bool) {
        self.again = was_late.then(|| Instant::now() + self.backoff.next());
        if !was_late {
            self.backoff.reset();
        }
    }
}

impl Gateway {
    /// Reads the configuration file again and puts it in force. Requests in progress end with
    /// the previous one. Blocks on file I/O: not for the path.
    ///
    /// # Errors
    /// [`ReloadError`] says all that is wrong; nothing has changed then.
    pub fn reload(&self) -> Result<(), ReloadError> {
        self.reload_with(false)
    }

    /// The same, whatever it removes.
    ///
    /// # Errors
    /// [`ReloadError`], except [`ReloadError::Removals`].
    pub fn reload_confirmed(&self) -> Result<(), ReloadError> {
        self.reload_with(true)
    }

    fn reload_with(&self, confirmed: bool) -> Result<(), ReloadError> {
        let mut watch = self.watch.try_lock_for(TURN).ok_or_else(|| {
            tracing::error!("the configuration was not read again: another reload has not ended yet");
            ReloadError::Busy
        })?;
        self.reload_as(&mut watch, confirmed)
    }

    /// Reads the configuration file again if it changed since it was last read and is not being written
    /// at the moment; after an error too, only the next change is read. If a disk has not responded, the change is read
    /// again after a wait, and not before a reading of the configuration that is late has ended. To be called every
    /// [`POLL_INTERVAL`]; blocks for a file or two. Says whether it did.
    pub fn poll_file(&self) -> bool {
        let Some(file) = self.file.as_deref().filter(|_| self.in_force.load().config.reload.watch) else {
            return false;
        };
        if configuration_is_late(file) || !self.late.lock().is_over() {
            return false;
        }
        let before = self.watch.lock().clone();
        let mut polled = before.clone();
        // Locks nothing: a disk that hangs makes no reload wait.
        let has_changed = polled.poll();
        let mut watch = self.watch.lock();
        if *watch != before {
            // They were read meanwhile.
            return false;
        }
        *watch = polled;
        // A file that is removed is not read: the configuration in force stays.
        has_changed && watch.first_exists() && {
            tracing::info!(file = %file.display(), "the configuration file, or a file that it names, has changed");
            let (changed, late) = (watch.clone(), late_reads());
            // It says itself how it went.
            let was_late = self.reload_as(&mut watch, false).is_err() && late_reads() > late;
            if was_late {
                *watch = changed;
            }
            self.late.lock().ended(was_late);
            true
        }
    }

    fn reload_as(&self, watch: &mut FileWatch, confirmed: bool) -> Result<(), ReloadError> {
        let reloaded = self.read_again(watch, confirmed);
        self.reloaded_well.store(reloaded.is_ok(), Ordering::Relaxed);
        match &reloaded {
            Ok(()) => tracing::info!("the configuration was read again and is in force"),
            Err(error) => {
                tracing::error!(%error, "the configuration was read again; nothing was changed");
                if let ReloadError::Load(LoadError::Invalid { errors, .. }) = error {
                    for error in errors.iter().take(LOGGED_ERRORS) {
                        tracing::error!(target: UNLIMITED, "{error}");
                    }
                    if let Some(more) = errors.len().checked_sub(LOGGED_ERRORS).filter(|more| *more > 0) {
                        tracing::error!(target: UNLIMITED, more, "and more errors: `check` prints all of them");
                    }
                }
            }
        }
        reloaded
    }
}
