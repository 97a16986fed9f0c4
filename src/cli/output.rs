//! The only place that prints: tables for people, JSON for programs, failures for both.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;

use super::failure::Failure;
use crate::clock::Timestamp;

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Aligned columns.
    #[default]
    Table,
    /// The API's field names.
    Json,
}

/// Standard output and error, as the user wants them.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    form: Form,
    has_colour: bool,
}

/// What a cell says beyond its text; shown as colour on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// In use, enabled.
    Good,
    /// Wants attention.
    Doubtful,
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

/// Columns with a heading, and rows of as many cells.
#[derive(Clone, Debug, Default)]
pub struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

impl Cell {
    /// A status of disk or key; its colour tells what it means.
    pub fn status(text: &str) -> Self {
        let tone = match text {
            "In_use" | "Enabled" | "Active" | "accomplished" | "done" => Tone::Good,
            "Disabled" | "Inactive" | "PendingDeletion" | "PendingImport" | "Creating"
            | "CreateFailed" | "failed" | "paused" | "progressing" => Tone::Doubtful,
            _ => Tone::Plain,
        };
        Self { text: text.to_owned(), tone }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl Table {
    /// A table without rows.
    pub const fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text: columns two blanks apart, none after the last.
    pub fn render(&self, has_colour: bool) -> String {
        let headings: Vec<Cell> = self.headings.iter().map(|text| Cell::from(*text)).collect();
        let all: Vec<&Vec<Cell>> = std::iter::once(&headings).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..headings.len())
            .map(|column| all.iter().filter_map(|row| row.get(column)).map(Cell::width).max())
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for (number, row) in all.into_iter().enumerate() {
            let mut line = String::new();
            let mut pending = 0;
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&" ".repeat(pending));
                line.push_str(&paint(cell, number == 0, has_colour));
                pending = width - cell.width() + 2;
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn paint(cell: &Cell, is_heading: bool, has_colour: bool) -> String {
    let code = match (is_heading, cell.tone) {
        _ if !has_colour => return cell.text.clone(),
        (true, _) => "1",
        (false, Tone::Plain) => return cell.text.clone(),
        (false, Tone::Good) => "32",
        (false, Tone::Doubtful) => "33",
    };
    format!("\x1b[{code}m{}\x1b[0m", cell.text)
}

/// `Name  value` lines, the names as wide as the widest.
pub fn render_fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let line = |(name, value): &(&str, String)| {
        let value = if value.is_empty() { "-" } else { value.as_str() };
        format!("{name:width$}  {value}\n")
    };
    fields.iter().map(line).collect()
}

impl Output {
    /// Colour only where a person looks, and not against their wish (`NO_COLOR`).
    pub fn new(form: Form) -> Self {
        let has_colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { form, has_colour }
    }

    /// Writes `json`, or what `text` makes for people.
    pub fn answer(&self, json: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.form {
            Form::Json => self.print(&format!("{json:#}\n")),
            Form::Table => self.print(&text()),
        }
    }

    /// As [`Output::answer`] with a table; `when_empty` is told instead of a table without rows.
    pub fn list(&self, json: &Value, table: &Table, when_empty: &str) -> Result<(), Failure> {
        if self.form == Form::Table && table.rows.is_empty() {
            return self.note(when_empty);
        }
        self.answer(json, || table.render(self.has_colour))
    }

    /// Whether people read the answer.
    pub fn is_for_people(&self) -> bool {
        self.form == Form::Table
    }

    /// Writes `text` as it is.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// Writes bytes that are no text.
    pub fn print_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// Tells a person something beside the answer, on standard error.
    pub fn note(&self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(io::stderr().lock(), "{text}")?)
    }

    /// Shows how far something is, on the line of the one before; on a terminal alone.
    pub fn progress(&self, line: &str) -> Result<(), Failure> {
        let mut stderr = io::stderr().lock();
        if !stderr.is_terminal() {
            return Ok(());
        }
        write!(stderr, "\r{line}\x1b[K")?;
        Ok(stderr.flush()?)
    }

    /// What follows begins on a line of its own.
    pub fn end_progress(&self) -> Result<(), Failure> {
        let mut stderr = io::stderr().lock();
        if stderr.is_terminal() { Ok(writeln!(stderr)?) } else { Ok(()) }
    }

    /// `text` in bold and yellow, on a terminal.
    pub fn warning(&self, text: &str) -> String {
        if self.has_colour { format!("\x1b[1;33m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Tells why a command failed. If that cannot be told either, the exit code still does.
    pub fn failure(&self, failure: &Failure) {
        if !failure.is_silent {
            let _ = writeln!(io::stderr().lock(), "{failure}");
        }
    }

    /// Asks a question that only `y` or `yes` agrees to.
    ///
    /// # Errors
    /// Without a terminal there is nobody to ask: `--yes` must say it.
    pub fn confirm(&self, question: &str) -> Result<(), Failure> {
        let declined = || Failure::new("nothing was done");
        if !io::stdin().is_terminal() {
            let hint = "there is no terminal to ask on; say --yes if you mean it";
            return Err(declined().hint(hint));
        }
        let mut stderr = io::stderr().lock();
        write!(stderr, "{question} [y/N] ")?;
        stderr.flush()?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        let said = line.trim();
        if said.eq_ignore_ascii_case("y") || said.eq_ignore_ascii_case("yes") {
            return Ok(());
        }
        Err(declined())
    }
}

/// `10 GiB`, `1.5 TiB`, `512 MiB`: at most one decimal, exact where it can be.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = |(_, shift): &(&str, u32)| bytes >> shift > 0;
    let Some((unit, shift)) = UNITS.into_iter().find(fits) else {
        return format!("{bytes} B");
    };
    let whole = bytes >> shift;
    // Rounded down: a disk is never shown larger than it is.
    let tenths = ((bytes - (whole << shift)) as u128 * 10) >> shift;
    match tenths {
        0 => format!("{whole} {unit}"),
        tenths => format!("{whole}.{tenths} {unit}"),
    }
}

/// `12s ago`, `5m ago`, `3h ago`, `8d ago`; the moment itself if it is not in the past.
pub fn human_age(moment: &str, now: Timestamp) -> String {
    let Some(at) = Timestamp::parse(moment) else { return moment.to_owned() };
    let millis = now.unix_millis().saturating_sub(at.unix_millis());
    let Ok(millis) = u64::try_from(millis) else { return moment.to_owned() };
    match Duration::from_millis(millis).as_secs() {
        seconds @ ..60 => format!("{seconds}s ago"),
        seconds @ 60..3600 => format!("{}m ago", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h ago", seconds / 3600),
        seconds => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks() -> Table {
        let mut table = Table::new(&["DISK ID", "NAME", "STATUS"]);
        table.row(["d-1".into(), "db".into(), Cell::status("In_use")]);
        table.row(["d-long".into(), "ü".into(), Cell::status("Available")]);
        table
    }

    #[test]
    fn columns_are_aligned_and_lines_do_not_end_in_blanks() {
        assert_eq!(
            disks().render(false),
            "DISK ID  NAME  STATUS\n\
             d-1      db    In_use\n\
             d-long   ü     Available\n"
        );
    }

    #[test]
    fn colour_does_not_move_columns() {
        let painted = disks().render(true);
        assert!(painted.contains("d-1      db    \x1b[32mIn_use\x1b[0m\n"), "{painted}");
        assert!(painted.starts_with("\x1b[1mDISK ID\x1b[0m  "), "{painted}");
    }

    #[test]
    fn fields_are_aligned_and_never_blank() {
        let fields = [("Size", "10 GiB".to_owned()), ("KMS key", String::new())];
        assert_eq!(render_fields(&fields), "Size     10 GiB\nKMS key  -\n");
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (4096, "4 KiB"),
            (10 << 30, "10 GiB"),
            (3 << 39, "1.5 TiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn ages_for_people() {
        let now = Timestamp::parse("2026-01-05T03:04:05Z").unwrap();
        for (moment, text) in [
            ("2026-01-05T03:04:05Z", "0s ago"),
            ("2026-01-05T03:02:05Z", "2m ago"),
            ("2026-01-04T03:04:05Z", "1d ago"),
            ("2026-01-05T03:04:06Z", "2026-01-05T03:04:06Z"),
            ("", ""),
        ] {
            assert_eq!(human_age(moment, now), text);
        }
    }
}
