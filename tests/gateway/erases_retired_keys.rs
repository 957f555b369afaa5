//! A retired pair is gone from the program's memory.
//!
//! The program runs as its own process; its writable memory is read as a core dump would hold it, and the
//! pair's secret is looked for, plain and in its Basic form, by its end (a freed block loses its beginning
//! first). While the pair is in use it is found, so the search can fail.
//!
//! What may stand there after retirement is a request's head as hyper wrote it: hyper keeps a connection's
//! write buffer until the next request on it overwrites that, and neither hyper nor the allocator zeroes it
//! when the connection is closed (an idle one: after four seconds). hyper is handed the header values in
//! our own buffers, which are zeroed, but its copy can't be reached from outside. The kernel's socket
//! buffers are no part of the process.
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

/// Long ones, so that an end of them is enough to be known by.
const FIRST: (&str, &str) = ("first-access-of-the-account-5b0e", "first+secret/of=the-account-d41c9a7706e2-b8153fca");
const SECOND: (&str, &str) =
    ("second-access-of-the-account-71aa", "second+secret/of=the-account-0c7be4519d38-f62a07e1");
/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// How much of a secret's end it is known by.
const SUFFIX: usize = 24;

/// The program, and what is asked of it here.
struct RunningGateway(Program);

impl RunningGateway {
    fn start(fastrac: SocketAddr) -> RunningGateway {
        let subject = RunningGateway(Program::start(&configuration(fastrac), FIRST));
        until("it has a pair", || subject.events("promoted") == 1.0);
        subject
    }

    fn events(&self, event: &str) -> f64 {
        let metrics = Connection::open(self.0.admin).send(&get("/metrics").header("host", "localhost")).text();
        sum(&metrics, "key_events_total", &[("event", event)])
    }

    /// Asks on several connections at once, so that several go to Fastrac.
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

    /// Where a pair's secret stands in writable memory.
    fn search(&self, (access, secret): (&str, &str)) -> Matches {
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
                // What the kernel keeps to itself, or what was given back since, can't be read.
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

/// What was found of a pair: in heads of requests, and elsewhere.
#[derive(Debug, Default)]
struct Matches {
    heads: usize,
    elsewhere: Vec<String>,
}

impl Matches {
    fn record(&mut self, memory: &[u8], end: &memchr::memmem::Finder<'_>) {
        for at in end.find_iter(memory).filter(|at| *at < CHUNK) {
            // Only a head's line ends like that.
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
    let live = program.search(FIRST);
    assert!(live.elsewhere.len() >= 4, "a pair in use is found in our own buffers: {live:?}");
    program.0.rotate(SECOND);
    until("the first pair is retired", || program.events("retired") == 1.0);
    let retired = program.search(FIRST);
    assert_eq!(retired.elsewhere, Vec::<String>::new(), "in our own buffers");
    program.send_requests(20);
    let later = program.search(FIRST);
    assert_eq!(later.elsewhere, Vec::<String>::new(), "in our own buffers");
    assert!(program.search(SECOND).elsewhere.len() >= 4, "the new pair is found");
    println!("heads: {} while in use, {} when retired, {} after more requests", live.heads, retired.heads, later.heads);
}
