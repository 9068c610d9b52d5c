//! Rejects values that only their position distinguishes: tuples as parameters, `let (a, b) = (x,
//! y)`, and adjacent parameters of the same primitive type.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use syn::visit::{Visit, visit_expr_assign, visit_item_impl, visit_local, visit_signature};
use syn::{Expr, ExprAssign, FnArg, ImplItemFn, ItemImpl, Local, Pat, Signature, Type};

use super::report;
use crate::shell::{files, read};

/// The number of adjacent pairs that each folder may still have. These counts only decrease.
const ALLOWED: &str = include_str!("positions.tsv");

/// Functions whose two parameters have an order that every reader expects, with that order.
const EXPECTED: [(&str, &str); 25] = [
    ("address", "the line, then the prefix"),
    ("ask", "the path, then the header"),
    ("choose_mirror", "the table, then the key"),
    ("count", "the word for one, then for many"),
    ("counted", "the word for one, then for many"),
    ("drop_of", "the key, then its prefix"),
    ("field", "the text, then the name"),
    ("fill", "the field, then its text"),
    ("first_number", "the text, then the word"),
    ("from_env", "the name, then the default"),
    ("get", "the host, then the path"),
    ("is_same_coupon", "in either order"),
    ("log_in", "the name, then the secret"),
    ("logged_in", "the name, then the secret"),
    ("mysql_rows", "the URL, then the statement"),
    ("put", "the text, then what to put in it"),
    ("query", "the URL, then the statement"),
    ("replace", "from, then to"),
    ("send", "to whom, then the text"),
    ("set", "the name, then the value"),
    ("set_state", "the name, then the value"),
    ("share", "the part, then the whole"),
    ("sum", "the text, then the name"),
    ("with_database", "the URL, then the name"),
    ("write", "the file, then its text"),
];

pub(crate) fn check() -> Result<()> {
    let mut allowed = allowed()?;
    let mut found = Vec::new();
    let mut beside: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files(&["*.rs"])? {
        let positions = Positions::of(&path, &read(&path)?)?;
        found.extend(positions.found);
        if !positions.beside.is_empty() {
            let folder = path.iter().next().unwrap_or_default().to_string_lossy();
            beside
                .entry(folder.into_owned())
                .or_default()
                .extend(positions.beside);
        }
    }
    for (folder, places) in beside {
        let most = allowed.remove(&folder).unwrap_or(0);
        if places.len() > most {
            let count = places.len();
            found.extend(places);
            found.push(format!("{folder}: {count} pairs, {most} are allowed"));
        } else if places.len() < most {
            eprintln!(
                "[lint] {folder} has {} pairs: lower its number in positions.tsv",
                places.len()
            );
        }
    }
    report(
        &found,
        "write one `let` for each name; give the function a struct, or types that cannot be swapped",
    )
}

fn allowed() -> Result<BTreeMap<String, usize>> {
    let rows = ALLOWED.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| {
        let (folder, number) = row
            .split_once('\t')
            .with_context(|| format!("positions.tsv: {row}: two columns"))?;
        Ok((folder.to_owned(), number.parse()?))
    })
    .collect()
}

#[derive(Default)]
struct Positions {
    path: String,
    found: Vec<String>,
    /// Adjacent parameters of the same primitive type.
    beside: Vec<String>,
}

impl Positions {
    fn of(path: &Path, source: &str) -> Result<Self> {
        let file = syn::parse_file(source).with_context(|| path.display().to_string())?;
        let mut positions = Self {
            path: path.display().to_string(),
            ..Self::default()
        };
        positions.visit_file(&file);
        Ok(positions)
    }

    fn place(&self, at: &impl syn::spanned::Spanned, what: &str) -> String {
        let span: proc_macro2::Span = at.span();
        format!("{}:{}: {what}", self.path, span.start().line)
    }

    fn add(&mut self, at: &impl syn::spanned::Spanned, what: &str) {
        self.found.push(self.place(at, what));
    }
}

const TAKEN_APART: &str = "a tuple is built only to be taken apart";

impl<'ast> Visit<'ast> for Positions {
    fn visit_local(&mut self, local: &'ast Local) {
        let pattern = match &local.pat {
            Pat::Type(typed) => &*typed.pat,
            other => other,
        };
        if let (Pat::Tuple(_), Some(init)) = (pattern, &local.init)
            && matches!(*init.expr, Expr::Tuple(_))
            && init.diverge.is_none()
        {
            self.add(local, TAKEN_APART);
        }
        visit_local(self, local);
    }

    fn visit_expr_assign(&mut self, assign: &'ast ExprAssign) {
        if matches!(
            (&*assign.left, &*assign.right),
            (Expr::Tuple(_), Expr::Tuple(_))
        ) {
            self.add(assign, TAKEN_APART);
        }
        visit_expr_assign(self, assign);
    }

    /// Skips signatures in trait implementations, because the trait determines them.
    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if item.trait_.is_none() {
            return visit_item_impl(self, item);
        }
        for function in item.items.iter().filter_map(as_function) {
            self.visit_block(&function.block);
        }
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        let name = signature.ident.to_string();
        let mut excused = EXPECTED.iter().any(|(expected, _)| *expected == name);
        let mut before = None;
        for argument in &signature.inputs {
            let FnArg::Typed(argument) = argument else {
                continue;
            };
            if let Pat::Tuple(_) = &*argument.pat {
                self.add(argument, &format!("`{name}` takes a tuple"));
            }
            let primitive = primitive(&argument.ty);
            if let Some(ty) = primitive.as_ref().filter(|_| primitive == before)
                && !std::mem::take(&mut excused)
            {
                let place = self.place(argument, &format!("`{name}` takes two {ty} side by side"));
                self.beside.push(place);
            }
            before = primitive;
        }
        visit_signature(self, signature);
    }
}

fn as_function(item: &syn::ImplItem) -> Option<&ImplItemFn> {
    match item {
        syn::ImplItem::Fn(function) => Some(function),
        _ => None,
    }
}

/// Returns the name of a primitive type, or of text.
fn primitive(of: &Type) -> Option<String> {
    const NAMES: [&str; 16] = [
        "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "isize", "u8", "u16", "u32",
        "u64", "usize", "str", "String",
    ];
    match of {
        Type::Reference(reference) => primitive(&reference.elem),
        Type::Path(path) => {
            let name = path.path.get_ident()?.to_string();
            NAMES.contains(&name.as_str()).then_some(name)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<String> {
        let positions = Positions::of(Path::new("f.rs"), source).unwrap();
        [positions.found, positions.beside].concat()
    }

    #[test]
    fn finds_tuples_that_only_save_a_line() {
        let source = "fn f() {\n    let (a, b) = (1, 2);\n    (a, b) = (b, a);\n}";
        assert_eq!(
            found(source),
            [
                format!("f.rs:2: {TAKEN_APART}"),
                format!("f.rs:3: {TAKEN_APART}")
            ]
        );
        for allowed in [
            "fn f() { let (a, b) = pair(); }",
            "fn f() { let (Some(a), Some(b)) = (x, y) else { return }; }",
            "fn f() { let g = |(a, b): (u8, u8)| a; }",
        ] {
            assert!(found(allowed).is_empty(), "{allowed}");
        }
    }

    #[test]
    fn finds_parameters_that_can_be_swapped() {
        assert_eq!(
            found("fn f((a, b): (u8, u16)) {}"),
            ["f.rs:1: `f` takes a tuple"]
        );
        assert_eq!(
            found("impl S { fn f(&self, a: &str, b: &str) {} }"),
            ["f.rs:1: `f` takes two str side by side"]
        );
        for allowed in [
            "fn f(a: u8, b: u16) {}",
            "fn f(a: CouponId, b: CouponId) {}",
            "fn set(name: &str, value: &str) {}",
            "impl T for S { fn f(&self, a: &str, b: &str) {} }",
        ] {
            assert!(found(allowed).is_empty(), "{allowed}");
        }
        let inner = "impl T for S { fn f(&self) { fn g(a: u8, b: u8) {} } }";
        assert_eq!(found(inner).len(), 1);
    }

    #[test]
    fn reads_the_allowed_counts() {
        assert!(allowed().is_ok());
    }
}
