//! What requests and the status page see of an account's keys. Replaced as a whole by the rotation task.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    lease::NoKey,
    pair::LoadedPair,
    status::{PairStatus, SourceContent, SourceStatus},
    version::PairVersion,
};

#[derive(Clone)]
pub(crate) struct KeySnapshot {
    pub(crate) current: Option<Arc<LoadedPair>>,
    /// Whether Fastrac refuses all pairs of the account.
    pub(crate) refused: bool,
    /// Whether the source is being read to find out if there is another pair than the refused one, or a first one.
    pub(crate) deciding: bool,
    /// When the next canary is due while `refused`; `None`: one is running.
    pub(crate) next_canary: Option<Instant>,
    /// When `current` becomes too old to be used; `None`: never.
    pub(crate) stale_at: Option<Instant>,
    pub(crate) pairs: Vec<PairStatus>,
    pub(crate) revoked: Vec<PairVersion>,
    pub(crate) source: SourceStatus,
    pub(crate) content: SourceContent,
    /// When the rotation task was last restarted after a panic.
    pub(crate) restarted: Option<Timestamp>,
}

impl KeySnapshot {
    /// The pair to sign with.
    pub(super) fn usable(&self) -> Result<&Arc<LoadedPair>, NoKey> {
        let refused = NoKey::Refused { next_canary: self.next_canary };
        // The rotation task may not have replaced it yet, or have ended.
        let current = self.current.as_ref().filter(|pair| !pair.is_revoked()).ok_or(if self.refused {
            refused
        } else {
            NoKey::None
        })?;
        match self.stale_at {
            Some(at) if Instant::now() >= at => Err(NoKey::TooOld),
            _ => Ok(current),
        }
    }
}
