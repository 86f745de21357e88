//! `packaging`: what a package brings besides the binary, made from the command line's own
//! definition: manual pages and completions.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Arguments;
use crate::cli::Outcome;

/// `packaging`
#[derive(Args)]
pub struct PackagingArguments {
    /// Where they go: `man/`, `bash/`, `zsh/`, `fish/`.
    directory: PathBuf,
}

/// Writes them.
pub fn run(arguments: &PackagingArguments) -> Outcome {
    let mut command = Arguments::command();
    let place = |name: &str| -> anyhow::Result<PathBuf> {
        let directory = arguments.directory.join(name);
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        Ok(directory)
    };
    for (shell, name) in [
        (Shell::Bash, "bash"),
        (Shell::Zsh, "zsh"),
        (Shell::Fish, "fish"),
    ] {
        clap_complete::generate_to(shell, &mut command, "certfactory", place(name)?)?;
    }
    command.build();
    Ok(pages(&command, &place("man")?)?)
}

/// A page of the command and one of each below it.
fn pages(command: &clap::Command, directory: &Path) -> std::io::Result<()> {
    let below = command
        .get_subcommands()
        .filter(|it| !it.is_hide_set() && it.get_name() != "help");
    for command in below {
        pages(command, directory)?;
    }
    clap_mangen::Man::new(command.clone()).generate_to(directory)?;
    Ok(())
}
