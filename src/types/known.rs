//! Networks that need no description: chain id, USDC and its EIP-712 domain.
//!
//! Names and versions disagree between SDKs for some chains, so a chain's own `DOMAIN_SEPARATOR()` is compared with this
//! table at start.

/// A network that is known by name.
#[derive(Debug, Clone, Copy)]
pub struct KnownNetwork {
    /// CAIP-2 id.
    pub caip2: &'static str,
    /// The name in x402 v1, if it has one.
    pub v1_name: Option<&'static str>,
    /// Further names that operators may write.
    pub aliases: &'static [&'static str],
    /// Whether the v1 JavaScript client's enum holds `v1_name`.
    pub v1_safe: bool,
    /// The default asset's symbol. A network without a default asset has an empty one.
    pub symbol: &'static str,
    /// The default asset: contract, mint or denom.
    pub asset: &'static str,
    /// The default asset's decimals.
    pub decimals: u8,
    /// EIP-712 domain `(name, version)` of the default asset; EVM only.
    pub eip712: Option<(&'static str, &'static str)>,
    /// The prefix of addresses; Cosmos only.
    pub bech32_prefix: Option<&'static str>,
}

impl KnownNetwork {
    /// Whether operators or clients call this network so.
    #[must_use]
    pub fn is_called(&self, text: &str) -> bool {
        self.caip2 == text || self.v1_name == Some(text) || self.aliases.contains(&text)
    }
}

const fn usdc(
    caip2: &'static str,
    name: &'static str,
    v1_safe: bool,
    asset: &'static str,
    domain_name: &'static str,
) -> KnownNetwork {
    KnownNetwork {
        caip2,
        v1_name: Some(name),
        aliases: &[],
        v1_safe,
        symbol: "USDC",
        asset,
        decimals: 6,
        eip712: Some((domain_name, "2")),
        bech32_prefix: None,
    }
}

const fn nameless(
    caip2: &'static str,
    aliases: &'static [&'static str],
    asset: &'static str,
    domain_name: &'static str,
) -> KnownNetwork {
    KnownNetwork { v1_name: None, aliases, ..usdc(caip2, "", false, asset, domain_name) }
}

const fn usdt0(
    caip2: &'static str,
    name: &'static str,
    asset: &'static str,
    domain_name: &'static str,
) -> KnownNetwork {
    KnownNetwork {
        caip2,
        v1_name: Some(name),
        aliases: &[],
        v1_safe: false,
        symbol: "USDT0",
        asset,
        decimals: 6,
        eip712: Some((domain_name, "1")),
        bech32_prefix: None,
    }
}

const fn solana(caip2: &'static str, name: &'static str, v1_safe: bool, mint: &'static str) -> KnownNetwork {
    KnownNetwork { eip712: None, ..usdc(caip2, name, v1_safe, mint, "") }
}

const fn cosmos(
    caip2: &'static str,
    aliases: &'static [&'static str],
    prefix: &'static str,
    denom: &'static str,
) -> KnownNetwork {
    KnownNetwork {
        caip2,
        v1_name: None,
        aliases,
        v1_safe: false,
        symbol: if denom.is_empty() { "" } else { "USDC" },
        asset: denom,
        decimals: 6,
        eip712: None,
        bech32_prefix: Some(prefix),
    }
}

/// Every network with a USD stablecoin that today's x402 clients know, and the Cosmos chains of protocol §2.5.
pub const KNOWN_NETWORKS: &[KnownNetwork] = &[
    usdc("eip155:8453", "base", true, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin"),
    usdc("eip155:84532", "base-sepolia", true, "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC"),
    usdc("eip155:43114", "avalanche", true, "0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E", "USD Coin"),
    usdc("eip155:43113", "avalanche-fuji", true, "0x5425890298aed601595a70AB815c96711a31Bc65", "USD Coin"),
    usdc("eip155:137", "polygon", true, "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", "USD Coin"),
    usdc("eip155:80002", "polygon-amoy", true, "0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582", "USDC"),
    usdc("eip155:1329", "sei", true, "0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392", "USDC"),
    usdc("eip155:1328", "sei-testnet", true, "0x4fCF1784B31630811181f670Aea7A7bEF803eaED", "USDC"),
    usdc("eip155:4689", "iotex", true, "0xcdf79194c6c285077a58da47641d4dbe51f63542", "Bridged USDC"),
    usdc("eip155:3338", "peaq", true, "0xbbA60da06c2c5424f03f7434542280FCAd453d10", "USDC"),
    usdc("eip155:2741", "abstract", true, "0x84a71ccd554cc1b02749b35d22f684cc8ec987e1", "Bridged USDC"),
    usdc("eip155:11124", "abstract-testnet", true, "0xe4C7fBB0a626ed208021ccabA6Be1566905E2dFc", "Bridged USDC"),
    usdc("eip155:1514", "story", true, "0xF1815bd50389c46847f0Bda824eC8da914045D14", "Bridged USDC"),
    usdc("eip155:41923", "educhain", true, "0x12a272A581feE5577A5dFa371afEB4b2F3a8C2F8", "Bridged USDC (Stargate)"),
    usdc(
        "eip155:324705682",
        "skale-base-sepolia",
        true,
        "0x2e08028E3C4c2356572E096d8EF835cD5C6030bD",
        "Bridged USDC (SKALE Bridge)",
    ),
    usdc("eip155:1", "ethereum", false, "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "USD Coin"),
    usdc("eip155:42161", "arbitrum", false, "0xaf88d065e77c8cC2239327C5EDb3A432268e5831", "USD Coin"),
    usdc("eip155:421614", "arbitrum-sepolia", false, "0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d", "USD Coin"),
    usdc("eip155:143", "monad", false, "0x754704Bc059F8C67012fEd69BC8A327a5aafb603", "USDC"),
    usdc("eip155:42220", "celo", false, "0xcebA9300f2b948710d2653dD7B07f33A8B32118C", "USDC"),
    usdc("eip155:11142220", "celo-sepolia", false, "0x01C5C0122039549AD1493B8220cABEdD739BC44E", "USDC"),
    usdc("eip155:50", "xdc", false, "0xfA2958CB79b0491CC627c1557F441eF849Ca8eb1", "USDC"),
    usdc("eip155:51", "xdc-apothem", false, "0xb5AB69F7bBada22B28e79C8FFAECe55eF1c771D4", "USDC"),
    nameless("eip155:10143", &["monad-testnet"], "0x534b2f3A21130d7a60830c2Df862319e593943A3", "USDC"),
    nameless("eip155:5042", &[], "0x3600000000000000000000000000000000000000", "USDC"),
    nameless("eip155:5042002", &[], "0x3600000000000000000000000000000000000000", "USDC"),
    nameless("eip155:36900", &[], "0x9cb8142aEBBcdc60AF7c97Af897A67A8f3CA71C2", "USDC.e"),
    nameless("eip155:190415", &[], "0x401eCb1D350407f13ba348573E5630B83638E30D", "Bridged USDC"),
    nameless("eip155:181228", &[], "0x401eCb1D350407f13ba348573E5630B83638E30D", "Bridged USDC"),
    usdt0("eip155:988", "stable", "0x779Ded0c9e1022225f8E0630b35a9b54bE713736", "USDT0"),
    usdt0("eip155:2201", "stable-testnet", "0x78Cf24370174180738C5B8E352B6D14c83a6c9A9", "USDT0"),
    usdt0("eip155:14", "flare", "0xe7cd86e13AC4309349F30B3435a9d337750fC82D", "USD₮0"),
    solana("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "solana", true, "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"),
    solana(
        "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
        "solana-devnet",
        true,
        "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
    ),
    solana(
        "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z",
        "solana-testnet",
        false,
        "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
    ),
    cosmos("cosmos:noble-1", &["noble", "noble-1"], "noble", "uusdc"),
    cosmos("cosmos:grand-1", &["noble-testnet", "grand-1"], "noble", "uusdc"),
    cosmos(
        "cosmos:osmosis-1",
        &["osmosis", "osmosis-1"],
        "osmo",
        "ibc/498A0751C798A0D9A389AA3691123DADA57DAA4FE165D5C75894505B876BA6E4",
    ),
    cosmos(
        "cosmos:osmo-test-5",
        &["osmosis-testnet", "osmo-test-5"],
        "osmo",
        "ibc/DE6792CF9E521F6AD6E9A4BDF6225C9571A3B74ACC0A529F92BC5122A39D2E58",
    ),
    cosmos(
        "cosmos:cosmoshub-4",
        &["cosmoshub", "cosmoshub-4"],
        "cosmos",
        "ibc/F663521BF1836B00F5F177680F74BFB9A8B5654A694D0D2BC249E03CF2509013",
    ),
    cosmos("cosmos:provider", &["cosmoshub-testnet", "provider"], "cosmos", ""),
    cosmos("cosmos:theta-testnet-001", &["theta-testnet-001"], "cosmos", ""),
    cosmos(
        "cosmos:neutron-1",
        &["neutron", "neutron-1"],
        "neutron",
        "ibc/B559A80D62249C8AA07A380E2A2BEA6E5CA9A6F079C912C3A9E9B494105E4F81",
    ),
    cosmos("cosmos:pion-1", &["neutron-testnet", "pion-1"], "neutron", ""),
];

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// ICS-20: a voucher's denom is the hash of its trace.
    #[test]
    fn ibc_denoms_are_the_hashes_of_their_traces() {
        for (caip2, trace) in [
            ("cosmos:osmosis-1", "transfer/channel-750/uusdc"),
            ("cosmos:osmo-test-5", "transfer/channel-4280/uusdc"),
            ("cosmos:cosmoshub-4", "transfer/channel-536/uusdc"),
            ("cosmos:neutron-1", "transfer/channel-30/uusdc"),
        ] {
            let known = KNOWN_NETWORKS.iter().find(|known| known.caip2 == caip2).unwrap();
            let hash: String = Sha256::digest(trace).iter().map(|byte| format!("{byte:02X}")).collect();
            assert_eq!(known.asset, format!("ibc/{hash}"), "{caip2}");
        }
    }

    #[test]
    fn no_name_belongs_to_two_networks() {
        let mut names: Vec<&str> = KNOWN_NETWORKS
            .iter()
            .flat_map(|known| known.v1_name.into_iter().chain(known.aliases.iter().copied()).chain([known.caip2]))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
