//! Promises of the queue before stderr.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::output::{CAPACITY, LineOutput};

/// A stderr whose reader takes nothing while it is shut, and that fails while it is closed.
#[derive(Clone, Default)]
struct Pipe(Arc<PipeState>);

#[derive(Default)]
struct PipeState {
    open: Mutex<bool>,
    opened: Condvar,
    closed: AtomicBool,
    taken: Mutex<Vec<u8>>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut open = self.0.open.lock();
        while !*open {
            self.0.opened.wait(&mut open);
        }
        if self.0.closed.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // Never more than a part.
        let part = &bytes[..bytes.len().min(1000)];
        self.0.taken.lock().extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pipe {
    fn set_open(&self, open: bool) {
        *self.0.open.lock() = open;
        self.0.opened.notify_all();
    }

    fn lines(&self) -> usize {
        self.0.taken.lock().iter().filter(|byte| **byte == b'\n').count()
    }
}

fn start() -> (&'static LineOutput, Pipe) {
    let (output, pipe): (&'static LineOutput, Pipe) = (Box::leak(Box::new(LineOutput::new())), Pipe::default());
    let target = pipe.clone();
    std::thread::spawn(move || output.run(target, Duration::from_secs(3600), || {}));
    (output, pipe)
}

#[test]
fn a_reader_that_takes_nothing_makes_nobody_wait() {
    let (output, pipe) = start();
    let (line, pushed) = (b"a line\n", 10 * CAPACITY / 7);
    let began = Instant::now();
    (0..pushed).for_each(|_| output.push(line));
    output.flush();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    pipe.set_open(true);
    // What the thread had taken, and a full queue.
    let full = CAPACITY / 7..2 * CAPACITY / 7 + 1;
    while pipe.lines() < full.start {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", pipe.lines());
        std::thread::yield_now();
    }
    output.push(b"last\n");
    while !pipe.0.taken.lock().ends_with(b"last\n") {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", pipe.lines());
        output.flush();
    }
    assert!(full.contains(&pipe.lines()), "{}", pipe.lines());
}

#[test]
fn lines_pushed_before_a_flush_are_written() {
    let (output, pipe) = start();
    pipe.set_open(true);
    for count in 1..100 {
        output.push(b"a line\n");
        output.flush();
        assert_eq!(pipe.lines(), count);
    }
}

#[test]
fn a_closed_stderr_loses_lines_and_nothing_else() {
    let (output, pipe) = start();
    pipe.set_open(true);
    pipe.0.closed.store(true, Ordering::SeqCst);
    output.push(b"lost\n");
    output.flush();
    pipe.0.closed.store(false, Ordering::SeqCst);
    output.push(b"kept\n");
    output.flush();
    assert_eq!(*pipe.0.taken.lock(), b"kept\n");
}
