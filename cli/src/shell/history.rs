//! What has been typed before, in a file of the user's.

use std::path::PathBuf;

/// How much of it is kept.
pub const ENTRIES: usize = 10_000;

/// The file: `NIGHTSHIFT_HISTORY`, which can be empty for none, or `nightshift/history` in the folder for
/// the state of programs.
pub fn file(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if let Some(file) = variable("NIGHTSHIFT_HISTORY") {
        return Some(file).filter(|file| !file.as_os_str().is_empty());
    }
    let state = variable("XDG_STATE_HOME").filter(|folder| folder.is_absolute());
    let state = state.or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("nightshift/history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_where_the_user_wants_it() {
        let with = |variables: &'static [(&str, &str)]| {
            let file = file(|name| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| PathBuf::from(value))
            });
            file.map(|file| file.display().to_string())
        };
        assert_eq!(with(&[("NIGHTSHIFT_HISTORY", "h"), ("HOME", "/u")]).as_deref(), Some("h"));
        assert_eq!(with(&[("NIGHTSHIFT_HISTORY", ""), ("HOME", "/u")]), None);
        let state = with(&[("XDG_STATE_HOME", "/s"), ("HOME", "/u")]);
        assert_eq!(state.as_deref(), Some("/s/nightshift/history"));
        // Relative folders mean nothing there.
        let home = with(&[("XDG_STATE_HOME", "s"), ("HOME", "/u")]);
        assert_eq!(home.as_deref(), Some("/u/.local/state/nightshift/history"));
        assert_eq!(with(&[]), None);
    }
}
