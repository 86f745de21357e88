//! What tells replicas on one database apart: each has an instance octet of its own, a part in the work,
//! and perhaps a duty that one of them does before the others.
//!
//! None of it keeps anything single: constraints and compare-and-swap in the database do. An octet that
//! another replica took is found out by the ledger, which then stores nothing under it; a duty only says
//! who goes first, and whoever else works does what is overdue.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::RwLock;

use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::LedgerFault;
use crate::pki::serial::InstanceByte;

/// What a replica does: at least one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Everything.
    All,
    /// Answers stations and people.
    Api,
    /// What no request waits for: batches, CRLs, checkpoints, what was left open, partitions.
    Jobs,
}

impl Part {
    /// All there are.
    pub const EACH: [Self; 3] = [Self::All, Self::Api, Self::Jobs];

    /// The word on the command line, in the table and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Jobs => "jobs",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::EACH.into_iter().find(|part| part.as_str() == word)
    }

    /// Whether it answers stations.
    #[must_use]
    pub fn serves(self) -> bool {
        self != Self::Jobs
    }

    /// Whether it works on what no request waits for.
    #[must_use]
    pub fn works(self) -> bool {
        self != Self::Api
    }
}

/// What one of the replicas that work does first. The others do what it leaves undone for a while: it may
/// be paused, or without its HSM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// Signs checkpoints of the log.
    Checkpoints,
    /// Renews CRLs.
    Crls,
    /// Brings intents that were left open to their end.
    OpenIntents,
}

impl Duty {
    /// All there are.
    pub const EACH: [Self; 3] = [Self::Checkpoints, Self::Crls, Self::OpenIntents];

    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checkpoints => "checkpoints",
            Self::Crls => "crls",
            Self::OpenIntents => "open_intents",
        }
    }
}

/// This replica among the others.
pub struct Replica {
    /// Who it is, for the life of its process.
    pub id: Uuid,
    /// What it does.
    pub part: Part,
    standing: RwLock<Standing>,
}

/// How a replica stands, as the database last said.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The octet it holds, or why it holds none.
    pub octet: Result<InstanceByte, String>,
    /// What it does first.
    pub duties: Vec<Duty>,
    /// Replicas that live, by their part, this one among them.
    pub living: BTreeMap<Part, u32>,
}

impl Replica {
    /// One that holds nothing yet.
    #[must_use]
    pub fn new(part: Part) -> Self {
        let standing = Standing {
            octet: Err("no instance octet was claimed yet".to_owned()),
            duties: Vec::new(),
            living: BTreeMap::new(),
        };
        Self {
            id: Uuid::now_v7(),
            part,
            standing: RwLock::new(standing),
        }
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let standing = self.standing.read();
        standing.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the database said. Returns the octet that was held before.
    pub fn stands(&self, now: Standing) -> Option<InstanceByte> {
        let mut standing = self
            .standing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *standing, now).octet.ok()
    }

    /// Nothing is known of the others: no duty is this one's. The octet stays: that another has it is for
    /// the ledger to find out.
    pub fn alone(&self) {
        let mut standing = self
            .standing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        standing.duties.clear();
        standing.living.clear();
    }

    /// The octet for a serial number, or why there is none now.
    pub fn octet(&self) -> Result<InstanceByte, String> {
        let standing = self.standing.read();
        standing
            .unwrap_or_else(PoisonError::into_inner)
            .octet
            .clone()
    }

    /// Whether this one goes first.
    #[must_use]
    pub fn has(&self, duty: Duty) -> bool {
        let standing = self.standing.read();
        standing
            .unwrap_or_else(PoisonError::into_inner)
            .duties
            .contains(&duty)
    }

    /// What no living replica does. Empty while nothing is known of them.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let living = self.standing().living;
        if living.is_empty() {
            return Vec::new();
        }
        let nobody = |does: fn(Part) -> bool| !living.keys().any(|part| does(*part));
        let jobs = nobody(Part::works).then_some(
            "no replica works on jobs: nobody signs checkpoints, makes CRLs and batches, or finishes what was left open; start one with `serve --role jobs`",
        );
        let api = nobody(Part::serves)
            .then_some("no replica answers stations; start one with `serve --role api`");
        jobs.into_iter().chain(api).collect()
    }
}

impl Ca {
    /// The first octet of a serial number that is made now.
    pub(super) fn instance(&self) -> Result<InstanceByte, LedgerFault> {
        self.replica.octet().map_err(LedgerFault::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, Replica, Standing};

    fn among(living: &[(Part, u32)]) -> Replica {
        let replica = Replica::new(Part::Api);
        replica.stands(Standing {
            living: living.iter().copied().collect(),
            ..replica.standing()
        });
        replica
    }

    #[test]
    fn what_nobody_does_is_missing_once_the_others_are_known() {
        assert!(among(&[]).missing().is_empty());
        assert!(among(&[(Part::All, 1)]).missing().is_empty());
        assert!(
            among(&[(Part::Api, 2), (Part::Jobs, 1)])
                .missing()
                .is_empty()
        );
        let [jobs] = among(&[(Part::Api, 2)]).missing()[..] else {
            panic!("one thing is missing")
        };
        assert!(jobs.contains("--role jobs"), "{jobs}");
        let [api] = among(&[(Part::Jobs, 1)]).missing()[..] else {
            panic!("one thing is missing")
        };
        assert!(api.contains("--role api"), "{api}");
    }

    #[test]
    fn each_part_has_its_word() {
        for part in Part::EACH {
            assert_eq!(Part::from_word(part.as_str()), Some(part));
            assert!(part.serves() || part.works());
        }
    }
}
