//! Tests of rotation with paused time, a key file, and a table of verdicts in place of Fastrac.
#![allow(clippy::disallowed_methods, reason = "tests have no drain to join")]

mod commands;
mod refused;
mod reloads;
mod source_trouble;
mod verifies;

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
