//! Where a certificate stands, for OCSP: by its serial number, on connections for reading.

use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::ocsp::StatusBook;
use crate::db::archive::PgArchive;
use crate::db::error::Failure;
use crate::pki::ocsp::CertStatus;
use crate::pki::revocation::RevocationReason;
use crate::pki::serial::SerialNumber;

const STATUS: &str = "
    SELECT e.at, e.reason_code
    FROM claim c
    JOIN intent i ON i.intent_id = c.intent_id
    JOIN outcome o ON o.intent_id = c.intent_id
    LEFT JOIN life_event e ON e.intent_id = c.intent_id AND e.reason_code IS NOT NULL
    WHERE c.serial_number = $1 AND i.issuer = $2 AND o.der IS NOT NULL";

impl StatusBook for PgArchive {
    fn cert_status(
        &self,
        issuer: String,
        serial_number: SerialNumber,
    ) -> PortFuture<'_, Result<CertStatus, LedgerFault>> {
        Box::pin(self.read(move |reader| {
            let issuer = issuer.clone();
            async move {
                let mut connection = reader.acquire().await?;
                let row = sqlx::query(STATUS)
                    .bind(&serial_number.as_bytes()[..])
                    .bind(&issuer)
                    .fetch_optional(connection.get()?)
                    .await;
                let found = row.and_then(|row| match row {
                    None => Ok(CertStatus::Unknown),
                    Some(row) => status(&row),
                });
                let found = found.map_err(|e| Failure::from(&e))?;
                connection.release();
                Ok(found)
            }
        }))
    }
}

fn status(row: &PgRow) -> Result<CertStatus, sqlx::Error> {
    let at: Option<_> = row.try_get("at")?;
    let code: Option<i16> = row.try_get("reason_code")?;
    let reason = code
        .and_then(|code| u8::try_from(code).ok())
        .and_then(RevocationReason::from_code);
    Ok(match at {
        None => CertStatus::Good,
        Some(at) => CertStatus::Revoked {
            at,
            reason: reason.unwrap_or(RevocationReason::Unspecified),
        },
    })
}
