//! Promises of the vault, against a stub of one in the same process, on tokio's paused clock.
#![allow(clippy::disallowed_methods, reason = "tests have no drain to join")]

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::client::encoded;
use super::*;
use crate::{
    config::{self, VaultAuth, file::TextValue as _},
    connector::Connector,
    keys::pair::RawPair,
};

const TOKEN: &str = "hvs.canary-token-0123456789";

/// A vault whose responses are in a table.
#[derive(Default)]
struct VaultStub {
    /// The responses of each path, in order; the last one is repeated.
    answers: Mutex<Vec<(&'static str, VecDeque<StubAnswer>)>>,
    asked: Mutex<Vec<(String, String, HeaderMap, String)>>,
    /// Accepts connections and never responds.
    hole: Mutex<bool>,
}

#[derive(Clone)]
struct StubAnswer {
    status: u16,
    body: String,
    location: Option<String>,
}

fn says(status: u16, body: &Value) -> StubAnswer {
    StubAnswer { status, body: body.to_string(), location: None }
}

fn moved(location: &str) -> StubAnswer {
    StubAnswer { status: 307, body: String::new(), location: Some(location.to_owned()) }
}

fn login(seconds: u64, renewable: bool) -> StubAnswer {
    says(200, &json!({ "auth": { "client_token": TOKEN, "lease_duration": seconds, "renewable": renewable } }))
}

fn pair(n: u64) -> StubAnswer {
    let data = json!({ "access_key": format!("access-{n}"), "secret_key": format!("canary-secret-{n}") });
    says(200, &json!({ "data": { "data": data, "metadata": { "version": n, "destroyed": false } } }))
}

fn denied() -> StubAnswer {
    says(403, &json!({ "errors": ["1 error occurred:\n\t* permission denied\n\n"] }))
}

const LOGIN: &str = "POST auth/approle/login";
const RENEW: &str = "POST auth/token/renew-self";
const READ: &str = "GET secret/data/fastrac/main";
const MOUNT: &str = "GET sys/internal/ui/mounts/secret/fastrac/main";
const HEALTH: &str = "GET sys/health";
const LEADER: &str = "GET sys/leader";

impl VaultStub {
    /// A stub in which every request succeeds.
    fn new() -> Arc<Self> {
        let stub = Arc::new(Self::default());
        stub.will(LOGIN, [login(3600, true)]);
        stub.will(RENEW, [login(3600, true)]);
        stub.will(MOUNT, [says(200, &json!({ "data": { "options": { "version": "2" } } }))]);
        stub.will(READ, [pair(1)]);
        stub.will(HEALTH, [says(200, &json!({}))]);
        stub
    }

    fn will<const N: usize>(&self, what: &'static str, answers: [StubAnswer; N]) {
        let mut all = self.answers.lock();
        all.retain(|(known, _)| *known != what);
        all.push((what, answers.into_iter().collect()));
    }

    /// How often a request was made.
    fn count(&self, what: &str) -> usize {
        self.asked.lock().iter().filter(|(asked, ..)| asked == what).count()
    }

    fn answer(&self, what: &str) -> StubAnswer {
        let mut all = self.answers.lock();
        match all.iter_mut().find(|(known, _)| *known == what) {
            Some((_, answers)) if answers.len() > 1 => answers.pop_front().unwrap(),
            Some((_, answers)) => answers[0].clone(),
            None => says(404, &json!({ "errors": [] })),
        }
    }

    async fn serve(
        self: Arc<Self>,
        server: String,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let what = format!("{} {}", head.method, head.uri.path().trim_start_matches("/v1/"));
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        self.asked.lock().push((what.clone(), server, head.headers, text));
        if *self.hole.lock() {
            std::future::pending::<()>().await;
        }
        let StubAnswer { status, body, location } = self.answer(&what);
        let mut answer = Response::builder().status(status);
        if let Some(location) = location {
            answer = answer.header("location", location);
        }
        Ok(answer.body(Full::new(Bytes::from(body))).unwrap())
    }
}

fn settings(folder: &std::path::Path, address: &str) -> config::VaultConfig {
    let secret_id_file = folder.join("secret-id");
    std::fs::write(&secret_id_file, "canary-secret-id-0123456789\n").unwrap();
    config::VaultConfig {
        address: address.to_owned(),
        ca: None,
        namespace: Some("team-a".to_owned()),
        poll: Duration::from_secs(30),
        auth: VaultAuth::AppRole { mount: "approle".to_owned(), role_id: "role".to_owned(), secret_id_file },
    }
}

/// A vault client and one secret, with a stub as the vault.
struct VaultSetup {
    stub: Arc<VaultStub>,
    vault: Arc<Vault>,
    secret: KvSecret,
    folder: tempfile::TempDir,
}

impl VaultSetup {
    fn new() -> Self {
        Self::at("https://vault.internal:8200", VaultStub::new())
    }

    fn at(address: &str, stub: Arc<VaultStub>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::with(&settings(folder.path(), address), stub, folder)
    }

    fn with(settings: &config::VaultConfig, stub: Arc<VaultStub>, folder: tempfile::TempDir) -> Self {
        let mut vault = Vault::open(settings, Connector::default()).unwrap();
        let serving = stub.clone();
        Arc::get_mut(&mut vault.server).unwrap().client.stub = Some(Box::new(move |server| {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let (stub, server) = (serving.clone(), server.to_text());
            tokio::spawn(async move {
                let service = service_fn(|request| stub.clone().serve(server.clone(), request));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(theirs), service).await;
            });
            ours
        }));
        let vault = Arc::new(vault);
        let secret = KvSecret::new(vault.clone(), "secret", "fastrac/main");
        Self { stub, vault, secret, folder }
    }

    async fn read(&self) -> Result<u64, VaultError> {
        let RawPair { access, secret, version, .. } = self.secret.read(false).await?;
        let number = version.expect("version 2 has numbers");
        assert_eq!(access.expose(), format!("access-{number}"));
        assert_eq!(secret.expose(), format!("canary-secret-{number}"));
        Ok(number)
    }

    /// Runs [`Vault::tend`] for so many seconds.
    async fn tend(&self, seconds: u64) {
        let _ = tokio::time::timeout(Duration::from_secs(seconds), self.vault.tend()).await;
    }
}

mod asks {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn with_one_login_in_the_namespace_and_shows_what_it_is() {
        let world = VaultSetup::new();
        assert_eq!(world.read().await, Ok(1));
        assert_eq!(world.read().await, Ok(1));
        let asked = std::mem::take(&mut *world.stub.asked.lock());
        let order: Vec<_> = asked.iter().map(|(what, ..)| what.as_str()).collect();
        assert_eq!(order, [LOGIN, MOUNT, READ, READ]);
        for (what, _, headers, body) in &asked {
            assert_eq!(headers["x-vault-request"], "true");
            assert_eq!(headers["x-vault-namespace"], "team-a");
            assert_eq!(headers["host"], "vault.internal:8200");
            assert_eq!(headers.get("x-vault-token").is_some(), what != LOGIN);
            assert_eq!(body.is_empty(), what != LOGIN);
        }
        assert_eq!(asked[0].3, r#"{"role_id":"role","secret_id":"canary-secret-id-0123456789"}"#);
    }

    #[tokio::test(start_paused = true)]
    async fn once_for_all_that_need_a_token_at_once() {
        let world = VaultSetup::new();
        let (one, two, three) = tokio::join!(world.read(), world.read(), world.read());
        assert_eq!([one, two, three], [Ok(1), Ok(1), Ok(1)]);
        assert_eq!(world.stub.count(LOGIN), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn as_version_2_when_it_may_not_know_and_as_version_1_when_told() {
        let world = VaultSetup::new();
        world.stub.will(MOUNT, [denied()]);
        assert_eq!(world.read().await, Ok(1));
        let world = VaultSetup::new();
        world.stub.will(MOUNT, [says(200, &json!({ "data": { "options": null } }))]);
        world.stub.will(
            "GET secret/fastrac/main",
            [says(200, &json!({ "data": { "access_key": "a\n", "secret_key": "s" } }))],
        );
        let halves = world.secret.read(false).await.unwrap();
        assert_eq!((halves.access.expose(), halves.secret.expose(), halves.version), ("a", "s", None));
    }

    #[test]
    fn paths_so_that_they_stay_what_they_are() {
        assert_eq!(encoded("fastrac/main-1_a.b~c").to_string(), "fastrac/main-1_a.b~c");
        assert_eq!(encoded("a b?c#d%é").to_string(), "a%20b%3Fc%23d%25%C3%A9");
    }
}

mod never_loops {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_that_ended_is_replaced_by_one_login() {
        let world = VaultSetup::new();
        assert_eq!(world.read().await, Ok(1));
        world.stub.will(READ, [denied(), pair(2)]);
        assert_eq!(world.read().await, Ok(2));
        assert_eq!(world.stub.count(LOGIN), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_denied_path_leads_to_fewer_and_fewer_logins() {
        let world = VaultSetup::new();
        world.stub.will(READ, [denied()]);
        let mut logins = Vec::new();
        for _ in 0..24 {
            for _ in 0..120 {
                assert!(matches!(world.read().await, Err(VaultError::Denied(_))));
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            logins.push(world.stub.count(LOGIN));
        }
        // Its life of an hour ends too, each time with one login.
        assert!(logins[0] <= 10 && logins[23] <= logins[0] + 2 * 23, "{logins:?}");
        world.stub.will(READ, [pair(3)]);
        assert_eq!(world.read().await, Ok(3), "and comes back by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_login_has_a_floor() {
        let world = VaultSetup::new();
        world.stub.will(LOGIN, [says(400, &json!({ "errors": ["invalid role or secret ID"] }))]);
        for _ in 0..50 {
            let fault = world.read().await.unwrap_err();
            assert_eq!(fault, VaultError::Login { status: 400, said: "invalid role or secret id".to_owned() });
        }
        assert_eq!(world.stub.count(LOGIN), 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.read().await.is_err());
        assert_eq!(world.stub.count(LOGIN), 2);
    }
}

mod renews {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn at_two_thirds_of_its_life() {
        let world = VaultSetup::new();
        world.stub.will(LOGIN, [login(90, true)]);
        world.stub.will(RENEW, [login(90, true)]);
        assert_eq!(world.read().await, Ok(1));
        world.tend(59).await;
        assert_eq!(world.stub.count(RENEW), 0);
        world.tend(2).await;
        assert_eq!(world.stub.count(RENEW), 1);
        world.tend(600).await;
        assert_eq!((world.stub.count(RENEW), world.stub.count(LOGIN)), (11, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_login_where_a_renewal_gives_less_or_is_not_allowed() {
        let world = VaultSetup::new();
        world.stub.will(LOGIN, [login(90, true)]);
        world.stub.will(RENEW, [login(30, true)]);
        assert_eq!(world.read().await, Ok(1));
        world.tend(61).await;
        assert_eq!((world.stub.count(RENEW), world.stub.count(LOGIN)), (1, 1));
        world.tend(20).await;
        assert_eq!((world.stub.count(RENEW), world.stub.count(LOGIN)), (1, 2), "its last day has come");
        world.stub.will(RENEW, [denied()]);
        world.tend(61).await;
        assert_eq!((world.stub.count(RENEW), world.stub.count(LOGIN)), (2, 3), "it was revoked");
    }

    #[tokio::test(start_paused = true)]
    async fn again_and_again_while_the_vault_is_down_but_not_in_a_hurry() {
        let world = VaultSetup::new();
        world.stub.will(LOGIN, [login(3600, true)]);
        world.stub.will(RENEW, [says(500, &json!({}))]);
        assert_eq!(world.read().await, Ok(1));
        world.tend(2399).await;
        world.tend(1000).await;
        let tried = world.stub.count(RENEW);
        assert!((15..60).contains(&tried), "{tried} times in 1000 s");
        world.stub.will(RENEW, [login(3600, true)]);
        world.tend(90).await;
        assert_eq!(world.stub.count(RENEW), tried + 1);
        assert_eq!((world.read().await, world.stub.count(LOGIN)), (Ok(1), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn not_what_stands_in_a_file_but_reads_that_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "canary-token-first\n").unwrap();
        let mut settings = settings(folder.path(), "https://vault.internal:8200");
        settings.auth = VaultAuth::Token { token_file: Some(file.clone()) };
        let world = VaultSetup::with(&settings, VaultStub::new(), folder);
        world
            .stub
            .will("GET auth/token/lookup-self", [says(200, &json!({ "data": { "ttl": 60, "renewable": false } }))]);
        assert_eq!(world.read().await, Ok(1));
        std::fs::write(&file, "canary-token-second\n").unwrap();
        assert_eq!(world.read().await, Ok(1));
        let token = |at: usize| world.stub.asked.lock()[at].2["x-vault-token"].to_str().unwrap().to_owned();
        let last = world.stub.asked.lock().len() - 1;
        assert_eq!((token(0).as_str(), token(last).as_str()), ("canary-token-first", "canary-token-second"));
        // Denied, and the file still holds the same: there is nothing to log in with.
        world.stub.will(READ, [denied()]);
        let before = world.stub.asked.lock().len();
        assert!(matches!(world.read().await, Err(VaultError::Denied(_))));
        assert_eq!(world.stub.asked.lock().len(), before + 1);
        drop(world.folder);
    }
}

mod says_why {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn by_what_its_health_is() {
        for (status, fault) in [(503, VaultError::Sealed), (501, VaultError::Uninitialized)] {
            let world = VaultSetup::new();
            world.stub.will(LOGIN, [says(503, &json!({ "errors": ["Vault is sealed"] }))]);
            world.stub.will(HEALTH, [says(status, &json!({}))]);
            assert_eq!(world.read().await, Err(fault));
        }
        for status in [429, 472, 473] {
            let world = VaultSetup::new();
            world.stub.will(READ, [says(500, &json!({ "errors": ["no active node"] }))]);
            world.stub.will(HEALTH, [says(status, &json!({}))]);
            assert!(matches!(world.read().await, Err(VaultError::Standby(_))), "{status}");
        }
        let world = VaultSetup::new();
        world.stub.will(READ, [says(500, &json!({ "errors": ["internal error"] }))]);
        assert_eq!(world.read().await, Err(VaultError::Answered { status: 500, said: "internal error".to_owned() }));
        let health = world.stub.asked.lock().iter().find(|(what, ..)| what == HEALTH).unwrap().2.clone();
        assert!(health.get("x-vault-token").is_none() && health.get("x-vault-namespace").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_is_gone_is_never_a_value() {
        let world = VaultSetup::new();
        let metadata =
            |destroyed| json!({ "version": 4, "destroyed": destroyed, "deletion_time": "2026-11-24T00:00:00Z" });
        let fields = json!({ "access_key": "access-4", "secret_key": "canary-secret-4" });
        for (status, data, destroyed, how) in [
            (404, Value::Null, false, "deleted"),
            (404, Value::Null, true, "destroyed"),
            // A value that is said to be destroyed is none.
            (200, fields, true, "destroyed"),
        ] {
            world
                .stub
                .will(READ, [says(status, &json!({ "data": { "data": data, "metadata": metadata(destroyed) } }))]);
            let gone = VaultError::Deleted { place: "secret/fastrac/main".to_owned(), version: 4, how };
            assert_eq!(world.read().await, Err(gone));
        }
        world.stub.will(READ, [says(404, &json!({ "errors": [] }))]);
        assert_eq!(world.read().await, Err(VaultError::Missing("secret/fastrac/main".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn and_never_what_may_be_a_secret() {
        // Short, cut up, encoded: what a vault quotes is not shown, whatever it looks like.
        let texts = [
            format!("token {TOKEN} and canary-secret-id-0123456789 are bad\u{7}"),
            "permission denied canary-secret-1 for canary".to_owned(),
            "Y2FuYXJ5 hvs.canary secret=canary, internal error".to_owned(),
        ];
        let echo = json!({ "errors": texts, "warnings": texts });
        for what in [LOGIN, READ] {
            for status in [400, 500, 403, 302, 200, 404] {
                let world = VaultSetup::new();
                world.stub.will(what, [says(status, &echo)]);
                let fault = world.read().await.unwrap_err();
                let text = format!("{fault} {fault:?}");
                let shown = text.contains("canary") || text.contains("Y2FuYXJ5") || text.contains('\u{7}');
                assert!(!shown, "{what} {status}: {text}");
            }
        }
        let odd =
            json!({ "data": { "data": { "access_key": 7, "secret_key": "canary" }, "metadata": { "version": 1 } } });
        let world = VaultSetup::new();
        world.stub.will(READ, [says(200, &odd)]);
        assert!(!world.read().await.unwrap_err().to_string().contains("canary"));
    }
}

mod is_bounded {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn in_time_by_a_black_hole() {
        let world = VaultSetup::new();
        assert_eq!(world.read().await, Ok(1));
        *world.stub.hole.lock() = true;
        let began = tokio::time::Instant::now();
        assert!(matches!(world.read().await, Err(VaultError::DeadlineExceeded(_))));
        assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
        *world.stub.hole.lock() = false;
        assert_eq!(world.read().await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn in_size() {
        let world = VaultSetup::new();
        world.stub.will(READ, [says(200, &json!({ "data": "x".repeat(2 << 20) }))]);
        assert!(matches!(world.read().await, Err(VaultError::Malformed(_))));
    }
}

mod follows {
    use super::*;

    const OTHER: &str = "https://vault-2.internal:8200";

    fn named(leader: &str) -> StubAnswer {
        says(200, &json!({ "ha_enabled": true, "is_self": false, "leader_address": leader }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_to_the_leader_that_it_names() {
        let world = VaultSetup::new();
        world.stub.will(READ, [moved(&format!("{OTHER}/v1/secret/data/fastrac/main")), pair(5)]);
        world.stub.will(LEADER, [named(OTHER)]);
        assert_eq!(world.read().await, Ok(5));
        let asked = world.stub.asked.lock();
        let (what, server, headers, _) = asked.last().unwrap();
        assert_eq!((what.as_str(), server.as_str()), (READ, OTHER));
        assert_eq!(headers["x-vault-token"], TOKEN);
        assert_eq!(headers["host"], "vault-2.internal:8200");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_else_with_the_token() {
        let elsewhere = "https://vault-2.internal:8200/v1/secret/data/fastrac/other";
        let right = "https://vault-2.internal:8200/v1/secret/data/fastrac/main";
        for (location, leader) in [
            ("https://evil.example/v1/secret/data/fastrac/main", OTHER),
            ("http://vault-2.internal:8200/v1/secret/data/fastrac/main", "http://vault-2.internal:8200"),
            (elsewhere, OTHER),
            (right, ""),
            (right, "https://vault-3.internal:8200"),
            ("/v1/secret/data/fastrac/main", OTHER),
        ] {
            let world = VaultSetup::new();
            world.stub.will(READ, [moved(location)]);
            world.stub.will(LEADER, [named(leader)]);
            assert!(matches!(world.read().await, Err(VaultError::Standby(_))), "{location} {leader}");
            let home = "https://vault.internal:8200";
            assert!(world.stub.asked.lock().iter().all(|(_, server, ..)| server == home), "{location} {leader}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_redirect_twice() {
        let world = VaultSetup::new();
        world.stub.will(READ, [moved(&format!("{OTHER}/v1/secret/data/fastrac/main"))]);
        world.stub.will(LEADER, [named(OTHER)]);
        assert!(world.read().await.is_err());
        assert_eq!(world.stub.count(READ), 2);
    }
}

mod bounds {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whatever_number_a_vault_sends() {
        for lease in [json!(u64::MAX), json!(1e300), json!(-1), json!(3600.5), json!("1h"), json!(null)] {
            let world = VaultSetup::new();
            let auth = json!({ "client_token": TOKEN, "lease_duration": lease, "renewable": true });
            world.stub.will(LOGIN, [says(200, &json!({ "auth": auth }))]);
            world.stub.will(RENEW, [says(200, &json!({ "auth": auth }))]);
            let tending = world.vault.clone();
            let task = tokio::spawn(async move { tending.tend().await });
            assert_eq!(world.read().await, Ok(1), "{lease}");
            tokio::time::sleep(Duration::from_secs(400 * 86_400)).await;
            assert!(!task.is_finished(), "{lease}");
            assert_eq!(world.read().await, Ok(1), "{lease}");
            task.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_with_its_token() {
        const REVOKE: &str = "POST auth/token/revoke-self";
        let world = VaultSetup::new();
        assert_eq!(world.read().await, Ok(1));
        world.vault.close().await;
        assert_eq!(world.stub.count(REVOKE), 1);
        assert!(world.read().await.is_err(), "it logs in no more");
        assert_eq!(world.stub.count(LOGIN), 1);
        drop(world.vault);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(world.stub.count(REVOKE), 1);
    }

    /// The tokens that each of several logins gave stayed valid, after reloads, denials and at the end.
    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_given_up_ends() {
        const REVOKE: &str = "POST auth/token/revoke-self";
        let another = |token: &str| {
            says(200, &json!({ "auth": { "client_token": token, "lease_duration": 36000, "renewable": true } }))
        };
        let world = VaultSetup::new();
        world.stub.will(LOGIN, [another("hvs.first"), another("hvs.second")]);
        world.stub.will(READ, [denied(), pair(1)]);
        world.stub.will(REVOKE, [says(503, &json!({})), says(204, &json!({}))]);
        assert_eq!(world.read().await, Ok(1));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((world.stub.count(LOGIN), world.stub.count(REVOKE)), (2, 2), "once more after a failure");
        // A reload drops the vault and what reads from it.
        let VaultSetup { stub, vault, secret, folder: _folder } = world;
        drop((vault, secret));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let asked = stub.asked.lock();
        let revoked =
            asked.iter().filter(|(what, ..)| what == REVOKE).map(|(_, _, head, _)| head["x-vault-token"].clone());
        assert_eq!(revoked.collect::<Vec<_>>(), ["hvs.first", "hvs.first", "hvs.second"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_configured_token_is_its_operators() {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, TOKEN).unwrap();
        let mut settings = settings(folder.path(), "https://vault.internal:8200");
        settings.auth = VaultAuth::Token { token_file: Some(token_file) };
        let world = VaultSetup::with(&settings, VaultStub::new(), folder);
        assert_eq!(world.read().await, Ok(1));
        let VaultSetup { stub, vault, secret, folder: _folder } = world;
        drop((vault, secret));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(stub.count("POST auth/token/revoke-self"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_that_an_operator_does_not_have_to_sit_out() {
        let world = VaultSetup::new();
        world.stub.will(READ, [denied()]);
        for _ in 0..20 {
            let _ = world.read().await;
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
        let logins = world.stub.count(LOGIN);
        let _ = world.read().await;
        assert_eq!(world.stub.count(LOGIN), logins, "it waits for up to an hour");
        world.stub.will(READ, [denied(), pair(1)]);
        assert!(world.secret.read(true).await.is_ok());
        assert_eq!(world.stub.count(LOGIN), logins + 1);
    }
}

/// What an account's keys make of all this, with the rotation task above them.
mod serves {
    use jiff::{SignedDuration, Timestamp};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::{
        keys::{
            KeyPair, Keys, KnownRevocations, NoKey, PairVersion, RefusedRequest, Remedy, SealedCopy, Secret, TriedPair,
            Verdict,
        },
        rotation,
    };

    /// Nothing is revoked in these tests.
    struct Nowhere;

    impl KnownRevocations for Nowhere {
        fn versions(&self) -> Vec<PairVersion> {
            Vec::new()
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    struct KeptAccount {
        keys: Arc<Keys>,
        task: JoinHandle<()>,
    }

    impl Drop for KeptAccount {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    fn configured(folder: &std::path::Path) -> config::AccountConfig {
        let text = r#"
            [vault]
            address = "https://vault.internal:8200"
            auth = { method = "token", token_file = "t" }
            [accounts.main]
            base_url = "https://fastrac.example"
            keys = { source = "vault", path = "fastrac/main", sealed_copy = { path = "main.age", identity = "identity" } }
            rotation = { max_age = "1h" }
            [services.a]
            account = "main"
            identities = ["spiffe://shop/a"]
        "#;
        let checked = config::check::check(text, folder, &config::check::Environment::default());
        checked.config.expect("good").accounts.remove(0)
    }

    fn identity(folder: &std::path::Path) {
        use age::secrecy::ExposeSecret as _;
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.join("identity");
        std::fs::write(&path, age::x25519::Identity::generate().to_string().expose_secret()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    impl VaultSetup {
        async fn account(&self, folder: &std::path::Path) -> KeptAccount {
            let observer = Box::new(|_: &_| {});
            let (keys, keeper) =
                Keys::open(&configured(folder), Some(&self.vault), Arc::new(Nowhere), observer).unwrap();
            let account =
                KeptAccount { keys, task: tokio::spawn(rotation::keep(keeper, |_| async { Verdict::Verified })) };
            tokio::time::sleep(Duration::from_secs(20)).await;
            account
        }
    }

    fn copy(world: &VaultSetup, folder: &std::path::Path) -> SealedCopy {
        SealedCopy::of(&configured(folder).keys, "main", &world.vault.settings().address).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn until_max_age_without_the_vault_and_recovers_alone() {
        let world = VaultSetup::new();
        let account = world.account(world.folder.path()).await;
        assert!(account.keys.lease().is_ok());
        assert_eq!(account.keys.status().pairs[0].source_version, Some(1));
        *world.stub.hole.lock() = true;
        tokio::time::sleep(HOUR - Duration::from_secs(60)).await;
        assert!(account.keys.lease().is_ok());
        let source = account.keys.status().source;
        assert!(!source.up && source.fault.unwrap().contains("gave no answer within"));
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(account.keys.lease().unwrap_err(), NoKey::TooOld);
        world.stub.will(READ, [pair(2)]);
        *world.stub.hole.lock() = false;
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(account.keys.lease().is_ok() && account.keys.status().source.up);
        assert_eq!(account.keys.status().source.version, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_request_that_does_not_wait_for_a_black_hole() {
        let world = VaultSetup::new();
        let account = world.account(world.folder.path()).await;
        *world.stub.hole.lock() = true;
        let (began, version) = (tokio::time::Instant::now(), account.keys.lease().unwrap().version());
        let tried = vec![TriedPair { version, refused: began }];
        let refused = RefusedRequest { tried, origin: None, may_resend: true };
        assert!(matches!(account.keys.refused(refused).await, Remedy::Own));
        assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn out_of_the_sealed_copy_after_a_restart_without_the_vault() {
        let world = VaultSetup::new();
        let folder = world.folder.path().to_owned();
        identity(&folder);
        let version = world.account(&folder).await.keys.lease().unwrap().version();
        let written = std::fs::read(folder.join("main.age")).unwrap();
        assert!(written.starts_with(b"age-encryption.org/v1"));
        assert!(!written.windows(6).any(|window| window == b"canary" || window == b"access"));
        *world.stub.hole.lock() = true;
        let again = world.account(&folder).await;
        assert_eq!(again.keys.lease().unwrap().version(), version);
        let status = again.keys.status();
        assert!(!status.source.up && status.source.last_success.is_some());
        assert_eq!(status.pairs[0].source_version, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_whose_age_counts_from_the_last_reading() {
        let world = VaultSetup::new();
        let folder = world.folder.path().to_owned();
        identity(&folder);
        let pair = || KeyPair::new(Secret::new("access-1".into()), Secret::new("canary-secret-1".into())).unwrap();
        let ago = |minutes| Timestamp::now() - SignedDuration::from_mins(minutes);
        *world.stub.hole.lock() = true;
        copy(&world, &folder).save(&pair(), ago(50)).unwrap();
        let account = world.account(&folder).await;
        assert!(account.keys.lease().is_ok());
        tokio::time::sleep(Duration::from_secs(540)).await;
        assert!(account.keys.lease().is_ok());
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(account.keys.lease().unwrap_err(), NoKey::TooOld);
        for wrong in [ago(61), ago(-10)] {
            copy(&world, &folder).save(&pair(), wrong).unwrap();
            assert_eq!(world.account(&folder).await.keys.lease().unwrap_err(), NoKey::None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_copy_of_another_secret_nor_one_that_others_can_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let world = VaultSetup::new();
        let folder = world.folder.path().to_owned();
        identity(&folder);
        let copy = copy(&world, &folder);
        assert!(copy.load().unwrap().is_none());
        let pair = KeyPair::new(Secret::new("access-1".into()), Secret::new("canary-secret-1".into())).unwrap();
        copy.save(&pair, Timestamp::now()).unwrap();
        assert!(copy.load().unwrap().is_some());
        let other = SealedCopy::of(&configured(&folder).keys, "main", "https://other:8200").unwrap();
        assert!(other.load().unwrap_err().to_string().ends_with("is the copy of another source"));
        std::fs::set_permissions(folder.join("main.age"), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(copy.load().is_err());
    }
}
