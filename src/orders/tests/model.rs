//! Random histories against a model of a page: what may be sent, what is repeated, what is held.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::orders::archiver::archive_all;

/// Minutes.
const DAY: u64 = 24 * 60;

/// One step of a history. The numbers select among the existing tickets, so that most steps have an effect.
#[derive(Clone, Debug)]
enum Step {
    Recall {
        key: Option<u8>,
        body: u8,
        confirmed: bool,
    },
    Write(usize),
    /// Ends a written order; `None`: its ticket is dropped.
    OrderEnd(usize, Option<Sent>),
    /// Drops a ticket whose order was not written.
    DropTicket(usize),
    /// A caller leaves.
    Leaves(usize),
    /// An answer is written to its caller's connection.
    Written(usize),
    /// An answer reaches its caller.
    Reached(usize),
    /// A request that waits for an order asks again, if that has ended.
    AsksAgain(usize),
    Minutes(u64),
    /// The process stops cleanly, or is killed after all writes are on disk.
    Restart {
        killed: bool,
    },
    /// An order ends, and the process is killed before that is on disk.
    EndThenKilled(usize, Sent),
    /// Ended orders move to the archive, and old ones leave it.
    Archive,
    /// The process is killed when the archive has them and the journal has them still.
    ArchiveThenKilled,
}

fn step() -> impl Strategy<Value = Step> {
    let sent = || prop_oneof![Just(Sent::Yes), Just(Sent::Unknown), Just(Sent::No)];
    prop_oneof![
        8 => (proptest::option::of(0u8..3), 0u8..2, any::<bool>())
            .prop_map(|(key, body, confirmed)| Step::Recall { key, body, confirmed }),
        6 => any::<usize>().prop_map(Step::Write),
        6 => (any::<usize>(), proptest::option::of(sent())).prop_map(|(i, sent)| Step::OrderEnd(i, sent)),
        1 => any::<usize>().prop_map(Step::DropTicket),
        3 => any::<usize>().prop_map(Step::Leaves),
        3 => any::<usize>().prop_map(Step::Written),
        3 => any::<usize>().prop_map(Step::Reached),
        3 => any::<usize>().prop_map(Step::AsksAgain),
        2 => (1u64..900).prop_map(Step::Minutes),
        1 => any::<bool>().prop_map(|killed| Step::Restart { killed }),
        1 => (any::<usize>(), sent()).prop_map(|(i, sent)| Step::EndThenKilled(i, sent)),
        3 => Just(Step::Archive),
        1 => Just(Step::ArchiveThenKilled),
    ]
}

/// How the model sees an order.
#[derive(Clone, Debug)]
enum ModelState {
    Claimed,
    Sent,
    /// The id of the request whose answer is repeated, if any, and the minute at which it became unknown.
    Unknown(Option<String>, u64),
    Ended(Option<String>, u64),
    /// Ended, and its answer has reached nobody. The minute of its end.
    Undelivered(u64),
}

#[derive(Clone, Debug)]
struct Modelled {
    key: Option<u8>,
    body: u8,
    state: ModelState,
    settles: Vec<String>,
    /// Somebody waits for its answer or is being given it.
    caller: bool,
    /// Its answer was written to that, so recently that it is not decided whether it has been read.
    written: bool,
}

impl Modelled {
    fn in_flight(&self) -> bool {
        matches!(self.state, ModelState::Claimed | ModelState::Sent)
    }

    /// Its answer is given to no equal order any more; a key still gets it.
    fn ends_delivery(&mut self, id: &str) {
        if let ModelState::Undelivered(since) = self.state {
            (self.state, self.caller) = (ModelState::Ended(Some(id.to_owned()), since), false);
        }
    }
}

/// The model: orders by request id; one that is gone is free again.
#[derive(Clone, Debug, Default)]
struct Model {
    orders: BTreeMap<String, Modelled>,
    minute: u64,
}

#[derive(Debug, PartialEq)]
enum Expected {
    New,
    Repeat(String),
    OrderRefusal(OrderRefusal),
    /// Another caller waits or is being answered; of one of these.
    InFlight(Vec<String>),
    /// Waits for the end of one of these.
    UnderWay(Vec<String>),
    /// Gets the answer of one of these, which has reached nobody.
    Given(Vec<String>),
    /// By one of these.
    Held(Vec<String>),
}

impl Model {
    fn expire(&mut self) {
        let minute = self.minute;
        let remembered = REMEMBERED.as_secs() / 60;
        for (id, order) in &mut self.orders {
            if matches!(order.state, ModelState::Undelivered(since) if !order.caller && minute - since >= 10) {
                order.ends_delivery(id);
            }
        }
        self.orders.retain(|_, order| match order.state {
            ModelState::Ended(_, since) => order.key.is_some() && minute - since < remembered,
            ModelState::Undelivered(since) => minute - since < remembered,
            ModelState::Claimed | ModelState::Sent | ModelState::Unknown(..) => true,
        });
    }

    /// The answers that were written have reached their callers.
    fn decide_written(&mut self) {
        self.orders.iter_mut().filter(|(_, order)| order.written).for_each(|(id, order)| order.ends_delivery(id));
        self.orders.retain(|_, order| order.key.is_some() || !matches!(order.state, ModelState::Ended(..)));
    }

    fn unknown(&self) -> impl Iterator<Item = (&String, &Modelled)> {
        self.orders.iter().filter(|(_, order)| matches!(order.state, ModelState::Unknown(..)))
    }

    /// `waited_for`: the order that the request has waited for.
    fn expected(&self, order: (Option<u8>, u8, bool), waited_for: Option<&str>) -> Expected {
        let (key, body, confirmed) = order;
        let free = |(id, order): (&String, &Modelled)| !order.caller || waited_for == Some(id.as_str());
        if let Some((first, order)) = self.orders.iter().find(|(_, order)| key.is_some() && order.key == key) {
            let name = first.clone();
            return match &order.state {
                _ if order.body != body => Expected::OrderRefusal(OrderRefusal::OtherRequest { first: name }),
                ModelState::Claimed | ModelState::Sent if free((first, order)) => Expected::UnderWay(vec![name]),
                ModelState::Claimed | ModelState::Sent => Expected::InFlight(vec![name]),
                ModelState::Unknown(Some(told), _) | ModelState::Ended(Some(told), _) => Expected::Repeat(told.clone()),
                ModelState::Undelivered(_) if free((first, order)) => Expected::Given(vec![name]),
                ModelState::Undelivered(_) => Expected::Repeat(name),
                _ => Expected::OrderRefusal(OrderRefusal::Interrupted { first: name }),
            };
        }
        let equal = || self.orders.iter().filter(|(_, order)| order.body == body);
        let ids = |orders: Vec<(&String, &Modelled)>| orders.into_iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        let holds =
            |order: &Modelled| matches!(order.state, ModelState::Unknown(_, since) if self.minute - since < DAY);
        let unknown = ids(equal().filter(|(_, order)| holds(order)).collect());
        let undelivered = |order: &Modelled| matches!(order.state, ModelState::Undelivered(_));
        let open = |order: &Modelled| order.in_flight() || undelivered(order);
        let live: Vec<_> = equal().filter(|(_, order)| open(order)).collect();
        if key.is_some() || confirmed || (unknown.is_empty() && live.is_empty()) {
            return Expected::New;
        }
        if !unknown.is_empty() {
            return Expected::Held(unknown);
        }
        let left: Vec<_> = live.iter().copied().filter(|it| free(*it)).collect();
        if left.is_empty() {
            return Expected::InFlight(ids(live));
        }
        if left.iter().all(|(_, order)| order.in_flight()) {
            return Expected::UnderWay(ids(left));
        }
        // After a restart their order is that of their ends.
        Expected::Given(ids(left.into_iter().filter(|(_, order)| !order.in_flight()).collect()))
    }

    fn claim(&mut self, id: &str, key: Option<u8>, body: u8, confirmed: bool) {
        let equal = self.unknown().filter(|(_, order)| confirmed && order.body == body);
        let settles = equal.map(|(id, _)| id.clone()).collect();
        self.orders.insert(
            id.into(),
            Modelled { key, body, state: ModelState::Claimed, settles, caller: true, written: false },
        );
    }

    fn end(&mut self, id: &str, sent: Option<Sent>) {
        let minute = self.minute;
        let Some(order) = self.orders.get_mut(id) else { return };
        match sent {
            None => order.state = ModelState::Unknown(None, minute),
            Some(Sent::Unknown) => order.state = ModelState::Unknown(Some(id.into()), minute),
            Some(Sent::No) => drop(self.orders.remove(id)),
            Some(Sent::Yes) => {
                order.state = ModelState::Undelivered(minute);
                for settled in order.settles.clone() {
                    if let Some(order) = self.orders.get_mut(&settled)
                        && let ModelState::Unknown(told, _) = &order.state
                    {
                        order.state = ModelState::Ended(told.clone(), minute);
                    }
                }
            }
        }
        self.orders.retain(|_, order| order.key.is_some() || !matches!(order.state, ModelState::Ended(..)));
    }

    fn restart(&mut self) {
        let minute = self.minute;
        self.orders.retain(|_, order| !matches!(order.state, ModelState::Claimed));
        for order in self.orders.values_mut() {
            (order.caller, order.written) = (false, false);
            if matches!(order.state, ModelState::Sent) {
                order.state = ModelState::Unknown(None, minute);
            }
        }
    }
}

/// The real one, driven beside the model.
struct Real {
    home: tempfile::TempDir,
    store: Store,
    orders: Orders,
    tickets: Vec<(String, Ticket)>,
    written: Vec<(String, Written)>,
    /// By the order whose answer they get.
    callers: Vec<(String, CallerPresence)>,
    waiting: Vec<Waiting>,
    model: Model,
    recalled: u64,
    /// What may have been sent under which key, and the minute of its end.
    sent: BTreeMap<String, (u8, Option<u64>)>,
}

/// A request that waits for the end of an order.
struct Waiting {
    order: String,
    request: (Option<u8>, u8, bool),
    under_way: OrderUnderWay,
}

fn take<T>(from: &mut Vec<T>, choice: usize) -> Option<T> {
    if from.is_empty() { None } else { Some(from.remove(choice % from.len())) }
}

impl Real {
    async fn new() -> Real {
        let home = tempfile::tempdir().unwrap();
        let stores = open_stores(home.path());
        let store = stores.journal.clone();
        let orders = Orders::open(stores, start_time(), &settings(), 1 << 30).await.unwrap();
        Real {
            home,
            store,
            orders,
            tickets: vec![],
            written: vec![],
            callers: vec![],
            waiting: vec![],
            model: Model::default(),
            recalled: 0,
            sent: BTreeMap::new(),
        }
    }

    async fn take_step(&mut self, step: Step) {
        match step {
            Step::Recall { key, body, confirmed } => self.recall((key, body, confirmed), None).await,
            Step::Write(choice) => {
                let Some((id, ticket)) = take(&mut self.tickets, choice) else { return };
                self.written.push((id.clone(), self.orders.write(ticket).await.unwrap()));
                self.model.orders.get_mut(&id).unwrap().state = ModelState::Sent;
                self.sends(&id);
            }
            Step::OrderEnd(choice, sent) => {
                let Some((id, written)) = take(&mut self.written, choice) else { return };
                self.end(&id, written, sent);
            }
            Step::DropTicket(choice) => {
                let Some((id, ticket)) = take(&mut self.tickets, choice) else { return };
                drop(ticket);
                self.model.orders.remove(&id);
            }
            Step::Leaves(choice) => {
                let id = match take(&mut self.callers, choice) {
                    Some((id, _)) => id,
                    None => match take(&mut self.waiting, choice) {
                        Some(Waiting { order, .. }) => order,
                        None => return,
                    },
                };
                if let Some(order) = self.model.orders.get_mut(&id) {
                    (order.caller, order.written) = (false, false);
                }
            }
            Step::Written(choice) => {
                let Some(index) = self.answered(choice) else { return };
                let (id, caller) = &mut self.callers[index];
                caller.written();
                if let Some(order) = self.model.orders.get_mut(id) {
                    order.written = matches!(order.state, ModelState::Undelivered(_));
                }
            }
            Step::Reached(choice) => {
                let Some(index) = self.answered(choice) else { return };
                let (id, caller) = self.callers.remove(index);
                Box::new(caller).reached();
                match self.model.orders.get_mut(&id) {
                    Some(order) if matches!(order.state, ModelState::Undelivered(_)) => {
                        order.ends_delivery(&id);
                        if order.key.is_none() {
                            self.model.orders.remove(&id);
                        }
                    }
                    Some(order) => order.caller = false,
                    None => {}
                }
            }
            Step::AsksAgain(choice) => {
                let ended = |waiting: &Waiting| self.model.orders.get(&waiting.order).is_none_or(|it| !it.in_flight());
                let Some(index) = self.waiting.iter().position(ended) else { return };
                let _ = choice;
                let Waiting { order, request, under_way } = self.waiting.remove(index);
                let presence = under_way.ended().await;
                self.recall(request, Some((order, presence))).await;
            }
            Step::Minutes(minutes) => {
                tokio::time::advance(Duration::from_secs(60 * minutes)).await;
                self.orders.inner.decide_written();
                self.model.minute += minutes;
                self.model.decide_written();
            }
            Step::Restart { killed } => {
                self.orders.write_time();
                let copy = self.copy().await;
                if killed {
                    self.start(copy).await;
                } else {
                    // What is in flight is cut by the drain: dropped before the store closes.
                    self.tickets.clear();
                    self.written.clear();
                    self.callers.clear();
                    self.waiting.clear();
                    self.store.close().await;
                    self.orders.archive().close().await;
                    let copy = self.copy_file();
                    self.start(copy).await;
                }
                self.model.restart();
                self.processes_end();
            }
            Step::EndThenKilled(choice, sent) => {
                let Some((id, written)) = take(&mut self.written, choice) else { return };
                self.orders.write_time();
                let copy = self.copy().await;
                let before = (self.model.clone(), self.sent.clone());
                self.end(&id, written, Some(sent));
                self.start(copy).await;
                (self.model, self.sent) = before;
                self.processes_end();
                self.model.restart();
            }
            Step::Archive => {
                archive_all(&self.orders).await;
                self.orders.archive().checked().await;
            }
            Step::ArchiveThenKilled => {
                self.orders.write_time();
                let copy = self.copy().await;
                archive_all(&self.orders).await;
                std::fs::copy(self.home.path().join("orders.redb"), copy.path().join("orders.redb")).unwrap();
                self.start(copy).await;
                self.model.restart();
                self.processes_end();
            }
        }
        self.model.expire();
        assert_eq!(self.orders.unknown_count("main"), self.model.unknown().count() as u64);
        self.orders.inner.index.lock().check();
    }

    fn end(&mut self, id: &str, written: Written, sent: Option<Sent>) {
        match sent {
            Some(sent) => written.end(answer(id, sent)),
            None => drop(written),
        }
        self.model.end(id, sent);
        if sent == Some(Sent::No) {
            self.sent.remove(id);
        } else if let Some((_, ended)) = self.sent.get_mut(id) {
            *ended = Some(self.model.minute);
        }
    }

    async fn recall(&mut self, request: (Option<u8>, u8, bool), waited_for: Option<(String, CallerPresence)>) {
        let (key, body, confirmed) = request;
        self.recalled += 1;
        let id = format!("r{:06}", self.recalled);
        let mut order = TestOrder { body: format!("body {body}"), ..super::order(&id) };
        if let Some(key) = key {
            order = order.key(&format!("k{key}"));
        }
        if confirmed {
            order = order.confirmed();
        }
        let (waited, presence) = waited_for.unzip();
        let expected = self.model.expected(request, waited.as_deref());
        if let Some(order) = waited.as_ref().and_then(|id| self.model.orders.get_mut(id)) {
            order.caller = false;
        }
        match (order.recall_after(&self.orders, presence).await, expected) {
            (Ok(Recall::New(ticket, caller)), Expected::New) => {
                self.tickets.push((id.clone(), ticket));
                self.callers.push((id.clone(), caller));
                self.model.claim(&id, key, body, confirmed);
            }
            (Ok(Recall::Repeat(told, None)), Expected::Repeat(by)) => assert_eq!(*told, answer(&by, told.sent)),
            (Ok(Recall::Repeat(told, Some(caller))), Expected::Given(of)) => {
                let by = told.request_id.clone();
                assert!(of.contains(&by), "{by}: {of:?}");
                self.model.orders.get_mut(&by).unwrap().caller = true;
                self.callers.push((by, caller));
            }
            (Ok(Recall::UnderWay(under_way)), Expected::UnderWay(of)) => {
                let order = under_way.first().to_owned();
                assert!(of.contains(&order), "{order}: {of:?}");
                self.model.orders.get_mut(&order).unwrap().caller = true;
                self.waiting.push(Waiting { order, request, under_way });
            }
            (Err(OrderRefusal::Held { first }), Expected::Held(equal)) => {
                assert!(equal.contains(&first), "{first}: {equal:?}")
            }
            (Ok(Recall::Occupied(occupied)), Expected::InFlight(of)) => {
                let OrderRefusal::InFlight { first } = occupied.refusal() else { panic!("another refusal") };
                assert!(of.contains(&first), "{first}: {of:?}");
            }
            (Err(refused), Expected::OrderRefusal(expected)) => assert_eq!(refused, expected),
            (got, expected) => panic!("{order:?}: {got:?} instead of {expected:?}"),
        }
    }

    /// The position of a caller whose order has ended.
    fn answered(&self, choice: usize) -> Option<usize> {
        let answered = |id: &String| self.model.orders.get(id).is_none_or(|order| !order.in_flight());
        let mut positions = (0..self.callers.len()).filter(|index| answered(&self.callers[*index].0));
        positions.nth(choice % 3)
    }

    /// Checks the promise itself, without the model: no order is sent while another one with the same key is in flight, or
    /// may have been sent while it is remembered; and none without a key and confirmation while an equal one is under way,
    /// unknown or undelivered.
    fn sends(&mut self, id: &str) {
        let Some(key) = self.model.orders[id].key else { return };
        let minute = self.model.minute;
        for (earlier, (_, ended)) in self.sent.iter().filter(|(_, (other, _))| *other == key) {
            let over = ended.is_some_and(|ended| minute - ended >= REMEMBERED.as_secs() / 60);
            assert!(over, "{id} is sent under the key of {earlier}");
        }
        self.sent.insert(id.into(), (key, None));
    }

    fn processes_end(&mut self) {
        let minute = self.model.minute;
        self.sent.values_mut().for_each(|(_, ended)| *ended = ended.or(Some(minute)));
    }

    /// The file as it is once everything handed in so far is on disk.
    async fn copy(&self) -> tempfile::TempDir {
        self.store.load(&ORDERS).await.unwrap();
        self.copy_file()
    }

    fn copy_file(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for file in ["state.redb", "orders.redb"] {
            std::fs::copy(self.home.path().join(file), copy.path().join(file)).unwrap();
        }
        copy
    }

    async fn start(&mut self, copy: tempfile::TempDir) {
        let now = start_time() + Duration::from_secs(60 * self.model.minute);
        let stores = open_stores(copy.path());
        self.store = stores.journal.clone();
        self.orders = Orders::open(stores, now, &settings(), 1 << 30).await.unwrap();
        // Those of the life before write into the old file only.
        self.tickets.clear();
        self.written.clear();
        self.callers.clear();
        self.waiting.clear();
        self.home = copy;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn never_sends_twice_and_holds_only_what_is_unknown(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut real = Real::new().await;
            for step in steps {
                real.take_step(step).await;
            }
        });
    }
}
