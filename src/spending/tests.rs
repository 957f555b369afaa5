//! Counts survive reloads, restarts, zones and clocks.

use super::*;

fn key(service: &str, operation: &str) -> SpenderKey {
    SpenderKey::new("main", Some(service), operation)
}

fn date(text: &str) -> Date {
    text.parse().unwrap()
}

async fn opened(folder: &std::path::Path) -> (Store, Arc<Spending>) {
    let store = Store::open(folder).unwrap();
    let spending = Spending::open(store.clone()).await.unwrap();
    spending.set_zone("main", &TimeZone::UTC);
    (store, spending)
}

#[tokio::test]
async fn what_was_spent_today_is_kept_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let (store, spending) = opened(folder.path()).await;
    let index = SpenderIndex { service: Some(1), account: 0, operation: 3 };
    // Two snapshots, as after a reload.
    for _ in 0..2 {
        let spenders = Spenders::new(spending.clone(), 2, 1, 4);
        spenders.add(index, 5, || key("shop", "v2.city"));
        spenders.add(SpenderIndex { service: None, ..index }, 1, || SpenderKey::new("main", None, "v2.province"));
        // An index of another snapshot is not counted and does no harm.
        spenders.add(SpenderIndex { operation: 4, ..index }, 1, || key("shop", "v2.city"));
    }
    let expected = vec![
        SpentToday { key: SpenderKey::new("main", None, "v2.province"), units: 2 },
        SpentToday { key: key("shop", "v2.city"), units: 10 },
    ];
    assert_eq!(spending.today(), expected);
    spending.write();
    store.close().await;
    drop((store, spending));
    let (_store, spending) = opened(folder.path()).await;
    assert_eq!(spending.today(), expected);
    assert_eq!(spending.top_services("main", 1), [("shop".to_owned(), 10)]);
    assert!(spending.state.lock().changes(false).is_empty(), "nothing has changed");
}

#[tokio::test]
async fn only_the_newest_dates_are_kept_whatever_the_clock_says() {
    let folder = tempfile::tempdir().unwrap();
    let (store, spending) = opened(folder.path()).await;
    let spender = spending.spender(&key("shop", "v2.city"));
    spender.restore(date("2026-01-01"), 1);
    for day in 1..20 {
        spender.carry_over(date(&format!("2026-01-{day:02}")), date(&format!("2026-01-{:02}", day + 1)));
        spending.write();
    }
    store.close().await;
    drop((store, spending));
    let (_store, spending) = opened(folder.path()).await;
    let dates: Vec<_> = spending.state.lock().stored.keys().map(ToString::to_string).collect();
    let expected: Vec<_> = (12..=20).map(|day| format!("2026-01-{day:02}")).collect();
    assert_eq!(dates, expected);
}

#[test]
fn keys_are_read_back_as_they_were() {
    let key = key("shop", "v2.city");
    assert_eq!(row::decode_key(&row::encode_key(date("2026-11-29"), &key)), Some((date("2026-11-29"), key)));
    assert_eq!(row::decode_key(b"2026-11-29\0main"), None);
}

#[tokio::test]
async fn a_change_of_the_zone_keeps_todays_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, spending) = opened(folder.path()).await;
    spending.spender(&key("shop", "v2.city")).add(7);
    for zone in ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Jakarta"] {
        spending.set_zone("main", &TimeZone::get(zone).unwrap());
        assert_eq!(spending.today().first().map(|spent| spent.units), Some(7), "{zone}");
    }
}

#[tokio::test]
async fn a_write_that_failed_is_repeated_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, spending) = opened(folder.path()).await;
    spending.spender(&key("shop", "v2.city")).add(7);
    assert!(!spending.state.lock().changes(false).is_empty());
    assert!(spending.state.lock().changes(false).is_empty());
    assert!(!spending.state.lock().changes(true).is_empty(), "after a failure");
}
