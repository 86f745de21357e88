//! Whether each device's private key is in its envelope, and fits its certificate.

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{anyhow, bail};
use openssl::pkey::PKey;
use openssl::pkey::Private;

use crate::cli::batch::package::KeyBlock;
use crate::cli::batch::package::fits;
use crate::cli::batch::package::heading_of;
use crate::cli::batch::package::key_blocks;
use crate::cli::batch::package::open_envelope;
use crate::cli::batch::verify::faults::Faults;
use crate::cli::batch::verify::seal::Failures;
use crate::jobs::package::manifest::DeviceLine;
use crate::jobs::package::place::Place;

/// Devices of the chunk that is gone through, until their envelope comes.
pub(super) struct Keys<'a> {
    recipient_key: Option<&'a PKey<Private>>,
    failures: &'a Failures,
    waiting: Vec<Rc<DeviceLine<'static>>>,
    fitting: u32,
}

impl<'a> Keys<'a> {
    pub(super) fn new(recipient_key: Option<&'a PKey<Private>>, failures: &'a Failures) -> Self {
        Self {
            recipient_key,
            failures,
            waiting: Vec::new(),
            fitting: 0,
        }
    }

    /// Whether envelopes are opened.
    pub(super) fn are_opened(&self) -> bool {
        self.recipient_key.is_some()
    }

    /// Keys that fit; `None`: no envelope was opened.
    pub(super) fn fitting(&self) -> Option<u32> {
        self.recipient_key.map(|_| self.fitting)
    }

    /// The envelope of this device is still to come.
    pub(super) fn expect(&mut self, device: &Rc<DeviceLine<'static>>) {
        if device.key.is_some() {
            self.waiting.push(Rc::clone(device));
        }
    }

    /// This envelope will not come, or is not what it should be; that was said.
    pub(super) fn forget(&mut self, place: &Place) -> Vec<Rc<DeviceLine<'static>>> {
        let name = place.to_string();
        let waiting = std::mem::take(&mut self.waiting);
        let (its, others) = waiting
            .into_iter()
            .partition(|device| device.key.as_ref().is_some_and(|key| key.file == name));
        self.waiting = others;
        its
    }

    /// An envelope came.
    pub(super) fn take(&mut self, place: &Place, envelope: &[u8], faults: &mut Faults<'_>) {
        let devices = self.forget(place);
        let Some(recipient_key) = self.recipient_key else {
            return;
        };
        let content = match open_envelope(envelope, recipient_key) {
            Ok(content) => content,
            Err(fault) => return faults.add(place, fault),
        };
        let blocks = match key_blocks(&content) {
            Ok(blocks) => blocks,
            Err(fault) => return faults.add(place, fault),
        };
        let mut waiting: HashMap<_, _> = devices
            .iter()
            .map(|device| (heading_of(&device.device), device))
            .collect();
        // What must be added to a key's number to get its row is the same for all of an envelope.
        let mut distance = None;
        for block in blocks {
            let device = block.device;
            match waiting.remove(device) {
                Some(line) => match check(&block, line, &mut distance) {
                    Ok(()) => self.fitting += 1,
                    Err(fault) => faults.add(
                        place,
                        format_args!("key of row {}, {device}: {fault}", line.row),
                    ),
                },
                None if self.failures.hold(device) => {}
                None => faults.add(
                    place,
                    format_args!(
                        "it holds a key for {device:?}, which has no row here, or one before"
                    ),
                ),
            }
        }
        let mut missing: Vec<_> = waiting.into_values().collect();
        missing.sort_unstable_by_key(|device| device.row);
        for device in missing {
            let (row, device) = (device.row, &device.device);
            faults.add(
                place,
                format_args!("the key of row {row}, {device}, is missing"),
            );
        }
    }

    /// The chunk is over, and no envelope can come.
    pub(super) fn finish_chunk(&mut self, faults: &mut Faults<'_>) {
        for device in self.waiting.drain(..) {
            faults.add(
                format_args!("row {}", device.row),
                "its key's envelope is not among the files of the manifest",
            );
        }
    }
}

fn check(
    block: &KeyBlock<'_>,
    device: &DeviceLine<'_>,
    distance: &mut Option<i64>,
) -> anyhow::Result<()> {
    let found = i64::from(device.row) - i64::from(block.number);
    if *distance.get_or_insert(found) != found {
        bail!("it stands in another row's place");
    }
    if !fits(block, &device.spki_sha256)? {
        return Err(anyhow!("it is not the key of the certificate"));
    }
    Ok(())
}
