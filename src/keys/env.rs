//! The `env` source: two environment variables, read once at start.

use std::env::{self, VarError};

use super::{
    fault::SourceError,
    pair::{KeyPair, RawPair},
    secret::Secret,
};

/// A pair that was read from the environment.
#[derive(Debug)]
pub(super) struct KeyEnvironment {
    access: Secret,
    secret: Secret,
    /// The names of the variables.
    place: String,
}

impl KeyEnvironment {
    /// Reads the variables with these names.
    ///
    /// # Errors
    /// [`SourceError::Malformed`] when one is missing, isn't text, or can't be a key.
    pub(super) fn read_once(access_key: &str, secret_key: &str) -> Result<Self, SourceError> {
        let read = |name: &str| match env::var(name) {
            Ok(value) => Ok(Secret::line(value)),
            // The error's own text would show the value.
            Err(VarError::NotUnicode(_)) => Err(SourceError::malformed(name, "is not text")),
            Err(VarError::NotPresent) => Err(SourceError::malformed(name, "is not set in the environment")),
        };
        let (access, secret) = (read(access_key)?, read(secret_key)?);
        let place = format!("{access_key}, {secret_key}");
        KeyPair::new(access.clone(), secret.clone()).map_err(|error| SourceError::no_pair(&place, error))?;
        Ok(Self { access, secret, place })
    }

    pub(super) fn read(&self) -> RawPair {
        RawPair { access: self.access.clone(), secret: self.secret.clone(), place: self.place.clone(), version: None }
    }
}
