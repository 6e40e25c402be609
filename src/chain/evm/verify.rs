//! A decoded payment against the terms and against its signature.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, Signature, U256};
use alloy::sol_types::SolCall;
use async_trait::async_trait;
use serde_json::json;

use super::Inner;
use super::abi::ContractWallet;
use super::decode::{Decoded, PayerSignature, address, domain_separator};
use super::rpc::{RpcError, is_revert};
use crate::payment::scheme::{IncomingPayment, PaymentFacts, SettlementPlan, VerifyError};
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::UnixMillis;

/// Least time that must be left, as in the official facilitator.
const MARGIN_SECS_MIN: u64 = 6;
/// Most that a slow chain may add to it: two of Ethereum's blocks.
const MARGIN_SECS_MAX: u64 = 24;
/// Gas that a wallet may burn to judge a signature.
const WALLET_GAS_MAX: u64 = 300_000;
const CODE_HOLDS: Duration = Duration::from_secs(60);
const NO_CODE_HOLDS: Duration = Duration::from_secs(10);
const REFUSAL_HOLDS: Duration = Duration::from_secs(30);

/// How the payer's signature was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PayerKind {
    /// By ECDSA, offline.
    Ecdsa,
    /// By the payer's contract.
    Contract,
}

/// A payment that decoded.
pub(super) struct EvmPayment {
    pub inner: Arc<Inner>,
    pub decoded: Decoded,
    pub proven: OnceLock<PayerKind>,
}

/// Compares authorization and terms, cheapest first (protocol §3.3).
pub(super) fn check(
    decoded: &Decoded,
    terms: &PaymentRequirements,
    now: UnixMillis,
    inclusion: Duration,
    max_window: Duration,
) -> Result<(), Reason> {
    if terms.eip712_domain().is_none() {
        return Err(Reason::EvmMissingEip712Domain);
    }
    // Only whom our own terms name (threat C11).
    if address(terms.pay_to.as_str()) != Some(decoded.authorization.to) {
        return Err(Reason::EvmRecipientMismatch);
    }
    let now = now.as_secs();
    let margin = inclusion.as_secs().clamp(MARGIN_SECS_MIN, MARGIN_SECS_MAX);
    let valid_before = decoded.authorization.valid_before_secs();
    if valid_before < now.saturating_add(margin) {
        return Err(Reason::EvmValidBefore);
    }
    if valid_before > now.saturating_add(max_window.as_secs()) {
        return Err(Reason::EvmWindowTooLong);
    }
    if decoded.authorization.valid_after > U256::from(now) {
        return Err(Reason::EvmValidAfter);
    }
    if decoded.authorization.value != terms.amount.value() {
        return Err(Reason::EvmValueMismatch);
    }
    Ok(())
}

/// Who made an ECDSA signature over a hash.
pub(super) fn recover(signature: &PayerSignature, hash: &B256) -> Option<Address> {
    match signature {
        PayerSignature::Ecdsa { r, s, v } => {
            let signature = Signature::new(U256::from_be_bytes(r.0), U256::from_be_bytes(s.0), *v == 28);
            signature.recover_address_from_prehash(hash).ok()
        }
        PayerSignature::Contract(_) | PayerSignature::Wrapped(_) => None,
    }
}

pub(super) fn unavailable(error: RpcError) -> VerifyError {
    VerifyError::Unavailable { detail: error.to_string() }
}

#[async_trait]
impl IncomingPayment for EvmPayment {
    fn facts(&self) -> &PaymentFacts {
        &self.decoded.facts
    }

    fn check(&self, terms: &PaymentRequirements, now: UnixMillis) -> Result<(), Reason> {
        if address(terms.asset.as_str()) != Some(self.decoded.token) || terms.network != self.inner.network {
            return Err(Reason::InvalidPayload);
        }
        let inclusion = self.inner.watch.block_interval() * 2;
        check(&self.decoded, terms, now, inclusion, self.inner.config.max_window)
    }

    async fn prove(&self, terms: &PaymentRequirements) -> Result<(), VerifyError> {
        if self.proven.get().is_some() {
            return Ok(());
        }
        let domain = terms.eip712_domain().ok_or(Reason::EvmMissingEip712Domain)?;
        let separator = domain_separator(&domain, self.inner.chain_id, self.decoded.token);
        let hash = self.decoded.authorization.hash(separator);
        let kind = self.prove_hash(hash).await?;
        let _first_wins = self.proven.set(kind);
        Ok(())
    }

    async fn simulate(&self, terms: &PaymentRequirements) -> Result<Box<dyn SettlementPlan>, VerifyError> {
        // No call for a payment whose signature nobody proved (threat F6).
        self.prove(terms).await?;
        let kind = self.proven.get().copied().ok_or(Reason::EvmSignature)?;
        super::simulate::simulate(&self.inner, &self.decoded, kind).await
    }
}

impl EvmPayment {
    async fn prove_hash(&self, hash: B256) -> Result<PayerKind, VerifyError> {
        let payers = self.inner.config.payers;
        let from = self.decoded.authorization.from;
        let signature = &self.decoded.signature;
        if recover(signature, &hash) == Some(from) {
            // An account that signs by itself may still be delegated (EIP-7702): then the token asks its code, and the
            // simulation shows what comes of it. The look-up is needed only where one kind of payer is not taken.
            return match (payers.eoa, payers.contract) {
                (true, true) => Ok(PayerKind::Ecdsa),
                (true, false) if self.inner.has_code(from).await? => Err(Reason::EvmContractPayer.into()),
                (true, false) => Ok(PayerKind::Ecdsa),
                (false, true) if self.inner.has_code(from).await? => Ok(PayerKind::Contract),
                (false, _) => Err(Reason::EvmSignature.into()),
            };
        }
        let is_ecdsa = matches!(signature, PayerSignature::Ecdsa { .. });
        if !payers.contract {
            return Err(if is_ecdsa { Reason::EvmSignature } else { Reason::EvmContractPayer }.into());
        }
        if !self.inner.has_code(from).await? {
            return Err(match signature {
                PayerSignature::Ecdsa { .. } => Reason::EvmSignature,
                PayerSignature::Contract(_) => Reason::EvmUndeployedSmartWallet,
                PayerSignature::Wrapped(_) => Reason::EvmFactoryNotAllowed,
            }
            .into());
        }
        self.inner.ask_wallet(from, hash, signature.bytes(), self.decoded.presented()).await?;
        Ok(PayerKind::Contract)
    }
}

impl Inner {
    /// Whether an account has code; remembered, and asked only so often (contract §1.2, `payers`).
    async fn has_code(&self, account: Address) -> Result<bool, VerifyError> {
        if let Some(known) = self.code.get(&account) {
            return Ok(known);
        }
        self.take_look_up()?;
        let code: Bytes = self.rpc.call("eth_getCode", json!([account, "latest"])).await.map_err(unavailable)?;
        let has_code = !code.is_empty();
        self.code.put(account, has_code, if has_code { CODE_HOLDS } else { NO_CODE_HOLDS });
        Ok(has_code)
    }

    /// EIP-1271.
    async fn ask_wallet(
        &self,
        wallet: Address,
        hash: B256,
        signature: Vec<u8>,
        presented: [u8; 32],
    ) -> Result<(), VerifyError> {
        if let Some(reason) = self.refused.get(&presented) {
            return Err(reason.into());
        }
        self.take_look_up()?;
        let question = ContractWallet::isValidSignatureCall { hash, signature: signature.into() }.abi_encode();
        let call = json!([
            {"to": wallet, "input": Bytes::from(question), "gas": format!("{WALLET_GAS_MAX:#x}")},
            "latest",
        ]);
        let is_valid = match self.rpc.call::<Bytes>("eth_call", call).await {
            Ok(answer) => {
                answer.len() >= 32 && answer.starts_with(ContractWallet::isValidSignatureCall::SELECTOR.as_slice())
            }
            Err(error) if is_revert(&error) => false,
            Err(error) => return Err(unavailable(error)),
        };
        if is_valid {
            return Ok(());
        }
        self.refused.put(presented, Reason::EvmSignature, REFUSAL_HOLDS);
        Err(Reason::EvmSignature.into())
    }

    fn take_look_up(&self) -> Result<(), VerifyError> {
        if self.look_ups.take() {
            Ok(())
        } else {
            Err(VerifyError::Unavailable { detail: "too many look-ups of contract payers".to_owned() })
        }
    }
}
