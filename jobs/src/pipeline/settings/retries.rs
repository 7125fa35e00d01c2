//! How often a step is tried, and when.

use super::durations::duration;
use super::keys::Keys;
use std::time::Duration;

/// How often a step is tried at most.
const MOST_ATTEMPTS: u32 = 20;

/// How often a step is tried, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// How often in all, from 1.
    pub attempts: u32,
    /// How long it is waited at most before the second attempt; twice as long before the third, and
    /// so on.
    pub delay: Duration,
    /// How long it is waited at most before any attempt.
    pub max_delay: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        let (delay, max_delay) = (Duration::from_secs(5), Duration::from_secs(300));
        Self { attempts: 3, delay, max_delay }
    }
}

impl Retries {
    pub(super) fn of(keys: &mut Keys<'_, '_>) -> Self {
        let default = Self::default();
        let attempts = keys.located("attempts").map(|(at, attempts): (usize, i64)| {
            let allowed = u32::try_from(attempts).ok().filter(|n| (1..=MOST_ATTEMPTS).contains(n));
            if allowed.is_none() {
                keys.wrong(
                    at,
                    format!("attempts is {attempts}: from 1 to {MOST_ATTEMPTS} are possible"),
                );
            }
            allowed.unwrap_or(default.attempts)
        });
        let given = keys.text("delay", duration);
        let at = keys.place("max_delay");
        let given_most = keys.text("max_delay", duration);
        let delay = given.unwrap_or(default.delay);
        // Whoever sets a long delay alone means it.
        let mut max_delay = given_most.unwrap_or(default.max_delay.max(delay));
        if let (Some(at), true) = (at, max_delay < delay) {
            keys.wrong(at, "max_delay is shorter than delay");
            max_delay = delay;
        }
        Self { attempts: attempts.unwrap_or(default.attempts), delay, max_delay }
    }

    /// How long to wait after an attempt, counted from 1, has failed. `random`, from 0 to 1,
    /// spreads those that have failed together, all over the time that they could wait.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let doubled = 2_u32.checked_pow(attempt.saturating_sub(1));
        let longest = doubled.and_then(|times| self.delay.checked_mul(times));
        let longest = longest.unwrap_or(self.max_delay).min(self.max_delay);
        // Also if it isn't a number.
        let random = if random > 0.0 { random.min(1.0) } else { 0.0 };
        longest.mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_are_spread() {
        let retries = Retries { attempts: 9, ..Retries::default() };
        let seconds = |attempt, random| retries.delay(attempt, random).as_secs_f64();
        let longest: Vec<_> = (1..9).map(|attempt| seconds(attempt, 1.0)).collect();
        assert_eq!(longest, [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]);
        assert_eq!((seconds(2, 0.5), seconds(2, 0.0), seconds(0, 1.0)), (5.0, 0.0, 5.0));
        assert_eq!(seconds(u32::MAX, 1.0), 300.0);
        for (random, expected) in [(f64::NAN, 0.0), (-1.0, 0.0), (7.0, 10.0)] {
            assert_eq!(seconds(2, random), expected);
        }
    }

    #[test]
    fn what_is_not_given_has_a_default() {
        use super::super::Settings;
        use super::super::tests::check;
        let retries = |text: &str| Settings::parse("p.toml", text).0.retries;
        assert_eq!(retries(""), Retries::default());
        let slow = retries("retries.delay = '10m'");
        assert_eq!(
            (slow.delay, slow.max_delay),
            (Duration::from_secs(600), Duration::from_secs(600))
        );
        let text = "[retries]\nattempts = 21\ndelay = '5'\nmax_delay = '1s'";
        let expected = [
            "2:12: attempts is 21: from 1 to 20 are possible",
            "3:9: '5' is no duration",
            "4:1: max_delay is shorter than delay",
        ];
        check(text, &expected);
    }
}
