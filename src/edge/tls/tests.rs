//! Promises of the listeners, on real files.

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
        folder.put_pair(2040);
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    fn put_pair(&self, year: i32) {
        let (cert, key) = pair(year);
        self.write("crt", &cert);
        self.write("key", &key);
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

    fn listeners(&self) -> TlsListeners {
        self.listeners_with(self.settings()).unwrap()
    }

    fn listeners_with(&self, tls: ServerTlsConfig) -> Result<TlsListeners, TlsFilesError> {
        TlsListeners::open(&self.listen(tls), &Metrics::new().unwrap())
    }
}

fn year(listeners: &TlsListeners) -> String {
    listeners.data.as_ref().unwrap().expires().unwrap().strftime("%Y").to_string()
}

fn fault(listeners: &TlsListeners) -> Option<String> {
    listeners.data.as_ref().unwrap().fault()
}

/// Looks until the files are old enough to be believed and something holds.
fn poll_until(listeners: &TlsListeners, holds: impl Fn() -> bool) {
    let began = RealInstant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "never");
        std::thread::sleep(Duration::from_millis(10));
        listeners.poll();
    }
}

/// Polls until the present files have been read.
fn poll(listeners: &TlsListeners) {
    let listener = listeners.data.as_ref().unwrap();
    let read = || {
        let files = listener.files.lock();
        files.watch.is_unchanged()
    };
    poll_until(listeners, read);
}

#[test]
fn a_new_pair_is_shown_however_it_is_put_there() {
    let folder = Folder::new();
    let listeners = folder.listeners();
    assert_eq!(year(&listeners), "2040");
    folder.put_pair(2041);
    poll_until(&listeners, || year(&listeners) == "2041");
    // As a link that is swapped.
    let (cert, key) = pair(2042);
    for (name, text) in [("crt", cert), ("key", key)] {
        folder.write(&format!("{name}.new"), &text);
        std::os::unix::fs::symlink(folder.file(&format!("{name}.new")), folder.file("link")).unwrap();
        fs::rename(folder.file("link"), folder.file(name)).unwrap();
    }
    poll_until(&listeners, || year(&listeners) == "2042");
    assert_eq!(fault(&listeners), None);
}

#[test]
fn files_that_changed_a_moment_ago_are_not_read() {
    let folder = Folder::new();
    let listeners = folder.listeners();
    folder.put_pair(2041);
    listeners.poll();
    assert_eq!(year(&listeners), "2040");
}

#[tokio::test(start_paused = true)]
async fn half_a_pair_changes_nothing_and_alarms_nobody_before_the_other_half_comes() {
    let folder = Folder::new();
    let listeners = folder.listeners();
    let new = pair(2041);
    folder.write("crt", &new.0);
    poll(&listeners);
    advance(REPORT_AFTER - Duration::from_millis(1)).await;
    listeners.poll();
    assert_eq!((year(&listeners), fault(&listeners)), ("2040".into(), None));
    folder.write("key", &new.1);
    poll(&listeners);
    advance(REPORT_AFTER).await;
    listeners.poll();
    assert_eq!((year(&listeners), fault(&listeners)), ("2041".into(), None));
}

#[tokio::test(start_paused = true)]
async fn what_stays_unusable_is_told_with_place_and_remedy_until_it_is_mended() {
    let folder = Folder::new();
    let listeners = folder.listeners();
    for (name, text, told) in [
        ("crt", pair(2041).0.as_str(), "does not belong to the certificate: put the two that were issued together"),
        ("crt", "no PEM", "contains no certificate in PEM form"),
        ("key", "no PEM", "contains no private key in PEM form"),
        ("crt", pair(2001).0.as_str(), "does not belong"),
    ] {
        let good = ["crt", "key"].map(|name| (name, fs::read_to_string(folder.file(name)).unwrap()));
        folder.write(name, text);
        poll(&listeners);
        advance(REPORT_AFTER).await;
        listeners.poll();
        let fault = fault(&listeners).unwrap();
        assert!(fault.contains(told) && fault.contains("listen.tls."), "{fault}");
        assert!(fault.contains(folder.0.path().to_str().unwrap()), "{fault}");
        assert_eq!(year(&listeners), "2040");
        good.iter().for_each(|(name, text)| folder.write(name, text));
        poll_until(&listeners, || self::fault(&listeners).is_none());
    }
    fs::remove_file(folder.file("key")).unwrap();
    poll(&listeners);
    advance(REPORT_AFTER).await;
    listeners.poll();
    assert!(fault(&listeners).unwrap().contains("cannot be read"));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_has_ended_replaces_none() {
    let folder = Folder::new();
    let listeners = folder.listeners();
    folder.put_pair(2001);
    poll(&listeners);
    advance(REPORT_AFTER).await;
    listeners.poll();
    assert_eq!(year(&listeners), "2040");
    assert!(fault(&listeners).unwrap().contains("expired on 2001-03-09"), "{:?}", fault(&listeners));
    // A listener without another one starts with it.
    assert_eq!(year(&folder.listeners()), "2001");
}

#[test]
fn the_same_content_is_not_a_new_certificate() {
    let folder = Folder::new();
    let listeners = folder.listeners();
    let listener = listeners.data.as_ref().unwrap();
    let before = listener.active.load_full();
    let text = fs::read_to_string(folder.file("crt")).unwrap();
    folder.write("crt", &text);
    poll(&listeners);
    assert!(Arc::ptr_eq(&before, &listener.active.load_full()));
}

#[test]
fn a_reload_reads_at_once_and_takes_all_or_nothing() {
    let folder = Folder::new();
    let listeners = folder.listeners();
    folder.put_pair(2041);
    let pending = listeners.read_again(&folder.listen(folder.settings())).unwrap();
    assert_eq!(year(&listeners), "2040");
    pending.activate();
    assert_eq!(year(&listeners), "2041");
    folder.write("key", "no PEM");
    assert!(listeners.read_again(&folder.listen(folder.settings())).is_err());
    // Other files, by the configuration.
    let (cert, key) = pair(2042);
    folder.write("other.crt", &cert);
    folder.write("other.key", &key);
    let other = ServerTlsConfig { cert: folder.file("other.crt"), key: folder.file("other.key"), ..folder.settings() };
    listeners.read_again(&folder.listen(other)).unwrap().activate();
    assert_eq!(year(&listeners), "2042");
    folder.write("other.crt", &pair(2043).0);
    folder.write("crt", "not looked at any more");
    poll(&listeners);
    assert_eq!(year(&listeners), "2042");
}

#[test]
fn authorities_are_read_again_too() {
    let folder = Folder::new();
    folder.write("ca", &authority());
    let settings =
        ServerTlsConfig { client_ca: Some(folder.file("ca")), client_auth: ClientAuth::Required, ..folder.settings() };
    let listeners = folder.listeners_with(settings.clone()).unwrap();
    let listener = listeners.data.as_ref().unwrap();
    let before = listener.active.load().digest;
    folder.write("ca", &format!("{}{}", authority(), authority()));
    poll_until(&listeners, || listener.active.load().digest != before);
    folder.write("ca", "");
    let faulty = folder.listeners_with(settings).err().unwrap().to_string();
    assert!(faulty.contains("listen.tls.client_ca") && faulty.contains("no certificate"), "{faulty}");
}

#[test]
fn sessions_are_resumed_only_where_nobody_is_identified_by_them() {
    let folder = Folder::new();
    folder.write("ca", &authority());
    let resumes = |client_auth, client_ca| {
        let listeners = folder.listeners_with(ServerTlsConfig { client_auth, client_ca, ..folder.settings() }).unwrap();
        let config = listeners.data.as_ref().unwrap().active.load().config.clone();
        (config.ticketer.enabled(), config.session_storage.can_cache(), config.send_tls13_tickets > 0)
    };
    assert_eq!(resumes(ClientAuth::None, None), (true, true, true));
    for asked in [ClientAuth::Optional, ClientAuth::Required] {
        assert_eq!(resumes(asked, Some(folder.file("ca"))), (false, false, false));
    }
}
