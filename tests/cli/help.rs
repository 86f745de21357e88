//! Every command is there and explains itself.

use crate::run;
use crate::support::world::shared;

/// The commands below one, as its help lists them.
fn below(command: &[String]) -> Vec<String> {
    let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    arguments.push("--help");
    let name = command.join(" ");
    let help = run(shared(), &arguments).ok().text();
    assert!(
        help.contains(format!("Usage: certfactory {name}").trim_end()),
        "{name}: {help}"
    );
    assert!(help.contains("--json"), "{name}: {help}");
    let Some((about, rest)) = help.split_once("\nCommands:\n") else {
        return Vec::new();
    };
    assert!(!about.trim().is_empty(), "{name}: {help}");
    let list = rest.split("\n\n").next().unwrap().lines();
    // A command stands two columns in; what it does may go on in a line of its own.
    let commands = list.filter_map(|line| line.strip_prefix("  "));
    let commands = commands.filter(|line| !line.starts_with(' '));
    let named = commands.map(|line| line.split_once(' ').expect("a word on what it does"));
    let said = named.map(|(name, does)| (name, does.trim()));
    said.inspect(|(name, does)| assert!(!does.is_empty(), "{name}"))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_command_explains_itself() {
    let mut waiting = vec![Vec::new()];
    let mut seen = Vec::new();
    while let Some(command) = waiting.pop() {
        for name in below(&command) {
            let mut longer = command.clone();
            longer.push(name);
            waiting.push(longer);
        }
        seen.push(command.join(" "));
    }
    for known in [
        "serve",
        "cert issue",
        "benchmark line",
        "audit verify",
        "backup",
    ] {
        assert!(seen.iter().any(|it| it == known), "{known}: {seen:?}");
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
