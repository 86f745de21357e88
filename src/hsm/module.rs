//! A PKCS#11 module: loaded once a process, initialised once, and finalised only when nobody is inside.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    session::Session,
    slot::Slot,
};

use crate::hsm::error::HsmFault;

/// Locks, whatever another thread died of: every value behind our locks is valid at every moment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long [`Module::open`] waits for a re-initialisation to end.
const OPEN_PATIENCE: Duration = Duration::from_secs(3);

/// One shared library. `C_Initialize` and `C_Finalize` act on the whole process, so there is one
/// `Module` a path and process, and it is never unloaded.
pub(crate) struct Module {
    path: PathBuf,
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Default)]
struct State {
    pkcs11: Option<Pkcs11>,
    initialised: bool,
    /// Nobody may enter: the module is about to be finalised.
    closing: bool,
    users: usize,
}

impl Module {
    /// The module at `path`; loaded when it is first initialised.
    pub(crate) fn at(path: &Path) -> Arc<Self> {
        static MODULES: OnceLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = OnceLock::new();
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut modules = lock(MODULES.get_or_init(Mutex::default));
        let new = || {
            Arc::new(Self {
                path: path.clone(),
                state: Mutex::default(),
                left: Condvar::new(),
            })
        };
        Arc::clone(modules.entry(path.clone()).or_insert_with(new))
    }

    /// Where it was loaded from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// True between `C_Initialize` and `C_Finalize`.
    pub(crate) fn is_initialised(&self) -> bool {
        lock(&self.state).initialised
    }

    /// Takes a place inside an initialised module. As long as it is held, nobody finalises the module.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<InUse, HsmFault> {
        let mut state = lock(&self.state);
        if state.closing {
            return Err(HsmFault::Busy(format!(
                "{} is being re-initialised",
                self.path.display()
            )));
        }
        match &state.pkcs11 {
            Some(pkcs11) if state.initialised => {
                let pkcs11 = pkcs11.clone();
                state.users += 1;
                Ok(InUse {
                    module: Arc::clone(self),
                    pkcs11,
                })
            }
            _ => Err(HsmFault::Module(format!(
                "{} is not initialised",
                self.path.display()
            ))),
        }
    }

    /// Initialises the module unless it is, and enters it.
    pub(crate) fn open(self: &Arc<Self>) -> Result<InUse, HsmFault> {
        {
            let state = lock(&self.state);
            let waited = self
                .left
                .wait_timeout_while(state, OPEN_PATIENCE, |state| state.closing);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !state.initialised && !state.closing {
                self.initialise(&mut state)?;
            }
        }
        self.enter()
    }

    /// `C_Finalize` and `C_Initialize`, after everybody has left. Waits up to `patience` for that:
    /// PKCS#11 leaves it undefined what happens to a thread inside a module that is finalised (v3.0, 5.4).
    /// With `may_finalise` false it only initialises a module that is not.
    pub(crate) fn reinitialise(
        &self,
        may_finalise: bool,
        patience: Duration,
    ) -> Result<(), HsmFault> {
        let mut state = lock(&self.state);
        if state.initialised && may_finalise {
            state = self.finalise_when_empty(state, patience)?;
        }
        if state.initialised {
            Ok(())
        } else {
            self.initialise(&mut state)
        }
    }

    /// `C_Finalize` at the end, unless somebody is still inside.
    pub(crate) fn finalise(&self, patience: Duration) -> Result<(), HsmFault> {
        let state = lock(&self.state);
        if state.initialised {
            drop(self.finalise_when_empty(state, patience)?);
        }
        Ok(())
    }

    fn finalise_when_empty<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        patience: Duration,
    ) -> Result<MutexGuard<'a, State>, HsmFault> {
        state.closing = true;
        let (mut state, waited) = self
            .left
            .wait_timeout_while(state, patience, |state| state.users > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.closing = false;
        self.left.notify_all();
        if waited.timed_out() && state.users > 0 {
            return Err(HsmFault::Busy(format!(
                "{} cannot be re-initialised: {} session(s) are still inside a call",
                self.path.display(),
                state.users
            )));
        }
        if let Some(pkcs11) = state.pkcs11.clone()
            && let Err(error) = pkcs11.finalize()
        {
            // whatever it says, C_Initialize decides whether the module is usable again
            tracing::debug!(module = %self.path.display(), error = %HsmFault::from(error), "C_Finalize failed");
        }
        state.initialised = false;
        Ok(state)
    }

    fn initialise(&self, state: &mut State) -> Result<(), HsmFault> {
        let pkcs11 = match state.pkcs11.clone() {
            Some(loaded) => loaded,
            None => Pkcs11::new(&self.path).map_err(|error| {
                HsmFault::Module(format!(
                    "cannot load the PKCS#11 module {}: {error}",
                    self.path.display()
                ))
            })?,
        };
        state.pkcs11 = Some(pkcs11.clone());
        // without OS locking SoftHSM runs unlocked and two threads corrupt its heap
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        state.initialised = true;
        Ok(())
    }
}

/// A place inside an initialised module.
pub(crate) struct InUse {
    module: Arc<Module>,
    pkcs11: Pkcs11,
}

impl InUse {
    /// The module's functions.
    pub(crate) fn pkcs11(&self) -> &Pkcs11 {
        &self.pkcs11
    }

    /// Opens a session for signing and gives it this place.
    pub(crate) fn into_session(self, slot: Slot) -> Result<OpenSession, HsmFault> {
        let session = self.signing_session(slot)?;
        Ok(OpenSession {
            session: Some(session),
            place: self,
        })
    }

    /// Opens a session that may make objects and gives it this place.
    pub(crate) fn into_read_write_session(self, slot: Slot) -> Result<OpenSession, HsmFault> {
        let session = self.pkcs11.open_rw_session(slot)?;
        Ok(OpenSession {
            session: Some(session),
            place: self,
        })
    }

    /// Read-only, as signing needs no more; read-write where the module knows nothing else
    /// (that of AWS `CloudHSM`, client SDK 5, answers `CKR_FUNCTION_FAILED`).
    fn signing_session(&self, slot: Slot) -> Result<Session, HsmFault> {
        match self.pkcs11.open_ro_session(slot) {
            Err(Error::Pkcs11(RvError::FunctionFailed, _)) => {
                Ok(self.pkcs11.open_rw_session(slot)?)
            }
            other => Ok(other?),
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = lock(&self.module.state);
        state.users = state.users.saturating_sub(1);
        self.module.left.notify_all();
    }
}

/// A session, closed when dropped, in a module that cannot be finalised meanwhile.
pub(crate) struct OpenSession {
    /// `None` once it was abandoned.
    session: Option<Session>,
    place: InUse,
}

impl OpenSession {
    /// The session.
    pub(crate) fn session(&self) -> Result<&Session, HsmFault> {
        self.session
            .as_ref()
            .ok_or_else(|| HsmFault::Module("the session was abandoned".to_owned()))
    }

    /// The module's functions.
    pub(crate) fn pkcs11(&self) -> &Pkcs11 {
        &self.place.pkcs11
    }

    /// Replaces the session, closing it unless `fault` says that its handle is dead: a module may
    /// have given a dead handle's number to another thread's session.
    pub(crate) fn reopen(&mut self, slot: Slot, fault: &HsmFault) -> Result<(), HsmFault> {
        self.let_go(fault);
        self.session = None;
        self.session = Some(self.place.signing_session(slot)?);
        Ok(())
    }

    /// Forgets the session without `C_CloseSession` when `fault` says that its handle is dead.
    pub(crate) fn let_go(&mut self, fault: &HsmFault) {
        if fault.session_is_dead()
            && let Some(dead) = self.session.take()
        {
            std::mem::forget(dead);
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        // before the place is given up
        self.session = None;
    }
}
