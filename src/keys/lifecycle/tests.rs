//! A model of the account's world, in which everything happens in any order: readings of the source, canaries,
//! refusals of several services, revocations, reloads, faults and time. After each step the promises hold.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::keys::{
    command::Remedy, fault::SourceError, lease::Lease, pair::KeyPair, secret::Secret, tracked_pair::just_after,
};

const PAIRS: usize = 4;
const SERVICES: usize = 3;
/// Steps of one world, and number of worlds: more than a million steps.
const STEPS: usize = 400;
const WORLDS: u64 = 2_600;
/// After the last fault, requests succeed within this time.
const RECOVERY: Duration = Duration::from_secs(6);

/// A request of one of the services.
struct ModelRequest {
    service: usize,
    /// Fastrac refuses it whatever pair it is signed with.
    causes: bool,
    may_resend: bool,
    tried: Vec<TriedPair>,
    /// The pair that it is signed with now, and when it was sent with it.
    signed: Lease,
    sent: Instant,
    /// When it was refused the last time, and began to wait.
    refused: Instant,
}

impl ModelRequest {
    fn version(&self) -> PairVersion {
        self.signed.version()
    }
}

struct RunningCanary {
    version: PairVersion,
    began: Instant,
    verdict: Verdict,
}

struct RunningReading {
    began: Instant,
    /// What it sees; `None`: a fault.
    content: Option<usize>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RequestEnd {
    Accepted,
    Own,
    Rejected,
    NoKey,
}

struct World<'a> {
    pairs: &'a [KeyPair],
    origins: &'a [RequestOrigin],
    random: fastrand::Rng,
    now: Instant,
    life: KeyLifecycle,
    /// Whether Fastrac accepts each pair, and whether its canary brings a verdict.
    accepts: [bool; PAIRS],
    /// By pair: since when Fastrac has refused it, if it does.
    refuses_since: [Instant; PAIRS],
    decides: bool,
    source: Option<usize>,
    readings: Option<RunningReading>,
    canaries: Vec<RunningCanary>,
    in_flight: Vec<ModelRequest>,
    waiting: WaitingRefusals<ModelRequest>,
    wanted: Option<Instant>,
    poll_at: Instant,
    revoked: BTreeSet<PairVersion>,
    /// When the last canary that verified a version began.
    verified: BTreeMap<PairVersion, Instant>,
    /// When the last reading that came to an end began.
    read: Option<Instant>,
    /// By service: version and time of the last request that caused its own 401.
    own: [Option<(PairVersion, Instant)>; SERVICES],
    ends: Vec<RequestEnd>,
}

fn source(kind: &'static str) -> SourceTraits {
    SourceTraits { id: SourceId::next(), kind, ages: true }
}

fn settings(overlap: u64) -> RotationConfig {
    RotationConfig {
        overlap: Duration::from_secs(overlap),
        max_age: Duration::from_secs(72 * 3600),
        resend_orders: true,
    }
}

impl<'a> World<'a> {
    fn new(pairs: &'a [KeyPair], origins: &'a [RequestOrigin], now: Instant, seed: u64) -> Self {
        World {
            pairs,
            origins,
            random: fastrand::Rng::with_seed(seed),
            now,
            life: KeyLifecycle::new("main", source("file"), settings(if seed.is_multiple_of(3) { 0 } else { 60 })),
            accepts: [true; PAIRS],
            refuses_since: [now; PAIRS],
            decides: true,
            source: Some(0),
            readings: None,
            canaries: Vec::new(),
            in_flight: Vec::new(),
            waiting: WaitingRefusals::default(),
            wanted: None,
            poll_at: now,
            revoked: BTreeSet::new(),
            verified: BTreeMap::new(),
            read: None,
            own: [None; SERVICES],
            ends: Vec::new(),
        }
    }

    fn number(&self, version: PairVersion) -> usize {
        self.pairs.iter().position(|pair| pair.version() == version).unwrap()
    }

    /// The pair that requests are signed with.
    fn in_use(&self) -> Option<PairVersion> {
        self.life.current.as_ref().filter(|slot| slot.serves()).map(TrackedPair::version)
    }

    /// The verified pairs that may serve.
    fn verified_held(&self) -> Vec<PairVersion> {
        let previous = self.life.previous.as_ref().map(|previous| &previous.slot);
        let slots = [self.life.current.as_ref(), previous].into_iter().flatten();
        slots.filter(|slot| slot.standing == Verification::Verified).map(TrackedPair::version).collect()
    }

    fn step(&mut self) {
        let mut held = self.verified_held();
        // A verified pair that this step may take away.
        let mut excused = None;
        match self.random.u8(..100) {
            0..20 => self.send(),
            20..45 => self.respond(),
            45..55 => self.start(),
            55..68 => self.finish_reading(),
            68..80 => excused = self.finish_canary(),
            80..84 => self.source = (self.random.u8(..5) > 0).then(|| self.random.usize(..PAIRS)),
            84..88 => {
                let pair = self.random.usize(..PAIRS);
                self.accepts[pair] = !self.accepts[pair];
                self.refuses_since[pair] = self.now;
            }
            88 => self.decides = !self.decides,
            89 if self.random.u8(..8) == 0 => {
                let version = self.pairs[self.random.usize(..PAIRS)].version();
                self.revoked.insert(version);
                self.life.revoke(version, true, self.now);
                excused = Some(version);
            }
            90 => self.life.reconfigure(settings(self.random.u64(..3) * 30), self.now),
            91 if self.random.u8(..4) == 0 => {
                (self.readings, self.read) = (None, None);
                self.life.change_source(source("directory"));
            }
            92 if self.random.u8(..8) == 0 => drop(self.life.force(self.now)),
            93 if self.random.u8(..8) == 0 => {
                self.canaries.clear();
                self.life.recover(ReadAt { instant: self.now, wall: Timestamp::UNIX_EPOCH });
            }
            94 if self.random.u8(..4) == 0 => {
                self.move_away();
                // Nothing is verified any more.
                held.clear();
            }
            93..97 => self.now += Duration::from_millis(self.random.u64(..50)),
            97 | 98 => self.now += Duration::from_millis(self.random.u64(..2_000)),
            _ => self.now += Duration::from_secs(self.random.u64(..40)),
        }
        self.settle();
        let still = self.verified_held();
        if let Some(lost) = held.iter().find(|version| still.is_empty() && Some(**version) != excused) {
            // Of two, the other one may have been taken away earlier in this step.
            assert!(held.len() > 1, "{lost} was verified, and was given up");
        }
    }

    /// The account is called at another Fastrac, which thinks otherwise of the pairs.
    fn move_away(&mut self) {
        self.canaries.clear();
        self.verified.clear();
        self.own = [None; SERVICES];
        self.accepts = std::array::from_fn(|_| self.random.bool());
        self.refuses_since = [self.now; PAIRS];
        let source = self.life.source_id;
        let configured = self.life.slots().filter(|slot| slot.held.source() == source).map(|slot| slot.version());
        let configured: Vec<_> = configured.collect();
        if self.life.moved(self.now, source, self.now) {
            (self.readings, self.poll_at) = (None, self.now);
        }
        let held: Vec<_> = self.life.slots().map(|slot| slot.version()).collect();
        assert_eq!(held, configured, "a pair was given up, or not, because of a move");
    }

    /// A service sends a request.
    fn send(&mut self) {
        let current = self.life.current.as_ref().filter(|slot| slot.serves());
        let Some(signed) = current.map(|slot| Lease::new(slot.held.clone())) else {
            return self.ends.push(RequestEnd::NoKey);
        };
        assert!(!self.revoked.contains(&signed.version()), "signed with a revoked pair");
        let service = self.random.usize(..SERVICES);
        self.in_flight.push(ModelRequest {
            service,
            causes: service == 0 && self.random.bool(),
            may_resend: self.random.u8(..6) > 0,
            tried: Vec::new(),
            signed,
            sent: self.now,
            refused: self.now,
        });
    }

    /// Fastrac responds to one of the requests in flight.
    fn respond(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let mut request = self.in_flight.swap_remove(self.random.usize(..self.in_flight.len()));
        let version = request.version();
        if !request.causes && self.accepts[self.number(version)] {
            request.signed.note_accepted(request.sent);
            if !request.tried.is_empty() {
                self.life.accepted(version, &request.tried, self.now);
            }
            return self.ends.push(RequestEnd::Accepted);
        }
        request.refused = self.now;
        request.tried.push(TriedPair { version, refused: self.now });
        let may_resend = request.may_resend && request.tried.len() <= 3;
        let origin = Some(self.origins[request.service].clone());
        let refused = RefusedRequest { tried: request.tried.clone(), origin, may_resend };
        self.waiting.add(refused, request, self.now);
    }

    /// Starts what is due, as the rotation task does.
    fn start(&mut self) {
        for held in self.life.due(self.now) {
            let version = held.version();
            assert!(!self.revoked.contains(&version), "a canary of a revoked pair");
            assert!(self.canaries.iter().all(|canary| canary.version != version), "two canaries of {version}");
            let began = self.life.canaries[&version];
            let verdict = self.verdict(version);
            self.canaries.push(RunningCanary { version, began, verdict });
        }
        let confirm = self.life.wanted_reading().map(|wanted| wanted.after);
        let wanted = self.wanted.max(confirm).max(self.life.is_locked_out().then_some(self.now));
        if self.readings.is_none() && (wanted.is_some() || self.poll_at <= self.now) {
            let began = wanted.map_or(self.now, |after| self.now.max(just_after(after)));
            self.readings = Some(RunningReading { began, content: self.source });
            self.poll_at = self.now + Duration::from_secs(1);
        }
    }

    fn verdict(&self, version: PairVersion) -> Verdict {
        match self.accepts[self.number(version)] {
            _ if !self.decides => Verdict::Undecided,
            true => Verdict::Verified,
            false => Verdict::Refused,
        }
    }

    fn finish_reading(&mut self) {
        let Some(RunningReading { began, content }) = self.readings.take() else { return };
        let at = ReadAt { instant: self.now, wall: Timestamp::UNIX_EPOCH };
        self.read = self.read.max(Some(began));
        match content {
            Some(number) => {
                let known = self.life.seen().is_some_and(|held| held.version() == self.pairs[number].version());
                self.life.read((!known).then(|| self.pairs[number].clone()), began, at);
            }
            None => self.life.lost(&SourceError::Interrupted, began),
        }
    }

    /// Returns the version that was refused.
    fn finish_canary(&mut self) -> Option<PairVersion> {
        if self.canaries.is_empty() {
            return None;
        }
        let canary = self.canaries.swap_remove(self.random.usize(..self.canaries.len()));
        // It was evaluated at its beginning or just now.
        let verdict = if self.random.bool() { canary.verdict } else { self.verdict(canary.version) };
        if verdict == Verdict::Verified {
            self.verified.insert(canary.version, canary.began);
        }
        self.life.verdict(canary.version, verdict, self.now);
        (verdict == Verdict::Refused).then_some(canary.version)
    }

    fn settle(&mut self) {
        self.life.expire(self.now);
        self.life.end_verdict_wait(self.now);
        // Unless it is in the source again.
        let candidate = self.life.candidate.as_ref().map(TrackedPair::version);
        let previous = self.life.previous.as_ref().map(|previous| previous.slot.version());
        let previous = previous.filter(|version| Some(*version) != candidate);
        let settled = self.waiting.settle(&mut self.life, self.now);
        self.wanted = settled.read.map(|wanted| wanted.after);
        for (mut request, remedy) in settled.decided {
            match remedy {
                Remedy::Resend(lease) => {
                    let version = lease.version();
                    assert!(!self.revoked.contains(&version), "sent again with a revoked pair");
                    assert!(
                        request.tried.iter().all(|tried| tried.version != version),
                        "sent again with a refused pair"
                    );
                    assert!(request.may_resend && request.tried.len() <= 3, "sent again too often");
                    let patient = self.now < request.refused + waiting::REFUSED_WAIT;
                    let was_read = self.read.is_some_and(|began| began > request.refused);
                    assert!(Some(version) != previous || was_read || !patient, "an old reading decided");
                    (request.signed, request.sent) = (lease, self.now);
                    self.in_flight.push(request);
                }
                Remedy::Own => {
                    self.check_own(&request);
                    self.ends.push(RequestEnd::Own);
                }
                Remedy::Rejected | Remedy::Undecided => self.ends.push(RequestEnd::Rejected),
            }
        }
    }

    /// A verdict that began after the request was refused, or what such a verdict has shown of the service. Then Fastrac
    /// accepted the pair a moment before the refusal. If the pair in use is forced, the verdict may be on the previous one.
    fn check_own(&mut self, request: &ModelRequest) {
        let version = self.in_use().expect("the pair in use is good");
        let forced = self.life.current.as_ref().is_some_and(|slot| slot.forced.is_some());
        let previous = self.life.previous.as_ref().map(|previous| previous.slot.version()).filter(|_| forced);
        let verified =
            |tried: &&TriedPair| self.verified.get(&tried.version).is_some_and(|began| *began > tried.refused);
        let decided = request.tried.iter().filter(|tried| tried.version == version || Some(tried.version) == previous);
        let decided = decided.rev().find(verified);
        let in_use = request.tried.iter().find(|tried| tried.version == version);
        let tried = decided.or(in_use).expect("it was signed with it");
        let number = self.number(tried.version);
        let since = self.refuses_since[number];
        assert!(
            self.accepts[number] || tried.refused <= since + Duration::from_secs(1),
            "the request's own although the pair has been refused for {:?}",
            tried.refused - since
        );
        if decided.is_some() {
            self.own[request.service] = Some((version, self.now));
            return;
        }
        let remembered = self.own[request.service].filter(|(of, _)| *of == version);
        let at = remembered.expect("decided by what began before, or what another service did").1;
        assert!(self.now <= at + Duration::from_secs(10), "remembered for too long");
    }

    /// From now on nothing fails: after the recovery time, requests succeed.
    fn recover(&mut self) {
        let Some(good) = (0..PAIRS).find(|number| !self.revoked.contains(&self.pairs[*number].version())) else {
            return;
        };
        (self.source, self.decides) = (Some(good), true);
        self.accepts = std::array::from_fn(|number| number == good || self.random.bool());
        self.refuses_since = [self.now; PAIRS];
        let end = self.now + RECOVERY;
        while self.now < end {
            self.turn();
            self.now += Duration::from_millis(100);
        }
        self.in_flight.clear();
        self.ends.clear();
        for _ in 0..20 {
            self.turn();
            self.now += Duration::from_millis(100);
        }
        let failed = |end: &RequestEnd| matches!(end, RequestEnd::NoKey | RequestEnd::Rejected);
        assert!(!self.ends.iter().any(failed), "after the recovery: {:?}", self.ends);
        assert!(self.ends.contains(&RequestEnd::Accepted), "{:?}", self.ends);
    }

    /// Traffic for a moment in which everything that is due ends.
    fn turn(&mut self) {
        self.send();
        for _ in 0..8 {
            while !self.in_flight.is_empty() {
                // An order that may not be sent again is no measure of the recovery.
                self.in_flight.iter_mut().for_each(|request| request.may_resend = true);
                self.respond();
            }
            self.settle();
            self.start();
            while !self.canaries.is_empty() {
                self.finish_canary();
            }
            self.settle();
            self.finish_reading();
            self.settle();
        }
    }
}

#[test]
fn keeps_its_promises_in_a_million_steps() {
    let pair = |n: usize| {
        let half = |name: &str| Secret::new(format!("{name}-{n}"));
        KeyPair::new(half("access"), half("secret")).unwrap()
    };
    let pairs: Vec<_> = (0..PAIRS).map(pair).collect();
    // The first one is the gateway itself.
    let service = |n: usize| (n > 0).then(|| format!("service-{n}").into());
    let origin = |n: usize| RequestOrigin { service: service(n), operation: "v2.track".into() };
    let origins: Vec<_> = (0..SERVICES).map(origin).collect();
    let begin = Instant::now();
    for seed in 0..WORLDS {
        let world = std::panic::catch_unwind(|| {
            let mut world = World::new(&pairs, &origins, begin, seed);
            (0..STEPS).for_each(|_| world.step());
            world.recover();
        });
        assert!(world.is_ok(), "in world {seed}");
    }
}

/// An account whose events are given one by one. Pairs have numbers.
struct Steps {
    life: KeyLifecycle,
    now: Instant,
}

impl Steps {
    fn new() -> Self {
        Steps { life: KeyLifecycle::new("main", source("file"), settings(600)), now: Instant::now() }
    }

    fn pair(number: u8) -> KeyPair {
        let half = |name: &str| Secret::new(format!("{name}-number-{number}"));
        KeyPair::new(half("access"), half("secret")).unwrap()
    }

    fn version(number: u8) -> PairVersion {
        Steps::pair(number).version()
    }

    fn pass(&mut self, millis: u64) -> Instant {
        self.now += Duration::from_millis(millis);
        self.now
    }

    /// The source has this pair.
    fn reads(&mut self, number: u8) {
        let known = self.life.seen().is_some_and(|held| held.version() == Steps::version(number));
        let at = ReadAt { instant: self.now, wall: Timestamp::UNIX_EPOCH };
        self.life.read((!known).then(|| Steps::pair(number)), self.now, at);
        self.pass(1);
    }

    /// The account is called at another address since `left`. Returns the pairs that it has.
    fn moves(&mut self, left: Instant) -> Vec<PairVersion> {
        self.life.moved(left, self.life.source_id, self.now);
        self.life.slots().map(|slot| slot.version()).collect()
    }

    /// The canaries that are due end with this verdict.
    fn canaries(&mut self, verdict: Verdict) -> Vec<PairVersion> {
        let due: Vec<_> = self.life.due(self.now).iter().map(|held| held.version()).collect();
        self.pass(1);
        due.iter().for_each(|version| self.life.verdict(*version, verdict, self.now));
        self.pass(1);
        due
    }

    /// A refusal with this pair, now.
    fn tried(&self, number: u8) -> TriedPair {
        TriedPair { version: Steps::version(number), refused: self.now }
    }

    /// A request that Fastrac refuses with these pairs, now.
    fn refused(&self, numbers: &[u8]) -> RefusedRequest {
        let tried = numbers.iter().map(|number| self.tried(*number)).collect();
        RefusedRequest { tried, origin: None, may_resend: true }
    }

    /// Pair 1 is good. Pair 2 is bad, and in use by force, because canaries are refused.
    fn forced() -> Self {
        let mut steps = Steps::new();
        steps.reads(1);
        steps.canaries(Verdict::Verified);
        steps.reads(2);
        steps.canaries(Verdict::Refused);
        steps.life.force(steps.now);
        steps.pass(1);
        steps.canaries(Verdict::Refused);
        assert_eq!(steps.life.standing().0, Some(Steps::version(2)));
        steps
    }
}

#[test]
fn a_refused_pair_gives_way_to_a_candidate_whose_canary_hangs() {
    for first in [1, 2] {
        let mut steps = Steps::new();
        for number in first..=2 {
            steps.reads(number);
            steps.canaries(Verdict::Verified);
        }
        steps.reads(3);
        assert_eq!(steps.life.due(steps.now).len(), 1);
        steps.pass(3_000);
        steps.life.ask(Steps::version(2), steps.now);
        assert_eq!(steps.canaries(Verdict::Refused), [Steps::version(2)]);
        assert_eq!((steps.life.standing().0, steps.life.confirm.is_none()), (Some(Steps::version(3)), true));
    }
}

#[test]
fn a_forced_pair_that_is_bad_gives_way_to_the_pair_that_was_accepted() {
    let mut steps = Steps::forced();
    steps.reads(3);
    steps.canaries(Verdict::Undecided);
    let tried = [2, 3].map(|number| steps.tried(number));
    steps.life.accepted(Steps::version(1), &tried, steps.now);
    assert_eq!(steps.life.standing().0, Some(Steps::version(1)));
}

/// A request that was refused before the operator forced the pair, and is accepted with the previous one after that.
#[test]
fn what_was_refused_before_a_pair_was_forced_does_not_judge_it() {
    let mut steps = Steps::forced();
    let refused = steps.tried(2);
    steps.pass(10);
    steps.life.force(steps.now);
    steps.pass(10);
    steps.life.accepted(Steps::version(1), &[refused], steps.now);
    assert_eq!(steps.life.standing().0, Some(Steps::version(2)));
}

/// Nor does it make the canary do so.
#[test]
fn a_request_refused_before_a_pair_was_forced_does_not_make_its_canary_count() {
    let mut steps = Steps::new();
    steps.reads(1);
    steps.canaries(Verdict::Undecided);
    let request = steps.refused(&[1]);
    steps.pass(10);
    steps.life.force(steps.now);
    steps.pass(10);
    assert!(matches!(steps.life.remedy(&request, false, steps.now), RefusalAction::Wait | RefusalAction::Undecided));
    steps.pass(1_100);
    assert_eq!(steps.canaries(Verdict::Refused), [Steps::version(1)]);
    assert_eq!((steps.life.standing().0, steps.life.is_locked_out()), (Some(Steps::version(1)), false));
    assert!(matches!(steps.life.remedy(&request, false, steps.now), RefusalAction::Rejected));
}

/// It was sent again too often; another pair may still be good.
#[test]
fn a_request_that_met_too_many_pairs_is_not_told_that_all_are_refused() {
    let mut steps = Steps::new();
    for number in 1..=4 {
        steps.reads(number);
        steps.canaries(Verdict::Verified);
    }
    let request = steps.refused(&[1, 2, 3, 4]);
    steps.pass(10);
    steps.reads(5);
    let request = RefusedRequest { may_resend: false, ..request };
    assert!(matches!(steps.life.remedy(&request, true, steps.now), RefusalAction::Undecided));
}

/// What shows that it is bad is that the request is accepted with another one.
#[test]
fn a_request_that_goes_again_with_a_candidate_does_not_make_the_canary_of_a_forced_pair_count() {
    let mut steps = Steps::forced();
    steps.reads(3);
    steps.canaries(Verdict::Undecided);
    let refused = steps.refused(&[2]);
    steps.pass(10);
    let RefusalAction::Resend(pair) = steps.life.remedy(&refused, false, steps.now) else { panic!("it goes again") };
    assert_eq!(pair.version(), Steps::version(3));
    steps.pass(2_000);
    steps.canaries(Verdict::Refused);
    assert_eq!(steps.life.standing().0, Some(Steps::version(2)));
}

/// A canary left it open whether the previous pair is good.
#[test]
fn a_pair_that_comes_back_unverified_is_verified() {
    let mut steps = Steps::forced();
    let request = steps.refused(&[2, 1]);
    steps.pass(10);
    assert!(matches!(steps.life.remedy(&request, false, steps.now), RefusalAction::Wait));
    steps.pass(1);
    assert_eq!(steps.canaries(Verdict::Undecided), [Steps::version(1)]);
    steps.life.accepted(Steps::version(1), &request.tried, steps.now);
    assert_eq!(steps.life.standing().0, Some(Steps::version(1)));
    steps.pass(120_000);
    let due: Vec<_> = steps.life.due(steps.now).iter().map(|held| held.version()).collect();
    assert!(due.contains(&Steps::version(1)), "{due:?}");
}

#[test]
fn a_forced_pair_stays_forced_at_another_address() {
    let mut steps = Steps::forced();
    steps.moves(steps.now);
    steps.pass(1);
    assert!(steps.canaries(Verdict::Refused).contains(&Steps::version(2)));
    assert_eq!(steps.life.standing().0, Some(Steps::version(2)));
    steps.life.accepted(Steps::version(1), &steps.refused(&[2]).tried, steps.now);
    assert_eq!(steps.life.standing().0, Some(Steps::version(1)));
}

/// The news of it came after that of the move.
#[test]
fn a_request_that_was_refused_at_an_earlier_address_is_not_judged_at_the_present_one() {
    let mut steps = Steps::new();
    steps.reads(1);
    steps.canaries(Verdict::Verified);
    let request = steps.refused(&[1]);
    steps.pass(10);
    steps.moves(steps.now);
    steps.pass(10);
    assert!(matches!(steps.life.remedy(&request, true, steps.now), RefusalAction::Undecided));
    assert!(!steps.life.current.as_ref().unwrap().doubted);
}

/// The news of it came after that of the move.
#[test]
fn what_was_accepted_at_an_earlier_address_brings_no_candidate_into_use_at_the_present_one() {
    let mut steps = Steps::new();
    steps.reads(1);
    steps.canaries(Verdict::Verified);
    steps.reads(2);
    let tried = [steps.tried(1)];
    steps.pass(10);
    steps.moves(steps.now);
    steps.life.accepted(Steps::version(2), &tried, steps.now);
    assert_eq!(steps.life.standing(), (Some(Steps::version(1)), Some(Steps::version(2))));
    let tried = [steps.tried(1)];
    steps.life.accepted(Steps::version(2), &tried, steps.now);
    assert_eq!(steps.life.standing(), (Some(Steps::version(2)), None));
}

/// At another address, nothing is known of it.
#[test]
fn a_pair_that_comes_back_because_another_was_revoked_is_verified_if_that_is_open() {
    let mut steps = Steps::new();
    for number in [1, 2] {
        steps.reads(number);
        steps.canaries(Verdict::Verified);
    }
    steps.moves(steps.now);
    steps.life.revoke(Steps::version(2), true, steps.now);
    assert_eq!(steps.life.standing().0, Some(Steps::version(1)));
    assert_eq!(steps.canaries(Verdict::Verified), [Steps::version(1)]);
    assert!(steps.life.is_verified());
}

#[test]
fn a_pair_of_an_earlier_source_does_not_move_to_another_address() {
    for same in [false, true] {
        let mut steps = Steps::new();
        steps.reads(1);
        steps.canaries(Verdict::Verified);
        steps.life.change_source(source("directory"));
        if same {
            steps.reads(1);
        }
        steps.reads(2);
        steps.canaries(Verdict::Verified);
        let configured: &[u8] = if same { &[2, 1] } else { &[2] };
        let configured: Vec<_> = configured.iter().map(|number| Steps::version(*number)).collect();
        assert_eq!(steps.moves(steps.now), configured);
    }
}

/// It may have come back since the reload was read: the pair of the present source was revoked or refused meanwhile.
#[test]
fn nor_if_it_is_in_use() {
    let steps = || {
        let mut steps = Steps::new();
        steps.reads(1);
        steps.canaries(Verdict::Verified);
        steps.life.change_source(source("directory"));
        steps.reads(2);
        steps.canaries(Verdict::Verified);
        steps
    };
    let mut revoked = steps();
    revoked.life.revoke(Steps::version(2), true, revoked.now);
    assert_eq!(revoked.life.standing().0, Some(Steps::version(1)));
    assert_eq!(revoked.moves(revoked.now), []);
    let mut refused = steps();
    refused.life.ask(Steps::version(2), refused.now);
    refused.canaries(Verdict::Refused);
    assert_eq!(refused.life.standing(), (Some(Steps::version(1)), Some(Steps::version(2))));
    assert_eq!(refused.moves(refused.now), [Steps::version(2)]);
    assert!(refused.life.snapshot().deciding, "requests wait for it");
    refused.canaries(Verdict::Verified);
    assert_eq!(refused.life.standing(), (Some(Steps::version(2)), None));
}

/// It is found by its version, also where the source had another pair in between.
#[test]
fn a_pair_that_the_present_source_returns_again_is_one_of_its_own() {
    let mut steps = Steps::new();
    steps.reads(1);
    steps.canaries(Verdict::Verified);
    steps.life.change_source(source("directory"));
    steps.reads(2);
    steps.canaries(Verdict::Undecided);
    steps.reads(1);
    assert_eq!(steps.moves(steps.now), [Steps::version(1)]);
}

/// The next start would take it for one of the source that the copy is of.
#[test]
fn a_pair_of_an_earlier_source_is_not_copied_as_one_of_the_present_source() {
    let mut steps = Steps::new();
    let copied = |steps: &Steps| steps.life.worth_copying().map(|(held, ..)| held.version());
    steps.reads(1);
    steps.canaries(Verdict::Verified);
    assert_eq!(copied(&steps), Some(Steps::version(1)));
    steps.life.change_source(source("vault"));
    assert_eq!(copied(&steps), None);
    steps.reads(2);
    assert_eq!(copied(&steps), None, "it is not in use yet");
    steps.canaries(Verdict::Verified);
    assert_eq!(copied(&steps), Some(Steps::version(2)));
    steps.life.change_source(source("vault"));
    steps.reads(2);
    assert_eq!(copied(&steps), Some(Steps::version(2)), "both sources have it");
}
