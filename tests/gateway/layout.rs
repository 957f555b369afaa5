//! The house keeps its shape: rooms import down only, pure rooms know no runtime.
//!
//! Reads the sources as text. A room is a module of the crate's root, with the folder beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

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

/// The room that a file belongs to.
fn room(file: &Path) -> String {
    let first = file.components().next().expect("a name").as_os_str().to_str().expect("UTF-8");
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms that a text names after `crate::`.
fn named(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            None => rooms.extend(word(after)),
            Some(list) => {
                let mut depth = 0;
                let mut begins = true;
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        c if begins && c.is_alphanumeric() => {
                            rooms.extend(word(&list[at..]));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    rooms
}

fn word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Which room imports which.
fn graph() -> Graph {
    let mut graph = Graph::new();
    for (file, code) in sources() {
        let own = room(&file);
        let imported = named(&code).into_iter().filter(|other| *other != own);
        graph.entry(own.clone()).or_default().extend(imported);
    }
    graph
}

/// A way from a room back to itself.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn down(graph: &Graph, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let here = way.last().expect("somewhere").clone();
        for next in graph.get(&here).into_iter().flatten() {
            if way.contains(next) {
                way.push(next.clone());
                return true;
            }
            if done.contains(next) {
                continue;
            }
            way.push(next.clone());
            if down(graph, way, done) {
                return true;
            }
            way.pop();
        }
        done.insert(here);
        false
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| {
        let mut way = vec![start.clone()];
        (!done.contains(start) && down(graph, &mut way, &mut done)).then_some(way)
    })
}

#[test]
fn rooms_import_down_only() {
    let graph = graph();
    assert!(graph["path"].contains("orders") && graph["upstream"].contains("keys"), "imports are read: {graph:?}");
    assert_eq!(circle(&graph), None);
}

#[test]
fn every_room_stands_in_the_map() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("a file");
    let known: BTreeSet<String> =
        map.lines().filter_map(|line| line.strip_prefix("pub mod ")).filter_map(word).collect();
    let rooms: BTreeSet<String> = graph().into_keys().filter(|room| !matches!(room.as_str(), "lib" | "main")).collect();
    assert_eq!(rooms, known);
    for room in &rooms {
        assert!(map.contains(&format!("[`{room}`]")), "{room}: not explained");
    }
}

#[test]
fn nothing_knows_what_stands_on_top() {
    let graph = graph();
    for (room, imported) in &graph {
        let on_top = |name: &str| imported.contains(name);
        assert!(!on_top("cli") || room == "main", "{room} imports cli");
        assert!(!on_top("app") || matches!(room.as_str(), "cli" | "main"), "{room} imports app");
        assert!(!on_top("admin") || matches!(room.as_str(), "app" | "cli" | "main"), "{room} imports admin");
    }
    for lower in ["headers", "retry_after", "store", "deferred_write"] {
        assert_eq!(graph[lower], BTreeSet::new(), "{lower} stands at the bottom");
    }
    assert_eq!(graph["config"], BTreeSet::from(["headers".to_owned()]), "config knows only which headers are removed");
}

#[test]
fn pure_rooms_know_no_runtime() {
    const PURE: [&str; 10] = [
        "catalog/route",
        "catalog/target",
        "cache/key",
        "cache/rules",
        "headers",
        "outcome",
        "retry_after",
        "upstream/rewrite",
        "record/mask",
        "config",
    ];
    let mut looked_at = BTreeSet::new();
    for (file, code) in sources() {
        let own = file.with_extension("");
        let Some(pure) = PURE.iter().find(|pure| own.starts_with(pure)) else { continue };
        looked_at.insert(*pure);
        for runtime in ["tokio", "hyper", "hyper_util", "moka"] {
            assert!(!code.contains(&format!("{runtime}::")), "{} knows {runtime}", file.display());
        }
    }
    assert_eq!(looked_at.len(), PURE.len(), "{looked_at:?}");
}

#[test]
fn the_path_knows_no_header_no_metric_and_no_time_arithmetic() {
    let words =
        ["HeaderName", "HeaderValue", "HeaderMap", "StatusCode", "Duration", "from_static", "prometheus", "Failure::"];
    let mut read = 0;
    for (file, code) in
        sources().into_iter().filter(|(file, _)| file.starts_with("path") || file == Path::new("path.rs"))
    {
        read += 1;
        for word in words {
            assert!(!code.contains(word), "{} knows {word}", file.display());
        }
    }
    assert!(read >= 8, "{read} files of the path");
}

mod reading {
    use super::*;

    #[test]
    fn lists_and_single_names_are_found() {
        let text = "use crate::{\n a::{B, c::D},\n e::f,\n g,\n};\nuse crate::h::I;\nlet x = crate::j::k();";
        assert_eq!(named(text).into_iter().collect::<String>(), "aeghj");
    }

    #[test]
    fn a_circle_is_found() {
        let graph = |edges: &[(&str, &str)]| {
            let mut graph = Graph::new();
            for (from, to) in edges {
                graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
            circle(&graph)
        };
        assert_eq!(graph(&[("a", "b"), ("b", "c"), ("a", "c"), ("d", "a")]), None);
        assert!(graph(&[("a", "b"), ("b", "c"), ("c", "b")]).is_some());
    }
}
