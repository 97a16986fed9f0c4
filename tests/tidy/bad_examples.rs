//! What each rule must catch, and what it must let pass: a rule that cannot fail guards nothing.

use super::code::{
    files_are_short, files_say_what_they_are, functions_are_short, names_say_something,
    the_world_comes_through_clock, unsafe_is_rare_and_reasoned,
};
use super::imports::imports_keep_rank;
use super::source::Source;
use super::{
    DENIED, Fault, MAX_FILE_LINES, MAX_FUNCTION_LINES, lines_fit, nothing_is_put_off,
    text_is_of_the_product,
};

type Rule = fn(&Source) -> Vec<Fault>;

fn lines_caught(rule: Rule, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).iter().map(|fault| fault.line).collect()
}

#[test]
fn imports_up_and_sideways_are_caught_in_every_spelling() {
    let caught = |path: &str, text: &str| lines_caught(imports_keep_rank, path, text);
    assert_eq!(caught("src/storage/file.rs", "use crate::disk::Disk;"), [1], "up");
    assert_eq!(caught("src/storage/mod.rs", "use crate::crypto::xts;"), [1], "sideways");
    let group = "use crate::{\n    units,\n    nbd::{self, request},\n};";
    assert_eq!(caught("src/trail/mod.rs", group), [3], "nested group");
    assert_eq!(caught("src/ram/mod.rs", "use crate::{api as face};"), [1], "renamed in a group");
    assert_eq!(caught("src/luks2/mod.rs", "use crate::layer::*;"), [1], "glob");
    assert_eq!(caught("src/units.rs", "use crate::limits;"), [1], "rank 0 imports nothing");
    let value = "fn f() {\n    let x = crate::daemon::run();\n}";
    assert_eq!(caught("src/nbd/mod.rs", value), [2], "in an expression");
    let kind = "fn f(\n    x: &crate::api::Answer,\n) {}";
    assert_eq!(caught("src/disk/mod.rs", kind), [2], "in a type");
    let relative = "use super::super::cli::Command;";
    assert_eq!(caught("src/disk/write.rs", relative), [1], "by super");
    let inner = "mod inner {\n    use super::super::super::nbd;\n}";
    assert_eq!(caught("src/disk/write.rs", inner), [2], "by super from an inline module");
    let call = "fn f() {\n    format!(\"{}\", g(crate::api::X));\n}";
    assert_eq!(caught("src/disk/write.rs", call), [2], "inside a macro");
    assert_eq!(caught("src/daemon.rs", "pub use crate::cli::Command;"), [1], "re-export");
    assert_eq!(caught("src/novelty/mod.rs", "//! New."), [1], "a module without a rank");
}

#[test]
fn imports_from_below_and_from_the_own_folder_pass() {
    let caught = |path: &str, text: &str| lines_caught(imports_keep_rank, path, text);
    let below = "use crate::layer::Layer;\nuse crate::kms::Kms;\nuse crate::units::Sector;";
    assert!(caught("src/disk/mod.rs", below).is_empty());
    assert!(caught("src/disk/write.rs", "use super::align; use crate::disk::read;").is_empty());
    assert!(caught("src/main.rs", "fn main() { sealdisk::cli::run(); }").is_empty());
    let test = "#[cfg(test)]\nmod tests {\n    use crate::api::Answer;\n}";
    assert!(caught("src/disk/mod.rs", test).is_empty(), "tests may reach further");
}

#[test]
fn the_three_refusals_hold_beside_the_ranks() {
    for (own, other, why) in super::REFUSALS {
        let source = Source::new(&format!("src/{own}/x.rs"), &format!("use crate::{other}::Y;"));
        let faults = imports_keep_rank(&source);
        assert!(faults.len() == 1 && faults[0].what.contains(why), "{own} -> {other}");
    }
}

#[test]
fn long_files_are_caught_and_their_tests_are_not_counted() {
    let long = "const A: u8 = 0;\n".repeat(MAX_FILE_LINES + 1);
    assert_eq!(lines_caught(files_are_short, "src/units.rs", &long), [1]);
    let fits = "const A: u8 = 0;\n".repeat(MAX_FILE_LINES);
    let tests = format!("{fits}#[cfg(test)]\nmod tests {{\n{}}}\n", "fn a() {}\n".repeat(300));
    assert!(lines_caught(files_are_short, "src/units.rs", &tests).is_empty());
    assert!(lines_caught(files_are_short, "src/layer/tests.rs", &long).is_empty());
}

#[test]
fn long_functions_are_caught_wherever_they_stand() {
    let body = "    call();\n".repeat(MAX_FUNCTION_LINES - 1);
    let function = format!("fn f(&self) {{\n{body}}}\n");
    for around in ["impl T {\nFN}", "trait T {\nFN}", "mod m {\nimpl T {FN}}"] {
        let text = around.replace("FN", &function);
        assert_eq!(lines_caught(functions_are_short, "src/units.rs", &text).len(), 1, "{around}");
    }
    let fits = format!("/// Documented.\n{}", function.replacen("    call();\n", "", 1));
    assert!(
        lines_caught(functions_are_short, "src/units.rs", &fits.replace("&self", "")).is_empty()
    );
}

#[test]
fn a_file_without_a_header_is_caught() {
    assert_eq!(lines_caught(files_say_what_they_are, "src/units.rs", "// Units.\n"), [1]);
    assert!(lines_caught(files_say_what_they_are, "src/units.rs", "//! Units.\n").is_empty());
}

#[test]
fn names_that_say_nothing_are_caught() {
    assert_eq!(lines_caught(names_say_something, "src/disk/utils.rs", ""), [1]);
    assert_eq!(lines_caught(names_say_something, "src/disk/mod.rs", "\nmod types;"), [2]);
    assert_eq!(lines_caught(names_say_something, "tests/x.rs", "mod helpers {}"), [1]);
    assert!(lines_caught(names_say_something, "src/disk/align.rs", "mod edges;").is_empty());
}

#[test]
fn unsafe_is_caught_outside_its_files_and_without_a_note() {
    let block = "fn f() {\n    let x = unsafe { g() };\n}";
    let caught = |path: &str, text: &str| lines_caught(unsafe_is_rare_and_reasoned, path, text);
    assert_eq!(caught("src/disk/mod.rs", block), [2]);
    assert_eq!(caught("src/disk/mod.rs", "macro_rules! m { () => { unsafe { g() } } }"), [1]);
    assert_eq!(caught("src/secret.rs", block), [2]);
    let far = "fn f() {\n    // SAFETY: of another block.\n    h();\n    unsafe { g() };\n}";
    assert_eq!(caught("src/secret.rs", far), [4]);
    let near = "fn f() {\n    // SAFETY: g reads 4 bytes.\n    let x =\n        unsafe { g() };\n}";
    assert!(caught("src/secret.rs", near).is_empty());
    assert!(caught("src/disk/mod.rs", "#![deny(unsafe_code)]").is_empty());
}

#[test]
fn wall_clock_and_randomness_are_caught_outside_clock() {
    let caught = |path: &str, text: &str| lines_caught(the_world_comes_through_clock, path, text);
    for word in super::WORLD {
        let text = format!("fn f() {{\n    let x = {word}();\n}}");
        assert_eq!(caught("src/disk/mod.rs", &text), [2], "{word}");
        assert!(caught("src/clock.rs", &text).is_empty(), "{word}");
    }
    assert!(caught("src/disk/mod.rs", "// not SystemTime::now\n").is_empty(), "a comment");
}

#[test]
fn long_lines_are_caught_unless_a_word_cannot_be_broken() {
    let wide = format!("// {}", "word ".repeat(20));
    assert_eq!(lines_fit("src/units.rs", &wide).len(), 1);
    assert_eq!(lines_fit("tools/test", &wide).len(), 1);
    let link = format!("// see https://example.org/{}", "x".repeat(90));
    assert!(lines_fit("src/units.rs", &link).is_empty());
    assert!(lines_fit("docs/testing.md", &wide).is_empty(), "tables are wide");
}

#[test]
fn marks_for_later_are_caught() {
    for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")] {
        assert_eq!(nothing_is_put_off("docs/a.md", &format!("\n// {mark}: later")).len(), 1);
    }
    assert!(nothing_is_put_off("tools/test", "mktemp -d x.XXXXXX").is_empty());
}

#[test]
fn paths_of_one_machine_and_foreign_words_are_caught() {
    for (head, tail, _) in DENIED {
        let text = format!("see {head}{tail}x");
        assert_eq!(text_is_of_the_product("docs/a.md", &text).len(), 1, "{text}");
    }
    assert!(text_is_of_the_product("docs/a.md", "target/test-tools").is_empty());
}
