//! The `env` source: two environment variables, read once at start.

use std::env::{self, VarError};

use super::{
    fault::SourceError,
    pair::{PairError, RawPair, check_access_key, check_secret_key},
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
    /// [`SourceError::Malformed`] when a variable isn't text or can't be a key, else [`SourceError::Unset`] when one
    /// is missing.
    pub(super) fn read_once(access_key: &str, secret_key: &str) -> Result<Self, SourceError> {
        let access = read(access_key, check_access_key)?;
        let secret = read(secret_key, check_secret_key)?;
        let unset = [(access_key, &access), (secret_key, &secret)].into_iter().filter(|(_, value)| value.is_none());
        let unset: Vec<&str> = unset.map(|(name, _)| name).collect();
        let (Some(access), Some(secret)) = (access, secret) else {
            return Err(SourceError::Unset { variables: unset.join(", ") });
        };
        Ok(Self { access, secret, place: format!("{access_key}, {secret_key}") })
    }

    pub(super) fn read(&self) -> RawPair {
        RawPair { access: self.access.clone(), secret: self.secret.clone(), place: self.place.clone(), version: None }
    }
}

/// The value of a variable; `None`: it is not set.
fn read(name: &str, check: fn(&Secret) -> Result<(), PairError>) -> Result<Option<Secret>, SourceError> {
    let value = match env::var(name) {
        Ok(value) => Secret::line(value),
        // The error's own text would show the value.
        Err(VarError::NotUnicode(_)) => return Err(SourceError::malformed(name, "is not text")),
        Err(VarError::NotPresent) => return Ok(None),
    };
    check(&value).map_err(|error| SourceError::no_pair(name, error))?;
    Ok(Some(value))
}
