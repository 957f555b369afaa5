//! A configuration's text: checked without a panic, always with the same result, and what passes is a
//! configuration that the program can run on.

use std::path::Path;

use fastrac_gateway::{
    catalog::Catalog,
    config::{
        Class, Config,
        check::{Environment, check},
    },
};
use http::Method;

/// The data is the file.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let folder = Path::new("/etc/fastrac");
    let (once, again) = (check(text, folder, &Environment::default()), check(text, folder, &Environment::default()));
    let shown = |checked: &fastrac_gateway::config::check::Checked| {
        let findings = checked.errors.iter().chain(&checked.warnings);
        findings.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(shown(&once), shown(&again));
    assert_eq!(once.config.is_some(), once.errors.is_empty());
    if let Some(config) = once.config {
        runs(&config);
    }
}

fn runs(config: &Config) {
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
        // A row answers to its own path and method: nothing else does.
        let method = Method::from_bytes(row.method.as_bytes()).expect("a method");
        let found = catalog.classify(&method, &row.path).expect("a clean path");
        assert_eq!(found.name, row.name);
    }
}
