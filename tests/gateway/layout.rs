//! The sources keep their architecture: imports have no cycle, pure rooms do no I/O, a type name means one thing.
//!
//! Reads the sources as text. A room is a module of the crate's root, with the folder beside it.

#[path = "layout/imports.rs"]
mod imports;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use imports::{Graph, Imports, Module, cycles};

/// Every source file but tests, as path below `src` and code without comments and without its tests.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let own = path.strip_prefix(&root).expect("below src").to_owned();
            if own.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs"))) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((own, code(&fs::read_to_string(&path).expect("a file"))));
            }
        }
    }
    assert!(found.len() > 50, "{} files", found.len());
    found
}

/// What is compiled into the program. Comments begin with `//` at the start or after a space.
fn code(text: &str) -> String {
    let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    own.lines()
        .map(|line| line.split(" //").next().unwrap_or_default())
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        })
}

/// The module that a file is; none for the binary's root.
fn module(file: &Path) -> Option<Module> {
    let path = file.with_extension("");
    let names: Module = path.iter().map(|name| name.to_str().expect("UTF-8").to_owned()).collect();
    match names.as_slice() {
        [main] if main == "main" => None,
        [lib] if lib == "lib" => Some(Module::new()),
        _ => Some(names),
    }
}

fn files() -> Graph {
    let modules = sources().into_iter().filter_map(|(file, code)| Some((module(&file)?, code)));
    Imports::new(modules).graph()
}

/// The room of a module.
fn room(module: &str) -> &str {
    module.split('/').next().unwrap_or_default()
}

/// Which room imports which.
fn rooms() -> Graph {
    let mut graph = Graph::new();
    for (file, imported) in files() {
        let own = room(&file);
        let others = imported.iter().map(|other| room(other)).filter(|other| *other != own && !other.is_empty());
        graph.entry(own.to_owned()).or_default().extend(others.map(str::to_owned));
    }
    graph.remove("");
    graph
}

#[test]
fn no_files_import_each_other() {
    let graph = files();
    assert!(graph["path/call"].contains("snapshot"), "imports are read: {graph:?}");
    assert_eq!(cycles(&graph), Vec::<Vec<String>>::new(), "files that import each other");
}

#[test]
fn rooms_import_down_only() {
    assert_eq!(cycles(&rooms()), Vec::<Vec<String>>::new());
}

#[test]
fn every_room_is_in_the_map() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("a file");
    let known: BTreeSet<String> = map
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod "))
        .map(|name| name.trim_end_matches(';').to_owned())
        .collect();
    let rooms: BTreeSet<String> = rooms().into_keys().collect();
    assert_eq!(rooms, known);
    for room in &rooms {
        assert!(map.contains(&format!("[`{room}`]")), "{room}: not explained");
    }
}

#[test]
fn nothing_imports_the_top() {
    let graph = rooms();
    for (room, imported) in &graph {
        assert!(!imported.contains("cli"), "{room} imports cli");
        assert!(!imported.contains("app") || room == "cli", "{room} imports app");
        assert!(!imported.contains("admin") || matches!(room.as_str(), "app" | "cli"), "{room} imports admin");
    }
    for lowest in ["headers", "retry_after", "store", "deferred_write"] {
        assert_eq!(graph[lowest], BTreeSet::new(), "{lowest} imports no room");
    }
    assert_eq!(graph["config"], BTreeSet::from(["headers".to_owned()]), "config imports only headers");
}

/// Files and folders that compute and do nothing else.
const PURE: [&str; 19] = [
    "catalog/route",
    "catalog/target",
    "cache/canonical",
    "cache/directives",
    "cache/key",
    "cache/rules",
    "cache/validator",
    "cache/heap",
    "cache/snapshot",
    "headers",
    "outcome",
    "retry_after",
    "upstream/location",
    "upstream/rewrite",
    "keys/lifecycle",
    "record/mask",
    "config",
    "reconcile/history",
    "reconcile/judge",
];

/// What a pure file must not name: I/O, the environment, threads, and the crates that bring them.
const IMPURE: [&str; 15] = [
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os",
    "tokio",
    "hyper",
    "hyper_util",
    "moka",
    "getrandom",
    "tempfile",
];

/// Calls that read a clock or the file system without naming a module.
const IMPURE_CALLS: [&str; 8] = [
    "::now()",
    ".elapsed()",
    ".metadata()",
    ".exists()",
    ".is_file()",
    ".is_dir()",
    ".canonicalize()",
    "path::absolute",
];

#[test]
fn pure_rooms_do_no_io() {
    let mut seen = BTreeSet::new();
    for (file, code) in sources() {
        let own = file.with_extension("");
        let Some(pure) = PURE.iter().find(|pure| own.starts_with(pure)) else { continue };
        seen.insert(*pure);
        for import in imports::imports(&code) {
            let path = import.path.join("::");
            // a point in time is a value; reading a clock is found below
            let is_instant = path == "tokio::time::Instant";
            let named = |name: &&&str| path == **name || path.starts_with(&format!("{name}::"));
            let impure = IMPURE.iter().find(|name| !is_instant && named(name));
            assert_eq!(impure, None, "{} names {path}", file.display());
        }
        for call in IMPURE_CALLS {
            assert!(!code.contains(call), "{} calls {call}", file.display());
        }
    }
    assert_eq!(seen.len(), PURE.len(), "{seen:?}");
}

#[test]
fn the_checked_configuration_can_only_come_from_the_checks() {
    for (file, code) in sources() {
        let below_file = file.starts_with("config/file") || file == Path::new("config/file.rs");
        if file.starts_with("config.rs") {
            assert!(!code.contains("serde") && !code.contains("Deserialize"), "config.rs knows serde");
        } else if file.starts_with("config") && !below_file {
            assert!(!code.contains("derive(Deserialize"), "{} derives Deserialize", file.display());
        }
    }
}

/// Names of associated types that traits of the standard library and other crates prescribe.
const PRESCRIBED: [&str; 10] =
    ["Data", "Err", "Error", "Future", "Item", "Key", "Output", "Parameters", "Response", "Value"];

#[test]
fn a_type_name_means_one_thing() {
    let mut declared: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, code) in sources() {
        for line in code.lines() {
            let Some((kind, name)) = declaration(line) else { continue };
            let associated = kind == "type" && line.starts_with(' ') && PRESCRIBED.contains(&name);
            if !associated {
                declared.entry(name.to_owned()).or_default().push(file.display().to_string());
            }
        }
    }
    declared.retain(|_, files| files.len() > 1);
    assert_eq!(declared, BTreeMap::new(), "type names with several meanings");
}

/// The kind and name of the type that a line declares.
fn declaration(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
    let kind = words.next().filter(|word| matches!(*word, "struct" | "enum" | "trait" | "type" | "union"))?;
    let name = words.next()?;
    Some((kind, name.split(|c: char| !c.is_alphanumeric() && c != '_').next()?))
}

#[test]
fn the_path_knows_no_header_and_no_metric() {
    let (_, path) = sources().into_iter().find(|(file, _)| file == Path::new("path.rs")).expect("the path");
    for word in ["HeaderName", "HeaderValue", "StatusCode", "Duration", "prometheus", "match failure"] {
        assert!(!path.contains(word), "path.rs knows {word}");
    }
}
