//! URLs of other servers. None may contain a user or a password.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls::pki_types::ServerName;

use super::values::TextValue;
use crate::config::bracketed;

/// An `http://` or `https://` address with an optional path prefix: Fastrac's, or a vault's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// `https` if true.
    pub tls: bool,
    /// Host name or address, lower case, without brackets.
    pub host: String,
    /// Port, the scheme's default filled in.
    pub port: u16,
    /// Path without a slash at its end; empty, or begins with a slash.
    pub prefix: String,
}

impl BaseUrl {
    /// Whether the host is this machine: an address of a loopback block, or `localhost`.
    pub fn is_loopback(&self) -> bool {
        let name = self.host.strip_suffix('.').unwrap_or(&self.host);
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    /// Value of the `host` header: the host, and the port unless it is the scheme's default.
    pub fn authority(&self) -> String {
        let host = bracketed(&self.host);
        if self.port == default_port(self.tls) { host.into_owned() } else { format!("{host}:{}", self.port) }
    }
}

impl TextValue for BaseUrl {
    const KIND: &'static str = "a URL such as \"https://b2b-api.example\", perhaps with a path";

    fn parse(text: &str) -> Result<Self, String> {
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(Self::must_be()),
        };
        if rest.contains(['?', '#']) {
            return Err("must have no query and no fragment".to_owned());
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err("must have no user or password: never put a secret in this file".to_owned());
        }
        let (host, port) = host_and_port(authority).ok_or_else(Self::must_be)?;
        if tls && ServerName::try_from(host.as_str()).is_err() {
            return Err("must have a host that TLS can verify: no label begins or ends with a hyphen".to_owned());
        }
        let prefix = path.strip_suffix('/').unwrap_or(path);
        if !prefix_is_plain(prefix) {
            return Err("must have a path of plain segments: no percent signs, no empty or dot segments".to_owned());
        }
        Ok(Self { tls, host, port: port.unwrap_or(default_port(tls)), prefix: prefix.to_owned() })
    }

    fn to_text(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.prefix)
    }
}

const fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn prefix_is_plain(prefix: &str) -> bool {
    prefix.is_empty()
        || prefix[1..].split('/').all(|segment| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b))
        })
}

/// Host, lower case and without brackets, and the port if one is given.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (address, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host_name(host)?, Some(port)),
            None => (host_name(authority)?, None),
        },
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok().filter(|p| *p > 0)?),
        Some(_) => return None,
        None => None,
    };
    Some((host.to_ascii_lowercase(), port))
}

/// A name of letters, digits, dots, hyphens and underscores. Only digits and dots: it must be an IPv4 address.
fn host_name(host: &str) -> Option<&str> {
    let plain = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let like_an_address = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let good =
        host.len() <= 253 && name.split('.').all(plain) && (!like_an_address || host.parse::<Ipv4Addr>().is_ok());
    good.then_some(host)
}

/// Address of an HTTP CONNECT proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl(pub BaseUrl);

impl TextValue for ProxyUrl {
    const KIND: &'static str = "a proxy address such as \"http://proxy.internal:3128\"";

    fn parse(text: &str) -> Result<Self, String> {
        let url = BaseUrl::parse(text).map_err(|m| if m == BaseUrl::must_be() { Self::must_be() } else { m })?;
        if url.tls || !url.prefix.is_empty() {
            return Err(Self::must_be());
        }
        Ok(Self(url))
    }

    fn to_text(&self) -> String {
        self.0.to_text()
    }
}

/// Address of the store that replicas share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUrl(pub String);

impl TextValue for StoreUrl {
    const KIND: &'static str = "an address such as \"redis://127.0.0.1:6379/0\" or \"rediss://…\"";

    fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("redis://").or_else(|| text.strip_prefix("rediss://"));
        let rest = rest.ok_or_else(Self::must_be)?;
        if rest.contains('@') || rest.contains(['?', '#']) {
            return Err("must have no user, password or query: the user goes to `username`, the password into a file \
                        that `password_file` names"
                .to_owned());
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        host_and_port(authority).ok_or_else(Self::must_be)?;
        if database.len() > 5 || !database.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Self::must_be());
        }
        Ok(Self(text.to_owned()))
    }

    fn to_text(&self) -> String {
        self.0.clone()
    }
}
