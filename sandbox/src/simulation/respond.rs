//! How faults change the state or the response.

use http::request::Parts;

use super::{ApiResponse, JournaledRequest, Simulation};
use crate::{
    envelope::ApiError,
    faults::{Act, AppliedFault, Fault, RequestSummary},
    route::Routes,
    when::When,
};

impl Simulation {
    /// Arms a fault; returns its number.
    pub(crate) fn arm(&mut self, fault: Fault) -> u64 {
        let now = self.clock.now();
        self.faults.add(fault, now)
    }

    /// The fault that applies to a new connection.
    pub(crate) fn connection_fault(&mut self) -> Option<Act> {
        let now = self.clock.now();
        let fault = self.faults.apply_to_connection(now)?;
        self.journal.count_connection_fault(fault.act.name());
        Some(fault.act)
    }

    /// The fault that applies to a request whose head has been received, but not its body.
    pub(crate) fn upload_fault(&mut self, head: &Parts) -> Option<AppliedFault> {
        if !self.faults.watches_uploads() {
            return None;
        }
        let (path, at) = (head.uri.path(), self.clock.now());
        let operation = self.row(&head.method, path).map(|row| Routes::get().rows()[row].operation);
        let key = self.key(&head.headers, operation, at);
        self.faults.apply_to_upload(&RequestSummary { operation, path, key: key.as_deref(), at })
    }

    /// Revokes a pair at a time; false if no pair has this access key.
    pub(crate) fn revoke_at(&mut self, access: &str, when: When) -> bool {
        let at = when.millis(self.clock.now());
        self.keys.revoke_at(access, at)
    }

    /// Executes a request unless the fault prevents it; returns the response, if there is one.
    pub(crate) fn act(&mut self, received: &JournaledRequest, act: &Act) -> Option<ApiResponse> {
        let executed = act.executes().then(|| self.execute(received));
        match act {
            Act::Revoke { .. } => {
                if let Some(key) = &received.key {
                    self.keys.revoke_labelled(key);
                }
                executed.or_else(|| Some(self.answer(received, Err(ApiError::Unauthorized))))
            }
            Act::Envelope(envelope) => {
                let error = ApiError::Custom(envelope.status, envelope.message.clone());
                Some(self.answer(received, Err(error)))
            }
            Act::Throttle { retry_after } => {
                let error = ApiError::Custom(429, "Too Many Requests".to_owned());
                Some(ApiResponse { retry_after: *retry_after, ..self.answer(received, Err(error)) })
            }
            _ => executed,
        }
    }

    /// The current time as the response states it, Unix milliseconds.
    pub(crate) fn stated_time(&self, received: &JournaledRequest) -> i64 {
        self.clock.now().saturating_add(received.skew())
    }
}

impl JournaledRequest {
    fn skew(&self) -> i64 {
        self.fault.as_ref().map_or(0, |fault| fault.skew)
    }
}
