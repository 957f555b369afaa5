//! `state`: copies the state store of a running gateway, and says whether a state folder can be used and what is in it.

use std::{
    fs::{self, OpenOptions},
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

/// Copy the state store, or check a state folder
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
    /// Make a consistent copy of the state store while the gateway runs
    #[command(after_help = "The copy is a state.redb: to use it, stop the gateway and put it into state.dir.
The command sends the admin token from --token-file or FASTRAC_GATEWAY_ADMIN_TOKEN.
Example: fastrac-gateway state backup state.redb --admin http://127.0.0.1:9464")]
    Backup {
        /// The new file; an existing one is not overwritten
        file: PathBuf,
        #[command(flatten)]
        remote: AdminClient,
    },
    /// Say whether the store in a state folder can be opened, and what is in it; changes nothing
    #[command(after_help = "Exits 0 if a gateway can use the folder, else 1.
Example: fastrac-gateway state check /var/lib/fastrac-gateway")]
    Check {
        /// state.dir; a gateway may be using it
        dir: PathBuf,
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
        StateCommand::Check { dir } => check(dir),
        StateCommand::ForgetEndedOrders { dir } => Ok(forget_ended_orders(dir)),
    }
}

fn backup(file: &Path, remote: &AdminClient) -> u8 {
    if file.exists() {
        output::error(format_args!("{} exists and is not overwritten", file.display()));
        return WRONG;
    }
    let copied = match remote.download("/state/backup") {
        Ok(copied) => copied,
        Err(error) => return error.report(),
    };
    match write(file, &copied) {
        Ok(()) => {
            output::message(format_args!("{}: {} bytes", file.display(), copied.len()));
            0
        }
        Err(error) => AdminClientError::Failed(format!("{}: {error}", file.display())).report(),
    }
}

/// Under another name first, so that the file is whole or absent.
fn write(file: &Path, copied: &[u8]) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    out.write_all(copied)?;
    out.sync_all()?;
    fs::hard_link(&part, file)?;
    fs::remove_file(&part)
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

fn check(dir: &Path) -> io::Result<u8> {
    let has_archive = store::exists(dir, StoreKind::ORDERS);
    let archived = if has_archive { store::inspect(dir, StoreKind::ORDERS).map(Some) } else { Ok(None) };
    let (tables, archived) = match store::inspect(dir, StoreKind::STATE).and_then(|tables| Ok((tables, archived?))) {
        Ok(read) => read,
        Err(error) => {
            output::error(error);
            return Ok(FAILED);
        }
    };
    let marks = match ledger::inspect(dir) {
        Ok(marks) => marks,
        Err(error) => {
            output::error(format_args!("the file of day marks: {error}"));
            return Ok(FAILED);
        }
    };
    output::print(|out| {
        writeln!(out, "state store: can be opened")?;
        for store::TableSummary { name, rows, bytes } in &tables {
            writeln!(out, "  {name}: {rows} rows, {bytes} bytes")?;
        }
        match &archived {
            None => writeln!(out, "archive of ended orders: none")?,
            Some(_) => writeln!(out, "archive of ended orders: can be opened")?,
        }
        for store::TableSummary { name, rows, bytes } in archived.iter().flatten() {
            writeln!(out, "  {name}: {rows} rows, {bytes} bytes")?;
        }
        match &marks {
            None => writeln!(out, "day marks: none; the day counts are those of the state store"),
            Some(marks) if !marks.is_readable => {
                writeln!(out, "day marks: unreadable; the day counts are those of the state store")
            }
            Some(marks) => writeln!(out, "day marks: {} counts, {} damaged", marks.counts, marks.damaged),
        }
    })?;
    Ok(0)
}
