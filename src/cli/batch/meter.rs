//! Progress on standard error: a bar on a terminal, else a line now and then.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how far something is. It clears the terminal behind it.
pub struct Meter {
    bar: ProgressBar,
    next_line: Instant,
}

impl Meter {
    /// Counts devices.
    pub fn devices() -> anyhow::Result<Self> {
        Self::new("{wide_bar} {human_pos}/{human_len} {msg}")
    }

    /// Counts octets.
    pub fn octets() -> anyhow::Result<Self> {
        Self::new(
            "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta_precise}",
        )
    }

    fn new(template: &str) -> anyhow::Result<Self> {
        let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(template)?);
        Ok(Self {
            bar,
            next_line: Instant::now(),
        })
    }

    /// Where counting starts: what is there already says nothing about the rate.
    pub fn start_at(&self, position: u64) {
        self.bar.set_position(position);
        self.bar.reset_eta();
    }

    /// So far of that many; `message` beside the bar, `line` where there is none.
    pub fn show(
        &mut self,
        position: u64,
        length: u64,
        message: impl FnOnce() -> String,
        line: impl FnOnce() -> String,
    ) {
        if !self.bar.is_hidden() {
            self.bar.set_length(length);
            self.bar.set_position(position);
            self.bar.set_message(message());
        } else if Instant::now() >= self.next_line {
            eprintln!("{}", line());
            self.next_line = Instant::now() + LINE_EVERY;
        }
    }

    /// Says something above the bar.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
