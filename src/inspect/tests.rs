//! `check` and `run` agree about every kind of file that a configuration names: the same verdict, in the same
//! words.
#![allow(clippy::disallowed_methods, reason = "tests have no drain to join")]

use std::{fs, sync::Arc};

use crate::{
    config::{self, check::Environment},
    connector::Connector,
    edge::tls::TlsListeners,
    files::roots,
    keys::{PairSource, Vault},
    record::Metrics,
};

use super::*;

mod named_files;

const KEYS: &str = "[main]\naccess_key = \"AK-canary\"\nsecret_key = \"SK-canary\"\n";
const ACCOUNT: &str = "[accounts.main]\nbase_url = \"https://fastrac.example\"\n";
const ENV: &str = "keys = { source = \"env\", access_key = \"A\", secret_key = \"S\" }\n";
const IN_VAULT: &str = "keys = { source = \"vault\", mount = \"secret\", path = \"p\" }\n";

/// A configuration and its files.
struct Case {
    folder: tempfile::TempDir,
    config: Config,
    lines: Lines,
}

impl Case {
    fn new(text: &str, files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let name = text.split("[accounts.").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
        let credential = format!("{{ access_key = \"a\", secret_sha256 = \"{}\" }}", "0".repeat(64));
        let service = format!("[services.a]\naccount = \"{name}\"\ncredentials = [{credential}]\n");
        let text = &format!("{text}\n{service}");
        let environment = Environment { state_directory: Some(folder.path().to_owned()), ..Environment::default() };
        let checked = config::check::check(text, folder.path(), &environment);
        Self { config: checked.config.unwrap_or_else(|| panic!("{:?}", checked.errors)), lines: checked.lines, folder }
    }

    fn open(&self, name: &str, mode: u32) {
        fs::set_permissions(self.folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What `check` says: the messages without their places.
    fn check(&self) -> Vec<String> {
        inspect(&self.config, &self.lines).faults.into_iter().map(|fault| fault.message).collect()
    }

    /// What `run` says when it reads the key source.
    async fn read_keys(&self) -> Option<String> {
        let account = &self.config.accounts[0];
        let vault = self.config.vault.as_ref().map(|vault| Arc::new(Vault::open(vault, Connector::default()).unwrap()));
        let source = PairSource::open(&account.keys, &account.name, vault.as_ref()).unwrap();
        // A directory that was written a moment ago is read again later.
        for _ in 0..ATTEMPTS {
            match source.read(None, false).await {
                Err(error) if error.is_transient() => tokio::time::sleep(PAUSE).await,
                read => return read.err().map(|error| error.to_string()),
            }
        }
        panic!("is being changed for ever");
    }
}

fn identity() -> String {
    use age::secrecy::ExposeSecret as _;
    age::x25519::Identity::generate().to_string().expose_secret().to_owned()
}

/// `check` has one fault, and `run` says the same.
fn assert_same(check: &[String], run: Option<&str>, case: &str) {
    let [fault] = check else { panic!("{case}: check says {check:?}, run says {run:?}") };
    let run = run.unwrap_or_else(|| panic!("{case}: run accepts what check refuses: {fault}"));
    assert!(run.contains(fault.as_str()), "{case}: check says {fault:?}, run says {run:?}");
    assert!(!run.contains("canary"), "{case}: {run}");
}

#[tokio::test]
async fn about_a_key_file() {
    let text = format!("{ACCOUNT}keys = {{ source = \"file\", path = \"keys.toml\" }}\n");
    let large = format!("{KEYS}#{}", "x".repeat(2_300_000));
    for (name, content) in [
        ("large", large.as_bytes()),
        ("unknown key", b"[main]\naccess_key = \"a\"\nsecret_key = \"b\"\n[other]\nregion = \"c\"\n".as_slice()),
        ("space", b"[main]\naccess_key = \"canary a\"\nsecret_key = \"b\"\n"),
        ("colon", b"[main]\naccess_key = \"canary:a\"\nsecret_key = \"b\"\n"),
        ("empty half", b"[main]\naccess_key = \"a\"\nsecret_key = \"\"\n"),
        ("no half", b"[main]\naccess_key = \"a\"\n"),
        ("no table", b"[other]\naccess_key = \"a\"\nsecret_key = \"b\"\n"),
        ("empty", b""),
        ("not TOML", b"canary"),
        ("not text", b"\xff\xfe"),
    ] {
        let case = Case::new(&text, &[("keys.toml", content)]);
        assert_same(&case.check(), case.read_keys().await.as_deref(), name);
    }
    let case = Case::new(&text, &[("keys.toml", KEYS.as_bytes())]);
    assert_eq!((case.check(), case.read_keys().await), (vec![], None));
    for mode in [0o644, 0o620, 0o602] {
        case.open("keys.toml", mode);
        assert_same(&case.check(), case.read_keys().await.as_deref(), &format!("{mode:o}"));
    }
    let missing = Case::new(&text, &[]);
    assert_same(&missing.check(), missing.read_keys().await.as_deref(), "missing");
    let folder = Case::new(&text, &[("keys.toml/file", b"")]);
    folder.open("keys.toml", 0o700);
    assert_same(&folder.check(), folder.read_keys().await.as_deref(), "a directory");
}

#[tokio::test]
async fn about_an_encrypted_key_file_and_its_identity() {
    let text = format!("{ACCOUNT}keys = {{ source = \"file\", path = \"keys.age\", identity = \"identity\" }}\n");
    let (ours, other) = (identity(), identity());
    let sealed = |text: &[u8], to: &str| {
        let identity: age::x25519::Identity = to.parse().unwrap();
        age::encrypt(&identity.to_public(), text).unwrap()
    };
    let good = sealed(KEYS.as_bytes(), &ours);
    for (name, keys, identity) in [
        ("not encrypted", KEYS.as_bytes().to_vec(), ours.as_str()),
        ("cut", good[..good.len() - 1].to_vec(), &ours),
        ("to another", good.clone(), &other),
        ("no identity", good.clone(), "canary"),
        ("bad content", sealed(b"[main]\naccess_key = \"a b\"\nsecret_key = \"c\"\n", &ours), &ours),
        ("not text", sealed(b"\xff", &ours), &ours),
    ] {
        let case = Case::new(&text, &[("keys.age", &keys), ("identity", identity.as_bytes())]);
        assert_same(&case.check(), case.read_keys().await.as_deref(), name);
    }
    let case = Case::new(&text, &[("keys.age", &good), ("identity", ours.as_bytes())]);
    assert_eq!((case.check(), case.read_keys().await), (vec![], None));
    case.open("identity", 0o644);
    assert_same(&case.check(), case.read_keys().await.as_deref(), "identity that others read");
}

#[tokio::test]
async fn about_a_directory_of_keys() {
    let text = format!("{ACCOUNT}keys = {{ source = \"directory\", path = \"keys\" }}\n");
    let large = vec![b'x'; 2_300_000];
    for (name, access) in [
        ("large", large.as_slice()),
        ("space", b"canary a"),
        ("colon", b"canary:a\n"),
        ("empty", b"\n"),
        ("too long", &[b'x'; 5000]),
        ("not text", b"\xff"),
    ] {
        let case = Case::new(&text, &[("keys/access_key", access), ("keys/secret_key", b"secret")]);
        assert_same(&case.check(), case.read_keys().await.as_deref(), name);
    }
    let case = Case::new(&text, &[("keys/access_key", b"access\n"), ("keys/secret_key", b"secret\n")]);
    assert_eq!((case.check(), case.read_keys().await), (vec![], None));
    let half = Case::new(&text, &[("keys/secret_key", b"secret")]);
    assert_same(&half.check(), half.read_keys().await.as_deref(), "missing");
}

#[tokio::test]
async fn about_the_credential_for_a_vault() {
    let (large, long) = (vec![b'x'; 2_300_000], vec![b'x'; 40 << 10]);
    for auth in
        ["method = \"approle\", role_id = \"r\", secret_id_file = \"id\"", "method = \"token\", token_file = \"id\""]
    {
        let text = format!("[vault]\naddress = \"http://127.0.0.1:1\"\nauth = {{ {auth} }}\n{ACCOUNT}{IN_VAULT}");
        for (name, content) in [
            ("large", large.as_slice()),
            ("long", &long),
            ("empty", b" \n"),
            ("not text", b"\xff"),
            ("two lines", b"one\ntwo"),
            ("control character", b"one\x01"),
        ] {
            let case = Case::new(&text, &[("id", content)]);
            assert_same(&case.check(), case.read_keys().await.as_deref(), name);
        }
        let missing = Case::new(&text, &[]);
        assert_same(&missing.check(), missing.read_keys().await.as_deref(), "missing");
    }
}

#[tokio::test]
async fn about_certificate_authorities() {
    let text = format!("{ACCOUNT}ca = \"ca.pem\"\n{ENV}");
    let (good, large) = (certificate().0, vec![b'#'; 5 << 20]);
    for (name, content) in [
        ("empty", b"".as_slice()),
        ("large", &large),
        ("cut", b"-----BEGIN CERTIFICATE-----\nxx\n"),
        ("broken", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        let case = Case::new(&text, &[("ca.pem", content)]);
        let run = roots(case.config.accounts[0].ca.as_deref()).err().map(|error| error.to_string());
        assert_same(&case.check(), run.as_deref(), name);
    }
    crate::app::choose_crypto();
    let case = Case::new(&text, &[("ca.pem", good.as_bytes())]);
    assert!(case.check().is_empty() && roots(case.config.accounts[0].ca.as_deref()).is_ok());
}

#[test]
fn about_the_files_of_a_listener() {
    crate::app::choose_crypto();
    let text = format!("[listen]\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n{ACCOUNT}{ENV}");
    let ((cert, key), (_, other)) = (certificate(), certificate());
    let metrics = Metrics::new().unwrap();
    for (name, cert, key) in [
        ("another's key", cert.as_str(), other.as_str()),
        ("no key", &cert, ""),
        ("no certificate", "", &key),
        ("broken certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key),
    ] {
        let case = Case::new(&text, &[("cert.pem", cert.as_bytes()), ("key.pem", key.as_bytes())]);
        let run = TlsListeners::open(&case.config.listen, &metrics).err().map(|error| error.to_string());
        assert_same(&case.check(), run.as_deref(), name);
    }
    let case = Case::new(&text, &[("cert.pem", cert.as_bytes()), ("key.pem", key.as_bytes())]);
    assert!(case.check().is_empty() && TlsListeners::open(&case.config.listen, &metrics).is_ok());
}

/// A certificate and its key, PEM.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["gateway.internal".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// With a thousand accounts in one file, it was read a thousand times.
#[test]
fn a_key_file_that_accounts_share_is_read_once() {
    let table = |name: &str| KEYS.replace("main", name).replace("canary", name);
    let case = Case::new(
        &format!("{ACCOUNT}keys = {{ source = \"file\", path = \"keys.toml\" }}\n"),
        &[("keys.toml", format!("{}{}", table("main"), table("other")).as_bytes())],
    );
    let path = case.folder.path().join("keys.toml");
    let mut inspection = Inspection::new(&case.lines);
    let main = inspection.in_key_file(&path, None, "main").unwrap();
    fs::write(&path, "not TOML").unwrap();
    assert_ne!(inspection.in_key_file(&path, None, "other").unwrap(), main);
    assert!(inspection.in_key_file(&path, None, "third").unwrap_err().ends_with("[third]: is missing"));
    let mut another = Inspection::new(&case.lines);
    assert!(another.in_key_file(&path, None, "main").unwrap_err().contains("is not TOML"));
}
