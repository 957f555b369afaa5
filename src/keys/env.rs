//! The `env` source: two environment variables, read once at start.

use super::{
    secret::{KeyPair, Secret},
    source::{RawPair, SourceError},
};

/// A pair that was read from the environment.
#[derive(Debug)]
pub(super) struct Env {
    access: Secret,
    secret: Secret,
    place: String,
}

impl Env {
    /// Reads the variables.
    ///
    /// # Errors
    /// [`SourceError`] when one is missing, isn't text, or can't be a key.
    pub(super) fn read_once(access_key: &str, secret_key: &str) -> Result<Self, SourceError> {
        let read = |name: &str| match std::env::var(name) {
            Ok(value) => Ok(Secret::line(value)),
            // The error's own text would show the value.
            Err(std::env::VarError::NotUnicode(_)) => Err(SourceError::malformed(name, "is not text")),
            Err(std::env::VarError::NotPresent) => Err(SourceError::malformed(name, "is not set in the environment")),
        };
        let (access, secret) = (read(access_key)?, read(secret_key)?);
        let place = format!("{access_key}, {secret_key}");
        KeyPair::new(access.clone(), secret.clone()).map_err(|why| SourceError::no_pair(&place, why))?;
        Ok(Self { access, secret, place })
    }

    pub(super) fn read(&self) -> RawPair {
        RawPair { access: self.access.clone(), secret: self.secret.clone(), place: self.place.clone(), version: None }
    }
}
