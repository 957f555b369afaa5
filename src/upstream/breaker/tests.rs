//! Promises of the breaker, on tokio's paused clock.

use proptest::prelude::*;
use tokio::time::advance;

use super::*;

fn breaker(minimum: u32, failures: f64, probes: u32) -> Breaker {
    Breaker::new(&config::BreakerConfig {
        window: Duration::from_secs(10),
        minimum,
        failures,
        open: Duration::from_secs(5),
        probes,
    })
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
    assert_eq!(few.admit(true).unwrap_err().retry_after, Duration::from_secs(5));

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
    assert_eq!(breaker.admit(true).unwrap_err().retry_after, Duration::from_secs(1));
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
    assert_eq!(breaker.admit(true).unwrap_err().retry_after, Duration::from_secs(5));
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
