//! The manual: part of this documentation, and served at `/manual`, because a factory network has
//! no internet. And the runbooks, served at `/runbooks`.

#![allow(clippy::doc_markdown, reason = "the pages are prose")]

/// Its pages, by name.
pub const PAGES: &[(&str, &str)] = &[
    ("install", include_str!("manual/install.md")),
    ("issuance", include_str!("manual/issuance.md")),
    ("orders", include_str!("manual/orders.md")),
    ("head-office", include_str!("manual/head-office.md")),
    ("transport", include_str!("manual/transport.md")),
    ("revocation", include_str!("manual/revocation.md")),
    ("jitp", include_str!("manual/jitp.md")),
    ("threat-model", include_str!("manual/threat-model.md")),
    ("decisions", include_str!("manual/decisions.md")),
    ("batches", include_str!("manual/batches.md")),
    ("audit", include_str!("manual/audit.md")),
    ("stations", include_str!("manual/stations.md")),
    ("life", include_str!("manual/life.md")),
    ("pages", include_str!("manual/pages.md")),
    ("aws-roads", include_str!("manual/aws-roads.md")),
    ("rehearsal", include_str!("manual/rehearsal.md")),
    ("running", include_str!("manual/running.md")),
    ("replicas", include_str!("manual/replicas.md")),
    (
        "high-availability",
        include_str!("manual/high-availability.md"),
    ),
    ("monitoring", include_str!("manual/monitoring.md")),
    ("sizing", include_str!("manual/sizing.md")),
    ("problems", PROBLEMS),
];

/// A `## slug` section for each problem.
pub const PROBLEMS: &str = include_str!("manual/problems.md");

/// What the list of runbooks begins with.
pub const RUNBOOKS_INTRODUCTION: &str = include_str!("../deploy/runbooks/README.md");

/// Runbooks: a page for each alert and each problem that is the service's own.
pub const RUNBOOKS: &[(&str, &str)] = &[
    (
        "backup-old",
        include_str!("../deploy/runbooks/backup-old.md"),
    ),
    (
        "batch-stalled",
        include_str!("../deploy/runbooks/batch-stalled.md"),
    ),
    (
        "clock-untrusted",
        include_str!("../deploy/runbooks/clock-untrusted.md"),
    ),
    ("crl-late", include_str!("../deploy/runbooks/crl-late.md")),
    (
        "database-pool-exhausted",
        include_str!("../deploy/runbooks/database-pool-exhausted.md"),
    ),
    (
        "database-unavailable",
        include_str!("../deploy/runbooks/database-unavailable.md"),
    ),
    (
        "database-unreachable",
        include_str!("../deploy/runbooks/database-unreachable.md"),
    ),
    (
        "disk-nearly-full",
        include_str!("../deploy/runbooks/disk-nearly-full.md"),
    ),
    (
        "error-budget-burn",
        include_str!("../deploy/runbooks/error-budget-burn.md"),
    ),
    (
        "hsm-key-unusable",
        include_str!("../deploy/runbooks/hsm-key-unusable.md"),
    ),
    (
        "hsm-pin-refused",
        include_str!("../deploy/runbooks/hsm-pin-refused.md"),
    ),
    (
        "hsm-queue-wait",
        include_str!("../deploy/runbooks/hsm-queue-wait.md"),
    ),
    (
        "hsm-token-unreachable",
        include_str!("../deploy/runbooks/hsm-token-unreachable.md"),
    ),
    (
        "hsm-unavailable",
        include_str!("../deploy/runbooks/hsm-unavailable.md"),
    ),
    ("internal", include_str!("../deploy/runbooks/internal.md")),
    (
        "issuance-slow",
        include_str!("../deploy/runbooks/issuance-slow.md"),
    ),
    (
        "issuer-expired",
        include_str!("../deploy/runbooks/issuer-expired.md"),
    ),
    (
        "issuer-expires",
        include_str!("../deploy/runbooks/issuer-expires.md"),
    ),
    (
        "journal-not-writable",
        include_str!("../deploy/runbooks/journal-not-writable.md"),
    ),
    (
        "log-checkpoint-late",
        include_str!("../deploy/runbooks/log-checkpoint-late.md"),
    ),
    (
        "log-halted",
        include_str!("../deploy/runbooks/log-halted.md"),
    ),
    (
        "log-unavailable",
        include_str!("../deploy/runbooks/log-unavailable.md"),
    ),
    (
        "order-nearly-used-up",
        include_str!("../deploy/runbooks/order-nearly-used-up.md"),
    ),
    (
        "overloaded",
        include_str!("../deploy/runbooks/overloaded.md"),
    ),
    (
        "partition-missing",
        include_str!("../deploy/runbooks/partition-missing.md"),
    ),
    (
        "plant-disagrees",
        include_str!("../deploy/runbooks/plant-disagrees.md"),
    ),
    (
        "plant-feed-late",
        include_str!("../deploy/runbooks/plant-feed-late.md"),
    ),
    (
        "profile-ends",
        include_str!("../deploy/runbooks/profile-ends.md"),
    ),
    (
        "server-certificate-expires",
        include_str!("../deploy/runbooks/server-certificate-expires.md"),
    ),
    (
        "service-down",
        include_str!("../deploy/runbooks/service-down.md"),
    ),
    (
        "standby-not-read",
        include_str!("../deploy/runbooks/standby-not-read.md"),
    ),
    (
        "tls-files-refused",
        include_str!("../deploy/runbooks/tls-files-refused.md"),
    ),
    (
        "witness-late",
        include_str!("../deploy/runbooks/witness-late.md"),
    ),
    (
        "witness-refuses",
        include_str!("../deploy/runbooks/witness-refuses.md"),
    ),
];

#[doc = include_str!("manual/install.md")]
pub mod install {}

#[doc = include_str!("manual/issuance.md")]
pub mod issuance {}

#[doc = include_str!("manual/orders.md")]
pub mod orders {}

#[doc = include_str!("manual/head-office.md")]
pub mod head_office {}

#[doc = include_str!("manual/batches.md")]
pub mod batches {}

#[doc = include_str!("manual/audit.md")]
pub mod audit {}

#[doc = include_str!("manual/stations.md")]
pub mod stations {}

#[doc = include_str!("manual/life.md")]
pub mod life {}

#[doc = include_str!("manual/pages.md")]
pub mod pages {}

#[doc = include_str!("manual/transport.md")]
pub mod transport {}

#[doc = include_str!("manual/revocation.md")]
pub mod revocation {}

#[doc = include_str!("manual/jitp.md")]
pub mod jitp {}

#[doc = include_str!("manual/threat-model.md")]
pub mod threat_model {}

#[doc = include_str!("manual/decisions.md")]
pub mod decisions {}

#[doc = include_str!("manual/aws-roads.md")]
pub mod aws_roads {}
#[doc = include_str!("manual/rehearsal.md")]
pub mod rehearsal {}

#[doc = include_str!("manual/running.md")]
pub mod running {}

#[doc = include_str!("manual/replicas.md")]
pub mod replicas {}

#[doc = include_str!("manual/high-availability.md")]
pub mod high_availability {}

#[doc = include_str!("manual/monitoring.md")]
pub mod monitoring {}

#[doc = include_str!("manual/sizing.md")]
pub mod sizing {}

#[doc = include_str!("manual/problems.md")]
pub mod problems {}
