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
