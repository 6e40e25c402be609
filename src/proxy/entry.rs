//! The limits and passes of `limits` applied to a request, before any payment is looked at.

use pingora::proxy::Session;

use super::admission::Stop;
use super::context::Context;
use super::limits::{AtWork, Left, Pass, TooMany};
use super::respond::Answer;
use super::snapshot::Site;
use super::{Proxy, upstream};
use crate::payment::Place;

impl Proxy {
    /// Who needs no payment has a pass; of others it is known whether their address has a free request left.
    ///
    /// # Errors
    /// 429, when it is one request too many. A payment that came with it was not touched.
    pub(super) fn pass(
        &self,
        session: &Session,
        context: &mut Context,
        site: &Site,
        has_payment: bool,
    ) -> Result<Option<Result<Pass, Left>>, Stop> {
        let fields = &session.req_header().headers;
        context.hidden = site.doors.keys_in(fields);
        let may_pass = site.priced.is_some() && !has_payment;
        let caller = if may_pass {
            site.doors.pass(!context.hidden.is_empty(), || self.trusted.known_client(session))
        } else {
            None
        };
        let counts_as_paid = has_payment || caller.is_some();
        let taken = self.limits.take(&site.limits, counts_as_paid, || self.trusted.client(session));
        taken.map_err(|too_many| self.too_many(&too_many, has_payment))?;
        if !may_pass || caller.is_some() {
            return Ok(caller.map(Ok));
        }
        let client = self.trusted.client(session).filter(|_| site.limits.has_quota());
        Ok(client.and_then(|client| site.limits.free_request(client, self.clock.now())))
    }

    /// Counts a request for what the gateway itself tells, which is no route's.
    ///
    /// # Errors
    /// 429.
    pub(super) fn look_up(&self, session: &Session) -> Result<(), Stop> {
        let taken = self.limits.take_unrouted(|| self.trusted.client(session));
        taken.map_err(|too_many| self.too_many(&too_many, false))
    }

    /// Takes a place at the origin for a request that isn't paid for.
    ///
    /// # Errors
    /// 503, when none came free in time. A free request of the address's quota is given back.
    pub(super) async fn enter(&self, session: &Session, context: &mut Context, site: &Site) -> Result<(), Stop> {
        let Some(upstream) = context.upstream.clone() else { return Err(Answer::internal().into()) };
        match upstream.enter().await {
            Ok(place) => context.place = place,
            Err(upstream::Full) => {
                let taken = context.pass.take().and_then(|pass| pass.left());
                if let (Some(taken), Some(client)) = (taken, self.trusted.client(session)) {
                    site.limits.give_back(client, taken);
                }
                return Err(self.busy("origin_busy", false));
            }
        }
        Ok(())
    }

    /// The right to have a payment worked on: one of so many of its address.
    ///
    /// # Errors
    /// 429.
    pub(super) fn begin_payment(&self, session: &Session) -> Result<Option<AtWork>, Stop> {
        // Where all that is known is a proxy in front, it would be everybody's.
        let Some(client) = self.trusted.known_client(session) else { return Ok(None) };
        self.limits.begin_payment(client).map(Some).map_err(|too_many| self.too_many(&too_many, true))
    }

    /// A place among the payments whose signatures are checked.
    ///
    /// # Errors
    /// 503, when none came free in time.
    pub(super) async fn begin_verification(&self) -> Result<Place, Stop> {
        let place = self.limits.verifications.enter().await;
        place.ok_or_else(|| self.busy("verifications_busy", true))
    }

    fn too_many(&self, too_many: &TooMany, has_payment: bool) -> Stop {
        self.metrics.limited(too_many.limit);
        Answer::too_many(too_many, has_payment).into()
    }

    fn busy(&self, reason: &'static str, has_payment: bool) -> Stop {
        self.metrics.limited(reason);
        Answer::busy(reason, has_payment).into()
    }
}
