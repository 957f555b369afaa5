//! Text encrypted at rest with age: key files (`*.age`), and the copies of pairs that survive a restart.
//!
//! Plain text is only in buffers that are zeroed; no error quotes what was read. Knows nothing of the
//! meaning of the text. Fails with [`EncryptionError`].

use std::{
    io::{Read as _, Write as _},
    path::Path,
};

use age::{Decryptor, Encryptor, IdentityFile, armor::ArmoredReader};
use zeroize::Zeroizing;

use crate::files::{
    FileError,
    read::{MAX_KEY_FILE, read_private},
};

/// Maximum length of a plain text, in bytes.
const MAX_PLAIN: usize = 1 << 20;

/// A text can't be decrypted or encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EncryptionError {
    #[error("holds no age identity (AGE-SECRET-KEY-1…; age-keygen makes one)")]
    NoIdentity,
    /// The text is not an age file, or it was changed.
    #[error("is not an age file, or not a complete one")]
    NotAge,
    /// The text is encrypted to other identities.
    #[error("is not encrypted to this identity")]
    NotForUs,
    #[error("is longer than 1 MiB")]
    TooLong,
    /// The system has no random numbers.
    #[error("can't be encrypted")]
    NotSealed,
}

/// The content of a private file with age identities.
///
/// # Errors
/// [`FileError`] if it can't be read, or has no identity.
pub(crate) fn read_identities(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let content = read_private(path, MAX_KEY_FILE)?.bytes;
    seal(b"", &content).map_err(|error| FileError::unfit(path, error.to_string()))?;
    Ok(content)
}

/// Decrypts a text, armoured or not, with any of the identities in an identity file.
///
/// # Errors
/// [`EncryptionError`], about the identity file for [`EncryptionError::NoIdentity`], else about the text.
pub(crate) fn open(text: &[u8], identities: &[u8]) -> Result<Zeroizing<Vec<u8>>, EncryptionError> {
    let identities = parse(identities)?.into_identities().map_err(|_| EncryptionError::NoIdentity)?;
    let sealed = Decryptor::new_buffered(ArmoredReader::new(text)).map_err(|_| EncryptionError::NotAge)?;
    let opened = sealed.decrypt(identities.iter().map(|identity| identity.as_ref() as &dyn age::Identity));
    let opened = opened.map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => EncryptionError::NotForUs,
        _ => EncryptionError::NotAge,
    })?;
    // The plain text is never longer than the cipher text; with room for one byte more, the buffer does
    // not grow and leave a copy behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(text.len().min(MAX_PLAIN) + 33));
    opened.take(MAX_PLAIN as u64 + 1).read_to_end(&mut plain).map_err(|_| EncryptionError::NotAge)?;
    if plain.len() > MAX_PLAIN { Err(EncryptionError::TooLong) } else { Ok(plain) }
}

/// Encrypts a text to all identities of an identity file.
///
/// # Errors
/// [`EncryptionError::NoIdentity`] about the file; [`EncryptionError::NotSealed`] when the system gives no random
/// numbers.
pub(crate) fn seal(plain: &[u8], identities: &[u8]) -> Result<Vec<u8>, EncryptionError> {
    let recipients = parse(identities)?.to_recipients().map_err(|_| EncryptionError::NoIdentity)?;
    let recipients = recipients.iter().map(|recipient| recipient.as_ref() as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(recipients).map_err(|_| EncryptionError::NoIdentity)?;
    let mut text = Vec::with_capacity(plain.len() + 1024);
    let mut writer = encryptor.wrap_output(&mut text).map_err(|_| EncryptionError::NotSealed)?;
    writer.write_all(plain).and_then(|()| writer.finish()).map_err(|_| EncryptionError::NotSealed)?;
    Ok(text)
}

fn parse(identities: &[u8]) -> Result<IdentityFile<age::NoCallbacks>, EncryptionError> {
    IdentityFile::from_buffer(identities).map_err(|_| EncryptionError::NoIdentity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> String {
        use age::secrecy::ExposeSecret as _;
        let identity = age::x25519::Identity::generate();
        format!("# created: now\n# public key: {}\n{}\n", identity.to_public(), identity.to_string().expose_secret())
    }

    #[test]
    fn what_is_sealed_opens_with_its_identity_and_no_other() {
        let (ours, others) = (identity(), identity());
        let sealed = seal(b"[main]\n", ours.as_bytes()).unwrap();
        assert_eq!(open(&sealed, ours.as_bytes()).unwrap().as_slice(), b"[main]\n");
        assert_eq!(open(&sealed, others.as_bytes()), Err(EncryptionError::NotForUs));
        assert!(!sealed.windows(6).any(|window| window == b"[main]"));
    }

    #[test]
    fn one_bit_more_or_less_is_no_age_file() {
        let ours = identity();
        let sealed = seal(b"secret", ours.as_bytes()).unwrap();
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert!(open(&bent, ours.as_bytes()).is_err(), "byte {at}");
            assert!(open(&sealed[..at], ours.as_bytes()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_file_without_identities_says_so_and_nothing_of_itself() {
        let sealed = seal(b"secret", identity().as_bytes()).unwrap();
        for text in ["", "# only a comment\n", "AGE-SECRET-KEY-1WRONG\n", "\u{0}"] {
            let fault = open(&sealed, text.as_bytes()).unwrap_err();
            assert!(matches!(fault, EncryptionError::NoIdentity | EncryptionError::NotForUs), "{text:?}: {fault}");
            assert_eq!(seal(b"x", text.as_bytes()), Err(EncryptionError::NoIdentity), "{text:?}");
        }
    }
}
