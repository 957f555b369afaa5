//! The sandbox through its sockets, as a client in another process sees it.

mod control;
mod deterministic;
mod faults;
mod flows;
mod wire;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::{Value, json};

use super::*;

const BASIC: &str = "Authorization: Basic c2FuZGJveC1hY2Nlc3M6c2FuZGJveC1zZWNyZXQ=";
const PAIR: &str = "access-key: sandbox-access\r\nsecret-key: sandbox-secret";

/// What came back: status, head and body, byte for byte.
#[derive(Debug)]
struct Seen {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

fn sandbox() -> Sandbox {
    Sandbox::start(Options::default()).unwrap()
}

/// Sends bytes and reads to the end; an error is the connection's.
fn exchange(addr: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(bytes)?;
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen)?;
    Ok(seen)
}

fn parse(bytes: &[u8]) -> Seen {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Seen { status, head, body: bytes[end + 4..].to_vec() }
}

fn request(method: &str, target: &str, auth: &str, body: &str) -> Vec<u8> {
    let auth = if auth.is_empty() { String::new() } else { format!("{auth}\r\n") };
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

fn ask(addr: SocketAddr, method: &str, target: &str, body: &str) -> Seen {
    parse(&exchange(addr, &request(method, target, BASIC, body)).unwrap())
}

fn order() -> String {
    let party = |region: u64| json!({"name": "A", "phone": "62", "address": "B", "region_id": region});
    json!({
        "courier_code": "anteraja", "code_service": "reg", "cod": "0", "insurance": "0", "pickup": "0",
        "shipper": party(3_171_031_001), "receiver": party(3_171_031_002),
        "item": {"name": "A", "desc": "B", "category": "Dokumen", "value": 1_000, "weight": 1_000, "length": 1},
    })
    .to_string()
}
