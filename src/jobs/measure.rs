//! Measures what nobody counts while it happens: clock, log, disks, work orders, partitions, backups.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use crate::ca::Ca;
use crate::ca::log::LogPart;
use crate::db::archive::PgArchive;
use crate::db::measures::Measures;
use crate::db::measures::PgMeasures;
use crate::metrics::StateMetrics;

/// How often what is in memory is looked at, and the disks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the database is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Measures, in this replica.
pub struct Measuring {
    /// The certification authority.
    pub ca: Arc<Ca>,
    /// Connections of searches and downloads.
    pub archive: PgArchive,
    /// What the database is asked.
    pub book: PgMeasures,
    /// Directories that the service writes to, by what they are for.
    pub directories: Vec<(&'static str, PathBuf)>,
    /// Where it is shown.
    pub metrics: StateMetrics,
}

impl Measuring {
    /// Measures for ever.
    pub fn start(self) {
        let own = Arc::new(self);
        let asking = Arc::clone(&own);
        let disks = Arc::clone(&own);
        // A disk may not answer, and it is what the others are to tell of: a thread of its own.
        tokio::task::spawn_blocking(move || {
            let handle = tokio::runtime::Handle::current();
            loop {
                disks.look_at_disks();
                handle.block_on(tokio::time::sleep(LOOK_EVERY));
            }
        });
        tokio::spawn(async move {
            loop {
                own.look();
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        tokio::spawn(async move {
            let mut silent = false;
            loop {
                // While the database is down, the last answer stands; that it is down is shown elsewhere.
                match asking.book.measure().await {
                    Ok(measures) => {
                        silent = false;
                        asking.show(&measures);
                    }
                    Err(fault) => {
                        if !std::mem::replace(&mut silent, true) {
                            tracing::warn!(%fault, "orders, partitions and backups are not measured");
                        }
                    }
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        });
    }

    fn look(&self) {
        let metrics = &self.metrics;
        let trusted = self.ca.clock_trusted().is_ok();
        metrics.clock_trusted.set(i64::from(trusted));
        metrics
            .clock_ahead
            .set(self.ca.clock_ahead().as_seconds_f64());
        let parts = [
            ("journal", LogPart::Journal),
            ("tree", LogPart::Tree),
            ("outside", LogPart::Outside),
        ];
        for (name, part) in parts {
            let up = i64::from(self.ca.log.fault(part).is_none());
            metrics.log_part_up.with_label_values(&[name]).set(up);
        }
        let (all, idle, max) = self.archive.connections();
        let connections = [("busy", all.saturating_sub(idle)), ("idle", idle)];
        for (state, count) in connections {
            let gauge = metrics.connections.with_label_values(&[state]);
            gauge.set(i64::from(count));
        }
        metrics.connections_max.set(i64::from(max));
    }

    fn look_at_disks(&self) {
        let metrics = &self.metrics;
        for (name, path) in &self.directories {
            // Of a directory that is gone whoever writes there speaks.
            let Ok(disk) = statvfs(path) else { continue };
            let octets = |blocks: u64| {
                let octets = blocks.saturating_mul(disk.fragment_size());
                i64::try_from(octets).unwrap_or(i64::MAX)
            };
            let free = metrics.directory_free.with_label_values(&[name]);
            free.set(octets(disk.blocks_available()));
            let size = metrics.directory_size.with_label_values(&[name]);
            size.set(octets(disk.blocks()));
        }
    }

    fn show(&self, measures: &Measures) {
        let metrics = &self.metrics;
        let orders = [
            ("open", measures.orders_open),
            ("used_up", measures.orders_used_up),
        ];
        for (state, count) in orders {
            metrics.orders.with_label_values(&[state]).set(count);
        }
        for (state, count) in measures.order_devices {
            metrics.order_devices.with_label_values(&[state]).set(count);
        }
        metrics.order_used_max.set(measures.order_used_max);
        for (table, months) in measures.months_ahead {
            let gauge = metrics.partition_months.with_label_values(&[table]);
            gauge.set(months.into());
        }
        let backup_age = measures.backup_age.unwrap_or(f64::INFINITY);
        metrics.backup_age.set(backup_age);
        metrics.partition_entries.set(measures.log_entries_ahead);
        for (table, octets) in measures.default_octets {
            let gauge = metrics.partition_default.with_label_values(&[table]);
            gauge.set(octets);
        }
    }
}
