//! Callers receive Fastrac's responses unchanged, and Fastrac receives the callers' requests unchanged.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use fastrac_sandbox::{Act, AuthStyle, CannedResponse, Fault, Options, Sandbox, operation_at};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    bodies,
    client::{Connection, Request, Response, get, post, request},
    test_gateway::{Setup, TWIN, TestGateway, sandbox, secret_of, twin, until},
};

/// Headers that the gateway adds, and those that depend on the clock.
const ADDED: [&str; 9] = [
    "date",
    "etag",
    "x-request-id",
    "x-gateway-outcome",
    "x-gateway-sent",
    "cache-status",
    "ratelimit",
    "ratelimit-policy",
    "proxy-status",
];

/// Status, headers and body of a response, without what the gateway adds.
fn comparable(response: &Response) -> (u16, Vec<(String, String)>, String) {
    let headers = response.headers.iter().filter(|(name, _)| !ADDED.contains(&name.as_str())).cloned().collect();
    (response.status, headers, response.text())
}

/// Sends each request through the gateway and directly to a twin sandbox, and compares.
struct Comparison {
    gateway: TestGateway,
    twin: Sandbox,
    through: Connection,
    directly: Connection,
    operations: BTreeSet<String>,
}

impl Comparison {
    fn new() -> Comparison {
        let by_version = |mut options: Options| {
            options.switches.auth = AuthStyle::ByVersion;
            options
        };
        let gateway = Setup { sandbox: by_version(sandbox()), ..Setup::default() }.start();
        let twin = Sandbox::start(by_version(twin())).expect("a twin");
        let (through, directly) = (gateway.connect(), Connection::open(twin.addr()));
        Comparison { gateway, twin, through, directly, operations: BTreeSet::new() }
    }

    fn send(&mut self, request: &Request) -> Response {
        let first = request.target.starts_with("/api");
        let (mine, direct) = if first {
            (request.clone().by("shop"), request.clone().pair(TWIN.0, TWIN.1))
        } else {
            (request.clone().basic("svc-shop-1", &secret_of("shop")), request.clone().basic(TWIN.0, TWIN.1))
        };
        let (through, directly) = (self.through.send(&mine), self.directly.send(&direct));
        assert_eq!(comparable(&through), comparable(&directly), "{} {}", request.method, request.target);
        let [mine, direct] = [&self.gateway.sandbox, &self.twin].map(|s| s.journal().pop().expect("an entry"));
        assert_eq!((&mine.method, mine.target(), &mine.body), (&direct.method, direct.target(), &direct.body));
        let name = mine.operation().map_or("unlisted", |operation| operation.name());
        let line = self.gateway.line(through.header("x-request-id").expect("an id"));
        assert_eq!(line["operation"], name, "{line}");
        self.operations.insert(name.to_owned());
        through
    }
}

/// Names of all operations in the built-in table.
fn built_in() -> BTreeSet<String> {
    let table: toml::Table = include_str!("../../config/operations.toml").parse().expect("the table");
    table["operations"].as_table().expect("rows").keys().cloned().collect()
}

#[test]
fn every_operation_is_byte_identical_to_calling_fastrac_directly() {
    let mut comparison = Comparison::new();
    for (first, regions) in [(false, "/region"), (true, "/apiRegion")] {
        let path = |v2: &str, v1: &str| if first { v1.to_owned() } else { v2.to_owned() };
        comparison.send(&get(&format!("{regions}/province")));
        comparison.send(&get(&format!("{regions}/city?province_id=31")));
        comparison.send(&get(&format!("{regions}/city?province_id=999999")));
        comparison.send(&get(&format!("{regions}/city")));
        comparison.send(&get(&format!("{regions}/district?city_id=3171")));
        comparison.send(&get(&format!("{regions}/sub-district?district_id=3171030")));
        comparison.send(&get(&format!("{regions}/{}", path("post-code?post_code=10650", "postCode?post_code=10650"))));
        comparison.send(&post(&format!("{regions}/search-region"), r#"{"keyword":"kemayoran","limit":3}"#));
        comparison.send(&get(&path("/courier/all", "/apiCourier/all-courier")));
        comparison
            .send(&get(&path("/courier/service?courier_code=paxel", "/apiCourier/courier-service?courier_code=paxel")));
        comparison.send(&get(&path("/item/categories", "/apiOrder/itemCategories")));
        let tariff = if first { bodies::TARIFF_V1 } else { bodies::TARIFF };
        comparison.send(&post(&path("/tariff/express", "/apiTariff/tariffExpress"), tariff));
        let instant =
            comparison.send(&post(&path("/tariff/instant", "/apiTariff/tariffInstant"), &bodies::instant(first)));
        let order = bodies::order_instant(&instant.json());
        comparison.send(&post(&path("/order/instant", "/apiOrder/orderInstant"), &order));
        let placed = comparison.send(&post(&path("/order/express", "/apiOrder/orderExpress"), bodies::ORDER));
        let awb = placed.json()["data"]["awb"].as_str().expect("an order").to_owned();
        let one = format!(r#"{{"courier_code":"idx","awb":"{awb}"}}"#);
        comparison.send(&request("GET", &path("/order/track", "/apiOrder/trackingOrder")).json(&one));
        let cancel = format!(r#"{{"courier_code":"idx","awb":"{awb}","cancel_reason":"salah alamat"}}"#);
        comparison.send(&post(&path("/order/cancel", "/apiOrder/cancelOrder"), &cancel));
        comparison.send(&post(&path("/order/cancel", "/apiOrder/cancelOrder"), &cancel));
        comparison
            .send(&post(&path("/webhook/set", "/apiWebhook/setWebhook"), r#"{"url":"https://shop.example/hook"}"#));
        comparison.send(&get(&path("/webhook/get", "/apiWebhook/getWebhook")));
        if !first {
            comparison.send(&post("/item/multi-items", bodies::MULTI_ITEMS));
            comparison.send(&post("/user/balance/history", r#"{"filter_status":"order"}"#));
        }
        comparison.send(&post(&path("/order/express", "/apiOrder/orderExpress"), r#"{"courier_code":"#));
        comparison.send(&get(&path("/nothing/here?x=1", "/apiNothing")));
    }
    let mut wanted = built_in();
    wanted.insert("unlisted".to_owned());
    assert_eq!(comparison.operations, wanted);
    assert_eq!(comparison.gateway.sandbox.balance(), comparison.twin.balance());
}

#[test]
fn every_alias_reaches_its_operation() {
    let mut comparison = Comparison::new();
    let table: toml::Table = include_str!("../../config/operations.toml").parse().expect("the table");
    for (name, row) in table["operations"].as_table().expect("rows") {
        let Some(aliases) = row.get("aliases").and_then(toml::Value::as_array) else { continue };
        let method = row["method"].as_str().expect("a method");
        for alias in aliases {
            let body = if method == "POST" { r#"{"keyword":"gambir"}"# } else { "" };
            let mut request = request(method, alias.as_str().expect("a path"));
            if method == "POST" {
                request = request.json(body);
            }
            comparison.operations.clear();
            // Where the sandbox serves the path too, `send` compares the operation in the log with the sandbox's.
            let known = comparison.twin.journal().len();
            match operation_at(&method.parse().expect("a method"), &request.target) {
                Some(_) => {
                    comparison.send(&request);
                    assert!(comparison.operations.contains(name) && comparison.twin.journal().len() > known, "{name}");
                }
                None => {
                    let response = comparison.through.send(&request.by("shop"));
                    assert_eq!(
                        comparison.gateway.line(response.header("x-request-id").expect("an id"))["operation"],
                        name.as_str()
                    );
                }
            }
        }
    }
}

#[test]
fn every_credential_style_of_a_service_is_accepted() {
    let gateway = TestGateway::new();
    let secret = secret_of("shop");
    let couriers = || get("/courier/all");
    for request in [
        couriers().by("shop"),
        couriers().basic("svc-shop-1", &secret),
        couriers().bearer("svc-shop-1", &secret),
        couriers().by("shop").basic("svc-shop-1", &secret),
    ] {
        assert_eq!(gateway.send(request.clone()).status, 200, "{request:?}");
    }
}

#[test]
fn a_prefix_of_the_base_url_is_added_upstream_only() {
    let mut options = sandbox();
    options.switches.prefix = "/b2b/v9".to_owned();
    let sandbox = Sandbox::start(options).expect("a sandbox");
    let base = format!("http://{}/b2b/v9", sandbox.addr());
    let gateway = Setup { base_url: Some(base), wait: false, ..Setup::default() }.start();
    until("ready", || gateway.app().gateway.was_ready());
    let response = gateway.send(get("/region/city?province_id=31").by("shop"));
    assert_eq!((response.status, response.outcome()), (200, "ok"));
    assert_eq!(sandbox.journal().pop().expect("an entry").target(), "/b2b/v9/region/city?province_id=31");
}

#[test]
fn one_api_version_may_have_its_own_base_url_and_auth_style() {
    let elsewhere = Sandbox::start(sandbox()).expect("a sandbox");
    let account = format!("v1 = {{ base_url = \"http://{}\", auth = \"both\" }}", elsewhere.addr());
    let gateway = Setup { account: Box::leak(account.into_boxed_str()), ..Setup::default() }.start();
    assert_eq!(gateway.send(get("/apiRegion/province").by("shop")).status, 200);
    assert_eq!(gateway.send(get("/courier/all").by("shop")).status, 200);
    let [v1, v2] = [&elsewhere, &gateway.sandbox].map(|s| s.journal().pop().expect("an entry"));
    assert_eq!((v1.target().as_str(), v2.target().as_str()), ("/apiRegion/province", "/courier/all"));
    let carries = |name: &str| (v1.headers.contains_key(name), v2.headers.contains_key(name));
    assert_eq!([carries("secret-key"), carries("authorization")], [(true, false), (true, true)]);
    assert_eq!(v1.headers["host"], elsewhere.addr().to_string().as_str());
}

#[test]
fn order_and_encoding_of_the_target_are_passed_on_unchanged() {
    let gateway = TestGateway::new();
    for target in [
        "/region/city?province_id=31&b=2&a=%31%20+%C3%A9&a=&&z",
        "/region/city?a=1&province_id=31",
        "/region/city?province_id=31&q=a%2Fb%2e%2e%2fc",
        "/nothing/a%20b;c=d/~e/%C3%A9?x=%",
        "/nothing?",
        "/nothing",
        "/",
    ] {
        gateway.send(get(target).by("shop"));
        assert_eq!(gateway.received().pop().expect("an entry").target(), target);
    }
}

#[test]
fn a_body_is_passed_on_byte_for_byte_in_either_framing() {
    let gateway = TestGateway::new();
    let body = " {\"courier_code\" : \"idx\",\r\n\t\"awb\":\"caf\u{e9} \\u0041\", \"awb\":1}\n";
    for method in ["GET", "POST"] {
        gateway.send(request(method, "/order/track").json(body).by("shop"));
        assert_eq!(gateway.received().pop().expect("an entry").body, body);
        let chunked = format!("5\r\n{}\r\n{:x};x=y\r\n{}\r\n0\r\n\r\n", &body[..5], body.len() - 5, &body[5..]);
        let mut request = request(method, "/order/track").json(&chunked).by("shop");
        request = request.header("transfer-encoding", "chunked");
        gateway.send(request);
        let entry = gateway.received().pop().expect("an entry");
        assert_eq!((entry.body.as_ref(), entry.method.as_str()), (body.as_bytes(), method));
    }
    assert_eq!(gateway.received().len(), 4);
}

#[test]
fn head_of_a_lookup_is_served_from_the_stored_get() {
    let gateway = TestGateway::new();
    let whole = gateway.send(get("/region/province").by("shop"));
    let mut connection = gateway.connect();
    let head = connection.send(&request("HEAD", "/region/province").by("shop"));
    assert_eq!((head.status, head.outcome(), head.body.len()), (200, "hit", 0));
    assert_eq!(head.header("content-length"), Some(whole.body.len().to_string().as_str()));
    let first = connection.send(&request("HEAD", "/courier/all").by("shop"));
    assert_eq!((first.status, first.outcome(), first.body.len()), (200, "ok", 0));
    assert_eq!(gateway.received().pop().expect("an entry").method, "GET");
    assert_eq!(connection.send(&get("/courier/all").by("shop")).outcome(), "hit");
    assert_eq!(gateway.received().len(), 2);
}

#[test]
fn a_long_response_is_streamed_to_its_last_byte() {
    let gateway = Setup { limits: "answer_buffer = \"8KiB\"", ..Setup::default() }.start();
    let body = format!("{{\"success\":true,\"message\":\"\",\"data\":[\"{}\"]}}", "long \u{e9} ".repeat(50_000));
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::answer(200, &body)));
    let mut connection = gateway.connect();
    for _ in 0..2 {
        let response = connection.send(&post("/tariff/express", bodies::TARIFF).by("shop"));
        assert_eq!((response.status, response.whole, response.outcome()), (200, true, "ok"));
        assert!(response.body == body.as_bytes(), "{} bytes of {}", response.body.len(), body.len());
    }
}

#[test]
fn fastracs_errors_are_passed_on_unchanged() {
    let gateway = TestGateway::new();
    for (status, kind, body) in [
        (500, "text/html", "<html>internal</html>"),
        (503, "application/json", "{\"success\":false,\"message\":\"maintenance\"}"),
        (200, "text/plain", "not json"),
        (418, "application/json", ""),
    ] {
        let headers = vec![("content-type".to_owned(), kind.to_owned()), ("x-theirs".to_owned(), "1".to_owned())];
        let canned = CannedResponse { status, headers, body: body.to_owned(), ..CannedResponse::default() };
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.balance_history", Act::Answer(canned)));
        let response = gateway.send(post("/user/balance/history", "{}").by("shop"));
        assert_eq!((response.status, response.text().as_str()), (status, body));
        assert_eq!((response.header("content-type"), response.header("x-theirs")), (Some(kind), Some("1")));
        let outcome = if status == 418 { "rejected" } else { "upstream_error" };
        assert_eq!((response.outcome(), response.sent()), (outcome, "yes"));
        assert_eq!(response.header("proxy-status").is_some(), outcome == "upstream_error");
    }
}

/// A server certificate for loopback with its key and authority, as PEM.
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

    /// The authority's certificate, for a client.
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
fn tls_to_fastrac_requires_the_configured_authority() {
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
    let gateway = start(&own.authority, "127.0.0.1");
    until("ready", || gateway.app().gateway.was_ready());
    assert_eq!(gateway.send(get("/courier/all").by("shop")).status, 200);
    let before = sandbox.counters().requests;
    for gateway in [start(&stranger.authority, "127.0.0.1"), start(&own.authority, "127.0.0.2")] {
        until("a pair", || gateway.app().gateway.was_ready());
        let response = gateway.send(get("/courier/all").by("shop"));
        assert_eq!((response.status, response.code().as_str(), response.sent()), (502, "upstream.connect", "no"));
    }
    assert_eq!(sandbox.counters().requests, before);
}

/// The usual way to replace an authority: a mounted file has another content.
#[test]
fn a_reload_reads_the_authorities_again() {
    let (own, stranger) = (Certificates::new(), Certificates::new());
    let sandbox = Sandbox::start(Options { tls: Some(own.server()), ..sandbox() }).expect("a sandbox");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &stranger.authority).expect("written");
    let account = format!("ca = \"{}\"", file.display());
    let base_url = Some(format!("https://127.0.0.1:{}", sandbox.addr().port()));
    let setup = Setup { account: Box::leak(account.into_boxed_str()), base_url, wait: false, ..Setup::default() };
    let gateway = setup.start();
    until("a pair", || gateway.app().gateway.was_ready());
    for (province, (authority, status)) in (31..).zip([(&stranger, 502), (&own, 200), (&own, 200), (&stranger, 502)]) {
        std::fs::write(&file, &authority.authority).expect("written");
        gateway.app().gateway.reload().expect("reloaded");
        let lookup = get(&format!("/region/city?province_id={province}")).by("shop");
        assert_eq!(gateway.send(lookup).status, status);
    }
}
