//! Private keys as text (RFC 7468), written once and into a buffer of just that length.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::ca::device_key::KeyMakingFault;
use crate::ca::device_key::KeyPair;
use crate::ca::device_key::Secret;

const BEGIN: &[u8] = b"-----BEGIN PRIVATE KEY-----\n";
const END: &[u8] = b"-----END PRIVATE KEY-----\n";

/// Octets that make a line of 64 characters.
const LINE: usize = 48;

/// The keys of these devices: for each a line that names it and a PEM block.
pub(super) fn of(devices: &[String], pairs: &[KeyPair]) -> Result<Secret, KeyMakingFault> {
    let headings: Vec<_> = (1..)
        .zip(devices)
        .map(|(n, device)| heading(n, device))
        .collect();
    let blocks = || headings.iter().zip(pairs);
    let length = blocks()
        .map(|(heading, pair)| heading.len() + block_length(pair.private_key.len()))
        .sum();
    let mut text = Zeroizing::new(vec![0; length].into_boxed_slice());
    let mut pen = Pen(&mut text);
    for (heading, pair) in blocks() {
        pen.write(heading.as_bytes())?;
        pen.write(BEGIN)?;
        for line in pair.private_key.chunks(LINE) {
            pen.write_base64(line)?;
            pen.write(b"\n")?;
        }
        pen.write(END)?;
    }
    if !pen.0.is_empty() {
        return Err(KeyMakingFault::Length);
    }
    Ok(text)
}

/// Explanatory text (RFC 7468 2). An identity stays on this line, whatever is in it.
fn heading(n: usize, device: &str) -> String {
    let printable = |c: char| matches!(c, ' '..='~');
    let device = device.replace(|c| !printable(c), "?");
    format!("# {n} {device}\n")
}

/// Boundaries, base64, and the end of each line of it.
fn block_length(key_length: usize) -> usize {
    BEGIN.len() + base64_length(key_length) + key_length.div_ceil(LINE) + END.len()
}

fn base64_length(length: usize) -> usize {
    length.div_ceil(3) * 4
}

/// What is still to be written of a buffer.
struct Pen<'a>(&'a mut [u8]);

impl Pen<'_> {
    fn write(&mut self, octets: &[u8]) -> Result<(), KeyMakingFault> {
        self.place(octets.len())?.copy_from_slice(octets);
        Ok(())
    }

    fn write_base64(&mut self, octets: &[u8]) -> Result<(), KeyMakingFault> {
        let place = self.place(base64_length(octets.len()))?;
        STANDARD
            .encode_slice(octets, place)
            .map_err(|_| KeyMakingFault::Length)?;
        Ok(())
    }

    fn place(&mut self, length: usize) -> Result<&mut [u8], KeyMakingFault> {
        let (place, rest) = std::mem::take(&mut self.0)
            .split_at_mut_checked(length)
            .ok_or(KeyMakingFault::Length)?;
        self.0 = rest;
        Ok(place)
    }
}
