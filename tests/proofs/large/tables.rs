//! The tables that are filled, their partitions and their indexes.

use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::Row;

use crate::large::plan::Plan;
use crate::large::sheet::Sheet;

/// Columns that are filled; the others have their defaults.
const COLUMNS: [(&str, &str); 6] = [
    (
        "claim",
        "intent_id, serial_number, spki_sha256, slot, device, principal",
    ),
    (
        "intent",
        "intent_id, serial_number, issuer, profile, profile_sha256, principal, request_sha256, work_order, device, slot, subject, thing_name, spki_sha256, not_before, not_after, tbs, created_at",
    ),
    (
        "outcome",
        "intent_id, der, fingerprint, log_index, recorded_at",
    ),
    ("log_entry", "log_index, leaf"),
    (
        "life_event",
        "intent_id, kind, principal, reason, reason_code, issuer, at",
    ),
    ("certificate_id", "fingerprint, intent_id"),
];

/// Partitions of a table, each with the keys that it holds; a plain table is its own.
pub struct Leaves {
    pub names: Vec<String>,
    /// From the first key on, up to before the second.
    bounds: Vec<(u128, u128)>,
}

impl Leaves {
    pub fn plain(name: &str) -> Arc<Self> {
        Arc::new(Self {
            names: vec![name.to_owned()],
            bounds: vec![(0, u128::MAX)],
        })
    }

    /// Which one a row of this key belongs to.
    pub fn of(&self, key: u128) -> usize {
        let holds = |(from, to): &(u128, u128)| (*from..*to).contains(&key);
        self.bounds
            .iter()
            .position(holds)
            .expect("a partition for each row")
    }

    async fn read(connection: &mut PgConnection, table: &str) -> Arc<Self> {
        let leaves = "SELECT c.oid::regclass::text, pg_get_expr(c.relpartbound, c.oid)
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = $1::regclass";
        let rows = sqlx::query(leaves)
            .bind(table)
            .fetch_all(connection)
            .await
            .unwrap();
        if rows.is_empty() {
            return Self::plain(table);
        }
        let mut read = Self {
            names: Vec::new(),
            bounds: Vec::new(),
        };
        for row in rows {
            // `FOR VALUES FROM ('…') TO ('…')`; of the default partition nothing is wanted.
            let bound: String = row.get(1);
            let Some((from, to)) = bound
                .trim_start_matches("FOR VALUES FROM ")
                .split_once(" TO ")
            else {
                continue;
            };
            read.names.push(row.get(0));
            read.bounds.push((key(from), key(to)));
        }
        Arc::new(read)
    }
}

/// A bound of a partition: a UUID, a number, or none.
fn key(bound: &str) -> u128 {
    match bound.trim_matches(['(', ')', '\'']) {
        "MINVALUE" => 0,
        "MAXVALUE" => u128::MAX,
        text => match uuid::Uuid::parse_str(text) {
            Ok(id) => id.as_u128(),
            Err(_) => text.parse().unwrap(),
        },
    }
}

/// All of them.
pub struct Tables([Arc<Leaves>; 6]);

impl Tables {
    pub const CLAIM: usize = 0;
    pub const INTENT: usize = 1;
    pub const OUTCOME: usize = 2;
    pub const ENTRY: usize = 3;
    pub const LIFE: usize = 4;
    pub const ID: usize = 5;
    pub const NAMES: [&str; 6] = [
        COLUMNS[0].0,
        COLUMNS[1].0,
        COLUMNS[2].0,
        COLUMNS[3].0,
        COLUMNS[4].0,
        COLUMNS[5].0,
    ];

    pub async fn read(connection: &mut PgConnection) -> Self {
        let mut leaves = Vec::new();
        for (table, _) in COLUMNS {
            leaves.push(Leaves::read(connection, table).await);
        }
        Self(leaves.try_into().unwrap_or_else(|_| unreachable!()))
    }

    pub fn sheets(&self) -> [Sheet; 6] {
        self.0.each_ref().map(Sheet::new)
    }

    /// Makes the indexes of a table: partition by partition, so that each is read from the disk once,
    /// then the whole one's, which takes up those of the partitions.
    pub async fn index(&self, connection: &mut PgConnection, table: usize, indexes: &[Index]) {
        let name = COLUMNS[table].0;
        let ours = || indexes.iter().filter(|index| index.table == name);
        let leaves = self.0[table].names.iter();
        for leaf in leaves.filter(|leaf| *leaf != name) {
            for index in ours().filter(|index| !index.of_constraint) {
                // `CREATE INDEX name ON table USING …`
                let (head, rest) = index.statement.split_once(" USING ").unwrap();
                let (create, _) = head.split_once(" INDEX ").unwrap();
                let statement = format!("{create} INDEX ON {leaf} USING {rest}");
                run(connection, &statement).await;
            }
        }
        for index in ours() {
            run(connection, &index.statement).await;
        }
    }

    /// Stores the rows of a table. They are frozen: the tables are new in this transaction, and a
    /// table that is frozen needs no vacuum.
    pub async fn copy(&self, connection: &mut PgConnection, table: usize, sheet: Sheet) {
        let (rows, columns) = (sheet.rows, COLUMNS[table].1);
        let mut stored = 0;
        for (leaf, octets) in sheet.finish() {
            let name = &self.0[table].names[leaf];
            stored += copy(connection, name, columns, octets).await;
        }
        assert_eq!(stored, rows);
    }
}

/// One COPY into one table.
pub async fn copy(
    connection: &mut PgConnection,
    name: &str,
    columns: &str,
    octets: Vec<u8>,
) -> u64 {
    let statement = format!("COPY {name} ({columns}) FROM STDIN WITH (FORMAT binary, FREEZE)");
    let mut copy = connection.copy_in_raw(&statement).await.unwrap();
    copy.send(octets).await.unwrap();
    copy.finish().await.unwrap()
}

/// Empties the tables, so that they are new in this transaction: what is written into them then is
/// not written to the WAL as well.
pub async fn empty(connection: &mut PgConnection) {
    let tables: Vec<&str> = COLUMNS.iter().map(|(table, _)| *table).collect();
    let statement = format!(
        "TRUNCATE {}, open_intent, unconfirmed, ended, log_tile CASCADE",
        tables.join(", ")
    );
    run(connection, &statement).await;
}

/// Makes the partitions that a ledger of this age and size has.
pub async fn make_partitions(connection: &mut PgConnection, plan: &Plan, entries: u64) {
    let partitioned: bool = sqlx::query_scalar(
        "SELECT to_regprocedure('make_partition(text,text,text,text)') IS NOT NULL",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    if !partitioned {
        return;
    }
    // The first partition of a young world holds everything before it, and is empty.
    let first = plan.time(0) - crate::large::plan::ASKED_BEFORE;
    let months = format!(
        "DO $$
        DECLARE
            first constant timestamp := date_trunc('month', to_timestamp({first} / 1e6) AT TIME ZONE 'UTC');
            this constant timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
            month timestamp;
            parent text;
            name text;
        BEGIN
            FOREACH parent IN ARRAY ARRAY['intent', 'outcome'] LOOP
                EXECUTE format('DROP TABLE public.%I', parent || to_char(this, '_YYYY_MM'));
                FOR month IN SELECT generate_series(first, this, interval '1 month') LOOP
                    PERFORM make_partition(parent, parent || to_char(month, '_YYYY_MM'),
                        CASE month WHEN first THEN '00000000-0000-0000-0000-000000000000'
                             ELSE uuid_floor(month AT TIME ZONE 'UTC')::text END,
                        uuid_floor((month + interval '1 month') AT TIME ZONE 'UTC')::text);
                END LOOP;
            END LOOP;
            FOR number IN 0 .. {entries} / 1048576 + 4 LOOP
                name := 'log_entry_' || number;
                CONTINUE WHEN to_regclass('public.' || name) IS NOT NULL;
                PERFORM make_partition('log_entry', name, (number * 1048576::bigint)::text, ((number + 1) * 1048576::bigint)::text);
            END LOOP;
        END $$"
    );
    // The partitions are to be the owner's, like their parents.
    run(connection, "SET LOCAL ROLE certfactory_owner").await;
    run(connection, &months).await;
    run(connection, "RESET ROLE").await;
}

/// An index, or a constraint that has one.
pub struct Index {
    table: String,
    /// What makes it again.
    statement: String,
    of_constraint: bool,
}

/// Takes away the indexes that no constraint needs, and the constraints whose keys are random.
/// They are made again, over all rows at once, by [`Tables::index`].
pub async fn take_indexes(connection: &mut PgConnection) -> Vec<Index> {
    let tables: Vec<String> = COLUMNS
        .iter()
        .map(|(table, _)| (*table).to_owned())
        .collect();
    // A digest or a random number comes first in it, and nothing refers to it.
    let constraints = "SELECT c.conrelid::regclass::text, quote_ident(c.conname), pg_get_constraintdef(c.oid)
        FROM pg_constraint c
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        WHERE c.conrelid = ANY($1::regclass[]) AND c.contype IN ('p', 'u') AND a.atttypid = 'bytea'::regtype
          AND NOT EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f' AND f.conindid = c.conindid)";
    let indexes = "SELECT i.indrelid::regclass::text, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
        FROM pg_index i
        WHERE i.indrelid = ANY($1::regclass[])
          AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)";
    let mut taken = Vec::new();
    for (query, of_constraint) in [(constraints, true), (indexes, false)] {
        let rows = sqlx::query(query).bind(&tables);
        for row in rows.fetch_all(&mut *connection).await.unwrap() {
            let (table, name, definition): (String, String, String) =
                (row.get(0), row.get(1), row.get(2));
            let (gone, statement) = if of_constraint {
                (
                    format!("ALTER TABLE {table} DROP CONSTRAINT {name}"),
                    format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"),
                )
            } else {
                // A partitioned table's is told as if the partitions had none.
                let statement = definition.replacen(" ON ONLY ", " ON ", 1);
                (format!("DROP INDEX {name}"), statement)
            };
            run(connection, &gone).await;
            taken.push(Index {
                table,
                statement,
                of_constraint,
            });
        }
    }
    taken
}

pub async fn run(connection: &mut PgConnection, statement: &str) {
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(connection)
        .await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}
