//! `run`: runs the gateway until a signal.
//!
//! What always holds: from the first moment on, no signal ends the process by itself. One that comes during start-up
//! ends it cleanly, or reloads the configuration once the gateway is up. The main thread does nothing but wait for
//! signals, and everything that could block it (a disk, a name lookup) is on other threads, so that the process ends in
//! time.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{FAILED, WRONG, notify, output};
use crate::{
    app::{App, CLOSING, ENDING, protect_memory},
    connector::Connector,
    deadline::Deadline,
    files::{FileWatch, configuration::LoadError},
    gateway::Gateway,
    inspect,
    record::{UNLIMITED, init_program_log},
};

/// Run the gateway
///
/// Exits with an error before listening if the configuration has an error. SIGTERM and SIGINT drain and exit 0, at the
/// latest 2 s after limits.drain; a second one exits at once with 1. SIGHUP, or a change of the file, reloads the
/// configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fastrac-gateway run --config /etc/fastrac-gateway/gateway.toml")]
pub(super) struct RunArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "FASTRAC_GATEWAY_CONFIG")]
    config: PathBuf,
}

pub(super) fn run(arguments: &RunArgs) -> io::Result<u8> {
    let signals = Signals::install()?;
    init_program_log();
    protect_memory();
    let file = arguments.config.clone();
    signals.live(move || open(&file))
}

/// Opens the gateway that a file describes; prints what is wrong.
fn open(file: &Path) -> Result<App, u8> {
    // Files are read before anything listens, and every error is printed, as `check` prints it.
    let loaded = inspect::load(file, &mut FileWatch::default()).map_err(|error| {
        print_error(&error);
        WRONG
    })?;
    for warning in &loaded.warnings {
        tracing::warn!(target: UNLIMITED, "{warning}");
    }
    App::open(loaded.config, Some(file.to_owned()), Connector::default()).map_err(|error| {
        output::error(&error);
        if error.is_configuration() { WRONG } else { FAILED }
    })
}

/// What the start-up and a signal that comes during it have in common.
#[derive(Default)]
struct StartUp {
    /// By the first of two: the gateway, which then accepts connections, or a signal, which prevents that.
    is_taken: AtomicBool,
    /// A signal was first.
    interrupted: CancellationToken,
}

/// The handlers of the signals that end and reload the gateway.
pub(super) struct Signals {
    runtime: Runtime,
    received: Received,
}

/// What has been received.
struct Received {
    term: Signal,
    int: Signal,
    hangup: Signal,
}

/// What the thread of the gateway reports.
struct Running {
    gateway: Arc<Gateway>,
    /// Ends the gateway.
    stop: SyncSender<()>,
    /// Completes when it has stopped.
    stopped: oneshot::Receiver<()>,
}

impl Signals {
    /// From now on these signals do not end the process by themselves. (SIGPIPE is ignored by the standard library.)
    pub(super) fn install() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let received = runtime.block_on(async {
            // Beyond a limit on the size of files, writing fails as on a full disk, instead of ending the process.
            let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
            let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            Ok::<_, io::Error>(Received { term, int, hangup: signal(SignalKind::hangup())? })
        })?;
        Ok(Signals { runtime, received })
    }

    /// Opens a gateway, and runs it until a signal, then drains; a second signal exits at once. Returns the exit code.
    pub(super) fn live(self, open: impl FnOnce() -> Result<App, u8> + Send + 'static) -> io::Result<u8> {
        let Signals { runtime, mut received } = self;
        let (report, mut started) = oneshot::channel();
        let start_up = Arc::<StartUp>::default();
        let shared = start_up.clone();
        thread::Builder::new().name("gateway".to_owned()).spawn(move || run_gateway(open, &shared, report))?;
        runtime.block_on(async {
            let (started, ended) = tokio::select! {
                started = &mut started => (started, false),
                () = received.end() => {
                    if !start_up.is_taken.swap(true, Ordering::Relaxed) {
                        tracing::info!("ended by a signal before the gateway was up");
                        start_up.interrupted.cancel();
                        return received.wait_for_end(started).await;
                    }
                    // It accepts connections already.
                    (started.await, true)
                }
            };
            match started {
                Ok(Ok(running)) => running.live(received, ended).await,
                Ok(Err(code)) => Ok(code),
                // The thread has panicked.
                Err(_) => Ok(FAILED),
            }
        })
    }
}

impl Received {
    /// Waits for a signal that ends the gateway.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// Waits until a gateway that was interrupted during start-up has closed its files: it may have sent requests of its
    /// own. Returns the exit code.
    async fn wait_for_end<T>(&mut self, ended: oneshot::Receiver<T>) -> io::Result<u8> {
        tokio::select! {
            _ = ended => Ok(0),
            () = self.end() => Ok(FAILED),
            () = tokio::time::sleep(longest_stop(Duration::ZERO)) => {
                tracing::error!("start-up hangs; the process ends without it");
                Ok(0)
            }
        }
    }

    /// Waits for a signal; whether it is one that reloads the configuration.
    async fn is_hangup(&mut self) -> bool {
        tokio::select! {
            _ = self.term.recv() => false,
            _ = self.int.recv() => false,
            _ = self.hangup.recv() => true,
        }
    }
}

impl Running {
    /// Reloads the configuration on request until it is to end, and waits for its end. `ended`: it is to end already.
    async fn live(self, mut received: Received, ended: bool) -> io::Result<u8> {
        let notifications = TaskTracker::new();
        notifications.spawn(notify_systemd("READY=1"));
        let reloads = reloads(self.gateway.clone())?;
        while !ended && received.is_hangup().await {
            // If a reload is waiting already, it will read this change, too.
            let _ = reloads.try_send(());
        }
        tracing::info!("draining");
        notifications.spawn(notify_systemd("STOPPING=1"));
        let drain = self.gateway.in_force.load().config.limits.drain;
        let _ = self.stop.send(());
        // A pause of the process shows nothing of the shutdown.
        let stopped = Deadline::never().bound_running(longest_stop(drain), self.stopped);
        tokio::select! {
            stopped = stopped => {
                if stopped.is_none() {
                    tracing::error!("the shutdown hangs; the process ends without it");
                }
                Ok(0)
            }
            () = received.end() => Ok(FAILED),
        }
    }
}

/// How long a stop may take before the process ends without it.
fn longest_stop(drain: Duration) -> Duration {
    drain + CLOSING - ENDING
}

/// The thread of the gateway: opens it, and stops it on request.
fn run_gateway(
    open: impl FnOnce() -> Result<App, u8>,
    start_up: &StartUp,
    report: oneshot::Sender<Result<Running, u8>>,
) {
    let mut app = match open() {
        Ok(app) => app,
        Err(code) => return drop(report.send(Err(code))),
    };
    app.get_ready(start_up.interrupted.cancelled());
    if start_up.is_taken.swap(true, Ordering::Relaxed) {
        // The process ends once `report` is dropped.
        return app.stop();
    }
    app.accept();
    let data: Vec<_> = app.data.iter().map(ToString::to_string).collect();
    tracing::info!(data = data.join(" "), admin = %app.admin, "listening");
    let ((stop, requested), (end, stopped)) = (sync_channel(1), oneshot::channel());
    let running = Running { gateway: app.gateway.clone(), stop, stopped };
    if report.send(Ok(running)).is_ok() {
        let _ = requested.recv();
        app.stop();
        let _ = end.send(());
    }
}

/// Starts the thread that reloads the configuration on request, one reload at a time. Each logs its result itself.
fn reloads(gateway: Arc<Gateway>) -> io::Result<SyncSender<()>> {
    let (sender, requests): (_, Receiver<()>) = sync_channel(1);
    thread::Builder::new().name("reload".to_owned()).spawn(move || {
        while requests.recv().is_ok() {
            let _ = gateway.reload();
        }
    })?;
    Ok(sender)
}

/// Notifies systemd, if it started this process.
async fn notify_systemd(state: &'static str) {
    if let Err(error) = notify::notify(state).await {
        tracing::warn!(%error, "systemd could not be notified");
    }
}

fn print_error(error: &LoadError) {
    output::error(error);
    if let LoadError::Invalid { errors, .. } = error {
        errors.iter().for_each(output::message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_that_hangs_ends_within_two_seconds_of_the_drain() {
        let drain = Duration::from_secs(60);
        assert!(longest_stop(drain) < drain + Duration::from_secs(2));
    }
}
