//! Promises of the keys room that need no rotation task.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use proptest::prelude::*;

use super::{
    source::{LocalSource, checked},
    *,
};
use crate::{config::KeySource, files::FileError};

const CANARY: &str = "canary-secret-7f3a\"/\\x";

fn pair(access: &str, secret: &str) -> Result<KeyPair, PairError> {
    KeyPair::new(Secret::new(access.to_owned()), Secret::new(secret.to_owned()))
}

fn lease(access: &str, secret: &str) -> Lease {
    let pair = pair(access, secret).unwrap();
    Lease::new(Arc::new(LoadedPair::new(pair, ReadAt::now(), SourceId::next(), AccountPairs::of("main"))))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn file_source(path: &Path) -> Arc<LocalSource> {
    Arc::new(LocalSource::open(&KeySource::File { path: path.to_owned(), identity: None }, "main").unwrap())
}

fn directory_source(path: &Path) -> Arc<LocalSource> {
    Arc::new(LocalSource::open(&KeySource::Directory { path: path.to_owned() }, "main").unwrap())
}

/// What a source on this machine holds now.
fn pair_in(source: &Arc<LocalSource>) -> Result<KeyPair, SourceError> {
    checked(source.read()?, None).map(|reading| reading.pair.expect("nothing was known"))
}

mod never_shows {
    use super::*;

    #[test]
    fn a_value_in_debug_or_display() {
        let lease = lease("canary-access", CANARY);
        let secret = Secret::new(CANARY.to_owned());
        let scan = format!("{:?}", lease.scan().feed(b"x"));
        let shown = [
            format!("{secret} {secret:?}"),
            format!("{lease:?} {:?}", pair("canary-access", CANARY).unwrap()),
            format!("{:?} {:?} {:?}", lease.access_key(), lease.secret_key(), lease.basic()),
            format!("{:?}", lease.version()),
            scan,
        ];
        for text in shown {
            assert!(!text.contains("canary") && !text.contains("7f3a"), "{text}");
        }
    }

    #[test]
    fn a_value_in_a_fault_of_any_source() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        for text in [
            "[main]\naccess_key = \"canary-a\"\nsecret_key = \"canary-s",
            "[main]\naccess_key = \"canary-a\"\nsecret_key = canary",
            "[main]\naccess_key = \"canary-a\"\n",
            "[main]\nsecret_key = \"canary-a\"\n",
            "[main]\naccess_key = \"canary-a\"\nsecret_key = \"\"\n",
            "[main]\naccess_key = \"canary-a\"\nsecret_key = \"canary b\"\n",
            "[main]\naccess_key = \"canary:a\"\nsecret_key = \"canary-b\"\n",
            "[main]\naccess_key = \"canary-a\"\nsecret_key = \"canary-\\u00e9\"\n",
            "[main]\naccess_key = \"canary-a\"\nsecret_key = \"canary-b\"\ncanary-key = 1\n",
            "[other]\naccess_key = \"canary-a\"\nsecret_key = \"canary-b\"\n",
            "main = \"canary\"",
            "",
        ] {
            write(&path, text);
            let fault = pair_in(&file_source(&path)).unwrap_err();
            assert!(!format!("{fault} {fault:?}").contains("canary"), "{fault}");
        }
        let folder = folder.path();
        write(&folder.join("access_key"), "canary-a");
        write(&folder.join("secret_key"), "\n");
        std::thread::sleep(Duration::from_millis(110));
        let fault = pair_in(&directory_source(folder)).unwrap_err();
        assert!(fault.to_string().ends_with("secret_key is empty"), "{fault}");
    }

    #[test]
    fn a_fault_names_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        write(&path, "[main]\naccess_key = \"canary-a\"\nsecret_key = canary\n");
        let fault = pair_in(&file_source(&path)).unwrap_err().to_string();
        assert!(fault.contains("keys.toml:3:"), "{fault}");
    }
}

mod pairs {
    use super::*;

    #[test]
    fn prepare_their_headers_once_marked_sensitive() {
        let lease = lease("access", "secret-key-1");
        assert_eq!(lease.access_key(), "access");
        assert_eq!(lease.secret_key(), "secret-key-1");
        assert_eq!(lease.basic().to_str().unwrap(), format!("Basic {}", STANDARD.encode("access:secret-key-1")));
        assert!([lease.access_key(), lease.secret_key(), lease.basic()].iter().all(|value| value.is_sensitive()));
    }

    #[test]
    fn have_a_version_that_never_changes() {
        // Written down: `revoke VERSION` must mean the same pair after an upgrade.
        assert_eq!(pair("sandbox-access", "sandbox-secret").unwrap().version().as_str(), VERSION_OF_SANDBOX);
    }

    #[test]
    fn versions_are_read_back() {
        let version = pair("a", "b").unwrap().version();
        assert_eq!(version.as_str().to_uppercase().parse(), Ok(version));
        assert_eq!("123".parse::<PairVersion>(), Err(NotAVersion));
        assert_eq!("zzzzzzzz".parse::<PairVersion>(), Err(NotAVersion));
    }

    #[test]
    fn know_where_one_half_ends() {
        assert_ne!(pair("ab", "c").unwrap().version(), pair("a", "bc").unwrap().version());
    }
}

const VERSION_OF_SANDBOX: &str = "5b84194d";

mod leaks {
    use super::*;

    fn leaks_in(lease: &Lease, text: &[u8]) -> bool {
        lease.any_leaks_in(std::iter::once(text))
    }

    /// Escapes each character in one of the ways that JSON allows.
    fn escape(text: &str, ways: &[u8]) -> String {
        let mut out = String::new();
        for (n, c) in text.chars().enumerate() {
            match (c, ways[n % ways.len()] % 4) {
                ('"' | '\\', 0 | 1) => out.extend(['\\', c]),
                ('/', 1) => out.push_str("\\/"),
                (c, 2) => out.push_str(&format!("\\u{:04x}", c as u32)),
                (c, 3) => out.push_str(&format!("\\u{:04X}", c as u32)),
                (c, _) => out.push(c),
            }
        }
        out
    }

    proptest! {
        // Making a pair costs thousands of hashes.
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn are_found_however_json_escapes_them(
            secret in "[!-~]{8,40}",
            ways in prop::collection::vec(any::<u8>(), 1..20),
            basic in any::<bool>(),
            layers in 0_usize..3,
            before in ".{0,20}",
        ) {
            let lease = lease("access", &secret);
            let mut shown = if basic { STANDARD.encode(format!("access:{secret}")) } else { secret };
            for _ in 0..layers {
                shown = escape(&shown, &ways);
            }
            // Of the text before it nothing may swallow the first character.
            let body = format!("{{\"message\":\"{} {shown}\"}}", before.replace('\\', ""));
            prop_assert!(leaks_in(&lease, body.as_bytes()));
        }

        #[test]
        fn never_leave_a_scan_not_even_in_parts(
            secret in "[!-~]{8,20}",
            ways in prop::collection::vec(any::<u8>(), 1..20),
            cut in 1_usize..40,
        ) {
            let lease = lease("access", &secret);
            let shown = escape(&secret, &ways);
            let body = format!("{}{shown}{}", "x".repeat(500), "y".repeat(500));
            let mut scan = lease.scan();
            let mut out = Vec::new();
            let mut leak = false;
            for chunk in body.as_bytes().chunks(cut) {
                match scan.feed(chunk) {
                    Ok(bytes) => out.extend_from_slice(&bytes),
                    Err(Leak) => { leak = true; break; }
                }
            }
            prop_assert!(leak);
            prop_assert!(out.iter().all(|byte| *byte == b'x'), "part of the secret went out");
        }

        #[test]
        fn innocent_answers_pass_a_scan_unchanged(
            body in prop::collection::vec(any::<u8>(), 0..3000),
            cut in 1_usize..700,
        ) {
            let lease = lease("access", "a-secret-that-is-not-there");
            let mut scan = lease.scan();
            let mut out = Vec::new();
            for chunk in body.chunks(cut) {
                out.extend_from_slice(&scan.feed(chunk).unwrap());
            }
            out.extend_from_slice(&scan.finish());
            prop_assert_eq!(out, body);
        }
    }

    #[test]
    fn are_not_seen_where_there_are_none() {
        let lease = lease("access", "secret-key-1");
        assert!(!leaks_in(&lease, br#"{"success":true,"message":"secret-key-2 \/ secret\u002dkey-"}"#));
        assert!(!leaks_in(&lease, b"\\"));
        assert!(!leaks_in(&lease, b"\\u00"));
        assert!(!leaks_in(&super::lease("access", "short"), b"short"));
    }
}

mod files {
    use super::*;

    #[test]
    fn open_to_others_are_faults_and_to_a_group_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        write(
            &path,
            "[main]\naccess_key = \"a\"\nsecret_key = \"b\"\n[other]\naccess_key = \"c\"\nsecret_key = \"d\"\n",
        );
        let source = file_source(&path);
        for (mode, good) in
            [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o602, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = pair_in(&source);
            assert_eq!(read.is_ok(), good, "{mode:o}: {read:?}");
            assert!(good || matches!(read, Err(SourceError::File(FileError::Mode { .. }))));
        }
    }

    #[test]
    fn that_say_the_same_again_make_no_new_pair() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        write(&path, "[main]\naccess_key = \"a\"\nsecret_key = \"b\"\n");
        let source = file_source(&path);
        let pair = pair_in(&source).unwrap();
        let held = LoadedPair::new(pair, ReadAt::now(), SourceId::next(), AccountPairs::of("main"));
        assert!(checked(source.read().unwrap(), Some(&held)).unwrap().pair.is_none());
    }

    #[test]
    fn missing_or_not_files_are_faults() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            pair_in(&file_source(&folder.path().join("no"))),
            Err(SourceError::File(FileError::Unreadable { .. }))
        ));
        assert!(pair_in(&file_source(folder.path())).is_err());
    }

    #[test]
    fn that_can_not_be_had_are_refused_clearly() {
        let vault = KeySource::Vault { mount: "secret".into(), path: "x".into(), sealed_copy: None };
        assert!(matches!(PairSource::open(&vault, "main", None), Err(SourceError::NoVault)));
        let env = KeySource::Env { access_key: "FASTRAC_NOT_SET_A".into(), secret_key: "FASTRAC_NOT_SET_B".into() };
        assert!(PairSource::open(&env, "main", None).unwrap_err().to_string().contains("FASTRAC_NOT_SET_A"));
    }

    #[test]
    fn that_are_rewritten_never_give_halves_of_two() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let put = |n: u32| {
            let new = folder.path().join("new");
            write(&new, &format!("[main]\naccess_key = \"access-{n}\"\nsecret_key = \"secret-{n}\"\n"));
            fs::rename(&new, &path).unwrap();
        };
        put(0);
        never_mixes(&file_source(&path), put, true);
    }
}

mod directories {
    use super::*;

    /// What Kubernetes does: a new folder, then one link swapped.
    fn swap(folder: &Path, n: u32) {
        let name = format!("..{n}");
        fs::create_dir(folder.join(&name)).unwrap();
        write(&folder.join(&name).join("access_key"), &format!("access-{n}\n"));
        write(&folder.join(&name).join("secret_key"), &format!("secret-{n}\r\n"));
        symlink(&name, folder.join("..tmp")).unwrap();
        fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
        if n > 0 {
            fs::remove_dir_all(folder.join(format!("..{}", n - 1))).unwrap();
        }
    }

    #[test]
    fn that_kubernetes_swaps_never_give_halves_of_two() {
        let folder = tempfile::tempdir().unwrap();
        swap(folder.path(), 0);
        for name in ["access_key", "secret_key"] {
            symlink(format!("..data/{name}"), folder.path().join(name)).unwrap();
        }
        never_mixes(&directory_source(folder.path()), |n| swap(folder.path(), n), true);
    }

    #[test]
    fn whose_files_are_written_one_by_one_never_give_halves_of_two() {
        let folder = tempfile::tempdir().unwrap();
        let put = |n: u32| {
            for name in ["access", "secret"] {
                let new = folder.path().join("new");
                write(&new, &format!("{name}-{n}"));
                fs::rename(&new, folder.path().join(format!("{name}_key"))).unwrap();
            }
        };
        put(0);
        never_mixes(&directory_source(folder.path()), put, false);
        put(9);
        std::thread::sleep(Duration::from_millis(120));
        let source = directory_source(folder.path());
        assert_eq!(pair_in(&source).unwrap().headers().secret_key, "secret-9");
        // One new half beside an old one waits longer, and is not given out meanwhile.
        write(&folder.path().join("secret_key"), "secret-10");
        std::thread::sleep(Duration::from_millis(120));
        assert!(pair_in(&source).unwrap_err().is_transient());
    }
}

/// Reads while `put` rewrites on another thread: every pair read is whole, and (where it must be) at
/// least some are read. Where nothing tells that a pair is half written but the time, a writer that the
/// machine held up in the middle for as long as a pair needs to settle excuses a mixed one.
fn never_mixes(source: &Arc<LocalSource>, put: impl Fn(u32) + Send + Sync, must_read: bool) {
    const SETTLED: Duration = Duration::from_millis(100);
    let stop = AtomicBool::new(false);
    let pairs: Vec<(String, String)> = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            for n in 1.. {
                // Otherwise a reader on a busy machine finds no moment without a change.
                if must_read {
                    std::thread::sleep(Duration::from_micros(500));
                }
                let began = std::time::Instant::now();
                put(n);
                longest = longest.max(began.elapsed());
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            longest
        });
        let number = |value: &HeaderValue| value.to_str().unwrap().split('-').nth(1).unwrap().to_owned();
        let read = |_| {
            let pair = pair_in(source).ok()?;
            Some((number(&pair.headers().access_key), number(&pair.headers().secret_key)))
        };
        let pairs = (0..200).filter_map(read).collect();
        stop.store(true, Ordering::Relaxed);
        let held_up = writer.join().unwrap() >= SETTLED;
        if held_up && !must_read { Vec::new() } else { pairs }
    });
    assert!(pairs.iter().all(|(access, secret)| access == secret), "{pairs:?}");
    let seen: std::collections::BTreeSet<_> = pairs.iter().collect();
    assert!(!must_read || seen.len() > 1, "{seen:?}");
}
