//! Damage of `orders.redb` never makes a key free.

use std::{fs, os::unix::fs::FileExt as _};

use super::*;

const ORDERS: u64 = 600;
/// Of redb.
const PAGE: usize = 4096;
/// First byte of a page above the rows.
const BRANCH: u8 = 2;

/// An archive with some orders, closed.
async fn filled() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let stores = open_stores(home.path());
    stores.archive.create().await.unwrap();
    let mut batch = stores.archive.begin().await.unwrap();
    for number in 0..ORDERS {
        let (order, answer) = ended(number);
        stores.archive.add(&mut batch, order.fingerprint, order, Some(answer.into())).await.unwrap();
    }
    stores.archive.commit(batch).await.unwrap();
    stores.archive.close().await;
    stores.journal.close().await;
    home
}

/// The class: redb compares a key with those in the pages above the rows, whose checksums it does not check.
#[tokio::test]
async fn a_damaged_page_hides_no_key() {
    let home = filled().await;
    let (state, file) = (home.path().join("state.redb"), fs::read(home.path().join("orders.redb")).unwrap());
    let branches: Vec<_> = (PAGE..file.len()).step_by(PAGE).filter(|at| file[*at] == BRANCH).collect();
    let (mut hidden, mut noticed) = (0, 0);
    for damage in 0..24 {
        let copy = tempfile::tempdir().unwrap();
        fs::copy(&state, copy.path().join("state.redb")).unwrap();
        let damaged = copy.path().join("orders.redb");
        fs::write(&damaged, &file).unwrap();
        // First checksums and numbers of the pages below, then where their first keys end, then these keys.
        let page = branches[damage % branches.len()];
        let keys = usize::from(u16::from_le_bytes([file[page + 2], file[page + 3]]));
        let at = page + 8 + (keys + 1) * 24 + keys * 4 + damage / branches.len() * 4 % keys * 32;
        let bytes: Vec<_> = file[at..at + 16].iter().map(|byte| byte ^ 0x5a).collect();
        fs::File::options().write(true).open(&damaged).unwrap().write_all_at(&bytes, at as u64).unwrap();
        let journal = open_store(copy.path());
        let Ok(archive) = Archive::open(copy.path()) else { continue };
        for number in 0..ORDERS {
            hidden += usize::from(archive.is_hidden(ended_key(number)).await);
            match archive.find(ended_key(number)).await {
                Ok(found) => assert!(found.is_some(), "damage at {at} makes key {number} free"),
                Err(_) => noticed += 1,
            }
        }
        archive.close().await;
        journal.close().await;
    }
    assert!(hidden > 0 && noticed >= hidden, "{hidden} were hidden in their table, {noticed} noticed");
}

/// A row that says when an order is to be forgotten has no checksum.
#[tokio::test]
async fn a_damaged_time_forgets_no_order() {
    let home = filled().await;
    let path = home.path().join("orders.redb");
    let mut file = fs::read(&path).unwrap();
    let time = |number: u64| (start_time().as_millisecond() + number.cast_signed()).to_be_bytes();
    let end = [&time(7)[..], ended_key(7).as_bytes()].concat();
    let ends: Vec<_> = (0..file.len() - end.len()).filter(|at| file[*at..].starts_with(&end)).collect();
    for at in ends {
        file[at + 2] = 0;
    }
    fs::write(&path, &file).unwrap();
    let orders = Orders::open(open_stores(home.path()), start_time(), &settings(), 1 << 30).await.unwrap();
    orders.archive_round().await.unwrap_err();
    for number in 0..ORDERS {
        assert!(orders.archive().find(ended_key(number)).await.unwrap().is_some());
    }
    assert!(orders.archive().failure().is_some_and(|failure| failure.contains("damaged")));
}
