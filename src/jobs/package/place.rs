//! The members of a package: their names, and the one order in which they stand.

use std::fmt;

/// A member. Members stand in ascending order, so a reader that goes through the package once knows at
/// each whether one is missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// For people.
    Readme,
    /// Certificate chain of the issuer of this name, the one that signed the leaves first.
    Chain(String),
    /// Of a chunk, by its number from 1.
    Chunk(u32, Part),
    /// The flasher's table.
    Table,
    /// For AWS IoT's bulk registration.
    Bulk,
    /// For AWS IoT's just-in-time registration.
    AllowList,
    /// Rows that got no certificate.
    Failures,
    /// All others by name and SHA-256.
    Manifest,
    /// The manifest's signature.
    Seal,
}

/// A member that belongs to a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Certificate of a row.
    Certificate(u32, Form),
    /// The envelope that holds the keys of all its rows.
    Keys,
    /// The envelope that holds a row's key.
    Key(u32),
}

/// How a certificate is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// RFC 7468.
    Pem,
    /// X.690.
    Der,
}

impl Form {
    fn extension(self) -> &'static str {
        match self {
            Self::Pem => "pem",
            Self::Der => "der",
        }
    }
}

impl Place {
    /// The inverse of its name, which has one spelling.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let place = match name {
            "README.txt" => Self::Readme,
            "devices.csv" => Self::Table,
            "aws-bulk-registration.ndjson" => Self::Bulk,
            "aws-allow-list.csv" => Self::AllowList,
            "failures.ndjson" => Self::Failures,
            "manifest.ndjson" => Self::Manifest,
            "manifest.jws" => Self::Seal,
            _ => {
                let (folder, rest) = name.split_once('/')?;
                let (stem, extension) = rest.rsplit_once('.')?;
                match (folder, extension, stem.split_once('/')) {
                    ("chain", "pem", _) => Self::Chain(stem.to_owned()),
                    ("keys", "p7m", None) => Self::Chunk(stem.parse().ok()?, Part::Keys),
                    ("keys", "p7m", Some((chunk, row))) => {
                        Self::Chunk(chunk.parse().ok()?, Part::Key(row.parse().ok()?))
                    }
                    ("certificates", _, Some((chunk, row))) => {
                        let form = [Form::Pem, Form::Der]
                            .into_iter()
                            .find(|form| form.extension() == extension)?;
                        let part = Part::Certificate(row.parse().ok()?, form);
                        Self::Chunk(chunk.parse().ok()?, part)
                    }
                    _ => return None,
                }
            }
        };
        (place.to_string() == name).then_some(place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Readme => f.write_str("README.txt"),
            Self::Chain(issuer) => write!(f, "chain/{issuer}.pem"),
            Self::Chunk(number, Part::Certificate(row, form)) => {
                let extension = form.extension();
                write!(f, "certificates/{number:04}/{row:07}.{extension}")
            }
            Self::Chunk(number, Part::Keys) => write!(f, "keys/{number:04}.p7m"),
            Self::Chunk(number, Part::Key(row)) => write!(f, "keys/{number:04}/{row:07}.p7m"),
            Self::Table => f.write_str("devices.csv"),
            Self::Bulk => f.write_str("aws-bulk-registration.ndjson"),
            Self::AllowList => f.write_str("aws-allow-list.csv"),
            Self::Failures => f.write_str("failures.ndjson"),
            Self::Manifest => f.write_str("manifest.ndjson"),
            Self::Seal => f.write_str("manifest.jws"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_in_the_order_of_their_places() {
        let names = [
            "README.txt",
            "chain/line-ec.pem",
            "chain/line-rsa.pem",
            "certificates/0001/0000001.pem",
            "certificates/0001/0000001.der",
            "certificates/0001/0000002.pem",
            "keys/0001.p7m",
            "certificates/0002/0001001.pem",
            "keys/0002/0001001.p7m",
            "devices.csv",
            "aws-bulk-registration.ndjson",
            "aws-allow-list.csv",
            "failures.ndjson",
            "manifest.ndjson",
            "manifest.jws",
        ];
        let places: Vec<_> = names.map(|name| Place::parse(name).unwrap()).into();
        assert!(places.is_sorted());
        for (name, place) in names.iter().zip(places) {
            assert_eq!(place.to_string(), *name);
        }
    }

    #[test]
    fn a_name_has_one_spelling() {
        for name in [
            "",
            "readme.txt",
            "./README.txt",
            "keys/1.p7m",
            "keys/+001.p7m",
            "certificates/0001/0000001",
            "certificates/0001/0000001.txt",
            "certificates/0001/1.pem",
            "certificates/0000001.pem",
            "keys/0001/0000001/1.p7m",
        ] {
            assert_eq!(Place::parse(name), None, "{name}");
        }
    }
}
