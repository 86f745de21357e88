//! What must exist in the account before the first device: for programs, and for people.

use serde_json::Value;
use serde_json::json;

use super::files::Kit;
use super::files::list;
use super::needs::Kind;
use super::needs::Name;
use super::needs::Need;
use super::needs::Needs;
use super::text::fill;
use super::text::markdown_code;
use super::text::shell_word;

/// `preflight.json`
pub(super) fn json(kit: &Kit<'_>, needs: &Needs) -> Value {
    let mut must_exist = Vec::new();
    let mut one_per_value = Vec::new();
    for need in &needs.names {
        let kind = need.kind;
        match &need.name {
            Name::Literal(name) => must_exist.push(json!({
                "kind": kind.slug(),
                "name": name,
                "check": kind.check(&shell_word(name)),
                "create": kind.create(&shell_word(name)),
            })),
            Name::PerValue(attributes) => one_per_value.push(json!({
                "kind": kind.slug(),
                "attributes": attributes,
                "check": kind.check("VALUE"),
                "create": kind.create("VALUE"),
            })),
        }
    }
    json!({
        "account": kit.account.to_string(),
        "region": kit.region.to_string(),
        "must_exist": must_exist,
        "one_per_value": one_per_value,
    })
}

/// `preflight.md`
pub(super) fn markdown(kit: &Kit<'_>, needs: &Needs) -> String {
    fill(
        include_str!("preflight.md"),
        &[
            ("ACCOUNT", kit.account.to_string()),
            ("REGION", kit.region.to_string()),
            ("NEEDS", table(needs)),
            ("WARNINGS", list(&kit.warnings())),
        ],
    )
}

/// In words, where the name depends on the certificate.
pub(super) fn per_value(kind: Kind, attributes: &[&str]) -> String {
    format!(
        "one {} for each value of {}",
        kind.text(),
        attributes.join(" and ")
    )
}

fn table(needs: &Needs) -> String {
    if needs.names.is_empty() {
        return "The template names nothing that must exist before.".to_owned();
    }
    let row = |need: &Need| {
        let (name, word) = match &need.name {
            Name::Literal(name) => (markdown_code(name), shell_word(name)),
            Name::PerValue(attributes) => (per_value(need.kind, attributes), "VALUE".to_owned()),
        };
        let cells = [
            need.kind.text(),
            &name,
            &markdown_code(&need.kind.check(&word)),
            &markdown_code(&need.kind.create(&word)),
        ];
        format!("\n| {} |", cells.join(" | "))
    };
    let rows: String = needs.names.iter().map(row).collect();
    format!("| What | Name | Find it | Make it |\n|---|---|---|---|{rows}")
}
