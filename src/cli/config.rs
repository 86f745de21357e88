//! `config check|show`.

use clap::Subcommand;

use crate::cli::Global;
use crate::cli::Outcome;
use crate::config::Config;
use crate::config::RawConfig;

/// Check or show the configuration.
#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Read the configuration and every file it names; list all faults.
    Check,
    /// Print the configuration in use, defaults and absolute paths included. It holds no secret.
    Show,
}

/// Runs one of them.
pub fn run(global: &Global, command: &ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Check => {
            let config = Config::load(&global.config)?;
            eprintln!(
                "{}: {} issuers, {} profiles, no fault",
                global.config.display(),
                config.issuers.len(),
                config.profiles.len()
            );
        }
        ConfigCommand::Show => {
            let raw = RawConfig::read(&global.config)?;
            if global.json {
                return crate::cli::print_json(&raw);
            }
            print!("{}", toml::to_string_pretty(&raw)?);
        }
    }
    Ok(())
}
