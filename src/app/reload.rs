//! Reads the configuration again while the gateway runs, and takes up what can be taken up: routes, prices, origins. In all
//! else, and when anything is wrong with it, the old one stays, loudly (contract §4).

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::signal::unix::Signal;
use tokio::sync::Mutex;

use super::{Blueprint, StartError, count_on, open_payments, payables, price};
use crate::admin::{InForce, Reload};
use crate::config::{Config, changed_networks, restart_only};
use crate::ledger::Ledger;
use crate::payment::{Clearing, Market};
use crate::proxy::{Current, Snapshot};
use crate::telemetry::AccessLog;
use crate::types::{Clock, Network};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Time, size and number of the file: a change of content changes one of them.
type Look = Option<(Option<SystemTime>, u64, u64)>;

/// What a reload needs of the running gateway.
pub struct Reloader {
    pub(super) file: PathBuf,
    /// The configuration in force; held while another is read, so that there is one reload at a time.
    pub(super) config: Mutex<Arc<Config>>,
    pub(super) markets: HashMap<Network, Arc<Market>>,
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
        let mut in_force = self.config.lock().await;
        let file = self.file.clone();
        // All that `check` does: a new payee may be one of the gas payers, for one. Keystores take their time.
        let reading = tokio::task::spawn_blocking(move || Blueprint::read(&file, &|name| std::env::var(name).ok()));
        let read = reading.await.map_err(|error| vec![error.to_string()])?;
        let Blueprint { config, routes, .. } =
            read.map_err(|mistakes| mistakes.to_string().lines().map(str::to_owned).collect::<Vec<_>>())?;
        self.refuse_what_is_for_a_restart(&in_force, &config).await?;
        let priced = price(&config, &self.markets)
            .map_err(|list| list.iter().map(|mistake| mistake.message.clone()).collect::<Vec<_>>())?;
        let has_priced_routes = priced.iter().any(Option::is_some);
        let before = self.current.get();
        let snapshot = Snapshot::new(&config, routes, priced, before.as_deref(), self.clock.now())
            .map_err(|error| vec![error.to_string()])?;
        self.current.set(snapshot);
        self.clearing.replace(payables(&config, &self.markets));
        self.has_priced_routes.store(has_priced_routes, Ordering::Relaxed);
        self.in_force.set(Arc::clone(&config));
        *in_force = config;
        Ok(())
    }

    async fn refuse_what_is_for_a_restart(&self, old: &Config, new: &Config) -> Result<(), Vec<String>> {
        let mut reasons: Vec<String> =
            restart_only(old, new).into_iter().map(|key| format!("{key} changes only with a restart")).collect();
        let (changed, gone) = changed_networks(old, new);
        let open = open_payments(self.ledger.as_ref(), &old.server, self.clock.now()).await;
        let open = open.map_err(|error| vec![error.to_string()])?;
        for network in changed {
            let what = "is new, or its endpoints, signers, assets or rules differ, which takes a restart";
            let needed = match count_on(&open, &network) {
                0 => String::new(),
                count => format!("; {count} unfinished payments need it as it was"),
            };
            reasons.push(format!("the network {network} {what}{needed}"));
        }
        for network in gone {
            let count = count_on(&open, &network);
            if count > 0 {
                reasons.push(StartError::NetworkStillNeeded { network, count }.to_string());
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
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
