//! The server or cluster at the configured address: sends a request, to the leader if a standby answers, and
//! finds out what is wrong if it fails.
//!
//! A token is sent to the configured address and to the leader that this address names itself, over TLS
//! unless both are on this machine. Fails with [`VaultError`].

use http::{Method, StatusCode};
use serde::Deserialize;

use super::{
    client::{VaultClient, VaultRequest, VaultResponse},
    fault::VaultError,
    said::said,
    tls::VaultTls,
};
use crate::{
    config::{
        self,
        file::{BaseUrl, TextValue as _},
    },
    connector::Connector,
};

pub(super) struct VaultServer {
    pub(super) settings: config::VaultConfig,
    address: BaseUrl,
    pub(super) client: VaultClient,
}

#[derive(Deserialize)]
struct LeaderBody {
    #[serde(default)]
    leader_address: String,
}

impl VaultServer {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// [`VaultError::Unfit`] when the address is not a URL.
    pub(super) fn new(settings: &config::VaultConfig, connector: Connector) -> Result<Self, VaultError> {
        let address = BaseUrl::parse(&settings.address).map_err(VaultError::Unfit)?;
        let tls = VaultTls::new(settings.ca.as_deref(), &settings.auth);
        let client = VaultClient::new(settings.namespace.clone(), tls, connector);
        Ok(Self { settings: settings.clone(), address, client })
    }

    /// Sends a request, and if a standby answers, sends it to the leader. A response other than 2xx, 400, 403
    /// and 404, which the caller judges, is an error; `sys/health` says which.
    pub(super) async fn send(&self, request: VaultRequest<'_>) -> Result<VaultResponse, VaultError> {
        let mut response = self.client.send(&self.address, &request).await?;
        if response.status.is_redirection() {
            let leader = self.leader(&response, &request).await?;
            response = self.client.send(&leader, &request).await?;
        }
        match response.status {
            status if status.is_success() => Ok(response),
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(response),
            _ => Err(self.diagnose(&response).await),
        }
    }

    /// The leader that a standby redirects to. The token is sent there too, so it must be the one that the
    /// configured address itself names as its leader, with the same path, and over TLS unless both are on
    /// this machine.
    async fn leader(&self, response: &VaultResponse, request: &VaultRequest<'_>) -> Result<BaseUrl, VaultError> {
        let moved = matches!(response.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        if !moved && request.method != Method::GET {
            return Err(VaultError::Standby("it redirects in a way that drops the request"));
        }
        let told = self.client.send(&self.address, &VaultRequest::open("sys/leader")).await?;
        let named: Option<LeaderBody> = serde_json::from_slice(&told.body).ok();
        let leader = named.and_then(|named| BaseUrl::parse(&named.leader_address).ok());
        let leader = leader.ok_or(VaultError::Standby("it names none"))?;
        if !leader.tls && (self.address.tls || !leader.is_loopback()) {
            return Err(VaultError::Standby("it is not reached over TLS"));
        }
        let wanted = format!("{}/v1/{}", leader.to_text(), request.path);
        match &response.location {
            Some(location) if *location == wanted => Ok(leader),
            _ => Err(VaultError::Standby("it redirects elsewhere")),
        }
    }

    async fn diagnose(&self, response: &VaultResponse) -> VaultError {
        let health = self.client.send(&self.address, &VaultRequest::open("sys/health")).await;
        match health.map(|health| health.status.as_u16()) {
            Ok(503) => VaultError::Sealed,
            Ok(501) => VaultError::Uninitialized,
            Ok(429 | 472 | 473) => VaultError::Standby("it did not forward the request"),
            _ => VaultError::Answered { status: response.status.as_u16(), said: said(&response.body) },
        }
    }
}
