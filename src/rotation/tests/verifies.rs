//! A pair is verified before it takes over.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_first_pair_and_asks_no_more() {
    let world = World::new().await;
    assert_eq!(world.in_use(), 1);
    world.pass(3_600_000).await;
    assert_eq!(world.asked(), [1]);
    assert_eq!(world.events(), ["seen", "verified", "promoted"]);
    assert_eq!(world.keys.status().pairs[0].standing, Verification::Verified);
}

#[tokio::test(start_paused = true)]
async fn a_new_pair_before_it_takes_over() {
    let world = World::new().await;
    world.thinks(2, Verdict::Verified);
    *world.fastrac.slow.lock() = 300;
    world.put(2);
    world.pass(1_100).await;
    assert_eq!(world.in_use(), 1, "while the canary is out");
    world.pass(400).await;
    assert_eq!(world.in_use(), 2);
    assert_eq!(world.asked(), [1, 2]);
    let roles: Vec<_> = world.keys.status().pairs.iter().map(|pair| pair.role).collect();
    assert_eq!(roles, [Role::Current, Role::Previous]);
    world.pass(600_000).await;
    assert_eq!(world.keys.status().pairs.len(), 1);
    assert_eq!(world.events(), ["seen", "verified", "promoted", "seen", "verified", "promoted", "retired"]);
}

#[tokio::test(start_paused = true)]
async fn and_never_uses_one_that_is_refused() {
    let world = World::new().await;
    world.thinks(2, Verdict::Refused);
    world.put(2);
    world.pass(60_000).await;
    assert_eq!(world.in_use(), 1);
    // It may become good later.
    world.thinks(2, Verdict::Verified);
    world.pass(61_000).await;
    assert_eq!(world.in_use(), 2);
    assert!(world.asked().len() < 12, "asked with growing gaps");
}

#[tokio::test(start_paused = true)]
async fn and_keeps_the_old_one_while_undecided() {
    let world = World::new().await;
    world.put(2);
    world.pass(5_000).await;
    assert_eq!(world.in_use(), 1);
    world.thinks(2, Verdict::Verified);
    world.pass(10_000).await;
    assert_eq!(world.in_use(), 2);
}

#[tokio::test(start_paused = true)]
async fn but_uses_an_undecided_one_when_there_is_no_other() {
    let world = World::with(|_| {}, &[], Some(1)).await;
    assert_eq!(world.in_use(), 1);
    assert_eq!(world.keys.status().pairs[0].standing, Verification::Unverified);
    world.thinks(1, Verdict::Verified);
    world.pass(120_000).await;
    assert_eq!(world.keys.status().pairs[0].standing, Verification::Verified);
}

/// Only the canary's operation hangs: everything else would be served.
#[tokio::test(start_paused = true)]
async fn but_waits_seconds_only_for_a_verdict_when_there_is_no_other() {
    for (verdict, serves) in [(Verdict::Verified, true), (Verdict::Refused, false)] {
        let world = World::with(|_| {}, &[(1, verdict)], None).await;
        *world.fastrac.slow.lock() = 8_000;
        world.put(1);
        world.pass(2_000).await;
        assert_eq!((world.keys.lease().is_ok(), world.asked()), (false, vec![1]));
        world.pass(1_200).await;
        assert_eq!(world.in_use(), 1);
        assert_eq!(world.keys.status().pairs[0].standing, Verification::Unverified);
        world.pass(6_500).await;
        assert_eq!(world.keys.lease().is_ok(), serves, "by the same canary");
    }
}

#[tokio::test(start_paused = true)]
async fn and_has_no_key_when_the_only_one_is_refused() {
    let world = World::with(|_| {}, &[(1, Verdict::Refused)], Some(1)).await;
    assert!(matches!(world.keys.lease().unwrap_err(), NoKey::Refused { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_panics_is_undecided() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), 1);
    let (keys, keeper) =
        Keys::open(&account(folder.path(), |_| {}), None, Arc::new(Known::default()), Box::new(|_| {})).unwrap();
    let task = tokio::spawn(keep(keeper, |_| async { panic!("canary") }));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(keys.lease().is_ok());
    task.abort();
}
