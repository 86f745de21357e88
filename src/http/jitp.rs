//! `/v1/jitp`: lint a provisioning template, and evaluate a device against one. Nothing is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::web;
use actix_web::web::{Data, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::Principal;
use crate::ca::Role;
use crate::http::body;
use crate::http::certificates;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::pki::Violation;
use crate::pki::certificate::SubjectFault;
use crate::pki::certificate::subject_of;
use crate::pki::jitp::Finding;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::Provisioning;
use crate::pki::jitp::Report;
use crate::pki::jitp::TemplateFault;
use crate::pki::name::AttributeType;
use crate::pki::name::each_name_once;
use crate::pki::profile::Profile;
use crate::pki::profile::evaluation::Basis;
use crate::pki::profile::evaluation::Evaluation;
use crate::pki::profile::known_attributes;
use crate::pki::serial::SerialNumber;

/// Body of a lint request: a template, a profile, or both.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LintBody {
    /// The template as text: the plain body or a registration config. Without it: the profile's.
    template: Option<String>,
    /// Profile's name: will every subject that it admits provision?
    profile: Option<String>,
}

/// What the lint found.
#[derive(Serialize, ToSchema)]
#[schema(as = JitpReport)]
#[allow(dead_code, reason = "the schema of `Report`")]
struct ReportBody {
    /// AWS IoT refuses the template, or it cannot work for more than one device.
    errors: Vec<FindingBody>,
    /// What only a try in the account can settle, and what is likely not meant.
    warnings: Vec<FindingBody>,
}

/// One finding.
#[derive(Serialize, ToSchema)]
#[schema(as = JitpFinding)]
#[allow(dead_code, reason = "the schema of `Finding`")]
struct FindingBody {
    /// Stable name of the rule; the manual's page `jitp` has them all.
    rule: String,
    /// JSON pointer into the template.
    pointer: String,
    /// What is wrong or uncertain, and what would be right.
    detail: String,
}

/// Body of an evaluation request: a template or a profile, and one of the three ways to say a
/// subject.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EvaluateBody {
    /// The template as text.
    template: Option<String>,
    /// Profile's name: its name rules, fixed attributes and template are taken.
    profile: Option<String>,
    /// Subject attributes by short name.
    #[serde(default, deserialize_with = "each_name_once")]
    subject: Option<BTreeMap<String, String>>,
    /// A certificate, PEM: its subject is taken.
    certificate: Option<String>,
    /// Serial number of a certificate issued here.
    serial_number: Option<String>,
}

/// What AWS IoT would make of the device, or why it would not.
#[derive(Serialize, ToSchema)]
struct EvaluationBody {
    /// What it would make; null when there are violations.
    #[schema(value_type = Option<Object>)]
    provisioning: Option<Provisioning>,
    /// Why it would not; rule, attribute, detail.
    #[schema(value_type = Vec<Object>)]
    violations: Vec<Violation>,
    /// What the device may stumble over although it is provisioned; rule, attribute, detail.
    #[schema(value_type = Vec<Object>)]
    warnings: Vec<Violation>,
    /// What is doubtful about the template itself.
    #[schema(value_type = Vec<FindingBody>)]
    template_warnings: Vec<Finding>,
}

/// Lint a template, alone or with a profile. A template with errors is an answer, not a problem.
#[utoipa::path(
    post, path = "/v1/jitp/lint", tag = "jitp", request_body = LintBody,
    responses(
        (status = 200, body = ReportBody, description = "the report"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "the request cannot be read, or there is no such profile")
    )
)]
pub async fn lint(
    request: HttpRequest,
    _who: Authenticated,
    ca: Data<Ca>,
) -> Result<Json<Report>, Problem> {
    let body: LintBody = body::json(&request)?;
    // Thousands of subjects are tried: not on a thread that other requests wait for.
    let report = web::block(move || report(&body, &ca)).await;
    report.map_err(internal)?.map(Json)
}

fn report(body: &LintBody, ca: &Ca) -> Result<Report, Problem> {
    let profile = body.profile.as_deref();
    let profile = profile.map(|name| find_profile(ca, name)).transpose()?;
    let profile = profile.as_deref();
    let (template, mut report) = match (&body.template, profile) {
        (Some(text), _) => JitpTemplate::lint(text),
        (None, Some(profile)) => {
            let template = template_of(profile)?.clone();
            let warnings = template.warnings().to_vec();
            let report = Report {
                warnings,
                ..Report::default()
            };
            (Some(template), report)
        }
        (None, None) => return Err(invalid("a template, a profile, or both are needed")),
    };
    if let (Some(template), Some(profile)) = (&template, profile) {
        report.extend(profile.subject_rules().lint(template));
    }
    Ok(report)
}

/// Evaluate one device. A device that would be refused is an answer, not a problem.
#[utoipa::path(
    post, path = "/v1/jitp/evaluate", tag = "jitp", request_body = EvaluateBody,
    responses(
        (status = 200, body = EvaluationBody, description = "what AWS IoT would make of the device, or the violations"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "the request cannot be read, the template is invalid, or what it names is not there")
    )
)]
pub async fn evaluate(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<Json<impl Serialize>, Problem> {
    let body: EvaluateBody = body::json(&request)?;
    let template;
    let profile;
    let basis = match (body.template, &body.profile) {
        (Some(text), None) => {
            let parsed = web::block(move || JitpTemplate::parse(&text)).await;
            template = parsed.map_err(internal)??;
            Basis::Template(&template)
        }
        (None, Some(name)) => {
            profile = find_profile(&ca, name)?;
            Basis::Profile(&profile)
        }
        _ => return Err(invalid("exactly one of template and profile is needed")),
    };
    let template = match basis {
        Basis::Template(template) => template,
        Basis::Profile(profile) => template_of(profile)?,
    };
    let evaluation = match attributes(
        body.subject,
        body.certificate,
        body.serial_number,
        &ca,
        &who.0,
    )
    .await?
    {
        Ok(attributes) => basis.evaluate(attributes),
        Err(violations) => Evaluation {
            violations,
            ..Evaluation::default()
        },
    };
    Ok(Json(EvaluationBody {
        provisioning: evaluation.provisioning,
        violations: evaluation.violations,
        warnings: evaluation.warnings,
        template_warnings: template.warnings().to_vec(),
    }))
}

/// The subject's attributes, or what is wrong with them already.
async fn attributes(
    subject: Option<BTreeMap<String, String>>,
    certificate: Option<String>,
    serial_number: Option<String>,
    ca: &Ca,
    who: &Principal,
) -> Result<Result<BTreeMap<AttributeType, String>, Vec<Violation>>, Problem> {
    match (subject, certificate, serial_number) {
        (Some(subject), None, None) => Ok(known_attributes(&subject)),
        (None, Some(certificate), None) => match subject_of(certificate.as_bytes()) {
            Ok(attributes) => Ok(Ok(attributes)),
            Err(SubjectFault::Subject(violations)) => Ok(Err(violations)),
            Err(fault @ SubjectFault::Malformed(_)) => Err(Problem::new(
                Slug::InvalidField,
                format!("certificate: {fault}"),
            )),
        },
        (None, None, Some(serial)) => {
            let serial = SerialNumber::from_hex(&serial).ok_or_else(certificates::not_here)?;
            let record = ca.archive.certificate(serial).await?;
            let record = record
                .filter(|record| who.role != Role::Station || record.intent.principal == who.name)
                .ok_or_else(certificates::not_here)?;
            let attributes = record.intent.subject.iter();
            Ok(Ok(attributes
                .map(|(kind, value)| (kind, value.to_owned()))
                .collect()))
        }
        _ => Err(invalid(
            "exactly one of subject, certificate and serial_number is needed",
        )),
    }
}

fn find_profile(ca: &Ca, name: &str) -> Result<Arc<Profile>, Problem> {
    ca.profiles.get(name).ok_or_else(|| {
        Problem::new(
            Slug::UnknownProfile,
            "there is no profile of this name; /v1/profiles lists them",
        )
    })
}

fn template_of(profile: &Profile) -> Result<&JitpTemplate, Problem> {
    let template = profile.jitp.as_ref();
    template.ok_or_else(|| invalid("this profile has no provisioning template"))
}

impl From<TemplateFault> for Problem {
    fn from(TemplateFault(errors): TemplateFault) -> Self {
        let violation = |found: Finding| Violation {
            rule: found.rule,
            attribute: Some(found.pointer),
            detail: found.detail,
        };
        Self::new(
            Slug::TemplateInvalid,
            "AWS IoT would refuse this template; /v1/jitp/lint tells its warnings, too",
        )
        .with_violations(errors.into_iter().map(violation).collect())
    }
}

fn invalid(detail: &str) -> Problem {
    Problem::new(Slug::InvalidField, detail)
}
