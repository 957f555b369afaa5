//! Tests of rotation with paused time, a key file, and a table of verdicts in place of Fastrac.
#![allow(clippy::disallowed_methods, reason = "tests have no drain to join")]

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, sync::Arc};

use parking_lot::Mutex;

use super::*;
use crate::{
    config::{self, KeySource},
    keys::{Event, KeyContext, Keys, NoKey, Role, Verification},
};

/// The keys of an account, and a stub of Fastrac with a verdict for each pair.
struct World {
    keys: Arc<Keys>,
    folder: tempfile::TempDir,
    fastrac: Arc<Fastrac>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Fastrac {
    /// Verdicts by the number of the pair; undecided without an entry.
    thinks: Mutex<BTreeMap<u32, Verdict>>,
    /// Milliseconds that a canary takes.
    slow: Mutex<u64>,
    asked: Mutex<Vec<u32>>,
    events: Mutex<Vec<Event>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn number(lease: &Lease) -> u32 {
    let access = lease.access_key().to_str().unwrap().strip_prefix("access-").unwrap();
    let secret = lease.secret_key().to_str().unwrap().strip_prefix("canary-secret-").unwrap();
    assert_eq!(access, secret, "halves of two pairs");
    access.parse().unwrap()
}

impl World {
    /// The key file contains pair 1, which Fastrac accepts.
    async fn new() -> Self {
        Self::with(|_| {}, &[(1, Verdict::Verified)], Some(1)).await
    }

    async fn with(change: impl Fn(&mut config::RotationConfig), thinks: &[(u32, Verdict)], first: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fastrac = Arc::new(Fastrac::default());
        fastrac.thinks.lock().extend(thinks.iter().copied());
        if let Some(first) = first {
            put(folder.path(), first);
        }
        let events = fastrac.clone();
        let (keys, mut keeper) = Keys::open(
            &account(folder.path(), change),
            KeyContext::default(),
            [],
            Box::new(move |event| events.events.lock().push(event.clone())),
        )
        .unwrap();
        // Notifications of file changes arrive in real time, not on the paused clock.
        keeper.watched = false;
        let asked = fastrac.clone();
        let task = tokio::spawn(keep(keeper, move |lease| {
            let (fastrac, number) = (asked.clone(), number(&lease));
            async move {
                fastrac.asked.lock().push(number);
                let slow = *fastrac.slow.lock();
                if slow > 0 {
                    tokio::time::sleep(Duration::from_millis(slow)).await;
                }
                let verdict = fastrac.thinks.lock().get(&number).copied();
                verdict.unwrap_or(Verdict::Undecided)
            }
        }));
        let world = Self { keys, folder, fastrac, task };
        world.pass(100).await;
        world
    }

    fn put(&self, n: u32) {
        put(self.folder.path(), n);
    }

    fn thinks(&self, n: u32, verdict: Verdict) {
        self.fastrac.thinks.lock().insert(n, verdict);
    }

    /// Advances the paused clock, which moves only when no task is ready.
    async fn pass(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    fn in_use(&self) -> u32 {
        number(&self.keys.lease().unwrap())
    }

    fn version(&self) -> PairVersion {
        self.keys.lease().unwrap().version()
    }

    fn asked(&self) -> Vec<u32> {
        std::mem::take(&mut self.fastrac.asked.lock())
    }

    fn events(&self) -> Vec<&'static str> {
        self.fastrac.events.lock().drain(..).map(|event| event.what.as_str()).collect()
    }
}

fn put(folder: &std::path::Path, n: u32) {
    write(folder, &format!("[main]\naccess_key = \"access-{n}\"\nsecret_key = \"canary-secret-{n}\"\n"));
}

fn write(folder: &std::path::Path, text: &str) {
    let new = folder.join("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, folder.join("keys.toml")).unwrap();
}

fn account(folder: &std::path::Path, change: impl Fn(&mut config::RotationConfig)) -> config::AccountConfig {
    let endpoint = config::Endpoint {
        tls: false,
        host: "127.0.0.1".into(),
        port: 1,
        authority: "127.0.0.1:1".into(),
        prefix: String::new(),
        auth: config::AuthStyle::Both,
    };
    let mut rotation = config::RotationConfig {
        overlap: Duration::from_secs(600),
        max_age: Duration::from_secs(72 * 3600),
        resend_orders: true,
    };
    change(&mut rotation);
    config::AccountConfig {
        name: "main".into(),
        base: endpoint.clone(),
        v1: endpoint.clone(),
        v2: endpoint,
        ca: None,
        proxy: None,
        keys: KeySource::File { path: folder.join("keys.toml"), identity: None },
        rotation,
        verify: "v2.province".into(),
        budget: config::BudgetConfig { second: None, day: None, in_flight: 1, max_wait: Duration::ZERO },
        day_zone: jiff::tz::TimeZone::UTC,
        breaker: config::BreakerConfig {
            window: Duration::from_secs(10),
            minimum: 20,
            failures: 0.5,
            open: Duration::from_secs(5),
            probes: 3,
        },
        messages: config::MessagesConfig { not_found: vec![], key: vec![], limit: vec![] },
    }
}

mod verifies {
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

    #[tokio::test(start_paused = true)]
    async fn and_has_no_key_when_the_only_one_is_refused() {
        let world = World::with(|_| {}, &[(1, Verdict::Refused)], Some(1)).await;
        assert_eq!(world.keys.lease().unwrap_err(), NoKey::Refused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_canary_that_panics_is_undecided() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), 1);
        let (keys, keeper) =
            Keys::open(&account(folder.path(), |_| {}), KeyContext::default(), [], Box::new(|_| {})).unwrap();
        let task = tokio::spawn(keep(keeper, |_| async { panic!("canary") }));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(keys.lease().is_ok());
        task.abort();
    }
}

mod source_trouble {
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
}

mod refused {
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
                tokio::spawn(async move { keys.refused(old, true).await })
            })
            .collect();
        for request in requests {
            let Remedy::Resend(lease) = request.await.unwrap() else { panic!("no new pair") };
            assert_eq!(number(&lease), 2);
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        world.pass(100).await;
        assert_eq!(world.events(), ["seen", "verified", "promoted", "refreshed", "seen", "promoted", "verified"]);
        assert_eq!(world.asked(), [1, 2], "one canary for each pair");
        // A late 401 of the old pair starts nothing.
        let Remedy::Resend(lease) = world.keys.refused(old, true).await else { panic!("no new pair") };
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
        let Remedy::Resend(lease) = world.keys.refused(world.version(), true).await else { panic!("no previous") };
        assert_eq!(number(&lease), 1);
        world.pass(100).await;
        assert_eq!(world.in_use(), 1);
        assert_eq!(world.events(), ["refreshed", "refused", "rolled_back"]);
        world.thinks(2, Verdict::Verified);
        world.pass(120_000).await;
        assert_eq!(world.in_use(), 2, "it is what the source says");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unverified_pair_in_use_that_is_bad_gives_way_to_the_one_before() {
        let world = World::new().await;
        let old = world.version();
        world.thinks(2, Verdict::Refused);
        world.put(2);
        // The 401 was the request's own, but the gateway can't know and tries what is new.
        let Remedy::Resend(lease) = world.keys.refused(old, true).await else { panic!("no new pair") };
        assert_eq!(number(&lease), 2);
        let second = world.keys.refused(lease.version(), false).await;
        assert!(matches!(second, Remedy::Rejected), "{second:?}");
        assert_eq!(world.in_use(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_canary_decides_when_there_is_no_other_pair() {
        let world = World::new().await;
        let version = world.version();
        assert!(matches!(world.keys.refused(version, true).await, Remedy::Own));
        world.pass(1_000).await;
        world.thinks(1, Verdict::Refused);
        assert!(matches!(world.keys.refused(version, true).await, Remedy::Rejected));
        world.pass(1_000).await;
        world.thinks(1, Verdict::Undecided);
        assert!(matches!(world.keys.refused(version, true).await, Remedy::Rejected));
        assert!(world.keys.lease().is_ok(), "the pair in use stays");
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
                    keys.refused(version, true).await
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
        assert!(matches!(world.keys.refused(version, true).await, Remedy::Rejected));
        assert!(world.keys.lease().is_ok(), "one refusal is not the end");
        world.pass(5_000).await;
        assert_eq!(world.keys.lease().unwrap_err(), NoKey::Refused);
        world.asked();
        world.pass(600_000).await;
        assert!((5..=14).contains(&world.asked().len()), "hardly asks");
        world.thinks(1, Verdict::Verified);
        world.pass(61_000).await;
        assert_eq!(world.in_use(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn of_every_known_pair_stops_sending_and_probes_ever_more_seldom() {
        let world = World::new().await;
        world.thinks(2, Verdict::Verified);
        world.put(2);
        world.pass(1_100).await;
        let new = world.version();
        world.thinks(1, Verdict::Refused);
        world.thinks(2, Verdict::Refused);
        let Remedy::Resend(old) = world.keys.refused(new, true).await else { panic!("the previous one is tried") };
        assert_eq!(number(&old), 1);
        assert!(matches!(world.keys.refused(old.version(), false).await, Remedy::Rejected));
        world.pass(5_000).await;
        assert_eq!(world.keys.lease().unwrap_err(), NoKey::Refused);
        world.asked();
        let mut minutes = Vec::new();
        for _ in 0..10 {
            world.pass(60_000).await;
            minutes.push(world.asked().len());
        }
        assert!(minutes.is_sorted_by(|before, after| before >= after), "canaries a minute: {minutes:?}");
        assert!(minutes[0] <= 8 && minutes[9] <= 2, "canaries a minute: {minutes:?}");
        assert_eq!(world.keys.lease().unwrap_err(), NoKey::Refused);
        // Either of them may be the one that becomes good.
        world.thinks(2, Verdict::Verified);
        world.pass(61_000).await;
        assert_eq!(world.in_use(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_that_must_not_be_sent_again_still_turns_the_keys() {
        let world = World::new().await;
        let old = world.version();
        world.thinks(1, Verdict::Refused);
        world.thinks(2, Verdict::Verified);
        world.put(2);
        assert!(matches!(world.keys.refused(old, false).await, Remedy::Rejected));
        assert_eq!(world.in_use(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_canary_of_another_pair_holds_nobody_up() {
        let world = World::new().await;
        *world.fastrac.slow.lock() = 30_000;
        world.put(2);
        world.pass(1_100).await;
        let start = Instant::now();
        let Remedy::Resend(lease) = world.keys.refused(world.version(), true).await else { panic!("no new pair") };
        assert_eq!((number(&lease), start.elapsed()), (2, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_task_nothing_hangs() {
        let world = World::new().await;
        world.task.abort();
        world.pass(10).await;
        assert!(matches!(world.keys.refused(world.version(), true).await, Remedy::Rejected));
        assert_eq!(world.keys.rotate(true).await, None);
    }
}

mod commands {
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

    #[tokio::test(start_paused = true)]
    async fn rotate_by_force_takes_it_unverified_and_a_bad_one_rolls_back() {
        let world = World::new().await;
        *world.fastrac.slow.lock() = 1_000;
        world.thinks(2, Verdict::Refused);
        world.put(2);
        assert!(matches!(world.keys.rotate(true).await, Some(Rotated::Promoted(_))));
        assert_eq!(world.in_use(), 2);
        world.pass(1_500).await;
        assert_eq!(world.in_use(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoked_version_never_serves_again() {
        let world = World::new().await;
        let first = world.version();
        world.thinks(2, Verdict::Verified);
        world.put(2);
        world.pass(1_100).await;
        let second = world.version();
        world.keys.revoke(second).await;
        assert_eq!(world.in_use(), 1, "the previous one takes over");
        assert!(matches!(world.keys.rotate(true).await, Some(Rotated::Revoked(v)) if v == second));
        world.keys.revoke(first).await;
        assert_eq!(world.keys.lease().unwrap_err(), NoKey::None);
        world.pass(5_000).await;
        assert!(world.keys.lease().is_err());
        assert!(matches!(world.keys.refused(second, true).await, Remedy::Rejected));
        // The store takes it from the event.
        let revoked = world.fastrac.events.lock().iter().filter(|e| e.what == KeyEvent::Revoked).count();
        assert_eq!(revoked, 2);
        let (keys, keeper) =
            Keys::open(&account(world.folder.path(), |_| {}), KeyContext::default(), [first, second], Box::new(|_| {}))
                .unwrap();
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
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_rotations_leave_no_request_without_a_pair() {
    let world = World::new().await;
    for n in 2..302 {
        world.thinks(n, Verdict::Verified);
        let old = world.version();
        world.put(n);
        match n % 3 {
            // Overlap: noticed by polling.
            0 => world.pass(1_010).await,
            // The old pair is dead at once.
            1 => {
                world.thinks(n - 1, Verdict::Refused);
                let Remedy::Resend(lease) = world.keys.refused(old, true).await else { panic!("no pair at {n}") };
                assert_eq!(number(&lease), n);
                world.pass(300).await;
            }
            // Told to.
            _ => assert!(matches!(world.keys.rotate(false).await, Some(Rotated::Promoted(_)))),
        }
        assert_eq!(world.in_use(), n);
    }
    let shown = format!("{:?}", world.keys);
    assert!(!shown.contains("canary-secret") && !shown.contains("access-"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_reload_with_another_source_goes_on_with_the_pair_in_use() {
    let world = World::new().await;
    let (version, other) = (world.version(), tempfile::tempdir().unwrap());
    let beside = || KeyContext { vault: None, before: Some(&world.keys) };
    let (keys, mut keeper) = Keys::open(&account(other.path(), |_| {}), beside(), [], Box::new(|_| {})).unwrap();
    assert_eq!(keys.lease().unwrap().version(), version, "before the first reading");
    keeper.watched = false;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let task = tokio::spawn(keep(keeper, move |lease| {
        seen.lock().push(number(&lease));
        async { Verdict::Verified }
    }));
    world.pass(5_000).await;
    assert_eq!(keys.lease().unwrap().version(), version, "its source has none");
    put(other.path(), 2);
    world.pass(1_500).await;
    assert_eq!(number(&keys.lease().unwrap()), 2);
    assert_eq!(*asked.lock(), [2], "canaries");
    task.abort();
    let (keys, _) = Keys::open(&account(other.path(), |_| {}), beside(), [version], Box::new(|_| {})).unwrap();
    assert!(keys.lease().is_err(), "a revoked one is not taken over");
}
