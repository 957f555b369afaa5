#!/usr/bin/env python3
"""Writes answers.jsonl: responses that Fastrac or a proxy in front of it might send, with the expected outcome of each.

The outcome of each case is written by hand, from section 6 of the contract ("the message decides first, then the
status"; a body that is not the envelope, or has `success` twice or not as a boolean: upstream_error; an order whose
response is a 3xx, a 5xx or unreadable remains unknown). The cases of a family (truncations, spellings) have one
outcome, which follows from how they are made. `judge` below derives the outcome a second time, with Python's JSON
parser. If the two differ, nothing is written. Neither is derived from src/outcome.

The members of a line:

    name
    source    documented, variant or mutation
    status, headers
    body      or base64, if it is not UTF-8
    outcome
    key       it says that Fastrac refuses the account's key
    stored    it may be stored in the cache
    settles   it says whether an order was executed
    ask       documented only: the request to which the sandbox gives this response
    cut       documented only: the public description lists only some members of `data`
    says      documented only: the public description includes the message

Run it in this folder after a change: python3 generate.py
"""

import base64
import codecs
import gzip
import json
import sys
import threading

NOT_FOUND = ["Data not found"]
KEY = [
    "Unauthorized",
    "Unauthenticated",
    "Invalid credentials",
    "Invalid access key",
    "Invalid secret key",
    "Invalid access key or secret key",
]
LIMIT = ["Too Many Requests", "Rate limit exceeded"]

CASES = []
NAMES = set()


# ---- the second derivation of the outcome -------------------------------------------------------


class Members(list):
    """All members of a JSON object, including those with equal names."""


def refuse(word):
    raise ValueError(word)


def parsed(body):
    try:
        # A byte order mark at the start is ignored (RFC 8259, section 8.1).
        text = body.decode("utf-8-sig", "strict")
        return json.loads(text, object_pairs_hook=Members, parse_constant=refuse)
    except ValueError:
        return None


def judge(status, body):
    top = parsed(body)
    members = top if isinstance(top, Members) else []
    named = lambda name: [value for key, value in members if key == name]
    success = named("success")
    enveloped = len(success) == 1 and isinstance(success[0], bool)
    said = None
    if enveloped and success[0] is False:
        texts = named("message") or named("error")
        if len(texts) == 1 and isinstance(texts[0], str):
            said = texts[0].strip().lower()
    lists = {"not_found": NOT_FOUND, "throttled": LIMIT, "rejected": KEY}
    by_message = [outcome for outcome, list_ in lists.items() if said in [text.lower() for text in list_]]
    if by_message:
        outcome = by_message[0]
    elif status == 429:
        outcome = "throttled"
    elif 400 <= status <= 499:
        outcome = "rejected"
    elif 200 <= status <= 299 and enveloped:
        outcome = "ok" if success[0] else "rejected"
    else:
        outcome = "upstream_error"
    return {
        "outcome": outcome,
        "key": by_message == ["rejected"] or (not by_message and status == 401),
        # Strict readers of JSON refuse a byte order mark.
        "stored": not body.startswith(codecs.BOM_UTF8) and (outcome == "not_found" or (outcome == "ok" and status == 200)),
        # A 429 refuses before anything is executed, whatever its body (RFC 6585, section 4).
        "settles": status == 429 or (enveloped and (200 <= status <= 299 or 400 <= status <= 499)),
    }


def case(name, source, status, body, outcome, *, key=False, headers=None, second=True, **more):
    if isinstance(body, str):
        body = body.encode()
    assert name not in NAMES, name
    NAMES.add(name)
    verdict = judge(status, body) if second else more.pop("verdict")
    assert (verdict["outcome"], verdict["key"]) == (outcome, key), (name, verdict, outcome, key)
    line = {"name": name, "source": source, "status": status}
    line["headers"] = headers if headers is not None else [["content-type", "application/json"]]
    try:
        line["body"] = body.decode("utf-8", "strict")
    except ValueError:
        line["base64"] = base64.b64encode(body).decode()
    CASES.append({**line, **verdict, **more})


# ---- documented: what public pages and client code show (fact sheet sections 3 and 4) ----------

STAMP = "2026-01-02T03:04:05.678Z"


def envelope(data, message="", stamp=True):
    whole = {"success": True, "message": message, "data": data}
    return json.dumps({**whole, "timestamp": STAMP} if stamp else whole, ensure_ascii=False)


def refusal(message, stamp=True):
    whole = {"success": False, "message": message}
    return json.dumps({**whole, "timestamp": STAMP} if stamp else whole, ensure_ascii=False)


def get(target):
    return {"method": "GET", "target": target}


def post(target, body):
    return {"method": "POST", "target": target, "body": json.dumps(body)}


POINT = {"id": "3171031001", "lat": "-6.2", "lng": "106.8", "alamat_lengkap": "Jl. 1", "alamat_google": "Jl. 1"}
ITEMS = [{"name": "Kaos", "weight": 1200, "width": 20, "height": 10, "length": 30, "quantity": 1, "value": 150000}]
LANE = {"origin": 3171031001, "destination": 5171011001, "items": ITEMS, "cod": "0", "insurance": "1"}
PARTY = {"name": "Budi", "phone": "6281200000002", "address": "Jl. Contoh 2", "region_id": 3171031001}
ORDER = {
    "courier_code": "idx", "code_service": "reg", "cod": "1", "cod_amount": 200000, "insurance": "1", "pickup": "1",
    "pickup_start": "2026-01-03 09:00:00", "pickup_end": "2026-01-03 12:00:00",
    "shipper": PARTY, "receiver": {**PARTY, "region_id": 5171011001},
    "item": {"name": "Kaos", "desc": "Kaos", "category": "Pakaian", "value": 200000, "weight": 1200,
             "length": 30, "width": 20, "height": 10, "qty": 1},
}  # fmt: skip
BOX = {"courier": "idx", "items": [
    {"name": "Kotak A", "length": 20, "width": 30, "height": 10, "weight": 500, "quantity": 2}]}  # fmt: skip
ORDERED = {
    "booking_id": "FSTR.CO-20260102ABCDE", "awb": "FSTRA0000000000000000001",
    "expect_pickup_start": "2026-01-03 09:00:00", "expect_pickup_end": "2026-01-03 12:00:00", "tariff": 18000,
    "insurance": True,
    "insurance_detail": {"insurance_percent": 0.3, "insurance_minimum": 2500, "insurance": 2500},
    "cod": True,
    "cod_detail": {"item_value": 200000, "cod_fee_percent": 3, "cod_fee": 6000, "cod_custom": 0,
                   "cod_billed": 226500, "cod_disbursement": 200000},
}  # fmt: skip
TARIFF = {
    "courier_name": "IDX", "courier_code": "idx", "dimension": "20x30x10", "service": "Reguler", "code_service": "reg",
    "mapping_service": "regular", "etd": "2-3 Days", "base_tariff": 20000, "discount": 2000, "total": 18000,
}  # fmt: skip
SERVICE = {"nama_service": "Reguler", "code_service": "reg", "etd_start": 2, "etd_end": 4, "etd_unit": "days"}
COURIER = {
    "courier_code": "idx", "courier_name": "ID Express", "logo": "https://example.com/idx.png", "pickup": True,
    "dropoff": True, "express_delivery": True, "instant_delivery": False, "cod": True, "cod_fee": 3,
    "cod_fee_min": 2500, "insurance": 0.3, "insurance_minimum": None,
}  # fmt: skip
TRACKED = {
    "awb": "FSTRA0000000000000000001", "courier": "ID EXPRESS", "courier_code": "idx", "service": "-",
    "shipper_name": "A", "shipper_address": "B", "receiver_name": "C", "receiver_address": "D",
    "history": [{"timestamp": "2026-01-02 10:04:05", "status": "PENDING_PICKUP"}],
}  # fmt: skip
CITY = [{"city_id": 9901, "name": "KOTA CONTOH", "province_id": 99}]
CANCEL = "An error occurred while placing an cancel"


def documented():
    both = lambda name, ask, data, message="", **more: case(
        f"documented {name}", "documented", 200, envelope(data, message), "ok", ask=ask, **more
    )
    both("province", get("/region/province"), [{"province_id": 99, "name": "CONTOH"}])
    both("city", get("/region/city?province_id=31"), CITY, says=True)
    both("district", get("/region/district?city_id=3171"), [{"district_id": 9901010, "name": "X", "city_id": 9901}],
         says=True)  # fmt: skip
    village = [{"subdistrict_id": 9901010001, "name": "X", "district_id": 9901010}]
    both("sub-district", get("/region/sub-district?district_id=3171030"), village)
    code = [{"subdistrict_id": 9901010001, "subdistrict": "X", "district": "Y"}]
    both("post code", get("/region/post-code?post_code=10620"), code, cut=True)
    found = [{"id": 9901010001, "name": "X, Y, 12345"}]
    both("search region", post("/region/search", {"keyword": "kemayoran"}), found, cut=True)
    both("couriers", get("/courier/all"), [COURIER])
    services = {"instant_delivery": [SERVICE], "express_delivery": [SERVICE]}
    both("courier services", get("/courier/service?courier_code=paxel"), services)
    lists = {"nextday": [TARIFF], "regular": [TARIFF], "sameday": [TARIFF], "cargo": [TARIFF]}
    both("tariff express", post("/tariff/express", LANE), lists, "success", cut=True)
    quoted = {"origin": POINT, "destination": POINT, "package": {"weight": 1000}, "vehicle_type": "bike"}
    both("tariff instant", post("/tariff/instant", quoted), [{"tariff_id": "t1"}], "success", cut=True)
    boxed = {"desc": "Kotak A Qty: 2", "total_weight": 1000, "volumetric_weight": 2000,
             "final_actual_weight": 2000, "suggested_optimal_volumetric": "20x30x20"}  # fmt: skip
    both("multi items", post("/item/multi-items", BOX), boxed, "success", says=True)
    both("order express", post("/order/express", ORDER), ORDERED, "Order successfully created", says=True)
    track = {"method": "GET", "target": "/order/track", "body": '{"courier_code":"idx","awb":"{awb}"}'}
    both("tracking", track, TRACKED, "success", cut=True, says=True)
    first = lambda name, ask, data: case(
        f"documented v1 {name}", "documented", 200, envelope(data, stamp=False), "ok", ask=ask, cut=True
    )
    flat = {"origin": 3171031001, "destination": 5171011001, "weight": 1200, "length": 1, "width": 1, "height": 1}
    price = {name: TARIFF[name] for name in ["courier_name", "service", "etd", "total"]}
    first("tariff express", post("/apiTariff/tariffExpress", flat), {"regular": [price], "cargo": [price]})
    first("search region", post("/apiRegion/search-region", {"search": "gambir"}), found)
    first("couriers", get("/apiCourier/all-courier"), [COURIER])
    first("courier services", get("/apiCourier/courier-service?courier_code=paxel"), services)
    no = lambda name, status, message, outcome, ask, **more: case(
        f"documented {name}", "documented", status, refusal(message), outcome, ask=ask, **more
    )
    no("not found", 404, "Data not found", "not_found", get("/region/city?province_id=98"), says=True)
    no("not found under 200", 200, "Data not found", "not_found", get("/region/city?province_id=98"), switch="200",
       says=True)  # fmt: skip
    no("input error", 400, "province_id is required", "rejected", get("/region/city"))
    no("credentials", 401, "Unauthorized", "rejected", {**get("/region/province"), "nobody": True}, key=True)
    cancel = post("/order/cancel", {"courier_code": "idx", "awb": "X", "cancel_reason": "tidak jadi"})
    no("cancel", 404, CANCEL, "rejected", cancel, says=True)
    unserved = {**flat, "origin": 3171031001, "destination": 9999999999}
    case("documented v1 unserved", "documented", 404, refusal("Data not found", stamp=False), "not_found",
         ask=post("/apiTariff/tariffExpress", unserved))  # fmt: skip
    balance = {"success": True, "message": "", "data": {"rows": [
        {"kd_pesanan": "PSN-260102", "saldo_masuk": 0, "saldo_keluar": 18000, "keterangan": "x"}]}}  # fmt: skip
    case("balance history", "variant", 200, json.dumps(balance), "ok")


# ---- variants: every status with every form ----------------------------------------------------

GOOD = envelope(CITY)
FORMS = {
    "success": GOOD,
    "refusal": refusal("Weight is too low"),
    "refusal without message": '{"success":false}',
    "not found": refusal("Data not found"),
    "key": refusal("Unauthorized"),
    "limit": refusal("Too Many Requests"),
    "html": "<html><body><h1>Error</h1></body></html>",
    "empty": "",
    "array": '[{"success":true}]',
    "no success": '{"message":"Data not found","data":[]}',
    "success twice": '{"success":true,"success":true,"data":[]}',
}
STATUSES = [200, 201, 202, 206, 300, 301, 302, 303, 307, 308, 400, 402, 403, 404, 405, 406, 408, 409, 410, 413, 415]
STATUSES += [418, 422, 423, 425, 429, 431, 451, 499, 500, 501, 502, 503, 504, 507, 520, 524, 529, 599]


def by_status(status, form):
    """Contract section 6, read for a status and a form."""
    if form in ("not found", "limit", "key"):
        return {"not found": "not_found", "limit": "throttled", "key": "rejected"}[form]
    if status == 429:
        return "throttled"
    if status >= 500 or status < 200 or 300 <= status < 400:
        return "upstream_error"
    if status >= 400:
        return "rejected"
    return {"success": "ok", "refusal": "rejected", "refusal without message": "rejected"}.get(form, "upstream_error")


def variants():
    for status in STATUSES:
        for form, body in FORMS.items():
            kind = "text/html" if form == "html" else "application/json"
            case(f"{status} {form}", "variant", status, body, by_status(status, form), key=form == "key",
                 headers=[["content-type", kind]])  # fmt: skip
    for form, body in FORMS.items():
        outcome = by_status(401, form)
        case(f"401 {form}", "variant", 401, body, outcome, key=outcome == "rejected")
    for status in (204, 304):
        case(f"{status} without a body", "variant", status, "", "upstream_error", headers=[])


# ---- variants: what the message says -----------------------------------------------------------


def swapped(text):
    return "".join(c.upper() if n % 2 else c.lower() for n, c in enumerate(text))


def messages():
    meanings = [(NOT_FOUND, "not_found"), (KEY, "rejected"), (LIMIT, "throttled")]
    spellings = {
        "upper": str.upper,
        "lower": str.lower,
        "swapped": swapped,
        "spaced": lambda text: f"  {text} ",
        "tabs and lines": lambda text: f"\t{text}\r\n",
        "no-break spaces": lambda text: f"\u00a0{text}\u2003",
    }
    others = {
        "with a dot": lambda text: text + ".",
        "in a sentence": lambda text: f"Error: {text}",
        "cut": lambda text: text[:-1],
        "doubled blank": lambda text: text.replace(" ", "  ") + ("" if " " in text else "  x"),
        "zero-width": lambda text: text + "\u200b",
    }
    for texts, outcome in meanings:
        key = outcome == "rejected"
        for text in texts:
            for name, spell in spellings.items():
                case(f"{text} {name}", "variant", 200, refusal(spell(text)), outcome, key=key)
            for name, spell in others.items():
                case(f"{text} {name}", "variant", 200, refusal(spell(text)), "rejected")
            escaped = "".join(f"\\u{ord(c):04x}" for c in text)
            case(f"{text} escaped", "variant", 500, '{"success":false,"message":"%s"}' % escaped, outcome, key=key)
            case(f"{text} as error", "variant", 400, json.dumps({"success": False, "error": text}), outcome, key=key)
            case(f"{text} under success", "variant", 200, envelope([], text), "ok")
            whole = {"message": text, "success": False, "data": None, "error": "E1"}
            case(f"{text} first", "variant", 404, json.dumps(whole), outcome, key=key)
            twice = '{"success":false,"message":"%s","message":"%s"}' % (text, text)
            case(f"{text} twice", "variant", 404, twice, "rejected")
            hidden = {"success": False, "message": "no", "error": text}
            case(f"{text} behind a message", "variant", 404, json.dumps(hidden), "rejected")
            nested = {"success": False, "message": {"text": text}, "error": text}
            case(f"{text} nested", "variant", 409, json.dumps(nested), "rejected")


# ---- mutations: malformed envelopes -------------------------------------------------------------

#: Values of `success` other than booleans.
NO_BOOLEANS = ['"true"', '"false"', "1", "0", "null", "{}", "[]", "[true]", "1.0", '""', '{"success":true}', "-1", "1e0"]
#: Bodies that look like JSON and are invalid.
NO_JSON = {
    "trailing comma": '{"success":true,}',
    "leading comma": '{,"success":true}',
    "two commas": '{"success":true,,"data":[]}',
    "no comma": '{"success":true "data":[]}',
    "no colon": '{"success" true}',
    "single quotes": "{'success':true}",
    "bare name": "{success:true}",
    "python": "{'success': True}",
    "upper word": '{"success":TRUE}',
    "title word": '{"success":True}',
    "comment": '{"success":true/* ok */}',
    "line comment": '{"success":true}// ok',
    "second document": '{"success":true}{"success":true}',
    "trailing text": '{"success":true}ok',
    "trailing bracket": '{"success":true}]',
    "json lines": '{"success":true}\n{"success":false}',
    "callback": 'cb({"success":true});',
    "guard": ')]}\',\n{"success":true}',
    "bare NaN": '{"success":true,"data":NaN}',
    "bare Infinity": '{"success":true,"data":-Infinity}',
    "undefined": '{"success":true,"data":undefined}',
    "leading zero": '{"success":true,"data":01}',
    "plus": '{"success":true,"data":+1}',
    "bare dot": '{"success":true,"data":.5}',
    "ending dot": '{"success":true,"data":1.}',
    "hexadecimal": '{"success":true,"data":0x10}',
    "no exponent": '{"success":true,"data":1e}',
    "raw newline in message": '{"success":true,"message":"a\nb"}',
    "raw tab in message": '{"success":true,"message":"a\tb"}',
    "raw NUL in message": '{"success":true,"message":"a\0b"}',
    "raw newline in a name": '{"success":true,"a\nb":1}',
    "bad escape in message": '{"success":true,"message":"\\x41"}',
    "bad escape in a name": '{"success":true,"\\q":1}',
    "short escape": '{"success":true,"message":"\\u00"}',
    "unended string": '{"success":true,"message":"}',
    "wrong bracket": '{"success":true,"data":[1}}',
    "crossed brackets": '{"success":true,"data":[{"a":1]}}',
    "too many brackets": '{"success":true,"data":[1]]}',
    "nested word": '{"success":true,"data":[tru]}',
    "nested missing comma": '{"success":true,"data":[1 2]}',
    "nested lone comma": '{"success":true,"data":[,]}',
    "nested trailing comma": '{"success":true,"data":[1,]}',
    "nested object comma": '{"success":true,"data":{"a":1,}}',
    "nested no colon": '{"success":true,"data":{"a" 1}}',
    "nested bare name": '{"success":true,"data":{a:1}}',
    "nested leading zero": '{"success":true,"data":[007]}',
    "nested bad escape": '{"success":true,"data":["\\x"]}',
    "nested raw newline": '{"success":true,"data":["a\nb"]}',
    "nested NUL": '{"success":true,"data":[\0]}',
    "nested NaN": '{"success":true,"data":[NaN]}',
    "nested value only": '{"success":true,"data":{1}}',
    "vertical tab": '\v{"success":true}',
    "form feed": '{"success":true}\f',
    "no-break space": '\u00a0{"success":true}',
    "zero-width space": '\u200b{"success":true}',
    "NUL before": '\0{"success":true}',
    "NUL after": '{"success":true}\0',
    "two byte order marks": '\ufeff\ufeff{"success":true}',
    "a byte order mark after a blank": ' \ufeff{"success":true}',
    "a byte order mark after it": '{"success":true}\ufeff',
    "a byte order mark alone": "\ufeff",
    "null": "null",
    "true": "true",
    "number": "200",
    "string": '"success"',
    "envelope in a string": '"{\\"success\\":true}"',
    "blank": " \r\n\t ",
    "brace": "{",
    "closed": "}",
    "xml": '<?xml version="1.0"?><success>true</success>',
    "form": "success=true&message=",
    "csv": "success,message\ntrue,\n",
    "yaml": "success: true\nmessage: ''\n",
}
#: JSON objects that are not the envelope.
NO_ENVELOPE = {
    "no member": "{}",
    "other case": '{"Success":true}',
    "upper case": '{"SUCCESS":true}',
    "blank before": '{" success":true}',
    "blank after": '{"success ":true}',
    "plural": '{"successes":true}',
    "long s": '{"\u017fuccess":true}',
    "NUL in the name": '{"success\\u0000":true}',
    "only nested": '{"data":{"success":true}}',
    "only in an array": '{"data":[{"success":true}]}',
    "wrapped": '{"response":{"success":true,"message":"","data":[]}}',
    "in an array": '[{"success":true}]',
    "status instead": '{"status":"success","data":[]}',
    "error object": '{"error":{"code":500,"message":"x"}}',
    "twice the same": '{"success":true,"success":true}',
    "true, then false": '{"success":true,"success":false}',
    "false, then true": '{"success":false,"success":true,"message":"Data not found"}',
    "twice, once escaped": '{"success":true,"succ\\u0065ss":false}',
    "twice, far apart": '{"success":true,"data":[{"a":[1,2,{"b":3}]}],"message":"","success":true}',
    "thrice": '{"success":true,"success":true,"success":true}',
    "once a boolean, once not": '{"success":true,"success":"true"}',
    "once not, once a boolean": '{"success":null,"success":true}',
}
#: Valid envelopes in unusual spellings.
STILL_GOOD = {
    "bare": '{"success":true}',
    "an escape in the name": '{"succ\\u0065ss":true}',
    "an upper escape in the name": '{"succ\\u0065\\u0073s":true}',
    "an escaped name": '{"\\u0073\\u0075\\u0063\\u0063\\u0065\\u0073\\u0073":true}',
    "last": '{"timestamp":"2026-01-02T03:04:05.678Z","data":[],"message":"","success":true}',
    "blanks everywhere": ' \t\r\n{ \n"success"\t:\r true , "data" : [ ] } \n',
    "many lines before": "\n" * 200 + '{"success":true}',
    "pretty": json.dumps(json.loads(GOOD), indent=4),
    "message null": '{"success":true,"message":null}',
    "message a number": '{"success":true,"message":1}',
    "message twice": '{"success":true,"message":"a","message":"b"}',
    "data twice": '{"success":true,"data":[],"data":[1]}',
    "data a string": '{"success":true,"data":"x"}',
    "data null": '{"success":true,"data":null}',
    "nested success of another kind": '{"success":true,"data":{"success":false,"message":"Data not found"}}',
    "nested twice": '{"success":true,"data":[{"success":false},{"success":"x","success":1}]}',
    "an escaped quote before": '{"a":"\\"success\\":false,","success":true}',
    "an ending backslash": '{"a":"\\\\","success":true}',
    "brackets in strings": '{"a":"}]{[","success":true,"b":["]}",{"c":"{["}]}',
    "an empty name": '{"":1,"success":true}',
    "a huge number": '{"success":true,"data":%s}' % ("9" * 400),
    "a huge exponent": '{"success":true,"data":1e999999}',
    "a tiny exponent": '{"success":true,"data":[-1e-999999]}',
    "a long fraction": '{"success":true,"data":0.%s}' % ("123456789" * 40),
    "minus zero": '{"success":true,"data":-0}',
    "beyond 64 bits": '{"success":true,"data":{"city_id":18446744073709551616,"id":-9223372036854775809}}',
    "ten digits": '{"success":true,"data":[{"subdistrict_id":9999999999}]}',
    "a pair of surrogates": '{"success":true,"data":"\\ud83d\\ude9a","\\ud83d\\ude9a":1}',
    "every escape": '{"success":true,"message":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000"}',
    "other scripts": '{"success":true,"message":"","data":["Jalan \u00e9 \u4e2d \U0001f69a"]}',
    "delete character": '{"success":true,"data":"\x7f"}',
    "line separators": '{"success":true,"data":"\u2028\u2029"}',
    "after a byte order mark": '\ufeff{"success":true}',
    "after a byte order mark and a blank": '\ufeff \r\n{"success":true,"data":[]}',
    "a mark inside": '{"success":true,"data":"\ufeff"}',
    "a long name": '{"%s":1,"success":true}' % ("n" * 600),
    "many members": "{%s,\"success\":true}" % ",".join(f'"m{n}":{n}' for n in range(150)),
    "deep arrays": '{"success":true,"data":%s}' % ("[" * 180 + "]" * 180),
    "deep objects": '{"success":true,"data":%s}' % ('{"a":' * 150 + "1" + "}" * 150),
    "deep mixture": '{"data":%s,"success":true}' % ('[{"a":' * 100 + "0" + "}]" * 100),
    "a long message": '{"success":true,"message":"%s"}' % ("m" * 2000),
    "html inside": '{"success":true,"message":"<html><h1>502</h1></html>"}',
}


def mutations():
    for number, value in enumerate(NO_BOOLEANS):
        body = '{"success":%s,"message":"Data not found"}' % value
        case(f"success is {value}", "mutation", 200, body, "upstream_error")
        if number < 6:
            case(f"success is {value} under 404", "mutation", 404, body, "rejected")
    for family, bodies in {"no JSON": NO_JSON, "no envelope": NO_ENVELOPE}.items():
        for name, body in bodies.items():
            case(f"{family}: {name}", "mutation", 200, body, "upstream_error")
    for name in ["trailing comma", "two byte order marks", "nested word", "null", "trailing text"]:
        body = NO_JSON[name].replace("true", "false", 1)
        case(f"no JSON: {name} under 404", "mutation", 404, body, "rejected")
        case(f"no JSON: {name} under 503", "mutation", 503, body, "upstream_error")
    for name, body in STILL_GOOD.items():
        case(f"still good: {name}", "mutation", 200, body, "ok")
    # A truncated envelope is not an envelope.
    for status, outcome in [(200, "upstream_error"), (404, "rejected"), (500, "upstream_error")]:
        whole = GOOD if status == 200 else refusal("Data not found")
        for after in range(1, len(whole), 5 if status == 200 else 11):
            case(f"cut after {after} under {status}", "mutation", status, whole[:after], outcome)
    # One byte less, or white space more, at either end.
    for at, name in [(0, "first"), (-1, "last")]:
        bent = GOOD[1:] if at == 0 else GOOD[:-1]
        case(f"without the {name} byte", "mutation", 200, bent, "upstream_error")
    for mark, name in [(" ", "blank"), ("\n", "line feed"), ("\r\n", "line end"), ("\t", "tab")]:
        case(f"{name} around", "mutation", 200, mark + GOOD + mark, "ok")
    for name, message, outcome in [
        ("null", "null", "rejected"),
        ("a number", "404", "rejected"),
        ("an array", '["Data not found"]', "rejected"),
        ("an object", '{"id":"Data not found"}', "rejected"),
        ("empty", '""', "rejected"),
        ("with a lone surrogate", '"Data not found\\ud800"', "rejected"),
        ("with a NUL", '"Data not found\\u0000"', "rejected"),
    ]:
        case(f"message {name}", "mutation", 404, '{"success":false,"message":%s}' % message, outcome)
    raw()


def raw():
    """Bodies that are not UTF-8, and other encodings."""
    good = '{"success":true,"message":"","data":["x"]}'
    bad = {
        "a byte in data": b'{"success":true,"data":["\xff"]}',
        "latin-1 in data": b'{"success":true,"data":["caf\xe9"]}',
        "a lone continuation": b'{"success":true,"data":["\x80"]}',
        "an overlong slash": b'{"success":true,"data":["\xc0\xaf"]}',
        "a coded surrogate": b'{"success":true,"data":["\xed\xa0\x80"]}',
        "beyond unicode": b'{"success":true,"data":["\xf5\x80\x80\x80"]}',
        "a cut character": b'{"success":true,"data":["\xe2\x82"]}',
        "a byte in message": b'{"success":true,"message":"\xff"}',
        "a byte in another member": b'{"success":true,"note":"\xff"}',
        "a byte in a name": b'{"success":true,"\xff":1}',
        "a byte in a nested name": b'{"success":true,"data":{"\xff":1}}',
        "a byte between": b'{"success":true,\xa0"data":[]}',
        "a byte after": b'{"success":true}\xff',
        "utf-16": good.encode("utf-16"),
        "utf-16 little": good.encode("utf-16-le"),
        "utf-16 big": good.encode("utf-16-be"),
        "utf-32": good.encode("utf-32"),
        "compressed": gzip.compress(good.encode(), mtime=0),
        "random": bytes((n * 73 + 41) % 256 for n in range(64)),
    }
    for name, body in bad.items():
        case(f"bytes: {name}", "mutation", 200, body, "upstream_error")
    for name in ["a byte in data", "a byte in message", "utf-16"]:
        body = bad[name].replace(b"true", b"false")
        case(f"bytes: {name} under 404", "mutation", 404, body, "rejected")
    case("bytes: data not found and a byte", "mutation", 404,
         b'{"success":false,"message":"Data not found","data":"\xff"}', "rejected")  # fmt: skip
    for kind in ["text/html", "text/plain; charset=iso-8859-1", "application/xml", "", "application/octet-stream"]:
        headers = [["content-type", kind]] if kind else []
        case(f"the envelope as {kind or 'nothing'}", "variant", 200, GOOD, "ok", headers=headers)
    # Nested more deeply than Python's parser supports, so the verdict is given here.
    deep = {"outcome": "ok", "key": False, "stored": True, "settles": True}
    bent = {"outcome": "upstream_error", "key": False, "stored": False, "settles": False}
    for depth in (2_000, 20_000):
        arrays = '{"success":true,"data":%s}' % ("[" * depth + "]" * depth)
        case(f"arrays {depth} deep", "mutation", 200, arrays, "ok", second=False, verdict=deep)
        for name, body in [("one bracket short", arrays[:-2] + "}"), ("one too many", arrays[:-1] + "]}")]:
            case(f"arrays {depth} deep, {name}", "mutation", 200, body, "upstream_error", second=False, verdict=bent)


def main():
    documented()
    variants()
    messages()
    mutations()
    with open("answers.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for line in CASES:
            file.write(json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n")
    kinds = {kind: sum(line["source"] == kind for line in CASES) for kind in ("documented", "variant", "mutation")}
    print(len(CASES), kinds)


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(10_000)
    threading.stack_size(256 << 20)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
