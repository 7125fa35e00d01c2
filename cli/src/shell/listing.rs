//! The queries behind `\d` and its like. What is looked for is a parameter of theirs, never part of
//! their text.

use super::meta::Kind;

/// A query and the value of its parameter `$name`, if it has one.
#[derive(Debug, PartialEq)]
pub struct Listing {
    /// The query.
    pub sql: String,
    /// What is looked for.
    pub name: Option<String>,
}

/// The query that lists what there is of a kind, or describes what has a name. In patterns `*` stands
/// for any characters and `?` for one; a pattern with a dot is for schema and name, one without for
/// names in all schemas.
pub fn listing(kind: Kind, looked_for: Option<&str>) -> Listing {
    let looked_for = looked_for.map(str::to_ascii_lowercase);
    let exact = looked_for.as_deref().filter(|name| !name.contains(['*', '?']));
    match (kind, exact) {
        (Kind::Relations, Some(name)) => {
            return Listing {
                sql:
                    "SELECT column_name, data_type, is_nullable, comment FROM table_columns($name)"
                        .to_string(),
                name: Some(name.to_string()),
            };
        }
        (Kind::Models, Some(name)) => {
            return Listing {
                sql: "SELECT version, published, published_at, model_type, options, metrics, query, \
                      inputs, run FROM system.model_versions WHERE model = $name ORDER BY version DESC"
                    .to_string(),
                name: Some(name.to_string()),
            };
        }
        _ => {}
    }
    let (columns, from, named, condition) = match kind {
        Kind::Relations => (
            "table_schema, table_name, table_type",
            "information_schema.tables",
            "table_name",
            "table_type <> 'SYSTEM TABLE'",
        ),
        Kind::Tables => (
            "table_schema, table_name, rows, bytes, version, written_at, comment",
            "system.tables",
            "table_name",
            "true",
        ),
        Kind::Views => (
            "table_schema, table_name, view_definition",
            "information_schema.views",
            "table_name",
            "true",
        ),
        Kind::Models => {
            ("model, model_type, version, published_at", "system.models", "model", "true")
        }
        Kind::Schemas => ("schema_name", "information_schema.schemata", "schema_name", "true"),
        Kind::Functions => ("name, kind, syntax", "system.functions", "name", "true"),
    };
    let has_schema = matches!(kind, Kind::Relations | Kind::Tables | Kind::Views);
    let dotted = looked_for.as_deref().is_some_and(|name| name.contains('.'));
    let named = match has_schema && dotted {
        true => "table_schema || '.' || table_name",
        false => named,
    };
    let like =
        if looked_for.is_some() { format!(" AND {named} LIKE $name") } else { String::new() };
    let order = if kind == Kind::Schemas { "1" } else { "1, 2" };
    Listing {
        sql: format!("SELECT {columns} FROM {from} WHERE {condition}{like} ORDER BY {order}"),
        name: looked_for.map(|pattern| like_pattern(&pattern)),
    }
}

/// A pattern as LIKE has it.
fn like_pattern(pattern: &str) -> String {
    let mut like = String::with_capacity(pattern.len());
    for character in pattern.chars() {
        match character {
            '*' => like.push('%'),
            '?' => like.push('_'),
            '%' | '_' | '\\' => like.extend(['\\', character]),
            other => like.push(other),
        }
    }
    like
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_jobs::statement::parse;

    #[test]
    fn patterns_are_those_of_psql() {
        let named = |kind, text| listing(kind, Some(text));
        assert_eq!(named(Kind::Functions, "als_*?%").name.as_deref(), Some("als\\_%_\\%"));
        assert!(named(Kind::Tables, "raw.*").sql.contains("|| table_name LIKE $name"));
        assert!(named(Kind::Tables, "r*").sql.contains("AND table_name LIKE $name"));
        let described = named(Kind::Relations, "Raw.Ratings");
        assert!(described.sql.contains("table_columns($name)"));
        assert_eq!(described.name.as_deref(), Some("raw.ratings"));
        assert_eq!(listing(Kind::Relations, None).name, None);
    }

    #[test]
    fn queries_can_be_parsed() {
        use Kind::*;
        for kind in [Relations, Tables, Views, Models, Schemas, Functions] {
            for looked_for in [None, Some("a"), Some("a.b"), Some("a*")] {
                let sql = listing(kind, looked_for).sql;
                parse("listing", &sql).unwrap();
                assert_eq!(sql.contains("$name"), looked_for.is_some(), "{sql}");
            }
        }
    }
}
