//! Step 4: what a request has to do with the remembered orders.
//!
//! Always holds: no ticket for a key that was not looked up in the archive since orders have last moved there; a
//! request that waits for the disk holds no lock. Fails with [`OrderRefusal`].

use std::sync::Arc;

use super::{
    Orders,
    archive::EndedOrder,
    index::{FoundAnswer, IndexMatch, OrderIdentity},
    journal::{ANSWERS, AnswerRow, OrderRow, StoredAnswer},
    presence::{CallerPresence, OccupiedOrder, OrderUnderWay, OrderWait},
    refusal::OrderRefusal,
    request::{OrderRequest, identity},
    ticket::Ticket,
};
use crate::{memory::MemoryClaim, store::StoreError};

/// Result of step 4.
#[derive(Debug)]
pub enum Recall {
    /// The order may go on; the request is its caller.
    New(Ticket, CallerPresence),
    /// The order has ended with this answer. With a presence if it has reached nobody so far.
    Repeat(Arc<StoredAnswer>, Option<CallerPresence>),
    /// The order is under way and its caller has left: the request waits for its end, and asks again.
    UnderWay(OrderUnderWay),
    /// An equal order, or the key's, is under way or its answer is being given, and its caller is there: the request waits
    /// for a moment in case that changes, or until it is decided whether its caller has read the answer, and asks again.
    Occupied(OccupiedOrder),
}

impl Orders {
    /// Step 4. Call it only if [`super::applies_to`]. Waits for what is on disk: an answer, and whether the archive has the
    /// key.
    /// `wait`: what the request has waited for, if it asks again.
    ///
    /// # Errors
    /// [`OrderRefusal`]; a refused order costs nothing and leaves no trace.
    pub async fn recall(&self, request: &OrderRequest<'_>, wait: &mut OrderWait) -> Result<Recall, OrderRefusal> {
        let (waited_as, sent_meanwhile) = (wait.caller(), wait.sent_meanwhile());
        let mut identity = OrderIdentity { waited_as, sent_meanwhile, ..identity(request)? };
        let presence = |wait: &mut OrderWait, number, caller| {
            let waited = wait.take_presence(number);
            waited.unwrap_or_else(|| CallerPresence::new(Arc::clone(&self.inner), number, caller))
        };
        loop {
            match self.find(&identity)? {
                IndexMatch::NotLive { moves } => match self.repeat_archived(&identity, request).await? {
                    Some(answer) => return Ok(Recall::Repeat(answer, None)),
                    None => identity.absent_at = Some(moves),
                },
                IndexMatch::Ended { number, answer, caller } => {
                    let caller = caller.map(|caller| presence(wait, number, caller));
                    if let Some(answer) = self.kept_answer(number, answer, request).await? {
                        return Ok(Recall::Repeat(answer, caller));
                    }
                }
                IndexMatch::New { number, caller, settles } => {
                    let ticket = Ticket::new(Arc::clone(&self.inner), number, settles);
                    return Ok(Recall::New(ticket, presence(wait, number, caller)));
                }
                IndexMatch::UnderWay { number, first, caller, ended, was_sent } => {
                    wait.awaits(&first, was_sent);
                    return Ok(Recall::UnderWay(OrderUnderWay::new(presence(wait, number, caller), first, ended)));
                }
                IndexMatch::Occupied { number, first, caller, changed, awaited } => {
                    wait.awaits(&first, awaited);
                    let undecided = self.inner.undecided(&caller, request.connection);
                    let orders = Arc::clone(&self.inner);
                    let occupied = OccupiedOrder { orders, number, first, caller, undecided, changed };
                    return Ok(Recall::Occupied(occupied));
                }
            }
        }
    }

    /// The answer of an ended order; `None`: the order has left for the archive meanwhile.
    async fn kept_answer(
        &self,
        number: u64,
        answer: FoundAnswer,
        request: &OrderRequest<'_>,
    ) -> Result<Option<Arc<StoredAnswer>>, OrderRefusal> {
        match answer {
            FoundAnswer::InMemory(answer) => Ok(Some(answer)),
            FoundAnswer::OnDisk { bytes } => self.journaled_answer(number, request.memory.claim(bytes)?).await,
        }
    }

    /// The same for one that is on disk.
    async fn journaled_answer(
        &self,
        number: u64,
        memory: MemoryClaim,
    ) -> Result<Option<Arc<StoredAnswer>>, OrderRefusal> {
        let row = self.inner.index.lock().row(number).cloned();
        let read = self.inner.store().get(&ANSWERS, &number.to_be_bytes()).await;
        let Some(OrderRow { request_id: first, result, .. }) = row else { return Ok(None) };
        match read {
            Ok(Some(AnswerRow(answer))) => {
                let answer = Arc::unwrap_or_clone(answer);
                let body = memory.hold(answer.body);
                Ok(Some(Arc::new(StoredAnswer { body, ..answer })))
            }
            Ok(None) if self.inner.index.lock().row(number).is_none() => Ok(None),
            Ok(None) => Err(result.map_or(OrderRefusal::Interrupted { first: first.clone() }, |result| {
                OrderRefusal::answer_gone(first, result)
            })),
            Err(error) => {
                tracing::error!(%error, "a stored answer cannot be read");
                Err(OrderRefusal::Unreadable { first })
            }
        }
    }

    /// The answer of the archived order with this key; `None`: there is no such order, so one may be sent.
    async fn repeat_archived(
        &self,
        identity: &OrderIdentity,
        request: &OrderRequest<'_>,
    ) -> Result<Option<Arc<StoredAnswer>>, OrderRefusal> {
        let Some(key) = identity.key else { return Ok(None) };
        let archive = self.inner.archive();
        let failed = |_: StoreError| OrderRefusal::NoArchive;
        let remembered = self.inner.index.lock().limits().remembered;
        let found = archive.find(key).await.map_err(failed)?;
        let found = found.filter(|order| self.inner.now() < order.ended.saturating_add(remembered));
        let Some(order) = found else {
            // What could not be moved to the archive would fill the memory.
            return if archive.is_healthy() { Ok(None) } else { Err(OrderRefusal::NoArchive) };
        };
        let EndedOrder { request_id: first, fingerprint, result, answer_bytes, .. } = order.clone();
        if fingerprint != identity.fingerprint {
            return Err(OrderRefusal::OtherRequest { first });
        }
        let result = result.ok_or_else(|| OrderRefusal::Interrupted { first: first.clone() })?;
        let claim = request.memory.claim(usize::try_from(answer_bytes).unwrap_or(usize::MAX))?;
        let answer = archive.answer(key, &order).await.map_err(failed)?;
        let answer = Arc::unwrap_or_clone(answer.ok_or_else(|| OrderRefusal::answer_gone(first, result))?);
        let body = claim.hold(answer.body);
        Ok(Some(Arc::new(StoredAnswer { body, ..answer })))
    }

    /// What the order has to do with the remembered ones, after a look at whether their callers are still there.
    pub(super) fn find(&self, identity: &OrderIdentity) -> Result<IndexMatch, OrderRefusal> {
        loop {
            let found = self.inner.change(|index, now| {
                let expired = index.expire(now);
                (expired, index.recall(identity.clone(), now))
            })?;
            match &found {
                IndexMatch::Occupied { number, caller, .. }
                    if self.inner.is_decided_at_once(caller, identity.connection.as_ref())
                        && self.inner.check_caller(*number, caller) => {}
                _ => return Ok(found),
            }
        }
    }
}
