//! What somebody may have meant who wrote a name that there isn't.

use datafusion::common::utils::datafusion_strsim::normalized_levenshtein;

/// How alike two names must be, from 0 to 1.
const ALIKE: f64 = 0.6;

/// `; did you mean …?` with the most similar of the names that there are, or nothing if none is similar.
pub(crate) fn did_you_mean<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> String {
    let alike = names.map(|name| (normalized_levenshtein(written, name), name));
    let best = alike.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)));
    match best {
        Some((likeness, name)) if likeness >= ALIKE => format!("; did you mean {name}?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn only_similar_names_are_suggested() {
        let names = || ["features.ratings", "features.movies", "x.t"].into_iter();
        assert_eq!(did_you_mean("features.rating", names()), "; did you mean features.ratings?");
        assert_eq!(did_you_mean("feature.movie", names()), "; did you mean features.movies?");
        assert_eq!(did_you_mean("recs.als", names()), "");
        assert_eq!(did_you_mean("a", std::iter::empty()), "");
    }
}
