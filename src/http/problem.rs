//! RFC 9457: the only place that knows a status code for a failure.
//!
//! Clients branch on the slug: it is the last part of `type`, the label of the metric, and the
//! address of the page that explains it. 5xx say nothing of the inside; the cause goes to the log.

use std::fmt;
use std::time::Instant;

use actix_web::HttpResponse;
use actix_web::HttpResponseBuilder;
use actix_web::ResponseError;
use actix_web::http::StatusCode;
use actix_web::http::header;
use serde::Serialize;

use crate::ca::LedgerFault;
use crate::ca::SignerFault;
use crate::ca::error::IssueError;
use crate::ca::life::LifeError;
use crate::ca::log::ProofError;
use crate::ca::order::OrderRefusal;
use crate::ca::report::ReportError;
use crate::ca::rework::ReworkError;
use crate::ca::station::EnrolError;
use crate::pki::Violation;
use crate::pki::csr::CsrFault;
use crate::pki::key_policy::KeyFault;
use crate::pki::profile::Refusal;

macro_rules! slugs {
    ($($(#[$doc:meta])* $name:ident = $slug:literal, $status:ident, $title:literal;)*) => {
        /// Every kind of problem there is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Slug { $(#[doc = $title] $name,)* }

        impl Slug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Stable name: kebab-case.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $slug,)* } }

            /// HTTP status.
            #[must_use]
            pub fn status(self) -> StatusCode { match self { $(Self::$name => StatusCode::$status,)* } }

            /// One line for people.
            #[must_use]
            pub fn title(self) -> &'static str { match self { $(Self::$name => $title,)* } }
        }
    };
}

slugs! {
    MalformedJson = "malformed-json", BAD_REQUEST, "The body is not JSON";
    UnknownField = "unknown-field", BAD_REQUEST, "The body has a field that is not known";
    InvalidField = "invalid-field", BAD_REQUEST, "A field of the body is missing or of the wrong kind";
    InvalidParameter = "invalid-parameter", BAD_REQUEST, "A parameter of the address is not valid";
    MalformedCsr = "malformed-csr", BAD_REQUEST, "The certification request is malformed";
    InvalidIdempotencyKey = "invalid-idempotency-key", BAD_REQUEST, "The idempotency key is not valid";
    TicketMalformed = "ticket-malformed", BAD_REQUEST, "The ticket is malformed";
    ClientCertificateRequired = "client-certificate-required", UNAUTHORIZED, "A client certificate is required";
    Forbidden = "forbidden", FORBIDDEN, "The role does not allow this";
    StationUnknown = "station-unknown", FORBIDDEN, "The client certificate belongs to nobody known";
    StationDisabled = "station-disabled", FORBIDDEN, "The station is disabled";
    ProfileNotAllowed = "profile-not-allowed", FORBIDDEN, "The station may not use this profile";
    OrderClosed = "order-closed", FORBIDDEN, "The work order is closed";
    OrderExhausted = "order-exhausted", FORBIDDEN, "The work order's quantity is used up";
    ReworkLimit = "rework-limit", FORBIDDEN, "No more reworks are allowed";
    EnrolmentRefused = "enrolment-refused", FORBIDDEN, "The enrolment code is not good";
    ApprovalRequired = "approval-required", FORBIDDEN, "Another administrator has to approve it";
    TicketRequired = "ticket-required", FORBIDDEN, "Work orders come by ticket only";
    NotFound = "not-found", NOT_FOUND, "There is nothing here";
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    NotAcceptable = "not-acceptable", NOT_ACCEPTABLE, "None of the accepted media types can be served";
    RequestTimeout = "request-timeout", REQUEST_TIMEOUT, "The body did not arrive in time";
    DeviceAlreadyCertified = "device-already-certified", CONFLICT, "The device already has a certificate";
    PublicKeyAlreadyCertified = "public-key-already-certified", CONFLICT, "The public key is already certified";
    RequestInProgress = "request-in-progress", CONFLICT, "The same request is still being worked on";
    OrderExists = "order-exists", CONFLICT, "Another work order has this name";
    StationExists = "station-exists", CONFLICT, "Somebody else has this name";
    TicketReplayed = "ticket-replayed", CONFLICT, "Another ticket of this number was used";
    TicketWidened = "ticket-widened", CONFLICT, "The ticket would change a work order";
    OrderOpen = "order-open", CONFLICT, "The work order is not closed";
    DeviceListLate = "device-list-late", CONFLICT, "The work order takes no device list any more";
    BatchNotReady = "batch-not-ready", CONFLICT, "The batch has no package yet";
    BatchState = "batch-state", CONFLICT, "The batch is past it";
    BatchElsewhere = "batch-elsewhere", SERVICE_UNAVAILABLE, "The package lies with another replica";
    ReworkConflict = "rework-conflict", CONFLICT, "The rework does not fit the device's state";
    Gone = "gone", GONE, "It is no longer here";
    PayloadTooLarge = "payload-too-large", PAYLOAD_TOO_LARGE, "The body is too large";
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The body's media type is not supported";
    UnknownProfile = "unknown-profile", UNPROCESSABLE_ENTITY, "There is no such profile";
    UnknownOrder = "unknown-order", UNPROCESSABLE_ENTITY, "There is no such work order";
    OrderRequired = "order-required", UNPROCESSABLE_ENTITY, "The profile is made to order only";
    OrderMismatch = "order-mismatch", UNPROCESSABLE_ENTITY, "The device is not what was ordered";
    TicketSignatureInvalid = "ticket-signature-invalid", UNPROCESSABLE_ENTITY, "Nobody trusted signed the ticket";
    TicketAudience = "ticket-audience", UNPROCESSABLE_ENTITY, "The ticket is for another site";
    TicketExpired = "ticket-expired", UNPROCESSABLE_ENTITY, "The ticket is not good at this time";
    CsrSignatureInvalid = "csr-signature-invalid", UNPROCESSABLE_ENTITY, "The certification request's signature does not verify";
    CsrSignatureAlgorithm = "csr-signature-algorithm", UNPROCESSABLE_ENTITY, "The certification request's signature algorithm is not accepted";
    CsrAttributeNotAllowed = "csr-attribute-not-allowed", UNPROCESSABLE_ENTITY, "The certification request has an attribute that is not accepted";
    KeyType = "key-type", UNPROCESSABLE_ENTITY, "This kind of public key is not accepted";
    KeySize = "key-size", UNPROCESSABLE_ENTITY, "This size of public key is not accepted";
    KeyExponent = "key-exponent", UNPROCESSABLE_ENTITY, "The public exponent must be 65537";
    KeyParameters = "key-parameters", UNPROCESSABLE_ENTITY, "The public key's curve or point is not accepted";
    WeakKey = "weak-key", UNPROCESSABLE_ENTITY, "The public key is weak";
    SubjectInvalid = "subject-invalid", UNPROCESSABLE_ENTITY, "The subject is not valid";
    SubjectMismatch = "subject-mismatch", UNPROCESSABLE_ENTITY, "Two sources of the subject differ";
    ExtensionNotAllowed = "extension-not-allowed", UNPROCESSABLE_ENTITY, "The certification request asks for an extension the profile does not give";
    JitpViolation = "jitp-violation", UNPROCESSABLE_ENTITY, "AWS IoT would refuse the device";
    TemplateInvalid = "template-invalid", UNPROCESSABLE_ENTITY, "The provisioning template is not valid";
    ConfirmationMismatch = "confirmation-mismatch", UNPROCESSABLE_ENTITY, "The device does not hold what it should";
    Validity = "validity", UNPROCESSABLE_ENTITY, "The validity cannot be given";
    IdempotencyKeyReused = "idempotency-key-reused", UNPROCESSABLE_ENTITY, "The idempotency key was used for another request";
    PrivateKeySubmitted = "private-key-submitted", UNPROCESSABLE_ENTITY, "The request contains a private key";
    BatchRefused = "batch-refused", UNPROCESSABLE_ENTITY, "The batch's devices cannot all be certified";
    RecipientKey = "recipient-key", UNPROCESSABLE_ENTITY, "The recipient's key cannot be used";
    RateLimited = "rate-limited", TOO_MANY_REQUESTS, "Too many requests";
    Internal = "internal", INTERNAL_SERVER_ERROR, "The service is at fault";
    HsmUnavailable = "hsm-unavailable", SERVICE_UNAVAILABLE, "The HSM is unavailable";
    DatabaseUnavailable = "database-unavailable", SERVICE_UNAVAILABLE, "The database is unavailable";
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "More requests wait than can be served in time";
    LogUnavailable = "log-unavailable", SERVICE_UNAVAILABLE, "Nothing can be added to the log";
    ClockUntrusted = "clock-untrusted", SERVICE_UNAVAILABLE, "The service does not trust its clock";
    IssuerExpired = "issuer-expired", SERVICE_UNAVAILABLE, "The issuing CA is not valid now";
}

/// A failure on its way out.
#[derive(Debug)]
pub struct Problem {
    /// What kind.
    pub slug: Slug,
    /// For the station: what is wrong, and what would be right.
    pub detail: String,
    /// Everything that is wrong, where several things can be.
    pub violations: Vec<Violation>,
    /// For the log, never for the client.
    pub cause: Option<String>,
    /// `Allow` of a 405.
    pub allow: Option<&'static str>,
    /// `Retry-After` in seconds, where it is not the slug's.
    pub retry_after: Option<u32>,
    /// When the answer leaves, where it does not at once.
    pub leaves_at: Option<Instant>,
}

/// The body as it is sent (RFC 9457).
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// `/problems/<slug>`, a page of this service.
    #[serde(rename = "type")]
    pub kind: String,
    /// One line, the same for every problem of this type.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// The request's id, as in `X-Request-Id` and in the log.
    pub instance: String,
    /// Everything that is wrong, where several things can be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub violations: Vec<Violation>,
}

impl Problem {
    /// A problem with a detail for the station.
    pub fn new(slug: Slug, detail: impl Into<String>) -> Self {
        Self {
            slug,
            detail: detail.into(),
            violations: Vec::new(),
            cause: None,
            allow: None,
            retry_after: None,
            leaves_at: None,
        }
    }

    /// Adds all that is wrong.
    #[must_use]
    pub fn with_violations(mut self, violations: Vec<Violation>) -> Self {
        self.violations = violations;
        self
    }

    /// Adds what the log should know.
    #[must_use]
    pub fn with_cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// The response; `request_id` is filled in by the middleware that knows it.
    #[must_use]
    pub fn response(&self, request_id: &str) -> HttpResponse {
        let body = ProblemBody {
            kind: format!("/problems/{}", self.slug.as_str()),
            title: self.slug.title().into(),
            status: self.slug.status().as_u16(),
            detail: self.detail.clone(),
            instance: request_id.into(),
            violations: self.violations.clone(),
        };
        self.head(request_id)
            .content_type("application/problem+json")
            .body(serde_json::to_vec(&body).unwrap_or_default())
    }

    /// The response without its body: status, and when to try again or what else to try.
    pub(super) fn head(&self, request_id: &str) -> HttpResponseBuilder {
        let mut response = HttpResponse::build(self.slug.status());
        let usual = || {
            let seconds = self.retry_after_seconds()?;
            Some(seconds + spread(request_id, seconds))
        };
        if let Some(seconds) = self.retry_after.or_else(usual) {
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        if let Some(allow) = self.allow {
            response.insert_header((header::ALLOW, allow));
        }
        response
    }

    /// When a retry makes sense, and only then.
    fn retry_after_seconds(&self) -> Option<u32> {
        match self.slug {
            Slug::RequestInProgress
            | Slug::RateLimited
            | Slug::Overloaded
            | Slug::HsmUnavailable
            | Slug::DatabaseUnavailable => Some(1),
            Slug::BatchElsewhere | Slug::LogUnavailable => Some(5),
            Slug::ClockUntrusted | Slug::IssuerExpired => Some(60),
            _ => None,
        }
    }
}

/// Up to twice the wait again, by the request's random id: those that were refused together do not
/// come back together.
fn spread(request_id: &str, seconds: u32) -> u32 {
    let end = request_id.len().saturating_sub(4);
    let random = request_id
        .get(end..)
        .and_then(|hex| u32::from_str_radix(hex, 16).ok());
    random.unwrap_or_default() % (2 * seconds + 1)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.slug.as_str(), self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.slug.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.response("")
    }
}

impl From<IssueError> for Problem {
    fn from(error: IssueError) -> Self {
        let detail = error.to_string();
        match error {
            IssueError::UnknownProfile(_) => Self::new(Slug::UnknownProfile, detail),
            IssueError::Csr(fault) => fault.into(),
            IssueError::Refused(refusal) => refusal.into(),
            IssueError::ProfileNotAllowed(_) => Self::new(Slug::ProfileNotAllowed, detail),
            IssueError::NotAllowed(_) => Self::new(Slug::Forbidden, detail),
            IssueError::DailyCap(_) => Self {
                retry_after: Some(3_600),
                ..Self::new(Slug::RateLimited, detail)
            },
            IssueError::OrderRequired(_) => Self::new(Slug::OrderRequired, detail),
            IssueError::Order(refusal) => refusal.into(),
            IssueError::Validity(_) => Self::new(Slug::Validity, detail),
            IssueError::TooLong(_) => {
                let violation = Violation {
                    rule: "certificate-length",
                    attribute: None,
                    detail: detail.clone(),
                };
                Self::new(Slug::SubjectInvalid, detail).with_violations(vec![violation])
            }
            IssueError::IdempotencyKeyReused => Self::new(Slug::IdempotencyKeyReused, detail),
            IssueError::DeviceAlreadyCertified(serial) => Self::new(
                Slug::DeviceAlreadyCertified,
                format!(
                    "the device already has certificate {}; a new one needs an explicit rework",
                    serial.to_hex()
                ),
            ),
            IssueError::Succeeded(_) | IssueError::Scrapped => {
                Self::new(Slug::ReworkConflict, detail)
            }
            IssueError::ReworkLimit(..) => Self::new(Slug::ReworkLimit, detail),
            IssueError::PublicKeyAlreadyCertified(serial) => Self::new(
                Slug::PublicKeyAlreadyCertified,
                format!(
                    "this public key is already certified by {}; every certificate needs a key of its own",
                    serial.to_hex()
                ),
            ),
            IssueError::RequestInProgress => Self::new(Slug::RequestInProgress, detail),
            IssueError::Signer(fault) => fault.into(),
            IssueError::Ledger(fault) => fault.into(),
            IssueError::IssuerExpired(name) => Self::new(
                Slug::IssuerExpired,
                format!("issuer `{name}` is not valid now; tell the administrator"),
            ),
            IssueError::ClockUntrusted(_) => Self::new(
                Slug::ClockUntrusted,
                "the service's clock is in doubt; tell the administrator",
            )
            .with_cause(detail),
            IssueError::Log(_) => Self::new(
                Slug::LogUnavailable,
                "nothing is issued that the log does not hold; tell the administrator",
            )
            .with_cause(detail),
            IssueError::WrongSignature(_) => Self::new(
                Slug::HsmUnavailable,
                "the HSM is being checked; nothing was released",
            )
            .with_cause(detail),
            IssueError::Lint(_) | IssueError::Random(_) | IssueError::Inconsistent(_) => {
                internal(detail)
            }
        }
    }
}

impl From<LifeError> for Problem {
    fn from(error: LifeError) -> Self {
        let detail = error.to_string();
        match error {
            LifeError::NotFound => Self::new(Slug::NotFound, detail),
            LifeError::Forbidden(_) => Self::new(Slug::Forbidden, detail),
            LifeError::Differs(violations) => {
                Self::new(Slug::ConfirmationMismatch, detail).with_violations(violations)
            }
            LifeError::Succeeded(_) | LifeError::Overtaken => {
                Self::new(Slug::ReworkConflict, detail)
            }
            LifeError::Ledger(fault) => fault.into(),
            LifeError::Random => internal(detail),
        }
    }
}

impl From<ReworkError> for Problem {
    fn from(error: ReworkError) -> Self {
        match error {
            ReworkError::Device(error) => error.into(),
            ReworkError::Issue(error) => error.into(),
        }
    }
}

impl From<EnrolError> for Problem {
    fn from(error: EnrolError) -> Self {
        let detail = error.to_string();
        match error {
            EnrolError::NotConfigured => Self::new(Slug::NotFound, detail),
            EnrolError::Code => Self::new(Slug::EnrolmentRefused, detail),
            EnrolError::Request(_) => Self::new(Slug::SubjectMismatch, detail),
            EnrolError::KeyTaken => Self::new(Slug::PublicKeyAlreadyCertified, detail),
            EnrolError::Issue(error) => error.into(),
        }
    }
}

impl From<ProofError> for Problem {
    fn from(error: ProofError) -> Self {
        let detail = error.to_string();
        match error {
            ProofError::NotFound(_) => Self::new(Slug::NotFound, detail),
            ProofError::Archived(..) => Self::new(Slug::Gone, detail),
            ProofError::NotYet(_) => Self::new(Slug::LogUnavailable, detail),
            ProofError::Ledger(fault) => fault.into(),
            ProofError::Broken(_) => internal(detail),
        }
    }
}

impl From<ReportError> for Problem {
    fn from(error: ReportError) -> Self {
        let detail = error.to_string();
        match error {
            ReportError::NotFound | ReportError::NoKey => Self::new(Slug::NotFound, detail),
            ReportError::Open => Self::new(Slug::OrderOpen, detail),
            ReportError::InProgress(_) => Self::new(Slug::RequestInProgress, detail),
            ReportError::Signer(fault) => fault.into(),
            ReportError::Ledger(fault) => fault.into(),
            ReportError::WrongSignature => Self::new(
                Slug::HsmUnavailable,
                "the HSM is being checked; nothing was released",
            )
            .with_cause(detail),
            ReportError::Encoding(_) => internal(detail),
        }
    }
}

impl From<OrderRefusal> for Problem {
    fn from(refusal: OrderRefusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            OrderRefusal::Unknown(_) => Self::new(Slug::UnknownOrder, detail),
            OrderRefusal::Closed(..) => Self::new(Slug::OrderClosed, detail),
            OrderRefusal::Exhausted(_) => Self::new(Slug::OrderExhausted, detail),
            OrderRefusal::ReworksExhausted(_) => Self::new(Slug::ReworkLimit, detail),
            OrderRefusal::Station(_) => Self::new(Slug::Forbidden, detail),
            OrderRefusal::Mismatch(_, violations) => {
                Self::new(Slug::OrderMismatch, detail).with_violations(violations)
            }
        }
    }
}

impl From<CsrFault> for Problem {
    fn from(fault: CsrFault) -> Self {
        let detail = fault.to_string();
        match fault {
            CsrFault::Malformed(_) => Self::new(Slug::MalformedCsr, detail),
            CsrFault::PrivateKeySubmitted => Self::new(
                Slug::PrivateKeySubmitted,
                "the request contains a private key; it was not stored, but it has left the device: make a new key",
            ),
            CsrFault::AttributeNotAllowed(_) => Self::new(Slug::CsrAttributeNotAllowed, detail),
            CsrFault::SignatureAlgorithm(_) => Self::new(Slug::CsrSignatureAlgorithm, detail),
            CsrFault::SignatureInvalid => Self::new(Slug::CsrSignatureInvalid, detail),
            CsrFault::Key(fault) => fault.into(),
            CsrFault::Subject(violations) => {
                Self::new(Slug::SubjectInvalid, detail).with_violations(violations)
            }
        }
    }
}

impl From<KeyFault> for Problem {
    fn from(fault: KeyFault) -> Self {
        let detail = fault.to_string();
        match fault {
            KeyFault::Malformed(_) => Self::new(Slug::MalformedCsr, detail),
            KeyFault::Type(_) => Self::new(Slug::KeyType, detail),
            KeyFault::Size(_) => Self::new(Slug::KeySize, detail),
            KeyFault::Exponent(_) => Self::new(Slug::KeyExponent, detail),
            KeyFault::Parameters(_) => Self::new(Slug::KeyParameters, detail),
            KeyFault::Weak(_) => Self::new(Slug::WeakKey, detail),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::KeyType(detail) => Self::new(Slug::KeyType, detail),
            Refusal::ExtensionNotAllowed(v) => Self::new(Slug::ExtensionNotAllowed, "the certification request asks for more than the profile gives").with_violations(v),
            Refusal::SubjectInvalid(v) => Self::new(Slug::SubjectInvalid, "the subject does not fit the profile").with_violations(v),
            Refusal::SubjectMismatch(v) => Self::new(Slug::SubjectMismatch, "the sources of the subject differ").with_violations(v),
            Refusal::JitpViolation(v) => Self::new(Slug::JitpViolation, "the provisioning template would refuse this subject at the device's first connection").with_violations(v),
        }
    }
}

impl From<SignerFault> for Problem {
    fn from(fault: SignerFault) -> Self {
        let slug = match fault {
            SignerFault::Unavailable(_) | SignerFault::Deadline => Slug::HsmUnavailable,
            SignerFault::Overloaded => Slug::Overloaded,
        };
        Self::new(
            slug,
            "nothing was issued that you did not get; try again with the same request",
        )
        .with_cause(fault)
    }
}

impl From<LedgerFault> for Problem {
    fn from(fault: LedgerFault) -> Self {
        let slug = match fault {
            LedgerFault::Unavailable(_) | LedgerFault::Deadline => Slug::DatabaseUnavailable,
            LedgerFault::Overloaded => Slug::Overloaded,
        };
        Self::new(
            slug,
            "nothing was issued that you did not get; try again with the same request",
        )
        .with_cause(fault)
    }
}

/// Ours: the station learns only that it is.
pub fn internal(cause: impl fmt::Display) -> Problem {
    Problem::new(
        Slug::Internal,
        "the service is at fault, not your request; the log has the cause under this request id",
    )
    .with_cause(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_refused_together_are_not_told_to_come_back_together() {
        for (slug, wait) in [(Slug::Overloaded, 1), (Slug::ClockUntrusted, 60)] {
            let problem = Problem::new(slug, "busy");
            let mut told = std::collections::BTreeMap::<u32, u32>::new();
            for _ in 0..1_000 {
                let id = uuid::Uuid::now_v7().as_simple().to_string();
                let response = problem.response(&id);
                let header = response.headers().get(header::RETRY_AFTER).unwrap();
                let seconds = header.to_str().unwrap().parse().unwrap();
                *told.entry(seconds).or_default() += 1;
            }
            assert_eq!(told.first_key_value().unwrap().0, &wait);
            assert_eq!(told.last_key_value().unwrap().0, &(3 * wait));
            assert!(told.values().all(|times| *times < 450), "{told:?}");
        }
    }
}
