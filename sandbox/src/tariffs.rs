//! Prices of deliveries, express and instant.
//!
//! Express: chargeable kilograms (the larger of actual and dimensional weight, rounded up, at least the service's
//! minimum) times the service's rate for the distance (same city, province, island, country), plus a surcharge of the
//! lane of 0 to 2,000 IDR determined by the seed, minus the courier's discount. Instant: a price for the start and
//! for each km of the great circle.
//!
//! What always holds: the same request gets the same price; amounts are whole rupiah, fees are rounded up, discounts
//! down. No courier serves Papua Pegunungan (province 95) from another province, so that this error can be tested.

use serde::Serialize;

use super::{
    couriers::{self, Courier, ExpressService, Group, VEHICLES},
    envelope::ApiError,
    input::{ApiResult, Fields},
    parcel::{self, Item, Parcel},
    random::{Purpose, draw},
    regions::{Location, Regions},
    route::ApiVersion,
};

/// Province that is served only from within.
const UNSERVED: u64 = 95;

/// A request to Check Tariff Express.
#[derive(Clone, Debug)]
pub(crate) struct TariffRequest {
    pub origin: Location,
    pub destination: Location,
    pub items: Vec<Item>,
    /// Declared value in IDR, for fees.
    pub value: u64,
    pub cod: bool,
    pub insurance: bool,
}

/// A row of an express response.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TariffRow {
    courier_name: &'static str,
    courier_code: &'static str,
    dimension: String,
    service: &'static str,
    code_service: &'static str,
    mapping_service: Group,
    etd: String,
    base_tariff: u64,
    discount: u64,
    total: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    insurance_fee: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cod_fee: Option<u64>,
}

/// An express response.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Tariffs {
    nextday: Vec<TariffRow>,
    regular: Vec<TariffRow>,
    sameday: Vec<TariffRow>,
    cargo: Vec<TariffRow>,
}

/// A price in IDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Price {
    /// Before the discount.
    pub base: u64,
    pub discount: u64,
    /// Base minus discount.
    pub total: u64,
}

impl Serialize for Group {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Group::Nextday => "nextday",
            Group::Regular => "regular",
            Group::Sameday => "sameday",
            Group::Cargo => "cargo",
        })
    }
}

impl TariffRequest {
    /// Reads the body of either version.
    ///
    /// # Errors
    ///
    /// If the body is wrong, or a region unknown (not found).
    pub(crate) fn read(fields: &Fields<'_>, version: ApiVersion) -> ApiResult<TariffRequest> {
        let (origin, destination) = (place(fields, "origin")?, place(fields, "destination")?);
        let mut question =
            TariffRequest { origin, destination, items: Vec::new(), value: 0, cod: false, insurance: false };
        if version == ApiVersion::V1 && fields.get("items").is_none() {
            let length = |name| fields.number_or(name, 0).map(|cm| cm.max(1));
            let size = [length("length")?, length("width")?, length("height")?];
            let item = Item { size, weight: fields.positive("weight")?, quantity: 1 };
            question.items.push(item.bounded()?);
            return Ok(question);
        }
        question.cod = fields.flag_or_false("cod")?;
        question.insurance = fields.flag_or_false("insurance")?;
        for element in fields.objects("items")? {
            element.text("name")?;
            let item = Item::read(&element, element.positive("quantity")?)?;
            let valued = question.cod || question.insurance;
            let value = if valued { element.number("value")? } else { element.number_or("value", 0)? };
            question.value = question.value.saturating_add(value.saturating_mul(item.quantity));
            question.items.push(item);
        }
        question.value = fields.number_or("cod_amount", question.value)?;
        Ok(question)
    }

    /// The tariffs of all services.
    ///
    /// # Errors
    ///
    /// If no service covers it.
    pub(crate) fn answer(&self, seed: u64) -> ApiResult<Tariffs> {
        let mut tariffs = Tariffs::default();
        let mut served = false;
        for courier in couriers::all().iter().filter(|courier| !self.cod || courier.cod.is_some()) {
            let parcel = parcel::pack(&self.items, courier.divisor);
            for service in courier.express {
                let lane = Lane { courier, service, origin: &self.origin, destination: &self.destination };
                let Some(price) = lane.price(seed, parcel.final_weight) else { continue };
                served = true;
                let group = match service.group {
                    Group::Nextday => &mut tariffs.nextday,
                    Group::Regular => &mut tariffs.regular,
                    Group::Sameday => &mut tariffs.sameday,
                    Group::Cargo => &mut tariffs.cargo,
                };
                group.push(self.element(courier, service, &parcel, price));
            }
        }
        if served { Ok(tariffs) } else { Err(ApiError::NoCourier) }
    }

    fn element(
        &self,
        courier: &'static Courier,
        service: &'static ExpressService,
        parcel: &Parcel,
        price: Price,
    ) -> TariffRow {
        TariffRow {
            courier_name: courier.name,
            courier_code: courier.code,
            dimension: parcel.dimension(),
            service: service.name,
            code_service: service.code,
            mapping_service: service.group,
            etd: service.etd.express_text(),
            base_tariff: price.base,
            discount: price.discount,
            total: price.total,
            insurance_fee: self.insurance.then(|| courier.insurance_fee(self.value)),
            cod_fee: if self.cod { courier.cod_fee(self.value) } else { None },
        }
    }
}

/// Reads a village id.
///
/// # Errors
///
/// If it is missing, not a number, or unknown.
pub(crate) fn place(fields: &Fields<'_>, name: &str) -> ApiResult<Location> {
    Regions::get().place(fields.positive(name)?).ok_or(ApiError::NotFound)
}

/// An express service between two places.
pub(crate) struct Lane<'a> {
    pub(crate) courier: &'a Courier,
    pub(crate) service: &'a ExpressService,
    pub(crate) origin: &'a Location,
    pub(crate) destination: &'a Location,
}

impl Lane<'_> {
    /// Price for a weight; `None` if the service does not go there or does not carry that weight.
    pub(crate) fn price(&self, seed: u64, grams: u64) -> Option<Price> {
        let Lane { courier, service, origin, destination } = self;
        let reached = origin.province == destination.province
            || (origin.province != UNSERVED && destination.province != UNSERVED);
        if !reached || grams > service.most {
            return None;
        }
        let rate = service.rates.get(distance(origin, destination))?;
        let position = couriers::all().iter().position(|known| known.code == courier.code)? as u64;
        let words = [position, service.group as u64, origin.district, destination.district];
        let surcharge = draw(seed, Purpose::Tariff, &words) % 5 * 500;
        let kilograms = grams.div_ceil(1_000).max(service.least);
        Some(discounted(rate.saturating_mul(kilograms).saturating_add(surcharge), courier.discount))
    }
}

/// 0: same city, 1: same province, 2: same island (first digit of the province), 3: further.
fn distance(origin: &Location, destination: &Location) -> usize {
    match () {
        () if origin.city == destination.city => 0,
        () if origin.province == destination.province => 1,
        () if origin.province / 10 == destination.province / 10 => 2,
        () => 3,
    }
}

fn discounted(base: u64, hundredths: u64) -> Price {
    let discount = base.saturating_mul(hundredths) / 10_000;
    Price { base, discount, total: base - discount }
}

/// Price of an instant service for a distance; `vehicle` is a position in [`VEHICLES`].
pub(crate) fn instant_price(courier: &Courier, percent: u64, vehicle: usize, metres: u64) -> Price {
    let (_, start, per_km) = VEHICLES[vehicle];
    let road = start.saturating_add(per_km.saturating_mul(metres).div_ceil(1_000));
    // Prices of instant services are multiples of 500.
    let base = road.saturating_mul(percent).div_ceil(100).div_ceil(500).saturating_mul(500);
    discounted(base, courier.discount)
}

/// A point on the globe, in degrees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) lat: f64,
    pub(crate) lng: f64,
}

/// Length of the great circle between two points, in metres.
pub(crate) fn metres(from: Point, to: Point) -> u64 {
    let [lat1, lng1, lat2, lng2] = [from.lat, from.lng, to.lat, to.lng].map(f64::to_radians);
    let haversine = ((lat2 - lat1) / 2.0).sin().powi(2) + lat1.cos() * lat2.cos() * ((lng2 - lng1) / 2.0).sin().powi(2);
    // Rounded up to 100 m, so that rounding differences between machines do not show in prices.
    let hundreds = (2.0 * 6_371_000.0 * haversine.sqrt().min(1.0).asin() / 100.0).ceil();
    hundreds as u64 * 100
}

#[cfg(test)]
mod tests;
