//! Lookups that are slow, hang or fail.

use std::sync::{
    atomic::{AtomicBool, AtomicUsize, Ordering},
    mpsc,
};

use tokio::task::JoinSet;

use super::{super::cached_name::FRESH, *};

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 0))
}

fn in_millis(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

/// A name service whose answers are given by hand.
struct ManualLookups {
    lookups: Lookups,
    /// One entry for each answer.
    answers: mpsc::Sender<LookupResult>,
    /// Lookups that run, and the most that ever did.
    running: Arc<(AtomicUsize, AtomicUsize)>,
}

impl ManualLookups {
    fn new() -> Self {
        let (answers, given) = mpsc::channel();
        let given = Mutex::new(given);
        let running = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let counted = running.clone();
        let lookups = Lookups::new(move |_| {
            let now = counted.0.fetch_add(1, Ordering::SeqCst) + 1;
            counted.1.fetch_max(now, Ordering::SeqCst);
            let answer = loop {
                if let Ok(answer) = given.lock().try_recv() {
                    break answer;
                }
                thread::sleep(Duration::from_millis(1));
            };
            counted.0.fetch_sub(1, Ordering::SeqCst);
            answer
        });
        ManualLookups { lookups, answers, running }
    }

    fn running(&self) -> usize {
        self.running.0.load(Ordering::SeqCst)
    }

    async fn until_running(&self, count: usize) {
        while self.running() != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn a_name_is_looked_up_once_for_all_that_wait_each_within_its_time() {
    let manual = ManualLookups::new();
    let mut requests = JoinSet::new();
    for number in 0..300 {
        let lookups = manual.lookups.clone();
        requests.spawn(async move { lookups.addresses("x", 443, in_millis(20 + number % 7)).await });
    }
    for result in requests.join_all().await {
        assert!(matches!(result, Err(LookupError::Failed(_))));
    }
    let patient = manual.lookups.addresses("x", 443, in_millis(60_000));
    let (patient, ()) = tokio::join!(patient, async {
        manual.until_running(1).await;
        manual.answers.send(Ok(vec![address(1)])).unwrap();
    });
    assert_eq!(patient, Ok(vec![SocketAddr::from(([192, 0, 2, 1], 443))]));
    assert_eq!(manual.running.1.load(Ordering::SeqCst), 1);
    // Known now, for any port.
    let known = manual.lookups.addresses("x", 80, Instant::now()).await;
    assert_eq!(known, Ok(vec![SocketAddr::from(([192, 0, 2, 1], 80))]));
}

#[tokio::test]
async fn threads_are_bounded_and_end() {
    let manual = ManualLookups::new();
    let names: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    for name in &names {
        assert!(manual.lookups.addresses(name, 443, Instant::now()).await.is_err());
    }
    manual.until_running(PLACES).await;
    names.iter().for_each(|_| manual.answers.send(Ok(vec![address(1)])).unwrap());
    for name in &names {
        assert!(manual.lookups.addresses(name, 443, in_millis(60_000)).await.is_ok());
    }
    // More than the places only if they are late, on a busy machine.
    assert!((PLACES..=MAX_THREADS).contains(&manual.running.1.load(Ordering::SeqCst)));
    while manual.lookups.0.state.lock().threads > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Several times as many as there are places.
#[tokio::test]
async fn names_that_hang_keep_no_others_from_being_looked_up() {
    let (hang, begun) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (hangs, begins) = (hang.clone(), begun.clone());
    let lookups = Lookups::new(move |name| {
        if name == "good" {
            return Ok(vec![address(1)]);
        }
        begins.fetch_add(1, Ordering::SeqCst);
        while hangs.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        Err(LookupError::Failed("no answer".into()))
    });
    let names: Vec<String> = (0..3 * PLACES).map(|number| number.to_string()).collect();
    for name in &names {
        assert!(lookups.addresses(name, 443, Instant::now()).await.is_err());
    }
    assert_eq!(begun.load(Ordering::SeqCst).min(PLACES + 1), begun.load(Ordering::SeqCst), "not all at once");
    assert!(lookups.addresses("good", 443, in_millis(60_000)).await.is_ok());
    assert_eq!(begun.load(Ordering::SeqCst), names.len());
    hang.store(false, Ordering::SeqCst);
    while lookups.0.state.lock().threads > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn names_whose_lookups_fail_come_after_others() {
    let (mut state, now) = (LookupState::default(), Instant::now());
    for name in ["failed", "new", "also failed"] {
        state.waiting.push_back(name.to_owned());
        state
            .running
            .insert(name.to_owned(), RunningLookup { began: now, taken: None, result: watch::channel(None).0 });
        if name.ends_with("failed") {
            let failure = Err(LookupError::Failed("no answer".into()));
            state.cached.entry(name.to_owned()).or_default().keep(failure, now);
        }
    }
    let order = std::iter::from_fn(|| state.take_waiting(now)).collect::<Vec<_>>();
    assert_eq!(order, ["new", "failed", "also failed"]);
}

/// Makes what is known of a name older.
fn age(lookups: &Lookups, name: &str, addresses: &[SocketAddr]) {
    let mut state = lookups.0.state.lock();
    let mut cached = CachedName::default();
    cached.keep(Ok(addresses.to_vec()), Instant::now() - FRESH);
    state.cached.insert(name.to_owned(), cached);
}

#[tokio::test]
async fn the_last_addresses_are_used_while_a_lookup_hangs_or_fails() {
    let manual = ManualLookups::new();
    let last = vec![SocketAddr::from(([192, 0, 2, 1], 443))];
    age(&manual.lookups, "x", &[address(1)]);
    // It hangs: they are used after a moment, and at once by those that come later.
    let began = Instant::now();
    assert_eq!(manual.lookups.addresses("x", 443, in_millis(60_000)).await, Ok(last.clone()));
    assert!(began.elapsed() >= STALE_AFTER);
    let began = Instant::now();
    assert_eq!(manual.lookups.addresses("x", 443, in_millis(60_000)).await, Ok(last.clone()));
    assert!(began.elapsed() < STALE_AFTER);
    // It fails, also with an answer.
    for error in [LookupError::Failed("no server".into()), LookupError::NoAddress("gone".into())] {
        age(&manual.lookups, "x", &[address(1)]);
        manual.answers.send(Err(error)).unwrap();
        assert_eq!(manual.lookups.addresses("x", 443, in_millis(60_000)).await, Ok(last.clone()));
        manual.until_running(0).await;
    }
}

#[tokio::test]
async fn failures_are_reported_and_kept_shortly() {
    let manual = ManualLookups::new();
    let gone = LookupError::NoAddress("gone".into());
    manual.answers.send(Err(gone.clone())).unwrap();
    assert_eq!(manual.lookups.addresses("x", 443, in_millis(60_000)).await, Err(gone.clone()));
    assert_eq!(manual.lookups.addresses("x", 443, Instant::now()).await, Err(gone), "without another lookup");
}

#[tokio::test]
async fn a_lookup_that_panics_has_failed() {
    let lookups = Lookups::new(|_| panic!("as tested"));
    assert!(matches!(lookups.addresses("x", 443, in_millis(60_000)).await, Err(LookupError::Failed(_))));
}

#[test]
fn the_system_knows_localhost_and_no_invalid_names() {
    assert!(system("localhost").unwrap().iter().all(|address| address.ip().is_loopback()));
    // RFC 6761. Where no name service can be asked, the error is another one.
    assert!(system("nowhere.invalid").is_err());
}
