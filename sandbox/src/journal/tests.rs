//! The journal is bounded, the counters are exact.

use std::collections::HashSet;

use super::*;
use crate::route::ApiVersion;

const EXPRESS: Operation = Operation { version: ApiVersion::V2, kind: OperationKind::OrderExpress };

fn entry(target: &'static str, body: &'static str) -> Entry {
    let uri = Uri::from_static(target);
    Entry {
        seq: 0,
        at: 0,
        connection: 1,
        method: Method::POST,
        row: Routes::get().find(&Method::POST, uri.path(), false),
        uri,
        headers: HeaderMap::new(),
        body: Bytes::from_static(body.as_bytes()),
        key: Some("one".into()),
        status: None,
        executed: false,
        duplicate: false,
        fault: None,
        act: None,
        limited: None,
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn journal(entries: usize, bytes: usize) -> Journal {
    Journal::new(JournalBounds { entries, bytes })
}

#[test]
fn the_same_body_executed_twice_is_a_duplicate_and_marked() {
    let mut journal = journal(10, 1_000);
    for body in [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":1}"#] {
        let seq = journal.receive(entry("/order/express", body));
        journal.execute(seq, EXPRESS, &json(body));
    }
    let orders = journal.counters().orders;
    assert_eq!((orders.express, orders.duplicates), (3, 1));
    assert_eq!(journal.executed(EXPRESS, br#"{"a": 1}"#), 2);
    assert_eq!(journal.entries().map(|e| e.duplicate).collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn v1_and_v2_spellings_of_an_order_are_one_for_duplicates() {
    let mut journal = journal(10, 1_000);
    journal.execute(1, EXPRESS, &json("1"));
    journal.execute(2, Operation { version: ApiVersion::V1, ..EXPRESS }, &json("1"));
    assert_eq!(journal.counters().orders.duplicates, 1);
}

#[test]
fn counters_stay_exact_when_the_journal_forgets() {
    let mut journal = journal(2, 1_000);
    for _ in 0..5 {
        let seq = journal.receive(entry("/order/express", "x"));
        journal.answer(seq, journal.entries().last().unwrap().row, Some(&"one".into()), 200);
    }
    // An answer to a request that is no longer kept still counts.
    journal.answer(1, None, None, 500);
    assert_eq!(journal.entries().map(|e| e.seq).collect::<Vec<_>>(), [4, 5]);
    let counters = journal.counters();
    assert_eq!(counters.requests, 5);
    assert_eq!(counters.paths["/order/express"], 5);
    assert_eq!(counters.operations[&("v2.order_express", "one".into())].statuses[&200], 5);
    assert_eq!(journal.counters_json()["journal"]["dropped"], 3);
}

#[test]
fn the_bytes_kept_are_bounded() {
    let mut journal = journal(100, 40);
    for _ in 0..50 {
        journal.receive(entry("/order/express", "0123456789"));
    }
    assert_eq!(journal.entries().count(), 1);
    assert!(journal.bytes <= 40);
}

#[test]
fn json_keeps_bytes_that_are_no_text() {
    let mut one = entry("/a%20b?x=%31", "");
    one.body = Bytes::from_static(b"\xff\x00");
    one.headers.insert("x-odd", http::HeaderValue::from_bytes(b"\xfe").unwrap());
    let json = one.json();
    assert_eq!(json["target"], "/a%20b?x=%31");
    assert_eq!(json["body"]["base64"], "/wA=");
    assert_eq!(json["headers"][0][1]["base64"], "/g==");
}

#[test]
fn the_same_content_in_another_spelling_is_a_duplicate() {
    let mut journal = journal(10, 1_000);
    for body in [r#"{"a":1,"b":{"c":2,"d":3}}"#, r#"{ "b": {"d":3, "c":2}, "a": 1 }"#, r#"{"a":1,"b":{"c":3,"d":2}}"#] {
        let seq = journal.receive(entry("/order/express", body));
        journal.execute(seq, EXPRESS, &json(body));
    }
    assert_eq!(journal.counters().orders.duplicates, 1);
}

#[test]
fn what_is_not_equal_is_no_duplicate() {
    let different = json(
        r#"[
            null, true, false, 0, 1, 10, 1.0, "", "0", "1", "null", [], {}, [[]], [[], []], [{}], [1, 0], [10],
            ["a", "b"], ["ab"], [["a"], "b"], [["a", "b"]], {"a": "b"}, {"ab": ""}, {"a": {"b": 1}},
            {"a": {}, "b": 1}, [{"a": 1}, {"b": 1}], [{"a": 1, "b": 1}]
        ]"#,
    );
    let different = different.as_array().unwrap();
    let prints: HashSet<_> = different.iter().map(|content| fingerprint(EXPRESS, content)).collect();
    assert_eq!(prints.len(), different.len());
    assert_eq!(fingerprint(EXPRESS, &json(r#""a""#)), fingerprint(EXPRESS, &json(r#""\u0061""#)));
}

#[test]
fn the_metrics_are_the_counters() {
    let mut journal = journal(1, 1_000);
    for (limited, act) in [(None, Some("lose")), (Some(Window::Day), None), (Some(Window::Day), None)] {
        let seq = journal.receive(Entry { limited, act, ..entry("/order/express", "{}") });
        let status = if limited.is_some() { 429 } else { 200 };
        journal.answer(seq, entry("/order/express", "").row, Some(&"one".into()), status);
        if limited.is_none() {
            journal.execute(seq, EXPRESS, &json("{}"));
        }
    }
    journal.count_connection_fault("tls");
    let text = metrics::text(journal.metrics(5));
    for line in [
        r#"fastrac_sandbox_requests_total{key="one",operation="v2.order_express"} 3"#,
        r#"fastrac_sandbox_answers_total{key="one",operation="v2.order_express",status="200"} 1"#,
        r#"fastrac_sandbox_answers_total{key="one",operation="v2.order_express",status="429"} 2"#,
        r#"fastrac_sandbox_orders_executed_total{kind="express"} 1"#,
        r#"fastrac_sandbox_limit_refusals_total{key="one",window="day"} 2"#,
        r#"fastrac_sandbox_faults_met_total{act="lose"} 1"#,
        r#"fastrac_sandbox_faults_met_total{act="tls"} 1"#,
        r#"fastrac_sandbox_path_requests_total{path="/order/express"} 3"#,
        "fastrac_sandbox_orders_duplicate_total 0",
        "fastrac_sandbox_journal_dropped 2",
        "fastrac_sandbox_balance_idr 5",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }
    let json = journal.counters_json();
    assert_eq!(
        (&json["limited"][0]["refusals"], &json["acts"]["tls"], &json["keys"]["one"]),
        (&2.into(), &1.into(), &3.into())
    );
}

/// For `tests/real`: hands the text to promtool.
#[test]
fn writes_its_text_for_other_parsers() {
    let Some(folder) = std::env::var_os("FASTRAC_SANDBOX_METRICS_OUT") else { return };
    let mut journal = journal(1, 1_000);
    let seq =
        journal.receive(Entry { limited: Some(Window::Second), act: Some("reset"), ..entry("/order/express", "{}") });
    journal.execute(seq, EXPRESS, &json("{}"));
    journal.answer(seq, entry("/order/express", "").row, Some(&"a \"b\"\n\\c".into()), 200);
    std::fs::write(std::path::Path::new(&folder).join("sandbox.txt"), metrics::text(journal.metrics(1))).unwrap();
}
