//! Stations and people: who they are, what each may do, and how they come by their keys.
//!
//! A role says what somebody may do at all; [`Rights`] say of what, from where, when and how much.
//! They hang on the key that was presented, by the live table, and are asked for on every request.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use chrono::{DateTime, Datelike, NaiveDate, Timelike, Utc, Weekday};
use ipnet::IpNet;
use secrecy::SecretString;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::Intent;
use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::error::IssueError;
use crate::ca::issue;
use crate::ca::issue::IssuedCertificate;
use crate::pki::csr::CertificationRequest;
use crate::pki::hex;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::TbsCertificate;
use crate::pki::tbs::ToBeSigned;
use crate::pki::validity::Validity;

/// What stands where a device's certificate names its profile. No profile can be called so: their
/// names are of a-z, 0-9 and `-`.
pub const PROFILE: &str = "station_certificate";

/// Most entries of each list in [`Rights`].
const LIST_LENGTH_MAX: usize = 100;

/// Something that a role may let a station do, and its rights may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Issue to a device that has no certificate.
    Issue,
    /// Confirm at the end of the line.
    Confirm,
    /// Issue another certificate to a device that has one.
    Rework,
    /// Scrap a device.
    Scrap,
}

impl Act {
    /// What a station may do whose rights name no act.
    const OF_A_STATION: [Self; 2] = [Self::Issue, Self::Confirm];
}

/// What somebody may do of what their role may. An empty list and an absent number limit nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rights {
    /// Of a station: what it may do; without it, issue and confirm.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Act>,
    /// Profiles it may use. Named, they also let a station confirm, rework and scrap every device
    /// of theirs, and not only those it asked for itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Work orders it may book on; it must then name one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<String>,
    /// Networks it may come from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// Times at which it may ask, UTC.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<Hours>,
    /// Requests a second, on average; see the configuration's `[limits]` for who has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// Devices it may have certified between midnight and midnight, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices_per_day: Option<u32>,
}

impl Rights {
    /// Everything that is wrong with them.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let lengths = [
            ("acts", self.acts.len()),
            ("profiles", self.profiles.len()),
            ("orders", self.orders.len()),
            ("networks", self.networks.len()),
            ("hours", self.hours.len()),
        ];
        for (name, length) in lengths {
            if length > LIST_LENGTH_MAX {
                faults.push(format!("{name}: at most {LIST_LENGTH_MAX}"));
            }
        }
        let names = self.profiles.iter().chain(&self.orders);
        if names.clone().any(|name| !crate::ca::order::is_name(name)) {
            faults.push("profiles, orders: not a name".to_owned());
        }
        if self.requests_per_second == Some(0) || self.devices_per_day == Some(0) {
            faults.push("requests_per_second, devices_per_day: 1 or more".to_owned());
        }
        faults
    }

    /// Whether these allow nothing that the others do not.
    #[must_use]
    pub fn within(&self, others: &Self) -> bool {
        fn subset<T: PartialEq>(these: &[T], others: &[T]) -> bool {
            others.is_empty() || (!these.is_empty() && these.iter().all(|it| others.contains(it)))
        }
        fn below(this: Option<u32>, other: Option<u32>) -> bool {
            other.is_none_or(|other| this.is_some_and(|this| this <= other))
        }
        // Named profiles reach other stations' devices, so naming some where none were named widens.
        let reach = !others.profiles.is_empty() || self.profiles.is_empty();
        reach
            && self.acts().iter().all(|act| others.acts().contains(act))
            && subset(&self.profiles, &others.profiles)
            && subset(&self.orders, &others.orders)
            && subset(&self.networks, &others.networks)
            && subset(&self.hours, &others.hours)
            && below(self.requests_per_second, others.requests_per_second)
            && below(self.devices_per_day, others.devices_per_day)
    }

    fn acts(&self) -> &[Act] {
        if self.acts.is_empty() {
            &Act::OF_A_STATION
        } else {
            &self.acts
        }
    }
}

/// Hours of some days of the week, UTC: `mon-fri 06:00-22:00`, `sat 06:00-14:00`. The second time is
/// not among them; `24:00` is the day's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    days: (Weekday, Weekday),
    minutes: (u32, u32),
}

impl Hours {
    fn contain(&self, now: DateTime<Utc>) -> bool {
        let (first, last) = self.days;
        let day = now.weekday().days_since(first) <= last.days_since(first);
        let minute = now.hour() * 60 + now.minute();
        day && (self.minutes.0..self.minutes.1).contains(&minute)
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (days, times) = text.split_once(' ')?;
            let (first, last) = days.split_once('-').unwrap_or((days, days));
            let (from, to) = times.split_once('-')?;
            let minutes = (minute(from)?, minute(to)?);
            (minutes.0 < minutes.1).then_some(Self {
                days: (day(first)?, day(last)?),
                minutes,
            })
        };
        parse().ok_or_else(|| "hours look like `mon-fri 06:00-22:00`".to_owned())
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |day: Weekday| day.to_string().to_lowercase();
        let (first, last) = self.days;
        f.write_str(&day(first))?;
        if first != last {
            write!(f, "-{}", day(last))?;
        }
        let (from, to) = self.minutes;
        write!(
            f,
            " {:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        )
    }
}

impl Serialize for Hours {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

fn day(text: &str) -> Option<Weekday> {
    (text.len() == 3).then(|| text.parse().ok()).flatten()
}

fn minute(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        (text.len() == 2)
            .then(|| text.parse::<u32>().ok())
            .flatten()
    };
    let minutes = number(hour)? * 60 + number(minute).filter(|minute| *minute < 60)?;
    (minutes <= 24 * 60).then_some(minutes)
}

impl Principal {
    /// Whether they may ask anything at all, from there and now; `Err` says why not.
    pub fn may_ask(&self, from: Option<IpAddr>, now: DateTime<Utc>) -> Result<(), &'static str> {
        let Rights {
            networks, hours, ..
        } = &self.rights;
        if !networks.is_empty()
            && !from.is_some_and(|from| networks.iter().any(|network| network.contains(&from)))
        {
            return Err("not from this network");
        }
        if !hours.is_empty() && !hours.iter().any(|hours| hours.contain(now)) {
            return Err("not at this hour");
        }
        Ok(())
    }

    /// Whether their rights allow the act. Whether their role does is asked before.
    #[must_use]
    pub fn may(&self, act: Act) -> bool {
        self.role != Role::Station || self.rights.acts().contains(&act)
    }

    /// Whether they may see a device of the profile whose certificate `asked_by` asked for.
    #[must_use]
    pub fn may_see(&self, profile: &str, asked_by: &str) -> bool {
        self.role != Role::Station
            || self.name == asked_by
            || self.rights.profiles.iter().any(|named| named == profile)
    }

    /// Whether they may issue by the profile and on the order.
    pub fn may_issue(&self, profile: &str, order: Option<&str>) -> Result<(), IssueError> {
        let Rights {
            profiles, orders, ..
        } = &self.rights;
        if !self.may(Act::Issue) {
            return Err(IssueError::NotAllowed("issue"));
        }
        if !profiles.is_empty() && !profiles.iter().any(|named| named == profile) {
            return Err(IssueError::ProfileNotAllowed(profile.to_owned()));
        }
        if !orders.is_empty() && !orders.iter().any(|named| Some(named.as_str()) == order) {
            return Err(IssueError::NotAllowed("book on this order, or on none"));
        }
        Ok(())
    }
}

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

    /// Devices that each of these had certified since the last midnight, UTC.
    fn devices_today(
        &self,
        names: Vec<String>,
    ) -> PortFuture<'_, Result<Vec<(String, u32)>, LedgerFault>>;
}

/// Devices that stations with a daily cap had certified today, as far as this replica knows: what the
/// ledger counted when it was last asked, and what was issued here since. So a cap may be passed by
/// what other replicas issue between two looks.
#[derive(Default)]
pub struct DailyCaps(Mutex<HashMap<String, Count>>);

#[derive(Clone, Copy)]
struct Count {
    day: NaiveDate,
    devices: u32,
}

impl DailyCaps {
    /// Counts one more; `false`: the cap is reached. `None`: the ledger has not been asked today.
    fn take(&self, name: &str, cap: u32, day: NaiveDate) -> Option<bool> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get_mut(name).filter(|count| count.day == day)?;
        let fits = count.devices < cap;
        count.devices += u32::from(fits);
        Some(fits)
    }

    fn give_back(&self, name: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(name) {
            count.devices = count.devices.saturating_sub(1);
        }
    }

    fn put(&self, name: String, devices: u32, day: NaiveDate) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.insert(name, Count { day, devices });
    }

    fn names(&self) -> Vec<String> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.keys().cloned().collect()
    }
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

/// Why there is no enrolment.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No station issuer is configured.
    #[error("this service issues no client certificates")]
    NotConfigured,
    /// The code is unknown, expired, used for another key, or for another name.
    #[error("the enrolment code is not good for this name and key, or not any more")]
    Code,
    /// The request asks for something else.
    #[error("{0}")]
    Request(String),
    /// The key is somebody's.
    #[error("the public key was enrolled before; make a new one")]
    KeyTaken,
    /// The certificate was not issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

impl From<LedgerFault> for EnrolError {
    fn from(fault: LedgerFault) -> Self {
        Self::Issue(fault.into())
    }
}

/// A fresh enrolment code: 256 random bits as 64 hexadecimal digits, and their SHA-256.
pub fn enrolment_code() -> Result<(SecretString, [u8; 32]), IssueError> {
    let code = hex(&issue::random::<32>()?);
    let hash = openssl::sha::sha256(code.as_bytes());
    Ok((SecretString::from(code), hash))
}

impl Ca {
    /// Takes one of the devices that the principal may have certified today; whoever took one and
    /// did not issue gives it back.
    pub(super) async fn take_daily(&self, principal: &Principal) -> Result<(), IssueError> {
        let Some(cap) = principal.rights.devices_per_day else {
            return Ok(());
        };
        let day = self.clock.now().date_naive();
        loop {
            match self.daily_caps.take(&principal.name, cap, day) {
                Some(true) => return Ok(()),
                Some(false) => return Err(IssueError::DailyCap(cap)),
                None => self.count_daily(vec![principal.name.clone()]).await?,
            }
        }
    }

    pub(super) fn give_back_daily(&self, principal: &Principal) {
        if principal.rights.devices_per_day.is_some() {
            self.daily_caps.give_back(&principal.name);
        }
    }

    /// Asks the ledger again what stations with a daily cap had certified today.
    pub async fn recount_daily(&self) -> Result<(), LedgerFault> {
        let names = self.daily_caps.names();
        if names.is_empty() {
            return Ok(());
        }
        self.count_daily(names).await
    }

    async fn count_daily(&self, names: Vec<String>) -> Result<(), LedgerFault> {
        let day = self.clock.now().date_naive();
        for (name, devices) in self.station_book.devices_today(names).await? {
            self.daily_caps.put(name, devices, day);
        }
        Ok(())
    }

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

    /// A client certificate for whoever holds the code; the key is theirs from then on, and earlier
    /// ones are nobody's. The same again gets the same certificate until the code expires.
    ///
    /// Run it in a task of its own, as [`Ca::issue`].
    pub async fn enrol(
        &self,
        name: &str,
        code_sha256: [u8; 32],
        csr: &[u8],
        deadline: Instant,
    ) -> Result<IssuedCertificate, EnrolError> {
        let csr = self.station_request(name, csr)?;
        let key = csr.public_key.sha256();
        let good = self
            .station_book
            .use_code(code_sha256, name.to_owned(), key);
        if !good.await? {
            return Err(EnrolError::Code);
        }
        self.certify_station(name, &csr, deadline, false).await
    }

    /// A client certificate for another key of somebody who is connected. The key so far is good
    /// for another hour. The same again gets the same certificate.
    ///
    /// Run it in a task of its own, as [`Ca::issue`].
    pub async fn renew_station(
        &self,
        principal: &Principal,
        csr: &[u8],
        deadline: Instant,
    ) -> Result<IssuedCertificate, EnrolError> {
        let csr = self.station_request(&principal.name, csr)?;
        self.certify_station(&principal.name, &csr, deadline, true)
            .await
    }

    fn station_request(&self, name: &str, csr: &[u8]) -> Result<CertificationRequest, EnrolError> {
        if self.stations.is_none() {
            return Err(EnrolError::NotConfigured);
        }
        let csr = CertificationRequest::parse(csr).map_err(IssueError::Csr)?;
        if !csr.excess_extensions.is_empty() {
            let why = "the request asks for extensions that no client certificate has";
            return Err(EnrolError::Request(why.to_owned()));
        }
        let other = |(kind, value): (&AttributeType, &String)| {
            *kind != AttributeType::CommonName || value != name
        };
        if csr.subject.iter().any(other) {
            let why = format!("the request's subject must be empty or CN={name}");
            return Err(EnrolError::Request(why));
        }
        Ok(csr)
    }

    async fn certify_station(
        &self,
        name: &str,
        csr: &CertificationRequest,
        deadline: Instant,
        others_linger: bool,
    ) -> Result<IssuedCertificate, EnrolError> {
        let issuing = self.stations.as_ref().ok_or(EnrolError::NotConfigured)?;
        let issuer = self.issuer(&issuing.issuer)?;
        let days = issuing.days;
        let (now, validity) =
            self.could_issue(issuer, |now| Validity::of_days(days, now, issuer))?;
        let subject = Subject::new([(AttributeType::CommonName, name.to_owned())].into())
            .map_err(|_| EnrolError::Request("the name cannot be a CN".to_owned()))?;
        let serial_number = SerialNumber::new(self.instance, issue::random()?);
        let tbs =
            TbsCertificate::station(issuer, serial_number, validity, &subject, &csr.public_key)
                .map_err(IssueError::Lint)?;
        let spki_sha256 = csr.public_key.sha256();
        let intent = Intent {
            id: issue::intent_id(now)?,
            kind: crate::pki::tbs::LeafKind::Station,
            serial_number,
            issuer: issuer.name.clone(),
            profile: PROFILE.to_owned(),
            // There is no profile: over nothing.
            profile_sha256: openssl::sha::sha256(&[]),
            principal: name.to_owned(),
            idempotency_key: None,
            request_sha256: issue::request_hash(&[
                PROFILE.as_bytes(),
                name.as_bytes(),
                &spki_sha256,
            ]),
            order: None,
            // One certificate a key; a name may have one after the other.
            device: name.to_owned(),
            slot: format!("{PROFILE} {}", hex(&spki_sha256)),
            subject,
            thing_name: None,
            spki_sha256,
            validity,
            tbs: tbs.to_be_signed().to_vec(),
            rework: None,
        };
        let certificate = self.carry_out(intent, tbs, deadline).await?;
        // Last: until then nobody connects with it, and the same request comes here again.
        let added = self
            .station_book
            .add_key(name.to_owned(), spki_sha256, others_linger);
        if added.await? {
            Ok(certificate)
        } else {
            Err(EnrolError::KeyTaken)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn hours_hold_their_days_and_minutes_and_say_so_again() {
        let shift: Hours = "mon-fri 06:00-22:00".parse().unwrap();
        assert_eq!(shift.to_string(), "mon-fri 06:00-22:00");
        // 2026-11-27 is a Friday.
        for (time, inside) in [
            ("2026-11-27T06:00:00Z", true),
            ("2026-11-27T21:59:59Z", true),
            ("2026-11-27T22:00:00Z", false),
            ("2026-11-27T05:59:59Z", false),
            ("2026-11-28T12:00:00Z", false),
        ] {
            assert_eq!(shift.contain(at(time)), inside, "{time}");
        }
        let weekend: Hours = "sat-mon 00:00-24:00".parse().unwrap();
        assert!(weekend.contain(at("2026-11-29T23:59:59Z")));
        assert!(!weekend.contain(at("2026-12-01T00:00:00Z")));
        for wrong in [
            "",
            "mon",
            "mon 6:00-22:00",
            "mon 22:00-06:00",
            "mon 06:00-24:01",
            "mon 06:60-07:00",
            "xyz 06:00-07:00",
            "monday 06:00-07:00",
        ] {
            assert!(wrong.parse::<Hours>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rights_that_allow_more_are_told_from_those_that_allow_less() {
        let rights = |json: &str| serde_json::from_str::<Rights>(json).unwrap();
        let all = rights("{}");
        let some =
            rights(r#"{"orders":["WO-1"],"networks":["10.0.0.0/8"],"requests_per_second":5}"#);
        assert!(some.within(&all) && !all.within(&some));
        assert!(all.within(&all) && some.within(&some));
        assert!(!rights(r#"{"acts":["issue","scrap"]}"#).within(&all));
        assert!(rights(r#"{"acts":["confirm"]}"#).within(&all));
        // Other stations' devices come into reach.
        assert!(!rights(r#"{"profiles":["lightbulb"]}"#).within(&all));
        assert!(serde_json::from_str::<Rights>(r#"{"admin":true}"#).is_err());
    }
}
