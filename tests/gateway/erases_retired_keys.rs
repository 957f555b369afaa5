//! A retired pair is gone from the program's memory.
//!
//! The program runs as its own process. The test reads its writable memory, as a core dump would hold it, and
//! searches it for the pair's secret, plain and in its Basic form, by its suffix (a freed block loses its start
//! first). While the pair is in use the search must find it, which proves that the search works.
//!
//! The only copies allowed after retirement are request heads in hyper's write buffers: hyper keeps a connection's
//! write buffer until the next request on it overwrites it, and neither hyper nor the allocator zeroes it
//! when the connection is closed (an idle one: after four seconds). hyper receives the header values in
//! buffers of the gateway, which are zeroed, but hyper's own copy cannot be reached. The kernel's socket
//! buffers are not part of the process.
#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fastrac_sandbox::Sandbox;

use crate::{
    bodies,
    client::{Connection, get, post},
    process::Program,
    test_gateway::{digest_of, sandbox, sum, until},
};

/// Long pairs, so that a suffix identifies them.
const FIRST: (&str, &str) = ("first-access-of-the-account-5b0e", "first+secret/of=the-account-d41c9a7706e2-b8153fca");
const SECOND: (&str, &str) =
    ("second-access-of-the-account-71aa", "second+secret/of=the-account-0c7be4519d38-f62a07e1");
/// Bytes of memory that one read covers.
const CHUNK: usize = 1 << 20;
/// Length of the suffix that is searched for, in bytes.
const SUFFIX: usize = 24;

/// A running program with one account and one service.
struct RunningGateway(Program);

impl RunningGateway {
    fn start(fastrac: SocketAddr) -> RunningGateway {
        let subject = RunningGateway(Program::start(&configuration(fastrac), FIRST.0, FIRST.1));
        until("it has a pair", || subject.events("promoted") == 1.0);
        subject
    }

    fn events(&self, event: &str) -> f64 {
        let metrics = Connection::open(self.0.admin).send(&get("/metrics").header("host", "localhost")).text();
        sum(&metrics, "key_events_total", &[("event", event)])
    }

    /// Sends requests on eight connections at once, so that several connections to Fastrac are opened.
    fn send_requests(&self, times: usize) {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut connection = Connection::open(self.0.data);
                    for _ in 0..times {
                        let response = connection.send(&post("/item/multi-items", bodies::MULTI_ITEMS).by("shop"));
                        assert_eq!(response.outcome(), "ok", "{}", response.text());
                    }
                });
            }
        });
    }

    /// Searches writable memory for the secret of a pair.
    fn search(&self, access: &str, secret: &str) -> Matches {
        let basic = STANDARD.encode(format!("{access}:{secret}"));
        let ends = [secret, &basic].map(|form| memchr::memmem::Finder::new(&form.as_bytes()[form.len() - SUFFIX..]));
        let memory = File::open(self.0.proc("mem")).expect("may be read by the same user");
        let maps = fs::read_to_string(self.0.proc("maps")).expect("running");
        let (nothing, mut chunk) = (vec![0; CHUNK + SUFFIX + 2], vec![0; CHUNK + SUFFIX + 2]);
        let mut found = Matches::default();
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (range, mode) = (words.next().expect("a range"), words.next().expect("a mode"));
            let (from, to) = range.split_once('-').expect("a range");
            let address = |text| u64::from_str_radix(text, 16).expect("an address");
            let (mut from, to) = (address(from), address(to));
            while mode.starts_with("rw") && from < to {
                let length = chunk.len().min((to - from) as usize);
                // Regions that the kernel protects, or that were unmapped since, cannot be read.
                let Ok(read @ 1..) = memory.read_at(&mut chunk[..length], from) else { break };
                if chunk[..read] != nothing[..read] {
                    ends.iter().for_each(|end| found.record(&chunk[..read], end));
                }
                from += CHUNK as u64;
            }
        }
        found
    }
}

/// Occurrences of a secret: in request heads written by hyper, and elsewhere.
#[derive(Debug, Default)]
struct Matches {
    heads: usize,
    elsewhere: Vec<String>,
}

impl Matches {
    fn record(&mut self, memory: &[u8], end: &memchr::memmem::Finder<'_>) {
        for at in end.find_iter(memory).filter(|at| *at < CHUNK) {
            // Only a header line ends with CRLF.
            if memory[at + SUFFIX..].starts_with(b"\r\n") {
                self.heads += 1;
            } else {
                let around = at.saturating_sub(SUFFIX)..(at + 2 * SUFFIX).min(memory.len());
                self.elsewhere.push(memory[around].escape_ascii().to_string());
            }
        }
    }
}

fn configuration(fastrac: SocketAddr) -> String {
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 2\n\
         [accounts.main]\nbase_url = \"http://{fastrac}\"\nauth = \"both\"\n\
         keys = {{ source = \"file\", path = \"keys.toml\" }}\nrotation = {{ overlap = \"1s\" }}\n\
         budget = {{ per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 512 }}\n\
         [services.shop]\naccount = \"main\"\nallow = [\"lookup\", \"quote\"]\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        digest_of("shop")
    )
}

#[test]
fn a_retired_pair_remains_in_the_write_buffers_of_hyper_only() {
    let sandbox = Sandbox::start(sandbox()).expect("a sandbox");
    for (label, access, secret) in [("first", FIRST.0, FIRST.1), ("second", SECOND.0, SECOND.1)] {
        sandbox.add_key(label, access, secret);
    }
    let program = RunningGateway::start(sandbox.addr());
    program.send_requests(20);
    let live = program.search(FIRST.0, FIRST.1);
    assert!(live.elsewhere.len() >= 4, "a pair in use is found in the gateway's own buffers: {live:?}");
    program.0.rotate(SECOND.0, SECOND.1);
    until("the first pair is retired", || program.events("retired") == 1.0);
    let retired = program.search(FIRST.0, FIRST.1);
    assert_eq!(retired.elsewhere, Vec::<String>::new(), "in the gateway's own buffers");
    program.send_requests(20);
    let later = program.search(FIRST.0, FIRST.1);
    assert_eq!(later.elsewhere, Vec::<String>::new(), "in the gateway's own buffers");
    assert!(program.search(SECOND.0, SECOND.1).elsewhere.len() >= 4, "the new pair is found");
    println!("heads: {} while in use, {} when retired, {} after more requests", live.heads, retired.heads, later.heads);
}
