//! Why a payment was refused: the stable words of `docs/protocol.md` §8.

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
    /// The origin worked for this payment as often as it may, and its money never moved.
    AttemptsSpent = "payment_attempts_spent",
    /// A resource server was told already that this payment moved its money; or the chain ran this transaction before (SVM).
    DuplicateSettlement = "duplicate_settlement",
    /// The payment belongs to another request.
    BoundToOtherRequest = "payment_bound_to_other_request",
    /// The money moved, and its answer can't be had any more.
    Owed = "payment_owed",
    /// Two payment headers contradict each other.
    ContradictoryPayments = "contradictory_payment_headers",
    /// The route asks for a payment identifier, and the payment has none.
    IdentifierRequired = "payment_identifier_required",
    /// The payment's identifier is not 16 to 128 of `[A-Za-z0-9_-]`.
    IdentifierMalformed = "invalid_payment_identifier",
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
    /// Cosmos: the payload holds no readable transaction.
    CosmosDecode = "invalid_exact_cosmos_decode_failed",
    /// Cosmos: the transaction holds fields that are not read here, or is not in its one canonical encoding.
    CosmosUnknownFields = "invalid_exact_cosmos_unknown_fields",
    /// Cosmos: the transaction has not exactly one message.
    CosmosMessageCount = "invalid_exact_cosmos_message_count",
    /// Cosmos: the message is no `MsgSend`.
    CosmosMessageType = "invalid_exact_cosmos_message_type",
    /// Cosmos: not exactly one coin is sent.
    CosmosCoinCount = "invalid_exact_cosmos_coin_count",
    /// Cosmos: the coin is not the one that is asked for.
    CosmosDenomMismatch = "invalid_exact_cosmos_denom_mismatch",
    /// Cosmos: the amount is not the price.
    CosmosAmountMismatch = "invalid_exact_cosmos_amount_mismatch",
    /// Cosmos: the money would go to somebody else.
    CosmosRecipientMismatch = "invalid_exact_cosmos_recipient_mismatch",
    /// Cosmos: the memo is not the one that is asked for, or is too long.
    CosmosMemoMismatch = "invalid_exact_cosmos_memo_mismatch",
    /// Cosmos: the transaction has extension options or a tip.
    CosmosExtensionOptions = "invalid_exact_cosmos_extension_options",
    /// Cosmos: the transaction times out too soon, or too late.
    CosmosTimeoutHeight = "invalid_exact_cosmos_timeout_height",
    /// Cosmos: the signer is not one secp256k1 key, or not the sender's.
    CosmosSigner = "invalid_exact_cosmos_signer",
    /// Cosmos: signed in another way than `SIGN_MODE_DIRECT` or `SIGN_MODE_LEGACY_AMINO_JSON`.
    CosmosSignMode = "invalid_exact_cosmos_sign_mode",
    /// Cosmos: the signature is not the payer's, on this chain and for this account.
    CosmosSignature = "invalid_exact_cosmos_signature",
    /// Cosmos: the chain doesn't know the payer.
    CosmosAccountNotFound = "invalid_exact_cosmos_account_not_found",
    /// Cosmos: the account's sequence is another, or went to another transaction.
    CosmosSequenceMismatch = "invalid_exact_cosmos_sequence_mismatch",
    /// Cosmos: the gas limit or the fee is not what the chain takes.
    CosmosFee = "invalid_exact_cosmos_fee",
    /// Cosmos: somebody else would pay the fee.
    CosmosFeePayer = "invalid_exact_cosmos_fee_payer",
    /// Cosmos: the payer has too little for amount and fee.
    CosmosInsufficientBalance = "invalid_exact_cosmos_insufficient_balance",
    /// Cosmos: the transaction would fail.
    CosmosSimulationFailed = "invalid_exact_cosmos_simulation_failed",
    /// Cosmos: the transaction is in a block already.
    CosmosAlreadyCommitted = "invalid_exact_cosmos_already_committed",
    /// Cosmos: the transaction was included and failed.
    CosmosTransactionFailed = "invalid_exact_cosmos_transaction_failed",
    /// Cosmos: the transaction was included, but moved other money than was asked.
    CosmosTransferEventMismatch = "invalid_exact_cosmos_transfer_event_mismatch",
    /// SVM: the payer has too little.
    InsufficientFunds = "insufficient_funds",
    /// SVM: `extra` names no fee payer.
    SvmMissingFeePayer = "invalid_exact_svm_payload_missing_fee_payer",
    /// SVM: the fee payer that the terms name is none of ours.
    SvmFeePayerNotManaged = "invalid_exact_svm_fee_payer_not_managed_by_facilitator",
    /// SVM: no transaction of an accepted version in canonical encoding, or one with lookup tables.
    SvmUndecodable = "invalid_exact_svm_payload_transaction_could_not_be_decoded",
    /// SVM: more signatures are required than we pay for.
    SvmExcessiveSigners = "invalid_exact_svm_payload_excessive_signers",
    /// SVM: the transaction's fee payer is not the one that the terms name.
    SvmInvalidFeePayer = "invalid_exact_svm_invalid_fee_payer",
    /// SVM: a required signature is missing or wrong.
    SvmSignatureInvalid = "invalid_exact_svm_payload_signature_invalid",
    /// SVM: fewer than 3 or more than 7 instructions.
    SvmInstructionsLength = "invalid_exact_svm_payload_transaction_instructions_length",
    /// SVM: the first instruction does not set the compute unit limit.
    SvmComputeLimit = "invalid_exact_svm_payload_transaction_instructions_compute_limit_instruction",
    /// SVM: the compute unit limit is over ours.
    SvmComputeLimitTooHigh = "invalid_exact_svm_payload_transaction_instructions_compute_limit_instruction_too_high",
    /// SVM: the second instruction does not set the compute unit price.
    SvmComputePrice = "invalid_exact_svm_payload_transaction_instructions_compute_price_instruction",
    /// SVM: the compute unit price or the whole fee is over ours.
    SvmComputePriceTooHigh = "invalid_exact_svm_payload_transaction_instructions_compute_price_instruction_too_high",
    /// SVM: the third instruction is no `TransferChecked` of the mint's token program.
    SvmNoTransfer = "invalid_exact_svm_payload_no_transfer_instruction",
    /// SVM: a signer of ours would pay.
    SvmFeePayerTransferring = "invalid_exact_svm_payload_transaction_fee_payer_transferring_funds",
    /// SVM: a signer of ours stands where an instruction could use it.
    SvmFeePayerInInstruction =
        "invalid_exact_svm_payload_transaction_fee_payer_included_in_instruction_accounts",
    /// SVM: another token is transferred.
    SvmMintMismatch = "invalid_exact_svm_payload_mint_mismatch",
    /// SVM: the destination is not the payee's associated token account.
    SvmRecipientMismatch = "invalid_exact_svm_payload_recipient_mismatch",
    /// SVM: the amount or its decimals are not the price's.
    SvmAmountMismatch = "invalid_exact_svm_payload_amount_mismatch",
    /// SVM: the fourth instruction is neither a memo nor an assertion.
    SvmUnknownFourth = "invalid_exact_svm_payload_unknown_fourth_instruction",
    /// SVM: as the fourth.
    SvmUnknownFifth = "invalid_exact_svm_payload_unknown_fifth_instruction",
    /// SVM: as the fourth.
    SvmUnknownSixth = "invalid_exact_svm_payload_unknown_sixth_instruction",
    /// SVM: as the fourth.
    SvmUnknownSeventh = "invalid_exact_svm_payload_unknown_seventh_instruction",
    /// SVM: the terms ask for one memo, and there is none or more than one.
    SvmMemoCount = "invalid_exact_svm_payload_memo_count",
    /// SVM: the memo is not what the terms ask for.
    SvmMemoMismatch = "invalid_exact_svm_payload_memo_mismatch",
    /// SVM: the settlement would fail.
    SvmSimulationFailed = "invalid_exact_svm_transaction_simulation_failed",
    /// SVM: the transaction was in a block and failed.
    SvmTransactionFailed = "invalid_exact_svm_transaction_failed",
    /// SVM: the transaction ran, but the payee's token account did not get what was asked.
    SvmTransferNotConfirmed = "post_settlement_transfer_not_confirmed",
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
