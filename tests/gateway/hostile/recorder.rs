//! What stands where Fastrac would: answers every request alike, and keeps what it received, read
//! strictly.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::strict::{self, Read, Request};

/// What was received: a request, or why it is none and its bytes.
pub(crate) type Received = Result<Request, String>;

/// A server that runs as long as the test.
#[derive(Clone)]
pub(crate) struct Recorder {
    pub(crate) addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 48\r\n\r\n\
    {\"success\":true,\"message\":\"ok\",\"data\":[{\"a\":1}]}";

impl Recorder {
    /// On a free port, or on the given one.
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
                    // Every byte that came counts, also of what never became a request.
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

    /// Takes what was received so far.
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock().expect("whole"))
    }

    /// How much was received and not taken.
    pub(crate) fn count(&self) -> usize {
        self.received.lock().expect("whole").len()
    }
}
