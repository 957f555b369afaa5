//! Time of the record of one request, from `open` until its log line is queued. `cpu` is the CPU time of the whole
//! process, so it includes the thread that writes the line.
//!
//! Target: the record of a hit takes less than 2 µs of CPU, including its line.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::{
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use criterion::{Criterion, criterion_group, criterion_main};
use fastrac_gateway::{
    config::{Class, LogBodies, LogConfig, LogTarget, OnFull},
    outcome::{Outcome, Sent},
    record::{CacheResult, CapturedBody, ExchangeLog, Masker, Metrics, Names, Recorder, RequestId},
};
use http::{HeaderValue, Method, Uri};
use tokio_util::sync::CancellationToken;

fn recorder(exchanges: LogTarget) -> (Arc<Recorder>, ExchangeLog, Arc<Metrics>) {
    let config = LogConfig {
        exchanges,
        bodies: LogBodies::Masked,
        keep_size: 1 << 30,
        keep_days: 30,
        queue: 128 << 20,
        on_full: OnFull::Drop,
        mask: Vec::new(),
    };
    let metrics = Metrics::new().unwrap();
    let log = ExchangeLog::open(&config, &metrics, &Arc::default()).unwrap();
    let names = Names {
        accounts: vec!["main".into()],
        services: vec![("checkout".into(), 0)],
        operations: vec![("v2.city".into(), Class::Lookup), ("unlisted".into(), Class::Unlisted)],
    };
    let masker = Arc::new(Masker::new(config.bodies, &config.mask));
    (Recorder::new(Arc::clone(&metrics), log.clone(), masker, names, CancellationToken::new()), log, metrics)
}

/// The input of a record; cheap to clone, so that its cost does not distort the measurement.
struct Request {
    id: RequestId,
    uri: Uri,
    from: HeaderValue,
}

fn request() -> Request {
    Request {
        id: RequestId::generate(SystemTime::now()),
        uri: "/region/city?province_id=31".parse().unwrap(),
        from: HeaderValue::from_static("0193-first"),
    }
}

fn hit(recorder: &Arc<Recorder>, request: &Request) {
    let mut record = recorder.open(Some(request.id.clone()), Method::GET, request.uri.clone());
    record.identified(0);
    record.operation = Some(0);
    record.status = Some(200);
    record.outcome = Outcome::Hit;
    record.cache = Some(CacheResult::Hit);
    record.stored_from = Some(request.from.clone());
    drop(black_box(record));
}

/// CPU time of all threads of this process, in ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}

fn hits(c: &mut Criterion) {
    let request = request();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| LogTarget::File(Path::new(folder.path()).join(name));
    let mut group = c.benchmark_group("hit");
    let (recorder_, log, _) = recorder(file("a.jsonl"));
    group.bench_function("path", |b| b.iter(|| hit(&recorder_, &request)));
    log.close(Duration::from_secs(5));
    let (recorder_, ..) = recorder(LogTarget::None);
    group.bench_function("metrics only", |b| b.iter(|| hit(&recorder_, &request)));
    let (recorder_, log, metrics) = recorder(file("b.jsonl"));
    group.sample_size(10);
    group.bench_function("cpu", |b| {
        b.iter_custom(|times| {
            // Many rounds, because the clock has a resolution of 10 ms; with pauses, so that the writer keeps up.
            let rounds = (200_000 / times).max(1);
            let began = cpu();
            for index in 0..times * rounds {
                hit(&recorder_, &request);
                if index % 1024 == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            (cpu() - began) / u32::try_from(rounds).unwrap()
        })
    });
    log.close(Duration::from_secs(5));
    // If the writer did not keep up on a busy machine, lines were dropped and the figure is too low.
    if let Some(dropped) = metrics.text().lines().find(|line| line.contains("result=\"dropped\"")) {
        eprintln!("not all lines were written: {dropped}");
    }
    group.finish();
}

const ANSWER: &str = r#"{"city_id":3171,"name":"KOTA ADM. JAKARTA PUSAT","province_id":31},"#;

fn masking(c: &mut Criterion) {
    let masker = Masker::new(LogBodies::Masked, &[]);
    let rows = ANSWER.repeat(21);
    let answer = format!(r#"{{"success":true,"message":"","data":[{}]}}"#, rows.trim_end_matches(','));
    let mut out = Vec::with_capacity(4096);
    let mut group = c.benchmark_group("mask");
    group.throughput(criterion::Throughput::Bytes(answer.len() as u64));
    group.bench_function("answer of 21 cities", |b| {
        b.iter(|| {
            out.clear();
            masker.body(&mut out, black_box(answer.as_bytes()))
        })
    });
    group.finish();

    let (recorder_, log, _) = recorder(LogTarget::File(tempfile::tempdir().unwrap().path().join("c.jsonl")));
    let (request, body) = (request(), bytes::Bytes::from(answer));
    c.bench_function("miss, answer of 21 cities in its line", |b| {
        b.iter(|| {
            let mut record = recorder_.open(Some(request.id.clone()), Method::GET, request.uri.clone());
            record.identified(0);
            record.operation = Some(0);
            record.status = Some(200);
            record.outcome = Outcome::Ok;
            record.sent = Sent::Yes;
            record.attempts = 1;
            record.answer_body = CapturedBody::whole(body.clone());
            drop(black_box(record));
        })
    });
    log.close(Duration::from_secs(5));
}

criterion_group!(benches, hits, masking);
criterion_main!(benches);
