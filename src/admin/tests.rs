//! Tests of the admin port, over sockets of a running gateway.

mod guesses;
mod health;
mod keys;
mod never_shows;
mod orders;
mod pages;
mod reload;
mod roles;
mod rules;
mod server;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::{
    app::choose_crypto,
    config::{
        ClientAuth, ServerTlsConfig,
        check::{Environment, check},
    },
    connector::Connector,
    edge::{connection_limit::ConnectionLimit, heartbeat::Heartbeat, tls::TlsListeners},
    gateway::{Live, Revoked},
    keys::{Lease, Verdict},
    orders::{Archive, OrderStores, Orders},
    reconcile::Reconciler,
    record::{ExchangeLog, Metrics},
    rotation,
    warm::Warmer,
};

const TOKEN: &str = "canary-admin-token-5d1c";
const FASTRAC: (&str, &str) = ("canary-fastrac-access-77", "canary-fastrac-secret-99");
const SERVICE: (&str, &str) = ("svc-checkout-1", "canary-checkout-secret");

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The usual configuration; `admin` is the content of `[admin]`.
pub(super) fn configuration(admin: &str) -> String {
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
         [admin]\n{admin}\n\
         [log]\nexchanges = \"none\"\n\
         [accounts.main]\nbase_url = \"http://127.0.0.1:9\"\n\
         keys = {{ source = \"file\", path = \"keys.toml\" }}\nbudget = {{ per_second = 20, per_day = 100 }}\n\
         [services.checkout]\naccount = \"main\"\nquota = {{ per_second = 50, burst = 100, per_day = 400 }}\n\
         credentials = [{{ access_key = \"{}\", secret_sha256 = \"{}\" }}]\n",
        SERVICE.0,
        digest(SERVICE.1)
    )
}

fn with_token() -> String {
    format!("token_sha256 = \"{}\"\nhosts = [\"Gateway.Internal\"]", digest(TOKEN))
}

/// A gateway and its admin port, until it is dropped.
struct TestAdmin {
    address: SocketAddr,
    bound: SocketAddr,
    gateway: Arc<Gateway>,
    audit: Audit,
    drain: Drain,
    heartbeat: Heartbeat,
    store: Store,
    file: PathBuf,
    folder: tempfile::TempDir,
}

impl Drop for TestAdmin {
    fn drop(&mut self) {
        self.drain.stop_admin.cancel();
        self.drain.cut.cancel();
    }
}

/// How a [`TestAdmin`] differs from the usual one.
struct TestSettings {
    admin: String,
    /// What Fastrac says of every pair; `None`: there is no key file.
    verdict: Option<Verdict>,
    /// The address that it believes to be bound to.
    bound: IpAddr,
    /// Certificate and key of the admin port, PEM.
    tls: Option<(String, String)>,
    /// The account whose source is not read.
    unread: Option<&'static str>,
}

impl Default for TestSettings {
    fn default() -> Self {
        let bound = Ipv4Addr::LOCALHOST.into();
        TestSettings { admin: with_token(), verdict: Some(Verdict::Verified), bound, tls: None, unread: None }
    }
}

impl TestAdmin {
    #[allow(clippy::disallowed_methods, reason = "tasks of a test end with it")]
    async fn new(set: TestSettings) -> TestAdmin {
        choose_crypto();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        fs::write(&file, configuration(&set.admin)).unwrap();
        if set.verdict.is_some() {
            write_keys(folder.path(), FASTRAC.0, FASTRAC.1);
        }
        let environment = Environment { cores: 1, ..Environment::default() };
        let checked = check(&fs::read_to_string(&file).unwrap(), folder.path(), &environment);
        let config = checked.config.unwrap_or_else(|| panic!("{:?}", checked.errors));
        let (metrics, drain) = (Metrics::new().unwrap(), Drain::default());
        let log = ExchangeLog::open(&config.log, &metrics, &Arc::default()).unwrap();
        let store = Store::open(&config.state.dir).unwrap();
        let orders = Orders::open(
            OrderStores {
                journal: store.clone(),
                archive: Archive::open(&config.state.dir).unwrap(),
                dir: config.state.dir.clone(),
            },
            jiff::Timestamp::now(),
            &config.orders,
            config.limits.memory,
        )
        .await
        .unwrap();
        let revoked = Arc::new(Revoked::open(store.clone()).await.unwrap());
        let mut listen = config.listen.clone();
        listen.admin_tls = set.tls.map(|(cert, key)| {
            let file = |name: &str, text| {
                let file = folder.path().join(name);
                fs::write(&file, text).unwrap();
                file
            };
            let (cert, key) = (file("admin.crt", cert), file("admin.key", key));
            ServerTlsConfig { cert, key, client_ca: None, client_auth: ClientAuth::None }
        });
        let tls = Arc::new(TlsListeners::open(&listen, &metrics).unwrap());
        let admin_tls = tls.admin.clone();
        let live = Live {
            metrics,
            log,
            orders,
            revoked,
            spending: crate::spending::Spending::open(store.clone()).await.unwrap(),
            overrides: crate::gateway::Overrides::open(store.clone()).await.unwrap(),
            tls,
            connector: Connector::default(),
            counting: Default::default(),
            degraded: Arc::default(),
            snapshot_file: Arc::new(crate::cache::snapshot_file::SnapshotFile::new(folder.path())),
            tasks: drain.tasks.clone(),
            cut: drain.cut.clone(),
        };
        let audit = Audit::open(&config, live.degraded.clone()).unwrap();
        let (gateway, keepers) = Gateway::new(config, Some(file.clone()), live).unwrap();
        let verdict = set.verdict.unwrap_or(Verdict::Undecided);
        let canary = move |_: Lease| async move { verdict };
        let runtime = tokio::runtime::Handle::current();
        gateway.adopt_with(Box::new(move |keepers| {
            keepers.into_iter().for_each(|(_, keeper)| drop(runtime.spawn(rotation::keep(keeper, canary))));
        }));
        for (account, keeper) in keepers {
            if set.unread == Some(&account.name) {
                continue;
            }
            tokio::spawn(rotation::keep(keeper, canary));
            if set.verdict.is_some() {
                account.keys.rotate(false).await.unwrap();
            }
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let bound = SocketAddr::new(set.bound, address.port());
        let heartbeat = Heartbeat::new("data-0".to_owned());
        let stage = TestAdmin { address, bound, gateway, audit, drain, heartbeat, store, file, folder };
        let listener = AdminListener { socket: listener, inherited: false, tls: admin_tls };
        tokio::spawn(serve(listener, stage.admin()));
        stage
    }

    fn admin(&self) -> Admin {
        Admin {
            gateway: self.gateway.clone(),
            audit: self.audit.clone(),
            drain: self.drain.clone(),
            store: self.store.clone(),
            data: vec!["127.0.0.1:8080".parse().unwrap()],
            address: self.bound,
            connections: ConnectionLimit::new(100),
            heartbeats: vec![self.heartbeat.clone()],
            reconciler: Reconciler::new(&self.gateway, self.drain.clone()),
            warmer: Warmer::new(&self.gateway, self.drain.clone()).0,
        }
    }

    async fn usual() -> TestAdmin {
        TestAdmin::new(TestSettings::default()).await
    }

    /// Asks, with the right token.
    async fn get(&self, path: &str) -> TestResponse {
        self.ask(TestRequest::get(path).token(TOKEN)).await
    }

    async fn post(&self, path: &str, body: &str) -> TestResponse {
        self.ask(TestRequest::post(path).token(TOKEN).body(body)).await
    }

    async fn ask(&self, ask: TestRequest) -> TestResponse {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(ask.text(self.address).as_bytes()).await.unwrap();
        TestResponse::read(&mut socket).await
    }
}

fn write_keys(folder: &Path, access: &str, secret: &str) {
    let path = folder.join("keys.toml");
    fs::write(&path, {
        let pair = format!("access_key = \"{access}\"\nsecret_key = \"{secret}\"\n");
        // Two accounts with one pair.
        format!("[main]\n{pair}[other]\n{pair}")
    })
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A request.
struct TestRequest {
    method: &'static str,
    path: String,
    headers: String,
    host: Option<String>,
    body: String,
}

impl TestRequest {
    fn new(method: &'static str, path: &str) -> TestRequest {
        TestRequest { method, path: path.to_owned(), headers: String::new(), host: None, body: String::new() }
    }

    fn get(path: &str) -> TestRequest {
        TestRequest::new("GET", path)
    }

    fn post(path: &str) -> TestRequest {
        TestRequest::new("POST", path)
    }

    fn token(self, token: &str) -> TestRequest {
        self.header("authorization", &format!("Bearer {token}"))
    }

    fn header(mut self, name: &str, value: &str) -> TestRequest {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    fn host(mut self, host: &str) -> TestRequest {
        self.host = Some(host.to_owned());
        self
    }

    fn body(mut self, body: &str) -> TestRequest {
        self.body = body.to_owned();
        self
    }

    fn text(&self, address: SocketAddr) -> String {
        let TestRequest { method, path, headers, host, body } = self;
        let host = match host.as_deref() {
            None => format!("host: {address}\r\n"),
            Some("") => String::new(),
            Some(host) => format!("host: {host}\r\n"),
        };
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }
}

/// An answer.
#[derive(Debug)]
struct TestResponse {
    status: u16,
    /// As it came, lower case.
    head: String,
    body: String,
}

impl TestResponse {
    async fn read<S: tokio::io::AsyncRead + Unpin>(socket: &mut S) -> TestResponse {
        let mut bytes = Vec::new();
        // What came before a reset counts.
        let _ = socket.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head[9..12].parse().unwrap();
        TestResponse { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}
