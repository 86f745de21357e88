//! Every command is there and explains itself.

use crate::run;
use crate::support::world::shared;

#[test]
fn every_command_explains_itself() {
    let commands = "serve|dev|migrate|doctor|config check|config show|issuer init|issuer list|issuer show|issuer crl|issuer ocsp-responder|issuer rotate|issuer verification-certificate\
        |cert issue|cert show|cert list|cert confirm|cert supersede|cert scrap|cert revoke|cert history|cert export|cert verify|order create|order devices|order list|order show|order close|order report|order report-key|batch create|batch watch|batch list|batch show|batch download|batch pause|batch resume|batch cancel|batch confirm|station add|station list|station show|station rights|station disable|station enable|station code|station enrol|station renew|station approvals|station approve|station first-administrator|jitp lint|jitp evaluate|jitp kit|jitp rehearse|benchmark line|benchmark hsm|benchmark batch|audit query";
    for command in commands.split('|') {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let help = run(shared(), &arguments).ok().text();
        assert!(
            help.contains(&format!("Usage: certfactory {command}")),
            "{command}: {help}"
        );
        assert!(help.contains("--json"), "{command}: {help}");
    }
}

#[test]
fn a_command_that_does_not_exist_is_a_usage_error() {
    for arguments in [
        &["certify"][..],
        &[],
        &["cert"],
        &["cert", "issue"],
        &["doctor", "--now"],
    ] {
        run(shared(), arguments).fails(2).silent().says("Usage");
    }
}
