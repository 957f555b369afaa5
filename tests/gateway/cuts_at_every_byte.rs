//! Connections that are cut at every byte of an order's request and of its response, on both legs: `sent` is never wrong,
//! and no order is executed twice. What Fastrac has executed is read from the sandbox's journal.

use std::{
    collections::{HashMap, VecDeque},
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, OnceLock},
    thread,
};

use crate::{
    client::Response,
    hostile::frames::{PREFACE, SETTINGS, frame, request_frames},
    protects_orders_without_a_key::{executed, order},
    test_gateway::{Setup, TestGateway, until},
};

/// How many callers send at the same time.
const CALLERS: usize = 8;

/// Numbers of orders begin here, so that all requests are of the same length.
const FIRST: usize = 10_000;

/// After how many bytes of one direction a connection is cut.
#[derive(Clone, Copy, Debug)]
enum CutAfter {
    Request(usize),
    Response(usize),
}

/// A proxy in front of Fastrac that cuts connections.
struct CuttingProxy {
    addr: SocketAddr,
    state: Arc<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    fastrac: OnceLock<SocketAddr>,
    /// One for each of the next connections; those after them are not cut.
    cuts: Mutex<VecDeque<CutAfter>>,
    open: Mutex<Vec<TcpStream>>,
    /// Bytes of requests and of responses that were passed on.
    passed: Mutex<[usize; 2]>,
}

impl CuttingProxy {
    fn start() -> CuttingProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = listener.local_addr().expect("an address");
        let state = Arc::new(ProxyState::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                shared.relay(client);
            }
        });
        CuttingProxy { addr, state }
    }

    /// Ends all connections.
    fn end_all(&self) {
        for stream in self.state.open.lock().expect("whole").drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl ProxyState {
    fn relay(self: &Arc<Self>, client: TcpStream) {
        let server = TcpStream::connect(self.fastrac.wait()).expect("connected");
        let cut = self.cuts.lock().expect("whole").pop_front();
        let [request, response] = match cut {
            Some(CutAfter::Request(bytes)) => [Some(bytes), None],
            Some(CutAfter::Response(bytes)) => [None, Some(bytes)],
            None => [None, None],
        };
        let back = [&server, &client].map(|stream| stream.try_clone().expect("a handle"));
        self.open.lock().expect("whole").extend([&server, &client].map(|stream| stream.try_clone().expect("a handle")));
        for (direction, [from, to], limit) in [(0, [client, server], request), (1, back, response)] {
            let state = Arc::clone(self);
            thread::spawn(move || state.pass_on(direction, [from, to], limit));
        }
    }

    /// Whatever ends one direction ends both.
    fn pass_on(&self, direction: usize, [mut from, mut to]: [TcpStream; 2], limit: Option<usize>) {
        let (mut left, mut piece) = (limit.unwrap_or(usize::MAX), [0; 4096]);
        while left > 0 {
            let Ok(read @ 1..) = from.read(&mut piece) else { break };
            let passed = read.min(left);
            // First, so that what has arrived is counted.
            self.passed.lock().expect("whole")[direction] += passed;
            if to.write_all(&piece[..passed]).is_err() {
                break;
            }
            left -= passed;
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

/// How often Fastrac has executed each order.
fn executions(gateway: &TestGateway) -> HashMap<usize, usize> {
    let mut executions = HashMap::new();
    for entry in gateway.received().into_iter().filter(|entry| entry.executed) {
        let body = String::from_utf8(entry.body.to_vec()).expect("UTF-8");
        let number = body.split_once("Budi ").expect("an order").1;
        let digits = number.split_once(|c: char| !c.is_ascii_digit()).expect("an end").0;
        *executions.entry(digits.parse().expect("a number")).or_default() += 1;
    }
    executions
}

/// Does something for each of these numbers, several at the same time.
fn for_each<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<(usize, T)> {
    thread::scope(|scope| {
        let work = &work;
        let caller = |first: usize| {
            scope
                .spawn(move || (first..count).step_by(CALLERS).map(|number| (number, work(number))).collect::<Vec<_>>())
        };
        let callers: Vec<_> = (0..CALLERS).map(caller).collect();
        callers.into_iter().flat_map(|caller| caller.join().expect("no panic")).collect()
    })
}

#[test]
fn between_gateway_and_fastrac() {
    let proxy = CuttingProxy::start();
    let base_url = Some(format!("http://{}", proxy.addr));
    let gateway = Setup { base_url, wait: false, ..Setup::default() }.start();
    proxy.state.fastrac.set(gateway.sandbox.addr()).expect("once");
    until("the key pair is verified", || gateway.app().gateway.was_ready() && !gateway.received().is_empty());
    // A new connection, whose bytes are those of one order.
    proxy.end_all();
    *proxy.state.passed.lock().expect("whole") = [0, 0];
    assert_eq!(gateway.send(order(FIRST - 1 + 90_000)).status, 200);
    let [request, response] = *proxy.state.passed.lock().expect("whole");
    assert!(request > 300 && response > 200, "{request} {response}");
    let cuts: VecDeque<_> = (0..request).map(CutAfter::Request).chain((0..response).map(CutAfter::Response)).collect();
    let count = cuts.len();
    *proxy.state.cuts.lock().expect("whole") = cuts;
    proxy.end_all();
    let responses = for_each(count, |number| gateway.send(order(FIRST + number)));
    assert!(proxy.state.cuts.lock().expect("whole").is_empty(), "each connection had one order");
    let executions = executions(&gateway);
    let mut unknown = [0, 0];
    for (number, response) in &responses {
        let times = executions.get(&(FIRST + number)).copied().unwrap_or_default();
        match (response.sent(), times) {
            ("no", 0) => {}
            ("yes", 1) => assert_eq!(response.status, 200, "{response:?}"),
            ("unknown", 0 | 1) => {
                assert_eq!((response.status, response.code().as_str()), (502, "upstream.cut"), "{response:?}");
                unknown[times] += 1;
            }
            _ => panic!("order {number} was executed {times} times: {response:?}"),
        }
    }
    let [lost_requests, lost_responses] = unknown;
    assert!(lost_requests > request - 50 && lost_responses > response - 50, "{unknown:?} of {request} and {response}");
    // Equal orders are held exactly if the outcome is unknown.
    for (number, first) in responses.iter().step_by(20) {
        let repeat: Response = gateway.send(order(FIRST + number));
        assert_eq!(repeat.status == 409, first.sent() == "unknown", "{first:?} {repeat:?}");
    }
}

#[test]
fn of_a_request_between_caller_and_gateway() {
    let gateway = TestGateway::new();
    let length = order(FIRST).bytes().len();
    for_each(length, |cut| {
        let mut stream = TcpStream::connect(gateway.data).expect("connected");
        stream.write_all(&order(FIRST + cut).bytes()[..cut]).expect("sent");
    });
    // Over HTTP/2, a sample.
    let over_http2 = |number| [PREFACE, &frame(SETTINGS, 0, 0, b""), &request_frames(1, &order(number))].concat();
    let length = over_http2(FIRST).len();
    let step = 3;
    for_each(length.div_ceil(step), |number| {
        let mut stream = TcpStream::connect(gateway.data).expect("connected");
        stream.write_all(&over_http2(FIRST + number)[..number * step]).expect("sent");
    });
    until("all connections to end", || gateway.metric("client_connections", &[]) == 0.0);
    until("all requests to end", || gateway.metric("in_flight_requests", &[]) == 0.0);
    assert_eq!(gateway.received().len(), 0, "no part of an order is sent");
    // None of them is held: no order was written to the journal.
    let mut stream = TcpStream::connect(gateway.data).expect("connected");
    stream.write_all(&over_http2(FIRST)).expect("sent");
    until("the whole one to be executed", || executed(&gateway) == 1);
    assert_eq!(gateway.send(order(FIRST + length / step)).status, 200);
}

/// The caller closes when it has read so much.
#[test]
fn of_a_response_between_gateway_and_caller() {
    let gateway = TestGateway::new();
    let received = |number: usize, buffer: &mut [u8]| {
        let stream = TcpStream::connect(gateway.data).expect("connected");
        (&stream).write_all(&order(number).bytes()).expect("sent");
        let whole = |buffer: &[u8]| {
            buffer.windows(4).position(|end| end == b"\r\n\r\n").is_some_and(|head| {
                let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
                let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                buffer.len() == head + 4 + length.expect("a length").parse::<usize>().expect("a number")
            })
        };
        let mut length = 0;
        until("the whole response to come", || {
            length = stream.peek(buffer).expect("bytes");
            whole(&buffer[..length])
        });
        (stream, length)
    };
    let (_, length) = received(FIRST - 1 + 90_000, &mut [0; 8192]);
    for_each(length, |read| {
        let (mut stream, _) = received(FIRST + read, &mut [0; 8192]);
        stream.read_exact(&mut vec![0; read]).expect("bytes");
        // Closing with something unread resets the connection.
        drop(stream);
        let repeat = gateway.send(order(FIRST + read));
        assert_eq!((repeat.status, repeat.sent()), (200, "yes"), "{read}: {repeat:?}");
        assert_eq!(repeat.header("idempotent-replayed"), Some("true"), "after {read} bytes");
    });
    assert!(executions(&gateway).values().all(|times| *times == 1));
    assert_eq!(executed(&gateway), length as u64 + 1);
}
