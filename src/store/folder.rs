//! The store's folder and file: modes, the writer's locks, whether the file is still the one that was opened, and
//! errors that name what cannot be opened.
//!
//! Always holds: the file is readable by its owner only, and its name is on disk before the first write; a file that is
//! gone, replaced, emptied or shortened while the gateway runs is never written again, and no new one takes its place, because
//! what it knew would be forgotten. Fails with [`OpenError`] and [`LostFile`].

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use redb::{ConcurrencyMode, Database, DatabaseError, StorageBackend, StorageError};
use rustix::fs::{FlockOperation, flock};

use super::{
    damage,
    error::OpenError,
    tracked_file::{LengthDue, TrackedFile},
};

/// A store in `state.dir`: its file, and how that is opened and written.
#[derive(Clone, Copy, Debug)]
pub struct StoreKind {
    /// Name of the file.
    pub(super) file: &'static str,
    /// A new file, until it holds an empty store.
    new_file: &'static str,
    /// Whether a start reads the whole file and checks it, which takes a second for a GiB or so. If not, each commit also
    /// writes which pages are free, so that the file need not be read after a crash either.
    checked_at_start: bool,
}

impl StoreKind {
    /// What fits into memory; its writer locks the folder.
    pub const STATE: StoreKind = StoreKind { file: "state.redb", new_file: "state.redb.new", checked_at_start: true };
    /// The ended orders, which may be gigabytes. Its rows have checksums of their own.
    pub const ORDERS: StoreKind =
        StoreKind { file: "orders.redb", new_file: "orders.redb.new", checked_at_start: false };

    /// Its file in a folder.
    pub fn file(&self, dir: &Path) -> PathBuf {
        dir.join(self.file)
    }

    /// Whether a crash must leave a file that can be opened without reading it.
    pub(super) fn quick_repair(&self) -> bool {
        !self.checked_at_start
    }
}

/// What a file of redb begins with.
const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// Page cache, bytes. The store is written far more than read, and redb's default is 1 GiB.
pub(super) const PAGE_CACHE: usize = 8 << 20;

/// Creates the folder if it is missing. An existing one keeps its mode: it belongs to the operator,
/// and the file is private whatever the mode of its folder.
pub(super) fn prepare(dir: &Path) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| folder(dir, source))
}

/// The store's file.
pub(super) trait StoreFile: Send + Sync {
    /// Opens it; the first time it may be created.
    fn open(&mut self) -> Result<Database, OpenError>;
    /// Whether it is still the one that was opened.
    fn check(&self) -> Result<(), LostFile> {
        Ok(())
    }
    fn kind(&self) -> StoreKind {
        StoreKind::STATE
    }
    /// Copies it as it is.
    fn copy(&self, _: &mut File) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The store's file in `state.dir`, and the locks of its one writer.
#[derive(Debug)]
pub(super) struct FileInFolder {
    kind: StoreKind,
    dir: PathBuf,
    path: PathBuf,
    /// Locked: another process is refused also if the file itself was removed. Absent for a second store of the folder.
    _folder: Option<File>,
    /// The file that was opened first; absent before.
    known: Option<KnownFile>,
    /// How long it must be.
    due: LengthDue,
}

/// What must stay as it is while the file is in use.
#[derive(Clone, Copy, Debug)]
struct KnownFile {
    device: u64,
    inode: u64,
    /// Bytes.
    length: u64,
}

/// The file at the store's path is no longer the one that is in use.
#[derive(Debug, thiserror::Error)]
#[error("{} {loss}", path.display())]
pub(super) struct LostFile {
    path: PathBuf,
    pub(super) loss: FileLoss,
}

/// What happened to the file, as the rest of a sentence that begins with its name.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum FileLoss {
    #[error("is gone, removed or moved while it was in use: put it back, or stop the gateway and restore a copy")]
    Gone,
    #[error("was replaced while it was in use: put the original back, or restart the gateway with this one")]
    Replaced,
    #[error("was emptied while it was in use: restore a copy, and restart the gateway")]
    Emptied,
    #[error("was shortened while it was in use: restore a copy, and restart the gateway")]
    Shortened,
}

/// Whether there is such a store in the folder, or a file in its place. Where this cannot be told, opening it fails too.
pub fn exists(dir: &Path, kind: StoreKind) -> bool {
    !fs::metadata(dir.join(kind.file)).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// How to find out, without creating anything, what creating or opening would fail with.
#[derive(Clone, Copy, Debug)]
pub struct PlaceProbe {
    /// For files in a folder, or the folder itself.
    pub may_create_in: fn(&Path) -> io::Result<()>,
    /// For a file; `None`: it can be created.
    pub open_existing: fn(&Path) -> io::Result<Option<File>>,
}

/// Whether the stores in the folder can be opened or created, as far as can be told without doing that.
///
/// # Errors
/// What opening them would fail with.
pub fn usable(dir: &Path, probe: PlaceProbe) -> Result<(), OpenError> {
    (probe.may_create_in)(dir).map_err(|source| folder(dir, source))?;
    for kind in [StoreKind::STATE, StoreKind::ORDERS] {
        let path = dir.join(kind.file);
        if let Some(file) = (probe.open_existing)(&path).map_err(|source| folder(dir, source))? {
            begins_like_a_store(dir, &path, file)?;
        }
    }
    if dir.exists() { lock(dir, FlockOperation::NonBlockingLockShared).map(drop) } else { Ok(()) }
}

/// Locks the folder as long as the returned file is open.
fn lock(dir: &Path, operation: FlockOperation) -> Result<File, OpenError> {
    let locked = File::open(dir).map_err(|source| folder(dir, source))?;
    // Network file systems may not be able to lock a folder; then redb's lock of the file must do.
    match flock(&locked, operation) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { dir: dir.to_owned() }),
        _ => Ok(locked),
    }
}

/// Whether a gateway uses the store in this file.
pub(super) fn is_in_use(path: &Path) -> bool {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    matches!(lock(dir, FlockOperation::NonBlockingLockShared), Err(OpenError::InUse { .. }))
}

/// Opens the store in a file; an empty one is initialized. redb may panic on a damaged one.
pub(super) fn open_database(kind: StoreKind, file: impl StorageBackend) -> Result<Database, DatabaseError> {
    Database::builder()
        .set_cache_size(PAGE_CACHE)
        .set_concurrency_mode(ConcurrencyMode::SingleWriter)
        .set_check_integrity_on_open(kind.checked_at_start)
        .create_with_backend(file)
}

/// Whether a file may be a store: it is not empty, and begins like one.
fn begins_like_a_store(dir: &Path, path: &Path, mut file: File) -> Result<(), OpenError> {
    let damaged = |reason: &str| Err(OpenError::Damaged { file: path.to_owned(), reason: reason.to_owned() });
    let mut begins = [0; MAGIC.len()];
    match file.read_exact(&mut begins) {
        Ok(()) if begins == *MAGIC => Ok(()),
        Ok(()) => damaged("it is another file"),
        Err(_) if file.metadata().is_ok_and(|metadata| metadata.len() == 0) => damaged(
            "it is empty; restore a copy, or remove it to begin without what it knew of orders, keys and counts",
        ),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => damaged("it is another file"),
        Err(error) => Err(folder(dir, error)),
    }
}

impl FileInFolder {
    /// The file of the state store. Locks the folder.
    pub(super) fn state(dir: &Path) -> Result<Self, OpenError> {
        let locked = lock(dir, FlockOperation::NonBlockingLockExclusive)?;
        Ok(FileInFolder { _folder: Some(locked), ..FileInFolder::beside_state(dir, StoreKind::STATE) })
    }

    /// The file of another store in the folder, which the state store has locked.
    pub(super) fn beside_state(dir: &Path, kind: StoreKind) -> Self {
        FileInFolder {
            kind,
            dir: dir.to_owned(),
            path: dir.join(kind.file),
            _folder: None,
            known: None,
            due: LengthDue::default(),
        }
    }

    /// Opens a file, which redb initializes if it is empty.
    fn open_at(&self, path: &Path) -> Result<Database, OpenError> {
        let file = open_file(path).map_err(|source| folder(&self.dir, source))?;
        // redb may panic on a file that another program has written to.
        let opened = damage::catch(|| open_database(self.kind, TrackedFile::new(file, LengthDue::clone(&self.due))?));
        match opened {
            Some(Ok(database)) => Ok(database),
            Some(Err(error)) => Err(open_error(&self.dir, path.to_owned(), error)),
            None => Err(OpenError::Damaged { file: path.to_owned(), reason: "its pages are inconsistent".to_owned() }),
        }
    }

    /// Creates the file under another name first, so that one without contents never stands for a store.
    fn create(&self) -> Result<Database, OpenError> {
        let new = self.dir.join(self.kind.new_file);
        let io = |result: io::Result<()>| result.map_err(|source| folder(&self.dir, source));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(folder(&self.dir, error)),
            _ => {}
        }
        let database = self.open_at(&new)?;
        io(fs::rename(&new, &self.path))?;
        // The name of a new file must survive a power failure, as its bytes do.
        io(File::open(&self.dir).and_then(|dir| dir.sync_all()))?;
        Ok(database)
    }

    /// The file at the path now; `None`: there is none.
    fn present(&self) -> io::Result<Option<KnownFile>> {
        let found = fs::metadata(&self.path).map(Some).or_else(missing)?;
        Ok(found.map(|found| KnownFile { device: found.dev(), inode: found.ino(), length: found.len() }))
    }
}

impl StoreFile for FileInFolder {
    fn open(&mut self) -> Result<Database, OpenError> {
        let present = self.present().map_err(|source| folder(&self.dir, source))?;
        let database = match (self.known, present) {
            (None, None) => self.create()?,
            (None, Some(_)) => {
                let file = OpenOptions::new().read(true).write(true).open(&self.path);
                begins_like_a_store(&self.dir, &self.path, file.map_err(|source| folder(&self.dir, source))?)?;
                self.open_at(&self.path)?
            }
            (Some(_), _) => {
                self.check().map_err(|source| folder(&self.dir, io::Error::other(source)))?;
                self.open_at(&self.path)?
            }
        };
        if self.known.is_none() {
            self.known = self.present().map_err(|source| folder(&self.dir, source))?;
        }
        Ok(database)
    }

    fn kind(&self) -> StoreKind {
        self.kind
    }

    fn copy(&self, to: &mut File) -> io::Result<u64> {
        io::copy(&mut File::open(&self.path)?, to)
    }

    fn check(&self) -> Result<(), LostFile> {
        // What cannot be told now is told by the write itself.
        let (Some(known), Ok(present)) = (self.known, self.present()) else { return Ok(()) };
        let loss = match present {
            None => FileLoss::Gone,
            Some(found) if (found.device, found.inode) != (known.device, known.inode) => FileLoss::Replaced,
            Some(KnownFile { length: 0, .. }) => FileLoss::Emptied,
            Some(found) if found.length < self.due.load(Ordering::Relaxed) => FileLoss::Shortened,
            Some(_) => return Ok(()),
        };
        Err(LostFile { path: self.path.clone(), loss })
    }
}

/// `None` if there is no such file.
fn missing<T>(error: io::Error) -> io::Result<Option<T>> {
    if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) }
}

fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // A restored copy may be readable by others, and it holds responses.
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

fn open_error(dir: &Path, file: PathBuf, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse { dir: dir.to_owned() }
        }
        // redb reports "invalid data" for a file that it did not write.
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() != io::ErrorKind::InvalidData => {
            folder(dir, source)
        }
        other => OpenError::Damaged { file, reason: other.to_string() },
    }
}

fn folder(dir: &Path, source: io::Error) -> OpenError {
    OpenError::Folder { dir: dir.to_owned(), source }
}
