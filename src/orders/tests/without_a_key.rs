//! An order without a key is sent once too, whoever leaves and repeats.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use crate::{
    body::{CallerConnection, RESET_WITHIN},
    orders::presence::HAND_OVER,
};

/// What an equal order gets.
async fn given(id: &str, setup: &OrdersSetup) -> (StoredAnswer, CallerPresence) {
    match order(id).recall(&setup.orders).await {
        Ok(Recall::Repeat(answer, Some(caller))) => (answer.as_ref().clone(), caller),
        other => panic!("{id}: {other:?}"),
    }
}

async fn being_delivered(id: &str, setup: &OrdersSetup) -> OccupiedOrder {
    match order(id).recall(&setup.orders).await {
        Ok(Recall::Occupied(order)) => order,
        other => panic!("{id}: {other:?}"),
    }
}

async fn under_way(one: TestOrder, setup: &OrdersSetup) -> OrderUnderWay {
    match one.recall(&setup.orders).await {
        Ok(Recall::UnderWay(order)) => order,
        other => panic!("{}: {other:?}", one.request_id),
    }
}

/// An order whose answer was written to its caller's connection.
async fn written(one: TestOrder, setup: &OrdersSetup) -> CallerPresence {
    let (ticket, mut caller) = one.new_order(&setup.orders).await;
    setup.orders.write(ticket).await.unwrap().end(answer(&one.request_id, Sent::Yes));
    caller.written();
    caller
}

#[tokio::test]
async fn an_equal_order_is_refused_while_the_first_caller_is_there() {
    let setup = OrdersSetup::new().await;
    let (ticket, mut caller) = order("r1").new_order(&setup.orders).await;
    let in_flight = OrderRefusal::InFlight { first: first("r1") };
    assert_eq!(order("r2").refused(&setup.orders).await, in_flight);
    assert_eq!((in_flight.code(), in_flight.status().as_u16()), (Code::OrderInFlight, 409));
    assert_eq!(in_flight.retry_after(), Some(Duration::from_secs(1)));
    let written = setup.orders.write(ticket).await.unwrap();
    assert_eq!(order("r3").refused(&setup.orders).await, in_flight);
    written.end(answer("r1", Sent::Yes));
    // Nobody can have read its answer yet.
    let early = being_delivered("r4", &setup).await;
    caller.begun();
    let delivered = being_delivered("r4", &setup).await;
    for wanted in [order("r5").confirmed(), order("r5").key("k"), TestOrder { body: "{}".into(), ..order("r5") }] {
        drop(wanted.new_order(&setup.orders).await);
    }
    Box::new(caller).reached();
    delivered.freed().await.unwrap();
    assert_eq!(early.freed().await, Err(in_flight));
    let _new = order("r6").ticket(&setup.orders).await;
}

/// The gateway sees a moment later that a caller has left, or that an order has ended.
#[tokio::test]
async fn an_equal_order_that_came_while_the_first_was_under_way_is_not_sent_when_that_ends() {
    let setup = OrdersSetup::new().await;
    let (ticket, caller) = order("r1").new_order(&setup.orders).await;
    let written = setup.orders.write(ticket).await.unwrap();
    let Ok(Recall::Occupied(second)) = order("r2").recall(&setup.orders).await else { panic!("not occupied") };
    written.end(answer("r1", Sent::Yes));
    Box::new(caller).reached();
    assert_eq!(second.freed().await, Err(OrderRefusal::InFlight { first: first("r1") }));

    let (_ticket, caller) = order("r3").new_order(&setup.orders).await;
    let Ok(Recall::Occupied(second)) = order("r4").recall(&setup.orders).await else { panic!("not occupied") };
    drop(caller);
    assert_eq!(second.freed().await, Ok(()));
    drop(under_way(order("r4"), &setup).await);
}

#[tokio::test]
async fn an_answer_that_has_reached_nobody_is_given_once() {
    let setup = OrdersSetup::new().await;
    let (ticket, caller) = order("r1").new_order(&setup.orders).await;
    let written = setup.orders.write(ticket).await.unwrap();
    drop(caller);
    written.end(answer("r1", Sent::Yes));
    let (told, caller) = given("r2", &setup).await;
    assert_eq!(told, answer("r1", Sent::Yes));
    let delivered = being_delivered("r3", &setup).await;
    // It did not reach that one either.
    drop(caller);
    delivered.freed().await.unwrap();
    setup.store.load(&ANSWERS).await.unwrap();
    let (told, caller) = given("r4", &setup).await;
    assert_eq!(told, answer("r1", Sent::Yes), "from disk");
    Box::new(caller).reached();
    let _new = order("r5").ticket(&setup.orders).await;
}

/// A connection of a caller, as the kernel shows it.
#[derive(Debug, Default)]
struct TestConnection {
    left: AtomicBool,
    reset: AtomicBool,
    unread: AtomicBool,
}

impl CallerConnection for TestConnection {
    fn has_left(&self) -> bool {
        self.left.load(Relaxed)
    }

    fn has_unacknowledged(&self) -> bool {
        false
    }

    fn was_reset(&self) -> bool {
        self.reset.load(Relaxed)
    }

    fn has_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }
}

impl TestConnection {
    fn link(self: &Arc<Self>) -> CallerLink {
        let connection: Arc<dyn CallerConnection> = self.clone();
        CallerLink::new(&connection)
    }
}

#[tokio::test]
async fn a_caller_is_looked_for_when_an_equal_order_comes() {
    let setup = OrdersSetup::new().await;
    let [first_caller, second_caller] = [(); 2].map(|()| Arc::new(TestConnection::default()));
    let one = |id, connection: &Arc<TestConnection>| TestOrder { connection: Some(connection.link()), ..order(id) };
    let (ticket, first_presence) = one("r1", &first_caller).new_order(&setup.orders).await;
    let written = setup.orders.write(ticket).await.unwrap();
    assert_eq!(order("r2").refused(&setup.orders).await, OrderRefusal::InFlight { first: first("r1") });
    first_caller.left.store(true, Relaxed);
    let waiting = under_way(one("r3", &second_caller), &setup).await;
    // The place is taken: the end of the first connection changes nothing.
    drop(first_presence);
    assert_eq!(order("r4").refused(&setup.orders).await, OrderRefusal::InFlight { first: first("r1") });
    second_caller.left.store(true, Relaxed);
    let third = under_way(order("r5"), &setup).await;
    drop(waiting);
    written.end(answer("r1", Sent::Yes));
    let waited = Some(third.ended().await);
    let Ok(Recall::Repeat(_, Some(caller))) = order("r5").recall_after(&setup.orders, waited).await else {
        panic!("no answer")
    };
    Box::new(caller).reached();
    drop(order("r6").new_order(&setup.orders).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_written_to_a_connection_that_is_then_reset_has_reached_nobody() {
    let setup = OrdersSetup::new().await;
    let connection = Arc::new(TestConnection::default());
    let one = |id| TestOrder { connection: Some(connection.link()), ..order(id) };
    let caller = written(one("r1"), &setup).await;
    connection.reset.store(true, Relaxed);
    let (told, mut repeat) = given("r2", &setup).await;
    assert_eq!(told, answer("r1", Sent::Yes));
    // The connection's own task sees it later, and then for another one sooner.
    drop(caller);
    repeat.written();
    drop(repeat);
    let (_, mut repeat) = given("r3", &setup).await;
    // A reset much later has another reason.
    repeat.written();
    tokio::time::advance(RESET_WITHIN).await;
    setup.orders.inner.decide_written();
    drop(repeat);
    drop(order("r4").new_order(&setup.orders).await);
    assert!(setup.store.load(&ANSWERS).await.unwrap().rows.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_written_is_decided_in_time_also_where_nothing_else_tells() {
    let setup = OrdersSetup::new().await;
    let connections = [(); 3].map(|()| Arc::new(TestConnection::default()));
    let mut callers = vec![];
    for (id, connection) in ["r1", "r2", "r3"].into_iter().zip(&connections) {
        let order = TestOrder { connection: Some(connection.link()), body: id.into(), ..order(id) };
        callers.push(written(order, &setup).await);
    }
    let undelivered = || setup.orders.inner.index.lock().len();
    tokio::time::advance(RESET_WITHIN - Duration::from_millis(1)).await;
    setup.orders.inner.decide_written();
    assert_eq!(undelivered(), 3, "too early");
    connections[1].reset.store(true, Relaxed);
    // It may be the reset of a stream: the connection is about to read it.
    connections[2].unread.store(true, Relaxed);
    tokio::time::advance(Duration::from_millis(1)).await;
    setup.orders.inner.decide_written();
    assert_eq!(undelivered(), 2, "only the first has reached its caller");
    drop(callers);
    for id in ["r2", "r3"] {
        let again = TestOrder { body: id.into(), ..order("again") };
        let told = again.recall_after(&setup.orders, None).await;
        assert!(matches!(told, Ok(Recall::Repeat(_, Some(_)))), "{id}");
    }
}

/// A caller whose time is over just as the response comes repeats its order by another connection, and closes the first
/// one afterwards.
#[tokio::test(start_paused = true)]
async fn an_equal_order_waits_until_it_is_decided_whether_an_answer_was_read() {
    for reset in [true, false] {
        let setup = OrdersSetup::new().await;
        let [connection, other] = [(); 2].map(|()| Arc::new(TestConnection::default()));
        let caller = written(TestOrder { connection: Some(connection.link()), ..order("r1") }, &setup).await;
        let began = tokio::time::Instant::now();
        let second = TestOrder { connection: Some(other.link()), ..order("r2") };
        let mut wait = OrderWait::default();
        let Ok(Recall::Occupied(waiting)) = second.recall_again(&setup.orders, &mut wait).await else { panic!("free") };
        let gives_up = async {
            tokio::time::sleep(RESET_WITHIN - Duration::from_millis(1)).await;
            connection.reset.store(reset, Relaxed);
        };
        let (freed, ()) = tokio::join!(waiting.freed(), gives_up);
        assert_eq!((freed, began.elapsed()), (Ok(()), RESET_WITHIN + HAND_OVER));
        match second.recall_again(&setup.orders, &mut wait).await {
            Ok(Recall::Repeat(told, Some(_))) if reset => assert_eq!(*told, answer("r1", Sent::Yes)),
            Ok(Recall::New(..)) if !reset => {}
            other => panic!("{reset}: {other:?}"),
        }
        drop(caller);
    }
}

#[tokio::test(start_paused = true)]
async fn an_equal_order_by_the_connection_of_the_answer_does_not_wait() {
    let setup = OrdersSetup::new().await;
    let connection = Arc::new(TestConnection::default());
    let one = |id| TestOrder { connection: Some(connection.link()), ..order(id) };
    for id in ["r1", "r2", "r3"] {
        std::mem::forget(written(one(id), &setup).await);
    }
    // Nor does one whose caller knows what it wants.
    drop(order("r4").confirmed().new_order(&setup.orders).await);
    drop(being_delivered("r5", &setup).await);
}

/// Of several that wait for the decision, all came before the answer was written to anybody who has read it.
#[tokio::test(start_paused = true)]
async fn of_those_that_wait_for_an_answer_to_be_read_none_is_sent_if_it_was_not() {
    for reset in [true, false] {
        let setup = OrdersSetup::new().await;
        let caller = written(order("r1"), &setup).await;
        let mut waits = [OrderWait::default(), OrderWait::default()];
        for wait in &mut waits {
            let waiting = order("r2").recall_again(&setup.orders, wait).await;
            assert!(matches!(waiting, Ok(Recall::Occupied(_))), "{waiting:?}");
        }
        let [first_wait, second_wait] = &mut waits;
        if !reset {
            Box::new(caller).reached();
            let Ok(Recall::New(ticket, _)) = order("r2").recall_again(&setup.orders, first_wait).await else {
                panic!("held")
            };
            drop(ticket);
            drop(order("r3").new_order(&setup.orders).await);
            continue;
        }
        drop(caller);
        let Ok(Recall::Repeat(told, Some(next))) = order("r2").recall_again(&setup.orders, first_wait).await else {
            panic!("no answer")
        };
        assert_eq!(*told, answer("r1", Sent::Yes));
        Box::new(next).reached();
        let refused = order("r3").recall_again(&setup.orders, second_wait).await.unwrap_err();
        assert_eq!(refused, OrderRefusal::InFlight { first: first("r1") });
        drop(order("r4").new_order(&setup.orders).await);
    }
}

/// Over HTTP/2 it may be the reset of the stream.
#[tokio::test(start_paused = true)]
async fn what_a_caller_has_sent_after_its_answer_is_read_before_that_counts_as_delivered() {
    let setup = OrdersSetup::new().await;
    let connection = Arc::new(TestConnection::default());
    let one = |id| TestOrder { connection: Some(connection.link()), ..order(id) };
    let caller = written(one("r1"), &setup).await;
    connection.unread.store(true, Relaxed);
    let second = being_delivered("r2", &setup).await;
    // It was the reset.
    drop(caller);
    second.freed().await.unwrap();
    let (told, mut repeat) = given("r2", &setup).await;
    assert_eq!(told, answer("r1", Sent::Yes));
    repeat.written();
    Box::new(repeat).reached();
    // What is never read decides nothing for ever.
    let _caller = written(one("r3"), &setup).await;
    being_delivered("r4", &setup).await.freed().await.unwrap();
    drop(order("r4").new_order(&setup.orders).await);
}

#[tokio::test]
async fn an_answer_that_was_written_counts_as_undelivered_after_a_crash_until_it_is_decided() {
    for decided in [false, true] {
        let setup = OrdersSetup::new().await;
        let caller = written(order("r1"), &setup).await;
        if decided {
            tokio::time::pause();
            tokio::time::advance(RESET_WITHIN).await;
            setup.orders.inner.decide_written();
            tokio::time::resume();
        }
        std::mem::forget(caller);
        setup.store.close().await;
        setup.orders.archive().close().await;
        let orders = Orders::open(open_stores(setup._home.path()), start_time(), &settings(), 1 << 30).await.unwrap();
        let next = order("r2").recall_after(&orders, None).await;
        assert_eq!(matches!(next, Ok(Recall::New(..))), decided, "{next:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn for_as_long_as_configured() {
    let setup = OrdersSetup::new().await;
    let (ticket, caller) = order("r1").new_order(&setup.orders).await;
    setup.orders.write(ticket).await.unwrap().end(answer("r1", Sent::Yes));
    drop(caller);
    tokio::time::advance(UNDELIVERED - Duration::from_millis(1)).await;
    drop(given("r2", &setup).await);
    tokio::time::advance(Duration::from_millis(1)).await;
    drop(order("r3").new_order(&setup.orders).await);
    setup.orders.reconfigure(&OrdersConfig { undelivered: Duration::ZERO, ..settings() }, 1 << 30);
    let (ticket, caller) = order("r4").new_order(&setup.orders).await;
    setup.orders.write(ticket).await.unwrap().end(answer("r4", Sent::Yes));
    drop(caller);
    drop(order("r5").new_order(&setup.orders).await);
    assert!(setup.store.load(&ANSWERS).await.unwrap().rows.is_empty());
}

#[tokio::test]
async fn an_equal_order_waits_for_one_whose_caller_has_left() {
    let setup = OrdersSetup::new().await;
    let (ticket, caller) = order("r1").new_order(&setup.orders).await;
    let written = setup.orders.write(ticket).await.unwrap();
    drop(caller);
    let waiting = under_way(order("r2"), &setup).await;
    assert_eq!(waiting.first(), "r1");
    // One at a time; if it leaves, the next one.
    assert_eq!(order("r3").refused(&setup.orders).await, OrderRefusal::InFlight { first: first("r1") });
    drop(waiting);
    let waiting = under_way(order("r4"), &setup).await;
    written.end(answer("r1", Sent::Yes));
    let waited = waiting.ended().await;
    drop(being_delivered("r5", &setup).await);
    let Ok(Recall::Repeat(told, Some(caller))) = order("r4").recall_after(&setup.orders, Some(waited)).await else {
        panic!("no answer")
    };
    assert_eq!(*told, answer("r1", Sent::Yes));
    let delivered = being_delivered("r6", &setup).await;
    assert_eq!(delivered.refusal(), OrderRefusal::InFlight { first: first("r1") });
    Box::new(caller).reached();
    let _new = order("r7").ticket(&setup.orders).await;
}

#[tokio::test]
async fn and_is_sent_if_that_was_not_and_held_if_that_is_unknown() {
    let setup = OrdersSetup::new().await;
    let (ticket, caller) = order("r1").new_order(&setup.orders).await;
    drop(caller);
    let waiting = under_way(order("r2"), &setup).await;
    drop(ticket);
    let Ok(Recall::New(ticket, caller)) = order("r2").recall_after(&setup.orders, Some(waiting.ended().await)).await
    else {
        panic!("held")
    };
    drop(caller);
    let waiting = under_way(order("r3"), &setup).await;
    setup.orders.write(ticket).await.unwrap().end(answer("r2", Sent::Unknown));
    let held = order("r3").recall_after(&setup.orders, Some(waiting.ended().await)).await.unwrap_err();
    assert_eq!(held, OrderRefusal::Held { first: first("r2") });
}

/// A client may repeat by other code than the one that sets the key.
#[tokio::test(start_paused = true)]
async fn an_order_with_a_key_protects_an_equal_one_without_too() {
    let setup = OrdersSetup::new().await;
    let (ticket, caller) = order("r1").key("k").new_order(&setup.orders).await;
    let written = setup.orders.write(ticket).await.unwrap();
    drop(caller);
    let waiting = under_way(order("r2"), &setup).await;
    written.end(answer("r1", Sent::Yes));
    let waited = Some(waiting.ended().await);
    let Ok(Recall::Repeat(told, Some(caller))) = order("r2").recall_after(&setup.orders, waited).await else {
        panic!("no answer")
    };
    assert_eq!(*told, answer("r1", Sent::Yes));
    // Its key gets it meanwhile, and takes nobody's place.
    let Ok(Recall::Repeat(_, None)) = order("r3").key("k").recall(&setup.orders).await else { panic!("no answer") };
    drop(caller);
    // It has reached nobody, also after a restart, until its key gets it.
    setup.store.close().await;
    setup.orders.archive().close().await;
    let orders = Orders::open(open_stores(setup._home.path()), start_time(), &settings(), 1 << 30).await.unwrap();
    let setup = OrdersSetup { orders, ..setup };
    drop(given("r4", &setup).await);
    let Ok(Recall::Repeat(_, Some(caller))) = order("r5").key("k").recall(&setup.orders).await else {
        panic!("no answer")
    };
    Box::new(caller).reached();
    drop(order("r6").new_order(&setup.orders).await);
    assert_eq!(order("r7").key("k").repeat(&setup.orders).await, answer("r1", Sent::Yes));

    let (ticket, caller) = order("r8").key("l").new_order(&setup.orders).await;
    setup.orders.write(ticket).await.unwrap().end(answer("r8", Sent::Yes));
    drop(caller);
    tokio::time::advance(UNDELIVERED).await;
    drop(order("r9").new_order(&setup.orders).await);
    assert_eq!(order("r10").key("l").repeat(&setup.orders).await, answer("r8", Sent::Yes));
}

/// Only one that came after the answer was written can come from who has read it.
#[tokio::test]
async fn one_that_has_waited_for_an_order_that_was_sent_is_never_sent_itself() {
    for left in ["while it is under way", "after its end", "before the newcomer's answer is read"] {
        let setup = OrdersSetup::new().await;
        let waits_at = Arc::new(TestConnection::default());
        let waiter = TestOrder { connection: Some(waits_at.link()), ..order("r2") };
        let (ticket, caller) = order("r1").new_order(&setup.orders).await;
        let written = setup.orders.write(ticket).await.unwrap();
        let mut wait = OrderWait::default();
        let under_way = if left != "while it is under way" {
            let Ok(Recall::Occupied(_)) = waiter.recall_again(&setup.orders, &mut wait).await else { panic!("free") };
            drop(caller);
            None
        } else {
            drop(caller);
            let Ok(Recall::UnderWay(it)) = waiter.recall_again(&setup.orders, &mut wait).await else { panic!("free") };
            // Its connection has seen nothing yet.
            waits_at.left.store(true, Relaxed);
            Some(it)
        };
        written.end(answer("r1", Sent::Yes));
        let (told, mut newcomer) = given("r3", &setup).await;
        assert_eq!(told, answer("r1", Sent::Yes));
        if left == "before the newcomer's answer is read" {
            newcomer.written();
            assert_eq!(
                waiter.recall_again(&setup.orders, &mut wait).await.unwrap_err(),
                OrderRefusal::InFlight { first: first("r1") }
            );
            // That has said nothing about the newcomer, which has not read it.
            drop(newcomer);
            drop(given("r4", &setup).await);
            continue;
        }
        Box::new(newcomer).reached();
        if let Some(under_way) = under_way {
            wait.waited_as(under_way.ended().await);
        }
        let refused = waiter.recall_again(&setup.orders, &mut wait).await.unwrap_err();
        assert_eq!(refused, OrderRefusal::InFlight { first: first("r1") }, "{left}");
        drop(order("r4").new_order(&setup.orders).await);
    }
}

#[tokio::test]
async fn one_that_has_waited_for_an_order_that_was_not_sent_is_sent() {
    let setup = OrdersSetup::new().await;
    let (ticket, _caller) = order("r1").new_order(&setup.orders).await;
    let written = setup.orders.write(ticket).await.unwrap();
    let mut wait = OrderWait::default();
    let Ok(Recall::Occupied(_)) = order("r2").recall_again(&setup.orders, &mut wait).await else { panic!("free") };
    written.unsent();
    let again = order("r2").recall_again(&setup.orders, &mut wait).await;
    assert!(matches!(again, Ok(Recall::New(..))), "{again:?}");
}

/// `undelivered` is about callers that come back later; one that has waited gets what it has waited for.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_kept_is_given_to_the_one_that_waits_for_it() {
    for undelivered in [Duration::ZERO, Duration::from_millis(1)] {
        let setup = OrdersSetup::new().await;
        setup.orders.reconfigure(&OrdersConfig { undelivered, ..settings() }, 1 << 30);
        let (ticket, caller) = order("r1").new_order(&setup.orders).await;
        let written = setup.orders.write(ticket).await.unwrap();
        drop(caller);
        let waiting = under_way(order("r2"), &setup).await;
        written.end(answer("r1", Sent::Yes));
        let waited = Some(waiting.ended().await);
        tokio::time::advance(Duration::from_secs(1)).await;
        let Ok(Recall::Repeat(told, Some(caller))) = order("r2").recall_after(&setup.orders, waited).await else {
            panic!("{undelivered:?}: no answer")
        };
        assert_eq!(*told, answer("r1", Sent::Yes));
        drop(caller);
        drop(order("r3").new_order(&setup.orders).await);
    }
}

#[tokio::test]
async fn a_repeat_of_a_key_waits_too() {
    let setup = OrdersSetup::new().await;
    let (ticket, caller) = order("r1").key("k").new_order(&setup.orders).await;
    let written = setup.orders.write(ticket).await.unwrap();
    assert_eq!(order("r2").key("k").refused(&setup.orders).await.code(), Code::OrderInFlight);
    drop(caller);
    let waiting = under_way(order("r3").key("k"), &setup).await;
    written.end(answer("r1", Sent::Yes));
    drop(waiting.ended().await);
    let Ok(Recall::Repeat(told, Some(caller))) = order("r4").key("k").recall(&setup.orders).await else {
        panic!("no answer")
    };
    assert_eq!(*told, answer("r1", Sent::Yes));
    Box::new(caller).reached();
    // With a key, what has reached its caller is repeated as well; without one, an equal order is a new one.
    assert_eq!(order("r5").key("k").repeat(&setup.orders).await, answer("r1", Sent::Yes));
    let _new = order("r6").ticket(&setup.orders).await;
}

#[tokio::test]
async fn it_survives_a_restart() {
    let setup = OrdersSetup::new().await;
    let (ticket, caller) = order("r1").new_order(&setup.orders).await;
    setup.orders.write(ticket).await.unwrap().end(answer("r1", Sent::Yes));
    std::mem::forget(caller);
    setup.store.close().await;
    setup.orders.archive().close().await;
    let orders = Orders::open(open_stores(setup._home.path()), start_time(), &settings(), 1 << 30).await.unwrap();
    let setup = OrdersSetup { orders, ..setup };
    let (told, _caller) = given("r2", &setup).await;
    assert_eq!(told, answer("r1", Sent::Yes));
}
