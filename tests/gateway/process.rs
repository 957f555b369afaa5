//! The gateway as a process of its own, for what only a whole process has: its memory and its open files.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use crate::test_gateway::{pair, until, write};

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
        let folder = tempfile::tempdir().expect("a folder");
        write(&folder.path().join("keys.toml"), &pair(access, secret));
        let file = folder.path().join("gateway.toml");
        fs::write(&file, configuration).expect("written");
        // `tests/run` sets this to the release binary.
        let binary = std::env::var("FASTRAC_GATEWAY").ok().filter(|path| Path::new(path).exists());
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_fastrac-gateway").to_owned());
        let mut child = Command::new(binary)
            .args(["run", "--config"])
            .arg(&file)
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let stderr_lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (own, stderr) = (stderr_lines.clone(), child.stderr.take().expect("a pipe"));
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                own.lock().expect("whole").push(line);
            }
        });
        let (data, admin) = addresses(&stderr_lines);
        Program { child, data, admin, stderr_lines, folder }
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
