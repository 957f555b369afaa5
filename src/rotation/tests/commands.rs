//! What operators tell the keys to do, and are told.

use super::*;

#[tokio::test(start_paused = true)]
async fn rotate_says_what_came_of_it() {
    let world = World::new().await;
    assert_eq!(world.keys.rotate(false).await, Some(Rotated::Unchanged));
    world.thinks(2, Verdict::Refused);
    world.put(2);
    assert!(matches!(world.keys.rotate(false).await, Some(Rotated::Refused(_))));
    assert_eq!(world.in_use(), 1);
    world.put(3);
    assert!(matches!(world.keys.rotate(false).await, Some(Rotated::Undecided(_))));
    world.thinks(4, Verdict::Verified);
    world.put(4);
    let Some(Rotated::Promoted(version)) = world.keys.rotate(false).await else { panic!("not promoted") };
    assert_eq!((world.in_use(), world.version()), (4, version));
    fs::remove_file(world.folder.path().join("keys.toml")).unwrap();
    assert!(matches!(world.keys.rotate(false).await, Some(Rotated::Fault(_))));
}

/// Forces pair 2, whose canary Fastrac refuses; returns the versions of both.
async fn force_second(world: &World) -> (PairVersion, PairVersion) {
    let first = world.version();
    world.thinks(2, Verdict::Refused);
    world.put(2);
    world.pass(1_100).await;
    assert_eq!(world.in_use(), 1, "it is refused");
    let Some(Rotated::Forced { version, fallback }) = world.keys.rotate(true).await else { panic!("not forced") };
    assert_eq!((world.in_use(), version, fallback), (2, world.version(), Some(first)));
    (first, version)
}

#[tokio::test(start_paused = true)]
async fn rotate_by_force_uses_a_pair_that_canaries_refuse() {
    let world = World::new().await;
    force_second(&world).await;
    world.pass(600_000).await;
    assert_eq!(world.in_use(), 2, "canaries alone say nothing");
    assert_eq!(world.keys.status().content, SourceContent::Refused, "a restart would verify it");
    world.thinks(2, Verdict::Verified);
    world.pass(120_000).await;
    let standing = || world.keys.status().pairs[0].standing;
    assert_eq!((world.in_use(), standing()), (2, Verification::Verified));
    // From then on it is a pair like any other.
    world.thinks(2, Verdict::Refused);
    assert!(matches!(world.refused(world.version()).await, Remedy::Resend(lease) if number(&lease) == 1));
    world.pass(100).await;
    assert_eq!(world.in_use(), 1);
}

/// It was in use before, and is in the source again.
#[tokio::test(start_paused = true)]
async fn a_verified_pair_is_not_told_to_be_used_unverified() {
    let world = World::new().await;
    let (first, _) = force_second(&world).await;
    *world.fastrac.slow.lock() = 5_000;
    world.put(1);
    world.pass(1_100).await;
    assert_eq!(world.in_use(), 2, "its canary is slow");
    let rotated = world.keys.rotate(true).await;
    assert_eq!((world.in_use(), world.keys.status().pairs[0].standing), (1, Verification::Verified));
    assert!(matches!(rotated, Some(Rotated::Promoted(version)) if version == first), "{rotated:?}");
}

/// Another operator forces it meanwhile.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_canary_is_told_that_its_pair_is_in_use_although_it_is_refused() {
    let world = World::new().await;
    world.thinks(2, Verdict::Refused);
    *world.fastrac.slow.lock() = 1_000;
    world.put(2);
    let keys = world.keys.clone();
    let waiting = tokio::spawn(async move { keys.rotate(false).await });
    world.pass(500).await;
    assert!(matches!(world.keys.rotate(true).await, Some(Rotated::Forced { .. })));
    let first = world.keys.status().pairs[1].version;
    let rotated = waiting.await.unwrap();
    assert_eq!(rotated, Some(Rotated::Forced { version: world.version(), fallback: Some(first) }));
    assert_eq!(world.in_use(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_forced_pair_rolls_back_if_the_previous_one_does_what_it_cannot() {
    let world = World::new().await;
    let (first, second) = force_second(&world).await;
    let Remedy::Resend(lease) = world.refused(second).await else { panic!("the request is lost") };
    assert_eq!(number(&lease), 1);
    world.pass(5_000).await;
    assert_eq!(world.in_use(), 2, "the request may be refused for reasons of its own");
    // One that was refused with another pair proves nothing.
    let tried = |version| [TriedPair { version, refused: Instant::now() }];
    world.keys.accepted(first, &tried("00000000".parse().unwrap()));
    world.pass(100).await;
    assert_eq!(world.in_use(), 2);
    world.keys.accepted(first, &tried(second));
    world.pass(100).await;
    assert_eq!(world.in_use(), 1);
    // It is verified again from time to time.
    world.thinks(2, Verdict::Verified);
    world.pass(120_000).await;
    assert_eq!(world.in_use(), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_that_both_pairs_refuse_do_not_roll_a_forced_one_back_while_the_previous_is_good() {
    let world = World::new().await;
    let (first, second) = force_second(&world).await;
    let both = || request("shop", &[second, first], true);
    for _ in 0..20 {
        assert!(matches!(world.refused(second).await, Remedy::Resend(lease) if number(&lease) == 1));
        assert!(matches!(world.keys.refused(both()).await, Remedy::Own));
        world.pass(500).await;
    }
    assert_eq!(world.in_use(), 2);
    // If neither pair is good, that ends in a lock-out like any other.
    world.thinks(1, Verdict::Refused);
    assert!(matches!(world.keys.refused(both()).await, Remedy::Rejected));
    world.pass(5_000).await;
    assert!(matches!(world.keys.lease(), Err(NoKey::Refused { .. })));
    world.asked();
    world.pass(10_000).await;
    assert!((2..=20).contains(&world.asked().len()), "canaries go on, and not in a hurry");
}

/// An order that may not be sent again.
#[tokio::test(start_paused = true)]
async fn a_refused_request_that_may_not_be_sent_again_rolls_a_forced_pair_back_unless_others_are_accepted() {
    let world = World::new().await;
    let (_, second) = force_second(&world).await;
    for _ in 0..5 {
        world.keys.lease().unwrap().note_accepted(Instant::now());
        assert!(matches!(world.refused_for("shop", second, false).await, Remedy::Rejected));
        world.pass(900).await;
        assert_eq!(world.in_use(), 2);
    }
    world.pass(2_000).await;
    assert!(matches!(world.refused_for("shop", second, false).await, Remedy::Undecided));
    world.pass(100).await;
    assert_eq!(world.in_use(), 1);
}

#[tokio::test(start_paused = true)]
async fn force_ends_a_lock_out_until_requests_are_refused_too() {
    let world = World::with(|_| {}, &[(1, Verdict::Refused)], Some(1)).await;
    world.pass(5_000).await;
    assert!(matches!(world.keys.lease(), Err(NoKey::Refused { .. })));
    for _ in 0..2 {
        assert!(matches!(world.keys.rotate(true).await, Some(Rotated::Forced { fallback: None, .. })));
        world.pass(60_000).await;
        assert_eq!(world.in_use(), 1);
        assert!(matches!(world.refused(world.version()).await, Remedy::Rejected));
        world.pass(5_000).await;
        assert!(matches!(world.keys.lease(), Err(NoKey::Refused { .. })), "its requests are refused too");
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_version_never_serves_again() {
    let world = World::new().await;
    let first = world.version();
    world.thinks(2, Verdict::Verified);
    world.put(2);
    world.pass(1_100).await;
    let second = world.version();
    let leased = world.keys.lease().unwrap();
    assert_eq!(world.keys.revoke(second, true).await, Some(true));
    assert!(leased.is_revoked(), "for requests that have it already");
    assert_eq!(world.in_use(), 1, "the previous one takes over");
    assert!(matches!(world.keys.rotate(true).await, Some(Rotated::Revoked(v)) if v == second));
    assert_eq!(world.keys.revoke(first, true).await, Some(true));
    assert_eq!(world.keys.lease().unwrap_err(), NoKey::None);
    world.pass(5_000).await;
    assert!(world.keys.lease().is_err());
    assert!(matches!(world.refused(second).await, Remedy::Rejected));
    assert_eq!(world.keys.revoke("00000000".parse().unwrap(), true).await, Some(false));
    *world.revoked.lock() = vec![first, second];
    let (keys, keeper) =
        Keys::open(&account(world.folder.path(), |_| {}), None, world.revoked.clone(), Box::new(|_| {})).unwrap();
    let task = tokio::spawn(keep(keeper, |_| async { Verdict::Verified }));
    world.pass(100).await;
    assert!(keys.lease().is_err(), "nor after a restart");
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn verify_asks_about_the_candidate_else_the_pair_in_use() {
    let world = World::new().await;
    assert_eq!(world.keys.verify().await, Some((world.version(), Verdict::Verified)));
    world.thinks(2, Verdict::Refused);
    world.put(2);
    world.pass(1_100).await;
    let (version, verdict) = world.keys.verify().await.unwrap();
    assert!(version != world.version() && verdict == Verdict::Refused);
}
