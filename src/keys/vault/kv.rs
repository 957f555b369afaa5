//! One account's secret in a KV engine.
//!
//! The version of the engine is read from the vault, as its own command line does
//! (`sys/internal/ui/mounts`); if the token may not read it, version 2 is assumed. A secret that was
//! deleted or destroyed is an error and never a value. A denied reading leads to one new login, and the
//! next only after a wait that grows, because an ended token and a denied path look the same. Fails with
//! [`VaultError`].

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    client::{VaultRequest, VaultResponse, encoded},
    fault::VaultError,
    number::number,
    said::said,
    session::{Vault, VaultToken},
};
use crate::{
    backoff::Backoff,
    keys::{pair::RawPair, secret::Secret},
};

/// Deadline for a whole reading: engine version, login, secret, and diagnosis.
const READ_DEADLINE: Duration = Duration::from_secs(15);
/// First and maximum wait between two logins that are caused by denied readings.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const MAX_WAIT: Duration = Duration::from_secs(3600);

pub(crate) struct KvSecret {
    vault: Arc<Vault>,
    mount: String,
    path: String,
    state: Mutex<ReadState>,
}

#[derive(Default)]
struct ReadState {
    engine: Option<Engine>,
    /// Set while readings are denied.
    denied: Option<DeniedReading>,
}

struct DeniedReading {
    /// When a denied reading may lead to a login again.
    next_login: Instant,
    waits: Backoff,
}

/// Version of the KV engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    V1,
    V2,
}

#[derive(Deserialize)]
struct MountBody {
    data: MountInfo,
}

#[derive(Deserialize)]
struct MountInfo {
    options: Option<MountOptions>,
}

#[derive(Deserialize)]
struct MountOptions {
    version: Option<String>,
}

#[derive(Deserialize)]
struct KvV1Body {
    data: PairFields,
}

#[derive(Deserialize)]
struct KvV2Body {
    data: Option<KvV2Data>,
}

#[derive(Deserialize)]
struct KvV2Data {
    data: Option<PairFields>,
    metadata: KvV2Metadata,
}

#[derive(Deserialize)]
struct KvV2Metadata {
    #[serde(default, deserialize_with = "number")]
    version: u64,
    #[serde(default)]
    destroyed: bool,
}

#[derive(Deserialize)]
struct PairFields {
    #[serde(default, deserialize_with = "text")]
    access_key: Option<Secret>,
    #[serde(default, deserialize_with = "text")]
    secret_key: Option<Secret>,
}

fn text<'de, D: serde::Deserializer<'de>>(member: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(member)?.map(Secret::line))
}

impl std::fmt::Debug for KvSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KvSecret({}/{})", self.mount, self.path)
    }
}

impl KvSecret {
    pub(crate) fn new(vault: Arc<Vault>, mount: &str, path: &str) -> Self {
        Self { vault, mount: mount.to_owned(), path: path.to_owned(), state: Mutex::default() }
    }

    /// The vault that the secret is in.
    pub(crate) fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// Reads the newest version. `now`: an operator wants it now, whatever waits earlier failures have caused.
    ///
    /// # Errors
    /// [`VaultError`] when there is no complete pair.
    pub(crate) async fn read(&self, now: bool) -> Result<RawPair, VaultError> {
        let read = tokio::time::timeout(READ_DEADLINE, self.read_once(now))
            .await
            .unwrap_or(Err(VaultError::DeadlineExceeded(READ_DEADLINE)));
        if let Err(fault) = &read
            && !matches!(fault, VaultError::Unreachable(_) | VaultError::DeadlineExceeded(_))
        {
            // The engine may have been mounted again, with another version.
            self.state.lock().engine = None;
        }
        read
    }

    async fn read_once(&self, now: bool) -> Result<RawPair, VaultError> {
        if now {
            self.state.lock().denied = None;
            self.vault.forget_failure().await;
        }
        let token = self.vault.token().await?;
        let mut read = self.read_with(&token).await;
        if matches!(read, Err(VaultError::Denied(_)))
            && self.may_log_in()
            && let Some(token) = self.vault.another(&token).await
        {
            read = self.read_with(&*token?).await;
        }
        if !matches!(read, Err(VaultError::Denied(_))) {
            self.state.lock().denied = None;
        }
        read
    }

    /// Whether a denied reading may lead to a login now. The next one may only after a longer wait, unless a
    /// reading succeeds in between.
    fn may_log_in(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let denied = state
            .denied
            .get_or_insert_with(|| DeniedReading { next_login: now, waits: Backoff::new(FIRST_WAIT, MAX_WAIT) });
        if now < denied.next_login {
            return false;
        }
        denied.next_login = now + denied.waits.next();
        true
    }

    async fn read_with(&self, token: &VaultToken) -> Result<RawPair, VaultError> {
        let engine = self.engine(token).await?;
        let between = if engine == Engine::V2 { "data/" } else { "" };
        let path = format!("{}/{between}{}", encoded(&self.mount), encoded(&self.path));
        let response = self.vault.server.send(VaultRequest::get(&path, &token.value)).await?;
        match response.status {
            StatusCode::OK if engine == Engine::V2 => self.v2_pair(&response),
            StatusCode::OK => {
                let KvV1Body { data } = serde_json::from_slice(&response.body).map_err(|_| self.malformed())?;
                self.raw_pair(data, None)
            }
            StatusCode::NOT_FOUND if engine == Engine::V2 => Err(self.gone(&response)),
            StatusCode::NOT_FOUND => Err(VaultError::Missing(self.place())),
            StatusCode::FORBIDDEN => Err(VaultError::Denied(self.place())),
            status => Err(VaultError::Answered { status: status.as_u16(), said: said(&response.body) }),
        }
    }

    async fn engine(&self, token: &VaultToken) -> Result<Engine, VaultError> {
        if let Some(engine) = self.state.lock().engine {
            return Ok(engine);
        }
        let path = format!("sys/internal/ui/mounts/{}/{}", encoded(&self.mount), encoded(&self.path));
        let response = self.vault.server.send(VaultRequest::get(&path, &token.value)).await?;
        let mounted: Option<MountBody> =
            serde_json::from_slice(&response.body).ok().filter(|_| response.status == StatusCode::OK);
        let Some(mounted) = mounted else { return Ok(Engine::V2) };
        let version = mounted.data.options.and_then(|options| options.version);
        let engine = if version.as_deref() == Some("2") { Engine::V2 } else { Engine::V1 };
        self.state.lock().engine = Some(engine);
        Ok(engine)
    }

    fn v2_pair(&self, response: &VaultResponse) -> Result<RawPair, VaultError> {
        let answer: KvV2Body = serde_json::from_slice(&response.body).map_err(|_| self.malformed())?;
        match answer.data {
            Some(KvV2Data { data: Some(fields), metadata }) if !metadata.destroyed => {
                self.raw_pair(fields, Some(metadata.version))
            }
            Some(_) => Err(self.gone(response)),
            None => Err(self.malformed()),
        }
    }

    /// Whether there never was a secret, or its newest version was deleted.
    fn gone(&self, response: &VaultResponse) -> VaultError {
        match serde_json::from_slice(&response.body) {
            Ok(KvV2Body { data: Some(KvV2Data { metadata, .. }) }) => {
                let how = if metadata.destroyed { "destroyed" } else { "deleted" };
                VaultError::Deleted { place: self.place(), version: metadata.version, how }
            }
            _ => VaultError::Missing(self.place()),
        }
    }

    fn raw_pair(&self, fields: PairFields, version: Option<u64>) -> Result<RawPair, VaultError> {
        let missing = |name: &str| VaultError::Malformed(format!("{} has no {name}", self.place()));
        let access = fields.access_key.ok_or_else(|| missing("access_key"))?;
        let secret = fields.secret_key.ok_or_else(|| missing("secret_key"))?;
        let place = format!("vault {}: {}", self.vault.settings().address, self.place());
        Ok(RawPair { access, secret, place, version })
    }

    fn malformed(&self) -> VaultError {
        VaultError::Malformed(format!("{} is not text in access_key and secret_key", self.place()))
    }

    fn place(&self) -> String {
        format!("{}/{}", self.mount, self.path)
    }
}
