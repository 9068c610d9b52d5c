//! Finds statements that were shortened instead of written to be read: two names bound by one
//! tuple, and a chain of calls that is cut in two by binding its name again.

use std::fs;

use anyhow::{Context as _, Result, bail};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, Expr, ItemMod, Local, Pat, Stmt};

use crate::shell::files;

/// Checks the product's code without its tests.
pub(super) fn check() -> Result<()> {
    let crates = [
        "shared/src",
        "api/src",
        "attach/src",
        "reconciler/src",
        "notifier/src",
        "console/src",
    ];
    let paths = files(&crates)?;
    let mut found = Vec::new();
    let mut read = 0;
    for path in &paths {
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let path = path.display().to_string();
        if path.contains("/tests/") || path.ends_with("/tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let file = syn::parse_file(&text).with_context(|| path.clone())?;
        let mut shortened = Shortened { path: &path, found };
        shortened.visit_file(&file);
        found = shortened.found;
        read += 1;
    }
    if read == 0 {
        bail!("no file was read");
    }
    if !found.is_empty() {
        bail!(
            "write each of these as one chain, or under two names:\n{}",
            found.join("\n")
        );
    }
    Ok(())
}

struct Shortened<'a> {
    path: &'a str,
    found: Vec<String>,
}

impl Shortened<'_> {
    fn report(&mut self, place: &Local, what: &str) {
        let line = place.span().start().line;
        self.found.push(format!("{}:{line}: {what}", self.path));
    }
}

impl<'ast> Visit<'ast> for Shortened<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !module.attrs.iter().any(is_test) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_block(&mut self, block: &'ast Block) {
        let mut before: Option<String> = None;
        for statement in &block.stmts {
            let Stmt::Local(local) = statement else {
                before = None;
                continue;
            };
            let value = local.init.as_ref().map(|init| &*init.expr);
            if let (Pat::Tuple(pair), Some(Expr::Tuple(_))) = (&local.pat, value)
                && pair.elems.iter().all(|name| bound(name).is_some())
            {
                self.report(local, "two names are bound by one tuple");
            }
            let name = bound(&local.pat);
            if name.is_some()
                && name == before
                && value.is_some_and(|value| begins(value, name.as_deref()))
            {
                self.report(local, "a chain is cut in two by binding its name again");
            }
            before = name;
        }
        visit::visit_block(self, block);
    }
}

fn is_test(attribute: &Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    list.path.is_ident("cfg") && list.tokens.to_string().contains("test")
}

fn bound(pattern: &Pat) -> Option<String> {
    match pattern {
        Pat::Ident(name) => Some(name.ident.to_string()),
        Pat::Type(typed) => bound(&typed.pat),
        _ => None,
    }
}

/// Returns whether the chain of calls in `value` begins with this name.
fn begins(value: &Expr, name: Option<&str>) -> bool {
    match value {
        Expr::MethodCall(call) => begins(&call.receiver, name),
        Expr::Try(tried) => begins(&tried.expr, name),
        Expr::Await(awaited) => begins(&awaited.base, name),
        Expr::Field(field) => begins(&field.base, name),
        Expr::Path(path) => name.is_some_and(|name| path.path.is_ident(name)),
        _ => false,
    }
}
