//! Promises of the store: what it keeps across restarts and full disks, and its errors.

#![allow(clippy::disallowed_methods, reason = "tasks of a test")]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{ConcurrencyMode, Database, StorageBackend};

use super::*;

struct Word(String);

impl StoredRow for Word {
    fn encode(&self) -> Vec<u8> {
        self.0.as_bytes().to_owned()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_owned()).ok().map(Word)
    }
}

struct Raw(Vec<u8>);

impl StoredRow for Raw {
    fn encode(&self) -> Vec<u8> {
        self.0.clone()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Raw(bytes.to_owned()))
    }
}

struct Shared(Arc<String>);

impl StoredRow for Shared {
    fn encode(&self) -> Vec<u8> {
        self.0.as_bytes().to_owned()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_owned()).ok().map(|text| Shared(Arc::new(text)))
    }
}

const SHARED: StoreTable<Shared> = StoreTable::new("test.shared");
const WORDS: StoreTable<Word> = StoreTable::new("test.words");
const WORDS_AS_BYTES: StoreTable<Raw> = StoreTable::new("test.words");

fn put(key: &str, word: &str) -> WriteBatch {
    let mut batch = WriteBatch::default();
    batch.put(&WORDS, key.as_bytes(), &Word(word.into()));
    batch
}

async fn word(store: &Store, key: &str) -> Option<String> {
    store.get(&WORDS, key.as_bytes()).await.unwrap().map(|word| word.0)
}

mod is_private {
    use super::*;

    #[test]
    fn folder_and_file_are_closed_to_others() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/state");
        let store = Store::open(&dir).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("state.redb")), 0o600);
        drop(store);
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_closed_to_them() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("state.redb");
        Store::open(home.path()).unwrap().close().await;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let _store = Store::open(home.path()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

mod has_one_writer {
    use super::*;

    #[tokio::test]
    async fn a_second_opener_is_refused_and_told_the_folder() {
        let home = tempfile::tempdir().unwrap();
        let first = Store::open(home.path()).unwrap();
        let refused = Store::open(home.path()).unwrap_err();
        assert!(matches!(&refused, OpenError::InUse { dir } if dir == home.path()), "{refused}");
        assert!(refused.to_string().contains(home.path().to_str().unwrap()), "{refused}");
        assert!(refused.to_string().starts_with("another process uses"), "{refused}");
        // The first one is not affected.
        first.write(put("a", "1")).await.unwrap();
        first.close().await;
        assert_eq!(word(&Store::open(home.path()).unwrap(), "a").await.as_deref(), Some("1"));
    }

    #[tokio::test]
    async fn a_reader_may_read_meanwhile() {
        use redb::ReadableDatabase;
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        store.write(put("a", "1")).await.unwrap();
        let reader = Database::builder()
            .set_concurrency_mode(ConcurrencyMode::SingleWriter)
            .open_read_only(home.path().join("state.redb"))
            .unwrap();
        store.write(put("b", "2")).await.unwrap();
        let table: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("test.words");
        let rows = reader.begin_read().unwrap().open_table(table).unwrap();
        assert_eq!(rows.get(b"b".as_slice()).unwrap().unwrap().value(), b"2");
        store.write(put("c", "3")).await.unwrap();
    }

    #[test]
    fn a_file_that_is_no_store_is_an_error_and_stays() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("state.redb");
        fs::write(&file, vec![7u8; 8192]).unwrap();
        let refused = Store::open(home.path()).unwrap_err();
        assert!(matches!(&refused, OpenError::Damaged { .. }), "{refused:?}");
        assert_eq!(fs::read(&file).unwrap(), vec![7u8; 8192]);
    }
}

mod keeps {
    use super::*;

    #[tokio::test]
    async fn a_batch_is_applied_in_order_and_survives() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let mut batch = put("a", "1");
        batch.put(&WORDS, b"b", &Word("2".into()));
        batch.remove(&WORDS, b"a");
        batch.remove(&WORDS, b"never there");
        store.write(batch).await.unwrap();
        store.close().await;
        assert_eq!(store.write(put("c", "3")).await, Err(StoreError::Closed));
        assert!(!store.is_healthy());

        let store = Store::open(home.path()).unwrap();
        let loaded = store.load(&WORDS).await.unwrap();
        let rows: Vec<_> = loaded.rows.iter().map(|loaded| (loaded.key.as_slice(), loaded.row.0.as_str())).collect();
        assert_eq!(rows, [(b"b".as_slice(), "2")]);
    }

    #[tokio::test]
    async fn an_unreadable_row_is_counted_and_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        assert_eq!(store.load(&WORDS).await.unwrap().unreadable, 0);
        let mut batch = put("a", "1");
        batch.put(&WORDS_AS_BYTES, b"b", &Raw(vec![0xff]));
        store.write(batch).await.unwrap();
        let loaded = store.load(&WORDS).await.unwrap();
        assert_eq!((loaded.rows.len(), loaded.unreadable), (1, 1));
        assert!(store.get(&WORDS, b"b").await.unwrap().is_none());
        assert_eq!(store.load(&WORDS_AS_BYTES).await.unwrap().rows.len(), 2);
    }

    #[tokio::test]
    async fn what_is_queued_is_written_even_if_nobody_waits() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        drop(store.write(put("a", "1")));
        store.submit(put("b", "2"), |_| {});
        assert_eq!(word(&store, "b").await.as_deref(), Some("2"));
        assert_eq!(word(&store, "a").await.as_deref(), Some("1"));
    }
}

/// A disk whose syncs can be blocked, counted and made to fail.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    control: Arc<Control>,
}

#[derive(Debug, Default)]
struct Control {
    broken: AtomicBool,
    syncs: AtomicU64,
    stopped: Mutex<bool>,
    moved: Condvar,
}

impl Control {
    fn stop(&self, stopped: bool) {
        *self.stopped.lock().unwrap() = stopped;
        self.moved.notify_all();
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut stopped = self.control.stopped.lock().unwrap();
        while *stopped {
            stopped = self.control.moved.wait_timeout(stopped, Duration::from_secs(30)).unwrap().0;
        }
        self.control.syncs.fetch_add(1, Ordering::SeqCst);
        if self.control.broken.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// A store on a [`Disk`].
fn on_disk(home: &Path) -> (Store, Arc<Control>) {
    let control = Arc::new(Control::default());
    let (path, shared) = (home.join("state.redb"), Arc::clone(&control));
    (Store::start(home, Box::new(FileOnDisk { path, control: shared })).unwrap().0, control)
}

struct FileOnDisk {
    path: std::path::PathBuf,
    control: Arc<Control>,
}

impl StoreFile for FileOnDisk {
    fn open(&mut self) -> Result<Database, OpenError> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path).unwrap();
        let disk = Disk { file: FileBackend::new(file).unwrap(), control: Arc::clone(&self.control) };
        Database::builder()
            .create_with_backend(disk)
            .map_err(|error| OpenError::Damaged { file: self.path.clone(), reason: error.to_string() })
    }
}

mod syncs {
    use super::*;

    #[tokio::test]
    async fn many_writes_share_few_syncs() {
        let home = tempfile::tempdir().unwrap();
        let (store, disk) = on_disk(home.path());
        store.write(put("first", "0")).await.unwrap();
        let (syncs, commits) = (disk.syncs.load(Ordering::SeqCst), store.commits());
        // While one write blocks on the disk, 500 more queue up behind it.
        disk.stop(true);
        let writes: Vec<_> = (0..500).map(|i| store.write(put(&format!("{i}"), "x"))).collect();
        disk.stop(false);
        for write in writes {
            write.await.unwrap();
        }
        let (syncs, commits) = (disk.syncs.load(Ordering::SeqCst) - syncs, store.commits() - commits);
        assert!((1..=2).contains(&commits), "{commits} commits");
        assert!((1..=6).contains(&syncs), "{syncs} syncs");
        assert_eq!(store.load(&WORDS).await.unwrap().rows.len(), 501);
    }

    /// Of several of them at once redb held all pages, beside a copy of each in its batch.
    #[tokio::test]
    async fn a_long_row_is_encoded_when_it_is_written_and_has_a_commit_of_its_own() {
        let home = tempfile::tempdir().unwrap();
        let (store, disk) = on_disk(home.path());
        store.write(put("first", "0")).await.unwrap();
        let (held, commits) = (Arc::new("x".repeat(2 << 20)), store.commits());
        let long = |number: usize| {
            let mut batch = WriteBatch::default();
            batch.put_long(&SHARED, &[number as u8], Shared(held.clone()), held.len());
            batch
        };
        disk.stop(true);
        let writes: Vec<_> = (0..4).map(|number| store.write(long(number))).collect();
        assert_eq!(Arc::strong_count(&held), 5, "shared");
        disk.stop(false);
        for write in writes {
            write.await.unwrap();
        }
        assert_eq!((store.commits() - commits, Arc::strong_count(&held)), (4, 1));
        // Likewise if they are tried again.
        disk.broken.store(true, Ordering::SeqCst);
        let written: Vec<_> = (4..7)
            .map(|number| {
                let (written_tx, written) = tokio::sync::oneshot::channel();
                store.submit_until_written(long(number), move || written_tx.send(()).unwrap());
                written
            })
            .collect();
        assert!(matches!(store.write(put("b", "2")).await, Err(StoreError::Failed(_))));
        disk.broken.store(false, Ordering::SeqCst);
        for written in written {
            tokio::time::timeout(Duration::from_secs(20), written).await.expect("written").unwrap();
        }
        assert_eq!((store.commits() - commits, Arc::strong_count(&held)), (7, 1));
        assert!(store.load(&SHARED).await.unwrap().rows.iter().all(|loaded| loaded.row.0 == held));
    }

    #[tokio::test]
    async fn nothing_is_done_before_the_disk_is() {
        let home = tempfile::tempdir().unwrap();
        let (store, disk) = on_disk(home.path());
        disk.stop(true);
        let mut write = Box::pin(store.write(put("a", "1")));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut write).await;
        disk.stop(false);
        assert!(early.is_err(), "reported as done while the disk was blocked");
        write.await.unwrap();
    }

    #[tokio::test]
    async fn a_failed_write_is_reported_and_the_store_recovers_with_the_disk() {
        let home = tempfile::tempdir().unwrap();
        let (store, disk) = on_disk(home.path());
        store.write(put("a", "1")).await.unwrap();
        disk.broken.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            assert!(matches!(store.write(put("b", "2")).await, Err(StoreError::Failed(_))));
            assert!(!store.is_healthy());
        }
        disk.broken.store(false, Ordering::SeqCst);
        store.write(put("c", "3")).await.unwrap();
        assert!(store.is_healthy());
        assert_eq!(word(&store, "a").await.as_deref(), Some("1"));
        assert_eq!(word(&store, "c").await.as_deref(), Some("3"));
    }
}

mod notices {
    use super::*;

    const FILE: &str = "state.redb";

    /// The text of the error of a write that must fail.
    async fn failure(store: &Store) -> String {
        let error = store.write(put("b", "2")).await.unwrap_err();
        // What is shown without a token names the file, without its folder.
        let shown = store.failure().unwrap();
        let (text, said) = (error.to_string(), shown.strip_prefix("state.redb ").unwrap());
        assert!(!store.is_healthy() && text.ends_with(said), "{text}: {shown}");
        text
    }

    async fn opened(home: &Path) -> Store {
        let store = Store::open(home).unwrap();
        store.write(put("a", "1")).await.unwrap();
        store
    }

    #[tokio::test]
    async fn that_its_file_is_gone_and_makes_no_new_one() {
        let home = tempfile::tempdir().unwrap();
        let store = opened(home.path()).await;
        fs::rename(home.path().join(FILE), home.path().join("moved")).unwrap();
        assert!(failure(&store).await.contains("is gone"));
        assert!(!home.path().join(FILE).exists());
        // Another process would not know what this one has sent.
        assert!(matches!(Store::open(home.path()), Err(OpenError::InUse { .. })));
        fs::rename(home.path().join("moved"), home.path().join(FILE)).unwrap();
        store.write(put("c", "3")).await.unwrap();
        assert_eq!(word(&store, "a").await.as_deref(), Some("1"));
        assert!(store.is_healthy() && store.failure().is_none());
    }

    #[tokio::test]
    async fn that_its_file_was_replaced_or_emptied() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(FILE);
        let store = opened(home.path()).await;
        let copy = home.path().join("copy");
        fs::copy(&file, &copy).unwrap();
        fs::rename(&copy, &file).unwrap();
        assert!(failure(&store).await.contains("was replaced"));
        store.close().await;

        let store = opened(home.path()).await;
        fs::OpenOptions::new().write(true).truncate(true).open(&file).unwrap();
        assert!(failure(&store).await.contains("was emptied"));
        assert_eq!(fs::metadata(&file).unwrap().len(), 0, "nothing is written to it");
        store.close().await;
        let refused = Store::open(home.path()).unwrap_err();
        assert!(
            matches!(&refused, OpenError::Damaged { .. }) && refused.to_string().contains("it is empty"),
            "{refused}"
        );
        fs::remove_file(&file).unwrap();
        opened(home.path()).await;
    }

    /// redb would go on writing its pages into a file whose other pages are zero.
    #[tokio::test]
    async fn that_its_file_was_shortened_just_before_a_write() {
        for length in [0, 4096] {
            let home = tempfile::tempdir().unwrap();
            let file = home.path().join(FILE);
            let mut opened = FileInFolder::state(home.path()).unwrap();
            let database = opened.open().unwrap();
            let write = |text: &[u8]| -> Result<(), redb::Error> {
                let transaction = database.begin_write()?;
                transaction.open_table(super::super::table::definition("words"))?.insert(b"a".as_slice(), text)?;
                Ok(transaction.commit()?)
            };
            write(b"1").unwrap();
            fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(length).unwrap();
            // Without a look at the file before.
            assert!(write(b"2").is_err(), "{length}");
            assert_eq!(fs::metadata(&file).unwrap().len(), length, "nothing is written to it");
            let lost = opened.check().unwrap_err().to_string();
            assert!(lost.contains(if length == 0 { "was emptied" } else { "was shortened" }), "{lost}");
            std::mem::forget(database);
        }
    }

    #[tokio::test]
    async fn by_itself_within_a_second_or_two() {
        let home = tempfile::tempdir().unwrap();
        let store = opened(home.path()).await;
        fs::remove_file(home.path().join(FILE)).unwrap();
        let noticed = async {
            while store.is_healthy() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), noticed).await.expect("noticed");
    }

    #[tokio::test]
    async fn what_must_be_written_and_writes_it_before_everything_later() {
        let home = tempfile::tempdir().unwrap();
        let (store, disk) = on_disk(home.path());
        store.write(put("a", "1")).await.unwrap();
        disk.broken.store(true, Ordering::SeqCst);
        let (written_tx, written) = tokio::sync::oneshot::channel();
        store.submit_until_written(put("a", "2"), move || written_tx.send(()).unwrap());
        assert!(matches!(store.write(put("b", "2")).await, Err(StoreError::Failed(_))));
        disk.broken.store(false, Ordering::SeqCst);
        store.write(put("a", "3")).await.unwrap();
        written.await.unwrap();
        assert_eq!(word(&store, "a").await.as_deref(), Some("3"));
        // Also if nothing else is written.
        disk.broken.store(true, Ordering::SeqCst);
        let (written_tx, written) = tokio::sync::oneshot::channel();
        store.submit_until_written(put("d", "4"), move || written_tx.send(()).unwrap());
        assert!(matches!(store.write(put("b", "2")).await, Err(StoreError::Failed(_))));
        disk.broken.store(false, Ordering::SeqCst);
        tokio::time::timeout(Duration::from_secs(20), written).await.expect("written").unwrap();
        assert_eq!(word(&store, "d").await.as_deref(), Some("4"));
    }
}

mod is_inspected {
    use super::*;

    /// Both files of a folder, closed by a clean stop, with enough rows for pages above those of the rows.
    async fn closed(home: &Path) {
        let state = Store::open(home).unwrap();
        let (orders, _) = Store::open_beside_state(home, StoreKind::ORDERS).unwrap();
        for round in 0..3 {
            for store in [&state, &orders] {
                let mut batch = WriteBatch::default();
                for number in 0..200 {
                    batch.put(&WORDS, format!("{number}").as_bytes(), &Word(format!("{round}").repeat(100)));
                }
                store.write(batch).await.unwrap();
            }
        }
        orders.close().await;
        state.close().await;
    }

    /// Whether a gateway can open both stores, read all rows and write.
    async fn is_usable(dir: &Path) -> bool {
        let Ok(state) = Store::open(dir) else { return false };
        let orders = Store::open_beside_state(dir, StoreKind::ORDERS);
        let mut usable = orders.is_ok();
        for store in orders.iter().map(|(orders, _)| orders).chain([&state]) {
            usable &= store.write(put("0", "")).await.is_ok();
        }
        if let Ok((orders, _)) = orders {
            orders.close().await;
        }
        state.close().await;
        usable
    }

    #[tokio::test]
    async fn and_refused_if_a_gateway_could_not_use_it() {
        let home = tempfile::tempdir().unwrap();
        closed(home.path()).await;
        let (mut damages, mut refused) = (0, 0);
        for kind in [StoreKind::STATE, StoreKind::ORDERS] {
            let whole = fs::read(kind.file(home.path())).unwrap();
            let mut damaged: Vec<Vec<u8>> =
                [100, 2000, 4500, 6000, 9000].map(|cut| whole[..whole.len() - cut].to_vec()).into();
            for page in (0..whole.len()).step_by(4096).skip(1) {
                let (mut zeroed, mut flipped) = (whole.clone(), whole.clone());
                zeroed[page..page + 4096].fill(0);
                flipped[page + 3] ^= 0x10;
                damaged.extend([zeroed, flipped].into_iter().filter(|bytes| *bytes != whole));
            }
            damaged.push(whole.clone());
            for bytes in damaged {
                let copy = tempfile::tempdir().unwrap();
                for other in [StoreKind::STATE, StoreKind::ORDERS] {
                    fs::copy(other.file(home.path()), other.file(copy.path())).unwrap();
                }
                let file = kind.file(copy.path());
                fs::write(&file, &bytes).unwrap();
                let inspected = inspect(kind, &file, &mut |_, _, _| {});
                assert!(fs::read(&file).unwrap() == bytes, "the file was changed");
                assert!(inspected.is_ok() || bytes != whole, "{inspected:?}");
                let usable = is_usable(copy.path()).await;
                assert!(usable || inspected.is_err(), "{file:?}, {} bytes", bytes.len());
                damages += 1;
                refused += usize::from(!usable);
            }
        }
        assert!(damages > 20 && refused > 10, "{damages} damaged files, {refused} of no use");
    }
}
