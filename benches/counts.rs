//! Day counts: a claim, alone and with other threads; 10,000 services: the start with full counters, and their memory.
//!
//! A claim is measured in CPU time of its thread, which other work on the machine changes less than the clock on the wall.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::{
    fs,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use fastrac_gateway::{
    admission::{Claim, CounterContext, CounterId, LastCounts, Quota, WallClock},
    config::{QuotaConfig, Rate},
    ledger::Ledger,
    store::Store,
};
use jiff::tz::TimeZone;

const SERVICES: usize = 10_000;

fn poll_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits"),
    }
}

fn quota(ledger: &Arc<Ledger>, name: usize, day: u64) -> Quota {
    let id = CounterId::Service(format!("service-{name}").into());
    let context = CounterContext { id, clock: WallClock::system(), ledger: Some(ledger.clone()) };
    let second = Some(Rate { per_second: u32::MAX / 2, burst: u32::MAX / 2 });
    Quota::new(&QuotaConfig { second, day: Some(day), enforce: true }, &TimeZone::get("Asia/Jakarta").unwrap(), context)
}

/// A token of the second and a unit of the day, recorded and used. `until`: the request's deadline, which the path carries.
fn claim(quota: &Quota, until: tokio::time::Instant) {
    let mut claim = Claim::default();
    quota.claim_second(&mut claim, tokio::time::Instant::now()).unwrap();
    poll_once(quota.claim_day(&mut claim, until)).unwrap();
    poll_once(claim.record(until)).unwrap();
    claim.keep();
}

fn until_leased(quotas: &[Quota]) {
    while !quotas.iter().all(|quota| quota.day().is_leased()) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The first unit of each, so that marks are recorded.
fn activate(quotas: &[Quota]) {
    until_leased(quotas);
    for quota in quotas {
        poll_once(quota.claim_day(&mut Claim::default(), tokio::time::Instant::now())).unwrap();
    }
    until_leased(quotas);
}

/// CPU time of the thread so far.
fn cpu_time() -> Duration {
    let times = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

/// CPU time of so many claims.
fn claims<'a>(times: u64, mut next: impl FnMut() -> &'a Quota) -> Duration {
    let (before, until) = (cpu_time(), tokio::time::Instant::now() + Duration::from_secs(600));
    (0..times).for_each(|_| claim(next(), until));
    cpu_time() - before
}

/// Memory of the process, in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn counts(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let store = Store::open(folder.path()).unwrap();
        let ledger = runtime.block_on(Ledger::open(folder.path(), store.clone(), true)).unwrap();
        (store, ledger)
    };
    let (store, ledger) = open();
    // So large that no mark is short.
    let one = Arc::new(quota(&ledger, SERVICES, 1 << 50));
    while !one.day().is_leased() {
        thread::sleep(Duration::from_millis(1));
    }
    poll_once(one.claim_day(&mut Claim::default(), tokio::time::Instant::now())).unwrap();
    thread::sleep(Duration::from_millis(50));
    c.bench_function("quota: claim, record, keep", |b| b.iter_custom(|times| claims(times, || &one)));
    for threads in [2, 4] {
        c.bench_function(&format!("quota: claim, record, keep, {threads} threads"), |b| {
            b.iter_custom(|times| {
                thread::scope(|scope| {
                    let claimers: Vec<_> = (0..threads).map(|_| scope.spawn(|| claims(times, || &one))).collect();
                    claimers.into_iter().map(|one| one.join().unwrap()).sum::<Duration>() / threads
                })
            });
        });
    }
    let before = resident();
    let quotas: Vec<_> = (0..SERVICES).map(|name| quota(&ledger, name, 100_000)).collect();
    activate(&quotas);
    eprintln!("memory of a service: {} bytes", (resident() - before) / SERVICES);
    let large: Vec<_> = (SERVICES..2 * SERVICES).map(|name| quota(&ledger, name + 1, 1 << 50)).collect();
    activate(&large);
    let mut next = 0;
    c.bench_function("quota: claim, record, keep, one of 10,000 services", |b| {
        b.iter_custom(|times| {
            claims(times, || {
                next = (next + 7_919) % SERVICES;
                &large[next]
            })
        });
    });
    drop((quotas, large, one));
    runtime.block_on(ledger.close(LastCounts::default()));
    runtime.block_on(store.close());
    let began = Instant::now();
    let (_store, ledger) = open();
    let opened = began.elapsed();
    let quotas: Vec<_> = (0..SERVICES).map(|name| quota(&ledger, name, 100_000)).collect();
    until_leased(&quotas);
    eprintln!("start with {SERVICES} counters: {opened:?} to open, {:?} until all are leased", began.elapsed());
}

criterion_group! {
    name = benches;
    // The system updates the CPU time of a thread every few milliseconds: a shorter sample may measure none.
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(6));
    targets = counts
}
criterion_main!(benches);
