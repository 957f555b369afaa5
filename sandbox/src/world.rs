//! Everything the sandbox knows, and what a request does to it.
//!
//! What always holds: a request is received (journalled, its key and fault decided) before it is
//! executed; executing is one step that either happens whole or not at all; what was due before a
//! request has happened when it is executed; no body panics it. It knows no sockets and never waits.

mod flow;
mod misbehave;
mod time;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use serde_json::Value;
use tokio::sync::Notify;

use super::{
    auth::{Keys, Style},
    clock::{self, Clock},
    couriers,
    envelope::{Failure, Reply},
    faults::{self, Faults, Met},
    input::{self, Checked, Fields},
    journal::{Bounds, Entry, Journal},
    limits::{Limit, Limits, Refused},
    orders::{Orders, plan::Plan},
    parcel,
    quotes::{Quotes, Validity},
    regions::{Regions, Search},
    route::{Kind, Operation, Routes, Version},
    tariffs::Question,
    wallet::Wallet,
    webhook::{self, Outbox},
};

/// What is switchable, because Fastrac's own way is not public.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Path prefix of both versions, such as `/b2b`; empty: none.
    pub prefix: String,
    /// Which style of keys is good for which version.
    pub auth: Style,
    /// Whether V2 answers carry `timestamp`.
    pub timestamp: bool,
    /// Status of `Data not found`: 404 or 200.
    pub not_found: u16,
    /// Opening balance in IDR.
    pub balance: u64,
    /// Whether `POST /order/track` is served too.
    pub track_by_post: bool,
    /// How long a `tariff_id` is good, and for how many orders.
    pub validity: Validity,
    /// Message when the balance is too small.
    pub shortage: String,
    /// How much may be asked.
    pub limits: Vec<Limit>,
    /// Which ways orders take.
    pub plan: Plan,
    /// How webhooks are sent.
    pub webhook: Arc<webhook::Settings>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            prefix: String::new(),
            auth: Style::Any,
            timestamp: true,
            not_found: 404,
            balance: 10_000_000_000,
            track_by_post: false,
            validity: Validity { millis: 300_000, single_use: true },
            shortage: "Insufficient balance".to_owned(),
            limits: Vec::new(),
            plan: Plan::default(),
            webhook: Arc::default(),
        }
    }
}

/// A request, whole.
#[derive(Debug)]
pub struct Request {
    /// The connection's number.
    pub connection: u64,
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The fault that met it before it was whole: see [`World::uploads`].
    pub met: Option<Met>,
}

/// A request that stands in the journal.
#[derive(Debug)]
pub struct Received {
    seq: u64,
    row: Option<usize>,
    key: Option<Arc<str>>,
    uri: Uri,
    body: Bytes,
    limited: Option<Refused>,
    /// The fault that meets it.
    pub met: Option<Met>,
}

/// A right answer: status and body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body, JSON.
    pub body: Bytes,
    /// Seconds of its `Retry-After`, if it has one.
    pub retry_after: Option<u64>,
}

/// The state.
#[derive(Debug)]
pub struct World {
    rules: Rules,
    seed: u64,
    first_keys: Keys,
    bounds: Bounds,
    /// Key pairs.
    pub keys: Keys,
    /// What came.
    pub journal: Journal,
    /// What goes wrong.
    pub faults: Faults,
    /// How much may be asked.
    pub limits: Limits,
    /// The time.
    pub clock: Clock,
    search: Search,
    quotes: Quotes,
    /// Orders on their way.
    pub orders: Orders,
    /// The account's money.
    pub wallet: Wallet,
    /// Its webhook.
    pub outbox: Outbox,
    /// Wakes the task that lets time pass.
    bell: Arc<Notify>,
    /// Wakes whoever waits until everything due is sent.
    calm: Arc<Notify>,
    /// Until when that task sleeps, Unix milliseconds.
    asleep_until: i64,
}

impl World {
    /// A new world.
    pub fn new(rules: Rules, seed: u64, (keys, bounds): (Keys, Bounds), clock: Clock) -> Self {
        let wallet = Wallet::new(rules.balance, clock.now(), seed);
        let outbox = Outbox::new(Arc::clone(&rules.webhook), seed, 0);
        let limits = Limits::new(rules.limits.clone());
        World {
            rules,
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

    /// Everything as at the start, but for the clock.
    pub fn reset(&mut self) {
        let start = (self.first_keys.clone(), self.bounds);
        let (outbox, bell, calm) = (self.outbox.successor(), Arc::clone(&self.bell), Arc::clone(&self.calm));
        let fresh = World::new(self.rules.clone(), self.seed, start, self.clock);
        *self = World { outbox, bell, calm, ..fresh };
        self.calm.notify_waiters();
        self.ring();
    }

    /// IDR in the account's wallet.
    pub fn balance(&self) -> u64 {
        self.wallet.balance()
    }

    /// Writes a request down and decides its key and fault.
    pub fn receive(&mut self, request: Request) -> Received {
        let path = request.uri.path();
        let at = self.clock.now();
        let row = self.row(&request.method, path);
        let operation = row.map(|row| Routes::get().rows()[row].operation);
        let key = self.key(&request.headers, operation, at);
        if key.is_none() && self.keys.mixed(&request.headers) {
            self.journal.mixed();
        }
        let asked = faults::Asked { operation, path, key: key.as_deref(), at };
        let met = request.met.or_else(|| self.faults.take(&asked));
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
            fault: met.as_ref().map(|met| met.number),
            act: met.as_ref().map(|met| met.act.name()),
            limited: limited.as_ref().map(|refused| refused.window),
        };
        let seq = self.journal.receive(entry);
        Received { seq, row, key, uri: request.uri, body: request.body, limited, met }
    }

    /// The position of the row that serves a path.
    fn row(&self, method: &Method, path: &str) -> Option<usize> {
        let path = path.strip_prefix(self.rules.prefix.as_str())?;
        Routes::get().find(method, path, self.rules.track_by_post)
    }

    /// The label of the pair that a request carries.
    fn key(&self, headers: &HeaderMap, operation: Option<Operation>, at: i64) -> Option<Arc<str>> {
        let version = operation.map(|operation| operation.version);
        self.keys.check(headers, (version, self.rules.auth), at)
    }

    /// Executes a request and gives the right answer.
    pub fn execute(&mut self, received: &Received) -> Answer {
        self.catch_up();
        let operation = received.row.map(|row| Routes::get().rows()[row].operation);
        let outcome = match (&received.key, &received.limited, operation) {
            (None, ..) => Err(Failure::Unauthorized),
            (_, Some(refused), _) => Err(Failure::Limited(refused.clone())),
            (Some(_), None, None) => Err(Failure::NoRoute),
            (Some(_), None, Some(operation)) => self.perform(operation, received),
        };
        self.answer(received, outcome)
    }

    /// Refuses a request whose body is longer than is read.
    pub fn too_long(&self, received: &Received) -> Answer {
        self.answer(received, Err(Failure::TooLong))
    }

    /// Notes how a request was answered.
    pub fn answered(&mut self, received: &Received, status: u16) {
        self.journal.answer(received.seq, received.row, received.key.as_ref(), status);
    }

    fn answer(&self, received: &Received, outcome: Checked<Reply>) -> Answer {
        let first = match received.row {
            Some(row) => Routes::get().rows()[row].operation.version == Version::V1,
            None => received.uri.path().starts_with("/api"),
        };
        let timestamp = (self.rules.timestamp && !first).then(|| clock::envelope(self.said(received)));
        match outcome {
            Ok(reply) => Answer { status: 200, body: reply.body(timestamp.as_deref()), retry_after: None },
            Err(failure) => {
                let (status, body) = (failure.status(self.rules.not_found), failure.body(timestamp.as_deref()));
                Answer { status, body, retry_after: failure.retry_after() }
            }
        }
    }

    fn perform(&mut self, operation: Operation, received: &Received) -> Checked<Reply> {
        let query = received.uri.query();
        match operation.kind {
            Kind::Province => Ok(Reply::json("", Regions::get().provinces())),
            Kind::City => list(input::query_id(query, "province_id")?, |map, id| map.cities(id)),
            Kind::District => list(input::query_id(query, "city_id")?, |map, id| map.districts(id)),
            Kind::SubDistrict => list(input::query_id(query, "district_id")?, |map, id| map.villages(id)),
            Kind::PostCode => post_code(query),
            Kind::Couriers => Ok(Reply::json("", couriers::list())),
            Kind::ItemCategories => Ok(Reply::json("", couriers::categories())),
            Kind::CourierServices => {
                let code = input::query(query, "courier_code").filter(|code| !code.is_empty());
                let code = code.ok_or_else(|| Failure::Invalid("courier_code is required".to_owned()))?;
                couriers::find(&code).map(|c| Reply::json("", c.services())).ok_or(Failure::NotFound)
            }
            Kind::MultiItems => parcel::multi_items(&received.body),
            Kind::WebhookGet => Ok(self.outbox.get()),
            Kind::BalanceHistory if received.body.is_empty() => self.ask(operation, received.seq, b"{}"),
            _ => self.ask(operation, received.seq, &received.body),
        }
    }

    /// The operations that take a JSON object.
    fn ask(&mut self, operation: Operation, seq: u64, body: &[u8]) -> Checked<Reply> {
        let content = input::json(body)?;
        let reply = self.reply(operation, &content)?;
        if reply.executed {
            self.journal.execute(seq, operation, &content);
            self.stir();
        }
        Ok(reply)
    }

    fn reply(&mut self, operation: Operation, content: &Value) -> Checked<Reply> {
        let fields = Fields::of(content)?;
        let (now, seed) = (self.clock.now(), self.seed);
        match operation.kind {
            Kind::SearchRegion => return search(&mut self.search, &fields),
            Kind::TariffExpress => {
                let tariffs = Question::read(&fields, operation.version)?.answer(seed)?;
                return Ok(Reply::of("success", &tariffs));
            }
            Kind::WebhookSet => return self.outbox.set(&fields),
            Kind::BalanceHistory => return self.wallet.history(&fields, now),
            _ => {}
        }
        let (orders, mut desk) = self.desk(now);
        match operation.kind {
            Kind::TariffInstant => {
                let offers = desk.quotes.make(&fields, seed, now, desk.validity)?;
                Ok(Reply::json("success", offers))
            }
            Kind::OrderExpress => orders.express(&fields, &mut desk),
            Kind::OrderInstant => orders.instant(&fields, &mut desk),
            Kind::OrderCancel => orders.cancel(&fields, &mut desk),
            Kind::Track => orders.track(&fields),
            // `perform` answers the rest without a body.
            _ => Err(Failure::NoRoute),
        }
    }
}

fn list<B: Into<Bytes>>(id: u64, of: impl Fn(&Regions, u64) -> Option<B>) -> Checked<Reply> {
    of(Regions::get(), id).map(|data| Reply::json("", data)).ok_or(Failure::NotFound)
}

/// The documentation names the parameter in two ways; both are taken.
fn post_code(query: Option<&str>) -> Checked<Reply> {
    let name = if input::query(query, "post_code").is_some() { "post_code" } else { "postal_code" };
    let post = input::query_id(query, name)?;
    list(post, |map, post| map.by_post(u32::try_from(post).ok()?))
}

/// `keyword` (V2) or `search` (V1); either version takes either.
fn search(search: &mut Search, fields: &Fields<'_>) -> Checked<Reply> {
    let name = if fields.get("search").is_some() && fields.get("keyword").is_none() { "search" } else { "keyword" };
    let text = fields.text(name)?;
    let limit = fields.number_or("limit", 10)?.min(1_000) as usize;
    let offset = usize::try_from(fields.number_or("offset", 0)?).unwrap_or(usize::MAX);
    Ok(Reply::json("", search.page(text, offset, limit)))
}
