//! Promises of the breaker, on tokio's paused clock.

use proptest::prelude::*;
use tokio::time::advance;

use super::*;

fn breaker(minimum: u32, failures: f64, probes: u32) -> Breaker {
    with_slow(minimum, failures, probes, None)
}

fn with_slow(minimum: u32, failures: f64, probes: u32, slow: Option<config::SlowCallsConfig>) -> Breaker {
    Breaker::new("main", Class::Order, &config::BreakerConfig { slow, ..rules(minimum, failures, probes) })
}

fn rules(minimum: u32, failures: f64, probes: u32) -> config::BreakerConfig {
    let (window, open) = (Duration::from_secs(10), Duration::from_secs(5));
    config::BreakerConfig { window, minimum, failures, open, probes, slow: None }
}

fn feed(breaker: &Breaker, good: u32, bad: u32) {
    for _ in 0..good {
        breaker.admit(true).unwrap().success();
    }
    for _ in 0..bad {
        breaker.admit(true).unwrap().failure();
    }
}

#[tokio::test(start_paused = true)]
async fn opens_at_the_fraction_of_failures_and_not_below_the_minimum() {
    let few = breaker(20, 0.5, 3);
    feed(&few, 0, 19);
    assert_eq!(few.state(), State::Closed);
    few.admit(true).unwrap().failure();
    assert_eq!(few.state(), State::Open);
    assert_eq!(few.admit(true).unwrap_err().retry_after(), Duration::from_secs(5));

    let enough = breaker(20, 0.5, 3);
    feed(&enough, 20, 19);
    assert_eq!(enough.state(), State::Closed);
    enough.admit(true).unwrap().failure();
    assert_eq!(enough.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn forgets_reports_older_than_the_window() {
    let breaker = breaker(10, 0.5, 1);
    feed(&breaker, 0, 9);
    advance(Duration::from_secs(11)).await;
    feed(&breaker, 0, 9);
    assert_eq!(breaker.state(), State::Closed);
    advance(Duration::from_secs(5)).await;
    breaker.admit(true).unwrap().failure();
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn opens_then_sends_probes_then_closes() {
    let breaker = breaker(1, 0.5, 3);
    feed(&breaker, 0, 1);
    advance(Duration::from_millis(4001)).await;
    assert_eq!(breaker.admit(true).unwrap_err().retry_after(), Duration::from_secs(1));
    advance(Duration::from_millis(999)).await;
    assert_eq!(breaker.state(), State::HalfOpen);
    let probes: Vec<_> = (0..3).map(|_| breaker.admit(true).unwrap()).collect();
    assert!(breaker.admit(true).is_err(), "no fourth probe");
    for probe in probes {
        assert_eq!(breaker.state(), State::HalfOpen);
        probe.success();
    }
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, 100, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_opens_it_again_for_the_whole_time() {
    let breaker = breaker(1, 0.5, 2);
    feed(&breaker, 0, 1);
    advance(Duration::from_secs(5)).await;
    let (first, late) = (breaker.admit(true).unwrap(), breaker.admit(true).unwrap());
    first.failure();
    assert_eq!(breaker.admit(true).unwrap_err().retry_after(), Duration::from_secs(5));
    // A report of an earlier epoch counts for nothing.
    late.success();
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_is_free_again_and_counts_for_nothing() {
    let breaker = breaker(1, 0.5, 1);
    feed(&breaker, 0, 1);
    advance(Duration::from_secs(5)).await;
    for _ in 0..5 {
        let probe = breaker.admit(true).unwrap();
        assert!(breaker.admit(true).is_err());
        drop(probe);
        assert_eq!(breaker.state(), State::HalfOpen);
    }
    breaker.admit(true).unwrap().success();
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn reports_of_earlier_epochs_do_not_open_it_again() {
    let breaker = breaker(1, 0.5, 1);
    let old: Vec<_> = (0..10).map(|_| breaker.admit(true).unwrap()).collect();
    breaker.admit(true).unwrap().failure();
    advance(Duration::from_secs(5)).await;
    breaker.admit(true).unwrap().success();
    for old in old {
        old.failure();
    }
    assert_eq!(breaker.state(), State::Closed);
}

proptest! {
    /// There are never more probes at a time than allowed, and it can always recover.
    #[test]
    fn always_recovers(steps in prop::collection::vec((0_u8..5, 0_u64..3000), 1..200), probes in 1_u32..4) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let breaker = breaker(3, 0.5, probes);
            let mut held = Vec::new();
            for (what, millis) in steps {
                advance(Duration::from_millis(millis)).await;
                match what {
                    0 | 1 => held.extend(breaker.admit(true).ok()),
                    2 => held.pop().into_iter().for_each(BreakerPermit::success),
                    3 => held.pop().into_iter().for_each(BreakerPermit::failure),
                    _ => drop(held.pop()),
                }
                if let Circuit::HalfOpen { probing, successes } = breaker.shared.locked.lock().circuit {
                    assert!(probing + successes <= probes);
                }
            }
            drop(held);
            advance(Duration::from_secs(5)).await;
            for _ in 0..probes {
                breaker.admit(true).unwrap().success();
            }
            assert_eq!(breaker.state(), State::Closed);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn impatient_callers_leave_a_probe_to_others() {
    let breaker = breaker(1, 0.5, 3);
    feed(&breaker, 0, 1);
    advance(Duration::from_secs(5)).await;
    for _ in 0..3 {
        let impatient: Vec<_> = std::iter::from_fn(|| breaker.admit(false).ok()).collect();
        let probe = breaker.admit(true).expect("a probe is left");
        drop(impatient);
        probe.success();
    }
    assert_eq!(breaker.state(), State::Closed, "three successes, whatever others do meanwhile");
}

#[tokio::test(start_paused = true)]
async fn slow_responses_open_it_as_failures_do_if_they_are_counted() {
    let slow = config::SlowCallsConfig { after: Duration::from_secs(2), part: 0.5 };
    let healthy = |breaker: &Breaker, millis, times| {
        for _ in 0..times {
            breaker.admit(true).unwrap().report(Evidence::Healthy, Duration::from_millis(millis));
        }
    };
    let uncounted = breaker(4, 0.5, 1);
    healthy(&uncounted, 60_000, 20);
    assert_eq!(uncounted.state(), State::Closed);

    let counted = with_slow(8, 0.5, 1, Some(slow));
    healthy(&counted, 2000, 5);
    healthy(&counted, 2001, 4);
    assert_eq!(counted.state(), State::Closed, "4 of 9");
    healthy(&counted, 2001, 1);
    assert_eq!(counted.state(), State::Open, "5 of 10");
    advance(Duration::from_secs(5)).await;
    healthy(&counted, 2001, 1);
    assert_eq!(counted.state(), State::Open, "a slow probe");
    advance(Duration::from_secs(5)).await;
    healthy(&counted, 2000, 1);
    assert_eq!(counted.state(), State::Closed);

    let mixed = with_slow(8, 0.5, 1, Some(slow));
    healthy(&mixed, 1, 4);
    healthy(&mixed, 3000, 2);
    feed(&mixed, 0, 2);
    assert_eq!(mixed.state(), State::Open, "half of the calls are slow or fail");
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_neither_dilutes_failures_nor_closes_it() {
    let breaker = breaker(4, 0.5, 1);
    let nothing = |times| {
        for _ in 0..times {
            breaker.admit(true).unwrap().report(Evidence::Nothing, Duration::ZERO);
        }
    };
    nothing(100);
    feed(&breaker, 0, 3);
    nothing(100);
    assert_eq!(breaker.state(), State::Closed);
    feed(&breaker, 0, 1);
    assert_eq!(breaker.state(), State::Open);
    advance(Duration::from_secs(5)).await;
    nothing(100);
    assert_eq!(breaker.state(), State::HalfOpen);
    feed(&breaker, 1, 0);
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_it_will_be_tried_again() {
    let breaker = breaker(1, 0.5, 1);
    feed(&breaker, 0, 1);
    advance(Duration::from_millis(1200)).await;
    let open = breaker.check(true).unwrap_err();
    assert_eq!((open, breaker.open_for()), (breaker.admit(true).unwrap_err(), Duration::from_millis(3800)));
    assert_eq!(open.to_string(), "Circuit breaker open: Fastrac is failing (order requests); try again in 4 s");
    advance(open.retry_after()).await;
    let probe = breaker.admit(true).expect("a caller that waits this long is not too early");
    let probing = breaker.check(true).unwrap_err();
    assert_eq!((probing.retry_after(), breaker.open_for()), (Duration::from_secs(1), Duration::ZERO));
    assert!(probing.to_string().starts_with("Circuit breaker half-open: "), "{probing}");
    probe.success();
    breaker.check(true).unwrap();
}

#[tokio::test(start_paused = true)]
async fn changes_of_state_are_counted_once() {
    let breaker = breaker(1, 0.5, 2);
    let counts = || State::VARIANTS.iter().map(|state| breaker.transitions(*state)).collect::<Vec<_>>();
    assert_eq!(counts(), [0, 0, 0]);
    for round in 1..4 {
        feed(&breaker, 0, 1);
        assert_eq!(counts(), [round - 1, round - 1, round]);
        advance(Duration::from_secs(5)).await;
        // Whoever sees it first: a request, or somebody who looks at its state.
        (0..3).for_each(|_| assert_eq!(breaker.state(), State::HalfOpen));
        feed(&breaker, 2, 0);
        assert_eq!(counts(), [round, round, round]);
    }
}

#[tokio::test(start_paused = true)]
async fn another_address_is_not_judged_by_the_one_before() {
    for opened in [false, true] {
        let before = breaker(2, 0.5, 1);
        let counts =
            |breaker: &Breaker| State::VARIANTS.iter().map(|state| breaker.transitions(*state)).collect::<Vec<_>>();
        feed(&before, 0, if opened { 2 } else { 1 });
        let now = before.elsewhere(&rules(2, 0.5, 1));
        before.leave();
        let opened = u64::from(opened);
        assert_eq!((now.state(), counts(&now)), (State::Closed, vec![opened, 0, opened]));
        // Requests that still go to the one before have its state, which nobody sees.
        if opened == 0 {
            feed(&before, 0, 1);
        }
        assert_eq!(before.state(), State::Open);
        advance(Duration::from_secs(5)).await;
        feed(&before, 1, 0);
        assert_eq!(before.state(), State::Closed);
        assert_eq!((now.state(), now.failures_in_a_row(), counts(&now)), (State::Closed, 0, vec![opened, 0, opened]));
        feed(&now, 0, 1);
        assert_eq!(now.state(), State::Closed);
        feed(&now, 0, 1);
        assert_eq!((now.state(), counts(&now)), (State::Open, vec![opened, 0, opened + 1]));
    }
}
