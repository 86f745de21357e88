//! A PKCS#11 module that forwards to the one named by `FAULT_MODULE_TARGET` and misbehaves on demand.
//!
//! The file named by `FAULT_MODULE_CONTROL` is read at every watched call. It holds `name=value` words:
//!
//! * `sign_rv=N`: `C_Sign` returns N; with `percent=P` on that share of calls, with `times=T` only T times
//! * `login_rv=N`: `C_Login` returns N
//! * `open_rv=N`: `C_OpenSession` returns N
//! * `sessions=N`: the token gives no more than N sessions at a time
//! * `delay_ms=N`: `C_Sign` takes that much longer
//! * `finalize_ms=N`: so does `C_Finalize`
//! * `hang=1`: `C_Sign` returns only after the file has changed
//! * `open_hang=1`: so does `C_OpenSession`
//! * `flip=1`: a bit of every signature is wrong
//! * `close_all=1`: once, before the next `C_SignInit`, all sessions of its token are closed
//! * `logout=1`: once, before the next `C_SignInit`, another session logs the user out
//!
//! Signatures made and logins tried are counted in the file named by `FAULT_MODULE_COUNTS`: `sign=N login=N
//! finalize=N`; the last when it is over.

#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::{
    collections::HashMap,
    fs,
    sync::{
        Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use cryptoki_sys::*;

static REAL: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
static SIGNS: AtomicU64 = AtomicU64::new(0);
static LOGINS: AtomicU64 = AtomicU64::new(0);
static ENDS: AtomicU64 = AtomicU64::new(0);

/// The control file as last read, and what of it is used up.
#[derive(Default)]
struct Control {
    text: String,
    words: HashMap<String, u64>,
    faults: u64,
    done_once: bool,
}

static CONTROL: Mutex<Option<Control>> = Mutex::new(None);

fn control_text() -> String {
    std::env::var_os("FAULT_MODULE_CONTROL")
        .and_then(|path| fs::read_to_string(path).ok())
        .unwrap_or_default()
}

/// Asks the control file.
fn ask<T>(question: impl FnOnce(&mut Control) -> T) -> T {
    let text = control_text();
    let mut held = CONTROL.lock().unwrap();
    let control = held.get_or_insert_default();
    if control.text != text {
        let number = |word: &str| match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
            None => word.parse().unwrap(),
        };
        let words = text
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        let words = words
            .map(|(name, value)| (name.to_owned(), number(value)))
            .collect();
        *control = Control {
            text,
            words,
            ..Control::default()
        };
    }
    question(control)
}

fn word(name: &str) -> Option<u64> {
    ask(|control| control.words.get(name).copied())
}

/// True the first time it is asked after the file said so.
fn once(name: &str) -> bool {
    ask(|control| {
        control.words.contains_key(name) && !std::mem::replace(&mut control.done_once, true)
    })
}

/// The return value `C_Sign` is to have, if not its own.
fn sign_fault(call: u64) -> Option<CK_RV> {
    ask(|control| {
        let value = *control.words.get("sign_rv")?;
        let its_turn = control
            .words
            .get("percent")
            .is_none_or(|percent| call % (100 / percent) == 0);
        let left = control
            .words
            .get("times")
            .is_none_or(|times| control.faults < *times);
        (its_turn && left).then(|| {
            control.faults += 1;
            value as CK_RV
        })
    })
}

/// Writes the counts so that a reader sees whole files only, and never an older one after a newer one.
fn write_counts() {
    static WRITING: Mutex<()> = Mutex::new(());
    if let Some(path) = std::env::var_os("FAULT_MODULE_COUNTS") {
        let _writing = WRITING.lock().unwrap();
        let [signs, logins, ends] =
            [&SIGNS, &LOGINS, &ENDS].map(|count| count.load(Ordering::SeqCst));
        let mut new = path.clone();
        new.push(".new");
        fs::write(&new, format!("sign={signs} login={logins} finalize={ends}")).unwrap();
        fs::rename(new, path).unwrap();
    }
}

fn real() -> &'static CK_FUNCTION_LIST {
    REAL.get_or_init(|| {
        let target = std::env::var_os("FAULT_MODULE_TARGET")
            .expect("FAULT_MODULE_TARGET names the real module");
        unsafe {
            let library = libloading::Library::new(target).expect("the real module loads");
            let list_of: libloading::Symbol<
                unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV,
            > = library
                .get(b"C_GetFunctionList")
                .expect("C_GetFunctionList");
            let mut list = std::ptr::null_mut();
            assert_eq!(list_of(&mut list), CKR_OK);
            let list = *list;
            std::mem::forget(library);
            list
        }
    })
}

/// A call that uses a session holds it to read, `close_all` to write: SoftHSM itself frees a session
/// under a call that uses it, and takes the process along. What is tested is that sessions are gone.
static IN_USE: RwLock<()> = RwLock::new(());

/// Calls that are forwarded as they are, but not while all sessions are being closed.
macro_rules! forwarded {
    ($($name:ident = $real:ident($($argument:ident: $kind:ty),*);)*) => {
        $(unsafe extern "C" fn $name($($argument: $kind),*) -> CK_RV {
            let _in_use = IN_USE.read().unwrap_or_else(PoisonError::into_inner);
            unsafe { real().$real.unwrap()($($argument),*) }
        })*
    };
}

forwarded! {
    session_info = C_GetSessionInfo(session: CK_SESSION_HANDLE, info: CK_SESSION_INFO_PTR);
    find_init = C_FindObjectsInit(session: CK_SESSION_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG);
    find = C_FindObjects(session: CK_SESSION_HANDLE, objects: CK_OBJECT_HANDLE_PTR, most: CK_ULONG, found: CK_ULONG_PTR);
    find_final = C_FindObjectsFinal(session: CK_SESSION_HANDLE);
    attributes = C_GetAttributeValue(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG);
}

unsafe extern "C" fn sign_init(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    unsafe {
        if once("close_all") {
            let mut info = CK_SESSION_INFO::default();
            let _alone = IN_USE.write().unwrap_or_else(PoisonError::into_inner);
            real().C_GetSessionInfo.unwrap()(session, &mut info);
            real().C_CloseAllSessions.unwrap()(info.slotID);
            SESSIONS.store(0, Ordering::SeqCst);
        }
        if once("logout") {
            real().C_Logout.unwrap()(session);
        }
        let _in_use = IN_USE.read().unwrap_or_else(PoisonError::into_inner);
        real().C_SignInit.unwrap()(session, mechanism, key)
    }
}

/// Where the file has this word, until it has changed.
fn hang_while(name: &str) {
    if word(name).is_some() {
        let text = control_text();
        while control_text() == text {
            sleep(Duration::from_millis(10));
        }
    }
}

unsafe extern "C" fn sign(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    data_len: CK_ULONG,
    signature: CK_BYTE_PTR,
    signature_len: CK_ULONG_PTR,
) -> CK_RV {
    let forward = || {
        let _in_use = IN_USE.read().unwrap_or_else(PoisonError::into_inner);
        unsafe { real().C_Sign.unwrap()(session, data, data_len, signature, signature_len) }
    };
    if signature.is_null() {
        return forward(); // only the length is asked for
    }
    if let Some(milliseconds) = word("delay_ms") {
        sleep(Duration::from_millis(milliseconds));
    }
    hang_while("hang");
    // the real call comes first also when it is to fail: a failed C_Sign ends the operation
    let value = forward();
    let call = SIGNS.fetch_add(1, Ordering::SeqCst) + 1;
    write_counts();
    if value == CKR_OK && word("flip").is_some() {
        unsafe { *signature.add(*signature_len as usize - 1) ^= 1 };
    }
    sign_fault(call).unwrap_or(value)
}

unsafe extern "C" fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: CK_UTF8CHAR_PTR,
    pin_len: CK_ULONG,
) -> CK_RV {
    LOGINS.fetch_add(1, Ordering::SeqCst);
    write_counts();
    match word("login_rv") {
        Some(value) => value as CK_RV,
        None => {
            let _in_use = IN_USE.read().unwrap_or_else(PoisonError::into_inner);
            unsafe { real().C_Login.unwrap()(session, user, pin, pin_len) }
        }
    }
}

unsafe extern "C" fn finalize(reserved: CK_VOID_PTR) -> CK_RV {
    if let Some(milliseconds) = word("finalize_ms") {
        sleep(Duration::from_millis(milliseconds));
    }
    let value = unsafe { real().C_Finalize.unwrap()(reserved) };
    SESSIONS.store(0, Ordering::SeqCst);
    ENDS.fetch_add(1, Ordering::SeqCst);
    write_counts();
    value
}

/// Sessions that are open.
static SESSIONS: AtomicU64 = AtomicU64::new(0);
/// `CKR_SESSION_COUNT`
const NO_MORE_SESSIONS: CK_RV = 0xB1;

unsafe extern "C" fn close_session(session: CK_SESSION_HANDLE) -> CK_RV {
    let _in_use = IN_USE.read().unwrap_or_else(PoisonError::into_inner);
    let value = unsafe { real().C_CloseSession.unwrap()(session) };
    if value == CKR_OK {
        SESSIONS.fetch_sub(1, Ordering::SeqCst);
    }
    value
}

unsafe extern "C" fn open_session(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: CK_VOID_PTR,
    notify: CK_NOTIFY,
    session: CK_SESSION_HANDLE_PTR,
) -> CK_RV {
    if let Some(value) = word("open_rv") {
        return value as CK_RV;
    }
    hang_while("open_hang");
    let most = word("sessions").unwrap_or(u64::MAX);
    let taken = SESSIONS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |open| {
        (open < most).then_some(open + 1)
    });
    if taken.is_err() {
        return NO_MORE_SESSIONS;
    }
    let _in_use = IN_USE.read().unwrap_or_else(PoisonError::into_inner);
    let value = unsafe { real().C_OpenSession.unwrap()(slot, flags, application, notify, session) };
    if value != CKR_OK {
        SESSIONS.fetch_sub(1, Ordering::SeqCst);
    }
    value
}

static LIST: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();

/// The one symbol a PKCS#11 2.40 module must have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    let ours = LIST.get_or_init(|| CK_FUNCTION_LIST {
        C_SignInit: Some(sign_init),
        C_Sign: Some(sign),
        C_Login: Some(login),
        C_Finalize: Some(finalize),
        C_OpenSession: Some(open_session),
        C_CloseSession: Some(close_session),
        C_GetSessionInfo: Some(session_info),
        C_FindObjectsInit: Some(find_init),
        C_FindObjects: Some(find),
        C_FindObjectsFinal: Some(find_final),
        C_GetAttributeValue: Some(attributes),
        C_GetFunctionList: Some(C_GetFunctionList),
        ..*real()
    });
    unsafe { *list = std::ptr::from_ref(ours).cast_mut() };
    CKR_OK
}
