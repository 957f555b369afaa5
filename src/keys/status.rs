//! What may be shown of an account's keys: events, roles, versions, ages. Contains no value of a pair.

use jiff::Timestamp;

use super::{lease::NoKey, version::PairVersion};

/// An event in the life of an account's pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub what: KeyEvent,
    /// The version that it concerns; `None`: an event of the source.
    pub version: Option<PairVersion>,
}

/// What happened.
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
    Restarted,
}

impl KeyEvent {
    /// Every event.
    pub const ALL: [KeyEvent; 12] = [
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
        KeyEvent::Restarted,
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
            KeyEvent::Restarted => "restarted",
        }
    }
}

/// The role of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of contract section 6")]
pub enum Role {
    Current,
    Previous,
    Candidate,
}

/// What Fastrac said about a pair in the last conclusive verification.
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

/// What may be shown of a pair.
#[derive(Clone, Debug)]
pub struct PairStatus {
    pub version: PairVersion,
    /// The source's own version number, if it has one.
    pub source_version: Option<u64>,
    pub role: Role,
    pub standing: Verification,
    /// Whether requests signed with it were refused since the last conclusive verification.
    pub doubted: bool,
    /// Whether the last canary left it undecided.
    pub undecided: bool,
    /// When it was first read.
    pub loaded_at: Timestamp,
}

/// The state of the source.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// `file`, `directory`, `vault` or `env`.
    pub kind: &'static str,
    /// Whether the last reading succeeded.
    pub up: bool,
    /// When it was last read successfully.
    pub last_success: Option<Timestamp>,
    /// The source's own version number of what it returned last, if it has one.
    pub version: Option<u64>,
    /// What is wrong, without any value.
    pub fault: Option<String>,
    /// Whether the fault is that it contains no whole pair.
    pub incomplete: bool,
}

impl SourceStatus {
    /// Whether it has been read, successfully or not.
    pub fn was_read(&self) -> bool {
        self.up || self.fault.is_some()
    }
}

/// What the source contains, for the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceContent {
    /// It was never read.
    Unknown,
    /// A pair that Fastrac has not refused.
    Usable,
    /// A pair that Fastrac refuses.
    Refused,
    /// A pair that was revoked.
    Revoked,
    /// It can be read, but that is not a whole pair.
    Incomplete,
}

/// An account's keys as `/status` shows them.
#[derive(Clone, Debug)]
pub struct KeyStatus {
    /// Why no request can be signed; `None` when one can.
    pub no_key: Option<NoKey>,
    /// Current, previous and candidate, as far as they exist.
    pub pairs: Vec<PairStatus>,
    pub revoked: Vec<PairVersion>,
    pub source: SourceStatus,
    pub content: SourceContent,
    /// When the rotation task was last restarted after a panic.
    pub restarted: Option<Timestamp>,
}
