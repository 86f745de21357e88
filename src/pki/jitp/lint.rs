//! A template body, read as AWS IoT reads it: every rule that can be checked without a device and
//! without an account, all findings at once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::pki::jitp::Finding;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::Property;
use crate::pki::jitp::Report;
use crate::pki::jitp::UNDOCUMENTED;
use crate::pki::jitp::constraint::Field;
use crate::pki::jitp::function;
use crate::pki::jitp::json::Node;
use crate::pki::jitp::json::child;
use crate::pki::jitp::mapping;
use crate::pki::jitp::mapping::Mapping;
use crate::pki::jitp::parameter::Parameter;
use crate::pki::jitp::resource;
use crate::pki::jitp::text::List;
use crate::pki::jitp::text::Text;
use crate::pki::jitp::text::Unresolved;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;

/// `TemplateBody`, in characters.
const BODY_LENGTH_MAX: usize = 10_240;

/// Errors, and warnings, that are told of one template: a finding repeats the place it is at, and a
/// template may be all faults.
const FINDINGS_MAX: usize = 100;

/// Compiles a body and says everything there is to say about it. There is a template exactly when
/// there is no error.
pub(super) fn compile(body: &str) -> (Option<JitpTemplate>, Report) {
    let mut lint = Lint::default();
    lint.length(body);
    if !lint.report.errors.is_empty() {
        return (None, lint.report);
    }
    let template = match Node::parse(body) {
        Ok(root) => lint.root(&root),
        Err(fault) => {
            let detail = format!("the template is no JSON: {fault}");
            lint.fault("template-json", "", detail);
            None
        }
    };
    let report = lint.report;
    let template = template.filter(|_| report.errors.is_empty());
    let template = template.map(|template| JitpTemplate {
        warnings: report.warnings.clone(),
        ..template
    });
    (template, report)
}

fn add(findings: &mut Vec<Finding>, rule: &'static str, pointer: &str, detail: String) {
    let (rule, pointer, detail) = match findings.len() {
        ..FINDINGS_MAX => (rule, pointer, detail),
        FINDINGS_MAX => (
            "template-findings",
            "",
            format!("there are more than these {FINDINGS_MAX}"),
        ),
        _ => return,
    };
    findings.push(Finding {
        rule,
        pointer: pointer.to_owned(),
        detail,
    });
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Lint {
    report: Report,
    declared: BTreeSet<Parameter>,
    used: BTreeSet<Parameter>,
    mappings: Vec<Arc<Mapping>>,
}

impl Lint {
    /// Adds an error at a JSON pointer.
    pub(super) fn fault(&mut self, rule: &'static str, pointer: &str, detail: impl Into<String>) {
        add(&mut self.report.errors, rule, pointer, detail.into());
    }

    /// Adds a warning at a JSON pointer.
    pub(super) fn warn(&mut self, rule: &'static str, pointer: &str, detail: impl Into<String>) {
        add(&mut self.report.warnings, rule, pointer, detail.into());
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

    fn root(&mut self, root: &Node) -> Option<JitpTemplate> {
        for duplicate in root.duplicate_keys("") {
            self.fault(
                "template-duplicate-key",
                &duplicate,
                "this key stands more than once in its object",
            );
        }
        // What Resources refer to is read first, whichever stands first.
        let members = self.object(root, "");
        for (key, node) in members {
            match key.as_str() {
                "Parameters" => self.parameters(node, &child("", key)),
                "Mappings" => self.read_mappings(node, &child("", key)),
                _ => {}
            }
        }
        let mut resources = resource::Resources::default();
        for (key, node) in members {
            let pointer = child("", key);
            match key.as_str() {
                "Parameters" | "Mappings" => {}
                "Resources" => resources.read(node, &pointer, self),
                "DeviceConfiguration" => {
                    self.undocumented(key, &pointer);
                    resources.read_device_configuration(node, &pointer, self);
                }
                _ => self.fault(
                    "template-member",
                    &pointer,
                    "a template has the members Parameters, Resources, Mappings and \
                     DeviceConfiguration only",
                ),
            }
        }
        for required in ["Parameters", "Resources"] {
            if root.member(required).is_none() {
                self.fault("template-member", "", format!("{required} is missing"));
            }
        }
        self.unused();
        let parameters = Parameter::attribute_types(&self.declared);
        resources.finish(parameters, self)
    }

    /// The members of an object; none, and an error, for anything else.
    pub(super) fn object<'a>(&mut self, node: &'a Node, pointer: &str) -> &'a [(String, Node)] {
        match node {
            Node::Object(members) => members,
            other => {
                self.wrong_kind(other, "an object", pointer);
                &[]
            }
        }
    }

    /// Refuses a value of the wrong kind.
    pub(super) fn wrong_kind(&mut self, node: &Node, expected: &str, pointer: &str) {
        let kind = node.kind();
        self.fault(
            "template-value",
            pointer,
            format!("{expected} is expected here, not {kind}"),
        );
    }

    /// Warns of something that is documented for fleet provisioning only.
    pub(super) fn undocumented(&mut self, what: &str, pointer: &str) {
        self.warn(
            UNDOCUMENTED,
            pointer,
            format!(
                "{what} is documented for fleet provisioning only; whether JITP evaluates it is \
                 not known: try it in the account, then set jitp_undocumented in the profile"
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
                ("Default", Node::String(_)) => self.warn(
                    "template-default",
                    &pointer,
                    "AWS's pages disagree whether JITP uses a default when the certificate lacks \
                     the attribute; the factory asks for the attribute anyway",
                ),
                ("Default", other) => self.wrong_kind(other, "a string", &pointer),
                _ => self.fault(
                    "template-parameter-member",
                    &pointer,
                    "a parameter has the members Type and Default only",
                ),
            }
        }
        if matches!(node, Node::Object(_)) && node.member("Type").is_none() {
            self.fault("template-parameter-type", pointer, "Type is missing");
        }
    }

    fn read_mappings(&mut self, node: &Node, pointer: &str) {
        self.undocumented("Mappings", pointer);
        self.mappings = mapping::read(node, pointer, self);
    }

    /// A mapping, by its name.
    pub(super) fn mapping(&self, name: &str) -> Option<Arc<Mapping>> {
        let found = self.mappings.iter().find(|mapping| mapping.name == name);
        found.cloned()
    }

    fn unused(&mut self) {
        let unused: Vec<Parameter> = self.declared.difference(&self.used).copied().collect();
        for parameter in unused {
            self.warn(
                "template-parameter-unused",
                &parameter.pointer(),
                "nothing refers to it, yet AWS IoT refuses every certificate without it",
            );
        }
    }

    /// A property that takes a text: checked at once if it depends on no subject.
    pub(super) fn property(
        &mut self,
        node: &Node,
        field: Field,
        pointer: &str,
    ) -> Option<Property> {
        let text = function::text(node, pointer, self)?;
        let text = if text.attribute_types().is_empty() {
            Text::Literal(self.constant(&text, pointer)?)
        } else {
            text
        };
        if let Some(literal) = text.literal() {
            self.literal(literal, field, pointer);
        }
        Some(Property {
            pointer: pointer.to_owned(),
            field,
            text,
        })
    }

    /// The value of a text that is the same for every subject.
    fn constant(&mut self, text: &Text, pointer: &str) -> Option<String> {
        let value = text.resolve(&nobody()?).map(Cow::into_owned);
        self.settled(value, pointer)
    }

    /// The values of a list that is the same for every subject.
    pub(super) fn constant_list(&mut self, list: &List, pointer: &str) -> Option<Vec<String>> {
        let nobody = nobody()?;
        let values = list.resolve(&nobody);
        let values = values.map(|values| values.into_iter().map(Cow::into_owned).collect());
        self.settled(values, pointer)
    }

    fn settled<T>(&mut self, value: Result<T, Unresolved>, pointer: &str) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            // Only of a text that depends on a subject.
            Err(Unresolved::Missing) => None,
            Err(Unresolved::Function(detail)) => {
                self.fault("template-function", pointer, detail);
                None
            }
        }
    }

    /// Checks a text that stands in the template itself.
    pub(super) fn literal(&mut self, text: &str, field: Field, pointer: &str) {
        for breach in field.breaches(text) {
            self.fault(breach.rule, pointer, breach.detail);
        }
    }

    /// The subject attribute that `{"Ref": name}` refers to.
    pub(super) fn subject(&mut self, node: &Node, pointer: &str) -> Option<AttributeType> {
        let name = self.reference_name(node, pointer)?;
        self.subject_named(name, pointer, &child(pointer, "Ref"))
    }

    /// The subject attribute that a parameter stands for. `value`: pointer of the value that
    /// depends on it; `name_pointer`: of the parameter's name.
    pub(super) fn subject_named(
        &mut self,
        name: &str,
        value: &str,
        name_pointer: &str,
    ) -> Option<AttributeType> {
        match self.declared(name, name_pointer)? {
            Parameter::Subject(AttributeType::SerialNumber) => {
                self.warn(
                    "template-serial-number",
                    name_pointer,
                    "AWS's developer guide takes it from the subject, an AWS sample from the \
                     certificate's own serial number; the factory puts serialNumber into the \
                     subject: try it in the account before anything depends on it",
                );
                Some(AttributeType::SerialNumber)
            }
            Parameter::Subject(kind) => Some(kind),
            Parameter::CertificateId => {
                self.fault(
                    "template-certificate-id",
                    value,
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
        let name = self.reference_name(node, pointer)?;
        self.declared(name, &child(pointer, "Ref"))
    }

    fn reference_name<'a>(&mut self, node: &'a Node, pointer: &str) -> Option<&'a str> {
        if let Node::Object(members) = node
            && let [(key, Node::String(name))] = members.as_slice()
            && key == "Ref"
        {
            return Some(name);
        }
        self.wrong_kind(node, "a string or {\"Ref\": parameter}", pointer);
        None
    }

    fn declared(&mut self, name: &str, pointer: &str) -> Option<Parameter> {
        let parameter = Parameter::from_name(name).filter(|found| self.declared.contains(found));
        match parameter {
            Some(parameter) => {
                self.used.insert(parameter);
            }
            None => self.fault(
                "template-ref-undeclared",
                pointer,
                format!("{name:?} is not declared in Parameters"),
            ),
        }
        parameter
    }
}

/// An empty subject.
fn nobody() -> Option<Subject> {
    Subject::new(BTreeMap::new()).ok()
}

fn known_names() -> String {
    let names: Vec<&str> = Parameter::ALL.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}
