//! Asks an upstream's servers how they are, now and then, for as long as the upstream is in use.

use std::sync::{Arc, Weak};

use pingora::lb::Backend;
use pingora::lb::health_check::{HealthCheck as _, HttpHealthCheck};
use pingora::{Error, ErrorType};

use super::Upstream;
use super::target::Target;
use crate::config::HealthCheck;

/// Runs until the upstream is dropped.
pub(super) async fn look_after(upstream: Weak<Upstream>, check: HealthCheck) {
    let mut ticks = tokio::time::interval(check.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(upstream) = upstream.upgrade() else { return };
        let targets = upstream.targets(upstream.now()).await;
        let asking = targets.iter().map(|target| ask(&upstream, target, &check));
        for (target, is_well) in targets.iter().zip(futures::future::join_all(asking).await) {
            if target.checked(is_well, &check) {
                let (name, address) = (&upstream.config.name, target.address);
                if is_well {
                    tracing::info!(upstream = %name, %address, "A server is well again.");
                } else {
                    tracing::warn!(upstream = %name, %address, "A server is unwell and gets no requests.");
                }
            }
        }
    }
}

async fn ask(upstream: &Upstream, target: &Arc<Target>, check: &HealthCheck) -> bool {
    let asking = async {
        // The host as requests without one would name it.
        let host = upstream.config.servers.first().map_or("", String::as_str);
        let mut question = HttpHealthCheck::new(host, upstream.config.tls);
        question.peer_template = *upstream.peer_to(target, false);
        question.peer_template.options.connection_timeout = Some(check.timeout);
        question.peer_template.options.read_timeout = Some(check.timeout);
        question.req.set_raw_path(check.path.as_bytes())?;
        question.validator = Some(Box::new(|head| {
            if (200..400).contains(&head.status.as_u16()) {
                Ok(())
            } else {
                Error::e_explain(ErrorType::HTTPStatus(head.status.as_u16()), "an unwell answer")
            }
        }));
        question.check(&Backend::new(&target.address.to_string())?).await
    };
    match tokio::time::timeout(check.timeout, asking).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(upstream = %upstream.config.name, address = %target.address, %error, "A health check failed.");
            false
        }
        Err(_elapsed) => false,
    }
}
