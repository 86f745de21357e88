//! Stations and people: who is registered, and what administrators do about it.
//!
//! A role says what somebody may do at all; [`Rights`] say of what, from where, when and how much.
//! They hang on the key that was presented, by the live table, and are asked for on every request.
//! How a key comes into the table is in [`enrolment`].

pub mod daily;
pub mod enrolment;
pub mod rights;

pub use daily::DailyCaps;
pub use enrolment::EnrolError;
pub use rights::Act;
pub use rights::Rights;

use chrono::{DateTime, NaiveDate, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::station::enrolment::enrolment_code;

/// Somebody who is registered, with or without a key.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Unique name, `[A-Za-z0-9._-]{1,64}`.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Of what, from where, when and how much.
    pub rights: Rights,
    /// A disabled one may do nothing.
    pub disabled: bool,
    /// Who registered them, and when (database time).
    pub created: (Option<String>, DateTime<Utc>),
    /// SHA-256 over the keys that they may connect with, oldest first.
    pub keys: Vec<[u8; 32]>,
}

/// What an administrator does to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StationAct {
    /// Registers somebody, and has an enrolment code made.
    Add {
        /// Unique name.
        name: String,
        /// The role's word.
        role: String,
        /// Rights.
        rights: Rights,
    },
    /// Has another enrolment code made; the keys die when it is used.
    Code {
        /// Whose.
        name: String,
    },
    /// Gives other rights.
    Rights {
        /// Whose.
        name: String,
        /// All of them.
        rights: Rights,
    },
    /// Lets somebody in again.
    Enable {
        /// Whom.
        name: String,
    },
    /// Shuts somebody out.
    Disable {
        /// Whom.
        name: String,
    },
}

impl StationAct {
    /// Whom it is about.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Add { name, .. }
            | Self::Code { name }
            | Self::Rights { name, .. }
            | Self::Enable { name }
            | Self::Disable { name } => name,
        }
    }

    /// Whether an enrolment code comes of it.
    #[must_use]
    pub fn needs_code(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::Code { .. })
    }
}

/// An act, and the code that it makes known, by its hash.
#[derive(Clone, Debug)]
pub struct CodedAct {
    /// What is to be done.
    pub act: StationAct,
    /// SHA-256 over the enrolment code, where the act makes one.
    pub code_sha256: Option<[u8; 32]>,
}

/// What came of an act.
#[derive(Clone, Debug)]
pub enum Acted {
    /// It is done.
    Done(Box<Registration>),
    /// Another one has this name.
    NameTaken,
    /// There is nobody of this name.
    Unknown,
}

/// A proposal of one administrator.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Its id.
    pub id: Uuid,
    /// What is to be done.
    pub act: StationAct,
    /// Who wants it, and when (database time).
    pub proposed: (String, DateTime<Utc>),
    /// Who approved it, and when (database time).
    pub approved: Option<(String, DateTime<Utc>)>,
}

/// What came of an approval.
#[derive(Clone, Debug)]
pub enum Approved {
    /// It is approved, and this came of the act; whether the enrolment code is good now.
    Acted(Acted, bool),
    /// There is no such proposal.
    Unknown,
    /// The proposal is the approver's own.
    Own,
    /// It was approved before.
    Before(Box<Proposal>),
}

/// The book of stations and people.
pub trait StationBook: Send + Sync {
    /// All registrations by name, or the one of a name.
    fn registrations(
        &self,
        name: Option<String>,
    ) -> PortFuture<'_, Result<Vec<Registration>, LedgerFault>>;

    /// Does it. Adding the same again with the same role and rights only makes another code.
    fn act(&self, act: CodedAct, by: String) -> PortFuture<'_, Result<Acted, LedgerFault>>;

    /// Keeps the act for another administrator.
    fn propose(&self, act: StationAct, by: String)
    -> PortFuture<'_, Result<Proposal, LedgerFault>>;

    /// Proposals that nobody has approved, oldest first.
    fn proposals(&self) -> PortFuture<'_, Result<Vec<Proposal>, LedgerFault>>;

    /// Approves and does it, in one.
    fn approve(
        &self,
        proposal: Uuid,
        code_sha256: [u8; 32],
        by: String,
    ) -> PortFuture<'_, Result<Approved, LedgerFault>>;

    /// Uses an enrolment code for a key; `false`: it is not good for this name and key. Safe to
    /// repeat with the same key until the code expires.
    fn use_code(
        &self,
        code_sha256: [u8; 32],
        name: String,
        spki_sha256: [u8; 32],
    ) -> PortFuture<'_, Result<bool, LedgerFault>>;

    /// Adds a key. The others die: at once, or an hour later, so that an answer that was lost can be
    /// asked for again. `false`: the key is somebody else's, or was replaced.
    fn add_key(
        &self,
        name: String,
        spki_sha256: [u8; 32],
        others_linger: bool,
    ) -> PortFuture<'_, Result<bool, LedgerFault>>;

    /// Devices that each of these had certified since the day began, UTC.
    fn devices_since(
        &self,
        names: Vec<String>,
        day: NaiveDate,
    ) -> PortFuture<'_, Result<Vec<(String, u32)>, LedgerFault>>;
}

/// How client certificates are issued; from the configuration.
#[derive(Clone, Debug)]
pub struct StationIssuing {
    /// The issuer, which issues nothing else.
    pub issuer: String,
    /// Days a client certificate is valid.
    pub days: u32,
    /// Whether what widens rights needs two administrators.
    pub four_eyes: bool,
}

impl Ca {
    /// What an administrator wants done: done, or kept for a second one where it widens what
    /// somebody may do and `four_eyes` is on.
    pub async fn administer(
        &self,
        act: StationAct,
        by: &Principal,
    ) -> Result<Administered, EnrolError> {
        let four_eyes = self.stations.as_ref().is_some_and(|it| it.four_eyes);
        if four_eyes && self.widens(&act).await? {
            let proposal = self.station_book.propose(act, by.name.clone()).await?;
            return Ok(Administered::Proposed(Box::new(proposal)));
        }
        let code = act.needs_code().then(enrolment_code).transpose()?;
        let (code, code_sha256) = code.unzip();
        let act = CodedAct { act, code_sha256 };
        let acted = self.station_book.act(act, by.name.clone()).await?;
        Ok(Administered::Acted(acted, code))
    }

    /// The second administrator's word.
    pub async fn approve(
        &self,
        proposal: Uuid,
        by: &Principal,
    ) -> Result<(Approved, SecretString), EnrolError> {
        let (code, hash) = enrolment_code()?;
        let approved = self.station_book.approve(proposal, hash, by.name.clone());
        Ok((approved.await?, code))
    }

    async fn widens(&self, act: &StationAct) -> Result<bool, LedgerFault> {
        Ok(match act {
            StationAct::Disable { .. } => false,
            StationAct::Rights { name, rights } => {
                let known = self.station_book.registrations(Some(name.clone())).await?;
                known
                    .first()
                    .is_some_and(|known| !rights.within(&known.rights))
            }
            StationAct::Add { .. } | StationAct::Code { .. } | StationAct::Enable { .. } => true,
        })
    }
}

/// What came of an administrator's wish.
#[derive(Debug)]
pub enum Administered {
    /// It is done; with the enrolment code, where there is one.
    Acted(Acted, Option<SecretString>),
    /// Another administrator has to approve it.
    Proposed(Box<Proposal>),
}
