//! A simulator of the Fastrac B2B API: for trying out a client, for tests, and for measuring.
//!
//! It serves every V1 and V2 operation of the documentation with real regions, made-up couriers and
//! prices, a wallet, orders, and a journal of all requests. Faults can be injected. Where the public
//! documentation is silent, the behaviour is a switch ([`Switches`]) or a choice stated in the module
//! concerned; nothing here proves how Fastrac behaves.
//!
//! What always holds: the same seed, clock and requests give the same responses; counters are exact;
//! memory is bounded; no input makes it panic. It knows nothing of the gateway.
//!
//! How it fails: [`Sandbox::start`] returns why it cannot listen. After that it runs until dropped.
//!
//! | modules | purpose |
//! | --- | --- |
//! | `route`, `auth`, `input`, `envelope` | the API: paths, key pairs, bodies, responses |
//! | `regions`, `couriers`, `parcel`, `tariffs`, `quotes` | what can be looked up and priced |
//! | `orders`, `wallet`, `webhook` | what can be ordered, and what follows as time passes |
//! | `journal`, `faults`, `limits`, `clock`, `when`, `random` | what a test observes and controls |
//! | `simulation` | all state, without sockets |
//! | `server`, `control`, [`certificate`] | sockets and TLS |
//! | [`settings`], `suggest`, [`cli`] | configuration file and command line |

mod auth;
pub mod certificate;
pub mod cli;
mod clock;
mod control;
mod couriers;
mod envelope;
mod faults;
mod input;
mod journal;
mod limits;
mod orders;
mod parcel;
mod quotes;
mod random;
mod regions;
mod route;
mod server;
pub mod settings;
mod simulation;
mod suggest;
mod tariffs;
mod wallet;
mod webhook;
mod when;

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

pub use auth::AuthStyle;
pub use clock::{Clock, Pace};
pub use faults::{Act, CannedEnvelope, CannedResponse, DelayDistribution, Fault, TlsFailure};
pub use journal::{Counters, Entry, JournalBounds, OperationCounts, OrderCounts};
pub use limits::{CountedBy, Limit, Window};
pub use quotes::Validity;
pub use route::operation_at;
pub use simulation::Switches;
pub use webhook::WebhookPrinter;
pub use when::{When, WhenError};

use auth::KeyStore;
use limits::Limits;
use server::SharedSimulation;
use simulation::{Setup, Simulation};

/// A key pair of the account.
#[derive(Clone)]
pub struct KeyPair {
    label: String,
    access: String,
    secret: Zeroizing<String>,
    until: Option<When>,
}

/// Configuration of a sandbox.
#[derive(Clone)]
pub struct Options {
    /// Address of the API; port 0: a free port.
    pub listen: SocketAddr,
    /// TLS of the API; absent: plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// Control address; absent: none.
    pub control: Option<SocketAddr>,
    /// Bearer token of the control address; required unless that address is loopback.
    pub control_token: Option<Zeroizing<String>>,
    /// Determines prices, ids and all random draws.
    pub seed: u64,
    /// Initial key pairs.
    pub keys: Vec<KeyPair>,
    /// Choices where Fastrac's behaviour is not public.
    pub switches: Switches,
    /// Bounds of the journal.
    pub journal: JournalBounds,
    /// Initial faults.
    pub faults: Vec<Fault>,
    /// The clock.
    pub clock: Clock,
    /// If set, a receiver on a free loopback port prints webhooks; it is the account's webhook address until another
    /// is set.
    pub webhook_printer: Option<WebhookPrinter>,
}

/// A running sandbox; dropping it stops it.
#[derive(Debug)]
pub struct Sandbox {
    addr: SocketAddr,
    control: Option<SocketAddr>,
    simulation: SharedSimulation,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl KeyPair {
    /// A key pair; `label` names it in the journal, in counters and in faults.
    pub fn new(label: &str, access: &str, secret: &str) -> Self {
        KeyPair {
            label: label.to_owned(),
            access: access.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            until: None,
        }
    }

    /// Revokes it at a time of the sandbox's clock.
    pub fn until(self, when: When) -> Self {
        KeyPair { until: Some(when), ..self }
    }
}

impl Default for Options {
    /// A free port on loopback, no control address, seed 1, the pair `sandbox-access` / `sandbox-secret` with the
    /// label `sandbox`.
    fn default() -> Self {
        Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            control: None,
            control_token: None,
            seed: 1,
            keys: vec![KeyPair::new("sandbox", "sandbox-access", "sandbox-secret")],
            switches: Switches::default(),
            journal: JournalBounds { entries: 10_000, bytes: 64 << 20 },
            faults: Vec::new(),
            clock: Clock::default(),
            webhook_printer: None,
        }
    }
}

impl Sandbox {
    /// Binds the addresses and serves them on a thread of its own.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound, the control address is not loopback and has no token, or a thread cannot be
    /// started.
    pub fn start(mut options: Options) -> io::Result<Sandbox> {
        let open = options.control.is_some_and(|addr| !addr.ip().is_loopback()) && options.control_token.is_none();
        if open {
            let text = "a control address other than loopback requires a token";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let listener = std::net::TcpListener::bind(options.listen)?;
        let control = options.control.map(std::net::TcpListener::bind).transpose()?;
        let addr = listener.local_addr()?;
        let control_addr = control.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
        let receiver = receiver(&mut options)?;
        let simulation = Arc::new(Mutex::new(simulation(&options)));
        let stop = CancellationToken::new();
        let serve = Serve {
            listener,
            control,
            tls: options.tls.map(TlsAcceptor::from),
            token: options.control_token.map(Arc::new),
            receiver,
            simulation: Arc::clone(&simulation),
            stop: stop.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Unpacking the regions takes a moment: start now, so that the first request does not wait.
        std::thread::Builder::new().name("sandbox-map".to_owned()).spawn(|| {
            regions::Regions::get();
        })?;
        let thread = std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || runtime.block_on(serve.run()).unwrap_or_default())?;
        Ok(Sandbox { addr, control: control_addr, simulation, stop, thread: Some(thread) })
    }

    /// The bound address of the API.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The bound control address, if there is one.
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.control
    }

    /// Adds a key pair. A known access key takes the new label and secret and is no longer revoked.
    pub fn add_key(&self, label: &str, access: &str, secret: &str) {
        self.simulation.lock().keys.add(label, access, secret);
    }

    /// Revokes a key pair immediately; false if no pair has this access key.
    pub fn revoke(&self, access: &str) -> bool {
        self.simulation.lock().keys.revoke(access)
    }

    /// Revokes a key pair at a time of the sandbox's clock; false if no pair has this access key.
    pub fn revoke_at(&self, access: &str, when: When) -> bool {
        self.simulation.lock().revoke_at(access, when)
    }

    /// Replaces all rate limits; counts start at 0.
    pub fn limit(&self, limits: Vec<Limit>) {
        self.simulation.lock().limits = Limits::new(limits);
    }

    /// Arms a fault; returns its number.
    pub fn fault(&self, fault: Fault) -> u64 {
        self.simulation.lock().arm(fault)
    }

    /// How often a fault was applied; `None` if it is no longer known.
    pub fn times_applied(&self, number: u64) -> Option<u64> {
        self.simulation.lock().faults.times_applied(number)
    }

    /// Removes a fault; false if it is not armed.
    pub fn end_fault(&self, number: u64) -> bool {
        self.simulation.lock().faults.remove(number)
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.simulation.lock().faults.clear();
    }

    /// The stored requests, oldest first.
    pub fn journal(&self) -> Vec<Entry> {
        self.simulation.lock().journal.entries().cloned().collect()
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.simulation.lock().journal.counters().clone()
    }

    /// The counters in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.simulation.lock().metrics()
    }

    /// The account's balance in IDR.
    pub fn balance(&self) -> u64 {
        self.simulation.lock().balance()
    }

    /// Moves the clock forward, and carries out what becomes due.
    pub fn advance(&self, by: Duration) {
        let mut simulation = self.simulation.lock();
        simulation.clock.advance(by);
        simulation.catch_up();
        simulation.wake();
    }

    /// Restores the initial state, without faults; the clock keeps its time.
    pub fn reset(&self) {
        self.simulation.lock().reset();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been printed.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("listen", &self.listen).field("seed", &self.seed).finish_non_exhaustive()
    }
}

fn simulation(options: &Options) -> Simulation {
    let mut keys = KeyStore::default();
    for key in &options.keys {
        keys.add(&key.label, &key.access, &key.secret);
        if let Some(until) = key.until {
            keys.revoke_at(&key.access, until.millis(options.clock.now()));
        }
    }
    let mut simulation = Simulation::new(Setup {
        switches: options.switches.clone(),
        seed: options.seed,
        keys,
        bounds: options.journal,
        clock: options.clock,
    });
    for fault in &options.faults {
        simulation.arm(fault.clone());
    }
    simulation
}

/// Binds the receiver of webhooks, if one is wanted, and makes it the account's webhook address.
fn receiver(options: &mut Options) -> io::Result<Option<(std::net::TcpListener, WebhookPrinter)>> {
    let Some(show) = options.webhook_printer.take() else { return Ok(None) };
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = Some(format!("http://{}/", listener.local_addr()?));
    let settings = webhook::WebhookSettings::clone(&options.switches.webhook);
    options.switches.webhook = Arc::new(webhook::WebhookSettings { url, ..settings });
    Ok(Some((listener, show)))
}

/// Runs on the sandbox's thread.
struct Serve {
    listener: std::net::TcpListener,
    control: Option<std::net::TcpListener>,
    tls: Option<TlsAcceptor>,
    token: control::Token,
    receiver: Option<(std::net::TcpListener, WebhookPrinter)>,
    simulation: SharedSimulation,
    stop: CancellationToken,
}

impl Serve {
    async fn run(self) -> io::Result<()> {
        let tasks = TaskTracker::new();
        self.listener.set_nonblocking(true)?;
        let api = server::accept(
            TcpListener::from_std(self.listener)?,
            self.tls,
            Arc::clone(&self.simulation),
            tasks.clone(),
        );
        if let Some((listener, show)) = self.receiver {
            listener.set_nonblocking(true)?;
            tasks.spawn(webhook::receive::run(TcpListener::from_std(listener)?, show, tasks.clone()));
        }
        let time = webhook::send::run(Arc::clone(&self.simulation));
        let control = async {
            if let Some(listener) = self.control {
                listener.set_nonblocking(true)?;
                control::accept(TcpListener::from_std(listener)?, self.token, self.simulation, tasks.clone()).await;
            }
            std::future::pending::<io::Result<()>>().await
        };
        tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            () = api => Ok(()),
            () = time => Ok(()),
            result = control => result,
        }
    }
}

#[cfg(test)]
mod tests;
