//! Creates secrets. The secret itself is only printed, once, and stored nowhere.

use std::io;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Prefix of every issued secret, so that scanners can find leaked ones.
const PREFIX: &str = "fgw_";
/// Random bytes in a secret: 256 bits.
const ENTROPY: usize = 32;

/// A new secret, and the digest that goes into the configuration.
pub(super) struct IssuedSecret {
    pub(super) text: Zeroizing<String>,
    /// 64 hexadecimal digits.
    pub(super) sha256: String,
}

impl IssuedSecret {
    /// # Errors
    /// The system provides no random numbers.
    pub(super) fn new() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0_u8; ENTROPY]);
        fill(&mut *bytes)?;
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + ENTROPY.div_ceil(3) * 4));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        let sha256 = hex::encode(Sha256::digest(text.as_bytes()));
        Ok(Self { text, sha256 })
    }
}

/// Random hexadecimal digits that distinguish the credentials of a service.
///
/// # Errors
/// The system provides no random numbers.
pub(super) fn suffix() -> io::Result<String> {
    let mut bytes = [0_u8; 4];
    fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|error| io::Error::other(format!("no random numbers: {error}")))
}
