"""A Fastrac client that uses `requests`: V2 with Basic, V1 with the pair of headers.

BASE_URL, ACCESS and SECRET come from the environment; they name Fastrac or a gateway. Prints
`## operation status content-type` and the body for each call.
"""
import os

import requests

BASE, PAIR = os.environ["BASE_URL"], (os.environ["ACCESS"], os.environ["SECRET"])
v2, v1 = requests.Session(), requests.Session()
v2.auth = PAIR
v1.headers.update({"access-key": PAIR[0], "secret-key": PAIR[1], "Content-Type": "application/json"})


def call(name, session, method, path, **more):
    answer = session.request(method, BASE + path, timeout=20, **more)
    print(f"## {name} {answer.status_code} {answer.headers.get('content-type')}\n{answer.text}")
    try:
        return answer.json().get("data")
    except ValueError:
        return None


def first(rows, field, otherwise):
    return rows[0].get(field, otherwise) if isinstance(rows, list) and rows else otherwise


def find(value, field):
    """The first member with that name at any depth, because the structure of instant tariffs is not published."""
    if isinstance(value, dict) and field in value:
        return value[field], value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((found for found in (find(item, field) for item in inner) if found), None)


ORDER = {"cod": "0", "insurance": "0", "pickup": "0",
         "shipper": {"name": "Toko Contoh", "phone": "6281200000001", "address": "Jl. Contoh 1", "region_id": 3171031001},
         "receiver": {"name": "Budi", "phone": "6281200000002", "address": "Jl. Contoh 2", "region_id": 3171031002},
         "item": {"name": "Kaos", "desc": "Kaos hitam", "category": "Pakaian", "value": 75000, "weight": 1000,
                  "length": 30, "width": 20, "height": 10, "qty": 1}}
ITEMS = [{"name": "Kaos", "weight": 1000, "width": 20, "height": 10, "length": 30, "quantity": 2, "value": 75000}]


def regions():
    provinces = call("v2.province", v2, "GET", "/region/province")
    province = first(provinces, "province_id", 31)
    city = first(call("v2.city", v2, "GET", "/region/city", params={"province_id": province}), "city_id", 3171)
    call("v2.city again", v2, "GET", "/region/city", params={"province_id": province})
    district = first(call("v2.district", v2, "GET", "/region/district", params={"city_id": city}), "district_id", 3171030)
    region = first(call("v2.sub_district", v2, "GET", "/region/sub-district", params={"district_id": district}), "subdistrict_id", 3171031001)
    call("v2.post_code", v2, "GET", "/region/post-code", params={"post_code": "10620"})
    found = call("v2.search_region", v2, "POST", "/region/search", json={"keyword": "kemayoran", "limit": 5, "offset": 0})
    call("v2.city without its parameter", v2, "GET", "/region/city")
    call("v2.city, unknown province", v2, "GET", "/region/city", params={"province_id": 99})
    call("v2.search_region without a result", v2, "POST", "/region/search", json={"keyword": "qqqqqqqq"})
    return region, first(found, "id", region)


def couriers():
    rows = call("v2.couriers", v2, "GET", "/courier/all") or []
    express = next((row["courier_code"] for row in rows if row.get("express_delivery")), "anteraja")
    services = call("v2.courier_services", v2, "GET", "/courier/service", params={"courier_code": express}) or {}
    return express, (services.get("express_delivery") or [{}])[0].get("code_service", "reg")


def express(origin, destination, courier, service):
    call("v2.tariff_express", v2, "POST", "/tariff/express", json={"origin": origin, "destination": destination, "items": ITEMS, "cod": "0", "insurance": "1"})
    call("v2.multi_items", v2, "POST", "/item/multi-items", json={"courier": courier, "items": ITEMS})
    call("v2.item_categories", v2, "GET", "/item/categories")
    order = {**ORDER, "courier_code": courier, "code_service": service}
    order["shipper"], order["receiver"] = {**ORDER["shipper"], "region_id": origin}, {**ORDER["receiver"], "region_id": destination}
    made = call("v2.order_express", v2, "POST", "/order/express", json=order) or {}
    parcel = {"courier_code": courier, "awb": made.get("awb", "FSTRA0000000000000000001")}
    call("v2.track", v2, "GET", "/order/track", json=parcel)
    call("v2.order_cancel", v2, "POST", "/order/cancel", json={**parcel, "cancel_reason": "pembeli berubah pikiran"})
    call("v2.order_cancel again", v2, "POST", "/order/cancel", json={**parcel, "cancel_reason": "pembeli berubah pikiran"})
    call("v2.track of a cancelled order", v2, "GET", "/order/track", json=parcel)
    call("v2.order_express without an item", v2, "POST", "/order/express", json={"courier_code": courier})
    return order


def instant(origin, destination):
    place = {"alamat_lengkap": "Jl. Contoh 1", "alamat_google": "Kemayoran"}
    goods = {"value": 75000, "length": 30, "width": 20, "height": 10, "weight": 1000, "quantity": 1}
    who = {"name": "Budi", "email": "budi@example.com", "address": "Jl. Contoh 1", "phone": "6281200000001"}
    # V1 names the goods `item`, and takes numbers where V2 takes strings.
    for name, session, quote, order, kind, whole, member in [("v2", v2, "/tariff/instant", "/order/instant", str, str, "package"),
                                                      ("v1", v1, "/apiTariff/tariffInstant", "/apiOrder/orderInstant", float, int, "item")]:
        asked = {"origin": {**place, "id": whole(origin), "lat": kind(-6.1551), "lng": kind(106.8461)},
                 "destination": {**place, "id": whole(destination), "lat": kind(-6.1601), "lng": kind(106.8502)},
                 member: goods, "vehicle_type": "bike"}
        tariff, option = find(call(f"{name}.tariff_instant", session, "POST", quote, json=asked), "tariff_id") or ("none", {})
        call(f"{name}.order_instant", session, "POST", order, json={
            "shipper": who, "receiver": who, "item": {"name": "Kaos", "desc": "Kaos", "category": "Pakaian", **goods}, "cod": "0",
            "cod_amount": 0, "courier_code": option.get("courier_code", "grab"), "tariff_id": tariff})


def account():
    hook = {"url": "http://127.0.0.1:9/hook"}
    call("v2.webhook_set", v2, "POST", "/webhook/set", json=hook)
    call("v2.webhook_get", v2, "GET", "/webhook/get")
    call("v2.balance_history", v2, "POST", "/user/balance/history", json={"limit": 5, "offset": 0})
    call("v1.webhook_set", v1, "POST", "/apiWebhook/setWebhook", json=hook)
    call("v1.webhook_get", v1, "GET", "/apiWebhook/getWebhook")


def v1_calls(order):
    for name, path, query in [("province", "/apiRegion/province", {}), ("city", "/apiRegion/city", {"province_id": 31}),
                              ("district", "/apiRegion/district", {"city_id": 3171}), ("sub_district", "/apiRegion/sub-district", {"district_id": 3171030}),
                              ("post_code", "/apiRegion/postCode", {"post_code": "10620"}), ("couriers", "/apiCourier/all-courier", {}),
                              ("courier_services", "/apiCourier/courier-service", {"courier_code": order["courier_code"]}),
                              ("item_categories", "/apiOrder/itemCategories", {})]:
        call(f"v1.{name}", v1, "GET", path, params=query)
    call("v1.search_region", v1, "POST", "/apiRegion/search-region", json={"search": "kemayoran", "limit": 5, "offset": 0})
    call("v1.tariff_express", v1, "POST", "/apiTariff/tariffExpress", json={
        "origin": order["shipper"]["region_id"], "destination": order["receiver"]["region_id"], "weight": 1000, "length": 30, "width": 20, "height": 10})
    people = {who: {**order[who], "email": "budi@example.com", "latitude": "-6.1551", "longitude": "106.8461"} for who in ("shipper", "receiver")}
    made = call("v1.order_express", v1, "POST", "/apiOrder/orderExpress", json={**order, **people}) or {}
    parcel = {"courier_code": order["courier_code"], "awb": made.get("awb", "none")}
    call("v1.track", v1, "GET", "/apiOrder/trackingOrder", json=parcel)
    call("v1.order_cancel", v1, "POST", "/apiOrder/cancelOrder", json={**parcel, "cancel_reason": "salah alamat"})


def aliases():
    """Alternative spellings of paths, where Fastrac's public pages give more than one or none."""
    for path in ("/region/subdistrict?district_id=3171030", "/region/postcode?post_code=10620", "/region/postCode?post_code=10620",
                 "/courier/all-courier", "/order/item-categories", "/webhook"):
        call(f"v2 {path}", v2, "GET", path)
    for path in ("/apiRegion/subDistrict?district_id=3171030", "/apiOrder/item-categories", "/apiItem/categories", "/apiWebhook/get"):
        call(f"v1 {path}", v1, "GET", path)
    call("v2 /region/search-region", v2, "POST", "/region/search-region", json={"keyword": "gambir"})


if __name__ == "__main__":
    start, goal = regions()
    courier, service = couriers()
    order = express(start, goal, courier, service)
    instant(start, goal)
    account()
    v1_calls(order)
    aliases()
