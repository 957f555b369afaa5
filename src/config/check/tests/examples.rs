//! The contract's own example, and every file in `config/`, are good and fit the schema.

use super::{super::super::file, checked, schema::fits};

const FILES: [&str; 4] = [
    include_str!("../../../../config/gateway.toml"),
    include_str!("../../../../config/minimal.toml"),
    include_str!("../../../../config/vault.toml"),
    include_str!("../../../../config/operations.toml"),
];

/// Contract section 3 with every commented key set, in the order of the contract.
const CONTRACT: &str = include_str!("contract.toml");

#[test]
fn are_good() {
    for text in FILES.into_iter().chain([CONTRACT]) {
        assert_eq!(checked(text).errors, [], "{text}");
    }
}

#[test]
fn fit_the_schema() {
    let schema = file::schema().to_value();
    for text in FILES.into_iter().chain([CONTRACT]) {
        let table: toml::Table = text.parse().expect("TOML");
        let value = serde_json::to_value(table).expect("JSON");
        assert_eq!(fits(&value, &schema, &schema), Ok(()), "{text}");
    }
}
