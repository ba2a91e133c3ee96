//! How often something may happen: `100/s`, `10/m`, `5/h`.

use std::{fmt, str::FromStr};

use super::UnitError;

/// A whole number of times in a second, a minute or an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    unit: char,
}

const UNITS: [(char, f64); 3] = [('s', 1.0), ('m', 60.0), ('h', 3600.0)];
const ERROR: UnitError =
    UnitError::new("not a rate", "a whole number by s, m or h, like 100/s or 5/h");

impl Rate {
    /// So many a second.
    pub const fn of_second(count: u32) -> Self {
        Self { count, unit: 's' }
    }

    /// As times a second: `30/m` is 0.5.
    pub fn per_second(self) -> f64 {
        let seconds = UNITS.iter().find(|(unit, _)| *unit == self.unit).map_or(1.0, |(_, s)| *s);
        f64::from(self.count) / seconds
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    /// Reads `100/s`, `10/m`, `5/h`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (count, unit) = text.split_once('/').ok_or(ERROR)?;
        let (unit, _) = *UNITS.iter().find(|(known, _)| unit.chars().eq([*known])).ok_or(ERROR)?;
        if !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ERROR);
        }
        Ok(Self { count: count.parse().map_err(|_| ERROR)?, unit })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;

    #[test]
    fn rates_carry_their_interval() {
        for (text, per_second) in
            [("0/s", 0.0), ("100/s", 100.0), ("30/m", 0.5), ("3600/h", 1.0), ("5/h", 5.0 / 3600.0)]
        {
            let rate = text.parse::<Rate>().expect(text);
            assert!((rate.per_second() - per_second).abs() < 1e-12, "{text}");
            assert_eq!(rate.to_string(), text);
        }
        assert_eq!("10/s".parse(), Ok(Rate::of_second(10)));
    }

    #[test]
    fn other_rates_are_refused() {
        for text in [
            "",
            "/",
            "100",
            "100/",
            "/s",
            "100/d",
            "100/S",
            "100/ms",
            "1.5/s",
            "-1/s",
            "+1/s",
            "100 /s",
            "100/ s",
            "100s",
            "99999999999/s",
            "1/s/s",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
