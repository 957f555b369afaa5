//! The program's own log stops nothing, whatever the reader of its stderr does: requests, health, reload and the end
//! of the process do not wait for it, and what it does not take is counted and reported.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use fastrac_sandbox::Sandbox;

use crate::{
    client::{Connection, get},
    test_gateway::{ACCESS, SECRET, digest_of, pair, sandbox, sum, until, write},
};

/// A running program; what it writes to stderr is read only when a test reads it.
struct LoggingProgram {
    child: Child,
    /// `None`: closed.
    stderr: Option<BufReader<ChildStderr>>,
    data: SocketAddr,
    admin: SocketAddr,
    folder: tempfile::TempDir,
    _sandbox: Sandbox,
}

impl Drop for LoggingProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command that runs the program with this configuration.
fn command(folder: &Path, configuration: &str) -> Command {
    write(&folder.join("keys.toml"), &pair(ACCESS, SECRET));
    fs::write(folder.join("gateway.toml"), configuration).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
    command.args(["run", "--config"]).arg(folder.join("gateway.toml")).env("NO_COLOR", "1");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl LoggingProgram {
    fn start() -> LoggingProgram {
        let sandbox = Sandbox::start(sandbox()).expect("a sandbox");
        let folder = tempfile::tempdir().expect("a folder");
        let configuration = format!(
            "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n[limits]\ndrain_grace = \"0s\"\ndrain = \"5s\"\n\
             [accounts.main]\nbase_url = \"http://{}\"\nkeys = {{ source = \"file\", path = \"keys.toml\" }}\n\
             [services.shop]\naccount = \"main\"\nquota = {{ per_second = 100000, burst = 100000 }}\n\
             credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
            sandbox.addr(),
            digest_of("shop")
        );
        let mut child = command(folder.path(), &configuration).spawn().expect("started");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let listening = line_with(&mut stderr, "listening");
        let address = |port: &str| listening[port].as_str().expect("an address").parse().expect("an address");
        let (data, admin) = (address("data"), address("admin"));
        LoggingProgram { child, stderr: Some(stderr), data, admin, folder, _sandbox: sandbox }
    }

    fn dropped(&self) -> f64 {
        sum(&self.admin("/metrics"), "program_log_lines_dropped_total", &[])
    }

    fn admin(&self, page: &str) -> String {
        let response = Connection::open(self.admin).send(&get(page).header("host", "localhost"));
        assert_eq!(response.status, 200, "{page}");
        response.text()
    }

    fn serves(&self) {
        let response = Connection::open(self.data).send(&get("/region/province").by("shop"));
        assert_eq!(response.status, 200, "{}", response.text());
    }

    /// Reloads a configuration with twenty long errors, each of which is a line, until lines of the log are dropped.
    fn fill(&self) {
        let faults: String = (0..20).map(|n| format!("unknown{n}{} = 1\n", "x".repeat(20_000))).collect();
        fs::write(self.folder.path().join("gateway.toml"), faults).expect("written");
        let before = self.dropped();
        until("pipe and queue are full", || {
            self.signal("-HUP");
            self.dropped() > before
        });
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill");
        assert!(done.success());
    }

    fn line_with(&mut self, message: &str) -> serde_json::Value {
        line_with(self.stderr.as_mut().expect("open"), message)
    }

    fn ends(&mut self, within: Duration) -> ExitStatus {
        ends(&mut self.child, within)
    }
}

fn ends(child: &mut Child, within: Duration) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        assert!(began.elapsed() < within, "still there after {within:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads up to the line with this message.
fn line_with(stderr: &mut BufReader<ChildStderr>, message: &str) -> serde_json::Value {
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).expect("readable") > 0, "the program ended");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if line["message"].as_str().is_some_and(|text| text.starts_with(message)) {
            return line;
        }
    }
}

#[test]
fn a_stderr_that_nobody_reads_stops_nothing_and_what_was_lost_is_reported() {
    let mut program = LoggingProgram::start();
    program.fill();
    program.serves();
    program.admin("/livez");
    // When the reader takes lines again, one says how many were lost.
    let lost = program.line_with("lines of this log were lost");
    assert!(lost["lines"].as_u64().is_some_and(|lines| lines > 0), "{lost}");
    program.fill();
    let began = Instant::now();
    program.signal("-TERM");
    assert_eq!(program.ends(Duration::from_secs(5)).code(), Some(0));
    // The drain had nothing to wait for, and the log's reader is not waited for either.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn a_closed_stderr_stops_nothing() {
    let mut program = LoggingProgram::start();
    program.stderr = None;
    program.fill();
    program.serves();
    program.admin("/livez");
    program.signal("-TERM");
    assert_eq!(program.ends(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn the_last_lines_are_written_before_the_process_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = command(folder.path(), "unknown = 1\nstrange = 2\n").output().expect("started");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("unknown") && text.contains("strange"), "{text}");
    let mut program = LoggingProgram::start();
    program.signal("-TERM");
    program.line_with("draining");
    assert_eq!(program.ends(Duration::from_secs(5)).code(), Some(0));
}
