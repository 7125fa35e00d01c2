//! What must hold before a run is published.

use super::keys::Keys;
use super::measures::{Column, DRIFT, Evaluation, Gated};

/// What must hold before a run is published.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// What is measured, and how.
    pub of: Gated,
    /// The measure, as it was written.
    pub measure: String,
    /// What it must not exceed.
    pub bounds: Bounds,
    /// Where it says what is measured: a byte of the text.
    pub(in crate::pipeline) at: usize,
}

/// Between what a measure has to be; all bounds are allowed values themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bounds {
    /// The least that it may be.
    pub min: Option<f64>,
    /// The most.
    pub max: Option<f64>,
    /// The least in proportion to what is published.
    pub min_ratio: Option<f64>,
    /// The most in proportion to what is published.
    pub max_ratio: Option<f64>,
}

impl Gate {
    /// Whether a measure lets a run be published; where nothing is published yet, proportions don't
    /// count.
    ///
    /// # Errors
    /// Why it doesn't.
    pub fn check(&self, measured: f64, published: Option<f64>) -> Result<(), String> {
        let what = format!("{} of {} is {measured}", self.measure, self.of.name());
        let Bounds { min, max, min_ratio, max_ratio } = self.bounds;
        if measured.is_nan() {
            return Err(format!("{what}: it can't be compared with anything"));
        }
        for (name, bound, wrong) in [
            ("min", min, min.is_some_and(|min| measured < min)),
            ("max", max, max.is_some_and(|max| measured > max)),
        ] {
            if let (Some(bound), true) = (bound, wrong) {
                return Err(format!("{what}, {name} is {bound}"));
            }
        }
        let Some(published) = published.filter(|published| !published.is_nan()) else {
            return Ok(());
        };
        // What was nothing, and is nothing, is the same.
        let ratio = if measured == published { 1.0 } else { measured / published };
        for (name, bound, wrong) in [
            ("min_ratio", min_ratio, min_ratio.is_some_and(|min| ratio < min)),
            ("max_ratio", max_ratio, max_ratio.is_some_and(|max| ratio > max)),
        ] {
            if let (Some(bound), true) = (bound, wrong) {
                return Err(format!(
                    "{what}, {ratio:.3} of the published {published}, {name} is {bound}"
                ));
            }
        }
        Ok(())
    }

    /// Reads one `[[gate]]`.
    pub(super) fn of(keys: &mut Keys<'_, '_>) -> Option<Self> {
        let kind = keys.one_of(&["model", "table"]);
        let (model, table) = (keys.name("model"), keys.name("table"));
        if keys.place("measure").is_none() {
            let at = keys.at();
            keys.wrong(at, "its measure is needed");
        }
        let measure: Option<(usize, String)> = keys.located("measure");
        let column = Column::of(keys);
        let at = column.place().or(measure.as_ref().map(|(at, _)| *at));
        let beside_max = ["min", "min_ratio", "max_ratio"].map(|name| keys.place(name));
        let bounds = Bounds::of(keys);
        let evaluation = Evaluation::of(keys);
        let of = match (kind?, measure.as_ref()?) {
            ("model", measure) => {
                column.refuse(keys, "a model has no column");
                evaluation.model(keys, model, measure)
            }
            (_, measure) => {
                evaluation.refuse(keys, "a table has no holdout");
                let senseless = beside_max.into_iter().flatten().filter(|_| measure.1 == DRIFT);
                for at in senseless {
                    keys.wrong(
                        at,
                        "drift is from what is published, and 0 is none: its bound is max",
                    );
                }
                column.table(keys, table, measure)
            }
        };
        Some(Self { of: of?, measure: measure?.1, bounds: bounds?, at: at? })
    }
}

impl Bounds {
    /// `None` if there is none that can be read.
    fn of(keys: &mut Keys<'_, '_>) -> Option<Self> {
        const NAMES: [&str; 4] = ["min", "max", "min_ratio", "max_ratio"];
        if NAMES.iter().all(|name| keys.place(name).is_none()) {
            let at = keys.at();
            keys.wrong(at, format!("a bound is needed: one or more of {}", NAMES.join(", ")));
        }
        let found = NAMES.map(|name| {
            let (at, bound): (usize, f64) = keys.located(name)?;
            if !bound.is_finite() || name.ends_with("ratio") && bound < 0.0 {
                keys.wrong(at, format!("{name} can't be {bound}"));
                return None;
            }
            Some((at, bound))
        });
        for (least, most, names) in [
            (found[0], found[1], "min is more than max"),
            (found[2], found[3], "min_ratio is more than max_ratio"),
        ] {
            if let (Some((_, least)), Some((at, most))) = (least, most)
                && least > most
            {
                keys.wrong(at, format!("{names}: nothing could be published"));
            }
        }
        let [min, max, min_ratio, max_ratio] = found.map(|bound| bound.map(|(_, bound)| bound));
        let any = found.iter().any(Option::is_some);
        any.then_some(Self { min, max, min_ratio, max_ratio })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::tests::check;
    use super::*;

    fn gate(text: &str) -> Gate {
        let (mut settings, mistakes) = Settings::parse("p.toml", &format!("[[gate]]\n{text}"));
        assert!(mistakes.is_empty(), "{mistakes:?}");
        settings.gates.remove(0)
    }

    #[test]
    fn mistakes_are_said_one_by_one() {
        let text = "[[gate]]\nmodel = 'recs.als'\nmeasure = 'ndgc_at_20'\nmin = '1'\n\
                    [[gate]]\nmodel = 'als'\nmeasure = 'rmse'\n\
                    [[gate]]\ntable = 'a.t'\nmeasure = 'row'\nmin_ratio = -1\nholdout = 'a.h'\n\
                    [[gate]]\ntable = 'a.t'\nmodel = 'a.m'\nmin = 2\nmax = 1\n\
                    [[gate]]\nmodel = 'a.m'\nmeasure = 'loss'\nmax = inf\nholdout = 'a.h'\n\
                    [[gate]]\nmodel = 'a.m'\nmeasure = 'ndcg_at_5'\nmin = 1\nholdout = 'a.h'\n\
                    top = 6\n\
                    [[gate]]\nmodel = 'a.m'\nmeasure = 'mae'\nmin = 1\nholdout = 'a.h'\ntop = 0\n";
        let expected = [
            "3:11: there is no measure 'ndgc_at_20' of a model, but recall_at_k, ndcg_at_k, \
             map_at_k, users, coverage, pairs, rmse, mae, rows, items, nodes, edges, topics, \
             iterations, loss, mean, error_bound, converged, seconds, blocks_read, blocks_kept; \
             did you mean ndcg_at_k?",
            "4:7: invalid type: string \"1\"",
            "5:1: a bound is needed: one or more of min, max, min_ratio, max_ratio",
            "6:9: als: a name looks like schema.table",
            "7:11: rmse needs a holdout",
            "10:11: there is no measure 'row' of a table, but rows, bytes, mean, stddev, minimum, \
             maximum, nulls, distinct, drift; did you mean rows?",
            "11:13: min_ratio can't be -1",
            "12:1: a table has no holdout",
            "13:1: its measure is needed",
            "15:1: model and table exclude each other",
            "17:7: min is more than max",
            "21:7: max can't be inf",
            "22:1: loss is known from the training, without a holdout",
            "28:1: top is 6, and the measure ndcg_at_5",
            "34:1: top has no meaning for mae",
            "34:7: top can't be 0",
        ];
        check(text, &expected);
        for measure in
            ["ndcg_at_", "ndcg_at_0", "ndcg_at_05", "ndcg_at_x", "ndcg_at_99999999999999999999"]
        {
            let text =
                format!("[[gate]]\nmodel = 'a.m'\nholdout = 'a.h'\nmin = 1\nmeasure = '{measure}'");
            check(&text, &["5:11: there is no measure"]);
        }
    }

    #[test]
    fn mistakes_about_columns_are_said_one_by_one() {
        let drift = "drift is from what is published, and 0 is none: its bound is max";
        let text = "[[gate]]\ntable = 'a.t'\nmeasure = 'mean'\nmin = 1\n\
                    [[gate]]\ntable = 'a.t'\ncolumn = 'x'\nmeasure = 'rows'\nmin = 1\n\
                    [[gate]]\nmodel = 'a.m'\ncolumn = 'x'\nmeasure = 'loss'\nmax = 1\n\
                    [[gate]]\ntable = 'a.t'\ncolumn = 3\nmeasure = 'nulls'\nmax = 1\n\
                    [[gate]]\ntable = 'a.t'\ncolumn = 'x'\nmeasure = 'drift'\nmin = 0\nmax = 1\n\
                    min_ratio = 0\nmax_ratio = 1\n\
                    [[gate]]\ntable = 'a.t'\ncolumn = 'x'\nmeasure = 'maximun'\nmax = 1\n";
        let expected = [
            "3:11: mean needs a column: column = \"name\"".to_string(),
            "7:1: rows is of the whole table, without a column".to_string(),
            "12:1: a model has no column".to_string(),
            "17:10: invalid type: integer `3`, expected a string".to_string(),
            format!("24:1: {drift}"),
            format!("26:1: {drift}"),
            format!("27:1: {drift}"),
            "31:11: there is no measure 'maximun' of a table, but rows, bytes, mean, stddev, minimum, \
             maximum, nulls, distinct, drift; did you mean maximum?"
                .to_string(),
        ];
        check(text, &expected.each_ref().map(String::as_str));
        let whole = "[[gate]]\ntable = 'a.t'\ncolumn = 'x'\nmeasure = 'drift'\nmax = 0.25\n";
        let (settings, mistakes) = Settings::parse("p.toml", whole);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(super::super::position(whole, settings.gates[0].at), (3, 10));
    }

    #[test]
    fn a_measure_is_compared_with_bounds_and_with_what_is_published() {
        let gate = gate(
            "table = 'a.t'\nmeasure = 'rows'\nmin = 10\nmax = 100\nmin_ratio = 0.9\n\
             max_ratio = 1.5",
        );
        let reason = |measured, published| gate.check(measured, published).unwrap_err();
        for (measured, published) in [(10.0, None), (100.0, Some(100.0)), (90.0, Some(100.0))] {
            assert_eq!(gate.check(measured, published), Ok(()));
        }
        assert_eq!(gate.check(90.0, Some(f64::NAN)), Ok(()));
        assert_eq!(reason(9.0, None), "rows of a.t is 9, min is 10");
        assert_eq!(reason(101.0, Some(100.0)), "rows of a.t is 101, max is 100");
        let less = "rows of a.t is 89, 0.890 of the published 100, min_ratio is 0.9";
        assert_eq!(reason(89.0, Some(100.0)), less);
        assert!(reason(20.0, Some(0.0)).ends_with("of the published 0, max_ratio is 1.5"));
        assert!(reason(f64::NAN, None).contains("can't be compared"));
        let free = Bounds { min: None, max: None, ..gate.bounds };
        assert_eq!(Gate { bounds: free, ..gate }.check(0.0, Some(0.0)), Ok(()));
    }
}
