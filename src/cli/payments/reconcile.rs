//! `payments reconcile`: the books against the chains. Prints every difference, changes nothing.

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use serde::Serialize;

use super::period::{self, Moment};
use super::{open, write_json};
use crate::app::Blueprint;
use crate::chain::{Audit, Chain, Incoming, Till};
use crate::cli::human::{printable, time_text};
use crate::config::{Config, NetworkConfig, RouteAction};
use crate::ledger::{BooksReader, PaymentFilter, PaymentRecord, PaymentState};
use crate::types::{AccountId, AssetId, Clock, Network, SystemClock, UnixMillis};

/// The books and the chains differ.
const DIFFERENCES: u8 = 1;
/// A chain, or the books, could not be asked.
const UNASKED: u8 = 4;
/// What is looked at by itself.
const PERIOD_BY_ITSELF: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far a chain's clock and ours may differ, and how late a row may be written.
const MARGIN: Duration = Duration::from_secs(3600);
/// A settlement this young is the gateway's affair.
const UNDER_WAY: Duration = Duration::from_secs(120);
/// Payments looked up at once.
const AT_ONCE: usize = 8;
/// How long a chain may take to be compared with its configuration.
const PATIENCE: Duration = Duration::from_secs(15);

/// `tollhouse payments reconcile`.
#[derive(Debug, Clone, Args)]
pub struct ReconcileArgs {
    /// Only this network: a name such as base-sepolia, or a CAIP-2 id
    #[arg(long, value_name = "NAME")]
    pub network: Option<Network>,
    /// Payments claimed, and transfers made, on this day (UTC) or later; by itself a week ago
    #[arg(long, value_name = "DAY", value_parser = period::parse)]
    pub since: Option<Moment>,
    /// On this day (UTC) or earlier; by itself until now
    #[arg(long, value_name = "DAY", value_parser = period::parse)]
    pub until: Option<Moment>,
    /// Print a JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// What the books and a chain say differently.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// Which sort: `missing`, `moved_other`, `other_block`, `landed`, `unknown_transfer`, `counted_twice`, `signer_ahead`.
    pub kind: &'static str,
    /// The chain.
    pub network: Network,
    /// The row, if it is about one.
    pub record: Option<String>,
    /// Its state.
    pub state: Option<&'static str>,
    /// The transaction.
    pub transaction: Option<String>,
    /// Who paid, if that is known.
    pub payer: Option<String>,
    /// How much.
    pub amount: Option<String>,
    /// What it means.
    pub detail: String,
}

/// What was compared, and what came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// From when on.
    pub since: String,
    /// Until when.
    pub until: String,
    /// Payments that were looked up.
    pub payments: u64,
    /// Transfers to the tills that were seen on the chains.
    pub transfers: u64,
    /// Every difference.
    pub differences: Vec<Difference>,
    /// What could not be asked, and why.
    pub unasked: Vec<String>,
}

struct Period {
    since: UnixMillis,
    until: UnixMillis,
}

/// Compares, prints, and says by its exit code what came of it.
pub async fn run(file: &Path, args: &ReconcileArgs) -> ExitCode {
    match reconcile(file, args).await {
        Ok(report) => {
            let code = match (report.differences.is_empty(), report.unasked.is_empty()) {
                (false, _) => DIFFERENCES,
                (true, false) => UNASKED,
                (true, true) => 0,
            };
            match tell(&report, args.json) {
                Ok(()) => ExitCode::from(code),
                Err(_broken_pipe) => ExitCode::from(UNASKED),
            }
        }
        Err(error) => {
            crate::cli::report(&error);
            ExitCode::from(UNASKED)
        }
    }
}

async fn reconcile(file: &Path, args: &ReconcileArgs) -> anyhow::Result<Report> {
    let blueprint = Blueprint::read(file, &|name| std::env::var(name).ok())?;
    let config = blueprint.config.as_ref();
    let books = open(config).await?;
    let now = SystemClock.now();
    let week = i64::try_from(PERIOD_BY_ITSELF.as_millis()).unwrap_or(i64::MAX);
    let period = Period {
        since: args.since.map_or(UnixMillis(now.0.saturating_sub(week)), |since| since.start),
        // By itself up to the head, whose clock may be ahead of ours.
        until: args.until.map(|until| until.end).filter(|end| *end < now).unwrap_or(UnixMillis(i64::MAX)),
    };
    let mut report =
        Report { since: time_text(period.since), until: time_text(period.until.min(now)), ..Report::default() };
    let is_asked = |network: &&NetworkConfig| args.network.as_ref().is_none_or(|only| *only == network.network);
    for network in config.networks.iter().filter(is_asked) {
        let Some(chain) = blueprint.chains.iter().find(|chain| *chain.network() == network.network) else { continue };
        match tokio::time::timeout(PATIENCE, chain.verify_chain()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                report.unasked.push(error.to_string());
                continue;
            }
            Err(_elapsed) => {
                report.unasked.push(format!("{}: no answer in time", network.network));
                continue;
            }
        }
        Comparison { books: &books, chain: chain.as_ref(), network, period: &period, now, report: &mut report }
            .run(config)
            .await?;
    }
    unconfigured(&books, config, args, &mut report).await?;
    books.close().await;
    Ok(report)
}

/// Payments on networks that are not configured can't be compared with anything.
async fn unconfigured(
    books: &BooksReader,
    config: &Config,
    args: &ReconcileArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let totals = books.totals().await?;
    let in_books: BTreeSet<&Network> = totals.iter().map(|total| &total.network).collect();
    for network in in_books {
        let is_asked = args.network.as_ref().is_none_or(|only| only == network);
        if is_asked && !config.networks.iter().any(|configured| configured.network == *network) {
            report.unasked.push(format!("{network} is in the books and not in the configuration"));
        }
    }
    Ok(())
}

/// One network.
struct Comparison<'a> {
    books: &'a BooksReader,
    chain: &'a dyn Chain,
    network: &'a NetworkConfig,
    period: &'a Period,
    now: UnixMillis,
    report: &'a mut Report,
}

impl Comparison<'_> {
    async fn run(mut self, config: &Config) -> anyhow::Result<()> {
        self.compare_signers().await?;
        let margin = i64::try_from(MARGIN.as_millis()).unwrap_or(i64::MAX);
        // Whatever settled within the period changed its row then or later.
        let filter = PaymentFilter {
            network: Some(self.network.network.clone()),
            changed_since: Some(UnixMillis(self.period.since.0.saturating_sub(margin))),
            ..PaymentFilter::default()
        };
        let rows = self.books.list(&filter).await?;
        let within = |row: &&PaymentRecord| (self.period.since..self.period.until).contains(&row.claim.claimed_at);
        let asked: Vec<&PaymentRecord> = rows.iter().filter(within).collect();
        self.report.payments = self.report.payments.saturating_add(u64::try_from(asked.len()).unwrap_or(u64::MAX));
        let judged: Vec<_> =
            futures::stream::iter(asked.iter().map(|row| self.judge(row, &rows))).buffered(AT_ONCE).collect().await;
        for judged in judged {
            match judged {
                Ok(difference) => self.report.differences.extend(difference),
                Err(unasked) => self.report.unasked.push(unasked),
            }
        }
        for (pay_to, asset) in tills(config, self.network, &rows) {
            self.compare_till(&pay_to, &asset, &rows).await?;
        }
        Ok(())
    }

    /// A gas payer that did more than the books know of: they are an old copy, or somebody else holds the key.
    async fn compare_signers(&mut self) -> anyhow::Result<()> {
        let network = &self.network.network;
        let nonces = match self.chain.signer_nonces().await {
            Ok(nonces) => nonces,
            Err(error) => {
                self.report.unasked.push(format!("{network}: {error}"));
                return Ok(());
            }
        };
        for (signer, expected) in nonces {
            let Some(next) = self.books.next_nonce(network, &signer).await? else { continue };
            if expected > next {
                let detail = format!(
                    "the chain expects account nonce {expected} of {signer}, the books go on with {next}: they are older than \
                     the chain, or the key is used elsewhere"
                );
                self.report.differences.push(Difference {
                    kind: "signer_ahead",
                    network: network.clone(),
                    record: None,
                    state: None,
                    transaction: None,
                    payer: None,
                    amount: None,
                    detail,
                });
            }
        }
        Ok(())
    }

    async fn judge(&self, row: &PaymentRecord, all: &[PaymentRecord]) -> Result<Option<Difference>, String> {
        let found = self.look_up(row, all).await?;
        if found.is_none() {
            return Ok(None);
        }
        // A gateway may be at work: what it has written by now is compared.
        match self.books.get(&row.record).await {
            Ok(Some(again)) if again.updated_at == row.updated_at => Ok(found),
            Ok(Some(again)) => self.look_up(&again, all).await,
            Ok(None) => Ok(None),
            Err(error) => Err(format!("{}: {error}", row.record)),
        }
    }

    async fn look_up(&self, row: &PaymentRecord, all: &[PaymentRecord]) -> Result<Option<Difference>, String> {
        use PaymentState::{Delivering, Owed, Paid, Served};
        let unasked = |error: &dyn std::fmt::Display| format!("{}: {error}", row.record);
        if matches!(row.state, Paid | Delivering | Served | Owed) {
            let audit = self.chain.audit(row).await.map_err(|error| unasked(&error))?;
            return Ok(disagreement(row, &audit));
        }
        let is_young = self.now.since(row.claim.claimed_at) < UNDER_WAY && row.state == PaymentState::Signed;
        // Without a signed transaction of ours whatever moved is somebody else's doing, and is seen at the till.
        if row.attempts.is_empty() || is_young {
            return Ok(None);
        }
        let landed = self.chain.late_settlement(row).await.map_err(|error| unasked(&error))?;
        let Some(landed) = landed else { return Ok(None) };
        let is_anothers = all.iter().any(|other| {
            other.record != row.record
                && other.settlement.as_ref().is_some_and(|it| it.transaction == landed.transaction)
        });
        let detail = format!("it is {} in the books, and its money moved in block {}", row.state, landed.block);
        Ok((!is_anothers).then(|| difference("landed", row, Some(landed.transaction), detail)))
    }

    async fn compare_till(
        &mut self,
        pay_to: &AccountId,
        asset: &AssetId,
        rows: &[PaymentRecord],
    ) -> anyhow::Result<()> {
        let signed = rows.iter().flat_map(|row| &row.attempts).map(|attempt| attempt.signed.transaction.clone());
        let settled = rows.iter().filter_map(|row| row.settlement.as_ref()).map(|it| it.transaction.clone());
        let known: HashSet<String> = signed.chain(settled).collect();
        let Period { since, until } = *self.period;
        let till = Till { pay_to, asset, since, until, known: &known };
        let incoming = match self.chain.incoming(&till).await {
            Ok(incoming) => incoming,
            Err(error) => {
                let what =
                    format!("transfers of {asset} to {pay_to} can't be listed, so unknown ones stay unseen: {error}");
                self.report.unasked.push(what);
                return Ok(());
            }
        };
        self.report.transfers = self.report.transfers.saturating_add(u64::try_from(incoming.len()).unwrap_or(u64::MAX));
        for transfer in &incoming {
            let mut of_this: Vec<&PaymentRecord> = rows.iter().filter(|row| is_by(row, transfer)).collect();
            let fresh;
            if of_this.is_empty() {
                // Claimed long before, or since the books were read.
                fresh = self.books.by_transaction(&transfer.transaction).await?;
                of_this = fresh.iter().filter(|row| is_by(row, transfer)).collect();
            }
            let credited = of_this.iter().filter(|row| row.settlement.is_some()).count();
            let same = incoming.iter().filter(|other| *other == transfer).count();
            if of_this.is_empty() {
                self.report.differences.push(unknown(&self.network.network, transfer));
            } else if credited > same {
                let detail = format!("{credited} payments in the books are settled by {same} such transfer");
                if let Some(row) = of_this.first() {
                    let difference = difference("counted_twice", row, Some(transfer.transaction.clone()), detail);
                    self.report.differences.push(difference);
                }
            }
        }
        Ok(())
    }
}

/// Where money of the network comes in: the network's till, the routes', and every other that the books know.
fn tills(config: &Config, network: &NetworkConfig, rows: &[PaymentRecord]) -> BTreeSet<(AccountId, AssetId)> {
    let mut tills: BTreeSet<_> =
        network.assets.iter().map(|asset| (network.pay_to.clone(), asset.id.clone())).collect();
    for route in &config.routes {
        if let RouteAction::Paid(paid) = &route.action {
            let here = paid.offers.iter().filter(|offer| offer.network == network.network);
            tills.extend(here.map(|offer| (offer.pay_to.clone(), offer.asset.id.clone())));
        }
    }
    tills.extend(rows.iter().map(|row| (row.claim.pay_to.clone(), row.claim.asset.clone())));
    tills
}

/// Whether a transfer is what a row was settled by, or was signed for it; then the row is judged by itself.
fn is_by(row: &PaymentRecord, transfer: &Incoming) -> bool {
    let is_payer = |payer: &AccountId| payer.as_str().eq_ignore_ascii_case(row.claim.payer.as_str());
    let is_of = |transaction: &str| transaction == transfer.transaction;
    let is_settled = row.settlement.as_ref().is_some_and(|settlement| is_of(&settlement.transaction));
    (is_settled || row.attempts.iter().any(|attempt| is_of(&attempt.signed.transaction)))
        && row.claim.amount == transfer.amount
        && transfer.payer.as_ref().is_none_or(is_payer)
}

fn disagreement(row: &PaymentRecord, audit: &Audit) -> Option<Difference> {
    let transaction = row.settlement.as_ref().map(|settlement| settlement.transaction.clone());
    let (kind, detail) = match audit {
        Audit::Moved { .. } => return None,
        Audit::MovedElsewhere { block } => {
            ("other_block", format!("its settlement is in block {block}, not where the books have it"))
        }
        Audit::MovedOther => ("moved_other", "its settlement is on chain and did not move this money".to_owned()),
        Audit::Missing => ("missing", "the chain doesn't know its settlement".to_owned()),
    };
    Some(difference(kind, row, transaction, detail))
}

fn difference(kind: &'static str, row: &PaymentRecord, transaction: Option<String>, detail: String) -> Difference {
    Difference {
        kind,
        network: row.claim.network.clone(),
        record: Some(row.record.to_string()),
        state: Some(row.state.as_str()),
        transaction,
        payer: Some(row.claim.payer.to_string()),
        amount: Some(row.claim.amount.to_string()),
        detail,
    }
}

fn unknown(network: &Network, transfer: &Incoming) -> Difference {
    Difference {
        kind: "unknown_transfer",
        network: network.clone(),
        record: None,
        state: None,
        transaction: Some(transfer.transaction.clone()),
        payer: transfer.payer.as_ref().map(AccountId::to_string),
        amount: Some(transfer.amount.to_string()),
        detail: format!("money came in with block {}, and no payment in the books accounts for it", transfer.block),
    }
}

fn tell(report: &Report, json: bool) -> anyhow::Result<()> {
    let out = &mut std::io::stdout().lock();
    if json {
        write_json(out, report)?;
    } else {
        for difference in &report.differences {
            let Difference { kind, network, record, state, transaction, payer, amount, detail } = difference;
            let about = [record.as_deref(), *state, transaction.as_deref(), payer.as_deref(), amount.as_deref()];
            let about: Vec<&str> = about.into_iter().flatten().collect();
            writeln!(out, "{kind:<17} {network} {}: {}", about.join(" "), printable(detail))?;
        }
        let Report { since, until, payments, transfers, differences, .. } = report;
        writeln!(
            out,
            "{since} to {until}: {payments} payments, {transfers} transfers, {} differences",
            differences.len()
        )?;
    }
    out.flush()?;
    for unasked in &report.unasked {
        eprintln!("not compared: {}", printable(unasked));
    }
    Ok(())
}
