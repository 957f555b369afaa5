//! A client's certificate proves a service, as long as the service lists it.

use crate::{
    authority::{Authority, Pair},
    client::{Answer, Request, Wire, get},
    h2::{Connection, run},
    test_gateway::{Setup, Stage, secret_of},
};

/// Services without credentials.
const SERVICES: &str = "[services.depot]\naccount = \"main\"\nallow = [\"lookup\"]\n\
     identities = [\"spiffe://shop/depot\", \"depot.internal\"]\n\
     [services.mesh]\naccount = \"main\"\nidentities = [\"spiffe://shop/mesh\"]\n";

struct Scene {
    stage: Stage,
    authority: Authority,
}

impl Scene {
    fn new(client_auth: &str) -> Scene {
        let authority = Authority::new();
        let server = authority.server(2040);
        let files = vec![("door.crt", server.cert), ("door.key", server.key), ("ca.crt", authority.pem())];
        let listen = format!(
            "tls = {{ cert = \"door.crt\", key = \"door.key\", client_ca = \"ca.crt\", client_auth = \"{client_auth}\" }}"
        );
        let listen = Box::leak(listen.into_boxed_str());
        Scene { stage: Setup { listen, files, more: SERVICES, ..Setup::default() }.start(), authority }
    }

    fn wire(&self, shows: Option<&Pair>) -> Wire {
        Wire::over_tls(self.stage.data, &self.authority.trusting(shows, &[])).expect("a handshake").0
    }

    fn ask(&self, names: &[&str], request: Request) -> Answer {
        self.wire(Some(&self.authority.client(names))).ask(&request)
    }

    /// Who asked last, by the log.
    fn service(&self, answer: &Answer) -> String {
        let line = self.stage.line(answer.header("x-request-id").expect("an id"));
        line["service"].as_str().unwrap_or("-").to_owned()
    }
}

fn province() -> Request {
    get("/region/province")
}

#[test]
fn a_uri_or_a_dns_name_proves_who_lists_it() {
    let scene = Scene::new("optional");
    for (names, service) in [
        (&["spiffe://shop/depot"][..], "depot"),
        (&["Depot.Internal"], "depot"),
        (&["other.internal", "spiffe://shop/depot", "depot.internal"], "depot"),
        (&["spiffe://shop/mesh"], "mesh"),
    ] {
        let answer = scene.ask(names, province());
        assert_eq!((answer.status, scene.service(&answer).as_str()), (200, service), "{names:?}");
    }
    // What it may do is its own: an order is not among it.
    let order = crate::client::post("/order/express", "{}");
    assert_eq!(scene.ask(&["spiffe://shop/depot"], order).code(), "caller.class");
}

#[test]
fn no_other_name_proves_anything() {
    let scene = Scene::new("optional");
    // The common name of each is `shop`, which is a service.
    for names in [&[][..], &["shop"], &["spiffe://shop/Depot"], &["spiffe://shop/depot/x"], &["*.internal"]] {
        let answer = scene.ask(names, province());
        assert_eq!((answer.status, answer.code().as_str()), (401, "caller.unknown"), "{names:?}");
    }
    assert_eq!(scene.wire(None).ask(&province()).status, 401);
    // Nor does a header that pretends to carry one.
    let pretended = province().header("x-forwarded-client-cert", "URI=spiffe://shop/depot");
    assert_eq!(scene.wire(None).ask(&pretended).status, 401);
}

#[test]
fn all_proofs_name_one_service_and_are_right() {
    let scene = Scene::new("optional");
    let shop = || province().by("shop");
    for (names, request, status) in [
        (&["spiffe://shop/mesh"][..], shop(), 401),
        (&["spiffe://shop/mesh", "depot.internal"], province(), 401),
        (&["spiffe://shop/mesh"], province().pair("svc-shop-1", "wrong"), 401),
        (&["spiffe://shop/mesh"], province().header("access-key", "svc-shop-1"), 401),
        (&["spiffe://shop/mesh"], province().header("authorization", "Bearer x"), 401),
        // A certificate that nobody lists is no proof, as a mesh shows one on every connection.
        (&["sidecar.internal"], shop(), 200),
        (&["sidecar.internal"], province().basic("svc-shop-1", &secret_of("shop")), 200),
    ] {
        assert_eq!(scene.ask(names, request).status, status, "{names:?}");
    }
}

#[test]
fn a_service_may_prove_itself_in_both_ways_at_once() {
    let mut scene = Scene::new("optional");
    scene.stage.reload("[services.shop]\n", "[services.shop]\nidentities = [\"shop.internal\"]\n");
    for request in [province(), province().by("shop"), province().by("shop").bearer("svc-shop-1", &secret_of("shop"))] {
        let answer = scene.ask(&["shop.internal"], request);
        assert_eq!((answer.status, scene.service(&answer).as_str()), (200, "shop"));
    }
    assert_eq!(scene.wire(None).ask(&province().by("shop")).status, 200);
}

#[test]
fn without_a_certificate_there_is_no_handshake_where_one_is_required() {
    let scene = Scene::new("required");
    assert_eq!(scene.ask(&["spiffe://shop/depot"], province()).status, 200);
    let stranger = Authority::new().client(&["spiffe://shop/depot"]);
    for shows in [None, Some(&stranger)] {
        // With TLS 1.3 the client learns it when it reads.
        let opened = Wire::over_tls(scene.stage.data, &scene.authority.trusting(shows, &[]));
        let answer = opened.ok().and_then(|(mut wire, _)| {
            wire.send(&province().by("shop").bytes());
            wire.answer("GET")
        });
        assert_eq!(answer, None);
    }
    assert_eq!(scene.stage.received().len(), 1);
}

#[test]
fn an_identity_that_is_taken_away_stops_on_connections_that_are_open() {
    let mut scene = Scene::new("optional");
    let pair = scene.authority.client(&["spiffe://shop/depot"]);
    let mut wire = scene.wire(Some(&pair));
    assert_eq!(wire.ask(&province()).status, 200);
    run(async {
        let open = Connection::over_tls(scene.stage.data, scene.authority.trusting(Some(&pair), &[b"h2"])).await;
        let ask = async |request| open.ask(request).await.expect("joined").expect("an answer").0;
        assert_eq!(ask(province()).await, 200);
        // It becomes another service's, and then nobody's.
        scene.stage.reload("\"spiffe://shop/depot\", ", "");
        assert_eq!((ask(province()).await, wire.ask(&province()).status), (401, 401));
        scene.stage.reload("[\"spiffe://shop/mesh\"]", "[\"spiffe://shop/mesh\", \"spiffe://shop/depot\"]");
        let answer = wire.ask(&province());
        assert_eq!((ask(province()).await, answer.status, scene.service(&answer).as_str()), (200, 200, "mesh"));
        assert_eq!(ask(province().by("shop")).await, 401);
    });
}

#[test]
fn authorities_change_while_running() {
    let scene = Scene::new("required");
    let other = Authority::new();
    let pair = other.client(&["spiffe://shop/depot"]);
    let open = |pair: &Pair| {
        let (mut wire, _) = Wire::over_tls(scene.stage.data, &scene.authority.trusting(Some(pair), &[])).ok()?;
        wire.send(&province().bytes());
        wire.answer("GET").map(|answer| answer.status)
    };
    assert_eq!(open(&pair), None);
    crate::test_gateway::write(&scene.stage.folder.path().join("ca.crt"), &other.pem());
    crate::test_gateway::until("the new authority is known", || open(&pair) == Some(200));
    assert_eq!(open(&scene.authority.client(&["spiffe://shop/depot"])), None);
}
