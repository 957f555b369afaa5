//! A strict parser of HTTP/1.1 requests, as a server behind the gateway might have: anything but the exact
//! form of RFC 9112, without the leniency that the RFC permits, is a violation.
//! Hand-written on purpose: it must not share code with the gateway's own parser.

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
    /// Names in lower case, in the order received.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_slice()).collect()
    }
}

/// What the beginning of a byte sequence is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// A complete request, and its length in bytes.
    Whole(Box<Request>, usize),
    /// The beginning of a request.
    Partial,
    /// Not a request; the reason.
    Violation(&'static str),
}

/// Parses the first request.
pub(crate) fn read(bytes: &[u8]) -> Read {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > 256 * 1024 { Read::Violation("an endless head") } else { Read::Partial };
    };
    let request = match head(&bytes[..end]) {
        Ok(request) => request,
        Err(why) => return Read::Violation(why),
    };
    match body(request, &bytes[end + 4..]) {
        Ok(Some((request, length))) => Read::Whole(Box::new(request), end + 4 + length),
        Ok(None) => Read::Partial,
        Err(why) => Read::Violation(why),
    }
}

fn head(head: &[u8]) -> Result<Request, &'static str> {
    let lines: Vec<&[u8]> = lines(head)?;
    let words: Vec<&[u8]> = lines[0].split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = words.as_slice() else { return Err("the request line") };
    if !is_token(method) {
        return Err("the method");
    }
    if target.first() != Some(&b'/') || !target.iter().all(|byte| byte.is_ascii_graphic() || *byte >= 0x80) {
        return Err("the target");
    }
    let headers = lines[1..].iter().map(|line| header(line)).collect::<Result<Vec<_>, _>>()?;
    let method = String::from_utf8_lossy(method).into_owned();
    let request = Request { method, target: target.to_vec(), headers, body: Vec::new() };
    if request.all("host").len() != 1 {
        return Err("not one host");
    }
    Ok(request)
}

/// Splits into lines that end in CRLF and contain neither CR nor LF.
pub(crate) fn lines(head: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let mut lines = Vec::new();
    let mut rest = head;
    loop {
        let end = memchr::memmem::find(rest, b"\r\n");
        let line = &rest[..end.unwrap_or(rest.len())];
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            return Err("a bare CR or LF");
        }
        lines.push(line);
        match end {
            Some(end) => rest = &rest[end + 2..],
            None => return Ok(lines),
        }
    }
}

pub(crate) fn header(line: &[u8]) -> Result<(String, Vec<u8>), &'static str> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or("a header without a colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err("a header's name");
    }
    let value = value.strip_prefix(b" ").unwrap_or(value);
    if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
        return Err("a control byte in a value");
    }
    if value.trim_ascii() != value {
        return Err("white space around a value");
    }
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()))
}

fn body(mut request: Request, rest: &[u8]) -> Result<Option<(Request, usize)>, &'static str> {
    let (lengths, codings) = (request.all("content-length"), request.all("transfer-encoding"));
    let length = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => 0,
        ([length], []) => number(length).ok_or("the content-length")?,
        ([], [b"chunked"]) => {
            let Some((body, length)) = chunks(rest)? else { return Ok(None) };
            request.body = body;
            return Ok(Some((request, length)));
        }
        _ => return Err("more than one framing"),
    };
    if rest.len() < length {
        return Ok(None);
    }
    request.body = rest[..length].to_vec();
    Ok(Some((request, length)))
}

pub(crate) fn number(text: &[u8]) -> Option<usize> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit) && (text.len() == 1 || text[0] != b'0');
    plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

pub(crate) fn chunks(mut rest: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut body, before) = (Vec::new(), rest.len());
    loop {
        let Some(end) = memchr::memmem::find(rest, b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| "a chunk size")?;
        if line.is_empty() || line.len() > 8 || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a chunk size");
        }
        let size = usize::from_str_radix(line, 16).map_err(|_| "a chunk size")?;
        let after = end + 2 + size;
        if rest.len() < after + 2 {
            return Ok(None);
        }
        if &rest[after..after + 2] != b"\r\n" {
            return Err("a chunk's end, or trailers");
        }
        body.extend_from_slice(&rest[end + 2..after]);
        rest = &rest[after + 2..];
        if size == 0 {
            return Ok(Some((body, before - rest.len())));
        }
    }
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
