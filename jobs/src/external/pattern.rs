//! Patterns of paths, as shells have them: `*`, `?` and `[a-z]`, none of which stands for a slash.

/// Whether a path has the form of a pattern.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let (patterns, parts): (Vec<&str>, Vec<&str>) =
        (pattern.split('/').collect(), path.split('/').collect());
    let mut pairs = patterns.iter().zip(&parts);
    patterns.len() == parts.len() && pairs.all(|(pattern, part)| matches_part(pattern, part))
}

/// What is wrong with a pattern.
pub(super) fn wrong(pattern: &str) -> Option<&'static str> {
    let open =
        |part: &str| part.contains('[') && !part[part.find('[').unwrap_or(0)..].contains(']');
    pattern.split('/').any(open).then_some("a [ has no ]")
}

fn matches_part(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut here) = (0, 0);
    // Where the last star is, and how much of the text it stands for.
    let mut star: Option<(usize, usize)> = None;
    while here < text.len() {
        let one = match pattern.get(at) {
            Some('*') => {
                star = Some((at, here));
                at += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => in_set(&pattern[at..], text[here]),
            Some(plain) => (*plain == text[here]).then_some(1),
            None => None,
        };
        match (one, star) {
            (Some(length), _) => {
                at += length;
                here += 1;
            }
            (None, Some((position, begin))) => {
                star = Some((position, begin + 1));
                (at, here) = (position + 1, begin + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

/// How long a set such as `[a-z]` or `[!0-9]` is, if a character is in it.
fn in_set(pattern: &[char], character: char) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let first = if negated { 2 } else { 1 };
    // A bracket that comes first is a character of the set.
    let end = (first + 1..pattern.len()).find(|at| pattern[*at] == ']')?;
    let (mut at, mut found) = (first, false);
    while at < end {
        if at + 2 < end && pattern[at + 1] == '-' {
            found |= (pattern[at]..=pattern[at + 2]).contains(&character);
            at += 3;
        } else {
            found |= pattern[at] == character;
            at += 1;
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::{matches, wrong};

    #[test]
    fn patterns_are_those_of_shells() {
        for (pattern, path, expected) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "a.csv.gz", false),
            ("*.csv", "b/a.csv", false),
            ("2026-*/*.csv", "2026-01/x.csv", true),
            ("2026-*/*.csv", "2025-01/x.csv", false),
            ("day=*/part-?.json", "day=1/part-7.json", true),
            ("day=*/part-?.json", "day=1/part-77.json", false),
            ("[a-c]x[!0-9]", "bxz", true),
            ("[a-c]x[!0-9]", "bx3", false),
            ("[]]", "]", true),
            ("*a*b*", "xxaybz", true),
            ("*a*b*", "xxbya", false),
            ("ü?", "üß", true),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
        assert!(wrong("a/[b").is_some());
        assert!(wrong("a/[b]").is_none());
    }
}
