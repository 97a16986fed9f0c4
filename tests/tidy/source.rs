//! A Rust file of ours, parsed, and which of its lines are tests.

use std::collections::BTreeSet;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Fault;

/// One Rust file, parsed.
pub(super) struct Source {
    pub(super) path: String,
    pub(super) text: String,
    pub(super) ast: syn::File,
    /// Lines (from 1) of items under `#[cfg(test)]`, or all lines of a test file.
    pub(super) test_lines: BTreeSet<usize>,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let ast = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut found = TestItems::default();
        found.visit_file(&ast);
        let mut test_lines = found.lines;
        if is_test_file(path) {
            test_lines.extend(1..=text.lines().count());
        }
        Self { path: path.to_owned(), text: text.to_owned(), ast, test_lines }
    }

    /// `layer` of `src/layer/data.rs`; none for files outside `src`.
    pub(super) fn top_module(&self) -> Option<&str> {
        let first = self.path.strip_prefix("src/")?.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    /// `layer`, `data` of `src/layer/data.rs`.
    pub(super) fn module_path(&self) -> Vec<String> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
        if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
            parts.pop();
        }
        parts
    }

    /// Code outside tests, by line number.
    pub(super) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.text).filter(|(number, _)| !self.test_lines.contains(number))
    }

    pub(super) fn fault(&self, line: usize, what: String) -> Fault {
        Fault { path: self.path.clone(), line, what }
    }
}

pub(super) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || !path.starts_with("src/")
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        let words = list.tokens.to_string();
        list.path.is_ident("cfg") && (words == "test" || words.starts_with("all (test"))
    })
}

fn attributes_of(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[derive(Default)]
struct TestItems {
    lines: BTreeSet<usize>,
}

impl Visit<'_> for TestItems {
    fn visit_item(&mut self, item: &syn::Item) {
        if is_test_only(attributes_of(item)) {
            let span = item.span();
            self.lines.extend(span.start().line..=span.end().line);
        } else {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &syn::ImplItemFn) {
        if is_test_only(&function.attrs) {
            let span = function.span();
            self.lines.extend(span.start().line..=span.end().line);
        }
    }
}
