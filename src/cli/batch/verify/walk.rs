//! Through the tar from front to end, beside the manifest.

use std::io::Read;
use std::rc::Rc;

use openssl::sha::Sha256;
use openssl::sha::sha256;

use crate::cli::batch::package::ENVELOPE_LENGTH_MAX;
use crate::cli::batch::package::PackageFile;
use crate::cli::batch::package::Span;
use crate::cli::batch::package::certificate_der;
use crate::cli::batch::verify::Summary;
use crate::cli::batch::verify::Trust;
use crate::cli::batch::verify::expected::Expected;
use crate::cli::batch::verify::expected::Member;
use crate::cli::batch::verify::faults::Faults;
use crate::cli::batch::verify::keys::Keys;
use crate::cli::batch::verify::seal::Sealed;
use crate::cli::batch::verify::seen::Seen;
use crate::jobs::package::EnvelopeFormWord;
use crate::jobs::package::manifest::DeviceLine;
use crate::jobs::package::place::Form;
use crate::jobs::package::place::Part;
use crate::jobs::package::place::Place;
use crate::pki::certificate::VerifiedCertificate;
use crate::pki::hex;

/// Longest certificate file, octets. No profile allows a twentieth.
const CERTIFICATE_LENGTH_MAX: u64 = 64 << 10;

/// A tar is padded to blocks and ends with two empty ones (POSIX pax, "ustar Interchange Format").
const BLOCK_LENGTH: u64 = 512;

struct Walk<'a, 'f> {
    sealed: &'a Sealed,
    faults: &'a mut Faults<'f>,
    keys: Keys<'a>,
    devices: Seen,
    serial_numbers: Seen,
    public_keys: Seen,
    chunk: u32,
    last_row: u32,
    device_count: u32,
    certificates: u32,
    named: u64,
    files: u64,
}

/// Checks every member, and the whole.
pub(super) fn check(
    package: &PackageFile,
    sealed: &Sealed,
    trust: &Trust,
    faults: &mut Faults<'_>,
) -> anyhow::Result<Summary> {
    let mut walk = Walk {
        sealed,
        faults,
        keys: Keys::new(trust.recipient_key.as_ref(), &sealed.failures),
        devices: Seen::new("device"),
        serial_numbers: Seen::new("serial number"),
        public_keys: Seen::new("public key"),
        chunk: 0,
        last_row: 0,
        device_count: 0,
        certificates: 0,
        named: 0,
        files: 0,
    };
    let mut expected = Expected::new(package, sealed);
    match &mut expected {
        Ok(expected) => {
            let end = walk.members(package, expected)?;
            if let Some(end) = end {
                walk.end(package, end)?;
            }
        }
        Err(fault) => walk.faults.add(Place::Manifest, fault),
    }
    Ok(walk.finish())
}

impl Walk<'_, '_> {
    /// Where the last member ends; `None` where the tar or the manifest is not one.
    fn members(
        &mut self,
        package: &PackageFile,
        expected: &mut Expected<'_>,
    ) -> anyhow::Result<Option<u64>> {
        let mut archive = tar::Archive::new(package.reader(package.whole()?));
        let mut last: Option<Place> = None;
        let mut end = Some(0);
        for entry in archive.entries()?.raw(true) {
            let mut entry = match entry {
                Ok(entry) => entry,
                Err(fault) => {
                    self.faults.add("the tar is damaged", fault);
                    end = None;
                    break;
                }
            };
            end = Some(
                (entry.raw_file_position().saturating_add(entry.size()))
                    .next_multiple_of(BLOCK_LENGTH),
            );
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let place = Place::parse(&name).filter(|_| entry.header().entry_type().is_file());
            let Some(place) = place else {
                self.faults.add(name, "no package has such a member");
                continue;
            };
            if last.as_ref().is_some_and(|last| *last >= place) {
                self.faults.add(name, "stands twice, or not in its place");
                continue;
            }
            last = Some(place.clone());
            if matches!(place, Place::Manifest | Place::Seal) {
                continue;
            }
            let met = self.up_to(expected, &place).and_then(|()| {
                let is_named = expected.place() == Some(&place);
                is_named.then(|| expected.next()).transpose()
            });
            match met {
                Ok(Some(Some(member))) => {
                    self.meet(&member);
                    self.content(&member, entry.size(), &mut entry)?;
                }
                Ok(_) => self.faults.add(name, "is not named in the manifest"),
                Err(fault) => {
                    self.faults.add(Place::Manifest, fault);
                    return Ok(None);
                }
            }
        }
        if let Err(fault) = self.up_to(expected, &Place::Manifest) {
            self.faults.add(Place::Manifest, fault);
        }
        Ok(end)
    }

    /// What the manifest names before this place is not there.
    fn up_to(&mut self, expected: &mut Expected<'_>, place: &Place) -> anyhow::Result<()> {
        while expected.place().is_some_and(|next| next < place) {
            if let Some(member) = expected.next()? {
                self.meet(&member);
                self.faults.add(&member.place, "is missing");
                self.keys.forget(&member.place);
            }
        }
        Ok(())
    }

    /// Nothing stands behind the last member but the two blocks that end a tar.
    fn end(&mut self, package: &PackageFile, offset: u64) -> anyhow::Result<()> {
        let length = package.whole()?.length.saturating_sub(offset);
        let span = Span { offset, length };
        let is_end = length == 2 * BLOCK_LENGTH
            && package.read(span, length)?.iter().all(|octet| *octet == 0);
        if !is_end {
            self.faults
                .add("the tar", "it does not end after its last member");
        }
        Ok(())
    }

    /// A member that the manifest names, there or not.
    fn meet(&mut self, member: &Member) {
        self.named += 1;
        let (Some((device, _)), Place::Chunk(chunk, _)) = (&member.device, &member.place) else {
            return;
        };
        if member.is_first {
            self.meet_device(*chunk, device);
        }
    }

    fn meet_device(&mut self, chunk: u32, device: &Rc<DeviceLine<'static>>) {
        let row = device.row;
        let mut wrong = |what: &str| self.faults.add(format_args!("row {row}"), what);
        if row <= self.last_row {
            wrong("it is not in its order");
        }
        if self.sealed.failures.rows.contains(&row) {
            wrong("it is among the failures, too");
        }
        let head = &self.sealed.head;
        let files = &device.certificate;
        if (files.pem.is_some(), files.der.is_some()) != (head.forms.pem, head.forms.der) {
            wrong("its certificate's forms are not those of the batch");
        }
        let key_place = head.envelope_form.map(|form| match form {
            EnvelopeFormWord::Chunk => Place::Chunk(chunk, Part::Keys),
            EnvelopeFormWord::Device => Place::Chunk(chunk, Part::Key(row)),
        });
        let key_file = device.key.as_ref().map(|key| key.file.as_ref());
        if key_file != key_place.map(|place| place.to_string()).as_deref() {
            wrong("its key's envelope is not the one that it should be");
        }
        if chunk != self.chunk {
            self.keys.finish_chunk(self.faults);
        }
        self.chunk = chunk;
        self.last_row = row;
        self.device_count += 1;
        self.keys.expect(device);
        self.devices.add(&device.device, row);
        self.serial_numbers.add(&device.serial_number, row);
        self.public_keys.add(&device.spki_sha256, row);
    }

    fn content(
        &mut self,
        member: &Member,
        length: u64,
        content: &mut impl Read,
    ) -> anyhow::Result<()> {
        let is_envelope = matches!(member.place, Place::Chunk(_, Part::Keys | Part::Key(_)));
        let (is_read, length_max) = if member.device.is_some() {
            (true, CERTIFICATE_LENGTH_MAX)
        } else {
            (is_envelope && self.keys.are_opened(), ENVELOPE_LENGTH_MAX)
        };
        if is_read && length > length_max {
            let detail = format!("it has {length} octets; at most {length_max} are read");
            self.faults.add(&member.place, detail);
            self.keys.forget(&member.place);
            return Ok(());
        }
        let mut octets = Vec::new();
        let hash = if is_read {
            content.read_to_end(&mut octets)?;
            sha256(&octets)
        } else {
            hash_of(content)?
        };
        if hash != member.sha256 || member.length.is_some_and(|named| named != length) {
            let detail = "its SHA-256 or its length is not the one in the manifest";
            self.faults.add(&member.place, detail);
            self.keys.forget(&member.place);
            return Ok(());
        }
        self.files += 1;
        match &member.device {
            Some((device, form)) => {
                match self.certificate(device, *form, &octets, member.is_first) {
                    Ok(()) => self.certificates += u32::from(member.is_first),
                    Err(fault) => self.faults.add(&member.place, fault),
                }
            }
            None if is_envelope => self.keys.take(&member.place, &octets, self.faults),
            None => {}
        }
        Ok(())
    }

    /// The second form of a certificate has the fingerprint of the first; that is enough.
    fn certificate(
        &self,
        device: &DeviceLine<'_>,
        form: Form,
        octets: &[u8],
        is_first: bool,
    ) -> anyhow::Result<()> {
        let row = device.row;
        let der = certificate_der(form, octets)?;
        if hex(&sha256(&der)) != device.fingerprint_sha256 {
            anyhow::bail!("its fingerprint is not the one of row {row} in the manifest");
        }
        if !is_first {
            return Ok(());
        }
        let issuer = self.sealed.issuers.get(device.issuer.as_ref());
        let issuer = issuer.ok_or_else(|| {
            let issuer = &device.issuer;
            anyhow::anyhow!("its issuer, {issuer}, has no chain that can be trusted here")
        })?;
        let read = VerifiedCertificate::read(&der, issuer)?;
        let subject = read
            .subject
            .iter()
            .map(|(kind, value)| (kind.short_name(), value.as_str()));
        let said = device.subject.iter();
        let mut others = Vec::new();
        if hex(&read.serial_number) != device.serial_number {
            others.push("serial number");
        }
        if hex(&read.spki_sha256) != device.spki_sha256 {
            others.push("public key");
        }
        let mut subject: Vec<_> = subject.collect();
        subject.sort_unstable();
        if !subject
            .into_iter()
            .eq(said.map(|(name, value)| (name.as_str(), value.as_str())))
        {
            others.push("subject");
        }
        if !others.is_empty() {
            let others = others.join(" and ");
            anyhow::bail!("its {others} is not that of row {row} in the manifest");
        }
        Ok(())
    }

    /// What can be said only at the end.
    fn finish(mut self) -> Summary {
        self.keys.finish_chunk(self.faults);
        let (sealed, faults) = (self.sealed, self.faults);
        for seen in [self.devices, self.serial_numbers, self.public_keys] {
            seen.check(faults);
        }
        let count = sealed.head.count;
        let failures = u32::try_from(sealed.failures.rows.len()).unwrap_or(u32::MAX);
        let devices = self.device_count;
        // Not the last row's number: a batch that was cancelled may lack a chunk before its last one.
        if u64::from(devices) + u64::from(failures) != u64::from(count) {
            let detail = format!("{devices} devices and {failures} failures are not {count} rows");
            faults.add(Place::Manifest, detail);
        }
        if (devices, self.named) != (sealed.seal.devices, sealed.seal.files) {
            let detail = "it counts other devices or files than the manifest has";
            faults.add(Place::Seal, detail);
        }
        let head = &sealed.head;
        Summary {
            batch: head.batch.clone().into_owned(),
            site: head.site.clone().into_owned(),
            profile: head.profile.clone().into_owned(),
            order: head.order.clone().map(std::borrow::Cow::into_owned),
            created_at: head.created_at,
            count,
            devices,
            failures,
            certificates: self.certificates,
            files: self.files,
            keys: self.keys.fitting(),
        }
    }
}

fn hash_of(content: &mut impl Read) -> std::io::Result<[u8; 32]> {
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(sha256.finish()),
            read => sha256.update(&buffer[..read]),
        }
    }
}
