//! Intrinsic functions, compiled.
//!
//! AWS documents `Fn::Join`, `Fn::Select`, `Fn::FindInMap`, `Fn::Split` and `Fn::Sub` for fleet
//! provisioning templates (developer guide, "Provisioning templates"), with `CloudFormation`'s
//! arguments. Whether JITP evaluates them is not documented, so each call is a warning.

use std::sync::Arc;

use crate::pki::jitp::json::Node;
use crate::pki::jitp::json::child;
use crate::pki::jitp::lint::Lint;
use crate::pki::jitp::mapping::Mapping;
use crate::pki::jitp::text::List;
use crate::pki::jitp::text::Lookup;
use crate::pki::jitp::text::Piece;
use crate::pki::jitp::text::Substitution;
use crate::pki::jitp::text::Text;

/// A call: `{"Fn::…": arguments}`. `None` for anything that has no member `Fn::…`.
pub(super) fn call(node: &Node) -> Option<(&str, &Node)> {
    let Node::Object(members) = node else {
        return None;
    };
    let (name, arguments) = members.iter().find(|(key, _)| key.starts_with("Fn::"))?;
    Some((name, arguments))
}

/// Compiles a text: a string, a reference, a function that gives a text.
pub(super) fn text(node: &Node, pointer: &str, lint: &mut Lint) -> Option<Text> {
    if let Node::String(literal) = node {
        return Some(Text::Literal(literal.clone()));
    }
    let Some((name, arguments)) = call(node) else {
        return lint.subject(node, pointer).map(Text::Subject);
    };
    let at = begin(node, name, pointer, lint)?;
    match name {
        "Fn::Join" => join(arguments, &at, lint),
        "Fn::Select" => select(arguments, &at, lint),
        "Fn::FindInMap" => Some(Text::Lookup(Box::new(find_in_map(arguments, &at, lint)?))),
        "Fn::Sub" => substitute(arguments, &at, lint),
        "Fn::Split" => {
            lint.fault(
                "template-function",
                &at,
                "Fn::Split gives a list; take one of it with Fn::Select",
            );
            None
        }
        _ => unknown(name, &at, lint),
    }
}

/// Compiles a list: an array of texts, or a function that gives a list.
pub(super) fn list(node: &Node, pointer: &str, lint: &mut Lint) -> Option<List> {
    if let Node::Array(items) = node {
        let mut texts = Vec::new();
        for (position, item) in items.iter().enumerate() {
            texts.push(text(item, &format!("{pointer}/{position}"), lint));
        }
        return texts.into_iter().collect::<Option<_>>().map(List::Items);
    }
    let Some((name, arguments)) = call(node) else {
        lint.wrong_kind(node, "an array", pointer);
        return None;
    };
    let at = begin(node, name, pointer, lint)?;
    match name {
        "Fn::Split" => split(arguments, &at, lint),
        "Fn::FindInMap" => Some(List::Lookup(Box::new(find_in_map(arguments, &at, lint)?))),
        "Fn::Join" | "Fn::Select" | "Fn::Sub" => {
            lint.fault(
                "template-function",
                &at,
                format!("{name} gives a text; a list is expected here"),
            );
            None
        }
        _ => unknown(name, &at, lint),
    }
}

/// Warns of the call, and refuses a call with company. The pointer of the function's name.
fn begin(node: &Node, name: &str, pointer: &str, lint: &mut Lint) -> Option<String> {
    let at = child(pointer, name);
    if let Node::Object(members) = node
        && members.len() != 1
    {
        lint.fault(
            "template-function",
            pointer,
            format!("{name} is the only member of its object"),
        );
        return None;
    }
    lint.undocumented(name, &at);
    Some(at)
}

fn unknown<T>(name: &str, at: &str, lint: &mut Lint) -> Option<T> {
    lint.fault(
        "template-function-unknown",
        at,
        format!(
            "{name} is none of Fn::Join, Fn::Select, Fn::FindInMap, Fn::Split and Fn::Sub, which \
             AWS IoT documents"
        ),
    );
    None
}

/// An array of that many arguments.
fn arguments<'a, const N: usize>(
    node: &'a Node,
    form: &str,
    at: &str,
    lint: &mut Lint,
) -> Option<&'a [Node; N]> {
    let found = match node {
        Node::Array(items) => items.as_slice().try_into().ok(),
        _ => None,
    };
    if found.is_none() {
        lint.fault("template-function", at, format!("the arguments are {form}"));
    }
    found
}

/// A string that no function may make.
fn literal<'a>(node: &'a Node, what: &str, pointer: &str, lint: &mut Lint) -> Option<&'a str> {
    match node {
        Node::String(text) => Some(text),
        other => {
            let kind = other.kind();
            lint.fault(
                "template-function",
                pointer,
                format!("{what} is a string, not {kind}"),
            );
            None
        }
    }
}

fn join(node: &Node, at: &str, lint: &mut Lint) -> Option<Text> {
    let [delimiter, items] = arguments(node, "[delimiter, [values]]", at, lint)?;
    let delimiter = literal(delimiter, "a delimiter", &format!("{at}/0"), lint);
    let items = list(items, &format!("{at}/1"), lint);
    Some(Text::Join(delimiter?.to_owned(), Box::new(items?)))
}

fn split(node: &Node, at: &str, lint: &mut Lint) -> Option<List> {
    let [delimiter, source] = arguments(node, "[delimiter, text]", at, lint)?;
    let pointer = format!("{at}/0");
    let delimiter = literal(delimiter, "a delimiter", &pointer, lint);
    if delimiter.is_some_and(str::is_empty) {
        lint.fault("template-function", &pointer, "the delimiter is empty");
    }
    let source = text(source, &format!("{at}/1"), lint);
    Some(List::Split(delimiter?.to_owned(), Box::new(source?)))
}

fn select(node: &Node, at: &str, lint: &mut Lint) -> Option<Text> {
    let [index, items] = arguments(node, "[index, [values]]", at, lint)?;
    let pointer = format!("{at}/0");
    let index = match index {
        Node::Index(index) => Some(Text::Literal(index.to_string())),
        other => text(other, &pointer, lint),
    };
    if let Some(Text::Literal(index)) = &index
        && index.parse::<usize>().is_err()
    {
        let detail = format!("{index:?} is no index, counted from 0");
        lint.fault("template-function", &pointer, detail);
        return None;
    }
    let items = list(items, &format!("{at}/1"), lint)?;
    if let (Some(Text::Literal(index)), List::Items(items)) = (&index, &items)
        && index
            .parse::<usize>()
            .is_ok_and(|index| index >= items.len())
    {
        let count = items.len();
        lint.fault(
            "template-function",
            &pointer,
            format!("there is no {index} in a list of {count}, counted from 0"),
        );
        return None;
    }
    Some(Text::Select(Box::new(index?), Box::new(items)))
}

fn find_in_map(node: &Node, at: &str, lint: &mut Lint) -> Option<Lookup> {
    let form = "[mapping, top-level key, second-level key]";
    let [name, top, second] = arguments(node, form, at, lint)?;
    let mapping = mapping(name, &format!("{at}/0"), lint);
    let top = key(
        top,
        &format!("{at}/1"),
        mapping.as_deref(),
        Mapping::has_top,
        lint,
    );
    let second = key(
        second,
        &format!("{at}/2"),
        mapping.as_deref(),
        Mapping::has_second,
        lint,
    );
    Some(Lookup {
        mapping: mapping?,
        top: top?,
        second: second?,
    })
}

fn mapping(name: &Node, pointer: &str, lint: &mut Lint) -> Option<Arc<Mapping>> {
    let name = literal(name, "a mapping's name", pointer, lint)?;
    let found = lint.mapping(name);
    if found.is_none() {
        let detail = format!("{name:?} is not among Mappings");
        lint.fault("template-mapping-unknown", pointer, detail);
    }
    found
}

fn key(
    node: &Node,
    pointer: &str,
    mapping: Option<&Mapping>,
    has: fn(&Mapping, &str) -> bool,
    lint: &mut Lint,
) -> Option<Text> {
    let key = text(node, pointer, lint)?;
    if let (Text::Literal(key), Some(mapping)) = (&key, mapping)
        && !has(mapping, key)
    {
        lint.fault(
            "template-mapping-unknown",
            pointer,
            format!(
                "mapping {:?} has no key {key:?} at this level",
                mapping.name
            ),
        );
        return None;
    }
    Some(key)
}

/// `Fn::Sub`: a template text, alone or with variables of its own. `${!name}` stands for `${name}`.
fn substitute(node: &Node, at: &str, lint: &mut Lint) -> Option<Text> {
    let (template, own, pointer) = if let Node::String(template) = node {
        (template.as_str(), &[][..], at.to_owned())
    } else {
        let form = "a text, or [text, {variable: value}]";
        let [template, own] = arguments(node, form, at, lint)?;
        let pointer = format!("{at}/0");
        let template = literal(template, "the text", &pointer, lint)?;
        (template, lint.object(own, &format!("{at}/1")), pointer)
    };
    let mut variables = Vec::new();
    for (name, node) in own {
        let pointer = child(&format!("{at}/1"), name);
        variables.push(text(node, &pointer, lint));
    }
    let names: Vec<&str> = own.iter().map(|(name, _)| name.as_str()).collect();
    let pieces = pieces(template, &names, &pointer, lint);
    Some(Text::Substitute(Box::new(Substitution {
        variables: variables.into_iter().collect::<Option<_>>()?,
        pieces: pieces?,
    })))
}

fn pieces(template: &str, names: &[&str], pointer: &str, lint: &mut Lint) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        pieces.push(Piece::Literal(before.to_owned()));
        let Some((name, after)) = after.split_once('}') else {
            lint.fault("template-function", pointer, "a ${ has no } after it");
            return None;
        };
        let variable = names.iter().position(|known| *known == name);
        pieces.push(match (name.strip_prefix('!'), variable) {
            (Some(literal), _) => Piece::Literal(format!("${{{literal}}}")),
            (None, Some(position)) => Piece::Variable(position),
            (None, None) => Piece::Subject(lint.subject_named(name, pointer, pointer)?),
        });
        rest = after;
    }
    pieces.push(Piece::Literal(rest.to_owned()));
    Some(pieces)
}
