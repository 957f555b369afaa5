//! Promises of the doors, on real files.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant as RealInstant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio::time::advance;

use super::*;
use crate::config::ClientAuth;

/// A folder with a pair and an authority.
struct Folder(tempfile::TempDir);

/// A certificate that ends in a year, and its key, as PEM.
fn pair(year: i32) -> (String, String) {
    let (mut params, key) = (CertificateParams::new(["localhost".into()]).unwrap(), KeyPair::generate().unwrap());
    params.not_after = date_time_ymd(year, 3, 9);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn authority() -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap().pem()
}

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.put(&pair(2040));
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    fn put(&self, (cert, key): &(String, String)) {
        self.write("crt", cert);
        self.write("key", key);
    }

    fn settings(&self) -> ServerTlsConfig {
        ServerTlsConfig {
            cert: self.file("crt"),
            key: self.file("key"),
            client_ca: None,
            client_auth: ClientAuth::None,
        }
    }

    fn listen(&self, tls: ServerTlsConfig) -> ListenConfig {
        let address = "127.0.0.1:0".parse().unwrap();
        ListenConfig { data: vec![address], admin: address, workers: 1, tls: Some(tls), admin_tls: None }
    }

    fn doors(&self) -> Doors {
        self.doors_with(self.settings()).unwrap()
    }

    fn doors_with(&self, tls: ServerTlsConfig) -> Result<Doors, Faulty> {
        Doors::open(&self.listen(tls), &Metrics::new().unwrap())
    }
}

fn year(doors: &Doors) -> String {
    doors.data.as_ref().unwrap().ends().unwrap().strftime("%Y").to_string()
}

fn fault(doors: &Doors) -> Option<String> {
    doors.data.as_ref().unwrap().fault()
}

/// Looks until the files are old enough to be believed and something holds.
fn looks_until(doors: &Doors, holds: impl Fn() -> bool) {
    let began = RealInstant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "never");
        std::thread::sleep(Duration::from_millis(10));
        doors.look();
    }
}

/// Looks until what is there now was read.
fn looks(doors: &Doors) {
    let door = doors.data.as_ref().unwrap();
    let settings = door.showing.load().settings.clone();
    looks_until(doors, || door.watch.lock().read == stamps(&settings));
}

#[test]
fn a_new_pair_is_shown_however_it_is_put_there() {
    let folder = Folder::new();
    let doors = folder.doors();
    assert_eq!(year(&doors), "2040");
    folder.put(&pair(2041));
    looks_until(&doors, || year(&doors) == "2041");
    // As a link that is swapped.
    let (cert, key) = pair(2042);
    for (name, text) in [("crt", cert), ("key", key)] {
        folder.write(&format!("{name}.new"), &text);
        std::os::unix::fs::symlink(folder.file(&format!("{name}.new")), folder.file("link")).unwrap();
        fs::rename(folder.file("link"), folder.file(name)).unwrap();
    }
    looks_until(&doors, || year(&doors) == "2042");
    assert_eq!(fault(&doors), None);
}

#[test]
fn files_that_changed_a_moment_ago_are_not_read() {
    let folder = Folder::new();
    let doors = folder.doors();
    folder.put(&pair(2041));
    doors.look();
    assert_eq!(year(&doors), "2040");
}

#[tokio::test(start_paused = true)]
async fn half_a_pair_changes_nothing_and_alarms_nobody_before_the_other_half_comes() {
    let folder = Folder::new();
    let doors = folder.doors();
    let new = pair(2041);
    folder.write("crt", &new.0);
    looks(&doors);
    advance(PATIENCE - Duration::from_millis(1)).await;
    doors.look();
    assert_eq!((year(&doors), fault(&doors)), ("2040".into(), None));
    folder.write("key", &new.1);
    looks(&doors);
    advance(PATIENCE).await;
    doors.look();
    assert_eq!((year(&doors), fault(&doors)), ("2041".into(), None));
}

#[tokio::test(start_paused = true)]
async fn what_stays_unusable_is_told_with_place_and_remedy_until_it_is_mended() {
    let folder = Folder::new();
    let doors = folder.doors();
    for (name, text, told) in [
        ("crt", pair(2041).0.as_str(), "does not belong to the certificate: put the two that were issued together"),
        ("crt", "no PEM", "holds no certificate in PEM form"),
        ("key", "no PEM", "holds no private key in PEM form"),
        ("crt", pair(2001).0.as_str(), "does not belong"),
    ] {
        let good = ["crt", "key"].map(|name| (name, fs::read_to_string(folder.file(name)).unwrap()));
        folder.write(name, text);
        looks(&doors);
        advance(PATIENCE).await;
        doors.look();
        let fault = fault(&doors).unwrap();
        assert!(fault.contains(told) && fault.contains("listen.tls."), "{fault}");
        assert!(fault.contains(folder.0.path().to_str().unwrap()), "{fault}");
        assert_eq!(year(&doors), "2040");
        good.iter().for_each(|(name, text)| folder.write(name, text));
        looks_until(&doors, || self::fault(&doors).is_none());
    }
    fs::remove_file(folder.file("key")).unwrap();
    looks(&doors);
    advance(PATIENCE).await;
    doors.look();
    assert!(fault(&doors).unwrap().contains("cannot be read"));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_has_ended_replaces_none() {
    let folder = Folder::new();
    let doors = folder.doors();
    folder.put(&pair(2001));
    looks(&doors);
    advance(PATIENCE).await;
    doors.look();
    assert_eq!(year(&doors), "2040");
    assert!(fault(&doors).unwrap().contains("ended on 2001-03-09"), "{:?}", fault(&doors));
    // But whoever has no other starts with it.
    assert_eq!(year(&folder.doors()), "2001");
}

#[test]
fn the_same_content_is_not_a_new_certificate() {
    let folder = Folder::new();
    let doors = folder.doors();
    let door = doors.data.as_ref().unwrap();
    let before = door.showing.load_full();
    let text = fs::read_to_string(folder.file("crt")).unwrap();
    folder.write("crt", &text);
    looks(&doors);
    assert!(Arc::ptr_eq(&before, &door.showing.load_full()));
}

#[test]
fn a_reload_reads_at_once_and_takes_all_or_nothing() {
    let folder = Folder::new();
    let doors = folder.doors();
    folder.put(&pair(2041));
    let renewal = doors.renew(&folder.listen(folder.settings())).unwrap();
    assert_eq!(year(&doors), "2040");
    renewal.show();
    assert_eq!(year(&doors), "2041");
    folder.write("key", "no PEM");
    assert!(doors.renew(&folder.listen(folder.settings())).is_err());
    // Other files, by the configuration.
    let (cert, key) = pair(2042);
    folder.write("other.crt", &cert);
    folder.write("other.key", &key);
    let other = ServerTlsConfig { cert: folder.file("other.crt"), key: folder.file("other.key"), ..folder.settings() };
    doors.renew(&folder.listen(other)).unwrap().show();
    assert_eq!(year(&doors), "2042");
    folder.write("other.crt", &pair(2043).0);
    folder.write("crt", "not looked at any more");
    looks(&doors);
    assert_eq!(year(&doors), "2042");
}

#[test]
fn authorities_are_read_again_too() {
    let folder = Folder::new();
    folder.write("ca", &authority());
    let settings =
        ServerTlsConfig { client_ca: Some(folder.file("ca")), client_auth: ClientAuth::Required, ..folder.settings() };
    let doors = folder.doors_with(settings.clone()).unwrap();
    let door = doors.data.as_ref().unwrap();
    let before = door.showing.load().digest;
    folder.write("ca", &format!("{}{}", authority(), authority()));
    looks_until(&doors, || door.showing.load().digest != before);
    folder.write("ca", "");
    let faulty = folder.doors_with(settings).err().unwrap().to_string();
    assert!(faulty.contains("listen.tls.client_ca") && faulty.contains("no certificate"), "{faulty}");
}

#[test]
fn sessions_are_resumed_only_where_nobody_is_identified_by_them() {
    let folder = Folder::new();
    folder.write("ca", &authority());
    let resumes = |client_auth, client_ca| {
        let doors = folder.doors_with(ServerTlsConfig { client_auth, client_ca, ..folder.settings() }).unwrap();
        let config = doors.data.as_ref().unwrap().showing.load().config.clone();
        (config.ticketer.enabled(), config.session_storage.can_cache(), config.send_tls13_tickets > 0)
    };
    assert_eq!(resumes(ClientAuth::None, None), (true, true, true));
    for asked in [ClientAuth::Optional, ClientAuth::Required] {
        assert_eq!(resumes(asked, Some(folder.file("ca"))), (false, false, false));
    }
}
