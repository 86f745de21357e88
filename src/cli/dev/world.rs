//! The files and components of a development world, made where they are missing.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use openssl::pkey::PKey;
use openssl::x509::X509;
use secrecy::SecretString;

use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::station::Act;
use crate::ca::station::Rights;
use crate::cli::dev::postgres::Postgres;
use crate::cli::dev::tls::Authority;
use crate::cli::dev::tls::write_private;
use crate::cli::issuer;
use crate::cli::signing_key;
use crate::config::RawConfig;
use crate::db;
use crate::hsm;
use crate::pki::hex;
use crate::pki::key_policy::KeyAlgorithm;

/// The database, and the two roles: one owns the schema, one serves.
const DATABASE: &str = "certfactory";
const OWNER: &str = "certfactory_owner";
const SERVICE: &str = "certfactory";
/// Where the repository listens when nobody says where: certificates name it, so it should stay.
const REPOSITORY_PORT: u16 = 8480;
/// The token.
const TOKEN_LABEL: &str = "certfactory-dev";
/// The site's name, as tickets name it.
const SITE: &str = "dev";
/// One client of each role.
const CLIENTS: [(&str, Role); 4] = [
    ("station-01", Role::Station),
    ("operator", Role::Operator),
    ("auditor", Role::Auditor),
    ("administrator", Role::Administrator),
];
/// The issuers.
const ISSUERS: [(&str, KeyAlgorithm); 3] = [
    ("line-ec", KeyAlgorithm::P256),
    ("line-rsa", KeyAlgorithm::Rsa2048),
    (STATIONS, KeyAlgorithm::P256),
];
/// The issuer of client certificates.
const STATIONS: &str = "stations";
/// Life of their OCSP responders' certificates.
const RESPONDER_DAYS: i64 = 366;
/// The profiles and their templates.
const PROFILES: [(&str, &str); 4] = [
    (
        "lightbulb.toml",
        include_str!("../../../deploy/profiles/lightbulb.toml"),
    ),
    (
        "workshop.toml",
        include_str!("../../../deploy/profiles/workshop.toml"),
    ),
    (
        "jitp-lightbulb.json",
        include_str!("../../../deploy/profiles/jitp-lightbulb.json"),
    ),
    (
        "jitp-workshop.json",
        include_str!("../../../deploy/profiles/jitp-workshop.json"),
    ),
];

/// A development world, its database running.
pub struct World {
    /// Where everything lies.
    pub dir: PathBuf,
    /// Where the API will listen.
    pub api: SocketAddr,
    /// Where operations will listen.
    pub operations: SocketAddr,
    /// Where the repository will listen.
    pub repository: SocketAddr,
    /// The database server.
    pub postgres: Postgres,
    /// These addresses, kept from others until the service takes them.
    held: Vec<TcpListener>,
}

/// The file that tells SoftHSM where the world's token is.
#[must_use]
pub fn softhsm_conf(dir: &Path) -> PathBuf {
    dir.join("softhsm/softhsm2.conf")
}

impl World {
    /// Makes what is missing below `dir`, starts the database. Port 0 takes a free one; so does no
    /// repository port when 8480 is taken.
    ///
    /// The process must run with `SOFTHSM2_CONF` set to [`softhsm_conf`].
    pub fn make(
        dir: &Path,
        port: u16,
        operations_port: u16,
        repository_port: Option<u16>,
    ) -> anyhow::Result<Self> {
        for name in [
            "tls",
            "clients",
            "issuers",
            "head-office",
            "batches",
            "journal",
            "profiles",
            "softhsm/tokens",
            "log",
        ] {
            std::fs::create_dir_all(dir.join(name))?;
        }
        let repository = match repository_port {
            Some(port) => hold(port)?,
            None => hold(REPOSITORY_PORT).or_else(|_| hold(0))?,
        };
        let held = vec![hold(port)?, hold(operations_port)?, repository];
        let postgres = Postgres::make(&dir.join("postgres"), &dir.join("log/postgres.log"))?;
        postgres.start()?;
        let world = Self {
            dir: dir.to_path_buf(),
            api: held[0].local_addr()?,
            operations: held[1].local_addr()?,
            repository: held[2].local_addr()?,
            postgres,
            held,
        };
        let made = world.fill();
        if made.is_err() {
            world.postgres.stop()?;
        }
        made.map(|()| world)
    }

    /// Lets go of the addresses, for the service to take.
    pub fn release_addresses(&mut self) {
        self.held.clear();
    }

    /// Log of the service.
    #[must_use]
    pub fn service_log(&self) -> PathBuf {
        self.dir.join("log/certfactory.log")
    }

    fn fill(&self) -> anyhow::Result<()> {
        for (name, text) in PROFILES {
            std::fs::write(self.dir.join("profiles").join(name), text)?;
        }
        self.write_configuration()?;
        self.make_token()?;
        self.make_issuers()?;
        self.make_signing_keys()?;
        self.make_tls()?;
        self.make_ticket_key()?;
        self.make_database()
    }

    fn write_configuration(&self) -> anyhow::Result<()> {
        let dir = self.dir.display();
        let issuers: String = ISSUERS
            .iter()
            .map(|(name, _)| format!("\n[[issuer]]\nname = \"{name}\"\nhsm = \"softhsm\"\nkey_label = \"{name}\"\ncertificate = \"issuers/{name}.pem\"\ncrl_url = \"http://{}/pki/{name}.crl\"\n\n[issuer.ocsp]\nkey_label = \"{name}-ocsp\"\ncertificate = \"issuers/{name}-ocsp.pem\"\n", self.repository))
            .collect();
        let configuration = format!(
            r#"# Made by `certfactory dev`; written anew at each start.

[http]
listen = "{api}"
certificate = "tls/server.pem"
private_key = "tls/server.key"
client_ca = "tls/clients-ca.pem"

[operations]
listen = "{operations}"

[repository]
listen = "{repository}"

[crl]
every_seconds = 2

[database]
url = "{url}"
owner_url = "{owner_url}"

[[hsm]]
name = "softhsm"
module = "{module}"
token_label = "{TOKEN_LABEL}"
pin_file = "softhsm/pin"

[hsm.environment]
SOFTHSM2_CONF = "{softhsm}"
{issuers}
[stations]
issuer = "{STATIONS}"

[site]
id = "{SITE}"

[site.report_key]
hsm = "softhsm"
key_label = "report"
public_key = "head-office/report.pem"

[[ticket_key]]
kid = "head-office"
public_key = "head-office/ticket.pem"

[issuance]
profiles = "profiles"

[batches]
directory = "batches"

[audit]
origin = "{SITE}.example/certfactory"

[audit.log_key]
hsm = "softhsm"
key_label = "log"
public_key = "head-office/log.pem"

[audit.journal]
directory = "journal"

# Here one key plays all the stations of a line.
[limits]
station_requests_per_second = 0
station_requests_at_once = 0
"#,
            api = self.api,
            operations = self.operations,
            repository = self.repository,
            url = self.postgres.url(SERVICE, DATABASE)?,
            owner_url = self.postgres.url(OWNER, DATABASE)?,
            module = softhsm_module()?.display(),
            softhsm = softhsm_conf(&self.dir).display(),
        );
        std::fs::write(self.dir.join("config.toml"), configuration)?;
        let environment = format!(
            "export CERTFACTORY_CONFIG='{dir}/config.toml' CERTFACTORY_URL='https://{api}' CERTFACTORY_CA='{dir}/tls/ca.pem' SOFTHSM2_CONF='{softhsm}'\n",
            api = self.api,
            softhsm = softhsm_conf(&self.dir).display(),
        );
        Ok(std::fs::write(self.dir.join("env"), environment)?)
    }

    fn make_token(&self) -> anyhow::Result<()> {
        let pin_file = self.dir.join("softhsm/pin");
        if pin_file.exists() {
            return Ok(());
        }
        // Written last, so without it a token that is there was made half-way, and nobody has its PIN.
        let tokens = self.dir.join("softhsm/tokens");
        std::fs::remove_dir_all(&tokens)?;
        std::fs::create_dir(&tokens)?;
        std::fs::write(
            softhsm_conf(&self.dir),
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                tokens.display()
            ),
        )?;
        let (pin, so_pin) = (pin()?, pin()?);
        hsm::ceremony::init_token(&softhsm_module()?, TOKEN_LABEL, &so_pin, &pin)?;
        write_private(
            &pin_file,
            secrecy::ExposeSecret::expose_secret(&pin).as_bytes(),
        )
    }

    fn make_issuers(&self) -> anyhow::Result<()> {
        let raw = RawConfig::read(&self.dir.join("config.toml"))?;
        for (name, algorithm) in ISSUERS {
            if !self.dir.join(format!("issuers/{name}.pem")).exists() {
                issuer::init_self_signed(
                    &raw,
                    name,
                    algorithm,
                    &[("O", "certfactory development"), ("CN", name)],
                )?;
            }
            let responder = self.dir.join(format!("issuers/{name}-ocsp.pem"));
            let section = raw.issuer.iter().find(|issuer| issuer.name == name);
            if let Some(section) = section.filter(|_| !responder.exists()) {
                issuer::responder::make(&raw, section, RESPONDER_DAYS).map_err(|f| f.error)?;
            }
        }
        Ok(())
    }

    fn make_tls(&self) -> anyhow::Result<()> {
        let tls = self.dir.join("tls");
        if !tls.join("server.key").exists() {
            let authority = Authority::make("certfactory development TLS CA")?;
            std::fs::write(tls.join("ca.pem"), authority.pem()?)?;
            authority.server(&tls)?;
        }
        if !tls.join("clients-ca.pem").exists() {
            let authority = Authority::make("certfactory development clients CA")?;
            for (name, _) in CLIENTS {
                authority.client(&self.dir.join("clients"), name)?;
            }
            std::fs::write(tls.join("clients-ca.pem"), authority.pem()?)?;
        }
        // A world of an earlier version has clients, and no issuer of theirs.
        let anchors = std::fs::read_to_string(tls.join("clients-ca.pem"))?;
        let stations = std::fs::read_to_string(self.dir.join(format!("issuers/{STATIONS}.pem")))?;
        if !anchors.contains(&stations) {
            std::fs::write(tls.join("clients-ca.pem"), anchors + &stations)?;
        }
        Ok(())
    }

    fn make_signing_keys(&self) -> anyhow::Result<()> {
        let raw = RawConfig::read(&self.dir.join("config.toml"))?;
        let places = [signing_key::report_key(&raw), signing_key::log_key(&raw)];
        for place in places.iter().flatten().filter(|it| !it.public_key.exists()) {
            signing_key::make(&raw, place)?;
        }
        Ok(())
    }

    /// The key that head office signs work orders with; in a real world it is nowhere near.
    fn make_ticket_key(&self) -> anyhow::Result<()> {
        let directory = self.dir.join("head-office");
        if !directory.join("ticket.pem").exists() {
            let key = PKey::generate_ed25519()?;
            write_private(
                &directory.join("ticket.key"),
                &key.private_key_to_pem_pkcs8()?,
            )?;
            std::fs::write(directory.join("ticket.pem"), key.public_key_to_pem()?)?;
        }
        Ok(())
    }

    fn principals(&self) -> anyhow::Result<Vec<Principal>> {
        let principal = |(name, role): (&str, Role)| {
            let pem = std::fs::read(self.dir.join(format!("clients/{name}.pem")))?;
            let spki = X509::from_pem(&pem)?.public_key()?.public_key_to_der()?;
            Ok(Principal {
                name: name.to_owned(),
                role,
                disabled: false,
                spki_sha256: openssl::sha::sha256(&spki),
                // The one station of this world does what several would do on a line.
                rights: Rights {
                    acts: match role {
                        Role::Station => vec![Act::Issue, Act::Confirm, Act::Rework, Act::Scrap],
                        _ => Vec::new(),
                    },
                    ..Rights::default()
                },
            })
        };
        CLIENTS.into_iter().map(principal).collect()
    }

    fn make_database(&self) -> anyhow::Result<()> {
        let exists = self.postgres.psql(
            "postgres",
            &format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"),
        )?;
        if exists.trim().is_empty() {
            self.postgres
                .psql("postgres", &format!("CREATE ROLE {OWNER} LOGIN CREATEROLE"))?;
            self.postgres.psql(
                "postgres",
                &format!("CREATE DATABASE {DATABASE} OWNER {OWNER}"),
            )?;
        }
        let owner = db::config::DbConfig {
            url: SecretString::from(self.postgres.url(OWNER, DATABASE)?),
            archive_connections_max: 1,
            require_synchronous: false,
            seen: Arc::default(),
        };
        let runtime = crate::cli::runtime()?;
        runtime
            .block_on(db::migrate::migrate(&owner))
            .context("migrating the development database")?;
        let role = self.postgres.psql(
            "postgres",
            &format!("SELECT 1 FROM pg_roles WHERE rolname = '{SERVICE}'"),
        )?;
        if role.trim().is_empty() {
            self.postgres.psql(
                "postgres",
                &format!("CREATE ROLE {SERVICE} LOGIN IN ROLE certfactory_service"),
            )?;
        }
        for principal in self.principals()? {
            runtime
                .block_on(db::principals::add(&owner, &principal))
                .context("registering the clients")?;
        }
        Ok(())
    }
}

/// A random PIN.
fn pin() -> anyhow::Result<SecretString> {
    let mut bytes = [0; 12];
    openssl::rand::rand_bytes(&mut bytes)?;
    Ok(SecretString::from(hex(&bytes)))
}

/// Debian's two places for SoftHSM.
fn softhsm_module() -> anyhow::Result<PathBuf> {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    ];
    places
        .iter()
        .map(PathBuf::from)
        .find(|place| place.exists())
        .context("SoftHSM is not installed; install softhsm2")
}

/// Takes `port`, or a free one for 0: below the range from which the system gives outgoing
/// connections theirs, so that none takes it before the service listens.
fn hold(port: u16) -> anyhow::Result<TcpListener> {
    if port != 0 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        return TcpListener::bind(address)
            .with_context(|| format!("{address} cannot be listened on; choose another port"));
    }
    for _ in 0..100 {
        let mut random = [0; 2];
        openssl::rand::rand_bytes(&mut random)?;
        let port = 20_000 + u16::from_ne_bytes(random) % 12_000;
        if let Ok(held) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(held);
        }
    }
    bail!("no free port between 20000 and 32000")
}
