//! Configuration files through the real program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn gateway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"))
        .args(arguments)
        .env_clear()
        .output()
        .expect("the program starts")
}

fn check(file: &Path) -> Output {
    gateway(&["check", "--no-files", file.to_str().expect("a plain path")])
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

/// A folder with files in it, gone at the end of the test.
struct Folder(tempfile::TempDir);

/// Adds a service to a configuration that has an account and none, for tests about something else.
fn with_a_service(text: &str) -> String {
    let account = text.split("[accounts.").nth(1).and_then(|rest| rest.split(']').next());
    match account.filter(|_| !text.contains("[services.")) {
        Some(account) => {
            let credential = format!("{{ access_key = \"any\", secret_sha256 = \"{}\" }}", "0".repeat(64));
            format!("{text}\n[services.any]\naccount = \"{account}\"\ncredentials = [{credential}]\n")
        }
        None => text.to_owned(),
    }
}

impl Folder {
    fn new(files: &[(&str, &str, u32)]) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = Self(tempfile::tempdir().expect("a folder"));
        for (name, content, mode) in files {
            fs::write(folder.file(name), with_a_service(content)).expect("written");
            fs::set_permissions(folder.file(name), fs::Permissions::from_mode(*mode)).expect("set");
        }
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn check(&self, name: &str) -> Output {
        gateway(&["check", self.file(name).to_str().expect("a plain path")])
    }
}

mod a_bad_file {
    use super::*;

    /// Each file of the corpus begins with the faults that it must give, all of them and no other.
    #[test]
    fn gives_all_its_faults_with_places_and_exit_code_2() {
        let corpus = files("tests/gateway/corpus/config");
        assert!(corpus.len() >= 60, "the corpus holds {} files", corpus.len());
        for file in corpus {
            let text = fs::read_to_string(&file).expect("read");
            let expected: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# fault: ")).collect();
            let output = check(&file);
            let printed = stdout(&output);
            let faults: Vec<&str> = printed.lines().filter(|line| !line.starts_with("warning: ")).collect();
            assert_eq!(faults, expected, "{}", file.display());
            assert!(!expected.is_empty(), "{} is a bad file", file.display());
            assert_eq!(output.status.code(), Some(2), "{}", file.display());
        }
    }

    /// Secrets in the wrong place are named `…canary…` in the corpus.
    #[test]
    fn never_has_its_secrets_repeated() {
        let mut with_secrets = 0;
        for file in files("tests/gateway/corpus/config") {
            with_secrets += usize::from(fs::read_to_string(&file).expect("read").contains("canary"));
            let output = check(&file);
            let all = stdout(&output) + &String::from_utf8_lossy(&output.stderr);
            assert!(!all.contains("canary"), "{}: {all}", file.display());
        }
        assert!(with_secrets >= 8, "only {with_secrets} files hold a secret");
    }

    #[test]
    fn that_is_no_text_has_its_line_named() {
        let folder = Folder::new(&[]);
        fs::write(folder.file("gateway.toml"), b"[listen]\nworkers = 2\n# \xff\n").expect("written");
        let output = folder.check("gateway.toml");
        assert_eq!(stdout(&output), "syntax: is not TOML: it must be UTF-8 text (line 3)\n");
        assert_eq!(output.status.code(), Some(2));
    }

    #[test]
    fn that_is_not_there_is_wrong_use() {
        let output = gateway(&["check", "/nowhere/gateway.toml"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be read"));
    }
}

/// Contract section 3: what the gateway writes must not be another file of the configuration. The log would be moved to
/// the place of the key file, and the key file away.
#[test]
fn a_file_that_is_written_is_no_other_file_of_the_configuration() {
    let minimal = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/minimal.toml")).expect("read");
    let keys = "[main]\naccess_key = \"a\"\nsecret_key = \"s\"\n";
    let make = |log: &str| {
        let text = format!("{minimal}\n[log]\nexchanges = \"{log}\"\n");
        let folder = Folder::new(&[("gateway.toml", &text, 0o600), ("keys.toml", keys, 0o600)]);
        std::os::unix::fs::symlink(folder.file("keys.toml"), folder.file("link")).expect("linked");
        fs::hard_link(folder.file("keys.toml"), folder.file("hard")).expect("linked");
        (text, folder)
    };
    for log in
        ["keys.toml", "./x/../keys.toml", "link", "hard", "gateway.toml", "state/state.redb", "state/../gateway.toml"]
    {
        let (text, folder) = make(log);
        fs::create_dir(folder.file("x")).expect("made");
        fs::create_dir(folder.file("state")).expect("made");
        let file = folder.file("gateway.toml");
        for output in [check(&file), gateway(&["run", "--config", file.to_str().expect("a plain path")])] {
            let said = stdout(&output) + &String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{log}: {said}");
            assert!(said.contains("log.exchanges: the gateway writes"), "{log}: {said}");
        }
        assert_eq!(fs::read_to_string(&file).expect("read"), text);
        assert_eq!(fs::read_to_string(folder.file("keys.toml")).expect("read"), keys);
    }
    let (_, folder) = make("other.jsonl");
    assert_eq!(check(&folder.file("gateway.toml")).status.code(), Some(0));
}

mod a_good_file {
    use super::*;

    /// What the demo fills in at each start.
    fn filled(text: &str) -> String {
        let digest = "0".repeat(64);
        ["@ADMIN@", "@CHECKOUT@", "@REPORTS@"]
            .iter()
            .fold(text.replace("@SANDBOX@", "127.0.0.1:8090"), |text, name| text.replace(name, &digest))
    }

    #[test]
    fn every_example_is_one() {
        // all but the built-in table
        let examples = files("config").into_iter().filter(|file| !file.ends_with("operations.toml"));
        let examples: Vec<PathBuf> = examples.collect();
        assert!(examples.len() >= 4);
        for file in examples {
            let text = filled(&fs::read_to_string(&file).expect("read"));
            let folder = Folder::new(&[("gateway.toml", &text, 0o644)]);
            let output = check(&folder.file("gateway.toml"));
            assert_eq!(output.status.code(), Some(0), "{}: {}", file.display(), stdout(&output));
        }
    }

    #[test]
    fn that_is_minimal_has_no_warning() {
        assert_eq!(stdout(&check(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/minimal.toml")))), "");
    }
}

mod files_that_it_names {
    use super::*;

    const CONFIG: &str = "[accounts.main]\nbase_url = \"https://fastrac.example\"\n\
        keys = { source = \"file\", path = \"keys.toml\" }\n[services.a]\naccount = \"main\"\n\
        credentials = [{ access_key = \"a\", secret_sha256 = \
        \"0000000000000000000000000000000000000000000000000000000000000000\" }]\n";
    const KEYS: &str = "[main]\naccess_key = \"AK-canary\"\nsecret_key = \"SK-canary\"\n";

    fn with_keys(keys: &str, mode: u32) -> (Option<i32>, String) {
        let folder = Folder::new(&[("gateway.toml", CONFIG, 0o644), ("keys.toml", keys, mode)]);
        let output = folder.check("gateway.toml");
        let printed = stdout(&output).replace(folder.0.path().to_str().expect("a plain path"), "FOLDER");
        assert!(!(printed.clone() + &String::from_utf8_lossy(&output.stderr)).contains("canary"));
        (output.status.code(), printed)
    }

    #[test]
    fn may_be_read_by_their_owner_alone() {
        assert_eq!(with_keys(KEYS, 0o600), (Some(0), String::new()));
        assert_eq!(with_keys(KEYS, 0o400), (Some(0), String::new()));
    }

    #[test]
    fn are_warned_of_when_a_group_reads_them() {
        let (code, printed) = with_keys(KEYS, 0o640);
        assert_eq!(code, Some(0));
        assert!(
            printed.starts_with("warning: accounts.main.keys.path: FOLDER/keys.toml may be read by a group"),
            "{printed}"
        );
    }

    #[test]
    fn are_faults_when_others_read_or_a_group_writes_them() {
        for mode in [0o604, 0o644, 0o620, 0o602, 0o660] {
            let (code, printed) = with_keys(KEYS, mode);
            assert_eq!(code, Some(2), "{mode:o}");
            assert!(
                printed.starts_with(&format!("accounts.main.keys.path: FOLDER/keys.toml: mode {mode:04o}: others can")),
                "{printed}"
            );
        }
    }

    #[test]
    fn must_hold_the_pair() {
        for keys in [
            "",
            "[other]\naccess_key = \"a\"\n",
            "[main]\naccess_key = \"AK-canary\"\nsecret_key = \" \"\n",
            "AK-canary",
        ] {
            let (code, printed) = with_keys(keys, 0o600);
            assert_eq!(code, Some(2), "{keys}");
            assert!(printed.contains("(line 3)"), "{printed}");
        }
    }

    /// A bug: `check` had a reader of its own, and accepted what `run` refused.
    #[test]
    fn that_run_refuses_are_refused() {
        let large = format!("{KEYS}# {}\n", "x".repeat(2_300_000));
        let unknown = format!("{KEYS}[other]\naccess_key = \"a\"\nsecret_key = \"b\"\nregion = \"c\"\n");
        for (keys, fault) in [
            (&*large, ": is larger than 1 MiB"),
            (&*unknown, ":7: is not TOML with a table of access_key and secret_key for each account"),
            (
                &KEYS.replace("AK-canary", "AK canary"),
                ": [main]: access_key holds a character other than visible ASCII",
            ),
            (&KEYS.replace("AK-canary", "AK:canary"), ": [main]: access_key holds a colon"),
        ] {
            let (code, printed) = with_keys(keys, 0o600);
            let expected = format!("accounts.main.keys.path: FOLDER/keys.toml{fault} (line 3)\n");
            assert_eq!((code, printed), (Some(2), expected));
        }
    }

    #[test]
    fn are_opened_where_they_are_encrypted() {
        use age::secrecy::ExposeSecret as _;
        let (ours, others) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
        let config = CONFIG.replace("\"keys.toml\"", "\"keys.age\", identity = \"identity\"");
        let secret = |identity: &age::x25519::Identity| identity.to_string().expose_secret().to_owned();
        let sealed = |text: &str| age::encrypt_and_armor(&ours.to_public(), text.as_bytes()).expect("sealed");
        for (keys, identity, mode, said) in [
            (sealed(KEYS), secret(&ours), 0o600, ""),
            (sealed(KEYS), secret(&others), 0o600, "keys.path: FOLDER/keys.age: is not encrypted to this identity"),
            (sealed(KEYS), "canary".to_owned(), 0o600, "keys.identity: FOLDER/identity: holds no age identity"),
            (sealed(KEYS), secret(&ours), 0o644, "keys.identity: FOLDER/identity: mode 0644: others can read it"),
            (KEYS.to_owned(), secret(&ours), 0o600, "keys.path: FOLDER/keys.age: is not an age file"),
            (
                sealed("[main]\naccess_key = \"AK-canary\"\n"),
                secret(&ours),
                0o600,
                "keys.path: FOLDER/keys.age: [main]: secret_key is missing",
            ),
        ] {
            let files =
                [("gateway.toml", &*config, 0o644), ("keys.age", &*keys, 0o600), ("identity", &*identity, mode)];
            let folder = Folder::new(&files);
            let output = folder.check("gateway.toml");
            let printed = stdout(&output).replace(folder.0.path().to_str().expect("a plain path"), "FOLDER");
            assert_eq!(output.status.code(), Some(if said.is_empty() { 0 } else { 2 }), "{printed}");
            assert!(printed.contains(said) && printed.is_empty() == said.is_empty(), "{said}: {printed}");
            assert!(!printed.contains("canary") && !printed.contains(&secret(&ours)), "{printed}");
        }
    }

    /// A bug: a missing file was reported only once the configuration had no other error.
    #[test]
    fn are_reported_with_all_other_errors() {
        let all = CONFIG.replace("[services.a]", "[listen]\ntls = { cert = \"no.crt\", key = \"no.key\" }\nbogus = 1\n\
            [accounts.other]\nca = \"no.pem\"\nkeys = { source = \"directory\", path = \"no\" }\n[services.a]\nshare = 2");
        let folder = Folder::new(&[("gateway.toml", &all, 0o644)]);
        let file = folder.file("gateway.toml");
        let run = gateway(&["run", "--config", file.to_str().expect("a plain path")]);
        let keys = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| line.contains(" (line ") && !line.starts_with("warning: "));
            lines.map(|line| line.split_once(": ").expect("a key").0.to_owned()).collect()
        };
        let checked = folder.check("gateway.toml");
        let expected = [
            "accounts.main.keys.path",
            "listen.tls.cert",
            "listen.tls.key",
            "listen.bogus",
            "accounts.other.base_url",
            "accounts.other.ca",
            "accounts.other.keys.path",
            "services.a.share",
        ];
        assert_eq!((checked.status.code(), keys(&stdout(&checked))), (Some(2), expected.map(str::to_owned).to_vec()));
        // A pair may come later.
        let expected: Vec<&str> = expected.into_iter().filter(|key| !key.ends_with("keys.path")).collect();
        assert_eq!(
            (run.status.code(), keys(&String::from_utf8_lossy(&run.stderr))),
            (Some(2), expected.iter().map(ToString::to_string).collect())
        );
        assert_eq!(keys(&stdout(&check(&file))).len(), 3, "without the files: {}", stdout(&check(&file)));
    }

    #[test]
    fn must_be_there_unless_nobody_asks() {
        let folder = Folder::new(&[("gateway.toml", CONFIG, 0o644)]);
        let output = folder.check("gateway.toml");
        assert_eq!(output.status.code(), Some(2));
        assert!(stdout(&output).contains("accounts.main.keys.path") && stdout(&output).contains("cannot be read"));
        assert_eq!(check(&folder.file("gateway.toml")).status.code(), Some(0));
    }
}

mod included_files {
    use super::*;

    const MAIN: &str = "include = [\"services.d/*.toml\"]\n[accounts.main]\nbase_url = \"https://fastrac.example\"\n\
        keys = { source = \"directory\", path = \"keys\" }\n[services.a]\naccount = \"main\"\n\
        credentials = [{ access_key = \"a\", secret_sha256 = \
        \"1111111111111111111111111111111111111111111111111111111111111111\" }]\n";

    fn service(name: &str) -> String {
        let digest = format!("{:064x}", name.len() * 1000 + usize::from(name.as_bytes()[0]));
        format!(
            "[services.{name}]\naccount = \"main\"\n\
             credentials = [{{ access_key = \"{name}\", secret_sha256 = \"{digest}\" }}]\n"
        )
    }

    /// What `check --no-files` prints, and its exit code.
    fn said(main: &str, files: &[(&str, &str)]) -> (Option<i32>, String) {
        let folder = Folder::new(&[("gateway.toml", main, 0o600)]);
        fs::create_dir(folder.file("services.d")).expect("made");
        for (name, text) in files {
            fs::write(folder.file("services.d").join(name), text).expect("written");
        }
        let output = check(&folder.file("gateway.toml"));
        (output.status.code(), stdout(&output).replace(folder.0.path().to_str().expect("a plain path"), "FOLDER"))
    }

    #[test]
    fn are_read_as_if_their_text_were_there() {
        let operation = "[operations.towns]\nmethod = \"GET\"\npath = \"/towns\"\nclass = \"lookup\"\n";
        let b = service("b") + "allow = [\"towns\"]\n";
        let files = [("b.toml", &*b), ("c.toml", &*(service("c") + operation)), ("d.toml~", "[x"), (".e.toml", "[x")];
        assert_eq!(said(MAIN, &files), (Some(0), String::new()));
        assert_eq!(said(MAIN, &[]), (Some(0), String::new()), "a pattern may match nothing");
    }

    #[test]
    fn have_their_faults_reported_with_their_name_and_line() {
        let of = |name: &str| service(name);
        for (file, expected) in [
            (of("b") + "share = 2\n", "services.b.share: must be a number from 0 to 1 (line 4 of services.d/b.toml)\n"),
            (
                of("b") + "[limits]\nidle = \"1s\"\n",
                "limits: must not be in an included file: only tables of services and operations may \
                 (line 4 of services.d/b.toml)\n",
            ),
            (
                "include = [\"x\"]\n".to_owned() + &of("b"),
                "include: must not be in an included file: only tables of services and operations may \
                 (line 1 of services.d/b.toml)\n",
            ),
            (
                of("b") + &of("a"),
                "services.a: is also on line 5: a name may be in one file only (line 4 of services.d/b.toml)\n",
            ),
            (
                of("b") + &of("z"),
                "services.z: is also on line 1 of services.d/a.toml: a name may be in one file only \
                 (line 4 of services.d/b.toml)\n",
            ),
            (
                of("b").replace("\"b\"", "\"z\""),
                "services.z.credentials[0].access_key: must be unique in the file: it is also at \
                 services.b.credentials[0].access_key on line 3 of services.d/b.toml (line 3 of services.d/a.toml)\n",
            ),
            (of("b") + "share\n", "is not TOML: "),
            (
                of("b") + "share = 0.1\nshare = 0.2\n",
                "services.b.share: is not TOML: duplicate key (line 5 of services.d/b.toml)\n",
            ),
            ("services = 5\n".to_owned(), "services: must not be in an included file"),
        ] {
            let (code, printed) = said(MAIN, &[("b.toml", &file), ("a.toml", &of("z"))]);
            let errors: String =
                printed.lines().filter(|line| !line.starts_with("warning: ")).map(|line| format!("{line}\n")).collect();
            let right = if expected.ends_with('\n') { errors == expected } else { errors.contains(expected) };
            assert!(code == Some(2) && right, "{file}\n{errors}\n{expected}");
            assert!(printed.contains("of services.d/"), "{printed}");
        }
    }

    #[test]
    fn must_be_there_and_be_text() {
        let literal = MAIN.replace("services.d/*.toml", "services.d/b.toml");
        let (code, printed) = said(&literal, &[]);
        let missing =
            "include[0]: FOLDER/services.d/b.toml: cannot be read: No such file or directory (os error 2) (line 1)\n";
        assert_eq!((code, &*printed), (Some(2), missing));
        let folder = Folder::new(&[("gateway.toml", MAIN, 0o600)]);
        fs::create_dir(folder.file("services.d")).expect("made");
        fs::write(folder.file("services.d/a.toml"), b"# \xff").expect("written");
        fs::create_dir(folder.file("services.d/b.toml")).expect("made");
        let fifo = folder.file("services.d/c.toml");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
        let output = check(&folder.file("gateway.toml"));
        let printed = stdout(&output).replace(folder.0.path().to_str().expect("a plain path"), "FOLDER");
        let expected = "include[0]: FOLDER/services.d/a.toml: is not text (line 1)\n\
            include[0]: FOLDER/services.d/b.toml: is not a regular file (line 1)\n\
            include[0]: FOLDER/services.d/c.toml: is not a regular file (line 1)\n";
        assert_eq!((output.status.code(), &*printed), (Some(2), expected));
    }

    #[test]
    fn are_not_overwritten() {
        let main = format!("{MAIN}[log]\nexchanges = \"services.d/b.toml\"\n");
        let (code, printed) = said(&main, &[("b.toml", &service("b"))]);
        assert!(code == Some(2) && printed.starts_with("log.exchanges: the gateway writes b.toml here"), "{printed}");
    }
}

/// Contract section 2: what `check` warns of, each alone, with its place; the exit code is 0.
#[test]
fn each_warning_is_given_with_its_place() {
    let digest = |digit: &str| digit.repeat(64);
    let service = |name: &str, digit: &str, more: &str| {
        format!(
            "[services.{name}]\naccount = \"main\"\n\
             credentials = [{{ access_key = \"{name}\", secret_sha256 = \"{}\" }}]\n{more}\n",
            digest(digit)
        )
    };
    let account = |name: &str, more: &str| {
        format!(
            "[accounts.{name}]\nbase_url = \"https://fastrac.example\"\n\
             keys = {{ source = \"file\", path = \"keys.toml\" }}\n{more}\n"
        )
    };
    let keys = |secret: &str| {
        format!(
            "[main]\naccess_key = \"AK-canary\"\nsecret_key = \"SK-canary\"\n\
             [other]\naccess_key = \"AK-canary\"\nsecret_key = \"{secret}\"\n"
        )
    };
    let plain = account("main", "") + &service("a", "1", "");
    let quota = |quota: &str| service("a", "1", &format!("quota = {{ {quota} }}"));
    let another = account("other", "");
    let in_folder =
        another.replace("source = \"file\", path = \"keys.toml\"", "source = \"directory\", path = \"pair\"");
    for (text, mode, secret, warnings) in [
        (plain.clone(), 0o600, "SK-other", &[][..]),
        (
            account("main", "budget = { per_second = 5 }") + &quota("per_second = 6"),
            0o600,
            "SK-other",
            &["accounts.main.budget.per_second"],
        ),
        (
            account("main", "budget = { per_day = 5 }") + &quota("per_day = 6"),
            0o600,
            "SK-other",
            &["accounts.main.budget.per_day"],
        ),
        (
            account("main", "budget = { per_day = 5 }")
                + &quota("per_day = 3")
                + &service("b", "2", "quota = { per_day = 3 }"),
            0o600,
            "SK-other",
            &["accounts.main.budget.per_day"],
        ),
        (
            format!("{plain}[operations.\"v2.city\"]\ncache = {{ fresh = \"2h\", stale_if_error = \"1h\" }}\n"),
            0o600,
            "SK-other",
            &["operations.\"v2.city\".cache.stale_if_error"],
        ),
        (
            account("main", "allow_cleartext = true").replace("https:", "http:") + &service("a", "1", ""),
            0o600,
            "SK-other",
            &["accounts.main.base_url"],
        ),
        (
            account("main", "allow_cleartext = true") + &service("a", "1", ""),
            0o600,
            "SK-other",
            &["accounts.main.allow_cleartext"],
        ),
        (
            account("main", "") + &service("a", "1", "allow = [\"lookup\", \"unlisted\"]"),
            0o600,
            "SK-other",
            &["services.a.allow[1]"],
        ),
        (format!("[listen]\ndata = [\"127.0.0.1:1\", \"0.0.0.0:2\"]\n{plain}"), 0o600, "SK-other", &["listen.data[1]"]),
        (plain.clone(), 0o640, "SK-other", &["accounts.main.keys.path"]),
        (
            plain.replace(
                "source = \"file\", path = \"keys.toml\"",
                "source = \"env\", access_key = \"A\", secret_key = \"S\"",
            ),
            0o600,
            "SK-other",
            &["accounts.main.keys.source", "accounts.main.keys.source"],
        ),
        (plain.clone() + &service("b", "1", ""), 0o600, "SK-other", &["services.b.credentials[0].secret_sha256"]),
        (plain.clone() + &service("b", "2", ""), 0o600, "SK-other", &[]),
        (plain.clone() + &another, 0o600, "SK-other", &[]),
        (plain.clone() + &another, 0o600, "SK-canary", &["accounts.other.keys"]),
        (plain.clone() + &in_folder, 0o600, "SK-other", &["accounts.other.keys"]),
        (
            in_folder.clone() + &in_folder.replace("other", "third") + &service("a", "1", "").replace("main", "third"),
            0o600,
            "SK-other",
            &["accounts.third.keys"],
        ),
    ] {
        let folder = Folder::new(&[("gateway.toml", &text, 0o644), ("keys.toml", &keys(secret), mode)]);
        fs::create_dir(folder.file("pair")).expect("made");
        for (name, value) in [("access_key", "AK-canary"), ("secret_key", "SK-canary")] {
            fs::write(folder.file("pair").join(name), value).expect("written");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(folder.file("pair").join(name), private).expect("set");
        }
        let output = folder.check("gateway.toml");
        let printed = stdout(&output);
        let found: Vec<&str> = printed
            .lines()
            .map(|line| line.strip_prefix("warning: ").and_then(|line| line.split_once(": ")).expect("a warning").0)
            .collect();
        assert_eq!((output.status.code(), found), (Some(0), warnings.to_vec()), "{text}\n{printed}");
        assert!(printed.lines().all(|line| line.contains(" (line ")), "{printed}");
        let all = printed + &String::from_utf8_lossy(&output.stderr);
        assert!(!all.contains("canary") && !all.contains(&digest("1")), "{all}");
    }
}

mod files_of_a_tls_listener {
    use super::*;
    use crate::authority::Authority;

    const CONFIG: &str = "[listen]\n\
        tls = { cert = \"door.crt\", key = \"door.key\", client_ca = \"ca.crt\" }\n\
        [accounts.main]\nbase_url = \"https://fastrac.example\"\n\
        keys = { source = \"env\", access_key = \"A\", secret_key = \"S\" }\n\
        [services.a]\naccount = \"main\"\nidentities = [\"a.internal\"]\n";

    /// What `check` says of certificate, key and authorities, without their folder.
    fn said(cert: &str, key: &str, ca: &str) -> (Option<i32>, String) {
        let files = [("gateway.toml", CONFIG), ("door.crt", cert), ("door.key", key), ("ca.crt", ca)];
        let folder = Folder::new(&files.map(|(name, text)| (name, text, 0o600)));
        let output = folder.check("gateway.toml");
        let printed = stdout(&output).replace(folder.0.path().to_str().expect("a plain path"), "FOLDER");
        let env =
            "warning: accounts.main.keys.source: \"env\" is read once: rotating the pair needs a restart (line 5)\n";
        let unset = "warning: accounts.main.keys.source: A, S: not set in the environment; `run` needs it (line 5)\n";
        (output.status.code(), printed.replace(env, "").replace(unset, ""))
    }

    /// In so many days.
    fn until_in(authority: &Authority, days: i64) -> crate::authority::Pair {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
        let at = jiff::tz::TimeZone::UTC.to_datetime(at);
        authority.server_until(at.year().into(), at.month() as u8, at.day() as u8)
    }

    #[test]
    fn belong_together_and_last() {
        let authority = Authority::new();
        let (good, other, ca) = (authority.server(2040), authority.server(2041), authority.pem());
        assert_eq!(said(&good.cert, &good.key, &ca), (Some(0), String::new()));
        let chain = format!("{}{ca}", good.cert);
        assert_eq!(said(&chain, &good.key, &ca), (Some(0), String::new()));
        let line = "(line 2)";
        for (cert, key, ca, fault) in [
            (&good.cert, &other.key, &ca, "listen.tls.key: FOLDER/door.key: does not belong to the certificate"),
            (&good.cert, &good.cert, &ca, "listen.tls.key: FOLDER/door.key: contains no private key in PEM form"),
            (&good.key, &good.key, &ca, "listen.tls.cert: FOLDER/door.crt: contains no certificate in PEM form"),
            (
                &good.cert,
                &good.key,
                &good.key,
                "listen.tls.client_ca: FOLDER/ca.crt: contains no certificate in PEM form",
            ),
            (
                &format!("{chain}-----BEGIN CERTIFICATE-----\nxx\n"),
                &good.key,
                &ca,
                "listen.tls.cert: FOLDER/door.crt: contains PEM that is broken",
            ),
            (
                &format!("{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", good.cert),
                &good.key,
                &ca,
                "listen.tls.cert: FOLDER/door.crt: contains a certificate that is broken: number 2",
            ),
            (&authority.server(2020).cert, &good.key, &ca, "listen.tls.key: FOLDER/door.key: does not belong"),
        ] {
            let (code, printed) = said(cert, key, ca);
            assert!(code == Some(2) && printed.starts_with(fault) && printed.contains(line), "{fault}: {printed}");
        }
        let empty = String::new();
        let (code, printed) = said(&empty, &empty, &empty);
        assert_eq!((code, printed.lines().count()), (Some(2), 3), "all at once: {printed}");
    }

    #[test]
    fn that_cannot_be_used_are_told_before_anything_listens() {
        let authority = Authority::new();
        let (good, other, ca) = (authority.server(2040), authority.server(2041), authority.pem());
        let files = [("gateway.toml", CONFIG), ("door.crt", &good.cert), ("door.key", &other.key), ("ca.crt", &ca)];
        let folder = Folder::new(&files.map(|(name, text)| (name, text, 0o600)));
        let output = gateway(&["run", "--config", folder.file("gateway.toml").to_str().expect("a plain path")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains("listen.tls.key: "), "{said}");
        assert!(!folder.file("state").exists());
    }

    #[test]
    fn are_warned_of_when_they_have_expired_and_two_weeks_before() {
        let authority = Authority::new();
        let ended = authority.server(2020);
        let (code, printed) = said(&ended.cert, &ended.key, &authority.pem());
        let warning = "warning: listen.tls.cert: FOLDER/door.crt: expired on 2020-03-09T00:00:00Z";
        assert!(code == Some(0) && printed.starts_with(warning), "{printed}");
        let soon = until_in(&authority, 10);
        let (code, printed) = said(&soon.cert, &soon.key, &authority.pem());
        assert!(
            code == Some(0) && printed.starts_with("warning: listen.tls.cert: FOLDER/door.crt: expires on "),
            "{printed}"
        );
        let later = until_in(&authority, 20);
        assert_eq!(said(&later.cert, &later.key, &authority.pem()), (Some(0), String::new()));
    }
}

mod check_and_run {
    use super::*;
    use crate::authority::Authority;

    const TLS: &str = "[listen]\n\
        tls = { cert = \"tls.crt\", key = \"tls.key\", client_ca = \"client-ca.crt\" }\n\
        admin_tls = { cert = \"tls.crt\", key = \"tls.key\" }\n\
        [accounts.main]\nbase_url = \"https://fastrac.example\"\nca = \"ca.crt\"\n\
        keys = { source = \"env\", access_key = \"ACCESS\", secret_key = \"SECRET\" }\n";
    const VAULT: &str = "[accounts.main]\nbase_url = \"http://127.0.0.1:1\"\n\
        keys = { source = \"vault\", path = \"p\" }\n[vault]\naddress = \"http://127.0.0.1:1\"\n";

    /// Exit code and errors of `check`, and of `run`, which must not begin to listen.
    fn both(folder: &Folder, environment: &[(&str, &[u8])]) -> [(Option<i32>, Vec<String>); 2] {
        use std::os::unix::ffi::OsStrExt as _;
        let file = folder.file("gateway.toml");
        let file = file.to_str().expect("a plain path");
        let command = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
            command.args(arguments).env_clear();
            command.envs(environment.iter().map(|(name, value)| (name, std::ffi::OsStr::from_bytes(value))));
            command.output().expect("the program starts")
        };
        let check = command(&["check", file]);
        let found = stdout(&check).lines().filter(|line| !line.starts_with("warning: ")).map(str::to_owned).collect();
        let run = command(&["run", "--config", file]);
        // The first line counts the errors.
        let said = String::from_utf8_lossy(&run.stderr).lines().skip(1).map(str::to_owned).collect();
        assert!(!folder.file("state").exists(), "nothing was started");
        [(check.status.code(), found), (run.status.code(), said)]
    }

    /// Asserts that both refuse, with the same errors; returns them.
    fn refusal(folder: &Folder, environment: &[(&str, &[u8])], what: &str) -> Vec<String> {
        let [check, run] = both(folder, environment);
        assert_eq!(check, run, "{what}");
        assert_eq!(check.0, Some(2), "{what}");
        assert!(!check.1.join("\n").contains("canary"), "{what}: {check:?}");
        check.1
    }

    /// A bug: each had sentences of its own for the same fault, and `run` listened before it said them.
    #[test]
    fn refuse_the_same_files_in_the_same_words() {
        let authority = Authority::new();
        let (pair, ca) = (authority.server(2040), authority.pem());
        let (cert, key) = (pair.cert.as_str(), pair.key.as_str());
        let environment: &[(&str, &[u8])] = &[("ACCESS", b"a"), ("SECRET", b"b")];
        for (name, keys) in [
            ("tls.crt", &["listen.tls.cert", "listen.admin_tls.cert"][..]),
            ("tls.key", &["listen.tls.key", "listen.admin_tls.key"]),
            ("client-ca.crt", &["listen.tls.client_ca"]),
            ("ca.crt", &["accounts.main.ca"]),
        ] {
            for how in ["missing", "a folder", "a FIFO", "empty", "not PEM"] {
                let files = [
                    ("gateway.toml", TLS),
                    ("tls.crt", cert),
                    ("tls.key", key),
                    ("client-ca.crt", &ca),
                    ("ca.crt", &ca),
                ];
                let folder = Folder::new(&files.map(|(name, text)| (name, text, 0o600)));
                let file = folder.file(name);
                fs::remove_file(&file).expect("removed");
                match how {
                    "a folder" => fs::create_dir(&file).expect("made"),
                    "a FIFO" => assert!(Command::new("mkfifo").arg(&file).status().expect("mkfifo").success()),
                    "empty" => fs::write(&file, "").expect("written"),
                    "not PEM" => fs::write(&file, "canary").expect("written"),
                    _ => {}
                }
                let what = format!("{name} is {how}");
                let errors = refusal(&folder, environment, &what);
                let of = |error: &str| error.split_once(": ").expect("a key").0.to_owned();
                assert_eq!(errors.iter().map(|error| of(error)).collect::<Vec<_>>(), keys, "{what}: {errors:?}");
                assert!(errors[0].contains(file.to_str().expect("a plain path")), "{what}: {errors:?}");
            }
        }
    }

    #[test]
    fn refuse_the_same_places_for_state_and_log() {
        let account = "[accounts.main]\nbase_url = \"http://127.0.0.1:1\"\n\
            keys = { source = \"directory\", path = \"keys\" }\n";
        for (key, table) in [
            ("state.dir", "[state]\ndir = \"file\"\n"),
            ("state.dir", "[state]\ndir = \"file/state\"\n"),
            ("log.exchanges", "[log]\nexchanges = \"folder\"\n"),
            ("log.exchanges", "[log]\nexchanges = \"file/exchanges.jsonl\"\n"),
        ] {
            let keys = [("access_key", "a", 0o600), ("secret_key", "b", 0o600)];
            let config = format!("{account}{table}");
            let folder = Folder::new(&[("gateway.toml", &config, 0o600), ("file", "", 0o600)]);
            for name in ["folder", "keys"] {
                fs::create_dir(folder.file(name)).expect("made");
            }
            for (name, text, _) in keys {
                fs::write(folder.file("keys").join(name), text).expect("written");
            }
            let errors = refusal(&folder, &[], key);
            let place = format!("{key}: ");
            // Without a place of its own, the log is below the state folder.
            assert!(errors.len() <= 2 && errors.iter().any(|error| error.starts_with(&place)), "{errors:?}");
        }
    }

    /// Runs both as a user who is not root, so that permissions count, and returns what they say.
    fn both_unprivileged(folder: &Folder) -> [Output; 2] {
        use std::os::unix::{fs::lchown, process::CommandExt as _};
        let user = if rustix::process::geteuid().is_root() { 65534 } else { rustix::process::geteuid().as_raw() };
        for entry in walk(folder.0.path()) {
            lchown(entry, Some(user), None).expect("chown");
        }
        let file = folder.file("gateway.toml");
        let file = file.to_str().expect("a plain path");
        [&["check", file][..], &["run", "--config", file]].map(|arguments| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
            command.args(arguments).env_clear().uid(user).output().expect("the program starts")
        })
    }

    /// A folder and what is in it.
    fn walk(path: &Path) -> Vec<PathBuf> {
        let below = fs::read_dir(path).into_iter().flatten().flat_map(|entry| walk(&entry.expect("an entry").path()));
        [path.to_owned()].into_iter().chain(below).collect()
    }

    /// Everything in a folder, to see that nothing was changed.
    fn contents(folder: &Folder) -> Vec<(PathBuf, u32, Option<Vec<u8>>)> {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &PathBuf| fs::symlink_metadata(path).expect("there").permissions().mode();
        let mut all: Vec<_> =
            walk(folder.0.path()).into_iter().map(|path| (path.clone(), mode(&path), fs::read(path).ok())).collect();
        all.sort();
        all
    }

    /// Issue: `check` passed places that `run` could not use.
    #[test]
    fn refuse_the_same_stores_and_logs_and_check_changes_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        const CONFIG: &str = "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
            [state]\ndir = \"places/state\"\n[log]\nexchanges = \"places/log/exchanges.jsonl\"\n\
            [accounts.main]\nbase_url = \"http://127.0.0.1:1\"\nkeys = { source = \"file\", path = \"keys.toml\" }\n";
        let mode = |folder: &Folder, name: &str, mode| {
            fs::set_permissions(folder.file(name), fs::Permissions::from_mode(mode)).expect("set");
        };
        let write = |name: &'static str, text: &'static str| {
            move |folder: &Folder| fs::write(folder.file(name), text).expect("written")
        };
        let closed = |name: &'static str, of: u32| move |folder: &Folder| mode(folder, name, of);
        let made = |name: &'static str| move |folder: &Folder| fs::create_dir(folder.file(name)).expect("made");
        type Place<'a> = (&'a str, &'a str, &'a dyn Fn(&Folder));
        let cases: &[Place<'_>] = &[
            ("state.dir", "an empty store", &write("places/state/state.redb", "")),
            ("state.dir", "another file", &write("places/state/state.redb", "canary, and more than nine bytes")),
            ("state.dir", "a folder", &made("places/state/state.redb")),
            ("state.dir", "a folder that nobody may write to", &closed("places/state", 0o500)),
            ("state.dir", "a folder that nobody may enter", &closed("places/state", 0o600)),
            ("state.dir", "a store that nobody may write to", &|folder| {
                write("places/state/state.redb", "x")(folder);
                mode(folder, "places/state/state.redb", 0o400);
            }),
            ("state.dir", "a link to nothing", &|folder| {
                fs::remove_dir(folder.file("places/state")).expect("removed");
                std::os::unix::fs::symlink("/nowhere/at/all", folder.file("places/state")).expect("made");
            }),
            ("state.dir", "a missing folder below one that nobody may write to", &|folder| {
                fs::remove_dir(folder.file("places/state")).expect("removed");
                mode(folder, "places", 0o500);
            }),
            ("log.exchanges", "another file", &write("places/log/exchanges.jsonl", "canary")),
            ("log.exchanges", "another file beside it", &write("places/log/unidentified.jsonl", "canary")),
            ("log.exchanges", "a folder beside it", &made("places/log/unidentified.jsonl")),
            ("log.exchanges", "a folder that nobody may write to", &closed("places/log", 0o500)),
            ("log.exchanges", "a log that nobody may write to", &|folder| {
                write("places/log/exchanges.jsonl", "{}\n")(folder);
                mode(folder, "places/log/exchanges.jsonl", 0o400);
            }),
        ];
        for (key, what, make) in cases {
            let keys = "[main]\naccess_key = \"a\"\nsecret_key = \"b\"\n";
            let folder = Folder::new(&[("gateway.toml", CONFIG, 0o600), ("keys.toml", "", 0o600)]);
            fs::write(folder.file("keys.toml"), keys).expect("written");
            for name in ["places", "places/state", "places/log"] {
                fs::create_dir(folder.file(name)).expect("made");
            }
            make(&folder);
            let before = contents(&folder);
            let [check, run] = both_unprivileged(&folder);
            let said = stdout(&check);
            let error = said.lines().find(|line| line.starts_with(&format!("{key}: "))).unwrap_or_default();
            let (error, _) = error.rsplit_once(" (line ").unwrap_or_else(|| panic!("{what}: {said}"));
            let run_said = String::from_utf8_lossy(&run.stderr).into_owned();
            assert!(run_said.contains(error), "{what}: check: {error}; run: {run_said}");
            assert!(!said.contains("canary") && check.status.code() == Some(2), "{what}: {said}");
            assert_ne!(run.status.code(), Some(0), "{what}");
            // `run` does not leave what it began either.
            let (after, before) = (contents(&folder), before.iter().map(|(path, ..)| path).collect::<Vec<_>>());
            assert!(before.iter().all(|path| after.iter().any(|(known, ..)| known == *path)), "{what}");
        }
        // Where all is well, nothing is created, also not what is missing.
        let folder = Folder::new(&[("gateway.toml", CONFIG, 0o600), ("keys.toml", "", 0o600)]);
        fs::write(folder.file("keys.toml"), "[main]\naccess_key = \"a\"\nsecret_key = \"b\"\n").expect("written");
        let before = contents(&folder);
        let output = folder.check("gateway.toml");
        assert_eq!((output.status.code(), contents(&folder)), (Some(0), before), "{}", stdout(&output));
    }

    /// A gateway that is to be reloaded uses them: that is no error, but a second one does not start.
    #[test]
    fn say_that_another_process_uses_the_places() {
        use std::os::fd::AsFd as _;
        let config = "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n[state]\ndir = \"state\"\n\
            [log]\nexchanges = \"exchanges.jsonl\"\n\
            [accounts.main]\nbase_url = \"http://127.0.0.1:1\"\nkeys = { source = \"file\", path = \"keys.toml\" }\n";
        let folder = Folder::new(&[("gateway.toml", config, 0o600), ("exchanges.jsonl", "", 0o600)]);
        fs::write(folder.file("exchanges.jsonl"), "").expect("written");
        fs::write(folder.file("keys.toml"), "[main]\naccess_key = \"a\"\nsecret_key = \"b\"\n").expect("written");
        fs::set_permissions(folder.file("keys.toml"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("set");
        fs::create_dir(folder.file("state")).expect("made");
        for (name, key) in [("state", "state.dir"), ("exchanges.jsonl", "log.exchanges")] {
            let used = fs::File::open(folder.file(name)).expect("open");
            rustix::fs::flock(used.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("locked");
            let check = folder.check("gateway.toml");
            let said = stdout(&check);
            let warning = said.lines().find_map(|line| line.strip_prefix(&format!("warning: {key}: ")));
            let (warning, _) = warning.and_then(|line| line.rsplit_once(" (line ")).unwrap_or_else(|| panic!("{said}"));
            assert_eq!(check.status.code(), Some(0), "{said}");
            let file = folder.file("gateway.toml");
            let run = gateway(&["run", "--config", file.to_str().expect("a plain path")]);
            let run_said = String::from_utf8_lossy(&run.stderr).into_owned();
            assert!(run.status.code() != Some(0) && run_said.contains(warning), "check: {warning}; run: {run_said}");
        }
    }

    #[test]
    fn refuse_the_same_variables() {
        let config = "[accounts.main]\nbase_url = \"http://127.0.0.1:1\"\n\
            keys = { source = \"env\", access_key = \"ACCESS\", secret_key = \"SECRET\" }\n";
        let folder = Folder::new(&[("gateway.toml", config, 0o600)]);
        for (access, secret) in [
            (&b"can:ary"[..], &b"b"[..]),
            (b"canary key", b"b"),
            (b"canary\nkey", b"b"),
            (b"", b"b"),
            (b"\xff", b"b"),
            (b"a", b"canary\xc3\xa4"),
        ] {
            let errors = refusal(&folder, &[("ACCESS", access), ("SECRET", secret)], &format!("{access:?}"));
            assert!(errors.len() == 1 && errors[0].starts_with("accounts.main.keys.source: "), "{errors:?}");
        }
        // What is set must be good, whatever is missing.
        assert!(refusal(&folder, &[("ACCESS", b"can:ary")], "half")[0].contains("ACCESS: access_key holds a colon"));
    }

    /// `check` often runs where the variables of the real environment are not set.
    #[test]
    fn differ_about_a_variable_that_is_not_set() {
        let config = "[accounts.main]\nbase_url = \"http://127.0.0.1:1\"\n\
            keys = { source = \"env\", access_key = \"ACCESS\", secret_key = \"SECRET\" }\n";
        let folder = Folder::new(&[("gateway.toml", config, 0o600)]);
        let [check, run] = both(&folder, &[("ACCESS", b"a")]);
        let said = "accounts.main.keys.source: SECRET: not set in the environment; `run` needs it (line 3)";
        assert_eq!((check, run), ((Some(0), vec![]), (Some(2), vec![said.to_owned()])));
        let printed = stdout(&folder.check("gateway.toml"));
        assert!(printed.contains("warning: accounts.main.keys.source: ACCESS, SECRET: not set"), "{printed}");
    }

    #[test]
    fn refuse_the_same_variables_for_a_vault() {
        let folder = Folder::new(&[("gateway.toml", VAULT, 0o600)]);
        let file = Folder::new(&[("gateway.toml", &format!("{VAULT}namespace = \"a\\nb\"\n"), 0o600)]);
        for (folder, name, value, key) in [
            (&folder, "VAULT_TOKEN", &b"canary\ntoken"[..], "vault.auth"),
            (&folder, "VAULT_TOKEN", b"canary\x01", "vault.auth"),
            (&folder, "VAULT_TOKEN", b" \n", "vault.auth"),
            (&folder, "VAULT_TOKEN", b"\xff", "vault.auth"),
            (&folder, "VAULT_NAMESPACE", b"can\nary", "vault.namespace"),
            (&folder, "VAULT_NAMESPACE", b"\xff", "vault.namespace"),
            (&file, "VAULT_NAMESPACE", b"", "vault.namespace"),
        ] {
            // The last value of a name counts.
            let errors = refusal(folder, &[("VAULT_TOKEN", b"token"), (name, value)], name);
            assert!(errors.len() == 1 && errors[0].starts_with(&format!("{key}: ")), "{errors:?}");
        }
        let text = VAULT.split("[vault]").next().expect("an account");
        let folder = Folder::new(&[("gateway.toml", text, 0o600)]);
        for address in [&b"https://vault\n.internal"[..], b"https://v\xff", b"canary"] {
            let errors = refusal(&folder, &[("VAULT_TOKEN", b"token"), ("VAULT_ADDR", address)], "VAULT_ADDR");
            assert!(errors[0].contains("VAULT_ADDR"), "{errors:?}");
        }
    }

    #[test]
    fn do_not_wait_for_a_configuration_that_nobody_writes() {
        let folder = Folder::new(&[]);
        let fifo = folder.file("gateway.toml");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
        for file in [fifo.to_str().expect("a plain path"), "/dev/zero", "/"] {
            for command in [&["check", file][..], &["run", "--config", file]] {
                let output = gateway(command);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.code() == Some(2) && said.contains("cannot be read: "), "{file}: {said}");
            }
        }
    }

    #[test]
    fn read_a_configuration_from_a_pipe() {
        use std::io::Write as _;
        let mut command = Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
        command.args(["check", "--no-files", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let text = include_str!("../../config/minimal.toml");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("ended");
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), String::new()));
    }
}

mod output_that_nobody_reads {
    use super::*;

    /// A pipe whose reader is gone.
    fn closed() -> Stdio {
        let (_, writer) = std::io::pipe().expect("a pipe");
        writer.into()
    }

    fn code(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Option<i32> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
        command.args(arguments).env_clear().stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        command.status().expect("the program starts").code()
    }

    /// A bug: `check` of a faulty file ended with 0, and `run` with 101.
    #[test]
    fn changes_no_exit_code() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let keys = "[main]\naccess_key = \"a\"\nsecret_key = \"b\"\n";
        let good = "[accounts.main]\nbase_url = \"http://127.0.0.1:1\"\n\
            keys = { source = \"file\", path = \"keys.toml\" }\n[cache]\nsnapshot = true\n";
        let folder = Folder::new(&[
            ("good.toml", good, 0o600),
            ("taken.toml", &format!("{good}[listen]\ndata = [\"127.0.0.1:{port}\"]\n"), 0o600),
            ("faulty.toml", "[bogus]\n", 0o600),
            ("token", "fgw_token", 0o600),
            ("keys.toml", keys, 0o600),
        ]);
        let file = |name: &str| folder.file(name).to_str().expect("a plain path").to_owned();
        let (good, taken, faulty, token) = (file("good.toml"), file("taken.toml"), file("faulty.toml"), file("token"));
        let commands: [(&[&str], i32); 16] = [
            (&["check", &good], 0),
            (&["check", &faulty], 2),
            (&["check", "/nowhere"], 2),
            (&["run", "--config", &faulty], 2),
            (&["run", "--config", "/nowhere"], 2),
            (&["run", "--config", &taken], 1),
            (&["schema"], 0),
            (&["service", "issue", "shop"], 0),
            (&["service", "issue", "a b"], 2),
            (&["admin", "issue"], 0),
            (&["keys", "status", "--admin", "http://127.0.0.1:1", "--token-file", &token], 1),
            (&["keys", "status", "--admin", "http://127.0.0.1:1", "--token-file", "/nowhere"], 2),
            (&["sandbox", "--config", "/nowhere"], 2),
            (&["--help"], 0),
            (&["--version"], 0),
            (&["bogus"], 2),
        ];
        for (arguments, expected) in commands {
            let found = [
                code(arguments, Stdio::null(), Stdio::null()),
                code(arguments, closed(), Stdio::null()),
                code(arguments, Stdio::null(), closed()),
                code(arguments, closed(), closed()),
            ];
            assert_eq!(found, [Some(expected); 4], "{arguments:?}");
        }
    }

    /// The result of `check` is its exit code; that of a command whose output is its result is lost.
    #[test]
    fn is_not_output_that_cannot_be_written() {
        let full = || -> Stdio { fs::File::options().write(true).open("/dev/full").expect("a device").into() };
        let warned = "[accounts.main]\nbase_url = \"http://127.0.0.1:1\"\n\
            keys = { source = \"directory\", path = \"keys\" }\n[cache]\nsnapshot = true\n";
        let folder = Folder::new(&[("faulty.toml", "[bogus]\n", 0o600), ("warned.toml", warned, 0o600)]);
        let file = |name: &str| folder.file(name).to_str().expect("a plain path").to_owned();
        let (faulty, warned) = (file("faulty.toml"), file("warned.toml"));
        for (arguments, expected) in [
            (&["check", &faulty][..], 2),
            (&["check", "/nowhere"], 2),
            (&["check", "--no-files", &warned], 0),
            (&["run", "--config", &faulty], 2),
            (&["schema"], 1),
            (&["service", "issue", "shop"], 1),
            (&["admin", "issue"], 1),
            (&["keys", "status", "--admin", "http://127.0.0.1:1"], 1),
            (&["sandbox", "--config", "/nowhere"], 2),
            (&["bogus"], 2),
        ] {
            assert_eq!(code(arguments, full(), Stdio::null()), Some(expected), "{arguments:?}");
            assert_eq!(code(arguments, full(), full()), Some(expected), "{arguments:?}");
        }
        // A server serves whether or not anybody reads what it prints; without the sandbox, a command says so.
        for command in ["sandbox", "demo"] {
            let mut child = Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
            child.args([command]).env_clear().stdin(Stdio::null()).stdout(full()).stderr(full());
            if command == "sandbox" {
                child.args(["--listen", "127.0.0.1:0"]);
            }
            let mut child = child.spawn().expect("the program starts");
            let pid = rustix::process::Pid::from_child(&child);
            std::thread::sleep(std::time::Duration::from_millis(500));
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let code = child.wait().expect("it ends").code();
            assert!(matches!(code, Some(0..=2)), "{command}: {code:?}");
        }
    }
}

mod issued_credentials {
    use super::*;

    /// The value behind a label of the printed comment.
    fn shown(printed: &str, label: &str) -> String {
        let line = printed.lines().find(|line| line.contains(label)).expect("the label");
        line.split_once(label).expect("the label").1.trim().to_owned()
    }

    fn digest(secret: &str) -> String {
        use sha2::Digest as _;
        sha2::Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn of_a_service_paste_into_a_configuration_that_passes() {
        let output = gateway(&["service", "issue", "check.out"]);
        assert_eq!(output.status.code(), Some(0));
        let printed = stdout(&output);
        let secret = shown(&printed, "secret-key:");
        assert!(secret.starts_with("fgw_") && secret.len() == 4 + 43, "256 bits in base64url");
        assert_eq!(printed.matches(&secret).count(), 1, "the secret is shown once");
        assert!(printed.contains(&format!("secret_sha256 = \"{}\"", digest(&secret))));
        assert!(printed.contains(&format!("access_key = \"{}\"", shown(&printed, "access-key:"))));
        let account = "[accounts.main]\nbase_url = \"https://fastrac.example\"\n\
                       keys = { source = \"directory\", path = \"keys\" }\n";
        let config = format!("{account}{printed}account = \"main\"\n");
        let folder = Folder::new(&[("gateway.toml", &config, 0o644)]);
        let checked = check(&folder.file("gateway.toml"));
        assert_eq!((checked.status.code(), stdout(&checked)), (Some(0), String::new()));
        assert_ne!(stdout(&gateway(&["service", "issue", "check.out"])), printed, "each is new");
    }

    #[test]
    fn of_a_name_that_no_service_may_have_are_refused() {
        for name in ["", "a b", "-x", "x/y", &"x".repeat(65)] {
            assert_eq!(gateway(&["service", "issue", name]).status.code(), Some(2), "{name}");
        }
    }

    #[test]
    fn of_the_longest_name_have_an_access_key_that_passes() {
        let printed = stdout(&gateway(&["service", "issue", &"x".repeat(64)]));
        assert!(shown(&printed, "access-key:").len() <= 64);
    }

    #[test]
    fn of_the_admin_port_paste_into_a_configuration_that_passes() {
        let printed = stdout(&gateway(&["admin", "issue"]));
        let token = shown(&printed, "token:");
        assert!(token.starts_with("fgw_") && printed.matches(&token).count() == 1);
        assert!(printed.contains(&digest(&token)));
        let minimal = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/minimal.toml")).expect("read");
        let folder = Folder::new(&[("gateway.toml", &format!("{minimal}\n{printed}"), 0o644)]);
        assert_eq!(check(&folder.file("gateway.toml")).status.code(), Some(0));
    }
}

mod the_command_line {
    use super::*;

    #[test]
    fn tells_version_and_commit() {
        let printed = stdout(&gateway(&["--version"]));
        assert!(printed.starts_with(concat!("fastrac-gateway ", env!("CARGO_PKG_VERSION"), " (")), "{printed}");
    }

    /// Every command that `--help` lists, and theirs.
    #[test]
    fn has_help_with_examples_for_every_command() {
        let mut commands: Vec<Vec<String>> = vec![Vec::new()];
        let mut seen = 0;
        while let Some(command) = commands.pop() {
            seen += 1;
            let mut help = Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
            help.args(&command).arg("--help").env_clear().env("CLICOLOR_FORCE", "1");
            let output = help.output().expect("the program starts");
            let printed = stdout(&output);
            assert_eq!(output.status.code(), Some(0), "{command:?}");
            assert!(printed.contains("Example"), "{command:?}: {printed}");
            assert!(!printed.contains('\u{1b}'), "no colour off a terminal");
            let listed = printed.split_once("\nCommands:\n").map_or("", |(_, list)| list);
            for line in listed.lines().map_while(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' ')) {
                let name = line.split(' ').next().expect("a name");
                if name != "help" {
                    commands.push([command.as_slice(), &[name.to_owned()]].concat());
                }
            }
        }
        assert!(seen >= 12, "{seen} commands");
        for command in ["demo", "sandbox", "run"] {
            let output = gateway(&["help", command]);
            let printed = stdout(&output);
            assert!(output.status.code() == Some(0) && !printed.contains("IGNORED"), "{printed}");
        }
    }

    /// What somebody sees who tries it for the first time.
    #[test]
    fn demo_begins_with_what_to_do_and_logs_nothing() {
        use rustix::process::{Pid, Signal, kill_process};
        use std::io::{BufRead as _, BufReader, Read as _};
        let mut command = Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
        command.arg("demo").env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut demo = command.spawn().expect("the program starts");
        let mut lines = BufReader::new(demo.stdout.take().expect("piped")).lines();
        let first = lines.next().expect("a line").expect("text");
        assert!(first.starts_with("fastrac-gateway demo: a simulated Fastrac"), "{first}");
        let last = lines.by_ref().map(|line| line.expect("text")).find(|line| line.ends_with("/status"));
        assert!(last.is_some_and(|line| line.starts_with("curl -s -H 'authorization: Bearer ")));
        kill_process(Pid::from_child(&demo), Signal::INT).expect("sent");
        let mut logged = String::new();
        demo.stderr.take().expect("piped").read_to_string(&mut logged).expect("text");
        assert_eq!((demo.wait().expect("ended").code(), logged.as_str()), (Some(0), ""));
    }

    #[test]
    fn ends_wrong_use_with_code_2() {
        for command in [&[][..], &["chekc"], &["check"], &["check", "a", "b"], &["service"], &["service", "issue"]] {
            assert_eq!(gateway(command).status.code(), Some(2), "{command:?}");
        }
    }

    #[test]
    fn prints_the_schema_as_json() {
        let printed = stdout(&gateway(&["schema"]));
        let schema: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["$defs"]["LimitsTable"]["properties"]["idle"]["default"], "75s");
    }
}
