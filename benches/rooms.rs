//! Time of the pure rooms: identification, routing, cache key, envelope classifier, rewrite.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::{hint::black_box, path::Path, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use fastrac_gateway::{
    body::BufferedRequest,
    cache::{Key, KeyParts},
    caller::Callers,
    catalog::Catalog,
    config::{
        AuthStyle, Config, Endpoint, MessagesConfig,
        check::{Environment, check},
    },
    outcome,
    upstream::rewrite,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, uri::PathAndQuery};

fn config() -> Config {
    check(include_str!("gateway.toml"), Path::new("/tmp"), &Environment::default()).config.unwrap()
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "127.0.0.1:8080"),
        ("user-agent", "checkout/1.0"),
        ("accept", "*/*"),
        ("content-type", "application/json"),
        ("access-key", "svc-checkout-1"),
        ("secret-key", "fgw_bench"),
        ("x-request-id", "0193aaaa-1111"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

/// A response body of about 1,500 bytes, as in `benches/peers`.
fn answer() -> String {
    let mut text = String::from(r#"{"success":true,"message":"","data":["#);
    let mut id = 1101;
    while text.len() < 1480 {
        text.push_str(&format!(r#"{{"city_id":{id},"name":"KABUPATEN CONTOH","province_id":11}},"#));
        id += 1;
    }
    text.pop();
    text.push_str("]}");
    text
}

fn rooms(c: &mut Criterion) {
    let config = config();
    let (callers, catalog) = (Callers::new(&config.services, None), Catalog::new(&config));
    let headers = headers();
    c.bench_function("caller.identify", |b| {
        b.iter(|| callers.identify(black_box(&headers), &Default::default(), std::time::SystemTime::now()).unwrap())
    });
    c.bench_function("catalog.classify listed", |b| {
        b.iter(|| catalog.classify(&Method::GET, black_box("/region/city")).unwrap().index)
    });
    c.bench_function("catalog.classify unlisted", |b| {
        b.iter(|| catalog.classify(&Method::GET, black_box("/no/such/path")).unwrap().index)
    });
    let key = |query, body| {
        Key::new(KeyParts {
            account: "main",
            address: "",
            operation: "v2.city",
            service: None,
            method: "GET",
            path: "/region/city",
            query,
            vary: &[],
            body,
        })
    };
    c.bench_function("cache.key query", |b| b.iter(|| key(black_box(Some("province_id=31")), b"")));
    let search = br#"{"keyword": "kemayoran", "limit": 10, "offset": 0}"#;
    c.bench_function("cache.key body", |b| b.iter(|| key(None, black_box(&search[..]))));
    let (answer, messages) = (answer(), MessagesConfig { not_found: vec![], key: vec![], limit: vec![] });
    c.bench_function("outcome.classify 1.5 KB", |b| {
        b.iter(|| outcome::classify(StatusCode::OK, black_box(answer.as_bytes()), &messages))
    });
    let endpoint = Endpoint {
        tls: true,
        host: "b2b.example".into(),
        port: 443,
        authority: "b2b.example".into(),
        prefix: String::new(),
        auth: AuthStyle::Both,
    };
    let operation = catalog.classify(&Method::POST, "/tariff/express").unwrap().clone();
    let target = PathAndQuery::from_static("/tariff/express");
    let request = BufferedRequest { method: Method::POST, target, headers, body: "{}".into() };
    c.bench_function("upstream.rewrite", |b| b.iter(|| rewrite::request(black_box(&request), &operation, &endpoint)));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(2));
    targets = rooms
}
criterion_main!(benches);
