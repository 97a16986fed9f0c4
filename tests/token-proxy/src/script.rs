//! The script: which call of which function does what instead of its work.
//!
//! ```text
//! module /usr/lib/softhsm/libsofthsm2.so     the real module; read once, at the first call
//! log                                        each call and its answer goes to NAME.calls
//! sessions 3                                 a fourth open session is CKR_SESSION_COUNT
//! says-sessions 3                            so C_GetTokenInfo says, whatever there are
//! flags +USER_PIN_FINAL_TRY -RNG             of every C_GetTokenInfo
//! own-iv                                     AES-GCM takes no vector but the module's, over zeros
//! read-write-only                            other sessions are CKR_FUNCTION_FAILED
//! read-only                                  other sessions are CKR_TOKEN_WRITE_PROTECTED
//! tells CKA_WRAP true                        of every object; also false, and nothing
//! wrapped-room 8                             C_WrapKey asks for so many bytes more than it writes
//! # anything                                 another text, so another script
//! C_Encrypt 1 return CKR_DEVICE_ERROR        the real module is not called
//! C_Encrypt 2-4 after CKR_DEVICE_ERROR       it is called; where it says CKR_OK, this is said
//! C_Login 2.. hang 30s                       until then, or until the script changes; then it is
//! C_Encrypt * first C_Finalize               also C_CloseAllSessions, C_Logout: behind the back
//! ```
//!
//! Calls are numbered from 1 by function, anew whenever the script's text changes. Of several
//! lines that apply, the first counts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CK_FLAGS, CK_RV, CK_ULONG};

use crate::names;

/// What a call does instead of its work, or before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Answers, without the real module.
    Return(CK_RV),
    /// Answers so after the real module did its work.
    After(CK_RV),
    /// Waits before it works.
    Hang(Duration),
    /// Something else happens before it works.
    First(Behind),
}

/// What can happen behind the caller's back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// `C_Finalize`.
    Finalize,
    /// `C_CloseAllSessions`.
    CloseAllSessions,
    /// `C_Logout`.
    Logout,
}

/// What is told of an attribute, whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// That it is so, or not.
    Value(bool),
    /// CK_UNAVAILABLE_INFORMATION.
    Nothing,
}

#[derive(Debug)]
struct Rule {
    function: String,
    from: u64,
    to: u64,
    deed: Deed,
}

/// A script, and how far it has come.
#[derive(Debug, Default)]
pub struct Script {
    text: String,
    rules: Vec<Rule>,
    calls: HashMap<String, u64>,
    /// The real module.
    pub module: Option<PathBuf>,
    /// Whether calls are written down.
    pub is_logged: bool,
    /// Whether AES-GCM is under vectors of the module's own.
    pub has_own_iv: bool,
    /// Whether all sessions must be able to write.
    pub is_read_write_only: bool,
    /// Whether no session may be able to write.
    pub is_read_only: bool,
    /// What is told of attributes.
    pub told: Vec<(CK_ATTRIBUTE_TYPE, Told)>,
    /// Bytes that C_WrapKey asks for and does not write.
    pub wrapped_room: CK_ULONG,
    /// How many sessions may be open.
    pub sessions: Option<u64>,
    /// How many sessions it says it has.
    pub says_sessions: Option<CK_ULONG>,
    /// Flags of the token that are added, and that are taken away.
    pub flags: (CK_FLAGS, CK_FLAGS),
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The line that is not understood.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut script = Self { text: text.to_owned(), ..Self::default() };
        let is_empty = |line: &str| line.trim().is_empty() || line.starts_with('#');
        for line in text.lines().filter(|line| !is_empty(line)) {
            script.line(line).ok_or_else(|| format!("not understood: {line}"))?;
        }
        Ok(script)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["module", path] => self.module = Some(path.into()),
            ["log"] => self.is_logged = true,
            ["own-iv"] => self.has_own_iv = true,
            ["read-write-only"] => self.is_read_write_only = true,
            ["read-only"] => self.is_read_only = true,
            ["tells", name, what] => {
                let told = match what {
                    "true" => Told::Value(true),
                    "false" => Told::Value(false),
                    "nothing" => Told::Nothing,
                    _ => return None,
                };
                self.told.push((names::attribute(name)?, told));
            }
            ["wrapped-room", bytes] => self.wrapped_room = bytes.parse().ok()?,
            ["sessions", limit] => self.sessions = Some(limit.parse().ok()?),
            ["says-sessions", limit] => self.says_sessions = Some(limit.parse().ok()?),
            ["flags", ref flags @ ..] => {
                for flag in flags {
                    let (sign, name) = flag.split_at_checked(1)?;
                    let bit = names::flag(name)?;
                    match sign {
                        "+" => self.flags.0 |= bit,
                        "-" => self.flags.1 |= bit,
                        _ => return None,
                    }
                }
            }
            [function, when, verb, what] if function.starts_with("C_") => {
                let (from, to) = span(when)?;
                let deed = match verb {
                    "return" => Deed::Return(names::value(what)?),
                    "after" => Deed::After(names::value(what)?),
                    "hang" => {
                        Deed::Hang(Duration::from_secs(what.strip_suffix('s')?.parse().ok()?))
                    }
                    "first" => Deed::First(behind(what)?),
                    _ => return None,
                };
                self.rules.push(Rule { function: function.to_owned(), from, to, deed });
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether `text` is what this script was read from.
    pub fn is(&self, text: &str) -> bool {
        self.text == text
    }

    /// Counts one more call of `function`: what it is to do.
    pub fn next(&mut self, function: &str) -> Option<Deed> {
        let calls = self.calls.entry(function.to_owned()).or_default();
        *calls += 1;
        let applies =
            |rule: &&Rule| rule.function == function && (rule.from..=rule.to).contains(calls);
        self.rules.iter().find(applies).map(|rule| rule.deed)
    }
}

fn span(text: &str) -> Option<(u64, u64)> {
    if text == "*" {
        return Some((1, u64::MAX));
    }
    if let Some(from) = text.strip_suffix("..") {
        return Some((from.parse().ok()?, u64::MAX));
    }
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    Some((from.parse().ok()?, to.parse().ok()?))
}

fn behind(name: &str) -> Option<Behind> {
    match name {
        "C_Finalize" => Some(Behind::Finalize),
        "C_CloseAllSessions" => Some(Behind::CloseAllSessions),
        "C_Logout" => Some(Behind::Logout),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

    use super::*;

    #[test]
    fn the_first_line_that_applies_counts() {
        let text = "module /a.so\nC_Encrypt 2 return CKR_DEVICE_ERROR\nC_Encrypt 2.. hang 3s\n\
                    C_Login * first C_Finalize\nflags +USER_PIN_LOCKED -RNG\n";
        let mut script = Script::read(text).unwrap();
        assert_eq!(script.next("C_Encrypt"), None);
        assert_eq!(script.next("C_Encrypt"), Some(Deed::Return(0x30)));
        assert_eq!(script.next("C_Encrypt"), Some(Deed::Hang(Duration::from_secs(3))));
        assert_eq!(script.next("C_Login"), Some(Deed::First(Behind::Finalize)));
        assert_eq!(script.flags, (0x4_0000, 1));
        assert!(script.is(text) && !script.is(""));
    }

    #[test]
    fn nonsense_is_named() {
        for line in [
            "C_Encrypt 1 return CKR_NONE",
            "C_Encrypt x hang 3s",
            "flags FLAG",
            "tells CKA_ID true",
            "what",
        ] {
            assert!(Script::read(line).unwrap_err().contains(line));
        }
    }
}
