//! The seeder: one transaction, in a server that runs in haste, and the world as it was if it fails.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use certfactory::pki::entry::Entry;
use certfactory::pki::entry::LOG_KEY_NAME;
use certfactory::pki::merkle::leaf_hash;
use certfactory::pki::note::Checkpoint;
use certfactory::pki::note::CheckpointToBeSigned;
use certfactory::pki::serial::InstanceByte;
use chrono::TimeDelta;
use chrono::Utc;
use crossbeam_channel::Receiver;
use sqlx::PgConnection;

use crate::large::Dev;
use crate::large::cluster::Cluster;
use crate::large::leaf;
use crate::large::leaf::leaf_of;
use crate::large::maker::Made;
use crate::large::maker::Maker;
use crate::large::maker::Shop;
use crate::large::plan;
use crate::large::plan::Counts;
use crate::large::plan::Order;
use crate::large::plan::Plan;
use crate::large::plan::Planner;
use crate::large::runtime;
use crate::large::sheet::Sheet;
use crate::large::signer::Token;
use crate::large::stretch::Stretch;
use crate::large::stretch::say;
use crate::large::tables;
use crate::large::tables::Index;
use crate::large::tables::Leaves;
use crate::large::tables::Tables;
use crate::large::tables::run;
use crate::large::template::Kind;
use crate::large::tiles::Tiles;

/// Threads that make certificates.
const MAKERS: usize = 2;
/// Chunks that may wait to be stored.
const WAITING_MAX: usize = 4;
/// Octets of disk that a certificate takes, with everything that belongs to it.
const DISK_EACH: u64 = 4_600;
/// How often it is said how far it has come.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// The work list that the service keeps.
const UNCONFIRMED: &str = "
    INSERT INTO unconfirmed (intent_id) SELECT o.intent_id FROM outcome o
    WHERE NOT EXISTS (SELECT FROM life_event e WHERE e.intent_id = o.intent_id)";

/// What the database lists of what ended.
const ENDED: &str = "
    INSERT INTO ended (kind, intent_id, work_order, profile, issuer, principal)
    SELECT e.kind, e.intent_id, i.work_order, i.profile, i.issuer, i.principal
    FROM life_event e JOIN intent i ON i.intent_id = e.intent_id WHERE e.kind <> 'confirmed'";

/// Pairs of a profile and an issuer, as their migration lists those of before.
const PAIRS: &str = include_str!("../../../migrations/20261201000100_profile_issuer_before.sql");

/// What it notes of each minute. No trigger did; its migration does, of what was recorded before the first minute that
/// is noted, which is the end of all time here.
const MINUTES: [&str; 3] = [
    "TRUNCATE recording_minute; INSERT INTO recording_minute VALUES ('infinity', 0, 0)",
    include_str!("../../../migrations/20261130100100_recording_minute_before.sql"),
    "DELETE FROM recording_minute WHERE minute = 'infinity'",
];

/// Fills the world with `count` certificates of the last `months` months.
pub fn seed(count: u64, months: u32) {
    assert!(count > 0 && months > 0, "no certificates in no time");
    let dev = Dev::open();
    let cluster = Cluster::of(&dev.world.dir);
    let live = dev.world.operations().try_send("GET", "/livez", &[], None);
    assert!(live.is_err(), "stop the service first");
    let disk =
        nix::sys::statvfs::statvfs(&std::fs::canonicalize(dev.world.dir.join("postgres")).unwrap())
            .unwrap();
    let (free, needed) = (
        disk.blocks_available() * disk.fragment_size(),
        count * DISK_EACH,
    );
    assert!(
        needed < free,
        "{count} certificates take about {} GB, and {} GB are free",
        needed >> 30,
        free >> 30
    );
    let start = Instant::now();
    eprintln!("the world's database runs without WAL and fsync until this ends");
    cluster.start_hasty();
    let made = std::panic::catch_unwind(|| fill(&dev, count, months));
    let Ok((entries, lives)) = made else {
        cluster.start_durable();
        panic!(
            "it failed; unless it was committed before, the world has more stations and is else as it was"
        );
    };
    let at = Instant::now();
    cluster.start_durable();
    say("made durable", at);
    println!("certificates  {count}");
    println!("life events   {lives}");
    println!("entries       {entries}");
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "seconds       {seconds:.1}, {:.0} certificates/s",
        count as f64 / seconds
    );
    let database = dev.world.sql("SELECT pg_database_size(current_database())");
    let octets: u64 = database.parse().unwrap();
    println!(
        "database      {:.2} GB, {} octets a certificate",
        octets as f64 / f64::from(1 << 30),
        octets / count
    );
    println!("  {}", dev.world.sql(SIZES));
    let dir = dev.world.dir.display();
    println!(
        "\nThe database runs. Go on with\n  source {dir}/env; target/release/certfactory serve &\n  tests/proofs/ledger search; tests/proofs/ledger export\nor, once this database is stopped, with `certfactory dev` as before. It is stopped by\n  {}",
        cluster.stopping()
    );
}

/// Tables with their partitions, the largest first.
const SIZES: &str = "
    SELECT format('  %s  %s MB, of which indexes %s MB', rpad(root::regclass::text, 16),
                  (sum(pg_total_relation_size(relid)) / 1048576)::bigint, (sum(pg_indexes_size(relid)) / 1048576)::bigint)
    FROM (SELECT c.oid AS relid, coalesce(pg_partition_root(c.oid), c.oid) AS root FROM pg_class c
          WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r') t
    GROUP BY root HAVING sum(pg_total_relation_size(relid)) > 1048576
    ORDER BY sum(pg_total_relation_size(relid)) DESC";

/// Entries and life events that there are then.
fn fill(dev: &Dev, count: u64, months: u32) -> (u64, u64) {
    let runtime = runtime();
    let end = Utc::now() - TimeDelta::seconds(1);
    let begin = end - TimeDelta::minutes(i64::from(months) * 43_830);
    let plan = Plan::new(count, begin, end, InstanceByte::new(1).unwrap());
    let token = Token::open(&dev.config);
    let mut connection = runtime.block_on(dev.connect());
    let connection = &mut connection;
    let mut tiles = Tiles::new(&Leaves::plain("log_tile"));
    let (tables, before, indexes) = runtime.block_on(prepare(connection, &plan, &mut tiles));
    let shop = Shop {
        lamps: kind(dev, "lightbulb"),
        tools: kind(dev, "workshop"),
        plan,
        tables,
    };

    let stretch = runtime.block_on(Stretch::begin(connection));
    let planner = Mutex::new(Planner::new(shop.plan.clone(), before));
    std::thread::scope(|scope| {
        let (done, made) = crossbeam_channel::bounded(WAITING_MAX);
        for _ in 0..MAKERS {
            let (done, planner, shop, token) = (done.clone(), &planner, &shop, &token);
            scope.spawn(move || {
                let mut maker = Maker::new(shop, token.signer());
                loop {
                    let chunk = planner.lock().unwrap().next();
                    let Some(chunk) = chunk else { return };
                    if done.send(maker.make(&chunk)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        runtime.block_on(store(connection, &shop, &made, &mut tiles));
    });
    stretch.end("certificates made and stored");
    let planner = planner.into_inner().unwrap();
    runtime.block_on(async {
        orders(connection, &planner.orders).await;
        run(connection, UNCONFIRMED).await;
        run(connection, ENDED).await;
        for statement in MINUTES {
            run(connection, statement).await;
        }
        end_log(connection, dev, &token, tiles, end.timestamp_micros()).await;
        for (table, name) in Tables::NAMES.iter().enumerate() {
            let stretch = Stretch::begin(connection).await;
            shop.tables.index(connection, table, &indexes).await;
            stretch.end(&format!("indexes of {name}"));
        }
        let stretch = Stretch::begin(connection).await;
        run(connection, PAIRS).await;
        stretch.end("pairs of a profile and an issuer");
        let stretch = Stretch::begin(connection).await;
        run(connection, "COMMIT").await;
        // For the planner; and a table with triggers is frozen, but not known to be.
        run(connection, "VACUUM ANALYZE").await;
        stretch.end("committed, vacuumed and analyzed");
        let at = Instant::now();
        let compared = leaf::compare(connection, before..planner.next_index).await;
        say(
            &format!("compared with what the database would write: {compared:?}"),
            at,
        );
    });
    (planner.next_index, planner.lives)
}

/// Empties what is to be filled and begins its log with the entries that are there: principals and
/// their keys. Their time is now; in the ledger they come before all certificates.
async fn prepare(
    connection: &mut PgConnection,
    plan: &Plan,
    tiles: &mut Tiles,
) -> (Tables, u64, Vec<Index>) {
    let used = "SELECT count(*) FROM (SELECT FROM intent UNION ALL SELECT FROM checkpoint UNION ALL SELECT FROM work_order) t";
    let used: i64 = sqlx::query_scalar(used)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    assert_eq!(
        used, 0,
        "the world was used before; make another: certfactory dev --make-only --dir DIR"
    );
    for number in 0..plan::STATIONS {
        let add = "INSERT INTO principal (name, role, created_by) VALUES ($1, 'station', 'administrator') ON CONFLICT DO NOTHING";
        let add = sqlx::query(add).bind(plan::station(number));
        add.execute(&mut *connection).await.unwrap();
    }
    run(connection, "SET session_replication_role = replica; BEGIN").await;
    let leaves = "SELECT leaf FROM log_entry ORDER BY log_index";
    let leaves: Vec<Vec<u8>> = sqlx::query_scalar(leaves)
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    tables::empty(connection).await;
    let before = u64::try_from(leaves.len()).unwrap();
    // Nearly every certificate has a second entry: its confirmation.
    tables::make_partitions(connection, plan, before + plan.count * 2).await;
    let indexes = tables::take_indexes(connection).await;
    let tables = Tables::read(connection).await;
    let mut sheets = tables.sheets();
    let at = plan.time(0) - plan::ASKED_BEFORE - 1_000_000;
    for (index, leaf) in (0..).zip(&leaves) {
        let entry = Entry::parse(leaf).unwrap();
        let leaf = leaf_of(index, at, entry.kind, entry.event.get());
        tiles.push(leaf_hash(&leaf));
        sheets[Tables::ENTRY]
            .row(index.into(), 2)
            .long(index)
            .bytes(&leaf);
    }
    let [_, _, _, entries, _, _] = sheets;
    tables.copy(connection, Tables::ENTRY, entries).await;
    for statement in [
        "UPDATE principal SET created_at = to_timestamp($1 / 1e6)",
        "UPDATE principal_key SET added_at = to_timestamp($1 / 1e6)",
    ] {
        sqlx::query(statement)
            .bind(at)
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    (tables, before, indexes)
}

fn kind(dev: &Dev, profile: &str) -> Kind {
    let profiles = &dev.config.profiles;
    let profile = profiles.iter().find(|it| it.name == profile);
    let profile = profile.expect("a development world has this profile");
    let issuer = dev
        .config
        .issuers
        .iter()
        .find(|it| it.name == profile.issuer);
    Kind {
        profile: profile.clone(),
        issuer: issuer.unwrap().clone(),
    }
}

/// Stores what is made, chunk after chunk.
async fn store(
    connection: &mut PgConnection,
    shop: &Shop,
    made: &Receiver<Made>,
    tiles: &mut Tiles,
) {
    let (start, mut said) = (Instant::now(), Instant::now());
    let (mut next, mut certificates) = (0, 0);
    let mut early: BTreeMap<u64, Made> = BTreeMap::new();
    for arrived in made {
        early.insert(arrived.number, arrived);
        assert!(early.len() <= MAKERS + 1, "a chunk is missing");
        while let Some(chunk) = early.remove(&next) {
            next += 1;
            certificates += chunk.certificates;
            chunk.hashes.into_iter().for_each(|hash| tiles.push(hash));
            for (table, sheet) in chunk.sheets.into_iter().enumerate() {
                shop.tables.copy(connection, table, sheet).await;
            }
            store_tiles(connection, tiles.take()).await;
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let rate = certificates as f64 / start.elapsed().as_secs_f64();
            let rest = (shop.plan.count - certificates) as f64 / rate;
            eprintln!("{certificates} certificates, {rate:.0}/s, {rest:.0} s to go");
        }
    }
    assert_eq!(certificates, shop.plan.count);
}

async fn store_tiles(connection: &mut PgConnection, sheet: Sheet) {
    for (_, octets) in sheet.finish() {
        tables::copy(connection, "log_tile", "level, tile_index, hashes", octets).await;
    }
}

/// The orders, with what was counted.
async fn orders(connection: &mut PgConnection, orders: &BTreeMap<Order, Counts>) {
    const ADD: &str = "INSERT INTO work_order (name, profile, quantity, stations, created_by, created_at, closed_by,
            closed_at, reserved, confirmed, revoked, scrapped)
        VALUES ($1, 'lightbulb', $2, $3, 'operator', to_timestamp($4 / 1e6), $5, to_timestamp($6 / 1e6), $7, $8, $9, $10)";
    for (order, counts) in orders {
        let add = sqlx::query(ADD)
            .bind(order.name())
            .bind(i64::try_from(plan::QUANTITY).unwrap())
            .bind(order.stations())
            .bind(counts.created_at)
            .bind(counts.closed_at.map(|_| "operator"))
            .bind(counts.closed_at)
            .bind(counts.reserved)
            .bind(counts.confirmed)
            .bind(counts.revoked)
            .bind(counts.scrapped);
        add.execute(&mut *connection).await.unwrap();
    }
}

/// The log's head, the rest of its tiles, and a checkpoint: without one the service would read the
/// whole log again at its start.
async fn end_log(connection: &mut PgConnection, dev: &Dev, token: &Token, tiles: Tiles, at: i64) {
    let (size, root, rest) = tiles.finish();
    store_tiles(connection, rest).await;
    let audit = dev.config.raw.audit.as_ref().expect("the world has a log");
    let unsigned = CheckpointToBeSigned::build(&Checkpoint {
        origin: audit.origin.clone(),
        size,
        root,
        extensions: Vec::new(),
    });
    let signature = token.signer().sign(LOG_KEY_NAME, unsigned.to_be_signed());
    let key = &dev.config.log_key.as_ref().unwrap().verifier;
    let note = unsigned
        .seal(signature, key)
        .expect("the log key's signature");
    let size = i64::try_from(size).unwrap();
    let head = sqlx::query("UPDATE log_head SET size = $1, at = to_timestamp($2 / 1e6)");
    head.bind(size)
        .bind(at)
        .execute(&mut *connection)
        .await
        .unwrap();
    let store = sqlx::query("SELECT store_checkpoint($1, $2, $3, '{}', '{}', '{}')");
    let store = store.bind(size).bind(&root[..]).bind(note.to_string());
    store.execute(&mut *connection).await.unwrap();
}
