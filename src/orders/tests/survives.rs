//! A restart and `kill -9`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use super::*;

const DAY: Duration = Duration::from_hours(24);

/// Set in the child process: the folder that it writes in.
const CHILD: &str = "FASTRAC_GATEWAY_TEST_ORDERS_CHILD";

/// Open orders, and their store.
struct Opened {
    store: Store,
    orders: Orders,
}

impl Opened {
    async fn new(dir: &Path, wall: Timestamp) -> Opened {
        let stores = open_stores(dir);
        Opened {
            store: stores.journal.clone(),
            orders: Orders::open(stores, wall, &settings(), 1 << 30).await.unwrap(),
        }
    }

    /// A clean restart `passed` later, on a machine whose wall clock shows `wall`.
    async fn restarted(self, dir: &Path, wall: Timestamp, passed: Duration) -> Opened {
        tokio::time::advance(passed).await;
        self.orders.write_time();
        crate::orders::archiver::archive_all(&self.orders).await;
        self.store.close().await;
        self.orders.archive().close().await;
        Opened::new(dir, wall).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_answers_and_what_is_unknown() {
    let home = tempfile::tempdir().unwrap();
    let opened = Opened::new(home.path(), start_time()).await;
    let orders = &opened.orders;
    order("r1").key("k1").written(orders).await.end(answer("r1", Sent::Yes));
    let other = |id: &str| TestOrder { body: "other".into(), ..order(id) };
    other("r2").key("k2").written(orders).await.end(answer("r2", Sent::Unknown));
    drop(TestOrder { body: "third".into(), ..order("r3") }.written(orders).await);

    let opened = opened.restarted(home.path(), start_time(), DAY - Duration::from_secs(1)).await;
    let orders = &opened.orders;
    assert_eq!(orders.unknown_count("main"), 2);
    assert_eq!(orders.unknown_count("other account"), 0);
    assert_eq!(order("r4").key("k1").repeat(orders).await, answer("r1", Sent::Yes));
    assert_eq!(other("r5").key("k2").repeat(orders).await, answer("r2", Sent::Unknown));
    assert_eq!(other("r6").refused(orders).await, OrderRefusal::Held { first: first("r2") });
    // Settling works across a restart, too.
    other("r7").confirmed().written(orders).await.end(answer("r7", Sent::Yes));

    let opened = opened.restarted(home.path(), start_time(), Duration::ZERO).await;
    let orders = &opened.orders;
    assert_eq!(orders.unknown_count("main"), 1);
    assert_eq!(other("r8").key("k2").repeat(orders).await, answer("r2", Sent::Unknown));
    // It has reached nobody.
    let Ok(Recall::Repeat(told, Some(caller))) = other("r9").recall(orders).await else { panic!("no answer") };
    assert_eq!(*told, answer("r7", Sent::Yes));
    Box::new(caller).reached();
    drop(other("r9").new_order(orders).await);

    // r2's key was settled later than the others ended, so it is remembered longer.
    let later = REMEMBERED - DAY + Duration::from_hours(1);
    let opened = opened.restarted(home.path(), start_time(), later).await;
    let orders = &opened.orders;
    assert_eq!(orders.unknown_count("main"), 1, "until it is settled");
    drop(order("r10").key("k1").new_order(orders).await);
    other("r11").key("k2").repeat(orders).await;
    opened.store.close().await;
}

/// The wall clock may be wrong at a start, and be corrected later.
#[tokio::test(start_paused = true)]
async fn ages_do_not_follow_the_wall_clock() {
    let home = tempfile::tempdir().unwrap();
    let mut opened = Opened::new(home.path(), start_time()).await;
    drop(order("r1").written(&opened.orders).await);
    let keyed = |id: &str| TestOrder { body: "keyed".into(), ..order(id) }.key("k");
    keyed("r2").written(&opened.orders).await.end(answer("r2", Sent::Yes));
    let (hours, years) = (Duration::from_hours(25), REMEMBERED * 1000);
    for wall in [start_time() + hours, start_time() - hours * 3, start_time() + years, start_time() - years] {
        opened = opened.restarted(home.path(), wall, Duration::from_hours(1)).await;
        assert_eq!(order("r3").refused(&opened.orders).await, OrderRefusal::Held { first: first("r1") });
        assert_eq!(keyed("r4").repeat(&opened.orders).await, answer("r2", Sent::Yes));
    }
    // Only the time in which the gateway runs counts.
    opened = opened.restarted(home.path(), start_time(), DAY - Duration::from_hours(4)).await;
    drop(order("r5").new_order(&opened.orders).await);
    keyed("r5").repeat(&opened.orders).await;
    opened = opened.restarted(home.path(), start_time(), REMEMBERED - DAY).await;
    drop(keyed("r6").new_order(&opened.orders).await);
}

/// Not a test of its own: what the child process of the test below does until it is killed.
#[tokio::test]
async fn child_process() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let orders = Orders::open(open_stores(&dir), start_time(), &settings(), 1 << 30).await.unwrap();
    order("r1").key("ended").written(&orders).await.end(answer("r1", Sent::Yes));
    let body = |body: &str, id: &str| TestOrder { body: body.into(), ..order(id) };
    body("unsent", "r2").key("unsent").written(&orders).await.unsent();
    let _claimed = body("claimed", "r3").key("claimed").ticket(&orders).await;
    // Written last, so that everything before it is on disk as well.
    let _sent = body("sent", "r4").key("sent").written(&orders).await;
    println!("\nwritten");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn kill_9_leaves_what_was_sent_unknown_and_the_rest_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "orders::tests::survives::child_process", "--nocapture"])
        .env(CHILD, home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "written"), "the child ended early");
    assert!(matches!(Store::open(home.path()), Err(crate::store::OpenError::InUse { .. })));
    child.kill().unwrap();
    child.wait().unwrap();

    let orders = Orders::open(open_stores(home.path()), start_time(), &settings(), 1 << 30).await.unwrap();
    assert_eq!(orders.unknown_count("main"), 1);
    assert_eq!(order("r5").key("ended").repeat(&orders).await, answer("r1", Sent::Yes));
    let body = |body: &str| TestOrder { body: body.into(), ..order("r6") };
    drop(body("unsent").key("unsent").ticket(&orders).await);
    drop(body("claimed").key("claimed").ticket(&orders).await);
    assert_eq!(body("sent").key("sent").refused(&orders).await, OrderRefusal::Interrupted { first: first("r4") });
    assert_eq!(body("sent").refused(&orders).await, OrderRefusal::Held { first: first("r4") });
}

/// A disk that is slow: what is submitted from now on is not written until the sender is dropped.
fn stall(store: &Store) -> mpsc::Sender<()> {
    let (stalled, release) = mpsc::channel::<()>();
    let (begins, begun) = mpsc::channel();
    let mut batch = WriteBatch::default();
    batch.put(&CLOCK, CLOCK_KEY, &ClockRow(0));
    store.submit(batch, move |_| {
        begins.send(()).unwrap();
        let _ = release.recv();
    });
    begun.recv().unwrap();
    stalled
}

/// The files as a process leaves them that ends now.
fn left_behind(home: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(home).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// The disk may be so slow that the process ends before the journal is right.
#[tokio::test]
async fn an_order_that_was_not_sent_is_not_unknown_after_a_stop_that_could_not_remove_it() {
    let home = tempfile::tempdir().unwrap();
    let opened = Opened::new(home.path(), start_time()).await;
    let withdrawn = order("r1").written(&opened.orders).await;
    let _sent = TestOrder { body: "another".into(), ..order("r2") }.written(&opened.orders).await;
    let stalled = stall(&opened.store);
    withdrawn.unsent();
    opened.orders.note_withdrawn();
    let after_stop = left_behind(home.path());
    drop(stalled);
    let file = after_stop.path().join("orders-withdrawn");
    let noted = std::fs::read(&file).expect("a note");

    let next = Opened::new(after_stop.path(), start_time()).await;
    assert_eq!(next.orders.unknown_count("main"), 1, "only the one that was sent");
    assert!(!file.exists());
    let (ticket, caller) = order("r3").new_order(&next.orders).await;
    std::mem::forget((next.orders.write(ticket).await.unwrap(), caller));
    // Once what was submitted is on disk, there is nothing to note.
    next.orders.note_withdrawn();
    assert!(!file.exists());
    // One that comes back says nothing about a later life of the journal.
    std::fs::write(&file, noted).unwrap();
    next.store.close().await;
    next.orders.archive().close().await;
    let last = Opened::new(after_stop.path(), start_time()).await;
    assert_eq!(last.orders.unknown_count("main"), 2);
    assert!(!file.exists());
}

#[tokio::test]
async fn a_note_of_withdrawn_orders_that_cannot_be_read_leaves_them_unknown() {
    for damage in [&b""[..], b"{\"life\":1,\"rows\":{\"0\":", b"\0\0\0\0", b"{\"life\":1,\"rows\":{\"0\":0}}"] {
        let home = tempfile::tempdir().unwrap();
        let opened = Opened::new(home.path(), start_time()).await;
        std::mem::forget(order("r1").written(&opened.orders).await);
        let after_stop = left_behind(home.path());
        std::fs::write(after_stop.path().join("orders-withdrawn"), damage).unwrap();
        let next = Opened::new(after_stop.path(), start_time()).await;
        assert_eq!(next.orders.unknown_count("main"), 1);
    }
}
