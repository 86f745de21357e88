//! `jitp lint`

use anyhow::anyhow;
use clap::Args;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::jitp::ProfileText;
use crate::cli::jitp::Source;
use crate::cli::jitp::read_text;
use crate::pki::jitp::Finding;
use crate::pki::jitp::JitpTemplate;
use crate::pki::profile::SubjectRules;

/// `jitp lint`
#[derive(Args)]
pub struct LintArguments {
    #[command(flatten)]
    source: Source,
}

/// Prints the report. Exit code 4 when it has an error; warnings alone are no failure.
pub fn run(global: &Global, arguments: &LintArguments) -> Outcome {
    let Source { template, profile } = &arguments.source;
    let profile = profile.as_deref();
    let profile = profile
        .map(|given| ProfileText::read(global, given))
        .transpose()?;
    let own = || profile.as_ref().and_then(ProfileText::template_path);
    let path = template.clone().or_else(own);
    let path = path.ok_or_else(|| {
        let missing = anyhow!("the profile names no template");
        Failure::new(Failure::NOT_FOUND, missing)
    })?;
    let (parsed, mut report) = JitpTemplate::lint(&read_text(&path)?);
    if let (Some(profile), Some(template)) = (&profile, &parsed) {
        let rules = SubjectRules::parse(&profile.name, &profile.toml);
        let rules = rules.map_err(|faults| profile.refused(&faults))?;
        report.extend(rules.lint(template));
    }
    if global.json {
        crate::cli::print_json(&report)?;
    } else {
        print("error", &report.errors);
        print("warning", &report.warnings);
    }
    let (errors, warnings) = (report.errors.len(), report.warnings.len());
    let summary = format!("{}: errors {errors}, warnings {warnings}", path.display());
    if errors > 0 {
        return Err(Failure::new(Failure::REFUSED, anyhow!(summary)));
    }
    eprintln!("{summary}");
    Ok(())
}

fn print(level: &str, findings: &[Finding]) {
    for finding in findings {
        println!("{level}: {finding}");
    }
}
