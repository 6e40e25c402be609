//! `tollhouse run`: the gateway.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;

use super::RunArgs;
use crate::app::{App, Blueprint};
use crate::config::LogFormat;
use crate::ledger::Ledger;
use crate::server::{Door, Ending, Server, Taken, hangups, termination};
use crate::telemetry::{self, LogGuard, Observers};

/// Threads for claims, settlements and chains, apart from those that serve requests.
const MONEY_THREADS: usize = 2;

/// How long a runtime may take to end after everything was written.
const RUNTIME_GRACE: Duration = Duration::from_millis(500);

/// How long the last spans, and the last lines of the access log, may take.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the ledger's last checkpoint may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    #[cfg(feature = "openssl")]
    crate::server::tls::find_roots();
    let blueprint = Blueprint::read(&args.config.config, &|name| std::env::var(name).ok())?;
    let _log = start_logging(&blueprint)?;
    let taken = if args.upgrade { take_over(&blueprint)? } else { None };
    let runtimes = Runtimes::new(&blueprint)?;
    let stop = {
        let _inside = runtimes.requests.enter();
        termination().context("can't listen for signals")?
    };
    runtimes.run(blueprint, taken, stop, |_server| Ok(()))
}

/// The listeners of the gateway that runs, if there is one.
fn take_over(blueprint: &Blueprint) -> anyhow::Result<Option<Taken>> {
    let Some(socket) = &blueprint.config.server.upgrade_socket else {
        anyhow::bail!("--upgrade needs [server] upgrade_socket, where the gateway that runs can be asked");
    };
    let taken = Taken::ask(socket).with_context(|| format!("can't ask for listeners at {}", socket.display()))?;
    match &taken {
        Some(_) => tracing::info!("Taking over from the gateway that runs."),
        None => tracing::info!("No gateway runs that could be taken over from."),
    }
    Ok(taken)
}

/// Logs as the configuration says, while the guard is kept.
pub(super) fn start_logging(blueprint: &Blueprint) -> anyhow::Result<LogGuard> {
    let log = &blueprint.config.log;
    telemetry::init_lossy(&log.level, log.format == LogFormat::Json).context("[log] level")
}

/// What a gateway runs on. Two runtimes: whatever requests do to theirs, money goes on.
pub(super) struct Runtimes {
    requests: Runtime,
    money: Runtime,
}

impl Runtimes {
    pub(super) fn new(blueprint: &Blueprint) -> anyhow::Result<Self> {
        let requests = runtime("requests", blueprint.config.server.threads)?;
        Ok(Self { requests, money: runtime("money", MONEY_THREADS)? })
    }

    /// Runs the gateway until `stop` is done; `ready` is called once its ports are its own.
    pub(super) fn run(
        self,
        blueprint: Blueprint,
        taken: Option<Taken>,
        stop: impl Future<Output = ()>,
        ready: impl FnOnce(&Server) -> anyhow::Result<()>,
    ) -> anyhow::Result<ExitCode> {
        let app = self.money.block_on(blueprint.start(self.money.handle().clone(), taken.is_some()))?;
        let ledger = Arc::clone(&app.ledger);
        let begin = app.begin();
        let served = serve(app, taken, stop, |server| {
            ready(server)?;
            self.money.spawn(begin);
            Ok(())
        });
        let code = self.requests.block_on(served)?;
        self.requests.shutdown_timeout(RUNTIME_GRACE);
        self.money.shutdown_timeout(RUNTIME_GRACE);
        if code == ExitCode::SUCCESS {
            close(ledger)?;
        }
        Ok(code)
    }
}

/// Leaves the books in order. Tidy, but not needed: what was written is durable.
fn close(ledger: Arc<dyn Ledger>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let closed = runtime.block_on(async { tokio::time::timeout(CLOSE_TIMEOUT, ledger.end()).await });
    if closed.is_err() {
        tracing::warn!("The ledger was not closed in time; the next start puts it in order.");
    }
    Ok(())
}

async fn serve(
    app: App,
    mut taken: Option<Taken>,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(&Server) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let hangups = hangups().context("can't listen for signals")?;
    let socket = app.parts.config.server.upgrade_socket.clone();
    let server = Server::bind(app.parts, app.admin, app.facilitator, taken.as_mut()).await?;
    let has_taken = taken.is_some();
    if let Some(taken) = taken {
        // Connections wait in the system's queue for the moment until they are accepted here.
        if let Err(error) = tokio::task::spawn_blocking(move || taken.ready()).await? {
            tracing::warn!(%error, "The gateway before went without a word.");
        }
    }
    let door = match socket.map(|socket| open_door(&socket, &server)).transpose() {
        // Clients have nobody else any more.
        Err(error) if has_taken => {
            tracing::error!(error = format!("{error:#}"), "The next upgrade can't take over from this gateway.");
            None
        }
        door => door?,
    };
    ready(&server)?;
    let stop = async move {
        let handed_over = async move {
            match door {
                Some(door) => door.handed_over().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop => Ending::Stopped,
            () = handed_over => Ending::HandedOver,
        }
    };
    let (gate, ledger, observers) = (app.gate, app.ledger, app.observers);
    let watching = tokio::spawn(app.reloader.watch(hangups));
    let serving = server.run(stop, |within| async move { gate.drain(within).await });
    let code = tokio::select! {
        () = serving => Ok(ExitCode::SUCCESS),
        // A ledger that may not write any more must not be believed either: the next start reads what is really there.
        reason = ledger.halted() => {
            tracing::error!(reason, "The ledger has stopped; so does the gateway.");
            Ok(ExitCode::FAILURE)
        }
    };
    watching.abort();
    // What it holds of the books is let go of before they are closed.
    let _aborted = watching.await;
    flush(observers).await;
    code
}

fn open_door(socket: &Path, server: &Server) -> anyhow::Result<Door> {
    let sockets = server.sockets().context("can't keep the listeners for the next gateway")?;
    Door::open(socket, sockets).with_context(|| format!("can't wait for the next gateway at {}", socket.display()))
}

/// What was observed last is still on its way. Neither a collector nor a disk that stands still holds up the end for long.
async fn flush(observers: Observers) {
    if let Some(tracer) = &observers.tracer {
        tracer.flush(FLUSH_TIMEOUT).await;
    }
    if let Some(access) = observers.access {
        let _died = tokio::task::spawn_blocking(move || access.flush(FLUSH_TIMEOUT)).await;
    }
}

/// A runtime whose threads bear its name.
pub(super) fn runtime(name: &'static str, threads: usize) -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .context("can't start a runtime")
}
