//! Tests of rotation with paused time, a key file, and a table of verdicts in place of Fastrac.
#![allow(clippy::disallowed_methods, reason = "tests have no drain to join")]

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, sync::Arc};

use parking_lot::Mutex;

use super::*;
use crate::{
    config::{self, KeySource},
    deadline::Deadline,
    keys::{
        Event, KeySettings, Keys, KnownRevocations, NoKey, PairSource, PairVersion, RefusedRequest, Remedy,
        RequestOrigin, Role, Rotated, SourceContent, SourceId, TriedPair, Verification,
    },
};

/// What was revoked before.
type Known = Mutex<Vec<PairVersion>>;

impl KnownRevocations for Known {
    fn versions(&self) -> Vec<PairVersion> {
        self.lock().clone()
    }
}

/// The keys of an account, and a stub of Fastrac with a verdict for each pair.
struct World {
    keys: Arc<Keys>,
    folder: tempfile::TempDir,
    fastrac: Arc<Fastrac>,
    revoked: Arc<Known>,
    /// The last one.
    source: Mutex<SourceId>,
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
        let revoked = Arc::new(Known::default());
        let (keys, mut keeper) = Keys::open(
            &account(folder.path(), change),
            None,
            revoked.clone(),
            Box::new(move |event| events.events.lock().push(event.clone())),
        )
        .unwrap();
        // Notifications of file changes arrive in real time, not on the paused clock.
        keeper.watched = false;
        let source = Mutex::new(keeper.source.id());
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
        let world = Self { keys, folder, fastrac, revoked, source, task };
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

    /// A request of a service, refused with a pair.
    async fn refused_for(&self, service: &str, version: PairVersion, may_resend: bool) -> Remedy {
        self.keys.refused(request(service, &[version], may_resend)).await
    }

    async fn refused(&self, version: PairVersion) -> Remedy {
        self.refused_for("shop", version, true).await
    }

    fn asked(&self) -> Vec<u32> {
        std::mem::take(&mut self.fastrac.asked.lock())
    }

    fn events(&self) -> Vec<&'static str> {
        self.fastrac.events.lock().drain(..).map(|event| event.what.as_str()).collect()
    }
}

/// A request that was refused now, signed with one pair after the other.
fn request(service: &str, tried: &[PairVersion], may_resend: bool) -> RefusedRequest {
    let refused = Instant::now();
    RefusedRequest {
        tried: tried.iter().map(|version| TriedPair { version: *version, refused }).collect(),
        origin: Some(RequestOrigin { service: Some(service.into()), operation: "v2.track".into() }),
        may_resend,
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
        budget: config::BudgetConfig { second: None, day: None, in_flight: 1, max_wait: Duration::ZERO, pace: None },
        day_zone: jiff::tz::TimeZone::UTC,
        breaker: config::BreakerConfig {
            window: Duration::from_secs(10),
            minimum: 20,
            failures: 0.5,
            open: Duration::from_secs(5),
            probes: 3,
            slow: None,
        },
        retries: 0.1,
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
            let world =
                World::with(|r| r.overlap = Duration::from_secs(overlap), &[(1, Verdict::Verified)], Some(1)).await;
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
        let Some(Rotated::LockedOut { version: Some(told), next_canary: Some(_) }) = world.keys.rotate(false).await
        else {
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
                let Remedy::Resend(lease) = world.refused(old).await else { panic!("no pair at {n}") };
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

/// Between the opening of the source and the start of the task, a reload or a start may wait for a disk.
#[tokio::test(start_paused = true)]
async fn requests_wait_for_the_first_pair_however_late_the_task_starts() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), 1);
    let (keys, mut keeper) =
        Keys::open(&account(folder.path(), |_| {}), None, Arc::new(Known::default()), Box::new(|_| {})).unwrap();
    keeper.watched = false;
    let waiting = tokio::spawn({
        let keys = keys.clone();
        async move { keys.lease_by(Deadline::after(Instant::now(), Duration::from_secs(10))).await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    let task = tokio::spawn(keep(keeper, |_| async { Verdict::Verified }));
    assert_eq!(number(&waiting.await.unwrap().unwrap()), 1);
    task.abort();
}

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

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_restarted_with_its_pairs() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), 1);
    let panics = Arc::new(Mutex::new(false));
    let observed = panics.clone();
    let observer = move |event: &Event| {
        let panics = std::mem::take(&mut *observed.lock());
        assert!(!panics, "at {event:?}");
    };
    let (keys, mut keeper) =
        Keys::open(&account(folder.path(), |_| {}), None, Arc::new(Known::default()), Box::new(observer)).unwrap();
    keeper.watched = false;
    let task = tokio::spawn(keep(keeper, |_| async { Verdict::Verified }));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let version = keys.lease().unwrap().version();
    *panics.lock() = true;
    let second = "5b84194d".parse().unwrap();
    assert_eq!(keys.revoke(second, true).await, None, "the command ends with the task");
    assert_eq!(keys.lease().unwrap().version(), version);
    assert_eq!(keys.rotate(false).await, Some(Rotated::Unchanged), "it works again");
    let status = keys.status();
    assert!(status.restarted.is_some() && status.revoked == [second]);
    task.abort();
}
