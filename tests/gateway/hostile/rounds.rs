//! A hundred rounds of the whole corpus against the real binary: memory and files do not grow, nothing is logged at error
//! level, and Fastrac receives in every round exactly what the corpus says.
//!
//! Takes a minute or two, so it is ignored by default and has its own step in `tests/run` (`hostile`).

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    LIMITS,
    corpus::{self, Case},
    h2::{self, Attack},
    recorder::Recorder,
    runner::{AGAIN, Runner},
};
use crate::{
    process::Program,
    test_gateway::{ACCESS, SECRET, digest_of, until},
};

/// Rounds before the first measurement of memory: buffers, pools and the allocator's arenas are filled by then.
const WARM: usize = 10;
const ROUNDS: usize = 100;
/// Number of cases that run at the same time: most of them wait for a timeout.
const AT_ONCE: usize = 96;
/// Allowed growth of memory from round 10 to round 100, in bytes.
const GROWTH: u64 = 8 * 1024 * 1024;

/// Resident memory, in bytes.
fn resident(program: &Program) -> u64 {
    let status = fs::read_to_string(program.proc("status")).expect("running");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn open_files(program: &Program) -> usize {
    fs::read_dir(program.proc("fd")).expect("running").count()
}

fn configuration(fastrac: SocketAddr) -> String {
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 2\n[limits]\n{LIMITS}\n\
         [accounts.main]\nbase_url = \"http://{fastrac}\"\nkeys = {{ source = \"file\", path = \"keys.toml\" }}\n\
         budget = {{ per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 512 }}\n\
         breaker = {{ minimum = 100000 }}\n\
         [services.shop]\naccount = \"main\"\n\
         allow = [\"lookup\", \"read\", \"quote\", \"order\", \"account\", \"unlisted\"]\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        digest_of("shop")
    )
}

/// One case or attack.
enum Bytes {
    Case(Case),
    Frames(Attack),
}

/// Runs everything this many times, many at once.
fn rounds(all: &Arc<Vec<Bytes>>, count: usize, program: SocketAddr) {
    let next = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (all, next) = (all.clone(), next.clone());
            thread::spawn(move || {
                let runner = Runner { addr: program, read_timeout: Duration::from_secs(20), auth: super::auth() };
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= all.len() * count {
                        return;
                    }
                    let (round, at) = (at / all.len(), at % all.len());
                    match &all[at] {
                        // Floods cost more than everything else, so they run in one round of ten.
                        Bytes::Frames(attack) if attack.name.starts_with("h2/flood") && round % WARM != 0 => {}
                        Bytes::Case(case) => drop(runner.run(case)),
                        Bytes::Frames(attack) => drop(h2::perform(program, attack)),
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// The requests that Fastrac received, counted by method and target.
fn counted(recorder: &Recorder) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for received in recorder.take() {
        let request = received.unwrap_or_else(|why| panic!("forwarded: {why}"));
        // A case that announced a byte or two more than it sent may take them from the request that follows it
        // if that arrives before the refusal closes the connection, as RFC 9112 requires.
        let bitten = request.target == AGAIN.as_bytes() && request.method != "GET";
        if request.target != h2::PROBED.as_bytes() && !bitten {
            *counts.entry((request.method, request.target.escape_ascii().to_string())).or_default() += 1;
        }
    }
    counts
}

#[test]
#[ignore = "takes a minute: `tests/run hostile`"]
fn a_hundred_rounds_leave_nothing_behind() {
    let recorder = Recorder::start("127.0.0.1:0");
    let program = Program::start(&configuration(recorder.addr), ACCESS, SECRET);
    until("the canary lookup", || recorder.count() > 0);
    recorder.take();
    let all: Vec<Bytes> =
        corpus::all().into_iter().map(Bytes::Case).chain(h2::attacks().into_iter().map(Bytes::Frames)).collect();
    let all = Arc::new(all);
    let began = Instant::now();

    rounds(&all, 1, program.data);
    let once = counted(&recorder);
    rounds(&all, WARM - 1, program.data);
    recorder.take();
    let (files, memory) = settled(&program);
    let mut worst = BTreeMap::new();
    for round in 1..=(ROUNDS - WARM) / WARM {
        rounds(&all, WARM, program.data);
        let received = counted(&recorder);
        let expected: BTreeMap<_, _> = once.iter().map(|(what, count)| (what.clone(), count * WARM)).collect();
        for (what, count) in received {
            if expected.get(&what) != Some(&count) {
                worst.insert(what.clone(), (round, count, expected.get(&what).copied()));
            }
        }
    }
    let after = settled(&program);
    println!(
        "{} byte streams, {ROUNDS} rounds, {:?}; {} -> {} KiB, {files} -> {} files",
        all.len(),
        began.elapsed(),
        memory / 1024,
        after.1 / 1024,
        after.0
    );
    assert!(worst.is_empty(), "round, received, expected: {worst:?}");
    assert!(after.1 <= memory + GROWTH, "{memory} -> {} bytes", after.1);
    assert!(after.0 <= files, "{files} -> {} files", after.0);
    let stderr_lines = program.stderr_lines.lock().expect("whole");
    let errors: Vec<&String> =
        stderr_lines.iter().filter(|line| line.contains("ERROR") || line.contains("panicked")).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

/// Open files and memory after all connections have closed: those to Fastrac stay idle for at most 4 s.
fn settled(program: &Program) -> (usize, u64) {
    let mut files = open_files(program);
    let deadline = Instant::now() + Duration::from_secs(8);
    while Instant::now() < deadline {
        thread::sleep(Duration::from_millis(200));
        files = files.min(open_files(program));
    }
    (files, resident(program))
}
