//! A gateway under test: the real program in front of a sandbox, with services, and canaries in all secrets.
//!
//! When a `TestGateway` is dropped, it has checked that there is no canary in any response, in
//! the exchange log, in the metrics or in the program's log, no header of a caller in what Fastrac
//! received, and no panic in a thread of the gateway.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, Once},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fastrac_gateway::{
    app::{App, AppError, choose_crypto},
    config::{
        Config,
        check::{Environment, check},
    },
    connector::Connector,
};
use fastrac_sandbox::{Clock, Entry, KeyPair, Options, Sandbox};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpSocket;

use crate::{
    client::{Connection, Request, Response},
    passes_responses_unchanged::Certificates,
};

/// The account's key pair, which only the gateway and the sandbox know.
pub(crate) const ACCESS: &str = "canary-fastrac-access-7d1c";
/// Contains characters that JSON and percent-encoding can write in several ways.
pub(crate) const SECRET: &str = "canary/fastrac+secret=93f0a2";
/// Prefix of every caller's secret.
const CALLER: &str = "fgw_canary_";

/// The time at which the clocks of sandboxes start and stay.
const NOW: i64 = 1_767_323_045_678;

/// File name of the configuration.
const CONFIG: &str = "gateway.toml";

/// The secret of a service.
pub(crate) fn secret_of(service: &str) -> String {
    format!("{CALLER}{service}")
}

/// SHA-256 of that secret in hexadecimal, as in the configuration.
pub(crate) fn digest_of(service: &str) -> String {
    hex::encode(Sha256::digest(secret_of(service)))
}

/// The first canary found in these bytes.
pub(crate) fn canary_in(bytes: &[u8]) -> Option<&'static str> {
    static BASIC: std::sync::OnceLock<&'static str> = std::sync::OnceLock::new();
    let basic = BASIC.get_or_init(|| Box::leak(STANDARD.encode(format!("{ACCESS}:{SECRET}")).into_boxed_str()));
    [ACCESS, SECRET, CALLER, basic].into_iter().find(|canary| memchr::memmem::find(bytes, canary.as_bytes()).is_some())
}

/// How to set up a gateway. Texts are lines of the configuration.
pub(crate) struct Setup {
    /// In `[listen]`.
    pub(crate) listen: &'static str,
    /// `limits.drain_grace` and `limits.drain`.
    pub(crate) drain: (&'static str, &'static str),
    /// In `[limits]`.
    pub(crate) limits: &'static str,
    /// In `[log]`.
    pub(crate) log: &'static str,
    /// In `[accounts.main]`.
    pub(crate) account: &'static str,
    /// `accounts.main.budget`.
    pub(crate) budget: &'static str,
    /// `accounts.main.breaker`.
    pub(crate) breaker: &'static str,
    /// Further services beside `shop` (may do everything) and `clerk` (looks up only).
    pub(crate) services: &'static [(&'static str, &'static str)],
    /// Further tables, such as `[operations."v2.city"]`.
    pub(crate) more: &'static str,
    /// Files to write beside the configuration, by name.
    pub(crate) files: Vec<(&'static str, String)>,
    /// The simulated Fastrac.
    pub(crate) sandbox: Options,
    /// Opens the gateway's connections.
    pub(crate) connector: Connector,
    /// `base_url` of the account; `None` for the sandbox's address.
    pub(crate) base_url: Option<String>,
    /// Whether to wait until the key pair is verified.
    pub(crate) wait: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            listen: "",
            drain: ("0s", "10s"),
            limits: "",
            log: "",
            account: "",
            // A limit response of Fastrac pauses the account for a second: requests wait for its end.
            budget: "per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 512, max_wait = \"3s\"",
            breaker: "minimum = 100000",
            services: &[],
            more: "",
            files: Vec::new(),
            sandbox: sandbox(),
            connector: Connector::default(),
            base_url: None,
            wait: true,
        }
    }
}

/// A sandbox that accepts the gateway's key pair and whose clock does not advance.
pub(crate) fn sandbox() -> Options {
    let keys = vec![KeyPair::new("gateway", ACCESS, SECRET)];
    Options { keys, clock: Clock::stepped_at(NOW), ..Options::default() }
}

/// A sandbox with the same state as the gateway's, for direct requests.
pub(crate) fn twin() -> Options {
    Options { keys: vec![KeyPair::new("direct", TWIN.0, TWIN.1)], ..sandbox() }
}

/// The key pair of the twin.
pub(crate) const TWIN: (&str, &str) = ("twin-access", "twin-secret");

/// A running gateway with its sandbox.
pub(crate) struct TestGateway {
    pub(crate) sandbox: Sandbox,
    app: Option<App>,
    pub(crate) data: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    text: String,
    /// Number of requests that the sandbox received before the test began.
    before: u64,
}

impl Setup {
    /// A gateway whose data address uses TLS.
    pub(crate) fn with_tls(certificates: &Certificates) -> Setup {
        Setup {
            listen: "tls = { cert = \"tls.crt\", key = \"tls.key\" }",
            files: vec![("tls.crt", certificates.cert.clone()), ("tls.key", certificates.key.clone())],
            ..Setup::default()
        }
    }

    pub(crate) fn start(self) -> TestGateway {
        capture_log_and_panics();
        choose_crypto();
        let sandbox = Sandbox::start(self.sandbox.clone()).expect("a sandbox");
        let folder = tempfile::tempdir().expect("a folder");
        write(&folder.path().join("keys.toml"), &pair(ACCESS, SECRET));
        let base_url = self.base_url.clone().unwrap_or_else(|| format!("http://{}", sandbox.addr()));
        for (name, text) in &self.files {
            write(&folder.path().join(name), text);
        }
        let text = self.text(&base_url);
        write(&folder.path().join(CONFIG), &text);
        let config = config(&text, folder.path());
        let app = App::start_with(config, Some(folder.path().join(CONFIG)), self.connector).expect("started");
        let data = app.data[0];
        let mut gateway = TestGateway { sandbox, app: Some(app), data, folder, text, before: 0 };
        if self.wait {
            gateway.verified();
        }
        gateway
    }

    fn text(&self, base_url: &str) -> String {
        let Setup { listen, limits, log, account, budget, breaker, more, .. } = self;
        let mut text = format!(
            "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 2\n{listen}\n\
             [limits]\ndrain_grace = \"{}\"\ndrain = \"{}\"\n{limits}\n\
             [log]\n{log}\n\
             [accounts.main]\nbase_url = \"{base_url}\"\nkeys = {{ source = \"file\", path = \"keys.toml\" }}\n\
             budget = {{ {budget} }}\nbreaker = {{ {breaker} }}\n{account}\n",
            self.drain.0, self.drain.1
        );
        let all = ("shop", "allow = [\"lookup\", \"read\", \"quote\", \"order\", \"account\", \"unlisted\"]");
        let clerk = ("clerk", "allow = [\"lookup\"]");
        for (name, lines) in [all, clerk].iter().chain(self.services) {
            let digest = digest_of(name);
            text.push_str(&format!(
                "[services.{name}]\naccount = \"main\"\n\
                 credentials = [{{ access_key = \"svc-{name}-1\", secret_sha256 = \"{digest}\" }}]\n{lines}\n"
            ));
        }
        text.push_str(more);
        text
    }
}

/// The text of a key file.
pub(crate) fn pair(access: &str, secret: &str) -> String {
    format!("[main]\naccess_key = \"{access}\"\nsecret_key = \"{secret}\"\n")
}

/// Writes a file with mode 0600 and puts it in place atomically.
pub(crate) fn write(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    fs::write(&beside, text).expect("written");
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).expect("set");
    fs::rename(beside, file).expect("moved");
}

fn config(text: &str, folder: &Path) -> Config {
    let checked = check(text, folder, &Environment::default());
    checked.config.unwrap_or_else(|| panic!("faults: {:?}", checked.errors))
}

impl TestGateway {
    pub(crate) fn new() -> TestGateway {
        Setup::default().start()
    }

    pub(crate) fn app(&self) -> &App {
        self.app.as_ref().expect("running")
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.data)
    }

    /// Sends a request on a connection of its own.
    pub(crate) fn send(&self, request: Request) -> Response {
        self.connect().send(&request)
    }

    /// Waits until no account is paused because Fastrac has throttled a request.
    pub(crate) fn wait_for_pauses(&self) {
        let paused = || {
            let snapshot = self.app().gateway.current.load();
            snapshot.accounts.iter().any(|account| !account.budget.usage().paused_for.is_zero())
        };
        until("the pause after a limit response to end", || !paused());
    }

    /// Fetches a page of the admin port.
    pub(crate) fn admin(&self, page: &str) -> Response {
        Connection::open(self.app().admin).send(&crate::client::get(page).header("host", "localhost"))
    }

    /// Requests that Fastrac received since the test began.
    pub(crate) fn received(&self) -> Vec<Entry> {
        self.sandbox.journal().into_iter().filter(|entry| entry.seq > self.before).collect()
    }

    /// Sum of the series of a family that have all these labels.
    pub(crate) fn metric(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.app().gateway.live.metrics.text(), family, labels)
    }

    /// Waits for exactly this many request lines in the exchange log.
    pub(crate) fn lines(&self, count: usize) -> Vec<serde_json::Value> {
        let mut lines = Vec::new();
        until(&format!("{count} lines in the log"), || {
            lines = self.log();
            lines.len() >= count
        });
        assert_eq!(lines.len(), count, "lines in the log");
        lines
    }

    /// Waits for the line of a request.
    pub(crate) fn line(&self, request_id: &str) -> serde_json::Value {
        let mut found = None;
        until("the request's line", || {
            found = self.log().into_iter().find(|line| line["request_id"] == request_id);
            found.is_some()
        });
        found.expect("a line")
    }

    /// The request lines that are in the exchange log now: those of services, then those of unknown callers.
    pub(crate) fn log(&self) -> Vec<serde_json::Value> {
        let unidentified = self.log_file().with_file_name("unidentified.jsonl");
        let mut lines = request_lines(&self.log_file());
        lines.extend(request_lines(&unidentified));
        lines
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.folder.path().join("state/exchanges.jsonl")
    }

    /// Starts another gateway on the same folder.
    pub(crate) fn second(&self) -> Result<App, AppError> {
        self.second_with(|_| {})
    }

    /// The same, with a change that no configuration file can express.
    pub(crate) fn second_with(&self, change: impl FnOnce(&mut Config)) -> Result<App, AppError> {
        let mut config = config(&self.text, self.folder.path());
        change(&mut config);
        App::start(config, Some(self.folder.path().join(CONFIG)))
    }

    /// The configuration text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Changes the configuration text; the next reload writes it.
    pub(crate) fn rewrite(&mut self, from: &str, to: &str) {
        assert!(self.text.contains(from), "{from} is not in {}", self.text);
        self.text = self.text.replace(from, to);
    }

    /// Changes the configuration file and reloads it.
    pub(crate) fn reload(&mut self, from: &str, to: &str) {
        self.rewrite(from, to);
        write(&self.folder.path().join(CONFIG), &self.text);
        self.app().gateway.reload().expect("reloaded");
    }

    /// Takes the gateway out, so that the test can stop it.
    pub(crate) fn take_app(&mut self) -> App {
        self.app.take().expect("running")
    }

    /// Sets the gateway that is under test.
    pub(crate) fn put_app(&mut self, app: App) {
        self.data = app.data[0];
        self.app = Some(app);
    }

    /// Stops the gateway and starts it again on the same folder.
    pub(crate) fn restart(&mut self) {
        self.restart_with(|_| {});
    }

    /// The same, with a change that no configuration file can express.
    pub(crate) fn restart_with(&mut self, change: impl FnOnce(&mut Config)) {
        self.take_app().stop();
        self.before = self.sandbox.counters().requests;
        let app = self.second_with(change).expect("started again");
        self.put_app(app);
        self.verified();
    }

    /// Waits until the canary lookup after a start is over; all later requests are the test's own.
    fn verified(&mut self) {
        let before = self.before;
        until("the key pair is verified", || {
            let canary = self.sandbox.journal().into_iter().find(|entry| entry.seq > before);
            self.app().gateway.was_ready() && canary.is_some_and(|entry| entry.status.is_some())
        });
        self.before = self.sandbox.counters().requests;
    }

    fn check_no_leaks(&self) {
        for file in fs::read_dir(self.folder.path().join("state")).expect("a folder") {
            let path = file.expect("a file").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".jsonl")) {
                let text = fs::read(&path).expect("a file");
                assert_eq!(canary_in(&text), None, "in {}", path.display());
            }
        }
        for entry in self.sandbox.journal() {
            assert_eq!(caller_header(&entry), None, "reached Fastrac: {}", entry.json());
        }
        let log = LOG.lock().expect("whole").clone();
        assert_eq!(canary_in(&log), None, "in the program's log");
        assert_eq!(PANICS.lock().expect("whole").as_slice(), &[] as &[String]);
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        let Some(app) = self.app.take() else { return };
        let metrics = app.gateway.live.metrics.text();
        app.stop();
        if !std::thread::panicking() {
            assert_eq!(canary_in(metrics.as_bytes()), None, "in the metrics");
            self.check_no_leaks();
        }
    }
}

/// The whole lines of a file, without events.
fn request_lines(file: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
    lines.filter(|line| line.get("event").is_none()).collect()
}

/// A header of a request at Fastrac that the contract (section 4, "On the way to Fastrac") removes, or that holds a
/// caller's credential.
pub(crate) fn caller_header(entry: &Entry) -> Option<String> {
    const NEVER: &str = "keep-alive proxy-connection te trailer upgrade http2-settings x-access-key x-secret-key \
        proxy-authorization cookie forwarded x-real-ip via expect x-original-url x-rewrite-url x-http-method-override \
        x-http-method x-method-override x-request-id traceparent tracestate baggage b3 idempotency-key";
    const PREFIXES: [&str; 6] = ["x-forwarded", "x-gateway-", "x-b3-", "x-envoy-", "x-amzn-", "x-datadog-"];
    for (name, value) in &entry.headers {
        let plain = name.as_str().replace('_', "-");
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let decoded = value.strip_prefix("Basic ").and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        let known = NEVER.split_whitespace().any(|name| name == plain)
            || PREFIXES.iter().any(|prefix| plain.starts_with(prefix));
        let names_caller = [value.as_bytes(), &decoded]
            .iter()
            .any(|text| [CALLER, "svc-"].iter().any(|canary| memchr::memmem::find(text, canary.as_bytes()).is_some()));
        if known || names_caller {
            return Some(name.to_string());
        }
    }
    None
}

/// Sum of the series of a family in a metrics text that have all these labels.
pub(crate) fn sum(text: &str, family: &str, labels: &[(&str, &str)]) -> f64 {
    let family = format!("fastrac_gateway_{family}");
    let series = text.lines().filter_map(|line| line.strip_prefix(family.as_str()));
    let series = series.filter(|rest| rest.starts_with(['{', ' ']));
    let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let matching = series.filter(|rest| wanted.iter().all(|label| rest.contains(label.as_str())));
    // An empty sum of floats is `-0.0`; adding 0.0 makes it 0.0.
    matching.map(|rest| rest.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number")).sum::<f64>()
        + 0.0
}

/// Polls a condition; panics if it is still false after 60 s.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An address at which connections are refused while the returned socket is kept: bound, but not listening.
/// (Another test running at the same time could take a port that is merely free.)
pub(crate) fn closed_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// The program's log.
pub(crate) static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Panics in threads of the gateway.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Sink;

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().expect("whole").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts to capture the program's log and panics, once for the process.
fn capture_log_and_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new("debug,fastrac_gateway=trace"))
            .with_ansi(false)
            .with_writer(|| Sink)
            .try_init()
            // Another test may already have installed a subscriber.
            .ok();
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            if name.starts_with("data-") || name.starts_with("control") {
                PANICS.lock().expect("whole").push(panic.to_string());
            }
            print(panic);
        }));
    });
}
