//! Which requests a fault applies to: by operation, path, key, count, chance, interval and time.

use std::time::Duration;

use fastrac_sandbox::{Act, Fault};

use super::{FaultSetup, plain};
use crate::client::get;

/// A fault whose effect is visible in the outcome: a 500 is not retried.
fn server_error() -> Fault {
    Fault::on("v2.track", Act::Html(500))
}

/// Whether the fault applied to each of `times` requests, directly and through the gateway.
fn requests_hit(setup: &FaultSetup, fault: Fault, times: usize) -> (Vec<bool>, Vec<bool>) {
    let sandbox = &setup.gateway.sandbox;
    sandbox.clear_faults();
    let number = sandbox.fault(fault.clone());
    let directly = || plain::send(sandbox.addr(), &setup.direct()).status == 500;
    let directly: Vec<bool> = std::iter::repeat_with(directly).take(times).collect();
    assert_eq!(sandbox.times_applied(number), Some(directly.iter().filter(|hit| **hit).count() as u64));
    sandbox.clear_faults();
    let number = sandbox.fault(fault);
    let failed = || setup.gateway.metric("requests_total", &[("outcome", "upstream_error")]);
    let before = failed();
    let through = || setup.gateway.send(setup.track().by("shop")).outcome() == "upstream_error";
    let through: Vec<bool> = std::iter::repeat_with(through).take(times).collect();
    let count = through.iter().filter(|hit| **hit).count();
    assert_eq!(sandbox.times_applied(number), Some(count as u64), "sandbox and gateway count the same");
    assert_eq!(failed() - before, count as f64);
    (directly, through)
}

#[test]
fn faults_apply_by_count_interval_and_chance() {
    let setup = FaultSetup::new();
    let (directly, through) = requests_hit(&setup, server_error().times(2), 4);
    assert_eq!((&directly, &through), (&vec![true, true, false, false], &directly));
    let (directly, through) = requests_hit(&setup, Fault { every: Some(3), ..server_error() }, 6);
    assert_eq!((&directly, &through), (&vec![false, false, true, false, false, true], &directly));
    let (directly, through) = requests_hit(&setup, Fault { chance: Some(0.4), ..server_error() }, 50);
    for drawn in [directly, through] {
        let count = drawn.iter().filter(|hit| **hit).count();
        assert!((10..30).contains(&count), "{count} of 50");
    }
}

#[test]
fn faults_apply_by_path_key_and_operation() {
    let setup = FaultSetup::new();
    for (fault, hit) in [
        (Fault { path: Some("/order/track".to_owned()), ..Fault::everywhere(Act::Html(500)) }, [true, true]),
        (Fault { path: Some("/order/trac".to_owned()), ..Fault::everywhere(Act::Html(500)) }, [false, false]),
        (Fault::everywhere(Act::Html(500)).key("direct"), [true, false]),
        (Fault::everywhere(Act::Html(500)).key("gateway"), [false, true]),
        (Fault::on("v1.track", Act::Html(500)), [false, false]),
        (server_error(), [true, true]),
    ] {
        let (directly, through) = requests_hit(&setup, fault.clone(), 1);
        assert_eq!([directly[0], through[0]], hit, "{fault:?}");
    }
    // A path that no operation serves can be selected by its path.
    let unlisted = Fault { path: Some("/new/thing".to_owned()), ..Fault::everywhere(Act::Html(502)) };
    setup.gateway.sandbox.fault(unlisted);
    assert_eq!(setup.gateway.send(get("/new/thing").by("shop")).status, 502);
}

#[test]
fn faults_apply_by_the_sandboxs_clock() {
    let setup = FaultSetup::new();
    let timed = Fault {
        from: Some("+10s".parse().expect("a time")),
        until: Some("2026-01-02T03:04:25.678Z".parse().expect("a time")),
        ..server_error()
    };
    setup.gateway.sandbox.fault(timed);
    let both = || {
        let directly = plain::send(setup.gateway.sandbox.addr(), &setup.direct()).status;
        (directly, setup.gateway.send(setup.track().by("shop")).outcome().to_owned())
    };
    let mut outcomes = Vec::new();
    for millis in [9_999, 1, 9_999, 1] {
        setup.gateway.sandbox.advance(Duration::from_millis(millis));
        outcomes.push(both());
    }
    let (well, met) = ((200, "ok".to_owned()), (500, "upstream_error".to_owned()));
    assert_eq!(outcomes, [well.clone(), met.clone(), met, well]);
}
