//! What the factory counts. One struct a subsystem, registered in the registry handed in;
//! the help text is the documentation. Labels are closed sets: never a serial, never a device.

use std::time::Duration;

use chrono::DateTime;
use chrono::Utc;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, core::Collector,
};

/// Seconds, from a quarter of a millisecond to ten seconds.
const SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Rows in a commit.
const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
    labels: &[&str],
) -> prometheus::Result<HistogramVec> {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(opts, labels))
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> prometheus::Result<Histogram> {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    registered(registry, Histogram::with_opts(opts))
}

/// The spine.
pub struct IssuanceMetrics {
    /// `certfactory_certificates_issued_total{profile,issuer}`; `profile` is
    /// `verification_certificate` for the certificates that are no device's
    pub issued: IntCounterVec,
    /// `certfactory_issuance_refused_total{problem}`
    pub refused: IntCounterVec,
    /// `certfactory_issuance_replayed_total{profile}`
    pub replayed: IntCounterVec,
    /// `certfactory_issuance_seconds{stage}`
    pub seconds: HistogramVec,
    /// `certfactory_issuer_not_after_seconds{issuer}`
    pub issuer_not_after: IntGaugeVec,
    /// `certfactory_profile_last_issue_seconds{profile}`
    pub profile_last_issue: IntGaugeVec,
    /// `certfactory_log_notes_lost_total`
    pub notes_lost: IntCounter,
}

impl IssuanceMetrics {
    /// Registers the spine's metrics.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            issued: counters(
                r,
                "certfactory_certificates_issued_total",
                "Certificates recorded and released; profile verification_certificate: those by which AWS IoT verifies a CA.",
                &["profile", "issuer"],
            )?,
            refused: counters(
                r,
                "certfactory_issuance_refused_total",
                "Issuance requests not answered with a certificate, by problem slug.",
                &["problem"],
            )?,
            replayed: counters(
                r,
                "certfactory_issuance_replayed_total",
                "Requests answered with the certificate of an earlier one.",
                &["profile"],
            )?,
            seconds: histograms(
                r,
                "certfactory_issuance_seconds",
                "Time spent in each stage of an issuance; not of a batch's, which waits for the line.",
                SECONDS,
                &["stage"],
            )?,
            issuer_not_after: gauges(
                r,
                "certfactory_issuer_not_after_seconds",
                "End of the issuer's validity, Unix time.",
                &["issuer"],
            )?,
            profile_last_issue: gauges(
                r,
                "certfactory_profile_last_issue_seconds",
                "When the profile issues its last certificate, since a later one would outlive its issuer, Unix time.",
                &["profile"],
            )?,
            notes_lost: registered(
                r,
                IntCounter::new(
                    "certfactory_log_notes_lost_total",
                    "Events without a row of their own that could not be told to the log.",
                ),
            )?,
        })
    }
}

/// The HSM.
pub struct HsmMetrics {
    /// `certfactory_hsm_up{issuer}`: 1 when the issuer's key has proved itself and signs
    pub up: IntGaugeVec,
    /// `certfactory_hsm_token_up{hsm}`
    pub token_up: IntGaugeVec,
    /// `certfactory_hsm_pin_refused{hsm}`
    pub pin_refused: IntGaugeVec,
    /// `certfactory_hsm_sign_seconds{issuer}`: the `C_Sign` call alone
    pub sign_seconds: HistogramVec,
    /// `certfactory_hsm_sessions{state}`: open, busy
    pub sessions: IntGaugeVec,
    /// `certfactory_hsm_queue_depth`
    pub queue_depth: IntGauge,
    /// `certfactory_hsm_queue_seconds`
    pub queue_seconds: Histogram,
    /// `certfactory_hsm_reopens_total{level}`: session, login, module
    pub reopens: IntCounterVec,
    /// `certfactory_hsm_calls_total{purpose}`: `C_Sign` calls for certificates, challenges, probes,
    /// reports, CRLs, OCSP answers
    pub calls: IntCounterVec,
}

impl HsmMetrics {
    /// Registers the HSM's metrics.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            up: gauges(
                r,
                "certfactory_hsm_up",
                "1 when the issuer's key has proved itself and signs.",
                &["issuer"],
            )?,
            token_up: gauges(
                r,
                "certfactory_hsm_token_up",
                "1 while the token is open: found, logged in to, answering.",
                &["hsm"],
            )?,
            pin_refused: gauges(
                r,
                "certfactory_hsm_pin_refused",
                "1 when the token refused the PIN, which is not tried again before a restart.",
                &["hsm"],
            )?,
            sign_seconds: histograms(
                r,
                "certfactory_hsm_sign_seconds",
                "Time inside C_SignInit and C_Sign.",
                SECONDS,
                &["issuer"],
            )?,
            sessions: gauges(
                r,
                "certfactory_hsm_sessions",
                "PKCS#11 sessions by state.",
                &["state"],
            )?,
            queue_depth: registered(
                r,
                IntGauge::new(
                    "certfactory_hsm_queue_depth",
                    "Signatures waiting for a session, batches' among them.",
                ),
            )?,
            queue_seconds: histogram(
                r,
                "certfactory_hsm_queue_seconds",
                "How long a signature waited for a session; not one of a batch, which goes last.",
                SECONDS,
            )?,
            reopens: counters(
                r,
                "certfactory_hsm_reopens_total",
                "Recoveries, by how far they had to go.",
                &["level"],
            )?,
            calls: counters(
                r,
                "certfactory_hsm_calls_total",
                "Signing calls to the HSM, by purpose: certificate, challenge, probe, report, checkpoint, crl, ocsp.",
                &["purpose"],
            )?,
        })
    }
}

/// The ledger.
pub struct LedgerMetrics {
    /// `certfactory_ledger_batch_rows`
    pub batch_rows: Histogram,
    /// `certfactory_ledger_commit_seconds`
    pub commit_seconds: Histogram,
    /// `certfactory_ledger_up`
    pub up: IntGauge,
    /// `certfactory_log_notes_up`
    pub notes_up: IntGauge,
    /// `certfactory_database_pool_timeouts_total{pool}`: `archive`, `log`, `log_readers`
    pub pool_timeouts: IntCounterVec,
}

impl LedgerMetrics {
    /// Registers the ledger's metrics.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            batch_rows: histogram(
                r,
                "certfactory_ledger_batch_rows",
                "Rows made durable by one commit.",
                ROWS,
            )?,
            commit_seconds: histogram(
                r,
                "certfactory_ledger_commit_seconds",
                "Time of one group commit, BEGIN to COMMIT.",
                SECONDS,
            )?,
            up: registered(
                r,
                IntGauge::new("certfactory_ledger_up", "1 when the ledger can record."),
            )?,
            notes_up: registered(
                r,
                IntGauge::new(
                    "certfactory_log_notes_up",
                    "1 when events without a row of their own can be told to the log.",
                ),
            )?,
            pool_timeouts: counters(
                r,
                "certfactory_database_pool_timeouts_total",
                "Readings given up, since no connection of their pool (archive, log, log_readers) became free in time.",
                &["pool"],
            )?,
        })
    }
}

/// The standby that searches are read on; only where there is one.
pub struct StandbyMetrics {
    /// `certfactory_archive_lag_seconds`
    pub lag: Gauge,
    /// `certfactory_archive_standby_up`
    pub up: IntGauge,
    readings: IntCounterVec,
    passed_over: IntCounterVec,
}

impl StandbyMetrics {
    /// Registers the standby's metrics.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            lag: registered(
                r,
                Gauge::new(
                    "certfactory_archive_lag_seconds",
                    "How long ago the standby was as the primary: everything committed before is known to be on it. Goes on rising while it is away.",
                ),
            )?,
            up: registered(
                r,
                IntGauge::new(
                    "certfactory_archive_standby_up",
                    "1 while searches are read on the standby, 0 while on the primary.",
                ),
            )?,
            readings: counters(
                r,
                "certfactory_archive_readings_total",
                "Readings that may be a little old, by the server that answered: standby, primary.",
                &["server"],
            )?,
            passed_over: counters(
                r,
                "certfactory_archive_passed_over_total",
                "Readings for which the primary was asked instead of the standby: away, behind, older (it did not yet have what was just written), broken (cut off, or in the way of the replay).",
                &["reason"],
            )?,
        })
    }

    /// Readings that the server answered: `standby`, `primary`.
    #[must_use]
    pub fn readings(&self, server: &str) -> IntCounter {
        self.readings.with_label_values(&[server])
    }

    /// Readings for which the standby was passed over: `away`, `behind`, `older`, `broken`.
    #[must_use]
    pub fn passed_over(&self, reason: &str) -> IntCounter {
        self.passed_over.with_label_values(&[reason])
    }
}

/// The log.
pub struct LogMetrics {
    /// `certfactory_log_size`
    pub size: IntGauge,
    /// `certfactory_log_checkpoint_size`
    pub checkpoint_size: IntGauge,
    /// `certfactory_log_checkpoint_timestamp_seconds`
    pub checkpoint_at: IntGauge,
    /// `certfactory_log_checkpoints_failed_total`
    pub checkpoints_failed: IntCounter,
    /// `certfactory_log_witness_timestamp_seconds{witness}`
    pub witness_at: IntGaugeVec,
    /// `certfactory_log_witness_refused_total{witness}`
    pub witness_refused: IntCounterVec,
}

impl LogMetrics {
    /// Registers the log's metrics.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| registered(r, IntGauge::new(name, help));
        Ok(Self {
            size: gauge(
                "certfactory_log_size",
                "Entries of the log that this replica has seen.",
            )?,
            checkpoint_size: gauge(
                "certfactory_log_checkpoint_size",
                "Entries of the newest signed tree.",
            )?,
            checkpoint_at: gauge(
                "certfactory_log_checkpoint_timestamp_seconds",
                "When the newest checkpoint was stored, Unix time.",
            )?,
            checkpoints_failed: registered(
                r,
                IntCounter::new(
                    "certfactory_log_checkpoints_failed_total",
                    "Attempts to sign or store a checkpoint that failed.",
                ),
            )?,
            witness_at: gauges(
                r,
                "certfactory_log_witness_timestamp_seconds",
                "When the witness last co-signed, Unix time; of one that has not since the service started, that time.",
                &["witness"],
            )?,
            witness_refused: counters(
                r,
                "certfactory_log_witness_refused_total",
                "Checkpoints that the witness did not co-sign.",
                &["witness"],
            )?,
        })
    }
}

/// The CRLs.
pub struct CrlMetrics {
    /// `certfactory_crl_number{issuer,shard}`; `shard` is empty for the complete CRL
    pub number: IntGaugeVec,
    /// `certfactory_crl_this_update_seconds{issuer,shard}`
    pub this_update: IntGaugeVec,
    /// `certfactory_crl_next_update_seconds{issuer,shard}`
    pub next_update: IntGaugeVec,
    /// `certfactory_crl_entries{issuer,shard}`
    pub entries: IntGaugeVec,
    /// `certfactory_crl_builds_total{issuer,outcome}`: stored, lost (another replica was first), failed
    pub builds: IntCounterVec,
    /// `certfactory_crl_build_seconds{issuer}`
    pub build_seconds: HistogramVec,
}

impl CrlMetrics {
    /// Registers the CRLs' metrics.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        let each = ["issuer", "shard"];
        Ok(Self {
            number: gauges(
                r,
                "certfactory_crl_number",
                "cRLNumber of the published CRL; no shard: the complete one.",
                &each,
            )?,
            this_update: gauges(
                r,
                "certfactory_crl_this_update_seconds",
                "thisUpdate of the published CRL, Unix time.",
                &each,
            )?,
            next_update: gauges(
                r,
                "certfactory_crl_next_update_seconds",
                "nextUpdate of the published CRL, Unix time: nobody accepts it later.",
                &each,
            )?,
            entries: gauges(
                r,
                "certfactory_crl_entries",
                "Certificates on the published CRL.",
                &each,
            )?,
            builds: counters(
                r,
                "certfactory_crl_builds_total",
                "CRLs made, by outcome: stored, lost (another replica was first), failed.",
                &["issuer", "outcome"],
            )?,
            build_seconds: histograms(
                r,
                "certfactory_crl_build_seconds",
                "Time to read, build, sign, verify and store one CRL.",
                SECONDS,
                &["issuer"],
            )?,
        })
    }

    /// One attempt.
    pub fn count(&self, issuer: &str, outcome: &str, took: Duration) {
        self.builds.with_label_values(&[issuer, outcome]).inc();
        self.build_seconds
            .with_label_values(&[issuer])
            .observe(took.as_secs_f64());
    }
}

/// The OCSP responders.
pub struct OcspMetrics {
    /// `certfactory_ocsp_answers_total{issuer,source}`: kept, signed, refused
    pub answers: IntCounterVec,
}

impl OcspMetrics {
    /// Registers the responders' metrics.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            answers: counters(
                r,
                "certfactory_ocsp_answers_total",
                "OCSP answers: kept from before, signed now, or refused (malformed, not ours, a neighbour is down).",
                &["issuer", "source"],
            )?,
        })
    }
}

/// The HTTP front end.
pub struct HttpMetrics {
    /// `certfactory_http_request_seconds{route,method,status}`
    pub seconds: HistogramVec,
    /// `certfactory_http_connections_refused_total`
    pub connections_refused: IntCounter,
}

impl HttpMetrics {
    /// Registers the front end's metrics.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            seconds: histograms(
                r,
                "certfactory_http_request_seconds",
                "Time from request head to response head.",
                SECONDS,
                &["route", "method", "status"],
            )?,
            connections_refused: registered(
                r,
                IntCounter::new(
                    "certfactory_http_connections_refused_total",
                    "Connections closed at once: their address held as many as it may, or their handshake would have waited too long.",
                ),
            )?,
        })
    }
}

/// Batches, as far as this replica works on them.
pub struct BatchMetrics {
    /// `certfactory_batch_rows_total{outcome}`: `issued`, `failed`
    pub rows: IntCounterVec,
    /// `certfactory_batch_chunks_in_work`
    pub chunks: IntGauge,
    /// `certfactory_batches{state}`: `running`, `paused`, `hindered`, `stalled`
    pub batches: IntGaugeVec,
}

impl BatchMetrics {
    /// Registers the metrics of batches.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            rows: counters(
                r,
                "certfactory_batch_rows_total",
                "Rows of batches that came to their outcome here.",
                &["outcome"],
            )?,
            chunks: registered(
                r,
                IntGauge::new(
                    "certfactory_batch_chunks_in_work",
                    "Chunks of batches that this replica works on.",
                ),
            )?,
            batches: gauges(
                r,
                "certfactory_batches",
                "Batches by what they are in: running, paused, hindered (held up until it passes by itself), stalled (running, and nothing done for a minute).",
                &["state"],
            )?,
        })
    }
}

/// This replica among the others on its database.
pub struct ReplicaMetrics {
    /// `certfactory_replica_up`
    pub up: IntGauge,
    /// `certfactory_replica_instance`
    pub instance: IntGauge,
    /// `certfactory_replica_duty{duty}`: `checkpoints`, `crls`, `open_intents`
    pub duty: IntGaugeVec,
    /// `certfactory_replicas{role}`: `all`, `api`, `jobs`
    pub living: IntGaugeVec,
}

impl ReplicaMetrics {
    /// Registers the metrics of replicas.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| registered(r, IntGauge::new(name, help));
        Ok(Self {
            up: gauge(
                "certfactory_replica_up",
                "1 while the database knows that this replica lives.",
            )?,
            instance: gauge(
                "certfactory_replica_instance",
                "First octet of the serial numbers made here; 0 while another replica has it.",
            )?,
            duty: gauges(
                r,
                "certfactory_replica_duty",
                "1 where this replica is the one that does it first: checkpoints, crls, open_intents.",
                &["duty"],
            )?,
            living: gauges(
                r,
                "certfactory_replicas",
                "Replicas that live on this database, by what they do, this one among them; 0 of each while it is not known.",
                &["role"],
            )?,
        })
    }
}

/// The configuration, read again while the service runs.
pub struct ReloadMetrics {
    /// `certfactory_configuration_refused`
    pub refused: IntGauge,
    /// `certfactory_configuration_reloads_total{result}`: `accepted`, `refused`
    pub reloads: IntCounterVec,
    /// `certfactory_configuration_at_seconds`
    pub at: IntGauge,
}

impl ReloadMetrics {
    /// Registers the metrics of the configuration, which was read at `now`.
    pub fn new(r: &Registry, now: DateTime<Utc>) -> prometheus::Result<Self> {
        let reloads = counters(
            r,
            "certfactory_configuration_reloads_total",
            "Times the configuration was read again at SIGHUP.",
            &["result"],
        )?;
        for result in ["accepted", "refused"] {
            reloads.with_label_values(&[result]);
        }
        let at = registered(
            r,
            IntGauge::new(
                "certfactory_configuration_at_seconds",
                "When the configuration in force was read, Unix time.",
            ),
        )?;
        at.set(now.timestamp());
        Ok(Self {
            refused: registered(
                r,
                IntGauge::new(
                    "certfactory_configuration_refused",
                    "1 while the configuration on disk was refused at SIGHUP and the earlier one is in force.",
                ),
            )?,
            reloads,
            at,
        })
    }
}

/// What nobody counts while it happens, and is looked at now and then.
pub struct StateMetrics {
    /// `certfactory_clock_trusted`
    pub clock_trusted: IntGauge,
    /// `certfactory_clock_ahead_seconds`
    pub clock_ahead: Gauge,
    /// `certfactory_log_part_up{part}`: `journal`, `tree`, `outside`
    pub log_part_up: IntGaugeVec,
    /// `certfactory_directory_free_bytes{directory}`: `batches`, `journal`
    pub directory_free: IntGaugeVec,
    /// `certfactory_directory_size_bytes{directory}`
    pub directory_size: IntGaugeVec,
    /// `certfactory_database_connections{state}`: `busy`, `idle`
    pub connections: IntGaugeVec,
    /// `certfactory_database_connections_max`
    pub connections_max: IntGauge,
    /// `certfactory_orders{state}`: `open`, `used_up`
    pub orders: IntGaugeVec,
    /// `certfactory_order_devices{state}`: `ordered`, `issued`, `confirmed`, `scrapped`, `remaining`
    pub order_devices: IntGaugeVec,
    /// `certfactory_order_used_ratio_max`
    pub order_used_max: Gauge,
    /// `certfactory_partition_months_ahead{table}`: `intent`, `outcome`
    pub partition_months: IntGaugeVec,
    /// `certfactory_partition_log_entries_ahead`
    pub partition_entries: IntGauge,
    /// `certfactory_partition_default_bytes{table}`: `intent`, `outcome`, `log_entry`
    pub partition_default: IntGaugeVec,
    /// `certfactory_backup_age_seconds`
    pub backup_age: Gauge,
}

impl StateMetrics {
    /// Registers them.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| registered(r, IntGauge::new(name, help));
        let measure = |name: &str, help: &str| registered(r, Gauge::new(name, help));
        let backup_age = measure(
            "certfactory_backup_age_seconds",
            "Seconds since the last backup was completed; infinite before the first.",
        )?;
        backup_age.set(f64::INFINITY);
        Ok(Self {
            backup_age,
            clock_trusted: gauge(
                "certfactory_clock_trusted",
                "1 while certificates may be dated by the service's clock.",
            )?,
            clock_ahead: measure(
                "certfactory_clock_ahead_seconds",
                "How far the service's clock was ahead of the database's when they were last compared.",
            )?,
            log_part_up: gauges(
                r,
                "certfactory_log_part_up",
                "0 while this part of the log keeps the service from issuing: journal, tree (0: the log is halted), outside (0: no witness for too long).",
                &["part"],
            )?,
            directory_free: gauges(
                r,
                "certfactory_directory_free_bytes",
                "Octets that the service may still write where this directory is: batches, journal.",
                &["directory"],
            )?,
            directory_size: gauges(
                r,
                "certfactory_directory_size_bytes",
                "Octets of the file system that this directory is on.",
                &["directory"],
            )?,
            connections: gauges(
                r,
                "certfactory_database_connections",
                "Connections for searches and downloads, by state: busy, idle.",
                &["state"],
            )?,
            connections_max: gauge(
                "certfactory_database_connections_max",
                "Connections that searches and downloads may have.",
            )?,
            orders: gauges(
                r,
                "certfactory_orders",
                "Work orders that are not closed: open (a device may still be certified), used_up.",
                &["state"],
            )?,
            order_devices: gauges(
                r,
                "certfactory_order_devices",
                "Devices of work orders that are not closed: ordered, issued, confirmed, scrapped, remaining.",
                &["state"],
            )?,
            order_used_max: measure(
                "certfactory_order_used_ratio_max",
                "Share that is used of the work order that is used most and not used up.",
            )?,
            partition_months: gauges(
                r,
                "certfactory_partition_months_ahead",
                "Months after this one that have their partition; -1: not even this one has.",
                &["table"],
            )?,
            partition_entries: gauge(
                "certfactory_partition_log_entries_ahead",
                "Entries of the log for which there are partitions.",
            )?,
            partition_default: gauges(
                r,
                "certfactory_partition_default_bytes",
                "Octets of the default partition, which holds what no partition was made for: 0.",
                &["table"],
            )?,
        })
    }
}

/// The service's TLS files.
pub struct TlsMetrics {
    /// `certfactory_tls_not_after_seconds{file}`: `certificate`, `client_ca`
    pub not_after: IntGaugeVec,
    /// `certfactory_tls_files_refused`
    pub files_refused: IntGauge,
}

impl TlsMetrics {
    /// Registers the metrics of the TLS files.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            not_after: gauges(
                r,
                "certfactory_tls_not_after_seconds",
                "End of validity of what is in use, Unix time; client_ca: of the valid trust anchor that ends first.",
                &["file"],
            )?,
            files_refused: registered(
                r,
                IntGauge::new(
                    "certfactory_tls_files_refused",
                    "1 while the TLS files on disk were refused and earlier ones are in use.",
                ),
            )?,
        })
    }
}

/// Head office's plants. The label `plant` has as many values as there are plants.
pub struct PlantMetrics {
    /// `certfactory_plant_feed_lag_seconds{plant}`
    pub lag: GaugeVec,
    /// `certfactory_plant_feed_late_after_seconds{plant}`
    pub late_after: IntGaugeVec,
    /// `certfactory_plant_feed_up{plant}`
    pub feed_up: IntGaugeVec,
    /// `certfactory_plant_findings_open{plant}`
    pub findings: IntGaugeVec,
    /// `certfactory_plant_certificates{plant}`
    pub certificates: IntGaugeVec,
    /// `certfactory_plant_log_entries{plant}`
    pub log_entries: IntGaugeVec,
    /// `certfactory_plant_witnessed_entries{plant}`
    pub witnessed: IntGaugeVec,
}

impl PlantMetrics {
    /// Registers them.
    pub fn new(r: &Registry) -> prometheus::Result<Self> {
        let each = |name: &str, help: &str| gauges(r, name, help, &["plant"]);
        Ok(Self {
            lag: registered(
                r,
                GaugeVec::new(
                    Opts::new(
                        "certfactory_plant_feed_lag_seconds",
                        "Seconds since the newest sign of life that came from the plant, by the plant's database; infinite before the first.",
                    ),
                    &["plant"],
                ),
            )?,
            late_after: each(
                "certfactory_plant_feed_late_after_seconds",
                "Seconds after which the plant's feed is late.",
            )?,
            feed_up: each(
                "certfactory_plant_feed_up",
                "1 while the plant's feed is connected.",
            )?,
            findings: each(
                "certfactory_plant_findings_open",
                "Rows and checkpoints of the plant that do not agree with what it gave before or with its log, and are not put right.",
            )?,
            certificates: each(
                "certfactory_plant_certificates",
                "Certificates of the plant that were held against its log.",
            )?,
            log_entries: each(
                "certfactory_plant_log_entries",
                "Entries of the plant's log that came.",
            )?,
            witnessed: each(
                "certfactory_plant_witnessed_entries",
                "Entries of the plant's log that a checkpoint covers which its key signed and which was made again from them.",
            )?,
        })
    }

    /// Forgets a plant that was removed.
    pub fn forget(&self, plant: &str) {
        self.lag.remove_label_values(&[plant]).ok();
        for gauge in [
            &self.late_after,
            &self.feed_up,
            &self.findings,
            &self.certificates,
            &self.log_entries,
            &self.witnessed,
        ] {
            gauge.remove_label_values(&[plant]).ok();
        }
    }
}
