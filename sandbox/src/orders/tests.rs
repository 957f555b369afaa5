//! Orders are charged once, progress at their times, and are refunded when cancelled.

use super::{receipt::bill, steps::Branch, *};
use crate::clock;

const NOW: i64 = 1_767_323_045_678; // 2026-01-02 10:04:05 in Jakarta
const FIVE_MINUTES: Validity = Validity { millis: 300_000, single_use: true };

struct Shop {
    orders: Orders,
    wallet: Wallet,
    quotes: Quotes,
    outbox: Outbox,
    flow: FlowSettings,
    now: i64,
}

impl Shop {
    fn new(balance: u64) -> Self {
        Shop {
            orders: Orders::new(1),
            wallet: Wallet::new(balance, NOW, 1),
            quotes: Quotes::default(),
            outbox: Outbox::new(std::sync::Arc::default(), 1, 0),
            flow: FlowSettings::default(),
            now: NOW,
        }
    }

    fn context(&mut self) -> (&mut Orders, OrderContext<'_>) {
        let context = OrderContext {
            wallet: &mut self.wallet,
            quotes: &mut self.quotes,
            outbox: &mut self.outbox,
            validity: FIVE_MINUTES,
            flow: &self.flow,
            shortage: "no money",
            now: self.now,
        };
        (&mut self.orders, context)
    }

    fn ask(
        &mut self,
        body: &Value,
        of: fn(&mut Orders, &Fields<'_>, &mut OrderContext<'_>) -> ApiResult<Success>,
    ) -> ApiResult<Value> {
        let (orders, mut context) = self.context();
        let reply = of(orders, &Fields::of(body)?, &mut context)?;
        Ok(serde_json::from_slice(&reply.data).unwrap())
    }

    fn track(&self, code: &str, awb: &str) -> ApiResult<Value> {
        let body = json!({"courier_code": code, "awb": awb});
        let reply = self.orders.track(&Fields::of(&body)?)?;
        Ok(serde_json::from_slice(&reply.data).unwrap())
    }
}

fn express() -> Value {
    let party = |name: &str, region: u64| json!({"name": name, "phone": "6281", "address": "Jl. Contoh 1", "region_id": region});
    json!({
        "courier_code": "anteraja", "code_service": "reg", "cod": "1", "cod_amount": 200_000,
        "insurance": "1", "pickup": "1",
        "pickup_start": "2026-01-03 09:00:00", "pickup_end": "2026-01-03 12:00:00",
        "shipper": party("Toko", 3_171_031_001), "receiver": party("Pembeli", 3_171_031_002),
        "item": {"name": "Baju", "desc": "Kaos", "category": "Pakaian", "value": 200_000, "weight": 1_000,
                 "length": 10, "width": 10, "height": 10, "qty": 1},
    })
}

fn cancel(awb: &str) -> Value {
    json!({"courier_code": "anteraja", "awb": awb, "cancel_reason": "salah alamat"})
}

fn message(outcome: ApiResult<Value>) -> String {
    outcome.unwrap_err().message().to_owned()
}

#[test]
fn the_published_bill_comes_out() {
    let courier = crate::couriers::find("anteraja").unwrap();
    let bill = bill(courier, &CashOnDelivery { item_value: 200_000, custom: 0 }, 18_000, 2_500);
    let published = json!({"item_value": 200_000, "cod_fee_percent": 3, "cod_fee": 6_000, "cod_custom": 0,
                           "cod_billed": 226_500, "cod_disbursement": 200_000});
    assert_eq!(bill, published);
}

#[test]
fn an_order_is_charged_named_and_tracked() {
    let mut shop = Shop::new(1_000_000);
    let order = shop.ask(&express(), Orders::express).unwrap();
    let charge = order["tariff"].as_u64().unwrap() + order["insurance_detail"]["insurance"].as_u64().unwrap();
    assert_eq!(shop.wallet.balance(), 1_000_000 - charge);
    assert_eq!((&order["cod"], &order["insurance"]), (&json!(true), &json!(true)));
    let awb = order["awb"].as_str().unwrap();
    assert!(awb.starts_with("FSTRA") && awb.len() == 24 && awb[5..].bytes().all(|b| b.is_ascii_digit()), "{awb}");
    let booking = order["booking_id"].as_str().unwrap();
    assert!(booking.starts_with("FSTR.CO-20260102") && booking.len() == 21, "{booking}");
    let track = shop.track("anteraja", awb).unwrap();
    assert_eq!(track["courier"], "ANTERAJA");
    assert_eq!(track["history"][0]["status"], "PENDING_PICKUP");
    assert_eq!(track["history"][0]["timestamp"], clock::local(NOW));
    assert_eq!(track["receiver_name"], "Pembeli");
}

#[test]
fn the_same_seed_names_the_same_orders_and_no_two_orders_share_a_name() {
    let names = |seed: u64| {
        let mut shop = Shop::new(100_000_000);
        shop.orders = Orders::new(seed);
        (0..300)
            .map(|_| {
                let order = shop.ask(&express(), Orders::express).unwrap();
                [order["awb"].to_string(), order["booking_id"].to_string()]
            })
            .collect::<Vec<_>>()
    };
    let first = names(1);
    assert_eq!(first, names(1));
    assert_ne!(first, names(2));
    let all: std::collections::HashSet<&String> = first.iter().flatten().collect();
    assert_eq!(all.len(), 600);
}

#[test]
fn a_balance_that_is_too_small_places_nothing() {
    let mut shop = Shop::new(1_000);
    assert_eq!(message(shop.ask(&express(), Orders::express)), "no money");
    assert_eq!((shop.wallet.balance(), shop.orders.placed), (1_000, 0));
}

#[test]
fn every_required_member_is_asked_for() {
    let mut shop = Shop::new(1_000_000);
    let required = [
        "/courier_code",
        "/code_service",
        "/cod",
        "/cod_amount",
        "/insurance",
        "/pickup",
        "/pickup_start",
        "/pickup_end",
        "/shipper",
        "/receiver",
        "/item",
        "/shipper/name",
        "/shipper/phone",
        "/shipper/address",
        "/receiver/region_id",
        "/item/name",
        "/item/desc",
        "/item/category",
        "/item/value",
        "/item/weight",
    ];
    for path in required {
        let mut body = express();
        *body.pointer_mut(path).unwrap() = Value::Null;
        let name = path[1..].replace('/', ".");
        assert_eq!(message(shop.ask(&body, Orders::express)), format!("{name} is required"));
    }
    assert_eq!(shop.orders.placed, 0);
}

#[test]
fn wrong_values_are_refused() {
    let mut shop = Shop::new(1_000_000);
    let wrong = [
        ("/item/weight", json!(999)),
        ("/item/weight", json!(60_000)),
        ("/cod", json!(1)),
        ("/pickup", json!(true)),
        ("/pickup_start", json!("2026-01-03T09:00:00")),
        ("/courier_code", json!("ANTERAJA")),
        ("/code_service", json!("grab_instant")),
        ("/shipper/region_id", json!("3171031001")),
    ];
    for (path, value) in wrong {
        let mut body = express();
        *body.pointer_mut(path).unwrap() = value.clone();
        let failure = shop.ask(&body, Orders::express).unwrap_err();
        assert!(matches!(failure, ApiError::Invalid(_)), "{path} {value}: {failure:?}");
    }
    let mut body = express();
    *body.pointer_mut("/receiver/region_id").unwrap() = json!(42);
    assert_eq!(shop.ask(&body, Orders::express).unwrap_err(), ApiError::NotFound);
}

#[test]
fn cancelling_gives_the_charge_back_once_and_then_is_the_published_404() {
    let mut shop = Shop::new(1_000_000);
    let awb = shop.ask(&express(), Orders::express).unwrap()["awb"].as_str().unwrap().to_owned();
    shop.ask(&cancel(&awb), Orders::cancel).unwrap();
    assert_eq!(shop.wallet.balance(), 1_000_000);
    assert_eq!(shop.track("anteraja", &awb).unwrap()["history"][0]["status"], "CANCELED");
    for _ in 0..2 {
        let failure = shop.ask(&cancel(&awb), Orders::cancel).unwrap_err();
        assert_eq!(failure.status(200), 404);
        assert_eq!(failure.message(), "An error occurred while placing an cancel");
    }
    assert_eq!(shop.wallet.balance(), 1_000_000);
}

#[test]
fn a_reason_has_5_to_150_characters() {
    let mut shop = Shop::new(1_000_000);
    for (length, invalid) in [(4, true), (5, false), (150, false), (151, true)] {
        let mut body = cancel("FSTRA1");
        body["cancel_reason"] = json!("é".repeat(length));
        let failure = shop.ask(&body, Orders::cancel).unwrap_err();
        assert_eq!(matches!(failure, ApiError::Invalid(_)), invalid, "{length}");
    }
}

#[test]
fn a_foreign_or_odd_air_waybill_is_not_found() {
    let mut shop = Shop::new(1_000_000);
    let awb = shop.ask(&express(), Orders::express).unwrap()["awb"].as_str().unwrap().to_owned();
    assert_eq!(shop.track("idx", &awb).unwrap_err(), ApiError::NotFound);
    let number: u64 = awb[5..].parse().unwrap();
    for odd in
        ["FSTRA", "FSTRA1", "CO.FASTRAC-1-1-X", "x", "-", "--", &format!("FSTRA{number}0"), &format!("FSTRA+{number}")]
    {
        assert_eq!(shop.track("anteraja", odd).unwrap_err(), ApiError::NotFound, "{odd}");
    }
}

fn instant(tariff_id: &str, courier: &str) -> Value {
    let party = json!({"name": "A", "email": "a@b.test", "address": "Jl. 1", "phone": "628123"});
    json!({"shipper": party, "receiver": party, "courier_code": courier, "tariff_id": tariff_id,
           "item": {"name": "A", "desc": "B", "category": "Dokumen", "value": 10_000}})
}

fn quote(shop: &mut Shop) -> Value {
    let point = json!({"id": "3171031001", "lat": "-6.2", "lng": "106.8", "alamat_lengkap": "x", "alamat_google": "y"});
    let body = json!({"origin": point, "destination": point, "package": {}, "vehicle_type": "bike"});
    let offers = shop.quotes.make(&Fields::of(&body).unwrap(), 1, NOW, FIVE_MINUTES).unwrap();
    serde_json::from_slice::<Value>(&offers).unwrap()[1].clone()
}

#[test]
fn an_instant_order_buys_its_quote_once() {
    let mut shop = Shop::new(1_000_000);
    let offer = quote(&mut shop);
    let (id, total) = (offer["tariff_id"].as_str().unwrap(), offer["total"].as_u64().unwrap());
    assert_eq!(message(shop.ask(&instant(id, "grab"), Orders::instant)), "courier_code does not match tariff_id");
    let order = shop.ask(&instant(id, "lalamove"), Orders::instant).unwrap();
    assert_eq!(shop.wallet.balance(), 1_000_000 - total);
    let awb = order["awb"].as_str().unwrap();
    assert!(awb.starts_with("CO.FASTRAC-20260102-1-"), "{awb}");
    assert_eq!(shop.track("lalamove", awb).unwrap()["history"][0]["status"], "PENDING_PICKUP");
    assert_eq!(message(shop.ask(&instant(id, "lalamove"), Orders::instant)), "tariff_id is expired or unknown");
}

#[test]
fn an_instant_order_that_fails_keeps_its_quote() {
    let mut shop = Shop::new(1);
    let id = quote(&mut shop)["tariff_id"].as_str().unwrap().to_owned();
    assert_eq!(message(shop.ask(&instant(&id, "lalamove"), Orders::instant)), "no money");
    shop.wallet = Wallet::new(1_000_000, NOW, 1);
    for (path, value) in
        [("/shipper/phone", json!("0812")), ("/item/category", json!("x")), ("/receiver/email", Value::Null)]
    {
        let mut body = instant(&id, "lalamove");
        *body.pointer_mut(path).unwrap() = value;
        assert!(matches!(shop.ask(&body, Orders::instant), Err(ApiError::Invalid(_))), "{path}");
    }
    assert!(shop.ask(&instant(&id, "lalamove"), Orders::instant).is_ok());
}

impl Shop {
    /// Lets time pass until nothing more happens.
    fn live(&mut self) {
        while let Some(due) = self.orders.next_due() {
            self.now = due;
            let (orders, mut context) = self.context();
            while orders.run_next_due(&mut context) {}
        }
    }

    fn statuses(&self, code: &str, awb: &str) -> Vec<String> {
        let track = self.track(code, awb).unwrap();
        let mut all: Vec<String> =
            track["history"].as_array().unwrap().iter().map(|e| e["status"].as_str().unwrap().to_owned()).collect();
        all.reverse();
        all.dedup();
        all
    }

    fn wish(&mut self, branch: Branch) {
        assert!(self.orders.planned.add(branches::PlannedBranch { branch, times: 1 }));
    }

    fn place(&mut self) -> String {
        self.ask(&express(), Orders::express).unwrap()["awb"].as_str().unwrap().to_owned()
    }

    fn history(&self) -> Value {
        let body = json!({"limit": 1_000});
        let reply = self.wallet.history(&Fields::of(&body).unwrap(), self.now).unwrap();
        serde_json::from_slice(&reply.data).unwrap()
    }
}

#[test]
fn an_order_goes_its_way_at_its_times_and_brings_its_cash() {
    let mut shop = Shop::new(1_000_000);
    let awb = shop.place();
    assert_eq!(shop.history()["pending_balance"], 200_000);
    let paid = shop.wallet.balance();
    shop.live();
    assert_eq!(shop.statuses("anteraja", &awb), ["PENDING_PICKUP", "PICKED", "IN_TRANSIT", "DELIVERED"]);
    let track = shop.track("anteraja", &awb).unwrap();
    let times: Vec<&str> =
        track["history"].as_array().unwrap().iter().map(|e| e["timestamp"].as_str().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] > pair[1]), "{times:?}");
    assert_eq!(track["history"][0]["description"], "Delivery sukses, parcel diterima oleh penerima");
    assert_eq!(shop.wallet.balance(), paid + 200_000);
    let history = shop.history();
    assert_eq!((&history["pending_balance"], &history["history"][0]["status"]), (&json!(0), &json!("dana_cod")));
    assert_eq!(message(shop.ask(&cancel(&awb), Orders::cancel)), "An error occurred while placing an cancel");
}

#[test]
fn steps_have_their_own_times_however_late_they_are_looked_at() {
    let walk = |late: bool| {
        let mut shop = Shop::new(10_000_000);
        let awbs: Vec<String> = (0..20).map(|_| shop.place()).collect();
        if late {
            shop.now += 60 * 86_400_000;
            let (orders, mut context) = shop.context();
            while orders.run_next_due(&mut context) {}
        } else {
            shop.live();
        }
        awbs.iter().map(|awb| shop.track("anteraja", awb).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(walk(true), walk(false));
}

#[test]
fn branches_end_as_the_diagrams_say_and_money_follows() {
    for (branch, last, back) in [
        (Branch::Cancel, "CANCELED", true),
        (Branch::Problem, "PROBLEM_SHIPMENT", false),
        (Branch::Return, "RETURNED", false),
        (Branch::Hold, "PENDING_PICKUP", false),
    ] {
        let mut shop = Shop::new(1_000_000);
        shop.wish(branch);
        let awb = shop.place();
        shop.live();
        assert_eq!(shop.statuses("anteraja", &awb).last().unwrap(), last);
        assert_eq!(shop.wallet.balance() == 1_000_000, back, "{branch:?}");
        let pending = matches!(branch, Branch::Problem | Branch::Hold);
        assert_eq!(shop.history()["pending_balance"] == 200_000, pending, "{branch:?}");
    }
}

#[test]
fn an_instant_order_without_a_courier_is_cancelled_and_paid_back() {
    let mut shop = Shop::new(1_000_000);
    shop.wish(Branch::NoCourier);
    let id = quote(&mut shop)["tariff_id"].as_str().unwrap().to_owned();
    let order = shop.ask(&instant(&id, "lalamove"), Orders::instant).unwrap();
    shop.live();
    let awb = order["awb"].as_str().unwrap();
    assert_eq!(shop.statuses("lalamove", awb), ["CONFIRMED", "COURIER_NOT_FOUND", "CANCELLED"]);
    assert_eq!(shop.wallet.balance(), 1_000_000);
}

#[test]
fn where_an_order_begins_is_a_switch() {
    for (begin, first) in [
        (steps::InitialStatus::WaitingPayment, "WAITING_PAYMENT"),
        (steps::InitialStatus::Paid, "PAID"),
        (steps::InitialStatus::Confirmed, "CONFIRMED"),
    ] {
        let mut shop = Shop::new(1_000_000);
        shop.flow.begin = begin;
        let awb = shop.place();
        assert_eq!(shop.statuses("anteraja", &awb), [first]);
        shop.live();
        assert_eq!(shop.statuses("anteraja", &awb).last().unwrap(), "DELIVERED");
    }
}

#[test]
fn an_order_can_be_sent_another_way_or_on_at_once() {
    let mut shop = Shop::new(1_000_000);
    let awb = shop.place();
    let now = shop.now;
    shop.orders.set_branch(&awb, Branch::Return, now).unwrap();
    let (orders, mut context) = shop.context();
    orders.advance_to_status(&awb, "PROBLEM_SHIPMENT", &mut context).unwrap();
    let error = orders.advance_to_status(&awb, "DELIVERED", &mut context).unwrap_err().to_string();
    assert!(error.contains("PROBLEM_SHIPMENT") && error.ends_with("ahead: RTS, RETURNED"), "{error}");
    let error = orders.set_branch(&awb, Branch::Cancel, now).unwrap_err().to_string();
    assert!(error.ends_with("possible branches: problem, return, hold"), "{error}");
    assert_eq!(orders.set_branch("FSTRA1", Branch::Return, now), Err(progress::OrderCommandError::UnknownOrder));
    shop.live();
    assert_eq!(shop.statuses("anteraja", &awb).last().unwrap(), "RETURNED");
    assert!(shop.orders.set_branch(&awb, Branch::Deliver, now).unwrap_err().to_string().contains("it has ended"));
}

#[test]
fn old_orders_go_out_oldest_first_and_are_then_unknown() {
    let mut shop = Shop::new(10_000_000);
    shop.flow.kept = 3;
    let awbs: Vec<String> = (0..5).map(|_| shop.place()).collect();
    for (position, awb) in awbs.iter().enumerate() {
        assert_eq!(shop.track("anteraja", awb).is_ok(), position >= 2, "{position}");
    }
    assert_eq!(message(shop.ask(&cancel(&awbs[0]), Orders::cancel)), "An error occurred while placing an cancel");
    let page = shop.orders.page(0, 10, None);
    assert_eq!((&page["placed"], &page["kept"], &page["gone"]), (&json!(5), &json!(3), &json!(2)));
    assert_eq!(shop.history()["pending_balance"], 600_000);
    shop.live();
    assert_eq!(shop.statuses("anteraja", &awbs[4]).last().unwrap(), "DELIVERED");
}

#[test]
fn steering_without_end_does_not_grow_the_schedule() {
    let mut shop = Shop::new(10_000_000);
    let awb = shop.place();
    for round in 0..10_000 {
        let branch = if round % 2 == 0 { Branch::Return } else { Branch::Deliver };
        shop.orders.set_branch(&awb, branch, NOW).unwrap();
    }
    assert!(shop.orders.schedule.len() < 2_000, "{}", shop.orders.schedule.len());
}
