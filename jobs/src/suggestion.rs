//! What somebody may have meant by a name that stands for nothing.

use datafusion::common::utils::datafusion_strsim::levenshtein;

/// `; did you mean x?` with the most similar of the names, or nothing if none is.
pub fn did_you_mean<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let name = name.to_ascii_lowercase();
    // A third of the letters can be wrong.
    let most = name.chars().count().div_ceil(3);
    let near = names.map(|other| (levenshtein(&name, &other.to_ascii_lowercase()), other));
    match near.filter(|(distance, _)| *distance <= most).min() {
        Some((_, nearest)) => format!("; did you mean {nearest}?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_similar_names_are_suggested() {
        let meant = |name| did_you_mean(name, ["recs.als", "recs.als_explicit"].into_iter());
        assert_eq!(meant("recs.asl"), "; did you mean recs.als?");
        assert_eq!(meant("RECS.ALS_EXPLICT"), "; did you mean recs.als_explicit?");
        assert_eq!(meant("graph.pagerank"), "");
        assert_eq!(did_you_mean("x", std::iter::empty()), "");
    }
}
