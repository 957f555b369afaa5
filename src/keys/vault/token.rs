//! The session: one token for all accounts of a vault, renewed or replaced before it ends.
//!
//! What always holds: one login at a time, whoever needs it (the lock is held over it on purpose: those
//! who wait want its result); a failed one has a floor; a token that may be renewed is, at two thirds of
//! its life, and replaced by a login where that is no longer worth it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};
use zeroize::Zeroizing;

use super::{
    Vault, VaultError,
    login::{LoginBody, LoginRequest, LookupBody, credential},
    said,
    wire::{VaultRequest, VaultResponse},
};
use crate::{
    config::VaultAuth,
    keys::{jittered, secret::Secret},
};

/// A failed login is not tried again before this.
const FLOOR: Duration = Duration::from_secs(1);
/// The first wait after a failed renewal, and the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A token and its life.
pub(super) struct VaultToken {
    pub(super) value: Secret,
    since: Instant,
    /// `None`: it doesn't end, or doesn't say when.
    life: Option<Duration>,
    renewable: bool,
    /// What it was granted first. Renewals that grant less have met the token's last day.
    first: Option<Duration>,
}

/// The session.
pub(super) struct Session {
    state: Mutex<SessionState>,
    /// When the token is to be renewed.
    due: watch::Sender<Option<Instant>>,
}

#[derive(Default)]
struct SessionState {
    token: Option<Arc<VaultToken>>,
    /// The last login, if it failed.
    failed: Option<(Instant, VaultError)>,
    /// The wait after the next failed renewal.
    retry: Duration,
}

impl Default for Session {
    fn default() -> Self {
        Self { state: Mutex::default(), due: watch::Sender::new(None) }
    }
}

impl VaultToken {
    fn new(value: Secret, life: Option<Duration>, renewable: bool) -> Self {
        Self { value, since: Instant::now(), life, renewable, first: life }
    }

    fn ended(&self, now: Instant) -> bool {
        self.life.is_some_and(|life| now >= self.since + life)
    }

    /// Two thirds of its life.
    fn due(&self) -> Option<Instant> {
        self.life.map(|life| self.since + life * 2 / 3)
    }

    /// Whether another renewal would be worth it.
    fn worth_renewing(&self) -> bool {
        let whole = |(life, first): (Duration, Duration)| life * 10 >= first * 9;
        self.renewable && self.life.zip(self.first).is_some_and(whole)
    }
}

impl Vault {
    /// The token, by a login if there is none.
    ///
    /// # Errors
    /// [`VaultError`] of the login.
    pub(super) async fn token(&self) -> Result<Arc<VaultToken>, VaultError> {
        let mut state = self.session.state.lock().await;
        if let Some(token) = state.token.clone().filter(|token| !token.ended(Instant::now())) {
            return match self.replaced(&token).await {
                Some(value) => self.take(&mut state, value).await,
                None => Ok(token),
            };
        }
        self.log_in(&mut state).await
    }

    /// The token after the vault denied something to `denied`: another's newer one, or a new login's.
    ///
    /// # Errors
    /// [`VaultError`] of the login; `None` if there is no other token to be had.
    pub(super) async fn another(&self, denied: &Arc<VaultToken>) -> Option<Result<Arc<VaultToken>, VaultError>> {
        let mut state = self.session.state.lock().await;
        if let Some(token) = state.token.clone().filter(|token| !Arc::ptr_eq(token, denied)) {
            return Some(Ok(token));
        }
        if matches!(self.settings.auth, VaultAuth::Token { .. }) && self.replaced(denied).await.is_none() {
            return None;
        }
        Some(self.log_in(&mut state).await)
    }

    /// Renews the token, or logs in anew, whenever it is due. Ends with whoever drops it; any number may
    /// run, one does the work.
    pub(crate) async fn tend(&self) {
        let mut due = self.session.due.subscribe();
        loop {
            let at = *due.borrow_and_update();
            let timer = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives as long as the vault.
                _ = due.changed() => {}
                () = timer => self.refresh().await,
            }
        }
    }

    async fn refresh(&self) {
        let mut state = self.session.state.lock().await;
        let due = *self.session.due.borrow();
        let now = Instant::now();
        let Some(token) = state.token.clone().filter(|_| due.is_some_and(|due| due <= now)) else { return };
        let refreshed = if token.worth_renewing() && !token.ended(now) {
            self.renew(&mut state, &token).await
        } else {
            self.log_in(&mut state).await.map(drop)
        };
        let Err(fault) = refreshed else { return };
        tracing::warn!(vault = self.settings.address, %fault, "the vault's token could not be renewed");
        state.retry = (state.retry * 2).clamp(FIRST_RETRY, LAST_RETRY);
        let wait = jittered(state.retry);
        self.session.due.send_replace(Some(now + wait));
    }

    async fn renew(&self, state: &mut SessionState, token: &Arc<VaultToken>) -> Result<(), VaultError> {
        let body = Zeroizing::new(b"{}".to_vec());
        let reply = self.ask(VaultRequest::post("auth/token/renew-self", Some(&token.value), body)).await?;
        if !reply.status.is_success() {
            // It has ended, or may not renew itself: only a login helps.
            return self.log_in(state).await.map(drop);
        }
        let auth = granted(&reply)?.auth;
        let renewed = VaultToken {
            first: token.first,
            ..VaultToken::new(auth.client_token.clone(), auth.life(), auth.renewable)
        };
        self.hold(state, renewed);
        Ok(())
    }

    async fn log_in(&self, state: &mut SessionState) -> Result<Arc<VaultToken>, VaultError> {
        if let Some((at, fault)) = &state.failed
            && Instant::now() < *at + FLOOR
        {
            return Err(fault.clone());
        }
        let asked = self.login().await;
        match asked {
            Ok(token) => Ok(self.hold(state, token)),
            Err(fault) => {
                state.failed = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    async fn login(&self) -> Result<VaultToken, VaultError> {
        let auth = self.settings.auth.clone();
        let Some(login) = aside(move || LoginRequest::of(&auth)).await? else {
            let value = match (&self.token, &self.settings.auth) {
                (_, VaultAuth::Token { token_file: Some(file) }) => {
                    let file = file.clone();
                    aside(move || credential(&file)).await?
                }
                (Some(token), _) => token.clone(),
                (None, _) => return Err(VaultError::Unfit("there is no token".to_owned())),
            };
            return self.look_up(value).await;
        };
        let reply = self.ask(VaultRequest::post(&login.path, None, login.body)).await?;
        if !reply.status.is_success() {
            return Err(VaultError::Login { status: reply.status.as_u16(), said: said(&reply) });
        }
        let auth = granted(&reply)?.auth;
        tracing::info!(vault = self.settings.address, life = ?auth.life(), "logged in to the vault");
        Ok(VaultToken::new(auth.client_token.clone(), auth.life(), auth.renewable))
    }

    /// A token that was given to us, and how long it lives, if it may look itself up.
    async fn look_up(&self, value: Secret) -> Result<VaultToken, VaultError> {
        let reply = self.ask(VaultRequest::get("auth/token/lookup-self", &value)).await?;
        let looked: Option<LookupBody> = serde_json::from_slice(&reply.body).ok();
        Ok(match looked.filter(|_| reply.status.is_success()) {
            Some(looked) => VaultToken::new(value, looked.data.life(), looked.data.renewable),
            None => VaultToken::new(value, None, false),
        })
    }

    /// What stands in the token file, if it isn't this token.
    async fn replaced(&self, token: &VaultToken) -> Option<Secret> {
        let VaultAuth::Token { token_file: Some(file) } = &self.settings.auth else { return None };
        let file = file.clone();
        let value = aside(move || credential(&file)).await.ok()?;
        (value.expose() != token.value.expose()).then_some(value)
    }

    async fn take(&self, state: &mut SessionState, value: Secret) -> Result<Arc<VaultToken>, VaultError> {
        let token = self.look_up(value).await?;
        Ok(self.hold(state, token))
    }

    fn hold(&self, state: &mut SessionState, token: VaultToken) -> Arc<VaultToken> {
        let token = Arc::new(token);
        *state = SessionState { token: Some(token.clone()), ..SessionState::default() };
        // A token that can't be renewed and has no login behind it ends when it ends.
        let ours = matches!(self.settings.auth, VaultAuth::Token { .. }) && !token.renewable;
        self.session.due.send_replace(token.due().filter(|_| !ours));
        token
    }
}

fn granted(reply: &VaultResponse) -> Result<LoginBody, VaultError> {
    // The parser's words may quote what it read.
    serde_json::from_slice(&reply.body).map_err(|_| VaultError::Malformed("its login gives no token".to_owned()))
}

/// Reads a file on a thread that may wait for a disk.
async fn aside<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|_| Err(VaultError::Unfit("reading a file broke off".to_owned())))
}
