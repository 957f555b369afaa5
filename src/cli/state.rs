//! `state`: copies the stores of a running gateway, and says whether a state folder or a copy can be used and what is in it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use super::{
    FAILED, WRONG, output,
    remote::{AdminClient, AdminClientError},
};
use crate::{
    ledger, orders,
    store::{self, StoreKind},
};

/// Copy the stores of a gateway, or check them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fastrac-gateway state backup /backup/state.redb --admin http://127.0.0.1:9464 --token-file admin.token
  fastrac-gateway state check /var/lib/fastrac-gateway")]
pub(super) struct StateArgs {
    #[command(subcommand)]
    command: StateCommand,
}

#[derive(Debug, Subcommand)]
enum StateCommand {
    /// Make a consistent copy of both stores while the gateway runs
    #[command(
        after_help = "FILE is a state.redb, and FILE.orders the orders.redb that belongs to it: to use the copy, stop the
gateway and put both into state.dir under these names. What is missing then is what came after the copy.
The command sends the admin token from --token-file or FASTRAC_GATEWAY_ADMIN_TOKEN.
Example: fastrac-gateway state backup state.redb --admin http://127.0.0.1:9464"
    )]
    Backup {
        /// The new file; an existing one is not overwritten, nor one with `.orders` added to its name
        file: PathBuf,
        #[command(flatten)]
        remote: AdminClient,
    },
    /// Say whether the stores in a state folder, or a copy of them, can be opened, and what is in them; changes nothing
    #[command(after_help = "Reads everything, which may take minutes. Exits 0 if a gateway can use them, else 1.
Examples:
  fastrac-gateway state check /var/lib/fastrac-gateway
  fastrac-gateway state check /backup/state.redb")]
    Check {
        /// state.dir, which a gateway may be using, or the FILE of `state backup`
        #[arg(value_name = "DIR")]
        path: PathBuf,
    },
    /// Let a gateway start although orders.redb is lost: the ended orders in it are forgotten
    #[command(
        after_help = "Stop the gateway first. Compare with Fastrac before callers repeat orders: a repeat of an ended
order is sent again. Orders whose outcome is unknown are kept.
Example: fastrac-gateway state forget-ended-orders /var/lib/fastrac-gateway"
    )]
    ForgetEndedOrders {
        /// state.dir; no gateway may be using it
        dir: PathBuf,
    },
}

pub(super) fn run(arguments: &StateArgs) -> io::Result<u8> {
    match &arguments.command {
        StateCommand::Backup { file, remote } => Ok(backup(file, remote)),
        StateCommand::Check { path } => check(path),
        StateCommand::ForgetEndedOrders { dir } => Ok(forget_ended_orders(dir)),
    }
}

/// The archive that belongs to the state store in a file.
fn orders_of(file: &Path) -> PathBuf {
    with_suffix(file, ".orders")
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    file.with_file_name(name)
}

fn backup(file: &Path, remote: &AdminClient) -> u8 {
    let archive = orders_of(file);
    if let Some(exists) = [file, &archive].into_iter().find(|file| file.exists()) {
        output::error(format_args!("{} exists and is not overwritten", exists.display()));
        return WRONG;
    }
    // In this order: an order that moves meanwhile is in both.
    let copied = Download::make(file, "/state/backup", remote)
        .and_then(|state| Ok((state, Download::make(&archive, "/state/backup?store=orders", remote)?)));
    // The state store last: if it is there, so is all that belongs to it.
    let kept = copied.and_then(|(state, archive)| {
        archive.keep()?;
        state.keep()?;
        Ok((state.bytes, archive.bytes))
    });
    match kept {
        Ok((state, orders)) => {
            output::message(format_args!("{}: {state} bytes, to be restored as state.redb", file.display()));
            output::message(format_args!("{}: {orders} bytes, to be restored as orders.redb", archive.display()));
            0
        }
        Err(error) => error.report(),
    }
}

/// A copy under another name, so that the file itself is whole or absent. Removed when dropped.
struct Download<'a> {
    file: &'a Path,
    part: PathBuf,
    bytes: u64,
}

impl<'a> Download<'a> {
    fn make(file: &'a Path, path: &str, remote: &AdminClient) -> Result<Self, AdminClientError> {
        let mut download = Download { file, part: with_suffix(file, ".part"), bytes: 0 };
        let mut to = download.create().map_err(|error| download.failed(&error))?;
        download.bytes = remote.download(path, &mut to)?;
        to.sync_all().map_err(|error| download.failed(&error))?;
        Ok(download)
    }

    fn create(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.part)
    }

    fn keep(&self) -> Result<(), AdminClientError> {
        fs::hard_link(&self.part, self.file).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> AdminClientError {
        AdminClientError::Failed(format!("{}: {error}", self.file.display()))
    }
}

impl Drop for Download<'_> {
    fn drop(&mut self) {
        // It may never have been created.
        let _ = fs::remove_file(&self.part);
    }
}

fn forget_ended_orders(dir: &Path) -> u8 {
    let forgotten = if store::exists(dir, StoreKind::STATE) { orders::forget_archive(dir) } else { Ok(()) };
    match forgotten {
        Ok(()) => {
            output::message(format_args!("the ended orders of {} are forgotten", dir.display()));
            0
        }
        Err(error) => {
            output::error(error);
            FAILED
        }
    }
}

fn check(path: &Path) -> io::Result<u8> {
    let is_folder = path.is_dir();
    let files = if is_folder {
        (StoreKind::STATE.file(path), StoreKind::ORDERS.file(path))
    } else {
        (path.to_owned(), orders_of(path))
    };
    let summaries = match orders::inspect(&files.0, &files.1) {
        Ok(read) => read,
        Err(error) => {
            output::error(error);
            return Ok(FAILED);
        }
    };
    let marks = match if is_folder { ledger::inspect(path) } else { Ok(None) } {
        Ok(marks) => marks,
        Err(error) => {
            output::error(format_args!("the file of day marks: {error}"));
            return Ok(FAILED);
        }
    };
    output::print(|out| {
        writeln!(out, "state store: can be opened")?;
        for store::TableSummary { name, rows, bytes } in &summaries.state {
            writeln!(out, "  {name}: {rows} rows, {bytes} bytes")?;
        }
        match &summaries.archive {
            None => writeln!(out, "archive of ended orders: none, and none is needed")?,
            Some(_) => writeln!(out, "archive of ended orders: can be opened, and belongs to the state store")?,
        }
        for store::TableSummary { name, rows, bytes } in summaries.archive.iter().flatten() {
            writeln!(out, "  {name}: {rows} rows, {bytes} bytes")?;
        }
        match &marks {
            None if !is_folder => Ok(()),
            None => writeln!(out, "day marks: none; the day counts are those of the state store"),
            Some(marks) if !marks.is_readable => {
                writeln!(out, "day marks: unreadable; the day counts are those of the state store")
            }
            Some(marks) => writeln!(out, "day marks: {} counts, {} damaged", marks.counts, marks.damaged),
        }
    })?;
    Ok(0)
}
