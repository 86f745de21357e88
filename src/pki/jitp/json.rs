//! JSON that remembers what an ordinary map forgets: the order of members, and a key that stands
//! twice. AWS IoT would take one of the two values and not say which, so a lint must see both.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;

/// A JSON value. The only number with a place in a template is an index; of other numbers, of
/// booleans and null only the kind is kept.
#[derive(Debug)]
pub(super) enum Node {
    /// A string, unescaped.
    String(String),
    /// An array.
    Array(Vec<Self>),
    /// An object: all members in order, equal keys included.
    Object(Vec<(String, Self)>),
    /// A whole number, 0 or more.
    Index(u64),
    /// Anything else, by its kind with its article: `a number`.
    Other(&'static str),
}

impl Node {
    /// Parses one JSON text (RFC 8259) and nothing after it; nesting is bounded by the parser.
    pub(super) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// What this is, with its article, for a person.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
            Self::Index(_) => "a number",
            Self::Other(kind) => kind,
        }
    }

    /// A member of an object, by its key; the first of several.
    pub(super) fn member(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else {
            return None;
        };
        let found = members.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value)
    }

    /// JSON pointers of all keys, below `pointer`, that stand more than once in their object.
    pub(super) fn duplicate_keys(&self, pointer: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.collect_duplicate_keys(pointer, &mut found);
        found
    }

    fn collect_duplicate_keys(&self, pointer: &str, found: &mut Vec<String>) {
        match self {
            Self::Object(members) => {
                for (position, (key, value)) in members.iter().enumerate() {
                    let here = child(pointer, key);
                    let earlier = members.iter().take(position);
                    if earlier.filter(|(other, _)| other == key).count() == 1 {
                        found.push(here.clone());
                    }
                    value.collect_duplicate_keys(&here, found);
                }
            }
            Self::Array(items) => {
                for (position, item) in items.iter().enumerate() {
                    item.collect_duplicate_keys(&format!("{pointer}/{position}"), found);
                }
            }
            Self::String(_) | Self::Index(_) | Self::Other(_) => {}
        }
    }
}

/// The JSON pointer (RFC 6901) of a member of the object at `pointer`.
pub(super) fn child(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::String(value.to_owned()))
    }

    fn visit_bool<E: Error>(self, _value: bool) -> Result<Node, E> {
        Ok(Node::Other("a boolean"))
    }

    fn visit_i64<E: Error>(self, _value: i64) -> Result<Node, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Index(value))
    }

    fn visit_f64<E: Error>(self, _value: f64) -> Result<Node, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Node::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_found_at_any_depth_and_named_once() {
        let node = Node::parse(r#"{"a":[{"x/y":1,"x/y":2,"x/y":3}],"b":{"~":{}},"b":0}"#).unwrap();
        assert_eq!(node.duplicate_keys(""), ["/a/0/x~1y", "/b"]);
        assert!(
            Node::parse(r#"{"a":{"a":{"a":1}}}"#)
                .unwrap()
                .duplicate_keys("")
                .is_empty()
        );
    }

    #[test]
    fn what_is_no_json_is_refused_and_deep_nesting_does_not_overflow_the_stack() {
        for text in ["", "{", "{} {}", "\u{feff}{}", r#"{"a":"\ud800"}"#, "NaN"] {
            assert!(Node::parse(text).is_err(), "{text:?}");
        }
        assert!(Node::parse(&"[".repeat(100_000)).is_err());
    }
}
