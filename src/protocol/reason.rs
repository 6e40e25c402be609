//! Why a payment was refused: the stable words of `protocol.md` §8.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        /// A refusal's stable name on the wire. Clients rarely branch on it; logs and conformance tests do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason { $($(#[$doc])* $variant),+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

reasons! {
    /// No payment came with the request.
    PaymentRequired = "payment_required",
    /// The header or its payload is malformed.
    InvalidPayload = "invalid_payload",
    /// `x402Version` is neither 1 nor 2.
    InvalidX402Version = "invalid_x402_version",
    /// The scheme is not `exact`.
    UnsupportedScheme = "unsupported_scheme",
    /// The network is not one that is offered.
    InvalidNetwork = "invalid_network",
    /// What the client accepted is none of the offers.
    NoMatchingRequirements = "no_matching_payment_requirements",
    /// What a resource server asks of the facilitator is not among what it settles.
    InvalidRequirements = "invalid_payment_requirements",
    /// The offer's quote has run out and its price no longer holds.
    OfferExpired = "offer_expired",
    /// The payment already bought its answer.
    PaymentAlreadyUsed = "payment_already_used",
    /// A resource server was told already that this payment moved its money.
    DuplicateSettlement = "duplicate_settlement",
    /// The payment belongs to another request.
    BoundToOtherRequest = "payment_bound_to_other_request",
    /// The money moved, and its answer can't be had any more.
    Owed = "payment_owed",
    /// Two payment headers contradict each other.
    ContradictoryPayments = "contradictory_payment_headers",
    /// Settlement's outcome is not known yet.
    SettlementPending = "settlement_pending",
    /// The authorization ended before the payment landed.
    PaymentExpired = "payment_expired",
    /// Something broke on our side while verifying.
    UnexpectedVerifyError = "unexpected_verify_error",
    /// Something broke on our side while settling.
    UnexpectedSettleError = "unexpected_settle_error",
    /// EVM: `extra` lacks the EIP-712 domain.
    EvmMissingEip712Domain = "invalid_exact_evm_missing_eip712_domain",
    /// EVM: the signature is not the payer's.
    EvmSignature = "invalid_exact_evm_signature",
    /// EVM: the signature can't be read.
    EvmSignatureForm = "invalid_exact_evm_failed_to_parse_signature",
    /// EVM: `to` is not who is to be paid.
    EvmRecipientMismatch = "invalid_exact_evm_recipient_mismatch",
    /// EVM: the authorization ends too soon or already ended.
    EvmValidBefore = "invalid_exact_evm_payload_authorization_valid_before",
    /// EVM: the authorization is not valid yet.
    EvmValidAfter = "invalid_exact_evm_payload_authorization_valid_after",
    /// EVM: the authorization stays valid for longer than the operator accepts.
    EvmWindowTooLong = "invalid_exact_evm_payload_authorization_window_too_long",
    /// EVM: `value` is not the price.
    EvmValueMismatch = "invalid_exact_evm_payload_authorization_value_mismatch",
    /// EVM: the payer is a contract, which this operator does not take.
    EvmContractPayer = "invalid_exact_evm_contract_payer_not_accepted",
    /// EVM: an ERC-6492 wallet whose factory is not on the operator's list.
    EvmFactoryNotAllowed = "eip6492_factory_not_allowed",
    /// EVM: a long signature from an account without code.
    EvmUndeployedSmartWallet = "invalid_exact_evm_payload_undeployed_smart_wallet",
    /// EVM: the token has no code.
    EvmAssetNotDeployed = "asset_not_deployed_contract",
    /// EVM: the nonce was used or cancelled.
    EvmNonceAlreadyUsed = "invalid_exact_evm_nonce_already_used",
    /// EVM: the payer has too little.
    EvmInsufficientBalance = "invalid_exact_evm_insufficient_balance",
    /// EVM: the settlement would fail.
    EvmSimulationFailed = "invalid_exact_evm_transaction_simulation_failed",
    /// EVM: the settlement transaction was mined and failed.
    EvmTransactionFailed = "invalid_exact_evm_transaction_failed",
    /// EVM: the settlement transaction was mined, but moved other money than was asked.
    EvmTransferEventMismatch = "invalid_exact_evm_transfer_event_mismatch",
    /// EVM: the payer cancelled the authorization.
    EvmAuthorizationCanceled = "invalid_exact_evm_authorization_canceled",
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::str::FromStr for Reason {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text).ok_or(())
    }
}
