//! Reference pages that are generated from the code, and the check that they are fresh.

/// Fails if a page of `docs/` is not `expected`, or writes it again if the environment variable `UPDATE`
/// is set.
pub fn check(name: &str, expected: &str) {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == expected,
        "docs/{name} is stale, write it again: \
         UPDATE=1 cargo nextest run --release --workspace --lib -E 'test(reference_page)'"
    );
}
