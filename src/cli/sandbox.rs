//! `fastrac-gateway sandbox`: the Fastrac simulator alone.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;

use fastrac_sandbox::{Options, Sandbox, Show, clock::Pace, settings};

/// Where it listens, if neither a flag nor the file says so.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8090);

/// Arguments of `sandbox`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fastrac-gateway sandbox
  curl -u sandbox-access:sandbox-secret http://127.0.0.1:8090/region/province
  curl -H 'access-key: sandbox-access' -H 'secret-key: sandbox-secret' \\
       -H 'content-type: application/json' -d '{\"search\": \"kemayoran\"}' \\
       http://127.0.0.1:8090/apiRegion/search-region

With a control address it can be asked and steered; GET /_sandbox/ lists how:
  fastrac-gateway sandbox --control 127.0.0.1:8091 --clock stepped --show-webhooks
  curl http://127.0.0.1:8091/_sandbox/
  curl -d '{\"advance\": \"2h\"}' http://127.0.0.1:8091/_sandbox/clock
  curl -d '{\"branch\": \"return\"}' http://127.0.0.1:8091/_sandbox/branches
  curl -d '{\"act\": \"duplicate\"}' http://127.0.0.1:8091/_sandbox/webhooks/rules
  curl -d '{\"operation\": \"v2.order_express\", \"times\": 1, \"act\": \"lose\"}' \\
       http://127.0.0.1:8091/_sandbox/faults
  curl http://127.0.0.1:8091/_sandbox/counters

sandbox/sandbox.toml has every key of the configuration file.")]
pub struct SandboxArgs {
    /// Address of the API [default: 127.0.0.1:8090]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address of /_sandbox/: orders, webhooks, clock, journal, counters, keys, faults [default: none]
    #[arg(long, value_name = "ADDR")]
    pub control: Option<SocketAddr>,
    /// File whose first line the control address asks for as a bearer token; needed if it is not loopback
    #[arg(long, value_name = "FILE")]
    pub control_token_file: Option<PathBuf>,
    /// Configuration of the sandbox (TOML); flags go before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Decides prices, ids and air waybills [default: 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How time passes: real, stepped (moved by POST /_sandbox/clock), or a factor like 600x [default: real]
    #[arg(long, value_name = "PACE", value_parser = pace)]
    pub clock: Option<Pace>,
    /// Receive the account's webhooks on a free loopback port and print each body
    #[arg(long)]
    pub show_webhooks: bool,
}

fn pace(text: &str) -> Result<Pace, String> {
    match text {
        "real" => Ok(Pace::Real),
        "stepped" => Ok(Pace::Stepped),
        text => match text.trim_end_matches('x').parse() {
            Ok(factor) => settings::faster(factor).map(Pace::Faster),
            Err(_) => Err("real, stepped, or a factor like 600x".to_owned()),
        },
    }
}

/// Runs until SIGTERM or SIGINT. Exit code 0, 1 if it can't listen, 2 for a wrong configuration.
pub fn run(args: SandboxArgs) -> ExitCode {
    let options = match options(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if options.control_token.is_none() && options.control.is_some_and(|addr| !addr.ip().is_loopback()) {
        eprintln!("--control: an address other than loopback needs --control-token-file");
        return ExitCode::from(2);
    }
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn options(args: SandboxArgs) -> Result<Options, settings::SettingsError> {
    let mut options = Options { listen: LISTEN, ..Options::default() };
    if let Some(path) = &args.config {
        options = settings::load(path, options)?;
    }
    options.listen = args.listen.unwrap_or(options.listen);
    options.control = args.control.or(options.control);
    options.seed = args.seed.unwrap_or(options.seed);
    if let Some(pace) = args.clock {
        options.clock = settings::clock(pace, None);
    }
    if args.show_webhooks {
        options.show = Some(Show::to(|body| println!("webhook: {body}")));
    }
    if let Some(path) = &args.control_token_file {
        options.control_token = Some(settings::token_from(path)?);
    }
    Ok(options)
}

fn serve(options: Options) -> std::io::Result<()> {
    let (tls, stepped) = (options.tls.is_some(), options.clock.pace() == Pace::Stepped);
    let (listen, control) = (options.listen, options.control);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        // Before the sockets, so that no signal falls between.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let sandbox = Sandbox::start(options).map_err(|error| {
            let place = control.map_or(String::new(), |control| format!(" or {control}"));
            std::io::Error::new(error.kind(), format!("sandbox: can't listen on {listen}{place}: {error}"))
        })?;
        println!("sandbox: {}://{}", if tls { "https" } else { "http" }, sandbox.addr());
        if let Some(control) = sandbox.control_addr() {
            println!("control: http://{control}/_sandbox/");
        } else if stepped {
            eprintln!("sandbox: the clock stands and nobody can move it: --control is missing");
        }
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_before_the_file_and_the_file_before_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sandbox.toml");
        std::fs::write(&file, "seed = 5\ncontrol = \"127.0.0.1:1\"").unwrap();
        let args = |config, seed| SandboxArgs {
            listen: None,
            control: None,
            control_token_file: None,
            config,
            seed,
            clock: None,
            show_webhooks: false,
        };
        let plain = options(args(None, None)).unwrap();
        assert_eq!((plain.listen, plain.seed, plain.control), (LISTEN, 1, None));
        let filed = options(args(Some(file.clone()), None)).unwrap();
        assert_eq!((filed.listen, filed.seed), (LISTEN, 5));
        assert_eq!(filed.control, Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!(options(args(Some(file), Some(9))).unwrap().seed, 9);
    }

    #[test]
    fn a_pace_is_a_word_or_a_factor() {
        assert_eq!((pace("real"), pace("stepped")), (Ok(Pace::Real), Ok(Pace::Stepped)));
        assert_eq!((pace("600x"), pace("0.5")), (Ok(Pace::Faster(600.0)), Ok(Pace::Faster(0.5))));
        for wrong in ["", "x", "-1x", "0", "NaN", "fast"] {
            assert!(pace(wrong).is_err(), "{wrong}");
        }
    }
}
