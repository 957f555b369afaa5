//! What a door shows and accepts: read from its files, in one state of them.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use rustls::{
    ServerConfig,
    crypto::ring::Ticketer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};

use super::Faulty;
use crate::config::{
    ClientAuth, ServerTls,
    files::listener::{self, Usable},
};

/// Files that changed a moment ago may not be whole.
const SETTLED: Duration = Duration::from_millis(200);

/// What a listener shows and accepts.
pub(super) struct Showing {
    pub(super) settings: ServerTls,
    pub(super) config: Arc<ServerConfig>,
    pub(super) ends: Option<Timestamp>,
    pub(super) digest: [u8; 32],
}

/// What tells one state of the files from another: of each the device, inode, size, and the times of
/// its last change. `None`: it isn't there.
pub(super) type Stamps = [Option<[i128; 5]>; 3];

impl Showing {
    pub(super) fn has_ended(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Timestamp::now())
    }
}

pub(super) fn ended(place: &str, tls: &ServerTls, ends: Option<Timestamp>) -> String {
    let ends = ends.map_or_else(String::new, |ends| format!(" on {ends:.0}"));
    format!("{place}.cert: {} ended{ends}: every client refuses it; renew it", tls.cert.display())
}

/// Reads the files in one state, as far as that can be seen.
pub(super) fn read(place: &str, tls: &ServerTls, speaks: &[&[u8]]) -> Result<(Showing, Stamps), Faulty> {
    let before = stamps(tls);
    let usable = listener::open(tls).map_err(|faults| {
        let each = faults.iter().map(|fault| format!("{place}.{}: {fault}", fault.key));
        Faulty(each.collect::<Vec<_>>().join("; "))
    })?;
    let (ends, digest) = (usable.ends, usable.digest);
    let config = server(tls, usable, speaks).map_err(|error| Faulty(format!("{place}: {error}")))?;
    Ok((Showing { settings: tls.clone(), config: Arc::new(config), ends, digest }, before))
}

fn server(tls: &ServerTls, usable: Usable, speaks: &[&[u8]]) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let verifier = match usable.authorities {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authorities) => {
            let builder = WebPkiClientVerifier::builder(Arc::new(authorities));
            let optional = tls.client_auth == ClientAuth::Optional;
            if optional { builder.allow_unauthenticated() } else { builder }.build()?
        }
    };
    let shown = Arc::new(SingleCertAndKey::from(usable.certified));
    let mut config = ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(shown);
    config.alpn_protocols = speaks.iter().map(|name| name.to_vec()).collect();
    if tls.client_auth == ClientAuth::None {
        config.ticketer = Ticketer::new()?;
    } else {
        // rustls resumes a client's identity unchecked, for hours after its certificate has ended.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

/// The state that the files are in.
pub(super) fn stamps(tls: &ServerTls) -> Stamps {
    let stamp = |file: &Path| {
        let meta = std::fs::metadata(file).ok()?;
        let changed = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
        let modified = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Some([meta.dev().into(), meta.ino().into(), meta.size().into(), modified, changed])
    };
    [stamp(&tls.cert), stamp(&tls.key), tls.client_ca.as_deref().and_then(stamp)]
}

/// Whether one of the files changed a moment ago. A time in the future, by a clock that was put back, doesn't count.
pub(super) fn settling(stamps: &Stamps) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
    let ages = stamps.iter().flatten().map(|[.., changed]| now - changed);
    ages.into_iter().any(|age| (0..SETTLED.as_nanos() as i128).contains(&age))
}
