//! The list of purges beside a snapshot of the cache: what is to be left out of it. Pure.
//!
//! One JSON object a line, then a line with the digest of those before. What always holds: a list that is empty, cut off or
//! otherwise changed is not taken for a list, as it would bring back what was purged. Must not know files. Fails with
//! [`DamagedRecords`].

use ring::digest;
use serde::{Deserialize, Serialize};

use super::{PurgeScope, snapshot::IncludedPurges};

/// A purge that a snapshot does not include, unless it says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeRecord {
    /// The process that purged; random.
    pub run: u64,
    /// Of the purge, in that process; from 1.
    pub number: u64,
    pub scope: PurgeScope,
}

impl PurgeRecord {
    /// Whether a snapshot was taken after the purge was carried out.
    pub(crate) fn is_included_in(&self, included: IncludedPurges) -> bool {
        self.run == included.run && self.number <= included.number
    }
}

/// The list is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list of purges is damaged")]
pub(super) struct DamagedRecords;

/// The list as a file.
///
/// # Errors
/// Those of JSON, which records have not.
pub(super) fn encode<'a>(records: impl IntoIterator<Item = &'a PurgeRecord>) -> serde_json::Result<String> {
    let mut list = String::new();
    for record in records {
        list += &serde_json::to_string(record)?;
        list.push('\n');
    }
    let digest = digest_of(&list);
    Ok(list + &digest)
}

pub(super) fn decode(file: &[u8]) -> Result<Vec<PurgeRecord>, DamagedRecords> {
    let text = str::from_utf8(file).map_err(|_| DamagedRecords)?;
    let end = text.strip_suffix('\n').and_then(|text| text.rfind('\n')).ok_or(DamagedRecords)?;
    let (list, digest) = text.split_at(end + 1);
    if digest != digest_of(list) {
        return Err(DamagedRecords);
    }
    list.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(|_| DamagedRecords)
}

/// The last line.
fn digest_of(list: &str) -> String {
    let digest = digest::digest(&digest::SHA256, list.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256 {hex}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(run: u64, number: u64) -> PurgeRecord {
        let scope = PurgeScope { operation: Some(format!("v2.\n{number}")), ..PurgeScope::default() };
        PurgeRecord { run, number, scope }
    }

    #[test]
    fn nothing_but_what_was_written_is_read() {
        let records = [record(u64::MAX, 1), record(7, u64::MAX)];
        let file = encode(&records).unwrap().into_bytes();
        assert_eq!(decode(&file), Ok(records.to_vec()));
        (0..file.len()).for_each(|length| assert_eq!(decode(&file[..length]), Err(DamagedRecords), "{length}"));
        for place in 0..file.len() {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[place] ^= 1 << bit;
                assert_eq!(decode(&damaged), Err(DamagedRecords), "{place} {bit}");
            }
        }
        for other in [&b"\n"[..], b"\n\n", b"{}", &[0; 100], &[&file[..], b"\n"].concat(), &file.repeat(2)] {
            assert_eq!(decode(other), Err(DamagedRecords));
        }
    }

    #[test]
    fn a_snapshot_includes_what_its_own_process_purged_before() {
        let included = IncludedPurges { run: 7, number: 3 };
        let are_included =
            [(7, 3), (7, 1), (7, 4), (8, 1)].map(|(run, number)| record(run, number).is_included_in(included));
        assert_eq!(are_included, [true, true, false, false]);
    }
}
