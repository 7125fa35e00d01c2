//! Durations as people write them.

use std::time::Duration;

/// Nothing here takes longer.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Reads a duration such as `90s`, `5m`, `2h`, `1d` or `1h 30m`.
///
/// # Errors
/// If it isn't one, or is none that makes sense.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    // A capital M would be a month, which nobody means who writes it here.
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || " .".contains(c);
    let readable = text.len() <= 20 && text.chars().all(allowed);
    let duration = readable.then(|| humantime::parse_duration(text).ok()).flatten();
    match duration {
        None => Err(format!(
            "'{text}' is no duration: write one like '90s', '5m', '2h', '1d' or '1h 30m'"
        )),
        Some(Duration::ZERO) => Err("a duration is longer than nothing".to_string()),
        Some(duration) if duration > LONGEST => {
            Err(format!("'{text}' is longer than a year, which nothing takes here"))
        }
        Some(duration) => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, seconds) in [
            ("90s", 90.0),
            ("5m", 300.0),
            ("2h", 7200.0),
            ("1d", 86400.0),
            ("1h 30m", 5400.0),
            ("1h30m", 5400.0),
            ("0.5h", 1800.0),
            ("250ms", 0.25),
            ("5 minutes", 300.0),
        ] {
            assert_eq!(duration(text).unwrap().as_secs_f64(), seconds, "{text}");
        }
        for text in ["", " ", "5", "5M", "m", "-5m", "5m!", "5 parsecs", "18446744073709551615s 1s"]
        {
            let error = duration(text).unwrap_err();
            assert!(error.starts_with(&format!("'{text}' is no duration")), "{error}");
        }
        for text in ["0s", "367d", "9999999999999999w"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
