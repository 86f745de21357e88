//! What a failed statement means: the one table of SQLSTATE classes.

use crate::ca::LedgerFault;

/// Why a command on the database did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DbFault {
    /// The configured URL cannot be parsed. It may hold a password, so it is not repeated.
    #[error("the database URL is not of the form postgres://user@host/database")]
    Url,
    /// The server cannot be reached or refuses.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// A migration failed, or the schema is not one that this binary can bring up to date.
    #[error("the migration failed: {0}")]
    Migration(String),
    /// A principal of this name has another role or key, or the key is another principal's.
    #[error("{0}")]
    PrincipalTaken(String),
    /// There is no principal of this name.
    #[error("there is no principal {0}")]
    PrincipalUnknown(String),
}

impl From<sqlx::Error> for DbFault {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(describe(&error))
    }
}

/// What to do about a failed batch. Each carries the reason for people.
#[derive(Debug)]
pub(super) enum Failure {
    /// One of the rows is to blame: the others must not suffer.
    Data(String),
    /// Two transactions met: run the same batch again.
    Conflict(String),
    /// The server: reconnect, then run the same batch again.
    Unavailable(String),
}

impl Failure {
    /// The reason, for people.
    pub(super) fn reason(self) -> String {
        match self {
            Self::Data(reason) | Self::Conflict(reason) | Self::Unavailable(reason) => reason,
        }
    }

    /// Whether it was given up at its `statement_timeout`, or by an administrator's `pg_cancel_backend`
    /// (57014). A reading that stands in the way of a standby's replay is given up by 40001.
    pub(super) fn took_too_long(&self) -> bool {
        matches!(self, Self::Unavailable(reason) if reason.ends_with("(57014)"))
    }
}

impl From<Failure> for LedgerFault {
    fn from(failure: Failure) -> Self {
        Self::Unavailable(failure.reason())
    }
}

impl From<&sqlx::Error> for Failure {
    fn from(error: &sqlx::Error) -> Self {
        let reason = describe(error);
        match error {
            sqlx::Error::Database(database) => match database.code().as_deref() {
                Some(code) => by_code(code, reason),
                None => Self::Unavailable(reason),
            },
            // A row that cannot be written or read back as a value.
            sqlx::Error::Encode(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::InvalidArgument(_) => Self::Data(reason),
            _ => Self::Unavailable(reason),
        }
    }
}

/// PostgreSQL, appendix A. The default is `Data`: splitting a batch is never wrong, only slower.
fn by_code(code: &str, reason: String) -> Failure {
    // A table was changed under a prepared statement: a new connection prepares it anew.
    if code == "0A000" {
        return Failure::Unavailable(reason);
    }
    match code.get(..2).unwrap_or_default() {
        // serialization failure, deadlock
        "40" => Failure::Conflict(reason),
        // connection, 25006 read-only, authorisation, database gone, missing table or right,
        // resources (disk full, too many connections), lock not available, operator
        // intervention (cancelled, terminated, shutting down), system error, configuration
        "08" | "25" | "28" | "3D" | "42" | "53" | "55" | "57" | "58" | "F0" => {
            Failure::Unavailable(reason)
        }
        _ => Failure::Data(reason),
    }
}

/// Message and SQLSTATE, in one line. Neither holds a password.
pub(super) fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            format!("{} ({code})", database.message())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, by_code};

    #[test]
    fn every_class_named_by_the_fault_matrix_has_its_meaning() {
        for code in [
            "0A000", "25006", "57P01", "57014", "53100", "08006", "55P03", "42P01", "42501",
        ] {
            assert!(
                matches!(by_code(code, String::new()), Failure::Unavailable(_)),
                "{code}"
            );
        }
        for code in ["40001", "40P01"] {
            assert!(
                matches!(by_code(code, String::new()), Failure::Conflict(_)),
                "{code}"
            );
        }
        for code in [
            "22021", "23514", "23505", "P0001", "54000", "XX000", "", "é",
        ] {
            assert!(
                matches!(by_code(code, String::new()), Failure::Data(_)),
                "{code}"
            );
        }
    }
}
