//! Revokes tokens that a login gave and that are no longer needed: at the end of a session, when a reload gives a vault
//! up, and when another login has replaced them. Otherwise they would stay valid for hours.
//!
//! Best effort: a few attempts in the background, each bounded as any request to the vault. Never fails; what could not be
//! revoked is logged.

use std::{sync::Arc, time::Duration};

use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::{client::VaultRequest, server::VaultServer};
use crate::{backoff::Backoff, keys::secret::Secret};

/// Attempts to revoke a token in the background.
const ATTEMPTS: u32 = 5;
/// First and maximum wait between them.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Revokes a token once. Says why not, and whether trying again may help.
async fn attempt(server: &VaultServer, token: &Secret) -> Result<(), (String, bool)> {
    let body = Zeroizing::new(b"{}".to_vec());
    match server.send(VaultRequest::post("auth/token/revoke-self", Some(token), body)).await {
        Ok(response) if response.status.is_success() => Ok(()),
        Ok(response) => Err((format!("it answers {}", response.status.as_u16()), false)),
        Err(error) => Err((error.to_string(), true)),
    }
}

/// Revokes a token once, before the process ends.
pub(super) async fn revoke(server: &VaultServer, token: &Secret) {
    if let Err((why, _)) = attempt(server, token).await {
        tracing::warn!(vault = server.settings.address, why, "the vault's token was not revoked");
    }
}

/// Revokes a token on `runtime`, which nothing waits for.
pub(super) fn revoke_later(runtime: &Handle, server: Arc<VaultServer>, token: Secret) {
    runtime.spawn(async move {
        let mut waits = Backoff::new(FIRST_WAIT, MAX_WAIT);
        for left in (0..ATTEMPTS).rev() {
            match attempt(&server, &token).await {
                Err((_, true)) if left > 0 => tokio::time::sleep(waits.next()).await,
                Err((why, _)) => {
                    tracing::warn!(vault = server.settings.address, why, "a former token was not revoked");
                    return;
                }
                Ok(()) => {
                    tracing::info!(vault = server.settings.address, "a former token was revoked");
                    return;
                }
            }
        }
    });
}
