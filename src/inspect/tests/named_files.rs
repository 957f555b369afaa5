//! Every file that a configuration can name, spoiled in every way: `check` reports that file alone, and the running
//! gateway says the same about it.

use std::os::unix::{fs::symlink, net::UnixListener};

use jiff::Timestamp;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::keys::{KeyPair, Secret};

/// A configuration, and the files that it names, each with its key.
struct Named {
    config: &'static str,
    files: &'static [(&'static str, &'static str)],
}

const NAMED: [Named; 7] = [
    Named {
        config: "[listen]\n\
            tls = { cert = \"tls.crt\", key = \"tls.key\", client_ca = \"client-ca.crt\" }\n\
            admin_tls = { cert = \"admin.crt\", key = \"admin.key\" }\n\
            [accounts.main]\nbase_url = \"https://fastrac.example\"\nca = \"ca.crt\"\n\
            keys = { source = \"file\", path = \"keys.toml\" }\n",
        files: &[
            ("listen.tls.cert", "tls.crt"),
            ("listen.tls.key", "tls.key"),
            ("listen.tls.client_ca", "client-ca.crt"),
            ("listen.admin_tls.cert", "admin.crt"),
            ("listen.admin_tls.key", "admin.key"),
            ("accounts.main.ca", "ca.crt"),
            ("accounts.main.keys.path", "keys.toml"),
        ],
    },
    Named {
        config: "[accounts.main]\nbase_url = \"http://127.0.0.1:1\"\n\
            keys = { source = \"file\", path = \"keys.age\", identity = \"identity\" }\n",
        files: &[("accounts.main.keys.path", "keys.age"), ("accounts.main.keys.identity", "identity")],
    },
    Named {
        config: "[accounts.main]\nbase_url = \"http://127.0.0.1:1\"\n\
            keys = { source = \"directory\", path = \"keys\" }\n",
        files: &[("accounts.main.keys.path", "keys/access_key"), ("accounts.main.keys.path", "keys/secret_key")],
    },
    Named {
        config: "[vault]\naddress = \"http://127.0.0.1:1\"\nca = \"ca.crt\"\n\
            auth = { method = \"cert\", name = \"n\", cert = \"tls.crt\", key = \"tls.key\" }\n\
            [accounts.main]\nbase_url = \"http://127.0.0.1:1\"\n\
            keys = { source = \"vault\", path = \"p\", sealed_copy = { path = \"copy.age\", identity = \"identity\" } }\n",
        files: &[
            ("vault.ca", "ca.crt"),
            ("vault.auth.cert", "tls.crt"),
            ("vault.auth.key", "tls.key"),
            ("accounts.main.keys.sealed_copy.identity", "identity"),
            ("accounts.main.keys.sealed_copy.path", "copy.age"),
        ],
    },
    Named {
        config: "[vault]\naddress = \"http://127.0.0.1:1\"\n\
            auth = { method = \"approle\", role_id = \"r\", secret_id_file = \"token\" }\n\
            [accounts.main]\nbase_url = \"http://127.0.0.1:1\"\nkeys = { source = \"vault\", path = \"p\" }\n",
        files: &[("vault.auth.secret_id_file", "token")],
    },
    Named {
        config: "[vault]\naddress = \"http://127.0.0.1:1\"\nauth = { method = \"token\", token_file = \"token\" }\n\
            [accounts.main]\nbase_url = \"http://127.0.0.1:1\"\nkeys = { source = \"vault\", path = \"p\" }\n",
        files: &[("vault.auth.token_file", "token")],
    },
    Named {
        config: "[vault]\naddress = \"http://127.0.0.1:1\"\n\
            auth = { method = \"kubernetes\", role = \"r\", token_file = \"token\" }\n\
            [accounts.main]\nbase_url = \"http://127.0.0.1:1\"\nkeys = { source = \"vault\", path = \"p\" }\n",
        files: &[("vault.auth.token_file", "token")],
    },
];

/// Puts something else where a file was.
type Spoil = fn(&Path);

const SPOILED: [(&str, Spoil); 9] = [
    ("missing", |_| {}),
    ("a dangling link", |path| symlink("nowhere", path).unwrap()),
    ("a directory", |path| fs::create_dir(path).unwrap()),
    ("a FIFO", |path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap()),
    ("a socket", |path| drop(UnixListener::bind(path).unwrap())),
    ("empty", |path| write(path, b"")),
    ("not text", |path| write(path, b"\xff\xfe\0")),
    ("too large", |path| write(path, &vec![b'#'; 5 << 20])),
    ("PEM of another kind", |path| {
        write(path, b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    }),
];

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A good file for each name.
struct GoodFiles(Vec<(&'static str, Vec<u8>)>);

impl GoodFiles {
    fn new() -> Self {
        let ((cert, key), (admin_cert, admin_key)) = (certificate(), certificate());
        let (identity, ca) = (identity(), certificate().0);
        let recipient: age::x25519::Identity = identity.parse().unwrap();
        let keys = age::encrypt(&recipient.to_public(), KEYS.as_bytes()).unwrap();
        Self(vec![
            ("tls.crt", cert.into_bytes()),
            ("tls.key", key.into_bytes()),
            ("admin.crt", admin_cert.into_bytes()),
            ("admin.key", admin_key.into_bytes()),
            ("client-ca.crt", ca.clone().into_bytes()),
            ("ca.crt", ca.into_bytes()),
            ("keys.toml", KEYS.into()),
            ("keys.age", keys),
            ("identity", identity.into_bytes()),
            ("keys/access_key", b"access\n".into()),
            ("keys/secret_key", b"secret\n".into()),
            ("token", b"token\n".into()),
        ])
    }

    fn case(&self, config: &str) -> Case {
        let files: Vec<_> = self.0.iter().map(|(name, content)| (*name, content.as_slice())).collect();
        Case::new(config, &files)
    }
}

impl Case {
    /// What the running gateway says about all files.
    async fn run(&self) -> String {
        let listeners = TlsListeners::open(&self.config.listen, &Metrics::new().unwrap()).err();
        let account = &self.config.accounts[0];
        let authorities = account.ca.as_deref().map(|ca| roots(Some(ca))).and_then(Result::err);
        let vault = self.config.vault.as_ref().map(|vault| Arc::new(Vault::open(vault, Connector::default()).unwrap()));
        let source = PairSource::open(&account.keys, &account.name, vault.as_ref()).unwrap();
        let pair = KeyPair::new(Secret::new("a".to_owned()), Secret::new("b".to_owned())).unwrap();
        let copy = source.copy().map(|copy| [copy.load().err(), copy.save(&pair, Timestamp::now()).err()]);
        [listeners.map(|error| error.to_string()), authorities.map(|error| error.to_string()), self.read_keys().await]
            .into_iter()
            .chain(copy.into_iter().flatten().map(|error| error.map(|error| error.to_string())))
            .flatten()
            .collect::<Vec<_>>()
            .join("\n")
    }
}

#[tokio::test]
async fn are_good_in_check_and_in_run() {
    crate::app::choose_crypto();
    let good = GoodFiles::new();
    for Named { config, .. } in &NAMED {
        let case = good.case(config);
        let (found, run) = (inspect(&case.config, &case.lines), case.run().await);
        assert!(found.faults.is_empty() && found.warnings.is_empty(), "{config}: {found:?}");
        assert!(run.is_empty() || run.contains("cannot be reached"), "{config}: {run}");
    }
}

#[tokio::test]
async fn are_spoiled_in_check_and_in_run() {
    crate::app::choose_crypto();
    let good = GoodFiles::new();
    for Named { config, files } in &NAMED {
        for (key, name) in *files {
            for (how, spoil) in SPOILED {
                let case = good.case(config);
                let path = case.folder.path().join(name);
                let _ = fs::remove_file(&path);
                spoil(&path);
                let what = format!("{key} is {how}");
                let Inspected { faults, warnings } = inspect(&case.config, &case.lines);
                let (run, required) = (case.run().await, required(&case.config, &case.lines));
                // `run` works without the copy, and there is none before it is written.
                let optional = key.contains("sealed_copy");
                if name == &"copy.age" && matches!(how, "missing" | "a dangling link") {
                    assert!(faults.is_empty() && warnings.is_empty(), "{what}: {faults:?}, {warnings:?}");
                    continue;
                }
                let (found, others) = if optional { (&warnings, &faults) } else { (&faults, &warnings) };
                let [said] = found.as_slice() else { panic!("{what}: {found:?}; run: {run}") };
                assert!(others.is_empty(), "{what}: {others:?}");
                assert_eq!(said.key, *key, "{what}: {said}");
                let (folder, file) = (path.parent().unwrap(), path.file_name().unwrap());
                assert!(said.message.starts_with(&*folder.to_string_lossy()), "{what}: {said}");
                assert!(said.message.contains(&*file.to_string_lossy()), "{what}: {said}");
                assert!(run.contains(&said.message), "{what}: check: {said}; run: {run}");
                let starts = optional || key.contains(".keys.") || key.starts_with("vault.");
                assert_eq!(required, if starts { vec![] } else { vec![said.clone()] }, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn have_permissions_that_matter_in_check_and_in_run() {
    crate::app::choose_crypto();
    let good = GoodFiles::new();
    for Named { config, files } in &NAMED {
        for (key, name) in files.iter().filter(|(_, name)| *name != "copy.age") {
            let case = good.case(config);
            let path = case.folder.path().join(name);
            // Readable by others.
            case.open(name, 0o644);
            let Inspected { faults, warnings } = inspect(&case.config, &case.lines);
            let run = case.run().await;
            let refused = matches!(*name, "keys.toml" | "keys.age" | "identity");
            let said = faults.iter().chain(&warnings).find(|said| said.message.contains(": mode 0644: "));
            assert_eq!(said.is_some(), refused, "{key}: {faults:?}, {warnings:?}");
            assert!(said.is_none_or(|said| run.contains(&said.message)), "{key}: {said:?}; run: {run}");
            assert!(refused || faults.is_empty() && !run.contains("mode"), "{key}: {faults:?}; run: {run}");
            // Readable by nobody, unless by a test that runs as root.
            case.open(name, 0);
            if fs::File::open(&path).is_err() {
                let said = inspect(&case.config, &case.lines);
                let [said] = [said.faults, said.warnings].concat().try_into().unwrap_or_else(|all| panic!("{all:?}"));
                assert!(case.run().await.contains(&said.message), "{said}");
            }
        }
    }
}

#[tokio::test]
async fn are_not_read_where_nothing_uses_them() {
    let good = GoodFiles::new();
    for config in [
        "[vault]\naddress = \"https://127.0.0.1:1\"\nca = \"gone\"\nauth = { method = \"token\", token_file = \"gone\" }\n\
            [accounts.main]\nbase_url = \"http://127.0.0.1:1\"\nkeys = { source = \"file\", path = \"keys.toml\" }\n",
        "[accounts.main]\nbase_url = \"http://127.0.0.1:1\"\nca = \"gone\"\n\
            keys = { source = \"file\", path = \"keys.toml\" }\n",
    ] {
        let case = good.case(config);
        let Inspected { faults, warnings } = inspect(&case.config, &case.lines);
        assert!(faults.is_empty() && warnings.is_empty(), "{faults:?}, {warnings:?}");
        assert_eq!(case.run().await, "");
        let checked = config::check::check(config, case.folder.path(), &Environment::default());
        assert!(checked.warnings.iter().any(|warning| warning.message.contains("is not used")), "{checked:?}");
    }
}

/// Certificates serve after they have expired, so that is no fault.
#[tokio::test]
async fn are_warned_of_when_they_have_expired() {
    crate::app::choose_crypto();
    let mut params = rcgen::CertificateParams::new(vec!["gateway.internal".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 3, 9);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap().pem();
    for Named { config, files } in &NAMED {
        for (name, other, place) in [("tls.crt", "tls.key", "tls.cert"), ("admin.crt", "admin.key", "admin_tls.cert")] {
            if !files.iter().any(|(_, file)| *file == name) {
                continue;
            }
            let case = GoodFiles::new().case(config);
            write(&case.folder.path().join(name), cert.as_bytes());
            write(&case.folder.path().join(other), key.serialize_pem().as_bytes());
            let Inspected { faults, warnings } = inspect(&case.config, &case.lines);
            let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
            assert!(faults.is_empty() && warning.message.contains(": expired on 2020-03-09"), "{faults:?}, {warning}");
            assert!(warning.key.ends_with(place) || warning.key == "vault.auth.cert", "{warning}");
            assert!(!case.run().await.contains("expired"), "it serves");
        }
    }
}

#[test]
fn with_an_encrypted_private_key_are_said_to_be_encrypted() {
    for key in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
            -----END RSA PRIVATE KEY-----\n",
    ] {
        let case = GoodFiles::new().case(NAMED[0].config);
        write(&case.folder.path().join("tls.key"), key.as_bytes());
        let [said] = case.check().try_into().unwrap_or_else(|all| panic!("{all:?}"));
        assert!(said.contains("contains an encrypted private key: store it decrypted"), "{said}");
    }
}
