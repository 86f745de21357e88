//! [`PgLedger`]: group commit over lanes, one for each kind of transaction.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use chrono::NaiveDate;
use sqlx::Connection;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::ca::CertificateRecord;
use crate::ca::Intent;
use crate::ca::Ledger;
use crate::ca::LedgerFault;
use crate::ca::Outcome;
use crate::ca::PortFuture;
use crate::ca::Reservation;
use crate::ca::Turn;
use crate::ca::life::LifeAct;
use crate::ca::life::LifeBook;
use crate::ca::life::LifeEvent;
use crate::ca::log::fresh::FreshEntries;
use crate::ca::order::Created;
use crate::ca::order::DeviceList;
use crate::ca::order::Listed;
use crate::ca::order::OrderBook;
use crate::ca::order::OrderState;
use crate::ca::order::WorkOrder;
use crate::ca::report::Closing;
use crate::ca::station::Acted;
use crate::ca::station::Approved;
use crate::ca::station::CodedAct;
use crate::ca::station::Proposal;
use crate::ca::station::Registration;
use crate::ca::station::StationAct;
use crate::ca::station::StationBook;
use crate::ca::ticket::Redeemed;
use crate::ca::ticket::Ticket;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::device_lists;
use crate::db::error::DbFault;
use crate::db::error::Failure;
use crate::db::lane::Job;
use crate::db::lane::Lane;
use crate::db::lives::LifeAnswer;
use crate::db::lives::LifeJob;
use crate::db::orders::OrderAnswer;
use crate::db::orders::OrderJob;
use crate::db::record::Record;
use crate::db::reports;
use crate::db::reserve::Reserve;
use crate::db::session::Session;
use crate::db::settle::Settle;
use crate::db::settle::Settled;
use crate::db::stations::StationAnswer;
use crate::db::stations::StationJob;
use crate::db::vitals::Vitals;
use crate::metrics::LedgerMetrics;
use crate::pki::certificate::SignedCertificate;

/// What issuing needs; the other lanes may be slow without stopping the line.
const ISSUING: [&str; 3] = [Reserve::LANE, Record::LANE, Settle::LANE];
/// Longest wait for a settlement; nobody at a station waits for one.
const SETTLEMENT_MAX: Duration = Duration::from_secs(5);

/// The ledger in PostgreSQL. Heals by itself: while the server is away calls fail at once with
/// the reason, and as soon as it is back they succeed.
///
/// Reservations and outcomes have a lane each, so that while one batch of certificates is being
/// made durable the next batch of intents already is, too. When the ledger is dropped its lanes
/// finish what waits, then close their connections.
pub struct PgLedger {
    reservations: Lane<Reserve>,
    outcomes: Lane<Record>,
    settlements: Lane<Settle>,
    orders: Lane<OrderJob>,
    lives: Lane<LifeJob>,
    stations: Lane<StationJob>,
    /// For what is long and rare.
    aside: Session,
    /// Told what is appended.
    fresh: Arc<FreshEntries>,
    /// Who must hold the instance octet of what is stored; `None`: nobody in particular.
    holder: Option<Uuid>,
    vitals: Arc<Vitals>,
}

impl PgLedger {
    /// Starts the lanes on the current Tokio runtime. Does not wait for the database: see
    /// [`Ledger::ready`]. Entries of certificates, and what others appended before them, are handed to
    /// `fresh`. Intents are stored only while `holder`, where there is one, holds the instance octet of
    /// their serial numbers. Fails only when the URL is none.
    pub fn start(
        config: &DbConfig,
        metrics: &Arc<LedgerMetrics>,
        fresh: Arc<FreshEntries>,
        holder: Option<Uuid>,
    ) -> Result<Arc<Self>, DbFault> {
        let lanes = [
            Reserve::LANE,
            Record::LANE,
            Settle::LANE,
            OrderJob::LANE,
            LifeJob::LANE,
            StationJob::LANE,
        ];
        let vitals = Arc::new(Vitals::new(&lanes, metrics.up.clone()));
        Ok(Arc::new(Self {
            reservations: lane(config, &vitals, metrics)?,
            outcomes: lane(config, &vitals, metrics)?,
            settlements: lane(config, &vitals, metrics)?,
            orders: lane(config, &vitals, metrics)?,
            lives: lane(config, &vitals, metrics)?,
            stations: lane(config, &vitals, metrics)?,
            aside: config.session(Purpose::Aside)?,
            fresh,
            holder,
            vitals,
        }))
    }

    async fn settle(&self, job: Settle) -> Result<Settled, LedgerFault> {
        self.settlements
            .submit(job, Instant::now() + SETTLEMENT_MAX)
            .await
    }
}

impl PgLedger {
    async fn book(&self, job: OrderJob) -> Result<OrderAnswer, LedgerFault> {
        self.orders
            .submit(job, Instant::now() + SETTLEMENT_MAX)
            .await
    }
}

impl OrderBook for PgLedger {
    fn create(&self, order: WorkOrder, by: String) -> PortFuture<'_, Result<Created, LedgerFault>> {
        Box::pin(async move {
            match self.book(OrderJob::Create(order, by)).await? {
                OrderAnswer::Create(created) => Ok(*created),
                _ => Err(mixed_up()),
            }
        })
    }

    fn redeem(&self, ticket: Ticket, by: String) -> PortFuture<'_, Result<Redeemed, LedgerFault>> {
        Box::pin(async move {
            match self.book(OrderJob::Redeem(ticket, by)).await? {
                OrderAnswer::Redeem(redeemed) => Ok(*redeemed),
                _ => Err(mixed_up()),
            }
        })
    }

    fn list_devices(
        &self,
        name: String,
        list: DeviceList,
    ) -> PortFuture<'_, Result<Listed, LedgerFault>> {
        aside(self.aside.clone(), move |mut connection| async move {
            let listed = device_lists::store(&mut connection, &name, &list).await;
            (connection, listed)
        })
    }

    fn closing(&self, name: String) -> PortFuture<'_, Result<Closing, LedgerFault>> {
        aside(self.aside.clone(), move |mut connection| async move {
            let closing = reports::closing(&mut connection, &name).await;
            (connection, closing)
        })
    }

    fn keep_report(
        &self,
        name: String,
        report: String,
    ) -> PortFuture<'_, Result<String, LedgerFault>> {
        aside(self.aside.clone(), move |mut connection| async move {
            let kept = reports::keep(&mut connection, &name, &report).await;
            (connection, kept)
        })
    }

    fn close(
        &self,
        name: String,
        by: String,
    ) -> PortFuture<'_, Result<Option<OrderState>, LedgerFault>> {
        Box::pin(async move { one(self.book(OrderJob::Close(name, by)).await?) })
    }

    fn show(&self, name: String) -> PortFuture<'_, Result<Option<OrderState>, LedgerFault>> {
        Box::pin(async move { one(self.book(OrderJob::Show(name)).await?) })
    }

    fn list(
        &self,
        after: Option<String>,
        limit: i64,
    ) -> PortFuture<'_, Result<Vec<OrderState>, LedgerFault>> {
        Box::pin(async move {
            match self.book(OrderJob::List(after, limit)).await? {
                OrderAnswer::List(orders) => Ok(orders),
                _ => Err(mixed_up()),
            }
        })
    }
}

impl PgLedger {
    async fn live(&self, job: LifeJob) -> Result<LifeAnswer, LedgerFault> {
        self.lives
            .submit(job, Instant::now() + SETTLEMENT_MAX)
            .await
    }
}

impl LifeBook for PgLedger {
    fn act(&self, act: LifeAct) -> PortFuture<'_, Result<Vec<LifeEvent>, LedgerFault>> {
        Box::pin(async move { events(self.live(LifeJob::Act(act)).await?) })
    }

    fn events(&self, intent: Uuid) -> PortFuture<'_, Result<Vec<LifeEvent>, LedgerFault>> {
        Box::pin(async move { events(self.live(LifeJob::Events(intent)).await?) })
    }

    fn challenge(&self, intent: Uuid, nonce: [u8; 32]) -> PortFuture<'_, Result<(), LedgerFault>> {
        Box::pin(async move {
            self.live(LifeJob::Challenge(intent, nonce)).await?;
            Ok(())
        })
    }

    fn challenged(
        &self,
        intent: Uuid,
        nonce: [u8; 32],
    ) -> PortFuture<'_, Result<bool, LedgerFault>> {
        Box::pin(async move {
            match self.live(LifeJob::Challenged(intent, nonce)).await? {
                LifeAnswer::Challenged(known) => Ok(known),
                LifeAnswer::Events(_) | LifeAnswer::Challenge => Err(mixed_up()),
            }
        })
    }
}

fn events(answer: LifeAnswer) -> Result<Vec<LifeEvent>, LedgerFault> {
    match answer {
        LifeAnswer::Events(events) => Ok(events),
        LifeAnswer::Challenge | LifeAnswer::Challenged(_) => Err(mixed_up()),
    }
}

impl PgLedger {
    async fn station(&self, job: StationJob) -> Result<StationAnswer, LedgerFault> {
        self.stations
            .submit(job, Instant::now() + SETTLEMENT_MAX)
            .await
    }

    async fn is_good(&self, job: StationJob) -> Result<bool, LedgerFault> {
        match self.station(job).await? {
            StationAnswer::Good(good) => Ok(good),
            _ => Err(mixed_up()),
        }
    }
}

impl StationBook for PgLedger {
    fn registrations(
        &self,
        name: Option<String>,
    ) -> PortFuture<'_, Result<Vec<Registration>, LedgerFault>> {
        Box::pin(async move {
            match self.station(StationJob::Registrations(name)).await? {
                StationAnswer::Registrations(found) => Ok(found),
                _ => Err(mixed_up()),
            }
        })
    }

    fn act(&self, act: CodedAct, by: String) -> PortFuture<'_, Result<Acted, LedgerFault>> {
        Box::pin(async move {
            match self.station(StationJob::Act(act, by)).await? {
                StationAnswer::Acted(acted) => Ok(acted),
                _ => Err(mixed_up()),
            }
        })
    }

    fn propose(
        &self,
        act: StationAct,
        by: String,
    ) -> PortFuture<'_, Result<Proposal, LedgerFault>> {
        Box::pin(async move {
            let job = StationJob::Propose(Uuid::now_v7(), act, by);
            match self.station(job).await? {
                StationAnswer::Proposals(mut one) => one.pop().ok_or_else(mixed_up),
                _ => Err(mixed_up()),
            }
        })
    }

    fn proposals(&self) -> PortFuture<'_, Result<Vec<Proposal>, LedgerFault>> {
        Box::pin(async move {
            match self.station(StationJob::Proposals).await? {
                StationAnswer::Proposals(found) => Ok(found),
                _ => Err(mixed_up()),
            }
        })
    }

    fn approve(
        &self,
        proposal: Uuid,
        code_sha256: [u8; 32],
        by: String,
    ) -> PortFuture<'_, Result<Approved, LedgerFault>> {
        Box::pin(async move {
            let job = StationJob::Approve(proposal, code_sha256, by);
            match self.station(job).await? {
                StationAnswer::Approved(approved) => Ok(approved),
                _ => Err(mixed_up()),
            }
        })
    }

    fn use_code(
        &self,
        code_sha256: [u8; 32],
        name: String,
        spki_sha256: [u8; 32],
    ) -> PortFuture<'_, Result<bool, LedgerFault>> {
        Box::pin(self.is_good(StationJob::UseCode(code_sha256, name, spki_sha256)))
    }

    fn add_key(
        &self,
        name: String,
        spki_sha256: [u8; 32],
        others_linger: bool,
    ) -> PortFuture<'_, Result<bool, LedgerFault>> {
        Box::pin(self.is_good(StationJob::AddKey(name, spki_sha256, others_linger)))
    }

    fn devices_since(
        &self,
        names: Vec<String>,
        day: NaiveDate,
    ) -> PortFuture<'_, Result<Vec<(String, u32)>, LedgerFault>> {
        Box::pin(async move {
            match self.station(StationJob::DevicesSince(names, day)).await? {
                StationAnswer::DevicesSince(counts) => Ok(counts),
                _ => Err(mixed_up()),
            }
        })
    }
}

fn one(answer: OrderAnswer) -> Result<Option<OrderState>, LedgerFault> {
    match answer {
        OrderAnswer::Show(order) => Ok(*order),
        _ => Err(mixed_up()),
    }
}

/// Does what is long and rare on a connection of its own, so that no lane waits for it; in a task
/// of its own, so that a caller who leaves does not cut a transaction in two.
pub(super) fn aside<T, W>(
    session: Session,
    work: impl FnOnce(PgConnection) -> W + Send + 'static,
) -> PortFuture<'static, Result<T, LedgerFault>>
where
    T: Send + 'static,
    W: Future<Output = (PgConnection, Result<T, sqlx::Error>)> + Send,
{
    let task = tokio::spawn(async move {
        let (connection, answer) = work(session.connect().await?).await;
        let answer = answer?;
        connection.close().await?;
        Ok(answer)
    });
    Box::pin(async move {
        let answer = task
            .await
            .map_err(|error| LedgerFault::Unavailable(error.to_string()))?;
        answer.map_err(|error: sqlx::Error| Failure::from(&error).into())
    })
}

fn lane<J: Job>(
    config: &DbConfig,
    vitals: &Arc<Vitals>,
    metrics: &Arc<LedgerMetrics>,
) -> Result<Lane<J>, DbFault> {
    let session = config.session(Purpose::Ledger(J::LANE))?;
    Ok(Lane::start(
        session,
        Arc::clone(vitals),
        Arc::clone(metrics),
    ))
}

impl Ledger for PgLedger {
    fn reserve(
        &self,
        intent: Intent,
        turn: Turn,
        deadline: Instant,
    ) -> PortFuture<'_, Result<Reservation, LedgerFault>> {
        Box::pin(async move {
            // An intent whose certificate could not be recorded is better not stored.
            self.vitals.of(&ISSUING).map_err(LedgerFault::Unavailable)?;
            let job = Reserve {
                intent,
                turn,
                holder: self.holder,
            };
            self.reservations.submit(job, deadline).await
        })
    }

    fn record(
        &self,
        intent: Intent,
        certificate: SignedCertificate,
        turn: Turn,
        deadline: Instant,
    ) -> PortFuture<'_, Result<CertificateRecord, LedgerFault>> {
        let job = Record {
            intent,
            certificate,
            turn,
            fresh: Arc::clone(&self.fresh),
        };
        Box::pin(self.outcomes.submit(job, deadline))
    }

    fn outcome(&self, intent: Uuid) -> PortFuture<'_, Result<Option<Outcome>, LedgerFault>> {
        Box::pin(async move {
            match self.settle(Settle::Outcome(intent)).await? {
                Settled::Outcome(outcome) => Ok(*outcome),
                Settled::TakeOver(_) | Settled::Abandon => Err(mixed_up()),
            }
        })
    }

    fn take_over(
        &self,
        limit: i64,
        late_seconds: i32,
        issuers: Vec<String>,
    ) -> PortFuture<'_, Result<Vec<Intent>, LedgerFault>> {
        let job = Settle::TakeOver {
            limit,
            late_seconds,
            issuers,
        };
        Box::pin(async move {
            match self.settle(job).await? {
                Settled::TakeOver(intents) => Ok(intents),
                Settled::Outcome(_) | Settled::Abandon => Err(mixed_up()),
            }
        })
    }

    fn abandon(&self, intent: Uuid, reason: String) -> PortFuture<'_, Result<(), LedgerFault>> {
        Box::pin(async move {
            self.settle(Settle::Abandon(intent, reason)).await?;
            Ok(())
        })
    }

    fn ready(&self) -> Result<(), String> {
        self.vitals.of(&ISSUING)
    }
}

pub(super) fn mixed_up() -> LedgerFault {
    LedgerFault::Unavailable("a lane mixed up its answers".to_owned())
}
