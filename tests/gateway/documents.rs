//! The README's reference tables list exactly what the program does, and SECURITY.md names tests that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use fastrac_gateway::{
    degraded::DegradedReason,
    outcome::{Code, Outcome},
};
use strum::VariantArray as _;

/// A row of the table under `## Refusals`, for one of its codes.
#[derive(Debug)]
struct DocumentRow {
    /// The statuses, or the word for Fastrac's own status.
    statuses: Vec<String>,
    proxy_error: String,
}

/// The texts in backticks of a table cell.
fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The README's table of refusals, by code.
fn refusals() -> BTreeMap<String, DocumentRow> {
    let section = include_str!("../../README.md").split("\n## Refusals\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let mut rows = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [codes, statuses, proxy_error, advice] = cells.as_slice() else { panic!("not four cells: {line}") };
        assert!(!advice.is_empty(), "no advice: {line}");
        for code in quoted(codes) {
            let statuses = statuses.split(", ").map(str::to_owned).collect();
            let row = DocumentRow { statuses, proxy_error: quoted(proxy_error).collect() };
            assert!(rows.insert(code, row).is_none(), "twice in the table: {line}");
        }
    }
    rows
}

#[test]
fn the_readme_lists_exactly_the_refusals_that_can_be_sent() {
    let mut documented = refusals();
    // A draining gateway refuses nothing: only the log has this code, of what it has cut off.
    for code in Code::VARIANTS.iter().filter(|code| **code != Code::GatewayDraining) {
        let row = documented.remove(code.as_str()).unwrap_or_else(|| panic!("{} is not in the table", code.as_str()));
        assert_eq!(row.proxy_error, code.proxy_error(), "{}", code.as_str());
        // With this code Fastrac's own response is passed on, whatever its status.
        if *code == Code::UpstreamLimit {
            assert_eq!(row.statuses, ["Fastrac's"]);
        } else {
            let status = code.status().as_u16().to_string();
            assert!(row.statuses.contains(&status), "{}: {status}, documented {:?}", code.as_str(), row.statuses);
            assert!(
                row.statuses.len() == 1
                    || [Code::RequestIdempotency, Code::CallerUnknown].contains(code)
                    // 429 if the service has used its own share.
                    || code.outcome() == Outcome::OverBudget && row.statuses[..] == ["429", "503"],
                "{}",
                code.as_str()
            );
        }
    }
    assert!(documented.is_empty(), "not sent by the gateway: {:?}", documented.keys());
}

#[test]
fn the_readme_lists_exactly_the_reasons_of_degraded() {
    let readme = include_str!("../../README.md");
    let section = readme.split("**Degraded.**").nth(1).expect("the section").split("\n## ").next().expect("its text");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let listed: Vec<String> = rows.filter_map(|row| row.split('|').nth(1)).flat_map(quoted).collect();
    let known: Vec<&str> = DegradedReason::VARIANTS.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(listed, known);
}

/// Every `module::test`, and every script of `tests/real`, that these pages name.
#[test]
fn the_tests_that_pages_name_exist() {
    let (root, tests) = (Path::new(env!("CARGO_MANIFEST_DIR")), tests());
    for (page, least) in [(include_str!("../../SECURITY.md"), 20), (include_str!("../README.md"), 80)] {
        let named: Vec<String> = quoted(page).filter(|text| text.contains("::")).collect();
        assert!(named.len() > least, "{}", named.len());
        for test in named {
            let mut parts = test.rsplit("::");
            let (name, module) = (parts.next().expect("a name"), parts.find(|part| !["tests", "hides"].contains(part)));
            let module = module.expect("a module");
            let exists = tests.contains(&(module.to_owned(), name.to_owned()))
                || tests.contains(&("tests".to_owned(), name.to_owned()));
            assert!(exists, "there is no test {test}");
        }
        for script in quoted(page).filter(|text| text.starts_with("tests/real/") && !text.contains(' ')) {
            assert!(root.join(&script).exists(), "there is no {script}");
        }
    }
}

/// Each table of the page on faults has the five ways of failing, and there are enough of them.
#[test]
fn every_fault_has_a_row() {
    let sections = include_str!("../README.md").split("\n## ").filter(|section| section.contains("| fault |"));
    let mut cells = 0;
    for section in sections {
        let kinds: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()).skip(2).collect();
        assert_eq!(kinds, ["down", "slow", "flapping", "lying", "half-open"], "{section}");
        cells += kinds.len();
    }
    assert!(cells >= 60, "{cells}");
}

/// Module (or name of its file) and name of every function of the source and of these tests.
fn tests() -> BTreeSet<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests/gateway")];
    let mut tests = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a file");
                let module = path.file_stem().expect("a name").to_str().expect("text").to_owned();
                let names = text.split("fn ").skip(1).filter_map(|rest| Some(rest.split_once('(')?.0.to_owned()));
                tests.extend(names.map(|name| (module.clone(), name)));
            }
        }
    }
    tests
}
