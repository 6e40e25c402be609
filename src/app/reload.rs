//! Reads the configuration again while the gateway runs, and takes up what can be taken up: routes, prices, origins, networks.
//! In all else, and when anything is wrong with it, the old one stays, loudly (contract §4).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::signal::unix::Signal;
use tokio::sync::{Mutex, watch};

use super::networks::{Business, Change};
use super::{Blueprint, payables, price};
use crate::admin::{InForce, Reload};
use crate::config::restart_only;
use crate::ledger::Ledger;
use crate::payment::{Clearing, Gate};
use crate::proxy::{Current, Snapshot};
use crate::telemetry::{AccessLog, Metrics};
use crate::types::Clock;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Time, size and number of the file: a change of content changes one of them.
type Look = Option<(Option<SystemTime>, u64, u64)>;

/// What a reload needs of the running gateway.
pub struct Reloader {
    pub(super) file: PathBuf,
    /// The configuration in force; held while another is read, so that there is one reload at a time.
    pub(super) business: Mutex<watch::Sender<Business>>,
    pub(super) gate: Arc<Gate>,
    /// That of money.
    pub(super) runtime: Handle,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) current: Arc<Current>,
    pub(super) has_priced_routes: Arc<AtomicBool>,
    /// The facilitator's: it settles to whom the configuration in force names.
    pub(super) clearing: Arc<Clearing>,
    /// Opened again on SIGHUP, as log rotation has it.
    pub(super) access: Option<Arc<AccessLog>>,
    /// What operators are shown.
    pub(super) in_force: Arc<InForce>,
}

#[async_trait]
impl Reload for Reloader {
    async fn reload(&self) -> Result<(), Vec<String>> {
        let outcome = self.try_reload().await;
        match &outcome {
            Ok(()) => tracing::info!(file = %self.file.display(), "Took up the configuration anew."),
            Err(reasons) => {
                for reason in reasons {
                    tracing::error!(%reason, "The configuration was not taken up; the old one stays.");
                }
            }
        }
        outcome
    }
}

impl Reloader {
    async fn try_reload(&self) -> Result<(), Vec<String>> {
        let in_force = self.business.lock().await;
        let old = in_force.borrow().clone();
        let (file, metrics) = (self.file.clone(), Arc::clone(&self.metrics));
        // All that `check` does: a new payee may be one of the gas payers, for one. Keystores take their time.
        let reading = self
            .runtime
            .spawn_blocking(move || Blueprint::read_with(&file, &|name| std::env::var(name).ok(), Some(metrics)));
        let read = reading.await.map_err(|error| vec![error.to_string()])?;
        let read = read.map_err(|mistakes| mistakes.to_string().lines().map(str::to_owned).collect::<Vec<_>>())?;
        let reasons = restart_only(&old.config, &read.config).into_iter();
        let reasons: Vec<String> = reasons.map(|key| format!("{key} changes only with a restart")).collect();
        if !reasons.is_empty() {
            return Err(reasons);
        }
        let change = Arc::new(Change::new(&old, &read));
        let asking = Arc::clone(&change);
        let asked = self.runtime.spawn(async move { asking.verify().await });
        asked.await.map_err(|error| vec![error.to_string()])??;
        let next = &change.next;
        let priced = price(&next.config, &next.markets)
            .map_err(|list| list.iter().map(|mistake| mistake.message.clone()).collect::<Vec<_>>())?;
        let has_priced_routes = priced.iter().any(Option::is_some);
        let before = self.current.get();
        let snapshot = Snapshot::new(&next.config, read.routes, priced, before.as_deref(), self.clock.now())
            .map_err(|error| vec![error.to_string()])?;
        // The last that may fail, and the last that waits: whoever asked for it may leave.
        let retired = change.retire(&old, &self.gate, self.ledger.as_ref(), self.clock.as_ref()).await?;
        {
            let _inside = self.runtime.enter();
            change.start();
        }
        self.gate.replace_markets(next.markets.clone(), retired);
        self.current.set(snapshot);
        self.clearing.replace(payables(&next.config, &next.markets), next.signers());
        self.has_priced_routes.store(has_priced_routes, Ordering::Relaxed);
        self.in_force.set(Arc::clone(&next.config), next.watched());
        in_force.send_replace(next.clone());
        change.forget(&old, &self.metrics);
        Ok(())
    }

    /// Reloads on every SIGHUP, and when the file has changed and stayed so for a moment. Never ends by itself.
    pub async fn watch(self: Arc<Self>, mut hangups: Signal) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut taken = self.look().await;
        let mut last = taken;
        loop {
            let is_asked = tokio::select! {
                hangup = hangups.recv() => hangup.is_some(),
                _ = ticks.tick() => false,
            };
            if let (true, Some(access)) = (is_asked, &self.access) {
                access.reopen();
            }
            let now = self.look().await;
            // Editors write in several steps: a file that is still being written is left alone.
            if is_asked || (now != taken && now == last && now.is_some()) {
                taken = now;
                let _told = self.reload().await;
            }
            last = now;
        }
    }

    async fn look(&self) -> Look {
        let file = self.file.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let metadata = fs::metadata(file).ok()?;
            Some((metadata.modified().ok(), metadata.len(), metadata.ino()))
        });
        looking.await.ok().flatten()
    }
}
