//! Opens the store's folder and file: modes, the writer's lock, and errors that name what cannot be
//! opened.
//!
//! Always holds: the file is readable by its owner only, and its name is on disk before the first
//! write. Fails with [`OpenError`].

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{ConcurrencyMode, Database, DatabaseError, StorageError, backends::FileBackend};

use super::error::OpenError;

/// The file in `state.dir`.
const FILE: &str = "state.redb";

/// Page cache, bytes. The store is written far more than read, and redb's default is 1 GiB.
const PAGE_CACHE: usize = 8 << 20;

/// Creates the folder if it is missing. An existing one keeps its mode: it belongs to the operator,
/// and the file is private whatever the mode of its folder.
pub(super) fn prepare(dir: &Path) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| folder(dir, source))
}

/// Opens the file, creating it if it is missing, and takes the writer's lock.
pub(super) fn open(dir: &Path) -> Result<Database, OpenError> {
    let path = dir.join(FILE);
    let file = open_file(dir, &path).map_err(|source| folder(dir, source))?;
    let opened = catch_unwind(AssertUnwindSafe(|| {
        // redb may panic on a file that another program has written to.
        Database::builder()
            .set_cache_size(PAGE_CACHE)
            .set_concurrency_mode(ConcurrencyMode::SingleWriter)
            .set_check_integrity_on_open(true)
            .create_with_backend(FileBackend::new(file)?)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(open_error(dir, path, error)),
        Err(_) => Err(OpenError::Damaged { file: path, reason: "its pages are inconsistent".into() }),
    }
}

fn open_file(dir: &Path, path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // A restored copy may be readable by others, and it holds responses.
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    // The name of a new file must survive a power failure, as its bytes do.
    File::open(dir)?.sync_all()?;
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
