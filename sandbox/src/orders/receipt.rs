//! The responses of Order Express and Order Instant, and the cost of an order.
//!
//! What always holds: the charge is tariff and insurance (the COD fee is paid by the receiver); the arithmetic
//! reproduces the one published sample.

use serde_json::{Value, json};

use crate::couriers::{Courier, percent};

use super::Draft;

/// Cash on delivery: amounts in IDR.
pub(super) struct CashOnDelivery {
    pub(super) item_value: u64,
    pub(super) custom: u64,
}

impl CashOnDelivery {
    /// What the merchant receives, IDR.
    pub(super) fn proceeds(&self) -> u64 {
        if self.custom > 0 { self.custom } else { self.item_value }
    }
}

/// `data` of the response.
pub(super) fn receipt(draft: &Draft, insurance: u64, [booking_id, awb]: [String; 2]) -> Value {
    let mut data = json!({"booking_id": booking_id, "awb": awb});
    if let Some((start, end)) = &draft.window {
        data["expect_pickup_start"] = json!(start);
        data["expect_pickup_end"] = json!(end);
    }
    data["tariff"] = json!(draft.tariff);
    data["insurance"] = json!(draft.insured.is_some());
    if draft.insured.is_some() {
        data["insurance_detail"] = json!({
            "insurance_percent": percent(draft.courier.insurance),
            "insurance_minimum": draft.courier.insurance_minimum, "insurance": insurance,
        });
    }
    data["cod"] = json!(draft.cash.is_some());
    if let Some(cash) = &draft.cash {
        data["cod_detail"] = bill(draft.courier, cash, draft.tariff, insurance);
    }
    data
}

/// `cod_detail`: what the receiver pays and what the merchant receives.
pub(super) fn bill(courier: &Courier, cash: &CashOnDelivery, tariff: u64, insurance: u64) -> Value {
    let value = cash.proceeds();
    let fee = courier.cod_fee(value).unwrap_or(0);
    let billed = [tariff, insurance, fee].into_iter().fold(value, u64::saturating_add);
    json!({
        "item_value": cash.item_value, "cod_fee_percent": percent(courier.cod.map_or(0, |cod| cod.0)),
        "cod_fee": fee, "cod_custom": cash.custom, "cod_billed": billed, "cod_disbursement": value,
    })
}
