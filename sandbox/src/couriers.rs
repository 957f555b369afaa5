//! Couriers, their services, and their fees.
//!
//! Codes shown in the documentation (`paxel`, `anteraja`, `idx`, `lalamove`, `grab`; `PAXEL BIG`,
//! `paxel_instant_bike`, `sameday`, `cargo`, `ND`) are used as they are, including spaces and upper case. Prices,
//! percentages and limits are made up.
//!
//! What always holds: amounts are whole rupiah; percentages are in hundredths of a percent.

pub(crate) mod texts;

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Value, json};

#[derive(Debug)]
pub(crate) struct Courier {
    /// `courier_code`.
    pub code: &'static str,
    /// `courier_name`.
    pub name: &'static str,
    /// Whether it collects parcels.
    pub pickup: bool,
    /// Whether parcels can be brought to it.
    pub dropoff: bool,
    /// Cash on delivery: fee in hundredths of a percent, and minimum fee in IDR; absent: no COD.
    pub cod: Option<(u64, u64)>,
    /// Insurance fee, in hundredths of a percent of the value.
    pub insurance: u64,
    /// Minimum insurance fee in IDR; absent: null in the API.
    pub insurance_minimum: Option<u64>,
    /// Discount on the base tariff, in hundredths of a percent.
    pub discount: u64,
    /// Divisor for dimensional weight, in cm³ per kg.
    pub divisor: u64,
    pub express: &'static [ExpressService],
    pub instant: &'static [InstantService],
}

/// Group of an express service in a tariff response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Group {
    Nextday,
    Regular,
    Sameday,
    Cargo,
}

#[derive(Debug)]
pub(crate) struct ExpressService {
    /// `nama_service`.
    pub name: &'static str,
    /// `code_service`.
    pub code: &'static str,
    pub group: Group,
    pub(crate) etd: Etd,
    /// IDR per kg within a city, a province, an island, the country; a shorter list limits the reach.
    pub rates: &'static [u64],
    /// Minimum chargeable weight, in kg.
    pub least: u64,
    /// Maximum weight, in grams.
    pub most: u64,
}

#[derive(Debug)]
pub(crate) struct InstantService {
    /// `nama_service`.
    pub name: &'static str,
    /// `code_service`.
    pub code: &'static str,
    pub(crate) etd: Etd,
    /// Vehicles, as positions in [`VEHICLES`].
    pub vehicles: std::ops::Range<usize>,
    /// Percent of the vehicle's price.
    pub percent: u64,
}

/// `vehicle_type`, IDR for the start, IDR per km.
pub(crate) const VEHICLES: [(&str, u64, u64); 12] = [
    ("bike", 8_000, 2_200),
    ("sedan", 20_000, 4_000),
    ("mpv", 25_000, 4_500),
    ("van", 60_000, 6_000),
    ("truck175", 90_000, 7_500),
    ("truck330", 130_000, 9_000),
    ("engkelbak", 180_000, 10_500),
    ("engkelbox", 190_000, 11_000),
    ("cddbak", 260_000, 13_000),
    ("cddbox", 275_000, 13_500),
    ("fusobak", 420_000, 17_000),
    ("fusobox", 440_000, 18_000),
];

/// Estimated time of delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Etd {
    earliest: u64,
    latest: u64,
    unit: EtdUnit,
}

#[derive(Clone, Copy, Debug)]
enum EtdUnit {
    Hours,
    Days,
}

/// A time of delivery in minutes after the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Minutes {
    pub(crate) earliest: i64,
    pub(crate) latest: i64,
}

impl Etd {
    pub(crate) const fn hours(earliest: u64, latest: u64) -> Self {
        Etd { earliest, latest, unit: EtdUnit::Hours }
    }

    pub(crate) const fn days(earliest: u64, latest: u64) -> Self {
        Etd { earliest, latest, unit: EtdUnit::Days }
    }

    pub(crate) fn minutes(self) -> Minutes {
        let unit = match self.unit {
            EtdUnit::Hours => 60,
            EtdUnit::Days => 1_440,
        };
        // The table's numbers are small.
        Minutes { earliest: self.earliest as i64 * unit, latest: self.latest as i64 * unit }
    }

    /// `2-4 Days` or `1 Days`, as an express tariff has it.
    pub(crate) fn express_text(self) -> String {
        let unit = match self.unit {
            EtdUnit::Hours => "Hours",
            EtdUnit::Days => "Days",
        };
        let Etd { earliest, latest, .. } = self;
        if earliest == latest { format!("{earliest} {unit}") } else { format!("{earliest}-{latest} {unit}") }
    }

    /// `1-3 Hours`, as an instant tariff has it.
    pub(crate) fn instant_text(self) -> String {
        format!("{}-{} Hours", self.earliest, self.latest)
    }
}

const REGULAR: ExpressService = ExpressService {
    name: "Reguler",
    code: "reg",
    group: Group::Regular,
    etd: Etd::days(2, 4),
    rates: &[9_000, 11_000, 16_000, 28_000],
    least: 1,
    most: 50_000,
};
const NEXTDAY: ExpressService = ExpressService {
    name: "Next Day",
    code: "ND",
    group: Group::Nextday,
    etd: Etd::days(1, 1),
    rates: &[14_000, 18_000, 29_000],
    least: 1,
    most: 30_000,
};
const SAMEDAY: ExpressService = ExpressService {
    name: "Same Day",
    code: "sameday",
    group: Group::Sameday,
    etd: Etd::hours(8, 12),
    rates: &[18_000],
    least: 1,
    most: 20_000,
};
const CARGO: ExpressService = ExpressService {
    name: "Cargo",
    code: "cargo",
    group: Group::Cargo,
    etd: Etd::days(4, 9),
    rates: &[3_000, 3_800, 5_500, 9_500],
    least: 10,
    most: 1_000_000,
};

/// All couriers, in a fixed order.
static TABLE: [Courier; 5] = [
    Courier {
        code: "anteraja",
        name: "ANTERAJA",
        pickup: true,
        dropoff: true,
        cod: Some((300, 2_500)),
        insurance: 30,
        insurance_minimum: Some(2_500),
        discount: 500,
        divisor: 6_000,
        express: &[REGULAR, NEXTDAY, SAMEDAY, CARGO],
        instant: &[],
    },
    Courier {
        code: "idx",
        name: "ID EXPRESS",
        pickup: true,
        dropoff: true,
        cod: Some((250, 2_000)),
        insurance: 20,
        insurance_minimum: None,
        discount: 1_000,
        divisor: 6_000,
        express: &[
            ExpressService { rates: &[8_000, 10_500, 15_000, 27_000], ..REGULAR },
            ExpressService { name: "IDTruck", ..CARGO },
        ],
        instant: &[],
    },
    Courier {
        code: "paxel",
        name: "PAXEL",
        pickup: true,
        dropoff: false,
        cod: None,
        insurance: 25,
        insurance_minimum: Some(1_000),
        discount: 0,
        divisor: 6_000,
        express: &[
            ExpressService { rates: &[16_000, 22_000], ..SAMEDAY },
            ExpressService {
                name: "PAXEL BIG",
                code: "PAXEL BIG",
                rates: &[4_500, 6_000, 8_000],
                least: 5,
                most: 100_000,
                ..REGULAR
            },
        ],
        instant: &[InstantService {
            name: "PAXEL: INSTANT BIKE",
            code: "paxel_instant_bike",
            etd: Etd::hours(1, 3),
            vehicles: 0..1,
            percent: 95,
        }],
    },
    Courier {
        code: "lalamove",
        name: "LALAMOVE",
        pickup: true,
        dropoff: false,
        cod: None,
        insurance: 25,
        insurance_minimum: None,
        discount: 0,
        divisor: 6_000,
        express: &[],
        instant: &[InstantService {
            name: "LALAMOVE: INSTANT",
            code: "lalamove_instant",
            etd: Etd::hours(1, 4),
            vehicles: 0..12,
            percent: 100,
        }],
    },
    Courier {
        code: "grab",
        name: "GRAB EXPRESS",
        pickup: true,
        dropoff: false,
        cod: Some((300, 3_000)),
        insurance: 30,
        insurance_minimum: Some(1_500),
        discount: 0,
        divisor: 6_000,
        express: &[],
        instant: &[
            InstantService {
                name: "GRAB: INSTANT",
                code: "grab_instant",
                etd: Etd::hours(1, 2),
                vehicles: 0..3,
                percent: 105,
            },
            InstantService {
                name: "GRAB: SAMEDAY",
                code: "grab_sameday",
                etd: Etd::hours(4, 8),
                vehicles: 0..1,
                percent: 80,
            },
        ],
    },
];

/// `item.category` of an instant order.
pub(crate) const CATEGORIES: [&str; 12] = [
    "Pakaian",
    "Makanan & Minuman",
    "Perlengkapan Bayi & Anak",
    "Perlengkapan Mobil & Motor",
    "Peralatan Olahraga & Hiburan",
    "Peralatan Kesehatan & Kecantikan",
    "Peralatan Rumah Tangga",
    "Peralatan Elektronik & Gadget",
    "Buku & Alat Tulis",
    "Dokumen",
    "Dokumen Berharga",
    "Lainnya",
];

pub(crate) fn all() -> &'static [Courier] {
    &TABLE
}

pub(crate) fn find(code: &str) -> Option<&'static Courier> {
    TABLE.iter().find(|courier| courier.code == code)
}

/// Percent as the API writes them: `3`, `0.3`.
pub(crate) fn percent(hundredths: u64) -> Value {
    if hundredths.is_multiple_of(100) { json!(hundredths / 100) } else { json!(hundredths as f64 / 100.0) }
}

/// `data` of the operation All Courier.
pub(crate) fn list() -> Bytes {
    static LIST: OnceLock<Bytes> = OnceLock::new();
    LIST.get_or_init(|| Value::Array(TABLE.iter().map(Courier::json).collect()).to_string().into()).clone()
}

/// `data` of the operation Item Categories.
pub(crate) fn categories() -> Bytes {
    static LIST: OnceLock<Bytes> = OnceLock::new();
    LIST.get_or_init(|| json!(CATEGORIES).to_string().into()).clone()
}

impl Courier {
    fn json(&self) -> Value {
        json!({
            "courier_code": self.code, "courier_name": self.name,
            "logo": format!("https://sandbox.invalid/logo/{}.png", self.code),
            "pickup": self.pickup, "dropoff": self.dropoff,
            "express_delivery": !self.express.is_empty(), "instant_delivery": !self.instant.is_empty(),
            "cod": self.cod.is_some(),
            "cod_fee": percent(self.cod.map_or(0, |cod| cod.0)), "cod_fee_min": self.cod.map_or(0, |cod| cod.1),
            "insurance": percent(self.insurance), "insurance_minimum": self.insurance_minimum,
        })
    }

    /// `data` of the operation Courier Service.
    pub(crate) fn services(&self) -> Bytes {
        static ALL: OnceLock<Vec<Bytes>> = OnceLock::new();
        let all = ALL.get_or_init(|| TABLE.iter().map(Courier::render_services).collect());
        let position = TABLE.iter().position(|courier| courier.code == self.code);
        position.map_or_else(|| self.render_services(), |position| all[position].clone())
    }

    fn render_services(&self) -> Bytes {
        let line = |name, code, etd: Etd| {
            let unit = match etd.unit {
                EtdUnit::Hours => "hours",
                EtdUnit::Days => "days",
            };
            json!({"nama_service": name, "code_service": code, "etd_start": etd.earliest, "etd_end": etd.latest, "etd_unit": unit})
        };
        json!({
            "instant_delivery": self.instant.iter().map(|s| line(s.name, s.code, s.etd)).collect::<Vec<_>>(),
            "express_delivery": self.express.iter().map(|s| line(s.name, s.code, s.etd)).collect::<Vec<_>>(),
        })
        .to_string()
        .into()
    }

    pub(crate) fn express(&self, code: &str) -> Option<&'static ExpressService> {
        self.express.iter().find(|service| service.code == code)
    }

    /// Insurance fee for a value, in IDR, rounded up.
    pub(crate) fn insurance_fee(&self, value: u64) -> u64 {
        part(value, self.insurance).max(self.insurance_minimum.unwrap_or(0))
    }

    /// COD fee for an amount, in IDR, rounded up; `None` without COD.
    pub(crate) fn cod_fee(&self, value: u64) -> Option<u64> {
        self.cod.map(|(hundredths, minimum)| part(value, hundredths).max(minimum))
    }
}

/// A percentage of an amount, rounded up.
pub(crate) fn part(amount: u64, hundredths: u64) -> u64 {
    amount.saturating_mul(hundredths).div_ceil(10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_fees_come_out() {
        let courier = find("anteraja").unwrap();
        assert_eq!(courier.insurance_fee(200_000), 2_500);
        assert_eq!(courier.cod_fee(200_000), Some(6_000));
        assert_eq!(percent(courier.insurance).to_string(), "0.3");
        assert_eq!(percent(300).to_string(), "3");
    }

    #[test]
    fn an_absent_insurance_minimum_is_null() {
        let list: Value = serde_json::from_slice(&list()).unwrap();
        assert!(list.as_array().unwrap().iter().any(|courier| courier["insurance_minimum"].is_null()));
    }

    #[test]
    fn codes_are_unique_and_found_as_written() {
        for courier in all() {
            assert_eq!(find(courier.code).unwrap().name, courier.name);
            for service in courier.express {
                assert_eq!(courier.express(service.code).unwrap().name, service.name);
            }
        }
        assert!(find("ANTERAJA").is_none());
    }
}
