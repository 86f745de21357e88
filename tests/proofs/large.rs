//! A large ledger: made in minutes, searched and exported at full size.
//!
//! The seeder writes what the service would have written, by COPY instead of one transaction a
//! batch: the same rows, the same entries, the same tree. Everything about certificate number n
//! follows from n and one secret ([`plan`]), so that chunks are made side by side.

mod cluster;
mod export;
mod filters;
mod leaf;
mod maker;
mod plan;
mod search;
mod seed;
mod sheet;
mod signer;
mod stretch;
mod tables;
mod template;
mod tiles;

pub use export::export;
pub use search::search;
pub use seed::seed;

use std::path::PathBuf;

use certfactory::cli::client::Client;
use certfactory::cli::client::Connect;
use certfactory::config::Config;
use sqlx::ConnectOptions;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use crate::support::world::World;

/// The development world that the environment names.
struct Dev {
    world: World,
    config: Config,
}

impl Dev {
    fn open() -> Self {
        let path = std::env::var_os("CERTFACTORY_CONFIG").map(PathBuf::from);
        let path = path.expect("CERTFACTORY_CONFIG is not set: source .dev/env");
        let config = Config::load(&path).unwrap_or_else(|faults| panic!("{faults}"));
        let dir = std::fs::canonicalize(path.parent().unwrap()).unwrap();
        Self {
            world: World::at(dir),
            config,
        }
    }

    /// A connection as the cluster's superuser: triggers can be passed over by nobody else.
    async fn connect(&self) -> PgConnection {
        let url = self.config.raw.database.owner_url.as_ref();
        let options: PgConnectOptions = url.expect("database.owner_url").parse().unwrap();
        let options = options.username("postgres").application_name("ledger seed");
        let connected = options.connect().await;
        connected.unwrap_or_else(|error| panic!("the world's database: {error}"))
    }

    /// The API, as an auditor.
    fn auditor(&self) -> Client {
        let connect = Connect {
            url: self.world.url.parse().unwrap(),
            client_certificate: Some(self.world.dir.join("clients/auditor.pem")),
            client_key: None,
            anonymous: false,
            ca: None,
        };
        Client::new(&connect, &self.world.dir.join("config.toml")).unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
