//! A batch's intake: every row is judged as the spine will judge it, before the first key is made.
//!
//! What is found is told by row, the first hundred of it; then nothing is kept. A certification
//! request is verified here, and its row goes on as a subject and a public key. What a row shows by
//! itself is looked at on every core, what only all of them show by one.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;
use std::thread::ScopedJoinHandle;

use tokio::sync::mpsc;

use crate::ca::KeyOrigin;
use crate::ca::Principal;
use crate::ca::batch::Attributes;
use crate::ca::batch::CHUNK_ROWS;
use crate::ca::batch::Part;
use crate::ca::batch::list::Row;
use crate::ca::batch::list::RowFault;
use crate::ca::batch::list::RowKey;
use crate::ca::batch::step_back;
use crate::ca::batch::twins::Twins;
use crate::ca::order::OrderRefusal;
use crate::ca::order::WorkOrder;
use crate::pki::Violation;
use crate::pki::csr::CertificationRequest;
use crate::pki::key_policy::KeyAlgorithm;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::profile::Profile;
use crate::pki::profile::Refusal;

/// Faults that are told, at most.
pub const FAULTS_MAX: usize = 100;
/// Rows that are read before they are judged together.
const TOGETHER: usize = 500;

/// By what the rows are judged.
pub struct Rules<'a> {
    /// The batch's profile.
    pub profile: &'a Profile,
    /// The batch's work order.
    pub order: Option<&'a WorkOrder>,
    /// In whose name it issues.
    pub principal: &'a Principal,
    /// The keys that are made here; `None`: each row has one.
    pub made: Option<KeyAlgorithm>,
    /// Whether the rows come by a list, and must be kept.
    pub listed: bool,
}

/// Why a batch is not let in.
#[derive(Debug)]
pub enum Refused {
    /// These rows, of the first that are, cannot be certified.
    Rows(Vec<RowFault>),
    /// Nobody takes the rows any more: what there is to say, the book says.
    Closed,
}

/// Judges all rows and hands them on, a chunk at a time; then says where their keys come from.
/// Blocks where `parts` is full.
pub fn judge(
    rules: &Rules<'_>,
    mut rows: impl Iterator<Item = Result<Row, RowFault>>,
    parts: &mpsc::Sender<Part>,
) -> Result<(), Refused> {
    let mut intake = Judge::new(rules);
    let mut read = || rows.by_ref().take(TOGETHER).collect::<Vec<_>>();
    let mut some = read();
    'list: while !some.is_empty() {
        let (judged, next) = rules.judge_all(some, &mut read);
        some = next;
        for row in judged {
            match row.and_then(|row| intake.row(row)) {
                Ok(()) if intake.faults.is_empty() => intake.hand_on(parts, CHUNK_ROWS)?,
                // Nothing will be kept, so nothing is.
                Ok(()) => intake.chunk.clear(),
                Err(fault) => {
                    let fatal = fault.fatal;
                    intake.faults.push(fault);
                    if fatal || intake.faults.len() == FAULTS_MAX {
                        break 'list;
                    }
                }
            }
        }
    }
    intake.end(parts)
}

/// A row by itself.
struct Judged {
    number: u32,
    origin: KeyOrigin,
    /// What the profile and the order say of it.
    verdict: Result<Admitted, RowFault>,
}

/// A row that can be certified if no other is like it.
struct Admitted {
    device: String,
    /// `None` where the rows need not be kept.
    subject: Option<Attributes>,
    /// DER of the key it brings.
    public_key: Option<Vec<u8>>,
}

impl Rules<'_> {
    /// Each row by itself, in their order; and what was read meanwhile.
    fn judge_all<T>(
        &self,
        rows: Vec<Result<Row, RowFault>>,
        read: impl FnOnce() -> T,
    ) -> (Vec<Result<Judged, RowFault>>, T) {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let share = rows.len().div_ceil(cores);
        let mut rows = rows.into_iter();
        thread::scope(|scope| {
            let mut threads = Vec::with_capacity(cores);
            while rows.len() > 0 {
                let some: Vec<_> = rows.by_ref().take(share).collect();
                threads.push(scope.spawn(move || {
                    step_back();
                    let judged = some.into_iter().map(|row| self.judge(row?));
                    judged.collect::<Vec<_>>()
                }));
            }
            let next = read();
            let ended = threads.into_iter().map(ScopedJoinHandle::join);
            let judged =
                ended.flat_map(|judged| judged.unwrap_or_else(|panic| resume_unwind(panic)));
            (judged.collect(), next)
        })
    }

    /// One row, as the spine would see it.
    fn judge(&self, row: Row) -> Result<Judged, RowFault> {
        let number = row.number;
        let fault = |rule, detail: String| RowFault {
            row: number,
            rule,
            attribute: None,
            detail,
            fatal: false,
        };
        let (request, origin) = match (row.key, self.made) {
            (RowKey::None, Some(_)) => (None, KeyOrigin::Made),
            (RowKey::None, None) => {
                let detail = "the batch makes no keys, and the row has none";
                return Err(fault("key-missing", detail.to_owned()));
            }
            (_, Some(_)) => {
                let detail = "the batch makes the keys, and the row has one";
                return Err(fault("key-not-wanted", detail.to_owned()));
            }
            (RowKey::Csr(octets), None) => {
                let request = CertificationRequest::parse(&octets)
                    .map_err(|csr| fault(csr.slug(), csr.to_string()))?;
                (Some(request), KeyOrigin::Request)
            }
            (RowKey::PublicKey(_), None) if !self.profile.bare_public_keys => {
                let detail = format!(
                    "profile {} wants certification requests: nothing shows that the device has the key",
                    self.profile.name
                );
                return Err(fault("bare-public-key", detail));
            }
            (RowKey::PublicKey(octets), None) => {
                let key = SubjectPublicKeyInfo::from_der(&octets)
                    .map_err(|key| fault(key.slug(), key.to_string()))?;
                (
                    Some(CertificationRequest::stand_in(key)),
                    KeyOrigin::PublicKey,
                )
            }
        };
        let verdict = self.admit(number, request.as_ref(), row.subject);
        Ok(Judged {
            number,
            origin,
            verdict,
        })
    }

    /// The row's subject and key by the profile, and whether its order takes it.
    fn admit(
        &self,
        row: u32,
        request: Option<&CertificationRequest>,
        requested: Attributes,
    ) -> Result<Admitted, RowFault> {
        let refused = |refusal: Refusal| {
            let slug = refusal.slug();
            named(row, slug, refusal.into_violations())
        };
        let profile = self.profile;
        let (device, subject) = if let Some(request) = request {
            let admission = profile.admit(request, Some(&requested)).map_err(refused)?;
            let subject = self.listed.then(|| {
                let attributes = admission.subject.iter();
                attributes
                    .map(|(kind, value)| (kind.short_name().to_owned(), value.to_owned()))
                    .collect::<BTreeMap<_, _>>()
            });
            (admission.device, subject)
        } else {
            let device = profile.admit_subject(&requested).map_err(refused)?;
            (device, self.listed.then_some(requested))
        };
        if let Some(order) = self.order {
            let (who, what) = (&self.principal.name, &profile.name);
            order.admits(who, what, &device).map_err(|refusal| {
                let detail = refusal.to_string();
                match refusal {
                    OrderRefusal::Mismatch(_, violations) => {
                        named(row, "order-mismatch", violations)
                    }
                    _ => named(row, "order-mismatch", vec![violation(detail)]),
                }
            })?;
        }
        Ok(Admitted {
            device,
            subject,
            public_key: request.map(|request| request.public_key.as_der().to_vec()),
        })
    }
}

/// The rows that wait for their chunk to be full.
#[derive(Default)]
struct Rows {
    devices: Vec<String>,
    subjects: Vec<Attributes>,
    public_keys: Vec<Vec<u8>>,
}

impl Rows {
    fn clear(&mut self) {
        *self = Self::default();
    }
}

struct Judge<'a> {
    rules: &'a Rules<'a>,
    chunk: Rows,
    first_row: i32,
    count: u32,
    devices: Twins,
    keys: Twins,
    origin: Option<KeyOrigin>,
    faults: Vec<RowFault>,
}

impl<'a> Judge<'a> {
    fn new(rules: &'a Rules<'a>) -> Self {
        Self {
            rules,
            chunk: Rows::default(),
            first_row: 1,
            count: 0,
            devices: Twins::new(),
            keys: Twins::new(),
            origin: rules.made.map(|_| KeyOrigin::Made),
            faults: Vec::new(),
        }
    }

    /// The row among those before it.
    fn row(&mut self, row: Judged) -> Result<(), RowFault> {
        self.count = row.number;
        if *self.origin.get_or_insert(row.origin) != row.origin {
            let detail = "all rows have a certification request, or all a bare public key";
            return Err(RowFault {
                row: row.number,
                rule: "key-mixed",
                attribute: None,
                detail: detail.to_owned(),
                fatal: false,
            });
        }
        let admitted = row.verdict?;
        self.devices.add(row.number, admitted.device.as_bytes());
        self.chunk.devices.push(admitted.device);
        self.chunk.subjects.extend(admitted.subject);
        if let Some(key) = &admitted.public_key {
            self.keys.add(row.number, key);
        }
        self.chunk.public_keys.extend(admitted.public_key);
        Ok(())
    }

    /// Sends the chunk on when it has `rows` rows.
    fn hand_on(&mut self, parts: &mpsc::Sender<Part>, rows: u32) -> Result<(), Refused> {
        let held = self.chunk.devices.len();
        if held == 0 || u32::try_from(held).unwrap_or(u32::MAX) < rows {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        let first_row = self.first_row;
        self.first_row += i32::try_from(held).unwrap_or(i32::MAX);
        let part = Part::Chunk {
            first_row,
            devices: chunk.devices,
            subjects: self.rules.listed.then_some(chunk.subjects),
            public_keys: self.rules.made.is_none().then_some(chunk.public_keys),
        };
        parts.blocking_send(part).map_err(|_| Refused::Closed)
    }

    /// The last chunk, and what can be seen of all rows only.
    fn end(mut self, parts: &mpsc::Sender<Part>) -> Result<(), Refused> {
        let left = FAULTS_MAX - self.faults.len();
        let (devices, keys) = (
            std::mem::take(&mut self.devices),
            std::mem::take(&mut self.keys),
        );
        for (rule, twins) in [("duplicate-device", devices), ("duplicate-key", keys)] {
            for (first, again) in twins.find(left) {
                self.faults.push(RowFault {
                    row: again,
                    rule,
                    attribute: None,
                    detail: format!("the same stands in row {first}"),
                    fatal: false,
                });
            }
        }
        if let Some(order) = self.rules.order
            && self.faults.is_empty()
            && i64::from(self.count) > order.quantity
        {
            self.faults.push(RowFault {
                row: 0,
                rule: "order-exhausted",
                attribute: None,
                detail: format!(
                    "{} devices, and the order is for {}",
                    self.count, order.quantity
                ),
                fatal: false,
            });
        }
        let Some(key_origin) = self.origin.filter(|_| self.faults.is_empty()) else {
            self.faults.sort_by_key(|fault| fault.row);
            self.faults.truncate(FAULTS_MAX);
            return Err(Refused::Rows(self.faults));
        };
        self.hand_on(parts, 1)?;
        let end = Part::End { key_origin };
        parts.blocking_send(end).map_err(|_| Refused::Closed)
    }
}

/// A violation's rule says more than the slug; the row stands before both.
fn named(row: u32, slug: &'static str, violations: Vec<Violation>) -> RowFault {
    let mut violations = violations.into_iter();
    let first = violations.next();
    let detail = first.as_ref().map_or("", |it| it.detail.as_str());
    let detail = match violations.count() {
        0 => detail.to_owned(),
        more => format!("{detail} (and {more} more)"),
    };
    RowFault {
        row,
        rule: slug,
        attribute: first.and_then(|it| it.attribute),
        detail,
        fatal: false,
    }
}

fn violation(detail: String) -> Violation {
    Violation {
        rule: "order",
        attribute: None,
        detail,
    }
}
