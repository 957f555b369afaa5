//! Wiring: starts everything that a checked configuration describes, and stops it again.
//!
//! What always holds: sockets are bound and files are opened before any thread starts, so an error means
//! that nothing runs. Data threads serve requests; the control runtime accepts connections, rotates keys
//! and serves the admin port; log and store have threads of their own. This is the only file that sees
//! most rooms. It fails with [`AppError`].

mod cache_restore;
mod cache_secrets;
mod cache_snapshots;
mod clock_mark;
mod connections;
mod counting;
mod rotations;
mod secrecy;
mod sockets;
mod stop;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Once},
    time::Duration,
};

use tokio::{net::TcpListener, runtime::Runtime, sync::Semaphore, task::JoinHandle};

use crate::{
    admin::{self, Admin, AdminListener, Audit, AuditError},
    cache::snapshot_file::SnapshotFile,
    config::{Config, LogTarget},
    connector::Connector,
    degraded::{DegradedReason, DegradedReports},
    edge::{
        Drain,
        connection::Context,
        connection_limit::ConnectionLimit,
        heartbeat::Heartbeat,
        listener::{Acceptor, BindError, REFUSED},
        runtime::{self, DataThread},
        tls::{POLL_INTERVAL, TlsFilesError, TlsListeners},
    },
    gateway::{self, Counting, Gateway, Live, Overrides, Revoked, StartError},
    ledger::{self, Ledger, LedgerError},
    orders::{Archive, OrderStores, Orders, OrdersOpenError},
    reconcile::Reconciler,
    record::{ExchangeLog, LogError, Metrics},
    refresh::Refresher,
    snapshot::Account,
    spending::{self, Spending},
    standstill,
    store::{self, OpenError, Store, StoreError, StoreKind},
    warm::{self, Warmer},
};
use cache_snapshots::CacheSnapshots;
use clock_mark::ClockMark;
use rotations::Rotations;
pub use secrecy::protect_memory;
pub use sockets::Sockets;
pub use stop::{CLOSING, ENDING};

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    BindError(#[from] BindError),
    #[error("state.dir: {0}")]
    Store(#[from] OpenError),
    #[error("state.dir: {0}")]
    Journal(#[from] StoreError),
    #[error("state.dir: {0}")]
    Orders(#[from] OrdersOpenError),
    #[error("state.dir: {0}")]
    Ledger(#[from] LedgerError),
    #[error("log.exchanges: {0}")]
    Log(#[from] LogError),
    #[error("log.exchanges: {0}")]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Tls(#[from] TlsFilesError),
    #[error("the system cannot create a thread or an event queue: {0}")]
    System(#[from] io::Error),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl AppError {
    /// Whether the configuration has to be corrected (exit code 2), rather than the machine.
    pub fn is_configuration(&self) -> bool {
        matches!(self, AppError::Start(_) | AppError::Tls(_))
    }
}

/// The running gateway.
pub struct App {
    pub gateway: Arc<Gateway>,
    pub drain: Drain,
    /// The data addresses as bound.
    pub data: Vec<SocketAddr>,
    /// The admin address as bound.
    pub admin: SocketAddr,
    threads: Vec<DataThread>,
    acceptor: Arc<Acceptor>,
    /// Those whose accept loop has not been started yet.
    listeners: Vec<TcpListener>,
    /// Ends when the cache is restored; `None`: it is not waited for any more.
    restored: Option<JoinHandle<()>>,
    /// The state store.
    pub store: Store,
    /// Walks of the region tree.
    pub warmer: Arc<Warmer>,
    snapshots: Arc<CacheSnapshots>,
    ledger: Arc<Ledger>,
    audit: Audit,
    control: Runtime,
    /// Of the shutdown, which ends the control runtime before it closes the files.
    clock: Runtime,
}

impl App {
    /// Starts everything.
    ///
    /// # Errors
    /// [`AppError`] names the configuration key and the reason; nothing runs then.
    pub fn start(config: Config, file: Option<PathBuf>) -> Result<App, AppError> {
        App::start_with(config, file, Connector::default())
    }

    /// The same, with connections opened by `connector`.
    ///
    /// # Errors
    /// [`AppError`].
    pub fn start_with(config: Config, file: Option<PathBuf>, connector: Connector) -> Result<App, AppError> {
        let mut app = App::open(config, file, connector)?;
        app.get_ready(std::future::pending());
        app.accept();
        Ok(app)
    }

    /// Starts everything except that connections wait in the backlog until [`App::accept`], so that a restart does not cause
    /// refusals. [`App::get_ready`] should come between the two.
    ///
    /// # Errors
    /// [`AppError`] names the configuration key and the reason; nothing runs then.
    pub fn open(config: Config, file: Option<PathBuf>, connector: Connector) -> Result<App, AppError> {
        choose_crypto();
        let files = connections::raise_open_files();
        let sockets = Sockets::bind(&config.listen)?;
        let (data, address) = sockets.addresses()?;
        let metrics = Metrics::new()?;
        let tls = Arc::new(TlsListeners::open(&config.listen, &metrics)?);
        // The store first: the error for a second process on the same folder then names the folder.
        let state = &config.state.dir;
        let (has_store, is_new) = (store::exists(state, StoreKind::STATE), is_first_start(&config));
        let store = Store::open(state)?;
        // Before anything whose time may be over.
        standstill::look();
        let clock_mark = ClockMark::open(state);
        let control = control_runtime()?;
        let ledger = control.block_on(Ledger::open(state, store.clone(), is_new))?;
        let degraded = Arc::<DegradedReports>::default();
        if !is_new && !has_store {
            control.spawn(report_lost_store(degraded.clone(), config.orders.remember));
        }
        let log = ExchangeLog::open(&config.log, &metrics, &degraded)?;
        let audit = Audit::open(&config, degraded.clone())?;
        let clock = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stores = OrderStores { journal: store.clone(), archive: Archive::open(state)?, dir: state.clone() };
        let orders =
            control.block_on(Orders::open(stores, jiff::Timestamp::now(), &config.orders, config.limits.memory))?;
        let drain = Drain::default();
        let revoked = Arc::new(control.block_on(Revoked::open(store.clone()))?);
        let spending = control.block_on(Spending::open(store.clone()))?;
        let overrides = control.block_on(Overrides::open(store.clone()))?;
        let counting = Counting { ledger: Some(ledger.clone()), ..Counting::default() };
        let live = Live {
            metrics: metrics.clone(),
            log,
            orders,
            revoked,
            spending: spending.clone(),
            overrides,
            tls: tls.clone(),
            connector,
            counting,
            degraded,
            snapshot_file: Arc::new(SnapshotFile::new(&config.state.dir)),
            tasks: drain.tasks.clone(),
            cut: drain.cut.clone(),
        };
        let workers = config.listen.workers;
        let connections = ConnectionLimit::new(connections::allowed(&config, files));
        let (gateway, keepers) = Gateway::new(config, file, live)?;
        let snapshots = CacheSnapshots::new(&gateway, clock_mark.latest());
        let restored = Some(control.spawn(snapshots.clone().restore()));
        let rotations = Rotations::new(control.handle().clone(), &gateway);
        rotations.start(keepers);
        gateway.adopt_with(Box::new(move |keepers| rotations.start(keepers)));
        let limit = connections.clone();
        gateway.apply_with(Box::new(move |config| limit.set(connections::allowed(config, files))));

        let threads = data_threads(workers, &gateway, &drain)?;
        let acceptor = Arc::new(Acceptor {
            threads: threads.iter().map(|thread| thread.sockets.clone()).collect(),
            limit: connections.clone(),
            metrics,
            current: gateway.current.clone(),
            refused: Arc::new(Semaphore::new(REFUSED)),
            tls: tls.data.clone(),
            drain: drain.clone(),
            inherited: sockets.inherited,
        });
        let listeners = {
            let _control = control.enter();
            sockets.data.into_iter().map(TcpListener::from_std).collect::<io::Result<Vec<_>>>()?
        };
        let heartbeats: Vec<_> = threads.iter().map(|thread| thread.heartbeat.clone()).collect();
        let reconciler = Reconciler::new(&gateway, drain.clone());
        control.spawn(reconciler.clone().run());
        control.spawn(Refresher::new(&gateway, drain.clone()).run());
        let (warmer, walks) = Warmer::new(&gateway, drain.clone());
        control.spawn(walks.run());
        control.spawn(warm::begin_walks_on_schedule(warmer.clone()));
        let operators = Admin {
            gateway: gateway.clone(),
            audit: audit.clone(),
            drain: drain.clone(),
            store: store.clone(),
            data: data.clone(),
            address,
            connections,
            heartbeats: heartbeats.clone(),
            reconciler,
            warmer: warmer.clone(),
        };
        let listener =
            AdminListener { socket: sockets.admin, inherited: sockets.admin_inherited, tls: tls.admin.clone() };
        control.spawn(drain.admin_tasks.track_future(admin::serve(listener, operators)));
        control.spawn(check_heartbeats(heartbeats));
        control.spawn(gateway.live.orders.clone().keep_time());
        control.spawn(gateway.live.orders.clone().keep_archive());
        control.spawn(gateway.live.orders.clone().decide_deliveries());
        control.spawn(write_spending(spending));
        control.spawn(watch_use(gateway.clone()));
        control.spawn(tidy_cache(gateway.clone()));
        control.spawn(cache_secrets::watch(gateway.clone()));
        control.spawn(sample_drift(gateway.clone()));
        control.spawn(snapshots.clone().write_periodically());
        watch_files(&control, tls, &gateway);
        if ledger.has_lost_counts() {
            control.spawn(counting::report_lost_counts(gateway.clone()));
        }
        control.spawn(counting::watch(gateway.clone(), ledger.clone(), clock_mark.expected()));
        control.spawn(clock_mark.keep());
        Ok(App {
            gateway,
            snapshots,
            drain,
            data,
            admin: address,
            threads,
            acceptor,
            listeners,
            restored,
            store,
            warmer,
            ledger,
            audit,
            control,
            clock,
        })
    }

    /// Waits until the first requests would neither wait for the disk, nor lack a key pair, nor miss what is stored; not
    /// for long, and not beyond `interrupted`. Blocks.
    pub fn get_ready(&mut self, interrupted: impl Future<Output = ()>) {
        let restored = self.restored.take();
        self.control.block_on(async {
            let ready = async {
                counting::first_leases(&self.gateway).await;
                let pairs = tokio::time::timeout(FIRST_PAIRS, all_accounts_have_keys(&self.gateway));
                let entries = async {
                    if let Some(restored) = restored {
                        let _ = restored.await;
                    }
                };
                let _ = tokio::join!(pairs, tokio::time::timeout(FIRST_ENTRIES, entries));
            };
            tokio::select! {
                () = ready => {}
                () = interrupted => {}
            }
        });
    }

    /// Starts to accept connections. A second call does nothing.
    pub fn accept(&mut self) {
        for listener in self.listeners.drain(..) {
            self.control.spawn(self.drain.tasks.track_future(self.acceptor.clone().run(listener)));
        }
    }
}

/// Whether no gateway has run in `state.dir` before: each file that one leaves there shows that, whichever were lost.
fn is_first_start(config: &Config) -> bool {
    let dir = &config.state.dir;
    let is_written = |path: &Path| path.metadata().is_ok_and(|found| found.len() > 0);
    let has_log = matches!(&config.log.exchanges, LogTarget::File(path) if is_written(path));
    let has_store = [StoreKind::STATE, StoreKind::ORDERS].iter().any(|kind| store::exists(dir, *kind));
    !(has_store || has_log || ledger::exists(dir) || clock_mark::exists(dir) || SnapshotFile::exists(dir))
}

/// Reports that a start found no state store where there was one, for as long as keys are remembered: a repeated order may
/// be one that was sent before.
async fn report_lost_store(reports: Arc<DegradedReports>, remembered: Duration) {
    let lost = "state.redb was missing at the start, but other files show that there was one: orders, Idempotency-Keys, \
                revoked key versions and overrides from before are not known, and a repeated order is sent again";
    tracing::error!("{lost}; compare with Fastrac, or stop the gateway and restore a copy");
    reports.report(DegradedReason::StoreLost, "", format!("state store: {lost}"));
    tokio::time::sleep(remembered).await;
    reports.withdraw(DegradedReason::StoreLost, "");
}

/// Starts the threads that serve requests.
fn data_threads(workers: usize, gateway: &Gateway, drain: &Drain) -> io::Result<Vec<DataThread>> {
    let start = |index| {
        let (current, drain) = (gateway.current.clone(), drain.clone());
        runtime::start(index, |worker| Context::new(current, worker, drain))
    };
    (0..workers).map(start).collect()
}

/// The runtime of everything but requests: accepting, administration, key pairs, files.
fn control_runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build()
}

/// Starts the tasks that look for changed certificates and for a changed configuration file.
fn watch_files(control: &Runtime, tls: Arc<TlsListeners>, gateway: &Arc<Gateway>) {
    if tls.each().next().is_some() {
        control.spawn(watch("certificates", POLL_INTERVAL, move || tls.poll()));
    }
    if gateway.file.is_some() {
        let polled = gateway.clone();
        control.spawn(watch("a changed configuration file", gateway::POLL_INTERVAL, move || {
            polled.poll_file();
        }));
    }
}

/// Checks once a second whether the data threads make progress.
async fn check_heartbeats(heartbeats: Vec<Heartbeat>) {
    loop {
        // Not an interval, which would make up for ticks that were missed.
        tokio::time::sleep(Duration::from_secs(1)).await;
        heartbeats.iter().for_each(Heartbeat::check);
    }
}

/// Looks for limits of a day that are nearly used up.
async fn watch_use(gateway: Arc<Gateway>) {
    loop {
        tokio::time::sleep(gateway::WATCH_INTERVAL).await;
        gateway.observe_use();
    }
}

/// Frees the memory of what has left the cache.
async fn tidy_cache(gateway: Arc<Gateway>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        gateway.current.load().cache.tidy();
    }
}

/// How often one stored response of each account is fetched again to see whether it has changed: 96 a day.
const DRIFT_SAMPLE: Duration = Duration::from_secs(15 * 60);

/// Has stored responses fetched again within spare budget, also those that nobody uses.
async fn sample_drift(gateway: Arc<Gateway>) {
    loop {
        tokio::time::sleep(DRIFT_SAMPLE).await;
        let snapshot = gateway.current.load_full();
        for account in &snapshot.accounts {
            if let Some((key, entry)) = snapshot.cache.sample(&account.name, fastrand::f64) {
                account.refreshes.request(&key, &entry, tokio::time::Instant::now());
            }
        }
    }
}

/// Writes who has spent what, now and then.
async fn write_spending(spending: Arc<Spending>) {
    loop {
        tokio::time::sleep(spending::WRITE_INTERVAL).await;
        spending.write();
    }
}

/// How long the start waits for a key pair of every account. After that the gateway serves without one and
/// refuses what it cannot sign.
const FIRST_PAIRS: Duration = Duration::from_secs(1);

/// How long the start waits until the cache is restored, which goes on after that.
const FIRST_ENTRIES: Duration = Duration::from_millis(200);

async fn all_accounts_have_keys(gateway: &Gateway) {
    let lacks = |account: &Arc<Account>| account.keys.lease().is_err();
    while gateway.current.load().accounts.iter().any(lacks) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls files for changes until the control runtime ends.
async fn watch(what: &'static str, pause: Duration, poll: impl Fn() + Clone + Send + 'static) {
    loop {
        tokio::time::sleep(pause).await;
        // On a thread of its own: a disk may be slow, and a large configuration takes its time. The admin port must not
        // wait for it, nor a stop, which waits for the runtime's blocking threads.
        let (end, ended) = tokio::sync::oneshot::channel();
        let poll = poll.clone();
        let polling = move || {
            poll();
            let _ = end.send(());
        };
        let spawned = std::thread::Builder::new().name("files".to_owned()).spawn(polling);
        if spawned.is_err() || ended.await.is_err() {
            tracing::error!("polling {what} failed");
        }
    }
}

/// Installs the TLS crypto provider, once per process.
pub fn choose_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only if a provider is installed already, and there is only this one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
