//! What AWS IoT's registry would hold: the CAs, the certificates that came, and what the template
//! made of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use openssl::x509::X509;
use openssl::x509::X509Ref;
use serde::Deserialize;
use serde::Serialize;

use crate::pki::Violation;
use crate::pki::certificate::SubjectFault;
use crate::pki::certificate::subject_of;
use crate::pki::hex;
use crate::pki::iot_policy::IotPolicy;
use crate::pki::issuer::Issuer;
use crate::pki::jitp::CertificateStatus;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::Policy;
use crate::pki::jitp::Provisioning;
use crate::pki::name::Subject;

/// Certificates that are remembered; one more is not provisioned.
const CERTIFICATES_MAX: usize = 1_000_000;

/// The registry. One for all connections.
pub struct Registry {
    issuers: Vec<RegisteredCa>,
    template: JitpTemplate,
    policies: BTreeMap<String, IotPolicy>,
    state: Mutex<State>,
}

/// A registered CA: the very one that signs device certificates.
pub struct RegisteredCa {
    /// Its name here.
    pub name: String,
    /// Its certificate.
    pub certificate: X509,
    subject_der: Vec<u8>,
}

/// A registered certificate and what became of it. One line of the state file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    /// SHA-256 over the DER, as AWS IoT names it.
    pub certificate_id: String,
    /// What AWS IoT would say it is.
    pub status: Status,
    /// The subject's DER, hexadecimal.
    subject: String,
    /// The thing.
    pub thing_name: Option<String>,
    /// Its type.
    pub thing_type: Option<String>,
    /// Its groups.
    pub groups: Vec<String>,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Its billing group.
    pub billing_group: Option<String>,
    /// Names of the policies that must exist.
    policy_names: Vec<String>,
    /// Policies that the template holds.
    policy_documents: Vec<String>,
}

/// A certificate's status, in AWS's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// It may connect.
    Active,
    /// Somebody must activate it first.
    Inactive,
    /// It came, and was not provisioned yet.
    PendingActivation,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::PendingActivation => "PENDING_ACTIVATION",
        })
    }
}

/// What a certificate may do: everything a connection needs to be judged by.
#[derive(Debug)]
pub struct Rights {
    /// As registered.
    pub registered: Registered,
    /// The certificate's subject.
    pub subject: Subject,
    /// All policies attached to it.
    pub policies: Vec<IotPolicy>,
}

/// What a CONNECT of a certificate meets.
#[derive(Debug)]
pub enum Meeting {
    /// It was unknown and is provisioned now; this connection ends.
    Provisioned {
        /// What was made.
        registered: Box<Registered>,
        /// Another certificate whose device is the same thing.
        collision: Option<String>,
    },
    /// It was unknown, or still pending, and provisioning failed; this connection ends.
    Failed(Vec<ProvisioningFault>),
    /// It is known.
    Known(Box<Rights>),
}

/// Why provisioning failed.
#[derive(Clone, Debug, Serialize)]
pub struct ProvisioningFault {
    /// The broken rule.
    pub rule: String,
    /// What is wrong, for a person.
    pub detail: String,
    /// What AWS would say, where that is known.
    pub aws_reason: Option<String>,
}

/// Why a registry cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RegistryFault {
    /// The template, or the state file, names a policy that was not given.
    #[error(
        "Policy {0} not found: a device's certificate has it, so give it: --policy {0}=FILE.json"
    )]
    PolicyNotFound(String),
    /// The template holds a policy that cannot be decided.
    #[error("a policy inside the template is invalid: {}", sentences(.0))]
    PolicyInvalid(Vec<Violation>),
    /// An issuer's certificate is refused.
    #[error("issuer {0}: {1}")]
    Issuer(String, openssl::error::ErrorStack),
    /// The state file cannot be used.
    #[error("the state file: {0}")]
    State(#[from] std::io::Error),
    /// The state file holds something else.
    #[error("the state file: line {0} is none of a rehearsal: {1}")]
    StateLine(usize, serde_json::Error),
}

/// Violations as one text.
#[must_use]
pub fn sentences(violations: &[Violation]) -> String {
    let sentence = |violation: &Violation| match &violation.attribute {
        Some(attribute) => format!("{} at `{attribute}`: {}", violation.rule, violation.detail),
        None => format!("{}: {}", violation.rule, violation.detail),
    };
    violations
        .iter()
        .map(sentence)
        .collect::<Vec<_>>()
        .join("; ")
}

#[derive(Default)]
struct State {
    certificates: BTreeMap<String, Registered>,
    /// Thing → the certificate that made it.
    things: BTreeMap<String, String>,
    file: Option<File>,
}

impl Registry {
    /// `policies`: what a template may name. Refuses a template that names another.
    pub fn new(
        issuers: &[&Issuer],
        template: JitpTemplate,
        policies: BTreeMap<String, IotPolicy>,
    ) -> Result<Self, RegistryFault> {
        for policy in template.fixed_policies() {
            match policy {
                Policy::Name(name) if !policies.contains_key(&name) => {
                    return Err(RegistryFault::PolicyNotFound(name));
                }
                Policy::Name(_) => {}
                Policy::Document(text) => {
                    IotPolicy::parse(&text).map_err(|f| RegistryFault::PolicyInvalid(f.0))?;
                }
            }
        }
        let registered_ca = |issuer: &&Issuer| {
            Ok(RegisteredCa {
                name: issuer.name.clone(),
                certificate: X509::from_der(&issuer.certificate)
                    .map_err(|error| RegistryFault::Issuer(issuer.name.clone(), error))?,
                subject_der: issuer.subject_der.clone(),
            })
        };
        Ok(Self {
            issuers: issuers
                .iter()
                .map(registered_ca)
                .collect::<Result<_, RegistryFault>>()?,
            template,
            policies,
            state: Mutex::default(),
        })
    }

    /// Reads what earlier rehearsals wrote, and writes what comes to the same file, a line each.
    pub fn keep_in(&mut self, path: &Path) -> Result<usize, RegistryFault> {
        let mut octets = match std::fs::read(path) {
            Ok(octets) => octets,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        // The last line may be torn: the process ended while writing it.
        let whole = octets
            .iter()
            .rposition(|o| *o == b'\n')
            .map_or(0, |at| at + 1);
        octets.truncate(whole);
        let text = String::from_utf8_lossy(&octets);
        let mut state = State::default();
        for (index, line) in text.lines().enumerate() {
            match serde_json::from_str::<Registered>(line) {
                Ok(registered) => {
                    let given = |name: &&String| self.policies.contains_key(*name);
                    if let Some(name) = registered.policy_names.iter().find(|name| !given(name)) {
                        return Err(RegistryFault::PolicyNotFound(name.clone()));
                    }
                    state.take(registered);
                }
                Err(error) => return Err(RegistryFault::StateLine(index + 1, error)),
            }
        }
        let file = File::options().create(true).append(true).open(path)?;
        file.set_len(whole as u64)?;
        state.file = Some(file);
        let count = state.certificates.len();
        self.state = Mutex::new(state);
        Ok(count)
    }

    /// Names of the registered CAs.
    #[must_use]
    pub fn issuer_names(&self) -> Vec<&str> {
        self.issuers.iter().map(|ca| ca.name.as_str()).collect()
    }

    /// The registered CA that signed a certificate: its subject is the certificate's issuer, octet
    /// for octet, and its key verifies the signature.
    pub(super) fn issuer_of(&self, certificate: &X509Ref) -> Result<&RegisteredCa, String> {
        let issuer = certificate
            .issuer_name()
            .to_der()
            .map_err(|error| error.to_string())?;
        let mut named = false;
        for ca in self.issuers.iter().filter(|ca| ca.subject_der == issuer) {
            named = true;
            let key = ca.certificate.public_key().map_err(|e| e.to_string())?;
            if certificate.verify(&key).unwrap_or(false) {
                return Ok(ca);
            }
        }
        Err(if named {
            "the signature of the certificate does not verify under the registered CA of that name"
                .to_owned()
        } else {
            "no registered CA has the name of the certificate's issuer".to_owned()
        })
    }

    /// A CONNECT arrived under a certificate that a registered CA signed.
    pub(super) fn meet(&self, der: &[u8]) -> Meeting {
        let certificate_id = hex(&openssl::sha::sha256(der));
        let mut state = self.lock();
        let pending = match state.certificates.get(&certificate_id) {
            Some(known) if known.status != Status::PendingActivation => {
                return match self.rights(known) {
                    Ok(rights) => Meeting::Known(Box::new(rights)),
                    Err(fault) => Meeting::Failed(vec![fault]),
                };
            }
            other => other.is_some(),
        };
        if !pending && state.certificates.len() >= CERTIFICATES_MAX {
            let detail = format!("this rehearsal remembers {CERTIFICATES_MAX} certificates");
            return Meeting::Failed(vec![fault("registry-full", detail, None)]);
        }
        match self.provision(&certificate_id, der) {
            Ok(registered) => {
                let collision = registered
                    .thing_name
                    .as_ref()
                    .and_then(|name| state.things.get(name))
                    .filter(|other| **other != certificate_id)
                    .cloned();
                state.write(&registered);
                state.take(registered.clone());
                Meeting::Provisioned {
                    registered: Box::new(registered),
                    collision,
                }
            }
            Err(faults) => {
                state.take(Registered::pending(certificate_id));
                Meeting::Failed(faults)
            }
        }
    }

    /// Applies the template.
    fn provision(
        &self,
        certificate_id: &str,
        der: &[u8],
    ) -> Result<Registered, Vec<ProvisioningFault>> {
        let evaluated = subject(der)
            .and_then(|subject| Ok((self.template.evaluate(&subject)?, subject)))
            .map_err(|violations| {
                violations
                    .iter()
                    .map(provisioning_fault)
                    .collect::<Vec<_>>()
            })?;
        let (provisioning, subject) = evaluated;
        let registered = Registered::new(certificate_id, &subject, provisioning);
        match self.rights(&registered) {
            Ok(_) => Ok(registered),
            Err(fault) => Err(vec![fault]),
        }
    }

    fn rights(&self, registered: &Registered) -> Result<Rights, ProvisioningFault> {
        let mut policies = Vec::new();
        for name in &registered.policy_names {
            let Some(policy) = self.policies.get(name) else {
                return Err(fault(
                    "policy-not-found",
                    format!("the policy `{name}` was not given to the rehearsal"),
                    Some("Policy default version not found".to_owned()),
                ));
            };
            policies.push(policy.clone());
        }
        for document in &registered.policy_documents {
            policies.push(
                IotPolicy::parse(document)
                    .map_err(|e| fault("policy-invalid", sentences(&e.0), None))?,
            );
        }
        let subject = Subject::from_der(&decode_hex(&registered.subject).unwrap_or_default())
            .map_err(|violations| fault("subject-invalid", sentences(&violations), None))?;
        Ok(Rights {
            registered: registered.clone(),
            subject,
            policies,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn subject(der: &[u8]) -> Result<Subject, Vec<Violation>> {
    let values = subject_of(der).map_err(|fault| match fault {
        SubjectFault::Subject(violations) => violations,
        SubjectFault::Malformed(detail) => vec![Violation {
            rule: "certificate-der",
            attribute: None,
            detail,
        }],
    })?;
    Subject::new(values)
}

impl State {
    fn take(&mut self, registered: Registered) {
        if let Some(name) = &registered.thing_name
            && let Entry::Vacant(vacant) = self.things.entry(name.clone())
        {
            vacant.insert(registered.certificate_id.clone());
        }
        self.certificates
            .insert(registered.certificate_id.clone(), registered);
    }

    /// A line that cannot be written costs the next rehearsal a first connection, no more.
    fn write(&mut self, registered: &Registered) {
        if let (Some(file), Ok(mut line)) = (&mut self.file, serde_json::to_string(registered)) {
            line.push('\n');
            if let Err(error) = file.write_all(line.as_bytes()) {
                tracing::warn!(%error, "the state file was not written");
            }
        }
    }
}

impl Registered {
    fn pending(certificate_id: String) -> Self {
        Self {
            certificate_id,
            status: Status::PendingActivation,
            subject: String::new(),
            thing_name: None,
            thing_type: None,
            groups: Vec::new(),
            attributes: BTreeMap::new(),
            billing_group: None,
            policy_names: Vec::new(),
            policy_documents: Vec::new(),
        }
    }

    fn new(certificate_id: &str, subject: &Subject, made: Provisioning) -> Self {
        let mut registered = Self {
            status: match made.certificate_status {
                CertificateStatus::Active => Status::Active,
                CertificateStatus::Inactive => Status::Inactive,
            },
            subject: hex(&subject.to_der()),
            thing_name: made.thing_name,
            thing_type: made.thing_type,
            groups: made.groups,
            attributes: made.attributes,
            billing_group: made.billing_group,
            ..Self::pending(certificate_id.to_owned())
        };
        for policy in made.policies {
            match policy {
                Policy::Name(name) => registered.policy_names.push(name),
                Policy::Document(document) => registered.policy_documents.push(document),
            }
        }
        registered
    }

    /// The policies, for a person.
    #[must_use]
    pub fn policies(&self) -> Vec<String> {
        let documents = self.policy_documents.iter();
        let made = documents.map(|_| "(a document in the template)".to_owned());
        self.policy_names.iter().cloned().chain(made).collect()
    }
}

fn fault(rule: &str, detail: String, aws_reason: Option<String>) -> ProvisioningFault {
    ProvisioningFault {
        rule: rule.to_owned(),
        detail,
        aws_reason,
    }
}

/// AWS's text for a missing parameter, as its audit log showed it; for the rest none is known.
fn provisioning_fault(violation: &Violation) -> ProvisioningFault {
    let parameter = match violation.attribute.as_deref() {
        Some("C") => Some("Country"),
        Some("O") => Some("Organization"),
        Some("OU") => Some("OrganizationalUnit"),
        Some("dnQualifier") => Some("DistinguishedNameQualifier"),
        Some("ST") => Some("StateName"),
        Some("CN") => Some("CommonName"),
        Some("serialNumber") => Some("SerialNumber"),
        _ => None,
    };
    let aws_reason = match parameter {
        Some(parameter) if violation.rule == "jitp-parameter-missing" => Some(format!(
            "Invalid registration template. Cannot resolve reference value: \
             {{Ref=AWS::IoT::Certificate::{parameter}}}"
        )),
        _ => None,
    };
    fault(violation.rule, violation.detail.clone(), aws_reason)
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(octet).collect()
}
