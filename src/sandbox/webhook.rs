//! The account's webhook address. Delivery comes with the flows; this only keeps it.
//!
//! What always holds: one address for the account, the last one set.

use serde_json::json;

use super::{
    envelope::{Failure, Reply},
    input::{Checked, Fields},
};

/// The longest address, in bytes.
const LONGEST: usize = 2_048;

/// Where events would go.
#[derive(Debug, Default)]
pub struct Webhook {
    url: Option<String>,
}

impl Webhook {
    /// Set Webhook. The member's real name is not public: `url`, `webhook_url` and `webhook` are taken.
    ///
    /// # Errors
    ///
    /// If there is no address, or it isn't http.
    pub fn set(&mut self, fields: &Fields<'_>) -> Checked<Reply> {
        let name = ["url", "webhook_url", "webhook"].into_iter().find(|name| fields.get(name).is_some());
        let url = fields.text(name.unwrap_or("url"))?;
        let http = url.starts_with("http://") || url.starts_with("https://");
        if !http || url.len() > LONGEST || url.bytes().any(|byte| byte <= b' ') {
            return Err(Failure::Invalid("url must be an http or https address".to_owned()));
        }
        self.url = Some(url.to_owned());
        Ok(self.get())
    }

    /// Get Webhook.
    pub fn get(&self) -> Reply {
        Reply::of("success", &json!({"url": self.url}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_wins_and_nonsense_changes_nothing() {
        let mut webhook = Webhook::default();
        for url in ["http://a.test/x", "https://b.test/y"] {
            webhook.set(&Fields::of(&json!({"url": url})).unwrap()).unwrap();
        }
        for wrong in [json!({}), json!({"url": 1}), json!({"url": "ftp://c"}), json!({"url": "http://a b"})] {
            assert!(webhook.set(&Fields::of(&wrong).unwrap()).is_err());
        }
        assert_eq!(&webhook.get().data[..], br#"{"url":"https://b.test/y"}"#);
    }
}
