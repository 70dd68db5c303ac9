// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No two modules at the top of a crate need each other, over whatever others: what lies below can be read alone.
//! Tests may look wherever they like.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Crates that are layered, by their directory of sources.
const CRATES: [&str; 5] =
    ["proto/src", "device/src", "harness/agent/src", "harness/core/src", "harness/cli/src"];
/// Folders inside of crates that are.
const FOLDERS: [&str; 1] = ["device/src/audit"];

type Graph = BTreeMap<String, BTreeSet<String>>;

/// A file and its module's path from the root of the crate.
struct Source {
    path: Vec<String>,
    text: String,
}

fn sources(dir: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(&next).expect("a directory of sources") {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            match (path.is_dir(), path.extension().is_some_and(|extension| extension == "rs")) {
                _ if name == "tests" => {}
                (true, _) => dirs.push(path),
                (false, true) => found.push(Source {
                    path: module(dir, &path),
                    text: std::fs::read_to_string(&path).expect("text"),
                }),
                (false, false) => {}
            }
        }
    }
    found
}

fn module(root: &Path, file: &Path) -> Vec<String> {
    let below = file.strip_prefix(root).expect("a file below the root").with_extension("");
    let mut path: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        path.pop();
    }
    path
}

/// Without comments, and without what follows the tests of the file.
fn code(text: &str) -> String {
    let before = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    before
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |code, line| code + line + "\n")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// First words behind as many `super::` as lead from a module of this depth to the root, and behind `root`, if it has a
/// name; also of each item in braces.
fn named(code: &str, depth: usize, root: Option<&str>) -> BTreeSet<String> {
    let heads = [Some("super::".repeat(depth)), root.map(str::to_owned)];
    let mut names = BTreeSet::new();
    for head in heads.into_iter().flatten() {
        for (at, _) in code.match_indices(&head) {
            if code[..at].ends_with(|c: char| is_word(c) || c == ':') {
                continue;
            }
            let rest = &code[at + head.len()..];
            match rest.strip_prefix('{') {
                Some(list) => names.extend(first_words(list)),
                None => names.extend(first_words(rest).into_iter().next()),
            }
        }
    }
    names
}

/// The first word of each item, up to the brace that ends the list.
fn first_words(list: &str) -> Vec<String> {
    let (mut words, mut word, mut open, mut taken) = (Vec::new(), String::new(), 0, false);
    for c in list.chars() {
        if !is_word(c) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
            taken = true;
        }
        match c {
            '{' => open += 1,
            '}' if open == 0 => break,
            '}' => open -= 1,
            ',' if open == 0 => taken = false,
            ';' => break,
            c if is_word(c) && open == 0 && !taken => word.push(c),
            _ => {}
        }
    }
    words
}

/// Which module at the top names which.
fn graph(sources: &[Source], root: Option<&str>) -> Graph {
    let tops: BTreeSet<&String> = sources.iter().filter_map(|source| source.path.first()).collect();
    let mut graph = Graph::new();
    for source in sources {
        let Some(top) = source.path.first() else { continue };
        let names = named(&code(&source.text), source.path.len(), root);
        let others = names.into_iter().filter(|name| name != top && tops.contains(name));
        graph.entry(top.clone()).or_default().extend(others);
    }
    graph
}

fn reached(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&String> = graph.get(from).into_iter().flatten().collect();
    while let Some(name) = next.pop() {
        if seen.insert(name.clone()) {
            next.extend(graph.get(name).into_iter().flatten());
        }
    }
    seen
}

/// Modules that lead back to themselves, each with those that it names on the way.
fn circles(graph: &Graph) -> Vec<String> {
    let reach: BTreeMap<&String, BTreeSet<String>> =
        graph.keys().map(|name| (name, reached(graph, name))).collect();
    let back = |name: &String, other: &String| reach.get(other).is_some_and(|seen| seen.contains(name));
    graph
        .iter()
        .filter(|(name, _)| reach[name].contains(*name))
        .map(|(name, names)| {
            let on_the_way: Vec<&str> =
                names.iter().filter(|other| back(name, other)).map(String::as_str).collect();
            format!("{name} needs {}", on_the_way.join(", "))
        })
        .collect()
}

#[test]
fn no_modules_at_the_top_of_a_crate_need_each_other() {
    let repository = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let crates = CRATES.map(|name| (name, Some("crate::")));
    for (name, root) in crates.into_iter().chain(FOLDERS.map(|name| (name, None))) {
        let graph = graph(&sources(&repository.join(name)), root);
        assert!(graph.values().any(|names| !names.is_empty()), "{name}: nothing was read");
        assert_eq!(circles(&graph), [""; 0], "{name}");
    }
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let source = |path: &[&str], text: &str| Source {
        path: path.iter().map(|part| (*part).to_owned()).collect(),
        text: text.to_owned(),
    };
    let found = |sources: &[Source]| circles(&graph(sources, Some("crate::")));
    let a = source(&["a"], "use crate::{x::Y, b::{c, d}};\n");
    let c = source(&["b", "c"], "use super::d;\n// use crate::a;\n");
    assert_eq!(found(&[a, c, source(&["x"], "")]), [""; 0]);
    for text in
        ["use crate::a::Z;", "fn f() { crate::a::g() }", "use super::super::a;", "use crate::{x, a as q};"]
    {
        let a = source(&["a"], "use super::b::c;\n");
        let [c, x] = [source(&["b", "c"], text), source(&["x"], "")];
        assert_eq!(found(&[a, c, x]), ["a needs b", "b needs a"], "{text}");
    }
    let tests = source(&["b"], "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::a::Z;\n}\n");
    assert_eq!(found(&[source(&["a"], "use crate::b;\n"), tests]), [""; 0]);
}
