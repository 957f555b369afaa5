//! A walk of the region tree keeps within its bounds and says how it ended.

use std::time::Duration;

use fastrac_gateway::warm::{WalkEnd, WalkProgress};
use fastrac_sandbox::{Act, Fault};

use crate::{
    client::get,
    test_gateway::{Setup, TestGateway, until},
};

/// From here on, an operation of the tree has this as its `data`.
fn lists(gateway: &TestGateway, operation: &str, data: &str) {
    let body = format!(r#"{{"success":true,"message":"","data":{data}}}"#);
    gateway.sandbox.fault(Fault::on(operation, Act::answer(200, &body)));
}

fn provinces(count: usize) -> String {
    let elements: Vec<_> = (1..=count).map(|id| format!(r#"{{"province_id":{id}}}"#)).collect();
    format!("[{}]", elements.join(","))
}

fn progress(gateway: &TestGateway) -> WalkProgress {
    gateway.app().warmer.progress().remove("main").expect("a walk")
}

fn walk(gateway: &TestGateway) -> WalkProgress {
    assert!(gateway.app().warmer.begin("main"));
    until("the walk has ended", || progress(gateway).ended.is_some());
    progress(gateway)
}

#[test]
fn what_is_not_understood_is_counted_and_the_rest_is_walked() {
    let gateway = TestGateway::new();
    lists(&gateway, "v2.province", r#"["x",{"province_id":31},null,{"id":32},{"province_id":"08"}]"#);
    lists(&gateway, "v2.city", r#"{"city_id":3171}"#);
    let walked = walk(&gateway);
    let counts = (walked.counts.known, walked.counts.fetched, walked.counts.failed, walked.counts.not_understood);
    assert_eq!((walked.ended, counts), (Some(WalkEnd::NotUnderstood), (3, 3, 0, 3)), "{walked:?}");
    let sent: Vec<String> = gateway.received().iter().map(|entry| entry.target()).collect();
    assert_eq!(sent, ["/region/province", "/region/city?province_id=31", "/region/city?province_id=08"]);
    let status = &gateway.admin("/status").json()["cache"]["walks"]["main"];
    assert_eq!((&status["state"], &status["not_understood"]), (&"not_understood".into(), &3.into()));
}

#[test]
fn it_is_complete_only_if_everything_could_be_fetched() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.province", Act::answer(503, "")));
    let walked = walk(&gateway);
    assert_eq!((walked.ended, walked.counts.failed), (Some(WalkEnd::Incomplete), 1), "{walked:?}");
    assert_eq!(gateway.received().len(), 3, "three tries, and no second attempts");
    assert_eq!(gateway.admin("/status").json()["cache"]["walks"]["main"]["state"], "incomplete");
}

#[test]
fn it_leaves_callers_the_part_of_the_day_that_is_left() {
    let budget = "per_second = 100000, per_day = 200";
    let gateway = Setup { budget, ..Setup::default() }.start();
    lists(&gateway, "v2.province", &provinces(190));
    assert!(gateway.app().warmer.begin("main"));
    let account = &gateway.app().gateway.current.load_full().accounts[0];
    let day = || account.budget.usage().windows.day.expect("a limit");
    // All but a tenth of it could be used a tenth of a day before midnight.
    let most = |resets_in: u64| 200 - 200 * resets_in.clamp(8_640, 77_760) / 86_400;
    until("the walk waits", || {
        let day = day();
        progress(&gateway).ended.is_some() || 200 - day.left >= most(day.resets_in)
    });
    let (walked, day) = (progress(&gateway), day());
    assert!(walked.ended.is_none() || most(day.resets_in) >= 190, "{walked:?} {day:?}");
    assert!(200 - day.left <= most(day.resets_in) + 1, "{walked:?} {day:?}");
    // One call becomes spare in a 200th of a day.
    let waiting = walked.counts.known - walked.counts.fetched;
    let left = Duration::from_secs(waiting.saturating_sub(2) * 432);
    assert!(walked.ended.is_some() || walked.left.is_some_and(|said| said >= left), "{walked:?}");
    assert!(day.left < 200 && gateway.send(get("/region/province").by("shop")).status == 200);
}

#[test]
fn a_response_with_too_many_ids_ends_it() {
    let gateway = TestGateway::new();
    lists(&gateway, "v2.province", &provinces(10_001));
    let walked = walk(&gateway);
    assert_eq!((walked.ended, walked.counts.fetched), (Some(WalkEnd::TooManyIds), 1), "{walked:?}");
    assert_eq!(gateway.received().len(), 1);
}

#[test]
fn it_ends_when_the_cache_is_full_and_evicts_nothing() {
    let gateway = Setup { more: "[cache]\nmemory = \"1MiB\"\n", ..Setup::default() }.start();
    let used: Vec<String> = (1..=20).map(|id| format!("/region/district?city_id={id}")).collect();
    lists(&gateway, "v2.district", "[]");
    for target in &used {
        assert_eq!(gateway.send(get(target).by("shop")).outcome(), "ok");
    }
    lists(&gateway, "v2.province", &provinces(1000));
    lists(&gateway, "v2.city", &format!(r#"[{{"name":"{}"}}]"#, noise(20_000)));
    let first = walk(&gateway);
    assert!(first.ended == Some(WalkEnd::CacheFull) && (10..60).contains(&first.counts.fetched), "{first:?}");
    let again = walk(&gateway);
    assert_eq!(
        (again.ended, again.counts.fresh, again.counts.fetched),
        (Some(WalkEnd::CacheFull), first.counts.fetched, 0),
        "{again:?}"
    );
    for target in &used {
        assert_eq!(gateway.send(get(target).by("shop")).outcome(), "hit", "{target}");
    }
}

/// Text that cannot be compressed much.
fn noise(length: usize) -> String {
    let mut state = 1_u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 40) % 26).expect("small"))
    };
    (0..length).map(|_| letter()).collect()
}

#[test]
fn another_address_ends_it() {
    let mut gateway = TestGateway::new();
    lists(&gateway, "v2.province", &provinces(1000));
    // Tried again after a while.
    gateway.sandbox.fault(Fault::on("v2.city", Act::Html(500)));
    assert!(gateway.app().warmer.begin("main"));
    until("it is at the cities", || progress(&gateway).level == "v2.city");
    let base_url = format!("http://{}", gateway.sandbox.addr());
    gateway.reload(&base_url, &format!("{base_url}/elsewhere"));
    until("the walk has ended", || progress(&gateway).ended.is_some());
    assert_eq!(progress(&gateway).ended, Some(WalkEnd::AddressChanged));
    let sent: Vec<String> = gateway.received().iter().map(|entry| entry.target()).collect();
    assert!(!sent.iter().any(|target| target.starts_with("/elsewhere/region/city")), "{sent:?}");
}

#[test]
fn it_takes_the_only_place_in_flight_from_nobody() {
    // Of two, one is kept for orders, and of three.
    for (budget, sent) in [("in_flight = 1", 0), ("in_flight = 2", 0), ("in_flight = 3", 1)] {
        let gateway = Setup { budget, ..Setup::default() }.start();
        lists(&gateway, "v2.province", "[]");
        let end = if sent == 0 { WalkEnd::OnePlace } else { WalkEnd::Complete };
        assert_eq!((walk(&gateway).ended, gateway.received().len()), (Some(end), sent), "{budget}");
    }
}

/// The ids are sent as parameters: its path would be sent as it is in the configuration.
#[test]
fn a_row_with_a_name_in_its_path_is_not_walked() {
    for (row, sent) in [("v2.province", 0), ("v2.city", 1)] {
        let more = format!("[operations.\"{row}\"]\npath = \"/region/{{id}}/list\"\n").leak();
        let gateway = Setup { more, account: "verify = \"v2.couriers\"", ..Setup::default() }.start();
        lists(&gateway, "v2.province", &provinces(3));
        assert_eq!(walk(&gateway).ended, Some(WalkEnd::NotCached), "{row}");
        assert_eq!(gateway.received().len(), sent, "{row}");
        assert_eq!(gateway.admin("/status").json()["cache"]["walks"]["main"]["state"], "not_cached");
    }
}
