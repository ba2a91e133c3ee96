//! The tree against the standard library's, by chance and by count.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use proptest::{collection::vec, prelude::*};

use super::{HEAVIER_MAX, Tree};

/// Every node, by its place in memory.
fn places<K, V>(tree: &Tree<K, V>, found: &mut HashSet<usize>) {
    if let Some(node) = &tree.root {
        found.insert(Arc::as_ptr(node).addr());
        places(&node.left, found);
        places(&node.right, found);
    }
}

/// How many nodes a tree does not share with the one it was made of.
pub(in crate::control) fn fresh<K, V>(before: &Tree<K, V>, after: &Tree<K, V>) -> usize {
    let (mut old, mut new) = (HashSet::new(), HashSet::new());
    places(before, &mut old);
    places(after, &mut new);
    new.difference(&old).count()
}

fn check<K, V>(tree: &Tree<K, V>) {
    let Some(node) = &tree.root else { return };
    let (left, right) = (node.left.len(), node.right.len());
    assert_eq!(node.size, left + right + 1);
    assert!(
        left + right <= 1 || left.max(right) <= HEAVIER_MAX * left.min(right),
        "{left} {right}"
    );
    check(&node.left);
    check(&node.right);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn it_is_the_standard_library_s_map(changes in vec((any::<bool>(), 0..40_u8), 0..200), from in 0..41_u8) {
        let (mut tree, mut map) = (Tree::default(), BTreeMap::new());
        for (number, (put, key)) in changes.into_iter().enumerate() {
            let before = tree.clone();
            let was: Vec<_> = before.iter().map(|(key, value)| (*key, *value)).collect();
            if put {
                tree = tree.with(key, number);
                map.insert(key, number);
            } else {
                tree = tree.without(&key);
                map.remove(&key);
            }
            check(&tree);
            prop_assert!(before.iter().map(|(key, value)| (*key, *value)).eq(was), "the old one changed");
        }
        prop_assert!(tree.iter().eq(&map));
        prop_assert_eq!(tree.len(), map.len());
        for bound in [Bound::Unbounded, Bound::Included(&from), Bound::Excluded(&from)] {
            prop_assert!(tree.range(bound).eq(map.range((bound, Bound::Unbounded))));
        }
        for key in 0..41 {
            prop_assert_eq!(tree.get(&key), map.get(&key));
        }
    }
}

#[test]
fn a_change_makes_a_path_and_shares_the_rest() {
    for (size, most) in [(10_u32, 10), (1_000, 30), (100_000, 50)] {
        let tree: Tree<_, _> = (0..size).map(|key| (key * 2, ())).collect();
        check(&tree);
        for key in [0, 1, size / 2, size, size * 2 - 2, size * 2] {
            let (put, taken) = (tree.with(key, ()), tree.without(&key));
            let made = (fresh(&tree, &put), fresh(&tree, &taken));
            assert!(made.0.max(made.1) <= most, "{size} {key}: {made:?}");
        }
    }
}
