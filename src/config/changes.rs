//! What a running gateway can't take up from a changed configuration, such as listeners and the books; and which networks are
//! spoken to in another way.

use super::model::{
    ChainConfig, Config, CosmosConfig, EvmConfig, FacilitatorConfig, NetworkConfig, ServerConfig, SignerSource,
    SolanaConfig, TlsCertificate,
};
use crate::types::Network;

/// The keys that differ and that only a restart changes (contract §4).
#[must_use]
pub fn restart_only(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut keys = server(&old.server, &new.server);
    let (facilitator, its) = (old.facilitator.as_ref(), new.facilitator.as_ref());
    let listen = |facilitator: Option<&FacilitatorConfig>| facilitator.map(|facilitator| facilitator.listen);
    let token = |facilitator: Option<&FacilitatorConfig>| facilitator.and_then(|facilitator| facilitator.token.clone());
    let rest = [
        ("facilitator.listen", listen(facilitator) == listen(its)),
        ("facilitator.token", token(facilitator) == token(its)),
        ("forward_auth", old.forward_auth == new.forward_auth),
        ("admin.listen", old.admin.listen == new.admin.listen),
        ("admin.token", old.admin.token == new.admin.token),
        ("ledger.url", old.ledger.url == new.ledger.url),
        ("ledger.retention", old.ledger.retention == new.ledger.retention),
        ("log.level", old.log.level == new.log.level),
        ("log.format", old.log.format == new.log.format),
        ("log.access", old.log.access == new.log.access),
        ("telemetry", old.telemetry == new.telemetry),
    ];
    keys.extend(rest.into_iter().filter(|(_, is_same)| !is_same).map(|(key, _)| key));
    keys
}

fn server(old: &ServerConfig, new: &ServerConfig) -> Vec<&'static str> {
    // A key that is added must be put in one of the two lists.
    let ServerConfig {
        listen,
        tls,
        trusted_proxies,
        proxy_protocol,
        limits,
        threads,
        quote_key,
        max_deliveries,
        redeliver_for,
        drain_timeout,
        upgrade_socket,
        // These are taken up.
        public_url: _,
        discovery: _,
        offer_ttl: _,
        max_price: _,
        free_for: _,
    } = old;
    let files = |tls: &[TlsCertificate]| tls.iter().map(|one| (one.cert.clone(), one.key.clone())).collect::<Vec<_>>();
    let keys = [
        ("server.listen", *listen == new.listen),
        ("server.tls", files(tls) == files(&new.tls)),
        ("server.trusted_proxies", *trusted_proxies == new.trusted_proxies),
        ("server.proxy_protocol", *proxy_protocol == new.proxy_protocol),
        ("server.limits", *limits == new.limits),
        ("server.threads", *threads == new.threads),
        ("server.quote_key", *quote_key == new.quote_key),
        ("server.max_deliveries", *max_deliveries == new.max_deliveries),
        ("server.redeliver_for", *redeliver_for == new.redeliver_for),
        ("server.upgrade_socket", *upgrade_socket == new.upgrade_socket),
        ("server.drain_timeout", *drain_timeout == new.drain_timeout),
    ];
    keys.into_iter().filter(|(_, is_same)| !is_same).map(|(key, _)| key).collect()
}

/// Networks that are spoken to in another way, or are new; and those that are gone.
#[must_use]
pub fn changed_networks(old: &Config, new: &Config) -> (Vec<Network>, Vec<Network>) {
    let find =
        |config: &'_ Config, network: &Network| config.networks.iter().find(|other| other.network == *network).cloned();
    let is_changed =
        |network: &&NetworkConfig| find(old, &network.network).is_none_or(|before| !is_same(&before, network));
    let changed = new.networks.iter().filter(is_changed).map(|network| network.network.clone()).collect();
    let is_gone = |network: &&NetworkConfig| find(new, &network.network).is_none();
    let gone = old.networks.iter().filter(is_gone).map(|network| network.network.clone()).collect();
    (changed, gone)
}

fn is_same(one: &NetworkConfig, other: &NetworkConfig) -> bool {
    // A key that is added must be compared here, unless only routes go by it.
    let NetworkConfig {
        network,
        name: _,
        chain,
        // Routes hold their own.
        pay_to: _,
        pay_to_exclusive,
        max_window,
        assets,
        wait_for,
        settle_timeout,
        settlements_max,
        queue_timeout,
        location: _,
    } = one;
    *network == other.network
        && is_same_chain(chain, &other.chain)
        && *pay_to_exclusive == other.pay_to_exclusive
        && *max_window == other.max_window
        && *assets == other.assets
        && *wait_for == other.wait_for
        && *settle_timeout == other.settle_timeout
        && *settlements_max == other.settlements_max
        && *queue_timeout == other.queue_timeout
}

fn is_same_chain(one: &ChainConfig, other: &ChainConfig) -> bool {
    match (one, other) {
        (ChainConfig::Evm(one), ChainConfig::Evm(other)) => {
            let EvmConfig { rpc_urls, signers, payers, confirmations, max_fee, fees } = one;
            *rpc_urls == other.rpc_urls
                && are_same_signers(signers, &other.signers)
                && *payers == other.payers
                && *confirmations == other.confirmations
                && *max_fee == other.max_fee
                && *fees == other.fees
        }
        (ChainConfig::Solana(one), ChainConfig::Solana(other)) => {
            let SolanaConfig { rpc_urls, signers, max_fee, fees, genesis_hash } = one;
            *rpc_urls == other.rpc_urls
                && are_same_signers(signers, &other.signers)
                && *max_fee == other.max_fee
                && *fees == other.fees
                && *genesis_hash == other.genesis_hash
        }
        (ChainConfig::Cosmos(one), ChainConfig::Cosmos(other)) => {
            let CosmosConfig { grpc_urls, bech32_prefix, requires_timeout_height } = one;
            *grpc_urls == other.grpc_urls
                && *bech32_prefix == other.bech32_prefix
                && *requires_timeout_height == other.requires_timeout_height
        }
        (ChainConfig::Evm(_) | ChainConfig::Solana(_) | ChainConfig::Cosmos(_), _) => false,
    }
}

fn are_same_signers(one: &[SignerSource], other: &[SignerSource]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same_signer(one, other))
}

fn is_same_signer(one: &SignerSource, other: &SignerSource) -> bool {
    match (one, other) {
        (SignerSource::Key { key, .. }, SignerSource::Key { key: other, .. }) => key == other,
        (SignerSource::Keystore { path, password, .. }, SignerSource::Keystore { path: file, password: word, .. }) => {
            path == file && password == word
        }
        (SignerSource::Key { .. } | SignerSource::Keystore { .. }, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn config(server: &str, network: &str, routes: &str) -> Config {
        let text = format!(
            "{}[server]\n{server}\n[upstreams.a]\nservers = [\"127.0.0.1:1\"]\n\
             [networks.base-sepolia]\nsigner = {{ env = \"KEY\" }}\n\
             pay_to = \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"\n{network}\n[routes]\n{routes}\n",
            // Places differ, and are no difference.
            "\n".repeat(server.len())
        );
        let env = |name: &str| Some(if name == "OTHER" { "22".repeat(32) } else { "11".repeat(32) });
        parse(&text, Path::new("gateway.toml"), &env).into_result().unwrap()
    }

    #[test]
    fn prices_and_times_of_offers_are_taken_up_and_listeners_are_not() {
        let (url, route) = ("rpc_url = \"http://127.0.0.1:1\"", "\"/a\" = \"$0.01\"");
        let old = config("", url, route);
        let new = config("offer_ttl = \"1h\"\nmax_price = \"$5\"", url, "\"/b\" = \"$0.02\"");
        assert_eq!((restart_only(&old, &new), changed_networks(&old, &new)), (vec![], (vec![], vec![])));
        let new = config("listen = \"127.0.0.1:8\"\nlimits = { connections = 5 }\ndrain_timeout = \"1s\"", url, route);
        assert_eq!(restart_only(&old, &new), ["server.listen", "server.limits", "server.drain_timeout"]);
    }

    #[test]
    fn the_facilitator_s_listener_and_its_token_take_a_restart() {
        let (url, route) = ("rpc_url = \"http://127.0.0.1:1\"", "\"/a\" = \"$0.01\"");
        let with = |listen: &str, token: &str| {
            let text = format!("{url}\n[facilitator]\nlisten = \"{listen}\"\ntoken = {{ env = \"{token}\" }}");
            config("", &text, route)
        };
        let (none, old) = (config("", url, route), with("127.0.0.1:5", "KEY"));
        assert_eq!(restart_only(&old, &with("127.0.0.1:5", "KEY")), Vec::<&str>::new());
        assert_eq!(restart_only(&old, &with("127.0.0.1:6", "KEY")), ["facilitator.listen"]);
        assert_eq!(restart_only(&old, &with("127.0.0.1:5", "OTHER")), ["facilitator.token"]);
        assert_eq!(restart_only(&old, &none), ["facilitator.listen", "facilitator.token"]);
        assert_eq!(restart_only(&none, &old), ["facilitator.listen", "facilitator.token"]);
    }

    #[test]
    fn a_network_is_another_one_when_it_is_spoken_to_in_another_way() {
        let route = "\"/a\" = \"$0.01\"";
        let url = "rpc_url = \"http://127.0.0.1:1\"";
        let old = config("", url, route);
        for network in ["rpc_url = \"http://127.0.0.1:2\"", &format!("{url}\nmax_fee = \"0.5\"")] {
            assert_eq!(changed_networks(&old, &config("", network, route)), (vec![Network::evm(84532)], vec![]));
        }
        let mut keyed = config("", url, route);
        let ChainConfig::Evm(evm) = &mut keyed.networks[0].chain else { panic!("not EVM") };
        evm.signers =
            vec![SignerSource::Key { key: crate::config::Secret::new("33".repeat(32)), location: Default::default() }];
        assert_eq!(changed_networks(&old, &keyed).0.len(), 1);
        keyed.networks.clear();
        assert_eq!(changed_networks(&old, &keyed), (vec![], vec![Network::evm(84532)]));
        assert_eq!(changed_networks(&keyed, &old).0.len(), 1);
    }
}
