//! What a node says when it says no, in the numbers and words of the SDK: clients and the gateway tell refusals apart by
//! them.

/// Why a transaction is refused: a code of the codespace `sdk`, 0 for none, and the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub code: u32,
    pub log: String,
}

impl Refusal {
    /// `what` is the case, `kind` the SDK's name of the error, which stands at the end.
    fn new(code: u32, what: impl AsRef<str>, kind: &str) -> Self {
        let what = what.as_ref();
        Self { code, log: if what.is_empty() { kind.to_owned() } else { format!("{what}: {kind}") } }
    }

    pub(super) fn unreadable(what: impl AsRef<str>) -> Self {
        Self::new(2, what, "tx parse error")
    }

    pub(super) fn unauthorized(what: impl AsRef<str>) -> Self {
        Self::new(4, what, "unauthorized")
    }

    pub(super) fn insufficient_funds(what: impl AsRef<str>) -> Self {
        Self::new(5, what, "insufficient funds")
    }

    pub(super) fn invalid_address(what: impl AsRef<str>) -> Self {
        Self::new(7, what, "invalid address")
    }

    pub(super) fn invalid_public_key(what: impl AsRef<str>) -> Self {
        Self::new(8, what, "invalid pubkey")
    }

    pub(super) fn unknown_address(what: impl AsRef<str>) -> Self {
        Self::new(9, what, "unknown address")
    }

    pub(super) fn invalid_coins(what: impl AsRef<str>) -> Self {
        Self::new(10, what, "invalid coins")
    }

    pub(super) fn out_of_gas(location: &str, wanted: u64, used: u64) -> Self {
        let what = format!("out of gas in location: {location}; gasWanted: {wanted}, gasUsed: {used}");
        Self::new(11, what, "out of gas")
    }

    pub(super) fn memo_too_large(what: impl AsRef<str>) -> Self {
        Self::new(12, what, "memo too large")
    }

    pub(super) fn insufficient_fee(what: impl AsRef<str>) -> Self {
        Self::new(13, what, "insufficient fee")
    }

    pub(super) fn no_signatures() -> Self {
        Self::new(15, "", "no signatures supplied")
    }

    pub(super) fn in_mempool() -> Self {
        Self::new(19, "", "tx already in mempool")
    }

    pub(super) fn invalid_request(what: impl AsRef<str>) -> Self {
        Self::new(18, what, "invalid request")
    }

    pub(super) fn timed_out(what: impl AsRef<str>) -> Self {
        Self::new(30, what, "tx timeout height")
    }

    pub(super) fn wrong_sequence(expected: u64, given: u64) -> Self {
        let what = format!("account sequence mismatch, expected {expected}, got {given}");
        Self::new(32, what, "incorrect account sequence")
    }

    pub(super) fn unknown_extension() -> Self {
        Self::new(31, "", "unknown extension options")
    }

    /// As the message of a transaction that was included says it.
    pub(super) fn in_message(self) -> Self {
        Self { code: self.code, log: format!("failed to execute message; message index: 0: {}", self.log) }
    }
}
