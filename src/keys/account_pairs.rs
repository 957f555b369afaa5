//! What all pairs of an account share: its name, the revoked versions, and the secrets that are live.
//!
//! A lease can thus tell at any time, without the rotation task, whether its pair may still sign, and whether a text
//! contains any live secret of the account: also that of the previous pair and of one that is not in use yet. Holds no
//! pair, only the searched forms of secrets, which are zeroed when the pair is given up. Never fails.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use super::{leak::SecretForms, revoked_versions::RevokedVersions};

pub(crate) struct AccountPairs {
    pub(super) account: Arc<str>,
    pub(super) revoked: RevokedVersions,
    live: ArcSwap<Vec<Arc<SecretForms>>>,
}

impl AccountPairs {
    pub(crate) fn of(account: &str) -> Arc<Self> {
        Arc::new(Self { account: account.into(), revoked: RevokedVersions::default(), live: ArcSwap::default() })
    }

    /// Replaces the live secrets.
    pub(super) fn set_live(&self, live: Vec<Arc<SecretForms>>) {
        self.live.store(Arc::new(live));
    }

    pub(super) fn live_forms(&self) -> LiveForms {
        LiveForms(self.live.load().to_vec())
    }

    /// Whether one of these texts contains one of the live secrets.
    pub(super) fn leaks_in(&self, texts: &[&[u8]]) -> bool {
        self.live.load().iter().any(|forms| texts.iter().any(|text| forms.found_in(text)))
    }

    /// Whether one of these texts contains one of the live secrets, or `own`.
    pub(super) fn any_leaks_in<'t>(&self, mut texts: impl Iterator<Item = &'t [u8]>, own: &Arc<SecretForms>) -> bool {
        let live = self.live.load();
        let own = (!live.iter().any(|live| Arc::ptr_eq(live, own))).then_some(own);
        texts.any(|text| live.iter().chain(own).any(|forms| forms.found_in(text)))
    }

    /// Maximum length of a form of one of them in a body, in bytes.
    pub(super) fn max_len(&self) -> usize {
        self.live.load().iter().map(|forms| forms.max_len()).max().unwrap_or(0)
    }
}

/// Secrets that were live at one time, to be searched for.
#[derive(Default)]
pub(crate) struct LiveForms(Vec<Arc<SecretForms>>);

/// Secrets that have been searched for. Does not keep them: those of a retired pair are erased.
#[derive(Default)]
pub(crate) struct KnownForms(Vec<Weak<SecretForms>>);

impl LiveForms {
    pub(crate) fn extend(&mut self, others: LiveForms) {
        self.0.extend(others.0);
    }

    /// Those that are not known.
    pub(crate) fn without(&self, known: &KnownForms) -> LiveForms {
        let is_new = |forms: &&Arc<SecretForms>| !known.0.iter().any(|known| known.as_ptr() == Arc::as_ptr(forms));
        LiveForms(self.0.iter().filter(is_new).cloned().collect())
    }

    /// By which they are recognised later.
    pub(crate) fn known(&self) -> KnownForms {
        KnownForms(self.0.iter().map(Arc::downgrade).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `text` contains one of them.
    pub(crate) fn found_in(&self, text: &[u8]) -> bool {
        self.0.iter().any(|forms| forms.found_in(text))
    }
}
