//! The folder and the file: modes, locks, and what an unopenable one is called.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{ConcurrencyMode, Database, DatabaseError, StorageError};

use super::OpenError;

/// The file in `state.dir`.
const FILE: &str = "state.redb";

/// Bytes of pages kept in memory. The journal is written far more than read, and redb's default is
/// 1 GiB.
const PAGES_IN_MEMORY: usize = 8 << 20;

/// Makes the folder if it is missing. An existing one keeps its mode: it is the operator's, and the
/// file is closed to others whatever the folder says.
pub(super) fn prepare(dir: &Path) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| folder(dir, source))
}

/// Opens the file, making it if it is missing, and takes the writer's lock.
pub(super) fn open(dir: &Path) -> Result<Database, OpenError> {
    let path = dir.join(FILE);
    let file = open_file(dir, &path).map_err(|source| folder(dir, source))?;
    let opened = catch_unwind(AssertUnwindSafe(|| {
        // redb may panic on a file that something else has written into.
        Database::builder()
            .set_cache_size(PAGES_IN_MEMORY)
            .set_concurrency_mode(ConcurrencyMode::SingleWriter)
            .set_check_integrity_on_open(true)
            .create_with_backend(FileBackend::new(file)?)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(fault)) => Err(named(dir, path, fault)),
        Err(_) => Err(OpenError::Damaged { file: path, reason: "its pages make no sense".into() }),
    }
}

fn open_file(dir: &Path, path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // A file that came from elsewhere (a restored copy) may be open to others: it holds answers.
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    // The name of a new file must survive a power cut as its bytes do.
    File::open(dir)?.sync_all()?;
    Ok(file)
}

fn named(dir: &Path, file: PathBuf, fault: DatabaseError) -> OpenError {
    match fault {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse { dir: dir.to_owned() }
        }
        // redb says "invalid data" of a file that is not its own.
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() != io::ErrorKind::InvalidData => {
            folder(dir, source)
        }
        other => OpenError::Damaged { file, reason: other.to_string() },
    }
}

fn folder(dir: &Path, source: io::Error) -> OpenError {
    OpenError::Folder { dir: dir.to_owned(), source }
}
