//! Promises of the scheduler, on simulated time.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use fastrac_sandbox::{Clock, KeyPair, Limit, Options, Sandbox};

use super::{
    lines::{Demand, Urgency},
    scheduler::{QueueArrival, QueueTicket, Scheduler},
    supply::{DayShort, DayUnits, Days, Exhausted, Limits, Served, Taken},
};
use crate::{
    admission::{
        day_share::DayView,
        share::{GATEWAY, fixed},
    },
    config::{Priority, Rate},
};

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const DAY: i64 = 86_400_000;

/// The account's day, on the simulation's clock: days begin at its multiples of 24 hours.
#[derive(Default)]
struct SimulatedDays {
    limit: Option<u64>,
    now: Cell<i64>,
    date: Cell<i32>,
    used: Cell<u64>,
}

impl Days<()> for SimulatedDays {
    type Output = ();

    fn view(&self) -> DayView {
        let (now, date) = (self.now.get(), self.now.get().div_euclid(DAY));
        let (starts, ends) = (date * DAY, (date + 1) * DAY);
        let date = date as i32;
        if self.date.replace(date) != date {
            self.used.set(0);
        }
        DayView { date, starts, ends, now, used: self.used.get(), limit: self.limit }
    }

    fn used_up(&self, demand: &Demand<()>) -> Option<DayShort> {
        let view = self.view();
        self.limit.filter(|limit| view.used + u64::from(demand.cost) > *limit).map(|_| DayShort::Account)
    }

    fn reserve(&self, demand: &Demand<()>) -> Result<DayUnits<()>, DayShort> {
        let (view, cost) = (self.view(), demand.cost);
        if self.limit.is_some_and(|limit| view.used + u64::from(cost) > limit) {
            return Err(DayShort::Account);
        }
        self.used.set(view.used + u64::from(cost));
        Ok(DayUnits { units: (), date: view.date })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Release(usize),
    Expire(usize),
    Wake,
    Arrive(usize),
}

fn demand(member: usize, urgency: Urgency, expires: u64) -> Demand<()> {
    Demand { member, cost: 1, priority: Priority::Normal, urgency, expires, deadline: expires, with: () }
}

/// A request that got something, or did not.
#[derive(Clone, Copy, Debug)]
struct Done {
    member: usize,
    arrived: u64,
    at: u64,
    cost: u32,
    result: Result<(), Exhausted>,
}

/// How a service's requests come.
#[derive(Clone, Copy, Debug)]
struct Caller {
    priority: Priority,
    urgency: Urgency,
    /// Nanoseconds between two requests.
    every: u64,
    from: u64,
    until: u64,
    cost: u32,
    /// It sends a request `every` after the response to the last, or when it was told to come again.
    obeys: bool,
    /// So many of it send requests.
    callers: u32,
}

struct Simulation {
    scheduler: Scheduler<usize, ()>,
    days: SimulatedDays,
    now: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    callers: Vec<Caller>,
    random: fastrand::Rng,
    /// By number of the request.
    asked: Vec<Done>,
    waiting: HashMap<usize, QueueTicket>,
    taken: HashMap<usize, Taken>,
    /// How long a request is in flight.
    flight: u64,
    done: Vec<Done>,
    /// When the timer is due.
    timer: u64,
}

fn limits(per_second: u32, burst: u32) -> Limits {
    let second = Some(Rate { per_second, burst });
    Limits { second, places: 1_000_000, max_wait: Duration::from_millis(250), pace: None }
}

fn caller(priority: Priority, per_second: f64) -> Caller {
    let urgency = Urgency::Usual;
    Caller {
        priority,
        urgency,
        every: (1e9 / per_second) as u64,
        from: 0,
        until: u64::MAX,
        cost: 1,
        obeys: false,
        callers: 1,
    }
}

impl Simulation {
    fn new(limits: Limits, services: &[(f64, Caller)]) -> Self {
        let mut scheduler = Scheduler::new(limits);
        let mut events = BinaryHeap::new();
        let mut random = fastrand::Rng::with_seed(7);
        let mut callers = vec![caller(Priority::Normal, 1.0)];
        for (number, (share, caller)) in services.iter().enumerate() {
            scheduler.set_share(number + 1, fixed(*share), 0);
            callers.push(*caller);
            for _ in 0..caller.callers {
                events.push(Reverse((caller.from + random.u64(0..caller.every), Event::Arrive(number + 1))));
            }
        }
        Simulation {
            scheduler,
            days: SimulatedDays::default(),
            now: 0,
            events,
            callers,
            random,
            asked: Vec::new(),
            waiting: HashMap::new(),
            taken: HashMap::new(),
            flight: 5 * MILLI,
            done: Vec::new(),
            timer: u64::MAX,
        }
    }

    fn run(&mut self, until: u64) {
        while let Some(Reverse((at, event))) = self.events.pop() {
            if at > until {
                self.events.push(Reverse((at, event)));
                break;
            }
            self.now = self.now.max(at);
            self.days.now.set((self.now / MILLI) as i64);
            match event {
                Event::Arrive(member) => self.arrive(member),
                Event::Wake if at == self.timer => {
                    self.timer = u64::MAX;
                    self.serve();
                }
                Event::Wake => {}
                Event::Expire(request) => {
                    if let Some(ticket) = self.waiting.remove(&request) {
                        let demand = self.scheduler.leave(ticket, self.now).expect("it waits");
                        let exhausted = self.scheduler.shortage(&demand, self.now, &self.days);
                        self.end(request, Err(exhausted));
                        self.serve();
                    }
                }
                Event::Release(request) => {
                    let taken = self.taken.remove(&request).expect("in flight");
                    self.scheduler.release(taken, self.now);
                    self.serve();
                }
            }
        }
        self.now = until;
    }

    fn arrive(&mut self, member: usize) {
        let caller = self.callers[member];
        let jitter = self.random.u64(0..=caller.every / 5);
        let next = self.now + caller.every - caller.every / 10 + jitter;
        if next < caller.until && !caller.obeys {
            self.events.push(Reverse((next, Event::Arrive(member))));
        }
        let Caller { cost, priority, urgency, .. } = caller;
        let expires = self.now + self.scheduler.supply.max_wait();
        let demand = Demand { member, cost, priority, urgency, expires, deadline: self.now + 30 * SECOND, with: () };
        let request = self.asked.len();
        self.asked.push(Done { member, arrived: self.now, at: self.now, cost, result: Ok(()) });
        match self.scheduler.arrive(&demand, self.now, &self.days) {
            QueueArrival::Granted(grant) => {
                self.granted(request, grant);
                self.serve();
            }
            QueueArrival::Refused(exhausted) => self.end(request, Err(exhausted)),
            QueueArrival::Waits { expires } => {
                let ticket = self.scheduler.enter(Demand { expires, ..demand }, request, self.now);
                self.waiting.insert(request, ticket);
                self.events.push(Reverse((expires, Event::Expire(request))));
                self.serve();
            }
        }
    }

    fn serve(&mut self) {
        let mut decided = Vec::new();
        let next = self.scheduler.serve(self.now, &self.days, |request, decision| decided.push((request, decision)));
        for (request, decision) in decided {
            self.waiting.remove(&request);
            match decision {
                Ok(grant) => self.granted(request, grant),
                Err(exhausted) => self.end(request, Err(exhausted)),
            }
        }
        if let Some(at) = next {
            assert!(at > self.now, "it would be called for ever");
            if at < self.timer {
                self.timer = at;
                self.events.push(Reverse((at, Event::Wake)));
            }
        }
    }

    fn granted(&mut self, request: usize, Served { taken, .. }: Served<()>) {
        self.scheduler.decide(taken, true, self.now);
        self.taken.insert(request, taken);
        self.events.push(Reverse((self.now + self.flight, Event::Release(request))));
        self.end(request, Ok(()));
    }

    fn end(&mut self, request: usize, result: Result<(), Exhausted>) {
        let done = Done { at: self.now, result, ..self.asked[request] };
        self.done.push(done);
        let caller = self.callers[done.member];
        if caller.obeys {
            let pause = match result {
                Ok(()) => self.flight + caller.every,
                // A header has whole seconds.
                Err(Exhausted::Second { wait, .. }) => (wait.as_nanos() as u64).div_ceil(SECOND).max(1) * SECOND,
                Err(_) => SECOND,
            };
            self.events.push(Reverse((self.now + pause, Event::Arrive(done.member))));
        }
    }

    fn in_flight(&self, urgency: Urgency) -> usize {
        self.taken.keys().filter(|request| self.callers[self.asked[**request].member].urgency == urgency).count()
    }

    /// Units that a service got from `from` to `until`.
    fn got(&self, member: usize, from: u64, until: u64) -> f64 {
        let served = |done: &&Done| done.member == member && done.result.is_ok() && (from..until).contains(&done.at);
        self.done.iter().filter(served).map(|done| f64::from(done.cost)).sum()
    }

    /// The wait that all but a hundredth of a service's requests had at most.
    fn p99_wait(&self, member: usize) -> u64 {
        let of = |done: &&Done| done.member == member && done.result.is_ok();
        let mut waits: Vec<u64> = self.done.iter().filter(of).map(|done| done.at - done.arrived).collect();
        waits.sort_unstable();
        waits[(waits.len() * 99 / 100).min(waits.len() - 1)]
    }

    /// In any window of length T at most `burst + rate × T` units were granted.
    fn check_windows(&self, rate: f64, burst: f64) {
        let granted: Vec<(u64, f64)> =
            self.done.iter().filter(|done| done.result.is_ok()).map(|done| (done.at, f64::from(done.cost))).collect();
        // The lowest of what was granted before an instant, less what the rate allowed until then.
        let (mut sum, mut lowest) = (0.0, f64::MAX);
        for (at, cost) in granted {
            let allowed = rate * at as f64 / 1e9;
            lowest = f64::min(lowest, sum - allowed);
            sum += cost;
            assert!(sum - allowed - lowest <= burst + 1e-3, "{} above {burst} at {at}", sum - allowed - lowest);
        }
    }
}

/// One service sends a hundred times its share, and 999 others what they are guaranteed. (In 40 s instead of 8, each of them
/// gets at least 97 % of it, and `high` waits for 2.2 ms at p99.)
#[test]
fn a_flood_takes_nothing_of_what_a_thousand_services_are_guaranteed() {
    let priorities = [Priority::Low, Priority::Normal, Priority::High];
    for (flooder, burst) in [(Priority::Normal, 1_000), (Priority::High, 100), (Priority::Low, 20)] {
        let (rate, seconds, own) = (1_000.0, 8.0, 0.05);
        let share = (1.0 - own) / 999.0;
        let mut services = vec![(own, caller(flooder, 100.0 * own * rate))];
        services.extend((0..999).map(|number| (share, caller(priorities[number % 3], share * rate))));
        let mut simulation = Simulation::new(limits(1_000, burst), &services);
        simulation.run(seconds as u64 * SECOND);
        let (mut asked, mut got) = (vec![0.0; 1_001], vec![0.0; 1_001]);
        simulation.asked.iter().for_each(|one| asked[one.member] += 1.0);
        let served = || simulation.done.iter().filter(|done| done.result.is_ok());
        served().for_each(|done| got[done.member] += 1.0);
        for member in 2..=1_000 {
            let due = f64::min(share * rate * seconds, asked[member]);
            let priority = services[member - 1].1.priority;
            assert!(got[member] >= (0.95 * due).floor(), "{member} ({priority:?}) got {} of {due}", got[member]);
        }
        let high = |done: &&Done| done.member > 1 && services[done.member - 1].1.priority == Priority::High;
        let mut waits: Vec<u64> = served().filter(high).map(|done| done.at - done.arrived).collect();
        waits.sort_unstable();
        assert!(waits[waits.len() * 99 / 100] < 10 * MILLI, "{flooder:?}: {}", waits[waits.len() * 99 / 100]);
        simulation.check_windows(rate, f64::from(burst));
        assert!(served().count() as f64 >= 0.99 * rate * seconds, "{} were sent", served().count());
    }
}

/// One service has borrowed everything when 999 others wake at the same time, and ask for what they are guaranteed.
#[test]
fn what_a_thousand_services_had_lent_is_back_within_a_second() {
    for priority in [Priority::Low, Priority::High] {
        let share = 0.95 / 999.0;
        let wakes = Caller { from: 3 * SECOND, ..caller(priority, share * 1_000.0) };
        let mut services = vec![(0.05, caller(Priority::High, 5_000.0))];
        services.extend((0..999).map(|_| (share, wakes)));
        let mut simulation = Simulation::new(limits(1_000, 20), &services);
        simulation.run(8 * SECOND);
        assert!(simulation.got(1, SECOND, 3 * SECOND) >= 0.99 * 2_000.0, "it has the whole rate");
        for second in 3..8 {
            let of = |done: &&Done| done.member > 1 && (second..second + 1).contains(&(done.arrived / SECOND));
            let (asked, served) = simulation.done.iter().filter(of).fold((0_u32, 0_u32), |(asked, served), done| {
                (asked + 1, served + u32::from(done.result.is_ok() && done.at - done.arrived < SECOND))
            });
            assert!(served * 20 >= asked * 19, "{priority:?}, second {second}: {served} of {asked}");
        }
    }
}

/// Twenty requests a second and five services, as in front of a sandbox.
#[test]
fn five_services_at_twenty_a_second_get_their_shares() {
    let services = [
        (0.2, caller(Priority::Normal, 400.0)),
        (0.3, caller(Priority::High, 6.0)),
        (0.2, caller(Priority::Normal, 4.0)),
        (0.1, caller(Priority::Low, 2.0)),
        (0.2, caller(Priority::Low, 12.0)),
    ];
    let mut simulation = Simulation::new(limits(20, 20), &services);
    simulation.run(60 * SECOND);
    for (member, per_second) in [(1, 4.0), (2, 6.0), (3, 4.0), (4, 2.0), (5, 4.0)] {
        let got = simulation.got(member, 0, u64::MAX);
        assert!(got >= 0.95 * per_second * 60.0, "{member} got {got}");
    }
    assert!(simulation.p99_wait(2) < 10 * MILLI, "{}", simulation.p99_wait(2) / MILLI);
}

#[test]
fn what_was_lent_is_back_within_a_second() {
    for (priority, burst) in [(Priority::Low, 20), (Priority::Normal, 1), (Priority::Normal, 200)] {
        let returns = Caller { from: 30 * SECOND, ..caller(priority, 200.0) };
        let services = [(0.5, caller(Priority::High, 200.0)), (0.5, returns)];
        let mut simulation = Simulation::new(limits(20, burst), &services);
        simulation.run(40 * SECOND);
        let lent = simulation.got(1, 20 * SECOND, 30 * SECOND);
        assert!(lent >= 198.0, "alone it has the whole rate: {lent}");
        for second in 31..40 {
            let got = simulation.got(2, second * SECOND, (second + 1) * SECOND);
            assert!(got >= 9.0, "{got} in second {second}");
        }
        let got = simulation.got(2, 30 * SECOND, 40 * SECOND);
        assert!(got >= 95.0, "{got} of 100");
    }
}

/// Small budgets: a token comes later than a request may usually wait. Services ask a bit less than they are guaranteed, and
/// come again when they are told to; another one floods.
#[test]
fn small_budgets_serve_a_service_within_its_share_before_a_flood_borrows() {
    let budgets = [(1, 1, 1), (2, 1, 1), (2, 2, 1), (1, 1, 3), (3, 1, 4), (4, 1, 4), (20, 5, 9)];
    for (per_second, burst, services) in budgets {
        for (priority, obeys) in [(Priority::High, true), (Priority::Low, true), (Priority::High, false)] {
            let share = 1.0 / f64::from(services + 1);
            let asks = Caller { from: 3 * SECOND, obeys, ..caller(priority, 0.9 * share * f64::from(per_second)) };
            let mut callers = vec![(share, caller(Priority::Normal, 400.0))];
            callers.extend((0..services).map(|_| (share, asks)));
            let mut simulation = Simulation::new(limits(per_second, burst), &callers);
            simulation.run(103 * SECOND);
            for member in 2..2 + services as usize {
                let of = || simulation.done.iter().filter(|done| done.member == member);
                let (asked, got) = (of().count() as f64, simulation.got(member, 0, u64::MAX));
                let case = format!("{per_second}/s, burst {burst}, {services} services, {priority:?}, obeys: {obeys}");
                assert!(asked >= 15.0 && got >= 0.95 * asked - 1.0, "{case}: {member} got {got} of {asked}");
                assert!(of().all(|done| done.at - done.arrived <= SECOND), "{case}");
            }
            // What they do not ask for is lent.
            let all: f64 = (1..2 + services as usize).map(|member| simulation.got(member, 3 * SECOND, u64::MAX)).sum();
            assert!(all >= 0.97 * 100.0 * f64::from(per_second), "{all} in 100 s");
        }
    }
}

#[test]
fn a_service_that_sleeps_lends_its_burst_and_its_first_request_does_not_wait() {
    let returns = Caller { from: 5 * SECOND, ..caller(Priority::Normal, 4.0) };
    let services = [(0.2, caller(Priority::Normal, 1_000.0)), (0.2, returns), (0.2, returns), (0.2, returns)];
    let mut simulation = Simulation::new(limits(20, 20), &services);
    simulation.run(10 * SECOND);
    let first = simulation.got(1, 0, 100 * MILLI);
    assert!(first >= 17.0, "{first} of 20");
    for member in 2..=4 {
        let first = simulation.done.iter().find(|done| done.member == member).expect("one");
        assert!(first.result.is_ok() && first.at == first.arrived, "{first:?}");
    }
}

#[test]
fn without_shares_equal_priorities_get_equal_parts_and_higher_ones_come_first() {
    let services = [
        (0.0, caller(Priority::Normal, 500.0)),
        (0.0, caller(Priority::Normal, 50.0)),
        (0.0, caller(Priority::Normal, 2.0)),
    ];
    let mut simulation = Simulation::new(limits(20, 20), &services);
    simulation.run(60 * SECOND);
    let got = [1, 2, 3].map(|member| simulation.got(member, 5 * SECOND, 60 * SECOND));
    assert!(got[2] >= 0.95 * 110.0, "the small one gets what it needs: {got:?}");
    assert!((got[0] / got[1] - 1.0).abs() < 0.15, "the others get equal parts of the rest: {got:?}");
    let services = [(0.0, caller(Priority::Normal, 500.0)), (0.0, caller(Priority::High, 15.0))];
    let mut simulation = Simulation::new(limits(20, 20), &services);
    simulation.run(60 * SECOND);
    assert!(simulation.got(2, 5 * SECOND, 60 * SECOND) >= 0.98 * 15.0 * 55.0);
}

/// How many of the requests that are sent at these instants the sandbox refuses, with the limits 20 per second and 1,000 per
/// day of its own clock.
fn refused_by_the_sandbox(sent: &[u64]) -> usize {
    const MIDNIGHT_IN_JAKARTA: i64 = 1_767_286_800_000;
    const REQUEST: &[u8] = b"GET /region/province HTTP/1.1\r\nhost: sandbox\r\naccess-key: a\r\nsecret-key: s\r\nconnection: close\r\n\r\n";
    let keys = vec![KeyPair::new("gateway", "a", "s")];
    let clock = Clock::stepped_at(MIDNIGHT_IN_JAKARTA);
    let sandbox = Sandbox::start(Options { keys, clock, ..Options::default() }).unwrap();
    sandbox.limit(vec![Limit { per_second: Some(20), per_day: Some(1_000), ..Limit::default() }]);
    let mut now = 0;
    let mut is_refused = |at: &&u64| {
        sandbox.advance(Duration::from_millis(**at / MILLI - now));
        now = **at / MILLI;
        let (mut socket, mut response) = (TcpStream::connect(sandbox.addr()).unwrap(), String::new());
        socket.write_all(REQUEST).unwrap();
        socket.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200") || response.starts_with("HTTP/1.1 429"), "{response}");
        response.starts_with("HTTP/1.1 429")
    };
    sent.iter().filter(&mut is_refused).count()
}

#[test]
fn the_sandbox_refuses_what_is_beyond_its_limits() {
    assert_eq!(refused_by_the_sandbox(&[0; 21]), 1);
    let second_by_second: Vec<u64> = (0..1_002).map(|second| second * SECOND).collect();
    assert_eq!(refused_by_the_sandbox(&second_by_second), 2);
}

/// Ten days in front of a Fastrac that allows 20 requests in a second of its clock, and 1,000 in a day.
#[test]
fn ten_days_use_what_fastrac_allows_and_it_refuses_nothing() {
    for pace in [None, Some(0.1)] {
        let services = [
            (0.3, caller(Priority::High, 0.004)),
            (0.2, caller(Priority::Normal, 0.5)),
            (0.2, caller(Priority::Normal, 0.001)),
            (0.1, caller(Priority::Low, 0.01)),
            (0.0, caller(Priority::Normal, 0.02)),
        ];
        let limits = Limits { pace, ..limits(19, 1) };
        let mut simulation = Simulation::new(limits, &services);
        simulation.days.limit = Some(1_000);
        simulation.run(10 * 86_400 * SECOND);
        let (mut seconds, mut days) = (HashMap::<u64, u32>::new(), [0_u32; 10]);
        let sent: Vec<u64> = simulation.done.iter().filter(|done| done.result.is_ok()).map(|done| done.at).collect();
        if pace.is_none() {
            assert_eq!(refused_by_the_sandbox(&sent), 0);
        }
        for at in sent {
            *seconds.entry(at / SECOND).or_default() += 1;
            days[(at / SECOND / 86_400) as usize] += 1;
        }
        assert!(seconds.values().all(|sent| *sent <= 20) && days.iter().all(|sent| *sent <= 1_000));
        assert!(days.iter().sum::<u32>() >= 9_700, "{days:?}");
        for day in 0..10 {
            let day = |member| simulation.got(member, day * 86_400 * SECOND, (day + 1) * 86_400 * SECOND);
            // What the others are guaranteed in a day, or need.
            for (member, needs) in [(1, 300.0_f64), (3, 86.0), (4, 100.0)] {
                let got = day(member);
                assert!(got >= 0.95 * needs, "{member} got {got}, pace {pace:?}");
            }
        }
        if pace.is_some() {
            let by_nine = (0..10).map(|day| {
                (1..=5).map(|m| simulation.got(m, day * 86_400 * SECOND, (day * 24 + 9) * 3_600 * SECOND)).sum::<f64>()
            });
            for sent in by_nine {
                assert!(sent <= 1_000.0 * (0.1 + 9.0 / 24.0), "{sent} by nine o'clock");
            }
        }
    }
}

/// Random services, limits, costs, flights, cancellations and throttling. After every event: if somebody waits, then all
/// places are taken, or it may not have the tokens that are there. Never more than the limits.
#[test]
fn nobody_waits_for_what_it_may_have() {
    for seed in 0..150_u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (rate, burst) = (random.u32(5..200), random.u32(4..60));
        let mut left = 1.0;
        let services: Vec<_> = (0..random.usize(1..8))
            .map(|_| {
                let share = if random.bool() { left * random.f64() } else { 0.0 };
                left -= share;
                let priority = [Priority::Low, Priority::Normal, Priority::High][random.usize(..3)];
                let cost = random.u32(1..4);
                let urgency = [Urgency::Order, Urgency::Expiring, Urgency::Usual, Urgency::Usual][random.usize(..4)];
                (share, Caller { cost, urgency, ..caller(priority, f64::from(rate) * random.f64().max(0.01)) })
            })
            .collect();
        let places = random.usize(1..20);
        let max_wait = Duration::from_millis(random.u64(0..3_000));
        let mut simulation = Simulation::new(Limits { places, max_wait, ..limits(rate, burst) }, &services);
        simulation.scheduler.place_orders(seed % 4 > 0);
        simulation.flight = random.u64(0..300) * MILLI;
        simulation.random = random;
        for step in 1..2_000 {
            simulation.run(step * 5 * MILLI);
            let now = simulation.now;
            if simulation.random.u32(..400) == 0 {
                let wait = simulation.random.bool().then_some(Duration::from_millis(300));
                simulation.scheduler.throttled(now, now, wait);
                simulation.serve();
            }
            if let Some((&request, _)) = simulation.waiting.iter().next()
                && simulation.random.u32(..20) == 0
            {
                let ticket = simulation.waiting.remove(&request).expect("it waits");
                assert!(simulation.scheduler.leave(ticket, now).is_some());
                simulation.serve();
            }
            let supply = &simulation.scheduler.supply;
            assert_eq!(simulation.waiting.len(), simulation.scheduler.waiting());
            supply.places.check_sums();
            assert!(supply.places.in_flight() <= places);
            let kept = if seed % 4 > 0 && places > 1 { places.div_ceil(8) } else { 0 };
            let orders = simulation.in_flight(Urgency::Order);
            assert!(orders.max(supply.places.in_flight() - orders) <= places - kept, "seed {seed}, step {step}");
            if simulation.scheduler.waiting() > 0 && supply.places.in_flight() < places && supply.paused_until() <= now
            {
                assert!(!simulation.scheduler.could_serve(now), "seed {seed}, step {step}");
            }
        }
        simulation.check_windows(f64::from(rate), f64::from(burst));
    }
}

#[test]
fn what_is_given_back_is_there_again() {
    let mut scheduler: Scheduler<(), ()> = Scheduler::new(Limits { places: 8, ..limits(10, 4) });
    scheduler.set_share(1, fixed(0.5), 0);
    let days = SimulatedDays { limit: Some(10), ..SimulatedDays::default() };
    let demand = |member| demand(member, Urgency::Usual, 0);
    let mut grants = Vec::new();
    for _ in 0..4 {
        match scheduler.arrive(&demand(1), 0, &days) {
            QueueArrival::Granted(grant) => grants.push(grant.taken),
            _ => panic!("there are four"),
        }
    }
    let QueueArrival::Refused(Exhausted::Second { own_share_used: true, wait }) =
        scheduler.arrive(&demand(1), 0, &days)
    else {
        panic!("a fifth")
    };
    assert_eq!(wait, Duration::from_millis(100));
    for taken in grants {
        scheduler.decide(taken, false, 0);
        scheduler.release(taken, 0);
    }
    assert_eq!((scheduler.supply.tokens_left(0), scheduler.supply.places.in_flight()), (Some(4), 0));
    assert!(scheduler.supply.covers(&Demand { cost: 2, ..demand(1) }, 0), "its guarantee is back too");
}

#[test]
fn a_pause_holds_for_all_and_the_rate_falls_and_climbs() {
    let services = [(0.5, caller(Priority::High, 100.0)), (0.0, caller(Priority::Low, 100.0))];
    let mut simulation = Simulation::new(limits(20, 20), &services);
    simulation.run(10 * SECOND);
    simulation.scheduler.throttled(10 * SECOND, 10 * SECOND - MILLI, Some(Duration::from_secs(3)));
    simulation.run(140 * SECOND);
    let got = |from: u64, until: u64| (1..=2).map(|m| simulation.got(m, from * SECOND, until * SECOND)).sum::<f64>();
    assert_eq!(got(10, 13), 0.0);
    assert!((80.0..=101.0).contains(&got(13, 23)), "half: {}", got(13, 23));
    assert!((105.0..=121.0).contains(&got(23, 33)), "a tenth more: {}", got(23, 33));
    assert!((195.0..=201.0).contains(&got(120, 130)), "all of it: {}", got(120, 130));
    let refused = simulation.done.iter().filter(|done| (10 * SECOND..12 * SECOND).contains(&done.arrived));
    for done in refused.filter(|done| done.result.is_err()) {
        assert!(
            matches!(done.result, Err(Exhausted::Paused { wait }) if wait > Duration::from_millis(500)),
            "{done:?}"
        );
    }
}

/// Two services without a share, of which one may place orders; their requests may wait for a second.
fn with_places(places: usize) -> Scheduler<usize, ()> {
    let max_wait = Duration::from_secs(1);
    let mut scheduler = Scheduler::new(Limits { places, max_wait, ..limits(1_000, 1_000) });
    scheduler.set_share(1, 0, 0);
    scheduler.set_share(2, 0, 0);
    scheduler.place_orders(true);
    scheduler
}

/// Numbers of places, and how many of them are kept for each kind.
const KEPT: [(usize, usize); 7] = [(1, 0), (2, 1), (3, 1), (8, 1), (9, 2), (64, 8), (65, 9)];

/// Requests of service 1 until one has to wait: what they have taken.
fn take_all(scheduler: &mut Scheduler<usize, ()>, urgency: Urgency) -> Vec<Taken> {
    let mut taken = Vec::new();
    let demand = demand(1, urgency, SECOND);
    while let QueueArrival::Granted(grant) = scheduler.arrive(&demand, 0, &SimulatedDays::default()) {
        taken.push(grant.taken);
    }
    taken
}

/// Requests of another kind, in turns of both services, arrive, enter as 10 and up, and are served: which were granted.
fn enter_and_serve(scheduler: &mut Scheduler<usize, ()>, urgency: Urgency, count: usize) -> Vec<usize> {
    let (days, mut granted) = (SimulatedDays::default(), Vec::new());
    for number in 0..count {
        // It is not the first to expire.
        let demand = demand(1 + number % 2, urgency, 2 * SECOND);
        assert!(matches!(scheduler.arrive(&demand, 0, &days), QueueArrival::Waits { .. }));
        scheduler.enter(demand, 10 + number, 0);
        scheduler.serve(0, &days, |waiter, decision| granted.extend(decision.is_ok().then_some(waiter)));
    }
    granted
}

/// Slow requests of one service take all that they may, and wait; orders of it and of another one get the rest.
#[test]
fn orders_get_the_places_that_are_kept_for_them_while_others_wait() {
    for (places, kept) in KEPT {
        let mut scheduler = with_places(places);
        let others = take_all(&mut scheduler, Urgency::Usual);
        assert_eq!(others.len(), places - kept);
        scheduler.enter(demand(1, Urgency::Usual, SECOND), 0, 0);
        scheduler.enter(demand(1, Urgency::Expiring, SECOND), 1, 0);
        let granted = enter_and_serve(&mut scheduler, Urgency::Order, kept + 1);
        assert_eq!(granted, (10..10 + kept).collect::<Vec<_>>(), "{places}");
        assert_eq!(scheduler.supply.places.in_flight(), places);
        // The next place goes to the order, unless it is kept for others, then to what expires soon.
        let mut granted = Vec::new();
        for taken in others.into_iter().take(3) {
            scheduler.release(taken, 0);
            scheduler.serve(0, &SimulatedDays::default(), |waiter, _| granted.push(waiter));
        }
        let expected: &[_] = match places {
            1 => &[10],
            2 => &[1],
            _ => &[10 + kept, 1, 0],
        };
        let expected = expected.iter().copied().take(places - kept);
        assert_eq!(granted, expected.collect::<Vec<_>>(), "{places}");
    }
}

/// Slow orders of one service take all that they may, and wait; other requests of it and of another one get the rest.
#[test]
fn others_get_the_places_that_are_kept_for_them_while_orders_wait() {
    for (places, kept) in KEPT {
        let mut scheduler = with_places(places);
        let orders = take_all(&mut scheduler, Urgency::Order);
        assert_eq!(orders.len(), places - kept);
        scheduler.enter(demand(1, Urgency::Order, SECOND), 0, 0);
        let granted = enter_and_serve(&mut scheduler, Urgency::Usual, kept + 1);
        assert_eq!(granted, (10..10 + kept).collect::<Vec<_>>(), "{places}");
        assert_eq!(scheduler.supply.places.in_flight(), places);
        // The end of orders lets both go on.
        let mut granted = Vec::new();
        for taken in orders.into_iter().take(2) {
            scheduler.release(taken, 0);
            scheduler.serve(0, &SimulatedDays::default(), |waiter, _| granted.push(waiter));
        }
        granted.sort_unstable();
        let expected = [0, 10 + kept].into_iter().take(places - kept);
        assert_eq!(granted, expected.collect::<Vec<_>>(), "{places}");
    }
}

/// Every call takes equally long. Two services have no more callers than their parts of the places; another one floods. One of
/// the two begins when the flood has all that it may borrow.
#[test]
fn a_service_within_its_part_of_the_places_gets_them_beside_a_flood() {
    for (places, orders) in [(20_u32, true), (20, false), (64, true), (9, false)] {
        for flight in [20 * MILLI, 500 * MILLI, 5 * SECOND] {
            for priority in [Priority::Low, Priority::High] {
                let part =
                    |share: f64| (share * f64::from(places - if orders { places.div_ceil(8) } else { 0 })) as u32;
                let obeys = |pause, callers| Caller { obeys: true, callers, ..caller(priority, 1e3 / pause) };
                let flood =
                    Caller { callers: 3 * places, every: 20 * MILLI, obeys: true, ..caller(Priority::Normal, 50.0) };
                let services = [
                    (0.25, flood),
                    (0.5, obeys(50.0, part(0.5) * 3 / 4)),
                    (0.25, Caller { from: 20 * SECOND, ..obeys(50.0, part(0.25)) }),
                ];
                let limits = Limits { places: places as usize, ..limits(100_000, 100_000) };
                let mut simulation = Simulation::new(limits, &services);
                simulation.scheduler.place_orders(orders);
                simulation.flight = flight;
                simulation.run(60 * SECOND);
                let case = format!("{places} places, orders {orders}, flight {} ms, {priority:?}", flight / MILLI);
                let refused = |member, from, until| {
                    let of =
                        |done: &&Done| done.member == member && (from * SECOND..until * SECOND).contains(&done.arrived);
                    simulation.done.iter().filter(of).filter(|done| done.result.is_err()).count()
                };
                // Each has its places when the calls that hold them have ended, and its requests have come again.
                assert_eq!((refused(2, 10, 20), refused(2, 32, 60), refused(3, 32, 60)), (0, 0, 0), "{case}");
                let first = simulation.done.iter().find(|done| done.member == 3).expect("one");
                assert!(first.result.is_ok(), "{case}: {first:?}");
                // The flood gets what the others do not use, but for a few.
                let served = (1..=3).map(|member| simulation.got(member, 40 * SECOND, 60 * SECOND)).sum::<f64>();
                let in_flight = served * flight as f64 / (20 * SECOND) as f64;
                assert!(flight < SECOND / 4 || in_flight >= 0.8 * f64::from(part(1.0)), "{case}: {in_flight}");
            }
        }
    }
}

#[test]
fn nothing_is_kept_where_no_service_places_orders() {
    let mut scheduler: Scheduler<(), ()> = Scheduler::new(Limits { places: 8, ..limits(1_000, 1_000) });
    scheduler.set_share(1, 0, 0);
    for _ in 0..8 {
        let arrival = scheduler.arrive(&demand(1, Urgency::Usual, 0), 0, &SimulatedDays::default());
        assert!(matches!(arrival, QueueArrival::Granted(_)));
    }
}

/// Whatever the shares and the pacing, as long as the day is not used up.
#[test]
fn the_gateways_canaries_need_nobodys_share_of_the_day() {
    for (shares, pace) in [(vec![0.5, 0.5], None), (vec![1.0], None), (vec![0.49, 0.49], None), (vec![], Some(0.0))] {
        let mut scheduler: Scheduler<(), ()> = Scheduler::new(Limits { pace, ..limits(1_000, 1_000) });
        let guest = shares.len() + 1;
        for (member, share) in shares.iter().chain([&0.0]).enumerate() {
            scheduler.set_share(member + 1, fixed(*share), 0);
        }
        let days = SimulatedDays { limit: Some(100), ..SimulatedDays::default() };
        let mut take = |member, priority| {
            let demand = Demand { priority, ..demand(member, Urgency::Usual, 0) };
            matches!(scheduler.arrive(&demand, 0, &days), QueueArrival::Granted(_))
        };
        // Those without a share use what they may.
        while take(guest, Priority::High) {}
        assert!(!take(GATEWAY, Priority::Low), "{shares:?}");
        let left = 100 - days.used.get();
        assert!(left >= 98, "{shares:?}");
        assert!((0..left).all(|_| take(GATEWAY, Priority::High)), "{shares:?}");
        assert!(!take(GATEWAY, Priority::High), "{shares:?}: the day is used up");
    }
}
