//! What the entries say of each other: nothing is issued twice, nothing ends twice, no order gets
//! more than it ordered.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;

use chrono::DateTime;
use chrono::Utc;
use openssl::sha::sha256;
use serde::Deserialize;

use crate::cli::audit::verify::Summary;
use crate::cli::audit::verify::faults::Faults;
use crate::pki::entry::Entry;
use crate::pki::entry::ISSUED;
use crate::pki::entry::Issued;
use crate::pki::parse_hex;

/// The first half of a digest is enough to tell a million things apart, and half the memory.
type Short = [u8; 16];

/// All that was told so far.
#[derive(Default)]
pub(super) struct Story {
    last: Option<DateTime<Utc>>,
    certificates: HashMap<Short, Life>,
    public_keys: HashSet<Short>,
    /// First certificates of devices, by slot.
    devices: HashSet<Short>,
    orders: BTreeMap<String, Order>,
    kinds: BTreeMap<String, u64>,
    binaries: BTreeMap<String, u64>,
    abandoned: u64,
    /// Entries were left out: what is not there before may be in one of them.
    gap: bool,
}

/// A certificate, from its entry to its end.
#[derive(Default)]
struct Life {
    device: Short,
    confirmed: bool,
    end: Option<End>,
    scrapped: bool,
    order: Option<Box<str>>,
}

/// How a certificate ended, its device's end apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Superseded,
    Revoked,
}

impl Life {
    fn ended(&self) -> bool {
        self.end.is_some() || self.scrapped
    }
}

/// A work order and what was made under it.
#[derive(Default)]
struct Order {
    created_at: u64,
    quantity: i64,
    scrap_allowance: i64,
    firsts: i64,
    scrapped: i64,
    created: bool,
}

#[derive(Deserialize)]
struct LifeEvent<'a> {
    serial_number: &'a str,
}

#[derive(Deserialize)]
struct OrderEvent {
    order: String,
    quantity: Option<i64>,
    scrap_allowance: Option<i64>,
}

#[derive(Deserialize)]
struct StartedEvent {
    binary_sha256: Option<String>,
}

impl Story {
    /// One more entry; of a certificate, what it says. `Err`: it does not fit those before it.
    pub(super) fn tell(&mut self, entry: &Entry<'_>) -> Result<Option<Issued>, String> {
        *self.kinds.entry(entry.kind.to_owned()).or_default() += 1;
        let before = self.last.replace(entry.at);
        if before.is_some_and(|before| before > entry.at) {
            return Err("its time is before that of the entry before it".to_owned());
        }
        let event = entry.event.get();
        match entry.kind {
            ISSUED => {
                let issued = entry.issued().map_err(|e| e.to_string())?;
                self.issued(&issued)?;
                Ok(Some(issued))
            }
            "confirmed" | "superseded" | "revoked" | "scrapped" => {
                let event: LifeEvent<'_> = read(event)?;
                self.lived(entry.kind, event.serial_number)?;
                Ok(None)
            }
            "abandoned" => {
                self.abandoned += 1;
                Ok(None)
            }
            "order-created" | "order-changed" => {
                let event: OrderEvent = read(event)?;
                let order = self.orders.entry(event.order).or_default();
                order.created = true;
                order.created_at = entry.index;
                order.quantity = event.quantity.unwrap_or_default();
                order.scrap_allowance = event.scrap_allowance.unwrap_or_default();
                Ok(None)
            }
            "started" => {
                let event: StartedEvent = read(event)?;
                let binary = event.binary_sha256.unwrap_or_else(|| "unknown".to_owned());
                *self.binaries.entry(binary).or_default() += 1;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Entries that nobody reads follow.
    pub(super) fn skip(&mut self) {
        self.gap = true;
    }

    fn issued(&mut self, issued: &Issued) -> Result<(), String> {
        let serial: Short = parse_hex(&issued.serial_number)
            .ok_or_else(|| "its serial number is not 32 hexadecimal digits".to_owned())?;
        let device = short(&[&issued.slot, "\0", &issued.device].concat());
        if !self.public_keys.insert(short(&issued.spki_sha256)) {
            return Err(format!(
                "the public key of certificate {} is certified before",
                issued.serial_number
            ));
        }
        let replaced = match &issued.supersedes {
            None => {
                if issued.kind == "device" && !self.devices.insert(device) {
                    return Err(format!("device {} has a certificate before", issued.device));
                }
                None
            }
            Some(serial) => Some(serial),
        };
        if let Some(replaced) = replaced {
            let known =
                parse_hex(replaced).and_then(|serial: Short| self.certificates.get(&serial));
            let gap = self.gap;
            if known.map_or(!gap, |earlier| earlier.device != device) {
                return Err(format!(
                    "it replaces {replaced}, which device {} has not",
                    issued.device
                ));
            }
        } else if let Some(name) = &issued.order {
            let order = self.orders.entry(name.clone()).or_default();
            order.firsts += 1;
            if order.created {
                let scrapped = order.scrapped.min(order.scrap_allowance);
                if order.firsts - scrapped > order.quantity {
                    return Err(format!("order {name} has more devices than were ordered"));
                }
            }
        }
        let life = Life {
            device,
            order: issued.order.as_deref().map(Box::from),
            ..Life::default()
        };
        if self.certificates.insert(serial, life).is_some() {
            return Err(format!(
                "serial number {} is there before",
                issued.serial_number
            ));
        }
        Ok(())
    }

    fn lived(&mut self, kind: &str, serial_number: &str) -> Result<(), String> {
        let unknown = || format!("certificate {serial_number} is not there before");
        let serial: Short = parse_hex(serial_number).ok_or_else(unknown)?;
        let life = match self.certificates.get_mut(&serial) {
            Some(life) => life,
            None if self.gap => return Ok(()),
            None => return Err(unknown()),
        };
        let twice = || {
            Err(format!(
                "certificate {serial_number} is {kind} twice, or after its end"
            ))
        };
        if kind == "scrapped" {
            if std::mem::replace(&mut life.scrapped, true) {
                return twice();
            }
            let name = life.order.as_deref();
            if let Some(order) = name.and_then(|name| self.orders.get_mut(name)) {
                order.scrapped += 1;
            }
            return Ok(());
        }
        if life.ended() || (kind == "confirmed" && life.confirmed) {
            return twice();
        }
        match kind {
            "confirmed" => life.confirmed = true,
            "superseded" => life.end = Some(End::Superseded),
            _ => life.end = Some(End::Revoked),
        }
        Ok(())
    }

    /// What can be said only at the end.
    pub(super) fn finish(self, summary: &mut Summary, faults: &mut Faults) {
        let lives = || self.certificates.values();
        let count = |of: fn(&Life) -> bool| {
            let count = lives().filter(|life| of(life)).count();
            u64::try_from(count).unwrap_or(u64::MAX)
        };
        summary.confirmed = count(|life| life.confirmed && !life.ended());
        summary.superseded = count(|life| life.end == Some(End::Superseded) && !life.scrapped);
        summary.revoked = count(|life| life.end == Some(End::Revoked) && !life.scrapped);
        summary.scrapped = count(|life| life.scrapped);
        summary.abandoned = self.abandoned;
        let created = self.orders.iter().filter(|(_, order)| order.created);
        summary.orders = u64::try_from(created.clone().count()).unwrap_or(u64::MAX);
        for (name, order) in created {
            let scrapped = order.scrapped.min(order.scrap_allowance);
            if order.firsts - scrapped > order.quantity {
                let what = format!("order {name} has more devices than were ordered");
                faults.entry(order.created_at, what);
            }
        }
        summary.kinds = self.kinds;
        summary.binaries = self.binaries;
    }
}

fn short(text: &str) -> Short {
    let hash = sha256(text.as_bytes());
    let (first, _) = hash.as_chunks::<16>();
    first.first().copied().unwrap_or_default()
}

fn read<'a, T: Deserialize<'a>>(event: &'a str) -> Result<T, String> {
    serde_json::from_str(event).map_err(|error| format!("its event: {error}"))
}
