//! TLS at the doors: which certificate is shown, whose are accepted, and how both change while running.
//!
//! What always holds: certificate, key and authorities are swapped together, or not at all; a
//! handshake uses what was in force when it began, and a connection stays as it was opened. New
//! files are taken when nothing has changed for a moment; what can't be used changes nothing and
//! is told once, after `PATIENCE`, because a pair that is being written mends itself. Knows no
//! request. Fails with [`Faulty`].

mod handshake;
mod showing;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

pub use self::handshake::Shaken;
use self::showing::{Showing, Stamps, ended, read, settling, stamps};
use crate::{
    config::{ListenConfig, ServerTlsConfig},
    record::{Handshakes, Metrics},
};

/// What the data port speaks, and what the admin port does (RFC 7301).
const DATA: &[&[u8]] = &[b"h2", b"http/1.1"];
const ADMIN: &[&[u8]] = &[b"http/1.1"];

/// How often [`Doors::look`] is to be called.
pub const LOOK: Duration = Duration::from_millis(500);
/// How long files may be unusable before somebody is told: who writes one file after the other takes less.
const PATIENCE: Duration = Duration::from_secs(2);

/// A listener's files can't be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Faulty(String);

/// The listeners that speak TLS.
#[derive(Default)]
pub struct Doors {
    /// `listen.tls`
    pub data: Option<Arc<Door>>,
    /// `listen.admin_tls`
    pub admin: Option<Arc<Door>>,
}

/// A listener that speaks TLS.
pub struct Door {
    /// Where it stands in the configuration.
    place: &'static str,
    speaks: &'static [&'static [u8]],
    showing: ArcSwap<Showing>,
    watch: Mutex<Watch>,
    handshakes: Handshakes,
}

/// What is known of the files.
struct Watch {
    /// The state that was read last.
    read: Stamps,
    /// Since when they can't be used, and why.
    failing: Option<(Instant, Faulty)>,
    /// What somebody was told.
    told: Option<String>,
}

impl Doors {
    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// [`Faulty`] names the key, the file, what is wrong with it and what to do.
    pub fn open(listen: &ListenConfig, metrics: &Metrics) -> Result<Doors, Faulty> {
        let open = |(place, listener, speaks), tls: &Option<ServerTlsConfig>| {
            let handshakes = metrics.handshakes(listener);
            tls.as_ref().map(|tls| Door::open((place, speaks), tls, handshakes).map(Arc::new)).transpose()
        };
        Ok(Doors {
            data: open(("listen.tls", "data", DATA), &listen.tls)?,
            admin: open(("listen.admin_tls", "admin", ADMIN), &listen.admin_tls)?,
        })
    }

    /// Every door, with the name of its listener.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &Arc<Door>)> {
        [("data", &self.data), ("admin", &self.admin)]
            .into_iter()
            .filter_map(|(name, door)| Some((name, door.as_ref()?)))
    }

    /// Reads the files of another configuration, or the same files again. Nothing changes before
    /// [`Renewal::show`]. A door can neither be added nor taken away.
    ///
    /// # Errors
    /// As [`Doors::open`].
    pub fn renew(&self, listen: &ListenConfig) -> Result<Renewal, Faulty> {
        let pairs = [(&self.data, &listen.tls), (&self.admin, &listen.admin_tls)];
        let renewed = pairs.into_iter().filter_map(|(door, tls)| Some((door.as_ref()?, tls.as_ref()?)));
        renewed.map(|(door, tls)| Ok((door.clone(), door.read(tls)?))).collect::<Result<_, _>>().map(Renewal)
    }

    /// Looks whether files have changed, and takes them. Reads files: not for the path.
    pub fn look(&self) {
        for (_, door) in self.each() {
            door.look();
        }
    }
}

/// What was read for a reload.
#[must_use = "it is not in force yet"]
pub struct Renewal(Vec<(Arc<Door>, (Showing, Stamps))>);

impl Renewal {
    /// Puts it in force.
    pub fn show(self) {
        for (door, (showing, stamps)) in self.0 {
            let mut watch = door.watch.lock();
            door.take(showing, stamps, &mut watch);
        }
    }
}

impl Door {
    /// A door whose files were read.
    ///
    /// # Errors
    /// As [`Doors::open`].
    fn open(
        (place, speaks): (&'static str, &'static [&'static [u8]]),
        tls: &ServerTlsConfig,
        handshakes: Handshakes,
    ) -> Result<Door, Faulty> {
        let (showing, read) = read(place, tls, speaks)?;
        if showing.has_ended() {
            tracing::error!("{}", ended(place, tls, showing.ends));
        }
        let watch = Mutex::new(Watch { read, failing: None, told: None });
        Ok(Door { place, speaks, showing: ArcSwap::from_pointee(showing), watch, handshakes })
    }

    /// When the certificate that is shown ends. `None`: it doesn't say.
    pub fn ends(&self) -> Option<Timestamp> {
        self.showing.load().ends
    }

    /// Whether the certificate that is shown has ended.
    pub fn has_ended(&self) -> bool {
        self.showing.load().has_ended()
    }

    /// Why its files are not what is shown.
    pub fn fault(&self) -> Option<String> {
        self.watch.lock().told.clone()
    }

    /// Reads files, and wants them no worse than what is shown.
    fn read(&self, tls: &ServerTlsConfig) -> Result<(Showing, Stamps), Faulty> {
        let (showing, stamps) = read(self.place, tls, self.speaks)?;
        if showing.has_ended() && showing.digest != self.showing.load().digest {
            return Err(Faulty(ended(self.place, tls, showing.ends)));
        }
        Ok((showing, stamps))
    }

    fn look(&self) {
        let mut watch = self.watch.lock();
        let settings = self.showing.load().settings.clone();
        let now = stamps(&settings);
        if now != watch.read && !settling(&now) {
            match self.read(&settings) {
                // They changed meanwhile: the next look sees them again.
                Ok((_, read)) if read != now => {}
                Ok((showing, read)) => self.take(showing, read, &mut watch),
                Err(fault) => {
                    watch.read = now;
                    let since = watch.failing.take().map_or_else(Instant::now, |(since, _)| since);
                    watch.failing = Some((since, fault));
                }
            }
        }
        self.tell(&mut watch);
    }

    fn take(&self, showing: Showing, stamps: Stamps, watch: &mut Watch) {
        let before = self.showing.load();
        if (before.digest, &before.settings) != (showing.digest, &showing.settings) {
            let ends = showing.ends.map(tracing::field::display);
            tracing::info!(listener = self.place, ends, "a new certificate is shown from now on");
            self.showing.store(Arc::new(showing));
        } else if watch.told.is_some() {
            tracing::info!(listener = self.place, "the files of the certificate can be used again");
        }
        *watch = Watch { read: stamps, failing: None, told: None };
    }

    /// Tells once what has been wrong for some time.
    fn tell(&self, watch: &mut Watch) {
        let Some((since, Faulty(fault))) = &watch.failing else { return };
        if since.elapsed() >= PATIENCE && watch.told.as_ref() != Some(fault) {
            tracing::error!("{fault}; the certificate from before is still shown");
            watch.told = Some(fault.clone());
        }
    }
}

#[cfg(test)]
mod tests;
