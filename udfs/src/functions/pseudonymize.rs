//! `pseudonymize(id)`: a name for somebody that only the holder of a key can tie to the id.

use super::arguments::{check_count, of_columns};
use super::reference::{PRIVACY, Page};
use arrow::array::{Array, ArrayRef, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::cast::as_string_array;
use datafusion::common::{Result, exec_datafusion_err, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::{Arc, LazyLock, OnceLock};

const NAME: &str = "pseudonymize";

const SYNTAX: &str = "pseudonymize(id)";

/// Where executors find the key.
const VARIABLE: &str = "NIGHTSHIFT_PSEUDONYM_KEY";

/// Characters that a key has at least: ids are easily guessed, so keys must not be.
const SHORTEST_KEY: usize = 16;

/// Hexadecimal digits of a pseudonym: with 128 bits, a billion ids have two alike with a
/// probability of 1.5e-21.
const DIGITS: usize = 32;

/// Separates this use of a key from every other; part of what pseudonyms are made of.
const CONTEXT: &str = "nightshift pseudonymize v1";

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: PRIVACY,
        syntax: SYNTAX,
        description: "A pseudonym for an id: 32 hexadecimal digits (VARCHAR), the first 128 bits of the keyed BLAKE3 \
            hash of its text. The same id and key give the same pseudonym everywhere, so that tables can \
            still be joined; without the key a pseudonym can't be computed or tried out. The key is derived \
            from the environment variable `NIGHTSHIFT_PSEUDONYM_KEY` of the executors, at least 16 \
            characters, the same on all of them (`openssl rand -hex 32` makes one), with BLAKE3's \
            `derive_key` and the context `nightshift pseudonymize v1`. Executors read it when they first \
            need it; it is in no plan, table or message. Without it the query fails. The function counts as \
            volatile, so that only executors evaluate it: it is never a constant that a client or the \
            scheduler, who need not have the key, would compute while planning.",
        arguments: &[(
            "id",
            "A whole number or a text. A number is taken as its decimal text: 42 and '42' have the same \
             pseudonym. Other types are errors: cast them.",
        )],
        example: "SELECT pseudonymize(user_id) AS person, count(*) AS events\nFROM raw.events GROUP BY 1",
    }
    .documentation()
});

/// The function `pseudonymize`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Pseudonymize {
    signature: Signature,
}

impl Default for Pseudonymize {
    fn default() -> Self {
        // Immutable and stable functions of constants are evaluated where a query is planned.
        Self { signature: Signature::user_defined(Volatility::Volatile) }
    }
}

impl ScalarUDFImpl for Pseudonymize {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(SYNTAX, types, &[1])?;
        match &types[0] {
            id if id.is_integer() || id.is_string() || id.is_null() => Ok(vec![id.clone()]),
            DataType::Dictionary(_, id) if id.is_integer() || id.is_string() => {
                Ok(vec![(**id).clone()])
            }
            other => plan_err!("{NAME}: id is a {other}, not a whole number or a text: cast it"),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let key = key()?;
        of_columns(&args.args, |columns| match columns {
            [ids] => pseudonyms(&key, ids),
            _ => exec_err!("{NAME} takes one argument"),
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

/// The key of this process.
fn key() -> Result<[u8; blake3::KEY_LEN]> {
    static KEY: OnceLock<std::result::Result<[u8; blake3::KEY_LEN], String>> = OnceLock::new();
    KEY.get_or_init(|| derive(std::env::var(VARIABLE).ok().as_deref()))
        .clone()
        .map_err(|message| exec_datafusion_err!("{message}"))
}

fn derive(secret: Option<&str>) -> std::result::Result<[u8; blake3::KEY_LEN], String> {
    let advice = format!(
        "set the environment variable {VARIABLE} of all executors to the same secret of at least \
         {SHORTEST_KEY} characters"
    );
    match secret {
        Some(secret) if secret.chars().count() >= SHORTEST_KEY => {
            Ok(blake3::derive_key(CONTEXT, secret.as_bytes()))
        }
        Some(_) => Err(format!("{NAME}: the key is too short: {advice}")),
        None => Err(format!("{NAME}: there is no key: {advice}")),
    }
}

fn pseudonyms(key: &[u8; blake3::KEY_LEN], ids: &ArrayRef) -> Result<ArrayRef> {
    let ids = cast(ids, &DataType::Utf8)?;
    let ids = as_string_array(&ids)?;
    let mut pseudonyms = StringBuilder::with_capacity(ids.len(), DIGITS * ids.len());
    for id in ids {
        let hash = id.map(|id| blake3::keyed_hash(key, id.as_bytes()).to_hex());
        pseudonyms.append_option(hash.as_ref().map(|hash| &hash[..DIGITS]));
    }
    Ok(Arc::new(pseudonyms.finish()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, sql};
    use super::*;
    use arrow::array::{Int64Array, StringArray, UInt64Array};
    use proptest::prelude::*;
    use std::collections::HashSet;

    const SECRET: &str = "a secret of some length";

    fn of(ids: impl Array + 'static, secret: &str) -> Vec<Option<String>> {
        let ids: ArrayRef = Arc::new(ids);
        let names = pseudonyms(&derive(Some(secret)).unwrap(), &ids).unwrap();
        as_string_array(&names).unwrap().iter().map(|name| name.map(String::from)).collect()
    }

    proptest! {
        /// The definition, with another interface of the hash function, and no two alike.
        #[test]
        fn is_the_keyed_hash_of_the_text(ids in prop::collection::hash_set(any::<i64>(), 1..50)) {
            let ids: Vec<i64> = ids.into_iter().collect();
            let names = of(Int64Array::from(ids.clone()), SECRET);
            let key = blake3::Hasher::new_derive_key(CONTEXT).update(SECRET.as_bytes()).finalize();
            for (id, name) in ids.iter().zip(&names) {
                let mut bytes = [0; 16];
                let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
                hasher.update(id.to_string().as_bytes()).finalize_xof().fill(&mut bytes);
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                prop_assert_eq!(name.as_ref(), Some(&hex));
            }
            prop_assert_eq!(names.iter().collect::<HashSet<_>>().len(), ids.len());
        }
    }

    #[test]
    fn types_agree_and_keys_do_not() {
        let number = of(Int64Array::from(vec![Some(42), None]), SECRET);
        assert_eq!(number[1], None);
        assert_eq!(number, of(UInt64Array::from(vec![Some(42), None]), SECRET));
        assert_eq!(number, of(StringArray::from(vec![Some("42"), None]), SECRET));
        assert_ne!(number[0], of(Int64Array::from(vec![42]), "another secret key!!")[0]);
        assert!(of(StringArray::from(vec![""]), SECRET)[0].is_some());
    }

    #[test]
    fn keys_must_be_there_and_long() {
        let advice = "set the environment variable NIGHTSHIFT_PSEUDONYM_KEY of all executors to the \
                      same secret of at least 16 characters";
        assert_eq!(derive(None), Err(format!("pseudonymize: there is no key: {advice}")));
        let short = derive(Some("0123456789abcde")).unwrap_err();
        assert_eq!(short, format!("pseudonymize: the key is too short: {advice}"));
        assert!(derive(Some("0123456789abcdef")).is_ok());
    }

    #[test]
    fn planning_evaluates_nothing() {
        // The tests' process has no key, so evaluation fails, and planning a constant doesn't.
        assert!(error("SELECT pseudonymize(42)").contains("there is no key"));
        let plan = sql("EXPLAIN SELECT pseudonymize(42)").unwrap();
        assert!(format!("{plan:?}").contains("pseudonymize(Int64(42))"), "{plan:?}");
    }

    #[test]
    fn other_types_are_errors() {
        let message = "pseudonymize: id is a Float64, not a whole number or a text: cast it";
        assert!(error("SELECT pseudonymize(1.5)").contains(message));
        assert!(error("SELECT pseudonymize(1, 2)").contains("usage: pseudonymize(id)"));
    }
}
