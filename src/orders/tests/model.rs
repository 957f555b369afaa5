//! Random histories against a model of a page: what may be sent, what is repeated, what is held.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

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
    Minutes(u64),
    /// The process stops cleanly, or is killed after all writes are on disk.
    Restart {
        killed: bool,
    },
    /// An order ends, and the process is killed before that is on disk.
    EndThenKilled(usize, Sent),
}

fn step() -> impl Strategy<Value = Step> {
    let sent = || prop_oneof![Just(Sent::Yes), Just(Sent::Unknown), Just(Sent::No)];
    prop_oneof![
        8 => (proptest::option::of(0u8..3), 0u8..2, any::<bool>())
            .prop_map(|(key, body, confirmed)| Step::Recall { key, body, confirmed }),
        6 => any::<usize>().prop_map(Step::Write),
        6 => (any::<usize>(), proptest::option::of(sent())).prop_map(|(i, sent)| Step::OrderEnd(i, sent)),
        1 => any::<usize>().prop_map(Step::DropTicket),
        2 => (1u64..900).prop_map(Step::Minutes),
        1 => any::<bool>().prop_map(|killed| Step::Restart { killed }),
        1 => (any::<usize>(), sent()).prop_map(|(i, sent)| Step::EndThenKilled(i, sent)),
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
}

#[derive(Clone, Debug)]
struct Modelled {
    key: Option<u8>,
    body: u8,
    state: ModelState,
    settles: Vec<String>,
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
    /// By one of these.
    Held(Vec<String>),
}

impl Model {
    fn expire(&mut self) {
        let minute = self.minute;
        self.orders.retain(|_, order| match order.state {
            ModelState::Unknown(_, since) | ModelState::Ended(_, since) => minute - since < 24 * 60,
            ModelState::Claimed | ModelState::Sent => true,
        });
    }

    fn unknown(&self) -> impl Iterator<Item = (&String, &Modelled)> {
        self.orders.iter().filter(|(_, order)| matches!(order.state, ModelState::Unknown(..)))
    }

    fn expected(&self, key: Option<u8>, body: u8, confirmed: bool) -> Expected {
        if let Some((first, order)) = self.orders.iter().find(|(_, order)| key.is_some() && order.key == key) {
            let first = first.clone();
            return match &order.state {
                _ if order.body != body => Expected::OrderRefusal(OrderRefusal::OtherRequest { first }),
                ModelState::Claimed | ModelState::Sent => Expected::OrderRefusal(OrderRefusal::InFlight { first }),
                ModelState::Unknown(None, _) | ModelState::Ended(None, _) => {
                    Expected::OrderRefusal(OrderRefusal::Interrupted { first })
                }
                ModelState::Unknown(Some(told), _) | ModelState::Ended(Some(told), _) => Expected::Repeat(told.clone()),
            };
        }
        let equal: Vec<_> = self.unknown().filter(|(_, order)| order.body == body).map(|(id, _)| id.clone()).collect();
        if key.is_none() && !confirmed && !equal.is_empty() { Expected::Held(equal) } else { Expected::New }
    }

    fn claim(&mut self, id: &str, key: Option<u8>, body: u8, confirmed: bool) {
        let equal = self.unknown().filter(|(_, order)| confirmed && order.body == body);
        let settles = equal.map(|(id, _)| id.clone()).collect();
        self.orders.insert(id.into(), Modelled { key, body, state: ModelState::Claimed, settles });
    }

    fn end(&mut self, id: &str, sent: Option<Sent>) {
        let minute = self.minute;
        let Some(order) = self.orders.get_mut(id) else { return };
        match sent {
            None => order.state = ModelState::Unknown(None, minute),
            Some(Sent::Unknown) => order.state = ModelState::Unknown(Some(id.into()), minute),
            Some(Sent::No) => drop(self.orders.remove(id)),
            Some(Sent::Yes) => {
                order.state = ModelState::Ended(Some(id.into()), minute);
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
    model: Model,
    recalled: u64,
    /// What may have been sent under which key, and the minute of its end.
    sent: BTreeMap<String, (u8, Option<u64>)>,
}

fn take<T>(from: &mut Vec<T>, choice: usize) -> Option<T> {
    if from.is_empty() { None } else { Some(from.remove(choice % from.len())) }
}

impl Real {
    async fn new() -> Real {
        let home = tempfile::tempdir().unwrap();
        let store = open_store(home.path());
        let orders = Orders::open(store.clone(), start_time()).await.unwrap();
        Real {
            home,
            store,
            orders,
            tickets: vec![],
            written: vec![],
            model: Model::default(),
            recalled: 0,
            sent: BTreeMap::new(),
        }
    }

    async fn take_step(&mut self, step: Step) {
        match step {
            Step::Recall { key, body, confirmed } => self.recall(key, body, confirmed).await,
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
            Step::Minutes(minutes) => {
                tokio::time::advance(Duration::from_secs(60 * minutes)).await;
                self.model.minute += minutes;
            }
            Step::Restart { killed } => {
                let copy = self.copy().await;
                if killed {
                    self.start(copy).await;
                } else {
                    // What is in flight is cut by the drain: dropped before the store closes.
                    self.tickets.clear();
                    self.written.clear();
                    self.store.close().await;
                    let copy = self.copy_file();
                    self.start(copy).await;
                }
                self.model.restart();
                self.processes_end();
            }
            Step::EndThenKilled(choice, sent) => {
                let Some((id, written)) = take(&mut self.written, choice) else { return };
                let copy = self.copy().await;
                let before = (self.model.clone(), self.sent.clone());
                self.end(&id, written, Some(sent));
                self.start(copy).await;
                (self.model, self.sent) = before;
                self.processes_end();
                self.model.restart();
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

    async fn recall(&mut self, key: Option<u8>, body: u8, confirmed: bool) {
        self.recalled += 1;
        let id = format!("r{:06}", self.recalled);
        let mut order = TestOrder { body: format!("body {body}"), ..super::order(&id) };
        if let Some(key) = key {
            order = order.key(&format!("k{key}"));
        }
        if confirmed {
            order = order.confirmed();
        }
        match (order.recall(&self.orders).await, self.model.expected(key, body, confirmed)) {
            (Ok(Recall::New(ticket)), Expected::New) => {
                self.tickets.push((id.clone(), ticket));
                self.model.claim(&id, key, body, confirmed);
            }
            (Ok(Recall::Repeat(told)), Expected::Repeat(by)) => assert_eq!(*told, answer(&by, told.sent)),
            (Err(OrderRefusal::Held { first }), Expected::Held(equal)) => {
                assert!(equal.contains(&first), "{first}: {equal:?}")
            }
            (Err(refused), Expected::OrderRefusal(expected)) => assert_eq!(refused, expected),
            (got, expected) => panic!("{order:?}: {got:?} instead of {expected:?}"),
        }
    }

    /// Checks the promise itself, without the model: no order is sent while another one with the same key is in flight, or
    /// may have been sent within the last day.
    fn sends(&mut self, id: &str) {
        let Some(key) = self.model.orders[id].key else { return };
        let minute = self.model.minute;
        for (earlier, (_, ended)) in self.sent.iter().filter(|(_, (other, _))| *other == key) {
            let over = ended.is_some_and(|ended| minute - ended >= 24 * 60);
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
        std::fs::copy(self.home.path().join("state.redb"), copy.path().join("state.redb")).unwrap();
        copy
    }

    async fn start(&mut self, copy: tempfile::TempDir) {
        let now = start_time() + Duration::from_secs(60 * self.model.minute);
        self.store = open_store(copy.path());
        self.orders = Orders::open(self.store.clone(), now).await.unwrap();
        // Those of the life before write into the old file only.
        self.tickets.clear();
        self.written.clear();
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
