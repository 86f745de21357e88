//! A lane: one task, one connection, one transaction at a time, two queues: the rows of batches that somebody ordered
//! ([`Turn::Batch`]) wait for all others.
//!
//! What waits when the connection becomes free is one batch (group commit), gathered for a few milliseconds while there
//! is more than one station, for longer while all of it is of ordered batches and much.
//! A batch that fails is run again, as the same batch, for those who still wait: that is how an
//! unknown outcome is settled and how service returns by itself. See [`Job`] for what that asks. A commit
//! whose wait for a standby did not reach its end is of unknown outcome, too.

use std::collections::VecDeque;
use std::future::Future;
use std::hash::BuildHasher;
use std::hash::Hasher;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use sqlx::Connection;
use sqlx::PgConnection;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::ca::LedgerFault;
use crate::ca::Turn;
use crate::ca::batch::CHUNKS;
use crate::ca::batch::WIDTH_MAX;
use crate::db::error::Failure;
use crate::db::error::describe;
use crate::db::session::Session;
use crate::db::vitals::Vitals;
use crate::metrics::LedgerMetrics;
use crate::telemetry::heed_database_warnings;

/// Jobs that may wait in each queue: several batches; more could not be done in time.
const QUEUE_DEPTH_MAX: usize = 1024;
const _: () = assert!(
    CHUNKS * WIDTH_MAX <= QUEUE_DEPTH_MAX,
    "a batch's rows would be refused"
);
/// An idle lane asks this often whether it still works.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A batch that takes longer makes the lane say that it is down, though it may yet succeed.
const SLOW: Duration = Duration::from_secs(2);
/// A batch that takes this much longer still loses its connection: the server is frozen or gone.
const STUCK: Duration = Duration::from_secs(3);
/// The batch after one that had company waits for more of it until so long after that one began, so that what a
/// transaction costs is shared by more rows. A lone station's rows come one at a time and never wait; beside an ordered
/// batch, for a lull at most.
const GATHER: Duration = Duration::from_millis(3);
/// When nobody has come for so long, all who would come wait for an answer: nothing to gather.
const LULL: Duration = Duration::from_millis(1);
/// The same where all rows are of batches that were ordered: nobody waits for one of those.
const GATHER_ORDERED: Duration = Duration::from_millis(60);
const LULL_ORDERED: Duration = Duration::from_millis(20);
/// Most such rows in one transaction: a station that comes while it runs waits for it.
const ORDERED_MAX: usize = 128;
/// Most that go with those of stations, so that their batch does not stand still.
const ORDERED_BESIDE_MAX: usize = 16;
/// Longest wait for a new connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// First and longest pause between two attempts while the server is down. Well below the five
/// seconds within which full speed must be back.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// What a lane does for its callers.
pub(super) trait Job: Send + Sync + 'static {
    /// What one caller gets.
    type Answer: Send + 'static;
    /// The lane's name in logs, in health and as `application_name`.
    const LANE: &'static str;
    /// Most jobs in one transaction.
    const BATCH_MAX: usize;

    /// Does all jobs in one transaction, and gives the answers in the order of the jobs.
    ///
    /// Must be safe to run again, on another connection, with any part of the same jobs, whether
    /// or not an earlier run was committed. With no jobs it must write nothing, yet ask for the
    /// same locks and rights as with jobs: it is the lane's health check.
    fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> impl Future<Output = Result<Vec<Result<Self::Answer, LedgerFault>>, sqlx::Error>> + Send;

    /// Whose it is: what is of a batch that was ordered waits for the line's, and longer for company.
    fn turn(&self) -> Turn {
        Turn::Line
    }

    /// Told when what the run of these jobs committed is where commits have to be.
    fn sure(_jobs: &[Arc<Self>]) {}
}

/// The callers' end of a lane. Dropping it lets the lane finish what waits and end.
pub(super) struct Lane<J: Job> {
    line: mpsc::Sender<Waiting<J>>,
    ordered: mpsc::Sender<Waiting<J>>,
    vitals: Arc<Vitals>,
}

struct Waiting<J: Job> {
    job: Arc<J>,
    deadline: Instant,
    answer: oneshot::Sender<Result<J::Answer, LedgerFault>>,
}

impl<J: Job> Lane<J> {
    /// Starts the lane's task; it connects by itself.
    pub(super) fn start(
        session: Session,
        vitals: Arc<Vitals>,
        metrics: Arc<LedgerMetrics>,
    ) -> Self {
        let (line, from_line) = mpsc::channel(QUEUE_DEPTH_MAX);
        let (ordered, from_ordered) = mpsc::channel(QUEUE_DEPTH_MAX);
        let committer = Committer {
            session,
            arrivals: Arrivals {
                line: from_line,
                ordered: from_ordered,
                put_back: VecDeque::new(),
            },
            connection: None,
            failures: 0,
            gathers_after: None,
            vitals: Arc::clone(&vitals),
            metrics,
        };
        tokio::spawn(committer.run());
        Self {
            line,
            ordered,
            vitals,
        }
    }

    /// Waits for the answer, at most until `deadline`. Fails at once while the lane is known to be
    /// down or its queue is full. Dropping the future loses the answer, and the job only while that waits.
    pub(super) async fn submit(&self, job: J, deadline: Instant) -> Result<J::Answer, LedgerFault> {
        if let Some(reason) = self.vitals.lane(J::LANE) {
            return Err(LedgerFault::Unavailable(reason));
        }
        let queue = match job.turn() {
            Turn::Line => &self.line,
            Turn::Batch => &self.ordered,
        };
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            job: Arc::new(job),
            deadline,
            answer,
        };
        queue.try_send(waiting).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => LedgerFault::Overloaded,
            mpsc::error::TrySendError::Closed(_) => {
                LedgerFault::Unavailable("the ledger has stopped".to_owned())
            }
        })?;
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(LedgerFault::Deadline),
        }
    }
}

/// What waits: the line's goes first, then what is of batches that were ordered.
struct Arrivals<J: Job> {
    line: mpsc::Receiver<Waiting<J>>,
    ordered: mpsc::Receiver<Waiting<J>>,
    /// Those that were taken from their queue and made room for the line's, the oldest first.
    put_back: VecDeque<Waiting<J>>,
}

impl<J: Job> Arrivals<J> {
    /// `None` when nobody is left who could send one. Dropping the future loses none.
    async fn next(&mut self, ordered_too: bool) -> Option<Waiting<J>> {
        if let Some(waiting) = self.at_hand(ordered_too) {
            return Some(waiting);
        }
        tokio::select! {
            biased;
            Some(waiting) = self.line.recv() => Some(waiting),
            Some(waiting) = self.ordered.recv(), if ordered_too => Some(waiting),
            else => None,
        }
    }

    /// One that comes before `until`, and before nobody has come for as long as `lull`; what is there already, always.
    async fn next_until(
        &mut self,
        until: Option<Instant>,
        lull: Duration,
        ordered_too: bool,
    ) -> Option<Waiting<J>> {
        let waiting = self.at_hand(ordered_too);
        let now = Instant::now();
        // A timer takes a millisecond, however little is left.
        match until.filter(|until| waiting.is_none() && *until > now) {
            None => waiting,
            Some(until) => {
                let next = self.next(ordered_too);
                let until = until.min(now + lull).into();
                tokio::time::timeout_at(until, next).await.ok().flatten()
            }
        }
    }

    fn at_hand(&mut self, ordered_too: bool) -> Option<Waiting<J>> {
        let waiting = self.line.try_recv().ok();
        waiting.or_else(|| ordered_too.then(|| self.ordered_at_hand()).flatten())
    }

    fn ordered_at_hand(&mut self) -> Option<Waiting<J>> {
        let waiting = self.put_back.pop_front();
        waiting.or_else(|| self.ordered.try_recv().ok())
    }

    /// Adds those that may go with the line's, no more than there is room for.
    fn take_along(&mut self, batch: &mut Vec<Waiting<J>>, room: usize) {
        let ordered = std::iter::from_fn(|| self.ordered_at_hand());
        batch.extend(ordered.take(ORDERED_BESIDE_MAX.min(room)));
    }

    /// Leaves those that may go with the line's.
    fn put_back(&mut self, batch: &mut Vec<Waiting<J>>) {
        let most = ORDERED_BESIDE_MAX.min(batch.len());
        for waiting in batch.drain(most..).rev() {
            self.put_back.push_front(waiting);
        }
    }
}

/// The lane's own end: it alone owns the connection.
struct Committer<J: Job> {
    session: Session,
    arrivals: Arrivals<J>,
    connection: Option<PgConnection>,
    /// Failures of the server since it last worked.
    failures: u32,
    /// When the last batch began, if it had company: the next one gathers.
    gathers_after: Option<Instant>,
    vitals: Arc<Vitals>,
    metrics: Arc<LedgerMetrics>,
}

impl<J: Job> Committer<J> {
    async fn run(mut self) {
        // At once, so that readiness does not wait for the first request.
        self.settle(Vec::new()).await;
        while let Some(batch) = self.next_batch().await {
            self.settle(batch).await;
        }
        if let Some(connection) = self.connection.take() {
            let goodbye = tokio::spawn(connection.close());
            let _ = timeout(CONNECT_MAX, goodbye).await;
        }
    }

    /// What waits; empty, which is a health check, when nothing came for a while.
    /// `None` when no caller is left.
    async fn next_batch(&mut self) -> Option<Vec<Waiting<J>>> {
        let idle = match self.failures {
            0 => PROBE_INTERVAL,
            failures => backoff(failures),
        };
        match timeout(idle, self.arrivals.next(true)).await {
            Ok(None) => None,
            Ok(Some(first)) => Some(self.gather(first).await),
            Err(_) => Some(Vec::new()),
        }
    }

    /// Lets a batch grow until so long after the start of the one before, or until nobody has
    /// come for a while: those who wait for an answer do not ask again before they have it.
    async fn gather(&mut self, first: Waiting<J>) -> Vec<Waiting<J>> {
        let mut of_line = usize::from(first.job.turn() == Turn::Line);
        let mut batch = Vec::new();
        if of_line > 0 {
            self.arrivals.take_along(&mut batch, J::BATCH_MAX - 1);
        }
        batch.push(first);
        loop {
            let (gather, lull, most) = if of_line > 0 {
                (GATHER, LULL, J::BATCH_MAX)
            } else {
                let most = ORDERED_MAX.min(J::BATCH_MAX);
                (GATHER_ORDERED, LULL_ORDERED, most)
            };
            if batch.len() >= most {
                break;
            }
            let until = self.gathers_after.map(|before| before + gather);
            let ordered_too = of_line == 0;
            let Some(next) = self.arrivals.next_until(until, lull, ordered_too).await else {
                break;
            };
            if next.job.turn() == Turn::Line {
                if of_line == 0 {
                    self.arrivals.put_back(&mut batch);
                }
                of_line += 1;
            }
            batch.push(next);
        }
        // Where few rows of batches are on their way, there are no more to gather.
        let company = of_line > 1 || of_line == 0 && batch.len() > ORDERED_BESIDE_MAX;
        self.gathers_after = company.then(Instant::now);
        batch
    }

    /// Runs a batch until each of its callers has an answer or has gone.
    async fn settle(&mut self, batch: Vec<Waiting<J>>) {
        let probe = batch.is_empty();
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            part.retain(Waiting::waits);
            if part.is_empty() && !probe {
                continue;
            }
            match self.attempt(&part).await {
                Ok(answers) => {
                    self.failures = 0;
                    self.vitals.works(J::LANE);
                    for (waiting, answer) in part.into_iter().zip(answers) {
                        // A caller who has gone is no failure.
                        let _ = waiting.answer.send(answer);
                    }
                }
                Err(Failure::Data(reason)) if part.len() > 1 => {
                    tracing::warn!(
                        lane = J::LANE,
                        rows = part.len(),
                        reason,
                        "splitting a batch"
                    );
                    let second = part.split_off(part.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
                Err(Failure::Data(reason)) if !probe => {
                    tracing::error!(lane = J::LANE, reason, "the database refuses a row");
                    for waiting in part {
                        let _ = waiting
                            .answer
                            .send(Err(LedgerFault::Unavailable(reason.clone())));
                    }
                }
                Err(Failure::Conflict(reason)) => {
                    tracing::debug!(lane = J::LANE, reason, "running a batch again");
                    tokio::time::sleep(jitter()).await;
                    parts.push(part);
                }
                Err(Failure::Data(reason) | Failure::Unavailable(reason)) => {
                    self.failures = self.failures.saturating_add(1);
                    // One lost connection is repaired before anybody hears of it.
                    if self.failures > 1 {
                        self.vitals.fails(J::LANE, &reason);
                        if probe {
                            return;
                        }
                        tokio::time::sleep(backoff(self.failures)).await;
                    }
                    parts.push(part);
                }
            }
        }
    }

    /// One run of one transaction, in a task of its own that owns the connection. On any failure
    /// the connection is closed.
    async fn attempt(
        &mut self,
        part: &[Waiting<J>],
    ) -> Result<Vec<Result<J::Answer, LedgerFault>>, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let jobs: Vec<Arc<J>> = part
            .iter()
            .map(|waiting| Arc::clone(&waiting.job))
            .collect();
        let started = Instant::now();
        let admission = self.session.admission.clone();
        let mut work = tokio::spawn(heed_database_warnings(async move |warned| {
            let answers = match (J::run(&mut connection, &jobs).await, admission) {
                (Ok(answers), Some(admission)) => {
                    let sure = admission.confirm(&mut connection, warned).await;
                    sure.map(|()| answers)
                }
                (answers, _) => answers,
            };
            if answers.is_ok() {
                J::sure(&jobs);
            }
            (connection, answers)
        }));

        let mut ended = timeout(SLOW, &mut work).await;
        if ended.is_err() {
            self.vitals.fails(J::LANE, "the database is slow to answer");
            ended = timeout(STUCK, &mut work).await;
        }
        let Ok(ended) = ended else {
            work.abort();
            return Err(Failure::Unavailable(
                "the database does not answer".to_owned(),
            ));
        };
        match ended {
            Ok((connection, Ok(answers))) => {
                self.connection = Some(connection);
                if !part.is_empty() {
                    self.metrics.batch_rows.observe(rows(part.len()));
                    self.metrics
                        .commit_seconds
                        .observe(started.elapsed().as_secs_f64());
                }
                Ok(answers)
            }
            Ok((_closed, Err(error))) => Err(Failure::from(&error)),
            Err(panicked) => Err(Failure::Data(panicked.to_string())),
        }
    }

    async fn connect(&self) -> Result<PgConnection, Failure> {
        let session = self.session.clone();
        let mut work = tokio::spawn(async move { session.connect().await });
        match timeout(CONNECT_MAX, &mut work).await {
            Ok(Ok(Ok(connection))) => Ok(connection),
            Ok(Ok(Err(error))) => Err(Failure::Unavailable(describe(&error))),
            Ok(Err(panicked)) => Err(Failure::Unavailable(panicked.to_string())),
            Err(_) => {
                work.abort();
                Err(Failure::Unavailable(
                    "the database does not accept connections".to_owned(),
                ))
            }
        }
    }
}

impl<J: Job> Waiting<J> {
    fn waits(&self) -> bool {
        self.deadline > Instant::now() && !self.answer.is_closed()
    }
}

fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    first
        .saturating_mul(1 << failures.saturating_sub(2).min(8))
        .min(longest)
}

/// 1 to 8 ms, so that two replicas that met do not meet again.
fn jitter() -> Duration {
    let chance = RandomState::new().build_hasher().finish();
    Duration::from_micros(1000 + chance % 7000)
}

#[expect(clippy::cast_precision_loss, reason = "a batch has a few hundred rows")]
fn rows(count: usize) -> f64 {
    count as f64
}
