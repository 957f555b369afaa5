//! When a certificate ends, the only fact of X.509 that the gateway needs, and what is said about it.
//!
//! A certificate that has expired is used nevertheless: a gateway that does not start serves nobody.
//! Reads the DER elements up to `notAfter` (RFC 5280 section 4.1) of a file that the operator configured; a
//! parser for all of X.509 was rejected as too large for that. `None` for what is not a certificate.

use std::path::Path;

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use rustls::pki_types::CertificateDer;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When the first certificate of a chain ends.
pub(super) fn ends(chain: &[CertificateDer<'_>]) -> Option<Timestamp> {
    chain.iter().filter_map(|certificate| not_after(certificate)).min()
}

/// When a certificate ends.
pub(super) fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let mut body = Der(Der(Der(certificate).take(SEQUENCE)?).take(SEQUENCE)?);
    if body.0.first() == Some(&VERSION) {
        body.any()?;
    }
    // serialNumber, signature, issuer
    for _ in 0..3 {
        body.any()?;
    }
    let mut validity = Der(body.take(SEQUENCE)?);
    validity.any()?;
    let (tag, time) = validity.any()?;
    read_time(tag, std::str::from_utf8(time).ok()?)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn read_time(tag: u8, text: &str) -> Option<Timestamp> {
    let text = match tag {
        // RFC 5280 section 4.1.2.5.1: years from 50 on are of the last century.
        UTC_TIME if text.get(..2)? >= "50" => format!("19{text}"),
        UTC_TIME => format!("20{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let civil = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    TimeZone::UTC.to_timestamp(civil).ok()
}

/// The rest of a sequence of DER elements.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element's content, if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.any().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The next element: tag and content.
    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            short @ 0..0x80 => (usize::from(short), rest),
            long => {
                let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                let length = length
                    .iter()
                    .try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))?;
                (length, rest)
            }
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }
}

/// A certificate that ends sooner than this is worth a warning, as in the alert rule of `deploy/prometheus`.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What is said about a certificate that has expired or expires soon.
pub(crate) fn expiry_warning(file: &Path, ends: Timestamp) -> Option<String> {
    let left = ends.duration_since(Timestamp::now());
    if !left.is_positive() {
        Some(format!("{}: expired on {ends:.0}, so it is refused: renew it", file.display()))
    } else if left < ENDS_SOON {
        let days = left.as_hours() / 24;
        Some(format!("{}: expires on {ends:.0}, in {days} days: renew it", file.display()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["gateway.internal".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 3, 9);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn reads_the_end_in_both_spellings_of_time() {
        for year in [2031, 2049, 2050, 2199] {
            let ends = not_after(&certificate(year)).unwrap();
            assert_eq!(ends.to_string(), format!("{year}-03-09T00:00:00Z"));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let whole = certificate(2031);
        for cut in 0..whole.len().min(200) {
            assert!(not_after(&whole[..cut]).is_none());
        }
        let mut odd = whole.clone();
        for at in 0..odd.len() {
            odd[at] ^= 0xff;
            // Must not panic, whatever it finds.
            let _ = not_after(&odd);
            odd[at] ^= 0xff;
        }
    }

    #[test]
    fn a_chain_ends_with_its_first_certificate_to_end() {
        let chain: Vec<CertificateDer<'_>> = [2033, 2031, 2032].map(|year| certificate(year).into()).into();
        assert_eq!(ends(&chain).unwrap().to_string(), "2031-03-09T00:00:00Z");
        assert!(ends(&[]).is_none());
    }
}
