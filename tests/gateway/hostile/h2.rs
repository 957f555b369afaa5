//! Hostile HTTP/2 frames: requests that HTTP/1.1 cannot express, floods, and streams left open.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    LONGEST, RecordedGateway,
    corpus::Forwarded,
    forwarded,
    frames::{self, *},
};
use crate::{client::get, test_gateway::secret_of};

/// The required result of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamFate {
    Status(u16),
    /// Reset, answered with a 4xx, or closed with its connection.
    Refused,
}

/// The required state of the connection afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionFate {
    /// It serves another request.
    Usable,
    Ended,
    /// Either of the two.
    Any,
}

/// Frames to send after preface and settings, and the required results.
pub(crate) struct Attack {
    pub(crate) name: String,
    bytes: Vec<u8>,
    streams: Vec<(u32, StreamFate)>,
    connection: ConnectionFate,
    forwarded: Vec<Forwarded>,
}

/// The observed result of an attack.
#[derive(Debug, Default)]
pub(crate) struct AttackResult {
    pub(super) fates: BTreeMap<u32, Option<u16>>,
    /// Error code of a GOAWAY; 0 is NO_ERROR.
    pub(super) goaway: Option<u32>,
    pub(super) ended: bool,
    pub(super) usable: bool,
    pub(super) took: Duration,
}

/// Stream of the request that checks whether the connection is still usable.
const PROBE: u32 = 0x7fff_fff1;
/// Target of that request.
pub(crate) const PROBED: &str = "/again-by-frames";

/// Performs an attack and waits for its result.
pub(crate) fn perform(addr: SocketAddr, attack: &Attack) -> AttackResult {
    let began = Instant::now();
    let deadline = began + LONGEST;
    let mut connection = FrameConnection::open(addr);
    connection.write(PREFACE);
    connection.write(&frame(SETTINGS, 0, 0, &[]));
    connection.write(&attack.bytes);
    let probes = attack.connection != ConnectionFate::Ended;
    if probes {
        connection.write(&head(PROBE, END_STREAM, &request_fields("GET", PROBED, &[])));
    }
    let mut result = AttackResult::default();
    let waiting = |result: &AttackResult| {
        let open = attack.streams.iter().any(|(stream, _)| !result.fates.contains_key(stream));
        !result.ended && (open || !probes || !result.usable)
    };
    while waiting(&result) {
        match connection.next(deadline) {
            Some(Event::Status(PROBE, status)) => result.usable = status == 200,
            Some(Event::Status(stream, status)) => {
                result.fates.insert(stream, Some(status));
            }
            Some(Event::Reset(stream)) => {
                result.fates.entry(stream).or_insert(None);
            }
            Some(Event::Closed) => result.ended = true,
            Some(Event::GoAway(code)) => result.goaway = Some(code),
            Some(Event::End(_)) => {}
            None => break,
        }
    }
    result.took = began.elapsed();
    result
}

/// Header fields of a request, with credentials.
fn request_fields<'f>(method: &'f str, path: &'f str, more: &[(&'f [u8], &'f [u8])]) -> Vec<(&'f [u8], &'f [u8])> {
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
        (b":authority", b"gw"),
        (b"access-key", b"svc-shop-1"),
        (b"secret-key", SHOP),
        (b"x-gateway-resend", b"confirmed"),
    ];
    fields.extend(more);
    fields
}

/// `secret_of("shop")` as a constant.
const SHOP: &[u8] = b"fgw_canary_shop";

fn head(stream: u32, flags: u8, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

fn attack(name: &str, bytes: Vec<u8>, connection: ConnectionFate) -> Attack {
    Attack { name: format!("h2/{name}"), bytes, streams: Vec::new(), connection, forwarded: Vec::new() }
}

impl Attack {
    fn stream(mut self, stream: u32, fate: StreamFate) -> Attack {
        self.streams.push((stream, fate));
        self
    }

    fn forwards(mut self, method: &str, target: &str, body: &str) -> Attack {
        self.forwarded.push(Forwarded { body: body.into(), ..forwarded(method, target) });
        self
    }
}

/// A request with these fields, which must be refused.
fn refused(name: &str, fields: &[(&[u8], &[u8])]) -> Attack {
    attack(name, head(1, END_STREAM, fields), ConnectionFate::Any).stream(1, StreamFate::Refused)
}

/// A valid request with further fields, which must be refused.
fn refused_with(name: &str, more: &[(&[u8], &[u8])]) -> Attack {
    refused(name, &request_fields("GET", "/h2", more))
}

/// Every attack.
pub(crate) fn attacks() -> Vec<Attack> {
    [good(), lengths(), fields(), pseudo(), authorities(), sizes(), floods(), settings(), windows(), states(), blocks()]
        .into_iter()
        .flatten()
        .collect()
}

fn good() -> Vec<Attack> {
    let body =
        |data: &[u8], flags| [head(1, 0, &request_fields("POST", "/h2", &[])), frame(DATA, flags, 1, data)].concat();
    let padded = [&[3][..], b"hello", &[0; 3]].concat();
    let trailers = [body(b"hello", 0), head(1, END_STREAM, &[(b"secret-key", b"smuggled"), (b"x-sum", b"1")])].concat();
    let framing = [
        body(b"hello", 0),
        head(
            1,
            END_STREAM,
            &[(b"content-length", b"3"), (b"host", b"evil.example"), (b"authorization", b"Basic eDp5")],
        ),
    ];
    vec![
        attack("good/get", head(1, END_STREAM, &request_fields("GET", "/h2", &[])), ConnectionFate::Usable)
            .stream(1, StreamFate::Status(200))
            .forwards("GET", "/h2", ""),
        attack("good/post", body(b"hello", END_STREAM), ConnectionFate::Usable)
            .stream(1, StreamFate::Status(200))
            .forwards("POST", "/h2", "hello"),
        attack("good/padded", body(&padded, END_STREAM | PADDED), ConnectionFate::Usable)
            .stream(1, StreamFate::Status(200))
            .forwards("POST", "/h2", "hello"),
        attack("good/trailers-are-dropped", trailers, ConnectionFate::Usable)
            .stream(1, StreamFate::Status(200))
            .forwards("POST", "/h2", "hello"),
        attack("good/trailers-of-framing-are-dropped", framing.concat(), ConnectionFate::Usable)
            .stream(1, StreamFate::Status(200))
            .forwards("POST", "/h2", "hello"),
        attack(
            "good/body-is-a-request",
            body(b"GET /smuggled HTTP/1.1\r\nhost: gw\r\n\r\n", END_STREAM),
            ConnectionFate::Usable,
        )
        .stream(1, StreamFate::Status(200))
        .forwards("POST", "/h2", "GET /smuggled HTTP/1.1\r\nhost: gw\r\n\r\n"),
        attack(
            "good/te-trailers",
            head(1, END_STREAM, &request_fields("GET", "/h2", &[(b"te", b"trailers")])),
            ConnectionFate::Usable,
        )
        .stream(1, StreamFate::Status(200))
        .forwards("GET", "/h2", ""),
    ]
}

/// H2.CL: a `content-length` that differs from the body's length.
fn lengths() -> Vec<Attack> {
    let with = |name: &str, lengths: &[&str], data: &[u8]| {
        let more: Vec<(&[u8], &[u8])> =
            lengths.iter().map(|length| (&b"content-length"[..], length.as_bytes())).collect();
        let bytes = [head(1, 0, &request_fields("POST", "/h2", &more)), frame(DATA, END_STREAM, 1, data)].concat();
        attack(&format!("length/{name}"), bytes, ConnectionFate::Any).stream(1, StreamFate::Refused)
    };
    let mut all = vec![
        with("too-short", &["4"], b"hello"),
        with("too-long", &["6"], b"hello"),
        with("zero", &["0"], b"GET /smuggled HTTP/1.1\r\nhost: gw\r\n\r\n"),
        with("two", &["5", "6"], b"hello"),
        with("list", &["5, 5"], b"hello"),
        with("plus", &["+5"], b"hello"),
        with("minus", &["-5"], b"hello"),
        with("word", &["five"], b"hello"),
        with("hex", &["0x5"], b"hello"),
        with("overflow", &["18446744073709551621"], b"hello"),
    ];
    let ended = head(1, END_STREAM, &request_fields("POST", "/h2", &[(b"content-length", b"5")]));
    all.push(attack("length/no-body", ended, ConnectionFate::Any).stream(1, StreamFate::Refused));
    all
}

/// H2.TE, connection-specific headers, and bytes that would split an HTTP/1.1 head.
fn fields() -> Vec<Attack> {
    let cases: [(&str, &[u8], &[u8]); 27] = [
        ("te-chunked", b"transfer-encoding", b"chunked"),
        ("te-identity", b"transfer-encoding", b"identity"),
        ("te-gzip", b"te", b"gzip"),
        ("connection", b"connection", b"close"),
        ("connection-names", b"connection", b"secret-key"),
        ("keep-alive", b"keep-alive", b"timeout=5"),
        ("proxy-connection", b"proxy-connection", b"close"),
        ("upgrade", b"upgrade", b"h2c"),
        ("upgrade-websocket", b"upgrade", b"websocket"),
        ("crlf-in-value", b"x", b"a\r\nsecret-key: smuggled"),
        ("crlf-request-in-value", b"x", b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: gw\r\n\r\n"),
        ("lf-in-value", b"x", b"a\nb"),
        ("cr-in-value", b"x", b"a\rb"),
        ("nul-in-value", b"x", b"a\0b"),
        ("delete-in-value", b"x", b"a\x7fb"),
        ("crlf-in-name", b"x\r\nsecret-key", b"a"),
        ("lf-in-name", b"x\ny", b"a"),
        ("nul-in-name", b"x\0y", b"a"),
        ("colon-in-name", b"x: y", b"a"),
        ("space-in-name", b"x y", b"a"),
        ("space-after-name", b"x ", b"a"),
        ("coding-with-space", b"transfer-encoding ", b"chunked"),
        ("high-byte-in-name", b"x\xff", b"a"),
        ("empty-name", b"", b"a"),
        ("upper-case", b"X-Upper", b"a"),
        ("upper-case-credential", b"Secret-Key", b"fgw_canary_shop"),
        ("second-credential", b"secret-key", b"other"),
    ];
    cases.into_iter().map(|(name, field, value)| refused_with(&format!("field/{name}"), &[(field, value)])).collect()
}

/// Pseudo-headers: each exactly once, before all other fields, known, and with a valid value.
fn pseudo() -> Vec<Attack> {
    let base = request_fields("GET", "/h2", &[]);
    let without = |name: &[u8]| base.iter().copied().filter(|(known, _)| *known != name).collect::<Vec<_>>();
    let with = |name: &[u8], value: &'static [u8]| {
        base.iter().map(|(known, old)| (*known, if *known == name { value } else { *old })).collect::<Vec<_>>()
    };
    let behind: Vec<_> = base[..3].iter().rev().chain(&base[3..]).copied().collect();
    let late = [without(b":path"), vec![(&b":path"[..], &b"/h2"[..])]].concat();
    let mut all = vec![
        refused("pseudo/no-method", &without(b":method")),
        refused("pseudo/no-path", &without(b":path")),
        refused("pseudo/no-scheme", &without(b":scheme")),
        refused("pseudo/none", &base[4..]),
        refused("pseudo/path-late", &late),
        refused_with("pseudo/two-paths", &[(b":path", b"/order/express")]),
        refused_with("pseudo/unknown", &[(b":foo", b"a")]),
        refused_with("pseudo/status", &[(b":status", b"200")]),
        refused_with("pseudo/protocol", &[(b":protocol", b"websocket")]),
        refused_with("pseudo/empty-name", &[(b":", b"a")]),
        attack("pseudo/in-another-order", head(1, END_STREAM, &behind), ConnectionFate::Usable)
            .stream(1, StreamFate::Status(200))
            .forwards("GET", "/h2", ""),
    ];
    let twice = [vec![(&b":path"[..], &b"/x"[..])], base.clone()].concat();
    all.push(refused("pseudo/two-paths-first", &twice));
    for (name, path) in [
        ("empty", &b""[..]),
        ("no-slash", b"h2"),
        ("star", b"*"),
        ("absolute", b"http://evil.example/h2"),
        ("authority", b"evil.example:80"),
        ("space", b"/h 2"),
        ("request-line", b"/h2 HTTP/1.1\r\nhost: evil.example\r\n\r\n"),
        ("crlf", b"/h2\r\nx: y"),
        ("lf", b"/h2\nx: y"),
        ("nul", b"/h2\0"),
        ("tab", b"/h\t2"),
        ("dots", b"/x/../order/express"),
        ("encoded-slash", b"/order%2fexpress"),
        ("backslash", b"/order\\express"),
        ("respelled", b"/order/Express"),
        ("at", b"@evil.example/"),
        ("two-slashes", b"//order/express"),
    ] {
        all.push(refused(&format!("path/{name}"), &with(b":path", path)));
    }
    for (name, method) in [
        ("empty", &b""[..]),
        ("lower-case", b"get"),
        ("space", b"GET /smuggled"),
        ("crlf", b"GET /smuggled HTTP/1.1\r\nhost: gw\r\n\r\nGET"),
        ("connect", b"CONNECT"),
        ("trace", b"TRACE"),
    ] {
        all.push(refused(&format!("method/{name}"), &with(b":method", method)));
    }
    for (name, scheme) in
        [("ftp", &b"ftp"[..]), ("empty", b""), ("crlf", b"http\r\nx: y"), ("url", b"http://evil.example/x?")]
    {
        all.push(refused(&format!("scheme/{name}"), &with(b":scheme", scheme)));
    }
    all
}

/// `:authority` and `host`: exactly one host, and a valid one.
fn authorities() -> Vec<Attack> {
    let base = request_fields("GET", "/h2", &[]);
    let with = |value: &'static [u8]| {
        base.iter().map(|(known, old)| (*known, if *known == b":authority" { value } else { *old })).collect::<Vec<_>>()
    };
    let without = |more: &[(&'static [u8], &'static [u8])]| {
        let rest = base.iter().copied().filter(|(known, _)| *known != b":authority");
        rest.chain(more.iter().copied()).collect::<Vec<_>>()
    };
    let taken = |name: &str, fields: &[(&[u8], &[u8])]| {
        attack(&format!("authority/{name}"), head(1, END_STREAM, fields), ConnectionFate::Usable)
            .stream(1, StreamFate::Status(200))
            .forwards("GET", "/h2", "")
    };
    vec![
        taken("host-the-same", &request_fields("GET", "/h2", &[(b"host", b"gw")])),
        taken("host-alone", &without(&[(b"host", b"gw")])),
        refused("authority/none", &without(&[])),
        refused_with("authority/host-differs", &[(b"host", b"evil.example")]),
        refused_with("authority/two-hosts", &[(b"host", b"gw"), (b"host", b"gw")]),
        refused_with("authority/twice", &[(b":authority", b"evil.example")]),
        refused("authority/userinfo", &with(b"user@gw")),
        refused("authority/empty", &with(b"")),
        refused("authority/path", &with(b"gw/order/express")),
        refused("authority/crlf", &with(b"gw\r\nx: y")),
        refused("authority/space", &with(b"g w")),
        refused("authority/port", &with(b"gw:http")),
    ]
}

/// Heads that are too large, however they are encoded.
fn sizes() -> Vec<Attack> {
    let long = vec![b'y'; 70_000];
    let many: Vec<(&[u8], &[u8])> = (0..4_000).map(|_| (&b"x"[..], &b"y"[..])).collect();
    let split = |fields: &[(&[u8], &[u8])]| {
        let block = block(fields);
        let mut pieces = block.chunks(16_000).peekable();
        let mut bytes = frame(HEADERS, END_STREAM, 1, pieces.next().expect("a piece"));
        while let Some(piece) = pieces.next() {
            bytes.extend(frame(CONTINUATION, if pieces.peek().is_none() { END_HEADERS } else { 0 }, 1, piece));
        }
        bytes
    };
    // One entry of 3 kB is added to the dynamic table and then referenced 10,000 times with one byte each.
    let mut bomb = block(&request_fields("GET", "/h2", &[]));
    bomb.extend([0x40, 1, b'x', 0x7f, 0xb9, 0x16]);
    bomb.extend(vec![b'y'; 3_000]);
    bomb.extend(vec![0xbe; 10_000]);
    let cut =
        |name: &str, bytes| attack(&format!("size/{name}"), bytes, ConnectionFate::Any).stream(1, StreamFate::Refused);
    vec![
        cut("one-value", split(&request_fields("GET", "/h2", &[(b"x", &long)]))),
        cut("one-name", split(&request_fields("GET", "/h2", &[(&vec![b'x'; 70_000], b"y")]))),
        cut("many", split(&request_fields("GET", "/h2", &many))),
        cut("path", split(&request_fields("GET", &format!("/{}", "x".repeat(70_000)), &[]))),
        cut("bomb", frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)),
        cut("body", {
            let data = frame(DATA, 0, 1, &[b'x'; 16_000]);
            [
                head(1, 0, &request_fields("POST", "/h2", &[])),
                data.repeat(4),
                frame(DATA, END_STREAM, 1, &[b'x'; 2_000]),
            ]
            .concat()
        }),
    ]
}

/// Floods: more frames than any client needs.
fn floods() -> Vec<Attack> {
    let stranger: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/h2"), (b":authority", b"gw")];
    let each =
        |count: u32, make: &dyn Fn(u32) -> Vec<u8>| (0..count).flat_map(|at| make(2 * at + 1)).collect::<Vec<u8>>();
    let begun = frame(HEADERS, END_STREAM, 1, &block(&stranger));
    let post = || head(1, 0, &request_fields("POST", "/h2", &[]));
    let reset = |stream| [head(stream, END_STREAM, &stranger), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    let half = |stream| [head(stream, 0, &stranger), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    let bad = |stream| head(stream, END_STREAM, &stranger[..3]);
    let mut dangling = attack(
        "flood/dangling-streams",
        each(160, &|stream| head(stream, 0, &request_fields("POST", "/h2", &[(b"content-length", b"5")]))),
        ConnectionFate::Any,
    );
    for at in 0..160 {
        dangling = dangling.stream(2 * at + 1, StreamFate::Refused);
    }
    vec![
        attack("flood/rapid-reset", each(3_000, &reset), ConnectionFate::Any),
        attack("flood/rapid-reset-of-begun", each(3_000, &half), ConnectionFate::Any),
        attack("flood/malformed-streams", each(3_000, &bad), ConnectionFate::Any),
        attack(
            "flood/continuation-empty",
            [begun.clone(), frame(CONTINUATION, 0, 1, &[]).repeat(20_000)].concat(),
            ConnectionFate::Ended,
        ),
        attack(
            "flood/continuation-small",
            [begun.clone(), frame(CONTINUATION, 0, 1, &block(&[(b"x", b"y")])).repeat(20_000)].concat(),
            ConnectionFate::Ended,
        ),
        attack(
            "flood/continuation-large",
            [begun.clone(), frame(CONTINUATION, 0, 1, &block(&[(b"x", &[b'y'; 16_000])])).repeat(200)].concat(),
            ConnectionFate::Ended,
        ),
        attack("flood/settings", frame(SETTINGS, 0, 0, &[]).repeat(20_000), ConnectionFate::Any),
        attack("flood/settings-table", frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]).repeat(10_000), ConnectionFate::Any),
        attack("flood/settings-ack", frame(SETTINGS, ACK, 0, &[]).repeat(20_000), ConnectionFate::Any),
        attack("flood/ping", frame(PING, 0, 0, &[7; 8]).repeat(20_000), ConnectionFate::Any),
        attack("flood/ping-ack", frame(PING, ACK, 0, &[7; 8]).repeat(20_000), ConnectionFate::Any),
        attack("flood/priority", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(20_000), ConnectionFate::Any),
        attack("flood/window", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(20_000), ConnectionFate::Any),
        attack("flood/unknown-frames", frame(0xfa, 0xff, 0, &[1; 100]).repeat(5_000), ConnectionFate::Any),
        attack("flood/empty-data", [post(), frame(DATA, 0, 1, &[]).repeat(30_000)].concat(), ConnectionFate::Any)
            .stream(1, StreamFate::Refused),
        attack("flood/one-byte-data", [post(), frame(DATA, 0, 1, b"x").repeat(70_000)].concat(), ConnectionFate::Any)
            .stream(1, StreamFate::Refused),
        attack(
            "flood/padding",
            [post(), frame(DATA, PADDED, 1, &[[255].as_slice(), &[0; 255]].concat()).repeat(2_000)].concat(),
            ConnectionFate::Any,
        )
        .stream(1, StreamFate::Refused),
        // Without any request the gateway accepts only a limited amount.
        attack("flood/ping-for-long", frame(PING, 0, 0, &[7; 8]).repeat(80_000), ConnectionFate::Ended),
        attack(
            "flood/priority-for-long",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(100_000),
            ConnectionFate::Ended,
        ),
        attack("flood/unknown-for-long", frame(0xfa, 0xff, 0, &[1; 1_000]).repeat(1_500), ConnectionFate::Ended),
        // The server resets what the client makes invalid (CVE-2025-8671, "MadeYouReset").
        attack(
            "flood/made-you-reset",
            each(3_000, &|stream| {
                let invalid = frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
                [head(stream, 0, &request_fields("POST", "/h2", &[])), invalid].concat()
            }),
            ConnectionFate::Ended,
        ),
        // Each of them changes the window of every stream that is open. (One that shuts the windows of streams with
        // responses makes a debug assertion of h2 fail when the connection ends, `!self.has_streams()`; a release build
        // does not look.)
        attack(
            "flood/settings-of-open-streams",
            [
                each(100, &|stream| head(stream, 0, &request_fields("POST", "/h2", &[]))),
                (0..240_000).flat_map(|at| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xfe | at as u8 & 1])).collect(),
            ]
            .concat(),
            ConnectionFate::Ended,
        ),
        attack("flood/goaway", frame(GOAWAY, 0, 0, &[0; 8]).repeat(5_000), ConnectionFate::Any),
        dangling,
    ]
}

fn settings() -> Vec<Attack> {
    let set = |name: &str, payload: &[u8]| {
        attack(&format!("settings/{name}"), frame(SETTINGS, 0, 0, payload), ConnectionFate::Ended)
    };
    vec![
        set("push-two", &[0, 2, 0, 0, 0, 2]),
        set("window-too-large", &[0, 4, 0x80, 0, 0, 0]),
        set("frame-too-small", &[0, 5, 0, 0, 0, 1]),
        set("frame-too-large", &[0, 5, 1, 0, 0, 0]),
        set("five-bytes", &[0, 4, 0, 0, 0]),
        attack("settings/on-a-stream", frame(SETTINGS, 0, 1, &[]), ConnectionFate::Ended),
        attack("settings/ack-with-payload", frame(SETTINGS, ACK, 0, &[0; 6]), ConnectionFate::Ended),
        attack("settings/unknown", frame(SETTINGS, 0, 0, &[0xff, 0xff, 1, 2, 3, 4]), ConnectionFate::Usable),
        attack("settings/no-streams", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]), ConnectionFate::Usable),
    ]
}

fn windows() -> Vec<Attack> {
    let get = |stream| head(stream, END_STREAM, &request_fields("GET", "/h2", &[]));
    let post = head(1, 0, &request_fields("POST", "/h2", &[]));
    let most = [0x7f, 0xff, 0xff, 0xff];
    let shut = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    vec![
        attack("window/zero", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), ConnectionFate::Ended),
        attack(
            "window/zero-on-a-stream",
            [post.clone(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            ConnectionFate::Any,
        )
        .stream(1, StreamFate::Refused),
        attack("window/overflow", frame(WINDOW_UPDATE, 0, 0, &most).repeat(2), ConnectionFate::Ended),
        attack(
            "window/overflow-on-a-stream",
            [post, frame(WINDOW_UPDATE, 0, 1, &most).repeat(2)].concat(),
            ConnectionFate::Any,
        )
        .stream(1, StreamFate::Refused),
        attack("window/on-an-idle-stream", frame(WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1]), ConnectionFate::Ended),
        attack("window/three-bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), ConnectionFate::Ended),
        // The client does not read the response: the connection must not stay open for ever.
        attack("window/shut", [shut.clone(), get(1)].concat(), ConnectionFate::Ended).forwards("GET", "/h2", ""),
        // One byte at a time, and then all.
        attack(
            "window/opened-and-shut",
            [
                [shut, get(1)].concat(),
                (0..400_u32).flat_map(|at| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, u8::from(at % 2 == 0)])).collect(),
                frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]),
            ]
            .concat(),
            ConnectionFate::Usable,
        )
        .stream(1, StreamFate::Status(200))
        .forwards("GET", "/h2", ""),
    ]
}

/// Frames at the wrong time or place.
fn states() -> Vec<Attack> {
    let get = |stream| head(stream, END_STREAM, &request_fields("GET", "/h2", &[]));
    let stranger: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/h2"), (b":authority", b"gw")];
    let begun = || frame(HEADERS, END_STREAM, 1, &block(&stranger));
    let post = || head(1, 0, &request_fields("POST", "/h2", &[]));
    let ends = |name: &str, bytes: Vec<u8>| attack(&format!("state/{name}"), bytes, ConnectionFate::Ended);
    vec![
        ends("data-on-the-connection", frame(DATA, 0, 0, b"x")),
        ends("data-on-an-idle-stream", frame(DATA, 0, 1, b"x")),
        ends("headers-on-the-connection", get(0)),
        ends("headers-on-an-even-stream", get(2)),
        ends("stream-goes-back", [head(5, END_STREAM, &stranger), head(3, END_STREAM, &stranger)].concat()),
        ends("continuation-alone", frame(CONTINUATION, END_HEADERS, 1, &block(&stranger))),
        ends("continuation-of-another", [begun(), frame(CONTINUATION, END_HEADERS, 3, &[])].concat()),
        ends("data-inside-headers", [begun(), frame(DATA, 0, 1, b"x")].concat()),
        ends("ping-inside-headers", [begun(), frame(PING, 0, 0, &[0; 8])].concat()),
        ends("headers-never-end", begun()),
        ends("push", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ends("reset-of-an-idle-stream", frame(RST_STREAM, 0, 1, &[0; 4])),
        ends("reset-of-the-connection", frame(RST_STREAM, 0, 0, &[0; 4])),
        ends("reset-of-three-bytes", frame(RST_STREAM, 0, 1, &[0; 3])),
        ends("ping-of-seven-bytes", frame(PING, 0, 0, &[0; 7])),
        ends("ping-on-a-stream", frame(PING, 0, 1, &[0; 8])),
        ends("goaway-on-a-stream", frame(GOAWAY, 0, 1, &[0; 8])),
        ends("goaway-of-seven-bytes", frame(GOAWAY, 0, 0, &[0; 7])),
        ends("frame-too-large", frame(DATA, 0, 1, &[0; 16_385])),
        ends("length-that-never-comes", [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], b"x"].concat()),
        ends("padding-longer-than-the-frame", [post(), frame(DATA, PADDED, 1, &[9, b'x'])].concat()),
        ends("http1-behind-the-preface", b"GET /smuggled HTTP/1.1\r\nhost: gw\r\n\r\n".to_vec()),
        attack("state/priority-on-itself", frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 1]), ConnectionFate::Any),
        attack("state/unknown-frame", frame(0x77, 0xff, 1, b"whatever"), ConnectionFate::Usable),
        attack(
            "state/data-after-the-end",
            [head(1, END_STREAM, &stranger), frame(DATA, 0, 1, b"x")].concat(),
            ConnectionFate::Any,
        ),
        attack(
            "state/second-head",
            [post(), head(1, END_STREAM, &request_fields("POST", "/order/express", &[]))].concat(),
            ConnectionFate::Any,
        )
        // `h2` treats it as trailers, and trailers are dropped.
        .stream(1, StreamFate::Status(200))
        .forwards("POST", "/h2", ""),
        // So it does here: RFC 9113 (section 8.1) calls both malformed.
        attack(
            "state/trailers-with-a-path",
            [post(), frame(DATA, 0, 1, b"hello"), head(1, END_STREAM, &[(b":path", b"/order/express"), (b"x", b"y")])]
                .concat(),
            ConnectionFate::Usable,
        )
        .stream(1, StreamFate::Status(200))
        .forwards("POST", "/h2", "hello"),
        attack(
            "state/trailers-with-connection",
            [post(), frame(DATA, 0, 1, b"hello"), head(1, END_STREAM, &[(b"connection", b"secret-key")])].concat(),
            ConnectionFate::Usable,
        )
        .stream(1, StreamFate::Refused),
        attack(
            "state/trailers-with-a-coding",
            [post(), frame(DATA, 0, 1, b"hello"), head(1, END_STREAM, &[(b"transfer-encoding", b"chunked")])].concat(),
            ConnectionFate::Usable,
        )
        .stream(1, StreamFate::Refused),
        attack("state/second-head-without-end", [post(), head(1, 0, &[(b"x", b"y")])].concat(), ConnectionFate::Any)
            .stream(1, StreamFate::Refused),
        attack("state/body-that-stops", [post(), frame(DATA, 0, 1, b"hel")].concat(), ConnectionFate::Usable)
            .stream(1, StreamFate::Status(408)),
        attack(
            "state/body-given-up",
            [post(), frame(DATA, 0, 1, b"hel"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat(),
            ConnectionFate::Usable,
        ),
        // `hyper` takes this reset for the end of the body.
        attack(
            "state/body-given-up-without-error",
            [post(), frame(DATA, 0, 1, b"hel"), frame(RST_STREAM, 0, 1, &[0; 4])].concat(),
            ConnectionFate::Usable,
        ),
    ]
}

/// Invalid header blocks (RFC 7541).
fn blocks() -> Vec<Attack> {
    let raw = |name: &str, payload: &[u8]| {
        attack(&format!("block/{name}"), frame(HEADERS, END_HEADERS | END_STREAM, 1, payload), ConnectionFate::Ended)
    };
    vec![
        raw("index-zero", &[0x80]),
        raw("index-beyond", &[0xff, 0x80, 0x01]),
        raw("integer-without-end", &[0xff; 40]),
        raw("text-longer-than-the-block", &[0, 0x7f, 0x80, 0x01]),
        raw("huffman-padding", &[0, 0x81, 0x00, 0x81, 0x00]),
        raw("huffman-eos", &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'y']),
        raw("table-too-large", &[0x3f, 0xe1, 0xff, 0x7f]),
        raw("cut-off", &[0, 1]),
    ]
}

impl RecordedGateway {
    fn faults_of_attack(&self, attack: &Attack) -> Vec<String> {
        let before = self.counted();
        let result = perform(self.runner.addr, attack);
        let good = self.gateway.send(get("/good").by("shop"));
        assert_eq!((good.status, good.outcome()), (200, "ok"), "{}: the valid request after it", attack.name);
        let mut faults = Vec::new();
        // The streams of the attack, unless h2 ended the connection before it read them; the probe; and the valid one.
        let streams = if result.ended { attack.streams.len().min(1) } else { attack.streams.len() };
        faults.extend(self.counts(before, streams + usize::from(result.usable) + 1));
        for (stream, fate) in &attack.streams {
            let check_attacks = match (fate, result.fates.get(stream)) {
                (StreamFate::Status(status), Some(Some(status_received))) => status == status_received,
                // 0: a status that refers to the dynamic table, which 200 never does.
                (StreamFate::Refused, Some(Some(status_received))) => matches!(status_received, 0 | 400..=499 | 501),
                (StreamFate::Refused, Some(None)) => true,
                (StreamFate::Refused, None) => result.ended,
                _ => false,
            };
            if !check_attacks {
                faults.push(format!("stream {stream}: {:?}, expected {fate:?}", result.fates.get(stream)));
            }
        }
        match attack.connection {
            ConnectionFate::Usable if !result.usable => faults.push("the connection is not usable".to_owned()),
            ConnectionFate::Ended if !result.ended => faults.push("the connection is open".to_owned()),
            ConnectionFate::Any if !result.ended && !result.usable => {
                faults.push("the connection stands and is of no use".to_owned())
            }
            _ => {}
        }
        if result.took >= LONGEST {
            faults.push(format!("took {:?}", result.took));
        }
        let mut expected = attack.forwarded.clone();
        if result.usable {
            expected.push(forwarded("GET", PROBED));
        }
        expected.push(forwarded("GET", "/good"));
        let (mut forwarded, violations) = self.read(self.recorder.take());
        if !result.usable && attack.connection == ConnectionFate::Any {
            // The connection may have closed before this request was forwarded.
            forwarded.retain(|request| request.target != PROBED.as_bytes());
        }
        faults.extend(violations);
        // Streams may be forwarded in any order.
        expected.sort();
        forwarded.sort();
        if forwarded != expected {
            faults.push(format!("forwarded {:?}, expected {:?}", super::shown(&forwarded), super::shown(&expected)));
        }
        faults
    }
}

fn check_attacks(names: &[&str]) {
    assert_eq!(secret_of("shop").as_bytes(), SHOP);
    let gateway = RecordedGateway::open();
    let mut faults = Vec::new();
    let all = attacks();
    let chosen: Vec<&Attack> =
        all.iter().filter(|attack| names.contains(&attack.name.split('/').nth(1).expect("a family"))).collect();
    assert!(!chosen.is_empty());
    for attack in chosen {
        faults.extend(gateway.faults_of_attack(attack).into_iter().map(|fault| format!("{}: {fault}", attack.name)));
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
    gateway.close();
}

#[test]
fn malformed_streams_are_refused() {
    check_attacks(&["good", "length", "field", "pseudo", "path", "method", "scheme", "authority"]);
}

#[test]
fn floods_of_frames_are_bounded() {
    check_attacks(&["size", "flood", "block"]);
}

#[test]
fn frames_out_of_order_close_a_stream_or_the_connection() {
    check_attacks(&["settings", "window", "state"]);
}

#[test]
fn the_status_is_decoded_with_and_without_huffman() {
    assert_eq!(frames::status_of(&[0x88]), 200);
    assert_eq!(frames::status_of(&[0x48, 3, b'4', b'0', b'1']), 401);
    // 302, from RFC 7541 (appendix C.6.1)
    assert_eq!(frames::status_of(&[0x48, 0x82, 0x64, 0x02]), 302);
}
