//! Reading a page of metrics in Prometheus' text form, as far as the demo needs it.

/// The sum of a family's samples that have all of these labels.
pub(super) fn sum(page: &str, family: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    page.lines()
        .filter_map(|line| line.strip_prefix(family))
        .filter_map(|rest| match rest.strip_prefix('{') {
            Some(rest) => rest.split_once("} "),
            None => rest.strip_prefix(' ').map(|value| ("", value)),
        })
        .filter(|(found, _)| wanted.iter().all(|label| has(found, label)))
        .filter_map(|(_, value)| value.split(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Whether the label stands among those found, and not only at the end of another's name.
fn has(found: &str, label: &str) -> bool {
    found.match_indices(label).any(|(at, _)| at == 0 || found.as_bytes()[at - 1] == b',')
}

#[cfg(test)]
mod tests {
    use super::sum;

    const PAGE: &str = "\
# TYPE outrigger_endpoints gauge
outrigger_endpoints{destination=\"inventory.shop\",state=\"ready\"} 1
outrigger_endpoints{destination=\"inventory.shop\",state=\"ejected\"} 1
outrigger_endpoints{destination=\"catalog.shop\",state=\"ready\"} 2 1700000000
outrigger_endpoints_of_another_kind{state=\"ready\"} 9
outrigger_control_connected 1
";

    #[test]
    fn samples_are_chosen_by_family_and_labels() {
        for (family, labels, expected) in [
            ("outrigger_endpoints", &[("state", "ready")][..], 3.0),
            ("outrigger_endpoints", &[("destination", "inventory.shop")][..], 2.0),
            ("outrigger_endpoints", &[("destination", "x"), ("state", "ready")][..], 0.0),
            ("outrigger_endpoints", &[("ate", "ready")][..], 0.0),
            ("outrigger_control_connected", &[][..], 1.0),
            ("outrigger_absent", &[][..], 0.0),
        ] {
            assert!((sum(PAGE, family, labels) - expected).abs() < 1e-9, "{family} {labels:?}");
        }
    }
}
