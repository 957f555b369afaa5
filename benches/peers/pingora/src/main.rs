//! A small proxy on Pingora for benches/peers: what one would write with it for the same two rows.
//!
//! Gateway row: the caller's pair is looked up and mapped to a service, a limiter counts it, the
//! account's pair takes its place. Cache row: Pingora's own cache in memory and nothing else. No log
//! line, no metrics, no budget, no classifier. One worker thread. Its one argument is a file of
//! `key = value` lines; it ends within a second of TERM.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use pingora_cache::cache_control::CacheControl;
use pingora_cache::eviction::simple_lru;
use pingora_cache::filters::{request_cacheable, resp_cacheable};
use pingora_cache::lock::CacheLock;
use pingora_cache::{CacheKey, CacheMetaDefaults, MemCache, RespCacheable};
use pingora_core::Result;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_limits::rate::Rate;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

/// On and counted, and too large to be reached, as at every peer.
const PER_SECOND: isize = 1_000_000;

static STORED: LazyLock<MemCache> = LazyLock::new(MemCache::new);
static EVICTION: LazyLock<simple_lru::Manager> = LazyLock::new(|| simple_lru::Manager::new(64 << 20));
static FLIGHTS: LazyLock<Box<CacheLock>> = LazyLock::new(|| CacheLock::new_boxed(Duration::from_secs(5)));
/// Nothing is stored by default: the upstream's `Cache-Control` decides.
const FRESHNESS: CacheMetaDefaults = CacheMetaDefaults::new(|_| None, 0, 0);

/// The file's `key = value` lines.
struct Words(HashMap<String, String>);

impl Words {
    fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(path).expect("a readable file");
        let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        Self(lines.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect())
    }

    fn get(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("no {key} in the file"))
    }
}

struct Proxy {
    /// Whether this is the cache row.
    caches: bool,
    upstream: SocketAddr,
    /// `access:secret` → the service.
    services: HashMap<Vec<u8>, String>,
    requests: Rate,
    access: HeaderValue,
    secret: HeaderValue,
}

impl Proxy {
    fn new(words: &Words) -> Self {
        let value = |key| HeaderValue::from_str(words.get(key)).expect("a header's value");
        let services = [("caller", "checkout"), ("other", "warehouse")];
        Self {
            caches: words.get("row") == "cache",
            upstream: words.get("upstream").parse().expect("an address"),
            services: services.map(|(key, name)| (words.get(key).into(), name.to_owned())).into(),
            requests: Rate::new(Duration::from_secs(1)),
            access: value("fastrac_access"),
            secret: value("fastrac_secret"),
        }
    }

    fn service(&self, request: &RequestHeader) -> Option<&str> {
        let mut pair = request.headers.get("access-key")?.as_bytes().to_vec();
        pair.push(b':');
        pair.extend_from_slice(request.headers.get("secret-key")?.as_bytes());
        self.services.get(&pair).map(String::as_str)
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, _ctx: &mut ()) -> Result<bool> {
        if self.caches {
            return Ok(false);
        }
        let refused = match self.service(session.req_header()) {
            None => 401,
            Some(service) if self.requests.observe(&service, 1) > PER_SECOND => 429,
            Some(_) => return Ok(false),
        };
        session.respond_error(refused).await?;
        Ok(true)
    }

    fn request_cache_filter(&self, session: &mut Session, _ctx: &mut ()) -> Result<()> {
        if self.caches && request_cacheable(session.req_header()) {
            session.cache.enable(&*STORED, Some(&*EVICTION), None, Some(&**FLIGHTS), None);
        }
        Ok(())
    }

    fn cache_key_callback(&self, session: &Session, _ctx: &mut ()) -> Result<CacheKey> {
        let request = session.req_header();
        Ok(CacheKey::new(format!("{} {}", request.method, request.uri), ""))
    }

    fn response_cache_filter(
        &self,
        _session: &Session,
        answer: &ResponseHeader,
        _ctx: &mut (),
    ) -> Result<RespCacheable> {
        Ok(resp_cacheable(CacheControl::from_resp_headers(answer).as_ref(), answer.clone(), false, &FRESHNESS))
    }

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        _ctx: &mut (),
    ) -> Result<()> {
        request.remove_header("authorization");
        request.insert_header("host", "b2b-api.example")?;
        request.insert_header("access-key", self.access.clone())?;
        request.insert_header("secret-key", self.secret.clone())
    }
}

fn main() {
    let argument = std::env::args().nth(1).expect("usage: fastrac-bench-pingora FILE | --version");
    if argument == "--version" {
        return println!("Pingora {}", env!("CARGO_PKG_VERSION"));
    }
    let words = Words::read(&argument);
    let settings = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: 256,
        // without these a TERM takes five minutes
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Proxy::new(&words));
    service.add_tcp(words.get("listen"));
    server.add_service(service);
    server.run_forever();
}
