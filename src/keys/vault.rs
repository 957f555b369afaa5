//! HashiCorp Vault or OpenBao: a login session that is kept alive, and secrets that are read with it.
//!
//! [`Vault`] is one server or cluster and one login, shared by all accounts whose pairs are in it;
//! [`KvSecret`] is the place of one account's pair. Certificates are verified; every request has a
//! deadline; a denied one leads to one new login, and the next only after a wait that grows. No request
//! of a service waits for anything here. The room does not know what a pair is used for. It fails with
//! [`VaultError`], which contains no value and no text of the vault's.

mod client;
pub(super) mod fault;
mod kv;
mod login;
mod number;
mod revoke;
mod said;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod tls;

pub(super) use self::kv::KvSecret;
pub(crate) use self::login::{credential as read_credential, env_token as read_vault_token};
pub use self::{fault::VaultError, session::Vault};
