//! One token on the supervisor's desk: opened, proved, probed, and closed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;
use cryptoki::mechanism::MechanismType;

use crate::ca::Turn;
use crate::hsm::error::{Action, HsmFault};
use crate::hsm::key::{Finding, KeyState, Purpose};
use crate::hsm::module::{Module, OpenSession};
use crate::hsm::pool::Job;
use crate::hsm::supervisor::{RETRY, RETRY_SLOWEST};
use crate::hsm::token::{Level, Opening, Sessions, Token, find_slot, log_in};

/// A key that signed nothing for so long signs a probe: readiness is never a memory.
const PROBE_AFTER: Duration = Duration::from_secs(5);

/// The supervisor's side of one token.
pub(crate) struct Desk {
    /// What its callers and workers see.
    pub(crate) token: Arc<Token>,
    /// Kept open for ever, so that the login lasts, and used by this thread alone.
    master: Option<Master>,
    /// Dropped to end the present opening.
    closed: Option<Sender<()>>,
    generation: u64,
    /// How far the next recovery goes; `None` while all is well.
    pub(crate) needs: Option<Level>,
    /// Why, for people.
    pub(crate) reason: String,
    /// The PIN was refused: this token is not touched again.
    pub(crate) stopped: bool,
    opened_before: bool,
    look_again: Instant,
    look_again_pause: Duration,
    probe_again: Instant,
}

struct Master {
    session: OpenSession,
    mechanisms: Vec<MechanismType>,
}

impl Desk {
    /// A token nobody has opened.
    pub(crate) fn new(token: Arc<Token>) -> Self {
        let now = Instant::now();
        Self {
            token,
            master: None,
            closed: None,
            generation: 0,
            needs: Some(Level::Token),
            reason: "the HSM is being opened".to_owned(),
            stopped: false,
            opened_before: false,
            look_again: now,
            look_again_pause: RETRY,
            probe_again: now,
        }
    }

    /// Takes up what a worker reported: the gate closes, workers leave.
    pub(crate) fn read_report(&mut self) {
        if let Some(report) = self.token.take_report(self.generation)
            && !self.stopped
        {
            tracing::warn!(hsm = %self.token.config.name, reason = %report.reason, level = ?report.level, "HSM recovery begins");
            self.token.close_gate(&report.reason);
            self.closed = None;
            self.needs = self.needs.max(Some(report.level));
            self.reason = report.reason;
        }
    }

    /// Opens the token: slot, session, login, keys. `level` says what came before.
    pub(crate) fn open(&mut self, module: &Arc<Module>, level: Level) {
        match self.try_open(module, level) {
            Ok(()) => {
                self.needs = None;
                self.opened_before = true;
                tracing::info!(hsm = %self.token.config.name, token = %self.token.config.token_label, "HSM token is open");
            }
            Err(fault) => self.failed(&fault, level),
        }
    }

    /// Says what comes after a failed attempt.
    pub(crate) fn failed(&mut self, fault: &HsmFault, level: Level) {
        self.reason = format!("token {}: {fault}", self.token.config.token_label);
        if matches!(fault, HsmFault::Pin(_)) {
            self.stopped = true;
            self.needs = None;
            self.close();
            self.token.take_down(&self.reason);
        } else {
            // after a failure at token level the module is tried at once, in the same round
            self.needs = Some(Level::Module);
            if level == Level::Module {
                self.token.take_down(&self.reason);
            }
        }
    }

    fn try_open(&mut self, module: &Arc<Module>, level: Level) -> Result<(), HsmFault> {
        static GENERATIONS: AtomicU64 = AtomicU64::new(1);
        let config = &self.token.config;
        let place = module.enter()?;
        let slot = find_slot(place.pkcs11(), config)?;
        let mechanisms = place.pkcs11().get_mechanism_list(slot)?;
        let session = place.into_session(slot)?;
        log_in(session.pkcs11(), slot, session.session()?, config)?;
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        for key in &self.token.keys {
            let finding = key.prove(session.session()?, &mechanisms, generation)?;
            if finding == Finding::Missing && level == Level::Token && self.opened_before {
                // it was there: the module may be looking at a token that is gone
                return Err(HsmFault::KeyMissing(key.ready().err().unwrap_or_default()));
            }
        }
        self.forget_master_if_dead();
        self.master = Some(Master {
            session,
            mechanisms,
        });
        self.generation = generation;
        let (close, closed) = crossbeam_channel::bounded(0);
        self.closed = Some(close);
        // before the gate: whoever got a signature after a recovery finds the recovery counted
        self.count_reopening(level);
        self.token.open_gate(Opening {
            generation,
            module: Arc::clone(module),
            slot,
            closed,
            sessions: Sessions::default(),
        });
        Ok(())
    }

    fn count_reopening(&self, level: Level) {
        if self.opened_before {
            let label = if level == Level::Token {
                "login"
            } else {
                "module"
            };
            self.token.metrics.reopens.with_label_values(&[label]).inc();
        }
    }

    /// Ends the present opening: workers leave, the master session closes.
    pub(crate) fn close(&mut self) {
        self.token.close_gate(&self.reason);
        self.closed = None;
        self.forget_master_if_dead();
        self.master = None;
    }

    fn forget_master_if_dead(&mut self) {
        if let Some(master) = &mut self.master
            && let Ok(session) = master.session.session()
            && let Err(error) = session.get_session_info()
        {
            master.session.let_go(&HsmFault::from(error));
        }
    }

    /// True when at least one key can sign now.
    pub(crate) fn has_proved_key(&self) -> bool {
        !self.stopped
            && self.needs.is_none()
            && self.token.keys.iter().any(|key| key.ready().is_ok())
    }

    /// Looks at keys that lost our trust at once, and at refused ones now and then: they may be put right.
    pub(crate) fn look_at_keys(&mut self, somebody_proved: bool) {
        let Some(master) = &self.master else { return };
        if self.needs.is_some() {
            return;
        }
        let now = Instant::now();
        let refused = self
            .token
            .keys
            .iter()
            .any(|key| matches!(key.state(), KeyState::Refused(_)));
        let time_has_come = now >= self.look_again;
        if refused && time_has_come {
            self.look_again = now + self.look_again_pause;
            self.look_again_pause = (self.look_again_pause * 2).min(RETRY_SLOWEST);
            if !somebody_proved && self.look_again_pause > RETRY * 2 {
                // nobody is disturbed, and some modules show a key that came back only after C_Finalize
                self.needs = Some(Level::Module);
                return;
            }
        } else if !refused {
            self.look_again_pause = RETRY;
        }
        for key in &self.token.keys {
            let look = match key.state() {
                KeyState::Proved(_) => false,
                KeyState::Unproved(_) => true,
                KeyState::Refused(_) => time_has_come,
            };
            if look
                && let Err(fault) = master
                    .session
                    .session()
                    .and_then(|session| key.prove(session, &master.mechanisms, self.generation))
            {
                self.reason = format!("token {}: {fault}", self.token.config.token_label);
                self.token.close_gate(&self.reason);
                self.needs = Some(if fault.action() == Action::ReinitialiseModule {
                    Level::Module
                } else {
                    Level::Token
                });
                return;
            }
        }
    }

    /// A real signature for every key that has not made one for a while.
    pub(crate) fn probe(&mut self) {
        let now = Instant::now();
        if self.needs.is_some() || now < self.probe_again || self.token.ready().is_err() {
            return;
        }
        for key in self
            .token
            .keys
            .iter()
            .filter(|key| key.ready().is_ok() && key.idle() >= PROBE_AFTER)
        {
            self.probe_again = now + RETRY;
            // a full queue is no news: then signatures are being made
            let _ = self.token.submit(Job {
                message: key.challenge(),
                key: Arc::clone(key),
                purpose: Purpose::Probe,
                turn: Turn::Line,
                queued_at: now,
                deadline: now + RETRY,
                reply: None,
                recovered: false,
            });
        }
    }

    /// Publishes the state, and frees those who wait for a token that hangs.
    pub(crate) fn show(&self) {
        self.token.show();
        if let Some(reason) = self.token.hung() {
            self.token.fail_waiting(&reason);
        }
        let Token {
            config, metrics, ..
        } = &*self.token;
        let refused = metrics.pin_refused.with_label_values(&[&config.name]);
        refused.set(i64::from(self.stopped));
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.close();
        self.token.show();
    }
}
