//! The account's webhook: its address, and the deliveries.
//!
//! Fastrac documents only that the address can be set and read, so everything else is a choice: the account has one
//! address, the last one set; each step of an order, including the first, is an event; the payload is a template; it
//! is unsigned, or signed with a secret; a 2xx response ends a delivery, anything else is retried after the pauses of
//! `retries`; deliveries are sent one after another, in the order of their times, so that a receiver's view is
//! reproducible.
//!
//! What always holds: at most `kept` deliveries are stored; the oldest are dropped first (one that was still waiting
//! is counted as dropped). Times are the sandbox's. With a stepped clock, the same events and the same responses of
//! the receiver give the same list. It knows no sockets: those are in `send`.

mod delivery;
pub(super) mod receive;
pub(super) mod send;
mod settings;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    clock,
    couriers::{Courier, texts},
    envelope::{ApiError, Success},
    input::{ApiResult, Fields},
    orders::{ids::OrderIds, steps::Step},
    random::{Purpose, draw, fraction},
};
use delivery::{Attempt, Delivery, DeliveryState, QueueKey};
pub(crate) use delivery::{AttemptResult, DeliveryCounts};
pub use receive::WebhookPrinter;
pub(crate) use settings::{AllowedHosts, PayloadTemplate, Rule, RuleAct, WebhookSettings};

/// Maximum length of an address, in bytes.
const MAX_ADDRESS: usize = 2_048;

/// How long a reordered event waits for the order's next event, in milliseconds.
const REORDER_WAIT: i64 = 3_600_000;

/// A delivery attempt to make.
#[derive(Debug)]
pub(crate) struct DeliveryJob {
    id: u64,
    epoch: u64,
    at: i64,
    pub(super) url: Arc<str>,
    pub(super) body: Bytes,
    pub(super) settings: Arc<WebhookSettings>,
}

/// A step of an order that is reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrderEvent {
    pub(crate) ids: OrderIds,
    pub(crate) courier: &'static Courier,
    pub(crate) step: Step,
    /// When it happened, Unix milliseconds.
    pub(crate) at: i64,
}

/// The address and the stored deliveries.
#[derive(Debug)]
pub(crate) struct Outbox {
    seed: u64,
    settings: Arc<WebhookSettings>,
    url: Option<Arc<str>>,
    /// Changes at each reset, so that results of attempts from before it are ignored.
    epoch: u64,
    next_rule: u64,
    rules: Vec<(u64, Rule)>,
    next: u64,
    known: VecDeque<Delivery>,
    queue: BTreeSet<QueueKey>,
    /// Events held back until their order's next event: id of the delivery by order number.
    held: HashMap<u64, u64>,
    sending: bool,
    counts: DeliveryCounts,
}

impl Outbox {
    /// `epoch` must differ from that of an outbox that this one replaces.
    pub(crate) fn new(settings: Arc<WebhookSettings>, seed: u64, epoch: u64) -> Self {
        let url = settings.url.as_deref().map(Arc::from);
        let mut outbox = Outbox {
            seed,
            url,
            epoch,
            next_rule: 0,
            rules: Vec::new(),
            next: 1,
            known: VecDeque::new(),
            queue: BTreeSet::new(),
            held: HashMap::new(),
            sending: false,
            counts: DeliveryCounts::default(),
            settings: Arc::clone(&settings),
        };
        for rule in &settings.rules {
            outbox.add_rule(rule.clone());
        }
        outbox
    }

    /// The outbox after a reset.
    pub(crate) fn restarted(&self) -> Self {
        Outbox::new(Arc::clone(&self.settings), self.seed, self.epoch + 1)
    }

    /// The operation Set Webhook. The real name of the member is not public: `url`, `webhook_url` and `webhook` are
    /// accepted.
    ///
    /// # Errors
    ///
    /// If there is no address or it is not http(s).
    pub(crate) fn set(&mut self, fields: &Fields<'_>) -> ApiResult<Success> {
        let name = ["url", "webhook_url", "webhook"].into_iter().find(|name| fields.get(name).is_some());
        let url = fields.text(name.unwrap_or("url"))?;
        if !address(url) {
            return Err(ApiError::Invalid("url must be an http or https address".to_owned()));
        }
        self.url = Some(url.into());
        Ok(self.get())
    }

    /// The operation Get Webhook.
    pub(crate) fn get(&self) -> Success {
        Success::of("success", &json!({"url": self.url.as_deref()}))
    }

    /// Creates the deliveries for an event.
    pub(crate) fn record(&mut self, event: &OrderEvent) {
        let Some(url) = self.url.clone() else { return };
        let OrderEvent { ids, courier, step, at } = *event;
        self.counts.events += 1;
        let status = step.status(ids.instant);
        let awb = ids.awb(self.seed);
        let act = self.rule_for(&awb, status);
        let body = self.settings.payload.fill(&[
            ("awb", &awb),
            ("booking_id", &ids.booking_id(self.seed)),
            ("kd_pesanan", &ids.code(self.seed)),
            ("courier_code", courier.code),
            ("status", status),
            ("timestamp", &clock::local(at)),
            ("at", &clock::utc(at)),
            ("description", texts::text(courier.code, step)),
        ]);
        let delivery = |act| Delivery {
            id: 0,
            at,
            order: ids.number,
            awb: awb.clone(),
            status,
            url: Arc::clone(&url),
            body: body.clone(),
            act,
            state: DeliveryState::Lost,
            attempts: Vec::new(),
        };
        let before = self.held.remove(&ids.number);
        match act {
            None => self.push(delivery(None), Some(at)),
            Some(RuleAct::Lose) => self.push(delivery(Some("lose")), None),
            Some(RuleAct::Duplicate) => {
                self.push(delivery(Some("duplicate")), Some(at));
                self.push(delivery(Some("duplicate")), Some(at));
            }
            Some(RuleAct::Delay { by_ms }) => {
                let due = at.saturating_add(i64::try_from(by_ms).unwrap_or(i64::MAX));
                self.push(delivery(Some("delay")), Some(due));
            }
            Some(RuleAct::Reorder) => {
                self.push(delivery(Some("reorder")), Some(at.saturating_add(REORDER_WAIT)));
                self.held.insert(ids.number, self.next - 1);
            }
        }
        self.count(act);
        if let Some(id) = before {
            self.release(id, at);
        }
    }

    fn count(&mut self, act: Option<RuleAct>) {
        let counts = &mut self.counts;
        match act {
            None => {}
            Some(RuleAct::Lose) => counts.lost += 1,
            Some(RuleAct::Duplicate) => counts.duplicated += 1,
            Some(RuleAct::Delay { .. }) => counts.delayed += 1,
            Some(RuleAct::Reorder) => counts.reordered += 1,
        }
    }

    /// Queues a held event directly after the newest one.
    fn release(&mut self, id: u64, at: i64) {
        let newest = self.next - 1;
        let Some(delivery) = self.delivery(id) else { return };
        let DeliveryState::Waiting(key) = delivery.state else { return };
        let behind = QueueKey { due: at, rank: 2 * newest + 1, id };
        delivery.state = DeliveryState::Waiting(behind);
        self.queue.remove(&key);
        self.queue.insert(behind);
    }

    /// Stores a delivery, and queues it if `due` is given.
    fn push(&mut self, mut delivery: Delivery, due: Option<i64>) {
        delivery.id = self.next;
        self.next += 1;
        if let Some(due) = due {
            let key = QueueKey { due, rank: 2 * delivery.id, id: delivery.id };
            delivery.state = DeliveryState::Waiting(key);
            self.queue.insert(key);
        }
        if self.known.len() >= self.settings.kept.max(1)
            && let Some(oldest) = self.known.pop_front()
        {
            if let DeliveryState::Waiting(key) = oldest.state {
                self.queue.remove(&key);
                self.counts.dropped += 1;
            }
            if self.held.get(&oldest.order) == Some(&oldest.id) {
                self.held.remove(&oldest.order);
            }
        }
        self.known.push_back(delivery);
    }

    fn delivery(&mut self, id: u64) -> Option<&mut Delivery> {
        let first = self.known.front()?.id;
        self.known.get_mut(usize::try_from(id.checked_sub(first)?).ok()?)
    }

    /// When the next attempt is due, Unix milliseconds.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.queue.first().map(|key| key.due)
    }

    /// Whether nothing is due by `now` and nothing is being sent.
    pub(crate) fn is_idle(&self, now: i64) -> bool {
        !self.sending && self.next_due().is_none_or(|due| due > now)
    }

    /// Starts the next attempt that is due by `now`. Its time is `now` if time runs, else when it was due.
    pub(super) fn start_next(&mut self, now: i64, runs: bool) -> Option<DeliveryJob> {
        let key = self.queue.first().copied().filter(|key| key.due <= now)?;
        self.queue.remove(&key);
        let (epoch, settings) = (self.epoch, Arc::clone(&self.settings));
        let QueueKey { due, id, .. } = key;
        let at = if runs { now } else { due };
        let delivery = self.delivery(id)?;
        delivery.state = DeliveryState::Sending;
        let (order, url, body) = (delivery.order, Arc::clone(&delivery.url), delivery.body.clone());
        if self.held.get(&order) == Some(&id) {
            // It waited long enough: no further event of its order came.
            self.held.remove(&order);
        }
        self.sending = true;
        self.counts.attempts += 1;
        Some(DeliveryJob { id, epoch, at, url, body, settings })
    }

    /// Records the result of an attempt, and queues the next one if there is one.
    pub(super) fn finish(&mut self, job: &DeliveryJob, outcome: AttemptResult, now: Option<i64>) {
        if job.epoch != self.epoch {
            return;
        }
        self.sending = false;
        let retries = Arc::clone(&self.settings);
        let ended = now.unwrap_or(job.at);
        let Some(delivery) = self.delivery(job.id) else {
            self.counts.dropped += 1;
            return;
        };
        let good = matches!(outcome, AttemptResult::Answered(200..=299, _));
        let hopeless = matches!(outcome, AttemptResult::Undeliverable(_));
        let pause = retries.retries_ms.get(delivery.attempts.len());
        delivery.attempts.push(Attempt { at: job.at, outcome });
        if good {
            delivery.state = DeliveryState::Delivered;
            self.counts.delivered += 1;
        } else if let (Some(pause), false) = (pause, hopeless) {
            let due = ended.saturating_add(i64::try_from(*pause).unwrap_or(i64::MAX));
            let key = QueueKey { due, rank: 2 * job.id, id: job.id };
            delivery.state = DeliveryState::Waiting(key);
            self.queue.insert(key);
        } else {
            delivery.state = DeliveryState::Failed;
            self.counts.failed += 1;
        }
    }

    /// Queues a delivery again, now; false if it is unknown or being sent.
    pub(crate) fn resend(&mut self, id: u64, now: i64) -> bool {
        let Some(delivery) = self.delivery(id) else { return false };
        if matches!(delivery.state, DeliveryState::Sending) {
            return false;
        }
        let key = QueueKey { due: now, rank: 2 * id, id };
        let old = std::mem::replace(&mut delivery.state, DeliveryState::Waiting(key));
        if let DeliveryState::Waiting(old) = old {
            self.queue.remove(&old);
        }
        self.queue.insert(key);
        true
    }

    /// Adds a rule; returns its number.
    pub(crate) fn add_rule(&mut self, rule: Rule) -> u64 {
        self.next_rule += 1;
        self.rules.push((self.next_rule, rule));
        self.next_rule
    }

    /// Removes a rule, or all of them; false if there is none with this number.
    pub(crate) fn end_rule(&mut self, number: Option<u64>) -> bool {
        let before = self.rules.len();
        self.rules.retain(|(known, _)| number.is_some_and(|number| number != *known));
        number.is_none() || self.rules.len() < before
    }

    /// The effect of the first rule that applies to an event; counts it.
    fn rule_for(&mut self, awb: &str, status: &str) -> Option<RuleAct> {
        let event = self.counts.events;
        let seed = self.seed;
        let meets = |(number, rule): &(u64, Rule)| {
            let drawn = fraction(draw(seed, Purpose::Webhook, &[*number, event]));
            rule.awb.as_deref().is_none_or(|wanted| wanted == awb)
                && rule.status.as_deref().is_none_or(|wanted| wanted == status)
                && rule.times != Some(0)
                && rule.chance.is_none_or(|chance| drawn < chance)
        };
        let position = self.rules.iter().position(meets)?;
        let rule = &mut self.rules[position].1;
        let act = rule.act;
        if let Some(times) = &mut rule.times {
            *times -= 1;
            if *times == 0 {
                self.rules.remove(position);
            }
        }
        Some(act)
    }

    pub(crate) fn counts(&self) -> DeliveryCounts {
        self.counts
    }

    /// The rules as JSON.
    pub(crate) fn rules_json(&self) -> Value {
        let line = |(number, rule): &(u64, Rule)| json!({"id": number, "rule": rule});
        json!({"rules": self.rules.iter().map(line).collect::<Vec<_>>()})
    }

    /// Deliveries after a number, oldest first, at most `limit`; only those of one order, if given.
    pub(crate) fn page(&self, after: u64, limit: usize, awb: Option<&str>) -> Value {
        let wanted = |delivery: &&Delivery| delivery.id > after && awb.is_none_or(|awb| awb == delivery.awb);
        let page: Vec<Value> = self.known.iter().filter(wanted).take(limit).map(Delivery::json).collect();
        let waiting = self.queue.len() + usize::from(self.sending);
        json!({"url": self.url.as_deref(), "signed": self.settings.secret.is_some(),
               "counts": self.counts.json(), "waiting": waiting, "deliveries": page})
    }
}

/// Whether a text is an acceptable address.
pub(super) fn address(url: &str) -> bool {
    let http = url.starts_with("http://") || url.starts_with("https://");
    http && url.len() <= MAX_ADDRESS && !url.bytes().any(|byte| byte <= b' ') && url.parse::<http::Uri>().is_ok()
}

#[cfg(test)]
mod tests;
