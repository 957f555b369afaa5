//! Valid request bodies for the API.

use serde_json::{Value, json};

pub(crate) const TARIFF: &str = r#"{"origin":3171031001,"destination":5171011001,"items":[{"name":"Kaos","weight":1200,"width":20,"height":10,"length":30,"quantity":1,"value":150000}],"cod":"0","insurance":"1"}"#;

pub(crate) const TARIFF_V1: &str =
    r#"{"origin":3171031001,"destination":5171011001,"weight":1200,"length":30,"width":20,"height":10}"#;

pub(crate) const ORDER: &str = r#"{"courier_code":"idx","code_service":"reg","cod":"0","insurance":"0","pickup":"0","shipper":{"name":"Toko Contoh","phone":"6281200000001","address":"Jl. Contoh 1","region_id":3171031001},"receiver":{"name":"Budi","phone":"6281200000002","address":"Jl. Contoh 2","region_id":5171011001},"item":{"name":"Kaos","desc":"Kaos katun","category":"Pakaian","value":150000,"weight":1200,"length":30,"width":20,"height":10,"qty":1}}"#;

pub(crate) const MULTI_ITEMS: &str =
    r#"{"courier":"idx","items":[{"name":"Kotak A","length":20,"width":30,"height":10,"weight":500,"quantity":2}]}"#;

/// An express order that differs from those with other numbers.
pub(crate) fn order(number: usize) -> String {
    ORDER.replace("Budi", &format!("Budi {number}"))
}

/// Check Tariff Instant.
pub(crate) fn instant(v1: bool) -> String {
    let point = |lat: f64, lng: f64| {
        let (id, lat, lng) = match v1 {
            true => (json!(3_171_031_001_u64), json!(lat), json!(lng)),
            false => (json!("3171031001"), json!(lat.to_string()), json!(lng.to_string())),
        };
        json!({"id": id, "lat": lat, "lng": lng, "alamat_lengkap": "Jl. Contoh 1", "alamat_google": "Jl. Contoh 1"})
    };
    let goods = json!({"value": 150_000, "length": 10, "width": 10, "height": 10, "weight": 1_000, "quantity": 1});
    let name = if v1 { "item" } else { "package" };
    json!({"origin": point(-6.2, 106.8), "destination": point(-6.1, 106.9), name: goods, "vehicle_type": "bike"})
        .to_string()
}

/// Order Instant for the first offer of a tariff's answer.
pub(crate) fn order_instant(tariff: &Value) -> String {
    let offer = &tariff["data"][0];
    let party = |name: &str| json!({"name": name, "email": "contoh@example.com", "phone": "6281200000001", "address": "Jl. Contoh 1"});
    json!({
        "courier_code": offer["courier_code"], "tariff_id": offer["tariff_id"], "cod": "0", "insurance": "0",
        "shipper": party("Toko"), "receiver": party("Budi"),
        "item": {"name": "Kaos", "desc": "Kaos katun", "category": "Pakaian", "value": 150_000},
    })
    .to_string()
}
