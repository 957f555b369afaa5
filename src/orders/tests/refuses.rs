//! What is refused rather than sent.

use super::*;

#[tokio::test]
async fn a_key_in_flight_or_on_another_request_or_unreadable() {
    let setup = OrdersSetup::new().await;
    let same = order("r2").key("k");
    let others = [
        TestOrder { method: Method::PUT, ..same.clone() },
        TestOrder { target: "/order/express?x=2", ..same.clone() },
        TestOrder { body: "{}".into(), ..same.clone() },
    ];
    let ticket = order("r1").key("k").ticket(&setup.orders).await;
    let in_flight = OrderRefusal::InFlight { first: first("r1") };
    assert_eq!(same.refused(&setup.orders).await, in_flight);
    assert_eq!(in_flight.status(), 409);
    let written = setup.orders.write(ticket).await.unwrap();
    assert_eq!(same.refused(&setup.orders).await, in_flight);
    let differs = OrderRefusal::OtherRequest { first: first("r1") };
    assert_eq!(differs.status(), 422);
    for other in &others {
        assert_eq!(other.refused(&setup.orders).await, differs);
    }
    written.end(answer("r1", Sent::Yes));
    for other in &others {
        assert_eq!(other.refused(&setup.orders).await, differs);
    }
    let twice = order("r3").key("k").key("k").refused(&setup.orders).await;
    assert_eq!((twice.status(), twice.code()), (StatusCode::BAD_REQUEST, Code::RequestIdempotency));
}

#[tokio::test]
async fn a_key_whose_order_vanished() {
    let setup = OrdersSetup::new().await;
    drop(order("r1").key("k").written(&setup.orders).await);
    let lost = order("r2").key("k").confirmed().refused(&setup.orders).await;
    assert_eq!(lost, OrderRefusal::Interrupted { first: first("r1") });
    assert_eq!(
        (lost.code(), lost.status().as_u16(), lost.first_sent().map(FirstSent::get)),
        (Code::OrderUnknown, 409, Some(Sent::Unknown))
    );
}

#[tokio::test]
async fn later_when_the_store_cannot_be_read() {
    let setup = OrdersSetup::new().await;
    order("r1").key("k").written(&setup.orders).await.end(answer("r1", Sent::Yes));
    setup.store.load(&ANSWERS).await.unwrap();
    setup.store.close().await;
    let refused = order("r2").key("k").refused(&setup.orders).await;
    assert_eq!(refused, OrderRefusal::Unreadable { first: first("r1") });
    assert_eq!((refused.code(), refused.status().as_u16()), (Code::GatewayOverloaded, 503));
    assert!(refused.retry_after().is_some());
}

#[tokio::test]
async fn rather_than_send_again_when_the_answer_is_gone() {
    let size = answer("r1", Sent::Yes).size();
    let setup = OrdersSetup::within(OrderLimits { bytes: size * 2, ..limits() }).await;
    for id in ["r1", "r2", "r3"] {
        order(id).key(id).written(&setup.orders).await.end(answer(id, Sent::Yes));
    }
    let gone = order("r4").key("r1").refused(&setup.orders).await;
    assert_eq!(gone, OrderRefusal::AnswerGone { first: first("r1"), outcome: Outcome::Ok, sent: Sent::Yes });
    assert_eq!(
        (gone.outcome(), gone.first_sent().map(FirstSent::get), gone.status().as_u16()),
        (Outcome::Ok, Some(Sent::Yes), 409)
    );
    order("r5").key("r2").repeat(&setup.orders).await;
    assert_eq!(setup.store.load(&ANSWERS).await.unwrap().rows.len(), 2);
}
