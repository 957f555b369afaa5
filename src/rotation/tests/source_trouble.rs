//! A source that fails, or is silent for long, takes no pair away before its time.

use super::*;

#[tokio::test(start_paused = true)]
async fn keeps_the_old_pair_and_says_so() {
    let world = World::new().await;
    world.events();
    for bad in ["", "[main]\naccess_key = \"access-9\"\n", "[main]\naccess_key = \"\"\nsecret_key = \"x\"\n"] {
        write(world.folder.path(), bad);
        world.pass(5_000).await;
        assert_eq!(world.in_use(), 1);
        let source = world.keys.status().source;
        assert!(!source.up && source.fault.is_some());
    }
    assert_eq!(world.events(), ["source_lost"]);
    world.put(1);
    world.pass(1_100).await;
    assert!(world.keys.status().source.up);
    assert_eq!(world.events(), ["source_back"]);
}

#[tokio::test(start_paused = true)]
async fn longer_than_max_age_ends_a_pair_and_its_return_brings_it_back() {
    let world = World::with(|r| r.max_age = Duration::from_secs(60), &[(1, Verdict::Verified)], Some(1)).await;
    fs::remove_file(world.folder.path().join("keys.toml")).unwrap();
    world.pass(58_000).await;
    assert_eq!(world.in_use(), 1);
    world.pass(4_000).await;
    assert_eq!(world.keys.lease().unwrap_err(), NoKey::TooOld);
    world.put(1);
    world.pass(1_100).await;
    assert_eq!(world.in_use(), 1);
}

#[tokio::test(start_paused = true)]
async fn at_the_start_is_waited_out() {
    let world = World::with(|_| {}, &[(1, Verdict::Verified)], None).await;
    assert_eq!(world.keys.lease().unwrap_err(), NoKey::None);
    assert_eq!(world.events(), ["source_lost"]);
    world.put(1);
    world.pass(1_100).await;
    assert_eq!(world.in_use(), 1);
}
