//! A Fastrac that answers some requests with the bytes of a case, and all others correctly.
//!
//! Requests are told apart by the number in their query. What it keeps is which connection each of them came on.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, LazyLock, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;

use super::case::{self, Act, Begin, ResponseCase};
use crate::client::find;

/// The server; it runs until the process ends.
#[derive(Clone)]
pub(super) struct HostileFastrac {
    pub(super) addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The cases with which requests are answered, by their number.
    cases: HashMap<u64, Arc<ResponseCase>>,
    /// What is sent on each connection when it opens.
    early: Option<Arc<ResponseCase>>,
    served: Vec<Served>,
    /// Open connections.
    sockets: HashMap<usize, TcpStream>,
    connections: usize,
}

/// A request that was answered, or is being answered.
struct Served {
    number: u64,
    connection: usize,
    done: bool,
}

/// What follows on a connection.
#[derive(PartialEq, Eq)]
enum Next {
    Request,
    End,
}

impl HostileFastrac {
    /// Starts at this address; port 0 takes a free one.
    pub(super) fn start(addr: &str) -> HostileFastrac {
        let listener = TcpListener::bind(addr).expect("a port");
        let fastrac = HostileFastrac { addr: listener.local_addr().expect("an address"), state: Arc::default() };
        let own = fastrac.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                thread::spawn(move || own.serve(stream));
            }
        });
        fastrac
    }

    /// From now on, requests with this number are answered with this case.
    pub(super) fn answer(&self, number: u64, case: &Arc<ResponseCase>) {
        if case.begin == Begin::Early {
            self.state().early = Some(case.clone());
            // A connection that is already open would be used.
            self.disconnect();
        } else {
            self.state().cases.insert(number, case.clone());
        }
    }

    /// Ends all connections.
    pub(super) fn disconnect(&self) {
        self.state().sockets.values().for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
    }

    /// From now on, requests with this number are answered correctly.
    pub(super) fn answer_correctly(&self, number: u64) {
        let mut state = self.state();
        state.early = None;
        state.cases.remove(&number);
    }

    /// Waits until everything that was to be sent to requests with this number has been sent, or its connection has
    /// ended; false if that takes longer than `wait`.
    pub(super) fn ends(&self, number: u64, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let open = |served: &Served| [0, number].contains(&served.number) && !served.done;
        while self.state().served.iter().any(open) {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// The first request that came on a connection after the one with this number.
    pub(super) fn follower_of(&self, number: u64) -> Option<u64> {
        let state = self.state();
        let at = |wanted: &Served| state.served.iter().position(|served| std::ptr::eq(served, wanted));
        let hostile = state.served.iter().filter(|served| served.number == number);
        let mut followers = hostile.filter_map(|own| {
            let later = state.served.iter().skip(at(own)? + 1);
            later.filter(|later| later.connection == own.connection).map(|later| later.number).next()
        });
        followers.next()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("whole")
    }

    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (connection, early) = {
            let mut state = self.state();
            state.connections += 1;
            let connection = state.connections;
            state.sockets.insert(connection, stream.try_clone().expect("cloned"));
            (connection, state.early.clone())
        };
        if let Some(case) = &early {
            self.begin(0, connection);
            let next = perform(&mut stream, case, 0);
            self.done(0, connection);
            if next == Next::End {
                self.state().sockets.remove(&connection);
                return;
            }
        }
        let mut reader = RequestReader { swallowed: early.is_none(), ..RequestReader::default() };
        while let Some((number, length)) = reader.head(&mut stream) {
            if self.request(&mut stream, &mut reader, Request { number, length, connection }) == Next::End {
                break;
            }
        }
        self.state().sockets.remove(&connection);
    }

    fn request(&self, stream: &mut TcpStream, reader: &mut RequestReader, request: Request) -> Next {
        let Request { number, length, connection } = request;
        if !std::mem::replace(&mut reader.swallowed, true) {
            // It has been answered already.
            return if reader.body(stream, length) { Next::Request } else { Next::End };
        }
        let case = self.state().cases.get(&number).cloned();
        self.begin(number, connection);
        let before_body = case.as_ref().is_some_and(|case| case.begin == Begin::Head);
        let mut next = Next::Request;
        if before_body || reader.body(stream, length) {
            next = match &case {
                Some(case) => perform(stream, case, number),
                None => written(stream, &case::correct(number)),
            };
        }
        self.done(number, connection);
        if next == Next::Request && before_body && !reader.body(stream, length) {
            next = Next::End;
        }
        next
    }

    fn begin(&self, number: u64, connection: usize) {
        self.state().served.push(Served { number, connection, done: false });
    }

    fn done(&self, number: u64, connection: usize) {
        let mut state = self.state();
        let own = |served: &&mut Served| served.number == number && served.connection == connection;
        state.served.iter_mut().filter(own).for_each(|served| served.done = true);
    }
}

/// A request whose head has been read.
#[derive(Clone, Copy)]
struct Request {
    number: u64,
    /// Of its body, in bytes.
    length: usize,
    connection: usize,
}

#[derive(Default)]
struct RequestReader {
    buffer: Vec<u8>,
    /// Whether the request that belongs to an early response has been read, or there is none.
    swallowed: bool,
}

impl RequestReader {
    /// The number in a request's query, 0 if there is none, and the length of its body.
    fn head(&mut self, stream: &mut TcpStream) -> Option<(u64, usize)> {
        let end = loop {
            match find(&self.buffer, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more(stream).then_some(())?,
            }
        };
        let head = String::from_utf8_lossy(&self.buffer.drain(..end).collect::<Vec<u8>>()).to_lowercase();
        let number = |after: &str| {
            let digits = head.split(after).nth(1)?.chars().take_while(char::is_ascii_digit).collect::<String>();
            digits.parse::<usize>().ok()
        };
        Some((number("?n=").unwrap_or(0) as u64, number("content-length: ").unwrap_or(0)))
    }

    /// Reads a body; false if the connection ends before.
    fn body(&mut self, stream: &mut TcpStream, length: usize) -> bool {
        while self.buffer.len() < length {
            if !self.more(stream) {
                return false;
            }
        }
        self.buffer.drain(..length);
        true
    }

    fn more(&mut self, stream: &mut TcpStream) -> bool {
        let mut piece = [0; 64 * 1024];
        match stream.read(&mut piece) {
            Ok(read) if read > 0 => {
                self.buffer.extend_from_slice(&piece[..read]);
                true
            }
            _ => false,
        }
    }
}

fn perform(stream: &mut TcpStream, case: &ResponseCase, number: u64) -> Next {
    for act in &case.acts {
        let next = match act {
            Act::Send(bytes) => written(stream, &case::numbered(bytes, number)),
            Act::Drip(bytes, pause) => drip(stream, &case::numbered(bytes, number), *pause),
            Act::Endless(bytes) => {
                let many = bytes.repeat((256 * 1024 / bytes.len()).max(1));
                while written(stream, &many) == Next::Request {}
                Next::End
            }
            Act::Wait(pause) => {
                thread::sleep(*pause);
                Next::Request
            }
            Act::Close => {
                let _ = stream.shutdown(Shutdown::Both);
                Next::End
            }
            Act::Reset => {
                reset(stream);
                Next::End
            }
        };
        if next == Next::End {
            return Next::End;
        }
    }
    Next::Request
}

fn written(stream: &mut TcpStream, bytes: &[u8]) -> Next {
    if stream.write_all(bytes).is_ok() { Next::Request } else { Next::End }
}

fn drip(stream: &mut TcpStream, bytes: &[u8], pause: Duration) -> Next {
    for byte in bytes {
        if written(stream, &[*byte]) == Next::End {
            return Next::End;
        }
        if pause.is_zero() {
            thread::yield_now();
        } else {
            thread::sleep(pause);
        }
    }
    Next::Request
}

/// Closes with RST. The standard library cannot set a linger time, tokio can.
fn reset(stream: &TcpStream) {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime"));
    let _context = RUNTIME.enter();
    let own = stream.try_clone().expect("cloned");
    own.set_nonblocking(true).expect("set");
    tokio::net::TcpStream::from_std(own).expect("a stream").set_zero_linger().expect("set");
}
