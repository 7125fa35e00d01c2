//! The options, declared once: name, type, default, range, and a sentence for the reference page.

use crate::statement::OptionValue;

/// An option of a type.
#[derive(Debug)]
pub(super) struct Declaration<T> {
    pub(super) name: &'static str,
    pub(super) values: T,
    pub(super) meaning: &'static str,
}

/// A text; one of `allowed` if that isn't empty.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) default: Option<&'static str>,
    pub(super) allowed: &'static [&'static str],
}

/// A whole number from `low` to `high`.
#[derive(Debug)]
pub(super) struct Integer {
    pub(super) default: i64,
    pub(super) low: i64,
    pub(super) high: i64,
}

/// A number from `low` to `high`; more than 0 if `low` is the smallest positive one.
#[derive(Debug)]
pub(super) struct Number {
    pub(super) default: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// `true` or `false`.
#[derive(Debug)]
pub(super) struct Boolean {
    pub(super) default: bool,
}

/// What all types of options have: how their values are shown and read.
pub(super) trait Values {
    /// What a value of the option becomes.
    type Value;

    /// The type, as the reference page shows it.
    fn kind(&self) -> String;

    /// The default as it would be written; `None` if there is none.
    fn default(&self) -> Option<String>;

    /// Reads a value. The error says what is allowed.
    fn read(&self, value: &OptionValue) -> Result<Self::Value, String>;
}

impl Values for Text {
    type Value = String;

    fn kind(&self) -> String {
        match self.allowed {
            [] => "text".to_string(),
            allowed => quoted(allowed),
        }
    }

    fn default(&self) -> Option<String> {
        self.default.map(|text| format!("'{text}'"))
    }

    fn read(&self, value: &OptionValue) -> Result<String, String> {
        match value {
            OptionValue::Text(text)
                if self.allowed.is_empty() || self.allowed.contains(&text.as_str()) =>
            {
                Ok(text.clone())
            }
            OptionValue::Text(text) => Err(format!("'{text}' is not {}", quoted(self.allowed))),
            other => Err(format!("{} is not a text", other.to_json())),
        }
    }
}

fn quoted(texts: &[&str]) -> String {
    texts.iter().map(|text| format!("'{text}'")).collect::<Vec<_>>().join(" or ")
}

impl Values for Integer {
    type Value = i64;

    fn kind(&self) -> String {
        match self.high {
            i64::MAX => format!("whole number from {}", self.low),
            high => format!("whole number from {} to {high}", self.low),
        }
    }

    fn default(&self) -> Option<String> {
        Some(self.default.to_string())
    }

    fn read(&self, value: &OptionValue) -> Result<i64, String> {
        let number = match value {
            OptionValue::Number(text) => text.parse::<i64>().ok(),
            _ => None,
        };
        let number = number.filter(|number| (self.low..=self.high).contains(number));
        number.ok_or_else(|| format!("{} is not a {}", value.to_json(), self.kind()))
    }
}

/// The shorter of the forms that a number has.
fn shortest(number: f64) -> String {
    let (plain, scientific) = (format!("{number}"), format!("{number:e}"));
    if scientific.len() < plain.len() { scientific } else { plain }
}

impl Values for Number {
    type Value = f64;

    fn kind(&self) -> String {
        match self.low {
            f64::MIN_POSITIVE => format!("number above 0, to {}", shortest(self.high)),
            low => format!("number from {} to {}", shortest(low), shortest(self.high)),
        }
    }

    fn default(&self) -> Option<String> {
        Some(shortest(self.default))
    }

    fn read(&self, value: &OptionValue) -> Result<f64, String> {
        let number = match value {
            OptionValue::Number(text) => text.parse::<f64>().ok(),
            _ => None,
        };
        let number = number.filter(|number| (self.low..=self.high).contains(number));
        number.ok_or_else(|| format!("{} is not a {}", value.to_json(), self.kind()))
    }
}

impl Values for Boolean {
    type Value = bool;

    fn kind(&self) -> String {
        "`true` or `false`".to_string()
    }

    fn default(&self) -> Option<String> {
        Some(self.default.to_string())
    }

    fn read(&self, value: &OptionValue) -> Result<bool, String> {
        match value {
            OptionValue::Boolean(value) => Ok(*value),
            other => Err(format!("{} is neither true nor false", other.to_json())),
        }
    }
}

/// An option of any type, as far as the list of a model's options needs it.
pub(super) trait Declared: Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Name, type, default and meaning, as a row of the reference page.
    fn row(&self) -> [String; 4];
}

impl<T: Values + Sync> Declared for Declaration<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn row(&self) -> [String; 4] {
        let default = self.values.default().map_or(String::new(), |text| format!("`{text}`"));
        [format!("`{}`", self.name), self.values.kind(), default, self.meaning.to_string()]
    }
}

const fn text(
    name: &'static str,
    default: Option<&'static str>,
    meaning: &'static str,
) -> Declaration<Text> {
    Declaration { name, values: Text { default, allowed: &[] }, meaning }
}

pub(super) const MODEL_TYPE: Declaration<Text> = Declaration {
    name: "model_type",
    values: Text { default: None, allowed: &["matrix_factorization", "pagerank"] },
    meaning: "What is trained. It must be given.",
};

pub(super) const FEEDBACK_TYPE: Declaration<Text> = Declaration {
    name: "feedback_type",
    values: Text { default: Some("explicit"), allowed: &["explicit", "implicit"] },
    meaning: "`'implicit'`: weights are evidence of preference; `'explicit'`: they are values to predict.",
};

pub(super) const NUM_FACTORS: Declaration<Integer> = Declaration {
    name: "num_factors",
    values: Integer { default: 16, low: 1, high: 1024 },
    meaning: "Length of a factor vector.",
};

pub(super) const USER_COL: Declaration<Text> =
    text("user_col", Some("user_id"), "The column of the query that has the users' ids.");

pub(super) const ITEM_COL: Declaration<Text> =
    text("item_col", Some("item_id"), "The column of the query that has the items' ids.");

pub(super) const RATING_COL: Declaration<Text> =
    text("rating_col", Some("rating"), "The column of the query that has the weights.");

pub(super) const L2_REG: Declaration<Number> = Declaration {
    name: "l2_reg",
    values: Number { default: 1.0, low: 0.0, high: 1e12 },
    meaning: "Strength of the penalty on squared factors.",
};

pub(super) const L2_REG_EXPONENT: Declaration<Number> = Declaration {
    name: "l2_reg_exponent",
    values: Number { default: 0.0, low: 0.0, high: 1.0 },
    meaning: "ν: a row with n entries is penalised by l2_reg · nᵛ; for implicit feedback n + others / wals_alpha takes \
        the place of n, where others is the number of rows of the other side.",
};

pub(super) const WALS_ALPHA: Declaration<Number> = Declaration {
    name: "wals_alpha",
    values: Number { default: 40.0, low: f64::MIN_POSITIVE, high: 1e12 },
    meaning: "Implicit feedback only: a pair with weight w has the confidence 1 + wals_alpha · abs(w).",
};

pub(super) const BIAS: Declaration<Boolean> = Declaration {
    name: "bias",
    values: Boolean { default: false },
    meaning: "Explicit feedback only: predictions are mean + bias of user + bias of item + inner product.",
};

pub(super) const SOLVER: Declaration<Text> = Declaration {
    name: "solver",
    values: Text {
        default: Some("auto"),
        allowed: &["auto", "exact", "subspace", "conjugate_gradient"],
    },
    meaning: "How the factors of a user or item are found while the other side's stay fixed. `'exact'`: all at once. \
        `'subspace'` (iALS++): some at a time, in one pass over them. `'conjugate_gradient'`: by steps from where they \
        were. The latter two do less work in an iteration for many factors, and come a little less far in it. `'auto'`: what \
        gets to a given loss first, see [Models](models.md#solvers).",
};

pub(super) const SUBSPACE_FACTORS: Declaration<Integer> = Declaration {
    name: "subspace_factors",
    values: Integer { default: 32, low: 1, high: 1024 },
    meaning: "With `solver = 'subspace'` only: how many factors are solved at a time.",
};

pub(super) const CG_STEPS: Declaration<Integer> = Declaration {
    name: "cg_steps",
    values: Integer { default: 2, low: 1, high: 1000 },
    meaning: "With `solver = 'conjugate_gradient'` only: steps for each user and item in an iteration.",
};

pub(super) const NONNEGATIVE: Declaration<Boolean> = Declaration {
    name: "nonnegative",
    values: Boolean { default: false },
    meaning: "Whether no factor may be negative; biases may be. Solved exactly, with `solver` `'auto'` or `'exact'`.",
};

pub(super) const MAX_ITERATIONS: Declaration<Integer> = Declaration {
    name: "max_iterations",
    values: Integer { default: 20, low: 1, high: 10_000 },
    meaning: "An iteration solves all users, then all items.",
};

pub(super) const EARLY_STOP: Declaration<Boolean> = Declaration {
    name: "early_stop",
    values: Boolean { default: true },
    meaning: "Whether training stops when the loss falls by less than `min_rel_progress` of itself.",
};

pub(super) const MIN_REL_PROGRESS: Declaration<Number> = Declaration {
    name: "min_rel_progress",
    values: Number { default: 0.01, low: 0.0, high: 1.0 },
    meaning: "The share of the loss by which it must fall in an iteration, see `early_stop`.",
};

pub(super) const SEED: Declaration<Integer> = Declaration {
    name: "seed",
    values: Integer { default: 0, low: 0, high: i64::MAX },
    meaning: "Decides the starting factors of the items.",
};

pub(super) const WARM_START: Declaration<Boolean> = Declaration {
    name: "warm_start",
    values: Boolean { default: false },
    meaning: "Whether training starts from the factors that the published version of the model has for the items; items \
        that it doesn't have start as without the option. Users are solved first, so their old factors have no part in \
        it. `num_factors` must be that version's. Without a published version, training starts as without the option.",
};

pub(super) const SOURCE_COL: Declaration<Text> = text(
    "source_col",
    Some("source"),
    "The column of the query that has the nodes where edges start.",
);

pub(super) const TARGET_COL: Declaration<Text> = text(
    "target_col",
    Some("target"),
    "The column of the query that has the nodes where edges end, of the same type as `source_col`.",
);

pub(super) const WEIGHT_COL: Declaration<Text> = text(
    "weight_col",
    None,
    "The column of the query that has the edges' weights; every weight is 1 without it.",
);

pub(super) const DAMPING: Declaration<Number> = Declaration {
    name: "damping",
    values: Number { default: 0.85, low: 0.0, high: 1.0 - 1e-9 },
    meaning: "Probability of following an edge.",
};

pub(super) const TOLERANCE: Declaration<Number> = Declaration {
    name: "tolerance",
    values: Number { default: 1e-8, low: 1e-15, high: 1.0 },
    meaning: "Largest L1 distance of the ranks to the exact ones.",
};

pub(super) const MOST_STEPS: Declaration<Integer> = Declaration {
    name: "max_iterations",
    values: Integer { default: 200, low: 1, high: 100_000 },
    meaning: "When they don't suffice, the model is made all the same, a note says so, and `training_info` tells the \
        bound that was reached.",
};

pub(super) const TELEPORT_TABLE: Declaration<Text> = text(
    "teleport_table",
    None,
    "A table whose first column is a node and whose second a weight: where walks start again. Nodes that the graph lacks \
     don't count. Walks start again anywhere without it.",
);

pub(super) const TELEPORT_BY: Declaration<Text> = text(
    "teleport_by",
    None,
    "A column of `teleport_table`, such as a category, whose values have a distribution each: there are ranks for every \
     one of them, and they sum to 1 for each. The node and the weight are the first two of the other columns. Values \
     without a weight in the graph get no ranks.",
);

pub(super) const WARM_RANKS: Declaration<Boolean> = Declaration {
    name: "warm_start",
    values: Boolean { default: false },
    meaning: "Whether the steps start from the ranks that the published version of the model has, scaled so that they \
        add up to 1; nodes that it doesn't have start at 0. The ranks come out the same within `tolerance`, after fewer \
        steps if the graph has changed little. Without a published version, or if it has none of the nodes, the steps \
        start as without the option.",
};

/// The options of `matrix_factorization`, in the order of the page.
pub(super) static MATRIX_FACTORIZATION: &[&dyn Declared] = &[
    &MODEL_TYPE,
    &FEEDBACK_TYPE,
    &USER_COL,
    &ITEM_COL,
    &RATING_COL,
    &NUM_FACTORS,
    &L2_REG,
    &L2_REG_EXPONENT,
    &WALS_ALPHA,
    &BIAS,
    &NONNEGATIVE,
    &SOLVER,
    &SUBSPACE_FACTORS,
    &CG_STEPS,
    &MAX_ITERATIONS,
    &EARLY_STOP,
    &MIN_REL_PROGRESS,
    &SEED,
    &WARM_START,
];

/// The options of `pagerank`, in the order of the page.
pub(super) static PAGERANK: &[&dyn Declared] = &[
    &MODEL_TYPE,
    &SOURCE_COL,
    &TARGET_COL,
    &WEIGHT_COL,
    &DAMPING,
    &TOLERANCE,
    &MOST_STEPS,
    &TELEPORT_TABLE,
    &TELEPORT_BY,
    &WARM_RANKS,
];
