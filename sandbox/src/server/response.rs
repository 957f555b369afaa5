//! Applies a fault to a response: headers and body, or the bytes that end a connection.

use std::{cell::RefCell, time::Duration};

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};

use super::body::ResponseBody;
use crate::{
    faults::{self, Act, CannedResponse},
    simulation::ApiResponse,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Bytes written to the socket directly, after which the connection ends.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) bytes: Vec<u8>,
    pub(super) reset: bool,
}

/// A response, or the end of the connection with the status that was or would have been sent.
pub(super) enum Reaction {
    Answer(Response<ResponseBody>),
    End(Ending, Option<u16>),
}

/// Applies `act` to the real response, if there is one; `now` is the time it states, Unix milliseconds.
pub(super) fn shape(answer: Option<ApiResponse>, act: Act, now: i64) -> Reaction {
    let status = answer.as_ref().map(|answer| answer.status);
    let ending = |reset| Reaction::End(Ending { bytes: Vec::new(), reset }, status);
    let answer = match (&act, answer) {
        (Act::Reset | Act::ResetUpload { .. } | Act::LoseReset, _) => return ending(true),
        (Act::Close | Act::Lose, _) => return ending(false),
        (Act::Answer(canned), _) => return Reaction::Answer(canned_response(canned, now)),
        (Act::Html(status), _) => return Reaction::Answer(canned_response(&faults::page(*status), now)),
        (_, None) => return ending(false),
        (_, Some(answer)) => answer,
    };
    let whole = answer.body.clone();
    let first = |after: usize| whole.slice(..after.min(whole.len()));
    let raw =
        |length, body: &[u8], reset| Reaction::End(Ending { bytes: raw(&answer, length, body, now), reset }, status);
    let flow = match act {
        Act::Cut { after, reset } => return raw(whole.len(), &first(after), reset),
        Act::WrongLength { by } => {
            let length = (whole.len() as i64).saturating_add(by).max(0);
            return raw(length as usize, &whole, false);
        }
        Act::Truncate { after } => ResponseBody::whole(first(after)),
        Act::Drip { bytes, every_ms } => ResponseBody::drip(whole, bytes, Duration::from_millis(every_ms)),
        Act::Long { bytes } => ResponseBody::whole(faults::pad(&whole, bytes)),
        _ => ResponseBody::whole(whole),
    };
    Reaction::Answer(response(&answer, flow, now))
}

fn response(answer: &ApiResponse, flow: ResponseBody, now: i64) -> Response<ResponseBody> {
    let mut response = bare(answer.status, flow, now);
    if let Some(seconds) = answer.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn bare(status: u16, flow: ResponseBody, now: i64) -> Response<ResponseBody> {
    let mut response = Response::new(flow);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(header::DATE, date(now));
    response
}

fn canned_response(canned: &CannedResponse, now: i64) -> Response<ResponseBody> {
    let mut response = bare(canned.status, ResponseBody::whole(canned.bytes().unwrap_or_default()), now);
    let mut replaced = Vec::new();
    for (name, value) in &canned.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else { continue };
        // The first value of a name replaces the default (the content type), further ones are appended.
        if replaced.contains(&name) {
            response.headers_mut().append(name, value);
        } else {
            response.headers_mut().insert(name.clone(), value);
            replaced.push(name);
        }
    }
    response
}

/// A response as bytes, with any content length.
fn raw(answer: &ApiResponse, length: usize, body: &[u8], now: i64) -> Vec<u8> {
    let status = answer.status;
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    let date = date(now);
    let (date, retry) = (date.to_str().unwrap_or_default(), answer.retry_after);
    let retry = retry.map_or(String::new(), |seconds| format!("retry-after: {seconds}\r\n"));
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ndate: {date}\r\n{retry}content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Value of `Date`, by the sandbox's time.
fn date(millis: i64) -> HeaderValue {
    thread_local! {
        // Needed for every response, and changes once a second.
        static LAST: RefCell<Option<(i64, HeaderValue)>> = const { RefCell::new(None) };
    }
    let second = millis.div_euclid(1_000);
    LAST.with_borrow_mut(|last| match last {
        Some((at, value)) if *at == second => value.clone(),
        _ => {
            let value = written(second);
            *last = Some((second, value.clone()));
            value
        }
    })
}

fn written(second: i64) -> HeaderValue {
    let at = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
    let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap_or_default();
    text.try_into().unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_as_the_rfc_has_it() {
        for _ in 0..2 {
            assert_eq!(date(1_767_323_045_678), "Fri, 02 Jan 2026 03:04:05 GMT");
            assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        }
        for absurd in [i64::MIN, i64::MAX] {
            let _ = date(absurd);
        }
    }
}
