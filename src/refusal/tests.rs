//! What a refusal tells its caller: status, envelope, problem, and whether to try again.

use super::*;
use crate::caller::Unknown;

fn facts(request_id: &RequestId, sent: Sent, repeat: RepeatRule) -> RefusedRequestFacts<'_> {
    RefusedRequestFacts { request_id, sent, repeat }
}

/// For every code: whether it may be repeated does not depend on more than these.
#[test]
fn retry_says_what_a_client_may_do() {
    use strum::VariantArray as _;
    let wait = Duration::from_secs(7);
    for code in Code::VARIANTS {
        let waits = Refusal::new(*code, "x").retry_after(wait);
        let plain = Refusal::new(*code, "x");
        for repeat in [RepeatRule::Safe, RepeatRule::Keyed, RepeatRule::Unkeyed] {
            let expected = if *code == Code::OrderUnknown { "ask" } else { "after" };
            assert_eq!(waits.retry(Sent::No, repeat), expected, "{code:?} {repeat:?}");
            assert!(["now", "never", "ask"].contains(&plain.retry(Sent::No, repeat)), "{code:?}");
        }
        if !matches!(code, Code::OrderUnknown | Code::KeysRejected) {
            assert_eq!(plain.retry(Sent::Unknown, RepeatRule::Keyed), "same_key", "{code:?}");
            assert_eq!(waits.retry(Sent::Yes, RepeatRule::Unkeyed), "ask", "{code:?}");
        }
    }
    let retry = |code| Refusal::new(code, "x").retry(Sent::Unknown, RepeatRule::Safe);
    assert_eq!([Code::UpstreamTimeout, Code::UpstreamCut, Code::RequestTimeout].map(retry), ["now"; 3]);
    assert_eq!([Code::CallerClass, Code::RequestMalformed, Code::KeysRejected].map(retry), ["never"; 3]);
    let only_if_cached = |may_be_stored| Refusal::only_if_cached(may_be_stored).retry(Sent::No, RepeatRule::Safe);
    assert_eq!([true, false].map(only_if_cached), ["now", "never"]);
}

fn body(refusal: &Refusal, format: RefusalFormat) -> (Reply, serde_json::Value) {
    let reply = refusal.reply(facts(&"req-12345".parse().unwrap(), Sent::No, RepeatRule::Safe), format);
    let ReplyBody::Whole(bytes) = &reply.body else { panic!("whole") };
    let body = serde_json::from_slice(bytes).unwrap();
    (reply, body)
}

#[test]
fn is_fastracs_envelope() {
    let refusal = Refusal::new(Code::QuotaDay, "used up").retry_after(Duration::from_secs(7));
    let (reply, body) = body(&refusal, RefusalFormat::Envelope);
    assert_eq!(reply.status, 429);
    assert_eq!((&body["success"], &body["data"]), (&json!(false), &json!(null)));
    assert_eq!(
        body["error"],
        json!({"code": "quota.day", "by": "gateway", "sent": "no", "retry": "after", "retry_after": 7, "request_id": "req-12345"})
    );
    assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn is_problem_json_if_accepted() {
    let wanted = |accept: &'static str| {
        RefusalFormat::wanted(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]))
    };
    assert_eq!(wanted("text/html, application/problem+json;q=0.9"), RefusalFormat::Problem);
    for accept in
        ["application/json, */*", "application/problem+json;q=0", "application/json, application/problem+json;q=0.5"]
    {
        assert_eq!(wanted(accept), RefusalFormat::Envelope, "{accept}");
    }
    let (reply, body) = body(&Unknown::None.into(), RefusalFormat::Problem);
    assert_eq!(reply.headers.get_all(header::WWW_AUTHENTICATE).iter().count(), 2);
    assert_eq!((&body["status"], &body["title"]), (&json!(401), &json!("Unauthorized")));
    assert_eq!((&body["error"]["code"], &body["error"]["retry"]), (&json!("caller.unknown"), &json!("never")));
    let limited = Refusal::new(Code::BudgetDay, "used up").retry_after(Duration::from_secs(7));
    let (_, body) = self::body(&limited, RefusalFormat::Problem);
    assert_eq!((&body["type"], &body["violated-policies"]), (&json!(QUOTA_EXCEEDED), &json!(["account-day"])));
}

#[test]
fn without_a_request_it_is_a_whole_http1_response() {
    let refusal = Refusal::new(Code::GatewayOverloaded, "full").retry_after(Duration::from_millis(200));
    let id = RequestId::generate(std::time::SystemTime::now());
    let bytes = refusal.to_http1(&id);
    let text = std::str::from_utf8(&bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 503 Service Unavailable"));
    let headers: HeaderMap = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.parse::<header::HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
        .collect();
    for (name, value) in [
        ("connection", "close"),
        ("x-gateway-outcome", "overloaded"),
        ("x-gateway-sent", "no"),
        ("retry-after", "1"),
        ("content-type", "application/json"),
        ("proxy-status", "fastrac-gateway; error=connection_limit_reached; details=\"gateway.overloaded\""),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(headers["content-length"], body.len().to_string());
    assert!(headers["date"].to_str().unwrap().ends_with(" GMT"));
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["error"]["request_id"], headers["x-request-id"].to_str().unwrap());
    assert!(headers["x-request-id"] == id.as_str() && body["timestamp"].is_string());
}

/// The message that a caller reads.
fn message(refusal: &Refusal, sent: Sent, repeat: RepeatRule) -> String {
    let reply = refusal.reply(facts(&"req-12345".parse().unwrap(), sent, repeat), RefusalFormat::Envelope);
    let ReplyBody::Whole(bytes) = &reply.body else { panic!("whole") };
    serde_json::from_slice::<serde_json::Value>(bytes).unwrap()["message"].as_str().unwrap().to_owned()
}

#[test]
fn every_message_says_what_to_do_next() {
    use crate::{
        body::BodyError,
        catalog::{route::Malformed, target::Misaddressed},
        deadline::InvalidTimeout,
        keys::NoKey,
        orders::{IdempotencyKeyError, OrderRefusal},
        upstream::Failure,
    };
    const STEPS: [&str; 10] = [
        ": send",
        "; send",
        "send it again",
        "try again",
        "repeat ",
        "check ",
        "ask ",
        "tell ",
        "look ",
        "give its operators",
    ];
    let full = MemoryExhausted::Full;
    let first = || "req-12345".to_owned();
    let refusals: Vec<Refusal> = vec![
        Unknown::None.into(),
        Unknown::Unreadable.into(),
        Unknown::Wrong.into(),
        Unknown::Disagree.into(),
        Unknown::Slowed { wait: Duration::from_secs(3) }.into(),
        Malformed::NotAbsolute.into(),
        Malformed::DotSegment.into(),
        Malformed::Separator.into(),
        Malformed::Encoding.into(),
        Malformed::Spelling.into(),
        Misaddressed::Upgrade.into(),
        Misaddressed::Method.into(),
        Misaddressed::Framing.into(),
        Misaddressed::Host.into(),
        Misaddressed::TwoHosts.into(),
        Misaddressed::NoPath.into(),
        BodyError::TooLarge(7).into(),
        BodyError::TooSlow.into(),
        BodyError::MakesRoom.into(),
        BodyError::Broken.into(),
        full.into(),
        MemoryExhausted::ShareUsed.into(),
        InvalidTimeout::Number.into(),
        InvalidTimeout::Repeated.into(),
        NoKey::None.into(),
        NoKey::Refused { next_canary: None }.into(),
        NoKey::TooOld.into(),
        NoKey::Moved.into(),
        Failure::Connect("refused".into()).into(),
        Failure::LocalFault("no descriptor".into()).into(),
        Failure::NotStarted.into(),
        Failure::Revoked.into(),
        Failure::Timeout.into(),
        Failure::Cut.into(),
        Failure::TooLong(7).into(),
        Failure::NoMemory(full).into(),
        OrderRefusal::Key(IdempotencyKeyError::Repeated).into(),
        OrderRefusal::Key(IdempotencyKeyError::Length).into(),
        OrderRefusal::Key(IdempotencyKeyError::Character { found: 7, position: 1 }).into(),
        OrderRefusal::Key(IdempotencyKeyError::Form).into(),
        OrderRefusal::InFlight { first: first() }.into(),
        OrderRefusal::OtherRequest { first: first() }.into(),
        OrderRefusal::Held { first: first() }.into(),
        OrderRefusal::Interrupted { first: first() }.into(),
        OrderRefusal::Unreadable { first: first() }.into(),
        OrderRefusal::AnswerGone { first: first(), outcome: Outcome::Ok, sent: Sent::Yes }.into(),
        OrderRefusal::StillUnderWay { first: first() }.into(),
        OrderRefusal::NoArchive.into(),
        OrderRefusal::TooMany.into(),
        OrderRefusal::NoMemory(full).into(),
        Refusal::not_spare("main"),
        Refusal::log_full(),
        Refusal::internal(),
        Refusal::only_if_cached(true),
        Refusal::only_if_cached(false),
        Refusal::leak(),
        Refusal::key_rejected(),
        Refusal::key_unsettled(),
        Refusal::key_rejected_order(),
        Refusal::key_undecided(),
        Refusal::journal_stalled(),
    ];
    for refusal in &refusals {
        for repeat in [RepeatRule::Safe, RepeatRule::Keyed, RepeatRule::Unkeyed] {
            for sent in [Sent::No, Sent::Unknown] {
                let told = message(refusal, sent, repeat);
                assert!(STEPS.iter().any(|step| told.contains(step)), "{told}");
            }
            let retry = refusal.retry(Sent::Yes, repeat);
            let is_doubted = ["ask", "same_key"].contains(&retry);
            assert!(!is_doubted || !refusal.message.contains("nothing was executed"), "{retry}: {refusal:?}");
        }
    }
    let timeout = Refusal::from(Failure::Timeout);
    let told = |repeat| message(&timeout, Sent::Unknown, repeat);
    assert!(told(RepeatRule::Unkeyed).ends_with("check its outcome with Fastrac before you send it again"));
    assert!(told(RepeatRule::Keyed).contains("same Idempotency-Key"));
    assert!(told(RepeatRule::Safe).ends_with("; try again"));
}

/// A service without a share has no part that it could have used up.
#[test]
fn the_rest_of_the_day_is_not_called_the_part_of_a_service_that_has_none() {
    let free_at = crate::admission::LocalTime::of(0, &jiff::tz::TimeZone::UTC);
    let what = BudgetLimit::PartOfDay { free_at };
    let refused = |own_share_used| {
        let over = OverBudget { what: what.clone(), retry_after: Duration::from_secs(7), own_share_used };
        Refusal::over_budget(&over, "main")
    };
    let (own, other) = (refused(true), refused(false));
    assert_eq!((own.status, other.status), (StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE));
    assert!(own.message.starts_with("The service's part of the daily budget of account main is used up"), "{own:?}");
    assert!(other.message.contains("is kept for others") && !other.message.contains("used up"), "{other:?}");
    assert!(other.message.ends_with("the next unit is free at 1970-01-01T00:00:00+00:00"), "{other:?}");
}
