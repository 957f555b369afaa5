//! Which requests share a key, and which never do: by cases, by properties, and the request that a key gives back.

use proptest::prelude::*;

use super::*;

fn parts(account: &str) -> KeyParts<'_> {
    KeyParts {
        account,
        address: "https://b2b.example",
        operation: "v2.city",
        service: None,
        method: "GET",
        path: "/p",
        query: None,
        vary: &[],
        body: b"",
    }
}

fn key(query: Option<&str>, body: &str) -> Option<Key> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    Key::new(KeyParts { method, query, body: body.as_bytes(), ..parts("main") })
}

#[test]
fn a_header_that_connection_names_counts_as_absent() {
    let names = [HeaderName::from_static("accept-language")];
    let value = |text| http::HeaderValue::from_static(text);
    let mut headers = HeaderMap::from_iter([(names[0].clone(), value("id"))]);
    assert_ne!(vary(&headers, &names), vary(&HeaderMap::new(), &names));
    headers.insert(http::header::CONNECTION, value("Accept_Language"));
    assert_eq!(vary(&headers, &names), vary(&HeaderMap::new(), &names));
}

#[test]
fn depth_costs_no_stack() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(key(None, &deep), None);
}

#[test]
fn the_request_of_a_key_has_all_its_parts() {
    let name = HeaderName::from_static("accept-language");
    let values = [HeaderValue::from_static("id"), HeaderValue::from_static("")];
    let vary = [VaryValues { name: &name, values: values.iter().collect() }];
    let (service, query) = (Some("shop"), Some("b=2&a=%31&a"));
    let body = br#" {"b":1.0, "\u0061":"\/"} "#;
    let parts = KeyParts { service, method: "POST", query, vary: &vary, body, ..parts("main") };
    let key = Key::new(parts).unwrap();
    let request = key.request().unwrap();
    assert_eq!((request.account, request.address, request.operation), ("main", parts.address, "v2.city"));
    assert_eq!(
        (request.service, request.method.as_str(), request.target.as_str()),
        (service, "POST", "/p?a=%31&a&b=2")
    );
    assert_eq!(request.headers.get_all(&name).iter().collect::<Vec<_>>(), values.iter().collect::<Vec<_>>());
    assert_eq!(request.body, r#"{"a":"/","b":1.0}"#);
    let (query, body) = (request.target.query(), &request.body);
    let again = KeyParts { query, body, ..parts };
    assert_eq!(Key::new(again), Some(key.clone()), "the canonical form of a request is its own");
    assert_eq!(Key::from_bytes(key.as_bytes()), Some(key.clone()));
    for cut in 0..key.size() - request.body.len() {
        assert_eq!(Key::from_bytes(&key.as_bytes()[..cut]), None, "{cut}");
    }
}

#[test]
fn a_query_is_absent_or_empty() {
    assert_eq!(key(None, "").unwrap().request().unwrap().target, "/p");
    assert_eq!(key(Some(""), "").unwrap().request().unwrap().target, "/p?");
}

type Tuple = (String, String, Option<String>, Vec<u8>);

fn tuple() -> impl Strategy<Value = Tuple> {
    let body = prop_oneof![
        prop::collection::vec(b'0'..=b'2', 0..5),
        "\\{\"[ab]\":[12],\"(a|\\\\u006[12])\":[12]\\}".prop_map(String::into_bytes),
        "\"(x|/|\\\\/|\\\\u0078|\\\\t|\\\\u0009){0,3}\"".prop_map(String::into_bytes),
    ];
    ("[a-b/]{0,4}", "/[a-b]{0,4}", prop::option::of("[ab=&]{0,6}"), body)
}

fn of(t: &Tuple) -> Option<Key> {
    let (account, path, query, body) = t;
    Key::new(KeyParts { method: "POST", path, query: query.as_deref(), body, ..parts(account) })
}

fn parameters(query: &Option<String>) -> Option<Vec<String>> {
    query.as_ref().map(|q| {
        let mut parts: Vec<String> = q.split('&').map(str::to_owned).collect();
        parts.sort_by_key(|p| p.split('=').next().unwrap().to_owned());
        parts
    })
}

/// The body's value by serde, whose numbers here are their own text.
fn value(body: &[u8]) -> Option<Option<serde_json::Value>> {
    if body.is_empty() { Some(None) } else { serde_json::from_slice(body).ok().map(Some) }
}

proptest! {
    #[test]
    fn is_injective_up_to_order_and_spelling(a in tuple(), b in tuple()) {
        if let (Some(first), Some(second)) = (of(&a), of(&b)) {
            let same = a.0 == b.0
                && a.1 == b.1
                && parameters(&a.2) == parameters(&b.2)
                && value(&a.3).unwrap() == value(&b.3).unwrap();
            prop_assert_eq!(first == second, same);
        }
    }

    #[test]
    fn never_panics(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Key::new(KeyParts { body: &body, ..parts("") });
        let _ = Key::from_bytes(&body);
    }
}

/// Requests with these bodies must not share a response.
const DIFFERENT_BODIES: &[&[&str]] = &[
    &["", "1", "1.0", "1.00", "10e-1", "1e0", "1E0", "1e+0", "-1", "\"1\"", "true", "null", "[1]", "{\"a\":1}", "11"],
    &["0", "-0", "0.0", "0e0", "9007199254740992", "9007199254740993", "1e400", "1e401", "0.1", "0.10"],
    &[
        r#""""#,
        r#""x""#,
        r#""X""#,
        r#"" x""#,
        r#""x ""#,
        r#""x\u0000""#,
        r#""\u00e9""#,
        r#""e\u0301""#,
        r#""\\u0078""#,
        r#""\"""#,
        r#""/""#,
        r#""\\/""#,
        r#""\\""#,
        r#""null""#,
        r#""\n""#,
        r#""\\n""#,
        r#""\u2028""#,
        r#""\ud83d\ude00""#,
        r#""\ud83d\ude01""#,
        r#""x,\"a\":1""#,
    ],
    &[
        "[]",
        "[[]]",
        "{}",
        "[{}]",
        "[[],[]]",
        r#"{"":{}}"#,
        r#"{"":[]}"#,
        r#"{"a":{}}"#,
        r#"{"a":[]}"#,
        r#"{"a":null}"#,
        r#"{"a":""}"#,
        "[null]",
        r#"[""]"#,
        "[0]",
        "[false]",
        "[1,2]",
        "[2,1]",
        "[12]",
        "[[1],2]",
        "[[1,2]]",
    ],
    &[
        r#"{"a":1,"b":2}"#,
        r#"{"a":2,"b":1}"#,
        r#"{"a":1}"#,
        r#"{"A":1}"#,
        r#"{" a":1}"#,
        r#"{"ab":1}"#,
        r#"{"a":"1"}"#,
        r#"{"a":{"b":2}}"#,
        r#"{"a":[1,2]}"#,
        r#"{"a":[2,1]}"#,
        r#"{"a":1,"b":2,"c":null}"#,
        r#"{"a":"1,\"b\":2"}"#,
        r#"{"a\u0000":1}"#,
        r#"{"a\",\"b":1}"#,
        r#"{"\\u0061":1}"#,
        r#"{"b":{"a":1},"a":{"b":1}}"#,
    ],
];

/// Requests with these bodies must share one.
const EQUAL_BODIES: &[&[&str]] = &[
    &[
        r#"{"a":1,"b":[1,2]}"#,
        r#"{"b":[1,2],"a":1}"#,
        r#" {"a" : 1 , "b" : [ 1 , 2 ] } "#,
        "{\"a\":1,\r\n\t\"b\":[1,2]}",
        r#"{"\u0061":1,"b":[1,2]}"#,
        r#"{"b":[1,2],"\u0061":1}"#,
        r#"{"\u0062":[1,2],"\u0061":1}"#,
    ],
    &[
        r#""x/é😀""#,
        r#""x\/é😀""#,
        r#""\u0078/\u00e9\ud83d\ude00""#,
        r#""\u0078\u002f\u00E9\uD83D\uDE00""#,
        r#" "x/é😀""#,
    ],
    &[r#""\n\t\"\\\b\f\r""#, r#""\u000a\u0009\u0022\u005c\u0008\u000c\u000d""#, r#""\u000A\t\"\\\u0008\f\r""#],
    &[
        r#"[{"c":{"e":1,"d":2},"a":[]},"x"]"#,
        r#"[{"a":[],"c":{"d":2,"e":1}},"x"]"#,
        r#"[{"a":[ ],"c":{"e":1,"d":2}},"\u0078"]"#,
        r#"[ {"c":{"d":2,"e":1},"a":[]} , "x" ]"#,
        "[{\"c\":{\"e\":1,\"\\u0064\":2},\"\\u0061\":[]},\"x\"]\n",
    ],
    &[r#"{"":1,"é":2,"z":3}"#, r#"{"z":3,"\u00e9":2,"":1}"#, r#"{"\u00e9":2,"":1,"z":3}"#, r#"{"z":3,"":1,"é":2}"#],
    &["-1.50e+10", " -1.50e+10", "-1.50e+10\n", "\t-1.50e+10\t"],
    &["true", " true", "true ", "\ntrue\n"],
];

const DIFFERENT_QUERIES: &[Option<&str>] = &[
    None,
    Some(""),
    Some("a"),
    Some("a="),
    Some("=a"),
    Some("a=1"),
    Some("a=%31"),
    Some("A=1"),
    Some("a=1&"),
    Some("a=1&a=2"),
    Some("a=2&a=1"),
    Some("a=1&b=2"),
    Some("a=1%26b=2"),
    Some("a=1;b=2"),
    Some("a=1&b=2&b="),
    Some("a=+1"),
    Some("a=%201"),
    Some("a=1?"),
    Some("a==1"),
    Some("a%3D1"),
    Some("%61=1"),
    Some("a=1/"),
    Some("a=b&1"),
];

const EQUAL_QUERIES: &[&[&str]] = &[
    &["a=1&b=2&c=3", "c=3&b=2&a=1", "b=2&a=1&c=3", "c=3&a=1&b=2", "b=2&c=3&a=1", "a=1&c=3&b=2"],
    &["a=1&a=2&b", "a=1&b&a=2", "b&a=1&a=2"],
    &["&a=1&b", "a=1&&b", "a=1&b&", "b&&a=1"],
];

/// Each pair of a list.
fn pairs<T: Copy>(list: &[T]) -> Vec<(T, T)> {
    let pairs_of = |at: usize| list[at + 1..].iter().map(move |other| (list[at], *other));
    (0..list.len()).flat_map(pairs_of).collect()
}

#[test]
fn different_requests_never_share_a_key() {
    let mut count = 0;
    for (a, b) in DIFFERENT_BODIES.iter().flat_map(|bodies| pairs(bodies)) {
        assert_ne!(key(None, a).expect(a), key(None, b).expect(b), "{a} {b}");
        count += 1;
    }
    for (a, b) in pairs(DIFFERENT_QUERIES) {
        assert_ne!(key(a, "").unwrap(), key(b, "").unwrap(), "{a:?} {b:?}");
        count += 1;
    }
    let base = parts("main");
    let (language, accept) = (http::header::ACCEPT_LANGUAGE, http::header::ACCEPT);
    let values = ["id", "en", "", "id,en"].map(HeaderValue::from_static);
    let vary = |name, values: &[usize], all: &'static [HeaderValue]| {
        [VaryValues { name, values: values.iter().map(|at| &all[*at]).collect() }]
    };
    let all: &'static [HeaderValue] = Box::leak(Box::new(values));
    let (language, accept): (&'static _, &'static _) = (Box::leak(Box::new(language)), Box::leak(Box::new(accept)));
    let varied = [
        vary(language, &[], all),
        vary(language, &[0], all),
        vary(language, &[1], all),
        vary(language, &[2], all),
        vary(language, &[3], all),
        vary(language, &[0, 1], all),
        vary(language, &[1, 0], all),
        vary(accept, &[0], all),
    ];
    let mut requests = vec![
        base,
        KeyParts { account: "other", ..base },
        KeyParts { account: "", ..base },
        KeyParts { address: "https://b2b.other", ..base },
        KeyParts { address: "https://b2b.example/", ..base },
        KeyParts { operation: "v1.city", ..base },
        KeyParts { service: Some(""), ..base },
        KeyParts { service: Some("main"), ..base },
        KeyParts { method: "POST", ..base },
        KeyParts { path: "/P", ..base },
        KeyParts { path: "/p/", ..base },
        KeyParts { path: "//p", ..base },
        KeyParts { path: "/%70", ..base },
        KeyParts { path: "/p?", ..base },
        KeyParts { path: "/", query: Some("p"), ..base },
        KeyParts { query: Some(""), ..base },
        KeyParts { body: b"\"\"", ..base },
    ];
    requests.extend(varied.iter().map(|vary| KeyParts { vary, ..base }));
    for (a, b) in pairs(&requests) {
        assert_ne!(Key::new(a).unwrap(), Key::new(b).unwrap(), "{a:?} {b:?}");
        count += 1;
    }
    assert!(count >= 1000, "{count} pairs");
}

#[test]
fn spellings_of_one_request_share_a_key() {
    let mut count = 0;
    for (a, b) in EQUAL_BODIES.iter().flat_map(|bodies| pairs(bodies)) {
        assert_eq!(key(None, a).expect(a), key(None, b).expect(b), "{a} {b}");
        count += 1;
    }
    for (a, b) in EQUAL_QUERIES.iter().flat_map(|queries| pairs(queries)) {
        assert_eq!(key(Some(a), ""), key(Some(b), ""), "{a} {b}");
        count += 1;
    }
    // Each spelling of each letter of a word.
    let spellings = |letter: char| {
        [letter.to_string(), format!("\\u{:04x}", u32::from(letter)), format!("\\u{:04X}", u32::from(letter))]
    };
    for (first, second) in [('j', 'k'), ('/', 'm'), ('é', '\u{7f}')] {
        let bodies: Vec<String> = spellings(first)
            .iter()
            .flat_map(|a| spellings(second).map(|b| format!("{{\"keyword\":\"{a}{b}\"}}")))
            .collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        for (a, b) in pairs(&bodies) {
            assert_eq!(key(None, a).expect(a), key(None, b).expect(b), "{a} {b}");
            count += 1;
        }
    }
    assert!(count >= 100, "{count} pairs");
}
