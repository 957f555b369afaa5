//! Promises of the checker: what is filled in, what is refused, what is warned of, and where.

use std::{path::Path, time::Duration};

use super::{Checked, Environment, check, operation::built_in_faults};
use crate::config::{AdminRole, AuthStyle, Class, Config, KeySource, LogTarget, VaultAuth};

mod examples;
mod mutations;
mod schema;

const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

/// The smallest account and service.
const ACCOUNT: &str =
    "\n[accounts.z]\nbase_url = \"https://f.example\"\nkeys = { source = \"file\", path = \"keys.toml\" }\n";
fn checked_alone(text: &str) -> Checked {
    check(text, Path::new("/etc/gateway"), &Environment { cores: 8, ..Environment::default() })
}

/// Checks what a test writes. What it does not write about but every configuration needs is added.
fn checked(text: &str) -> Checked {
    let account = if text.contains("[accounts.") { "" } else { ACCOUNT };
    let all = format!("{text}{account}");
    let name = all.split("[accounts.").nth(1).and_then(|rest| rest.split([']', '.']).next()).unwrap_or_default();
    let service = format!(
        "\n[services.z]\naccount = \"{name}\"\n\
         credentials = [{{ access_key = \"z\", secret_sha256 = \"{DIGEST}\" }}]\n"
    );
    let service = if text.contains("[services.") { "" } else { &service };
    checked_alone(&format!("{all}{service}"))
}

fn good(text: &str) -> Config {
    let checked = checked(text);
    assert_eq!(checked.errors, [], "{text}");
    checked.config.expect("a configuration without faults")
}

fn faults(text: &str) -> Vec<String> {
    checked(text).errors.iter().map(ToString::to_string).collect()
}

fn warnings(text: &str) -> Vec<String> {
    checked(text).warnings.iter().map(ToString::to_string).collect()
}

/// A configuration with one account and one service, with more in each.
fn with(account: &str, service: &str) -> String {
    format!(
        "[accounts.main]\nbase_url = \"https://fastrac.example/b2b/\"\n\
         keys = {{ source = \"file\", path = \"keys.toml\" }}\n{account}\n\
         [services.a]\naccount = \"main\"\ncredentials = [{{ access_key = \"a\", secret_sha256 = \"{DIGEST}\" }}]\n{service}\n"
    )
}

mod defaults {
    use super::*;

    #[test]
    fn are_those_of_the_contract() {
        let config = good(&with("", ""));
        assert_eq!(config.listen.data, ["127.0.0.1:8080".parse().expect("an address")]);
        assert_eq!(config.listen.admin, "127.0.0.1:9464".parse().expect("an address"));
        assert_eq!(config.listen.workers, 2);
        assert_eq!(config.state.dir, Path::new("/etc/gateway/state"));
        assert_eq!(config.log.exchanges, LogTarget::File("/etc/gateway/state/exchanges.jsonl".into()));
        assert_eq!((config.log.keep_size, config.log.keep_days), (1 << 30, 30));
        assert_eq!(config.limits.request_body, 1 << 20);
        assert_eq!(config.limits.answer_body, 16 << 20);
        assert_eq!(config.limits.answer_buffer, 1 << 20);
        assert_eq!((config.limits.idle, config.limits.drain), (Duration::from_secs(75), Duration::from_secs(35)));
        assert_eq!((config.cache.memory, config.cache.snapshot, config.cache.warm), (64 << 20, true, None));
        assert_eq!(config.hash.len(), 64);
        let account = &config.accounts[0];
        assert_eq!(account.day_zone.iana_name(), Some("Asia/Jakarta"));
        assert_eq!(account.verify, "v2.province");
        assert_eq!((account.budget.second, account.budget.day, account.budget.in_flight), (None, None, 64));
        assert_eq!(account.budget.max_wait, Duration::from_millis(250));
        assert_eq!(account.rotation.max_age, Duration::from_secs(72 * 3600));
        assert_eq!(account.messages.not_found, ["data not found"]);
        let service = &config.services[0];
        assert_eq!(service.allow_classes, [Class::Lookup, Class::Read, Class::Quote]);
        assert_eq!((service.charge_hits_second, service.charge_hits_day, service.force_refresh), (true, false, false));
        assert_eq!(service.credentials[0].secret_sha256[..3], [0x00, 0x11, 0x22]);
    }

    /// Contract section 3: a configuration without an account or without a service is an error.
    #[test]
    fn include_neither_an_account_nor_a_service() {
        let account = "accounts: is missing: a configuration needs an account of Fastrac";
        let service = "services: is missing: a configuration needs a service that may call";
        let all = |text: &str| -> Vec<String> { checked_alone(text).errors.iter().map(ToString::to_string).collect() };
        for text in ["", "# nothing\n", "[listen]\nworkers = 1\n"] {
            assert_eq!(all(text), [account, service], "{text}");
        }
        assert_eq!(all("[accounts]\n[services]\n"), [format!("{account} (line 1)"), format!("{service} (line 2)")]);
        assert_eq!(all(ACCOUNT), [service]);
        assert!(all("[services.a]\nidentities = [\"a.b\"]\naccount = \"x\"\n").contains(&account.to_owned()));
        // one with an error of its own exists
        assert!(
            !all("accounts = 5\n[services.a]\nshare = 7\n").iter().any(|found| found.contains("a configuration needs"))
        );
    }

    #[test]
    fn come_from_the_environment_where_the_file_is_silent() {
        let environment = Environment {
            state_directory: Some("/var/lib/fgw".into()),
            vault_address: Some("https://vault:8200".into()),
            vault_ca: Some("/ca.pem".into()),
            vault_namespace: Some("team".into()),
            vault_token: true,
            now: None,
            cores: 1,
            memory: Some(200 << 20),
        };
        let text = with("", "").replace("\"file\", path = \"keys.toml\"", "\"vault\", path = \"/fastrac/main/\"");
        let config = check(&text, Path::new("/etc"), &environment).config.expect("good");
        assert_eq!(config.state.dir, Path::new("/var/lib/fgw"));
        assert_eq!(config.log.exchanges, LogTarget::File("/var/lib/fgw/exchanges.jsonl".into()));
        assert_eq!(config.listen.workers, 1);
        assert_eq!((config.limits.memory, config.log.queue), (100 << 20, 25 << 20));
        let vault = config.vault.expect("a vault");
        assert_eq!((vault.address.as_str(), vault.namespace.as_deref()), ("https://vault:8200", Some("team")));
        assert!(matches!(vault.auth, VaultAuth::Token { token_file: None }));
        assert!(matches!(&config.accounts[0].keys,
            KeySource::Vault { mount, path, .. } if mount == "secret" && path == "fastrac/main"));
    }
}

#[test]
fn the_exchange_log_has_none_of_the_names_beside_it() {
    for name in ["unidentified.jsonl", "logs/audit.jsonl"] {
        let text = format!("[log]\nexchanges = \"{name}\"\n{}", with("", ""));
        assert_eq!(faults(&text), ["log.exchanges: the gateway has another file of this name beside it (line 2)"]);
    }
}

mod endpoints {
    use super::*;

    fn styles(account: &str) -> [AuthStyle; 3] {
        let account = &good(&with(account, "")).accounts[0];
        [account.base.auth, account.v1.auth, account.v2.auth]
    }

    #[test]
    fn have_the_style_of_their_version() {
        use AuthStyle::{Basic, Both, Headers};
        assert_eq!(styles(""), [Both, Headers, Basic]);
        assert_eq!(styles("auth = \"headers\""), [Headers; 3]);
        assert_eq!(styles("auth = \"basic\"\nv1 = { auth = \"both\" }"), [Basic, Both, Basic]);
        assert_eq!(styles("auth = \"basic\"\nv1 = { auth = \"auto\" }"), [Basic, Headers, Basic]);
    }

    #[test]
    fn have_the_address_of_their_version_or_the_accounts() {
        let text = with("v2 = { base_url = \"http://[::1]:8090/x\" }", "");
        let account = &good(&text).accounts[0];
        assert_eq!((account.base.authority.as_str(), account.base.prefix.as_str()), ("fastrac.example", "/b2b"));
        assert_eq!(account.v1.port, 443);
        assert_eq!((account.v2.host.as_str(), account.v2.authority.as_str()), ("::1", "[::1]:8090"));
        assert!(!account.v2.tls && account.v1.tls);
    }

    #[test]
    fn over_cleartext_are_warned_of_where_they_are_allowed() {
        let text = with("v1 = { base_url = \"http://10.0.0.1\" }\nallow_cleartext = true", "");
        assert_eq!(
            warnings(&text),
            ["accounts.main.v1.base_url: is http:// to another host: the key pair travels in the clear (line 4)"]
        );
    }

    #[test]
    fn that_only_look_like_loopback_are_not() {
        for host in ["127.0.0.1.example", "localhost.example", "[::ffff:8.8.8.8]", "0.0.0.0", "2130706433"] {
            assert!(!faults(&with(&format!("v1 = {{ base_url = \"http://{host}\" }}"), "")).is_empty(), "{host}");
        }
        for host in ["127.1.2.3", "localhost", "LOCALHOST:8080", "gw.localhost", "[::1]:1"] {
            assert_eq!(faults(&with(&format!("v1 = {{ base_url = \"http://{host}\" }}"), "")), [""; 0], "{host}");
        }
    }
}

mod operations {
    use super::*;

    /// Contract section 3, "Built-in names".
    const NAMES: &str = "province city district sub_district post_code search_region couriers courier_services \
        tariff_express tariff_instant order_express order_instant order_cancel track item_categories webhook_set \
        webhook_get";

    #[test]
    fn of_the_binary_are_those_of_the_contract_and_without_fault() {
        assert_eq!(built_in_faults(), []);
        let mut expected: Vec<String> =
            NAMES.split_whitespace().flat_map(|name| [format!("v1.{name}"), format!("v2.{name}")]).collect();
        expected.extend(["v2.multi_items".to_owned(), "v2.balance_history".to_owned()]);
        expected.sort();
        let table = super::super::built_in_operations();
        let names: Vec<&str> = table.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, expected);
        for row in &table {
            let class = match row.name.split_once('.').expect("a version").1 {
                "order_express" | "order_instant" | "order_cancel" => Class::Order,
                "webhook_set" | "webhook_get" | "balance_history" => Class::Account,
                "track" => Class::Read,
                "tariff_express" | "tariff_instant" | "multi_items" => Class::Quote,
                _ => Class::Lookup,
            };
            assert_eq!(row.class, class, "{}", row.name);
            assert_eq!(row.cache.is_some(), class == Class::Lookup, "{}", row.name);
            assert_eq!(row.cost, 1);
            assert!(row.api.is_some());
        }
    }

    #[test]
    fn are_laid_over_field_by_field() {
        let config = good("[operations.\"v2.city\"]\ncache = { fresh = \"1h\" }\ncost = 1\ntimeout = \"3s\"");
        let row = config.operations.iter().find(|row| row.name == "v2.city").expect("the row");
        let cache = row.cache.as_ref().expect("cached");
        assert_eq!((cache.fresh, cache.not_found), (Duration::from_secs(3600), Duration::from_secs(60)));
        assert_eq!(
            (row.path.as_str(), row.method.as_str(), row.timeout),
            ("/region/city", "GET", Duration::from_secs(3))
        );
    }

    #[test]
    fn are_not_stored_when_fresh_is_zero() {
        let config = good("[operations.\"v2.city\"]\ncache = { fresh = \"0s\" }");
        assert!(config.operations.iter().find(|row| row.name == "v2.city").expect("the row").cache.is_none());
    }

    #[test]
    fn that_are_new_stand_beside_the_others_and_can_be_allowed() {
        let row = "[operations.label]\nmethod = \"GET\"\npath = \"/shipment/{awb}/label\"\nclass = \"read\"";
        let config = good(&format!("{}{row}", with("", "allow = [\"label\", \"lookup\", \"label\"]")));
        assert_eq!(config.operations.len(), super::super::built_in_operations().len() + 1);
        assert_eq!(config.services[0].allow_operations, ["label"]);
    }

    #[test]
    fn may_trade_places_by_their_own_names_only() {
        let mv = "[operations.\"v2.order_express\"]\npath = \"/b2b/order\"\naliases = [\"/order/express\"]";
        assert_eq!(faults(mv), [""; 0]);
        // under another method too
        let peek = "[operations.peek]\nmethod = \"GET\"\npath = \"/order/express\"\nclass = \"lookup\"";
        assert_eq!(faults(&format!("{mv}\n{peek}")).len(), 1);
    }
}

/// Contract section 3: the paths of order and account rows stay reserved for their names, in every spelling.
#[test]
fn no_row_spells_a_path_of_an_order_differently() {
    let row = |name: &str, path: &str, class: &str| {
        format!("[operations.{name}]\nmethod = \"POST\"\npath = \"{path}\"\nclass = \"{class}\"\n")
    };
    for class in ["quote", "lookup", "read", "order", "account"] {
        for path in [
            "/Order/Express",
            "/order/EXPRESS",
            "/order/express;x",
            "/order/express;x=1",
            "/order;a/express",
            "/;/order/express",
            "/index.php/order/express",
            "/ORDER/cancel",
            "/apiorder/orderexpress",
            "/Webhook/Set",
            "/user/balance/History",
            "/Order/{any}",
            "/{any}/EXPRESS",
        ] {
            let found = faults(&row("own", path, class));
            assert!(
                found.iter().any(|fault| fault.starts_with("operations.own.path: is reserved")),
                "{path}: {found:?}"
            );
            let alias = "[operations.\"v2.city\"]\naliases = [\"PATH\"]\n".replace("PATH", path);
            assert_eq!(faults(&alias).len(), 1, "{path}");
            // also where the row of that name has moved
            let moved =
                row("own", path, class) + "[operations.\"v2.order_express\"]\npath = \"/moved\"\naliases = []\n";
            assert_eq!(faults(&moved).len(), 1, "{path}");
        }
        // an order of the file is one too
        if class != "order" {
            let found = faults(&(row("a", "/parcel/{id}/pay", "order") + &row("b", "/parcel/{id}/Pay", class)));
            assert!(found.iter().any(|fault| fault.contains("is another spelling of a path of")), "{class}: {found:?}");
        }
    }
    // its own name may
    assert_eq!(faults("[operations.\"v2.order_express\"]\naliases = [\"/Order/Express\"]\n"), [""; 0]);
}

/// Contract section 3: a digest that is the digest of the empty string is an error.
#[test]
fn no_digest_is_that_of_the_empty_string() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for empty in [empty.to_owned(), empty.to_uppercase()] {
        let must = "must not be the digest of the empty string";
        let service = with("", "").replace(DIGEST, &empty);
        assert_eq!(faults(&service), [format!("services.a.credentials[0].secret_sha256: {must} (line 7)")]);
        let admin = format!("[admin]\ntoken_sha256 = \"{empty}\"\n{}", with("", ""));
        assert_eq!(faults(&admin), [format!("admin.token_sha256: {must} (line 2)")]);
    }
}

/// Contract section 3: `expires` ends a credential; here after its last day in the account's zone.
#[test]
fn a_credential_ends_after_its_last_day_and_is_warned_of_before() {
    let expiring = |date: &str| with("", "").replace("secret_sha256", &format!("expires = \"{date}\", secret_sha256"));
    let ends = |text: &str| good(text).services[0].credentials[0].expires.map(|expiry| expiry.ends.to_string());
    // midnight in Jakarta
    assert_eq!(ends(&expiring("2027-01-31")).as_deref(), Some("2027-01-31T17:00:00Z"));
    assert_eq!(ends(&with("", "")), None);
    for wrong in ["2027-02-30", "2027-1-31", "31.01.2027", "2027-01-31T00:00", "fgw_secret", ""] {
        let must = "services.a.credentials[0].expires: must be a date in quotes, such as \"2027-01-31\" (line 7)";
        assert_eq!(faults(&expiring(wrong)), [must], "{wrong}");
    }
    let warnings = |now: &str| {
        let environment = Environment { cores: 8, now: Some(now.parse().unwrap()), ..Environment::default() };
        let checked = check(&expiring("2027-01-31"), Path::new("/etc/gateway"), &environment);
        assert!(checked.config.is_some());
        checked.warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.message)).collect::<Vec<_>>()
    };
    let place = "services.a.credentials[0].expires: the credential";
    assert_eq!(warnings("2027-01-17T17:00:00Z"), [""; 0]);
    assert_eq!(warnings("2027-01-17T17:00:01Z"), [format!("{place} is valid until 2027-01-31: replace it before")]);
    assert_eq!(
        warnings("2027-01-31T17:00:00Z"),
        [format!("{place} was valid until 2027-01-31 and is refused: remove it")]
    );
}

#[test]
fn every_admin_token_has_a_name_and_a_digest_of_its_own() {
    let other = DIGEST.replace("00", "ab");
    let admin = |text: &str| format!("[admin]\n{text}\n{}", with("", ""));
    let token = |name: &str, digest: &str| format!("{{ name = \"{name}\", sha256 = \"{digest}\" }}");
    let both = admin(&format!(
        "token_sha256 = \"{DIGEST}\"\ntokens = [{}, {{ name = \"b\", sha256 = \"{}\", role = \"operate\" }}]",
        token("a", &other),
        "c".repeat(64),
    ));
    let roles = |text: &str| good(text).admin.tokens.iter().map(|it| (it.name.clone(), it.role)).collect::<Vec<_>>();
    let named = |name: &str, role| (name.to_owned(), role);
    let expected = [named("admin", AdminRole::Operate), named("a", AdminRole::Read), named("b", AdminRole::Operate)];
    assert_eq!(roles(&both), expected);

    let same = "is also the digest of another token: give each holder its own";
    let name = "must be unique: the audit log tells holders apart by it (token_sha256 is named \"admin\")";
    for (text, fault) in [
        (format!("tokens = [{}, {}]", token("a", DIGEST), token("b", DIGEST)), format!("tokens[1].sha256: {same}")),
        (format!("tokens = [{}, {}]", token("a", DIGEST), token("a", &other)), format!("tokens[1].name: {name}")),
        (
            format!("token_sha256 = \"{DIGEST}\"\ntokens = [{}]", token("admin", &other)),
            format!("tokens[0].name: {name}"),
        ),
        (
            format!("token_sha256 = \"{DIGEST}\"\ntokens = [{}]", token("b", DIGEST)),
            format!("tokens[0].sha256: {same}"),
        ),
        (
            format!("tokens = [{}]", token("b", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")),
            "tokens[0].sha256: must not be the digest of the empty string".to_owned(),
        ),
        ("tokens = [{ name = \"b\" }]".to_owned(), "tokens[0].sha256: ".to_owned()),
        (format!("tokens = [{{ sha256 = \"{DIGEST}\" }}]"), "tokens[0].name: ".to_owned()),
        ("tokens = [{ name = \"b\", role = \"root\" }]".to_owned(), "tokens[0].role: ".to_owned()),
    ] {
        let found = faults(&admin(&text));
        assert!(found.iter().any(|found| found.starts_with(&format!("admin.{fault}"))), "{text}: {found:?}");
    }
}

#[test]
fn walks_of_the_region_tree_need_memory_for_it() {
    let cache = |text: &str| format!("[cache]\n{text}\n{}", with("", ""));
    assert_eq!(good(&cache("warm = \"24h\"")).cache.warm, Some(Duration::from_secs(24 * 3600)));
    for (text, fault) in [
        ("warm = \"24h\"\nmemory = \"0B\"", "cache.warm: nothing is stored while cache.memory is 0"),
        ("warm = \"9m\"", "cache.warm: "),
        ("warm = \"32d\"", "cache.warm: "),
        ("warm = true", "cache.warm: "),
    ] {
        let found = faults(&cache(text));
        assert!(found.iter().any(|found| found.starts_with(fault)), "{text}: {found:?}");
    }
}

mod warned_of {
    use super::*;

    #[test]
    fn are_quotas_above_the_budget() {
        let text = with("budget = { per_second = 5, per_day = 10 }", "quota = { per_second = 6, per_day = 11 }");
        let found = warnings(&text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("accounts.main.budget.per_day: the quotas of its services add up to 11 a day"));
    }

    #[test]
    fn are_the_other_things_of_the_contract() {
        for (text, place) in [
            ("[operations.\"v2.city\"]\ncache = { stale_if_error = \"1h\" }".to_owned(), "operations.\"v2.city\".cache.stale_if_error"),
            (with("", "allow = [\"unlisted\"]"), "services.a.allow[0]"),
            ("[listen]\ndata = [\"0.0.0.0:8080\"]".to_owned(), "listen.data[0]"),
            ("[accounts.a]\nbase_url = \"https://f.example\"\nkeys = { source = \"env\", access_key = \"A\", secret_key = \"B\" }".to_owned(),
             "accounts.a.keys.source"),
        ] {
            assert!(warnings(&text).iter().any(|found| found.starts_with(place)), "{place}: {:?}", warnings(&text));
        }
    }

    #[test]
    fn are_keys_that_are_not_obeyed_yet() {
        let text = with("proxy = \"http://proxy:3128\"", "share = 0.5\npriority = \"high\"")
            + "[orders]\non_store_loss = \"refuse\"\n";
        let found = warnings(&text);
        assert_eq!(found.iter().filter(|found| found.contains("does not act on it yet")).count(), 1, "{found:?}");
    }

    #[test]
    fn is_a_near_address_that_is_reached_through_a_proxy_elsewhere() {
        let text = |proxy: &str| {
            format!(
                "[accounts.main]\nbase_url = \"http://127.0.0.1:8090\"\nproxy = \"{proxy}\"\n\
                 keys = {{ source = \"directory\", path = \"k\" }}\n"
            )
        };
        let warned = |proxy: &str| warnings(&text(proxy)).iter().any(|found| found.contains("through a proxy"));
        assert!(warned("http://proxy.internal:3128"));
        assert!(!warned("http://127.0.0.1:3128") && !warned("http://[::1]:3128"));
    }
}

mod shares {
    use super::*;

    #[test]
    fn of_three_thirds_are_one_whole() {
        let service = |name: &str, share: &str| {
            format!(
                "[services.{name}]\naccount = \"main\"\nshare = {share}\ncredentials = [{{ access_key = \"{name}\", secret_sha256 = \"{DIGEST}\" }}]\n"
            )
        };
        let text = with("", "share = 0.1") + &service("b", "0.2") + &service("c", "0.7");
        assert_eq!(faults(&text), [""; 0]);
        assert_eq!(faults(&text.replace("0.7", "0.71")).len(), 1);
        // the shares of different accounts are of different wholes; whole numbers are fractions too
        assert_eq!(faults(&with("", "share = 1")), [""; 0]);
    }
}

#[test]
fn a_digest_is_not_shown_when_a_configuration_is_printed() {
    let text = format!("{}[admin]\ntoken_sha256 = \"{DIGEST}\"\n", with("", ""));
    let config = good(&text);
    assert!(config.admin.tokens.len() == 1);
    let written: crate::config::file::ConfigFile = toml::from_str(&text).unwrap();
    for shown in [format!("{config:?}"), format!("{written:?}")] {
        assert!(!shown.contains("00112233") && !shown.contains("17, 34, 51"), "{shown}");
    }
}

/// A PEM key without line breaks, or a token, in place of the configuration: base64 with `=` at its end is a key of TOML.
#[test]
fn no_message_shows_a_secret_that_got_into_the_file() {
    let base64 = "MIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSiAgEAAoIBAQC7VJTUt9Us8cKj";
    for secret in [base64, &base64[..24], "hvs.CAESIJsecret0token0Secret", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"] {
        for line in [
            "{}",
            "{}==",
            "{} = 1",
            "{} = ",
            "\"{}\"",
            "[{}]",
            "[[{}]]",
            "accounts.{} = 2",
            "x = {}",
            "x = \"{}",
            "a b {}",
        ] {
            let line = line.replace("{}", secret);
            for text in
                [line.clone(), format!("{line}\n{line}"), with(&line, &line), format!("-----BEGIN X-----\n{line}")]
            {
                for shown in faults(&text).into_iter().chain(warnings(&text)) {
                    assert!(!shown.contains(&secret[4..20]), "{text}: {shown}");
                }
            }
        }
    }
}

mod faults_beside_faults {
    use super::*;

    #[test]
    fn count_elements_as_they_are_written() {
        let text = with("", "allow = [5, \"lookup\", \"\", \"ordre\"]");
        let found = faults(&text);
        assert!(found.iter().any(|fault| fault.starts_with("services.a.allow[3]: unknown class")), "{found:?}");
    }

    #[test]
    fn are_told_once() {
        let found = faults("[accounts.main]\nkeys = 5\nbase_url = 5\nverify = 5");
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn by_the_thousand_are_found_in_time() {
        let text: String = (0..300).map(|n| format!("[services.s{n}]\nshare = 2\nx = 1\n")).collect();
        assert_eq!(faults(&text).len(), 300 * 4);
    }

    /// Linear in the file's length, whatever kind of error there is thousands of times: quadratic would be minutes.
    #[test]
    fn of_one_kind_are_all_found_in_time_by_the_length_of_the_file() {
        const N: usize = 1_500;
        let each = |text: &dyn Fn(usize) -> String| (0..N).map(text).collect::<String>();
        let service = |n: usize, more: &str| {
            let key = format!("access_key = \"a{n}\", secret_sha256 = \"{DIGEST}\"");
            format!("[services.s{n}]\naccount = \"z\"\ncredentials = [{{ {key} }}]\n{more}\n")
        };
        let operation = |n: usize, path: &str| {
            format!("[operations.o{n}]\nmethod = \"GET\"\nclass = \"order\"\npath = \"{path}\"\n")
        };
        let began = std::time::Instant::now();
        for (what, count, text) in [
            ("wrong types in a list", N, format!("[log]\nmask = [{}]\n", "1, ".repeat(N))),
            ("syntax", N, "=\n".repeat(N)),
            ("syntax of headers", N, "[\n".repeat(N)),
            ("duplicate keys", N, format!("[log]\n{}", "bodies = \"none\"\n".repeat(N + 1))),
            ("duplicate tables", N, "[log]\n".repeat(N + 1)),
            ("unknown keys", 5 * N, (0..5 * N).map(|n| format!("k{n} = 1\n")).collect()),
            ("wrong values of services", N, each(&|n| service(n, "share = 2"))),
            ("unknown keys of services", N, each(&|n| service(n, "bogus = 2"))),
            ("missing credentials", N, each(&|n| format!("[services.s{n}]\naccount = \"z\"\n"))),
            ("unknown accounts", N, each(&|n| service(n, "").replace("\"z\"", "\"y\""))),
            ("taken access keys", N - 1, each(&|n| service(n, "").replace(&format!("\"a{n}\""), "\"a\""))),
            ("unknown operations", N, with("", &format!("allow = [{}]", "\"nothing\", ".repeat(N)))),
            ("both in one list", 2 * N, with("", &format!("allow = [{}]", "5, \"nothing\", ".repeat(N)))),
            ("addresses", N, format!("[listen]\ndata = [{}]\n", "\"127.0.0.1:1\", ".repeat(N + 1))),
            ("one path", N - 1, each(&|n| operation(n, "/one"))),
            (
                "paths that overlap",
                N,
                each(&|n| operation(n, &format!("/{n}/x")))
                    + &operation(N, "/{any}/x").replace(&format!(".o{N}"), ".a"),
            ),
            ("spellings", N - 1, each(&|n| operation(n, &format!("/one{}", ";x".repeat(n % 7))))),
            (
                "costs",
                N,
                format!(
                    "{ACCOUNT}budget = {{ per_day = 1 }}\n{}",
                    each(&|n| operation(n, &format!("/{n}")) + "cost = 2\n")
                ),
            ),
        ] {
            let start = std::time::Instant::now();
            let found = faults(&text);
            println!("{what}: {:?}", start.elapsed());
            assert!(
                found.len() >= count && found.len() <= count + 3,
                "{what}: {} of {count}: {:?}",
                found.len(),
                &found[..5]
            );
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
}
