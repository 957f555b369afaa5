//! Prints to stdout and stderr on a thread of its own.
//!
//! The simulator never waits for whoever reads its output: lines that are not taken are dropped, and what cannot be
//! written is no error. `println!` and `eprintln!` would panic.

use std::{
    fmt::Display,
    io::{self, Write as _},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

/// Lines that may wait to be printed.
const QUEUE: usize = 1024;
/// How long the end of the program waits for the last lines.
const END: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Printer(SyncSender<Line>);

enum Line {
    Out(String),
    Err(String),
    /// Answered when every line before it is printed.
    End(SyncSender<()>),
}

impl Printer {
    /// Starts the thread. Without one, nothing is printed.
    pub(super) fn start() -> Self {
        let (sender, lines) = sync_channel(QUEUE);
        let _ = thread::Builder::new().name("printer".to_owned()).spawn(move || print(&lines));
        Printer(sender)
    }

    pub(super) fn out(&self, text: impl Display) {
        let _ = self.0.try_send(Line::Out(format!("{text}\n")));
    }

    pub(super) fn err(&self, text: impl Display) {
        let _ = self.0.try_send(Line::Err(format!("{text}\n")));
    }

    /// Waits until all lines are printed, but not for long.
    pub(super) fn finish(&self) {
        let (done, printed) = sync_channel(1);
        if self.0.try_send(Line::End(done)).is_ok() {
            let _ = printed.recv_timeout(END);
        }
    }
}

fn print(lines: &Receiver<Line>) {
    while let Ok(line) = lines.recv() {
        let _ = match line {
            Line::Out(text) => io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()),
            Line::Err(text) => io::stderr().write_all(text.as_bytes()),
            Line::End(done) => {
                let _ = done.send(());
                Ok(())
            }
        };
    }
}
