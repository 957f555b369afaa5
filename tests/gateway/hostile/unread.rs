//! Responses that the client does not read.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

use fastrac_sandbox::{Act, Fault};

use super::LIMITS;
use crate::{
    client::request,
    test_gateway::{Setup, TestGateway, until},
};

/// A gateway whose responses are so long that the socket buffers hold only a few of them.
fn long() -> TestGateway {
    let gateway = Setup { limits: LIMITS, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.balance_history", Act::Long { bytes: 900_000 }));
    gateway
}

fn requests(count: usize) -> Vec<u8> {
    request("POST", "/user/balance/history").json("{}").by("shop").bytes().repeat(count)
}

#[test]
fn a_caller_that_reads_nothing_loses_its_connection() {
    let gateway = long();
    let mut deaf = TcpStream::connect(gateway.data).expect("connected");
    deaf.write_all(&requests(30)).expect("written");
    until("a response is being sent", || !gateway.received().is_empty());
    until("the connection is gone", || gateway.metric("client_connections", &[]) == 0.0);
    assert!(gateway.received().len() < 30, "no further requests are read for this client");
}

#[test]
fn a_caller_that_reads_slowly_gets_its_responses() {
    let gateway = long();
    let mut slow = TcpStream::connect(gateway.data).expect("connected");
    slow.write_all(&requests(12)).expect("written");
    let (mut piece, mut taken) = (vec![0; 400_000], 0);
    // Longer in total than any timeout, but no single pause is as long as one.
    while taken < 12 * 900_000 {
        let read = slow.read(&mut piece).expect("the connection is open");
        assert!(read > 0, "ended after {taken} bytes");
        taken += read;
        thread::sleep(Duration::from_millis(100));
    }
}
