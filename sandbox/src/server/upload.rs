//! Reading request bodies: completely, or as far as a fault allows.

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::faults::{Act, AppliedFault, LONGEST_UPLOAD};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyRead {
    Whole(Bytes),
    /// Longer than [`LONGEST_UPLOAD`].
    TooLong,
    /// The client left.
    Broken,
    /// As much as the fault allows has been received.
    Enough,
}

/// Reads a body until it ends, or until the fault for uploads is due.
pub(super) async fn read<B>(body: &mut B, met: Option<&AppliedFault>) -> BodyRead
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match met.map(|met| &met.act) {
        Some(Act::ResetUpload { after }) => {
            let declared = body.size_hint().exact();
            until(body, enough(*after, declared)).await
        }
        _ if body.is_end_stream() => BodyRead::Whole(Bytes::new()),
        _ => match Limited::new(body, LONGEST_UPLOAD).collect().await {
            Ok(body) => BodyRead::Whole(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => BodyRead::TooLong,
            Err(_) => BodyRead::Broken,
        },
    }
}

/// How many bytes may be received; `declared` is the content length, if there is one.
fn enough(after: Option<usize>, declared: Option<u64>) -> usize {
    let half = || declared.map_or(1, |length| usize::try_from(length / 2).unwrap_or(LONGEST_UPLOAD));
    after.unwrap_or_else(half).min(LONGEST_UPLOAD)
}

async fn until<B: Body<Data = Bytes> + Unpin>(body: &mut B, enough: usize) -> BodyRead {
    let mut come = BytesMut::new();
    while come.len() < enough {
        match body.frame().await {
            None => return BodyRead::Whole(come.freeze()),
            Some(Err(_)) => return BodyRead::Broken,
            Some(Ok(frame)) => come.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
        }
    }
    BodyRead::Enough
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    async fn met(after: Option<usize>, body: &'static str) -> BodyRead {
        let met = AppliedFault { act: Act::ResetUpload { after }, ..AppliedFault::default() };
        read(&mut Full::new(Bytes::from_static(body.as_bytes())), Some(&met)).await
    }

    #[tokio::test]
    async fn as_much_comes_as_the_fault_says_or_all_that_there_is() {
        for (after, body, end) in [
            (Some(0), "four", BodyRead::Enough),
            (Some(4), "four", BodyRead::Enough),
            (Some(5), "four", BodyRead::Whole("four".into())),
            (None, "four", BodyRead::Enough),
            (None, "1", BodyRead::Enough),
        ] {
            assert_eq!(met(after, body).await, end, "{after:?} of {body}");
        }
    }

    #[test]
    fn half_of_what_is_declared_is_enough_and_never_more_than_is_read() {
        assert_eq!(enough(None, Some(9)), 4);
        assert_eq!(enough(None, None), 1);
        assert_eq!(enough(Some(7), Some(9)), 7);
        assert_eq!(enough(None, Some(u64::MAX)), LONGEST_UPLOAD);
    }

    #[tokio::test]
    async fn other_faults_wait_for_the_whole_body_which_has_its_longest_length() {
        let met = AppliedFault { act: Act::Reset, ..AppliedFault::default() };
        for met in [None, Some(&met)] {
            let body = |length| Full::new(Bytes::from(vec![0; length]));
            assert_eq!(read(&mut body(0), met).await, BodyRead::Whole(Bytes::new()));
            assert_eq!(read(&mut body(LONGEST_UPLOAD + 1), met).await, BodyRead::TooLong);
        }
    }
}
