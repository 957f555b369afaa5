//! The listeners that speak TLS: which certificate they present, which CAs they accept, and how both change while
//! running.
//!
//! What always holds: certificate, key and CAs are swapped together or not at all; a handshake uses what was active
//! when it began, and an open connection keeps what it was opened with. New files are used when they have not
//! changed for a moment. Files that cannot be used change nothing and are reported once, after [`REPORT_AFTER`],
//! because a half-written pair becomes usable by itself. This file must not know requests. It fails with
//! [`TlsFilesError`].

mod active;
mod handshake;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::active::{ActiveTls, read};
pub use self::handshake::{HandshakeResult, TLS_REQUIRED, TlsSocket};
use crate::{
    config::{ListenConfig, ServerTlsConfig},
    files::FileWatch,
    record::{Handshakes, Metrics},
};

/// The protocols offered by ALPN (RFC 7301).
const DATA_ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
const ADMIN_ALPN: &[&[u8]] = &[b"http/1.1"];

/// How often [`TlsListeners::poll`] is to be called.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long files may be unusable before it is reported: writing one file after the other takes less.
const REPORT_AFTER: Duration = Duration::from_secs(2);

/// Why the files of a listener cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsFilesError(String);

/// The listeners that speak TLS.
#[derive(Default)]
pub struct TlsListeners {
    /// `listen.tls`
    pub data: Option<Arc<TlsListener>>,
    /// `listen.admin_tls`
    pub admin: Option<Arc<TlsListener>>,
}

/// A listener that speaks TLS.
pub struct TlsListener {
    /// Its configuration key, such as `listen.tls`.
    key: &'static str,
    alpn: &'static [&'static [u8]],
    active: ArcSwap<ActiveTls>,
    files: Mutex<TlsFileState>,
    handshakes: Handshakes,
}

/// Which listener it is.
#[derive(Clone, Copy)]
struct ListenerKind {
    key: &'static str,
    /// In metrics.
    label: &'static str,
    alpn: &'static [&'static [u8]],
}

/// What is known about the files.
struct TlsFileState {
    watch: FileWatch,
    /// Since when they cannot be used, and why.
    failing: Option<(Instant, TlsFilesError)>,
    /// The error that was reported.
    reported: Option<String>,
}

impl TlsListeners {
    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// [`TlsFilesError`] names the key, the file, the error and what to do.
    pub fn open(listen: &ListenConfig, metrics: &Metrics) -> Result<TlsListeners, TlsFilesError> {
        let open = |kind: ListenerKind, tls: &Option<ServerTlsConfig>| {
            let handshakes = metrics.handshakes(kind.label);
            tls.as_ref().map(|tls| TlsListener::open(kind, tls, handshakes).map(Arc::new)).transpose()
        };
        let data = ListenerKind { key: "listen.tls", label: "data", alpn: DATA_ALPN };
        let admin = ListenerKind { key: "listen.admin_tls", label: "admin", alpn: ADMIN_ALPN };
        Ok(TlsListeners { data: open(data, &listen.tls)?, admin: open(admin, &listen.admin_tls)? })
    }

    /// Every listener, with its name.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &Arc<TlsListener>)> {
        [("data", &self.data), ("admin", &self.admin)]
            .into_iter()
            .filter_map(|(name, listener)| Some((name, listener.as_ref()?)))
    }

    /// Reads the files of another configuration, or the same files again. Nothing changes before
    /// [`PendingTls::activate`]. A reload can neither add nor remove a TLS listener.
    ///
    /// # Errors
    /// As [`TlsListeners::open`].
    pub fn read_again(&self, listen: &ListenConfig) -> Result<PendingTls, TlsFilesError> {
        let pairs = [(&self.data, &listen.tls), (&self.admin, &listen.admin_tls)];
        let pairs = pairs.into_iter().filter_map(|(listener, tls)| Some((listener.as_ref()?, tls.as_ref()?)));
        pairs
            .map(|(listener, tls)| Ok((listener.clone(), listener.read(tls)?)))
            .collect::<Result<_, _>>()
            .map(PendingTls)
    }

    /// Checks whether files have changed, and uses them. Blocks on file I/O: not for the path.
    pub fn poll(&self) {
        for (_, listener) in self.each() {
            listener.poll();
        }
    }
}

/// What a reload has read.
#[must_use = "it is not active yet"]
pub struct PendingTls(Vec<(Arc<TlsListener>, (ActiveTls, FileWatch))>);

impl PendingTls {
    /// Makes it active.
    pub fn activate(self) {
        for (listener, (active, watch)) in self.0 {
            let mut files = listener.files.lock();
            files.watch = watch;
            listener.activate(active, &mut files);
        }
    }
}

impl TlsListener {
    /// Reads the files of a listener.
    ///
    /// # Errors
    /// As [`TlsListeners::open`].
    fn open(kind: ListenerKind, tls: &ServerTlsConfig, handshakes: Handshakes) -> Result<TlsListener, TlsFilesError> {
        let ListenerKind { key, alpn, .. } = kind;
        let (active, watch) = read(key, tls, alpn)?;
        if let Some(warning) = active.expiry_warning(key) {
            tracing::warn!("{warning}");
        }
        let files = Mutex::new(TlsFileState { watch, failing: None, reported: None });
        Ok(TlsListener { key, alpn, active: ArcSwap::from_pointee(active), files, handshakes })
    }

    /// When the certificate in use expires. `None`: it does not say.
    pub fn expires(&self) -> Option<Timestamp> {
        self.active.load().expires
    }

    /// Whether the certificate in use has expired.
    pub fn has_expired(&self) -> bool {
        self.active.load().has_expired()
    }

    /// Why its present files are not in use.
    pub fn fault(&self) -> Option<String> {
        self.files.lock().reported.clone()
    }

    /// Reads files, and refuses an expired certificate if it is another than the one in use.
    fn read(&self, tls: &ServerTlsConfig) -> Result<(ActiveTls, FileWatch), TlsFilesError> {
        let (active, watch) = read(self.key, tls, self.alpn)?;
        if active.has_expired() && active.digest != self.active.load().digest {
            return Err(TlsFilesError(active.expiry_warning(self.key).unwrap_or_default()));
        }
        Ok((active, watch))
    }

    fn poll(&self) {
        let mut files = self.files.lock();
        if files.watch.poll() {
            files.watch.mark_read();
            let settings = self.active.load().settings.clone();
            match self.read(&settings) {
                Ok((active, _)) if files.watch.is_unchanged() => self.activate(active, &mut files),
                // They have changed again: a later poll reads them.
                Ok(_) => {}
                Err(fault) => {
                    let since = files.failing.take().map_or_else(Instant::now, |(since, _)| since);
                    files.failing = Some((since, fault));
                }
            }
        }
        self.report(&mut files);
    }

    fn activate(&self, active: ActiveTls, files: &mut TlsFileState) {
        let before = self.active.load();
        if (before.digest, &before.settings) != (active.digest, &active.settings) {
            let expires = active.expires.map(tracing::field::display);
            tracing::info!(listener = self.key, expires, "a new certificate is in use");
            self.active.store(Arc::new(active));
        } else if files.reported.is_some() {
            tracing::info!(listener = self.key, "the certificate files can be used again");
        }
        (files.failing, files.reported) = (None, None);
    }

    /// Logs an error once, when it has lasted for some time.
    fn report(&self, files: &mut TlsFileState) {
        let Some((since, TlsFilesError(fault))) = &files.failing else { return };
        if since.elapsed() >= REPORT_AFTER && files.reported.as_ref() != Some(fault) {
            tracing::error!("{fault}; the previous certificate stays in use");
            files.reported = Some(fault.clone());
        }
    }
}

#[cfg(test)]
mod tests;
