//! What a request signs with: a [`Lease`] of the pair in use, or [`NoKey`].
//!
//! A lease is cheap to clone, and a retired pair is zeroed when its last lease is dropped. A response
//! streamed through [`LeakScan`] never contains a live secret of the account, not even split over two chunks.

use std::{fmt, iter, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use tokio::time::Instant;

use super::{pair::LoadedPair, source_traits::SourceId, version::PairVersion};

/// A pair that a request may be signed with.
#[derive(Clone)]
pub struct Lease {
    pair: Arc<LoadedPair>,
}

/// No pair may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// No pair was read so far that Fastrac accepts, or the last one was revoked.
    #[error("no key pair is known that Fastrac accepts and that is not revoked")]
    None,
    /// Fastrac refuses every pair of the account.
    #[error("Fastrac refuses every known key pair")]
    Refused {
        /// When the next canary is due; `None`: one is running.
        next_canary: Option<Instant>,
    },
    /// The source could not be read for longer than `rotation.max_age`.
    #[error("the key pair is older than rotation.max_age allows")]
    TooOld,
    /// The request began before a reload changed the account's address, for which the pair was read.
    #[error("the account has another address now, and the key pair was read for that one")]
    Moved,
}

/// The response contains a live secret of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response contains the live secret key")]
pub struct Leak;

/// Searches a streamed response for the live secrets of the account. It holds back as many bytes as one can take, so that
/// no part of it has been passed on when the rest arrives.
pub struct LeakScan {
    pair: Arc<LoadedPair>,
    held_back: BytesMut,
}

impl Lease {
    pub(crate) fn new(pair: Arc<LoadedPair>) -> Self {
        Self { pair }
    }

    /// The version of the pair.
    pub fn version(&self) -> PairVersion {
        self.pair.version()
    }

    /// The version as text, shared.
    pub fn version_text(&self) -> Arc<str> {
        self.pair.pair.version_text().clone()
    }

    /// Whether the pair was revoked since: then nothing more may be signed with it.
    pub fn is_revoked(&self) -> bool {
        self.pair.is_revoked()
    }

    /// The latest source that has returned the pair.
    pub(crate) fn source(&self) -> SourceId {
        self.pair.source()
    }

    /// Whether the pair was read before `instant`.
    pub(crate) fn was_read_before(&self, instant: Instant) -> bool {
        self.pair.was_read_before(instant)
    }

    /// To be called when Fastrac accepted a request that was signed with the pair and sent at `sent`. No lock.
    pub(crate) fn note_accepted(&self, sent: Instant) {
        self.pair.note_accepted(sent);
    }

    /// Name of the account that the pair belongs to.
    pub fn account(&self) -> &str {
        self.pair.account()
    }

    /// Value of `access-key`, sensitive. A clone copies no bytes.
    pub fn access_key(&self) -> &HeaderValue {
        &self.pair.pair.headers().access_key
    }

    /// Value of `secret-key`, sensitive. A clone copies no bytes.
    pub fn secret_key(&self) -> &HeaderValue {
        &self.pair.pair.headers().secret_key
    }

    /// Value of `authorization`, sensitive. A clone copies no bytes.
    pub fn basic(&self) -> &HeaderValue {
        &self.pair.pair.headers().basic
    }

    /// Whether one of these texts contains the secret key, or another live one of the account: plain, in its Basic
    /// form, or either with JSON escapes. Secrets shorter than 8 bytes are not searched for.
    pub fn any_leaks_in<'t>(&self, texts: impl Iterator<Item = &'t [u8]>) -> bool {
        self.pair.any_leaks_in(texts)
    }

    /// The same search for a streamed response.
    pub fn scan(&self) -> LeakScan {
        LeakScan { pair: self.pair.clone(), held_back: BytesMut::new() }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("account", &self.pair.account()).field("version", &self.version()).finish()
    }
}

impl LeakScan {
    /// Takes the next chunk and returns the bytes that may be passed on, possibly none.
    ///
    /// # Errors
    /// [`Leak`] when the secret is found; then nothing more may be passed on.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Bytes, Leak> {
        self.held_back.extend_from_slice(chunk);
        if self.pair.any_leaks_in(iter::once(&self.held_back[..])) {
            self.held_back.clear();
            return Err(Leak);
        }
        let keep = self.pair.max_secret_len().min(self.held_back.len());
        Ok(self.held_back.split_to(self.held_back.len() - keep).freeze())
    }

    /// The bytes still held back, at the end of the response.
    pub fn finish(&mut self) -> Bytes {
        self.held_back.split().freeze()
    }
}
