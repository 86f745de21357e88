//! A token as its callers and workers share it: the gate, the queue, and the calls that are under way.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use cryptoki::{
    context::{Function, Pkcs11},
    error::RvError,
    session::{Session, UserType},
    slot::Slot,
};

use crate::ca::SignerFault;
use crate::ca::Turn;
use crate::hsm::TokenConfig;
use crate::hsm::error::{Action, HsmFault};
use crate::hsm::key::Key;
use crate::hsm::module::{InUse, Module, OpenSession, lock};
use crate::hsm::pool::Job;
use crate::metrics::HsmMetrics;

/// A recovery shorter than this is not worth an error: callers wait in the queue.
const GRACE: Duration = Duration::from_millis(500);

/// How often [`open_by_hand`] tries, and how long it waits before the second time; twice as long before each other.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

type Queue = (Sender<Job>, Receiver<Job>);

/// One configured token.
pub(crate) struct Token {
    /// As configured.
    pub(crate) config: TokenConfig,
    /// The keys of [`TokenConfig::keys`], in that order.
    pub(crate) keys: Vec<Arc<Key>>,
    /// What it counts.
    pub(crate) metrics: Arc<HsmMetrics>,
    state: Mutex<State>,
    turned: Condvar,
    line: Queue,
    /// Has no bound: a chunk has no more rows on their way than the line may have jobs.
    batches: Queue,
    report: Mutex<Option<Report>>,
    wake_supervisor: Sender<()>,
    /// One a worker: milliseconds after `born` when its present call began, plus one; 0 outside calls.
    calls: Vec<AtomicU64>,
    born: Instant,
}

struct State {
    gate: Gate,
    workers: usize,
    supervised: bool,
}

/// Whether workers may use the token.
#[derive(Clone)]
enum Gate {
    /// The supervisor is at work, since then.
    Recovering(String, Instant),
    Open(Arc<Opening>),
    /// The last attempt to open it failed.
    Down(String),
    /// For good.
    Ended,
}

/// One opening of the token, from login to the next recovery.
pub(crate) struct Opening {
    /// Unique; proofs and faults belong to one generation.
    pub(crate) generation: u64,
    /// To open sessions in.
    pub(crate) module: Arc<Module>,
    /// Where the token is in this generation.
    pub(crate) slot: Slot,
    /// Disconnected when the opening ends.
    pub(crate) closed: Receiver<()>,
    /// What workers have of it.
    pub(crate) sessions: Sessions,
}

/// Workers' sessions in one opening.
#[derive(Default)]
pub(crate) struct Sessions {
    open: AtomicUsize,
    /// Why a worker got none, the last time one did not.
    refused: Mutex<Option<String>>,
}

impl Sessions {
    /// A worker has one, until this is dropped.
    pub(crate) fn held(&self) -> HeldSession<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        HeldSession(self)
    }

    pub(crate) fn refused(&self, fault: &HsmFault) {
        *lock(&self.refused) = Some(format!("the token gives no session to sign in: {fault}"));
    }

    /// `Err(reason)` when workers asked and none has one.
    fn some(&self) -> Result<(), String> {
        if self.open.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        lock(&self.refused).clone().map_or(Ok(()), Err)
    }
}

/// A worker's session, while it is counted.
pub(crate) struct HeldSession<'a>(&'a Sessions);

impl Drop for HeldSession<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a worker could not heal itself.
#[derive(Debug)]
pub(crate) struct Report {
    /// The opening it happened in.
    pub(crate) generation: u64,
    /// How far the supervisor must go.
    pub(crate) level: Level,
    /// For people.
    pub(crate) reason: String,
}

/// Marks a call as over when it is dropped.
struct Ended<'a>(&'a AtomicU64);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// How much is opened anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// All sessions of the token, and the login.
    Token,
    /// The module: `C_Finalize`, `C_Initialize`, then every token in it.
    Module,
}

impl Token {
    /// A token that is down until a supervisor opens it.
    pub(crate) fn new(
        config: TokenConfig,
        metrics: &Arc<HsmMetrics>,
        wake_supervisor: Sender<()>,
    ) -> Self {
        let room = config.queue_depth_max.max(1);
        let down = format!("token {} is being opened", config.token_label);
        Self {
            keys: config
                .keys
                .iter()
                .map(|key| Arc::new(Key::new(key.clone(), &config.token_label, metrics)))
                .collect(),
            metrics: Arc::clone(metrics),
            state: Mutex::new(State {
                gate: Gate::Down(down),
                workers: 0,
                supervised: true,
            }),
            turned: Condvar::new(),
            line: crossbeam_channel::bounded(room),
            batches: crossbeam_channel::unbounded(),
            report: Mutex::new(None),
            wake_supervisor,
            calls: (0..config.sessions.max(1))
                .map(|_| AtomicU64::new(0))
                .collect(),
            born: Instant::now(),
            config,
        }
    }

    // ---- for callers

    /// `Err(reason)` when no key of this token could sign now. Takes short locks, never blocks on the HSM.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match &lock(&self.state).gate {
            Gate::Open(opening) => opening.sessions.some()?,
            Gate::Recovering(_, since) if since.elapsed() < GRACE => {}
            Gate::Recovering(reason, _) | Gate::Down(reason) => return Err(reason.clone()),
            Gate::Ended => return Err("the HSM adapter is shut down".to_owned()),
        }
        self.hung().map_or(Ok(()), Err)
    }

    /// Publishes whether it, and each of its keys, can sign now.
    pub(crate) fn show(&self) {
        let token = self.ready();
        let labels = [&self.config.name];
        let up = self.metrics.token_up.with_label_values(&labels);
        up.set(i64::from(token.is_ok()));
        for key in &self.keys {
            key.show(token.is_ok() && key.ready().is_ok());
        }
    }

    /// Queues a job, or gives it up at once.
    pub(crate) fn submit(&self, job: Job) -> Result<(), SignerFault> {
        self.metrics.queue_depth.inc();
        self.queue(job.turn).0.try_send(job).map_err(|refused| {
            self.metrics.queue_depth.dec();
            match refused {
                TrySendError::Full(_) => SignerFault::Overloaded,
                TrySendError::Disconnected(_) => {
                    SignerFault::Unavailable("the HSM adapter is shut down".to_owned())
                }
            }
        })
    }

    fn queue(&self, turn: Turn) -> &Queue {
        match turn {
            Turn::Line => &self.line,
            Turn::Batch => &self.batches,
        }
    }

    /// The reason, when a call has been inside the module for longer than is healthy.
    pub(crate) fn hung(&self) -> Option<String> {
        let now = self.milliseconds();
        let longest = self
            .calls
            .iter()
            .filter_map(|call| match call.load(Ordering::Relaxed) {
                0 => None,
                began => Some(now.saturating_sub(began - 1)),
            })
            .max()?;
        (longest > self.config.hung_after_ms).then(|| {
            format!(
                "token {}: C_Sign has not returned for {} s",
                self.config.token_label,
                longest / 1000
            )
        })
    }

    // ---- for workers

    /// The jobs.
    pub(crate) fn jobs(&self, turn: Turn) -> &Receiver<Job> {
        &self.queue(turn).1
    }

    /// Waits for an opening younger than `seen`. `None` at the end, or when `until` has passed or the
    /// gate is down while there is an `until`: whoever holds a job must not wait for ever.
    pub(crate) fn next_opening(&self, seen: u64, until: Option<Instant>) -> Option<Arc<Opening>> {
        let mut state = lock(&self.state);
        loop {
            match &state.gate {
                Gate::Open(opening) if opening.generation > seen => {
                    return Some(Arc::clone(opening));
                }
                Gate::Ended => return None,
                Gate::Down(_) if until.is_some() => return None,
                _ => {}
            }
            let Some(until) = until else {
                state = self
                    .turned
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())?;
            state = self
                .turned
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// True after [`Self::end`].
    pub(crate) fn has_ended(&self) -> bool {
        matches!(lock(&self.state).gate, Gate::Ended)
    }

    /// Runs a call of worker `index` into the module under watch; however it ends, it is over then.
    pub(crate) fn watched<T>(&self, index: usize, call: impl FnOnce() -> T) -> T {
        let began = self.calls.get(index);
        if let Some(began) = began {
            began.store(self.milliseconds() + 1, Ordering::Relaxed);
        }
        let _ended = began.map(Ended);
        call()
    }

    /// Tells the supervisor what the worker cannot heal. The gravest report of a generation counts.
    pub(crate) fn report(&self, report: Report) {
        let mut held = lock(&self.report);
        if held
            .as_ref()
            .is_none_or(|held| (held.generation, held.level) < (report.generation, report.level))
        {
            *held = Some(report);
        }
        drop(held);
        self.wake_supervisor();
    }

    /// A worker has started.
    pub(crate) fn worker_begins(&self) {
        lock(&self.state).workers += 1;
    }

    /// A worker has ended.
    pub(crate) fn worker_ends(&self) {
        lock(&self.state).workers -= 1;
        self.turned.notify_all();
    }

    // ---- for the supervisor

    /// Makes the supervisor look now.
    pub(crate) fn wake_supervisor(&self) {
        let _ = self.wake_supervisor.try_send(());
    }

    /// The report of this generation, if there is one; older ones are settled already.
    pub(crate) fn take_report(&self, generation: u64) -> Option<Report> {
        lock(&self.report)
            .take()
            .filter(|report| report.generation == generation)
    }

    /// Lets workers in.
    pub(crate) fn open_gate(&self, opening: Opening) {
        self.turn(Gate::Open(Arc::new(opening)));
    }

    /// Keeps workers out while the token is opened anew. A token that is down stays down meanwhile.
    pub(crate) fn close_gate(&self, reason: &str) {
        if matches!(lock(&self.state).gate, Gate::Open(_)) {
            self.turn(Gate::Recovering(reason.to_owned(), Instant::now()));
        }
    }

    /// The attempt failed: everybody who waits is told why.
    pub(crate) fn take_down(&self, reason: &str) {
        let new = !matches!(&lock(&self.state).gate, Gate::Down(old) if old == reason);
        if new {
            tracing::error!(hsm = %self.config.name, %reason, "HSM token is down");
            self.turn(Gate::Down(reason.to_owned()));
        }
        self.fail_waiting(reason);
    }

    /// Answers every queued job with `Unavailable`.
    pub(crate) fn fail_waiting(&self, reason: &str) {
        for turn in [Turn::Line, Turn::Batch] {
            while let Ok(job) = self.jobs(turn).try_recv() {
                self.metrics.queue_depth.dec();
                job.answer(Err(SignerFault::Unavailable(reason.to_owned())));
            }
        }
    }

    /// Lets go of the token for good. Returns at once.
    pub(crate) fn end(&self) {
        self.turn(Gate::Ended);
        self.fail_waiting("the HSM adapter is shut down");
    }

    /// The supervisor has closed its own session, and finalised the module if nobody else uses it.
    pub(crate) fn released(&self) {
        lock(&self.state).supervised = false;
        self.turned.notify_all();
    }

    /// Waits until workers and supervisor have left; false when they have not in time.
    pub(crate) fn wait_released(&self, patience: Duration) -> bool {
        let waited = self
            .turned
            .wait_timeout_while(lock(&self.state), patience, |state| {
                state.workers > 0 || state.supervised
            });
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn turn(&self, gate: Gate) {
        let mut state = lock(&self.state);
        if !matches!(state.gate, Gate::Ended) {
            state.gate = gate;
        }
        self.turned.notify_all();
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Opens a token for a command, without a supervisor: a session made by `open`, logged in, and the token's slot.
///
/// What `C_Finalize` and `C_Initialize` may heal is tried again after [`FIRST_PAUSE`] and its doubles, altogether
/// 0.7 s: a login makes `SoftHSM` write its token anew, and a process that initialises the module at that moment
/// finds no token, or half of one. Of what `C_Login` returns that is only what no wrong PIN is answered with.
#[expect(
    clippy::disallowed_methods,
    reason = "a command waits for its token; no request does"
)]
pub(crate) fn open_by_hand(
    config: &TokenConfig,
    open: impl Fn(InUse, Slot) -> Result<OpenSession, HsmFault>,
) -> Result<(OpenSession, Slot), HsmFault> {
    let module = Module::at(&config.module);
    let attempt = || {
        let place = module.open()?;
        let slot = find_slot(place.pkcs11(), config)?;
        let session = open(place, slot)?;
        log_in(session.pkcs11(), slot, session.session()?, config)?;
        Ok((session, slot))
    };
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(fault) if may_pass(&fault) => {
                tracing::debug!(%fault, "the token is looked for again");
                std::thread::sleep(pause);
                pause *= 2;
                if config.recover_module {
                    // whoever else is inside keeps it as it is
                    let _ = module.finalise(Duration::ZERO);
                }
            }
            settled => return settled,
        }
    }
    attempt()
}

/// Whether the same may work a moment later, and costs no try of the PIN.
fn may_pass(fault: &HsmFault) -> bool {
    match fault {
        HsmFault::Returned {
            function: Function::Login,
            value,
        } => matches!(
            value,
            RvError::UserPinNotInitialized | RvError::GeneralError
        ),
        other => other.action() == Action::ReinitialiseModule,
    }
}

/// The slot that holds the token: by label, then serial number, never by slot number, which may change
/// with every `C_Initialize`.
pub(crate) fn find_slot(pkcs11: &Pkcs11, config: &TokenConfig) -> Result<Slot, HsmFault> {
    let mut found = Vec::new();
    for slot in pkcs11.get_slots_with_token()? {
        // a neighbour's broken slot is no reason to miss ours
        let Ok(info) = pkcs11.get_token_info(slot) else {
            continue;
        };
        let serial_fits = config
            .token_serial
            .as_deref()
            .is_none_or(|serial| info.serial_number().trim_end() == serial);
        if info.token_initialized() && info.label().trim_end() == config.token_label && serial_fits
        {
            found.push(slot);
        }
    }
    let named = match &config.token_serial {
        Some(serial) => format!(
            "labelled {} with serial number {serial}",
            config.token_label
        ),
        None => format!("labelled {}", config.token_label),
    };
    match found.as_slice() {
        [only] => Ok(*only),
        [] => Err(HsmFault::Token(format!(
            "{} shows no token {named}",
            config.module.display()
        ))),
        several => Err(HsmFault::Token(format!(
            "{} shows {} tokens {named}; token_serial would tell them apart",
            config.module.display(),
            several.len()
        ))),
    }
}

/// Logs in, once for all sessions of this process with the token. A refused PIN comes back as [`HsmFault::Pin`].
pub(crate) fn log_in(
    pkcs11: &Pkcs11,
    slot: Slot,
    session: &Session,
    config: &TokenConfig,
) -> Result<(), HsmFault> {
    let info = pkcs11.get_token_info(slot)?;
    if !info.login_required() {
        return Ok(());
    }
    if info.user_pin_locked() {
        return Err(HsmFault::Pin(format!(
            "token {} reports CKF_USER_PIN_LOCKED",
            config.token_label
        )));
    }
    match session
        .login(UserType::User, Some(&config.pin))
        .map_err(HsmFault::from)
    {
        Ok(())
        | Err(HsmFault::Returned {
            function: Function::Login,
            value: RvError::UserAlreadyLoggedIn,
        }) => Ok(()),
        Err(fault) if fault.action() == Action::Stop => Err(HsmFault::Pin(format!(
            "{fault} (token {})",
            config.token_label
        ))),
        Err(fault) => Err(fault),
    }
}
