//! Promises of the record as a whole.

use std::{path::Path, sync::Arc, time::Duration};

use http::Method;
use serde_json::Value;
use strum::VariantArray as _;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    config::{Class, LogBodies, LogConfig, LogTarget, OnFull},
    outcome::{Code, Outcome, Sent},
};

const MEMBERS: [&str; 22] = [
    "time",
    "request_id",
    "service",
    "account",
    "operation",
    "class",
    "method",
    "path",
    "query",
    "status",
    "outcome",
    "code",
    "cache",
    "sent",
    "attempts",
    "key_version",
    "duration_ms",
    "upstream_ms",
    "waited_ms",
    "request_body",
    "answer_body",
    "seq",
];

fn config(path: &Path) -> LogConfig {
    LogConfig {
        exchanges: LogTarget::File(path.to_owned()),
        bodies: LogBodies::Masked,
        keep_size: 1 << 30,
        keep_days: 30,
        queue: 128 << 20,
        on_full: OnFull::Drop,
        mask: Vec::new(),
    }
}

fn names() -> Names {
    Names {
        accounts: vec!["main".into()],
        services: vec![("checkout".into(), 0), ("ware\"house".into(), 0)],
        operations: vec![
            ("v2.city".into(), Class::Lookup),
            ("v2.order_express".into(), Class::Order),
            ("unlisted".into(), Class::Unlisted),
        ],
    }
}

struct Bench {
    folder: tempfile::TempDir,
    metrics: Arc<Metrics>,
    log: ExchangeLog,
    recorder: Arc<Recorder>,
}

fn bench() -> Bench {
    bench_with(|masker| masker)
}

fn bench_with(change: impl FnOnce(Masker) -> Masker) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::new().unwrap();
    let config = config(&folder.path().join("exchanges.jsonl"));
    let log = ExchangeLog::open(&config, &metrics, &Arc::default()).unwrap();
    let masker = Arc::new(change(Masker::new(config.bodies, &config.mask)));
    let recorder = Recorder::new(Arc::clone(&metrics), log.clone(), masker, names(), CancellationToken::new());
    Bench { folder, metrics, log, recorder }
}

impl Bench {
    fn open(&self, target: &str) -> Record {
        self.recorder.open(Some("request-1".parse().unwrap()), Method::GET, target.parse().unwrap())
    }

    /// Ends the log; the lines of services, then those of unknown callers.
    fn lines(&self) -> Vec<Value> {
        self.log.close(Duration::from_secs(5));
        let files = ["exchanges.jsonl", "unidentified.jsonl"].map(|name| self.folder.path().join(name));
        let text = files.map(|file| std::fs::read_to_string(file).unwrap()).concat();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Value of a series, as text from the metrics output.
    fn series(&self, series: &str) -> Option<String> {
        let text = self.metrics.text();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
    }
}

fn went(record: &mut Record, operation: usize, request: &'static str, answer: &'static str) {
    record.identified(0);
    record.operation = Some(operation);
    record.status = Some(200);
    record.outcome = Outcome::Ok;
    record.sent = Sent::Yes;
    record.attempts = 1;
    record.request_body = CapturedBody::whole(request.into());
    record.answer_body = CapturedBody::whole(answer.into());
}

mod writes_one_line_a_request {
    use super::*;

    #[test]
    fn with_the_contracts_members_in_its_order() {
        let bench = bench();
        let mut record = bench.open("/region/city?province_id=31");
        went(&mut record, 0, "", r#"{"success":true,"data":[{"city_id":3171}]}"#);
        record.cache = Some(CacheResult::Miss);
        record.key_version = Some("a1b2".into());
        record.upstream = Duration::from_micros(1500);
        drop(record);
        let lines = bench.lines();
        let line = lines[0].as_object().unwrap();
        assert_eq!(line.keys().collect::<Vec<_>>(), MEMBERS);
        assert_eq!(line["service"], "checkout");
        assert_eq!(line["account"], "main");
        assert_eq!(line["operation"], "v2.city");
        assert_eq!(line["class"], "lookup");
        assert_eq!(line["path"], "/region/city");
        assert_eq!(line["query"], "province_id=31");
        assert_eq!(line["status"], 200);
        assert_eq!(line["outcome"], "ok");
        assert_eq!(line["code"], Value::Null);
        assert_eq!(line["cache"], "miss");
        assert_eq!(line["sent"], "yes");
        assert_eq!(line["upstream_ms"], 1.5);
        assert_eq!(line["request_body"], Value::Null);
        assert_eq!(line["answer_body"]["data"][0]["city_id"], 3171);
        assert_eq!(line["seq"], 1);
    }

    #[test]
    fn in_the_order_in_which_they_end_also_with_large_bodies() {
        let bench = bench();
        for index in 0..6 {
            let mut record = bench.open(&format!("/order/{index}"));
            let padding = if index % 2 == 0 { 200_000 } else { 2 };
            let body = format!(r#"{{"secret_key":"CANARY","padding":"{}"}}"#, "x".repeat(padding));
            went(&mut record, 1, "", r#"{"data":null}"#);
            record.request_body = CapturedBody::whole(body.into());
        }
        let lines = bench.lines();
        for (index, line) in lines.iter().enumerate() {
            assert_eq!((&line["path"], &line["seq"]), (&format!("/order/{index}").into(), &(index + 1).into()));
            assert_eq!((&line["service"], &line["request_body"]["secret_key"]), (&"checkout".into(), &MASKED.into()));
        }
        assert_eq!((lines.len(), lines[4]["request_body"]["padding"].as_str().map(str::len)), (6, Some(200_000)));
    }

    #[test]
    fn a_hit_names_the_exchange_that_filled_it_and_has_no_bodies() {
        let bench = bench();
        let mut record = bench.open("/region/province");
        went(&mut record, 0, "", r#"{"success":true}"#);
        record.outcome = Outcome::Hit;
        record.cache = Some(CacheResult::Hit);
        record.sent = Sent::No;
        record.attempts = 0;
        record.stored_from = Some(http::HeaderValue::from_static("first-request"));
        drop(record);
        let lines = bench.lines();
        assert_eq!(lines[0]["answer_body"], Value::Null);
        assert_eq!(lines[0]["stored_from"], "first-request");
        assert_eq!(bench.series("fastrac_gateway_upstream_calls_saved_total{operation=\"v2.city\"}").unwrap(), "1");
    }

    #[test]
    fn a_live_secret_is_in_no_part_of_a_line() {
        const SECRET: &str = "live.secret.1234";
        let holds = |text: &&[u8]| memchr::memmem::find(text, SECRET.as_bytes()).is_some();
        let withheld = bench_with(|masker| masker.withholding(Box::new(move |_, texts| texts.iter().any(holds))));
        for (bench, shown) in [(bench(), 6), (withheld, 0)] {
            let body = format!(r#"{{"x":"{SECRET}"}}"#);
            let open = |id: &str, target: String| {
                let id = Some(id.parse().unwrap());
                let mut record = bench.recorder.open(id, Method::GET, target.parse().unwrap());
                went(&mut record, 0, r#"{"x":"y"}"#, r#"{"x":"y"}"#);
                record
            };
            drop(open(&format!("id-{SECRET}"), "/a".into()));
            drop(open("request-1", format!("/a/{SECRET}/b")));
            drop(open("request-2", format!("/a?x={SECRET}&y=z")));
            open("request-3", "/a".into()).request_body = CapturedBody::whole(body.clone().into());
            open("request-4", "/a".into()).answer_body = CapturedBody::whole(body.into());
            open("request-5", "/a".into()).stored_from = Some(http::HeaderValue::from_static(SECRET));
            let lines = bench.lines();
            let found = lines.iter().filter(|line| line.to_string().contains(SECRET)).count();
            assert_eq!((lines.len(), found), (6, shown), "{lines:?}");
        }
    }

    #[test]
    fn an_id_with_a_live_secret_is_replaced() {
        let holds = |text: &&[u8]| memchr::memmem::find(text, b"live.secret.1234").is_some();
        let bench = bench_with(|masker| masker.withholding(Box::new(move |_, texts| texts.iter().any(holds))));
        let opened = |id: &str| {
            let (head, ()) = http::Request::get("/a").header("x-request-id", id).body(()).unwrap().into_parts();
            bench.recorder.open_request(&head).id.as_str().to_owned()
        };
        assert_eq!(opened("live.secret.9999"), "live.secret.9999");
        assert!(!opened("id-live.secret.1234").contains("live"));
    }

    #[test]
    fn a_head_that_could_not_be_read_has_dashes() {
        let bench = bench();
        drop(bench.recorder.unreadable(Some(431), Code::RequestHeaders));
        let lines = bench.lines();
        for member in ["service", "account", "operation", "class", "path"] {
            assert_eq!(lines[0][member], "-", "{member}");
        }
        assert_eq!(lines[0]["method"], "other");
        assert_eq!(lines[0]["code"], "request.headers");
        assert!(lines[0]["request_id"].as_str().unwrap().len() >= 8);
        let series = "fastrac_gateway_requests_total{operation=\"-\",outcome=\"bad_request\",service=\"-\"}";
        assert_eq!(bench.series(series).unwrap(), "1");
    }

    #[test]
    fn a_request_nobody_finished_is_a_caller_that_left_and_a_panic_is_internal() {
        let bench = bench();
        drop(bench.open("/a"));
        let record = bench.open("/b");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _record = record;
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err());
        let lines = bench.lines();
        assert_eq!(lines[0]["outcome"], "client_gone");
        assert_eq!(lines[1]["outcome"], "internal");
    }

    #[test]
    fn from_many_threads_as_many_as_are_counted() {
        let bench = bench();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let bench = &bench;
                scope.spawn(move || {
                    for index in 0..2500 {
                        let mut record = bench.open("/x?name=a&b=c");
                        if index % 3 > 0 {
                            record.identified(thread % 2);
                            record.outcome = Outcome::VARIANTS[index % Outcome::VARIANTS.len()];
                        }
                    }
                });
            }
        });
        let lines = bench.lines();
        let seqs: Vec<u64> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
        let identified = lines.iter().filter(|line| line["service"] != "-").count() as u64;
        assert_eq!(seqs, (1..=identified).chain(1..=10_000 - identified).collect::<Vec<_>>());
        let text = bench.metrics.text();
        let counted: u64 = text
            .lines()
            .filter(|line| line.starts_with("fastrac_gateway_requests_total{"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(counted, 10_000);
        assert_eq!(bench.series("fastrac_gateway_log_records_total{result=\"written\"}").unwrap(), "10000");
        assert_eq!(bench.series("fastrac_gateway_in_flight_requests{service=\"checkout\"}").unwrap(), "0");
    }
}

mod hides {
    use super::*;

    #[test]
    fn everything_that_is_masked_when_it_is_printed_itself() {
        let bench = bench();
        let mut record = bench.open("/order;token=CANARY/x?secret_key=CANARY");
        went(&mut record, 1, r#"{"secret_key":"CANARY"}"#, r#"{"data":"CANARY"}"#);
        let shown = format!("{record:?} {record:#?} {:?} {:?}", record.request_body, bench.recorder);
        assert!(shown.contains("request-1") && !shown.contains("CANARY"), "{shown}");
    }

    #[test]
    fn secrets_and_personal_data_in_path_query_and_bodies() {
        let bench = bench();
        let mut record = bench.open("/order;token=CANARY/x?secr%65t_key=CANARY&search=CANARY&a=1");
        let order = r#"{"shipper":{"name":"CANARY","region_id":3171010001},"secret-key":["CANARY"]}"#;
        went(&mut record, 1, order, r#"{"data":{"receiver_name":"CANARY","awb":"F1"}}"#);
        drop(record);
        let lines = bench.lines();
        assert!(!lines[0].to_string().contains("CANARY"), "{}", lines[0]);
        assert_eq!(lines[0]["query"], "secr%65t_key=***&search=***&a=1");
        assert_eq!(lines[0]["request_body"]["shipper"]["region_id"], 3_171_010_001_u64);
        assert_eq!(lines[0]["answer_body"]["data"]["awb"], "F1");
    }

    #[test]
    fn bodies_it_cannot_read_and_those_of_unlisted() {
        let bench = bench();
        let mut record = bench.open("/a");
        went(&mut record, 0, "not json", r#"{"a":1"#);
        drop(record);
        let mut record = bench.open("/a");
        went(&mut record, 2, r#"{"a":1}"#, r#"{"b":2}"#);
        record.answer_body = CapturedBody::part(70_000);
        drop(record);
        let mut record = bench.open("/a");
        went(&mut record, 1, "", r#"{"note":"CANARY"}"#);
        record.outcome = Outcome::Leak;
        drop(record);
        let lines = bench.lines();
        assert_eq!(lines[0]["request_body"], serde_json::json!({"bytes": 8}));
        assert_eq!(lines[0]["answer_body"], serde_json::json!({"bytes": 6}));
        assert_eq!(lines[1]["request_body"], serde_json::json!({"bytes": 7}));
        assert_eq!(lines[1]["answer_body"], serde_json::json!({"bytes": 70_000}));
        assert_eq!(lines[2]["answer_body"], serde_json::json!({"bytes": 17}));
    }
}
