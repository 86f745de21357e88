//! One thread a module: opens its tokens, proves their keys, and opens them again as far as it takes.
//!
//! It alone logs in, and it alone finalises and initialises. Workers only replace their own session;
//! what that does not heal they report here.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};

use crate::hsm::desk::Desk;
use crate::hsm::module::{Module, lock};
use crate::hsm::token::{Level, Token};

/// How often the supervisor looks around when nobody calls it.
const TICK: Duration = Duration::from_millis(250);

/// How often a token that is down is tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// How rarely a refused key, or a dead token beside a healthy one in the same module, is tried again at most.
pub(crate) const RETRY_SLOWEST: Duration = Duration::from_secs(30);

/// How long workers get to leave the module.
const QUIESCE: Duration = Duration::from_secs(1);

/// Watches the tokens of one module, for every [`crate::hsm::Hsm`] of the process.
pub(crate) struct Supervisor {
    module: Arc<Module>,
    tokens: Mutex<Vec<Arc<Token>>>,
    wake: Sender<()>,
    /// False when the thread could not be started.
    runs: bool,
}

impl Supervisor {
    /// The supervisor of the module at `path`.
    pub(crate) fn of(path: &Path) -> Arc<Self> {
        static SUPERVISORS: OnceLock<Mutex<HashMap<PathBuf, Arc<Supervisor>>>> = OnceLock::new();
        let module = Module::at(path);
        let mut supervisors = lock(SUPERVISORS.get_or_init(Mutex::default));
        let supervisor = supervisors
            .entry(module.path().to_owned())
            .or_insert_with(|| Self::start(&module));
        Arc::clone(supervisor)
    }

    /// What wakes it.
    pub(crate) fn waker(&self) -> Sender<()> {
        self.wake.clone()
    }

    /// Takes a token into its care, and opens it soon.
    pub(crate) fn adopt(&self, token: Arc<Token>) {
        if self.runs {
            lock(&self.tokens).push(token);
            let _ = self.wake.try_send(());
        } else {
            token.take_down("the operating system refused a thread for the HSM supervisor");
            token.released();
        }
    }

    /// Lets go of a token; [`Token::wait_released`] tells when that is done.
    pub(crate) fn dismiss(&self, token: &Arc<Token>) {
        lock(&self.tokens).retain(|kept| !Arc::ptr_eq(kept, token));
        let _ = self.wake.try_send(());
    }

    fn start(module: &Arc<Module>) -> Arc<Self> {
        let (wake, woken) = crossbeam_channel::bounded(1);
        let new = |runs| {
            Arc::new(Self {
                module: Arc::clone(module),
                tokens: Mutex::default(),
                wake: wake.clone(),
                runs,
            })
        };
        let supervisor = new(true);
        let running = Arc::clone(&supervisor);
        match std::thread::Builder::new()
            .name("hsm-supervisor".to_owned())
            .spawn(move || running.run(&woken))
        {
            Ok(_) => supervisor,
            Err(_) => new(false),
        }
    }

    fn run(&self, woken: &Receiver<()>) {
        let mut ward = Ward {
            module: Arc::clone(&self.module),
            desks: Vec::new(),
            next: Instant::now(),
            pause: RETRY,
        };
        loop {
            let waited = if ward.desks.is_empty() {
                woken.recv().map_err(drop)
            } else {
                woken
                    .recv_timeout(TICK)
                    .or_else(|error| if error.is_timeout() { Ok(()) } else { Err(()) })
            };
            if waited.is_err() {
                return;
            }
            // A statement of its own: the lock must not be held while the module is called, which may hang.
            let tokens = lock(&self.tokens).clone();
            ward.admit_and_discharge(&tokens);
            ward.round();
        }
    }
}

/// The tokens of a module, as the supervisor sees them.
struct Ward {
    module: Arc<Module>,
    desks: Vec<Desk>,
    /// Not before then is the module re-initialised again.
    next: Instant,
    pause: Duration,
}

impl Ward {
    fn admit_and_discharge(&mut self, tokens: &[Arc<Token>]) {
        let (kept, gone): (Vec<Desk>, Vec<Desk>) = std::mem::take(&mut self.desks)
            .into_iter()
            .partition(|desk| tokens.iter().any(|token| Arc::ptr_eq(token, &desk.token)));
        self.desks = kept;
        for token in tokens {
            if !self
                .desks
                .iter()
                .any(|desk| Arc::ptr_eq(token, &desk.token))
            {
                self.desks.push(Desk::new(Arc::clone(token)));
            }
        }
        let released: Vec<Arc<Token>> = gone.iter().map(|desk| Arc::clone(&desk.token)).collect();
        drop(gone);
        if !released.is_empty()
            && self.desks.is_empty()
            && let Err(fault) = self.module.finalise(QUIESCE)
        {
            tracing::debug!(%fault, "module left initialised");
        }
        // Not before: who waits for it may end the process, and what the module does at its end must not meet
        // a thread that is still inside it.
        for token in released {
            token.released();
        }
    }

    /// One look at everything.
    fn round(&mut self) {
        for desk in &mut self.desks {
            desk.read_report();
        }
        let initialised = self.module.is_initialised();
        for desk in &mut self.desks {
            if desk.needs == Some(Level::Token) && initialised {
                desk.open(&self.module, Level::Token);
            }
        }
        if self.desks.iter().any(|desk| desk.needs.is_some()) {
            self.treat_module();
        }
        let somebody_proved = self.desks.iter().any(Desk::has_proved_key);
        for desk in &mut self.desks {
            desk.look_at_keys(somebody_proved);
            desk.probe();
            desk.show();
        }
    }

    /// Re-initialises the module, when it is time and nothing hangs inside it.
    fn treat_module(&mut self) {
        let hung = self.desks.iter().find_map(|desk| desk.token.hung());
        if let Some(reason) = hung.as_deref() {
            self.take_down_needy(Some(reason));
        } else if Instant::now() < self.next {
            self.take_down_needy(None);
        } else {
            self.reinitialise();
            // a healthy token is not to be disturbed every second for the sake of a dead one
            let healthy_and_dead = self.desks.iter().any(Desk::has_proved_key)
                && self.desks.iter().any(|desk| desk.needs.is_some());
            self.pause = if healthy_and_dead {
                (self.pause * 2).min(RETRY_SLOWEST)
            } else {
                RETRY
            };
            self.next = Instant::now() + self.pause;
        }
    }

    fn take_down_needy(&mut self, reason: Option<&str>) {
        for desk in self.desks.iter().filter(|desk| desk.needs.is_some()) {
            desk.token.take_down(reason.unwrap_or(&desk.reason));
        }
    }

    fn reinitialise(&mut self) {
        for desk in &mut self.desks {
            desk.close();
        }
        let may_finalise = self
            .desks
            .iter()
            .all(|desk| desk.token.config.recover_module);
        let outcome = self.module.reinitialise(may_finalise, QUIESCE);
        for desk in self.desks.iter_mut().filter(|desk| !desk.stopped) {
            match &outcome {
                Ok(()) => desk.open(&self.module, Level::Module),
                Err(fault) => desk.failed(fault, Level::Module),
            }
        }
    }
}
