//! The unit: how much of the system it leaves to a service that was taken over.

use std::fs;
use std::process::Command;

use crate::{finish, ok, source};

const UNIT: &str = include_str!("../../deploy/systemd/certfactory.service");

/// The value of a setting that is there once.
fn setting(name: &str) -> &str {
    let mut values = UNIT
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = values
        .next()
        .unwrap_or_else(|| panic!("{name} is not there"));
    assert_eq!(values.next(), None, "{name} is there twice");
    value
}

#[test]
fn the_units_exposure_is_at_most_2_5_also_with_an_hsm_in_a_usb_port() {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("etc/systemd/system");
    let drop_ins = units.join("certfactory.service.d");
    fs::create_dir_all(&drop_ins).unwrap();
    fs::create_dir_all(root.path().join("usr/bin")).unwrap();
    fs::write(units.join("certfactory.service"), UNIT).unwrap();
    let exposure = || {
        let output = finish(
            Command::new("systemd-analyze")
                .args(["security", "--offline=true", "--threshold=25", "--no-pager"])
                .arg(format!("--root={}", root.path().display()))
                .arg("certfactory.service"),
        );
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{output:?}");
        let (_, level) = said.rsplit_once("certfactory.service: ").unwrap();
        level
            .split_whitespace()
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    let without = exposure();
    fs::copy(
        source("deploy/systemd/usb-hsm.conf"),
        drop_ins.join("usb-hsm.conf"),
    )
    .unwrap();
    let with = exposure();
    assert!(
        without < with && with <= 2.5,
        "{without} without the drop-in, {with} with it"
    );
    // What the threshold stands for: a unit without a sandbox is refused.
    fs::write(
        units.join("certfactory.service"),
        "[Service]\nExecStart=/bin/true\n",
    )
    .unwrap();
    fs::remove_file(drop_ins.join("usb-hsm.conf")).unwrap();
    let open = finish(
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=25", "--no-pager"])
            .arg(format!("--root={}", root.path().display()))
            .arg("certfactory.service"),
    );
    assert!(!open.status.success(), "{open:?}");
}

#[test]
fn the_unit_keeps_memory_to_itself_and_runs_as_nobody_special() {
    assert_eq!(setting("LimitCORE"), "0");
    assert_eq!(setting("MemorySwapMax"), "0");
    assert_eq!(setting("LimitMEMLOCK"), "infinity");
    assert_eq!(setting("User"), "certfactory");
    assert_eq!(setting("CapabilityBoundingSet"), "");
}

#[test]
fn the_unit_runs_a_command_that_there_is_on_the_configuration_that_the_package_brings() {
    let command = setting("ExecStart")
        .strip_prefix("/usr/bin/certfactory ")
        .unwrap();
    let help = ok(Command::new(env!("CARGO_BIN_EXE_certfactory"))
        .args(command.split(' '))
        .arg("--help"));
    assert!(help.contains("/etc/certfactory/config.toml"), "{help}");
    // What the unit hands over is what the configuration names.
    let (name, file) = setting("LoadCredential").split_once(':').unwrap();
    assert_eq!(file, format!("/etc/certfactory/credentials/{name}"));
    let configuration = include_str!("../../deploy/debian/config.toml");
    let pin_file = format!("pin_file = \"${{CREDENTIALS_DIRECTORY}}/{name}\"");
    assert!(configuration.contains(&pin_file));
}

#[test]
fn the_socket_is_sound_and_at_the_address_of_the_configuration_that_the_package_brings() {
    let root = tempfile::tempdir().unwrap();
    let socket = include_str!("../../deploy/systemd/certfactory.socket");
    let binary = env!("CARGO_BIN_EXE_certfactory");
    for (name, text) in [
        ("certfactory.socket", socket),
        ("certfactory.service", UNIT),
    ] {
        let text = text.replace("/usr/bin/certfactory ", &format!("{binary} "));
        fs::write(root.path().join(name), text).unwrap();
    }
    let output = finish(
        Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(root.path().join("certfactory.socket")),
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("certfactory.socket"), "{said}");
    let mut addresses = socket
        .lines()
        .filter_map(|line| line.strip_prefix("ListenStream="));
    let address = addresses.next().unwrap();
    assert_eq!(addresses.next(), None);
    let configuration = include_str!("../../deploy/debian/config.toml");
    let configuration: toml::Table = configuration.parse().unwrap();
    assert_eq!(configuration["http"]["listen"].as_str(), Some(address));
}

#[test]
fn the_backup_units_are_sound_and_their_command_is_one_that_there_is() {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("units");
    fs::create_dir(&units).unwrap();
    let binary = env!("CARGO_BIN_EXE_certfactory");
    for name in ["certfactory-backup.service", "certfactory-backup.timer"] {
        let text = fs::read_to_string(source(&format!("deploy/systemd/{name}"))).unwrap();
        fs::write(
            units.join(name),
            text.replace("/usr/bin/certfactory ", &format!("{binary} ")),
        )
        .unwrap();
    }
    let verify = |name: &str| {
        let output = finish(
            Command::new("systemd-analyze")
                .arg("verify")
                .arg("--man=no")
                .arg(units.join(name)),
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let own = said
            .lines()
            .filter(|line| line.contains("certfactory-backup"));
        (
            output.status.success(),
            own.map(str::to_owned).collect::<Vec<_>>(),
        )
    };
    assert_eq!(verify("certfactory-backup.service"), (true, Vec::new()));
    assert_eq!(verify("certfactory-backup.timer"), (true, Vec::new()));
    // What the shell makes of the command: one directory that bears the time.
    let text = fs::read_to_string(source("deploy/systemd/certfactory-backup.service")).unwrap();
    let command = text
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/bin/sh -c '"))
        .unwrap();
    let command = command
        .strip_suffix('\'')
        .unwrap()
        .replace("$$", "$")
        .replace("%%", "%");
    let command = command.replace("exec /usr/bin/certfactory", "echo");
    let output = finish(Command::new("/bin/sh").args(["-c", &command]));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (words, directory) = said.trim().split_once(' ').unwrap();
    assert_eq!(words, "backup");
    assert!(
        directory.starts_with("/var/backups/certfactory/20") && directory.ends_with('Z'),
        "{said}"
    );
    assert!(ok(Command::new(binary).args(["backup", "--help"])).contains("<DIRECTORY>"));
}
