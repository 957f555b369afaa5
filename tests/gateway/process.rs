//! The gateway as a process of its own, for what only a whole process has: its memory, its open files, its limits
//! and its end.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    client::{Connection, Response, get},
    test_gateway::{pair, until, write},
};

/// A running gateway process; it is killed when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Lines that it has written to stderr so far.
    pub(crate) stderr_lines: Arc<Mutex<Vec<String>>>,
    folder: tempfile::TempDir,
}

impl Program {
    /// Starts a process with this configuration and key pair, both in a temporary folder.
    pub(crate) fn start(configuration: &str, access: &str, secret: &str) -> Program {
        Program::start_as(configuration, (access, secret), |_| {})
    }

    /// The same, with a changed command.
    pub(crate) fn start_as(configuration: &str, keys: (&str, &str), change: impl FnOnce(&mut Command)) -> Program {
        let mut program = Program::begin(configuration, keys, change);
        program.wait_for_start();
        program
    }

    /// The same, without waiting until it has started.
    pub(crate) fn begin(configuration: &str, keys: (&str, &str), change: impl FnOnce(&mut Command)) -> Program {
        let folder = tempfile::tempdir().expect("a folder");
        write(&folder.path().join("keys.toml"), &pair(keys.0, keys.1));
        fs::write(folder.path().join(CONFIG), configuration).expect("written");
        let mut command = command(folder.path());
        change(&mut command);
        let (child, stderr_lines) = spawn(&mut command);
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        Program { child, data: none, admin: none, stderr_lines, folder }
    }

    /// Waits until it listens.
    pub(crate) fn wait_for_start(&mut self) {
        (self.data, self.admin) = addresses(&self.stderr_lines);
    }

    /// Whether it has handlers for SIGHUP, SIGINT and SIGTERM.
    pub(crate) fn catches_signals(&self) -> bool {
        let status = fs::read_to_string(self.proc("status")).expect("running");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
        let wanted =
            [Signal::HUP, Signal::INT, Signal::TERM].iter().fold(0, |mask, signal| mask | 1 << (signal.as_raw() - 1));
        u64::from_str_radix(caught.trim(), 16).expect("hexadecimal") & wanted == wanted
    }

    /// Fetches a page of the admin port.
    pub(crate) fn admin_page(&self, page: &str) -> Response {
        Connection::open(self.admin).send(&get(page).header("host", "localhost"))
    }

    /// Starts it again on the same folder, once it has ended.
    pub(crate) fn start_again(&mut self) {
        self.start_again_as(|_| {});
    }

    /// The same, with a changed command.
    pub(crate) fn start_again_as(&mut self, change: impl FnOnce(&mut Command)) {
        self.begin_again_as(change);
        self.wait_for_start();
    }

    /// The same, without waiting until it has started.
    pub(crate) fn begin_again_as(&mut self, change: impl FnOnce(&mut Command)) {
        let mut command = command(self.folder.path());
        change(&mut command);
        (self.child, self.stderr_lines) = spawn(&mut command);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(&self.child, signal);
    }

    /// Waits for its end; panics if it is still there after `within`.
    pub(crate) fn ends(&mut self, within: Duration) -> ExitStatus {
        ends(&mut self.child, within).unwrap_or_else(|| panic!("still there after {within:?}: {}", self.stderr()))
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr_lines.lock().expect("whole").join("\n")
    }

    /// A file in its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the key pair in its key file.
    pub(crate) fn rotate(&self, access: &str, secret: &str) {
        write(&self.folder.path().join("keys.toml"), &pair(access, secret));
    }

    /// Path of a file under `/proc` about this process.
    pub(crate) fn proc(&self, what: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(what)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// File name of the configuration.
pub(crate) const CONFIG: &str = "gateway.toml";

/// The command that runs the gateway with the configuration in a folder.
pub(crate) fn command(folder: &Path) -> Command {
    // `tests/run` sets this to the release binary.
    let binary = std::env::var("FASTRAC_GATEWAY").ok().filter(|path| Path::new(path).exists());
    let mut command = Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_fastrac-gateway").to_owned()));
    command.args(["run", "--config"]).arg(folder.join(CONFIG)).env("NO_COLOR", "1");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Starts a process, and collects what it writes to stderr.
fn spawn(command: &mut Command) -> (Child, Arc<Mutex<Vec<String>>>) {
    let mut child = command.spawn().expect("started");
    let stderr_lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let (own, stderr) = (stderr_lines.clone(), child.stderr.take().expect("a pipe"));
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            own.lock().expect("whole").push(line);
        }
    });
    (child, stderr_lines)
}

pub(crate) fn send_signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("sent");
}

/// Waits for the end of a process. `None`: it is still there after `within`.
pub(crate) fn ends(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        match child.try_wait().expect("a child") {
            Some(status) => return Some(status),
            None if Instant::now() > deadline => return None,
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Reads the data and admin addresses from the start-up log line.
fn addresses(stderr_lines: &Mutex<Vec<String>>) -> (SocketAddr, SocketAddr) {
    let mut found = None;
    until("the program logs its addresses", || {
        let stderr_lines = stderr_lines.lock().expect("whole");
        let mut lines = stderr_lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let at = |line: &serde_json::Value, port: &str| line[port].as_str()?.parse().ok();
        found = lines
            .find(|line| line["message"] == "listening")
            .and_then(|line| Some((at(&line, "data")?, at(&line, "admin")?)));
        found.is_some()
    });
    found.expect("addresses")
}
