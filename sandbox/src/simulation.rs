//! The state of the sandbox, and what a request does to it.
//!
//! What always holds: a request is recorded (with its key and fault decided) before it is executed; execution happens
//! completely or not at all; everything due before a request has happened when it is executed; no body panics it. It
//! knows no sockets and never waits.

mod counts;
mod respond;
mod time;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use serde_json::Value;
use tokio::sync::Notify;

use super::{
    auth::{AuthStyle, KeyStore},
    clock::{self, Clock},
    couriers,
    envelope::{ApiError, Success},
    faults::{self, AppliedFault, Faults},
    input::{self, ApiResult, Fields},
    journal::{Entry, Journal, JournalBounds},
    limits::{Limit, LimitExceeded, Limits},
    orders::{Orders, branches::FlowSettings},
    parcel,
    quotes::{Quotes, Validity},
    regions::{Regions, Search},
    route::{ApiVersion, Operation, OperationKind, Routes},
    tariffs::TariffRequest,
    wallet::Wallet,
    webhook::{self, Outbox},
};

/// Behaviour that can be chosen, because Fastrac's own is not public.
#[derive(Clone, Debug)]
pub struct Switches {
    /// Path prefix of both versions, such as `/b2b`; empty: none.
    pub prefix: String,
    /// Which style of authentication is accepted for which version.
    pub auth: AuthStyle,
    /// Whether V2 responses have `timestamp`.
    pub timestamp: bool,
    /// Status of `Data not found`: 404 or 200.
    pub not_found: u16,
    /// Opening balance in IDR.
    pub balance: u64,
    /// Whether `POST /order/track` is served too.
    pub track_by_post: bool,
    /// How long a `tariff_id` is valid, and for how many orders.
    pub validity: Validity,
    /// `message` of the error if the balance is too small.
    pub shortage: String,
    /// Rate limits.
    pub limits: Vec<Limit>,
    /// Branches of orders, and how many orders are kept.
    pub flow: FlowSettings,
    /// How webhooks are sent.
    pub webhook: Arc<webhook::WebhookSettings>,
}

impl Default for Switches {
    fn default() -> Self {
        Switches {
            prefix: String::new(),
            auth: AuthStyle::Any,
            timestamp: true,
            not_found: 404,
            balance: 10_000_000_000,
            track_by_post: false,
            validity: Validity { millis: 300_000, single_use: true },
            shortage: "Insufficient balance".to_owned(),
            limits: Vec::new(),
            flow: FlowSettings::default(),
            webhook: Arc::default(),
        }
    }
}

/// A request that was read completely.
#[derive(Debug)]
pub(crate) struct BufferedRequest {
    /// Number of its connection.
    pub connection: u64,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The fault that was applied before it was complete: see [`Simulation::upload_fault`].
    pub fault: Option<AppliedFault>,
}

/// A request that is in the journal.
#[derive(Debug)]
pub(crate) struct JournaledRequest {
    seq: u64,
    row: Option<usize>,
    key: Option<Arc<str>>,
    uri: Uri,
    body: Bytes,
    limited: Option<LimitExceeded>,
    /// The fault that applies to it.
    pub fault: Option<AppliedFault>,
}

/// The real response.
#[derive(Clone, Debug)]
pub(crate) struct ApiResponse {
    pub status: u16,
    /// JSON.
    pub body: Bytes,
    /// Value of `Retry-After` in seconds; absent: no such header.
    pub retry_after: Option<u64>,
}

/// The initial state.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) switches: Switches,
    pub(crate) seed: u64,
    pub(crate) keys: KeyStore,
    pub(crate) bounds: JournalBounds,
    pub(crate) clock: Clock,
}

/// All state of a sandbox.
#[derive(Debug)]
pub(crate) struct Simulation {
    switches: Switches,
    seed: u64,
    first_keys: KeyStore,
    bounds: JournalBounds,
    pub keys: KeyStore,
    pub journal: Journal,
    pub faults: Faults,
    /// Rate limits.
    pub limits: Limits,
    pub clock: Clock,
    search: Search,
    quotes: Quotes,
    pub orders: Orders,
    pub wallet: Wallet,
    pub outbox: Outbox,
    /// Wakes the task that lets time pass (`webhook::send`).
    bell: Arc<Notify>,
    /// Notified when everything due has been sent.
    calm: Arc<Notify>,
    /// When that task wakes by itself, Unix milliseconds.
    asleep_until: i64,
}

impl Simulation {
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup { switches, seed, keys, bounds, clock } = setup;
        let wallet = Wallet::new(switches.balance, clock.now(), seed);
        let outbox = Outbox::new(Arc::clone(&switches.webhook), seed, 0);
        let limits = Limits::new(switches.limits.clone());
        Simulation {
            switches,
            seed,
            first_keys: keys.clone(),
            bounds,
            keys,
            journal: Journal::new(bounds),
            faults: Faults::new(seed),
            limits,
            clock,
            search: Search::default(),
            quotes: Quotes::default(),
            orders: Orders::new(seed),
            wallet,
            outbox,
            bell: Arc::default(),
            calm: Arc::default(),
            asleep_until: i64::MIN,
        }
    }

    /// Restores the initial state, except for the clock.
    pub(crate) fn reset(&mut self) {
        let (outbox, bell, calm) = (self.outbox.restarted(), Arc::clone(&self.bell), Arc::clone(&self.calm));
        let fresh = Simulation::new(Setup {
            switches: self.switches.clone(),
            seed: self.seed,
            keys: self.first_keys.clone(),
            bounds: self.bounds,
            clock: self.clock,
        });
        *self = Simulation { outbox, bell, calm, ..fresh };
        self.calm.notify_waiters();
        self.wake();
    }

    /// The account's balance in IDR.
    pub(crate) fn balance(&self) -> u64 {
        self.wallet.balance()
    }

    /// Records a request, and decides its key, fault and limit.
    pub(crate) fn receive(&mut self, request: BufferedRequest) -> JournaledRequest {
        let path = request.uri.path();
        let at = self.clock.now();
        let row = self.row(&request.method, path);
        let operation = row.map(|row| Routes::get().rows()[row].operation);
        let key = self.key(&request.headers, operation, at);
        if key.is_none() && self.keys.mixed(&request.headers) {
            self.journal.mixed();
        }
        let summary = faults::RequestSummary { operation, path, key: key.as_deref(), at };
        let fault = request.fault.or_else(|| self.faults.apply(&summary));
        let limited = key.as_ref().and_then(|key| self.limits.admit(key, at));
        let entry = Entry {
            seq: 0,
            at,
            connection: request.connection,
            method: request.method,
            uri: request.uri.clone(),
            headers: request.headers,
            body: request.body.clone(),
            row,
            key: key.clone(),
            status: None,
            executed: false,
            duplicate: false,
            fault: fault.as_ref().map(|fault| fault.number),
            act: fault.as_ref().map(|fault| fault.act.name()),
            limited: limited.as_ref().map(|exceeded| exceeded.window),
        };
        let seq = self.journal.receive(entry);
        JournaledRequest { seq, row, key, uri: request.uri, body: request.body, limited, fault }
    }

    /// Position in the route table.
    fn row(&self, method: &Method, path: &str) -> Option<usize> {
        let path = path.strip_prefix(self.switches.prefix.as_str())?;
        Routes::get().find(method, path, self.switches.track_by_post)
    }

    /// The label of the pair with which a request authenticates.
    fn key(&self, headers: &HeaderMap, operation: Option<Operation>, at: i64) -> Option<Arc<str>> {
        let version = operation.map(|operation| operation.version);
        self.keys.authenticate(headers, version, self.switches.auth, at)
    }

    /// Executes a request; returns the real response.
    pub(crate) fn execute(&mut self, received: &JournaledRequest) -> ApiResponse {
        self.catch_up();
        let operation = received.row.map(|row| Routes::get().rows()[row].operation);
        let outcome = match (&received.key, &received.limited, operation) {
            (None, ..) => Err(ApiError::Unauthorized),
            (_, Some(exceeded), _) => Err(ApiError::LimitExceeded(exceeded.clone())),
            (Some(_), None, None) => Err(ApiError::NoSuchPath),
            (Some(_), None, Some(operation)) => self.perform(operation, received),
        };
        self.answer(received, outcome)
    }

    /// The response to a request whose body is too long.
    pub(crate) fn too_long(&self, received: &JournaledRequest) -> ApiResponse {
        self.answer(received, Err(ApiError::BodyTooLong))
    }

    /// Records the status of the response.
    pub(crate) fn answered(&mut self, received: &JournaledRequest, status: u16) {
        self.journal.answer(received.seq, received.row, received.key.as_ref(), status);
    }

    fn answer(&self, received: &JournaledRequest, outcome: ApiResult<Success>) -> ApiResponse {
        let v1 = match received.row {
            Some(row) => Routes::get().rows()[row].operation.version == ApiVersion::V1,
            None => received.uri.path().starts_with("/api"),
        };
        let timestamp = (self.switches.timestamp && !v1).then(|| clock::utc(self.stated_time(received)));
        match outcome {
            Ok(success) => ApiResponse { status: 200, body: success.body(timestamp.as_deref()), retry_after: None },
            Err(error) => {
                let (status, body) = (error.status(self.switches.not_found), error.body(timestamp.as_deref()));
                ApiResponse { status, body, retry_after: error.retry_after() }
            }
        }
    }

    fn perform(&mut self, operation: Operation, received: &JournaledRequest) -> ApiResult<Success> {
        let query = received.uri.query();
        match operation.kind {
            OperationKind::Province => Ok(Success::json("", Regions::get().provinces())),
            OperationKind::City => list(input::query_id(query, "province_id")?, |map, id| map.cities(id)),
            OperationKind::District => list(input::query_id(query, "city_id")?, |map, id| map.districts(id)),
            OperationKind::SubDistrict => list(input::query_id(query, "district_id")?, |map, id| map.villages(id)),
            OperationKind::PostCode => post_code(query),
            OperationKind::Couriers => Ok(Success::json("", couriers::list())),
            OperationKind::ItemCategories => Ok(Success::json("", couriers::categories())),
            OperationKind::CourierServices => {
                let code = input::query(query, "courier_code").filter(|code| !code.is_empty());
                let code = code.ok_or_else(|| ApiError::Invalid("courier_code is required".to_owned()))?;
                couriers::find(&code).map(|c| Success::json("", c.services())).ok_or(ApiError::NotFound)
            }
            OperationKind::MultiItems => parcel::multi_items(&received.body),
            OperationKind::WebhookGet => Ok(self.outbox.get()),
            OperationKind::BalanceHistory if received.body.is_empty() => {
                self.perform_with_body(operation, received.seq, b"{}")
            }
            _ => self.perform_with_body(operation, received.seq, &received.body),
        }
    }

    /// Performs an operation that takes a JSON object.
    fn perform_with_body(&mut self, operation: Operation, seq: u64, body: &[u8]) -> ApiResult<Success> {
        let content = input::json(body)?;
        let success = self.perform_json(operation, &content)?;
        if success.executed {
            self.journal.execute(seq, operation, &content);
            self.wake_if_earlier();
        }
        Ok(success)
    }

    fn perform_json(&mut self, operation: Operation, content: &Value) -> ApiResult<Success> {
        let fields = Fields::of(content)?;
        let (now, seed) = (self.clock.now(), self.seed);
        match operation.kind {
            OperationKind::SearchRegion => return search(&mut self.search, &fields),
            OperationKind::TariffExpress => {
                let tariffs = TariffRequest::read(&fields, operation.version)?.answer(seed)?;
                return Ok(Success::of("success", &tariffs));
            }
            OperationKind::WebhookSet => return self.outbox.set(&fields),
            OperationKind::BalanceHistory => return self.wallet.history(&fields, now),
            _ => {}
        }
        let (orders, mut context) = self.order_context(now);
        match operation.kind {
            OperationKind::TariffInstant => {
                let offers = context.quotes.make(&fields, seed, now, context.validity)?;
                Ok(Success::json("success", offers))
            }
            OperationKind::OrderExpress => orders.express(&fields, &mut context),
            OperationKind::OrderInstant => orders.instant(&fields, &mut context),
            OperationKind::OrderCancel => orders.cancel(&fields, &mut context),
            OperationKind::Track => orders.track(&fields),
            // `perform` handles the others, which have no body.
            _ => Err(ApiError::NoSuchPath),
        }
    }
}

fn list<B: Into<Bytes>>(id: u64, of: impl Fn(&Regions, u64) -> Option<B>) -> ApiResult<Success> {
    of(Regions::get(), id).map(|data| Success::json("", data)).ok_or(ApiError::NotFound)
}

/// The documentation has two names for the parameter; both are accepted.
fn post_code(query: Option<&str>) -> ApiResult<Success> {
    let name = if input::query(query, "post_code").is_some() { "post_code" } else { "postal_code" };
    let post = input::query_id(query, name)?;
    list(post, |map, post| map.by_post(u32::try_from(post).ok()?))
}

/// `keyword` (V2) or `search` (V1); both versions accept both.
fn search(search: &mut Search, fields: &Fields<'_>) -> ApiResult<Success> {
    let name = if fields.get("search").is_some() && fields.get("keyword").is_none() { "search" } else { "keyword" };
    let text = fields.text(name)?;
    let limit = fields.number_or("limit", 10)?.min(1_000) as usize;
    let offset = usize::try_from(fields.number_or("offset", 0)?).unwrap_or(usize::MAX);
    Ok(Success::json("", search.page(text, offset, limit)))
}
