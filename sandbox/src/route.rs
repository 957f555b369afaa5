//! Maps a method and path to an operation.
//!
//! What always holds: paths match byte for byte; names are those of the gateway's operation table (a test of the
//! gateway compares them). Where a path is not public, all candidates of the fact sheet are served, and the journal
//! shows which one was used.

use std::{collections::HashMap, sync::OnceLock};

use http::Method;

/// Version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiVersion {
    /// Paths like `/apiRegion/…`, no timestamp in the envelope.
    V1,
    /// Paths like `/region/…`, a timestamp in the envelope.
    V2,
}

/// What an operation does, regardless of the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum OperationKind {
    Province,
    City,
    District,
    SubDistrict,
    PostCode,
    SearchRegion,
    Couriers,
    CourierServices,
    TariffExpress,
    TariffInstant,
    MultiItems,
    OrderExpress,
    OrderInstant,
    OrderCancel,
    Track,
    ItemCategories,
    WebhookSet,
    WebhookGet,
    BalanceHistory,
}

/// An operation of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    pub version: ApiVersion,
    pub kind: OperationKind,
}

#[derive(Debug)]
pub(crate) struct Route {
    pub operation: Operation,
    pub method: Method,
    /// Without the configured prefix.
    pub path: &'static str,
}

/// One row for each operation: kind, names (V1, V2), method, V1 paths, V2 paths.
type Line = (OperationKind, [&'static str; 2], Method, &'static [&'static str], &'static [&'static str]);

const LINES: &[Line] = &[
    (
        OperationKind::Province,
        ["v1.province", "v2.province"],
        Method::GET,
        &["/apiRegion/province"],
        &["/region/province"],
    ),
    (OperationKind::City, ["v1.city", "v2.city"], Method::GET, &["/apiRegion/city"], &["/region/city"]),
    (
        OperationKind::District,
        ["v1.district", "v2.district"],
        Method::GET,
        &["/apiRegion/district"],
        &["/region/district"],
    ),
    (
        OperationKind::SubDistrict,
        ["v1.sub_district", "v2.sub_district"],
        Method::GET,
        &["/apiRegion/sub-district", "/apiRegion/subdistrict", "/apiRegion/subDistrict"],
        &["/region/sub-district", "/region/subdistrict", "/region/subDistrict"],
    ),
    (
        OperationKind::PostCode,
        ["v1.post_code", "v2.post_code"],
        Method::GET,
        &["/apiRegion/postCode", "/apiRegion/post-code", "/apiRegion/postcode"],
        &["/region/post-code", "/region/postcode", "/region/postCode"],
    ),
    (
        OperationKind::SearchRegion,
        ["v1.search_region", "v2.search_region"],
        Method::POST,
        &["/apiRegion/search-region", "/apiRegion/search"],
        &["/region/search", "/region/search-region"],
    ),
    (
        OperationKind::Couriers,
        ["v1.couriers", "v2.couriers"],
        Method::GET,
        &["/apiCourier/all-courier", "/apiCourier/all"],
        &["/courier/all", "/courier/all-courier"],
    ),
    (
        OperationKind::CourierServices,
        ["v1.courier_services", "v2.courier_services"],
        Method::GET,
        &["/apiCourier/courier-service", "/apiCourier/service"],
        &["/courier/service", "/courier/courier-service"],
    ),
    (
        OperationKind::TariffExpress,
        ["v1.tariff_express", "v2.tariff_express"],
        Method::POST,
        &["/apiTariff/tariffExpress"],
        &["/tariff/express"],
    ),
    (
        OperationKind::TariffInstant,
        ["v1.tariff_instant", "v2.tariff_instant"],
        Method::POST,
        &["/apiTariff/tariffInstant"],
        &["/tariff/instant"],
    ),
    (OperationKind::MultiItems, ["v1.multi_items", "v2.multi_items"], Method::POST, &[], &["/item/multi-items"]),
    (
        OperationKind::OrderExpress,
        ["v1.order_express", "v2.order_express"],
        Method::POST,
        &["/apiOrder/orderExpress"],
        &["/order/express"],
    ),
    (
        OperationKind::OrderInstant,
        ["v1.order_instant", "v2.order_instant"],
        Method::POST,
        &["/apiOrder/orderInstant"],
        &["/order/instant"],
    ),
    (
        OperationKind::OrderCancel,
        ["v1.order_cancel", "v2.order_cancel"],
        Method::POST,
        &["/apiOrder/orderCancel", "/apiOrder/cancelOrder", "/apiOrder/cancel"],
        &["/order/cancel"],
    ),
    (OperationKind::Track, ["v1.track", "v2.track"], Method::GET, &["/apiOrder/trackingOrder"], &["/order/track"]),
    (
        OperationKind::ItemCategories,
        ["v1.item_categories", "v2.item_categories"],
        Method::GET,
        &["/apiOrder/itemCategories", "/apiOrder/item-categories", "/apiItem/categories"],
        &["/item/categories", "/order/item-categories"],
    ),
    (
        OperationKind::WebhookSet,
        ["v1.webhook_set", "v2.webhook_set"],
        Method::POST,
        &["/apiWebhook", "/apiWebhook/set", "/apiWebhook/setWebhook"],
        &["/webhook", "/webhook/set"],
    ),
    (
        OperationKind::WebhookGet,
        ["v1.webhook_get", "v2.webhook_get"],
        Method::GET,
        &["/apiWebhook", "/apiWebhook/get", "/apiWebhook/getWebhook"],
        &["/webhook", "/webhook/get"],
    ),
    (
        OperationKind::BalanceHistory,
        ["v1.balance_history", "v2.balance_history"],
        Method::POST,
        &[],
        &["/user/balance/history"],
    ),
];

/// All routes, and the positions of each path's routes.
#[derive(Debug)]
pub(crate) struct Routes {
    rows: Vec<Route>,
    by_path: HashMap<&'static str, Vec<usize>>,
}

impl Routes {
    pub(crate) fn get() -> &'static Routes {
        static ROUTES: OnceLock<Routes> = OnceLock::new();
        ROUTES.get_or_init(|| {
            let mut rows = Vec::new();
            for (kind, _, method, v1, v2) in LINES {
                for (version, paths) in [(ApiVersion::V1, v1), (ApiVersion::V2, v2)] {
                    let operation = Operation { version, kind: *kind };
                    rows.extend(paths.iter().map(|path| Route { operation, method: method.clone(), path }));
                }
            }
            let mut by_path: HashMap<&'static str, Vec<usize>> = HashMap::new();
            for (position, row) in rows.iter().enumerate() {
                by_path.entry(row.path).or_default().push(position);
            }
            Routes { rows, by_path }
        })
    }

    /// The routes, in a fixed order.
    pub(crate) fn rows(&self) -> &[Route] {
        &self.rows
    }

    /// The position of the route for a request. HEAD is treated as GET; tracking is also served by POST if
    /// `track_by_post`.
    pub(crate) fn find(&self, method: &Method, path: &str, track_by_post: bool) -> Option<usize> {
        let asked = if *method == Method::HEAD { &Method::GET } else { method };
        self.by_path.get(path)?.iter().copied().find(|position| {
            let row = &self.rows[*position];
            row.method == *asked
                || (track_by_post && row.operation.kind == OperationKind::Track && *asked == Method::POST)
        })
    }
}

/// The name of the operation that a method and path belong to, such as `v2.order_express`.
pub fn operation_at(method: &Method, path: &str) -> Option<&'static str> {
    let routes = Routes::get();
    routes.find(method, path, false).map(|position| routes.rows()[position].operation.name())
}

impl Operation {
    /// Name, such as `v2.order_express`.
    pub fn name(self) -> &'static str {
        let [v1, v2] = LINES[self.kind as usize].1;
        match self.version {
            ApiVersion::V1 => v1,
            ApiVersion::V2 => v2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_kinds() {
        for (position, line) in LINES.iter().enumerate() {
            assert_eq!(line.0 as usize, position, "{:?}", line.1);
        }
        assert_eq!(
            Operation { version: ApiVersion::V1, kind: OperationKind::BalanceHistory }.name(),
            "v1.balance_history"
        );
    }

    #[test]
    fn a_path_and_method_mean_one_thing() {
        let routes = Routes::get();
        for (position, row) in routes.rows().iter().enumerate() {
            assert_eq!(routes.find(&row.method, row.path, false), Some(position), "{}", row.path);
        }
    }

    #[test]
    fn an_odd_spelling_is_not_served() {
        let routes = Routes::get();
        for path in ["/region/City", "/region/city/", "//region/city", "/region/%63ity", "", "/", "/_sandbox/journal"] {
            assert_eq!(routes.find(&Method::GET, path, true), None, "{path}");
        }
    }

    #[test]
    fn tracking_by_post_is_a_switch() {
        let routes = Routes::get();
        assert!(routes.find(&Method::POST, "/order/track", false).is_none());
        assert!(routes.find(&Method::POST, "/order/track", true).is_some());
        assert!(routes.find(&Method::HEAD, "/region/province", false).is_some());
    }
}
