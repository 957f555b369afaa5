//! Requests whose head hyper could not read: each is counted and logged as refused, with `-` for service and operation.
//!
//! hyper has answered them by itself (400, 414, 431, RST_STREAM, GOAWAY), or the connection has ended in the middle. What
//! always holds: a head is reported once, and one that was passed on never. Must not know how heads are followed
//! (`frames`). Never fails.

use std::{error::Error as StdError, sync::Arc};

use bytes::Bytes;

use super::{activity::Activity, heads::RefusedHeads};
use crate::{outcome::Code, record::Recorder, refusal::Refusal};

/// hyper's response to a head that is too long.
const FIELDS_TOO_LARGE: u16 = 431;

/// The response to a client of whose request no head was read, which is counted and logged.
pub(super) fn refuse(recorder: &Arc<Recorder>, refusal: &Refusal) -> Bytes {
    let record = recorder.unreadable(Some(refusal.status.as_u16()), refusal.code);
    refusal.to_http1(&record.id)
}

/// Reports heads that h2 has refused.
pub(super) fn report(recorder: &Arc<Recorder>, refused: RefusedHeads) {
    for _ in 0..refused.malformed {
        drop(recorder.unreadable(None, Code::RequestMalformed));
    }
    for _ in 0..refused.too_large {
        drop(recorder.unreadable(Some(FIELDS_TOO_LARGE), Code::RequestHeaders));
    }
}

/// Reports what was not read when a connection ended, with an error or without.
pub(super) fn report_at_end(
    recorder: &Arc<Recorder>,
    activity: &Activity,
    error: Option<&(dyn StdError + Send + Sync + 'static)>,
) {
    let rest = activity.heads.take_rest();
    let parse_error = error.and_then(|error| parse_error(error));
    if parse_error.is_none() && activity.heads.is_peer_closed() {
        (0..rest.malformed + rest.too_large).for_each(|_| drop(recorder.abandoned()));
    } else {
        report(recorder, rest);
    }
    match parse_error {
        // The head that was wrong is among those.
        Some(_) if rest != RefusedHeads::default() => {}
        Some((status, code)) => drop(recorder.unreadable(status, code)),
        // Over HTTP/1.1 there is a response (`connection`).
        None if activity.is_head_refused() && activity.is_on_http2() => {
            drop(recorder.unreadable(None, Code::GatewayOverloaded))
        }
        None if activity.is_head_refused() => {}
        // Cut short by its deadline or by the peer, for h2 in good order.
        None if activity.is_in_head() && (error.is_some() || activity.is_on_http2()) => {
            drop(recorder.unreadable(None, Code::RequestTimeout))
        }
        None => {}
    }
}

/// The status that hyper has sent (`None`: none), and the code that describes what it could not read.
fn parse_error(error: &(dyn StdError + 'static)) -> Option<(Option<u16>, Code)> {
    let hyper = error.downcast_ref::<hyper::Error>()?;
    if hyper.is_parse_too_large() {
        // hyper answers 414 to a long target and 431 to long headers, but only the text of its error differs.
        let target = error.source().unwrap_or(error).to_string().contains("URI");
        return Some((Some(if target { 414 } else { FIELDS_TOO_LARGE }), Code::RequestHeaders));
    }
    if hyper.is_parse() {
        return Some((Some(400), Code::RequestMalformed));
    }
    // A GOAWAY of this side.
    let http2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    http2.is_some_and(h2::Error::is_library).then_some((None, Code::RequestMalformed))
}
