//! What is known of a request when its record is counted and written.
//!
//! Data only. Its `Debug` shows neither target nor bodies: they are masked only on the way into the
//! line.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Uri};

use super::{id::RequestId, mask::Presented, names::CacheResult};
use crate::outcome::{Code, Outcome, Sent};

/// A request as its record sees it.
pub struct RequestFacts {
    /// The request's id.
    pub id: RequestId,
    /// Index of the operation.
    pub operation: Option<usize>,
    /// Status of the response; `None` if there was none.
    pub status: Option<u16>,
    /// [`Outcome::ClientGone`] until it is set.
    pub outcome: Outcome,
    /// Why the gateway itself answered.
    pub code: Option<Code>,
    /// The quota that would have refused it, if it were enforced.
    pub would_refuse: Option<Code>,
    /// `None` if the operation does not use the cache.
    pub cache: Option<CacheResult>,
    /// Whether Fastrac saw this request.
    pub sent: Sent,
    /// Number of times it was sent.
    pub attempts: u32,
    /// Version of the key pair of the last attempt.
    pub key_version: Option<Arc<str>>,
    /// Time spent waiting for Fastrac, including for a call that this request joined.
    pub upstream: Duration,
    /// Time spent waiting for the account's budget; not part of the overhead.
    pub waited: Duration,
    /// Time spent waiting between attempts, and for a place in the log's queue; not part of the overhead.
    pub paused: Duration,
    /// Time spent waiting for the caller's bytes; not part of the overhead.
    pub caller: Duration,
    /// The request's body. Written only if the request was sent to Fastrac.
    pub request_body: CapturedBody,
    /// The response's body. Written only if the request was sent to Fastrac.
    pub answer_body: CapturedBody,
    /// Id of the exchange whose stored answer was served.
    pub stored_from: Option<HeaderValue>,
    /// Whether its caller chose the id.
    pub(super) callers_id: bool,
    /// `None` if the head could not be parsed.
    pub(super) target: Option<RequestTarget>,
    /// What its caller presented as credentials, not to be written.
    pub(super) presented: Presented,
    /// Index of the service; of such a fetch, that of the one whose request began it.
    pub(super) service: Option<usize>,
    /// Index of the account of a fetch that no caller waits for.
    pub(super) own_account: Option<usize>,
}

/// Method and URI of a request, unmasked.
pub(super) struct RequestTarget {
    pub(super) method: Method,
    pub(super) uri: Uri,
}

impl RequestFacts {
    pub(super) fn new(id: RequestId, target: Option<RequestTarget>) -> Self {
        RequestFacts {
            id,
            operation: None,
            status: None,
            outcome: Outcome::ClientGone,
            code: None,
            would_refuse: None,
            cache: None,
            sent: Sent::No,
            attempts: 0,
            key_version: None,
            upstream: Duration::ZERO,
            waited: Duration::ZERO,
            paused: Duration::ZERO,
            caller: Duration::ZERO,
            request_body: CapturedBody::default(),
            answer_body: CapturedBody::default(),
            stored_from: None,
            callers_id: false,
            target,
            presented: Presented::default(),
            service: None,
            own_account: None,
        }
    }
}

impl RequestFacts {
    /// Bytes of the bodies that are held whole.
    pub(super) fn held_body_bytes(&self) -> u64 {
        let held = |body: &CapturedBody| if body.whole.is_some() { body.length } else { 0 };
        held(&self.request_body) + held(&self.answer_body)
    }
}

impl std::fmt::Debug for RequestFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestFacts").field("id", &self.id).field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

/// A body as the record holds it.
#[derive(Clone, Default)]
pub struct CapturedBody {
    /// Its bytes, if all of them are held.
    pub(super) whole: Option<Bytes>,
    /// Bytes.
    pub(super) length: u64,
    /// Some of it was received, perhaps no byte.
    pub(super) is_part: bool,
}

impl CapturedBody {
    /// A complete body. An empty one counts as none.
    pub fn whole(bytes: Bytes) -> CapturedBody {
        CapturedBody { length: bytes.len() as u64, whole: Some(bytes), is_part: false }
    }

    /// A body that was cut off, withheld, or is too long to be held: only the length of what was received is logged.
    pub fn part(length: u64) -> CapturedBody {
        CapturedBody { whole: None, length, is_part: true }
    }

    /// Whether its bytes are held.
    pub fn is_held(&self) -> bool {
        self.whole.is_some()
    }
}

impl std::fmt::Debug for CapturedBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CapturedBody({} bytes)", self.length)
    }
}
