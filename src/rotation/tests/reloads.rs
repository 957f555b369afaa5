//! A reload with other settings keeps pairs, revocations and refused requests.

use super::*;

/// Puts other settings in force, as a reload does.
async fn reload(world: &World, source: Option<&std::path::Path>, overlap: u64) {
    reload_to(world, source, overlap, None).await;
}

async fn reload_to(world: &World, source: Option<&std::path::Path>, overlap: u64, moved: Option<Instant>) {
    let changed = account(source.unwrap_or(world.folder.path()), |r| r.overlap = Duration::from_secs(overlap));
    let source = source.map(|_| Arc::new(PairSource::open(&changed.keys, "main", None).unwrap()));
    if let Some(source) = &source {
        *world.source.lock() = source.id();
    }
    let settings = KeySettings { source, rotation: changed.rotation, moved: moved.map(|_| *world.source.lock()) };
    let (keys, since) = (world.keys.clone(), moved.unwrap_or_else(Instant::now));
    let taken =
        tokio::task::spawn_blocking(move || keys.reconfigure(settings, since).are_in_force(Duration::from_secs(5)));
    assert!(taken.await.unwrap(), "the settings are in force");
}

#[tokio::test(start_paused = true)]
async fn a_reload_with_another_source_keeps_pairs_and_refused_requests() {
    let world = World::new().await;
    let (version, other) = (world.version(), tempfile::tempdir().unwrap());
    world.thinks(1, Verdict::Refused);
    world.thinks(2, Verdict::Verified);
    *world.fastrac.slow.lock() = 500;
    let keys = world.keys.clone();
    let refused = tokio::spawn(async move { keys.refused(request("shop", &[version], true)).await });
    world.pass(50).await;
    put(other.path(), 2);
    reload(&world, Some(other.path()), 600).await;
    let Remedy::Resend(lease) = refused.await.unwrap() else { panic!("the request failed") };
    assert_eq!(number(&lease), 2, "it is decided by the new source");
}

/// They wait for a canary, which is sent to the new address.
#[tokio::test(start_paused = true)]
async fn a_reload_with_another_address_ends_the_wait_of_refused_requests() {
    let world = World::new().await;
    *world.fastrac.slow.lock() = 5_000;
    let (keys, refused) = (world.keys.clone(), request("shop", &[world.version()], true));
    let waiting = tokio::spawn(async move { keys.refused(refused).await });
    world.pass(50).await;
    assert!(!waiting.is_finished());
    reload_to(&world, None, 600, Some(Instant::now())).await;
    assert!(matches!(waiting.await.unwrap(), Remedy::Undecided));
    world.pass(10_000).await;
    assert_eq!(world.in_use(), 1);
    // Nor is it remembered that its service causes 401s itself.
    let (keys, refused) = (world.keys.clone(), request("shop", &[world.version()], true));
    let waiting = tokio::spawn(async move { keys.refused(refused).await });
    world.pass(50).await;
    assert!(!waiting.is_finished());
    assert!(matches!(waiting.await.unwrap(), Remedy::Own));
}

/// Issue: they were lost for good if it had been full for five seconds, although their configuration was in force.
#[tokio::test(start_paused = true)]
async fn settings_of_a_reload_do_not_wait_behind_an_inbox_that_is_full() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(folder.path(), 1);
    put(other.path(), 2);
    let (keys, keeper) =
        Keys::open(&account(folder.path(), |_| {}), None, Arc::new(Known::default()), Box::new(|_| {})).unwrap();
    let waiting: Vec<_> = (0..2_000)
        .map(|_| {
            let keys = keys.clone();
            tokio::spawn(async move { keys.verify().await })
        })
        .collect();
    // The paused clock moves once they all wait for room.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let changed = account(other.path(), |_| {});
    let first = PairSource::open(&changed.keys, "main", None).unwrap();
    for source in [Some(Arc::new(first)), None] {
        let settings = KeySettings { source, rotation: changed.rotation.clone(), moved: None };
        let _ = keys.reconfigure(settings, Instant::now());
    }
    let task = tokio::spawn(keep(keeper, |_| async { Verdict::Verified }));
    assert_eq!(number(&keys.lease_by(Deadline::after(Instant::now(), Duration::from_secs(5))).await.unwrap()), 2);
    for waiting in waiting {
        waiting.await.unwrap();
    }
    task.abort();
}

/// The source has no pair yet when the account moves, and then the one that an earlier source had.
#[tokio::test(start_paused = true)]
async fn a_pair_of_an_earlier_source_is_used_at_another_address_once_the_present_one_returns_it() {
    let world = World::new().await;
    let other = tempfile::tempdir().unwrap();
    reload(&world, Some(other.path()), 600).await;
    world.pass(2_000).await;
    assert_eq!(world.in_use(), 1);
    reload_to(&world, None, 600, Some(Instant::now())).await;
    assert_eq!(world.keys.lease().unwrap_err(), NoKey::None);
    world.pass(5_000).await;
    assert_eq!(world.keys.lease().unwrap_err(), NoKey::None);
    put(other.path(), 1);
    world.pass(2_000).await;
    assert_eq!(world.in_use(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_loses_neither_a_pair_nor_a_revocation() {
    let world = World::new().await;
    world.thinks(2, Verdict::Verified);
    world.put(2);
    world.pass(1_100).await;
    let (new, other) = (world.version(), tempfile::tempdir().unwrap());
    reload(&world, Some(other.path()), 600).await;
    world.pass(5_000).await;
    assert_eq!(world.in_use(), 2, "the new source has none");
    world.keys.revoke(new, true).await;
    reload(&world, Some(world.folder.path()), 600).await;
    world.pass(5_000).await;
    assert_eq!(world.in_use(), 1, "the source has the revoked one");
    reload(&world, None, 0).await;
    world.pass(5_000).await;
    assert_eq!(world.in_use(), 1);
}
