//! The manual: part of this documentation, and served at `/manual`, because a factory network has
//! no internet.

#![allow(clippy::doc_markdown, reason = "the pages are prose")]

/// Its pages, by name.
pub const PAGES: &[(&str, &str)] = &[
    ("install", include_str!("manual/install.md")),
    ("issuance", include_str!("manual/issuance.md")),
    ("orders", include_str!("manual/orders.md")),
    ("transport", include_str!("manual/transport.md")),
    ("revocation", include_str!("manual/revocation.md")),
    ("jitp", include_str!("manual/jitp.md")),
    ("threat-model", include_str!("manual/threat-model.md")),
    ("decisions", include_str!("manual/decisions.md")),
    ("batches", include_str!("manual/batches.md")),
    ("audit", include_str!("manual/audit.md")),
    ("stations", include_str!("manual/stations.md")),
    ("life", include_str!("manual/life.md")),
    ("aws-roads", include_str!("manual/aws-roads.md")),
    ("rehearsal", include_str!("manual/rehearsal.md")),
    ("problems", PROBLEMS),
];

/// A `## slug` section for each problem.
pub const PROBLEMS: &str = include_str!("manual/problems.md");

#[doc = include_str!("manual/install.md")]
pub mod install {}

#[doc = include_str!("manual/issuance.md")]
pub mod issuance {}

#[doc = include_str!("manual/orders.md")]
pub mod orders {}

#[doc = include_str!("manual/batches.md")]
pub mod batches {}

#[doc = include_str!("manual/audit.md")]
pub mod audit {}

#[doc = include_str!("manual/stations.md")]
pub mod stations {}

#[doc = include_str!("manual/life.md")]
pub mod life {}
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

#[doc = include_str!("manual/problems.md")]
pub mod problems {}
