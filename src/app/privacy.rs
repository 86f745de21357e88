//! What keeps the process's memory to itself: private keys of devices pass through it.

use rustix::mm::MlockAllFlags;
use rustix::mm::mlockall;
use rustix::process::DumpableBehavior;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::set_dumpable_behavior;
use rustix::process::setrlimit;

/// No core dump, no debugger of the same user, nothing swapped out. What the system does not grant
/// is in the log; the unit file asks for it, too.
pub fn keep_memory_private() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let refused = [
        ("core dumps", setrlimit(Resource::Core, none)),
        (
            "debuggers",
            set_dumpable_behavior(DumpableBehavior::NotDumpable),
        ),
        (
            "swapping",
            // Pages are locked as they are used, so that reserved address space costs nothing.
            mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT),
        ),
    ];
    for (what, result) in refused {
        if let Err(error) = result {
            tracing::warn!(what, %error, "the system does not let the service refuse it");
        }
    }
}
