//! Secrets that systemd hands over: `${CREDENTIALS_DIRECTORY}` in the name of a secret's file.
//!
//! In a unit with `LoadCredential=` the variable names a directory in memory. A command outside of the unit
//! has none, and reads the directory `credentials` beside the configuration file, from which the unit
//! loads them: so one configuration serves both.

use std::path::{Path, PathBuf};

/// What stands for the directory, as the first part of a path.
const PLACE: &str = "${CREDENTIALS_DIRECTORY}";

/// Of the process.
pub(super) fn directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// The path of a secret, absolute.
pub(super) fn resolve(path: &Path, base: &Path, directory: Option<&Path>) -> PathBuf {
    match path.strip_prefix(PLACE) {
        Ok(name) => match directory {
            Some(directory) => directory.join(name),
            None => base.join("credentials").join(name),
        },
        Err(_) => base.join(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(path: &str, directory: Option<&str>) -> PathBuf {
        let base = Path::new("/etc/certfactory");
        resolve(Path::new(path), base, directory.map(Path::new))
    }

    #[test]
    fn a_credential_is_systemds_in_a_unit_and_beside_the_configuration_elsewhere() {
        let given = Some("/run/credentials/certfactory.service");
        let path = "${CREDENTIALS_DIRECTORY}/pin";
        assert_eq!(
            resolved(path, given),
            Path::new("/run/credentials/certfactory.service/pin")
        );
        assert_eq!(
            resolved(path, None),
            Path::new("/etc/certfactory/credentials/pin")
        );
    }

    #[test]
    fn a_path_without_it_is_as_it_was() {
        for directory in [None, Some("/run/credentials/certfactory.service")] {
            assert_eq!(
                resolved("softhsm/pin", directory),
                Path::new("/etc/certfactory/softhsm/pin")
            );
            assert_eq!(resolved("/run/pin", directory), Path::new("/run/pin"));
        }
    }
}
