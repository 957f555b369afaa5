//! Prices follow the documented arithmetic, and are the same for the same request.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const KEMAYORAN: u64 = 3_171_031_001;
const KEBON_KOSONG: u64 = 3_171_031_002;

fn ask(body: &Value, version: ApiVersion) -> ApiResult<Value> {
    let question = TariffRequest::read(&Fields::of(body).unwrap(), version)?;
    question.answer(1).map(|tariffs| serde_json::to_value(tariffs).unwrap())
}

fn v2(destination: u64) -> Value {
    json!({"origin": KEMAYORAN, "destination": destination, "items": [
        {"name": "A", "weight": 1_200, "width": 10, "height": 10, "length": 10, "quantity": 1, "value": 100_000}]})
}

fn first_in(province: u64) -> u64 {
    let map = Regions::get();
    let id = |list: bytes::Bytes, name: &str| {
        let list: Value = serde_json::from_slice(&list).unwrap();
        list[0][name].as_u64().unwrap()
    };
    let city = id(map.cities(province).unwrap(), "city_id");
    let district = id(map.districts(city).unwrap(), "district_id");
    id(map.villages(district).unwrap(), "subdistrict_id")
}

#[test]
fn total_is_base_less_discount_and_kilograms_are_rounded_up() {
    let answer = ask(&v2(KEBON_KOSONG), ApiVersion::V2).unwrap();
    let element = &answer["regular"][0];
    assert_eq!(element["courier_code"], "anteraja");
    let [base, discount, total] = ["base_tariff", "discount", "total"].map(|name| element[name].as_u64().unwrap());
    // 1,200 g are 2 kg at 9,000 and a lane surcharge of at most 2,000.
    assert!((18_000..=20_000).contains(&base) && base % 500 == 0, "{base}");
    assert_eq!((discount, total), (base * 5 / 100, base - base * 5 / 100));
    assert_eq!(element["mapping_service"], "regular");
    assert_eq!(element["etd"], "2-4 Days");
    assert!(element.get("cod_fee").is_none());
}

#[test]
fn a_light_large_parcel_pays_for_its_volume() {
    let mut body = v2(KEBON_KOSONG);
    let small = ask(&body, ApiVersion::V2).unwrap()["regular"][0]["base_tariff"].as_u64().unwrap();
    for side in ["width", "height", "length"] {
        body["items"][0][side] = json!(30);
    }
    // 27,000 cm³ / 6,000 = 4.5 kg, so 5 kg instead of 2.
    let large = ask(&body, ApiVersion::V2).unwrap()["regular"][0]["base_tariff"].as_u64().unwrap();
    assert_eq!(large - small, 3 * 9_000);
}

#[test]
fn services_have_their_reach() {
    let near = ask(&v2(KEBON_KOSONG), ApiVersion::V2).unwrap();
    let far = ask(&v2(first_in(91)), ApiVersion::V2).unwrap();
    assert!(!near["sameday"].as_array().unwrap().is_empty());
    assert!(far["sameday"].as_array().unwrap().is_empty() && far["nextday"].as_array().unwrap().is_empty());
    assert!(!far["regular"].as_array().unwrap().is_empty());
}

#[test]
fn an_unserved_pair_is_refused_though_both_places_are_real() {
    assert_eq!(ask(&v2(first_in(95)), ApiVersion::V2).unwrap_err(), ApiError::NoCourier);
    assert_eq!(ask(&v2(1), ApiVersion::V2).unwrap_err(), ApiError::NotFound);
}

#[test]
fn cod_and_insurance_need_a_value_and_cod_amount_replaces_it() {
    let mut body = v2(KEBON_KOSONG);
    body["cod"] = json!("1");
    body["insurance"] = json!("1");
    let element = ask(&body, ApiVersion::V2).unwrap()["regular"][0].clone();
    assert_eq!((&element["cod_fee"], &element["insurance_fee"]), (&json!(3_000), &json!(2_500)));
    body["cod_amount"] = json!(1_000_000);
    let element = ask(&body, ApiVersion::V2).unwrap()["regular"][0].clone();
    assert_eq!((&element["cod_fee"], &element["insurance_fee"]), (&json!(30_000), &json!(3_000)));
    body["items"][0].as_object_mut().unwrap().remove("value");
    assert!(matches!(ask(&body, ApiVersion::V2), Err(ApiError::Invalid(text)) if text == "items[0].value is required"));
}

#[test]
fn v1_takes_the_flat_form() {
    let body = json!({"origin": KEMAYORAN, "destination": KEBON_KOSONG, "weight": 1_000, "length": 10, "width": 10, "height": 10});
    assert!(!ask(&body, ApiVersion::V1).unwrap()["regular"].as_array().unwrap().is_empty());
    assert!(matches!(ask(&body, ApiVersion::V2), Err(ApiError::Invalid(text)) if text == "items is required"));
}

#[test]
fn the_same_question_has_the_same_price_and_another_seed_another() {
    let (origin, destination) = (Regions::get().place(KEMAYORAN).unwrap(), Regions::get().place(KEBON_KOSONG).unwrap());
    let courier = couriers::find("anteraja").unwrap();
    let service = courier.express("reg").unwrap();
    let lane = Lane { courier, service, origin: &origin, destination: &destination };
    let of = |seed| lane.price(seed, 1_000).unwrap();
    assert_eq!(of(1), of(1));
    assert!((2..50).any(|seed| of(seed) != of(1)));
}

#[test]
fn instant_prices_grow_with_the_way() {
    let monas = Point { lat: -6.175_4, lng: 106.827_2 };
    assert_eq!(metres(monas, monas), 0);
    // Jakarta to Bandung, about 120 km as the crow flies.
    let bandung = metres(monas, Point { lat: -6.917_5, lng: 107.619_1 });
    assert!((115_000..125_000).contains(&bandung), "{bandung}");
    let lalamove = couriers::find("lalamove").unwrap();
    assert_eq!(instant_price(lalamove, 100, 0, 0).total, 8_000);
    assert_eq!(instant_price(lalamove, 100, 0, 10_000).total, 30_000);
}

proptest! {
    #[test]
    fn no_coordinates_panic(a in -90.0..90.0_f64, b in -180.0..180.0_f64, c in -90.0..90.0_f64, d in -180.0..180.0_f64) {
        let (from, to) = (Point { lat: a, lng: b }, Point { lat: c, lng: d });
        prop_assert!(metres(from, to) <= 20_100_000);
    }
}
