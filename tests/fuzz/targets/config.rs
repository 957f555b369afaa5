//! Checks arbitrary text as a configuration: no panic; checking it twice gives the same diagnostics; there is a checked
//! configuration exactly if there is no error; and its indices, cache rules and routes are consistent.

use std::path::Path;

use fastrac_gateway::{
    catalog::Catalog,
    config::{
        Class, Config,
        check::{Environment, check},
    },
};
use http::Method;

/// `data` is the content of the configuration file.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let folder = Path::new("/etc/fastrac");
    let (once, again) = (check(text, folder, &Environment::default()), check(text, folder, &Environment::default()));
    let shown = |checked: &fastrac_gateway::config::check::Checked| {
        let diagnostics = checked.errors.iter().chain(&checked.warnings);
        diagnostics.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(shown(&once), shown(&again));
    assert_eq!(once.config.is_some(), once.errors.is_empty());
    if let Some(config) = once.config {
        assert_consistent(&config);
    }
}

fn assert_consistent(config: &Config) {
    assert!(!config.accounts.is_empty() || config.services.is_empty());
    assert!(config.services.iter().all(|service| service.account < config.accounts.len()));
    let catalog = Catalog::new(config);
    assert_eq!(catalog.operations.len(), config.operations.len() + 1);
    for row in &config.operations {
        let stored = row.cache.is_some();
        assert!(!(stored && matches!(row.class, Class::Order | Class::Account | Class::Unlisted)), "{}", row.name);
        if row.path.contains('{') {
            continue;
        }
        // The path and method of a row are routed to that row.
        let method = Method::from_bytes(row.method.as_bytes()).expect("a method");
        let found = catalog.classify(&method, &row.path).expect("a clean path");
        assert_eq!(found.name, row.name);
    }
}
