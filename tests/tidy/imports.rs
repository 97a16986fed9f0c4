//! Who imports whom: every path that leads out of a file, held against the ranks.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::source::Source;
use super::{EXCEPTIONS, Fault, RANKS, REFUSALS};

/// Every top-level module of ours that a file names, with the line.
struct Imports {
    /// Module that the walk is in, from the crate root down.
    at: Vec<String>,
    found: Vec<(usize, String)>,
}

impl Imports {
    fn of(source: &Source) -> Vec<(usize, String)> {
        let mut imports = Self { at: source.module_path(), found: Vec::new() };
        imports.visit_file(&source.ast);
        imports.found.sort();
        imports.found.dedup();
        imports.found.retain(|(line, _)| !source.test_lines.contains(line));
        imports.found
    }

    /// `crate::a::b`, `super::super::a` and, in main.rs, `sealdisk::a` all lead to `a`.
    fn resolve(&mut self, line: usize, path: &[String]) {
        let Some(first) = path.first() else { return };
        let mut base = match first.as_str() {
            "crate" | "sealdisk" => Vec::new(),
            "self" | "super" => self.at.clone(),
            _ => return,
        };
        for word in path {
            match word.as_str() {
                "crate" | "sealdisk" | "self" => {}
                "super" => drop(base.pop()),
                name => base.push(name.to_owned()),
            }
        }
        if let Some(top) = base.into_iter().next() {
            self.found.push((line, top));
        }
    }

    fn walk_use(&mut self, tree: &syn::UseTree, prefix: &[String]) {
        let mut path = prefix.to_vec();
        match tree {
            syn::UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.walk_use(&part.tree, &path);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.walk_use(item, &path));
            }
            syn::UseTree::Name(name) => {
                path.push(name.ident.to_string());
                self.resolve(name.span().start().line, &path);
            }
            syn::UseTree::Rename(name) => {
                path.push(name.ident.to_string());
                self.resolve(name.span().start().line, &path);
            }
            syn::UseTree::Glob(star) => self.resolve(star.span().start().line, &path),
        }
    }

    /// Macros take tokens, not paths: look for `crate :: name` in them.
    fn walk_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(word) if colons == 2 || word == "crate" || word == "super" => {
                    if colons != 2 {
                        path.clear();
                    }
                    path.push(word.to_string());
                    self.resolve(word.span().start().line, &path);
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => self.walk_tokens(group.stream()),
                _ => {}
            }
            path.clear();
            colons = 0;
        }
    }
}

impl Visit<'_> for Imports {
    fn visit_item_mod(&mut self, module: &syn::ItemMod) {
        self.at.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.at.pop();
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        self.walk_use(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.resolve(path.span().start().line, &words);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        self.walk_tokens(call.tokens.clone());
    }
}

fn rank_of(module: &str) -> Option<usize> {
    RANKS.iter().position(|rank| rank.contains(&module))
}

fn is_excepted(own: &str, other: &str) -> bool {
    EXCEPTIONS.iter().any(|(from, to, _)| *from == own && *to == other)
}

pub(super) fn imports_keep_rank(source: &Source) -> Vec<Fault> {
    let Some(own) = source.top_module().filter(|own| *own != "lib") else { return Vec::new() };
    let Some(own_rank) = rank_of(own) else {
        return vec![source.fault(1, format!("{own} has no rank: give it one in tests/tidy.rs"))];
    };
    let mut faults = Vec::new();
    for (line, other) in Imports::of(source) {
        let Some(rank) = rank_of(&other).filter(|_| other != own) else { continue };
        if let Some((_, _, why)) =
            REFUSALS.iter().find(|(from, to, _)| *from == own && *to == other)
        {
            faults.push(source.fault(line, format!("{own} must not know {other}: {why}")));
        } else if rank >= own_rank && !is_excepted(own, &other) {
            let what = format!(
                "{own} (rank {own_rank}) imports {other} (rank {rank}): have it handed in from \
                 above, or move what both need to a lower rank"
            );
            faults.push(source.fault(line, what));
        }
    }
    faults
}
