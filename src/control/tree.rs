//! A sorted map of which each change makes a new one that shares all but a path with the old one: what
//! one change costs grows with the logarithm of the size, and who holds the old one keeps it.
//!
//! It is a search tree balanced by weight, as Adams described it: neither side of a node is more than
//! [`HEAVIER_MAX`] times as large as the other.

use std::{cmp::Ordering, ops::Bound, sync::Arc};

/// How many times larger one side of a node may be than the other.
const HEAVIER_MAX: usize = 3;
/// From which proportion of its children on a heavy side needs two rotations.
const TWICE_MIN: usize = 2;

/// The map. Clones are the same one.
#[derive(Debug)]
pub(crate) struct Tree<K, V> {
    root: Option<Arc<Node<K, V>>>,
}

#[derive(Debug)]
struct Node<K, V> {
    entry: Arc<(K, V)>,
    size: usize,
    left: Tree<K, V>,
    right: Tree<K, V>,
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone() }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Tree<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        entries.into_iter().fold(Self::default(), |tree, (key, value)| tree.with(key, value))
    }
}

impl<K, V> Tree<K, V> {
    /// How many entries it has.
    pub(crate) fn len(&self) -> usize {
        self.root.as_ref().map_or(0, |node| node.size)
    }

    fn node(entry: &Arc<(K, V)>, left: Self, right: Self) -> Self {
        let size = left.len() + right.len() + 1;
        Self { root: Some(Arc::new(Node { entry: Arc::clone(entry), size, left, right })) }
    }

    /// A node whose sides may differ by what one change of a balanced one makes.
    fn balanced(entry: &Arc<(K, V)>, left: Self, right: Self) -> Self {
        let (smaller, larger) = (left.len(), right.len());
        if smaller + larger > 1 {
            if let Some(node) = right.root.as_ref().filter(|_| larger > HEAVIER_MAX * smaller) {
                return Self::lean_left(entry, left, node);
            }
            if let Some(node) = left.root.as_ref().filter(|_| smaller > HEAVIER_MAX * larger) {
                return Self::lean_right(entry, node, right);
            }
        }
        Self::node(entry, left, right)
    }

    /// The right side is too heavy.
    fn lean_left(entry: &Arc<(K, V)>, left: Self, right: &Node<K, V>) -> Self {
        let (inner, outer) = (right.left.clone(), right.right.clone());
        match &inner.root {
            Some(middle) if inner.len() >= TWICE_MIN * outer.len() => {
                let left = Self::node(entry, left, middle.left.clone());
                let right = Self::node(&right.entry, middle.right.clone(), outer);
                Self::node(&middle.entry, left, right)
            }
            _ => Self::node(&right.entry, Self::node(entry, left, inner), outer),
        }
    }

    /// The left side is too heavy.
    fn lean_right(entry: &Arc<(K, V)>, left: &Node<K, V>, right: Self) -> Self {
        let (outer, inner) = (left.left.clone(), left.right.clone());
        match &inner.root {
            Some(middle) if inner.len() >= TWICE_MIN * outer.len() => {
                let left = Self::node(&left.entry, outer, middle.left.clone());
                let right = Self::node(entry, middle.right.clone(), right);
                Self::node(&middle.entry, left, right)
            }
            _ => Self::node(&left.entry, outer, Self::node(entry, inner, right)),
        }
    }

    /// The first entry, and the rest.
    fn split_first(node: &Node<K, V>) -> (Arc<(K, V)>, Self) {
        match &node.left.root {
            None => (Arc::clone(&node.entry), node.right.clone()),
            Some(left) => {
                let (first, rest) = Self::split_first(left);
                (first, Self::balanced(&node.entry, rest, node.right.clone()))
            }
        }
    }

    /// The last entry, and the rest.
    fn split_last(node: &Node<K, V>) -> (Arc<(K, V)>, Self) {
        match &node.right.root {
            None => (Arc::clone(&node.entry), node.left.clone()),
            Some(right) => {
                let (last, rest) = Self::split_last(right);
                (last, Self::balanced(&node.entry, node.left.clone(), rest))
            }
        }
    }

    /// Two sides of a node that goes.
    fn joined(left: &Self, right: &Self) -> Self {
        match (&left.root, &right.root) {
            (None, _) => right.clone(),
            (_, None) => left.clone(),
            (Some(node), Some(_)) if left.len() > right.len() => {
                let (entry, left) = Self::split_last(node);
                Self::balanced(&entry, left, right.clone())
            }
            (Some(_), Some(node)) => {
                let (entry, right) = Self::split_first(node);
                Self::balanced(&entry, left.clone(), right)
            }
        }
    }

    /// All entries, sorted by key.
    pub(crate) fn iter(&self) -> Range<'_, K, V> {
        let mut range = Range { ahead: Vec::new() };
        range.descend(self);
        range
    }
}

impl<K: Ord, V> Tree<K, V> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let mut tree = self;
        while let Some(node) = &tree.root {
            tree = match key.cmp(&node.entry.0) {
                Ordering::Less => &node.left,
                Ordering::Greater => &node.right,
                Ordering::Equal => return Some(&node.entry.1),
            };
        }
        None
    }

    /// With this value for this key.
    pub(crate) fn with(&self, key: K, value: V) -> Self {
        self.with_entry(Arc::new((key, value)))
    }

    fn with_entry(&self, entry: Arc<(K, V)>) -> Self {
        let Some(node) = &self.root else {
            return Self::node(&entry, Self::default(), Self::default());
        };
        match entry.0.cmp(&node.entry.0) {
            Ordering::Less => {
                Self::balanced(&node.entry, node.left.with_entry(entry), node.right.clone())
            }
            Ordering::Greater => {
                Self::balanced(&node.entry, node.left.clone(), node.right.with_entry(entry))
            }
            Ordering::Equal => Self::node(&entry, node.left.clone(), node.right.clone()),
        }
    }

    /// Without this key.
    pub(crate) fn without(&self, key: &K) -> Self {
        let Some(node) = &self.root else { return Self::default() };
        match key.cmp(&node.entry.0) {
            Ordering::Less => {
                Self::balanced(&node.entry, node.left.without(key), node.right.clone())
            }
            Ordering::Greater => {
                Self::balanced(&node.entry, node.left.clone(), node.right.without(key))
            }
            Ordering::Equal => Self::joined(&node.left, &node.right),
        }
    }

    /// The entries from a key on, sorted by key.
    pub(crate) fn range(&self, from: Bound<&K>) -> Range<'_, K, V> {
        let mut range = Range { ahead: Vec::new() };
        let mut tree = self;
        while let Some(node) = &tree.root {
            let wanted = match from {
                Bound::Unbounded => true,
                Bound::Included(key) => node.entry.0 >= *key,
                Bound::Excluded(key) => node.entry.0 > *key,
            };
            tree = match wanted {
                true => {
                    range.ahead.push(node);
                    &node.left
                }
                false => &node.right,
            };
        }
        range
    }
}

/// Entries in their order.
#[derive(Debug)]
pub(crate) struct Range<'a, K, V> {
    /// What comes next, last; the right sides of all are still to come.
    ahead: Vec<&'a Node<K, V>>,
}

impl<'a, K, V> Range<'a, K, V> {
    fn descend(&mut self, mut tree: &'a Tree<K, V>) {
        while let Some(node) = &tree.root {
            self.ahead.push(node);
            tree = &node.left;
        }
    }
}

impl<'a, K, V> Iterator for Range<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let node = self.ahead.pop()?;
        self.descend(&node.right);
        Some((&node.entry.0, &node.entry.1))
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
pub(super) mod tests;
