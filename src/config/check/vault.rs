//! Checks `[vault]`, with the environment as default.

use std::path::PathBuf;

use super::{CheckContext, Diagnostics, KeyPath, account::vault_path, spelling::choice};
use crate::config::{
    VaultAuth, VaultConfig,
    file::{self, BaseUrl, KeySourceName, TextValue as _, VaultMethod},
};

/// The vault, if an account's keys come from it. A `[vault]` table that no account uses is checked too.
pub(super) fn check(
    written: &file::ConfigFile,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<VaultConfig> {
    let user = written
        .accounts
        .iter()
        .find(|(_, account)| account.keys.as_ref().is_some_and(|keys| keys.source == Some(KeySourceName::Vault)));
    if written.vault.is_none() && user.is_none() {
        return None;
    }
    let place = KeyPath::at(["vault"]);
    // without a [vault] table, errors are reported at the account that needs it
    let wanted_by = match user {
        Some((name, _)) if written.vault.is_none() => Some(KeyPath::at(["accounts", &name.0.0, "keys", "source"])),
        _ => None,
    };
    let vault = written.vault.clone().unwrap_or_default();
    let address = address(&vault, wanted_by.as_ref(), context, diagnostics);
    let auth = match &vault.auth {
        Some(auth) => login(auth, &place.key("auth"), context, diagnostics),
        None if context.environment.vault_token => Some(VaultAuth::Token { token_file: None }),
        None => {
            let place = wanted_by.unwrap_or_else(|| place.key("auth"));
            diagnostics.error(&place, "needs a login to the vault: set vault.auth, or VAULT_TOKEN");
            None
        }
    };
    let namespace = namespace(&vault, context, diagnostics);
    if user.is_none() {
        diagnostics.warn(&place, "is not used: no account has keys.source = \"vault\"");
        return None;
    }
    Some(VaultConfig {
        address: address?,
        ca: context.optional_path(&vault.ca).or_else(|| context.environment.vault_ca.clone()),
        namespace,
        poll: vault.poll.0.0,
        auth: auth?,
    })
}

/// The namespace, which is sent as a header.
fn namespace(vault: &file::VaultTable, context: CheckContext<'_>, diagnostics: &mut Diagnostics) -> Option<String> {
    let written = vault.namespace.as_ref().map(|name| &name.0.0);
    let name = written.or(context.environment.vault_namespace.as_ref())?;
    if name.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
        let from = if written.is_some() { "" } else { "is taken from VAULT_NAMESPACE, which " };
        let message = format!("{from}must be one line of text without control characters");
        diagnostics.error(&KeyPath::at(["vault", "namespace"]), message);
    }
    Some(name.clone())
}

fn address(
    vault: &file::VaultTable,
    wanted_by: Option<&KeyPath>,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<String> {
    let own = KeyPath::at(["vault", "address"]);
    let place = wanted_by.unwrap_or(&own);
    let url = match (&vault.address, &context.environment.vault_address) {
        (Some(url), _) => url.0.clone(),
        (None, Some(text)) => match BaseUrl::parse(text) {
            Ok(url) => url,
            Err(message) => {
                diagnostics.error(place, format!("takes the vault's address from VAULT_ADDR, which {message}"));
                return None;
            }
        },
        (None, None) => {
            diagnostics.error(place, "needs the vault's address: set vault.address, or VAULT_ADDR");
            return None;
        }
    };
    if !url.tls && !url.is_loopback() {
        diagnostics.error(place, "must be https:// unless the vault is on loopback: keys would travel in the clear");
    }
    Some(url.to_text())
}

/// A login with all the keys that its method needs, and no others.
fn login(
    auth: &file::VaultAuthTable,
    place: &KeyPath,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<VaultAuth> {
    let remedy = format!("set it to {}", choice(VaultMethod::names()));
    let method = *diagnostics.require(&auth.method, &place.key("method"), &remedy)?;
    let (needs, takes): (&[&str], &[&str]) = match method {
        VaultMethod::Token => (&[], &["token_file"]),
        VaultMethod::AppRole => (&["role_id", "secret_id_file"], &["mount"]),
        VaultMethod::Kubernetes | VaultMethod::Jwt => (&["role", "token_file"], &["mount"]),
        VaultMethod::Cert => (&["name", "cert", "key"], &["mount"]),
    };
    let texts = [("mount", &auth.mount), ("role_id", &auth.role_id), ("role", &auth.role), ("name", &auth.name)];
    let paths = [
        ("token_file", &auth.token_file),
        ("secret_id_file", &auth.secret_id_file),
        ("cert", &auth.cert),
        ("key", &auth.key),
    ];
    let given = texts.map(|(key, text)| (key, text.is_some())).into_iter();
    for (key, given) in given.chain(paths.map(|(key, path)| (key, path.is_some()))) {
        if given && !needs.contains(&key) && !takes.contains(&key) {
            diagnostics.error(&place.key(key), format!("is not a key of method {:?}: remove it", method.as_str()));
        } else if !given && needs.contains(&key) {
            diagnostics.missing(&place.key(key), &format!("method {:?} needs it", method.as_str()));
        }
    }
    if method == VaultMethod::Token && auth.token_file.is_none() && !context.environment.vault_token {
        diagnostics.missing(&place.key("token_file"), "name the file with the token, or set VAULT_TOKEN");
    }
    let text = |text: &Option<file::Parsed<file::NonBlank>>| text.as_ref().map(|text| text.0.0.clone());
    let path = |path: &Option<file::Parsed<PathBuf>>| context.optional_path(path);
    let mount = text(&auth.mount).unwrap_or_else(|| method.as_str().to_owned());
    let mount = vault_path(&mount, &place.key("mount"), diagnostics);
    Some(match method {
        VaultMethod::Token => VaultAuth::Token { token_file: path(&auth.token_file) },
        VaultMethod::AppRole => {
            VaultAuth::AppRole { mount, role_id: text(&auth.role_id)?, secret_id_file: path(&auth.secret_id_file)? }
        }
        VaultMethod::Kubernetes => {
            VaultAuth::Kubernetes { mount, role: text(&auth.role)?, token_file: path(&auth.token_file)? }
        }
        VaultMethod::Jwt => VaultAuth::Jwt { mount, role: text(&auth.role)?, token_file: path(&auth.token_file)? },
        VaultMethod::Cert => {
            VaultAuth::Cert { mount, name: text(&auth.name)?, cert: path(&auth.cert)?, key: path(&auth.key)? }
        }
    })
}
