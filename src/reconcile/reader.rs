//! Reads at Fastrac for one account: with lowest priority, from spare budget only, until a point in time.
//!
//! Always holds: nothing is sent while the account has no budget to spare (`spare`), nor once the shutdown has begun. Must not know what is read. Fails with [`Unread`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{CONTENT_RANGE, CONTENT_TYPE},
    uri::PathAndQuery,
};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::history::FormatError;
use crate::{
    body::BufferedRequest,
    edge::Drain,
    gateway::Gateway,
    outcome::Outcome,
    path::{self, OwnAnswer, OwnCall},
    snapshot::{Account, Worker},
    spare::{self, NotSpare},
};

/// Time that must be left for a read.
const LEAST: Duration = Duration::from_millis(500);

/// Largest difference between Fastrac's clock and the gateway's, milliseconds.
const SKEW: i64 = 30_000;

/// Why something was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unread {
    #[error("the gateway is being stopped")]
    Stopping,
    #[error("the configuration has no account or operation `{0}`")]
    Unknown(String),
    #[error("Fastrac has throttled the account, so that nothing is sent to it for a while")]
    Paused,
    #[error("a circuit breaker of the account is open: Fastrac is failing")]
    BreakerOpen,
    #[error("the account has no budget to spare")]
    NoSpareBudget,
    #[error("there was not enough time")]
    Late,
    #[error("{operation} failed: {why}")]
    Failed { operation: String, why: String },
    #[error("{operation} was answered with status {} ({})", .status.as_u16(), .outcome.as_str())]
    Rejected { operation: String, status: StatusCode, outcome: Outcome },
    #[error("{operation}: the response is larger than `limits.answer_buffer`")]
    TooLarge { operation: String },
    #[error("{operation}: the response is only a part (status {}, or `content-range`)", .status.as_u16())]
    Part { operation: String, status: StatusCode },
    #[error("{operation}: {fault}")]
    Malformed { operation: String, fault: FormatError },
    #[error("Fastrac's clock and the gateway's differ by {seconds} s")]
    Skewed { seconds: i64 },
    #[error("the gateway's clock was changed since")]
    ClockChanged,
    #[error("the balance history is too long to be read whole")]
    TooLong,
    #[error("the balance history can't be read page by page: the same rows come again")]
    SamePage,
    #[error("the debit of a known order is not at its time in the balance history: a clock, or `day_zone`, is wrong")]
    OtherTimes,
}

/// The reader of one account, for one pass.
pub(super) struct Reader {
    pub(super) gateway: Arc<Gateway>,
    pub(super) drain: Drain,
    pub(super) worker: Arc<Worker>,
    pub(super) account: String,
    pub(super) end: Instant,
    /// When the process started, milliseconds since 1970.
    pub(super) started: i64,
}

impl Reader {
    /// Sends one read and returns its response, whatever it is.
    ///
    /// # Errors
    /// [`Unread`] if there is no response, or not a whole one.
    pub(super) async fn send(&self, operation: &str, body: &Value) -> Result<OwnAnswer, Unread> {
        self.wait_for_spare_budget().await?;
        let snapshot = self.gateway.current.load_full();
        let account = self.account_in_force()?;
        let unknown = || Unread::Unknown(operation.to_owned());
        let row = snapshot.catalog.operations.iter().find(|row| row.name == operation).cloned().ok_or_else(unknown)?;
        let method = self.method(operation).ok_or_else(unknown)?;
        let target = PathAndQuery::try_from(row.path.as_str()).map_err(|_| unknown())?;
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let request = BufferedRequest { method, target, headers, body: Bytes::from(body.to_string()) };
        let left = self.end.saturating_duration_since(Instant::now());
        let own = OwnCall { snapshot, account, operation: row };
        let call = own.with(self.worker.clone(), request).within(left);
        let answer = Box::pin(path::fetch_own(&call)).await;
        answer.map_err(|refusal| Unread::Failed { operation: operation.to_owned(), why: refusal.message.into_owned() })
    }

    /// The body of a successful response.
    ///
    /// # Errors
    /// [`Unread`]; also if Fastrac's clock is wrong.
    pub(super) async fn read(&self, operation: &str, body: &Value) -> Result<Bytes, Unread> {
        let began = Timestamp::now().as_millisecond();
        let answer = self.send(operation, body).await?;
        let ended = Timestamp::now().as_millisecond();
        let rejected =
            Unread::Rejected { operation: operation.to_owned(), status: answer.status, outcome: answer.outcome };
        if answer.outcome == Outcome::Ok {
            let (operation, status) = (operation.to_owned(), answer.status);
            if status != StatusCode::OK || answer.headers.contains_key(CONTENT_RANGE) {
                return Err(Unread::Part { operation, status });
            }
            if answer.body.is_none() {
                return Err(Unread::TooLarge { operation });
            }
        }
        let body = answer.body.filter(|_| answer.outcome == Outcome::Ok).ok_or(rejected)?;
        let clock = clock(&body).or_else(|| date(&answer.headers));
        let skew = clock.map_or(0, |clock| if clock < began { clock - began } else { (clock - ended).max(0) });
        if skew.abs() > SKEW { Err(Unread::Skewed { seconds: skew / 1_000 }) } else { Ok(body) }
    }

    /// The zone of the account's business times.
    ///
    /// # Errors
    /// [`Unread::Unknown`] if there is no such account any more.
    pub(super) fn zone(&self) -> Result<TimeZone, Unread> {
        let in_force = self.gateway.in_force.load();
        let account = in_force.config.accounts.iter().find(|account| account.name == self.account);
        account.map(|account| account.day_zone.clone()).ok_or_else(|| Unread::Unknown(self.account.clone()))
    }

    /// Where the account's shipments are: what one account reads says nothing of another's.
    ///
    /// # Errors
    /// [`Unread::Unknown`] if there is no such account any more.
    pub(super) fn origin(&self) -> Result<String, Unread> {
        let in_force = self.gateway.in_force.load();
        let account = in_force.config.accounts.iter().find(|account| account.name == self.account);
        let account = account.ok_or_else(|| Unread::Unknown(self.account.clone()))?;
        let ends = [&account.v1, &account.v2].map(|end| format!("{} {}{}", end.tls, end.authority, end.prefix));
        Ok(format!("{} {}", self.account, ends.join(" ")))
    }

    /// Maximum duration of an operation; of one that is gone, a usual one.
    pub(super) fn timeout(&self, operation: &str) -> Duration {
        let snapshot = self.gateway.current.load();
        let row = snapshot.catalog.operations.iter().find(|row| row.name == operation);
        row.map_or(Duration::from_secs(60), |row| row.timeout)
    }

    fn account_in_force(&self) -> Result<Arc<Account>, Unread> {
        let snapshot = self.gateway.current.load();
        let account = snapshot.accounts.iter().find(|account| account.name == self.account).cloned();
        account.ok_or_else(|| Unread::Unknown(self.account.clone()))
    }

    fn method(&self, operation: &str) -> Option<Method> {
        let in_force = self.gateway.in_force.load();
        let row = in_force.config.operations.iter().find(|row| row.name == operation)?;
        row.method.parse().ok()
    }

    async fn wait_for_spare_budget(&self) -> Result<(), Unread> {
        loop {
            if self.drain.begun() {
                return Err(Unread::Stopping);
            }
            if self.end.saturating_duration_since(Instant::now()) < LEAST {
                return Err(Unread::Late);
            }
            match spare::check(&*self.account_in_force()?) {
                Err(scarce @ NotSpare::Scarce) if self.end > Instant::now() + LEAST + scarce.pause() => {
                    sleep(scarce.pause()).await;
                }
                spare => return Ok(spare?),
            }
        }
    }
}

impl From<NotSpare> for Unread {
    fn from(not_spare: NotSpare) -> Self {
        match not_spare {
            NotSpare::BreakerOpen | NotSpare::ClassFailing => Unread::BreakerOpen,
            NotSpare::Paused => Unread::Paused,
            NotSpare::Scarce | NotSpare::OnePlace => Unread::NoSpareBudget,
        }
    }
}

/// What Fastrac's clock shows in an envelope.
fn clock(body: &[u8]) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct StampedEnvelope {
        timestamp: String,
    }
    let envelope: StampedEnvelope = serde_json::from_slice(body).ok()?;
    Some(envelope.timestamp.parse::<Timestamp>().ok()?.as_millisecond())
}

fn date(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond())
}
