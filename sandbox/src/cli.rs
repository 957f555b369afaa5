//! The command line of the simulator: arguments → [`Options`] → running until a signal.
//!
//! Used by the program `fastrac-sandbox` and the command `fastrac-gateway sandbox`. Flags take
//! precedence over the configuration file, which takes precedence over the defaults.

use std::{
    fmt::Display,
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
};

use clap::Args;

use crate::{Options, Sandbox, WebhookPrinter, clock::Pace, settings};

/// Listening address if neither a flag nor the file gives one.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8090);

/// The examples at the end of `--help`; `program` is how this command is called.
pub fn examples(program: &str) -> String {
    format!(
        "\
Examples:
  {program}
  curl -u sandbox-access:sandbox-secret http://127.0.0.1:8090/region/province
  curl -H 'access-key: sandbox-access' -H 'secret-key: sandbox-secret' \\
       -H 'content-type: application/json' -d '{{\"search\": \"kemayoran\"}}' \\
       http://127.0.0.1:8090/apiRegion/search-region

A control address shows and changes its state; GET /_sandbox/ lists the requests:
  {program} --control 127.0.0.1:8091 --clock stepped --show-webhooks
  curl http://127.0.0.1:8091/_sandbox/
  curl -d '{{\"advance\": \"2h\"}}' http://127.0.0.1:8091/_sandbox/clock
  curl -d '{{\"branch\": \"return\"}}' http://127.0.0.1:8091/_sandbox/branches
  curl -d '{{\"act\": \"duplicate\"}}' http://127.0.0.1:8091/_sandbox/webhooks/rules
  curl -d '{{\"operation\": \"v2.order_express\", \"times\": 1, \"act\": \"lose\"}}' \\
       http://127.0.0.1:8091/_sandbox/faults
  curl http://127.0.0.1:8091/_sandbox/counters

sandbox/sandbox.toml has every key of the configuration file, sandbox/README.md describes everything."
    )
}

#[derive(Args, Debug)]
#[allow(missing_docs, reason = "the help text of each flag")]
pub struct Arguments {
    /// Address of the API [default: 127.0.0.1:8090]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address of /_sandbox/: orders, webhooks, clock, journal, counters, keys, faults [default: none]
    #[arg(long, value_name = "ADDR")]
    control: Option<SocketAddr>,
    /// File whose first line is the bearer token of the control address; required unless that address is loopback
    #[arg(long, value_name = "FILE")]
    control_token_file: Option<PathBuf>,
    /// Configuration file (TOML); flags take precedence over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Seed of prices, ids and air waybills [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Pace of time: real, stepped (moved by POST /_sandbox/clock), or a factor such as 600x [default: real]
    #[arg(long, value_name = "PACE", value_parser = pace)]
    clock: Option<Pace>,
    /// Receive the account's webhooks on a free loopback port and print each body
    #[arg(long)]
    show_webhooks: bool,
}

fn pace(text: &str) -> Result<Pace, String> {
    match text {
        "real" => Ok(Pace::Real),
        "stepped" => Ok(Pace::Stepped),
        text => match text.trim_end_matches('x').parse() {
            Ok(factor) => settings::factor(factor).map(Pace::Accelerated),
            Err(_) => Err("real, stepped, or a factor like 600x".to_owned()),
        },
    }
}

/// Runs until SIGTERM or SIGINT. Returns the exit code: 0, 1 if an address cannot be bound, 2 for wrong
/// arguments or a wrong configuration.
pub fn run(arguments: &Arguments) -> u8 {
    let options = match options(arguments) {
        Ok(options) => options,
        Err(error) => {
            err(&error);
            return 2;
        }
    };
    if options.control_token.is_none() && options.control.is_some_and(|addr| !addr.ip().is_loopback()) {
        err("--control: an address other than loopback needs --control-token-file");
        return 2;
    }
    match serve(options) {
        Ok(()) => 0,
        Err(error) => {
            err(&error);
            1
        }
    }
}

// `println!` and `eprintln!` would panic if nobody reads what is printed.

fn out(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn err(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn options(args: &Arguments) -> Result<Options, settings::SettingsError> {
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
        options.webhook_printer = Some(WebhookPrinter::to(|body| out(format_args!("webhook: {body}"))));
    }
    if let Some(path) = &args.control_token_file {
        options.control_token = Some(settings::read_token(path)?);
    }
    Ok(options)
}

fn serve(options: Options) -> io::Result<()> {
    let (tls, stepped) = (options.tls.is_some(), options.clock.pace() == Pace::Stepped);
    let (listen, control) = (options.listen, options.control);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        // Before the sockets are bound, so that no signal is missed.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let sandbox = Sandbox::start(options).map_err(|error| {
            let place = control.map_or(String::new(), |control| format!(" or {control}"));
            io::Error::new(error.kind(), format!("sandbox: cannot listen on {listen}{place}: {error}"))
        })?;
        out(format_args!("sandbox: {}://{}", if tls { "https" } else { "http" }, sandbox.addr()));
        if let Some(control) = sandbox.control_addr() {
            out(format_args!("control: http://{control}/_sandbox/"));
        } else if stepped {
            err("sandbox: the clock is stepped, and without --control nothing can advance it");
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
        let args = |config, seed| Arguments {
            listen: None,
            control: None,
            control_token_file: None,
            config,
            seed,
            clock: None,
            show_webhooks: false,
        };
        let plain = options(&args(None, None)).unwrap();
        assert_eq!((plain.listen, plain.seed, plain.control), (LISTEN, 1, None));
        let filed = options(&args(Some(file.clone()), None)).unwrap();
        assert_eq!((filed.listen, filed.seed), (LISTEN, 5));
        assert_eq!(filed.control, Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!(options(&args(Some(file), Some(9))).unwrap().seed, 9);
    }

    #[test]
    fn a_pace_is_a_word_or_a_factor() {
        assert_eq!((pace("real"), pace("stepped")), (Ok(Pace::Real), Ok(Pace::Stepped)));
        assert_eq!((pace("600x"), pace("0.5")), (Ok(Pace::Accelerated(600.0)), Ok(Pace::Accelerated(0.5))));
        for wrong in ["", "x", "-1x", "0", "NaN", "fast"] {
            assert!(pace(wrong).is_err(), "{wrong}");
        }
    }
}
