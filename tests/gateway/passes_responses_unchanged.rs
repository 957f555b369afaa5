//! What comes through the gateway is what Fastrac said, and what Fastrac gets is what the caller asked.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use fastrac_sandbox::{Act, AuthStyle, CannedResponse, Fault, Options, Sandbox, operation_at};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    bodies,
    client::{Answer, Request, Wire, get, post, request},
    test_gateway::{Setup, Stage, TWIN, sandbox, secret_of, twin, until},
};

/// What the gateway adds, and what a clock says.
const ADDED: [&str; 8] = [
    "date",
    "x-request-id",
    "x-gateway-outcome",
    "x-gateway-sent",
    "cache-status",
    "ratelimit",
    "ratelimit-policy",
    "proxy-status",
];

/// Status, headers and body of an answer, without what the gateway adds.
fn told(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| !ADDED.contains(&name.as_str())).cloned().collect();
    (answer.status, headers, answer.text())
}

/// Asks through the gateway and directly, and compares.
struct Both {
    stage: Stage,
    twin: Sandbox,
    through: Wire,
    directly: Wire,
    operations: BTreeSet<String>,
}

impl Both {
    fn new() -> Both {
        let by_version = |mut options: Options| {
            options.switches.auth = AuthStyle::ByVersion;
            options
        };
        let stage = Setup { sandbox: by_version(sandbox()), ..Setup::default() }.start();
        let twin = Sandbox::start(by_version(twin())).expect("a twin");
        let (through, directly) = (stage.wire(), Wire::open(twin.addr()));
        Both { stage, twin, through, directly, operations: BTreeSet::new() }
    }

    fn ask(&mut self, asked: &Request) -> Answer {
        let first = asked.target.starts_with("/api");
        let (mine, direct) = if first {
            (asked.clone().by("shop"), asked.clone().pair(TWIN.0, TWIN.1))
        } else {
            (asked.clone().basic("svc-shop-1", &secret_of("shop")), asked.clone().basic(TWIN.0, TWIN.1))
        };
        let (through, directly) = (self.through.ask(&mine), self.directly.ask(&direct));
        assert_eq!(told(&through), told(&directly), "{} {}", asked.method, asked.target);
        let [mine, direct] = [&self.stage.sandbox, &self.twin].map(|s| s.journal().pop().expect("an entry"));
        assert_eq!((&mine.method, mine.target(), &mine.body), (&direct.method, direct.target(), &direct.body));
        let name = mine.operation().map_or("unlisted", |operation| operation.name());
        let line = self.stage.line(through.header("x-request-id").expect("an id"));
        assert_eq!(line["operation"], name, "{line}");
        self.operations.insert(name.to_owned());
        through
    }
}

/// Names of the built-in table.
fn built_in() -> BTreeSet<String> {
    let table: toml::Table = include_str!("../../config/operations.toml").parse().expect("the table");
    table["operations"].as_table().expect("rows").keys().cloned().collect()
}

#[test]
fn every_operation_is_byte_identical_to_asking_directly() {
    let mut both = Both::new();
    for (first, regions) in [(false, "/region"), (true, "/apiRegion")] {
        let path = |v2: &str, v1: &str| if first { v1.to_owned() } else { v2.to_owned() };
        both.ask(&get(&format!("{regions}/province")));
        both.ask(&get(&format!("{regions}/city?province_id=31")));
        both.ask(&get(&format!("{regions}/city?province_id=999999")));
        both.ask(&get(&format!("{regions}/city")));
        both.ask(&get(&format!("{regions}/district?city_id=3171")));
        both.ask(&get(&format!("{regions}/sub-district?district_id=3171030")));
        both.ask(&get(&format!("{regions}/{}", path("post-code?post_code=10650", "postCode?post_code=10650"))));
        both.ask(&post(&format!("{regions}/search-region"), r#"{"keyword":"kemayoran","limit":3}"#));
        both.ask(&get(&path("/courier/all", "/apiCourier/all-courier")));
        both.ask(&get(&path("/courier/service?courier_code=paxel", "/apiCourier/courier-service?courier_code=paxel")));
        both.ask(&get(&path("/item/categories", "/apiOrder/itemCategories")));
        let tariff = if first { bodies::TARIFF_V1 } else { bodies::TARIFF };
        both.ask(&post(&path("/tariff/express", "/apiTariff/tariffExpress"), tariff));
        let instant = both.ask(&post(&path("/tariff/instant", "/apiTariff/tariffInstant"), &bodies::instant(first)));
        let order = bodies::order_instant(&instant.json());
        both.ask(&post(&path("/order/instant", "/apiOrder/orderInstant"), &order));
        let placed = both.ask(&post(&path("/order/express", "/apiOrder/orderExpress"), bodies::ORDER));
        let awb = placed.json()["data"]["awb"].as_str().expect("an order").to_owned();
        let one = format!(r#"{{"courier_code":"idx","awb":"{awb}"}}"#);
        both.ask(&request("GET", &path("/order/track", "/apiOrder/trackingOrder")).json(&one));
        let cancel = format!(r#"{{"courier_code":"idx","awb":"{awb}","cancel_reason":"salah alamat"}}"#);
        both.ask(&post(&path("/order/cancel", "/apiOrder/cancelOrder"), &cancel));
        both.ask(&post(&path("/order/cancel", "/apiOrder/cancelOrder"), &cancel));
        both.ask(&post(&path("/webhook/set", "/apiWebhook/setWebhook"), r#"{"url":"https://shop.example/hook"}"#));
        both.ask(&get(&path("/webhook/get", "/apiWebhook/getWebhook")));
        if !first {
            both.ask(&post("/item/multi-items", bodies::MULTI_ITEMS));
            both.ask(&post("/user/balance/history", r#"{"filter_status":"order"}"#));
        }
        both.ask(&post(&path("/order/express", "/apiOrder/orderExpress"), r#"{"courier_code":"#));
        both.ask(&get(&path("/nothing/here?x=1", "/apiNothing")));
    }
    let mut wanted = built_in();
    wanted.insert("unlisted".to_owned());
    assert_eq!(both.operations, wanted);
    assert_eq!(both.stage.sandbox.balance(), both.twin.balance());
}

#[test]
fn every_alias_reaches_its_operation() {
    let mut both = Both::new();
    let table: toml::Table = include_str!("../../config/operations.toml").parse().expect("the table");
    for (name, row) in table["operations"].as_table().expect("rows") {
        let Some(aliases) = row.get("aliases").and_then(toml::Value::as_array) else { continue };
        let method = row["method"].as_str().expect("a method");
        for alias in aliases {
            let body = if method == "POST" { r#"{"keyword":"gambir"}"# } else { "" };
            let mut asked = request(method, alias.as_str().expect("a path"));
            if method == "POST" {
                asked = asked.json(body);
            }
            both.operations.clear();
            // `line["operation"]` of the gateway is compared with the sandbox's in `ask`, where both serve the path.
            let known = both.twin.journal().len();
            match operation_at(&method.parse().expect("a method"), &asked.target) {
                Some(_) => {
                    both.ask(&asked);
                    assert!(both.operations.contains(name) && both.twin.journal().len() > known, "{name}");
                }
                None => {
                    let answer = both.through.ask(&asked.by("shop"));
                    assert_eq!(
                        both.stage.line(answer.header("x-request-id").expect("an id"))["operation"],
                        name.as_str()
                    );
                }
            }
        }
    }
}

#[test]
fn each_proof_of_a_service_opens_the_door() {
    let stage = Stage::new();
    let secret = secret_of("shop");
    let couriers = || get("/courier/all");
    for asked in [
        couriers().by("shop"),
        couriers().basic("svc-shop-1", &secret),
        couriers().bearer("svc-shop-1", &secret),
        couriers().by("shop").basic("svc-shop-1", &secret),
    ] {
        assert_eq!(stage.ask(asked.clone()).status, 200, "{asked:?}");
    }
}

#[test]
fn a_base_url_with_a_prefix_is_the_gateways_own_business() {
    let mut options = sandbox();
    options.switches.prefix = "/b2b/v9".to_owned();
    let sandbox = Sandbox::start(options).expect("a sandbox");
    let base = format!("http://{}/b2b/v9", sandbox.addr());
    let stage = Setup { base_url: Some(base), wait: false, ..Setup::default() }.start();
    until("ready", || stage.app().gateway.was_ready());
    let answer = stage.ask(get("/region/city?province_id=31").by("shop"));
    assert_eq!((answer.status, answer.outcome()), (200, "ok"));
    assert_eq!(sandbox.journal().pop().expect("an entry").target(), "/b2b/v9/region/city?province_id=31");
}

#[test]
fn one_version_may_live_elsewhere_under_another_style() {
    let elsewhere = Sandbox::start(sandbox()).expect("a sandbox");
    let account = format!("v1 = {{ base_url = \"http://{}\", auth = \"both\" }}", elsewhere.addr());
    let stage = Setup { account: Box::leak(account.into_boxed_str()), ..Setup::default() }.start();
    assert_eq!(stage.ask(get("/apiRegion/province").by("shop")).status, 200);
    assert_eq!(stage.ask(get("/courier/all").by("shop")).status, 200);
    let [v1, v2] = [&elsewhere, &stage.sandbox].map(|s| s.journal().pop().expect("an entry"));
    assert_eq!((v1.target().as_str(), v2.target().as_str()), ("/apiRegion/province", "/courier/all"));
    let carries = |name: &str| (v1.headers.contains_key(name), v2.headers.contains_key(name));
    assert_eq!([carries("secret-key"), carries("authorization")], [(true, false), (true, true)]);
    assert_eq!(v1.headers["host"], elsewhere.addr().to_string().as_str());
}

#[test]
fn order_and_encoding_of_the_target_cross_untouched() {
    let stage = Stage::new();
    for target in [
        "/region/city?province_id=31&b=2&a=%31%20+%C3%A9&a=&&z",
        "/region/city?a=1&province_id=31",
        "/region/city?province_id=31&q=a%2Fb%2e%2e%2fc",
        "/nothing/a%20b;c=d/~e/%C3%A9?x=%",
        "/nothing?",
        "/nothing",
        "/",
    ] {
        stage.ask(get(target).by("shop"));
        assert_eq!(stage.received().pop().expect("an entry").target(), target);
    }
}

#[test]
fn a_body_crosses_byte_for_byte_in_either_framing() {
    let stage = Stage::new();
    let body = " {\"courier_code\" : \"idx\",\r\n\t\"awb\":\"caf\u{e9} \\u0041\", \"awb\":1}\n";
    for method in ["GET", "POST"] {
        stage.ask(request(method, "/order/track").json(body).by("shop"));
        assert_eq!(stage.received().pop().expect("an entry").body, body);
        let chunked = format!("5\r\n{}\r\n{:x};x=y\r\n{}\r\n0\r\n\r\n", &body[..5], body.len() - 5, &body[5..]);
        let mut asked = request(method, "/order/track").json(&chunked).by("shop");
        asked = asked.header("transfer-encoding", "chunked");
        stage.ask(asked);
        let entry = stage.received().pop().expect("an entry");
        assert_eq!((entry.body.as_ref(), entry.method.as_str()), (body.as_bytes(), method));
    }
    assert_eq!(stage.received().len(), 4);
}

#[test]
fn head_of_a_lookup_is_answered_from_the_stored_get() {
    let stage = Stage::new();
    let whole = stage.ask(get("/region/province").by("shop"));
    let mut wire = stage.wire();
    let head = wire.ask(&request("HEAD", "/region/province").by("shop"));
    assert_eq!((head.status, head.outcome(), head.body.len()), (200, "hit", 0));
    assert_eq!(head.header("content-length"), Some(whole.body.len().to_string().as_str()));
    let first = wire.ask(&request("HEAD", "/courier/all").by("shop"));
    assert_eq!((first.status, first.outcome(), first.body.len()), (200, "ok", 0));
    assert_eq!(stage.received().pop().expect("an entry").method, "GET");
    assert_eq!(wire.ask(&get("/courier/all").by("shop")).outcome(), "hit");
    assert_eq!(stage.received().len(), 2);
}

#[test]
fn a_long_answer_is_streamed_to_its_last_byte() {
    let stage = Setup { limits: "answer_buffer = \"8KiB\"", ..Setup::default() }.start();
    let body = format!("{{\"success\":true,\"message\":\"\",\"data\":[\"{}\"]}}", "long \u{e9} ".repeat(50_000));
    stage.sandbox.fault(Fault::on("v2.tariff_express", Act::answer(200, &body)));
    let mut wire = stage.wire();
    for _ in 0..2 {
        let answer = wire.ask(&post("/tariff/express", bodies::TARIFF).by("shop"));
        assert_eq!((answer.status, answer.whole, answer.outcome()), (200, true, "ok"));
        assert!(answer.body == body.as_bytes(), "{} bytes of {}", answer.body.len(), body.len());
    }
}

#[test]
fn fastracs_own_failures_pass_as_they_are() {
    let stage = Stage::new();
    for (status, kind, body) in [
        (500, "text/html", "<html>internal</html>"),
        (503, "application/json", "{\"success\":false,\"message\":\"maintenance\"}"),
        (200, "text/plain", "not json"),
        (418, "application/json", ""),
    ] {
        let headers = vec![("content-type".to_owned(), kind.to_owned()), ("x-theirs".to_owned(), "1".to_owned())];
        let canned = CannedResponse { status, headers, body: body.to_owned(), ..CannedResponse::default() };
        stage.sandbox.clear_faults();
        stage.sandbox.fault(Fault::on("v2.balance_history", Act::Answer(canned)));
        let answer = stage.ask(post("/user/balance/history", "{}").by("shop"));
        assert_eq!((answer.status, answer.text().as_str()), (status, body));
        assert_eq!((answer.header("content-type"), answer.header("x-theirs")), (Some(kind), Some("1")));
        let outcome = if status == 418 { "rejected" } else { "upstream_error" };
        assert_eq!((answer.outcome(), answer.sent()), (outcome, "yes"));
        assert_eq!(answer.header("proxy-status").is_some(), outcome == "upstream_error");
    }
}

/// A server's certificate for loopback, all as PEM.
pub(crate) struct Certificates {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) authority: String,
}

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("signed");
        let mut server = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        server.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        let key = KeyPair::generate().expect("a key");
        let certificate = server.signed_by(&key, &authority).expect("signed");
        Certificates { cert: certificate.pem(), key: key.serialize_pem(), authority: authority.pem() }
    }

    /// The authority, for a client of its own.
    pub(crate) fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.authority.as_bytes()).expect("a certificate")
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        fastrac_gateway::app::choose_crypto();
        let cert = CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key);
        Arc::new(config.expect("a configuration"))
    }
}

#[test]
fn fastrac_is_asked_over_tls_and_only_under_the_right_authority() {
    let (own, stranger) = (Certificates::new(), Certificates::new());
    let sandbox = Sandbox::start(Options { tls: Some(own.server()), ..sandbox() }).expect("a sandbox");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    let start = |pem: &str, host: &str| {
        std::fs::write(&file, pem).expect("written");
        let account = format!("ca = \"{}\"", file.display());
        let base = Some(format!("https://{host}:{}", sandbox.addr().port()));
        Setup { account: Box::leak(account.into_boxed_str()), base_url: base, wait: false, ..Setup::default() }.start()
    };
    let stage = start(&own.authority, "127.0.0.1");
    until("ready", || stage.app().gateway.was_ready());
    assert_eq!(stage.ask(get("/courier/all").by("shop")).status, 200);
    let before = sandbox.counters().requests;
    for stage in [start(&stranger.authority, "127.0.0.1"), start(&own.authority, "127.0.0.2")] {
        until("a pair", || stage.app().gateway.was_ready());
        let answer = stage.ask(get("/courier/all").by("shop"));
        assert_eq!((answer.status, answer.code().as_str(), answer.sent()), (502, "upstream.connect", "no"));
    }
    assert_eq!(sandbox.counters().requests, before);
}
