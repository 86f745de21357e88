//! [`PgCrlStore`]: CRLs and what they list, on connections of their own: neither issuing nor
//! searching waits for a CRL.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::crl::CrlId;
use crate::ca::crl::CrlState;
use crate::ca::crl::CrlStore;
use crate::ca::crl::Revocations;
use crate::ca::crl::StoredCrl;
use crate::db::archive::PgArchive;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::error::Failure;
use crate::db::row::signed;
use crate::db::row::unsigned;
use crate::pki::crl::Edition;
use crate::pki::crl::RevokedCertificate;
use crate::pki::revocation::RevocationReason;
use crate::pki::serial::SerialNumber;

/// The complete CRL's shard in the table.
const COMPLETE: i16 = -1;

/// One statement, so one moment.
const SURVEY: &str = "
    WITH revoked AS (
        SELECT issuer, coalesce(crl_shard, (-1)::smallint) AS shard, count(*) AS revoked
        FROM life_event WHERE reason_code IS NOT NULL GROUP BY 1, 2),
    newest AS (
        SELECT DISTINCT ON (issuer, shard) issuer, shard, crl_number, this_update, next_update, entries
        FROM crl ORDER BY issuer, shard, crl_number DESC)
    SELECT issuer, shard, crl_number, this_update, next_update, entries, coalesce(revoked, 0) AS revoked
    FROM revoked FULL JOIN newest USING (issuer, shard)";

/// Of one shard, or of all: what is bound is a constant to the planner.
const REVOKED: &str = "
    SELECT c.serial_number, e.at, e.reason_code
    FROM life_event e JOIN claim c ON c.intent_id = e.intent_id
    WHERE e.reason_code IS NOT NULL AND e.issuer = $1 AND ($2 = -1 OR e.crl_shard = $2)";

const NEWEST: &str = "
    SELECT issuer, shard, crl_number, this_update, next_update, entries, der
    FROM crl WHERE issuer = $1 AND shard = $2 ORDER BY crl_number DESC LIMIT 1";

/// Numbers that were lost with a restored database are taken, too.
const NEWEST_NUMBER: &str = "SELECT greatest(
        (SELECT coalesce(max(crl_number), 0) FROM crl WHERE issuer = $1 AND shard = $2),
        (SELECT crl_number FROM crl_floor WHERE issuer = $1 AND shard = $2))";

/// The trigger leaves out a number that is past, the key one that is being taken.
const STORE: &str = "
    INSERT INTO crl (issuer, shard, crl_number, this_update, next_update, entries, der)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

/// The store in PostgreSQL.
pub struct PgCrlStore(PgArchive);

impl PgCrlStore {
    /// Connects when first used, on the current Tokio runtime. Fails only when the URL is none.
    pub fn new(config: &DbConfig) -> Result<Self, DbFault> {
        let config = DbConfig {
            archive_connections_max: 1,
            ..config.clone()
        };
        PgArchive::for_purpose(&config, Purpose::Crl).map(Self)
    }
}

impl CrlStore for PgCrlStore {
    fn survey(&self) -> PortFuture<'_, Result<Vec<CrlState>, LedgerFault>> {
        Box::pin(self.0.read(|reader| async move {
            let mut connection = reader.acquire().await?;
            let rows = sqlx::query(SURVEY).fetch_all(connection.get()?).await;
            let survey = rows.and_then(|rows| rows.iter().map(state).collect());
            let survey = survey.map_err(|e| Failure::from(&e))?;
            connection.release();
            Ok(survey)
        }))
    }

    fn revocations(&self, id: CrlId) -> PortFuture<'_, Result<Revocations, LedgerFault>> {
        Box::pin(self.0.read(move |reader| {
            let id = id.clone();
            async move {
                let mut connection = reader.acquire().await?;
                let found = revocations(connection.get()?, &id).await;
                let found = found.map_err(|e| Failure::from(&e))?;
                connection.release();
                Ok(found)
            }
        }))
    }

    /// A store whose reply was lost is tried again and finds its own number taken: `false` then,
    /// and the newest CRL is the very one.
    fn store(&self, crl: StoredCrl) -> PortFuture<'_, Result<bool, LedgerFault>> {
        Box::pin(self.0.read(move |writer| {
            let crl = crl.clone();
            async move {
                let mut connection = writer.acquire().await?;
                let stored = store(connection.get()?, &crl).await;
                let stored = stored.map_err(|e| Failure::from(&e))?;
                connection.release();
                Ok(stored)
            }
        }))
    }

    fn newest(&self, id: CrlId) -> PortFuture<'_, Result<Option<StoredCrl>, LedgerFault>> {
        Box::pin(self.0.read(move |reader| {
            let id = id.clone();
            async move {
                let mut connection = reader.acquire().await?;
                let row = sqlx::query(NEWEST)
                    .bind(&id.issuer)
                    .bind(column(id.shard))
                    .fetch_optional(connection.get()?)
                    .await;
                let crl = row.and_then(|row| row.as_ref().map(stored).transpose());
                let crl = crl.map_err(|e| Failure::from(&e))?;
                connection.release();
                Ok(crl)
            }
        }))
    }
}

/// The number before the list: a list that is older than the newest CRL then finds its own number
/// taken.
async fn revocations(
    connection: &mut PgConnection,
    id: &CrlId,
) -> Result<Revocations, sqlx::Error> {
    let newest: i64 = sqlx::query_scalar(NEWEST_NUMBER)
        .bind(&id.issuer)
        .bind(column(id.shard))
        .fetch_one(&mut *connection)
        .await?;
    let mut revoked = Vec::new();
    let mut rows = sqlx::query(REVOKED)
        .bind(&id.issuer)
        .bind(column(id.shard))
        .fetch(&mut *connection);
    while let Some(row) = rows.try_next().await? {
        revoked.push(revoked_certificate(&row)?);
    }
    drop(rows);
    // After the list, so that no line of it is younger.
    let at = sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(connection)
        .await?;
    Ok(Revocations {
        newest: unsigned(newest)?,
        at,
        revoked,
    })
}

async fn store(connection: &mut PgConnection, crl: &StoredCrl) -> Result<bool, sqlx::Error> {
    let StoredCrl {
        id,
        edition,
        entries,
        der,
    } = crl;
    let done = sqlx::query(STORE)
        .bind(&id.issuer)
        .bind(column(id.shard))
        .bind(signed(edition.crl_number)?)
        .bind(edition.this_update)
        .bind(edition.next_update)
        .bind(signed(*entries)?)
        .bind(&der[..])
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

fn state(row: &PgRow) -> Result<CrlState, sqlx::Error> {
    let number: Option<i64> = row.try_get("crl_number")?;
    Ok(CrlState {
        id: id(row)?,
        newest: number.map(|_| edition(row)).transpose()?,
        revoked: unsigned(row.try_get("revoked")?)?,
    })
}

fn stored(row: &PgRow) -> Result<StoredCrl, sqlx::Error> {
    let (edition, entries) = edition(row)?;
    let der: Vec<u8> = row.try_get("der")?;
    Ok(StoredCrl {
        id: id(row)?,
        edition,
        entries,
        der: Bytes::from(der),
    })
}

fn id(row: &PgRow) -> Result<CrlId, sqlx::Error> {
    let shard: i16 = row.try_get("shard")?;
    Ok(CrlId {
        issuer: row.try_get("issuer")?,
        shard: u16::try_from(shard).ok(),
    })
}

fn edition(row: &PgRow) -> Result<(Edition, u64), sqlx::Error> {
    let edition = Edition {
        crl_number: unsigned(row.try_get("crl_number")?)?,
        this_update: row.try_get("this_update")?,
        next_update: row.try_get("next_update")?,
    };
    Ok((edition, unsigned(row.try_get("entries")?)?))
}

fn revoked_certificate(row: &PgRow) -> Result<RevokedCertificate, sqlx::Error> {
    let serial_number: [u8; 16] = row.try_get("serial_number")?;
    let code: i16 = row.try_get("reason_code")?;
    let reason = u8::try_from(code)
        .ok()
        .and_then(RevocationReason::from_code);
    Ok(RevokedCertificate {
        serial_number: SerialNumber::from_bytes(serial_number)
            .ok_or_else(|| sqlx::Error::Decode("a serial number is not one".into()))?,
        revoked_at: row.try_get("at")?,
        // A code that we do not give keeps no certificate off the list.
        reason: reason.unwrap_or(RevocationReason::Unspecified),
    })
}

fn column(shard: Option<u16>) -> i16 {
    shard.map_or(COMPLETE, |shard| i16::try_from(shard).unwrap_or(i16::MAX))
}
