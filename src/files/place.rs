//! Whether a file or folder could be opened or created, without opening it for use: what the system would say.
//!
//! Nothing is created or changed. Fails with the system's error.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::{
    fs::{Access, access},
    io::Errno,
};

use super::read::WITHOUT_WAITING;

/// Whether files can be created in a folder, or the folder itself can, with those above it.
///
/// # Errors
/// What creating it would fail with.
pub fn may_create_in(folder: &Path) -> io::Result<()> {
    let mut existing = folder;
    loop {
        let here = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
        match fs::metadata(here) {
            Ok(metadata) if metadata.is_dir() => return Ok(access(here, Access::WRITE_OK | Access::EXEC_OK)?),
            Ok(_) => return Err(Errno::NOTDIR.into()),
            // A link that leads nowhere is in the way of a folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound && here.is_symlink() => {
                return Err(Errno::EXIST.into());
            }
            Err(error) => match existing.parent() {
                Some(parent) if error.kind() == io::ErrorKind::NotFound => existing = parent,
                _ => return Err(error),
            },
        }
    }
}

/// Opens a file that is there for reading and writing; `None`: there is none, and one can be created.
///
/// # Errors
/// What opening or creating it would fail with.
pub fn open_existing(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).write(true).custom_flags(WITHOUT_WAITING).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path);
            // A link that leads nowhere: the file is created where it leads to.
            match fs::read_link(path) {
                Ok(target) => open_existing(&folder.join(target)),
                Err(_) => may_create_in(folder).map(|()| None),
            }
        }
        Err(error) => Err(error),
    }
}
