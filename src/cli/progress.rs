//! A bar that says how far something is, how fast it goes and how long it will take.

use std::time::Duration;

use super::output::human_size;

/// Cells of the bar itself.
const BAR_CELLS: u64 = 24;

/// Time before which speed and end are not guessed.
const GUESS_AFTER: Duration = Duration::from_millis(500);

/// How far something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes done.
    pub(super) done: u64,
    /// Bytes in all; 0 if that is not known.
    pub(super) total: u64,
    /// Time spent on it here.
    pub(super) elapsed: Duration,
    /// Bytes that were done before `elapsed` began to count.
    pub(super) begun_at: u64,
}

impl Progress {
    /// `import [########----------------]  33%  1.2 GiB of 3.6 GiB  310 MiB/s  0:08 left`.
    pub(super) fn line(&self, what: &str) -> String {
        let cells = (self.permille() * BAR_CELLS / 1000) as usize;
        let bar = "#".repeat(cells) + &"-".repeat(BAR_CELLS as usize - cells);
        let percent = self.permille() / 10;
        let (done, total) = (human_size(self.done), human_size(self.total));
        let mut line = format!("{what} [{bar}] {percent:>3}%  {done} of {total}");
        if let Some(speed) = self.bytes_per_second() {
            line.push_str(&format!("  {}/s", human_size(speed)));
            let left = self.total.saturating_sub(self.done);
            if let Some(seconds) = left.checked_div(speed) {
                line.push_str(&format!("  {}:{:02} left", seconds / 60, seconds % 60));
            }
        }
        line
    }

    /// Thousandths done; all of them where there is nothing to do.
    pub(super) fn permille(&self) -> u64 {
        match self.total {
            0 => 1000,
            total => (u128::from(self.done.min(total)) * 1000 / u128::from(total)) as u64,
        }
    }

    /// `None` as long as it would be a guess.
    pub(super) fn bytes_per_second(&self) -> Option<u64> {
        if self.elapsed < GUESS_AFTER {
            return None;
        }
        let bytes = u128::from(self.done.saturating_sub(self.begun_at));
        let speed = bytes * 1000 / self.elapsed.as_millis().max(1);
        u64::try_from(speed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn after(done: u64, total: u64, millis: u64) -> Progress {
        Progress { done, total, elapsed: Duration::from_millis(millis), begun_at: 0 }
    }

    #[test]
    fn a_bar_tells_speed_and_end() {
        assert_eq!(
            after(GIB, 4 * GIB, 4000).line("import"),
            "import [######------------------]  25%  1 GiB of 4 GiB  256 MiB/s  0:12 left"
        );
        assert_eq!(
            after(0, 4 * GIB, 100).line("rekey"),
            "rekey [------------------------]   0%  0 B of 4 GiB",
            "too early to guess"
        );
    }

    #[test]
    fn bars_stay_within_bounds() {
        assert!(after(9, 3, 1000).line("x").contains("[########################] 100%"));
        assert!(after(0, 0, 1000).line("x").contains("100%"));
        assert!(after(0, 5, 1000).line("x").ends_with("0 B/s"), "no end is in sight");
        assert!(after(u64::MAX, u64::MAX, 1000).line("x").contains("100%"));
    }

    #[test]
    fn what_was_done_before_does_not_count_as_speed() {
        let progress = Progress { begun_at: 3 * GIB, ..after(4 * GIB, 8 * GIB, 1000) };
        assert_eq!(progress.bytes_per_second(), Some(GIB));
    }
}
