//! Which requests a fault meets: by operation, path, key, count, chance, turn and time.

use std::time::Duration;

use fastrac_sandbox::{Act, Fault};

use super::{Scene, plain};
use crate::client::get;

/// An outcome of the gateway's that shows at once whether a fault met: 500 is not asked again.
fn fault() -> Fault {
    Fault::on("v2.track", Act::Html(500))
}

/// For each of so many requests whether it was met: directly, and through the gateway.
fn met(scene: &Scene, fault: Fault, times: usize) -> (Vec<bool>, Vec<bool>) {
    let sandbox = &scene.stage.sandbox;
    sandbox.clear_faults();
    let number = sandbox.fault(fault.clone());
    let plainly = || plain::ask(sandbox.addr(), &scene.direct()).status == 500;
    let plainly: Vec<bool> = std::iter::repeat_with(plainly).take(times).collect();
    assert_eq!(sandbox.times_applied(number), Some(plainly.iter().filter(|met| **met).count() as u64));
    sandbox.clear_faults();
    let number = sandbox.fault(fault);
    let failed = || scene.stage.metric("requests_total", &[("outcome", "upstream_error")]);
    let before = failed();
    let through = || scene.stage.ask(scene.track().by("shop")).outcome() == "upstream_error";
    let through: Vec<bool> = std::iter::repeat_with(through).take(times).collect();
    let count = through.iter().filter(|met| **met).count();
    assert_eq!(sandbox.times_applied(number), Some(count as u64), "the sandbox's count is the gateway's");
    assert_eq!(failed() - before, count as f64);
    (plainly, through)
}

#[test]
fn by_count_turn_and_chance() {
    let scene = Scene::new();
    let (plainly, through) = met(&scene, fault().times(2), 4);
    assert_eq!((&plainly, &through), (&vec![true, true, false, false], &plainly));
    let (plainly, through) = met(&scene, Fault { every: Some(3), ..fault() }, 6);
    assert_eq!((&plainly, &through), (&vec![false, false, true, false, false, true], &plainly));
    let (plainly, through) = met(&scene, Fault { chance: Some(0.4), ..fault() }, 50);
    for drawn in [plainly, through] {
        let count = drawn.iter().filter(|met| **met).count();
        assert!((10..30).contains(&count), "{count} of 50");
    }
}

#[test]
fn by_path_key_and_operation() {
    let scene = Scene::new();
    for (fault, hit) in [
        (Fault { path: Some("/order/track".to_owned()), ..Fault::everywhere(Act::Html(500)) }, [true, true]),
        (Fault { path: Some("/order/trac".to_owned()), ..Fault::everywhere(Act::Html(500)) }, [false, false]),
        (Fault::everywhere(Act::Html(500)).key("direct"), [true, false]),
        (Fault::everywhere(Act::Html(500)).key("gateway"), [false, true]),
        (Fault::on("v1.track", Act::Html(500)), [false, false]),
        (fault(), [true, true]),
    ] {
        let (plainly, through) = met(&scene, fault.clone(), 1);
        assert_eq!([plainly[0], through[0]], hit, "{fault:?}");
    }
    // What no operation serves is met by its path.
    let unlisted = Fault { path: Some("/new/thing".to_owned()), ..Fault::everywhere(Act::Html(502)) };
    scene.stage.sandbox.fault(unlisted);
    assert_eq!(scene.stage.ask(get("/new/thing").by("shop")).status, 502);
}

#[test]
fn by_time_of_the_sandboxs_clock() {
    let scene = Scene::new();
    let timed = Fault {
        from: Some("+10s".parse().expect("a time")),
        until: Some("2026-01-02T03:04:25.678Z".parse().expect("a time")),
        ..fault()
    };
    scene.stage.sandbox.fault(timed);
    let both = || {
        let plainly = plain::ask(scene.stage.sandbox.addr(), &scene.direct()).status;
        (plainly, scene.stage.ask(scene.track().by("shop")).outcome().to_owned())
    };
    let mut seen = Vec::new();
    for millis in [9_999, 1, 9_999, 1] {
        scene.stage.sandbox.advance(Duration::from_millis(millis));
        seen.push(both());
    }
    let (well, met) = ((200, "ok".to_owned()), (500, "upstream_error".to_owned()));
    assert_eq!(seen, [well.clone(), met.clone(), met, well]);
}
