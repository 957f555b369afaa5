//! The configuration file (TOML), and TLS from PEM files. `sandbox.toml` beside this crate's README shows every key.
//!
//! What always holds: unknown keys are errors; what the file does not set keeps its value; relative paths start at
//! the file's folder.

mod tables;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytesize::ByteSize;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    KeyPair, Options,
    auth::{AuthStyle, KeyPairEntry},
    faults::{self, Fault},
    limits::{self, Limit},
    suggest,
};

pub(crate) use tables::{clock, factor};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// A file has wrong content. The message quotes no value, which may be a secret.
    #[error("{}: {text}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    listen: Option<SocketAddr>,
    control: Option<SocketAddr>,
    control_token_file: Option<PathBuf>,
    seed: Option<u64>,
    keys: Option<Vec<KeyPairEntry>>,
    tls: Option<TlsTable>,
    prefix: Option<String>,
    auth: Option<AuthStyle>,
    timestamp: Option<bool>,
    not_found_status: Option<u16>,
    balance: Option<u64>,
    track_by_post: Option<bool>,
    tariff_valid: Option<String>,
    tariff_single_use: Option<bool>,
    shortage_message: Option<String>,
    journal: Option<JournalTable>,
    limits: Option<Vec<Limit>>,
    clock: Option<tables::ClockTable>,
    flow: Option<tables::FlowTable>,
    webhook: Option<tables::WebhookTable>,
    #[serde(default)]
    faults: Vec<Fault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JournalTable {
    entries: Option<usize>,
    bytes: Option<String>,
}

/// Reads a configuration file; `options` are the values of what it does not set.
///
/// # Errors
///
/// If it, or a file that it names, cannot be read or has wrong content.
pub fn load(path: &Path, mut options: Options) -> Result<Options, SettingsError> {
    let text = Zeroizing::new(read(path)?);
    let wrong = |text: String| SettingsError::Invalid { path: path.to_owned(), text };
    let file: ConfigFile = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        wrong(format!("{} (line {line})", suggest::reword(error.message())))
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    if let Some(token) = &file.control_token_file {
        options.control_token = Some(read_token(&folder.join(token))?);
    }
    if let Some(pem) = &file.tls {
        options.tls = Some(read_tls(&folder.join(&pem.cert), &folder.join(&pem.key))?);
    }
    apply(&mut options, file).map_err(wrong)?;
    Ok(options)
}

/// Applies what the file sets.
fn apply(options: &mut Options, file: ConfigFile) -> Result<(), String> {
    options.control = file.control.or(options.control);
    set(&mut options.listen, file.listen);
    set(&mut options.seed, file.seed);
    if let Some(keys) = file.keys {
        let made = |key: &KeyPairEntry| KeyPair::new(&key.label, &key.access_key, &key.secret_key);
        options.keys = keys.iter().map(|key| KeyPair { until: key.revoke_at, ..made(key) }).collect();
    }
    let switches = &mut options.switches;
    set(&mut switches.prefix, file.prefix);
    set(&mut switches.auth, file.auth);
    set(&mut switches.timestamp, file.timestamp);
    set(&mut switches.not_found, file.not_found_status);
    set(&mut switches.balance, file.balance);
    set(&mut switches.track_by_post, file.track_by_post);
    set(&mut switches.validity.single_use, file.tariff_single_use);
    set(&mut switches.shortage, file.shortage_message);
    if let Some(text) = file.tariff_valid {
        let time: Duration = humantime::parse_duration(&text).map_err(|error| format!("tariff_valid: {error}"))?;
        switches.validity.millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    }
    if !matches!(switches.not_found, 200 | 404) {
        return Err("not_found_status: must be 200 or 404".to_owned());
    }
    if !switches.prefix.is_empty() && (!switches.prefix.starts_with('/') || switches.prefix.ends_with('/')) {
        return Err("prefix: must begin with a slash and not end with one".to_owned());
    }
    if let Some(bounds) = file.journal {
        set(&mut options.journal.entries, bounds.entries);
        if let Some(text) = bounds.bytes {
            let size: ByteSize = text.parse().map_err(|error| format!("journal.bytes: {error}"))?;
            options.journal.bytes = usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        }
    }
    limits::check(file.limits.as_deref().unwrap_or_default())?;
    set(&mut options.switches.limits, file.limits);
    if let Some(time) = &file.clock {
        options.clock = time.clock()?;
    }
    if let Some(flow) = &file.flow {
        flow.apply(options)?;
    }
    if let Some(webhook) = file.webhook {
        webhook.apply(options)?;
    }
    for (position, fault) in file.faults.into_iter().enumerate() {
        faults::check(&fault).map_err(|error| format!("faults[{position}].{error}"))?;
        options.faults.push(fault);
    }
    Ok(())
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path).map_err(|error| SettingsError::Read { path: path.to_owned(), error })
}

/// Reads the control token: the first line of a file.
///
/// # Errors
///
/// If the file cannot be read or its first line is empty.
pub(crate) fn read_token(path: &Path) -> Result<Zeroizing<String>, SettingsError> {
    let text = Zeroizing::new(read(path)?);
    let token = text.lines().next().unwrap_or("").trim();
    if token.is_empty() {
        return Err(SettingsError::Invalid { path: path.to_owned(), text: "the token is empty".to_owned() });
    }
    Ok(Zeroizing::new(token.to_owned()))
}

/// Reads a certificate chain (leaf first) and its key from PEM files.
///
/// # Errors
///
/// If they cannot be read or do not match.
pub(crate) fn read_tls(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, SettingsError> {
    let wrong = |path: &Path, error: String| SettingsError::Invalid { path: path.to_owned(), text: error };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(|chain| chain.collect::<Result<Vec<_>, _>>())
        .map_err(|error| wrong(cert, error.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(cert, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| wrong(cert, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Options, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sandbox.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join("token"), "t0ken\n").unwrap();
        load(&path, Options::default())
    }

    #[test]
    fn a_full_file_is_read() {
        let options = load_text(
            r#"
            listen = "127.0.0.1:0"
            control = "127.0.0.1:0"
            control_token_file = "token"
            seed = 7
            keys = [{ label = "a", access_key = "b", secret_key = "c" }]
            prefix = "/b2b"
            auth = "by_version"
            timestamp = false
            not_found_status = 200
            balance = 5
            tariff_valid = "30s"
            journal = { entries = 3, bytes = "1KiB" }
            [[faults]]
            operation = "v2.city"
            times = 2
            act = { answer = { status = 503 } }
            "#,
        )
        .unwrap();
        assert_eq!((options.seed, options.switches.validity.millis, options.journal.bytes), (7, 30_000, 1_024));
        assert_eq!((options.faults.len(), options.switches.not_found, options.switches.balance), (1, 200, 5));
        assert_eq!(options.control_token.unwrap().as_str(), "t0ken");
    }

    /// Every key is in the example, set or behind a `#`.
    #[test]
    fn the_example_is_right_and_shows_every_key() {
        let text = include_str!("../sandbox.toml");
        let options = load_text(text).unwrap();
        assert_eq!((options.seed, options.faults.len()), (1, 0));
        let shown: String = text
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|l| l.contains('=') || l.starts_with('[')).unwrap_or(line))
            .fold(String::new(), |all, line| all + line + "\n");
        let full: toml::Table = shown.parse().unwrap_or_else(|error| panic!("{error}\n{shown}"));
        let unknown = load_text("\nnothing_like_this = 1").err().unwrap().to_string();
        let keys = unknown.split("known: ").nth(1).unwrap().split(" (line").next().unwrap().split(", ");
        for key in keys {
            assert!(full.contains_key(key), "{key} is not in sandbox/sandbox.toml");
        }
        for room in ["clock", "flow", "webhook"] {
            let unknown = load_text(&format!("[{room}]\nnothing_like_this = 1")).err().unwrap().to_string();
            let keys = unknown.split("known: ").nth(1).unwrap().split(" (line").next().unwrap().split(", ");
            for key in keys {
                assert!(full[room].get(key).is_some(), "{room}.{key} is not in sandbox/sandbox.toml");
            }
        }
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let options = load_text("").unwrap();
        assert_eq!(options.listen, Options::default().listen);
        assert!(options.control.is_none());
    }

    #[test]
    fn faults_are_told_with_their_place_and_without_secrets() {
        let text = |toml| load_text(toml).err().unwrap().to_string();
        let unknown = text("\n\nsede = 1");
        assert!(unknown.contains("did you mean `seed`?") && unknown.contains("line 3"), "{unknown}");
        assert!(text("not_found_status = 500").contains("not_found_status"));
        assert!(text("prefix = \"b2b\"").contains("prefix"));
        assert!(text("[[faults]]\noperation = \"v3.x\"").contains("faults[0].operation"));
        for (wrong, place) in [
            ("clock = { pace = \"accelerated\" }", "clock.factor"),
            ("clock = { factor = 2 }", "clock.factor"),
            ("clock = { pace = \"stepped\", start = \"yesterday\" }", "clock.start"),
            ("clock = { pace = \"steped\" }", "did you mean `stepped`?"),
            ("[flow.express]\nretrun = 0.1", "retrun is not a branch"),
            ("[flow.express]\nno_courier = 0.1", "flow.express"),
            ("[flow.instant]\nreturn = 0.6\ncancel = 0.6", "flow.instant"),
            ("flow = { kept = 0 }", "flow.kept"),
            ("webhook = { url = \"shop\" }", "webhook.url"),
            ("webhook = { retries = [\"soon\"] }", "webhook.retries"),
            ("webhook = { payload = \"awb={awb}\" }", "webhook.payload"),
            ("webhook = { hosts = \"all\" }", "loopback, any"),
            ("[[webhook.rules]]\nact = \"lose\"\nchance = 2", "webhook.rules[0].chance"),
        ] {
            let told = text(wrong);
            assert!(told.contains(place), "{wrong}: {told}");
        }
        let wrong = "keys = [{ label = \"a\", access_key = \"b\", secret_key = \"canary\", extra = \"canary\" }]";
        assert!(!text(wrong).contains("canary"));
    }
}
