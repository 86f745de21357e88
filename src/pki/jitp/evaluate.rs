//! One subject through one template.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::pki::Violation;
use crate::pki::jitp::Groups;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::Policy;
use crate::pki::jitp::PolicySource;
use crate::pki::jitp::Property;
use crate::pki::jitp::Provisioning;
use crate::pki::jitp::Refusal;
use crate::pki::jitp::Thing;
use crate::pki::jitp::constraint::Field;
use crate::pki::jitp::parameter::Parameter;
use crate::pki::jitp::resource::GROUPS_MAX;
use crate::pki::jitp::text::Unresolved;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;

/// What the subject becomes, and why it does not; the first means something only when the second
/// is empty.
pub(super) fn evaluate(template: &JitpTemplate, subject: &Subject) -> (Provisioning, Vec<Refusal>) {
    let mut resolver = Resolver {
        subject,
        refusals: Vec::new(),
    };
    resolver.require(&template.parameters);
    let mut provisioning = Provisioning {
        thing_name: None,
        thing_type: None,
        groups: Vec::new(),
        attributes: BTreeMap::new(),
        billing_group: None,
        policies: resolver.policies(&template.policies),
        certificate_status: template.certificate_status,
    };
    if let Some(thing) = &template.thing {
        resolver.thing(thing, &mut provisioning);
    }
    for property in &template.device_configuration {
        resolver.resolve(property);
    }
    (provisioning, resolver.refusals)
}

struct Resolver<'a> {
    subject: &'a Subject,
    refusals: Vec<Refusal>,
}

impl Resolver<'_> {
    /// A parameter that the certificate lacks ends provisioning with "Cannot resolve reference
    /// value", used or not. A [`Subject`] has one value a type, so none can be there twice.
    fn require(&mut self, parameters: &[AttributeType]) {
        for parameter in parameters {
            if self.subject.get(*parameter).is_none_or(str::is_empty) {
                let name = parameter.short_name();
                self.refuse(
                    &Parameter::Subject(*parameter).pointer(),
                    "jitp-parameter-missing",
                    Some(*parameter),
                    format!(
                        "the provisioning template takes {name} from the subject, which has no {name}"
                    ),
                );
            }
        }
    }

    fn policies(&mut self, sources: &[PolicySource]) -> Vec<Policy> {
        let policy = |PolicySource(property): &PolicySource| {
            let text = self.resolve(property);
            match property.field {
                Field::PolicyDocument => Policy::Document(text),
                _ => Policy::Name(text),
            }
        };
        sources.iter().map(policy).collect()
    }

    fn thing(&mut self, thing: &Thing, provisioning: &mut Provisioning) {
        provisioning.thing_name = Some(self.resolve(&thing.name));
        provisioning.thing_type = thing.type_name.as_ref().map(|name| self.resolve(name));
        for name in self.groups(&thing.groups) {
            if !provisioning.groups.contains(&name) {
                provisioning.groups.push(name);
            }
        }
        for (name, value) in &thing.attributes {
            let value = self.resolve(value);
            provisioning.attributes.insert(name.clone(), value);
        }
        provisioning.billing_group = thing
            .billing_group
            .as_ref()
            .map(|group| self.resolve(group));
    }

    fn groups(&mut self, groups: &Groups) -> Vec<String> {
        let (pointer, list) = match groups {
            Groups::Each(groups) => {
                return groups.iter().map(|group| self.resolve(group)).collect();
            }
            Groups::Computed(pointer, list) => (pointer, list),
        };
        let blame = list.attribute_types().first().copied();
        match list.resolve(self.subject) {
            Ok(names) => {
                for name in &names {
                    self.check(Field::ThingGroupName, name, pointer, blame);
                }
                if names.len() > GROUPS_MAX {
                    let count = names.len();
                    self.refuse(
                        pointer,
                        "thing-group-count",
                        blame,
                        format!("{count} groups; AWS IoT takes {GROUPS_MAX} for a thing"),
                    );
                }
                names.into_iter().map(Cow::into_owned).collect()
            }
            Err(unresolved) => {
                self.unresolved(unresolved, pointer, blame);
                Vec::new()
            }
        }
    }

    /// The value, or an empty string for one that cannot be had.
    fn resolve(&mut self, property: &Property) -> String {
        let Property {
            pointer,
            field,
            text,
        } = property;
        if let Some(literal) = text.literal() {
            // Checked at load.
            return literal.to_owned();
        }
        let blame = text.attribute_types().first().copied();
        match text.resolve(self.subject) {
            Ok(value) => {
                self.check(*field, &value, pointer, blame);
                value.into_owned()
            }
            Err(unresolved) => {
                self.unresolved(unresolved, pointer, blame);
                String::new()
            }
        }
    }

    fn check(&mut self, field: Field, value: &str, pointer: &str, blame: Option<AttributeType>) {
        for breach in field.breaches(value) {
            self.refuse(pointer, breach.rule, blame, breach.detail);
        }
    }

    fn unresolved(&mut self, why: Unresolved, pointer: &str, blame: Option<AttributeType>) {
        match why {
            // `require` has reported it.
            Unresolved::Missing => {}
            Unresolved::Function(detail) => self.refuse(pointer, "jitp-function", blame, detail),
        }
    }

    fn refuse(
        &mut self,
        pointer: &str,
        rule: &'static str,
        blame: Option<AttributeType>,
        detail: String,
    ) {
        self.refusals.push(Refusal {
            pointer: pointer.to_owned(),
            violation: Violation {
                rule,
                attribute: blame.map(|kind| kind.short_name().to_owned()),
                detail,
            },
        });
    }
}
