//! `demo`: everything in one process, nothing to install.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use fastrac_sandbox::{KeyPair, Options, Sandbox, certificate};

use super::{FAILED, credential::IssuedSecret, output, run::Signals};
use crate::{
    app::{App, choose_crypto},
    config::check::{Environment, check},
    connector::Connector,
    record::init_demo_log,
};

/// Try everything in one process: a simulated Fastrac, the gateway in front of it, two services
///
/// Loopback only, secrets new at each start, state in a temporary folder that goes at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fastrac-gateway demo")]
pub(super) struct DemoArgs {}

/// The demo's configuration. Its addresses, secrets and folders are replaced at each start.
const CONFIGURATION: &str = include_str!("../../config/demo.toml");

pub(super) fn run(_: &DemoArgs) -> io::Result<u8> {
    let signals = Signals::install()?;
    init_demo_log();
    choose_crypto();
    let folder = tempfile::Builder::new().prefix("fastrac-gateway-demo-").tempdir()?;
    let secrets = Secrets::new()?;
    let sandbox = sandbox(folder.path(), &secrets)?;
    let text = secrets.fill(CONFIGURATION).replace("127.0.0.1:8090", &sandbox.addr().to_string());
    let file = folder.path().join("gateway.toml");
    write_private(&file, &text)?;
    let checked = check(&text, folder.path(), &Environment::default());
    let Some(config) = checked.config else {
        for fault in &checked.errors {
            output::message(format_args!("demo.toml: {fault}"));
        }
        return Ok(FAILED);
    };
    let state = folder.path().to_owned();
    let code = signals.live(move || {
        let app = App::open(config, Some(file), Connector::default()).map_err(|error| {
            output::error(error);
            FAILED
        })?;
        introduce(&app, &secrets, &state).map_err(|_| FAILED)?;
        Ok(app)
    })?;
    drop(sandbox);
    Ok(code)
}

/// What is new at each start.
struct Secrets {
    checkout: IssuedSecret,
    reports: IssuedSecret,
    admin: IssuedSecret,
    fastrac: IssuedSecret,
}

impl Secrets {
    fn new() -> io::Result<Self> {
        let (checkout, reports) = (IssuedSecret::new()?, IssuedSecret::new()?);
        Ok(Secrets { checkout, reports, admin: IssuedSecret::new()?, fastrac: IssuedSecret::new()? })
    }

    /// Replaces the placeholders of the digests in the configuration.
    fn fill(&self, text: &str) -> String {
        text.replace(&"c".repeat(64), &self.checkout.sha256)
            .replace(&"e".repeat(64), &self.reports.sha256)
            .replace(&"a".repeat(64), &self.admin.sha256)
    }
}

/// Starts the simulated Fastrac behind TLS, with a key pair that only it and the gateway know.
fn sandbox(folder: &Path, secrets: &Secrets) -> io::Result<Sandbox> {
    let access = "demo-account";
    let pair = format!("[main]\naccess_key = \"{access}\"\nsecret_key = \"{}\"\n", *secrets.fastrac.text);
    write_private(&folder.join("keys.toml"), &pair)?;
    let tls = certificate::loopback().map_err(io::Error::other)?;
    fs::write(folder.join("ca.pem"), &tls.authority)?;
    let keys = vec![KeyPair::new("demo", access, &secrets.fastrac.text)];
    Sandbox::start(Options { tls: Some(tls.server), keys, ..Options::default() })
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn introduce(app: &App, secrets: &Secrets, folder: &Path) -> io::Result<()> {
    let data = app.data.first().map(ToString::to_string).unwrap_or_default();
    let checkout = format!("checkout:{}", *secrets.checkout.text);
    let reports = format!("reports:{}", *secrets.reports.text);
    let (admin, folder, token) = (app.admin, folder.display(), &*secrets.admin.text);
    output::print(|out| {
        writeln!(
        out,
        "fastrac-gateway demo: a simulated Fastrac behind the gateway. End it with Ctrl-C.

  gateway  http://{data}      services point their base URL here
  admin    http://{admin}      health, metrics, status
  state    {folder}

  checkout may look up, price and order; reports has two prices a day.

# a lookup, and the same again: a hit
curl -i -u {checkout} http://{data}/region/province
curl -i -u {checkout} http://{data}/region/province

# a search by POST
curl -s -u {checkout} -H 'content-type: application/json' -d '{{\"keyword\":\"kemayoran\",\"limit\":3}}' http://{data}/region/search

# a price
curl -s -u {checkout} -H 'content-type: application/json' -d '{TARIFF}' http://{data}/tariff/express

# an order, sent once however often it is repeated under its key
curl -i -u {checkout} -H 'content-type: application/json' -H 'idempotency-key: demo-1' -d '{ORDER}' http://{data}/order/express

# a refusal: the third price of the day
for i in 1 2 3; do curl -s -u {reports} -H 'content-type: application/json' -d '{TARIFF}' -o /dev/null -w '%{{http_code}}\\n' http://{data}/tariff/express; done

# what operators see
curl -s http://{admin}/metrics
curl -s -H 'authorization: Bearer {token}' http://{admin}/status
",
        )
    })
}

const TARIFF: &str = r#"{"origin":3171031001,"destination":5171011001,"items":[{"name":"Kaos","weight":1200,"width":20,"height":10,"length":30,"quantity":1,"value":150000}],"cod":"0","insurance":"1"}"#;

const ORDER: &str = r#"{"courier_code":"idx","code_service":"reg","cod":"0","insurance":"0","pickup":"0","shipper":{"name":"Toko Contoh","phone":"6281200000001","address":"Jl. Contoh 1","region_id":3171031001},"receiver":{"name":"Budi","phone":"6281200000002","address":"Jl. Contoh 2","region_id":5171011001},"item":{"name":"Kaos","desc":"Kaos katun","category":"Pakaian","value":150000,"weight":1200,"length":30,"width":20,"height":10,"qty":1}}"#;
