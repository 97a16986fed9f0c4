//! Rules on the shape of code: sizes, names, headers, unsafe blocks, time and randomness.

use std::collections::BTreeSet;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::source::Source;
use super::{
    EMPTY_NAMES, Fault, MAX_FILE_LINES, MAX_FUNCTION_LINES, UNSAFE_FILES, WORLD, WORLD_FILE,
};

pub(super) fn files_are_short(source: &Source) -> Vec<Fault> {
    let lines = source.product_lines().count();
    if lines <= MAX_FILE_LINES {
        return Vec::new();
    }
    let what = format!("{lines} lines without tests, {MAX_FILE_LINES} at most: split it by what");
    vec![source.fault(1, format!("{what} it does, not by what it is made of"))]
}

struct Functions<'a> {
    source: &'a Source,
    faults: Vec<Fault>,
}

impl Functions<'_> {
    fn check(&mut self, signature: &syn::Signature, end: usize) {
        let start = signature.span().start().line;
        let lines = end + 1 - start;
        if lines > MAX_FUNCTION_LINES && !self.source.test_lines.contains(&start) {
            let name = &signature.ident;
            let what = format!(
                "fn {name} has {lines} lines, {MAX_FUNCTION_LINES} at most: name its parts"
            );
            self.faults.push(self.source.fault(start, what));
        }
    }
}

impl Visit<'_> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &syn::ItemFn) {
        self.check(&function.sig, function.span().end().line);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &syn::ImplItemFn) {
        self.check(&function.sig, function.span().end().line);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &syn::TraitItemFn) {
        self.check(&function.sig, function.span().end().line);
        visit::visit_trait_item_fn(self, function);
    }
}

pub(super) fn functions_are_short(source: &Source) -> Vec<Fault> {
    let mut functions = Functions { source, faults: Vec::new() };
    functions.visit_file(&source.ast);
    functions.faults
}

pub(super) fn files_say_what_they_are(source: &Source) -> Vec<Fault> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.fault(1, "no `//!` line at the top: say in one sentence what is inside".to_owned())]
}

struct Modules(Vec<(usize, String)>);

impl Visit<'_> for Modules {
    fn visit_item_mod(&mut self, module: &syn::ItemMod) {
        self.0.push((module.span().start().line, module.ident.to_string()));
        visit::visit_item_mod(self, module);
    }
}

pub(super) fn names_say_something(source: &Source) -> Vec<Fault> {
    let mut modules = Modules(Vec::new());
    modules.visit_file(&source.ast);
    let file = Path::new(&source.path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    modules.0.extend(file.map(|name| (1, name)));
    modules
        .0
        .into_iter()
        .filter(|(_, name)| EMPTY_NAMES.contains(&name.as_str()))
        .map(|(line, name)| source.fault(line, format!("`{name}` is no name: say what is inside")))
        .collect()
}

fn unsafe_words(tokens: TokenStream, found: &mut BTreeSet<usize>) {
    for token in tokens {
        match token {
            TokenTree::Ident(word) if word == "unsafe" => {
                found.insert(word.span().start().line);
            }
            TokenTree::Group(group) => unsafe_words(group.stream(), found),
            _ => {}
        }
    }
}

/// Whether the comments right above the statement of this line have a SAFETY note.
fn has_safety_note(lines: &[&str], line: usize) -> bool {
    for above in lines[..line - 1].iter().rev().map(|above| above.trim()) {
        if above.starts_with("//") {
            if above.contains("SAFETY:") || above.contains("# Safety") {
                return true;
            }
        } else if above.is_empty() || above.ends_with([';', '{', '}']) {
            return false;
        }
    }
    false
}

pub(super) fn unsafe_is_rare_and_reasoned(source: &Source) -> Vec<Fault> {
    let tokens: TokenStream = source.text.parse().expect("the file has been parsed once before");
    let mut found = BTreeSet::new();
    unsafe_words(tokens, &mut found);
    let lines: Vec<&str> = source.text.lines().collect();
    let mut faults = Vec::new();
    for line in found {
        if !UNSAFE_FILES.contains(&source.path.as_str()) {
            let what = "unsafe code: find a safe call (rustix has most of them), or move it to a \
                        file listed in tests/tidy.rs";
            faults.push(source.fault(line, what.to_owned()));
        } else if !has_safety_note(&lines, line) {
            let what = "no SAFETY note above: name the bound that makes it sound";
            faults.push(source.fault(line, what.to_owned()));
        }
    }
    faults
}

pub(super) fn the_world_comes_through_clock(source: &Source) -> Vec<Fault> {
    if source.path == WORLD_FILE {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, line) in source.product_lines() {
        let code = line.split("//").next().unwrap_or_default();
        for word in WORLD.iter().filter(|word| code.contains(**word)) {
            let what = format!("{word}: take it from clock::Clock or clock::Entropy");
            faults.push(source.fault(number, what));
        }
    }
    faults
}
