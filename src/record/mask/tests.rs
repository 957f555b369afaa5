//! Promises of the masker.

mod credentials;
mod known;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const CANARY: &str = "CaNaRy4711";

fn masker() -> Masker {
    Masker::new(LogBodies::Masked, &["Shop-Code".into()])
}

fn body(text: &str) -> Option<String> {
    let mut out = b"before".to_vec();
    let masked = masker().body(&mut out, text.as_bytes());
    let text = String::from_utf8(out).unwrap().split_off(6);
    assert!(masked || text.is_empty());
    masked.then_some(text)
}

fn query(text: &str) -> String {
    let mut out = Vec::new();
    masker().query(&mut out, text);
    String::from_utf8(out).unwrap()
}

fn path(text: &str) -> String {
    let mut out = Vec::new();
    masker().path(&mut out, text);
    String::from_utf8(out).unwrap()
}

/// Names whose values are hidden, in odd spellings.
const HIDDEN: &[&str] = &[
    "secret_key",
    "Secret-Key",
    "secretKey",
    "SECRETKEY",
    "access-key",
    "password",
    "Authorization",
    "api_token",
    "name",
    "shipper_name",
    "receiver_address",
    "phone",
    "no_hp",
    "email",
    "alamat_lengkap",
    "alamat_google",
    "lat",
    "lng",
    "latitude",
    "keyword",
    "search",
    "keterangan",
    "desc",
    "description",
    "cancel_reason",
    "shop_code",
    "SHOPCODE",
    "shipper",
    "Receiver",
    "notes",
    "url",
    "s e c r e t",
];

mod hides {
    use super::*;

    /// Issue: names that merchants and couriers use, Indonesian and English, in every spelling.
    #[test]
    fn personal_names_by_their_words() {
        for name in [
            "nomor_hp",
            "nomorHp",
            "NomorHP",
            "no_hp_penerima",
            "noHpPenerima",
            "hp_1",
            "hp2",
            "penerima_nama",
            "penerimaNama",
            "atas_nama",
            "atasnama",
            "nama_ibu",
            "no_ktp",
            "noKtp",
            "NoKTP",
            "KTPNumber",
            "nik_penerima",
            "no_rek",
            "norek",
            "nomor_rekening",
            "rekBank",
            "va_number",
            "latlong",
            "lat_long",
            "latLng",
            "origin_lat_long",
            "otp_code",
            "kode_otp",
            "otpCode",
            "cvv",
            "cvv2",
            "card_number",
            "no_kartu",
            "user_name",
            "userId",
            "wa_penerima",
            "no_wa",
            "telp_rumah",
            "no_tlp",
            "tlp",
            "receiver_contact",
            "sender_addr",
            "OLSHOP_RECEIVER_ADDR1",
            "jl",
            "rt_rw",
            "no_rumah",
            "blok",
            "penerima",
            "no_penerima",
            "receiver_title",
            "recipient_first",
            "merchant_phone",
            "customer_identity",
            "driver_plate",
            "nopol",
            "foto_ktp",
            "pod_photo",
            "dob_penerima",
            "tgl_lahir",
            "pin_code",
            "cp_gudang",
            "gmaps",
            "pinpoint",
            "shipper[hp]",
            "items[0].nama_penerima",
            "data.noHp",
            "virtual_account",
            "virtualAccountNo",
            "cc_number",
            "ccNumber",
            "accountNo",
            "no_akun",
            "id_no",
            "cari",
            "kata_cari",
            "pencarian",
            "kata_kunci",
            "komentar",
            "ulasan",
            "keluhan",
            "alasan_batal",
            "saran",
            "penjelasan",
            "kunci_rahasia",
            "kode_keamanan",
            "nama_ayah",
            "ibu_kandung",
            "no_bpjs",
            "kitas",
            "holder",
            "card_holder",
            "lintang",
            "bujur",
            "titik_jemput",
            "longtitude",
            "no_hape",
            "noSeluler",
            "instagram",
            "pemegang_kartu",
            "sopir",
            "nasabah",
            "alamat_domisili",
            "komplek",
            "tanda_tangan",
        ] {
            let text = format!(r#"{{"a":1,"{name}":"{CANARY}","b":[{{"{name}":["{CANARY}"]}}]}}"#);
            assert!(!body(&text).unwrap().contains(CANARY), "{name}");
            assert!(!query(&format!("a=1&{name}={CANARY}&b=2")).contains(CANARY), "{name}");
        }
    }

    #[test]
    fn credentials_under_any_name_and_as_names() {
        use base64::{Engine as _, engine::general_purpose::*};
        let pair = "svc-shop-1:some-secret/of+any=form";
        for basic in [STANDARD.encode(pair), STANDARD_NO_PAD.encode(pair), URL_SAFE.encode(pair)] {
            let encoded = basic.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            for text in [&basic, &encoded] {
                assert_eq!(query(&format!("x={text}&b=2")), "x=***&b=2", "{text}");
                assert!(["/a/***", "/a/***/b"].contains(&&*path(&format!("/a/{text}/b"))), "{text}");
            }
            for value in [basic.clone(), format!("key {basic}"), basic.replace('=', "\\u003d")] {
                assert_eq!(body(&format!(r#"{{"x":"{value}","b":2}}"#)).unwrap(), r#"{"x":"***","b":2}"#, "{value}");
            }
            assert_eq!(body(&format!(r#"{{"{basic}":1}}"#)).unwrap(), r#"{"***":1}"#);
        }
        for name in ["fgw_CaNaRy4711", "x-fgw_CaNaRy4711", "\\u0066gw_CaNaRy4711", "budi@example.com", "081234567890"] {
            let text = format!(r#"{{"a":{{"{name}":true}}}}"#);
            assert_eq!(body(&text).unwrap(), r#"{"a":{"***":true}}"#, "{name}");
        }
    }

    #[test]
    fn every_listed_name_in_body_and_query() {
        for name in HIDDEN {
            let text = format!(r#"{{"a":1,"{name}":"{CANARY}","b":[{{"{name}":{{"x":["{CANARY}"]}}}}]}}"#);
            let masked = body(&text).unwrap();
            assert!(!masked.contains(CANARY), "{masked}");
            assert!(!query(&format!("a=1&{name}={CANARY}&b=2")).contains(CANARY), "{name}");
        }
    }

    #[test]
    fn names_written_with_escapes() {
        for name in [r"secr\u0065t_key", r"\u0070hone", r"na\u006De", r"pass\u0057ord", r"secret\/key"] {
            assert!(!body(&format!(r#"{{"{name}":"{CANARY}"}}"#)).unwrap().contains(CANARY), "{name}");
        }
        for name in ["secr%65t_key", "secr%2565t_key", "ph%6fne", "shipper%5Bname%5D", "shipper[x]", "items[0].name"] {
            assert!(!query(&format!("{name}={CANARY}")).contains(CANARY), "{name}");
        }
    }

    #[test]
    fn each_of_two_members_of_one_name() {
        let masked = body(r#"{"phone":"CaNaRy4711","a":1,"phone":6281}"#).unwrap();
        assert_eq!(masked, r#"{"phone":"***","a":1,"phone":"***"}"#);
    }

    #[test]
    fn all_of_a_person_but_the_ids_of_regions() {
        let text = r#"{"receiver":{"region_id":3171010001,"id":"62812345678901","town":"x","more":{"id":1}},
            "origin":3171010001,"destination":{"id":"3171010001","lat":"-6.1"},"stops":[{"id":1,"who":"x"},"y"]}"#;
        let masked = body(text).unwrap();
        let expected = r#"{"receiver":{"region_id":3171010001,"id":"***","town":"***","more":"***"},"origin":3171010001,"destination":{"id":"3171010001","lat":"***"},"stops":[{"id":1,"who":"***"},"***"]}"#;
        assert_eq!(masked, expected);
    }

    #[test]
    fn phone_numbers_and_email_addresses_under_any_name() {
        for value in [
            "budi@example.com",
            "Budi <budi.s+x@mail.example.co.id>",
            "call 081234567890",
            "0812-3456-7890",
            "+62 812 3456 7890",
            "6281234567890",
            "+6581234567890",
            "wa:0812.3456.7890.",
            "(0812) 3456-7890",
            "Nomor 0812 3456 7890 tidak valid",
            "021-5551234",
            "(021) 555-1234",
            "0215551234",
            "81234567890",
            "+62 (812) 3456 7890",
            "(021) 555 1234 567",
            "+65 9123 4513",
            "+1 (415) 555-2614",
            "0062 812 3456 7883",
            "0812_3456_7888",
            "0812\u{2011}3456\u{2011}7890",
            "0812\u{2013}3456\u{a0}7890",
            "\u{ff10}\u{ff18}\u{ff11}\u{ff12}\u{ff13}\u{ff14}\u{ff15}\u{ff16}\u{ff17}\u{ff18}\u{ff19}",
            "08\u{200b}12 3456 7890",
            "budi\u{ff20}example.com",
        ] {
            let masked = body(&format!(r#"{{"message":"{value}","total":18000}}"#)).unwrap();
            assert_eq!(masked, r#"{"message":"***","total":18000}"#, "{value}");
            if !value.is_ascii() {
                continue;
            }
            let plus = value.replace('+', "%2B").replace(' ', "+");
            assert_eq!(query(&format!("ref={plus}&b=2")), "ref=***&b=2", "{value}");
        }
        assert_eq!(body(r#"{"ref":6281234567890,"b":"budi\u0040example.com"}"#).unwrap(), r#"{"ref":"***","b":"***"}"#);
        assert_eq!(path("/order/budi@example.com/x/081234567890"), "/order/***/x/***");
        let quoted = r#"{"ref":"budi97%40example.com","b":"\"budi x\"@example98.com","c":"0812\t3456\t7890"}"#;
        assert_eq!(body(quoted).unwrap(), r#"{"ref":"***","b":"***","c":"***"}"#);
    }

    #[test]
    fn a_bearer_token_in_a_text() {
        let text = r#"{"message":"got Authorization: Bearer abc123def","b":1}"#;
        assert_eq!(body(text).unwrap(), r#"{"message":"***","b":1}"#);
        let text = r#"{"b":"use bearer authentication"}"#;
        assert_eq!(body(text).unwrap(), text);
    }

    #[test]
    fn more_names_of_what_is_personal() {
        let personal =
            ["mail", "bank_account", "bankAccountNo", "id_number", "tax_id", "position", "deskripsi", "pesan", "memo"];
        for name in personal {
            assert_eq!(body(&format!(r#"{{"{name}":"x1"}}"#)).unwrap(), format!(r#"{{"{name}":"***"}}"#));
            assert_eq!(query(&format!("{name}=x1")), format!("{name}=***"));
        }
        for kept in ["nomor_pesanan", "mailing_code", "account"] {
            let text = format!(r#"{{"{kept}":"x1"}}"#);
            assert_eq!(body(&text).unwrap(), text, "{kept}");
        }
    }

    /// The log's thread would look for words in it for 80 ms a MiB.
    #[test]
    fn names_that_are_longer_than_any_name_with_their_values() {
        let (long, longest) = ("aA_".repeat(86), "aA_".repeat(85));
        let text = format!(r#"{{"{long}":1,"{longest}":"x1","{long}":{{"awb":"F1"}},"awb":"F2"}}"#);
        let masked = format!(r#"{{"***":"***","{longest}":"x1","***":"***","awb":"F2"}}"#);
        assert_eq!(body(&text).unwrap(), masked);
    }

    #[test]
    fn values_that_give_themselves_away() {
        let packed = r#"{"payload":"{\"phone\":\"CaNaRy4711\"}","b":" \u007b\"x\":\"CaNaRy4711\"}"}"#;
        assert!(!body(packed).unwrap().contains(CANARY));
        for value in ["Basic CaNaRy4711", "bearer CaNaRy4711", "x fgw_CaNaRy4711"] {
            assert!(!body(&format!(r#"{{"a":"{value}"}}"#)).unwrap().contains(CANARY), "{value}");
            assert!(!query(&format!("a={}", value.replace(' ', "%20"))).contains(CANARY), "{value}");
        }
        assert!(!query("fgw_CaNaRy4711").contains(CANARY));
        assert_eq!(path("/a/fgw_CaNaRy4711/b;token=CaNaRy4711;c=1"), "/a/***/b;token=***;c=1");
    }
}

mod leaves {
    use super::*;

    #[test]
    fn what_stands_behind_a_semicolon_in_a_masked_value() {
        for text in ["password=a;CaNaRy4711", "password=;CaNaRy4711", "password=a;b;CaNaRy4711", "nama=Budi;CaNaRy4711"]
        {
            assert!(!query(text).contains(CANARY), "{text}");
        }
        assert_eq!(query("a=1;b;c&password=x&d"), "a=1;b;c&password=***&d");
    }

    #[test]
    fn what_support_needs() {
        let text = r#"{"success":true,"message":"Data not found","data":[{"awb":"F.1","courier_name":"Paxel","city_id":3171,"etd":"2-3 Days","total":18000,"insurance_detail":{"insurance_percent":0.3},"key_version":null}],"timestamp":"2026-01-02T03:04:05.678Z"}"#;
        assert_eq!(body(text).unwrap(), text);
        assert_eq!(query("province_id=31&limit=10&offset=&x"), "province_id=31&limit=10&offset=&x");
        assert_eq!(path("/region/sub_district/a%20b"), "/region/sub_district/a%20b");
    }

    /// Names that share words or letters with personal ones, as Fastrac and couriers use them.
    #[test]
    fn names_that_are_not_personal() {
        for name in [
            "courier_name",
            "courierName",
            "nama_kurir",
            "service_name",
            "city_name",
            "district_name",
            "subDistrictName",
            "customer_order_ref",
            "receiver_city_id",
            "shipper_district_code",
            "merchant_code",
            "destination_city",
            "insurance_price",
            "item_category",
            "jenis_pengiriman",
            "shipment_type",
            "pengiriman_id",
            "electronic",
            "weight",
            "length",
            "teknik",
            "booking_id",
            "awb",
            "status",
            "tariff_id",
            "cod_amount",
            "etd",
            "volume",
            "saldo_masuk",
            "dana_cod",
            "tarik_tunai",
            "account_status",
            "city_code",
            "payment_term",
            "carrier",
            "sarana",
            "pickup_start",
            "unit",
            "etd_unit",
            "paid_now",
            "courier_id",
        ] {
            let text = format!(r#"{{"{name}":"CaNaRy"}}"#);
            assert_eq!(body(&text).unwrap(), text, "{name}");
        }
    }

    #[test]
    fn texts_that_only_look_like_base64() {
        for value in [
            "JNE-REG-2026-0000000000017",
            "aGVsbG8gd29ybGQgYWdhaW4h",
            "3f2504e04f8941d39a0c0305e82c3301",
            "0193b5a2-7c1e-7000-8000-000000000000",
            "region/sub_district/search",
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
        ] {
            let text = format!(r#"{{"awb":"{value}"}}"#);
            assert_eq!(body(&text).unwrap(), text, "{value}");
        }
    }

    #[test]
    fn numbers_that_are_no_phone_numbers_and_at_signs_that_are_no_addresses() {
        for value in [
            "08-12-2025 10:15",
            "2026-01-02T03:04:05.678Z",
            "3171081001",
            "FST081234567890",
            "0812",
            "62.5",
            "1767323045678",
            "0.0812345678901",
            "a @ b.c",
            "@home.x",
            "x@",
            "00812345678901234",
            "628123",
            "8171010001",
            "2026-01-02 0812",
            "(0812)",
            "18000/25000/31000",
            "1/2/2026",
            "+1 000 000",
            "0212345678901",
        ] {
            let text = format!(r#"{{"awb":"{value}"}}"#);
            assert_eq!(body(&text).unwrap(), text);
        }
    }

    #[test]
    fn numbers_and_escapes_as_they_were_written() {
        let text = r#"{"n":[1e99,-0.000,123456789012345678901234567890],"s":"\u00e4\/\ud83d\ude00","e":{},"f":[]}"#;
        assert_eq!(body(text).unwrap(), text);
    }

    #[test]
    fn a_body_after_a_byte_order_mark() {
        assert_eq!(body("\u{feff}{\"a\":1}").unwrap(), "{\"a\":1}");
        assert_eq!(body("\u{feff} [\"\u{feff}\"]").unwrap(), "[\"\u{feff}\"]");
        for text in ["\u{feff}", "\u{feff}\u{feff}{}", " \u{feff}{}", "\u{feff}x"] {
            assert_eq!(body(text), None, "{text:?}");
        }
    }

    #[test]
    fn no_number_that_readers_cannot_hold() {
        for number in ["1e999999", "-1E400", &"9".repeat(1_000_000), &format!("0.{}", "1".repeat(400))] {
            let text = body(&format!("{{\"n\":{number},\"a\":1}}")).unwrap();
            assert_eq!(text, "{\"n\":\"***\",\"a\":1}", "{}", &number[..5]);
        }
        let text = format!("{{\"n\":[{},1e-999]}}", "9".repeat(300));
        assert_eq!(body(&text).unwrap(), text);
        assert!(serde_json::from_str::<Value>(&text).is_ok());
    }

    #[test]
    fn one_line_of_many() {
        assert_eq!(body("{\n  \"a\": [ 1,\r\n\t2 ]\n}\n").unwrap(), r#"{"a":[1,2]}"#);
    }
}

mod refuses {
    use super::*;

    #[test]
    fn what_readers_may_take_differently() {
        let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
        let odd = [
            "",
            " ",
            "null",
            "\"text\"",
            "1",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "[01]",
            "[1.]",
            "[.5]",
            "[+1]",
            "[1e]",
            "[tru]",
            "{} {}",
            "[\"\\x\"]",
            "[\"\\ud800\"]",
            "[\"\\udc00\\ud800\"]",
            "[\"a\nb\"]",
            "[}",
            "{]",
            "[1 2]",
            "[\"\\u12\"]",
            "{\"phone\":{\"a\":[1,}}",
            "{\"phone\":\"\\ud800\"}",
            &deep,
        ];
        for text in odd {
            assert_eq!(body(text), None, "{text}");
        }
        let mut out = Vec::new();
        assert!(!masker().body(&mut out, b"{\"a\":\"\xff\"}"));
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z \"\\\\{\u{1F600}\n]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        let name = prop_oneof![
            "[a-z_\"\\\\]{1,8}",
            proptest::sample::select(HIDDEN).prop_map(str::to_owned),
            proptest::sample::select(&["origin", "items", "data", "stop"][..]).prop_map(str::to_owned),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((name, inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Every string and number below a hidden name becomes the canary.
fn plant(value: &mut Value, hidden: bool) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| plant(item, hidden)),
        Value::Object(members) => {
            for (name, item) in members.iter_mut() {
                plant(item, hidden || HIDDEN.contains(&name.as_str()));
            }
        }
        Value::String(_) | Value::Number(_) if hidden => *value = Value::from(CANARY),
        _ => {}
    }
}

/// What of `masked` differs from `plain` but by masking.
fn only_masked(plain: &Value, masked: &Value) -> bool {
    match (plain, masked) {
        (_, Value::String(text)) if text == MASKED => true,
        (Value::Array(plain), Value::Array(masked)) => {
            plain.len() == masked.len() && plain.iter().zip(masked).all(|(plain, masked)| only_masked(plain, masked))
        }
        (Value::Object(plain), Value::Object(masked)) => {
            plain.keys().eq(masked.keys()) && plain.iter().all(|(name, plain)| only_masked(plain, &masked[name]))
        }
        (plain, masked) => plain == masked,
    }
}

/// Texts like those of URIs, with what is hidden in them.
fn uri_text() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(
        &[
            "/", "-", "_", ".", ",", "+", " ", "%40", "%2B", "@", "{", "[", "\"", "bearer", "basic", "fgw_", "fgw",
            "w_", "08", "0812", "628", "a1b2c3", "YTpi", "shop", "id.", "3", "33", "\u{ff10}", "\u{660}8",
        ][..],
    );
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_harmless_hides_nothing(text in uri_text()) {
        if value::is_harmless(&text) {
            let read = decoded(&text);
            prop_assert!(!looks_secret(&text) && !contains_personal(&text) && *read == *text);
            prop_assert!((0..text.len()).all(|at| !begins_with_basic(&text.as_bytes()[at..])));
        }
    }

    #[test]
    fn a_canary_never_comes_out_and_nothing_else_changes(mut value in json(), pretty in any::<bool>()) {
        plant(&mut value, false);
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let masked = body(&text);
        prop_assert_eq!(masked.is_some(), value.is_object() || value.is_array());
        if let Some(masked) = masked {
            prop_assert!(!masked.contains(CANARY), "{}", masked);
            prop_assert!(!masked.contains('\n'));
            prop_assert!(only_masked(&value, &serde_json::from_str(&masked).unwrap()), "{}", masked);
        }
    }

    #[test]
    fn what_comes_out_is_json_whatever_goes_in(bytes in proptest::collection::vec(
        proptest::sample::select(&b"{}[]\",:\\u0d8c1-.e tnalsrfphone\n\xc3\xa4"[..]), 0..40)) {
        let mut out = Vec::new();
        if masker().body(&mut out, &bytes) {
            prop_assert!(serde_json::from_slice::<Value>(&out).is_ok());
        } else {
            prop_assert!(out.is_empty());
        }
    }

    #[test]
    fn it_takes_what_serde_json_takes(text in "[\\[\\]{}\",:0-9a-c.eE+-]{0,12}") {
        let value = serde_json::from_str::<Value>(&text);
        if value.is_ok_and(|value| value.is_object() || value.is_array()) {
            prop_assert!(body(&text).is_some(), "{}", text);
        }
    }

    #[test]
    fn queries_stay_one_json_string_and_keep_their_shape(text in "[a-z=&;%+\"\\\\ä]{0,30}") {
        let mut out = b"\"".to_vec();
        masker().query(&mut out, &text);
        out.push(b'"');
        let read: String = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(read.matches('&').count(), text.matches('&').count());
    }

    #[test]
    fn no_input_panics_in_names(name in any::<String>()) {
        let masker = masker();
        let _ = (masker.rules.rule_of(&name), masker.rules.inside_person(&name));
        let _ = query(&name);
        let _ = path(&name);
    }
}

#[test]
fn a_common_name_is_hidden_where_the_configuration_says_so() {
    let masker = Masker::new(LogBodies::Masked, &["city_id".into(), "AWB".into()]);
    let mut out = Vec::new();
    masker.query(&mut out, "city_id=3171&province_id=31&awb=X1");
    assert_eq!(String::from_utf8(out).unwrap(), "city_id=***&province_id=31&awb=***");
}
