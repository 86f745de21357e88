//! `README.txt`: a package explains itself to whoever finds it.

use std::fmt::Write;

use chrono::SecondsFormat;

use crate::jobs::package::EnvelopeFormWord;
use crate::jobs::package::PackageHead;

/// The text for this package.
pub(super) fn text(head: &PackageHead) -> String {
    let created_at = head.created_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut text = format!(
        "Device certificates, made ahead of a production run.\n\
         \n\
         Batch    {}\n\
         Site     {}\n\
         Profile  {}\n\
         Created  {created_at}\n\
         Rows     {}\n\
         \n\
         Verify it, offline, with the public report key of the site:\n\
         \n    certfactory batch verify {}.tar --report-key report.pem\n",
        head.batch, head.site, head.profile, head.count, head.batch
    );
    let envelope = match head.envelope_form {
        None => None,
        Some(EnvelopeFormWord::Chunk) => Some(("of its chunk", "keys/0001.p7m")),
        Some(EnvelopeFormWord::Device) => Some(("of its own", "keys/0001/0000001.p7m")),
    };
    if let Some((whose, example)) = envelope {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\nEach private key is in the envelope {whose} (CMS, encrypted to the recipient).\n\
             Open one with OpenSSL 3.0 or later:\n\
             \n    openssl cms -decrypt -inform DER -in {example} -inkey YOUR.key\n\
             \nOr take out the key and the certificate of one device, also as PKCS#12:\n\
             \n    certfactory batch open {}.tar --recipient-key YOUR.key --device NAME\n\
             \nOnce opened, keep a private key nowhere but in its device.\n",
            head.batch
        );
    }
    text += "\n\
        chain/            certificates above the devices', the signing one first\n\
        certificates/     one file a device, by chunk and row\n";
    if envelope.is_some() {
        text += "keys/             envelopes\n";
    }
    text += "devices.csv       a table for the flasher. A cell that begins with = + - @, a tab or a\n\
        \x20                 carriage return has an apostrophe before it, for spreadsheets; the\n\
        \x20                 manifest has the exact value\n\
        aws-*             for AWS IoT's bulk registration and just-in-time registration\n\
        failures.ndjson   rows without a certificate, when there are any\n\
        manifest.ndjson   every device and every file, with SHA-256\n\
        manifest.jws      the site's signature over the manifest\n";
    text
}
