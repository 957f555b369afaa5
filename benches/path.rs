//! Time of the path without network I/O, for a cache hit and for a refusal.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::{hint::black_box, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use fastrac_gateway::{
    cache::{
        CacheEntry, Key, KeyParts, Lifetimes, NewEntry, OperationLifetimes, ReceivedAt, snapshot_file::SnapshotFile,
    },
    config::check::{Environment, check},
    connector::Connector,
    edge::Drain,
    gateway::{Gateway, Live, Overrides, Revoked},
    orders::{Archive, OrderStores, Orders},
    outcome::Outcome,
    path::{self, Arrival, ConnectionClose},
    record::{ExchangeLog, Metrics},
    snapshot::{Snapshot, Worker},
    spending::Spending,
    store::Store,
};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{runtime::Runtime, time::Instant};

fn gateway(runtime: &Runtime, folder: &Path) -> Arc<Gateway> {
    let mut config = check(include_str!("gateway.toml"), folder, &Environment::default()).config.unwrap();
    config.log.exchanges = fastrac_gateway::config::LogTarget::File(folder.join("exchanges.jsonl"));
    let metrics = Metrics::new().unwrap();
    let log = ExchangeLog::open(&config.log, &metrics, &Arc::default()).unwrap();
    let store = Store::open(&folder.join("state")).unwrap();
    let archive = Archive::open(&folder.join("state")).unwrap();
    let stores = OrderStores { journal: store.clone(), archive, dir: folder.join("state") };
    let orders =
        runtime.block_on(Orders::open(stores, jiff::Timestamp::now(), &config.orders, config.limits.memory)).unwrap();
    let revoked = Arc::new(runtime.block_on(Revoked::open(store.clone())).unwrap());
    let live = Live {
        metrics,
        log,
        orders,
        revoked,
        spending: runtime.block_on(Spending::open(store.clone())).unwrap(),
        overrides: runtime.block_on(Overrides::open(store)).unwrap(),
        tls: Arc::default(),
        connector: Connector::default(),
        counting: Default::default(),
        degraded: Arc::default(),
        snapshot_file: Arc::new(SnapshotFile::new(folder)),
        tasks: Drain::default().tasks,
        cut: Drain::default().cut,
    };
    Gateway::new(config, None, live).unwrap().0
}

fn store(snapshot: &Snapshot) {
    let parts = KeyParts {
        account: "main",
        address: &snapshot.accounts[0].v2.url,
        operation: "v2.city",
        service: None,
        method: "GET",
        path: "/region/city",
        query: Some("province_id=31"),
        vary: &[],
        body: b"",
    };
    let entry = NewEntry {
        status: StatusCode::OK,
        headers: HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]),
        body: Bytes::from(vec![b'x'; 1536]),
        outcome: Outcome::Ok,
        operation: OperationLifetimes::fixed("v2.city", Lifetimes::only_fresh(Duration::from_secs(86400))),
        stored_from: HeaderValue::from_static("0193aaaa-1111"),
        received: ReceivedAt::now(),
    };
    let entry = CacheEntry::shared(entry);
    snapshot.cache.keep(Key::new(parts).unwrap(), Arc::new(entry), snapshot.cache.generation());
}

fn request(secret: &'static str) -> Request<Full<Bytes>> {
    Request::get("/region/city?province_id=31")
        .header("host", "127.0.0.1:8080")
        .header("user-agent", "checkout/1.0")
        .header("accept", "*/*")
        .header("access-key", "svc-checkout-1")
        .header("secret-key", secret)
        .body(Full::default())
        .unwrap()
}

fn policy(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let gateway = gateway(&runtime, folder.path());
    let (snapshot, worker) = (gateway.current.load_full(), Arc::new(Worker::default()));
    store(&snapshot);
    let serve = |secret, status: u16| {
        let arrival =
            Arrival { began: Instant::now(), close: ConnectionClose::Never, client: Default::default(), guard: () };
        let (snapshot, worker) = (snapshot.clone(), worker.clone());
        runtime.block_on(async {
            let answer = path::serve(snapshot, worker, request(secret), arrival).await.unwrap();
            assert_eq!(answer.status(), status);
            black_box(answer.into_body().collect().await.unwrap())
        })
    };
    c.bench_function("path of a hit", |b| b.iter(|| serve("fgw_bench", 200)));
    c.bench_function("path of a refusal (401)", |b| b.iter(|| serve("wrong", 401)));
    gateway.live.log.close(std::time::Duration::from_secs(5));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(3));
    targets = policy
}
criterion_main!(benches);
