//! Reading files that others change: certificates, authorities, key files, the configuration itself.
//!
//! A file may be replaced or half written at any time, so each reader works on one open file and the
//! `Stamp` tells whether it changed meanwhile. A disk that does not respond makes no reader wait for ever. No error quotes a file's content. The room does not
//! know who uses what it reads. It imports only `config`, for the settings that name the files.

pub(crate) mod certificate;
mod collisions;
pub mod configuration;
mod deadline;
pub(crate) mod includes;
pub mod listener;
mod memory;
mod pem;
pub mod place;
mod poll;
pub(crate) mod read;
mod roots;
mod stamp;
pub(crate) mod watch;

pub(crate) use self::deadline::{configuration_is_late, configuration_within_deadline, late_reads};
pub(crate) use self::poll::FileWatch;
pub use self::read::FileError;
pub use self::roots::RootsError;
pub(crate) use self::roots::roots;
pub(crate) use self::stamp::Stamp;
