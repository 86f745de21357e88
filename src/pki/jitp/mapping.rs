//! `Mappings`: two levels of keys, then a text or a list of texts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pki::jitp::json::Node;
use crate::pki::jitp::json::child;
use crate::pki::jitp::lint::Lint;

/// One mapping.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Its name in the template.
    pub(super) name: String,
    entries: BTreeMap<String, BTreeMap<String, Entry>>,
}

/// What a pair of keys leads to.
#[derive(Debug)]
pub(super) enum Entry {
    /// One text.
    Text(String),
    /// Several.
    List(Vec<String>),
}

impl Mapping {
    /// What two keys lead to.
    pub(super) fn get(&self, top: &str, second: &str) -> Option<&Entry> {
        self.entries.get(top)?.get(second)
    }

    /// Whether there is anything below a top-level key.
    pub(super) fn has_top(&self, top: &str) -> bool {
        self.entries.contains_key(top)
    }

    /// Whether any top-level key has this key below it.
    pub(super) fn has_second(&self, second: &str) -> bool {
        let mut below = self.entries.values();
        below.any(|entries| entries.contains_key(second))
    }

    /// All keys of both levels.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let below = self.entries.values().flat_map(BTreeMap::keys);
        self.entries.keys().chain(below).map(String::as_str)
    }
}

/// Reads the section. It may hold neither references nor functions (developer guide, "Mappings").
pub(super) fn read(node: &Node, pointer: &str, lint: &mut Lint) -> Vec<Arc<Mapping>> {
    let mut mappings = Vec::new();
    for (name, node) in plain_object(node, pointer, lint) {
        let pointer = child(pointer, name);
        let mut entries = BTreeMap::new();
        for (top, node) in plain_object(node, &pointer, lint) {
            let pointer = child(&pointer, top);
            let mut below = BTreeMap::new();
            for (second, node) in plain_object(node, &pointer, lint) {
                if let Some(entry) = entry(node, &child(&pointer, second), lint) {
                    below.insert(second.clone(), entry);
                }
            }
            entries.insert(top.clone(), below);
        }
        mappings.push(Arc::new(Mapping {
            name: name.clone(),
            entries,
        }));
    }
    mappings
}

fn plain_object<'a>(node: &'a Node, pointer: &str, lint: &mut Lint) -> &'a [(String, Node)] {
    let Node::Object(members) = node else {
        fault("an object", node, pointer, lint);
        return &[];
    };
    let is_call = |key: &str| key == "Ref" || key.starts_with("Fn::");
    if let Some((key, _)) = members.iter().find(|(key, _)| is_call(key)) {
        lint.fault(
            "template-mapping",
            &child(pointer, key),
            "Mappings may hold neither references nor functions",
        );
        return &[];
    }
    members
}

fn entry(node: &Node, pointer: &str, lint: &mut Lint) -> Option<Entry> {
    match node {
        Node::String(text) => Some(Entry::Text(text.clone())),
        Node::Array(items) => {
            let text = |item: &Node| match item {
                Node::String(text) => Some(text.clone()),
                _ => None,
            };
            let texts: Option<Vec<String>> = items.iter().map(text).collect();
            if texts.is_none() {
                fault("an array of strings", node, pointer, lint);
            }
            texts.map(Entry::List)
        }
        // A reference or a function has its own reason.
        Node::Object(members) => {
            let found = plain_object(node, pointer, lint);
            if members.is_empty() || !found.is_empty() {
                fault("a string", node, pointer, lint);
            }
            None
        }
        _ => {
            fault("a string", node, pointer, lint);
            None
        }
    }
}

fn fault(expected: &str, node: &Node, pointer: &str, lint: &mut Lint) {
    let kind = node.kind();
    lint.fault(
        "template-mapping",
        pointer,
        format!(
            "{expected} is expected here, not {kind}: a mapping is two levels of keys, then texts"
        ),
    );
}
