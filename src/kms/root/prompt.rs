//! Asking for a passphrase on the terminal, without showing it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use super::RootError;
use crate::secret::Secret;

const TERMINAL: &str = "/dev/tty";

/// Asks once; twice for a new one.
pub(super) fn ask(is_new: bool, bytes_max: usize) -> Result<Secret, RootError> {
    let first = ask_once("Passphrase of the root key: ", bytes_max)?;
    if is_new && ask_once("The same again, for it is new: ", bytes_max)? != first {
        return Err(RootError::PassphrasesDiffer);
    }
    Ok(first)
}

fn ask_once(question: &str, bytes_max: usize) -> Result<Secret, RootError> {
    let terminal =
        OpenOptions::new().read(true).write(true).open(TERMINAL).map_err(RootError::NoTerminal)?;
    // Before the question, so that an answer that comes at once is not shown either.
    let silent = Silent::new(&terminal).map_err(RootError::NoTerminal)?;
    (&terminal).write_all(question.as_bytes()).map_err(RootError::NoTerminal)?;
    let line = read_line(&terminal, silent.interrupt(), bytes_max);
    drop(silent);
    let _ = (&terminal).write_all(b"\n");
    line.map_err(RootError::NoTerminal)?.ok_or(RootError::NoAnswer)
}

/// None if the terminal was left without an answer.
fn read_line(mut terminal: &File, interrupt: u8, bytes_max: usize) -> io::Result<Option<Secret>> {
    let mut line = Secret::zeroed(bytes_max);
    let mut length = 0;
    while length < bytes_max {
        match terminal.read(&mut line.expose_mut()[length..=length]) {
            Ok(0) if length == 0 => return Ok(None),
            Ok(0) => break,
            Ok(_) if line.expose()[length] == interrupt => return Ok(None),
            Ok(_) if line.expose()[length] == b'\n' => break,
            Ok(_) => length += 1,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Secret::from_fn(length, |exact| exact.copy_from_slice(&line.expose()[..length]))))
}

/// The terminal shows nothing of what is typed while this lives. The key that interrupts (Ctrl-C)
/// ends the line instead: a signal would leave the terminal silent, or not end the question.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        let interrupt = before.special_codes[SpecialCodeIndex::VINTR];
        silent.special_codes[SpecialCodeIndex::VEOL] = interrupt;
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }

    /// What the key that interrupts sends.
    fn interrupt(&self) -> u8 {
        self.before.special_codes[SpecialCodeIndex::VINTR]
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody to tell.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}
