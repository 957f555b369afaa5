//! The archive with a week of orders: figures, not promises. `ROWS=5000000 cargo test --release --lib scale -- --ignored
//! --nocapture` writes them, ends without closing the file, as `kill -9` does, and opens it again.

use std::time::Instant;

use super::*;

const ORDERS_IN_BATCH: u64 = 1000;

#[tokio::test]
#[ignore = "takes minutes and gigabytes"]
async fn millions_of_ended_orders() {
    let rows: u64 = std::env::var("ROWS").map_or(100_000, |rows| rows.parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    let stores = open_stores(home.path());
    stores.archive.create().await.unwrap();
    let mut commits = Duration::ZERO;
    for first in (0..rows).step_by(ORDERS_IN_BATCH as usize) {
        let began = Instant::now();
        let mut batch = stores.archive.begin().await.unwrap();
        for number in first..first + ORDERS_IN_BATCH {
            let (order, answer) = ended(number);
            stores.archive.add(&mut batch, order.fingerprint, order, Some(answer.into())).await.unwrap();
        }
        stores.archive.commit(batch).await.unwrap();
        commits = began.elapsed();
    }
    let size = std::fs::metadata(home.path().join("orders.redb")).unwrap().len();
    println!("{rows} orders: {} MiB; the last 1000 took {commits:?}", size >> 20);
    // As the process leaves it when it is killed.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(home.path().join("orders.redb"), copy.path().join("orders.redb")).unwrap();
    // Or else the first sync after the open writes the whole copy to the disk.
    std::fs::File::open(copy.path().join("orders.redb")).unwrap().sync_all().unwrap();
    stores.journal.close().await;
    stores.archive.close().await;
    for (name, dir) in [("a clean stop", home.path()), ("kill -9", copy.path())] {
        let began = Instant::now();
        let orders = Orders::open(open_stores(dir), start_time(), &settings(), 1 << 30).await.unwrap();
        let opened = began.elapsed();
        let began = Instant::now();
        let lookups = 10_000;
        for number in 0..lookups {
            let number = number * 7919 % rows * 2;
            assert_eq!(orders.archive().find(ended_key(number)).await.unwrap().is_some(), number < rows);
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        println!("after {name}: open in {opened:?}, a lookup takes {:?}, {memory}", began.elapsed() / lookups as u32);
    }
}
