//! `Profile`: what a certificate of one kind looks like, and who may have one.

pub mod evaluation;
mod file;
mod template;

use super::Violation;
use super::csr::CertificationRequest;
use super::jitp::JitpTemplate;
use super::jitp::Provisioning;
use super::jitp::Report;
use super::key_policy::KeyAlgorithm;
use super::name::AttributeType;
use super::name::Subject;
use super::validity::ValidityRule;
use super::verification::RegistrationCode;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// A profile, complete and consistent.
///
/// Its file, with every key:
///
/// ```toml
/// issuer = "line-ec"                       # which issuer signs
/// next_issuer = "line-ec-g2"               # which one does from switch_at on; default: the same
/// switch_at = "2027-01-01T06:00:00Z"       # RFC 3339, to the second
/// device_identity = "CN"                   # which attribute says which device this is; default CN
/// slot = "identity"                        # identities are unique within a slot; default identity
/// key_algorithms = ["P-256"]               # P-256, P-384, RSA-2048, RSA-3072, RSA-4096
/// certificate_length_max = 2048            # octets, default 4096
/// order_required = false                   # default; true: issued under a work order only
/// bare_public_keys = false                 # default; true: batches may list keys without a request
/// reworks_max = 3                          # certificates a device may get after its first; default 3
/// jitp_template = "jitp-lightbulb.json"    # beside the profile; may be left out
/// jitp_undocumented = false                # default; true: the template's functions, mappings and
///                                          # device configuration were tried in the account
///
/// [validity]
/// days = 7300                              # or: no_expiry = true
/// backdate_seconds = 0                     # 0 to 3600, default 0
///
/// [subject]
/// required = ["CN", "serialNumber", "C"]
/// optional = ["O", "OU"]                   # default none
/// fixed = { ST = "Bavaria" }               # set by the profile itself; default none
/// ```
#[derive(Debug)]
pub struct Profile {
    /// Its name, `[a-z0-9-]{1,64}`.
    pub name: String,
    /// Name of the issuer that signs.
    pub issuer: String,
    /// When another issuer takes over, and its name.
    pub succession: Option<(DateTime<Utc>, String)>,
    /// The attribute that says which device this is.
    pub device_identity: AttributeType,
    /// Device identities are unique within a slot; `identity` unless the profile says otherwise.
    pub slot: String,
    /// Device keys it certifies.
    pub key_algorithms: Vec<KeyAlgorithm>,
    /// Validity.
    pub validity: ValidityRule,
    /// 0 to 3600.
    pub backdate_seconds: u32,
    /// Largest certificate in octets (a microcontroller's flash).
    pub certificate_length_max: usize,
    /// Whether it issues under a work order only.
    pub order_required: bool,
    /// Whether a batch's list may give public keys that no certification request shows the device to
    /// have; the record then says so.
    pub bare_public_keys: bool,
    /// Certificates a device may get after its first.
    pub reworks_max: i16,
    /// Attributes every certificate must have.
    pub required: Vec<AttributeType>,
    /// Attributes it may have.
    pub optional: Vec<AttributeType>,
    /// Attributes the profile sets itself.
    pub fixed: BTreeMap<AttributeType, String>,
    /// The AWS IoT provisioning template its devices meet.
    pub jitp: Option<JitpTemplate>,
    /// Whether that template may use what AWS documents for fleet provisioning only. Without it
    /// such a template is refused at load: no device leaves a line that the cloud may refuse.
    pub jitp_undocumented: bool,
    /// SHA-256 over profile text and template text, each after its length in eight octets.
    pub sha256: [u8; 32],
}

/// What a profile says of its subjects, apart from everything else.
#[derive(Clone, Debug)]
pub struct SubjectRules {
    /// See [`Profile::device_identity`].
    pub device_identity: AttributeType,
    /// See [`Profile::required`].
    pub required: Vec<AttributeType>,
    /// See [`Profile::optional`].
    pub optional: Vec<AttributeType>,
    /// See [`Profile::fixed`].
    pub fixed: BTreeMap<AttributeType, String>,
    /// See [`Profile::jitp_undocumented`].
    pub jitp_undocumented: bool,
}

impl SubjectRules {
    /// Those of a profile's TOML, whatever template it names. All faults at once, a line each.
    pub fn parse(name: &str, toml: &str) -> Result<Self, Vec<String>> {
        file::parse_subject_rules(name, toml)
    }

    /// Whether every subject that these rules admit will provision. An error keeps a profile with
    /// this template from loading; a warning names subjects that the service refuses as
    /// `jitp-violation`, and that the name rules alone would let through.
    #[must_use]
    pub fn lint(&self, template: &JitpTemplate) -> Report {
        template::lint(self, template)
    }
}

/// What the profile makes of an admitted request.
#[derive(Debug, PartialEq, Eq)]
pub struct Admission {
    /// The whole subject.
    pub subject: Subject,
    /// Value of the device identity.
    pub device: String,
    /// The thing AWS IoT would make.
    pub thing_name: Option<String>,
}

/// Why the profile refuses a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `key-type`
    KeyType(String),
    /// `extension-not-allowed`
    ExtensionNotAllowed(Vec<Violation>),
    /// `subject-invalid`
    SubjectInvalid(Vec<Violation>),
    /// `subject-mismatch`
    SubjectMismatch(Vec<Violation>),
    /// `jitp-violation`
    JitpViolation(Vec<Violation>),
}

impl Refusal {
    /// The problem's name.
    #[must_use]
    pub fn slug(&self) -> &'static str {
        match self {
            Self::KeyType(_) => "key-type",
            Self::ExtensionNotAllowed(_) => "extension-not-allowed",
            Self::SubjectInvalid(_) => "subject-invalid",
            Self::SubjectMismatch(_) => "subject-mismatch",
            Self::JitpViolation(_) => "jitp-violation",
        }
    }

    /// Everything that is wrong, at least one thing.
    #[must_use]
    pub fn into_violations(self) -> Vec<Violation> {
        match self {
            Self::KeyType(detail) => vec![Violation {
                rule: "key-type",
                attribute: None,
                detail,
            }],
            Self::ExtensionNotAllowed(violations)
            | Self::SubjectInvalid(violations)
            | Self::SubjectMismatch(violations)
            | Self::JitpViolation(violations) => violations,
        }
    }
}

impl Profile {
    /// From its TOML and, where it names one, the template's JSON. All faults at once, a line each.
    pub fn parse(name: &str, toml: &str, template: Option<&str>) -> Result<Self, Vec<String>> {
        file::parse(name, toml, template)
    }

    /// Name of the issuer that signs at `now`.
    #[must_use]
    pub fn issuer_at(&self, now: DateTime<Utc>) -> &str {
        match &self.succession {
            Some((switch_at, next)) if *switch_at <= now => next,
            _ => &self.issuer,
        }
    }

    /// The issuers it names, in the order in which they sign.
    pub fn issuers(&self) -> impl Iterator<Item = &str> {
        let next = self.succession.as_ref().map(|(_, next)| next.as_str());
        std::iter::once(self.issuer.as_str()).chain(next)
    }

    /// The template file a profile's TOML names, relative to the profile. `None` also when the
    /// text is no TOML; [`Self::parse`] says why.
    pub fn template_path(toml: &str) -> Option<String> {
        file::template_path(toml)
    }

    /// Merges fixed attributes, the request's and the CSR's; two sources that differ are refused.
    /// `requested`: attribute short names to values, as they came in JSON.
    ///
    /// A request that is wrong in several ways is always refused for the same one, in the order of
    /// [`Refusal`]'s checks below; within it, all violations are told.
    pub fn admit(
        &self,
        csr: &CertificationRequest,
        requested: Option<&BTreeMap<String, String>>,
    ) -> Result<Admission, Refusal> {
        self.admit_key(csr.public_key.algorithm())?;
        if !csr.excess_extensions.is_empty() {
            return Err(Refusal::ExtensionNotAllowed(csr.excess_extensions.clone()));
        }
        let requested = requested
            .map(known_attributes)
            .transpose()
            .map_err(Refusal::SubjectInvalid)?
            .unwrap_or_default();
        let (subject, provisioning) = self.provision(&csr.subject, &requested)?;
        // The device identity is a required attribute, and `complete` saw them all.
        let device = subject
            .get(self.device_identity)
            .unwrap_or_default()
            .to_owned();
        let thing_name = provisioning.and_then(|provisioning| provisioning.thing_name);
        Ok(Admission {
            subject,
            device,
            thing_name,
        })
    }

    /// The device identity of a subject that comes without a request: its key is still to be made.
    /// Everything but the key is judged as by [`Self::admit`].
    pub fn admit_subject(&self, requested: &BTreeMap<String, String>) -> Result<String, Refusal> {
        let requested = known_attributes(requested).map_err(Refusal::SubjectInvalid)?;
        let (subject, _) = self.provision(&BTreeMap::new(), &requested)?;
        let device = subject.get(self.device_identity).unwrap_or_default();
        Ok(device.to_owned())
    }

    /// The whole subject that a CSR's attributes and the requested ones make together with the
    /// profile's own, and what AWS IoT would make of it; `None` without a template.
    pub fn provision(
        &self,
        csr: &BTreeMap<AttributeType, String>,
        requested: &BTreeMap<AttributeType, String>,
    ) -> Result<(Subject, Option<Provisioning>), Refusal> {
        let values = self.merge(csr, requested)?;
        let subject = self.complete(values)?;
        let template = self.jitp.as_ref();
        let provisioning = template.map(|template| template.evaluate(&subject));
        let provisioning = provisioning.transpose().map_err(Refusal::JitpViolation)?;
        Ok((subject, provisioning))
    }

    /// What it says of its subjects.
    #[must_use]
    pub fn subject_rules(&self) -> SubjectRules {
        SubjectRules {
            device_identity: self.device_identity,
            required: self.required.clone(),
            optional: self.optional.clone(),
            fixed: self.fixed.clone(),
            jitp_undocumented: self.jitp_undocumented,
        }
    }

    /// Whether it certifies keys of this kind.
    pub fn admit_key(&self, algorithm: KeyAlgorithm) -> Result<(), Refusal> {
        if self.key_algorithms.contains(&algorithm) {
            return Ok(());
        }
        let allowed: Vec<_> = self
            .key_algorithms
            .iter()
            .map(|allowed| allowed.name())
            .collect();
        Err(Refusal::KeyType(format!(
            "the key is {}; profile {} certifies {}",
            algorithm.name(),
            self.name,
            allowed.join(", ")
        )))
    }

    /// One value for each attribute that any source gives.
    fn merge(
        &self,
        csr: &BTreeMap<AttributeType, String>,
        requested: &BTreeMap<AttributeType, String>,
    ) -> Result<BTreeMap<AttributeType, String>, Refusal> {
        let mut values = self.fixed.clone();
        let mut violations = Vec::new();
        for (source, given) in [("the request", requested), ("the CSR", csr)] {
            for (kind, value) in given {
                let settled = values.entry(*kind).or_insert_with(|| value.clone());
                if settled != value {
                    let name = kind.short_name();
                    let other = if self.fixed.contains_key(kind) {
                        "the profile"
                    } else {
                        "the request"
                    };
                    violations.push(Violation {
                        rule: "attribute-mismatch",
                        attribute: Some(name.to_owned()),
                        detail: format!("{name} in {source} differs from {name} in {other}"),
                    });
                }
            }
        }
        if violations.is_empty() {
            Ok(values)
        } else {
            Err(Refusal::SubjectMismatch(violations))
        }
    }

    /// Nothing missing, nothing that the profile does not know, every value well-formed.
    fn complete(&self, values: BTreeMap<AttributeType, String>) -> Result<Subject, Refusal> {
        let violation = |rule, kind: AttributeType, detail: &str| Violation {
            rule,
            attribute: Some(kind.short_name().to_owned()),
            detail: format!("{} {detail} profile {}", kind.short_name(), self.name),
        };
        let missing = self
            .required
            .iter()
            .filter(|kind| !values.contains_key(kind))
            .map(|kind| violation("attribute-missing", *kind, "is required by"));
        let unwanted = values
            .keys()
            .filter(|kind| !self.takes(**kind))
            .map(|kind| violation("attribute-not-allowed", *kind, "is not allowed by"));
        let mut violations: Vec<_> = missing.chain(unwanted).collect();
        let cn = values.get(&AttributeType::CommonName);
        if cn.is_some_and(|cn| RegistrationCode::parse(cn).is_some()) {
            violations.push(Violation {
                rule: "registration-code",
                attribute: Some(AttributeType::CommonName.short_name().to_owned()),
                detail: "64 hexadecimal digits are what an AWS account's registration code looks \
                         like; a certificate with one would prove possession of the CA's key"
                    .to_owned(),
            });
        }
        match Subject::new(values) {
            Ok(subject) if violations.is_empty() => Ok(subject),
            Ok(_) => Err(Refusal::SubjectInvalid(violations)),
            Err(more) => {
                violations.extend(more);
                Err(Refusal::SubjectInvalid(violations))
            }
        }
    }

    fn takes(&self, kind: AttributeType) -> bool {
        self.required.contains(&kind)
            || self.optional.contains(&kind)
            || self.fixed.contains_key(&kind)
    }
}

/// Attributes by their short names, as they come in JSON or on a command line; all unknown names
/// at once.
pub fn known_attributes(
    requested: &BTreeMap<String, String>,
) -> Result<BTreeMap<AttributeType, String>, Vec<Violation>> {
    let mut values = BTreeMap::new();
    let mut violations = Vec::new();
    for (name, value) in requested {
        if let Some(kind) = AttributeType::from_short_name(name) {
            values.insert(kind, value.clone());
        } else {
            let known = AttributeType::ALL.map(AttributeType::short_name).join(", ");
            violations.push(Violation {
                rule: "attribute-unknown",
                // A name that nobody knows may be anything; it is told only as far as it is text.
                attribute: Some(
                    name.chars()
                        .filter(char::is_ascii_graphic)
                        .take(64)
                        .collect(),
                ),
                detail: format!("a subject may have {known}"),
            });
        }
    }
    if violations.is_empty() {
        Ok(values)
    } else {
        Err(violations)
    }
}

#[cfg(test)]
mod tests;
