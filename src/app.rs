//! Wiring: a checked configuration → everything running, and everything ended again.
//!
//! Sockets are bound and files opened before any thread starts, so a fault is an error and not a
//! half-started program. Data threads serve requests; the control runtime accepts, keeps keys and
//! serves the admin port; log and store have threads of their own. The only file that sees most
//! rooms.

mod rotations;
mod sockets;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Once},
    time::Duration,
};

use tokio::{runtime::Runtime, sync::Semaphore, time::Instant};

use crate::{
    admin::{self, Admin},
    config::Config,
    edge::{
        Drain,
        connection::Context,
        listener::{Acceptor, BindError},
        runtime::{self, DataThread},
        tls::{Doors, Faulty, LOOK},
    },
    gateway::{self, Gateway, Live, Revoked, StartError},
    orders::Orders,
    record::{ExchangeLog, LogError, Metrics},
    snapshot::Account,
    store::{OpenError, Store, StoreError},
};
use rotations::Rotations;
pub use sockets::Sockets;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says it")]
pub enum AppError {
    #[error(transparent)]
    BindError(#[from] BindError),
    #[error("state.dir: {0}")]
    Store(#[from] OpenError),
    #[error("state.dir: {0}")]
    Journal(#[from] StoreError),
    #[error("log.exchanges: {0}")]
    Log(#[from] LogError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Tls(#[from] Faulty),
    #[error("the system gives no thread or event queue: {0}")]
    System(#[from] io::Error),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl AppError {
    /// Whether the configuration is at fault, not the machine.
    pub fn is_configuration(&self) -> bool {
        matches!(self, AppError::Start(_) | AppError::Tls(_))
    }
}

/// Everything that runs.
pub struct App {
    /// What runs, as one handle.
    pub gateway: Arc<Gateway>,
    /// How far the end has come.
    pub drain: Drain,
    /// Where services call, as bound.
    pub data: Vec<SocketAddr>,
    /// Where operators call, as bound.
    pub admin: SocketAddr,
    threads: Vec<DataThread>,
    store: Store,
    control: Runtime,
}

impl App {
    /// Starts everything.
    ///
    /// # Errors
    /// [`AppError`] says which key of the configuration, and why; nothing runs then.
    pub fn start(config: Config, file: Option<PathBuf>) -> Result<App, AppError> {
        choose_crypto();
        let sockets = Sockets::bind(&config.listen)?;
        let (data, address) = sockets.addresses()?;
        let metrics = Metrics::new()?;
        let doors = Arc::new(Doors::open(&config.listen, &metrics)?);
        // First the store: a second process on the same folder is told of the folder, not of a file in it.
        let store = Store::open(&config.state.dir)?;
        let log = ExchangeLog::open(&config.log, &metrics)?;
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("control")
            .enable_all()
            .build()?;
        let orders = control.block_on(Orders::open(store.clone(), jiff::Timestamp::now()))?;
        let drain = Drain::default();
        let revoked = Arc::new(control.block_on(Revoked::open(store.clone()))?);
        let tasks = drain.tasks.clone();
        let live = Live { metrics: metrics.clone(), log, orders, revoked, doors: doors.clone(), tasks };
        let (workers, connections) = (config.listen.workers, config.limits.connections);
        let (gateway, keepers) = Gateway::new(config, file, live)?;
        let rotations = Rotations::new(control.handle().clone(), &gateway);
        rotations.keep(keepers);
        gateway.adopt_with(Box::new(move |keepers| rotations.keep(keepers)));

        let threads = (0..workers)
            .map(|index| {
                let (current, drain) = (gateway.current.clone(), drain.clone());
                runtime::start(index, |worker| Context::new(current, worker, drain))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let acceptor = Arc::new(Acceptor {
            threads: threads.iter().map(|thread| thread.sockets.clone()).collect(),
            permits: Arc::new(Semaphore::new(connections)),
            metrics,
            tls: doors.data.clone(),
            stop: drain.stop.clone(),
            inherited: sockets.inherited,
        });
        let operators =
            Admin { gateway: gateway.clone(), drain: drain.clone(), store: store.clone(), data: data.clone(), address };
        control.spawn(admin::serve(sockets.admin, operators, drain.cut.clone(), doors.admin.clone()));
        if doors.each().next().is_some() {
            control.spawn(watch("certificates", LOOK, move || doors.look()));
        }
        if gateway.file.is_some() {
            let looking = gateway.clone();
            control.spawn(watch("a changed configuration file", gateway::LOOK, move || {
                looking.look();
            }));
        }
        // Until then callers' connections wait in the backlog: a restart should not cost them a refusal.
        let _ = control.block_on(async { tokio::time::timeout(FIRST_PAIRS, pairs_in_hand(&gateway)).await });
        for listener in sockets.data {
            control.spawn(acceptor.clone().run(listener));
        }
        Ok(App { gateway, drain, data, admin: address, threads, store, control })
    }

    /// Ends everything: readiness falls, connections are still accepted for `drain_grace`, then what
    /// is in flight may end until `drain` after the call, then it is cut. Blocks.
    pub fn stop(self) {
        let limits = self.gateway.in_force.load().config.limits.clone();
        let App { drain, threads, store, control, gateway, .. } = self;
        let began = Instant::now();
        drain.begin();
        control.block_on(async {
            tokio::time::sleep(limits.drain_grace.min(limits.drain)).await;
            drain.stop.cancel();
            drain.tasks.close();
        });
        let senders: Vec<_> = threads
            .into_iter()
            .map(|DataThread { sockets, thread }| {
                drop(sockets);
                thread
            })
            .collect();
        control.block_on(async {
            let left = limits.drain.saturating_sub(began.elapsed());
            if tokio::time::timeout(left, drain.tasks.wait()).await.is_err() {
                tracing::warn!("requests are still in flight and are cut");
            }
            drain.cut.cancel();
        });
        for thread in senders {
            let _ = thread.join();
        }
        control.block_on(store.close());
        control.shutdown_timeout(CLOSING);
        gateway.live.log.close();
    }
}

/// How long a start waits for a key pair of every account. Without one the gateway serves all the same, and says so.
const FIRST_PAIRS: Duration = Duration::from_secs(1);

async fn pairs_in_hand(gateway: &Gateway) {
    let lacks = |account: &Arc<Account>| account.keys.lease().is_err();
    while gateway.current.load().accounts.iter().any(lacks) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Looks for changes of files, again and again until the control runtime ends.
async fn watch(what: &str, pause: Duration, look: impl Fn() + Clone + Send + 'static) {
    loop {
        tokio::time::sleep(pause).await;
        // A disk may be slow, and the admin port should not wait for it.
        if tokio::task::spawn_blocking(look.clone()).await.is_err() {
            tracing::error!("looking for {what} failed");
        }
    }
}

/// How long tasks of the control runtime may take to notice the end.
const CLOSING: Duration = Duration::from_secs(2);

/// Chooses the provider of cryptography, once a process.
pub fn choose_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only if it was chosen before, and there is one only.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
