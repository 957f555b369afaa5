//! Reading request bodies: completely, or as far as a fault allows.

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::faults::{Act, AppliedFault, MAX_UPLOAD};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyRead {
    Whole(Bytes),
    /// Longer than [`MAX_UPLOAD`].
    TooLong,
    /// The client left.
    Broken,
    /// As much as the fault allows has been received.
    LimitReached,
}

/// Reads a body until it ends, or until the fault for uploads is due.
pub(super) async fn read<B>(body: &mut B, fault: Option<&AppliedFault>) -> BodyRead
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match fault.map(|fault| &fault.act) {
        Some(Act::ResetUpload { after }) => {
            let declared = body.size_hint().exact();
            read_until(body, allowed(*after, declared)).await
        }
        _ if body.is_end_stream() => BodyRead::Whole(Bytes::new()),
        _ => match Limited::new(body, MAX_UPLOAD).collect().await {
            Ok(body) => BodyRead::Whole(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => BodyRead::TooLong,
            Err(_) => BodyRead::Broken,
        },
    }
}

/// How many bytes may be received; `declared` is the content length, if there is one.
fn allowed(after: Option<usize>, declared: Option<u64>) -> usize {
    let half = || declared.map_or(1, |length| usize::try_from(length / 2).unwrap_or(MAX_UPLOAD));
    after.unwrap_or_else(half).min(MAX_UPLOAD)
}

async fn read_until<B: Body<Data = Bytes> + Unpin>(body: &mut B, allowed: usize) -> BodyRead {
    let mut received = BytesMut::new();
    while received.len() < allowed {
        match body.frame().await {
            None => return BodyRead::Whole(received.freeze()),
            Some(Err(_)) => return BodyRead::Broken,
            Some(Ok(frame)) => received.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
        }
    }
    BodyRead::LimitReached
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    async fn fault(after: Option<usize>, body: &'static str) -> BodyRead {
        let fault = AppliedFault { act: Act::ResetUpload { after }, ..AppliedFault::default() };
        read(&mut Full::new(Bytes::from_static(body.as_bytes())), Some(&fault)).await
    }

    #[tokio::test]
    async fn as_much_comes_as_the_fault_says_or_all_that_there_is() {
        for (after, body, end) in [
            (Some(0), "four", BodyRead::LimitReached),
            (Some(4), "four", BodyRead::LimitReached),
            (Some(5), "four", BodyRead::Whole("four".into())),
            (None, "four", BodyRead::LimitReached),
            (None, "1", BodyRead::LimitReached),
        ] {
            assert_eq!(fault(after, body).await, end, "{after:?} of {body}");
        }
    }

    #[test]
    fn half_of_what_is_declared_is_enough_and_never_more_than_is_read() {
        assert_eq!(allowed(None, Some(9)), 4);
        assert_eq!(allowed(None, None), 1);
        assert_eq!(allowed(Some(7), Some(9)), 7);
        assert_eq!(allowed(None, Some(u64::MAX)), MAX_UPLOAD);
    }

    #[tokio::test]
    async fn other_faults_wait_for_the_whole_body_which_has_its_longest_length() {
        let fault = AppliedFault { act: Act::Reset, ..AppliedFault::default() };
        for fault in [None, Some(&fault)] {
            let body = |length| Full::new(Bytes::from(vec![0; length]));
            assert_eq!(read(&mut body(0), fault).await, BodyRead::Whole(Bytes::new()));
            assert_eq!(read(&mut body(MAX_UPLOAD + 1), fault).await, BodyRead::TooLong);
        }
    }
}
