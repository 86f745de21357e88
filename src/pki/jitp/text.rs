//! Texts and lists of a template, compiled: a literal, a reference, or a function of such.
//!
//! The functions are evaluated as AWS's developer guide describes them for fleet provisioning
//! templates, which is after `CloudFormation`'s. Nothing grows without bound: no intermediate text
//! is longer than [`LENGTH_MAX`], and each part of a template is evaluated once.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::pki::jitp::mapping::Entry;
use crate::pki::jitp::mapping::Mapping;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;

/// Longest text in octets that a function may make: more than any field takes.
pub(super) const LENGTH_MAX: usize = 8 * 1024;

/// Where a text comes from.
#[derive(Clone, Debug)]
pub(super) enum Text {
    /// From the template itself.
    Literal(String),
    /// `Ref` to a declared parameter.
    Subject(AttributeType),
    /// `Fn::Join`
    Join(String, Box<List>),
    /// `Fn::Select`
    Select(Box<Text>, Box<List>),
    /// `Fn::FindInMap`
    Lookup(Box<Lookup>),
    /// `Fn::Sub`
    Substitute(Box<Substitution>),
}

/// Where a list of texts comes from.
#[derive(Clone, Debug)]
pub(super) enum List {
    /// Written down.
    Items(Vec<Text>),
    /// `Fn::Split`
    Split(String, Box<Text>),
    /// `Fn::FindInMap` of a list.
    Lookup(Box<Lookup>),
}

/// A look-up in a mapping.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    /// The mapping.
    pub(super) mapping: Arc<Mapping>,
    /// Top-level key.
    pub(super) top: Text,
    /// Second-level key.
    pub(super) second: Text,
}

/// `Fn::Sub`: pieces, and the variables of its own that they name.
#[derive(Clone, Debug)]
pub(super) struct Substitution {
    /// The variables' values, each evaluated once.
    pub(super) variables: Vec<Text>,
    /// What the result is put together from.
    pub(super) pieces: Vec<Piece>,
}

/// A piece of a `Fn::Sub`.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// As it stands.
    Literal(String),
    /// A parameter.
    Subject(AttributeType),
    /// A variable, by its position.
    Variable(usize),
}

/// Why there is no value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unresolved {
    /// The subject lacks an attribute.
    Missing,
    /// A function cannot be evaluated, for this reason.
    Function(String),
}

fn function<T>(detail: String) -> Result<T, Unresolved> {
    Err(Unresolved::Function(detail))
}

impl Text {
    /// The text, if it stands in the template.
    pub(super) fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(text) => Some(text),
            _ => None,
        }
    }

    /// The value for one subject.
    pub(super) fn resolve<'a>(&'a self, subject: &'a Subject) -> Result<Cow<'a, str>, Unresolved> {
        match self {
            Self::Literal(text) => Ok(Cow::Borrowed(text)),
            Self::Subject(kind) => attribute(*kind, subject).map(Cow::Borrowed),
            Self::Join(delimiter, list) => {
                let mut joined = String::new();
                for (position, item) in list.resolve(subject)?.iter().enumerate() {
                    if position > 0 {
                        append(&mut joined, delimiter)?;
                    }
                    append(&mut joined, item)?;
                }
                Ok(Cow::Owned(joined))
            }
            Self::Select(index, list) => {
                let index = index.resolve(subject)?;
                let mut items = list.resolve(subject)?;
                let Ok(position) = index.parse::<usize>() else {
                    return function(format!("Fn::Select: {index:?} is no index"));
                };
                if position >= items.len() {
                    let count = items.len();
                    return function(format!(
                        "Fn::Select: index {position} of a list of {count}, counted from 0"
                    ));
                }
                Ok(items.swap_remove(position))
            }
            Self::Lookup(lookup) => match lookup.entry(subject)? {
                Entry::Text(text) => Ok(Cow::Borrowed(text)),
                Entry::List(_) => function(format!("{} is a list, not a text", lookup.at(subject))),
            },
            Self::Substitute(substitution) => substitution.resolve(subject).map(Cow::Owned),
        }
    }

    /// The subject attributes that decide it.
    pub(super) fn attribute_types(&self) -> BTreeSet<AttributeType> {
        let mut found = BTreeSet::new();
        self.walk(&mut |text| {
            if let Self::Subject(kind) = text {
                found.insert(*kind);
            }
        });
        found
    }

    /// Whether a function in it picks one of several values.
    pub(super) fn picks(&self) -> bool {
        let mut picks = false;
        self.walk(&mut |text| picks |= matches!(text, Self::Select(..) | Self::Lookup(_)));
        picks
    }

    /// Adds the keys of every mapping in it.
    pub(super) fn mapping_keys(&self, keys: &mut BTreeSet<String>) {
        self.walk(&mut |text| {
            if let Self::Lookup(lookup) = text {
                keys.extend(lookup.mapping.keys().map(str::to_owned));
            }
        });
    }

    /// Every text in it, itself included.
    fn walk(&self, see: &mut impl FnMut(&Self)) {
        see(self);
        match self {
            Self::Literal(_) | Self::Subject(_) => {}
            Self::Join(_, list) => list.walk(see),
            Self::Select(index, list) => {
                index.walk(see);
                list.walk(see);
            }
            Self::Lookup(lookup) => lookup.walk(see),
            Self::Substitute(substitution) => {
                for variable in &substitution.variables {
                    variable.walk(see);
                }
                for piece in &substitution.pieces {
                    if let Piece::Subject(kind) = piece {
                        see(&Self::Subject(*kind));
                    }
                }
            }
        }
    }
}

impl List {
    /// The values for one subject.
    pub(super) fn resolve<'a>(
        &'a self,
        subject: &'a Subject,
    ) -> Result<Vec<Cow<'a, str>>, Unresolved> {
        match self {
            Self::Items(items) => items.iter().map(|item| item.resolve(subject)).collect(),
            Self::Split(delimiter, text) => Ok(match text.resolve(subject)? {
                Cow::Borrowed(text) => text.split(delimiter.as_str()).map(Cow::Borrowed).collect(),
                Cow::Owned(text) => text
                    .split(delimiter.as_str())
                    .map(|part| Cow::Owned(part.to_owned()))
                    .collect(),
            }),
            Self::Lookup(lookup) => match lookup.entry(subject)? {
                Entry::List(items) => Ok(items
                    .iter()
                    .map(|item| Cow::Borrowed(item.as_str()))
                    .collect()),
                Entry::Text(_) => function(format!("{} is a text, not a list", lookup.at(subject))),
            },
        }
    }

    /// The subject attributes that decide it.
    pub(super) fn attribute_types(&self) -> BTreeSet<AttributeType> {
        let mut found = BTreeSet::new();
        self.walk(&mut |text| {
            if let Text::Subject(kind) = text {
                found.insert(*kind);
            }
        });
        found
    }

    /// Whether a function in it picks one of several values; how many parts a split gives is such
    /// a choice, too.
    pub(super) fn picks(&self) -> bool {
        let mut picks = !matches!(self, Self::Items(_));
        self.walk(&mut |text| picks |= text.picks());
        picks
    }

    /// Adds the keys of every mapping in it.
    pub(super) fn mapping_keys(&self, keys: &mut BTreeSet<String>) {
        if let Self::Lookup(lookup) = self {
            keys.extend(lookup.mapping.keys().map(str::to_owned));
        }
        self.walk(&mut |text| {
            if let Text::Lookup(lookup) = text {
                keys.extend(lookup.mapping.keys().map(str::to_owned));
            }
        });
    }

    fn walk(&self, see: &mut impl FnMut(&Text)) {
        match self {
            Self::Items(items) => items.iter().for_each(|item| item.walk(see)),
            Self::Split(_, text) => text.walk(see),
            Self::Lookup(lookup) => lookup.walk(see),
        }
    }
}

impl Lookup {
    fn entry<'a>(&'a self, subject: &'a Subject) -> Result<&'a Entry, Unresolved> {
        let (top, second) = (self.top.resolve(subject)?, self.second.resolve(subject)?);
        match self.mapping.get(&top, &second) {
            Some(entry) => Ok(entry),
            None => function(format!(
                "Fn::FindInMap: {} has no {top:?}, {second:?}",
                self.mapping.name
            )),
        }
    }

    fn at(&self, subject: &Subject) -> String {
        let key = |text: &Text| text.resolve(subject).unwrap_or_default().into_owned();
        let (top, second) = (key(&self.top), key(&self.second));
        format!("Fn::FindInMap: {}, {top:?}, {second:?}", self.mapping.name)
    }

    fn walk(&self, see: &mut impl FnMut(&Text)) {
        self.top.walk(see);
        self.second.walk(see);
    }
}

impl Substitution {
    fn resolve(&self, subject: &Subject) -> Result<String, Unresolved> {
        let variables = self.variables.iter().map(|text| text.resolve(subject));
        let variables = variables.collect::<Result<Vec<_>, _>>()?;
        let mut result = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => append(&mut result, text)?,
                Piece::Subject(kind) => append(&mut result, attribute(*kind, subject)?)?,
                Piece::Variable(position) => {
                    let value = variables.get(*position).map_or("", |value| value.as_ref());
                    append(&mut result, value)?;
                }
            }
        }
        Ok(result)
    }
}

fn attribute(kind: AttributeType, subject: &Subject) -> Result<&str, Unresolved> {
    let value = subject.get(kind).filter(|value| !value.is_empty());
    value.ok_or(Unresolved::Missing)
}

fn append(text: &mut String, more: &str) -> Result<(), Unresolved> {
    if text.len() + more.len() > LENGTH_MAX {
        return function(format!("a function makes more than {LENGTH_MAX} octets"));
    }
    text.push_str(more);
    Ok(())
}
