//! A second replica beside a world's service.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::world::{OwnWorld, free_port};

/// The same database, issuers and clients; its own addresses and token directory.
pub struct Second {
    config: PathBuf,
    environment: Vec<(String, String)>,
    pub url: String,
    pub operations: String,
    process: Child,
}

impl Second {
    /// Started, with these variables in its environment.
    pub fn start(own: &OwnWorld, environment: &[(&str, &str)]) -> Self {
        let dir = &own.world.dir;
        let copied = Command::new("cp")
            .arg("-r")
            .arg(dir.join("softhsm/tokens"))
            .arg(dir.join("softhsm/tokens-2"))
            .status()
            .unwrap();
        assert!(copied.success());
        let conf = std::fs::read_to_string(dir.join("softhsm/softhsm2.conf")).unwrap();
        let conf_2 = dir.join("softhsm/softhsm2-2.conf");
        std::fs::write(&conf_2, conf.replace("softhsm/tokens", "softhsm/tokens-2")).unwrap();
        let text = std::fs::read_to_string(dir.join("config.toml")).unwrap();
        let mut config: toml::Table = text.parse().unwrap();
        let (api, operations) = (free_port(), free_port());
        config["http"]["listen"] = format!("127.0.0.1:{api}").into();
        config["operations"]["listen"] = format!("127.0.0.1:{operations}").into();
        config["repository"]["listen"] = format!("127.0.0.1:{}", free_port()).into();
        let journal = dir.join("journal-2");
        std::fs::create_dir(&journal).unwrap();
        config["audit"]["journal"]["directory"] = journal.to_str().unwrap().into();
        config["hsm"][0]["environment"]["SOFTHSM2_CONF"] = conf_2.to_str().unwrap().into();
        config["issuance"]
            .as_table_mut()
            .unwrap()
            .insert("instance".into(), 2.into());
        let path = dir.join("config-2.toml");
        std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let environment: Vec<(String, String)> = environment
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let process = spawn(&path, dir, &environment);
        Self {
            config: path,
            environment,
            url: format!("https://127.0.0.1:{api}"),
            operations: format!("http://127.0.0.1:{operations}"),
            process,
        }
    }

    pub fn kill_and_start(&mut self, own: &OwnWorld) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(&self.config, &own.world.dir, &self.environment);
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(config: &Path, dir: &Path, environment: &[(String, String)]) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log/certfactory-2.log"))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_certfactory"))
        .args(["serve", "--config"])
        .arg(config)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
