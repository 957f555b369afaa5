//! The same seed, steps and requests give the same bytes; memory is bounded with a million orders.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::{
    auth::KeyStore,
    clock::STEPPED_START,
    simulation::{BufferedRequest, Setup, Simulation},
    webhook::{self, AttemptResult},
};

fn simulation(seed: u64, kept: usize) -> Simulation {
    let mut keys = KeyStore::default();
    keys.add("sandbox", "sandbox-access", "sandbox-secret");
    let settings =
        webhook::WebhookSettings { url: Some("http://127.0.0.1:1/".to_owned()), ..webhook::WebhookSettings::default() };
    let mut switches = Switches { webhook: Arc::new(settings), ..Switches::default() };
    switches.flow.kept = kept;
    switches.balance = 1_000_000_000_000_000;
    Simulation::new(Setup {
        switches,
        seed,
        keys,
        bounds: JournalBounds { entries: 10_000, bytes: 64 << 20 },
        clock: Clock::stepped_at(STEPPED_START),
    })
}

fn asked(simulation: &mut Simulation, method: Method, path: &str, body: &str) -> (u16, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert("access-key", HeaderValue::from_static("sandbox-access"));
    headers.insert("secret-key", HeaderValue::from_static("sandbox-secret"));
    let body = Bytes::copy_from_slice(body.as_bytes());
    let request = BufferedRequest { connection: 1, method, uri: path.parse().unwrap(), headers, body, fault: None };
    let received = simulation.receive(request);
    let answer = simulation.execute(&received);
    simulation.answered(&received, answer.status);
    (answer.status, answer.body)
}

/// Something that a test does to a sandbox.
#[derive(Clone, Debug)]
enum Deed {
    Order { weight: u64, cod: bool },
    Quote,
    Instant,
    Cancel(usize),
    Track(usize),
    History(u64),
    Pass(u64),
    Send(u16),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (1_000_u64..30_000, any::<bool>()).prop_map(|(weight, cod)| Deed::Order { weight, cod }),
        1 => Just(Deed::Quote),
        2 => Just(Deed::Instant),
        1 => (0_usize..8).prop_map(Deed::Cancel),
        2 => (0_usize..8).prop_map(Deed::Track),
        1 => (0_u64..9).prop_map(Deed::History),
        3 => (0_u64..200_000).prop_map(Deed::Pass),
        3 => prop_oneof![Just(200_u16), Just(500)].prop_map(Deed::Send),
    ]
}

/// What a sandbox said and sent, and its journal.
fn live(seed: u64, deeds: &[Deed]) -> Vec<String> {
    let mut simulation = simulation(seed, 1_000);
    let (mut all, mut awbs, mut quote) = (Vec::new(), Vec::new(), String::new());
    for deed in deeds {
        let (status, body) = match deed {
            Deed::Order { weight, cod } => {
                let mut body: Value = serde_json::from_str(&order()).unwrap();
                body["item"]["weight"] = json!(weight);
                if *cod {
                    (body["cod"], body["cod_amount"]) = (json!("1"), json!(50_000));
                }
                asked(&mut simulation, Method::POST, "/order/express", &body.to_string())
            }
            Deed::Quote => {
                let point =
                    json!({"id": "1", "lat": "-6.2", "lng": "106.8", "alamat_lengkap": "x", "alamat_google": "y"});
                let body = json!({"origin": point, "destination": point, "package": {}, "vehicle_type": "bike"});
                let (status, body) = asked(&mut simulation, Method::POST, "/tariff/instant", &body.to_string());
                let offers: Value = serde_json::from_slice(&body).unwrap();
                quote = offers["data"][1]["tariff_id"].as_str().unwrap().to_owned();
                (status, body)
            }
            Deed::Instant => {
                let party = json!({"name": "A", "email": "a@b.test", "address": "Jl. 1", "phone": "628123"});
                let item = json!({"name": "A", "desc": "B", "category": "Dokumen"});
                let body = json!({"shipper": party, "receiver": party, "courier_code": "lalamove", "tariff_id": quote, "item": item});
                asked(&mut simulation, Method::POST, "/order/instant", &body.to_string())
            }
            Deed::Cancel(which) | Deed::Track(which) => {
                let awb = awbs.get(*which).cloned().unwrap_or_default();
                let body = json!({"courier_code": "anteraja", "awb": awb, "cancel_reason": "tidak jadi"}).to_string();
                let (method, path) = if matches!(deed, Deed::Track(_)) {
                    (Method::GET, "/order/track")
                } else {
                    (Method::POST, "/order/cancel")
                };
                asked(&mut simulation, method, path, &body)
            }
            Deed::History(offset) => {
                let body = json!({"limit": 3, "offset": offset}).to_string();
                asked(&mut simulation, Method::POST, "/user/balance/history", &body)
            }
            Deed::Pass(seconds) => {
                simulation.clock.advance(Duration::from_secs(*seconds));
                simulation.catch_up();
                (0, Bytes::new())
            }
            Deed::Send(status) => {
                while let Some(job) = simulation.next_delivery() {
                    all.push(String::from_utf8_lossy(&job.body).into_owned());
                    simulation.finish_delivery(&job, AttemptResult::Answered(*status, "x".to_owned()));
                }
                (0, Bytes::new())
            }
        };
        let text = String::from_utf8(body.to_vec()).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        awbs.extend(value["data"]["awb"].as_str().map(str::to_owned));
        all.push(format!("{status} {text}"));
    }
    all.push(simulation.outbox.page(0, 10_000, None).to_string());
    all.push(simulation.orders.page(0, 10_000, None).to_string());
    all.extend(simulation.journal.entries().map(|entry| entry.json().to_string()));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn two_worlds_of_one_seed_live_alike_to_the_byte(seed: u64, deeds in proptest::collection::vec(deed(), 1..60)) {
        prop_assert_eq!(live(seed, &deeds), live(seed, &deeds));
    }

    #[test]
    fn histories_run_forward_and_end_where_the_order_stands(seed: u64, deeds in proptest::collection::vec(deed(), 1..60)) {
        let all = live(seed, &deeds);
        let page: Value = all.iter().rev().find_map(|text| serde_json::from_str(text).ok().filter(|v: &Value| v["orders"].is_array())).unwrap();
        for order in page["orders"].as_array().unwrap() {
            let history = order["history"].as_array().unwrap();
            prop_assert!(history.windows(2).all(|pair| pair[0]["timestamp"].as_str() >= pair[1]["timestamp"].as_str()));
            prop_assert_eq!(&history[0]["status"], &order["status"]);
        }
    }
}

/// Resident bytes of this process; each test runs in its own.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1_024
}

/// Orders with names and addresses of usual length, as many as said; gives bytes for each.
fn bytes_an_order(simulation: &mut Simulation, count: usize) -> usize {
    let body = |number: usize| {
        let mut body: Value = serde_json::from_str(&order()).unwrap();
        body["shipper"]["name"] = json!("Toko Sinar Jaya Abadi");
        body["shipper"]["address"] = json!("Jl. Kemayoran Gempol No. 12, RT 3 / RW 7, Jakarta Pusat");
        body["receiver"]["name"] = json!(format!("Pembeli {number}"));
        body["receiver"]["address"] = json!("Jl. Raya Kuta No. 88, Kuta, Badung, Bali 80361");
        body.to_string()
    };
    // The journal has its own bound: fill it first.
    for number in 0..10_000 {
        asked(simulation, Method::POST, "/order/express", &body(number));
    }
    let before = resident();
    for number in 0..count {
        let (status, _) = asked(simulation, Method::POST, "/order/express", &body(10_000 + number));
        assert_eq!(status, 200);
    }
    (resident() - before) / count
}

#[test]
fn an_order_takes_some_hundred_bytes_and_old_ones_go() {
    let mut simulation = simulation(1, 40_000);
    let bytes = bytes_an_order(&mut simulation, 30_000);
    // It is the process that is measured, and other tests run in it.
    assert!(bytes < 1000, "{bytes} bytes an order");
    for _ in 0..5_000 {
        asked(&mut simulation, Method::POST, "/order/express", &order());
    }
    let page = simulation.orders.page(0, 1, None);
    assert_eq!((&page["kept"], &page["gone"]), (&json!(40_000), &json!(5_000)));
    assert!(simulation.orders.memory() < 40_000 * 400, "{}", simulation.orders.memory());
}

/// `cargo test --release -- --ignored a_million`: half a minute.
#[test]
#[ignore = "a release build's figure; the test above is its small form"]
fn a_million_orders_fit() {
    let mut simulation = simulation(1, 1_000_000);
    let bytes = bytes_an_order(&mut simulation, 1_000_000);
    println!(
        "{bytes} bytes an order, {} MB of the orders' own, {} MB resident",
        simulation.orders.memory() >> 20,
        resident() >> 20
    );
    assert!(bytes < 600, "{bytes} bytes an order");
}
