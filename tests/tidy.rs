//! The house rules, as tests: who may import whom, how long things may get, what may not stand
//! in the text. Each rule also has a bad snippet of its own that it must catch.
//!
//! A fault says where it is and what to do. If a rule is wrong for a good reason, change the
//! rule and its lists here, in the open; there is no way to switch it off for one place.

#[path = "tidy/bad_examples.rs"]
mod bad_examples;
#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/source.rs"]
mod source;

use std::fmt;
use std::path::Path;

use source::{Source, numbered};

/// A module imports from lower ranks or from its own folder, never sideways or up.
const RANKS: [&[&str]; 8] = [
    &["units", "secret", "limits", "clock", "metrics"],
    &["crypto", "storage", "catalog", "config"],
    &["luks2", "ram", "token", "trail"],
    &["layer", "kms"],
    &["disk"],
    &["nbd", "api"],
    &["daemon"],
    &["cli", "main"],
];

/// Imports that the ranks forbid and that we allow, each with its reason.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    ("secret", "clock", "a new secret is filled by the Entropy trait"),
    ("main", "cli", "the program is its command line"),
];

/// What must stay strangers whatever the ranks say, and the reason.
const REFUSALS: [(&str, &str, &str); 3] = [
    ("layer", "kms", "a layer is handed its data key and keeps an opaque envelope"),
    ("disk", "nbd", "NBD's flags and errno values end at rank 5"),
    ("kms", "disk", "for a key, a resource is a name"),
];

/// The only files with `unsafe` in them, each block with its bound in a SAFETY note.
const UNSAFE_FILES: [&str; 14] = [
    "src/secret.rs",
    "src/crypto/stack.rs",
    "src/crypto/xts_awslc.rs",
    "src/crypto/xts_vaes.rs",
    "src/crypto/xts_vaes_rounds.rs",
    "src/storage/lock.rs",
    "src/storage/region.rs",
    "src/storage/sigbus.rs",
    "src/storage/window.rs",
    "benches/io_models/uring_memory.rs",
    "benches/io_models/uring_model.rs",
    "tests/kryoptic/src/lib.rs",
    "tests/token-proxy/src/calls.rs",
    "tests/token-proxy/src/lib.rs",
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] =
    ["utils", "util", "common", "types", "prelude", "helpers", "helper", "misc"];

/// Time and randomness come in through `clock.rs`, so that tests can drive both.
const WORLD: [&str; 11] = [
    "SystemTime::now",
    "Instant::now",
    "OffsetDateTime::now",
    "Uuid::new_v4",
    "Uuid::now_v7",
    "rand::rng",
    "rand::random",
    "thread_rng",
    "OsRng",
    "SystemRandom",
    "getrandom",
];
const WORLD_FILE: &str = "src/clock.rs";

/// Text that belongs to one machine or to the words we do not use, and what to write instead.
/// Split in two so that this file does not trip over itself.
const DENIED: [(&str, &str, &str); 8] = [
    ("/wo", "rk/", "a path of one machine: use a relative or a temporary one"),
    ("/ro", "ot/", "a path of one machine: use a relative or a temporary one"),
    ("deb.deb", "ian.org", "name the package, not the host it comes from"),
    ("static.cra", "tes.io", "name the crate, not the host it comes from"),
    ("index.cra", "tes.io", "name the crate, not the host it comes from"),
    ("py", "pi.org", "name the package, not the host it comes from"),
    ("session", " handle", "our words are connection and attachment"),
    ("master", " key", "our words are root key, KMS key and data key"),
];

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_WIDTH: usize = 100;
/// A word this long (a link, a test vector) cannot be broken, so its line may be as long.
const UNBREAKABLE: usize = 80;

struct Fault {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

// --- text ------------------------------------------------------------------------------

fn lines_fit(path: &str, text: &str) -> Vec<Fault> {
    let is_code = [".rs", ".sh"].iter().any(|ending| path.ends_with(ending));
    if !is_code && !path.starts_with("tools/") {
        return Vec::new();
    }
    numbered(text)
        .filter(|(_, line)| line.chars().count() > MAX_WIDTH)
        .filter(|(_, line)| line.split_whitespace().all(|word| word.len() < UNBREAKABLE))
        .map(|(number, line)| {
            let what = format!("{} columns, {MAX_WIDTH} at most", line.chars().count());
            Fault { path: path.to_owned(), line: number, what }
        })
        .collect()
}

fn nothing_is_put_off(path: &str, text: &str) -> Vec<Fault> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let is_mark = |word: &str| marks.contains(&word);
    numbered(text)
        .filter(|(_, line)| line.split(|c: char| !c.is_ascii_alphanumeric()).any(is_mark))
        .map(|(line, _)| {
            let what = "a mark for later: do it now, or write down what holds as it is".to_owned();
            Fault { path: path.to_owned(), line, what }
        })
        .collect()
}

fn text_is_of_the_product(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (line, words) in numbered(text) {
        for (head, tail, instead) in DENIED {
            let denied = format!("{head}{tail}");
            if words.contains(&denied) {
                let what = format!("`{denied}`: {instead}");
                faults.push(Fault { path: path.to_owned(), line, what });
            }
        }
    }
    faults
}

// --- the walk --------------------------------------------------------------------------

const TEXT_PLACES: [&str; 12] = [
    "src",
    "tests",
    "benches",
    "tools",
    "docs",
    "config",
    "fuzz",
    ".ci",
    "README.md",
    "Cargo.toml",
    "deny.toml",
    "CHANGELOG.md",
];
const TEXT_ENDINGS: [&str; 8] = ["rs", "sh", "md", "toml", "yaml", "yml", "txt", "py"];

fn collect(root: &Path, place: &Path, found: &mut Vec<(String, String)>) {
    if place.is_dir() {
        let entries = std::fs::read_dir(place).expect("a folder that exists can be listed");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("listed").path()).collect();
        paths.sort();
        let is_build = |path: &Path| path.ends_with("target");
        paths.iter().filter(|path| !is_build(path)).for_each(|path| collect(root, path, found));
        return;
    }
    let ending = place.extension().map(|ending| ending.to_string_lossy().into_owned());
    // Our scripts have no ending.
    if ending.is_some_and(|ending| !TEXT_ENDINGS.contains(&ending.as_str())) {
        return;
    }
    let Ok(text) = std::fs::read_to_string(place) else { return };
    let path = place.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
    found.push((path, text));
}

fn all_texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    TEXT_PLACES.iter().for_each(|place| collect(root, &root.join(place), &mut found));
    assert!(found.iter().any(|(path, _)| path == "src/lib.rs"), "the walk found nothing");
    found
}

fn all_sources() -> Vec<Source> {
    let rust = |(path, _): &(String, String)| path.ends_with(".rs");
    all_texts().iter().filter(|file| rust(file)).map(|(p, text)| Source::new(p, text)).collect()
}

fn check_sources(rule: fn(&Source) -> Vec<Fault>) {
    conclude(&all_sources().iter().flat_map(rule).collect::<Vec<_>>());
}

fn check_product(rule: fn(&Source) -> Vec<Fault>) {
    let sources = all_sources();
    conclude(
        &sources.iter().filter(|s| s.path.starts_with("src/")).flat_map(rule).collect::<Vec<_>>(),
    );
}

fn check_texts(rule: fn(&str, &str) -> Vec<Fault>) {
    conclude(&all_texts().iter().flat_map(|(path, text)| rule(path, text)).collect::<Vec<_>>());
}

fn conclude(faults: &[Fault]) {
    let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
    assert!(lines.is_empty(), "{} faults\n{}\n", lines.len(), lines.join("\n"));
}

mod house {
    use super::{check_product, check_sources, check_texts, code, imports};

    macro_rules! rules {
        ($($check:ident: $($from:ident::$rule:ident)+;)+) => {
            $($(#[test] fn $rule() { $check($from::$rule); })+)+
        };
    }

    use super as text;
    rules! {
        check_product: imports::imports_keep_rank code::files_are_short code::functions_are_short
            code::unsafe_is_rare_and_reasoned code::the_world_comes_through_clock;
        check_sources: code::files_say_what_they_are code::names_say_something;
        check_texts: text::lines_fit text::nothing_is_put_off text::text_is_of_the_product;
    }
}
