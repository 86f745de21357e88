//! Everything that can go wrong between us and a token, and the one table that says what to do about it.

use cryptoki::{context::Function, error::Error, error::RvError};

/// A failure of the HSM, its module or its configuration. Its text keeps the names of the
/// PKCS#11 function and of its return value, and never holds a PIN.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HsmFault {
    /// A PKCS#11 function said no.
    #[error("{} returned {}", function_name(*function), return_value_name(value))]
    Returned {
        /// Which function.
        function: Function,
        /// Its return value.
        value: RvError,
    },
    /// The module cannot be loaded, or its answer cannot be understood.
    #[error("{0}")]
    Module(String),
    /// Something still runs inside the module, so that it cannot be finalised.
    #[error("{0}")]
    Busy(String),
    /// No token, or more than one, answers to the configured label and serial number.
    #[error("{0}")]
    Token(String),
    /// The token refused the PIN; it is not offered a second time.
    #[error("the PIN is not tried again until the service is restarted: {0}")]
    Pin(String),
    /// No private key answers to the configured label and id.
    #[error("{0}")]
    KeyMissing(String),
    /// There is a key, but not one that may sign for the issuer.
    #[error("{0}")]
    KeyRefused(String),
    /// A key cannot be made as asked.
    #[error("{0}")]
    Ceremony(String),
}

impl HsmFault {
    /// The token has no session left.
    pub(crate) fn is_session_count(&self) -> bool {
        matches!(
            self,
            Self::Returned {
                value: RvError::SessionCount,
                ..
            }
        )
    }
}

/// How far recovery has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A passing trouble: the same call in the same session may work.
    RetrySameSession,
    /// The session is gone or stuck: a new one may work.
    ReopenSession,
    /// The token forgot us: open it again and log in.
    LoginAgain,
    /// The handle no longer names the key: open the token again, search, prove.
    KeyGone,
    /// Only `C_Finalize` and `C_Initialize` help.
    ReinitialiseModule,
    /// A person has to act; trying again makes it worse.
    Stop,
    /// The call itself is wrong for this token or key; no recovery changes that.
    Fault,
}

impl HsmFault {
    /// What helps.
    pub(crate) fn action(&self) -> Action {
        match self {
            Self::Returned { value, .. } => action(*value),
            Self::Module(_) | Self::Busy(_) | Self::Token(_) => Action::ReinitialiseModule,
            Self::Pin(_) => Action::Stop,
            Self::KeyMissing(_) => Action::KeyGone,
            Self::KeyRefused(_) | Self::Ceremony(_) => Action::Fault,
        }
    }

    /// True when the session's handle is dead, so that closing it could close somebody else's.
    pub(crate) fn session_is_dead(&self) -> bool {
        matches!(
            self,
            Self::Returned {
                value: RvError::SessionHandleInvalid
                    | RvError::SessionClosed
                    | RvError::CryptokiNotInitialized
                    | RvError::DeviceRemoved
                    | RvError::TokenNotPresent,
                ..
            }
        )
    }
}

impl From<Error> for HsmFault {
    fn from(error: Error) -> Self {
        match error {
            Error::Pkcs11(value, function) => Self::Returned { function, value },
            other => Self::Module(other.to_string()),
        }
    }
}

/// The table. PKCS#11 v3.0 section 5.1 says what each value means; issue threads and experiments
/// say what heals it. Complete on purpose: a new value must be thought about.
fn action(value: RvError) -> Action {
    match value {
        RvError::Cancel
        | RvError::FunctionCanceled
        | RvError::FunctionFailed
        | RvError::HostMemory
        | RvError::DeviceMemory => Action::RetrySameSession,

        // an operation left over from a failed call belongs to the session and dies with it
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::OperationActive
        | RvError::OperationNotInitialized => Action::ReopenSession,

        RvError::UserNotLoggedIn => Action::LoginAgain,

        // SoftHSM answers so when its token directory vanished or another process logged us out
        RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid => Action::KeyGone,

        // p11-kit and network HSMs: DEVICE_ERROR for ever once the far end was restarted.
        // SLOT_ID_INVALID: slots are numbered anew. Vendor codes: unknown, so the strongest medicine.
        // USER_PIN_NOT_INITIALIZED: no PIN was compared, so none can be locked; SoftHSM says so of a token that
        // another process is writing.
        RvError::GeneralError
        | RvError::DeviceError
        | RvError::DeviceRemoved
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::SlotIdInvalid
        | RvError::CryptokiNotInitialized
        | RvError::LibraryLoadFailed
        | RvError::FipsSelfTestFailed
        | RvError::MutexBad
        | RvError::MutexNotLocked
        | RvError::SessionCount
        | RvError::RandomNoRng
        | RvError::UserPinNotInitialized
        | RvError::VendorDefined(_)
        | RvError::UnknownErrorCode(_) => Action::ReinitialiseModule,

        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinExpired
        | RvError::PinLocked
        | RvError::PinTooWeak
        | RvError::NewPinMode
        | RvError::NextOtp => Action::Stop,

        RvError::ArgumentsBad
        | RvError::NoEvent
        | RvError::NeedToCreateThreads
        | RvError::CantLock
        | RvError::AttributeReadOnly
        | RvError::AttributeSensitive
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid
        | RvError::ActionProhibited
        | RvError::DataInvalid
        | RvError::DataLenRange
        | RvError::EncryptedDataInvalid
        | RvError::EncryptedDataLenRange
        | RvError::FunctionNotParallel
        | RvError::FunctionNotSupported
        | RvError::FunctionRejected
        | RvError::CurveNotSupported
        | RvError::KeySizeRange
        | RvError::KeyTypeInconsistent
        | RvError::KeyNotNeeded
        | RvError::KeyChanged
        | RvError::KeyNeeded
        | RvError::KeyIndigestible
        | RvError::KeyFunctionNotPermitted
        | RvError::KeyNotWrappable
        | RvError::KeyUnextractable
        | RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::SessionParallelNotSupported
        | RvError::SessionReadOnly
        | RvError::SessionExists
        | RvError::SessionReadOnlyExists
        | RvError::SessionReadWriteSoExists
        | RvError::SignatureInvalid
        | RvError::SignatureLenRange
        | RvError::TemplateIncomplete
        | RvError::TemplateInconsistent
        | RvError::TokenWriteProtected
        | RvError::UnwrappingKeyHandleInvalid
        | RvError::UnwrappingKeySizeRange
        | RvError::UnwrappingKeyTypeInconsistent
        | RvError::UserAlreadyLoggedIn
        | RvError::UserTypeInvalid
        | RvError::UserAnotherAlreadyLoggedIn
        | RvError::UserTooManyTypes
        | RvError::WrappedKeyInvalid
        | RvError::WrappedKeyLenRange
        | RvError::WrappingKeyHandleInvalid
        | RvError::WrappingKeySizeRange
        | RvError::WrappingKeyTypeInconsistent
        | RvError::RandomSeedNotSupported
        | RvError::DomainParamsInvalid
        | RvError::BufferTooSmall
        | RvError::SavedStateInvalid
        | RvError::InformationSensitive
        | RvError::StateUnsaveable
        | RvError::CryptokiAlreadyInitialized
        | RvError::ExceededMaxIterations
        | RvError::PublicKeyInvalid => Action::Fault,
    }
}

/// `C_Sign`
fn function_name(function: Function) -> String {
    format!("C_{function:?}")
}

/// `CKR_PIN_LOCKED`; a vendor's own values as `CKR_VENDOR_DEFINED (0x80000001)`
fn return_value_name(value: &RvError) -> String {
    match value {
        RvError::VendorDefined(code) => format!("CKR_VENDOR_DEFINED ({code:#010x})"),
        RvError::UnknownErrorCode(code) => format!("an unknown value ({code:#010x})"),
        named => format!("{named:?}")
            .chars()
            .fold(String::from("CKR"), |mut name, letter| {
                if letter.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
                name
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returned(function: Function, value: RvError) -> HsmFault {
        HsmFault::Returned { function, value }
    }

    #[test]
    fn a_fault_names_the_function_and_the_return_value_as_the_standard_does() {
        let text = |function, value| returned(function, value).to_string();
        assert_eq!(
            text(Function::Login, RvError::PinLocked),
            "C_Login returned CKR_PIN_LOCKED"
        );
        assert_eq!(
            text(Function::Sign, RvError::SessionHandleInvalid),
            "C_Sign returned CKR_SESSION_HANDLE_INVALID"
        );
        assert_eq!(
            text(Function::OpenSession, RvError::VendorDefined(0x8000_0001)),
            "C_OpenSession returned CKR_VENDOR_DEFINED (0x80000001)"
        );
    }

    #[test]
    fn each_return_value_leads_to_what_heals_it() {
        for (value, expected) in [
            (RvError::FunctionFailed, Action::RetrySameSession),
            (RvError::DeviceMemory, Action::RetrySameSession),
            (RvError::SessionHandleInvalid, Action::ReopenSession),
            (RvError::OperationActive, Action::ReopenSession),
            (RvError::UserNotLoggedIn, Action::LoginAgain),
            (RvError::ObjectHandleInvalid, Action::KeyGone),
            (RvError::KeyHandleInvalid, Action::KeyGone),
            (RvError::DeviceError, Action::ReinitialiseModule),
            (RvError::GeneralError, Action::ReinitialiseModule),
            (
                RvError::VendorDefined(0x8000_0001),
                Action::ReinitialiseModule,
            ),
            (RvError::UserPinNotInitialized, Action::ReinitialiseModule),
            (RvError::PinIncorrect, Action::Stop),
            (RvError::PinLocked, Action::Stop),
            (RvError::MechanismInvalid, Action::Fault),
        ] {
            assert_eq!(
                returned(Function::Sign, value).action(),
                expected,
                "{value:?}"
            );
        }
    }

    #[test]
    fn only_a_dead_session_is_left_unclosed() {
        assert!(returned(Function::Sign, RvError::SessionHandleInvalid).session_is_dead());
        assert!(!returned(Function::Sign, RvError::OperationActive).session_is_dead());
    }
}
