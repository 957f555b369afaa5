//! Reads the body of an order.

use super::{CashOnDelivery, Draft, OrderContext, Parties};
use crate::{
    couriers::{self, CATEGORIES, Courier},
    envelope::ApiError,
    input::{ApiResult, Fields},
    parcel::{self, Item},
    regions::Location,
    tariffs::{self, Lane},
};

/// Minimum weight of an express order, in grams (published).
const MIN_WEIGHT: u64 = 1_000;

fn invalid<T>(text: impl Into<String>) -> ApiResult<T> {
    Err(ApiError::Invalid(text.into()))
}

fn courier(fields: &Fields<'_>) -> ApiResult<&'static Courier> {
    let code = fields.text("courier_code")?;
    couriers::find(code).map_or_else(|| invalid(format!("courier_code {code} is unknown")), Ok)
}

/// Reads Order Express.
pub(super) fn express(fields: &Fields<'_>, seed: u64) -> ApiResult<Draft> {
    let courier = courier(fields)?;
    let code = fields.text("code_service")?;
    let Some(service) = courier.express(code) else { return invalid(format!("code_service {code} is unknown")) };
    let (cod, insurance, pickup) = (fields.flag("cod")?, fields.flag("insurance")?, fields.flag("pickup")?);
    let custom = if cod { fields.number("cod_amount")? } else { 0 };
    let window = if pickup { Some((moment(fields, "pickup_start")?, moment(fields, "pickup_end")?)) } else { None };
    let (shipper, origin) = party(&fields.object("shipper")?)?;
    let (receiver, destination) = party(&fields.object("receiver")?)?;
    let item = fields.object("item")?;
    let value = goods(&item)?;
    let grams = weigh(&item, courier)?;
    if cod && courier.cod.is_none() {
        return invalid(format!("courier {} has no COD", courier.code));
    }
    if (pickup && !courier.pickup) || (!pickup && !courier.dropoff) {
        return invalid(format!("courier {} does not offer this pickup", courier.code));
    }
    if grams > service.most {
        return invalid(format!("item.weight is above the maximum of {} g", service.most));
    }
    let lane = Lane { courier, service, origin: &origin, destination: &destination };
    let price = lane.price(seed, grams).ok_or(ApiError::NoCourier)?;
    Ok(Draft {
        courier,
        service: service.name,
        instant: false,
        pickup,
        parties: parties(shipper, receiver),
        tariff: price.total,
        insured: insurance.then_some(value),
        cash: cod.then_some(CashOnDelivery { item_value: value, custom: if custom == value { 0 } else { custom } }),
        window,
    })
}

/// Reads Order Instant; returns its `tariff_id` too.
pub(super) fn instant<'a>(fields: &Fields<'a>, context: &OrderContext<'_>) -> ApiResult<(Draft, &'a str)> {
    let courier = courier(fields)?;
    let shipper = contact(&fields.object("shipper")?)?;
    let receiver = contact(&fields.object("receiver")?)?;
    let item = fields.object("item")?;
    let value = goods(&item)?;
    let category = item.text("category")?;
    if !CATEGORIES.contains(&category) {
        return invalid("item.category is unknown");
    }
    let cod = fields.flag_or_false("cod")?;
    let custom = if cod { fields.number("cod_amount")? } else { 0 };
    let insured = fields.flag_or_false("insurance")?.then_some(value);
    let tariff_id = fields.text("tariff_id")?;
    let Some(quote) = context.quotes.find(tariff_id, context.now) else {
        return invalid("tariff_id is expired or unknown");
    };
    if quote.courier.code != courier.code {
        return invalid("courier_code does not match tariff_id");
    }
    if cod && courier.cod.is_none() {
        return invalid(format!("courier {} has no COD", courier.code));
    }
    let draft = Draft {
        courier,
        service: quote.service.name,
        instant: true,
        pickup: true,
        parties: parties(shipper, receiver),
        tariff: quote.total,
        insured,
        cash: cod.then_some(CashOnDelivery { item_value: value, custom: if custom == value { 0 } else { custom } }),
        window: None,
    };
    Ok((draft, tariff_id))
}

/// Name and address of an express party, and its location.
fn party<'a>(fields: &Fields<'a>) -> ApiResult<([&'a str; 2], Location)> {
    let name = fields.text("name")?;
    fields.text("phone")?;
    Ok(([name, fields.text("address")?], tariffs::place(fields, "region_id")?))
}

/// Name and address of an instant party.
fn contact<'a>(fields: &Fields<'a>) -> ApiResult<[&'a str; 2]> {
    let name = fields.text("name")?;
    fields.text("email")?;
    let phone = fields.text("phone")?;
    if !phone.starts_with("62") || !phone.bytes().all(|byte| byte.is_ascii_digit()) {
        return invalid("phone must be international, 62…");
    }
    Ok([name, fields.text("address")?])
}

fn parties([shipper_name, shipper_address]: [&str; 2], [receiver_name, receiver_address]: [&str; 2]) -> Parties {
    Parties::new([shipper_name, shipper_address, receiver_name, receiver_address])
}

/// Checks what items of both kinds have in common; returns the value in IDR.
fn goods(item: &Fields<'_>) -> ApiResult<u64> {
    for name in ["name", "desc", "category"] {
        item.text(name)?;
    }
    item.number_or("value", 0)
}

/// Chargeable weight of an express item, in grams.
fn weigh(item: &Fields<'_>, courier: &Courier) -> ApiResult<u64> {
    item.number("value")?;
    let weight = item.number("weight")?;
    if weight < MIN_WEIGHT {
        return invalid(format!("item.weight must be at least {MIN_WEIGHT}"));
    }
    // The public copy of the documentation is cut after `length`, so an absent side counts as 1 cm.
    let side = |name| item.number_or(name, 1).map(|cm| cm.max(1));
    let size = [side("length")?, side("width")?, side("height")?];
    // The weight is that of the whole parcel; `qty` only tells the number of pieces in it.
    item.number_or("qty", 1)?;
    let packed = parcel::pack(&[Item { size, weight, quantity: 1 }.bounded()?], courier.divisor);
    Ok(packed.final_weight)
}

/// A time `YYYY-MM-DD HH:mm:ss`, returned unchanged.
fn moment(fields: &Fields<'_>, name: &str) -> ApiResult<String> {
    let text = fields.text(name)?;
    match jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text) {
        Ok(_) if text.len() == 19 => Ok(text.to_owned()),
        _ => invalid(format!("{name} must be YYYY-MM-DD HH:mm:ss")),
    }
}
