//! `run`: runs the gateway until a signal.

use std::{io, path::PathBuf};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use super::{FAILED, WRONG, notify, output};
use crate::{
    app::App,
    files::configuration::{LoadError, load},
    inspect,
    record::{UNLIMITED, init_program_log},
};

/// Run the gateway
///
/// Exits with an error before listening if the configuration has an error. SIGTERM and SIGINT drain and exit 0; a
/// second signal exits at once. SIGHUP, or a change of the file, reloads the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fastrac-gateway run --config /etc/fastrac-gateway/gateway.toml")]
pub(super) struct RunArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "FASTRAC_GATEWAY_CONFIG")]
    config: PathBuf,
}

pub(super) fn run(arguments: &RunArgs) -> io::Result<u8> {
    init_program_log();
    // Files are read before anything listens, and every error is printed, as `check` prints it.
    let loaded = load(&arguments.config).and_then(|loaded| match inspect::required(&loaded.config, &loaded.lines) {
        errors if errors.is_empty() => Ok(loaded),
        errors => Err(LoadError::Invalid { path: arguments.config.clone(), errors }),
    });
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            print_error(&error);
            return Ok(WRONG);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!(target: UNLIMITED, "{warning}");
    }
    let app = match App::start(loaded.config, Some(arguments.config.clone())) {
        Ok(app) => app,
        Err(error) => {
            output::error(&error);
            return Ok(if error.is_configuration() { WRONG } else { FAILED });
        }
    };
    let data: Vec<_> = app.data.iter().map(ToString::to_string).collect();
    tracing::info!(data = data.join(" "), admin = %app.admin, "listening");
    live(app)
}

/// Runs until a signal, then drains; a second signal exits at once.
pub(super) fn live(app: App) -> io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        notify_systemd("READY=1");
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = hangup.recv() => {
                    // Logs its result itself.
                    let _ = app.gateway.reload();
                }
            }
        }
        tracing::info!("draining");
        notify_systemd("STOPPING=1");
        let (done, ended) = oneshot::channel();
        std::thread::spawn(move || {
            app.stop();
            let _ = done.send(());
        });
        tokio::select! {
            _ = ended => Ok(0),
            _ = term.recv() => Ok(FAILED),
            _ = int.recv() => Ok(FAILED),
        }
    })
}

/// Notifies systemd, if it started this process.
fn notify_systemd(state: &str) {
    if let Err(error) = notify::notify(state) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}

fn print_error(error: &LoadError) {
    output::error(error);
    if let LoadError::Invalid { errors, .. } = error {
        errors.iter().for_each(output::message);
    }
}
