//! A process of its own for each test, with a `SoftHSM` token of its own and, if wanted, faults.
//!
//! A module reads its environment when it is loaded and counts as initialised for the whole process;
//! so each test runs the test binary again, for itself alone, with the environment it needs.

use std::os::unix::process::ExitStatusExt;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use certfactory::ca::{Signer, SignerFault};
use certfactory::hsm::ceremony::{KeyCeremony, init_token};
use certfactory::hsm::{HUNG_AFTER_MS, Hsm, KeyConfig, TokenConfig};
use certfactory::metrics::HsmMetrics;
use certfactory::pki::key_policy::{KeyAlgorithm, SignatureAlgorithm};

const DIRECTORY: &str = "CERTFACTORY_TEST_HSM_DIRECTORY";
pub const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub const P11_KIT_CLIENT: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
pub const PIN: &str = "certfactory-test";

/// No test takes so long.
const IT_HANGS: Duration = Duration::from_mins(2);

/// What a test works in.
pub struct World {
    pub directory: PathBuf,
    pub metrics: Arc<HsmMetrics>,
}

/// Runs `body` in a process of its own. `name` is the test's own name.
pub fn in_own_process<F: Future<Output = ()>>(name: &str, body: impl FnOnce(World) -> F) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let metrics = Arc::new(HsmMetrics::new(&prometheus::Registry::new()).unwrap());
        let world = World {
            directory: directory.into(),
            metrics,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(body(world));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::create_dir(path.join("tokens")).unwrap();
    fs::write(
        path.join("softhsm2.conf"),
        format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            path.join("tokens").display()
        ),
    )
    .unwrap();
    fs::write(path.join("control"), "").unwrap();
    let said = fs::File::create(path.join("said")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, path)
        .env("SOFTHSM2_CONF", path.join("softhsm2.conf"))
        .env("FAULT_MODULE_TARGET", SOFTHSM)
        .env("FAULT_MODULE_CONTROL", path.join("control"))
        .env("FAULT_MODULE_COUNTS", path.join("counts"))
        .env(
            "P11_KIT_SERVER_ADDRESS",
            format!("unix:path={}", path.join("p11-kit").display()),
        )
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > IT_HANGS {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = String::from_utf8_lossy(&fs::read(path.join("said")).unwrap()).into_owned();
    let Some(status) = status else {
        panic!("{name} has not ended after {IT_HANGS:?}: {text}");
    };
    // SoftHSM's exit handler may crash when all is done.
    let crashed_at_exit = status.signal().is_some() && text.contains("test result: ok. 1 passed");
    assert!(status.success() || crashed_at_exit, "{text}");
    assert!(
        text.contains("1 passed"),
        "no test is called {name}: {text}"
    );
}

impl World {
    /// A token in `SoftHSM`, made through `module`, with keys of these labels.
    #[allow(clippy::unused_self, reason = "a token is part of a world")]
    pub fn token(&self, module: &Path, keys: &[(&str, KeyAlgorithm)]) -> TokenConfig {
        let label = format!("test-{}", keys[0].0);
        init_token(module, &label, &"so-pin-of-test".into(), &PIN.into()).unwrap();
        let mut config = TokenConfig {
            name: "test".to_owned(),
            module: module.to_owned(),
            token_label: label,
            token_serial: None,
            pin: PIN.into(),
            sessions: 2,
            queue_depth_max: 256,
            hung_after_ms: HUNG_AFTER_MS,
            recover_module: true,
            keys: Vec::new(),
        };
        let ceremony = KeyCeremony::open(&config).unwrap();
        for (id, (label, algorithm)) in keys.iter().enumerate() {
            config.keys.push(KeyConfig {
                issuer: format!("issuer-{label}"),
                label: (*label).to_owned(),
                id: None,
                spki_der: ceremony
                    .generate(label, &[1, u8::try_from(id).unwrap()], *algorithm)
                    .unwrap(),
                algorithm: match algorithm {
                    KeyAlgorithm::P256 | KeyAlgorithm::P384 => SignatureAlgorithm::EcdsaWithSha256,
                    _ => SignatureAlgorithm::Sha256WithRsa,
                },
            });
        }
        config
    }

    /// A running adapter.
    pub async fn hsm(&self, config: &TokenConfig) -> Arc<Hsm> {
        let hsm = Hsm::start(vec![config.clone()], &self.metrics);
        hsm.wait_ready(Duration::from_secs(5)).await.unwrap();
        hsm
    }

    /// Tells the fault module what to do.
    pub fn control(&self, words: &str) {
        let new = self.directory.join("control.new");
        fs::write(&new, words).unwrap();
        fs::rename(new, self.directory.join("control")).unwrap();
    }

    /// Calls of `C_Sign` or `C_Login` so far.
    pub fn count(&self, what: &str) -> u64 {
        let text = fs::read_to_string(self.directory.join("counts")).unwrap_or_default();
        let count = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix(what)?.strip_prefix('='));
        count.map_or(0, |count| count.parse().unwrap())
    }

    /// Recoveries of that level so far.
    pub fn reopens(&self, level: &str) -> u64 {
        self.metrics.reopens.with_label_values(&[level]).get()
    }

    /// Hides the token directory, or brings it back.
    pub fn tokens_away(&self, away: bool) {
        let (here, there) = (
            self.directory.join("tokens"),
            self.directory.join("tokens.away"),
        );
        if away {
            fs::rename(here, there).unwrap();
        } else {
            // SoftHSM may have made itself a new, empty one
            let _ = fs::remove_dir_all(&here);
            fs::rename(there, here).unwrap();
        }
    }
}

/// One challenge within two seconds.
pub async fn sign(hsm: &Hsm, issuer: &str) -> Result<(), SignerFault> {
    hsm.challenge(issuer, Instant::now() + Duration::from_secs(2))
        .await
}

/// Waits until the issuer signs; how long it took.
pub async fn until_it_signs(hsm: &Hsm, issuer: &str, patience: Duration) -> Duration {
    let start = Instant::now();
    loop {
        let Err(fault) = sign(hsm, issuer).await else {
            return start.elapsed();
        };
        assert!(
            start.elapsed() < patience,
            "still not signing after {patience:?}: {fault}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the issuer is not ready; why.
pub async fn until_not_ready(hsm: &Hsm, issuer: &str, patience: Duration) -> String {
    let start = Instant::now();
    loop {
        let Ok(()) = hsm.ready(issuer) else {
            return hsm.ready(issuer).unwrap_err();
        };
        assert!(start.elapsed() < patience, "still ready after {patience:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Threads of this process.
pub fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}
