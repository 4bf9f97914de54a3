//! The modules of a crate, read from its sources, and what each of them refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ExprLit, Item, Lit, UseTree, Visibility};

/// Names from the crate's root down; the root itself has none.
type ModulePath = Vec<String>;

/// A crate's modules without those that only its tests have.
pub(super) struct Crate(BTreeMap<ModulePath, Module>);

#[derive(Default)]
struct Module {
    children: BTreeSet<String>,
    /// Names that this module defines.
    items: BTreeSet<String>,
    /// Names that it imports or exports again, with what they stand for.
    imports: BTreeMap<String, Vec<String>>,
    /// Modules of which it imports everything.
    globs: Vec<Vec<String>>,
    /// Paths that it uses. What is only exported again is not used.
    uses: Vec<Vec<String>>,
}

impl Crate {
    /// Reads the crate whose root module is this file.
    pub(super) fn read(root: &Path) -> Self {
        let mut modules = Self(BTreeMap::new());
        let folder = root.parent().expect("a file lies in a folder");
        modules.file(root, folder, Vec::new());
        modules
    }

    /// `folder` is where the files of this module's children lie.
    fn file(&mut self, path: &Path, folder: &Path, module: ModulePath) {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.items(file.items, folder, module);
    }

    fn items(&mut self, items: Vec<Item>, folder: &Path, path: ModulePath) {
        let mut module = Module::default();
        for item in items.into_iter().filter(|item| !is_test_only(attributes(item))) {
            match item {
                Item::Mod(child) => {
                    let name = child.ident.to_string();
                    let below = folder.join(&name);
                    let child_path = [path.clone(), vec![name.clone()]].concat();
                    if let Some((_, items)) = child.content {
                        self.items(items, &below, child_path);
                    } else {
                        let file = given_path(&child.attrs, folder).unwrap_or_else(|| file_of(folder, &name));
                        self.file(&file, &below, child_path);
                    }
                    module.children.insert(name);
                }
                Item::Use(import) => {
                    let exported = !matches!(import.vis, Visibility::Inherited);
                    module.import(&import.tree, &mut Vec::new(), exported);
                }
                item => {
                    module.items.extend(name_of(&item));
                    Paths(&mut module.uses).visit_item(&item);
                }
            }
        }
        self.0.insert(path, module);
    }

    /// The module in which what `path`, written in `module`, stands for is defined; none where it is another crate's.
    fn resolve(&self, module: &ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
        // Two modules may export each other's names.
        if depth > 20 {
            return None;
        }
        let first = path.first()?;
        let (mut at, mut rest) = match first.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (module.clone(), &path[1..]),
            "super" => (module[..module.len().checked_sub(1)?].to_vec(), &path[1..]),
            _ => (module.clone(), path),
        };
        while let Some((next, behind)) = rest.split_first() {
            let here = self.0.get(&at)?;
            if next == "super" {
                at.pop()?;
            } else if here.children.contains(next) {
                at.push(next.clone());
            } else if let Some(import) = here.imports.get(next) {
                // `use name` of another crate or of a name of the prelude stands for itself.
                let stands_for = if import.first() == Some(next) && import.len() == 1 { return None } else { import };
                return self.resolve(&at, &[stands_for, behind].concat(), depth + 1);
            } else if here.items.contains(next) {
                return Some(at);
            } else {
                let exported = |glob: &Vec<String>| {
                    let from = self.resolve(&at, glob, depth + 1)?;
                    self.0.get(&from)?.items.contains(next).then_some(from)
                };
                return here.globs.iter().find_map(exported);
            }
            rest = behind;
        }
        Some(at)
    }

    /// Every cycle: one line each, of the modules of one folder, where the folder's own file is a module as well.
    pub(super) fn cycles(&self) -> Vec<String> {
        let mut graphs: BTreeMap<ModulePath, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (from, module) in &self.0 {
            for to in module.uses.iter().filter_map(|path| self.resolve(from, path, 0)) {
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                let folder = &from[..common];
                let own = folder.last().map_or("crate", String::as_str);
                let node = |path: &ModulePath| path.get(common).map_or(own, String::as_str).to_owned();
                if node(from) != node(&to) {
                    graphs.entry(folder.to_vec()).or_default().entry(node(from)).or_default().insert(node(&to));
                }
            }
        }
        let line = |(folder, graph): (&ModulePath, &BTreeMap<String, BTreeSet<String>>)| {
            let cycle = cycle(graph)?;
            Some(format!("{}: {}", [vec!["crate".to_owned()], folder.clone()].concat().join("::"), cycle.join(" → ")))
        };
        graphs.iter().filter_map(line).collect()
    }
}

impl Module {
    fn import(&mut self, tree: &UseTree, before: &mut Vec<String>, exported: bool) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before, exported);
                before.pop();
            }
            UseTree::Name(name) => self.imported(&name.ident.to_string(), &name.ident.to_string(), before, exported),
            UseTree::Rename(name) => {
                self.imported(&name.ident.to_string(), &name.rename.to_string(), before, exported);
            }
            UseTree::Glob(_) => {
                self.globs.push(before.clone());
                if !exported {
                    self.uses.push(before.clone());
                }
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, before, exported)),
        }
    }

    fn imported(&mut self, name: &str, known_as: &str, before: &[String], exported: bool) {
        let path = if name == "self" { before.to_vec() } else { [before, &[name.to_owned()]].concat() };
        let known_as =
            if known_as == "self" { before.last().cloned().unwrap_or_default() } else { known_as.to_owned() };
        if !exported {
            self.uses.push(path.clone());
        }
        self.imports.insert(known_as, path);
    }
}

/// Collects the paths of expressions, types, patterns and macros.
struct Paths<'a>(&'a mut Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        // A single name is local, or was imported, which counts already.
        if path.segments.len() > 1 {
            self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        // The arguments of a macro need not be an expression: every `a::b` among the tokens counts.
        let words = words(&invocation.tokens.to_string());
        self.0.extend(words);
        visit::visit_macro(self, invocation);
    }

    fn visit_visibility(&mut self, _: &'ast Visibility) {
        // `pub(in path)` says who may use an item, and uses nothing.
    }

    fn visit_item_use(&mut self, import: &'ast syn::ItemUse) {
        let mut module = Module::default();
        module.import(&import.tree, &mut Vec::new(), false);
        self.0.extend(module.uses);
    }
}

/// The paths of two or more names in tokens that are printed with spaces between them.
fn words(tokens: &str) -> Vec<Vec<String>> {
    let text = tokens.replace(" :: ", "::").replace(":: ", "::").replace(" ::", "::");
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !is_path(c))
        .filter(|word| word.contains("::"))
        .map(|word| word.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect())
        .collect()
}

/// The file that `#[path = "…"]` names: from where the module's own file lies, which is `folder` or the one above it.
fn given_path(attributes: &[Attribute], folder: &Path) -> Option<PathBuf> {
    let given = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    match &given.meta.require_name_value().ok()?.value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
            let below = |folder: &Path| folder.join(text.value());
            [Some(folder), folder.parent()].into_iter().flatten().map(below).find(|path| path.is_file())
        }
        _ => None,
    }
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    let flat = folder.join(format!("{name}.rs"));
    if flat.is_file() { flat } else { folder.join(name).join("mod.rs") }
}

/// `#[cfg(test)]`, alone or among other conditions.
fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = attribute.meta.require_list().map(|list| list.tokens.to_string()).unwrap_or_default();
        attribute.path().is_ident("cfg") && condition.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
            || attribute.path().is_ident("test")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(name.to_string())
}

/// Some cycle of the graph, its first node again at the end.
fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        graph: &BTreeMap<String, BTreeSet<String>>,
        node: &String,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|other| other == node) {
            return Some([&way[start..], std::slice::from_ref(node)].concat());
        }
        if !done.insert(node.clone()) {
            return None;
        }
        way.push(node.clone());
        let found = graph.get(node).into_iter().flatten().find_map(|next| walk(graph, next, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|node| walk(graph, node, &mut Vec::new(), &mut done))
}
