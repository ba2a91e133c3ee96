//! Shares, written as `20%`: a bare `0.2` or `20` could be either, so the sign is not optional.

use std::{fmt, str::FromStr};

use super::UnitError;

/// A share from 0% to 100%.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent {
    percent: f64,
}

const ERROR: UnitError = UnitError::new("not a share", "0% to 100%, like 20% or 0.1%");
/// More would be lost in the number anyway.
const DIGITS_MAX: usize = 12;

impl Percent {
    /// Of so many hundredths: `Percent::new(20)` is 20%. What is over 100 becomes 100.
    pub const fn new(percent: u8) -> Self {
        let percent = if percent > 100 { 100 } else { percent };
        #[allow(clippy::cast_lossless, reason = "`f64::from` is not const")]
        Self { percent: percent as f64 }
    }

    /// 0.0 to 1.0.
    pub fn share(self) -> f64 {
        self.percent / 100.0
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    /// Reads `20%`, `0.1%`, `100%`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let number = text.strip_suffix('%').ok_or(ERROR)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if number.len() > DIGITS_MAX || !digits(whole) || !digits(fraction) {
            return Err(ERROR);
        }
        let percent = number.parse::<f64>().map_err(|_| ERROR)?;
        if percent > 100.0 {
            return Err(ERROR);
        }
        Ok(Self { percent })
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::Percent;

    #[test]
    fn shares_carry_their_sign() {
        for (text, share) in [
            ("0%", 0.0),
            ("20%", 0.2),
            ("0.1%", 0.001),
            ("12.5%", 0.125),
            ("100%", 1.0),
            ("100.0%", 1.0),
        ] {
            let percent = text.parse::<Percent>().expect(text);
            assert!((percent.share() - share).abs() < 1e-12, "{text}");
        }
        assert_eq!("20%".parse(), Ok(Percent::new(20)));
        assert_eq!(Percent::new(20).to_string(), "20%");
        assert_eq!("0.5%".parse::<Percent>().expect("read").to_string(), "0.5%");
    }

    #[test]
    fn what_could_mean_something_else_is_refused() {
        for text in [
            "",
            "%",
            "20",
            "0.2",
            "-1%",
            "+1%",
            "101%",
            "100.1%",
            "20 %",
            "1e1%",
            "NaN%",
            "inf%",
            ".5%",
            "5.%",
            "1.2.3%",
            "1,5%",
            "1000000000000000000%",
        ] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
