//! What the manifest names, in the order in which a package holds it.

use std::collections::VecDeque;
use std::io::BufReader;
use std::rc::Rc;

use anyhow::{anyhow, bail};

use crate::cli::batch::package::PackageFile;
use crate::cli::batch::package::Window;
use crate::cli::batch::package::next_line;
use crate::cli::batch::verify::seal::Sealed;
use crate::jobs::package::manifest::DeviceLine;
use crate::jobs::package::manifest::FileLine;
use crate::jobs::package::place::Form;
use crate::jobs::package::place::Part;
use crate::jobs::package::place::Place;
use crate::pki::parse_hex;

/// A member that must be there.
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) sha256: [u8; 32],
    /// `None`: not said.
    pub(super) length: Option<u64>,
    /// Whose certificate it is, in which form.
    pub(super) device: Option<(Rc<DeviceLine<'static>>, Form)>,
    /// Whether it is the first one of its device.
    pub(super) is_first: bool,
}

/// Goes through both parts of the manifest at once.
pub(super) struct Expected<'a> {
    devices: BufReader<Window<'a>>,
    files: BufReader<Window<'a>>,
    certificates: VecDeque<Member>,
    file: Option<Member>,
    line: Vec<u8>,
    last: Option<Place>,
}

impl<'a> Expected<'a> {
    pub(super) fn new(package: &'a PackageFile, sealed: &Sealed) -> anyhow::Result<Self> {
        let mut expected = Self {
            devices: package.reader(sealed.devices),
            files: package.reader(sealed.files),
            certificates: VecDeque::new(),
            file: None,
            line: Vec::new(),
            last: None,
        };
        expected.read_device()?;
        expected.read_file()?;
        Ok(expected)
    }

    /// The place of the next one.
    pub(super) fn place(&self) -> Option<&Place> {
        let certificate = self.certificates.front().map(|member| &member.place);
        let file = self.file.as_ref().map(|member| &member.place);
        match (certificate, file) {
            (Some(certificate), Some(file)) => Some(certificate.min(file)),
            (one, other) => one.or(other),
        }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Member>> {
        let Some(place) = self.place().cloned() else {
            return Ok(None);
        };
        if self.last.as_ref().is_some_and(|last| *last >= place) {
            bail!("{place} is not in its order");
        }
        let file = self.file.take_if(|member| member.place == place);
        let next = if file.is_some() {
            self.read_file()?;
            file
        } else {
            let member = self.certificates.pop_front();
            if self.certificates.is_empty() {
                self.read_device()?;
            }
            member
        };
        self.last = Some(place);
        Ok(next)
    }

    fn read_device(&mut self) -> anyhow::Result<()> {
        if !next_line(&mut self.devices, &mut self.line)? {
            return Ok(());
        }
        let device: Rc<DeviceLine<'static>> = Rc::new(serde_json::from_slice(&self.line)?);
        let row = device.row;
        let files = [
            (Form::Pem, &device.certificate.pem),
            (Form::Der, &device.certificate.der),
        ];
        for (form, file) in files {
            let Some(file) = file else { continue };
            let place = Place::parse(&file.file).filter(|place| {
                matches!(place, Place::Chunk(_, Part::Certificate(of, is)) if (*of, *is) == (row, form))
            });
            let place = place.ok_or_else(|| anyhow!("row {row}: {} is no name", file.file))?;
            self.certificates.push_back(Member {
                place,
                sha256: hash(&file.sha256)?,
                length: None,
                is_first: self.certificates.is_empty(),
                device: Some((Rc::clone(&device), form)),
            });
        }
        if self.certificates.is_empty() {
            bail!("row {row}: it names no certificate");
        }
        Ok(())
    }

    fn read_file(&mut self) -> anyhow::Result<()> {
        if !next_line(&mut self.files, &mut self.line)? {
            return Ok(());
        }
        let file: FileLine<'static> = serde_json::from_slice(&self.line)?;
        let place = Place::parse(&file.file).filter(|place| {
            !matches!(place, Place::Manifest | Place::Seal)
                && !matches!(place, Place::Chunk(_, Part::Certificate(..)))
        });
        self.file = Some(Member {
            place: place.ok_or_else(|| anyhow!("{} is no name", file.file))?,
            sha256: hash(&file.sha256)?,
            length: Some(file.length),
            device: None,
            is_first: false,
        });
        Ok(())
    }
}

fn hash(text: &str) -> anyhow::Result<[u8; 32]> {
    parse_hex(text).ok_or_else(|| anyhow!("{text} is no SHA-256"))
}
