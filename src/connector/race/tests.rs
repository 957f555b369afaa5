//! The race on tokio's paused clock.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rustix::io::Errno;
use tokio::time::sleep;

use super::*;

fn v4(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 443))
}

fn v6(host: u8) -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)], 443))
}

#[derive(Clone, Copy, Debug)]
enum Peer {
    /// Accepts after this many milliseconds.
    Accepts(u64),
    Refuses(u64),
    Fails(Errno),
    FailsLater(Errno),
    Silent,
}

/// What the race among these peers comes to, and after how many milliseconds. The address of peer N ends in N.
async fn raced(peers: &[Peer], by: u64) -> (Result<u8, ConnectError>, u64) {
    let addresses: Vec<SocketAddr> = (0..peers.len()).map(|number| v4(number as u8)).collect();
    let began = Instant::now();
    let connect = |address: SocketAddr| {
        let peer = addresses.iter().position(|known| *known == address).map(|number| peers[number]).unwrap();
        async move {
            match peer {
                Peer::Accepts(after) => {
                    sleep(Duration::from_millis(after)).await;
                    Ok(())
                }
                Peer::Refuses(after) => {
                    sleep(Duration::from_millis(after)).await;
                    Err(Errno::CONNREFUSED.into())
                }
                Peer::Fails(errno) => Err(errno.into()),
                Peer::FailsLater(errno) => {
                    sleep(Duration::from_millis(1)).await;
                    Err(errno.into())
                }
                Peer::Silent => std::future::pending().await,
            }
        }
    };
    let result = race(&addresses, began + Duration::from_millis(by), connect).await;
    let number = |((), address): ((), SocketAddr)| addresses.iter().position(|known| *known == address).unwrap() as u8;
    (result.map(number), began.elapsed().as_millis() as u64)
}

#[tokio::test(start_paused = true)]
async fn a_silent_address_costs_one_attempt_delay() {
    use Peer::*;
    assert_eq!(raced(&[Accepts(5), Accepts(1)], 5000).await, (Ok(0), 5));
    assert_eq!(raced(&[Silent, Accepts(5)], 5000).await, (Ok(1), 255));
    assert_eq!(raced(&[Silent, Silent, Silent, Accepts(5)], 5000).await, (Ok(3), 755));
    assert_eq!(raced(&[Refuses(3), Accepts(5)], 5000).await, (Ok(1), 8), "the next attempt begins at once");
    assert_eq!(raced(&[Accepts(300), Accepts(100)], 5000).await, (Ok(0), 300), "the first keeps running");
    assert_eq!(raced(&[Accepts(400), Accepts(100)], 5000).await, (Ok(1), 350));
}

#[tokio::test(start_paused = true)]
async fn every_address_has_its_chance_before_the_deadline() {
    use Peer::*;
    assert_eq!(raced(&[Silent, Accepts(5)], 100).await, (Ok(1), 55));
    assert_eq!(raced(&[Silent, Silent, Silent, Accepts(5)], 100).await, (Ok(3), 80));
    assert_eq!(raced(&[Silent; 2], 100).await.1, 100);
    assert_eq!(raced(&[Silent], 100).await.1, 100);
}

/// 64 requests in flight to a name with 16 silent addresses took 1,024 descriptors.
#[tokio::test(start_paused = true)]
async fn few_attempts_run_at_a_time() {
    struct Running<'a>(&'a std::cell::Cell<usize>);
    impl Drop for Running<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }
    let (running, most) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let addresses: Vec<SocketAddr> = (0..16).map(v4).collect();
    let connect = |address: SocketAddr| {
        let (running, most) = (&running, &most);
        async move {
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            let _running = Running(running);
            if address == v4(15) {
                return Ok(());
            }
            std::future::pending().await
        }
    };
    let raced = race(&addresses, Instant::now() + Duration::from_secs(10), connect).await;
    assert_eq!(raced.map(|((), address)| address), Ok(v4(15)));
    assert_eq!((most.get(), running.get()), (MAX_RUNNING, 0));
}

#[tokio::test(start_paused = true)]
async fn the_most_telling_error_is_reported() {
    use Peer::*;
    let is_local = |result: Result<u8, ConnectError>| matches!(result.unwrap_err(), ConnectError::Local(_));
    let (refuses, no_descriptor, no_address) = (Refuses(1), Fails(Errno::MFILE), Fails(Errno::ADDRNOTAVAIL));
    for (peers, local) in [
        (vec![refuses], false),
        (vec![no_descriptor], true),
        (vec![no_address, no_address], true),
        // A route of this host that rejects; a router that says so.
        (vec![Fails(Errno::HOSTUNREACH), Fails(Errno::INVAL)], true),
        (vec![FailsLater(Errno::HOSTUNREACH), Fails(Errno::INVAL)], false),
        (vec![Fails(Errno::CONNREFUSED)], false),
        // The other address might have been the one that works.
        (vec![refuses, no_descriptor], true),
        (vec![no_descriptor, refuses], true),
        (vec![no_descriptor, Silent], true),
        // A host without IPv6.
        (vec![no_address, refuses], false),
        (vec![refuses, no_address], false),
        (vec![no_address, Silent], false),
        (vec![Silent], false),
        (vec![], false),
    ] {
        assert_eq!(is_local(raced(&peers, 1000).await.0), local, "{peers:?}");
    }
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![(0u64..600).prop_map(Peer::Accepts), (0u64..600).prop_map(Peer::Refuses), Just(Peer::Silent),]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_address_waits_longer_than_the_delays_of_those_before_it(peers in prop::collection::vec(peer(), 0..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (result, took) = runtime.block_on(raced(&peers, 5000));
        let accepts = |number: usize| match peers[number] {
            Peer::Accepts(after) => Some(after),
            _ => None,
        };
        let at_most = (0..peers.len()).filter_map(|number| Some(250 * number as u64 + accepts(number)?)).min();
        match (result, at_most) {
            (Ok(number), Some(at_most)) => {
                prop_assert!(accepts(number.into()).is_some_and(|after| after <= took), "{number} after {took} ms");
                prop_assert!(took <= at_most, "{took} ms, at most {at_most} ms");
            }
            (Err(_), None) => {}
            (result, _) => prop_assert!(false, "{result:?}"),
        }
    }

    #[test]
    fn families_alternate_and_keep_their_order(families in prop::collection::vec(any::<bool>(), 0..40)) {
        let addresses: Vec<SocketAddr> = families
            .iter()
            .enumerate()
            .map(|(number, is_v4)| if *is_v4 { v4(number as u8) } else { v6(number as u8) })
            .collect();
        let order = interleaved(&addresses);
        prop_assert_eq!(order.len(), addresses.len().min(MAX_ADDRESSES));
        prop_assert_eq!(order.first(), addresses.first());
        prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), order.len());
        let of = |family: bool| order.iter().filter(move |address| address.is_ipv4() == family).collect::<Vec<_>>();
        for family in [true, false] {
            let known = addresses.iter().filter(|address| address.is_ipv4() == family);
            prop_assert!(known.zip(of(family)).all(|(known, tried)| known == tried));
        }
        // Two of a family follow each other only once the other family is used up.
        for (place, two) in order.windows(2).enumerate() {
            let same = two[0].is_ipv4() == two[1].is_ipv4();
            prop_assert!(!same || order[place..].iter().all(|address| address.is_ipv4() == two[0].is_ipv4()));
        }
    }
}
