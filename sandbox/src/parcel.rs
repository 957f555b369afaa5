//! Weights and dimensions of parcels.
//!
//! Several items are packed into one box: they are stacked along one axis (lengths along it add up, the other two
//! take the largest). Of the three axes the one with the smallest box is used; upright wins a tie. Dimensional weight
//! is volume / divisor, in kg. This reproduces the one published example (two of 20x30x10 cm and 500 g: box 20x30x20,
//! 2000 g). The couriers' real rules are not public.
//!
//! What always holds: weights are whole grams, lengths whole cm, nothing overflows.

use serde_json::{Value, json};

use super::{
    couriers,
    envelope::{ApiError, Success},
    input::{self, ApiResult, Fields},
};

/// Largest length, in cm.
const MAX_LENGTH: u64 = 10_000;
/// Largest weight of one piece, in grams.
const MAX_WEIGHT: u64 = 100_000_000;
/// Largest number of pieces.
const MAX_QUANTITY: u64 = 10_000;

/// Pieces of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Length, width, height of one piece, in cm.
    pub size: [u64; 3],
    /// Of one piece, in grams.
    pub weight: u64,
    /// Number of pieces.
    pub quantity: u64,
}

/// A packed parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    /// Length, width, height of the box, in cm.
    pub size: [u64; 3],
    /// Weight on the scale, in grams.
    pub actual: u64,
    /// Sum of the items' dimensional weights, in grams.
    pub volumetric: u64,
    /// Chargeable weight in grams: the larger of actual and the box's dimensional weight.
    pub final_weight: u64,
}

/// Dimensional weight of a volume in cm³, in grams, rounded up.
pub(crate) fn dimensional(volume: u64, divisor: u64) -> u64 {
    volume.saturating_mul(1_000).div_ceil(divisor.max(1))
}

/// Packs items; `divisor` is in cm³ per kg.
pub(crate) fn pack(items: &[Item], divisor: u64) -> Parcel {
    let volume = |size: [u64; 3]| size.iter().fold(1_u64, |product, length| product.saturating_mul(*length));
    let stacked = |axis: usize| -> [u64; 3] {
        std::array::from_fn(|this| {
            let lengths =
                items.iter().map(|item| item.size[this].saturating_mul(if this == axis { item.quantity } else { 1 }));
            if this == axis { lengths.fold(0, u64::saturating_add) } else { lengths.max().unwrap_or(0) }
        })
    };
    let size = [2, 1, 0].map(stacked).into_iter().min_by_key(|size| volume(*size)).unwrap_or_default();
    let sum = |of: &dyn Fn(&Item) -> u64| {
        items.iter().fold(0_u64, |sum, item| sum.saturating_add(of(item).saturating_mul(item.quantity)))
    };
    let actual = sum(&|item| item.weight);
    let volumetric = dimensional(sum(&|item| volume(item.size)), divisor);
    Parcel { size, actual, volumetric, final_weight: actual.max(dimensional(volume(size), divisor)) }
}

impl Parcel {
    /// `20x30x20`.
    pub(crate) fn dimension(&self) -> String {
        let [length, width, height] = self.size;
        format!("{length}x{width}x{height}")
    }
}

impl Item {
    /// Reads an element of `items`.
    ///
    /// # Errors
    ///
    /// Names the first member that is missing or out of range.
    pub(crate) fn read(fields: &Fields<'_>, quantity: u64) -> ApiResult<Item> {
        let size = [fields.positive("length")?, fields.positive("width")?, fields.positive("height")?];
        Item { size, weight: fields.positive("weight")?, quantity }.bounded()
    }

    /// Returns the item if it is within the bounds.
    ///
    /// # Errors
    ///
    /// If a length, the weight or the quantity is too large.
    pub(crate) fn bounded(self) -> ApiResult<Item> {
        let too_large = self.size.iter().any(|length| *length > MAX_LENGTH)
            || self.weight > MAX_WEIGHT
            || self.quantity > MAX_QUANTITY;
        if too_large {
            Err(ApiError::Invalid("dimension, weight or quantity is out of range".to_owned()))
        } else {
            Ok(self)
        }
    }
}

/// The operation Calculate Multi Items.
///
/// # Errors
///
/// If the input is wrong or the courier is unknown.
pub(crate) fn multi_items(body: &[u8]) -> ApiResult<Success> {
    let value = input::json(body)?;
    let fields = Fields::of(&value)?;
    let code = fields.text("courier")?;
    let courier = couriers::find(code).ok_or_else(|| ApiError::Invalid(format!("courier {code} is unknown")))?;
    let mut items = Vec::new();
    let mut desc = Vec::new();
    for element in fields.objects("items")? {
        let item = Item::read(&element, element.positive("quantity")?)?;
        desc.push(format!("{} Qty: {}", element.text("name")?, item.quantity));
        items.push(item);
    }
    let parcel = pack(&items, courier.divisor);
    let data: Value = json!({
        "desc": desc.join(" | "),
        "total_weight": parcel.actual,
        "volumetric_weight": parcel.volumetric,
        "final_actual_weight": parcel.final_weight,
        "suggested_optimal_volumetric": parcel.dimension(),
    });
    Ok(Success::of("success", &data))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(size: [u64; 3], weight: u64, quantity: u64) -> Item {
        Item { size, weight, quantity }
    }

    #[test]
    fn the_published_example_comes_out() {
        let body = json!({"courier": "idx", "items": [
            {"name": "Kotak A", "length": 20, "width": 30, "height": 10, "weight": 500, "quantity": 2}]});
        let reply = multi_items(body.to_string().as_bytes()).unwrap();
        let body = reply.body(Some("2026-01-02T03:04:05.678Z"));
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            concat!(
                r#"{"success":true,"message":"success","data":{"desc":"Kotak A Qty: 2","total_weight":1000,"#,
                r#""volumetric_weight":2000,"final_actual_weight":2000,"suggested_optimal_volumetric":"20x30x20"},"#,
                r#""timestamp":"2026-01-02T03:04:05.678Z"}"#
            )
        );
    }

    #[test]
    fn several_names_are_joined_and_the_smallest_box_is_taken() {
        let body = json!({"courier": "idx", "items": [
            {"name": "A", "length": 10, "width": 40, "height": 40, "weight": 100, "quantity": 1},
            {"name": "B", "length": 10, "width": 40, "height": 40, "weight": 100, "quantity": 3}]});
        let reply = multi_items(body.to_string().as_bytes()).unwrap();
        let data: Value = serde_json::from_slice(&reply.data).unwrap();
        assert_eq!(data["desc"], "A Qty: 1 | B Qty: 3");
        assert_eq!(data["suggested_optimal_volumetric"], "10x40x160");
    }

    #[test]
    fn a_heavy_small_parcel_weighs_what_the_scale_says() {
        assert_eq!(pack(&[item([10, 10, 10], 5_000, 1)], 6_000).final_weight, 5_000);
    }

    proptest! {
        #[test]
        fn a_box_holds_what_is_in_it(
            items in prop::collection::vec(
                (prop::array::uniform3(1_u64..=MAX_LENGTH), 1_u64..=MAX_WEIGHT, 1_u64..=MAX_QUANTITY)
                    .prop_map(|(size, weight, quantity)| item(size, weight, quantity)), 1..20))
        {
            let parcel = pack(&items, 6_000);
            let volume: u128 = items.iter().map(|i| i.size.iter().map(|l| u128::from(*l)).product::<u128>()
                * u128::from(i.quantity)).sum();
            let size: u128 = parcel.size.iter().map(|l| u128::from(*l)).product();
            prop_assert!(size >= volume);
            prop_assert!(parcel.final_weight >= parcel.actual);
        }
    }
}
