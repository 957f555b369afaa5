//! An upstream that answers every request with the same response and records what it received, parsed
//! strictly.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::strict::{self, Read, Request};

/// A received request, or the reason why the bytes are not one.
pub(crate) type Received = Result<Request, String>;

/// The server; it runs until the process ends.
#[derive(Clone)]
pub(crate) struct Recorder {
    pub(crate) addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 48\r\n\r\n\
    {\"success\":true,\"message\":\"ok\",\"data\":[{\"a\":1}]}";

impl Recorder {
    /// Starts at this address; port 0 takes a free one.
    pub(crate) fn start(addr: &str) -> Recorder {
        let listener = TcpListener::bind(addr).expect("a port");
        let recorder = Recorder { addr: listener.local_addr().expect("an address"), received: Arc::default() };
        let own = recorder.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                thread::spawn(move || own.serve(stream));
            }
        });
        recorder
    }

    fn serve(&self, mut stream: TcpStream) {
        let (mut buffer, mut piece) = (Vec::new(), [0; 64 * 1024]);
        let _ = stream.set_nodelay(true);
        loop {
            match strict::read(&buffer) {
                Read::Whole(request, length) => {
                    buffer.drain(..length);
                    let head = request.method == "HEAD";
                    self.received.lock().expect("whole").push(Ok(*request));
                    let end = if head { ANSWER.len() - 48 } else { ANSWER.len() };
                    if stream.write_all(&ANSWER[..end]).is_err() {
                        return;
                    }
                }
                Read::Partial => match stream.read(&mut piece) {
                    Ok(0) | Err(_) if buffer.is_empty() => return,
                    // Bytes that never became a request are recorded too.
                    Ok(0) | Err(_) => return self.violation("half a request", &buffer),
                    Ok(read) => buffer.extend_from_slice(&piece[..read]),
                },
                Read::Violation(why) => return self.violation(why, &buffer),
            }
        }
    }

    fn violation(&self, why: &str, bytes: &[u8]) {
        let shown = bytes[..bytes.len().min(500)].escape_ascii();
        self.received.lock().expect("whole").push(Err(format!("{why}: {shown}")));
    }

    /// Returns and removes everything received so far.
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock().expect("whole"))
    }

    /// Number of entries received and not taken.
    pub(crate) fn count(&self) -> usize {
        self.received.lock().expect("whole").len()
    }
}
