//! A refusal of Fastrac turns the keys for all, and only on evidence.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_new_pair_is_used_at_once_for_all() {
    let world = World::new().await;
    world.thinks(1, Verdict::Refused);
    world.thinks(2, Verdict::Verified);
    let old = world.version();
    world.put(2);
    let start = Instant::now();
    let requests: Vec<_> = (0..64)
        .map(|_| {
            let keys = world.keys.clone();
            tokio::spawn(async move { keys.refused(request("shop", &[old], true)).await })
        })
        .collect();
    for request in requests {
        let Remedy::Resend(lease) = request.await.unwrap() else { panic!("no new pair") };
        assert_eq!(number(&lease), 2);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    world.pass(100).await;
    assert_eq!(world.events(), ["seen", "verified", "promoted", "refreshed", "seen", "verified", "promoted"]);
    assert_eq!(world.asked(), [1, 2], "one canary for each pair");
    // A late 401 of the old pair starts nothing.
    let Remedy::Resend(lease) = world.refused(old).await else { panic!("no new pair") };
    assert_eq!(number(&lease), 2);
}

#[tokio::test(start_paused = true)]
async fn the_previous_pair_serves_and_comes_back_when_the_new_one_is_bad() {
    let world = World::new().await;
    world.thinks(2, Verdict::Verified);
    world.put(2);
    world.pass(1_100).await;
    assert_eq!(world.in_use(), 2);
    world.events();
    world.thinks(2, Verdict::Refused);
    let Remedy::Resend(lease) = world.refused(world.version()).await else { panic!("no previous") };
    assert_eq!(number(&lease), 1);
    world.pass(100).await;
    assert_eq!(world.in_use(), 1);
    assert_eq!(world.events(), ["refreshed", "refused", "rolled_back"]);
    world.thinks(2, Verdict::Verified);
    world.pass(120_000).await;
    assert_eq!(world.in_use(), 2, "it is what the source says");
}

#[tokio::test(start_paused = true)]
async fn a_new_pair_that_is_bad_never_comes_into_use_because_of_a_request() {
    for overlap in [0, 600] {
        let world = World::with(|r| r.overlap = Duration::from_secs(overlap), &[(1, Verdict::Verified)], Some(1)).await;
        let old = world.version();
        // Its canary brings no verdict.
        world.put(2);
        world.pass(2_000).await;
        // The 401 was the request's own, but the gateway can't know and tries what is new.
        let Remedy::Resend(lease) = world.refused(old).await else { panic!("no new pair") };
        assert_eq!(number(&lease), 2);
        let second = world.keys.refused(request("shop", &[old, lease.version()], true)).await;
        assert!(matches!(second, Remedy::Own), "{second:?}");
        world.pass(3_600_000).await;
        assert_eq!(world.in_use(), 1);
        let new = world.keys.status().pairs.into_iter().find(|pair| pair.role == Role::Candidate).unwrap();
        assert!(new.standing == Verification::Unverified && new.undecided);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_was_accepted_where_the_old_one_was_refused_is_used() {
    let world = World::with(|r| r.overlap = Duration::ZERO, &[(1, Verdict::Verified)], Some(1)).await;
    let old = world.version();
    world.put(2);
    world.pass(2_000).await;
    let Remedy::Resend(lease) = world.refused(old).await else { panic!("no new pair") };
    world.keys.accepted(lease.version(), &[]);
    world.pass(3_600_000).await;
    assert_eq!(world.in_use(), 2);
    // Whatever the overlap: until the new one is verified.
    assert_eq!(world.keys.status().pairs[1].version, old);
    let Remedy::Resend(lease) = world.refused(world.version()).await else { panic!("no previous pair") };
    assert_eq!(lease.version(), old);
    assert!(world.keys.status().pairs[0].doubted, "in use, unverified, being refused");
    world.thinks(2, Verdict::Verified);
    world.pass(61_000).await;
    assert_eq!(world.keys.status().pairs.len(), 1, "it is verified, and there is no overlap");
}

#[tokio::test(start_paused = true)]
async fn the_canary_decides_when_there_is_no_other_pair() {
    let world = World::new().await;
    let version = world.version();
    assert!(matches!(world.refused(version).await, Remedy::Own));
    world.pass(1_000).await;
    world.thinks(1, Verdict::Undecided);
    assert!(matches!(world.refused_for("depot", version, true).await, Remedy::Undecided));
    assert!(world.keys.lease().is_ok(), "the pair in use stays");
    world.pass(2_000).await;
    world.thinks(1, Verdict::Refused);
    assert!(matches!(world.refused_for("depot", version, true).await, Remedy::Rejected));
    assert!(world.keys.lease().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_one_service_causes_is_remembered_for_it_alone() {
    let world = World::new().await;
    let version = world.version();
    world.asked();
    for _ in 0..90 {
        assert!(matches!(world.refused(version).await, Remedy::Own));
        world.pass(100).await;
        world.keys.lease().unwrap().note_accepted(Instant::now());
    }
    assert_eq!(world.asked(), [1], "one canary in nine seconds");
    assert_eq!(world.events().iter().filter(|event| **event == "refreshed").count(), 1, "and one reading");
    // The pair is really refused now. Another service finds that out at once, and then it holds for all.
    world.thinks(1, Verdict::Refused);
    assert!(matches!(world.refused_for("depot", version, true).await, Remedy::Rejected));
    assert!(world.keys.lease().is_err());
    assert!(matches!(world.refused(version).await, Remedy::Rejected));
}

/// One service that caused a 401 once got Fastrac's 401 for ten seconds after the pair was revoked.
#[tokio::test(start_paused = true)]
async fn what_is_remembered_decides_only_while_fastrac_accepts_the_pair() {
    let world = World::new().await;
    let version = world.version();
    assert!(matches!(world.refused(version).await, Remedy::Own));
    world.asked();
    // Without other requests: a canary a second.
    for _ in 0..80 {
        assert!(matches!(world.refused(version).await, Remedy::Own));
        world.pass(100).await;
    }
    let canaries = world.asked().len();
    assert!((7..=9).contains(&canaries), "{canaries}");
    world.keys.lease().unwrap().note_accepted(Instant::now());
    world.pass(900).await;
    world.thinks(1, Verdict::Refused);
    assert!(matches!(world.refused(version).await, Remedy::Own), "it was good a moment ago");
    world.pass(101).await;
    assert!(matches!(world.refused(version).await, Remedy::Rejected));
    assert!(world.keys.lease().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_verdict_decides_only_what_was_sent_before_its_canary_began() {
    let world = World::new().await;
    let version = world.version();
    world.asked();
    *world.fastrac.slow.lock() = 100;
    let first = request("shop", &[version], true);
    let earlier = request("depot", &[version], true);
    let keys = world.keys.clone();
    let first = tokio::spawn(async move { keys.refused(first).await });
    world.pass(50).await;
    let later = request("branch", &[version], true);
    let start = Instant::now();
    let (earlier, later) = tokio::join!(world.keys.refused(earlier), async {
        let remedy = world.keys.refused(later).await;
        (remedy, start.elapsed())
    });
    assert!(matches!(earlier, Remedy::Own) && matches!(first.await.unwrap(), Remedy::Own));
    assert!(matches!(later.0, Remedy::Own) && later.1 >= Duration::from_millis(149), "{later:?}");
    assert_eq!(world.asked(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn many_refusals_share_one_canary() {
    let world = World::new().await;
    world.asked();
    *world.fastrac.slow.lock() = 50;
    let version = world.version();
    let requests: Vec<_> = (0..100)
        .map(|n| {
            let keys = world.keys.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(n)).await;
                keys.refused(request("shop", &[version], true)).await
            })
        })
        .collect();
    for request in requests {
        assert!(matches!(request.await.unwrap(), Remedy::Own));
    }
    assert_eq!(world.asked(), [1]);
}

#[tokio::test(start_paused = true)]
async fn for_good_stops_sending_and_recovers_alone() {
    let world = World::new().await;
    let version = world.version();
    world.thinks(1, Verdict::Refused);
    world.asked();
    let start = Instant::now();
    assert!(matches!(world.refused(version).await, Remedy::Rejected));
    let Err(NoKey::Refused { next_canary: Some(next) }) = world.keys.lease() else { panic!("locked out") };
    assert_eq!((next - start).as_secs(), 1);
    assert_eq!(world.asked(), [1]);
    // After 1, 2, 5, 5 seconds, for as long as it takes.
    for (wait, canaries) in [(1_100, 1), (2_000, 1), (5_000, 1), (5_000, 1), (600_000, 120)] {
        world.pass(wait).await;
        assert_eq!(world.asked().len(), canaries, "after {wait} ms");
    }
    world.thinks(1, Verdict::Verified);
    world.pass(5_000).await;
    assert_eq!(world.in_use(), 1);
}

/// Each canary that hung put the next one off by its own timeout.
#[tokio::test(start_paused = true)]
async fn keeps_its_schedule_and_recovers_in_time_while_canaries_hang() {
    for outage in [500, 4_000, 13_700, 70_000, 71_300, 75_900] {
        let world = World::new().await;
        let version = world.version();
        world.thinks(1, Verdict::Refused);
        assert!(matches!(world.refused(version).await, Remedy::Rejected));
        world.asked();
        *world.fastrac.slow.lock() = 600_000;
        world.pass(outage).await;
        let canaries = world.asked().len();
        let expected = [1_000, 3_000, 8_000, 13_000].iter().filter(|at| **at < outage).count();
        assert!(outage > 14_000 || canaries == expected, "{canaries} in {outage} ms");
        *world.fastrac.slow.lock() = 50;
        world.thinks(1, Verdict::Verified);
        world.pass(5_500).await;
        assert_eq!(world.in_use(), 1, "{outage}");
    }
    // One that takes long is not cut short for ever.
    let world = World::new().await;
    let version = world.version();
    world.thinks(1, Verdict::Refused);
    assert!(matches!(world.refused(version).await, Remedy::Rejected));
    *world.fastrac.slow.lock() = 4_500;
    world.thinks(1, Verdict::Verified);
    world.pass(15_000).await;
    assert_eq!(world.in_use(), 1);
}

#[tokio::test(start_paused = true)]
async fn is_what_rotate_reports() {
    let world = World::new().await;
    let version = world.version();
    world.thinks(1, Verdict::Refused);
    assert!(matches!(world.refused(version).await, Remedy::Rejected));
    let Some(Rotated::LockedOut { version: Some(told), next_canary: Some(_) }) = world.keys.rotate(false).await else {
        panic!("locked out")
    };
    assert_eq!(told, version);
}

#[tokio::test(start_paused = true)]
async fn of_every_known_pair_stops_sending_until_one_is_good() {
    let world = World::new().await;
    world.thinks(2, Verdict::Verified);
    world.put(2);
    world.pass(1_100).await;
    let new = world.version();
    world.thinks(1, Verdict::Refused);
    world.thinks(2, Verdict::Refused);
    let Remedy::Resend(old) = world.refused(new).await else { panic!("the previous one is tried") };
    assert_eq!(number(&old), 1);
    let both = request("shop", &[new, old.version()], true);
    assert!(matches!(world.keys.refused(both).await, Remedy::Rejected));
    assert!(matches!(world.keys.lease().unwrap_err(), NoKey::Refused { .. }));
    world.pass(600_000).await;
    // Either of them may be the one that becomes good.
    world.thinks(2, Verdict::Verified);
    world.pass(6_000).await;
    assert_eq!(world.in_use(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_pair_in_the_source_ends_a_lock_out_at_once_and_requests_wait_for_it() {
    let world = World::new().await;
    let version = world.version();
    world.thinks(1, Verdict::Refused);
    world.thinks(2, Verdict::Verified);
    *world.fastrac.slow.lock() = 100;
    let keys = world.keys.clone();
    let refused = tokio::spawn(async move { keys.refused(request("shop", &[version], true)).await });
    world.pass(50).await;
    // After the source was read for the refused request, and before the canary's verdict.
    world.put(2);
    let Remedy::Resend(lease) = refused.await.unwrap() else { panic!("the source was not read again") };
    assert_eq!(number(&lease), 2);
    assert_eq!(world.in_use(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_must_not_be_sent_again_still_turns_the_keys() {
    let world = World::new().await;
    let old = world.version();
    world.thinks(1, Verdict::Refused);
    world.thinks(2, Verdict::Verified);
    world.put(2);
    assert!(matches!(world.refused_for("shop", old, false).await, Remedy::Undecided));
    world.pass(10).await;
    assert_eq!(world.in_use(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_canary_of_another_pair_holds_nobody_up() {
    let world = World::new().await;
    *world.fastrac.slow.lock() = 30_000;
    world.put(2);
    world.pass(1_100).await;
    let start = Instant::now();
    let Remedy::Resend(lease) = world.refused(world.version()).await else { panic!("no new pair") };
    assert_eq!((number(&lease), start.elapsed()), (2, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn without_the_task_nothing_hangs() {
    let world = World::new().await;
    world.task.abort();
    world.pass(10).await;
    assert!(matches!(world.refused(world.version()).await, Remedy::Undecided));
    assert_eq!(world.keys.rotate(true).await, None);
}
