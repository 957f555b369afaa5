//! What requests and the status page see of an account's keys. Replaced as a whole by the rotation task.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    lease::NoKey,
    pair::LoadedPair,
    status::{PairStatus, SourceStatus},
    version::PairVersion,
};

#[derive(Clone)]
pub(crate) struct KeySnapshot {
    pub(crate) current: Option<Arc<LoadedPair>>,
    /// Whether Fastrac refuses the account's pair.
    pub(crate) refused: bool,
    /// When `current` becomes too old to be used; `None`: never.
    pub(crate) stale_at: Option<Instant>,
    /// When the source was last read successfully.
    pub(crate) read_at: Option<Instant>,
    pub(crate) pairs: Vec<PairStatus>,
    pub(crate) revoked: Vec<PairVersion>,
    pub(crate) source: SourceStatus,
}

impl KeySnapshot {
    /// The pair to sign with.
    pub(super) fn usable(&self) -> Result<&Arc<LoadedPair>, NoKey> {
        let current = self.current.as_ref().ok_or(if self.refused { NoKey::Refused } else { NoKey::None })?;
        match self.stale_at {
            Some(at) if Instant::now() >= at => Err(NoKey::TooOld),
            _ => Ok(current),
        }
    }
}
