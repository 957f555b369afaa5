//! What may be shown of an account's keys: events, places, versions, ages. Holds no value of a pair.

use jiff::Timestamp;

use super::{lease::NoKey, version::PairVersion};

/// Something happened to an account's pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub what: KeyEvent,
    /// To which version; `None` for the source's own events.
    pub version: Option<PairVersion>,
}

/// The closed list of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the words of `key_events_total`")]
pub enum KeyEvent {
    Seen,
    Verified,
    Promoted,
    Refused,
    Refreshed,
    RolledBack,
    Retired,
    Revoked,
    SourceLost,
    SourceBack,
    SourceDeleted,
}

impl KeyEvent {
    /// Every event.
    pub const ALL: [KeyEvent; 11] = [
        KeyEvent::Seen,
        KeyEvent::Verified,
        KeyEvent::Promoted,
        KeyEvent::Refused,
        KeyEvent::Refreshed,
        KeyEvent::RolledBack,
        KeyEvent::Retired,
        KeyEvent::Revoked,
        KeyEvent::SourceLost,
        KeyEvent::SourceBack,
        KeyEvent::SourceDeleted,
    ];

    /// The label in metrics and log.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyEvent::Seen => "seen",
            KeyEvent::Verified => "verified",
            KeyEvent::Promoted => "promoted",
            KeyEvent::Refused => "refused",
            KeyEvent::Refreshed => "refreshed",
            KeyEvent::RolledBack => "rolled_back",
            KeyEvent::Retired => "retired",
            KeyEvent::Revoked => "revoked",
            KeyEvent::SourceLost => "source_lost",
            KeyEvent::SourceBack => "source_back",
            KeyEvent::SourceDeleted => "source_deleted",
        }
    }
}

/// A pair's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of contract section 6")]
pub enum Role {
    Current,
    Previous,
    Candidate,
}

/// What Fastrac thought of a pair when it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub enum Verification {
    Unverified,
    Verified,
    Refused,
}

impl Role {
    /// The word in status.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Current => "current",
            Role::Previous => "previous",
            Role::Candidate => "candidate",
        }
    }
}

impl Verification {
    /// The word in status.
    pub fn as_str(self) -> &'static str {
        match self {
            Verification::Unverified => "unverified",
            Verification::Verified => "verified",
            Verification::Refused => "refused",
        }
    }
}

/// All that may be shown of a pair.
#[derive(Clone, Debug)]
pub struct PairStatus {
    /// Its digest.
    pub version: PairVersion,
    /// The source's own number of it, if it has one.
    pub source_version: Option<u64>,
    /// Its place.
    pub role: Role,
    /// What Fastrac thinks of it.
    pub standing: Verification,
    /// When it was read first.
    pub loaded_at: Timestamp,
}

/// How the source does.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// `file`, `directory`, `vault` or `env`.
    pub kind: &'static str,
    /// Whether the last reading was good.
    pub up: bool,
    /// When it was last read well.
    pub last_success: Option<Timestamp>,
    /// The source's own number of what it gave last, if it has one.
    pub version: Option<u64>,
    /// What is wrong, without any value.
    pub fault: Option<String>,
}

/// An account's keys as `/status` shows them.
#[derive(Clone, Debug)]
pub struct KeyStatus {
    /// Why no request can be signed; `None` when one can.
    pub no_key: Option<NoKey>,
    /// The pairs held.
    pub pairs: Vec<PairStatus>,
    /// Versions that are barred.
    pub revoked: Vec<PairVersion>,
    /// How the source does.
    pub source: SourceStatus,
}
