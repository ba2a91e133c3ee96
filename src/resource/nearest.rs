//! "Did you mean": the known word nearest to a wrong one.

/// The word of `known` that `word` most probably means, if one is near enough to be worth saying:
/// the same but for case and separators, or less than half of its letters away.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = folded(word);
    known
        .into_iter()
        .filter_map(|candidate| {
            let other = folded(candidate);
            let far = distance(&wanted, &other);
            (far * 2 < wanted.len().max(other.len())).then_some((far, candidate))
        })
        .min_by_key(|(far, _)| *far)
        .map(|(_, candidate)| candidate)
}

/// Longer words are not compared: the cost grows with the square.
const WORD_CHARACTERS_MAX: usize = 64;

fn folded(word: &str) -> Vec<char> {
    let letters = word.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).take(WORD_CHARACTERS_MAX).collect()
}

/// Damerau's distance, in which two swapped neighbours count once ("optimal string alignment").
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before = vec![0; to.len() + 1];
    let mut above = (0..=to.len()).collect::<Vec<_>>();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut cost = (above[j] + usize::from(a != b)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_finds_the_word_that_was_meant() {
        let known =
            ["UNAVAILABLE", "UNIMPLEMENTED", "CANCELLED", "backendRefs", "PeakEwma", "name"];
        for (word, meant) in [
            ("UNAVAILBLE", Some("UNAVAILABLE")),
            ("unavailable", Some("UNAVAILABLE")),
            ("CANCELED", Some("CANCELLED")),
            ("backend_refs", Some("backendRefs")),
            ("backendrefs", Some("backendRefs")),
            ("PEAK_EWMA", Some("PeakEwma")),
            ("naem", Some("name")),
            ("backends", Some("backendRefs")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }

    #[test]
    fn nothing_is_near_an_empty_list() {
        assert_eq!(nearest("name", []), None);
    }
}
