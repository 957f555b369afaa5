//! Faults of the system under a gateway process: `system_faults.c` is preloaded into it, and files switch the faults on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    process::Program,
    test_gateway::{ACCESS, SECRET, until},
};

/// The faults, each of which lasts as long as its file exists.
pub(crate) struct SystemFaults {
    folder: tempfile::TempDir,
}

impl SystemFaults {
    pub(crate) fn new() -> SystemFaults {
        let folder = tempfile::tempdir().expect("a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/system_faults.c");
        let library = folder.path().join("faults.so");
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
        assert!(compiled.expect("the C compiler that Rust links with").success());
        SystemFaults { folder }
    }

    /// Starts a gateway under them, and waits until it has a key pair.
    pub(crate) fn start(&self, configuration: &str) -> Program {
        let program = Program::start_as(configuration, (ACCESS, SECRET), |command| self.preload(command));
        has_pair(&program);
        program
    }

    /// Starts a gateway that has ended, in the same way.
    pub(crate) fn start_again(&self, program: &mut Program) {
        program.start_again_as(|command| self.preload(command));
        has_pair(program);
    }

    pub(crate) fn preload(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.folder.path().join("faults.so"));
        command.env("HANG_DISK", self.disk()).env("HANG_NAMES", self.names());
        command.env("HANG_OPEN", self.key_file()).env("HANG_NAME", "keys.toml");
        command.env("FULL_DISK", self.full_disk()).env("KILL_WRITE", self.killed_write());
        command.env("FULL_STORE", self.full_store()).env("CLOCK_AHEAD", self.clock_ahead());
        command.env("SUSPENDED", self.suspended());
        command.env("HANG_FILES", self.files()).env("HANG_ARCHIVE", self.archive());
        command.env("HANG_AUDIT", self.audit()).env("HANG_METADATA", self.metadata());
        command.env("HANG_LOOKUPS", self.lookups());
        command.env("FULL_ARCHIVE", self.full_archive()).env("KILL_ARCHIVE", self.killed_archive());
    }

    /// Syncing a file hangs.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// All that is done with files in the state folder hangs.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// Lookups in the archive of orders hang.
    pub(crate) fn lookups(&self) -> PathBuf {
        self.folder.path().join("lookups")
    }

    /// Writing the archive of orders hangs.
    pub(crate) fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    /// The archive of orders finds no room on the disk.
    pub(crate) fn full_archive(&self) -> PathBuf {
        self.folder.path().join("full-archive")
    }

    /// The process is killed when half of a write to the archive of orders is done: the one of the number in the file.
    pub(crate) fn killed_archive(&self) -> PathBuf {
        self.folder.path().join("killed-archive")
    }

    /// Name lookups hang.
    pub(crate) fn names(&self) -> PathBuf {
        self.folder.path().join("names")
    }

    /// The metadata of the file or folder hangs whose path ends like the text in the file.
    pub(crate) fn metadata(&self) -> PathBuf {
        self.folder.path().join("metadata")
    }

    /// The call of the audit log that is named in the file hangs: `open`, `stat` or `write`.
    pub(crate) fn audit(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    /// Opening the key file hangs.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.path().join("key-file")
    }

    /// Logs find no room on the disk.
    pub(crate) fn full_disk(&self) -> PathBuf {
        self.folder.path().join("full-disk")
    }

    /// The wall clock is two hours ahead.
    pub(crate) fn clock_ahead(&self) -> PathBuf {
        self.folder.path().join("clock-ahead")
    }

    fn suspended(&self) -> PathBuf {
        self.folder.path().join("suspended")
    }

    /// The machine was suspended for so long in all since the start of the gateway: wall clock and uptime have counted it, the
    /// monotonic clock has not.
    pub(crate) fn suspend(&self, total: Duration) {
        // Replaced as a whole: the gateway reads it at any time.
        let new = self.folder.path().join("suspended-new");
        fs::write(&new, total.as_secs().to_string()).expect("written");
        fs::rename(&new, self.suspended()).expect("renamed");
    }

    /// The state store finds no room on the disk.
    pub(crate) fn full_store(&self) -> PathBuf {
        self.folder.path().join("full-store")
    }

    /// The process is killed when half of a write to a log is done.
    pub(crate) fn killed_write(&self) -> PathBuf {
        self.folder.path().join("killed-write")
    }
}

pub(crate) fn begin(fault: &Path) {
    fs::write(fault, "").expect("written");
}

pub(crate) fn end(fault: &Path) {
    fs::remove_file(fault).expect("removed");
}

fn has_pair(program: &Program) {
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
}
