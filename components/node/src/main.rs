//! `cairn-node`: makes a node out of an image. See the README for the units that run it.

use cairn_node::api::{self, Backends, tls};
use cairn_node::bless::{self, Outcome};
use cairn_node::monitor::{self, Monitor, Places};
use cairn_node::settings::{Api, Settings};
use cairn_node::{apply, screen::Screen, status::Check, status::StatusBoard};
use std::error::Error;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: cairn-node COMMAND

  config                 find the machine config and apply it (early boot, once)
  serve                  watch the node, show its state, serve the management API
  wait-ready [SECONDS]   end with success when the node is ready, with failure after SECONDS (default 300)
  bless                  take the boot counter off the name of the UKI that was booted";

/// How long an answer takes to leave, on a slow machine; and how long one is waited for.
const LEAVES_WITHIN: Duration = Duration::from_secs(1);
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["config"] => config(),
        ["serve"] => serve(),
        ["wait-ready"] => wait_ready(300),
        ["wait-ready", seconds] if seconds.parse::<u64>().is_ok() => {
            wait_ready(seconds.parse().unwrap_or(300))
        }
        ["bless"] => bless(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairn-node: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn config() -> Result<(), Box<dyn Error>> {
    let report = apply::configure();
    eprintln!("machine config: {}", report.source);
    report.problems.iter().for_each(|problem| eprintln!("machine config: {problem}"));
    Ok(apply::save(&report)?)
}

fn serve() -> Result<(), Box<dyn Error>> {
    let settings = Settings::from_environment()?;
    // One thread: the node's programs are many, and this one mostly waits.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let board = Arc::new(StatusBoard::default());
        let screen = Screen::start(settings.console)?;
        let monitor = Monitor::new(Places::default(), board.clone(), screen.clone());
        start_api(settings.api, &board).await;
        tokio::spawn(monitor::show(board.clone(), screen));
        tokio::spawn(watchdog());
        // Not under systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            () = monitor.run() => {}
            _ = ended.recv() => {
                // The answer to the very request that ends the system is still under way.
                let _ = tokio::time::timeout(ANSWERED_WITHIN, board.endings_answered()).await;
                tokio::time::sleep(LEAVES_WITHIN).await;
            }
        }
        Ok(())
    })
}

/// Starts the management API if the machine config asks for it and the image lets it. A node whose API cannot start runs on, and
/// its checks say why.
async fn start_api(allowed: Api, board: &Arc<StatusBoard>) {
    if allowed == Api::Off {
        if Path::new(cairn_node::render::API_KEY).exists() {
            // Not a fault of the node, but somebody expects an answer.
            let message = "off in this image, though the machine config has [api]".to_owned();
            board.record(Check { name: "management-api", good: false, required: false, message });
        }
        return;
    }
    let check = |good, message| Check { name: "management-api", good, required: true, message };
    let tls = match tls::from_files() {
        Ok(Some(tls)) => tls,
        Ok(None) => return,
        Err(error) => return board.record(check(false, chain(&error))),
    };
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, cairn_contract::paths::MANAGEMENT_PORT));
    match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => {
            board.record(check(true, format!("listening on {address}")));
            let board = board.clone();
            tokio::spawn(async move {
                if let Err(error) = api::serve(listener, tls, Backends::default(), board.clone()).await {
                    board.record(check(false, chain(&error)));
                }
            });
        }
        Err(error) => board.record(check(false, format!("cannot listen on {address}: {error}"))),
    }
}

/// Tells systemd that the event loop turns.
async fn watchdog() {
    if let Some(limit) = sd_notify::watchdog_enabled() {
        loop {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            tokio::time::sleep(limit / 3).await;
        }
    }
}

fn wait_ready(seconds: u64) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !Path::new(monitor::READY_FILE).exists() {
        if Instant::now() >= deadline {
            return Err(format!(
                "the node was not ready within {seconds} s; its console and `Status` say what is missing"
            )
            .into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn bless() -> Result<(), Box<dyn Error>> {
    match bless::bless()? {
        Outcome::NotCounted => eprintln!("the boot loader does not count this boot"),
        Outcome::Already => eprintln!("this boot is good already"),
        Outcome::Blessed(name) => eprintln!("this boot is good: /{name}"),
    }
    Ok(())
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
