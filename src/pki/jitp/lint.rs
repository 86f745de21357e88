//! A template body, read as AWS IoT reads it: every rule that can be checked without a device and
//! without an account, all violations at once.

use std::collections::BTreeSet;

use crate::pki::Violation;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::Parameter;
use crate::pki::jitp::Value;
use crate::pki::jitp::constraint::Constraint;
use crate::pki::jitp::json::Node;
use crate::pki::jitp::json::child;
use crate::pki::jitp::resource;

/// `TemplateBody`, in characters.
const BODY_LENGTH_MAX: usize = 10_240;

/// Compiles a body, or says everything that is wrong with it.
pub(super) fn compile(body: &str) -> Result<JitpTemplate, Vec<Violation>> {
    let mut lint = Lint::default();
    lint.length(body);
    let root = match Node::parse(body) {
        Ok(root) => root,
        Err(fault) => {
            lint.fault(
                "template-json",
                "",
                format!("the template is no JSON: {fault}"),
            );
            return Err(lint.violations);
        }
    };
    lint.duplicate_keys(&root, "");
    // The references in Resources are read against Parameters, whichever stands first.
    let members = lint.object(&root, "");
    for (key, node) in members.iter().filter(|(key, _)| key == "Parameters") {
        lint.parameters(node, &child("", key));
    }
    let mut resources = resource::Resources::default();
    for (key, node) in members {
        let pointer = child("", key);
        match key.as_str() {
            "Parameters" => {}
            "Resources" => resources.read(node, &pointer, &mut lint),
            "Mappings" | "DeviceConfiguration" => lint.undocumented(key, &pointer),
            _ => lint.fault(
                "template-member",
                &pointer,
                "a JITP template has the members Parameters and Resources only",
            ),
        }
    }
    for required in ["Parameters", "Resources"] {
        if !members.iter().any(|(key, _)| key == required) {
            lint.fault("template-member", "", format!("{required} is missing"));
        }
    }
    let parameters = Parameter::attribute_types(&lint.declared);
    let template = resources.finish(parameters, &mut lint);
    template
        .filter(|_| lint.violations.is_empty())
        .ok_or(lint.violations)
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Lint {
    violations: Vec<Violation>,
    declared: BTreeSet<Parameter>,
}

impl Lint {
    /// Adds a violation at a JSON pointer.
    pub(super) fn fault(&mut self, rule: &'static str, pointer: &str, detail: impl Into<String>) {
        self.violations.push(Violation {
            rule,
            attribute: Some(pointer.to_owned()),
            detail: detail.into(),
        });
    }

    fn length(&mut self, body: &str) {
        let length = body.chars().count();
        if length > BODY_LENGTH_MAX {
            self.fault(
                "template-length",
                "",
                format!("the template has {length} characters; AWS IoT takes {BODY_LENGTH_MAX}"),
            );
        }
    }

    /// Refuses every key that stands twice in one object, at or below `pointer`.
    pub(super) fn duplicate_keys(&mut self, node: &Node, pointer: &str) {
        for duplicate in node.duplicate_keys(pointer) {
            self.fault(
                "template-duplicate-key",
                &duplicate,
                "this key stands more than once in its object",
            );
        }
    }

    /// The members of an object; none, and a violation, for anything else.
    pub(super) fn object<'a>(&mut self, node: &'a Node, pointer: &str) -> &'a [(String, Node)] {
        match node {
            Node::Object(members) => members,
            other => {
                self.wrong_kind(other, "an object", pointer);
                &[]
            }
        }
    }

    /// The text of a string; nothing, and a violation, for anything else.
    pub(super) fn string<'a>(&mut self, node: &'a Node, pointer: &str) -> Option<&'a str> {
        match node {
            Node::String(text) => Some(text),
            other => {
                self.wrong_kind(other, "a string", pointer);
                None
            }
        }
    }

    /// Refuses a value of the wrong kind, unless it is an intrinsic function, which is refused
    /// with its own reason.
    pub(super) fn wrong_kind(&mut self, node: &Node, expected: &str, pointer: &str) {
        if !self.intrinsic_function(node, pointer) {
            let kind = node.kind();
            self.fault(
                "template-value",
                pointer,
                format!("{expected} is expected here, not {kind}"),
            );
        }
    }

    /// Whether this is a call of an intrinsic function other than `Ref`; if so, refuses it.
    pub(super) fn intrinsic_function(&mut self, node: &Node, pointer: &str) -> bool {
        let Node::Object(members) = node else {
            return false;
        };
        let function = members.iter().find(|(key, _)| key.starts_with("Fn::"));
        if let Some((name, _)) = function {
            self.undocumented(name, &child(pointer, name));
        }
        function.is_some()
    }

    fn undocumented(&mut self, what: &str, pointer: &str) {
        self.fault(
            "template-undocumented",
            pointer,
            format!(
                "{what} is documented for fleet provisioning only; whether JITP evaluates it is \
                 not known, so the factory does not certify devices that depend on it"
            ),
        );
    }

    fn parameters(&mut self, node: &Node, pointer: &str) {
        for (name, declaration) in self.object(node, pointer) {
            let pointer = child(pointer, name);
            match Parameter::from_name(name) {
                Some(parameter) => {
                    self.declared.insert(parameter);
                }
                None => self.fault(
                    "template-parameter-name",
                    &pointer,
                    format!(
                        "{name:?} is not offered by JITP, which knows {}",
                        known_names()
                    ),
                ),
            }
            self.declaration(declaration, &pointer);
        }
    }

    fn declaration(&mut self, node: &Node, pointer: &str) {
        let members = self.object(node, pointer);
        for (key, value) in members {
            let pointer = child(pointer, key);
            match (key.as_str(), value) {
                ("Type", Node::String(text)) if text == "String" => {}
                ("Type", _) => self.fault(
                    "template-parameter-type",
                    &pointer,
                    "the only type of a parameter is \"String\"",
                ),
                ("Default", value) => {
                    self.string(value, &pointer);
                }
                _ => self.fault(
                    "template-parameter-member",
                    &pointer,
                    "a parameter has the members Type and Default only",
                ),
            }
        }
        if matches!(node, Node::Object(_)) && !members.iter().any(|(key, _)| key == "Type") {
            self.fault("template-parameter-type", pointer, "Type is missing");
        }
    }

    /// Checks a text that stands in the template itself.
    pub(super) fn literal(&mut self, text: &str, constraint: &Constraint, pointer: &str) {
        constraint.check(text, pointer, &mut self.violations);
    }

    /// A property that is a literal string or a `Ref` to a subject attribute.
    pub(super) fn value(
        &mut self,
        node: &Node,
        constraint: &Constraint,
        pointer: &str,
    ) -> Option<Value> {
        if let Node::String(literal) = node {
            self.literal(literal, constraint, pointer);
            return Some(Value::Literal(literal.clone()));
        }
        match self.reference(node, pointer)? {
            Parameter::Subject(attribute_type) => Some(Value::Subject(attribute_type)),
            Parameter::CertificateId => {
                self.fault(
                    "template-certificate-id",
                    pointer,
                    "the certificate's id is known only after signing, and the factory settles \
                     what a device becomes before; use Ref AWS::IoT::Certificate::Id for \
                     CertificateId only",
                );
                None
            }
        }
    }

    /// The declared parameter that `{"Ref": name}` refers to.
    pub(super) fn reference(&mut self, node: &Node, pointer: &str) -> Option<Parameter> {
        let name = match node {
            Node::Object(members) => match members.as_slice() {
                [(key, Node::String(name))] if key == "Ref" => Some(name),
                _ => None,
            },
            _ => None,
        };
        let Some(name) = name else {
            self.wrong_kind(node, "a string or {\"Ref\": parameter}", pointer);
            return None;
        };
        let parameter = Parameter::from_name(name).filter(|found| self.declared.contains(found));
        if parameter.is_none() {
            self.fault(
                "template-ref-undeclared",
                &child(pointer, "Ref"),
                format!("{name:?} is not declared in Parameters"),
            );
        }
        parameter
    }
}

fn known_names() -> String {
    let names: Vec<&str> = Parameter::ALL.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}
