//! A client certificate authenticates the service that lists one of its names.

use crate::{
    authority::{Authority, Pair},
    client::{Connection, Request, Response, get},
    h2::{Http2Connection, run},
    test_gateway::{Setup, TestGateway, secret_of},
};

/// Services without credentials.
const SERVICES: &str = "[services.depot]\naccount = \"main\"\nallow = [\"lookup\"]\n\
     identities = [\"spiffe://shop/depot\", \"depot.internal\"]\n\
     [services.mesh]\naccount = \"main\"\nidentities = [\"spiffe://shop/mesh\"]\n";

struct CertificateSetup {
    gateway: TestGateway,
    authority: Authority,
}

impl CertificateSetup {
    fn new(client_auth: &str) -> CertificateSetup {
        let authority = Authority::new();
        let server = authority.server(2040);
        let files = vec![("door.crt", server.cert), ("door.key", server.key), ("ca.crt", authority.pem())];
        let listen = format!(
            "tls = {{ cert = \"door.crt\", key = \"door.key\", client_ca = \"ca.crt\", client_auth = \"{client_auth}\" }}"
        );
        let listen = Box::leak(listen.into_boxed_str());
        CertificateSetup { gateway: Setup { listen, files, more: SERVICES, ..Setup::default() }.start(), authority }
    }

    fn connect(&self, shows: Option<&Pair>) -> Connection {
        Connection::over_tls(self.gateway.data, &self.authority.trusting(shows, &[])).expect("a handshake").0
    }

    fn send(&self, names: &[&str], request: Request) -> Response {
        self.connect(Some(&self.authority.client(names))).send(&request)
    }

    /// The service in the log line of a response.
    fn service(&self, response: &Response) -> String {
        let line = self.gateway.line(response.header("x-request-id").expect("an id"));
        line["service"].as_str().unwrap_or("-").to_owned()
    }
}

fn province() -> Request {
    get("/region/province")
}

#[test]
fn a_listed_uri_or_dns_name_authenticates_its_service() {
    let setup = CertificateSetup::new("optional");
    for (names, service) in [
        (&["spiffe://shop/depot"][..], "depot"),
        (&["Depot.Internal"], "depot"),
        (&["other.internal", "spiffe://shop/depot", "depot.internal"], "depot"),
        (&["spiffe://shop/mesh"], "mesh"),
    ] {
        let response = setup.send(names, province());
        assert_eq!((response.status, setup.service(&response).as_str()), (200, service), "{names:?}");
    }
    // The service's own classes apply: it may not place orders.
    let order = crate::client::post("/order/express", "{}");
    assert_eq!(setup.send(&["spiffe://shop/depot"], order).code(), "caller.class");
}

#[test]
fn no_other_name_authenticates_anything() {
    let setup = CertificateSetup::new("optional");
    // The common name of each certificate is `shop`, which is the name of a service.
    for names in [&[][..], &["shop"], &["spiffe://shop/Depot"], &["spiffe://shop/depot/x"], &["*.internal"]] {
        let response = setup.send(names, province());
        assert_eq!((response.status, response.code().as_str()), (401, "caller.unknown"), "{names:?}");
    }
    assert_eq!(setup.connect(None).send(&province()).status, 401);
    // A header that claims to carry a certificate does not authenticate either.
    let pretended = province().header("x-forwarded-client-cert", "URI=spiffe://shop/depot");
    assert_eq!(setup.connect(None).send(&pretended).status, 401);
}

#[test]
fn all_credentials_must_be_valid_and_name_one_service() {
    let setup = CertificateSetup::new("optional");
    let shop = || province().by("shop");
    for (names, request, status) in [
        (&["spiffe://shop/mesh"][..], shop(), 401),
        (&["spiffe://shop/mesh", "depot.internal"], province(), 401),
        (&["spiffe://shop/mesh"], province().pair("svc-shop-1", "wrong"), 401),
        (&["spiffe://shop/mesh"], province().header("access-key", "svc-shop-1"), 401),
        (&["spiffe://shop/mesh"], province().header("authorization", "Bearer x"), 401),
        // A certificate that no service lists is ignored: a mesh presents one on every connection.
        (&["sidecar.internal"], shop(), 200),
        (&["sidecar.internal"], province().basic("svc-shop-1", &secret_of("shop")), 200),
    ] {
        assert_eq!(setup.send(names, request).status, status, "{names:?}");
    }
}

#[test]
fn a_service_may_use_a_certificate_and_credentials_together() {
    let mut setup = CertificateSetup::new("optional");
    setup.gateway.reload("[services.shop]\n", "[services.shop]\nidentities = [\"shop.internal\"]\n");
    for request in [province(), province().by("shop"), province().by("shop").bearer("svc-shop-1", &secret_of("shop"))] {
        let response = setup.send(&["shop.internal"], request);
        assert_eq!((response.status, setup.service(&response).as_str()), (200, "shop"));
    }
    assert_eq!(setup.connect(None).send(&province().by("shop")).status, 200);
}

#[test]
fn a_required_certificate_is_enforced_in_the_handshake() {
    let setup = CertificateSetup::new("required");
    assert_eq!(setup.send(&["spiffe://shop/depot"], province()).status, 200);
    let stranger = Authority::new().client(&["spiffe://shop/depot"]);
    for shows in [None, Some(&stranger)] {
        // With TLS 1.3 the client learns of the refusal when it reads.
        let opened = Connection::over_tls(setup.gateway.data, &setup.authority.trusting(shows, &[]));
        let response = opened.ok().and_then(|(mut connection, _)| {
            connection.write(&province().by("shop").bytes());
            connection.read_response("GET")
        });
        assert_eq!(response, None);
    }
    assert_eq!(setup.gateway.received().len(), 1);
}

#[test]
fn a_removed_identity_stops_working_on_open_connections() {
    let mut setup = CertificateSetup::new("optional");
    let pair = setup.authority.client(&["spiffe://shop/depot"]);
    let mut connection = setup.connect(Some(&pair));
    assert_eq!(connection.send(&province()).status, 200);
    run(async {
        let open = Http2Connection::over_tls(setup.gateway.data, setup.authority.trusting(Some(&pair), &[b"h2"])).await;
        let send = async |request| open.send(request).await.expect("joined").expect("a response").0;
        assert_eq!(send(province()).await, 200);
        // The identity is removed, and then given to another service.
        setup.gateway.reload("\"spiffe://shop/depot\", ", "");
        assert_eq!((send(province()).await, connection.send(&province()).status), (401, 401));
        setup.gateway.reload("[\"spiffe://shop/mesh\"]", "[\"spiffe://shop/mesh\", \"spiffe://shop/depot\"]");
        let response = connection.send(&province());
        assert_eq!((send(province()).await, response.status, setup.service(&response).as_str()), (200, 200, "mesh"));
        assert_eq!(send(province().by("shop")).await, 401);
    });
}

#[test]
fn client_authorities_can_be_replaced_while_running() {
    let setup = CertificateSetup::new("required");
    let other = Authority::new();
    let pair = other.client(&["spiffe://shop/depot"]);
    let open = |pair: &Pair| {
        let (mut connection, _) =
            Connection::over_tls(setup.gateway.data, &setup.authority.trusting(Some(pair), &[])).ok()?;
        connection.write(&province().bytes());
        connection.read_response("GET").map(|response| response.status)
    };
    assert_eq!(open(&pair), None);
    crate::test_gateway::write(&setup.gateway.folder.path().join("ca.crt"), &other.pem());
    crate::test_gateway::until("the new authority is used", || open(&pair) == Some(200));
    assert_eq!(open(&setup.authority.client(&["spiffe://shop/depot"])), None);
}
