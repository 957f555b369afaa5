//! Quotes for instant deliveries: each courier's offer with a `tariff_id` that expires.
//!
//! What always holds: a `tariff_id` is valid for one order (by configuration: any number) until it expires, by the
//! sandbox's clock; expired quotes are forgotten, so memory is bounded by the quotes made within that time and by
//! [`MAX_QUOTES`].

use std::collections::{HashMap, VecDeque};

use serde::Serialize;
use serde_json::Value;

use super::{
    couriers::{self, Courier, InstantService, VEHICLES},
    envelope::ApiError,
    input::{ApiResult, Fields},
    random::{Purpose, draw},
    tariffs::{self, Point},
};

/// Maximum number of quotes kept; the oldest are dropped first.
const MAX_QUOTES: usize = 1 << 18;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Quote {
    pub courier: &'static Courier,
    pub service: &'static InstantService,
    /// In IDR.
    pub total: u64,
    expires: i64,
}

/// Quotes by `tariff_id`.
#[derive(Debug, Default)]
pub(crate) struct Quotes {
    made: u64,
    known: HashMap<String, Quote>,
    order: VecDeque<(i64, String)>,
}

/// How long a `tariff_id` is valid, and for how many orders.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// In milliseconds of the sandbox's clock.
    pub millis: i64,
    /// True: valid for one order only.
    pub single_use: bool,
}

#[derive(Serialize)]
struct Offer {
    tariff_id: String,
    courier_name: &'static str,
    courier_code: &'static str,
    service: &'static str,
    code_service: &'static str,
    vehicle_type: &'static str,
    distance: u64,
    etd: String,
    base_tariff: u64,
    discount: u64,
    total: u64,
}

impl Quotes {
    /// The operation Check Tariff Instant: the offers as JSON.
    ///
    /// # Errors
    ///
    /// If the body is wrong.
    pub(crate) fn make(&mut self, fields: &Fields<'_>, seed: u64, now: i64, validity: Validity) -> ApiResult<Vec<u8>> {
        let (vehicle, metres) = read(fields)?;
        self.forget(now);
        let mut offers = Vec::new();
        for courier in couriers::all() {
            for service in courier.instant.iter().filter(|service| service.vehicles.contains(&vehicle)) {
                let price = tariffs::instant_price(courier, service.percent, vehicle, metres);
                self.made += 1;
                let tariff_id = format!("TRF-{:016x}{:08x}", draw(seed, Purpose::Quote, &[self.made]), self.made);
                let expires = now.saturating_add(validity.millis);
                self.known.insert(tariff_id.clone(), Quote { courier, service, total: price.total, expires });
                self.order.push_back((expires, tariff_id.clone()));
                offers.push(Offer {
                    tariff_id,
                    courier_name: courier.name,
                    courier_code: courier.code,
                    service: service.name,
                    code_service: service.code,
                    vehicle_type: VEHICLES[vehicle].0,
                    distance: metres,
                    etd: service.etd.instant_text(),
                    base_tariff: price.base,
                    discount: price.discount,
                    total: price.total,
                });
            }
        }
        Ok(serde_json::to_vec(&offers).unwrap_or_default())
    }

    /// The quote of a `tariff_id`, if it is still valid.
    pub(crate) fn find(&self, tariff_id: &str, now: i64) -> Option<Quote> {
        self.known.get(tariff_id).copied().filter(|quote| now < quote.expires)
    }

    /// Records that an order was placed with it.
    pub(crate) fn spend(&mut self, tariff_id: &str, validity: Validity) {
        if validity.single_use {
            self.known.remove(tariff_id);
        }
    }

    fn forget(&mut self, now: i64) {
        while self.order.front().is_some_and(|(expires, _)| *expires <= now || self.order.len() > MAX_QUOTES) {
            let Some((_, tariff_id)) = self.order.pop_front() else { return };
            self.known.remove(&tariff_id);
        }
    }
}

/// The vehicle (position in [`VEHICLES`]) and the distance in metres.
fn read(fields: &Fields<'_>) -> ApiResult<(usize, u64)> {
    let origin = point(&fields.object("origin")?)?;
    let destination = point(&fields.object("destination")?)?;
    // V1 calls it `item`. The names of its members are not public: any are accepted.
    match fields.get("package") {
        Some(_) => fields.object("package")?,
        None if fields.get("item").is_some() => fields.object("item")?,
        None => fields.object("package")?,
    };
    let name = fields.text("vehicle_type")?;
    let vehicle = VEHICLES
        .iter()
        .position(|(known, ..)| *known == name)
        .ok_or_else(|| ApiError::Invalid(format!("vehicle_type {name} is unknown")))?;
    let stop = match fields.get("stop") {
        Some(_) => fields.object("stop")?,
        None => return Ok((vehicle, tariffs::metres(origin, destination))),
    };
    let metres = match (coordinate(&stop, "lat", 90.0), coordinate(&stop, "lng", 180.0)) {
        (Ok(lat), Ok(lng)) => {
            let stop = Point { lat, lng };
            tariffs::metres(origin, stop) + tariffs::metres(stop, destination)
        }
        _ => tariffs::metres(origin, destination),
    };
    Ok((vehicle, metres))
}

fn point(fields: &Fields<'_>) -> ApiResult<Point> {
    if fields.get("id").is_none_or(|id| !(id.is_u64() || id.as_str().is_some_and(|text| !text.is_empty()))) {
        fields.text("id")?;
    }
    let point = Point { lat: coordinate(fields, "lat", 90.0)?, lng: coordinate(fields, "lng", 180.0)? };
    fields.text("alamat_lengkap")?;
    fields.text("alamat_google")?;
    Ok(point)
}

/// Degrees: a string in V2, a number in V1; both are accepted.
fn coordinate(fields: &Fields<'_>, name: &str, most: f64) -> ApiResult<f64> {
    let number = match fields.get(name) {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(_) => None,
        None => return fields.text(name).map(|_| 0.0),
    };
    number
        .filter(|degrees: &f64| degrees.abs() <= most)
        .ok_or_else(|| ApiError::Invalid(format!("{name} must be between -{most} and {most}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FIVE_MINUTES: Validity = Validity { millis: 300_000, single_use: true };

    fn body(vehicle: &str) -> Value {
        let point = |lat: &str| json!({"id": "3171031001", "lat": lat, "lng": "106.8", "alamat_lengkap": "x", "alamat_google": "y"});
        json!({"origin": point("-6.2"), "destination": point("-6.1"), "package": {"weight": 1}, "vehicle_type": vehicle})
    }

    fn make(quotes: &mut Quotes, body: &Value, now: i64) -> Vec<Value> {
        let json = quotes.make(&Fields::of(body).unwrap(), 1, now, FIVE_MINUTES).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn each_courier_that_has_the_vehicle_offers() {
        let mut quotes = Quotes::default();
        let codes =
            |list: &[Value]| list.iter().map(|o| o["courier_code"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(codes(&make(&mut quotes, &body("bike"), 0)), ["paxel", "lalamove", "grab", "grab"]);
        assert_eq!(codes(&make(&mut quotes, &body("fusobox"), 0)), ["lalamove"]);
    }

    #[test]
    fn a_tariff_id_dies_after_its_time_and_after_its_order() {
        let mut quotes = Quotes::default();
        let offers = make(&mut quotes, &body("bike"), 1_000);
        let [one, two] = [0, 1].map(|n: usize| offers[n]["tariff_id"].as_str().unwrap());
        assert!(quotes.find(one, 300_999).is_some());
        assert!(quotes.find(one, 301_000).is_none());
        quotes.spend(two, FIVE_MINUTES);
        assert!(quotes.find(two, 1_000).is_none());
    }

    #[test]
    fn dead_quotes_are_forgotten() {
        let mut quotes = Quotes::default();
        for minute in 0..100 {
            make(&mut quotes, &body("bike"), minute * 60_000);
        }
        assert!(quotes.known.len() <= 4 * 6 && quotes.order.len() <= 4 * 6);
    }

    #[test]
    fn a_stop_makes_the_way_longer_and_v1_numbers_are_taken() {
        let mut quotes = Quotes::default();
        let mut body = body("bike");
        let straight = make(&mut quotes, &body, 0)[0]["distance"].as_u64().unwrap();
        body["stop"] = json!({"lat": -6.4, "lng": 106.8});
        body["origin"]["lat"] = json!(-6.2);
        assert!(make(&mut quotes, &body, 0)[0]["distance"].as_u64().unwrap() > straight);
    }

    #[test]
    fn complaints_name_the_member() {
        let mut quotes = Quotes::default();
        for (path, name) in [("/vehicle_type", "vehicle_type"), ("/origin/lat", "origin.lat"), ("/package", "package")]
        {
            let mut body = body("bike");
            *body.pointer_mut(path).unwrap() = Value::Null;
            let failure = quotes.make(&Fields::of(&body).unwrap(), 1, 0, FIVE_MINUTES).unwrap_err();
            assert_eq!(failure.message(), format!("{name} is required"));
        }
    }
}
