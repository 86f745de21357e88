//! How fast the HSM signs when nothing else is in the way.

use std::time::{Duration, Instant};

use crate::hsm::KeyConfig;
use crate::hsm::TokenConfig;
use crate::hsm::error::HsmFault;
use crate::hsm::key::find_private_key;
use crate::hsm::method::Method;
use crate::hsm::module::{InUse, Module};
use crate::hsm::token::open_by_hand;

/// Raw signatures a second with `key`, in `threads` sessions of its own, for `seconds`. Signs a constant text.
pub fn benchmark(
    config: &TokenConfig,
    key: &KeyConfig,
    threads: usize,
    seconds: u64,
) -> Result<f64, HsmFault> {
    let module = Module::at(&config.module);
    let (master, slot) = open_by_hand(config, InUse::into_session)?;
    let offered = master.pkcs11().get_mechanism_list(slot)?;
    let method = Method::choose(key.algorithm, &offered)?;
    let handle = find_private_key(
        master.session()?,
        &config.token_label,
        &key.label,
        key.id.as_deref(),
    )?;

    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let count_until_end = || -> Result<u64, HsmFault> {
        let session = module.enter()?.into_session(slot)?;
        let mut count = 0;
        while Instant::now() < end {
            method.sign(session.session()?, handle, b"certfactory benchmark")?;
            count += 1;
        }
        Ok(count)
    };
    let total = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1))
            .map(|_| scope.spawn(count_until_end))
            .collect();
        threads
            .into_iter()
            .try_fold(0, |total, thread| match thread.join() {
                Ok(count) => Ok(total + count?),
                Err(_) => Err(HsmFault::Module("a benchmark thread panicked".to_owned())),
            })
    })?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of signatures is far below 2^52"
    )]
    Ok(total as f64 / start.elapsed().as_secs_f64())
}
