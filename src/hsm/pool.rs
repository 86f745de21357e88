//! The workers: one operating-system thread a session, two queues a token: batches' jobs wait for all others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{RecvError, RecvTimeoutError, TryRecvError, select_biased};
use tokio::sync::oneshot;

use crate::ca::SignerFault;
use crate::ca::Turn;
use crate::hsm::error::{Action, HsmFault};
use crate::hsm::key::{Key, Purpose};
use crate::hsm::module::OpenSession;
use crate::hsm::token::{Level, Opening, Report, Token};

/// How often a passing trouble may come before it is not passing. At 5 % failures, one job in 160,000 sees it.
const SAME_SESSION_RETRIES_MAX: u32 = 3;

/// How long a worker keeps a job through a recovery.
const HOLD: Duration = Duration::from_secs(1);

/// How long a worker that got no session waits before it asks for one again.
const SESSION_COUNT_PAUSE: Duration = Duration::from_secs(5);

/// One signature to make.
pub(crate) struct Job {
    pub(crate) key: Arc<Key>,
    pub(crate) message: Vec<u8>,
    pub(crate) purpose: Purpose,
    pub(crate) turn: Turn,
    /// Since when it waits.
    pub(crate) queued_at: Instant,
    /// After it nobody wants the signature.
    pub(crate) deadline: Instant,
    /// `None` for a probe.
    pub(crate) reply: Option<oneshot::Sender<Result<Vec<u8>, SignerFault>>>,
    /// It has been through a recovery and does not go through another.
    pub(crate) recovered: bool,
}

impl Job {
    /// Answers, if somebody still listens.
    pub(crate) fn answer(self, result: Result<Vec<u8>, SignerFault>) {
        if let Some(reply) = self.reply {
            let _ = reply.send(result);
        }
    }

    fn is_wanted(&self) -> bool {
        Instant::now() < self.deadline && self.reply.as_ref().is_none_or(|reply| !reply.is_closed())
    }
}

/// The life of worker `index`.
pub(crate) fn work(token: &Arc<Token>, index: usize) {
    let mut seen = 0;
    let mut held: Option<Job> = None;
    loop {
        let until = held
            .as_ref()
            .map(|job| job.deadline.min(Instant::now() + HOLD));
        let Some(opening) = token.next_opening(seen, until) else {
            if let Some(job) = held.take() {
                let reason = token
                    .ready()
                    .err()
                    .unwrap_or_else(|| "the HSM is being recovered".to_owned());
                job.answer(Err(SignerFault::Unavailable(reason)));
            }
            if token.has_ended() {
                return;
            }
            continue;
        };
        seen = opening.generation;
        held = Shift {
            token,
            index,
            opening: &opening,
        }
        .serve(held);
    }
}

/// One worker in one opening of the token.
struct Shift<'a> {
    token: &'a Arc<Token>,
    index: usize,
    opening: &'a Opening,
}

/// What became of a job.
enum Done {
    Answered,
    /// The token has to be opened anew; perhaps with a job to try again then.
    Escalated(Option<Job>),
}

impl Shift<'_> {
    /// Serves until the opening ends; hands back a job that deserves another try in the next one.
    fn serve(&self, held: Option<Job>) -> Option<Job> {
        let mut session = match self.open() {
            Ok(Some(session)) => session,
            Ok(None) => return held,
            Err(fault) => {
                self.escalate(&fault, Level::Token);
                return held;
            }
        };
        let open = self.token.metrics.sessions.with_label_values(&["open"]);
        let busy = self.token.metrics.sessions.with_label_values(&["busy"]);
        open.inc();
        let _held = self.opening.sessions.held();
        let mut next = held;
        let left = loop {
            let Some(job) = next.take().or_else(|| self.next_job()) else {
                break None;
            };
            busy.inc();
            let done = self.process(&mut session, job);
            busy.dec();
            if let Done::Escalated(job) = done {
                break job;
            }
        };
        open.dec();
        left
    }

    /// The next job, a batch's when there is no other; `None` when the opening has ended.
    fn next_job(&self) -> Option<Job> {
        select_biased! {
            recv(self.opening.closed) -> _ => None,
            recv(self.token.jobs(Turn::Line)) -> job => {
                let job = self.taken(job)?;
                let waited = job.queued_at.elapsed().as_secs_f64();
                self.token.metrics.queue_seconds.observe(waited);
                Some(job)
            }
            recv(self.token.jobs(Turn::Batch)) -> job => self.taken(job),
        }
    }

    fn taken(&self, job: Result<Job, RecvError>) -> Option<Job> {
        self.token.metrics.queue_depth.dec();
        job.ok()
    }

    /// A session; `None` when the opening ended before there was one. A token with fewer sessions than
    /// configured is used with those it has: the others keep asking.
    fn open(&self) -> Result<Option<OpenSession>, HsmFault> {
        loop {
            let Ok(place) = self.opening.module.enter() else {
                return Ok(None);
            };
            match self
                .token
                .watched(self.index, || place.into_session(self.opening.slot))
            {
                Ok(session) => return Ok(Some(session)),
                // The first worker speaks for the token: when it has its session, the token is
                // there, and whatever refuses another one refuses it only to us.
                Err(fault) if self.index > 0 || fault.is_session_count() => {
                    self.opening.sessions.refused(&fault);
                    tracing::warn!(
                        hsm = %self.token.config.name,
                        sessions = self.token.config.sessions,
                        %fault,
                        "the token gives no further session; configure fewer"
                    );
                    let ended = self.opening.closed.recv_timeout(SESSION_COUNT_PAUSE);
                    if ended == Err(RecvTimeoutError::Disconnected) {
                        return Ok(None);
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// One job: as often in this session as makes sense, once more in a new one, then it is the supervisor's.
    fn process(&self, session: &mut OpenSession, mut job: Job) -> Done {
        let mut retries = 0;
        let mut reopened = false;
        loop {
            if !job.is_wanted() {
                job.answer(Err(SignerFault::Deadline));
                return Done::Answered;
            }
            let proof = match job.key.proof(self.opening.generation) {
                Ok(proof) => proof,
                // the supervisor is opening the token anew: the job goes through that with the worker
                Err(_) if self.has_closed() => return Done::Escalated(Some(job)),
                Err(reason) => {
                    job.answer(Err(SignerFault::Unavailable(reason)));
                    return Done::Answered;
                }
            };
            let signed = self.token.watched(self.index, || {
                session
                    .session()
                    .and_then(|session| job.key.sign(session, &proof, &job.message, job.purpose))
            });
            let fault = match signed {
                Ok(signature) => {
                    self.finish(job, signature);
                    return Done::Answered;
                }
                Err(fault) => fault,
            };
            tracing::warn!(hsm = %self.token.config.name, issuer = %job.key.config.issuer, %fault, "signature failed");
            let level = match fault.action() {
                Action::RetrySameSession if retries < SAME_SESSION_RETRIES_MAX => {
                    retries += 1;
                    continue;
                }
                Action::RetrySameSession | Action::ReopenSession if !reopened => {
                    reopened = true;
                    match self
                        .token
                        .watched(self.index, || session.reopen(self.opening.slot, &fault))
                    {
                        Ok(()) => {
                            self.token
                                .metrics
                                .reopens
                                .with_label_values(&["session"])
                                .inc();
                            continue;
                        }
                        Err(fault) => {
                            session.let_go(&fault);
                            Level::Token
                        }
                    }
                }
                Action::RetrySameSession
                | Action::ReopenSession
                | Action::LoginAgain
                | Action::KeyGone => Level::Token,
                Action::ReinitialiseModule => Level::Module,
                Action::Stop | Action::Fault => {
                    job.key.distrust(fault.to_string());
                    self.token.wake_supervisor();
                    job.answer(Err(SignerFault::Unavailable(fault.to_string())));
                    return Done::Answered;
                }
            };
            session.let_go(&fault);
            self.escalate(&fault, level);
            if job.recovered {
                job.answer(Err(SignerFault::Unavailable(fault.to_string())));
                return Done::Escalated(None);
            }
            job.recovered = true;
            return Done::Escalated(Some(job));
        }
    }

    fn finish(&self, job: Job, signature: Vec<u8>) {
        if job.purpose == Purpose::Probe && !job.key.verifies(&job.message, &signature) {
            job.key
                .distrust("the signature over a probe did not verify".to_owned());
            self.token.wake_supervisor();
        }
        job.answer(Ok(signature));
    }

    fn has_closed(&self) -> bool {
        self.opening.closed.try_recv() == Err(TryRecvError::Disconnected)
    }

    fn escalate(&self, fault: &HsmFault, level: Level) {
        self.token.report(Report {
            generation: self.opening.generation,
            level,
            reason: format!("token {}: {fault}", self.token.config.token_label),
        });
    }
}
