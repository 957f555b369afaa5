//! The login session of a vault: one token for all accounts, renewed or replaced before it ends.
//!
//! There is one login at a time: the lock is held during a login on purpose, because all who wait for the
//! lock need its result. A failed login is not repeated within [`LOGIN_FLOOR`]. A renewable token is
//! renewed at two thirds of its life, and replaced by a login when renewals no longer extend it. A token of a login is
//! revoked when it is replaced or the vault is no longer used. Fails with [`VaultError`].

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{Mutex, watch},
    time::Instant,
};
use zeroize::Zeroizing;

use super::{
    client::{VaultRequest, VaultResponse},
    fault::VaultError,
    login::{LoginBody, LoginRequest, LookupBody, credential, env_token},
    revoke::{revoke, revoke_later},
    said::said,
    server::VaultServer,
};
use crate::{
    backoff::Backoff,
    config::{self, VaultAuth},
    connector::Connector,
    keys::secret::Secret,
};

/// Minimum time between a failed login and the next one.
const LOGIN_FLOOR: Duration = Duration::from_secs(1);
/// First and maximum wait after a failed renewal.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(60);

pub(super) struct VaultToken {
    pub(super) value: Secret,
    since: Instant,
    /// Time from `since` to its end; `None`: it doesn't end, or its end is unknown.
    life: Option<Duration>,
    renewable: bool,
    /// Its life when it was issued. Renewals that grant less are limited by the token's maximum life.
    first: Option<Duration>,
}

/// A vault and the login to it.
pub struct Vault {
    pub(super) server: Arc<VaultServer>,
    /// `$VAULT_TOKEN`, if it is used to log in.
    env_token: Option<Secret>,
    state: Mutex<SessionState>,
    /// When the token is to be renewed.
    due: watch::Sender<Option<Instant>>,
}

struct SessionState {
    token: Option<Arc<VaultToken>>,
    /// The last login, if it failed.
    failed: Option<FailedLogin>,
    /// The waits after failed renewals.
    retry: Backoff,
    /// Whether it was ended.
    closed: bool,
    /// Where the token is revoked if the vault is given up; `None`: there was none yet.
    runtime: Option<Handle>,
}

impl Default for SessionState {
    fn default() -> Self {
        Self { token: None, failed: None, retry: Backoff::new(FIRST_WAIT, MAX_WAIT), closed: false, runtime: None }
    }
}

struct FailedLogin {
    at: Instant,
    error: VaultError,
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
        self.renewable && self.life.zip(self.first).is_some_and(|(life, first)| life * 10 >= first * 9)
    }
}

impl Vault {
    /// A vault as configured. Sends nothing yet; reads `$VAULT_TOKEN`.
    ///
    /// # Errors
    /// [`VaultError::Unfit`] when the address is not a URL, or the variable contains no token.
    pub fn open(settings: &config::VaultConfig, connector: Connector) -> Result<Self, VaultError> {
        let server = Arc::new(VaultServer::new(settings, connector)?);
        let env_token = match &settings.auth {
            VaultAuth::Token { token_file: None } => Some(env_token()?),
            _ => None,
        };
        Ok(Self { server, env_token, state: Mutex::default(), due: watch::Sender::new(None) })
    }

    /// The settings that it was opened with.
    pub fn settings(&self) -> &config::VaultConfig {
        &self.server.settings
    }

    /// The token, by a login if there is none.
    ///
    /// # Errors
    /// [`VaultError`] of the login.
    pub(super) async fn token(&self) -> Result<Arc<VaultToken>, VaultError> {
        let mut state = self.state.lock().await;
        if let Some(token) = state.token.clone().filter(|token| !token.ended(Instant::now())) {
            return match self.replaced(&token).await {
                Some(value) => self.take(&mut state, value).await,
                None => Ok(token),
            };
        }
        self.log_in(&mut state).await
    }

    /// The next login is not held back because the last one failed.
    pub(super) async fn forget_failure(&self) {
        let mut state = self.state.lock().await;
        state.failed = None;
        state.retry.reset();
    }

    /// The token to try after the vault denied a request with `denied`: a newer one, or that of a new login.
    /// `None`: there is no other.
    ///
    /// # Errors
    /// [`VaultError`] of the login.
    pub(super) async fn another(&self, denied: &Arc<VaultToken>) -> Option<Result<Arc<VaultToken>, VaultError>> {
        let mut state = self.state.lock().await;
        if let Some(token) = state.token.clone().filter(|token| !Arc::ptr_eq(token, denied)) {
            return Some(Ok(token));
        }
        if matches!(self.settings().auth, VaultAuth::Token { .. }) && self.replaced(denied).await.is_none() {
            return None;
        }
        Some(self.log_in(&mut state).await)
    }

    /// Ends the session: revokes the token if it comes from a login, and logs in no more. A configured token belongs to
    /// its operators. Takes as long as the vault does.
    pub async fn close(&self) {
        let mut state = self.state.lock().await;
        state.closed = true;
        self.due.send_replace(None);
        let Some(token) = state.token.take() else { return };
        if self.gave(&token) {
            revoke(&self.server, &token.value).await;
        }
    }

    /// Whether the token comes from a login and has not ended.
    fn gave(&self, token: &VaultToken) -> bool {
        !matches!(self.settings().auth, VaultAuth::Token { .. }) && !token.ended(Instant::now())
    }

    /// Renews the token, or logs in again, whenever that is due; never ends. Several may run at once: one of
    /// them does the work. Cancel safe.
    pub(crate) async fn tend(&self) {
        let mut due = self.due.subscribe();
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
        let mut state = self.state.lock().await;
        let due = *self.due.borrow();
        let now = Instant::now();
        let Some(token) = state.token.clone().filter(|_| due.is_some_and(|due| due <= now)) else { return };
        let refreshed = if token.worth_renewing() && !token.ended(now) {
            self.renew(&mut state, &token).await
        } else {
            self.log_in(&mut state).await.map(drop)
        };
        let Err(error) = refreshed else { return };
        tracing::warn!(vault = self.settings().address, %error, "the vault's token could not be renewed");
        let wait = state.retry.next_jittered();
        self.due.send_replace(Some(now + wait));
    }

    async fn renew(&self, state: &mut SessionState, token: &Arc<VaultToken>) -> Result<(), VaultError> {
        let body = Zeroizing::new(b"{}".to_vec());
        let response = self.server.send(VaultRequest::post("auth/token/renew-self", Some(&token.value), body)).await?;
        if !response.status.is_success() {
            // It has ended, or may not renew itself.
            return self.log_in(state).await.map(drop);
        }
        let auth = granted(&response)?.auth;
        let renewed = VaultToken {
            first: token.first,
            ..VaultToken::new(auth.client_token.clone(), auth.life(), auth.renewable)
        };
        self.install(state, renewed);
        Ok(())
    }

    async fn log_in(&self, state: &mut SessionState) -> Result<Arc<VaultToken>, VaultError> {
        if state.closed {
            return Err(VaultError::Unfit("the session was ended".to_owned()));
        }
        if let Some(failed) = &state.failed
            && Instant::now() < failed.at + LOGIN_FLOOR
        {
            return Err(failed.error.clone());
        }
        match self.login().await {
            Ok(token) => Ok(self.install(state, token)),
            Err(error) => {
                state.failed = Some(FailedLogin { at: Instant::now(), error: error.clone() });
                Err(error)
            }
        }
    }

    async fn login(&self) -> Result<VaultToken, VaultError> {
        let auth = self.settings().auth.clone();
        let Some(login) = blocking(move || LoginRequest::of(&auth)).await? else {
            let value = match (&self.env_token, &self.settings().auth) {
                (_, VaultAuth::Token { token_file: Some(file) }) => {
                    let file = file.clone();
                    blocking(move || credential(&file)).await?
                }
                (Some(token), _) => token.clone(),
                (None, _) => return Err(VaultError::Unfit("there is no token".to_owned())),
            };
            return self.look_up(value).await;
        };
        let response = self.server.send(VaultRequest::post(&login.path, None, login.body)).await?;
        if !response.status.is_success() {
            return Err(VaultError::Login { status: response.status.as_u16(), said: said(&response.body) });
        }
        let auth = granted(&response)?.auth;
        tracing::info!(vault = self.settings().address, life = ?auth.life(), "logged in to the vault");
        Ok(VaultToken::new(auth.client_token.clone(), auth.life(), auth.renewable))
    }

    /// A configured token and its life, if it may look itself up.
    async fn look_up(&self, value: Secret) -> Result<VaultToken, VaultError> {
        let response = self.server.send(VaultRequest::get("auth/token/lookup-self", &value)).await?;
        let looked: Option<LookupBody> = serde_json::from_slice(&response.body).ok();
        Ok(match looked.filter(|_| response.status.is_success()) {
            Some(looked) => VaultToken::new(value, looked.data.life(), looked.data.renewable),
            None => VaultToken::new(value, None, false),
        })
    }

    /// The token in the token file, if it isn't this one.
    async fn replaced(&self, token: &VaultToken) -> Option<Secret> {
        let VaultAuth::Token { token_file: Some(file) } = &self.settings().auth else { return None };
        let file = file.clone();
        let value = blocking(move || credential(&file)).await.ok()?;
        (value.expose() != token.value.expose()).then_some(value)
    }

    async fn take(&self, state: &mut SessionState, value: Secret) -> Result<Arc<VaultToken>, VaultError> {
        let token = self.look_up(value).await?;
        Ok(self.install(state, token))
    }

    fn install(&self, state: &mut SessionState, token: VaultToken) -> Arc<VaultToken> {
        let token = Arc::new(token);
        let former = state.token.take().filter(|former| former.value.expose() != token.value.expose());
        let runtime = Handle::current();
        if let Some(former) = former.filter(|former| self.gave(former)) {
            revoke_later(&runtime, self.server.clone(), former.value.clone());
        }
        *state = SessionState { token: Some(token.clone()), runtime: Some(runtime), ..SessionState::default() };
        // A configured token that can't be renewed can't be replaced by a login either.
        let final_token = matches!(self.settings().auth, VaultAuth::Token { .. }) && !token.renewable;
        self.due.send_replace(token.due().filter(|_| !final_token));
        token
    }
}

impl Drop for Vault {
    /// A reload has given it up: the token is revoked in the background.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let (token, runtime) = (state.token.take(), state.runtime.take());
        if let Some((token, runtime)) = token.zip(runtime).filter(|(token, _)| self.gave(token)) {
            revoke_later(&runtime, self.server.clone(), token.value.clone());
        }
    }
}

fn granted(response: &VaultResponse) -> Result<LoginBody, VaultError> {
    // The parser's message may quote what it read.
    serde_json::from_slice(&response.body).map_err(|_| VaultError::Malformed("its login gives no token".to_owned()))
}

/// Reads a file on a thread that may block.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|_| Err(VaultError::Unfit("reading a file was interrupted".to_owned())))
}
