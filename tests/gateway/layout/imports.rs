//! Which source file imports which, found by reading the sources as text.
//!
//! Understands `use` trees (nested, renamed, across lines), paths in code that begin with `crate::`, `super::`, `self::`
//! or the name of a child module, and items that a module re-exports from another file. Does not understand macros and
//! glob imports.

use std::collections::{BTreeMap, BTreeSet};

/// The names of a module and its parents, without the crate: `["config", "check"]`. Empty for `lib.rs`.
pub(super) type Module = Vec<String>;

/// A directed graph; an edge for each import.
pub(super) type Graph = BTreeMap<String, BTreeSet<String>>;

/// One path that a file uses, and the name that a `use` declaration gives it.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) path: Vec<String>,
    name: Option<String>,
}

/// Every path that a file names: those of its `use` declarations first.
pub(super) fn imports(code: &str) -> Vec<Import> {
    let mut found = Vec::new();
    let mut rest = String::with_capacity(code.len());
    let mut text = code;
    while let Some(at) = next_use(text) {
        rest.push_str(&text[..at]);
        let declaration = &text[at + "use ".len()..];
        let end = declaration.find(';').unwrap_or(declaration.len());
        expand(&declaration[..end], &[], &mut found);
        text = &declaration[end..];
    }
    rest.push_str(text);
    paths(&rest, &mut found);
    found
}

/// Where the next `use` declaration begins.
fn next_use(text: &str) -> Option<usize> {
    text.match_indices("use ").map(|(at, _)| at).find(|at| {
        let line = text[..*at].rsplit('\n').next().unwrap_or_default().trim_start();
        line.is_empty() || line.starts_with("pub")
    })
}

/// Expands one `use` tree: `a::{b, c as d}` is `a::b` and `a::c`.
fn expand(tree: &str, prefix: &[String], found: &mut Vec<Import>) {
    let tree = tree.trim();
    if let Some((head, list)) = tree.split_once('{') {
        let prefix: Vec<String> = prefix.iter().cloned().chain(words(head)).collect();
        for part in top_level(list.rsplit_once('}').map_or(list, |(list, _)| list)) {
            expand(part, &prefix, found);
        }
    } else if !tree.is_empty() {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.trim())));
        let mut path: Vec<String> = prefix.iter().cloned().chain(words(path)).collect();
        if path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = alias.map(str::to_owned).or_else(|| path.last().cloned());
        found.push(Import { path, name });
    }
}

fn words(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split("::").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty())
}

/// The parts of a list, split at the commas that are in no braces.
fn top_level(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts
}

/// Every `a::b` in code.
fn paths(code: &str, found: &mut Vec<Import>) {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut start = None;
    for (at, c) in code.char_indices().chain([(code.len(), ' ')]) {
        let inside = is_word(c) || (c == ':' && (code[at..].starts_with("::") || code[..at].ends_with(':')));
        match (start, inside) {
            (None, true) => start = Some(at),
            (Some(begin), false) => {
                let path: Vec<String> = words(&code[begin..at]).collect();
                if path.len() > 1 {
                    found.push(Import { path, name: None });
                }
                start = None;
            }
            _ => {}
        }
    }
}

/// What every file imports, with the modules that exist.
#[derive(Debug)]
pub(super) struct Imports(BTreeMap<Module, Vec<Import>>);

impl Imports {
    pub(super) fn new(files: impl IntoIterator<Item = (Module, String)>) -> Self {
        Self(files.into_iter().map(|(module, code)| (module, imports(&code))).collect())
    }

    /// Which file imports which. A file and the modules below it count as a unit in one direction: a child may use
    /// what the files above it define, because they are its own room.
    pub(super) fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        for (module, imports) in &self.0 {
            let imported = imports.iter().filter_map(|import| self.target(module, &import.path, 8));
            let others = imported.filter(|target| !module.starts_with(target)).map(|target| target.join("/"));
            graph.entry(module.join("/")).or_default().extend(others);
        }
        graph
    }

    /// The file that defines what a path in `module` names; `None` if that is not in this crate.
    fn target(&self, module: &[String], path: &[String], depth: usize) -> Option<Module> {
        let mut path = path;
        let mut at = module.to_vec();
        match path.first()?.as_str() {
            "crate" => {
                at.clear();
                path = &path[1..];
            }
            "self" => path = &path[1..],
            "super" => {
                while path.first().is_some_and(|word| word == "super") {
                    at.pop();
                    path = &path[1..];
                }
            }
            child => {
                at.push(child.to_owned());
                let known = self.0.contains_key(&at);
                at.pop();
                if !known {
                    return None;
                }
            }
        }
        while let Some((first, rest)) = path.split_first() {
            at.push(first.clone());
            if !self.0.contains_key(&at) {
                at.pop();
                break;
            }
            path = rest;
        }
        let re_exported = path.first().and_then(|item| {
            self.0.get(&at)?.iter().find(|import| import.name.as_ref() == Some(item) && import.path.len() > 1)
        });
        match re_exported {
            Some(import) if depth > 0 => self.target(&at, &import.path, depth - 1).or(Some(at)),
            _ => Some(at),
        }
    }
}

/// The groups of nodes that import each other, directly or through others.
pub(super) fn cycles(graph: &Graph) -> Vec<Vec<String>> {
    let reachable: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|node| (node.as_str(), reach(graph, node))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (node, reached) in &reachable {
        if reached.contains(node) {
            let group = reached.iter().filter(|other| reachable.get(**other).is_some_and(|back| back.contains(node)));
            found.insert(group.map(|name| (*name).to_owned()).collect());
        }
    }
    found.into_iter().collect()
}

/// What is imported by a node, or by what it imports.
fn reach<'g>(graph: &'g Graph, node: &str) -> BTreeSet<&'g str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = vec![node];
    while let Some(here) = open.pop() {
        for next in graph.get(here).into_iter().flatten() {
            if reached.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    reached
}

mod reading {
    use super::*;

    fn named(code: &str) -> Vec<String> {
        imports(code).iter().map(|import| import.path.join("::")).collect()
    }

    #[test]
    fn use_trees_and_paths_are_found() {
        let code =
            "pub use crate::{\n a::{self, B, c::D as E},\n f,\n};\nuse super::g::H;\nlet x = crate::j::k() + l;\n";
        let expected = ["crate::a", "crate::a::B", "crate::a::c::D", "crate::f", "super::g::H", "crate::j::k"];
        assert_eq!(named(code), expected);
    }

    fn graph(files: &[(&str, &str)]) -> Graph {
        let module = |path: &str| path.split('/').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        Imports::new(files.iter().map(|(path, code)| (module(path), (*code).to_owned()))).graph()
    }

    #[test]
    fn re_exports_lead_to_the_file_that_defines() {
        let graph = graph(&[
            ("", ""),
            ("a", "mod b;\nmod c;\npub use b::B;\nfn f() { c::run() }"),
            ("a/b", "pub struct B;"),
            ("a/c", "use super::B;\nuse crate::d;"),
            ("d", "use crate::a::B;"),
        ]);
        assert_eq!(graph["a"].iter().collect::<Vec<_>>(), ["a/b", "a/c"]);
        assert_eq!(graph["a/c"].iter().collect::<Vec<_>>(), ["a/b", "d"]);
        assert_eq!(graph["d"].iter().collect::<Vec<_>>(), ["a/b"]);
        assert!(cycles(&graph).is_empty());
    }

    #[test]
    fn a_cycle_is_found_whole() {
        let files = [
            ("", ""),
            ("a", "use crate::b::X;"),
            ("b", "use crate::c::Y;"),
            ("c", "use crate::a;\nuse crate::d;"),
            ("d", ""),
        ];
        assert_eq!(cycles(&graph(&files)), [["a", "b", "c"]]);
    }
}
