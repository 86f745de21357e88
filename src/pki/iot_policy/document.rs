//! The document's text → statements.

use serde_json::Map;
use serde_json::Value;

use super::Statement;
use super::condition::Condition;
use super::pattern::Pattern;
use super::variable;
use crate::pki::Violation;

/// AWS IoT's quota, white space not counted.
const LENGTH_MAX: usize = 2_048;

pub(super) fn statements(text: &str) -> Result<Vec<Statement>, Vec<Violation>> {
    let mut reader = Reader(Vec::new());
    let length = text.chars().filter(|c| !c.is_whitespace()).count();
    if length > LENGTH_MAX {
        let detail = format!("{length} characters without white space; AWS IoT takes {LENGTH_MAX}");
        reader.fault("policy-length", "", detail);
    }
    let statements = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(document)) => reader.document(&document),
        Ok(_) => {
            reader.fault("policy-json", "", "a policy is a JSON object");
            Vec::new()
        }
        Err(error) => {
            reader.fault("policy-json", "", format!("no JSON: {error}"));
            Vec::new()
        }
    };
    if reader.0.is_empty() {
        Ok(statements)
    } else {
        Err(reader.0)
    }
}

struct Reader(Vec<Violation>);

impl Reader {
    fn fault(&mut self, rule: &'static str, pointer: &str, detail: impl Into<String>) {
        self.0.push(Violation {
            rule,
            attribute: Some(pointer.to_owned()),
            detail: detail.into(),
        });
    }

    fn document(&mut self, document: &Map<String, Value>) -> Vec<Statement> {
        for key in document.keys() {
            if !matches!(key.as_str(), "Version" | "Id" | "Statement") {
                let detail = "a policy holds Version, Id and Statement";
                self.fault("policy-key", &format!("/{key}"), detail);
            }
        }
        match document.get("Version").and_then(Value::as_str) {
            Some("2012-10-17") => {}
            _ => self.fault("policy-version", "/Version", "Version must be 2012-10-17"),
        }
        match document.get("Statement") {
            Some(Value::Object(one)) => {
                let statement = self.statement(one, "/Statement", "the statement".to_owned());
                statement.into_iter().collect()
            }
            Some(Value::Array(many)) if !many.is_empty() => {
                let mut statements = Vec::new();
                for (index, item) in many.iter().enumerate() {
                    let pointer = format!("/Statement/{index}");
                    let name = format!("statement {}", index + 1);
                    match item {
                        Value::Object(object) => {
                            statements.extend(self.statement(object, &pointer, name));
                        }
                        _ => self.fault("policy-statement", &pointer, "a statement is an object"),
                    }
                }
                statements
            }
            _ => {
                let detail = "Statement must be an object or a list of at least one";
                self.fault("policy-statement", "/Statement", detail);
                Vec::new()
            }
        }
    }

    fn statement(
        &mut self,
        object: &Map<String, Value>,
        pointer: &str,
        place: String,
    ) -> Option<Statement> {
        for key in object.keys() {
            let pointer = format!("{pointer}/{key}");
            match key.as_str() {
                "Sid" | "Effect" | "Action" | "Resource" | "Condition" => {}
                "NotAction" | "NotResource" => self.fault(
                    "policy-not-supported",
                    &pointer,
                    "cannot be decided here; say what is meant with Action and Resource",
                ),
                "Principal" | "NotPrincipal" => self.fault(
                    "policy-principal",
                    &pointer,
                    "an AWS IoT policy names no principal: it is attached to one",
                ),
                _ => self.fault("policy-key", &pointer, "no part of a statement"),
            }
        }
        let allow = match object.get("Effect").and_then(Value::as_str) {
            Some("Allow") => Some(true),
            Some("Deny") => Some(false),
            _ => {
                let pointer = format!("{pointer}/Effect");
                self.fault("policy-effect", &pointer, "Effect must be Allow or Deny");
                None
            }
        };
        let mut actions = Vec::new();
        for action in self.strings(object.get("Action"), &format!("{pointer}/Action")) {
            let lower = action.to_ascii_lowercase();
            if lower != "*" && !lower.starts_with("iot:") && !lower.starts_with("greengrass:") {
                let detail = format!("`{action}` is no action of AWS IoT: `iot:…`");
                self.fault("policy-action", &format!("{pointer}/Action"), detail);
            }
            actions.push(lower);
        }
        let mut resources = Vec::new();
        for resource in self.strings(object.get("Resource"), &format!("{pointer}/Resource")) {
            match Pattern::new(&resource) {
                Ok(pattern) => resources.push(pattern),
                Err(detail) => {
                    self.fault("policy-resource", &format!("{pointer}/Resource"), detail);
                }
            }
        }
        let conditions = self.conditions(object.get("Condition"), &format!("{pointer}/Condition"));
        let name = match object.get("Sid").and_then(Value::as_str) {
            Some(sid) if !sid.is_empty() => format!("{place} ({sid})"),
            _ => place,
        };
        Some(Statement {
            name,
            allow: allow?,
            actions,
            resources,
            conditions,
        })
    }

    fn conditions(&mut self, node: Option<&Value>, pointer: &str) -> Vec<Condition> {
        let Some(node) = node else {
            return Vec::new();
        };
        let Some(operators) = node.as_object() else {
            self.fault("policy-condition", pointer, "Condition is an object");
            return Vec::new();
        };
        let mut conditions = Vec::new();
        for (operator, keys) in operators {
            let pointer = format!("{pointer}/{operator}");
            let Some(keys) = keys.as_object() else {
                self.fault("policy-condition", &pointer, "an operator holds an object");
                continue;
            };
            for (key, values) in keys {
                let values = self.strings(Some(values), &format!("{pointer}/{key}"));
                for value in &values {
                    if let Err(detail) = variable::check(value) {
                        self.fault("policy-condition", &format!("{pointer}/{key}"), detail);
                    }
                }
                conditions.push(Condition::new(operator, key, values));
            }
        }
        conditions
    }

    /// A string, or a list of at least one.
    fn strings(&mut self, node: Option<&Value>, pointer: &str) -> Vec<String> {
        let items = match node {
            Some(Value::Array(items)) if !items.is_empty() => items.as_slice(),
            Some(item @ (Value::String(_) | Value::Bool(_))) => std::slice::from_ref(item),
            _ => &[],
        };
        let text = |item: &Value| match item {
            Value::String(text) => Some(text.clone()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        };
        let texts: Vec<String> = items.iter().filter_map(text).collect();
        if texts.is_empty() || texts.len() != items.len() {
            let detail = "must be a string or a list of strings, at least one";
            self.fault("policy-string", pointer, detail);
        }
        texts
    }
}
