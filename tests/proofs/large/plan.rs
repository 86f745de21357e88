//! What happens, in which order and when: pure arithmetic over the number of a certificate.

use std::collections::BTreeMap;

use certfactory::pki::serial::InstanceByte;
use certfactory::pki::serial::SerialNumber;
use chrono::DateTime;
use chrono::Utc;
use uuid::Uuid;

/// Certificates of a chunk: what one thread makes at a time.
pub const CHUNK: u64 = 2_000;
/// Lines of the factory, each with an order of its own, and the stations of a line.
const LINES: u64 = 4;
const STATIONS_OF_LINE: u64 = 5;
/// Stations of the factory.
pub const STATIONS: u64 = LINES * STATIONS_OF_LINE;
/// Devices of an order, and the places on the line that they take: one of fifty is a sample and
/// belongs to no order.
pub const QUANTITY: u64 = 10_000;
const SAMPLE_EVERY: u64 = 50;
/// Of so many samples one is a workshop tool, whose issuer signs with RSA, which takes long.
const TOOL_EVERY: u64 = 20;
/// Of a thousand certificates.
const CONFIRMED: u64 = 900;
const REVOKED: u64 = 5;
const SCRAPPED: u64 = 2;
/// So many chunks later a certificate may end.
const END_LAGS: [u64; 4] = [0, 1, 10, 100];
/// From asking to recording, in microseconds; a confirmation's row is as much before its entry.
pub const ASKED_BEFORE: i64 = 6_000;
pub const STORED_BEFORE: i64 = 4_000;
pub const HAPPENED_BEFORE: i64 = 300;
/// From a certificate to its confirmation at the end of the line, at most.
const CONFIRMED_WITHIN: i64 = 600_000_000;

/// A work order's number: its line, and its place among those of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    line: u64,
    place: u64,
}

impl Order {
    pub fn name(self) -> String {
        format!("WO-{}-{:05}", self.line + 1, self.place + 1)
    }

    /// The stations that may book on it.
    pub fn stations(self) -> Vec<String> {
        let first = self.line * STATIONS_OF_LINE;
        (first..first + STATIONS_OF_LINE).map(station).collect()
    }
}

/// A station's name, from its number, from 0.
pub fn station(number: u64) -> String {
    format!("station-{:02}", number + 1)
}

/// How a certificate ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Revoked,
    Scrapped,
}

/// An entry of the log: what it tells. Certificates by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Created(Order),
    Issued(u64),
    Confirmed(u64),
    Ended(u64, End),
    Closed(Order),
}

/// Entries that follow each other.
pub struct Chunk {
    pub number: u64,
    /// Its certificates' numbers.
    pub certificates: std::ops::Range<u64>,
    pub first_index: u64,
    /// Times, in microseconds since 1970, and what they tell.
    pub entries: Vec<(i64, What)>,
}

/// What was made under an order.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub created_at: i64,
    pub closed_at: Option<i64>,
    pub reserved: i64,
    pub confirmed: i64,
    pub revoked: i64,
    pub scrapped: i64,
}

/// The whole of it.
#[derive(Clone)]
pub struct Plan {
    pub count: u64,
    begin: i64,
    end: i64,
    secret: [u8; 32],
    instance: InstanceByte,
}

impl Plan {
    pub fn new(
        count: u64,
        begin: DateTime<Utc>,
        end: DateTime<Utc>,
        instance: InstanceByte,
    ) -> Self {
        let mut secret = [0; 32];
        openssl::rand::rand_bytes(&mut secret).unwrap();
        Self {
            count,
            begin: begin.timestamp_micros(),
            end: end.timestamp_micros(),
            secret,
            instance,
        }
    }

    /// When certificate n is recorded.
    pub fn time(&self, n: u64) -> i64 {
        let span = i128::from(self.end - self.begin) * i128::from(n) / i128::from(self.count);
        self.begin + i64::try_from(span).unwrap()
    }

    /// Random numbers of certificate n, for any purpose: two runs of the plan draw the same.
    fn chance(&self, n: u64, purpose: u64) -> u64 {
        let (secret, _) = self.secret.as_chunks::<8>();
        // splitmix64
        let mut z = u64::from_ne_bytes(secret[0]).wrapping_add(
            n.wrapping_mul(8)
                .wrapping_add(purpose)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15),
        );
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Serial number and intent of certificate n: as random as the secret is.
    pub fn names(&self, n: u64) -> (SerialNumber, Uuid) {
        let mut sha = openssl::sha::Sha256::new();
        sha.update(&self.secret);
        sha.update(&n.to_be_bytes());
        let random = sha.finish();
        let serial = SerialNumber::new(self.instance, random[..15].try_into().unwrap());
        let asked = self.time(n) - ASKED_BEFORE;
        let mut bytes: [u8; 10] = random[15..25].try_into().unwrap();
        // Within a millisecond the order is kept by the next twelve bits.
        let fraction = asked.rem_euclid(1_000) * 4_096 / 1_000;
        bytes[..2].copy_from_slice(&u16::try_from(fraction).unwrap().to_be_bytes());
        let milliseconds = u64::try_from(asked.div_euclid(1_000)).unwrap();
        let id = uuid::Builder::from_unix_timestamp_millis(milliseconds, &bytes).into_uuid();
        (serial, id)
    }

    /// The scalar of device n's key, n left out: its private half is this number plus n.
    pub fn key_base(&self) -> [u8; 32] {
        let mut base = openssl::sha::sha256(&self.secret);
        // Below the order of the group, whatever is added.
        base[0] &= 0x7f;
        base
    }

    /// Number of the station that asked.
    pub fn station(&self, n: u64) -> u64 {
        n % LINES * STATIONS_OF_LINE + self.chance(n, 0) % STATIONS_OF_LINE
    }

    pub fn order(&self, n: u64) -> Option<Order> {
        let (line, place) = (n % LINES, n / LINES);
        let order = Order {
            line,
            place: place / QUANTITY,
        };
        (place % SAMPLE_EVERY != SAMPLE_EVERY - 1).then_some(order)
    }

    /// Whether it is a workshop tool.
    pub fn is_tool(&self, n: u64) -> bool {
        self.order(n).is_none() && (n / LINES / SAMPLE_EVERY).is_multiple_of(TOOL_EVERY)
    }

    pub fn is_confirmed(&self, n: u64) -> bool {
        self.chance(n, 1) % 1_000 < CONFIRMED
    }

    /// How certificate n ends, and how many chunks later.
    fn end(&self, n: u64) -> Option<(End, u64)> {
        let chance = self.chance(n, 2);
        let end = match chance % 1_000 {
            it if it < REVOKED => End::Revoked,
            it if it < REVOKED + SCRAPPED => End::Scrapped,
            _ => return None,
        };
        let lag = usize::try_from(chance / 1_000 % 4).unwrap();
        Some((end, END_LAGS[lag]))
    }

    fn certificates(&self, chunk: u64) -> std::ops::Range<u64> {
        chunk * CHUNK..((chunk + 1) * CHUNK).min(self.count)
    }

    /// What happens in a chunk, in the order of time.
    fn entries(&self, chunk: u64) -> Vec<(i64, What)> {
        let certificates = self.certificates(chunk);
        let (begin, end) = (self.time(certificates.start), self.time(certificates.end));
        let part = |from: i64, within: i64, chance: u64| {
            let most = (end - from).min(within).max(1);
            from + i64::try_from(chance % u64::try_from(most).unwrap()).unwrap()
        };
        let mut entries = Vec::new();
        for n in certificates {
            let at = self.time(n);
            let place = n / LINES % QUANTITY;
            // Of a line, not of this certificate, which may be a sample.
            let order = Order {
                line: n % LINES,
                place: n / LINES / QUANTITY,
            };
            if place == 0 {
                entries.push((at, What::Created(order)));
            }
            entries.push((at, What::Issued(n)));
            let mut last = at;
            if self.is_confirmed(n) {
                last = part(at, CONFIRMED_WITHIN, self.chance(n, 3));
                entries.push((last, What::Confirmed(n)));
            }
            if let Some((how, 0)) = self.end(n) {
                let at = part(last, i64::MAX, self.chance(n, 4));
                entries.push((at, What::Ended(n, how)));
            }
            if place == QUANTITY - 1 {
                entries.push((end - 1, What::Closed(order)));
            }
        }
        for lag in END_LAGS.into_iter().filter(|lag| (1..=chunk).contains(lag)) {
            for n in self.certificates(chunk - lag) {
                if let Some((how, late)) = self.end(n)
                    && late == lag
                {
                    let at = part(begin, i64::MAX, self.chance(n, 4));
                    entries.push((at, What::Ended(n, how)));
                }
            }
        }
        // Of one moment: in the order in which they were put down.
        entries.sort_by_key(|(at, _)| *at);
        entries
    }
}

/// Goes through the plan, chunk by chunk, and counts.
pub struct Planner {
    plan: Plan,
    next_chunk: u64,
    pub next_index: u64,
    pub orders: BTreeMap<Order, Counts>,
    pub lives: u64,
}

impl Planner {
    /// The log has so many entries before.
    pub fn new(plan: Plan, next_index: u64) -> Self {
        Self {
            plan,
            next_chunk: 0,
            next_index,
            orders: BTreeMap::new(),
            lives: 0,
        }
    }

    /// The next chunk; `None` after the last.
    pub fn next(&mut self) -> Option<Chunk> {
        let number = self.next_chunk;
        let certificates = self.plan.certificates(number);
        if certificates.is_empty() {
            return None;
        }
        let entries = self.plan.entries(number);
        let first_index = self.next_index;
        self.next_chunk += 1;
        self.next_index += u64::try_from(entries.len()).unwrap();
        for (at, what) in &entries {
            self.count(*at, *what);
        }
        Some(Chunk {
            number,
            certificates,
            first_index,
            entries,
        })
    }

    fn count(&mut self, at: i64, what: What) {
        if let What::Confirmed(_) | What::Ended(..) = what {
            self.lives += 1;
        }
        let order = match what {
            What::Created(order) | What::Closed(order) => Some(order),
            What::Issued(n) | What::Confirmed(n) | What::Ended(n, _) => self.plan.order(n),
        };
        let Some(order) = order else { return };
        let counts = self.orders.entry(order).or_default();
        match what {
            What::Created(_) => counts.created_at = at,
            What::Closed(_) => counts.closed_at = Some(at),
            What::Issued(_) => counts.reserved += 1,
            What::Confirmed(_) => counts.confirmed += 1,
            What::Ended(n, end) => {
                counts.confirmed -= i64::from(self.plan.is_confirmed(n));
                match end {
                    End::Revoked => counts.revoked += 1,
                    End::Scrapped => counts.scrapped += 1,
                }
            }
        }
    }
}
